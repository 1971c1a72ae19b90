/* SPDX-License-Identifier: Apache-2.0 */
/* See replay.h. */
#include "control/views/replay.h"
#include "control/log/read.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/str.h"
#include "pg/array.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX 16
#define QUEUE_MAX 500
#define INDEX_AFTER 5000 /* events */

/* Payload fields that hold keys of any type, each once: columns of the look at a batch. */
static const char *fields[FIELDS_MAX];
static int n_fields;
static char look_sql[4096], scoped_sql[4096];
static struct mt_pg_stmt st_look = {"replay_look", look_sql};
static struct mt_pg_stmt st_scoped = {"replay_scoped", scoped_sql};
static pthread_once_t once = PTHREAD_ONCE_INIT;

enum { COL_ID = 0, COL_TYPE, COL_VERSION, COL_AGGREGATE, COL_APP, COL_FIELDS };

static int field_col(const char *name)
{
    for (int i = 0; name && i < n_fields; i++)
        if (MT_STREQ(fields[i], name))
            return COL_FIELDS + i;
    return -1;
}

static void add_field(const char *name)
{
    if (!name || field_col(name) >= 0)
        return;
    MT_ASSERT(n_fields < FIELDS_MAX);
    fields[n_fields++] = name;
}

static void make_look(void)
{
    for (unsigned ev = 0; ev < MT_EV_MAX; ev++) {
        add_field(mt_proj_part_field((enum mt_ev)ev));
        add_field(mt_proj_also_field((enum mt_ev)ev));
    }
    size_t n = (size_t)snprintf(look_sql, sizeof look_sql, "SELECT event_id, event_type, event_version, aggregate_id, app_id");
    for (int i = 0; i < n_fields; i++) {
        /* Only where the type has it: most payloads need not be opened. */
        n += (size_t)snprintf(look_sql + n, sizeof look_sql - n, ", CASE WHEN event_type IN (''");
        for (unsigned ev = 0; ev < MT_EV_MAX; ev++)
            if (field_col(mt_proj_part_field((enum mt_ev)ev)) == COL_FIELDS + i || field_col(mt_proj_also_field((enum mt_ev)ev)) == COL_FIELDS + i)
                n += (size_t)snprintf(look_sql + n, sizeof look_sql - n, ", '%s'", mt_ev_info((enum mt_ev)ev)->type);
        n += (size_t)snprintf(look_sql + n, sizeof look_sql - n, ") THEN payload->>'%s' END", fields[i]);
    }
    size_t k = (size_t)snprintf(scoped_sql, sizeof scoped_sql,
                                "%s FROM " MT_SQL_EVENTS_OF("org", "$3", "$1::int8 + 1", "$2::int8", "")
                                " WHERE ($4::text IS NULL OR app_id IS NULL OR app_id = $4)"
                                " AND ($5::text IS NULL OR env_id IS NULL OR env_id = $5) LIMIT %d",
                                look_sql, MT_REPLAY_BATCH);
    n += (size_t)snprintf(look_sql + n, sizeof look_sql - n, " FROM moat.events WHERE event_id > $1 AND event_id <= $2 ORDER BY event_id");
    MT_ASSERT(n < sizeof look_sql && k < sizeof scoped_sql);
}

/* What projections may look at. */
#define COLS "event_id, occurred_at, org_id, app_id, env_id, aggregate_id, event_type, actor_type, actor_id, correlation_id, payload"

#define STAGE_INDEX "CREATE INDEX replay_stage_key ON pg_temp.replay_stage (wave, event_type, event_id)"

static const char stage_sql[] =
    /* One batch fits into the session's own buffers; each statement finds its rows by key. */
    "SET temp_buffers = '64MB'; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;"
    "SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off; SET client_min_messages = warning;"
    "DROP VIEW IF EXISTS pg_temp.events; DROP TABLE IF EXISTS pg_temp.replay_stage;"
    "CREATE TEMP TABLE replay_stage AS SELECT " COLS ", 0::int4 AS wave FROM moat.events LIMIT 0;"
    STAGE_INDEX ";"
    "CREATE TEMP VIEW events AS SELECT " COLS " FROM pg_temp.replay_stage WHERE wave = current_setting('moat.wave')::int4";
static const struct mt_pg_stmt st_clear = {"replay_clear", "TRUNCATE pg_temp.replay_stage"};
static const struct mt_pg_stmt st_unindex = {"replay_unindex", "DROP INDEX pg_temp.replay_stage_key"};
static const struct mt_pg_stmt st_index = {"replay_index", STAGE_INDEX};
static const struct mt_pg_stmt st_stage = {
    "replay_stage", "INSERT INTO pg_temp.replay_stage SELECT " COLS ", ($3::int4[])[event_id - $1::int8] FROM moat.events"
                    " WHERE event_id > $1 AND event_id <= $2"};
static const struct mt_pg_stmt st_stage_ids = {
    "replay_stage_ids", "INSERT INTO pg_temp.replay_stage SELECT " COLS ", x.w FROM unnest($1::int8[], $2::int4[]) x(id, w)"
                        " JOIN moat.events ON event_id = x.id"};
static const struct mt_pg_stmt st_wave = {"replay_wave", "SELECT set_config('moat.wave', $1, false)"};
static const struct mt_pg_stmt st_payload = {"replay_payload", "SELECT payload FROM moat.events WHERE event_id = $1"};
static const struct mt_pg_stmt st_upcast = {
    "replay_upcast", "UPDATE pg_temp.replay_stage SET payload = $2 WHERE event_id = $1"};

int mt_replay_init(struct mt_replay *r, struct mt_pg *pg, uint64_t views, struct mt_err *err)
{
    (void)pthread_once(&once, make_look);
    *r = (struct mt_replay){.pg = pg, .views = views};
    r->events = calloc(MT_REPLAY_BATCH, sizeof *r->events);
    r->wave = calloc(MT_REPLAY_BATCH, sizeof *r->wave);
    r->types = calloc(MT_REPLAY_BATCH, sizeof *r->types);
    r->ids = calloc(MT_REPLAY_BATCH, sizeof *r->ids);
    if (!r->events || !r->wave || !r->types || !r->ids)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a batch of %d events", MT_REPLAY_BATCH);
    return mt_pg_exec(pg, stage_sql, err);
}

void mt_replay_done(struct mt_replay *r)
{
    free(r->events);
    free(r->wave);
    free(r->types);
    free(r->ids);
    *r = (struct mt_replay){0};
}

/* An event stored in an older version: its payload as the statements expect it, written over the staged one. */
struct old_event {
    int64_t id;
    char *payload;
};

struct olds {
    struct old_event *v;
    int n, cap;
};

static void olds_done(struct olds *o)
{
    for (int i = 0; i < o->n; i++)
        free(o->v[i].payload);
    free(o->v);
}

static int upcast(struct mt_replay *r, int64_t id, enum mt_ev ev, int version, json_t **ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, id);
    int rc = mt_pg_query_one(r->pg, &st_payload, &p, &res, err);
    if (rc < 0)
        return rc;
    json_t *payload = json_loads(mt_pg_text(res, 0, 0), 0, &je);
    if (!payload)
        return MT_FAIL(err, MT_E_CORRUPT, "its payload is not JSON");
    rc = mt_ev_upcast(r->ups, ev, version, payload, err);
    if (rc < 0)
        json_decref(payload);
    else
        *ret = payload;
    return rc;
}

static int keep_old(struct mt_replay *r, struct olds *o, int64_t id, enum mt_ev ev, int version, const char *aggregate, const char *app,
                    struct mt_proj_keys *ret, struct mt_err *err)
{
    json_t *payload = NULL;
    int rc = upcast(r, id, ev, version, &payload, err);
    if (rc < 0)
        return rc;
    if (o->n == o->cap) {
        int cap = o->cap ? o->cap * 2 : 64;
        struct old_event *v = realloc(o->v, (size_t)cap * sizeof *v);
        if (!v) {
            json_decref(payload);
            return MT_FAIL(err, MT_E_NOMEM, "no memory for %d old events", cap);
        }
        o->v = v;
        o->cap = cap;
    }
    mt_proj_keys_of(ev, aggregate, app, payload, ret);
    char *text = json_dumps(payload, JSON_COMPACT);
    json_decref(payload);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a payload");
    o->v[o->n++] = (struct old_event){.id = id, .payload = text};
    return 0;
}

static bool scoped(const struct mt_replay *r)
{
    return r->scope.org_id[0] != 0;
}

/* Types and keys of the events of a batch. Returns their number. */
static int look(struct mt_replay *r, int64_t to, struct olds *olds, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, r->cursor);
    mt_pg_p_i64(&p, to);
    if (scoped(r)) {
        mt_pg_p_text(&p, r->scope.org_id);
        mt_pg_p_text(&p, r->scope.app_id[0] ? r->scope.app_id : NULL);
        mt_pg_p_text(&p, r->scope.env_id[0] ? r->scope.env_id : NULL);
    }
    int rc = mt_pg_query(r->pg, scoped(r) ? &st_scoped : &st_look, &p, &res, err);
    if (rc < 0 || (scoped(r) && (rc = mt_log_in_order(res, false, err)) < 0))
        return rc;
    int n = mt_pg_rows(res);
    MT_ASSERT(n <= MT_REPLAY_BATCH);
    for (int i = 0; i < n; i++) {
        int64_t id = mt_pg_i64(res, i, COL_ID);
        const char *type = mt_pg_text(res, i, COL_TYPE), *aggregate = mt_pg_text(res, i, COL_AGGREGATE);
        const char *app = mt_pg_text_or_null(res, i, COL_APP);
        int version = (int)mt_pg_i64(res, i, COL_VERSION);
        enum mt_ev ev = mt_ev_by_name(type);
        r->ids[i] = id;
        if (!scoped(r) && id != r->cursor + 1 + i)
            return MT_FAIL(err, MT_E_CORRUPT, "event %lld is missing", (long long)(r->cursor + 1 + i));
        if (ev == MT_EV_MAX)
            return MT_FAIL(err, MT_E_CORRUPT, "event %lld is a '%s', which this program does not know: use a newer program",
                           (long long)id, type);
        struct mt_proj_event *e = &r->events[i];
        e->ev = ev;
        if (version != mt_ev_info(ev)->version) {
            if ((rc = keep_old(r, olds, id, ev, version, aggregate, app, &e->keys, err)) < 0)
                return mt_err_wrap(err, "event %lld", (long long)id);
            continue;
        }
        int part = field_col(mt_proj_part_field(ev)), also = field_col(mt_proj_also_field(ev));
        mt_proj_keys_from(ev, aggregate, app, part < 0 ? NULL : mt_pg_text_or_null(res, i, part),
                          also < 0 ? NULL : mt_pg_text_or_null(res, i, also), &e->keys);
    }
    return n;
}

/* Rounds as waves: consecutive, with regard for names. */
static int number_rounds(struct mt_replay *r, int n, struct mt_err *err)
{
    struct mt_proj_round *rounds = calloc((size_t)n, sizeof *rounds);
    if (!rounds)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %d rounds", n);
    int k = mt_proj_rounds(r->events, n, rounds, err);
    for (int i = 0; i < k; i++)
        for (int e = 0; e < rounds[i].count; e++)
            r->wave[rounds[i].first + e] = i;
    free(rounds);
    return k;
}

static int stage(struct mt_replay *r, int n, const struct olds *olds, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_pg_arr waves, ids;
    mt_pg_arr_init(&waves, MT_PG_ELEM_I32, 16u << 20);
    mt_pg_arr_init(&ids, MT_PG_ELEM_I64, 16u << 20);
    for (int i = 0; i < n; i++)
        mt_pg_arr_i32(&waves, r->wave[i]);
    for (int i = 0; i < n && scoped(r); i++)
        mt_pg_arr_i64(&ids, r->ids[i]);
    mt_pg_p_init(&p);
    if (scoped(r)) {
        mt_pg_p_arr(&p, &ids);
    } else {
        mt_pg_p_i64(&p, r->cursor);
        mt_pg_p_i64(&p, r->cursor + n);
    }
    mt_pg_p_arr(&p, &waves);
    int rc = waves.b.failed || ids.b.failed ? MT_FAIL(err, MT_E_NOMEM, "no memory for %d waves", n)
                                            : mt_pg_pipe_send(r->pg, &st_clear, NULL, err);
    bool sorted = n >= INDEX_AFTER; /* an index is sorted in one go at less than half of what its entries cost one by one */
    if (rc == 0 && sorted)
        rc = mt_pg_pipe_send(r->pg, &st_unindex, NULL, err);
    if (rc == 0)
        rc = mt_pg_pipe_send(r->pg, scoped(r) ? &st_stage_ids : &st_stage, &p, err);
    if (rc == 0 && sorted)
        rc = mt_pg_pipe_send(r->pg, &st_index, NULL, err);
    mt_pg_arr_done(&waves);
    mt_pg_arr_done(&ids);
    for (int i = 0; i < olds->n && rc == 0; i++) {
        mt_pg_p_init(&p);
        mt_pg_p_i64(&p, olds->v[i].id);
        mt_pg_p_json(&p, olds->v[i].payload);
        rc = mt_pg_pipe_send(r->pg, &st_upcast, &p, err);
    }
    return rc;
}

static int send_waves(struct mt_replay *r, int n, int waves, struct mt_err *err)
{
    int queued = 0;
    memset(r->types, 0, (size_t)waves * sizeof *r->types);
    for (int i = 0; i < n; i++)
        r->types[r->wave[i]] |= MT_EV_BIT(r->events[i].ev);
    for (int w = 0; w < waves; w++) {
        struct mt_pg_params p;
        char text[16];
        (void)snprintf(text, sizeof text, "%d", w);
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, text);
        int rc = mt_pg_pipe_send(r->pg, &st_wave, &p, err);
        if (rc < 0 || (rc = mt_proj_send_views(r->pg, r->types[w], r->ids[0], r->ids[n - 1], r->views, err)) < 0)
            return rc;
        queued += 1 + rc;
        if (queued > QUEUE_MAX) { /* a pipeline holds a bounded number of statements */
            if ((rc = mt_pg_pipe_sync(r->pg, NULL, 0, err)) < 0)
                return rc;
            queued = 0;
        }
    }
    return 0;
}

int mt_replay_batch(struct mt_replay *r, int64_t to, bool ordered, struct mt_err *err)
{
    struct olds olds = {0};
    if (!scoped(r) && to > r->cursor + MT_REPLAY_BATCH)
        to = r->cursor + MT_REPLAY_BATCH;
    int n = to > r->cursor ? look(r, to, &olds, err) : 0, waves = 0;
    if (n > 0)
        waves = ordered ? number_rounds(r, n, err) : mt_proj_waves(r->events, n, r->wave, err);
    int rc = n < 0 ? n : waves < 0 ? waves : 0;
    if (rc == 0 && n > 0 && (rc = mt_pg_pipe_enter(r->pg, err)) == 0) {
        if ((rc = stage(r, n, &olds, err)) == 0 && (rc = send_waves(r, n, waves, err)) == 0)
            rc = mt_pg_pipe_sync(r->pg, NULL, 0, err);
        struct mt_err ignored = {0};
        int left = mt_pg_alive(r->pg) ? mt_pg_pipe_leave(r->pg, rc < 0 ? &ignored : err) : 0;
        rc = rc < 0 ? rc : left;
    }
    olds_done(&olds);
    if (rc < 0)
        return rc;
    if (n > 0)
        r->cursor = r->ids[n - 1];
    if (scoped(r) && n < MT_REPLAY_BATCH && r->cursor < to) /* what is left up to there is of others */
        r->cursor = to;
    return n;
}
