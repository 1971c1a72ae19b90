/* SPDX-License-Identifier: Apache-2.0 */
/* Quotas in the command transaction (control-plane.md §14): what a command adds to a sum is checked under the append lock on the
 * sum as it is there, together with what the commands before it in the batch add. Two that together exceed a limit cannot
 * both pass. What only takes away makes no claim and always passes. */
#include "control/log/batch.h"

#include "base/assert.h"

#include <string.h>

/* Live groups of an organisation as their rows say: replicas wanted, and what one of them takes. By keys only, so that a sum
 * costs its own rows; there is no index by organisation to be kept up with every event. */
#define ENVS_OF "apps_view a JOIN envs_view e ON e.app_id = a.app_id AND NOT e.deleted"
#define LIVE_APPS "a.org_id = k.org AND NOT a.deleted"
#define PROCESS "r.manifest->'processes'->d.process_type"
#define WANTED                                                                                        \
    "LEAST(COALESCE(d.desired_user, (" PROCESS "->'scaling'->>'min')::int8, 1)," \
    " COALESCE((" PROCESS "->'scaling'->>'max')::int8, 100))"
#define GROUPS(each)                                                                                                        \
    "(SELECT COALESCE(sum(" WANTED " * (" each ")), 0)::int8 FROM " ENVS_OF " JOIN env_desired_view d ON d.env_id = e.env_id" \
    " JOIN releases_view r ON r.release_id = d.release_id WHERE " LIVE_APPS ")"

#define USED                                                                                                                   \
    "CASE k.dim"                                                                                                               \
    " WHEN 'max_projects' THEN (SELECT count(*) FROM projects_view v WHERE v.org_id = k.org AND NOT v.deleted)"                \
    " WHEN 'max_apps' THEN (SELECT count(*) FROM apps_view v WHERE v.org_id = k.org AND NOT v.deleted)"                        \
    " WHEN 'max_envs' THEN (SELECT count(*) FROM " ENVS_OF " WHERE " LIVE_APPS ")"                                             \
    " WHEN 'max_routes' THEN (SELECT count(*) FROM " ENVS_OF " JOIN routes_view v ON v.env_id = e.env_id AND NOT v.deleted"     \
    "  WHERE " LIVE_APPS ")"                                                                                                   \
    " WHEN 'max_public_ports' THEN (SELECT count(DISTINCT (v.address_scope_key, v.listen_port)) FROM " ENVS_OF                 \
    "  JOIN routes_view v ON v.env_id = e.env_id AND NOT v.deleted WHERE " LIVE_APPS ")"                                       \
    " WHEN 'max_service_principals' THEN (SELECT count(*) FROM service_principals_view v WHERE v.org_id = k.org AND NOT v.deleted)" \
    " WHEN 'max_members' THEN (SELECT count(*) FROM org_members_view v WHERE v.org_id = k.org AND NOT v.deleted)"              \
    " WHEN 'max_instances' THEN " GROUPS("1")                                                                                  \
    " WHEN 'max_total_memory_bytes' THEN " GROUPS("(" PROCESS "->'resources'->>'memory_bytes')::int8 + 67108864")              \
    " WHEN 'max_total_cpu_millis' THEN " GROUPS("(" PROCESS "->'resources'->>'cpu_millis')::int8")                             \
    " WHEN 'max_deploys_per_env_hour' THEN (SELECT count(*) FROM (SELECT v.created_at FROM deploys_view v WHERE v.env_id = k.scope" \
    "  ORDER BY v.deploy_id DESC LIMIT 2000) x WHERE x.created_at > now() - interval '1 hour')"                                \
    " WHEN 'max_exec_sessions' THEN (SELECT count(*) FROM exec_sessions_view v WHERE v.status <> 'ended' AND v.org_id = k.org"   \
    "  AND (v.status = 'connected' OR v.expires_at > now()) AND (k.scope = '' OR v.instance_id = k.scope OR v.env_id = k.scope))" \
    " WHEN 'max_volumes' THEN (SELECT count(*) FROM volumes_view v WHERE v.org_id = k.org AND NOT v.deleted)"                  \
    " WHEN 'max_total_volume_bytes' THEN (SELECT COALESCE(sum(GREATEST(v.size_bytes, v.resize_to_bytes)), 0)::int8"            \
    "  FROM volumes_view v WHERE v.org_id = k.org AND NOT v.deleted)"                                                          \
    " WHEN 'max_volume_attachments' THEN (SELECT count(*) FROM volume_attachments_view v WHERE v.org_id = k.org AND NOT v.deleted)" \
    " WHEN 'max_snapshots_per_volume' THEN (SELECT count(*) FROM snapshots_view v WHERE v.org_id = k.org AND v.volume_id = k.scope" \
    "  AND v.origin = 'manual' AND v.status <> 'failed' AND v.pruned_at IS NULL)"                                               \
    " WHEN 'max_concurrent_restores' THEN (SELECT count(*) FROM restores_view v WHERE v.org_id = k.org AND v.purpose IS NULL"    \
    "  AND v.status IN ('queued', 'running'))"                                                                                  \
    " WHEN 'max_log_drains' THEN (SELECT count(*) FROM log_drains_view v WHERE v.org_id = k.org AND NOT v.deleted)"            \
    " WHEN 'max_ipv4_allocations' THEN (SELECT count(*) FROM ipv4_allocations_view v WHERE v.org_id = k.org AND v.ended_at IS NULL)" \
    " WHEN 'max_ipv4_extra_ports' THEN (SELECT count(DISTINCT v.listen_port) FROM routes_view v WHERE v.env_id = k.scope AND NOT v.deleted" \
    "  AND v.ipv4_required AND v.listen_port NOT IN (80, 443))"                                                                 \
    " ELSE 0 END"
/* An operator sets limits of organisations; those of one instance or environment (a scope of max_exec_sessions) stand. */
#define LIMIT                                                                                                             \
    "COALESCE((SELECT q.limit_value FROM org_quotas_view q WHERE q.org_id = k.org AND q.dimension = k.dim"               \
    " AND NOT (k.dim = 'max_exec_sessions' AND k.scope <> '')), k.def)"
#define KEYS "unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int4[]) k(org, dim, scope, delta, def, n)"

/* A limit below 0 is none. The guard runs when the writes of its own batch are in the sums already. */
static const struct mt_pg_stmt st_ask = {"log_quota", "SELECT k.n, (" USED ")::int8, " LIMIT " FROM " KEYS " ORDER BY k.n"};
static const struct mt_pg_stmt st_guard = {
    "log_quota_guard", "SELECT 1 / (CASE WHEN EXISTS (SELECT 1 FROM (SELECT k.*, " LIMIT " AS most FROM " KEYS ") k"
                       " WHERE k.most >= 0 AND (" USED ") + (CASE k.dim WHEN 'max_instance_memory_bytes' THEN k.delta ELSE 0 END) > k.most)"
                       " THEN 0 ELSE 1 END)"};

void batch_quota_init(struct batch *b)
{
    for (int i = 0; i < 3; i++)
        mt_pg_arr_init(&b->quota[i], MT_PG_ELEM_TEXT, 1u << 20);
    mt_pg_arr_init(&b->quota[3], MT_PG_ELEM_I64, 1u << 20);
    mt_pg_arr_init(&b->quota[4], MT_PG_ELEM_I64, 1u << 20);
    mt_pg_arr_init(&b->quota[5], MT_PG_ELEM_I32, 1u << 20);
}

void batch_quota_done(struct batch *b)
{
    for (int i = 0; i < QUOTA_COLS; i++)
        mt_pg_arr_done(&b->quota[i]);
}

static bool same_key(const struct cmd_claim *a, const struct cmd_claim *b)
{
    return a->dim == b->dim && strcmp(a->org, b->org) == 0 && strcmp(a->scope, b->scope) == 0;
}

/* The different keys of a batch, each with the sum of what is added. */
struct keys {
    const struct cmd_claim *of[BATCH_CMDS_MAX * CMD_CLAIMS_MAX];
    int64_t delta[BATCH_CMDS_MAX * CMD_CLAIMS_MAX];
    int n;
};

static int key_at(const struct keys *k, const struct cmd_claim *y)
{
    int i = 0;
    while (i < k->n && !same_key(k->of[i], y))
        i++;
    return i;
}

static void collect(struct keys *k, struct mt_cmd **cmds, int n)
{
    k->n = 0;
    for (int i = 0; i < n; i++) {
        if (cmds[i]->out)
            continue;
        for (int c = 0; c < cmds[i]->n_claims; c++) {
            const struct cmd_claim *y = &cmds[i]->claims[c];
            int at = key_at(k, y);
            if (at == k->n) {
                k->of[at] = y;
                k->delta[at] = 0;
                k->n++;
            }
            k->delta[at] += y->delta;
        }
    }
}

static void fill(struct mt_pg_arr cols[QUOTA_COLS], const struct keys *k, struct mt_pg_params *p)
{
    for (int i = 0; i < QUOTA_COLS; i++)
        mt_pg_arr_clear(&cols[i]);
    for (int i = 0; i < k->n; i++) {
        mt_pg_arr_text_add(&cols[0], k->of[i]->org);
        mt_pg_arr_text_add(&cols[1], mt_quota_name(k->of[i]->dim));
        mt_pg_arr_text_add(&cols[2], k->of[i]->scope);
        mt_pg_arr_i64(&cols[3], k->delta[i]);
        mt_pg_arr_i64(&cols[4], k->of[i]->unless_set);
        mt_pg_arr_i32(&cols[5], i);
    }
    mt_pg_p_init(p);
    for (int i = 0; i < QUOTA_COLS; i++)
        mt_pg_p_arr(p, &cols[i]);
}

static struct keys *scratch_keys(void)
{
    static _Thread_local struct keys k; /* too large for a stack frame */
    return &k;
}

int batch_quota_guard(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, struct mt_err *err)
{
    struct keys *k = scratch_keys();
    struct mt_pg_params p;
    collect(k, cmds, n);
    if (k->n == 0)
        return 0;
    fill(b->quota, k, &p);
    return mt_pg_pipe_send(pg, &st_guard, &p, err);
}

/* In the order of the commands: who still fits goes on, who does not is out and takes nothing. */
static void judge(struct mt_cmd **cmds, int n, const struct keys *k, const struct mt_pg_res *res)
{
    int64_t added[BATCH_CMDS_MAX * CMD_CLAIMS_MAX] = {0};
    for (int i = 0; i < n; i++) {
        struct mt_cmd *c = cmds[i];
        for (int y = 0; y < c->n_claims && !c->out; y++) {
            int at = key_at(k, &c->claims[y]);
            int64_t used = mt_pg_i64(res, at, 1) + added[at], limit = mt_pg_i64(res, at, 2);
            if (limit < 0 || used + c->claims[y].delta <= limit)
                continue;
            c->out = true;
            c->done.end = MT_END_QUOTA;
            c->done.quota = (struct mt_cmd_refused_quota){c->claims[y].dim, limit, used, c->claims[y].delta};
            (void)MT_FAIL(&c->err, MT_E_CONFLICT, "%s is %lld, %lld are used and %lld more were asked for",
                          mt_quota_name(c->claims[y].dim), (long long)limit, (long long)used, (long long)c->claims[y].delta);
        }
        for (int y = 0; y < c->n_claims && !c->out; y++)
            added[key_at(k, &c->claims[y])] += c->claims[y].delta;
    }
}

int batch_quota_ask(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct keys *k = scratch_keys();
    struct mt_pg_params p;
    collect(k, cmds, n);
    if (k->n == 0)
        return 0;
    fill(b->quota, k, &p);
    int r = mt_pg_query(b->pg, &st_ask, &p, &res, err);
    if (r == 0)
        judge(cmds, n, k, res);
    return r;
}

int mt_cmd_quota(struct mt_cmd *cmd, enum mt_quota dim, const char *org_id, const char *scope, int64_t delta, int64_t unless_set,
                 struct mt_err *err)
{
    MT_CHECK(cmd, CMD_MAGIC);
    MT_ASSERT(dim < MT_QUOTA_MAX);
    if (delta <= 0)
        return 0;
    if (delta > MT_QUOTA_LIMIT_MAX)
        return MT_FAIL(err, MT_E_INVALID, "%s: %lld is out of range", mt_quota_name(dim), (long long)delta);
    if (cmd->n_claims == CMD_CLAIMS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "a command adds to at most %d quotas", CMD_CLAIMS_MAX);
    struct cmd_claim *y = &cmd->claims[cmd->n_claims];
    *y = (struct cmd_claim){.dim = dim, .delta = delta, .unless_set = unless_set, .org = mt_arena_strdup(&cmd->arena, org_id),
                            .scope = mt_arena_strdup(&cmd->arena, scope ? scope : "")};
    if (!y->org || !y->scope)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a command");
    cmd->n_claims++;
    return 0;
}

int mt_cmd_quota_check(struct mt_cmd *cmd, struct mt_pg *pg, struct mt_cmd_refused_quota *ret, struct mt_err *err)
{
    struct batch b = {.pg = pg};
    MT_CHECK(cmd, CMD_MAGIC);
    batch_quota_init(&b);
    int r = batch_quota_ask(&b, &cmd, 1, err);
    batch_quota_done(&b);
    if (r == 0 && cmd->out) {
        r = 1;
        *ret = cmd->done.quota;
        cmd->out = false;
        cmd->done = (struct mt_cmd_done){0};
        cmd->err = (struct mt_err){0};
    }
    return r;
}

int mt_quota_used(struct mt_pg *pg, const char *org_id, enum mt_quota_tier tier, int64_t used[MT_QUOTA_MAX],
                  int64_t limit[MT_QUOTA_MAX], struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct keys *k = scratch_keys();
    struct batch b = {.pg = pg};
    struct mt_pg_params p;
    struct cmd_claim all[MT_QUOTA_MAX];
    k->n = MT_QUOTA_MAX;
    for (int i = 0; i < MT_QUOTA_MAX; i++) {
        all[i] = (struct cmd_claim){.dim = (enum mt_quota)i, .org = org_id, .scope = "", .unless_set = mt_quota_default((enum mt_quota)i, tier)};
        k->of[i] = &all[i];
        k->delta[i] = 0;
    }
    batch_quota_init(&b);
    fill(b.quota, k, &p);
    int r = mt_pg_query(pg, &st_ask, &p, &res, err);
    for (int i = 0; r == 0 && i < MT_QUOTA_MAX; i++) {
        used[i] = mt_pg_i64(res, i, 1);
        limit[i] = mt_pg_i64(res, i, 2);
    }
    batch_quota_done(&b);
    return r;
}
