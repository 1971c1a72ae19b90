/* SPDX-License-Identifier: Apache-2.0 */
/* The live views against what the log says. The scratch schema is filled in batches; the rest, and the comparison, happen
 * under one snapshot, so that both sides stand at the same event while appending goes on. */
#include "base/str.h"
#include "control/log/locks.h"
#include "control/log/read.h"
#include "control/views/rebuild.h"
#include "control/views/replay.h"
#include "control/views/shadow.h"

#include <stdio.h>
#include <string.h>

#define SCRATCH "moat_views_verify"
#define CALL_MS 3600000

static const struct mt_pg_stmt st_try = {"verify_lock_try", "SELECT pg_try_advisory_lock(" MT_LOCK_VERIFY ")"};
static const struct mt_pg_stmt st_unlock = {"verify_unlock", "SELECT pg_advisory_unlock(" MT_LOCK_VERIFY ")"};
/* Columns of a table's primary key, for USING. */
static const struct mt_pg_stmt st_key = {
    "verify_key", "SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.n) FROM pg_index i,"
                  " LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(att, n) JOIN pg_attribute a ON a.attnum = k.att"
                  " WHERE i.indrelid = to_regclass('" SCRATCH ".' || quote_ident($1)) AND i.indisprimary AND a.attrelid = i.indrelid"};
static const struct mt_pg_stmt st_result = {
    "verify_result", "SELECT compared, differences, COALESCE(left(live::text, 599), ''), COALESCE(left(rebuilt::text, 599), ''),"
                     " CASE WHEN live IS NULL OR rebuilt IS NULL THEN '' ELSE COALESCE((SELECT l.key FROM jsonb_each(live) l"
                     " WHERE l.value IS DISTINCT FROM rebuilt->l.key ORDER BY l.key LIMIT 1), '') END FROM pg_temp.verify_result"};

static int compare(struct mt_pg *pg, const char *view, struct mt_views_verdict *v, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *key = NULL, *res = NULL;
    struct mt_pg_params p;
    char sql[2048];
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, view);
    int r = mt_pg_query_one(pg, &st_key, &p, &key, err);
    if (r == 0 && mt_pg_null(key, 0, 0))
        r = MT_FAIL(err, MT_E_CORRUPT, "view '%s' has no primary key to compare by", view);
    if (r == 0)
        r = mt_fmt(sql, sizeof sql, err,
                   "TRUNCATE pg_temp.verify_result; WITH d AS (SELECT %s, to_jsonb(l) AS live, to_jsonb(s) AS rebuilt"
                   " FROM moat_views.%s l FULL JOIN " SCRATCH ".%s s USING (%s) WHERE to_jsonb(l) IS DISTINCT FROM to_jsonb(s))"
                   " INSERT INTO pg_temp.verify_result SELECT (SELECT count(*) FROM moat_views.%s), (SELECT count(*) FROM d), f.live, f.rebuilt"
                   " FROM (SELECT 1) one LEFT JOIN (SELECT live, rebuilt FROM d ORDER BY %s LIMIT 1) f ON true",
                   mt_pg_text(key, 0, 0), view, view, mt_pg_text(key, 0, 0), view, mt_pg_text(key, 0, 0));
    if (r < 0 || (r = mt_pg_exec(pg, sql, err)) < 0 || (r = mt_pg_query_one(pg, &st_result, NULL, &res, err)) < 0)
        return r;
    int64_t differences = mt_pg_i64(res, 0, 1);
    v->rows += mt_pg_i64(res, 0, 0);
    if (differences > 0 && v->differences == 0) {
        (void)snprintf(v->view, sizeof v->view, "%s", view);
        (void)snprintf(v->live, sizeof v->live, "%s", mt_pg_text(res, 0, 2));
        (void)snprintf(v->rebuilt, sizeof v->rebuilt, "%s", mt_pg_text(res, 0, 3));
        (void)snprintf(v->column, sizeof v->column, "%s", mt_pg_text(res, 0, 4));
    }
    v->differences += differences;
    return 0;
}

static int under_one_snapshot(struct mt_pg *pg, struct mt_replay *replay, struct mt_views_verdict *ret, struct mt_err *err)
{
    int64_t head = 0;
    int r = mt_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE moat.views_state IN ACCESS SHARE MODE", err);
    if (r == 0)
        r = mt_log_position(pg, &head, NULL, err);
    while (r >= 0 && replay->cursor < head)
        r = mt_replay_batch(replay, head, false, err);
    if (r >= 0)
        r = mt_pg_exec(pg, "RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin; SET LOCAL work_mem = '64MB'", err);
    ret->events = replay->cursor;
    for (const char *const *view = mt_proj_tables(); *view && r == 0; view++)
        r = compare(pg, *view, ret, err);
    struct mt_err ignored;
    if (mt_pg_alive(pg))
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    return r;
}

static int verify(struct mt_pg *pg, const struct mt_rebuild_conf *conf, struct mt_replay *replay, struct mt_shadow *shadow,
                  struct mt_views_verdict *ret, struct mt_err *err)
{
    int64_t head;
    int r = mt_shadow_make(pg, SCRATCH, shadow, err);
    if (r < 0 || (r = mt_replay_init(replay, pg, UINT64_MAX, err)) < 0 || (r = mt_log_position(pg, &head, NULL, err)) < 0 ||
        (r = mt_pg_exec(pg, "SET synchronous_commit = off; CREATE TEMP TABLE IF NOT EXISTS verify_result (compared bigint,"
                            " differences bigint, live jsonb, rebuilt jsonb)", err)) < 0)
        return r;
    replay->ups = conf ? conf->ups : NULL;
    while (r == 0 && replay->cursor < head) {
        if ((r = mt_pg_exec(pg, "BEGIN", err)) < 0 || (r = mt_replay_batch(replay, head, false, err)) < 0 ||
            (r = mt_pg_exec(pg, "COMMIT", err)) < 0)
            return r;
        if (conf && conf->progress && !conf->progress(conf->arg, replay->cursor, head))
            return MT_FAIL(err, MT_E_CANCELLED, "stopped at event %lld", (long long)replay->cursor);
    }
    return under_one_snapshot(pg, replay, ret, err);
}

int mt_views_verify(struct mt_pg *pg, const struct mt_rebuild_conf *conf, struct mt_views_verdict *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_replay replay = {0};
    struct mt_shadow shadow = {0};
    struct mt_err ignored;
    *ret = (struct mt_views_verdict){0};
    mt_pg_timeout(pg, CALL_MS);
    int r = mt_pg_query_one(pg, &st_try, NULL, &res, err);
    if (r < 0)
        return r;
    if (!mt_pg_bool(res, 0, 0))
        return MT_FAIL(err, MT_E_CONFLICT, "another verification of views is running: wait for it");
    r = verify(pg, conf, &replay, &shadow, ret, err);
    if (mt_pg_alive(pg)) {
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
        (void)mt_shadow_drop(pg, SCRATCH, &ignored);
        (void)mt_pg_query(pg, &st_unlock, NULL, NULL, &ignored);
    }
    mt_replay_done(&replay);
    mt_shadow_done(&shadow);
    return r;
}
