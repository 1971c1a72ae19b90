/* SPDX-License-Identifier: Apache-2.0 */
/* One batch as one synchronous transaction in two trips: lock and look-ups, then all writes and COMMIT (control-plane.md
 * §6.3). When a statement fails, the batch runs again one command at a time under savepoints, so that one bad command
 * never harms its neighbours. */
#include "control/log/batch.h"
#include "control/audit/record.h"
#include "control/log/canon.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define CAREFUL_BATCHES 8

const struct mt_pg_stmt batch_st_commit = {"log_commit", "COMMIT"};
static const struct mt_pg_stmt st_release = {"log_release", "RELEASE SAVEPOINT one_command"};
/* unnest() in the select list, not in FROM: there each array would go through a tuple store of its own. What most batches have none of, or the same
 * in all rows, is left out where that is so: each array costs each row a twentieth of a microsecond twice. */
#define INSERT(more) \
    "INSERT INTO events (event_id, occurred_at, aggregate_type, aggregate_id, aggregate_seq, event_type, actor_type, actor_id, request_id," \
    " idempotency_key, org_id, app_id, env_id, payload, chain_hash" more ") SELECT generate_series($1::int8 + 1, $1 + $2::int4), $3::timestamptz," \
    " unnest($4::text[]), unnest($5::text[]), unnest($6::int4[]), unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[])," \
    " unnest($11::text[]), unnest($12::text[]), unnest($13::text[]), unnest($14::text[]), unnest($15::jsonb[]), unnest($16::bytea[])"
#define RUNS ", unnest($17::int4[]), unnest($18::int4[])"
/* The columns of a statement are those before the end that is named here. */
enum { INSERT_ALONE = 0, INSERT_PLAIN, INSERT_FULL };
static const struct {
    struct mt_pg_stmt stmt;
    int cols;
} inserts[] = {
    [INSERT_ALONE] = {{"log_insert_alone", INSERT("")}, COL_ORG_RUN},
    [INSERT_PLAIN] = {{"log_insert_plain", INSERT(", org_run, env_run") RUNS}, COL_VERSION},
    [INSERT_FULL] = {{"log_insert", INSERT(", org_run, env_run, event_version, correlation_id, causation_id") RUNS
                      ", unnest($19::int4[]), unnest($20::text[]), unnest($21::int8[])"}, COL_MAX},
};
static const struct mt_pg_stmt st_idem_insert = {
    "log_idem_insert",
    "INSERT INTO idempotency_records (scope, event_id, status, request_mac, response_body, created_at)"
    " SELECT unnest($1::uuid[]), unnest($2::int8[]), unnest($3::int4[]), unnest($4::bytea[]), unnest($5::text[]), $6"};
static const struct mt_pg_stmt st_advance = {"log_advance",
                                             "UPDATE event_counter SET last_event_id = $1, last_chain_hash = $2"};
static const struct mt_pg_stmt st_notify = {"log_notify", "SELECT pg_notify('moat_events', $1)"};
/* Rows of many records: the sealer takes them apart later, outside the lock (audit/seal.h). The records are alike, so the server packs a row to
 * a fraction; one that cannot be packed still fits into a page. */
static const struct mt_pg_stmt st_audit = {"log_audit", "INSERT INTO audit_pending (body) SELECT unnest($1::text[])"};
#define AUDIT_ROW_BYTES 8000

int batch_init(struct batch *b, struct mt_appender_stats *stats, struct mt_err *err)
{
    static const enum mt_pg_elem col_kind[COL_MAX] = {
        [COL_SEQ] = MT_PG_ELEM_I32,       [COL_VERSION] = MT_PG_ELEM_I32, [COL_CAUSATION] = MT_PG_ELEM_I64,
        [COL_PAYLOAD] = MT_PG_ELEM_JSON, [COL_CHAIN] = MT_PG_ELEM_BYTES,
        [COL_ORG_RUN] = MT_PG_ELEM_I32,   [COL_ENV_RUN] = MT_PG_ELEM_I32};
    static const enum mt_pg_elem idem_kind[IDEM_MAX] = {
        [IDEM_SCOPE] = MT_PG_ELEM_UUID, [IDEM_EVENT] = MT_PG_ELEM_I64, [IDEM_STATUS] = MT_PG_ELEM_I32, [IDEM_MAC] = MT_PG_ELEM_BYTES};
    memset(b, 0, sizeof *b);
    b->stats = stats;
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_init(&b->cols[i], col_kind[i], 256u << 20);
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_init(&b->idem[i], idem_kind[i], 64u << 20);
    mt_pg_arr_init(&b->rely_key, MT_PG_ELEM_TEXT, 16u << 20);
    mt_pg_arr_init(&b->rely_key2, MT_PG_ELEM_TEXT, 16u << 20);
    mt_pg_arr_init(&b->rely_version, MT_PG_ELEM_I64, 1u << 20);
    mt_pg_arr_init(&b->rely_at, MT_PG_ELEM_I32, 1u << 20);
    mt_buf_init(&b->scratch, 1u << 20);
    mt_buf_init(&b->audit, 4u << 20);
    mt_pg_arr_init(&b->audit_rows, MT_PG_ELEM_TEXT, 8u << 20);
    batch_quota_init(b);
    b->proj = calloc(BATCH_EVENTS_MAX, sizeof *b->proj);
    b->rounds = calloc(BATCH_EVENTS_MAX, sizeof *b->rounds);
    b->orgs.run = calloc(BATCH_EVENTS_MAX, sizeof *b->orgs.run);
    b->envs.run = calloc(BATCH_EVENTS_MAX, sizeof *b->envs.run);
    b->seqs = batch_seqs_new();
    if (b->proj && b->rounds && b->orgs.run && b->envs.run && b->seqs)
        return 0;
    batch_done(b);
    return MT_FAIL(err, MT_E_NOMEM, "no memory for the appender");
}

void batch_done(struct batch *b)
{
    mt_pg_freep(&b->pg);
    mt_pg_freep(&b->second);
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_done(&b->cols[i]);
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_done(&b->idem[i]);
    mt_pg_arr_done(&b->rely_key);
    mt_pg_arr_done(&b->rely_key2);
    mt_pg_arr_done(&b->rely_version);
    mt_pg_arr_done(&b->rely_at);
    mt_buf_done(&b->scratch);
    mt_buf_done(&b->audit);
    mt_pg_arr_done(&b->audit_rows);
    batch_quota_done(b);
    free(b->proj);
    free(b->rounds);
    free(b->orgs.run);
    free(b->envs.run);
    batch_seqs_free(b->seqs);
    b->seqs = NULL;
    b->proj = NULL;
    b->rounds = NULL;
    b->orgs.run = b->envs.run = NULL;
}

int batch_session(struct mt_pg *pg, struct mt_err *err)
{
    /* Acknowledged means flushed, whatever the server's own setting. Generic plans by index: each statement touches a few
     * rows found by key, and a plan made while a table was small must not stay. */
    return mt_pg_exec(pg,
                      "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;"
                      " SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off;"
                      " SET idle_in_transaction_session_timeout = '10s'", /* a lane holds rows while this process decides */
                      err);
}

/* ---- second trip: writes ---- */

/* A statement of this one command failed. */
static void end_refused(struct batch *b, struct mt_cmd *c, const struct mt_err *err)
{
    batch_end_error(c, err);
    const struct mt_pg_diag *d = mt_pg_diag(b->pg);
    /* What a projection says no to by a rule of its own is for the client; any other value or rule that does not fit is a fault of ours. */
    bool rule = MT_STREQ(d->sqlstate, "23505") || MT_STREQ(d->constraint, "hostname_owners_view_one_env");
    if (!rule && (strncmp(d->sqlstate, "23", 2) == 0 || strncmp(d->sqlstate, "22", 2) == 0))
        c->err.code = MT_E_CORRUPT;
    if (rule && d->constraint[0]) {
        c->done.end = MT_END_TAKEN;
        memcpy(c->done.constraint, d->constraint, sizeof d->constraint);
        b->stats->taken++;
    }
}


static int build_reply(struct mt_cmd *c, const struct mt_cmd_ids_given *given, struct mt_err *err)
{
    mt_buf_reset(&c->body);
    c->status = 200;
    if (!c->reply_fn) {
        mt_buf_puts(&c->body, "{}");
        return mt_buf_check(&c->body, err);
    }
    int r = c->reply_fn(c->reply_arg, given, &c->body, &c->status, err);
    return r < 0 ? r : mt_buf_check(&c->body, err);
}

static int put_event(struct batch *b, const struct mt_cmd *c, const struct cmd_event *e, int64_t id, int64_t now, struct mt_err *err)
{
    const struct mt_ev_info *info = mt_ev_info(e->ev);
    const struct mt_chain_event ce = {
        .event_id = id, .occurred_us = now, .org_id = e->org_id, .app_id = e->app_id, .env_id = e->env_id,
        .aggregate_type = info->aggregate_type, .aggregate_id = e->aggregate_id, .aggregate_seq = e->seq,
        .event_type = info->type, .event_version = info->version, .actor_type = c->actor_type, .actor_id = c->actor_id,
        .request_id = c->request_id, .idempotency_key = c->idempotency_key, .correlation_id = e->correlation_id,
        .causation_id = e->causation_id, .payload = e->payload, .payload_len = e->payload_len};
    int r = mt_chain_hash(b->hash, &ce, &b->scratch, b->hash, err);
    if (r < 0)
        return r;
    mt_pg_arr_text_add(&b->cols[COL_AGG_TYPE], info->aggregate_type);
    mt_pg_arr_text_add(&b->cols[COL_AGG_ID], e->aggregate_id);
    mt_pg_arr_i32(&b->cols[COL_SEQ], e->seq);
    mt_pg_arr_text_add(&b->cols[COL_TYPE], info->type);
    mt_pg_arr_i32(&b->cols[COL_VERSION], info->version);
    mt_pg_arr_text_add(&b->cols[COL_ACTOR_TYPE], c->actor_type);
    mt_pg_arr_text_add(&b->cols[COL_ACTOR], c->actor_id);
    mt_pg_arr_text_add(&b->cols[COL_REQUEST], c->request_id);
    mt_pg_arr_text_add(&b->cols[COL_IDEM], c->idempotency_key);
    mt_pg_arr_text_add(&b->cols[COL_CORRELATION], e->correlation_id);
    if (e->causation_id)
        mt_pg_arr_i64(&b->cols[COL_CAUSATION], e->causation_id);
    else
        mt_pg_arr_null(&b->cols[COL_CAUSATION]);
    b->differ |= info->version != 1 || e->correlation_id || e->causation_id;
    mt_pg_arr_text_add(&b->cols[COL_ORG], e->org_id);
    mt_pg_arr_text_add(&b->cols[COL_APP], e->app_id);
    mt_pg_arr_text_add(&b->cols[COL_ENV], e->env_id);
    mt_pg_arr_json(&b->cols[COL_PAYLOAD], e->payload, e->payload_len);
    mt_pg_arr_bytes(&b->cols[COL_CHAIN], b->hash, 32);
    return 0;
}

static void put_idem(struct batch *b, struct mt_cmd *c)
{
    mt_pg_arr_uuid(&b->idem[IDEM_SCOPE], c->idem_scope);
    mt_pg_arr_i64(&b->idem[IDEM_EVENT], c->first_id + c->n_events - 1);
    mt_pg_arr_i32(&b->idem[IDEM_STATUS], c->status);
    mt_pg_arr_bytes(&b->idem[IDEM_MAC], c->idem_mac, 32);
    mt_pg_arr_text_n(&b->idem[IDEM_BODY], mt_buf_cstr(&c->body), c->body.len);
}

/* A cause lies before its effect: ids are gap-free and events stay for ever, so that every smaller id exists. */
static bool causes_exist(const struct mt_cmd *c, struct mt_err *err)
{
    for (int k = 0; k < c->n_events; k++) {
        if (c->events[k].causation_id < c->first_id + k)
            continue;
        (void)MT_FAIL(err, MT_E_INVALID, "there is no event %lld to be the cause of event %lld",
                      (long long)c->events[k].causation_id, (long long)c->first_id + k);
        return false;
    }
    return true;
}

/* Ids, replies and records of all commands still in: what the chain has no part in. Returns the number of events. */
int batch_number(struct batch *b, struct mt_cmd **cmds, int n, int64_t now, struct mt_err *err)
{
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_clear(&b->idem[i]);
    mt_buf_reset(&b->audit);
    int events = 0;
    for (int i = 0; i < n; i++) {
        struct mt_cmd *c = cmds[i];
        if (c->out)
            continue;
        c->first_id = b->head + 1 + events;
        c->done.given = (struct mt_cmd_ids_given){.first_event_id = c->first_id, .n_events = c->n_events, .occurred_us = now};
        struct mt_err local = {0};
        if (!causes_exist(c, &local) || build_reply(c, &c->done.given, &local) < 0) {
            batch_end_error(c, &local);
            continue;
        }
        events += c->n_events;
        if (c->idempotent)
            put_idem(b, c);
        if (c->audit)
            mt_audit_put_line(&b->audit, c->first_id, c->n_events, now, c->audit, c->audit_len);
    }
    if (b->audit.failed)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the audit records of a batch");
    for (int i = 0; i < IDEM_MAX; i++)
        if (b->idem[i].b.failed)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for the replies of a batch");
    return events;
}

/* Chain and arrays of the same commands. */
static int put_events(struct batch *b, struct mt_cmd **cmds, int n, int64_t now, struct mt_err *err)
{
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_clear(&b->cols[i]);
    b->differ = false;
    batch_runs_begin(&b->orgs);
    batch_runs_begin(&b->envs);
    int events = 0;
    for (int i = 0; i < n; i++) {
        const struct mt_cmd *c = cmds[i];
        for (int k = 0; !c->out && k < c->n_events; k++, events++) {
            int r = put_event(b, c, &c->events[k], c->first_id + k, now, err);
            if (r < 0)
                return r;
            b->proj[events] = (struct mt_proj_event){.ev = c->events[k].ev, .keys = c->events[k].keys};
            batch_runs_add(&b->orgs, events, c->events[k].org_id);
            batch_runs_add(&b->envs, events, c->events[k].env_id);
        }
    }
    batch_runs_put(&b->orgs, events, &b->cols[COL_ORG_RUN]);
    batch_runs_put(&b->envs, events, &b->cols[COL_ENV_RUN]);
    for (int i = 0; i < COL_MAX; i++)
        if (b->cols[i].b.failed)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a batch of %d events", events);
    return events;
}

static int send_events(struct batch *b, struct mt_pg *pg, int64_t now, struct mt_err *err)
{
    struct mt_pg_params p;
    int which = b->differ ? INSERT_FULL : b->orgs.shared || b->envs.shared ? INSERT_PLAIN : INSERT_ALONE;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, b->head);
    mt_pg_p_i32(&p, (int32_t)b->cols[COL_SEQ].count);
    mt_pg_p_time(&p, now);
    for (int i = 0; i < inserts[which].cols; i++)
        mt_pg_p_arr(&p, &b->cols[i]);
    int r = mt_pg_pipe_send(pg, &inserts[which].stmt, &p, err);
    return r < 0 ? r : mt_pg_pipe_flush(pg, err);
}

static int send_views(struct batch *b, struct mt_pg *pg, int events, struct mt_err *err)
{
    int rounds = mt_proj_rounds(b->proj, events, b->rounds, err);
    int sent = 0;
    for (int i = 0; i < rounds; i++) {
        const struct mt_proj_round *at = &b->rounds[i];
        int r = mt_proj_send(pg, b->proj + at->first, at->count, b->head + 1 + at->first, err);
        if (r < 0)
            return r;
        sent += r;
    }
    return rounds < 0 ? rounds : sent;
}

static int send_idem(struct batch *b, struct mt_pg *pg, int64_t now, struct mt_err *err)
{
    if (b->idem[IDEM_SCOPE].count == 0)
        return 0;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_p_arr(&p, &b->idem[i]);
    mt_pg_p_time(&p, now);
    int r = mt_pg_pipe_send(pg, &st_idem_insert, &p, err);
    return r < 0 ? r : 1;
}

static int send_audit(struct batch *b, struct mt_pg *pg, struct mt_err *err)
{
    if (b->audit.len == 0)
        return 0;
    const char *at = mt_buf_cstr(&b->audit), *end = at + b->audit.len;
    mt_pg_arr_clear(&b->audit_rows);
    while (at < end) {
        size_t left = (size_t)(end - at);
        const char *cut = left <= AUDIT_ROW_BYTES ? end - 1 : memrchr(at, '\n', AUDIT_ROW_BYTES);
        if (!cut)
            cut = memchr(at, '\n', left); /* a line of its own length */
        MT_ASSERT(cut);
        mt_pg_arr_text_n(&b->audit_rows, at, (size_t)(cut + 1 - at));
        at = cut + 1;
    }
    if (b->audit_rows.b.failed)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the audit records of a batch");
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, &b->audit_rows);
    int r = mt_pg_pipe_send(pg, &st_audit, &p, err);
    return r < 0 ? r : 1;
}

/* The records first: the server writes them while we hash and encode the events. */
int batch_send_writes(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, int64_t now, struct mt_err *err)
{
    int idem, audit, views, events, r = idem = send_idem(b, pg, now, err);
    if (r < 0 || (r = audit = send_audit(b, pg, err)) < 0 || (r = mt_pg_pipe_flush(pg, err)) < 0 ||
        (r = events = put_events(b, cmds, n, now, err)) < 0 || (r = send_events(b, pg, now, err)) < 0 ||
        (r = views = send_views(b, pg, events, err)) < 0)
        return r;
    return 1 + views + idem + audit;
}

static int send_counter(struct batch *b, struct mt_err *err)
{
    struct mt_pg_params p;
    char text[24];
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, b->head);
    mt_pg_p_bytes(&p, b->hash, 32);
    int r = mt_pg_pipe_send(b->pg, &st_advance, &p, err);
    if (r < 0)
        return r;
    (void)snprintf(text, sizeof text, "%lld", (long long)b->head);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, text);
    return mt_pg_pipe_send(b->pg, &st_notify, &p, err);
}

static bool has_sides(struct mt_cmd *const *cmds, int n)
{
    bool any = false;
    for (int i = 0; i < n; i++)
        any |= !cmds[i]->out && cmds[i]->n_sides > 0;
    return any;
}

/* Side writes of the commands still in, awaited, since their counts decide. */
static int run_sides(struct batch *b, struct mt_cmd **cmds, int n, int before, struct mt_err *err)
{
    int total = before, r = 0;
    for (int i = 0; i < n; i++) {
        if (cmds[i]->out)
            continue;
        for (int k = 0; k < cmds[i]->n_sides; k++, total++)
            if ((r = mt_pg_pipe_send(b->pg, cmds[i]->sides[k]->stmt, &cmds[i]->sides[k]->p, err)) < 0)
                return r;
    }
    struct mt_pg_res **res = calloc((size_t)total + 1, sizeof *res);
    if (!res)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %d results", total);
    r = mt_pg_pipe_sync(b->pg, res, total, err);
    int at = before;
    for (int i = 0; i < n && r == 0; i++) {
        for (int k = 0; !cmds[i]->out && k < cmds[i]->n_sides && r == 0; k++, at++) {
            int64_t want = cmds[i]->sides[k]->affected, got = mt_pg_affected(res[at]);
            if (want >= 0 && got != want)
                r = MT_FAIL(err, MT_E_CONFLICT, "side write '%s' touched %lld rows, not %lld", cmds[i]->sides[k]->stmt->name,
                            (long long)got, (long long)want);
        }
    }
    for (int i = 0; i < total; i++)
        mt_pg_res_freep(&res[i]);
    free(res);
    return r;
}

/* All writes of the commands still in, up to but without the counter. @sides: they were awaited, the pipe is synced. */
static int write_all(struct batch *b, struct mt_cmd **cmds, int n, int *ret_events, struct mt_err *err)
{
    int64_t now = mt_clock_wall_us();
    int events = batch_number(b, cmds, n, now, err), sent = 0, r;
    *ret_events = events;
    if (events <= 0)
        return events;
    if ((r = mt_pg_pipe_enter(b->pg, err)) < 0 || (r = sent = batch_send_writes(b, b->pg, cmds, n, now, err)) < 0)
        return r;
    b->head += events;
    return has_sides(cmds, n) ? run_sides(b, cmds, n, sent, err) : 0;
}

static void finish(struct batch *b, struct mt_cmd *c)
{
    if (c->out)
        return;
    c->out = true;
    c->done.end = MT_END_DONE;
    c->done.event_id = c->first_id + c->n_events - 1;
    c->done.status = c->status;
    c->done.body = mt_buf_take(&c->body);
    if (!c->done.body)
        c->done.body = strdup("{}"); /* memory is out; the command itself is done */
    b->stats->commands++;
    b->stats->events += (uint64_t)c->n_events;
}

static int rollback(struct batch *b, const char *sql)
{
    struct mt_err ignored = {0};
    if (!mt_pg_alive(b->pg))
        return -(int)MT_E_UNAVAILABLE;
    if (mt_pg_pipe_leave(b->pg, &ignored) < 0 || mt_pg_exec(b->pg, sql, &ignored) < 0) {
        /* What is queued and unsynced, or a session in an unknown state: begin anew. */
        return mt_pg_reset(b->pg, &ignored) < 0 ? -(int)MT_E_UNAVAILABLE : batch_session(b->pg, &ignored);
    }
    return 0;
}

static int commit(struct batch *b, struct mt_err *err)
{
    int r = send_counter(b, err);
    if (r < 0 || (r = mt_pg_pipe_send(b->pg, &batch_st_commit, NULL, err)) < 0)
        return r;
    b->committing = true;
    int64_t began = mt_clock_mono();
    r = mt_pg_pipe_sync(b->pg, NULL, 0, err);
    b->flush_ns = mt_clock_mono() - began;
    if (r < 0 && mt_pg_alive(b->pg))
        b->committing = false; /* the server refused: rolled back */
    if (r < 0)
        return r;
    b->committing = false;
    return mt_pg_pipe_leave(b->pg, err);
}

/* One command of a batch that failed, under its own savepoint. */
static int run_one(struct batch *b, struct mt_cmd *c, struct mt_err *err)
{
    int64_t head = b->head;
    uint8_t hash[32];
    int events = 0;
    memcpy(hash, b->hash, 32);
    b->stats->single_runs++;
    int r = batch_look_up(b, &c, 1, false, err);
    if (r == 0)
        r = batch_quota_ask(b, &c, 1, err);
    if (r == 0 && !c->out)
        r = write_all(b, &c, 1, &events, err);
    if (r == 0) {
        if (!c->out && (r = mt_pg_pipe_send(b->pg, &st_release, NULL, err)) == 0 &&
            (r = mt_pg_pipe_sync(b->pg, NULL, 0, err)) == 0)
            r = mt_pg_pipe_leave(b->pg, err);
        else if (c->out)
            r = mt_pg_exec(b->pg, "RELEASE SAVEPOINT one_command", err);
    }
    if (r == 0)
        return 0;
    if (!mt_pg_alive(b->pg))
        return r;
    end_refused(b, c, err);
    b->head = head;
    memcpy(b->hash, hash, 32);
    struct mt_err ignored = {0};
    r = mt_pg_pipe_leave(b->pg, &ignored);
    return r < 0 ? r : mt_pg_exec(b->pg, "ROLLBACK TO SAVEPOINT one_command", err);
}

static void forget(struct mt_cmd **cmds, int n)
{
    for (int i = 0; i < n; i++) {
        mt_cmd_done_free(&cmds[i]->done);
        memset(&cmds[i]->done, 0, sizeof cmds[i]->done);
        memset(&cmds[i]->err, 0, sizeof cmds[i]->err);
        cmds[i]->out = false;
    }
}

static int run_singly(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err)
{
    forget(cmds, n);
    int r = batch_look_up(b, NULL, 0, true, err);
    int64_t from = b->head;
    for (int i = 0; i < n && r == 0; i++)
        r = run_one(b, cmds[i], err);
    if (r == 0 && b->head == from)
        return mt_pg_exec(b->pg, "ROLLBACK", err);
    if (r == 0 && (r = mt_pg_pipe_enter(b->pg, err)) == 0)
        r = commit(b, err);
    if (r == 0)
        for (int i = 0; i < n; i++)
            finish(b, cmds[i]);
    return r;
}

static void trust(struct batch *b, struct mt_cmd **cmds, int n)
{
    b->trusted = true;
    for (int i = 0; i < n; i++)
        for (int k = 0; cmds[i]->done.end == MT_END_DONE && k < cmds[i]->n_events; k++)
            batch_seqs_put(b->seqs, &cmds[i]->events[k]);
}

static int run_set(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err)
{
    int events = 0;
    int64_t was = b->head;
    uint8_t was_hash[32];
    memcpy(was_hash, b->hash, 32);
    int r = batch_look_up(b, cmds, n, true, err);
    if (r < 0)
        return r;
    if (b->head != was || memcmp(b->hash, was_hash, 32) != 0) {
        batch_seqs_clear(b->seqs);
        b->careful = b->trusted ? CAREFUL_BATCHES : b->careful;
    }
    if ((r = batch_quota_ask(b, cmds, n, err)) < 0 || (r = write_all(b, cmds, n, &events, err)) < 0)
        return r;
    return events == 0 ? mt_pg_exec(b->pg, "ROLLBACK", err) : commit(b, err);
}

int batch_run(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err)
{
    forget(cmds, n);
    b->committing = false;
    b->flush_ns = 0;
    b->stats->batches++;
    int r = run_set(b, cmds, n, err);
    b->trusted = false;
    if (r == 0) {
        for (int i = 0; i < n; i++)
            finish(b, cmds[i]);
    } else if (mt_pg_alive(b->pg) && !b->committing && rollback(b, "ROLLBACK") == 0) {
        r = run_singly(b, cmds, n, err);
    }
    if (r == 0)
        trust(b, cmds, n);
    return r;
}

void batch_finish(struct batch *b, struct mt_cmd **cmds, int n)
{
    for (int i = 0; i < n; i++)
        finish(b, cmds[i]);
}
