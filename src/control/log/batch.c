/* SPDX-License-Identifier: Apache-2.0 */
/* One batch as one synchronous transaction in two trips: lock and look-ups, then all writes and COMMIT (control-plane.md
 * §6.3). When a statement fails, the batch runs again one command at a time under savepoints, so that one bad command
 * never harms its neighbours. */
#include "control/log/batch.h"
#include "control/log/canon.h"

#include "base/assert.h"
#include "base/clock.h"
#include "os/digest.h"

#include <stdlib.h>
#include <string.h>

#define LOOKUPS_MAX (4 + MT_RELY_MAX + 2)

static const struct mt_pg_stmt st_begin = {"log_begin", "BEGIN ISOLATION LEVEL READ COMMITTED"};
static const struct mt_pg_stmt st_commit = {"log_commit", "COMMIT"};
static const struct mt_pg_stmt st_savepoint = {"log_savepoint", "SAVEPOINT one_command"};
static const struct mt_pg_stmt st_release = {"log_release", "RELEASE SAVEPOINT one_command"};
/* The lock of the log, "moat.log" as a number. Its own statement: what follows gets a snapshot taken under the lock. */
static const struct mt_pg_stmt st_lock = {"log_lock", "SELECT pg_advisory_xact_lock(7885628624171986791)"};
static const struct mt_pg_stmt st_counter = {"log_counter", "SELECT last_event_id, last_chain_hash FROM event_counter"};
static const struct mt_pg_stmt st_seqs = {
    "log_seqs", "SELECT COALESCE((SELECT e.aggregate_seq FROM events e WHERE e.aggregate_type = k.t AND e.aggregate_id = k.i"
                " ORDER BY e.aggregate_seq DESC LIMIT 1), 0)"
                " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k(t, i, n) ORDER BY k.n"};
static const struct mt_pg_stmt st_idem_find = {
    "log_idem_find", "SELECT k.n, r.request_mac, r.status, r.response_body, r.event_id"
                     " FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int4[]) k(o, a, p, i, n)"
                     " JOIN idempotency_records r ON r.org_id = k.o AND r.actor_id = k.a AND r.route = k.p AND r.key = k.i"};
static const struct mt_pg_stmt st_insert = {
    "log_insert",
    "INSERT INTO events (event_id, occurred_at, aggregate_type, aggregate_id, aggregate_seq, event_type, event_version,"
    " actor_type, actor_id, request_id, idempotency_key, correlation_id, causation_id, org_id, app_id, env_id, payload, chain_hash)"
    " SELECT $1 + k.n, $2, k.c0, k.c1, k.c2, k.c3, k.c4, k.c5, k.c6, k.c7, k.c8, k.c9, k.c10, k.c11, k.c12, k.c13, k.c14, k.c15"
    " FROM unnest($3::text[], $4::text[], $5::int4[], $6::text[], $7::int4[], $8::text[], $9::text[], $10::text[], $11::text[],"
    " $12::text[], $13::int8[], $14::text[], $15::text[], $16::text[], $17::jsonb[], $18::bytea[]) WITH ORDINALITY"
    " k(c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15, n)"};
static const struct mt_pg_stmt st_idem_insert = {
    "log_idem_insert",
    "INSERT INTO idempotency_records (org_id, actor_id, route, key, request_mac, status, response_body, event_id, created_at)"
    " SELECT k.*, $9 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::int4[], $7::text[],"
    " $8::int8[]) k"};
static const struct mt_pg_stmt st_advance = {"log_advance",
                                             "UPDATE event_counter SET last_event_id = $1, last_chain_hash = $2"};
static const struct mt_pg_stmt st_notify = {"log_notify", "SELECT pg_notify('moat_events', $1)"};
static const struct mt_pg_stmt st_settle = {"log_settle", "SELECT chain_hash FROM events WHERE event_id = $1"};

/* Each answers with the reliances that do not hold and the version that is there. */
#define RELY(name, view, match, version) \
    {"log_rely_" name, "SELECT k.n, COALESCE(v." version ", 0) FROM unnest($1::text[], $2::text[], $3::int8[], $4::int4[])" \
                       " k(a, b, want, n) LEFT JOIN " view " v ON " match " WHERE COALESCE(v." version ", 0) <> k.want"}
static const struct mt_pg_stmt st_rely[MT_RELY_MAX] = {
    [MT_RELY_USER] = RELY("user", "users_view", "v.user_id = k.a", "resource_version"),
    [MT_RELY_ORG] = RELY("org", "orgs_view", "v.org_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_PROJECT] = RELY("project", "projects_view", "v.project_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_APP] = RELY("app", "apps_view", "v.app_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_ENV] = RELY("env", "envs_view", "v.env_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_DEPLOY] = RELY("deploy", "deploys_view", "v.deploy_id = k.a", "resource_version"),
    [MT_RELY_DESIRED] = RELY("desired", "env_desired_view", "v.env_id = k.a AND v.process_type = k.b", "resource_version"),
    [MT_RELY_ROUTE] = RELY("route", "routes_view", "v.route_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_INSTANCE] = RELY("instance", "instances_view", "v.instance_id = k.a", "resource_version"),
    [MT_RELY_NODE] = RELY("node", "nodes_view", "v.node_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_CLUSTER] = RELY("cluster", "cluster_view", "v.key = k.a", "resource_version"),
    [MT_RELY_LEASE] = RELY("lease", "leases", "v.name = k.a", "epoch"),
    [MT_RELY_ORG_NAME] = RELY("org_name", "orgs_view", "v.name = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_PROJECT_NAME] =
        RELY("project_name", "projects_view", "v.org_id = k.a AND v.name = k.b AND NOT v.deleted", "resource_version"),
    [MT_RELY_APP_NAME] = RELY("app_name", "apps_view", "v.org_id = k.a AND v.name = k.b AND NOT v.deleted", "resource_version"),
    [MT_RELY_ENV_NAME] = RELY("env_name", "envs_view", "v.app_id = k.a AND v.name = k.b AND NOT v.deleted", "resource_version"),
    [MT_RELY_RELEASE_CONTENT] =
        RELY("release_content", "releases_view",
             "v.app_id = k.a AND v.image_digest = split_part(k.b, ' ', 1) AND v.manifest_hash = split_part(k.b, ' ', 2)",
             "resource_version"),
};

int batch_init(struct batch *b, struct mt_appender_stats *stats, struct mt_err *err)
{
    static const enum mt_pg_elem col_kind[COL_MAX] = {
        [COL_SEQ] = MT_PG_ELEM_I32,       [COL_VERSION] = MT_PG_ELEM_I32, [COL_CAUSATION] = MT_PG_ELEM_I64,
        [COL_PAYLOAD] = MT_PG_ELEM_JSON, [COL_CHAIN] = MT_PG_ELEM_BYTES};
    static const enum mt_pg_elem idem_kind[IDEM_MAX] = {
        [IDEM_MAC] = MT_PG_ELEM_BYTES, [IDEM_STATUS] = MT_PG_ELEM_I32, [IDEM_EVENT] = MT_PG_ELEM_I64};
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
    b->proj = calloc(BATCH_EVENTS_MAX, sizeof *b->proj);
    b->rounds = calloc(BATCH_EVENTS_MAX, sizeof *b->rounds);
    if (b->proj && b->rounds)
        return 0;
    batch_done(b);
    return MT_FAIL(err, MT_E_NOMEM, "no memory for the appender");
}

void batch_done(struct batch *b)
{
    mt_pg_freep(&b->pg);
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_done(&b->cols[i]);
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_done(&b->idem[i]);
    mt_pg_arr_done(&b->rely_key);
    mt_pg_arr_done(&b->rely_key2);
    mt_pg_arr_done(&b->rely_version);
    mt_pg_arr_done(&b->rely_at);
    mt_buf_done(&b->scratch);
    free(b->proj);
    free(b->rounds);
    b->proj = NULL;
    b->rounds = NULL;
}

int batch_session(struct batch *b, struct mt_err *err)
{
    /* Acknowledged means flushed, whatever the server's own setting. Generic plans by index: each statement touches a few
     * rows found by key, and a plan made while a table was small must not stay. */
    return mt_pg_exec(b->pg,
                      "SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;"
                      " SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off",
                      err);
}

/* ---- outcomes ---- */

static void end_error(struct mt_cmd *c, const struct mt_err *err)
{
    c->out = true;
    c->done.end = MT_END_ERROR;
    c->err = *err;
}

static void end_stale(struct batch *b, struct mt_cmd *c, const struct cmd_rely *y, int64_t now)
{
    c->out = true;
    c->done.end = MT_END_STALE;
    c->done.rely = y->what;
    (void)snprintf(c->done.rely_key, sizeof c->done.rely_key, "%s", y->key2 && y->what != MT_RELY_DESIRED ? y->key2 : y->key);
    c->done.rely_version = now;
    b->stats->stale++;
    if (now == 0)
        (void)MT_FAIL(&c->err, MT_E_CONFLICT, "'%s' is gone", c->done.rely_key);
    else if (y->version == 0)
        (void)MT_FAIL(&c->err, MT_E_CONFLICT, "'%s' exists already", c->done.rely_key);
    else
        (void)MT_FAIL(&c->err, MT_E_CONFLICT, "'%s' changed meanwhile: version %lld was expected, %lld is there",
                      c->done.rely_key, (long long)y->version, (long long)now);
}

/* A statement of this one command failed. */
static void end_refused(struct batch *b, struct mt_cmd *c, const struct mt_err *err)
{
    end_error(c, err);
    const struct mt_pg_diag *d = mt_pg_diag(b->pg);
    if (err->code == MT_E_CONFLICT && d->constraint[0]) {
        c->done.end = MT_END_TAKEN;
        memcpy(c->done.constraint, d->constraint, sizeof d->constraint);
        b->stats->taken++;
    }
}

/* ---- first trip: look-ups ---- */

struct lookups {
    struct mt_pg_res *res[LOOKUPS_MAX];
    int n, counter, idem, seqs, rely; /* index of the results, -1 when not asked */
    struct cmd_event *seq_of[BATCH_EVENTS_MAX];
    int n_seqs;
};

static void lookups_done(struct lookups *l)
{
    for (int i = 0; i < l->n; i++)
        mt_pg_res_freep(&l->res[i]);
}

static int ask(struct batch *b, struct lookups *l, const struct mt_pg_stmt *st, const struct mt_pg_params *p, struct mt_err *err)
{
    MT_ASSERT(l->n < LOOKUPS_MAX);
    int r = mt_pg_pipe_send(b->pg, st, p, err);
    return r < 0 ? r : l->n++;
}

/* The first event of each aggregate in a command, unless that event is the birth of it, asks for the seq to go on from. */
static bool same_aggregate(const struct cmd_event *a, const struct cmd_event *b)
{
    return a->keys.row == b->keys.row && strcmp(a->aggregate_id, b->aggregate_id) == 0 &&
           strcmp(mt_ev_info(a->ev)->aggregate_type, mt_ev_info(b->ev)->aggregate_type) == 0;
}

static int earlier_of(const struct mt_cmd *c, int i)
{
    for (int k = i - 1; k >= 0; k--)
        if (same_aggregate(&c->events[k], &c->events[i]))
            return k;
    return -1;
}

static int ask_seqs(struct batch *b, struct mt_cmd **cmds, int n, struct lookups *l, struct mt_err *err)
{
    struct mt_pg_arr *type = &b->rely_key, *id = &b->rely_key2;
    mt_pg_arr_clear(type);
    mt_pg_arr_clear(id);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < cmds[i]->n_events; k++) {
            struct cmd_event *e = &cmds[i]->events[k];
            e->seq = 0;
            if (mt_ev_info(e->ev)->birth == MT_EV_FIRST || earlier_of(cmds[i], k) >= 0)
                continue;
            mt_pg_arr_text_add(type, mt_ev_info(e->ev)->aggregate_type);
            mt_pg_arr_text_add(id, e->aggregate_id);
            l->seq_of[l->n_seqs++] = e;
        }
    }
    if (l->n_seqs == 0)
        return 0;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, type);
    mt_pg_p_arr(&p, id);
    return l->seqs = ask(b, l, &st_seqs, &p, err);
}

static int ask_relies(struct batch *b, struct mt_cmd **cmds, int n, struct lookups *l, struct mt_err *err)
{
    unsigned kinds = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < cmds[i]->n_relies; k++)
            kinds |= 1u << cmds[i]->relies[k].what;
    for (unsigned what = 0; what < MT_RELY_MAX; what++) {
        if (!(kinds >> what & 1))
            continue;
        mt_pg_arr_clear(&b->rely_key);
        mt_pg_arr_clear(&b->rely_key2);
        mt_pg_arr_clear(&b->rely_version);
        mt_pg_arr_clear(&b->rely_at);
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < cmds[i]->n_relies; k++) {
                const struct cmd_rely *y = &cmds[i]->relies[k];
                if (y->what != what)
                    continue;
                mt_pg_arr_text_add(&b->rely_key, y->key);
                mt_pg_arr_text_add(&b->rely_key2, y->key2);
                mt_pg_arr_i64(&b->rely_version, y->version);
                mt_pg_arr_i32(&b->rely_at, i * MT_CMD_RELIES_MAX + k);
            }
        }
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_arr(&p, &b->rely_key);
        mt_pg_p_arr(&p, &b->rely_key2);
        mt_pg_p_arr(&p, &b->rely_version);
        mt_pg_p_arr(&p, &b->rely_at);
        int at = ask(b, l, &st_rely[what], &p, err);
        if (at < 0)
            return at;
        if (l->rely < 0)
            l->rely = at;
    }
    return 0;
}

static int ask_idem(struct batch *b, struct mt_cmd **cmds, int n, struct lookups *l, struct mt_err *err)
{
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_clear(&b->idem[i]);
    for (int i = 0; i < n; i++) {
        const struct mt_cmd *c = cmds[i];
        if (!c->idempotent)
            continue;
        mt_pg_arr_text_add(&b->idem[IDEM_ORG], c->idem_org);
        mt_pg_arr_text_add(&b->idem[IDEM_ACTOR], c->idem_actor);
        mt_pg_arr_text_add(&b->idem[IDEM_ROUTE], c->idem_route);
        mt_pg_arr_text_add(&b->idem[IDEM_KEY], c->idem_key);
        mt_pg_arr_i32(&b->idem[IDEM_STATUS], i);
    }
    if (b->idem[IDEM_STATUS].count == 0)
        return 0;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    for (int i = IDEM_ORG; i <= IDEM_KEY; i++)
        mt_pg_p_arr(&p, &b->idem[i]);
    mt_pg_p_arr(&p, &b->idem[IDEM_STATUS]);
    return l->idem = ask(b, l, &st_idem_find, &p, err);
}

static void answer_replays(struct batch *b, struct mt_cmd **cmds, const struct mt_pg_res *r)
{
    for (int row = 0; row < mt_pg_rows(r); row++) {
        struct mt_cmd *c = cmds[mt_pg_i64(r, row, 0)];
        size_t n;
        const void *mac = mt_pg_bytes(r, row, 1, &n);
        c->out = true;
        if (n != 32 || !mt_digest_equal(mac, c->idem_mac, 32)) {
            c->done.end = MT_END_KEY_REUSE;
            (void)MT_FAIL(&c->err, MT_E_CONFLICT, "the idempotency key was used for another request");
            continue;
        }
        c->done.end = MT_END_REPLAY;
        c->done.status = (int)mt_pg_i64(r, row, 2);
        c->done.event_id = c->done.given.first_event_id = mt_pg_i64(r, row, 4);
        c->done.body = strdup(mt_pg_text(r, row, 3));
        if (!c->done.body) {
            c->done.end = MT_END_ERROR;
            (void)MT_FAIL(&c->err, MT_E_NOMEM, "no memory for a reply");
        }
        b->stats->replays++;
    }
}

static void answer_stale(struct batch *b, struct mt_cmd **cmds, const struct mt_pg_res *r)
{
    for (int row = 0; row < mt_pg_rows(r); row++) {
        int64_t at = mt_pg_i64(r, row, 0);
        struct mt_cmd *c = cmds[at / MT_CMD_RELIES_MAX];
        if (!c->out)
            end_stale(b, c, &c->relies[at % MT_CMD_RELIES_MAX], mt_pg_i64(r, row, 1));
    }
}

/* seq of each event; refuses births that are none and later events of what is not there. */
static void give_seqs(struct mt_cmd *c)
{
    for (int i = 0; i < c->n_events && !c->out; i++) {
        struct cmd_event *e = &c->events[i];
        const struct mt_ev_info *info = mt_ev_info(e->ev);
        int before = earlier_of(c, i);
        struct mt_err err = {0};
        int32_t base = before >= 0 ? c->events[before].seq : e->seq;
        if (info->birth == MT_EV_FIRST && before >= 0)
            (void)MT_FAIL(&err, MT_E_INVALID, "%s must be the first event of '%s'", info->type, e->aggregate_id);
        else if (info->birth == MT_EV_LATER && base == 0)
            (void)MT_FAIL(&err, MT_E_NOT_FOUND, "there is no %s '%s'", info->aggregate_type, e->aggregate_id);
        else if (base == INT32_MAX)
            (void)MT_FAIL(&err, MT_E_LIMIT, "%s '%s' has no event numbers left", info->aggregate_type, e->aggregate_id);
        if (err.code)
            end_error(c, &err);
        e->seq = base + 1;
    }
}

/* Queue and await the look-ups of @n commands; with @begin inside a transaction that starts here. */
static int look_up(struct batch *b, struct mt_cmd **cmds, int n, bool begin, struct mt_err *err)
{
    static _Thread_local struct lookups l; /* 32 KiB: too large for a stack frame */
    l.n = l.n_seqs = 0;
    l.counter = l.idem = l.seqs = l.rely = -1;
    int r = mt_pg_pipe_enter(b->pg, err);
    if (r < 0)
        return r;
    if (begin) {
        if ((r = ask(b, &l, &st_begin, NULL, err)) < 0 || (r = ask(b, &l, &st_lock, NULL, err)) < 0 ||
            (r = l.counter = ask(b, &l, &st_counter, NULL, err)) < 0)
            return r;
        b->stats->lock_takes++;
        if ((r = mt_pg_pipe_flush(b->pg, err)) < 0) /* the server takes the lock while we go on building */
            return r;
    } else if ((r = ask(b, &l, &st_savepoint, NULL, err)) < 0) {
        return r;
    }
    if ((r = ask_idem(b, cmds, n, &l, err)) < 0 || (r = ask_relies(b, cmds, n, &l, err)) < 0 ||
        (r = ask_seqs(b, cmds, n, &l, err)) < 0 || (r = mt_pg_pipe_sync(b->pg, l.res, l.n, err)) < 0)
        return r;
    r = mt_pg_pipe_leave(b->pg, err);
    if (r == 0 && l.counter >= 0) {
        size_t len;
        const struct mt_pg_res *c = l.res[l.counter];
        if (mt_pg_rows(c) != 1)
            r = MT_FAIL(err, MT_E_CORRUPT, "event_counter has %d rows, not one", mt_pg_rows(c));
        else {
            b->head = mt_pg_i64(c, 0, 0);
            const void *h = mt_pg_bytes(c, 0, 1, &len);
            MT_ASSERT(len == 32);
            memcpy(b->hash, h, 32);
        }
    }
    if (r == 0 && l.idem >= 0)
        answer_replays(b, cmds, l.res[l.idem]);
    for (int i = l.rely; r == 0 && l.rely >= 0 && i < (l.seqs >= 0 ? l.seqs : l.n); i++)
        answer_stale(b, cmds, l.res[i]);
    for (int i = 0; r == 0 && i < l.n_seqs; i++)
        l.seq_of[i]->seq = (int32_t)mt_pg_i64(l.res[l.seqs], i, 0);
    for (int i = 0; r == 0 && i < n; i++)
        if (!cmds[i]->out)
            give_seqs(cmds[i]);
    lookups_done(&l);
    return r;
}

/* ---- second trip: writes ---- */

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
    mt_pg_arr_text_add(&b->cols[COL_ORG], e->org_id);
    mt_pg_arr_text_add(&b->cols[COL_APP], e->app_id);
    mt_pg_arr_text_add(&b->cols[COL_ENV], e->env_id);
    mt_pg_arr_json(&b->cols[COL_PAYLOAD], e->payload, e->payload_len);
    mt_pg_arr_bytes(&b->cols[COL_CHAIN], b->hash, 32);
    return 0;
}

static void put_idem(struct batch *b, struct mt_cmd *c)
{
    mt_pg_arr_text_add(&b->idem[IDEM_ORG], c->idem_org);
    mt_pg_arr_text_add(&b->idem[IDEM_ACTOR], c->idem_actor);
    mt_pg_arr_text_add(&b->idem[IDEM_ROUTE], c->idem_route);
    mt_pg_arr_text_add(&b->idem[IDEM_KEY], c->idem_key);
    mt_pg_arr_bytes(&b->idem[IDEM_MAC], c->idem_mac, 32);
    mt_pg_arr_i32(&b->idem[IDEM_STATUS], c->status);
    mt_pg_arr_text_n(&b->idem[IDEM_BODY], mt_buf_cstr(&c->body), c->body.len);
    mt_pg_arr_i64(&b->idem[IDEM_EVENT], c->first_id + c->n_events - 1);
}

/* Ids, replies, chain and arrays of all commands still in. Returns the number of events. */
static int gather(struct batch *b, struct mt_cmd **cmds, int n, int64_t now, struct mt_err *err)
{
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_clear(&b->cols[i]);
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_clear(&b->idem[i]);
    int events = 0;
    for (int i = 0; i < n; i++) {
        struct mt_cmd *c = cmds[i];
        if (c->out)
            continue;
        c->first_id = b->head + 1 + events;
        c->done.given = (struct mt_cmd_ids_given){.first_event_id = c->first_id, .n_events = c->n_events, .occurred_us = now};
        struct mt_err local = {0};
        if (build_reply(c, &c->done.given, &local) < 0) {
            end_error(c, &local);
            continue;
        }
        for (int k = 0; k < c->n_events; k++, events++) {
            int r = put_event(b, c, &c->events[k], c->first_id + k, now, err);
            if (r < 0)
                return r;
            b->proj[events] = (struct mt_proj_event){.ev = c->events[k].ev, .keys = c->events[k].keys};
        }
        if (c->idempotent)
            put_idem(b, c);
    }
    for (int i = 0; i < COL_MAX; i++)
        if (b->cols[i].b.failed)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a batch of %d events", events);
    for (int i = 0; i < IDEM_MAX; i++)
        if (b->idem[i].b.failed)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for the replies of a batch");
    return events;
}

static int send_events(struct batch *b, int64_t now, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, b->head);
    mt_pg_p_time(&p, now);
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_p_arr(&p, &b->cols[i]);
    int r = mt_pg_pipe_send(b->pg, &st_insert, &p, err);
    return r < 0 ? r : mt_pg_pipe_flush(b->pg, err);
}

static int send_views(struct batch *b, int events, struct mt_err *err)
{
    int rounds = mt_proj_rounds(b->proj, events, b->rounds, err);
    int sent = 0;
    for (int i = 0; i < rounds; i++) {
        int64_t lo = b->head + 1 + b->rounds[i].first;
        int r = mt_proj_send(b->pg, b->rounds[i].types, lo, lo + b->rounds[i].count - 1, err);
        if (r < 0)
            return r;
        sent += r;
    }
    return rounds < 0 ? rounds : sent;
}

static int send_idem(struct batch *b, int64_t now, struct mt_err *err)
{
    if (b->idem[IDEM_KEY].count == 0)
        return 0;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_p_arr(&p, &b->idem[i]);
    mt_pg_p_time(&p, now);
    int r = mt_pg_pipe_send(b->pg, &st_idem_insert, &p, err);
    return r < 0 ? r : 1;
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
    int events = gather(b, cmds, n, now, err), sent = 0, r;
    *ret_events = events;
    if (events <= 0)
        return events;
    if ((r = mt_pg_pipe_enter(b->pg, err)) < 0 || (r = send_events(b, now, err)) < 0)
        return r;
    sent++;
    if ((r = send_views(b, events, err)) < 0)
        return r;
    sent += r;
    if ((r = send_idem(b, now, err)) < 0)
        return r;
    sent += r;
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
        return mt_pg_reset(b->pg, &ignored) < 0 ? -(int)MT_E_UNAVAILABLE : batch_session(b, &ignored);
    }
    return 0;
}

static int commit(struct batch *b, struct mt_err *err)
{
    int r = send_counter(b, err);
    if (r < 0 || (r = mt_pg_pipe_send(b->pg, &st_commit, NULL, err)) < 0)
        return r;
    b->committing = true;
    r = mt_pg_pipe_sync(b->pg, NULL, 0, err);
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
    int r = look_up(b, &c, 1, false, err);
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
    int r = look_up(b, NULL, 0, true, err);
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

int batch_run(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err)
{
    int events = 0;
    forget(cmds, n);
    b->committing = false;
    b->stats->batches++;
    int r = look_up(b, cmds, n, true, err);
    if (r == 0)
        r = write_all(b, cmds, n, &events, err);
    if (r == 0 && events == 0)
        return mt_pg_exec(b->pg, "ROLLBACK", err);
    if (r == 0)
        r = commit(b, err);
    if (r == 0) {
        for (int i = 0; i < n; i++)
            finish(b, cmds[i]);
        return 0;
    }
    if (!mt_pg_alive(b->pg) || b->committing)
        return r;
    if (rollback(b, "ROLLBACK") < 0)
        return r;
    return run_singly(b, cmds, n, err);
}

int batch_settle(struct batch *b, struct mt_err *err)
{
    /* The old session may still be committing: it holds the log's lock until its fate is decided. */
    int r = mt_pg_exec(b->pg, "BEGIN", err);
    if (r < 0 || (r = mt_pg_query(b->pg, &st_lock, NULL, NULL, err)) < 0)
        return r;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, b->head);
    if ((r = mt_pg_query(b->pg, &st_settle, &p, &res, err)) < 0 || (r = mt_pg_exec(b->pg, "ROLLBACK", err)) < 0)
        return r;
    b->committing = false;
    size_t len = 0;
    const void *hash = mt_pg_rows(res) == 1 ? mt_pg_bytes(res, 0, 0, &len) : NULL;
    return hash && len == 32 && memcmp(hash, b->hash, 32) == 0; /* the chain hash names the batch */
}

void batch_finish(struct batch *b, struct mt_cmd **cmds, int n)
{
    for (int i = 0; i < n; i++)
        finish(b, cmds[i]);
}
