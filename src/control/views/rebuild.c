/* SPDX-License-Identifier: Apache-2.0 */
/* See rebuild.h. */
#include "control/views/rebuild.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/log/locks.h"
#include "control/log/read.h"
#include "control/log/schema.h"
#include "control/views/replay.h"
#include "control/views/shadow.h"
#include "os/digest.h"

#include <stdio.h>
#include <string.h>

#define SHADOW "moat_views_shadow"
#define OLD "moat_views_old"
#define TAIL 500          /* events left to the swap, at most */
#define SWAP_TRIES 20
#define CALL_MS 3600000   /* one statement over a large table */

extern const char mt_views_schema_sql[];

static const struct mt_pg_stmt st_try = {"rebuild_lock_try", "SELECT pg_try_advisory_lock(" MT_LOCK_REBUILD ")"};
static const struct mt_pg_stmt st_wait = {"rebuild_lock", "SELECT pg_advisory_lock(" MT_LOCK_REBUILD ")"};
static const struct mt_pg_stmt st_unlock = {"rebuild_unlock", "SELECT pg_advisory_unlock(" MT_LOCK_REBUILD ")"};
static const struct mt_pg_stmt st_log_lock = {"rebuild_log_lock", "SELECT pg_advisory_xact_lock(" MT_LOCK_LOG ")"};
/* $1 view or NULL for all, $2 state, $3 cursor */
static const struct mt_pg_stmt st_mark = {
    "rebuild_mark", "UPDATE moat.projection_checkpoints SET state = $2, last_applied_event_id = $3, updated_at = now()"
                    " WHERE $1 IS NULL OR projection = $1"};
/* The list of views is the program's: new ones come, vanished ones go. */
static const struct mt_pg_stmt st_list = {
    "rebuild_list",
    "WITH gone AS (DELETE FROM moat.projection_checkpoints WHERE projection NOT IN (SELECT tablename FROM pg_tables"
    "  WHERE schemaname = '" SHADOW "'))"
    " INSERT INTO moat.projection_checkpoints (projection, schema_version, state, last_applied_event_id)"
    " SELECT tablename, $1, 'rebuilding', 0 FROM pg_tables WHERE schemaname = '" SHADOW "' ON CONFLICT DO NOTHING"};
static const struct mt_pg_stmt st_uncurrent = {"rebuild_uncurrent", "UPDATE moat.views_state SET is_current = false WHERE is_current"};
static const struct mt_pg_stmt st_current = {
    "rebuild_current", "INSERT INTO moat.views_state (fingerprint, is_current) VALUES ($1, true)"
                       " ON CONFLICT (fingerprint) DO UPDATE SET is_current = true, made_at = now()"};
static const struct mt_pg_stmt st_known = {"rebuild_known", "SELECT is_current FROM moat.views_state WHERE fingerprint = $1"};
static const struct mt_pg_stmt st_missing = {
    "rebuild_missing",
    "SELECT count(*) FROM (SELECT table_name, column_name, udt_name FROM information_schema.columns WHERE table_schema = '" SHADOW "'"
    " EXCEPT SELECT table_name, column_name, udt_name FROM information_schema.columns WHERE table_schema = 'moat_views') d"};

/* ---- fingerprint ---- */

static void add_text(void *arg, const char *text)
{
    mt_sha256_update(arg, text, strlen(text) + 1);
}

void mt_views_fingerprint(char ret[65])
{
    uint8_t sum[MT_SHA256_LEN] = {0};
    struct mt_sha256 *s = mt_sha256_new();
    if (s) {
        add_text(s, mt_views_schema_sql);
        mt_proj_fingerprint(add_text, s);
        mt_sha256_final(s, sum);
    }
    mt_hex_encode(sum, sizeof sum, ret);
}

int mt_views_made(struct mt_pg *pg, struct mt_err *err)
{
    char print[65];
    struct mt_pg_params p;
    mt_views_fingerprint(print);
    int r = mt_pg_query(pg, &st_uncurrent, NULL, NULL, err);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, print);
    return r < 0 ? r : mt_pg_query(pg, &st_current, &p, NULL, err);
}

/* ---- the run ---- */

struct run {
    struct mt_pg *pg;
    const char *view; /* NULL: all */
    const struct mt_rebuild_conf *conf;
    struct mt_shadow shadow;
    struct mt_replay replay;
    int64_t stall_us;
};

static int mark(struct run *u, const char *state, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, u->view);
    mt_pg_p_text(&p, state);
    mt_pg_p_i64(&p, u->replay.cursor);
    return mt_pg_query(u->pg, &st_mark, &p, NULL, err);
}

static int batch(struct run *u, int64_t head, bool ordered, struct mt_err *err)
{
    int r = mt_pg_exec(u->pg, "BEGIN", err);
    if (r == 0)
        r = mt_replay_batch(&u->replay, head, ordered, err);
    if (r >= 0 && (r = mark(u, "rebuilding", err)) == 0)
        r = mt_pg_exec(u->pg, "COMMIT", err);
    if (r == 0 && u->conf && u->conf->progress && !u->conf->progress(u->conf->arg, u->replay.cursor, head))
        r = MT_FAIL(err, MT_E_CANCELLED, "the rebuild was stopped at event %lld", (long long)u->replay.cursor);
    return r;
}

/* Up to @lag events below the head. */
static int catch_up(struct run *u, int64_t lag, bool ordered, struct mt_err *err)
{
    for (;;) {
        int64_t head;
        int r = mt_log_position(u->pg, &head, NULL, err);
        if (r < 0 || head - u->replay.cursor <= lag)
            return r;
        while (r == 0 && u->replay.cursor < head)
            r = batch(u, head, ordered, err);
        if (r < 0)
            return r;
    }
}

static int exchange(struct run *u, struct mt_err *err)
{
    char sql[512];
    int r;
    if (u->view)
        r = mt_fmt(sql, sizeof sql, err, "CREATE SCHEMA " OLD "; ALTER TABLE moat_views.%s SET SCHEMA " OLD "; ALTER TABLE " SHADOW
                   ".%s SET SCHEMA moat_views", u->view, u->view);
    else
        r = mt_fmt(sql, sizeof sql, err, "ALTER SCHEMA moat_views RENAME TO " OLD "; ALTER SCHEMA " SHADOW " RENAME TO moat_views");
    if (r == 0)
        r = mt_pg_exec(u->pg, sql, err);
    if (r == 0)
        r = mark(u, "live", err);
    return r == 0 && !u->view ? mt_views_made(u->pg, err) : r;
}

/* The tail and the exchange under the log's lock. First wait for readers that look at several views under one snapshot:
 * appending does not stand still for them. */
static int swap_once(struct run *u, struct mt_err *err)
{
    int64_t head = 0;
    int r = mt_pg_exec(u->pg, "BEGIN; SET LOCAL lock_timeout = '5s'; LOCK TABLE moat.views_state IN ACCESS EXCLUSIVE MODE", err);
    if (r == 0)
        r = mt_pg_query(u->pg, &st_log_lock, NULL, NULL, err);
    int64_t from = mt_clock_mono();
    if (r == 0)
        r = mt_log_position(u->pg, &head, NULL, err);
    int64_t was = u->replay.cursor;
    while (r >= 0 && u->replay.cursor < head)
        r = mt_replay_batch(&u->replay, head, true, err);
    if (r >= 0 && (r = exchange(u, err)) == 0 && (r = mt_pg_exec(u->pg, "COMMIT", err)) == 0) {
        u->stall_us = (mt_clock_mono() - from) / 1000;
        return 0;
    }
    struct mt_err ignored;
    u->replay.cursor = was;
    if (mt_pg_alive(u->pg))
        (void)mt_pg_exec(u->pg, "ROLLBACK", &ignored);
    return r;
}

/* A reader that sits in the way for seconds must not stop all writers: let go and try again. */
static int swap(struct run *u, struct mt_err *err)
{
    int r = 0;
    for (int i = 0; i < SWAP_TRIES; i++) {
        if ((r = catch_up(u, TAIL, true, err)) < 0 || (r = swap_once(u, err)) == 0)
            return r;
        if (!mt_pg_alive(u->pg) || strcmp(mt_pg_diag(u->pg)->sqlstate, "55P03") != 0)
            return r;
        mt_log(MT_WARN, "rebuild.swap_waits", KV_ERR(err));
    }
    return r;
}

static int fill(struct run *u, struct mt_err *err)
{
    struct mt_pg_params p;
    uint64_t views = u->view ? mt_proj_closure(UINT64_C(1) << mt_proj_table(u->view)) : UINT64_MAX;
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, mt_log_schema_known());
    int r = mt_shadow_drop(u->pg, OLD, err);
    if (r < 0 || (r = mt_shadow_make(u->pg, SHADOW, &u->shadow, err)) < 0 || (r = mt_replay_init(&u->replay, u->pg, views, err)) < 0 ||
        (r = mt_pg_query(u->pg, &st_list, &p, NULL, err)) < 0)
        return r;
    u->replay.ups = u->conf ? u->conf->ups : NULL;
    /* A batch that is lost is made again: no need to wait for its flush. The swap waits. */
    if ((r = mark(u, "rebuilding", err)) < 0 || (r = mt_pg_exec(u->pg, "SET synchronous_commit = off", err)) < 0 ||
        (r = catch_up(u, TAIL, false, err)) < 0)
        return r;
    if ((r = mt_pg_exec(u->pg, "SET synchronous_commit = on", err)) < 0 || (r = mt_shadow_finish(u->pg, &u->shadow, err)) < 0)
        return r;
    return swap(u, err);
}

/* What is left of a rebuild that did not come to its end. */
static void fail(struct run *u, const struct mt_err *why)
{
    struct mt_err ignored = {0};
    mt_log(why->code == MT_E_CORRUPT ? MT_ERROR : MT_WARN, "rebuild.failed", KV("view", u->view ? u->view : "all"), KV_ERR(why));
    if (!mt_pg_alive(u->pg))
        return;
    (void)mt_pg_exec(u->pg, "ROLLBACK", &ignored);
    (void)mark(u, why->code == MT_E_CORRUPT ? "failed" : "live", &ignored); /* live: the tables that serve are whole */
    (void)mt_shadow_drop(u->pg, SHADOW, &ignored);
}

static int run_locked(struct mt_pg *pg, const char *name, const struct mt_rebuild_conf *conf, struct mt_rebuild_report *ret,
                      struct mt_err *err)
{
    struct run u = {.pg = pg, .view = name, .conf = conf};
    int64_t from = mt_clock_mono();
    int r = fill(&u, err);
    if (r < 0) {
        fail(&u, err);
    } else {
        struct mt_err left = {0};
        *ret = (struct mt_rebuild_report){.events = u.replay.cursor, .took_us = (mt_clock_mono() - from) / 1000, .stall_us = u.stall_us};
        mt_log(MT_INFO, "rebuild.done", KV("view", name ? name : "all"), KV("events", ret->events), KV("took_ms", ret->took_us / 1000),
               KV("stall_ms", ret->stall_us / 1000));
        if (mt_shadow_drop(pg, OLD, &left) < 0 || (name && mt_shadow_drop(pg, SHADOW, &left) < 0))
            mt_log(MT_WARN, "rebuild.old_views_stay", KV_ERR(&left)); /* a reader is in there; the next run drops them */
    }
    mt_replay_done(&u.replay);
    mt_shadow_done(&u.shadow);
    return r;
}

static int lock(struct mt_pg *pg, bool wait, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    mt_pg_timeout(pg, CALL_MS);
    if (wait)
        return mt_pg_query(pg, &st_wait, NULL, NULL, err);
    int r = mt_pg_query_one(pg, &st_try, NULL, &res, err);
    if (r == 0 && !mt_pg_bool(res, 0, 0))
        r = MT_FAIL(err, MT_E_CONFLICT, "another rebuild of views is running: wait for it");
    return r;
}

static void unlock(struct mt_pg *pg)
{
    struct mt_err ignored;
    if (mt_pg_alive(pg))
        (void)mt_pg_query(pg, &st_unlock, NULL, NULL, &ignored);
}

int mt_views_rebuild(struct mt_pg *pg, const char *name, const struct mt_rebuild_conf *conf, struct mt_rebuild_report *ret,
                     struct mt_err *err)
{
    if (name && mt_proj_table(name) < 0) {
        const char *near = mt_nearest(name, mt_proj_tables());
        return MT_FAIL(err, MT_E_NOT_FOUND, "there is no view '%s'%s%s", name, near ? "; did you mean " : "", near ? near : "");
    }
    int r = lock(pg, false, err);
    if (r < 0)
        return r;
    r = run_locked(pg, name, conf, ret, err);
    unlock(pg);
    return r;
}

/* ---- after a migration ---- */

/* Does an older program find every column it knows? */
static int suffices(struct mt_pg *pg, bool *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_err ignored;
    int r = mt_shadow_drop(pg, SHADOW, err);
    if (r == 0)
        r = mt_pg_exec(pg, "BEGIN", err);
    if (r < 0)
        return r;
    if ((r = mt_views_create(pg, SHADOW, err)) == 0 && (r = mt_pg_query_one(pg, &st_missing, NULL, &res, err)) == 0)
        *ret = mt_pg_i64(res, 0, 0) == 0;
    int end = mt_pg_exec(pg, "ROLLBACK", r < 0 ? &ignored : err);
    return r < 0 ? r : end;
}

/* Are the views as this program wants them? */
static int settled(struct mt_pg *pg, bool *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    char print[65];
    mt_views_fingerprint(print);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, print);
    int r = mt_pg_query(pg, &st_known, &p, &res, err);
    if (r < 0)
        return r;
    *ret = mt_pg_rows(res) == 1 && mt_pg_bool(res, 0, 0);
    if (*ret || mt_pg_rows(res) == 0)
        return 0;
    if ((r = suffices(pg, ret, err)) == 0 && *ret)
        mt_log(MT_WARN, "views.newer", KV("hint", "the views were made by a newer program; they hold all this one needs"));
    return r;
}

int mt_views_settle(struct mt_pg *pg, const struct mt_rebuild_conf *watch, bool *ret_rebuilt, struct mt_err *err)
{
    bool good = false;
    if (ret_rebuilt)
        *ret_rebuilt = false;
    int r = settled(pg, &good, err);
    if (r < 0 || good)
        return r;
    if (watch && watch->progress)
        (void)watch->progress(watch->arg, 0, 0);
    if ((r = lock(pg, true, err)) < 0)
        return r;
    if ((r = settled(pg, &good, err)) == 0 && !good) { /* another program was quicker, perhaps */
        struct mt_rebuild_report report;
        mt_log(MT_INFO, "views.changed", KV("hint", "their definition is another than the database has: rebuilding them from the log"));
        r = run_locked(pg, NULL, watch, &report, err);
        if (r == 0 && ret_rebuilt)
            *ret_rebuilt = true;
    }
    unlock(pg);
    return r;
}
