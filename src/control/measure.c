/* SPDX-License-Identifier: Apache-2.0 */
#include "control/measure.h"

#include "base/assert.h"
#include "base/str.h"

#include <stdlib.h>

static const unsigned statuses[MT_MEASURE_STATUSES - 1] = {200, 201, 202, 204, 303, 304, 400, 401, 403, 404, 405,
                                                           408, 409, 410, 413, 415, 422, 429, 500, 503, 504};
static const char *const grants[MT_GRANTED_MAX] = {"device", "client_credentials", "refresh", "personal"};
static const char *const failures[MT_AUTHF_MAX] = {"missing", "unknown", "expired", "revoked", "disabled", "invalid_client", "invalid_grant"};
static const char *const idempotency[MT_IDEM_RESULT_MAX] = {"miss", "hit", "conflict"};
static const char *const kinds[MT_PASS_KIND_MAX] = {"dirty", "full"};
static const char *const actions[MT_SCHED_ACTION_MAX] = {"allocate", "drain", "stop"};
static const char *const deploys[MT_DEPLOY_RESULT_MAX] = {"succeeded", "failed"};
const char *const mt_measure_group_states[5] = {"converged", "rolling", "held", "unschedulable", "degraded"};
const char *const mt_measure_admin_states[8] = {"enrolled", "pending_approval", "active", "cordoned", "draining", "disabled", "removed", "other"};
const char *const mt_measure_healths[5] = {"ready", "degraded", "suspect", "offline", "lost"};
const char *const mt_measure_followers[MT_FOLLOWER_MAX] = {"agent", "edge"};
const char *const mt_ready_kinds[MT_READY_KIND_MAX] = {"deploy", "scale", "reschedule"};

void mt_measure_init(struct mt_measure *m)
{
    *m = (struct mt_measure){.audit_chains = -1};
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

void mt_measure_audit(struct mt_measure *m, int intact)
{
    atomic_store(&m->audit_chains, intact);
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
    for (size_t i = 0; i < MT_ARRAY_LEN(mt_measure_group_states); i++)
        mt_metrics_u64(page, MT_M_SCHED_GROUPS, g->groups[i], mt_measure_group_states[i]);
    for (size_t i = 1; i < MT_REASON_MAX; i++)
        if (mt_reason_info((enum mt_reason)i)->parts & MT_REASON_PLACEMENT)
            mt_metrics_u64(page, MT_M_SCHED_UNSCHEDULABLE, g->unschedulable[i], mt_reason_code((enum mt_reason)i));
    for (size_t i = 0; i < MT_ARRAY_LEN(mt_measure_admin_states) - 1; i++)
        for (size_t k = 0; k < MT_ARRAY_LEN(mt_measure_healths); k++)
            mt_metrics_u64(page, MT_M_NODES, g->nodes[i][k], mt_measure_admin_states[i], mt_measure_healths[k]);
    mt_metrics_u64(page, MT_M_NODE_GUARD, g->guard);
    mt_metrics_u64(page, MT_M_CLUSTER_MEMORY, g->memory_bytes, "allocatable");
    mt_metrics_u64(page, MT_M_CLUSTER_MEMORY, g->used_memory_bytes, "used");
    mt_metrics_i64(page, MT_M_CLUSTER_MEMORY, g->headroom_bytes, "n1_headroom");
    mt_metrics_u64(page, MT_M_CLUSTER_MEMORY, g->physical_memory_bytes, "physical");
    mt_metrics_u64(page, MT_M_CLUSTER_CPU, g->cpu_millis, "allocatable");
    mt_metrics_u64(page, MT_M_CLUSTER_CPU, g->used_cpu_millis, "used");
    mt_metrics_u64(page, MT_M_CLUSTER_CPU, g->physical_cpu_millis, "physical");
    for (size_t i = 0; i < MT_IPAM_POOLS; i++)
        for (size_t k = 0; k < MT_IPAM_STATES; k++)
            mt_metrics_i64(page, MT_M_IPAM, g->ipam[i][k], mt_ipam_pools[i], mt_ipam_states[k]);
    mt_metrics_u64(page, MT_M_BACKUP_STALE, g->backup_stale);
    mt_metrics_u64(page, MT_M_BACKUP_UNPROVEN, g->proof_stale);
    mt_metrics_u64(page, MT_M_BACKUP_UNCOLLECTED, g->uncollected);
    if (g->proven_s)
        mt_metrics_i64(page, MT_M_BACKUP_PROVEN, g->proven_s);
    if (g->backup_oldest_s >= 0)
        mt_metrics_i64(page, MT_M_BACKUP_OLDEST, g->backup_oldest_s);
    if (g->keys_known) {
        mt_metrics_u64(page, MT_M_KEY_UNAVAILABLE, g->keys_missing > 0);
        mt_metrics_i64(page, MT_M_KEY_OLD, g->keys_retired);
    }
    const struct {
        enum mt_metric id;
        int64_t v;
    } database[] = {{MT_M_PG_BACKUP_AGE, g->pg_backup_age_s}, {MT_M_PG_WAL_AGE, g->pg_wal_age_s}, {MT_M_PG_LAG, g->pg_lag_bytes}};
    for (size_t i = 0; i < MT_ARRAY_LEN(database); i++)
        if (database[i].v >= 0)
            mt_metrics_i64(page, database[i].id, database[i].v);
    const enum mt_metric views[] = {MT_M_PROJ_LAST, MT_M_PROJ_LAG, MT_M_PROJ_LAG_SECONDS};
    for (size_t i = 0; i < MT_ARRAY_LEN(views); i++)
        for (size_t k = 0; k < g->views_n; k++)
            mt_metrics_i64(page, views[i], g->views[k].figures[i], g->views[k].name);
}

void mt_measure_scheduler(struct mt_measure *m, struct mt_metrics *page)
{
    static const char *const results[] = {"ok", "error"};
    mt_metrics_u64(page, MT_M_SCHED_LEADER, (uint64_t)atomic_load(&m->leader));
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
    for (size_t i = 0; i < MT_READY_KIND_MAX; i++)
        mt_metrics_hist(page, MT_M_SCHED_READY, &m->time_to_ready[i], mt_ready_kinds[i]);
    int audit = atomic_load(&m->audit_chains);
    if (audit >= 0)
        mt_metrics_u64(page, MT_M_AUDIT_CHAIN, (uint64_t)audit);
    mt_metrics_u64(page, MT_M_PROJ_ERRORS, mt_metrics_get(&m->rebuilds_failed), "all");
    for (size_t i = 0; i < MT_IPAM_POOLS; i++)
        mt_metrics_u64(page, MT_M_IPAM_FAILURES, mt_metrics_get(&m->ipam_failures[i]), mt_ipam_pools[i]);
    for (size_t i = 0; i < MT_DEPLOY_RESULT_MAX; i++)
        mt_metrics_u64(page, MT_M_DEPLOYS, mt_metrics_get(&m->deploys[i]), deploys[i]);
}
