/* SPDX-License-Identifier: Apache-2.0 */
/* What a batch asks under the lock before it writes: the counter, idempotency records, rows relied on, numbers of
 * aggregates; and the outcomes that follow. */
#include "control/log/batch.h"
#include "control/log/locks.h"

#include "base/assert.h"
#include "os/digest.h"

#include <stdlib.h>
#include <string.h>

#define LOOKUPS_MAX (4 + MT_RELY_MAX + 2)
#define ALL_KINDS UINT64_MAX

const struct mt_pg_stmt batch_st_begin = {"log_begin", "BEGIN ISOLATION LEVEL READ COMMITTED"};
/* Its own statement: what follows gets a snapshot taken under the lock. */
/* And how long that took, in microseconds: the server evaluates from left to right, and its clock of the statement begins with this one, in a pipeline too. */
const struct mt_pg_stmt batch_st_lock = {
    "log_lock", "SELECT pg_advisory_xact_lock(" MT_LOCK_LOG "), (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::int8"};
static const struct mt_pg_stmt st_savepoint = {"log_savepoint", "SAVEPOINT one_command"};
static const struct mt_pg_stmt st_counter = {"log_counter", "SELECT last_event_id, last_chain_hash FROM event_counter"};
static const struct mt_pg_stmt st_seqs = {
    "log_seqs", "SELECT COALESCE((SELECT e.aggregate_seq FROM events e WHERE e.aggregate_type = k.t AND e.aggregate_id = k.i"
                " ORDER BY e.aggregate_seq DESC LIMIT 1), 0)"
                " FROM unnest($1::text[], $2::text[]) WITH ORDINALITY k(t, i, n) ORDER BY k.n"};
static const struct mt_pg_stmt st_idem_find = {
    "log_idem_find", "SELECT k.n, r.request_mac, r.status, r.response_body, r.event_id"
                     " FROM unnest($1::uuid[], $2::int4[]) k(s, n) JOIN idempotency_records r ON r.scope = k.s"};
/* Each answers with the reliances that do not hold and the version that is there. */
#define RELY_FROM(view, match, version) \
    " FROM (SELECT unnest($1::text[]) AS a, unnest($2::text[]) AS b, unnest($3::int8[]) AS want, unnest($4::int4[]) AS n) k LEFT JOIN " view \
    " v ON " match " WHERE COALESCE(v." version ", 0) <> k.want"
/* [0] lists them, [1] fails with a division by zero when there is one */
#define RELY(name, view, match, version) \
    {{"log_rely_" name, "SELECT k.n, COALESCE(v." version ", 0)" RELY_FROM(view, match, version)}, \
     {"log_guard_" name, "SELECT 1 / (CASE WHEN EXISTS (SELECT 1" RELY_FROM(view, match, version) ") THEN 0 ELSE 1 END)"}}
#define RELY_LIVE(name, view, id) \
    RELY(name, "LATERAL (SELECT 1::int8 AS live FROM " view " x WHERE x." id " = k.a AND NOT x.deleted)", "true", "live")
#define RELY_BELOW(name, view, owner) \
    RELY(name, "LATERAL (SELECT sum(x.last_event_id)::int8 AS s FROM " view " x WHERE x." owner " = k.a AND NOT x.deleted)", \
         "true", "s")
static const struct mt_pg_stmt st_rely[MT_RELY_MAX][2] = {
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
    [MT_RELY_MEMBER] = RELY("member", "org_members_view", "v.member_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_SP] = RELY("sp", "service_principals_view", "v.sp_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_EXEC_SESSION] = RELY("exec_session", "exec_sessions_view", "v.session_id = k.a", "resource_version"),
    [MT_RELY_BUNDLE] = RELY("bundle", "secret_bundles_view", "v.bundle_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_ENV_BUNDLE] = RELY("env_bundle", "secret_bundles_view", "v.env_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_KEY_ROTATION] = RELY("key_rotation", "nodes_view", "v.next_public_key IS NOT NULL AND NOT v.deleted AND v.admin_state <> 'disabled'",
                                  "resource_version"),
    [MT_RELY_VOLUME] = RELY("volume", "volumes_view", "v.volume_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_VOLUME_ATTACHMENT] = RELY("attachment", "volume_attachments_view", "v.attachment_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_REGISTRY] = RELY("registry", "registry_credentials_view", "v.reg_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_DRAIN] = RELY("drain", "log_drains_view", "v.drain_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_IMAGE_BLOCK] = RELY("image_block", "image_blocks_view", "v.digest = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_RESTORE] = RELY("restore", "restores_view", "v.restore_id = k.a", "resource_version"),
    [MT_RELY_MIGRATION] = RELY("migration", "volume_migrations_view", "v.migration_id = k.a", "resource_version"),
    [MT_RELY_SNAPSHOT] = RELY("snapshot", "snapshots_view", "v.snapshot_id = k.a", "resource_version"),
    [MT_RELY_QUARANTINE] = RELY("quarantine", "quarantines_view", "v.target_id = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_ENV_IPV4] = RELY("env_ipv4", "ipv4_allocations_view", "v.env_id = k.a AND v.ended_at IS NULL", "resource_version"),
    [MT_RELY_IPV4_POOL] = RELY("ipv4_pool", "ipv4_pool_view", "v.address = k.a AND NOT v.deleted", "resource_version"),
    [MT_RELY_IPV4_TAKEN] = RELY("ipv4_taken", "ipv4_allocations_view", "v.ipv4_address = k.a AND v.ended_at IS NULL", "resource_version"),
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
    [MT_RELY_ORG_LIVE] = RELY_LIVE("org_live", "orgs_view", "org_id"),
    [MT_RELY_PROJECT_LIVE] = RELY_LIVE("project_live", "projects_view", "project_id"),
    [MT_RELY_APP_LIVE] = RELY_LIVE("app_live", "apps_view", "app_id"),
    [MT_RELY_ENV_LIVE] = RELY_LIVE("env_live", "envs_view", "env_id"),
    [MT_RELY_VOLUME_LIVE] = RELY_LIVE("volume_live", "volumes_view", "volume_id"),
    [MT_RELY_ORG_APPS] = RELY_BELOW("org_apps", "apps_view", "org_id"),
    [MT_RELY_PROJECT_APPS] = RELY_BELOW("project_apps", "apps_view", "project_id"),
    [MT_RELY_APP_ENVS] = RELY_BELOW("app_envs", "envs_view", "app_id"),
    [MT_RELY_ENV_ROUTES] = RELY_BELOW("env_routes", "routes_view", "env_id"),
    [MT_RELY_ENV_PROXIED] = RELY_BELOW("env_proxied", "routes_view", "proxy_protocol = 'v2' AND x.env_id"),
    [MT_RELY_ENV_VOLUMES] = RELY_BELOW("env_volumes", "volumes_view", "env_id"),
    [MT_RELY_VOLUME_ATTACHMENTS] = RELY_BELOW("volume_attachments", "volume_attachments_view", "volume_id"),
};

/* ---- outcomes ---- */

void batch_end_error(struct mt_cmd *c, const struct mt_err *err)
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

int batch_earlier_of(const struct mt_cmd *c, int i)
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
            if (mt_ev_info(e->ev)->birth == MT_EV_FIRST || batch_earlier_of(cmds[i], k) >= 0)
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

/* One statement per kind of reliance out of the set @wanted; @l NULL: the failing form, on @pg. */
static int ask_relies(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, uint64_t wanted, struct lookups *l,
                      struct mt_err *err)
{
    uint64_t kinds = 0;
    _Static_assert(MT_RELY_MAX <= 64, "a set of kinds is one word");
    for (int i = 0; i < n; i++)
        for (int k = 0; k < cmds[i]->n_relies; k++)
            kinds |= UINT64_C(1) << cmds[i]->relies[k].what;
    for (unsigned what = 0; what < MT_RELY_MAX; what++) {
        if (!((kinds & wanted) >> what & 1))
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
        int at = l ? ask(b, l, &st_rely[what][0], &p, err) : mt_pg_pipe_send(pg, &st_rely[what][1], &p, err);
        if (at < 0)
            return at;
        if (l && l->rely < 0)
            l->rely = at;
    }
    return 0;
}

int batch_send_guards(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, uint64_t wanted, struct mt_err *err)
{
    return ask_relies(b, pg, cmds, n, wanted, NULL, err);
}

static int ask_idem(struct batch *b, struct mt_cmd **cmds, int n, struct lookups *l, struct mt_err *err)
{
    for (int i = 0; i < IDEM_MAX; i++)
        mt_pg_arr_clear(&b->idem[i]);
    for (int i = 0; i < n; i++) {
        const struct mt_cmd *c = cmds[i];
        if (!c->idempotent)
            continue;
        mt_pg_arr_uuid(&b->idem[IDEM_SCOPE], c->idem_scope);
        mt_pg_arr_i32(&b->idem[IDEM_STATUS], i);
    }
    if (b->idem[IDEM_STATUS].count == 0)
        return 0;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, &b->idem[IDEM_SCOPE]);
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
void batch_give_seqs(struct mt_cmd *c)
{
    for (int i = 0; i < c->n_events && !c->out; i++) {
        struct cmd_event *e = &c->events[i];
        const struct mt_ev_info *info = mt_ev_info(e->ev);
        int before = batch_earlier_of(c, i);
        struct mt_err err = {0};
        int32_t base = before >= 0 ? c->events[before].seq : e->seq;
        if (info->birth == MT_EV_FIRST && before >= 0)
            (void)MT_FAIL(&err, MT_E_INVALID, "%s must be the first event of '%s'", info->type, e->aggregate_id);
        else if (info->birth == MT_EV_LATER && base == 0)
            (void)MT_FAIL(&err, MT_E_NOT_FOUND, "there is no %s '%s'", info->aggregate_type, e->aggregate_id);
        else if (base == INT32_MAX)
            (void)MT_FAIL(&err, MT_E_LIMIT, "%s '%s' has no event numbers left", info->aggregate_type, e->aggregate_id);
        if (err.code)
            batch_end_error(c, &err);
        e->seq = base + 1;
    }
}

/* Queue and await the look-ups of @n commands; with @begin inside a transaction that starts here. */
int batch_look_up(struct batch *b, struct mt_cmd **cmds, int n, bool begin, struct mt_err *err)
{
    static _Thread_local struct lookups l; /* 32 KiB: too large for a stack frame */
    int lock = -1;
    l.n = l.n_seqs = 0;
    l.counter = l.idem = l.seqs = l.rely = -1;
    int r = mt_pg_pipe_enter(b->pg, err);
    if (r < 0)
        return r;
    if (begin) {
        if ((r = ask(b, &l, &batch_st_begin, NULL, err)) < 0 || (r = lock = ask(b, &l, &batch_st_lock, NULL, err)) < 0 ||
            (r = l.counter = ask(b, &l, &st_counter, NULL, err)) < 0)
            return r;
        b->stats->lock_takes++;
        if ((r = mt_pg_pipe_flush(b->pg, err)) < 0) /* the server takes the lock while we go on building */
            return r;
    } else if ((r = ask(b, &l, &st_savepoint, NULL, err)) < 0) {
        return r;
    }
    if ((r = ask_idem(b, cmds, n, &l, err)) < 0 || (r = ask_relies(b, b->pg, cmds, n, ALL_KINDS, &l, err)) < 0 ||
        (r = ask_seqs(b, cmds, n, &l, err)) < 0 || (r = mt_pg_pipe_sync(b->pg, l.res, l.n, err)) < 0)
        return r;
    if (lock >= 0 && b->lock_wait && mt_pg_rows(l.res[lock]) == 1)
        mt_hist_observe(b->lock_wait, mt_pg_i64(l.res[lock], 0, 1));
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
            batch_give_seqs(cmds[i]);
    lookups_done(&l);
    return r;
}

