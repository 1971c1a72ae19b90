/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's look at the whole, for the gauges of the metrics page. See measure.h. */
#include "control/measure.h"

#include "base/assert.h"
#include "base/str.h"
#include "control/doctor/standby.h"
#include "control/pass.h"
#include "control/scheduler/capacity.h"
#include "control/secrets/rewrap.h"
#include "control/volumes/volume_sql.h"

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

/* The oldest is that of the volume whose newest backup is oldest: what the loss of a node would cost at most. */
static const struct mt_pg_stmt st_backups = {
    "measure_backups", "SELECT count(*) FILTER (WHERE " MT_SQL_BACKUP_STALE("v") "), count(*) FILTER (WHERE " MT_SQL_PROOF_STALE("v") "),"
                       " (SELECT coalesce(floor(extract(epoch FROM max(p.restored_at))), 0)::bigint FROM snapshots_view p),"
                       " (SELECT count(*) FROM volumes_view u WHERE u.collect_failed IS NOT NULL AND u.collect_failed <> 'interrupted'),"
                       " coalesce(max(extract(epoch FROM now() - (" MT_SQL_LAST_BACKUP("v", "s.captured_at") "))) FILTER (WHERE v.backup_enabled), -1)::bigint"
                       " FROM volumes_view v WHERE NOT v.deleted"};

/* Machines that take new work, as mt_capacity counts them; WAL that waits to be archived counts from the last that was. */
static const struct mt_pg_stmt st_machines = {
    "measure_machines",
    "SELECT coalesce(sum((n.capacity->>'memory_bytes')::bigint), 0)::bigint, coalesce(sum((n.capacity->>'cpu_millis')::bigint), 0)::bigint,"
    " coalesce((SELECT extract(epoch FROM now() - made_at)::bigint FROM moat.control_backup_last), -1),"
    " CASE WHEN current_setting('archive_mode') = 'off' THEN -1 ELSE coalesce((SELECT extract(epoch FROM now() - last_archived_time)::bigint FROM pg_stat_archiver), -1) END"
    " FROM nodes_view n WHERE NOT n.deleted AND n.admin_state = 'active' AND n.health = 'ready' AND 'worker' = ANY (n.roles)"};

/* Views that are live are brought up to date with each event; of one that is being rebuilt the first event that it has not seen says how far back it is. */
static const struct mt_pg_stmt st_views = {
    "measure_views",
    "SELECT c.projection, CASE c.state WHEN 'live' THEN $1::bigint ELSE c.last_applied_event_id END, CASE c.state WHEN 'live' THEN 0 ELSE greatest($1::bigint - c.last_applied_event_id, 0) END,"
    " CASE c.state WHEN 'live' THEN 0 ELSE coalesce((SELECT greatest(extract(epoch FROM now() - e.occurred_at), 0)::bigint FROM moat.events e"
    "  WHERE e.event_id > c.last_applied_event_id ORDER BY e.event_id LIMIT 1), 0) END"
    " FROM moat.projection_checkpoints c ORDER BY c.projection"};

/* What became ready for the first time between two looks. A replacement that no deploy brings is a reschedule. */
static const struct mt_pg_stmt st_ready = {
    "measure_ready",
    "SELECT (extract(epoch FROM i.ready_at - i.created_at) * 1000000)::bigint,"
    " CASE WHEN EXISTS (SELECT 1 FROM deploys_view d WHERE d.deploy_id = i.deploy_id AND (d.finished_at IS NULL OR d.finished_at >= i.created_at)) THEN 0"
    "  WHEN i.replaces IS NULL THEN 1 ELSE 2 END FROM instances_view i"
    " WHERE i.ready_at > to_timestamp($1::bigint / 1e6) AND i.ready_at <= to_timestamp($2::bigint / 1e6) LIMIT 20000"};
static const struct mt_pg_stmt st_now = {"measure_now", "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"};

#define READY_SETTLES_US INT64_C(5000000) /* a transaction that began before the last look may be seen by this one only */

static size_t word(const char *const *words, size_t n, const char *w)
{
    size_t i = 0;
    while (i < n - 1 && !MT_STREQ(words[i], w))
        i++;
    return i;
}

static int look_at_groups(struct mt_measure_gauges *g, struct mt_pg *pg, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *groups = NULL, *nodes = NULL;
    int rc = mt_pg_query(pg, &st_groups, NULL, &groups, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &st_nodes, NULL, &nodes, err);
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
        g->nodes[word(mt_measure_admin_states, 8, mt_pg_text(nodes, i, 0))][word(mt_measure_healths, 5, mt_pg_text(nodes, i, 1))] += (uint64_t)mt_pg_i64(nodes, i, 2);
    return 0;
}

static int look_at_stores(struct mt_measure_gauges *g, struct mt_pass *p, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *backups = NULL, *machines = NULL;
    int64_t lag_ms;
    int rc = mt_pg_query_one(p->pg, &st_backups, NULL, &backups, err);
    if (rc == 0)
        rc = mt_pg_query_one(p->pg, &st_machines, NULL, &machines, err);
    if (rc == 0)
        rc = mt_key_rows_astray(p->ctl->keys, p->pg, &g->keys_missing, &g->keys_retired, err);
    if (rc < 0)
        return rc;
    g->keys_known = true;
    g->backup_stale = (uint64_t)mt_pg_i64(backups, 0, 0);
    g->proof_stale = (uint64_t)mt_pg_i64(backups, 0, 1);
    g->proven_s = mt_pg_i64(backups, 0, 2);
    g->uncollected = (uint64_t)mt_pg_i64(backups, 0, 3);
    g->backup_oldest_s = mt_pg_i64(backups, 0, 4);
    g->physical_memory_bytes = (uint64_t)mt_pg_i64(machines, 0, 0);
    g->physical_cpu_millis = (uint64_t)mt_pg_i64(machines, 0, 1);
    g->pg_backup_age_s = mt_pg_i64(machines, 0, 2);
    g->pg_wal_age_s = mt_pg_i64(machines, 0, 3);
    g->pg_lag_bytes = -1;
    return mt_standby_lag(p->pg, &lag_ms, &g->pg_lag_bytes, err);
}

static int look_at_views(struct mt_measure_gauges *g, struct mt_pass *p, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params a;
    mt_pg_p_init(&a);
    mt_pg_p_i64(&a, mt_log_head_get(p->ctl->head));
    int rc = mt_pg_query(p->pg, &st_views, &a, &r, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r) && g->views_n < MT_MEASURE_VIEWS; i++) {
        struct mt_measure_view *v = &g->views[g->views_n++];
        (void)snprintf(v->name, sizeof v->name, "%s", mt_pg_text(r, i, 0));
        for (int k = 0; k < 3; k++)
            v->figures[k] = mt_pg_i64(r, i, k + 1);
    }
    return rc;
}

/* The first look of a leader only notes from where on it counts: what was before is another process's. */
static int look_at_ready(struct mt_measure *m, struct mt_pg *pg, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *now = NULL, *r = NULL;
    struct mt_pg_params p;
    int rc = mt_pg_query_one(pg, &st_now, NULL, &now, err);
    if (rc < 0)
        return rc;
    int64_t until = mt_pg_i64(now, 0, 0) - READY_SETTLES_US, since = m->ready_until_us;
    if (since == 0) {
        m->ready_until_us = until;
        return 0;
    }
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, since);
    mt_pg_p_i64(&p, until);
    if ((rc = mt_pg_query(pg, &st_ready, &p, &r, err)) < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++)
        mt_hist_observe(&m->time_to_ready[mt_pg_i64(r, i, 1)], mt_pg_i64(r, i, 0));
    m->ready_until_us = until;
    return 0;
}

int mt_measure_look(struct mt_measure *m, struct mt_pass *empty, bool guard, struct mt_err *err)
{
    struct mt_measure_gauges g = {.known = true, .guard = guard};
    struct mt_capacity k;
    const char *none[] = {NULL};
    int rc = mt_pass_load(empty, none, 0, err);
    if (rc < 0 || (rc = look_at_groups(&g, empty->pg, err)) < 0 || (rc = look_at_stores(&g, empty, err)) < 0 || (rc = look_at_views(&g, empty, err)) < 0 ||
        (rc = look_at_ready(m, empty->pg, err)) < 0)
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
