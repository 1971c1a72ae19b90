/* SPDX-License-Identifier: Apache-2.0 */
#include "control/measure.h"

#include "base/assert.h"
#include "base/str.h"
#include "control/pass.h"
#include "control/scheduler/capacity.h"
#include "control/volumes/volume_sql.h"

#include <stdlib.h>

static const unsigned statuses[MT_MEASURE_STATUSES - 1] = {200, 201, 202, 204, 303, 304, 400, 401, 403, 404, 405,
                                                           408, 409, 410, 413, 415, 422, 429, 500, 503, 504};
static const char *const grants[MT_GRANTED_MAX] = {"device", "client_credentials", "refresh", "personal"};
static const char *const failures[MT_AUTHF_MAX] = {"missing", "unknown", "expired", "revoked", "disabled", "invalid_client", "invalid_grant"};
static const char *const idempotency[MT_IDEM_RESULT_MAX] = {"miss", "hit", "conflict"};
static const char *const kinds[MT_PASS_KIND_MAX] = {"dirty", "full"};
static const char *const actions[MT_SCHED_ACTION_MAX] = {"allocate", "drain", "stop"};
static const char *const deploys[MT_DEPLOY_RESULT_MAX] = {"succeeded", "failed"};
static const char *const group_states[] = {"converged", "rolling", "held", "unschedulable", "degraded"};
static const char *const admin_states[8] = {"enrolled", "pending_approval", "active", "cordoned", "draining", "disabled", "removed", "other"};
static const char *const healths[5] = {"ready", "degraded", "suspect", "offline", "lost"};
_Static_assert(MT_ARRAY_LEN(group_states) == MT_ARRAY_LEN(((struct mt_measure_gauges *)0)->groups), "one word for each");

void mt_measure_init(struct mt_measure *m)
{
    *m = (struct mt_measure){0};
    MT_ASSERT(pthread_mutex_init(&m->lock, NULL) == 0);
    m->routes[MT_MEASURE_ROUTES].method = m->routes[MT_MEASURE_ROUTES].path = "other";
}

void mt_measure_done(struct mt_measure *m)
{
    (void)pthread_mutex_destroy(&m->lock);
}

/* ---- requests ---- */

/* A route keeps the place that it got with its first request, so that no counter ever goes back. */
static struct mt_measure_route *place(struct mt_measure *m, const char *method, const char *path)
{
    struct mt_measure_route *r = &m->routes[MT_MEASURE_ROUTES];
    if (!path)
        return r;
    (void)pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->routes_n && r->path != path; i++)
        if (m->routes[i].path == path && MT_STREQ(m->routes[i].method, method))
            r = &m->routes[i];
    if (r == &m->routes[MT_MEASURE_ROUTES] && m->routes_n < MT_MEASURE_ROUTES) {
        r = &m->routes[m->routes_n++];
        r->method = method;
        r->path = path;
    }
    (void)pthread_mutex_unlock(&m->lock);
    return r;
}

void mt_measure_request(struct mt_measure *m, const char *method, const char *path, unsigned status, int64_t took_us)
{
    struct mt_measure_route *r = place(m, method, path);
    size_t i = 0;
    while (i < MT_MEASURE_STATUSES - 1 && statuses[i] != status)
        i++;
    mt_measure_one(&r->status[i]);
    if (took_us >= 0)
        mt_hist_observe(&r->took, took_us);
}

void mt_measure_http(struct mt_measure *m, struct mt_metrics *page)
{
    (void)pthread_mutex_lock(&m->lock);
    unsigned n = m->routes_n;
    (void)pthread_mutex_unlock(&m->lock);
    for (unsigned k = 0; k <= n; k++) {
        const struct mt_measure_route *r = &m->routes[k < n ? k : MT_MEASURE_ROUTES];
        for (size_t i = 0; i < MT_MEASURE_STATUSES; i++) {
            char text[8] = "other";
            uint64_t v = mt_metrics_get(&r->status[i]);
            if (v == 0)
                continue;
            if (i < MT_MEASURE_STATUSES - 1)
                (void)snprintf(text, sizeof text, "%u", statuses[i]);
            mt_metrics_u64(page, MT_M_HTTP_REQUESTS, v, r->method, r->path, text);
        }
    }
    for (unsigned k = 0; k <= n; k++) {
        const struct mt_measure_route *r = &m->routes[k < n ? k : MT_MEASURE_ROUTES];
        mt_metrics_hist(page, MT_M_HTTP_SECONDS, &r->took, r->method, r->path);
    }
}

/* ---- identity ---- */

void mt_measure_auth(struct mt_measure *m, struct mt_metrics *page)
{
    for (size_t i = 0; i < MT_GRANTED_MAX; i++)
        mt_metrics_u64(page, MT_M_TOKEN_MINTS, mt_metrics_get(&m->mints[i]), grants[i]);
    for (size_t i = 0; i < MT_AUTHF_MAX; i++)
        mt_metrics_u64(page, MT_M_AUTH_FAILURES, mt_metrics_get(&m->auth_failures[i]), failures[i]);
    for (size_t i = 0; mt_scopes_all[i]; i++)
        mt_metrics_u64(page, MT_M_AUTHZ_DENIALS, mt_metrics_get(&m->denials[i]), mt_scopes_all[i]);
    mt_metrics_u64(page, MT_M_AUTHZ_DENIALS, mt_metrics_get(&m->denials[63]), "other");
    for (size_t i = 0; i < MT_IDEM_RESULT_MAX; i++)
        mt_metrics_u64(page, MT_M_IDEMPOTENCY, mt_metrics_get(&m->idempotency[i]), idempotency[i]);
}

void mt_measure_query(void *arg, int64_t ns)
{
    mt_hist_observe_ns(arg, ns);
}

/* ---- scheduler ---- */

void mt_measure_deploy(struct mt_measure *m, const char *status)
{
    for (size_t i = 0; i < MT_DEPLOY_RESULT_MAX; i++)
        if (MT_STREQ(status, deploys[i]))
            mt_measure_one(&m->deploys[i]);
}

/* A group is what one sentence says of it: what nobody can place or was stopped on purpose before what moves, that before what lacks. */
static const struct mt_pg_stmt st_groups = {
    "measure_groups",
    "WITH g AS (SELECT CASE d.sched_condition WHEN 'held' THEN 2 WHEN 'blocked' THEN 3 ELSE"
    "  CASE WHEN EXISTS (SELECT 1 FROM deploys_view p WHERE p.env_id = d.env_id AND p.finished_at IS NULL AND d.process_type = ANY (p.process_types)) THEN 1"
    "   WHEN EXISTS (SELECT 1 FROM instances_view i WHERE i.env_id = d.env_id AND i.process_type = d.process_type AND i.released_at IS NULL"
    "    AND i.desired_state = 'running' AND i.status <> 'ready') THEN 4 ELSE 0 END END AS state, d.sched_reason AS reason"
    " FROM env_desired_view d WHERE d.release_id IS NOT NULL)"
    " SELECT state, CASE WHEN state = 3 THEN reason END, count(*) FROM g GROUP BY 1, 2"};
static const struct mt_pg_stmt st_nodes = {
    "measure_nodes", "SELECT admin_state, health, count(*) FROM nodes_view WHERE NOT deleted GROUP BY 1, 2"};

static const struct mt_pg_stmt st_backups = {
    "measure_backups", "SELECT count(*) FILTER (WHERE " MT_SQL_BACKUP_STALE("v") "), count(*) FILTER (WHERE " MT_SQL_PROOF_STALE("v") "),"
                       " (SELECT coalesce(floor(extract(epoch FROM max(p.restored_at))), 0)::bigint FROM snapshots_view p),"
                       " (SELECT count(*) FROM volumes_view u WHERE u.collect_failed IS NOT NULL AND u.collect_failed <> 'interrupted') FROM volumes_view v WHERE NOT v.deleted"};

static size_t word(const char *const *words, size_t n, const char *w)
{
    size_t i = 0;
    while (i < n - 1 && !MT_STREQ(words[i], w))
        i++;
    return i;
}

static int look_at_rows(struct mt_measure_gauges *g, struct mt_pg *pg, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *groups = NULL, *nodes = NULL, *backups = NULL;
    int rc = mt_pg_query(pg, &st_groups, NULL, &groups, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &st_nodes, NULL, &nodes, err);
    if (rc == 0)
        rc = mt_pg_query_one(pg, &st_backups, NULL, &backups, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(groups); i++) {
        uint64_t n = (uint64_t)mt_pg_i64(groups, i, 2);
        g->groups[mt_pg_i64(groups, i, 0)] += n;
        const char *reason = mt_pg_text_or_null(groups, i, 1);
        if (reason)
            g->unschedulable[mt_reason_from_code(reason)] += n;
    }
    for (int i = 0; i < mt_pg_rows(nodes); i++)
        g->nodes[word(admin_states, 8, mt_pg_text(nodes, i, 0))][word(healths, 5, mt_pg_text(nodes, i, 1))] += (uint64_t)mt_pg_i64(nodes, i, 2);
    g->backup_stale = (uint64_t)mt_pg_i64(backups, 0, 0);
    g->proof_stale = (uint64_t)mt_pg_i64(backups, 0, 1);
    g->proven_s = mt_pg_i64(backups, 0, 2);
    g->uncollected = (uint64_t)mt_pg_i64(backups, 0, 3);
    return 0;
}

int mt_measure_look(struct mt_measure *m, struct mt_pass *empty, bool guard, struct mt_err *err)
{
    struct mt_measure_gauges g = {.known = true, .guard = guard};
    struct mt_capacity k;
    const char *none[] = {NULL};
    int rc = mt_pass_load(empty, none, 0, err);
    if (rc < 0 || (rc = look_at_rows(&g, empty->pg, err)) < 0)
        return rc;
    rc = mt_ipam_count(empty->pg, (int64_t)empty->ctl->conf.ipv4_cooldown_seconds, &empty->ctl->ports, g.ipam, err);
    if (rc < 0)
        return rc;
    mt_capacity(empty->nodes, empty->n_nodes, &k);
    g.memory_bytes = k.memory_bytes;
    g.used_memory_bytes = k.used_memory_bytes;
    g.cpu_millis = k.cpu_millis;
    g.used_cpu_millis = k.used_cpu_millis;
    g.headroom_bytes = k.headroom_bytes;
    (void)pthread_mutex_lock(&m->lock);
    m->gauges = g;
    (void)pthread_mutex_unlock(&m->lock);
    return 0;
}

void mt_measure_forget(struct mt_measure *m)
{
    (void)pthread_mutex_lock(&m->lock);
    m->gauges.known = false;
    (void)pthread_mutex_unlock(&m->lock);
}

bool mt_measure_guard(struct mt_measure *m)
{
    (void)pthread_mutex_lock(&m->lock);
    bool guard = m->gauges.known && m->gauges.guard;
    (void)pthread_mutex_unlock(&m->lock);
    return guard;
}

static void put_gauges(const struct mt_measure_gauges *g, struct mt_metrics *page)
{
    for (size_t i = 0; i < MT_ARRAY_LEN(group_states); i++)
        mt_metrics_u64(page, MT_M_SCHED_GROUPS, g->groups[i], group_states[i]);
    for (size_t i = 1; i < MT_REASON_MAX; i++)
        if (mt_reason_info((enum mt_reason)i)->parts & MT_REASON_PLACEMENT)
            mt_metrics_u64(page, MT_M_SCHED_UNSCHEDULABLE, g->unschedulable[i], mt_reason_code((enum mt_reason)i));
    for (size_t i = 0; i < MT_ARRAY_LEN(admin_states) - 1; i++)
        for (size_t k = 0; k < MT_ARRAY_LEN(healths); k++)
            mt_metrics_u64(page, MT_M_NODES, g->nodes[i][k], admin_states[i], healths[k]);
    mt_metrics_u64(page, MT_M_NODE_GUARD, g->guard, NULL);
    mt_metrics_u64(page, MT_M_CLUSTER_MEMORY, g->memory_bytes, "allocatable");
    mt_metrics_u64(page, MT_M_CLUSTER_MEMORY, g->used_memory_bytes, "used");
    mt_metrics_i64(page, MT_M_CLUSTER_MEMORY, g->headroom_bytes, "n1_headroom");
    mt_metrics_u64(page, MT_M_CLUSTER_CPU, g->cpu_millis, "allocatable");
    mt_metrics_u64(page, MT_M_CLUSTER_CPU, g->used_cpu_millis, "used");
    for (size_t i = 0; i < MT_IPAM_POOLS; i++)
        for (size_t k = 0; k < MT_IPAM_STATES; k++)
            mt_metrics_i64(page, MT_M_IPAM, g->ipam[i][k], mt_ipam_pools[i], mt_ipam_states[k]);
    mt_metrics_u64(page, MT_M_BACKUP_STALE, g->backup_stale, NULL);
    mt_metrics_u64(page, MT_M_BACKUP_UNPROVEN, g->proof_stale, NULL);
    mt_metrics_u64(page, MT_M_BACKUP_UNCOLLECTED, g->uncollected, NULL);
    if (g->proven_s)
        mt_metrics_i64(page, MT_M_BACKUP_PROVEN, g->proven_s, NULL);
}

void mt_measure_scheduler(struct mt_measure *m, struct mt_metrics *page)
{
    static const char *const results[] = {"ok", "error"};
    mt_metrics_u64(page, MT_M_SCHED_LEADER, (uint64_t)atomic_load(&m->leader), NULL);
    for (size_t i = 0; i < MT_PASS_KIND_MAX; i++)
        for (size_t k = 0; k < 2; k++)
            mt_metrics_u64(page, MT_M_SCHED_PASSES, mt_metrics_get(&m->passes[i][k]), kinds[i], results[k]);
    for (size_t i = 0; i < MT_PASS_KIND_MAX; i++)
        mt_metrics_hist(page, MT_M_SCHED_PASS_SECONDS, &m->pass[i], kinds[i]);
    for (size_t i = 0; i < MT_SCHED_ACTION_MAX; i++)
        for (size_t k = 0; k < MT_REASON_MAX; k++) {
            uint64_t v = mt_metrics_get(&m->actions[i][k]);
            if (v > 0 || k == 0)
                mt_metrics_u64(page, MT_M_SCHED_ACTIONS, v, actions[i], mt_reason_code((enum mt_reason)k));
        }
    (void)pthread_mutex_lock(&m->lock);
    struct mt_measure_gauges g = m->gauges;
    (void)pthread_mutex_unlock(&m->lock);
    if (g.known)
        put_gauges(&g, page);
    for (size_t i = 0; i < MT_IPAM_POOLS; i++)
        mt_metrics_u64(page, MT_M_IPAM_FAILURES, mt_metrics_get(&m->ipam_failures[i]), mt_ipam_pools[i]);
    for (size_t i = 0; i < MT_DEPLOY_RESULT_MAX; i++)
        mt_metrics_u64(page, MT_M_DEPLOYS, mt_metrics_get(&m->deploys[i]), deploys[i]);
}
