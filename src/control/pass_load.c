/* SPDX-License-Identifier: Apache-2.0 */
/* The snapshot of a pass, out of the views. Attempts come from the log: they are history, not state. */
#include "control/pass.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/log/read.h"
#include "control/quota/claims.h"
#include "control/volumes/volume_sql.h"
#include "pg/array.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define BOOT_LIMITS_SECONDS 1800u /* image pull (30 min); boot and prestart are added */

static const struct mt_pg_stmt clock_now = {"pass_clock", "SELECT clock_timestamp()"};

/* first_address: where a node without a counter begins; 2^20 further with each epoch, as the counters that there are
 * (recovery/recovery.c): a node that the restored log does not know may have given out addresses too. */
static const struct mt_pg_stmt nodes = {
    "pass_nodes",
    "SELECT n.node_id, n.labels->>'zone' AS zone, n.arch, n.admin_state, n.drain_stops_stateful AS stops, n.health, n.instance_prefix,"
    " (n.allocatable->>'cpu_millis')::bigint AS cpu, (n.allocatable->>'memory_bytes')::bigint AS memory,"
    " (n.allocatable->>'disk_bytes')::bigint AS disk, (n.allocatable->>'ceiling_cpu_millis')::bigint AS ceiling,"
    " (n.allocatable->>'memory_overhead_bytes')::bigint AS overhead, coalesce(u.cpu, 0) AS used_cpu,"
    " coalesce(u.memory, 0) AS used_memory, coalesce(u.disk, 0) AS used_disk, coalesce(u.booting, 0) AS booting,"
    " coalesce(u.failed, 0) AS failed, coalesce(u.n, 0) AS instances, coalesce(u.draining, 0) AS draining,"
    " n.labels::text AS labels, coalesce(c.next_address, 0) AS next_address,"
    " (((SELECT epoch FROM moat.event_counter) - 1) << 20) + 1 AS first_address, 'edge' = ANY (n.roles) AS edge, 'worker' = ANY (n.roles) AS worker"
    " FROM nodes_view n LEFT JOIN moat.ipam_counters c USING (node_id) LEFT JOIN ("
    "  SELECT node_id, sum(cpu_millis)::bigint AS cpu, sum(memory_bytes)::bigint AS memory, sum(disk_bytes)::bigint AS disk,"
    "  count(*) AS n, count(*) FILTER (WHERE status = 'booting') AS booting,"
    "  count(*) FILTER (WHERE status = 'failed' AND last_transition_at > now() - interval '10 minutes') AS failed,"
    "  count(*) FILTER (WHERE desired_state <> 'running') AS draining"
    "  FROM instances_view WHERE released_at IS NULL AND status <> 'stopped' GROUP BY node_id) u USING (node_id)"
    " WHERE NOT n.deleted ORDER BY n.node_id COLLATE \"C\""};

/* $1: all, $2: list of env ids. */
static const struct mt_pg_stmt groups = {
    "pass_groups",
    "SELECT d.env_id, e.name AS env_name, d.app_id, a.name AS app_name, d.org_id, o.name AS org_name, d.process_type,"
    " d.release_id, d.deploy_id, d.desired_user, d.restart_generation, d.rebalance_generation, d.sched_condition,"
    " d.sched_reason, d.sched_detail, d.stable_spec, d.target_spec, d.resource_version, e.deleted OR a.deleted OR o.deleted AS gone,"
    " o.suspended, k.blocked, k.evict, e.label_selector::text AS selector, CASE WHEN b.key_count > 0 THEN b.current_version_id END AS secret_version_id,"
    " EXISTS (SELECT 1 FROM volume_migrations_view m WHERE m.env_id = d.env_id AND m.process_type = d.process_type AND " MT_SQL_MIGRATION_HOLDS("m") ") AS migrating,"
    " " MT_SQL_MOUNTS_BY_HAND("d", "") " AS mounts_by_hand"
    " FROM env_desired_view d JOIN envs_view e USING (env_id) JOIN apps_view a ON a.app_id = d.app_id"
    " JOIN orgs_view o ON o.org_id = d.org_id LEFT JOIN secret_bundles_view b ON b.env_id = d.env_id AND NOT b.deleted"
    " LEFT JOIN LATERAL (SELECT count(*) > 0 AS blocked, coalesce(bool_or(x.evict), false) AS evict FROM image_blocks_view x, releases_view r"
    "  WHERE NOT x.deleted AND r.release_id = d.release_id AND (x.digest = r.image_digest OR r.platforms @> jsonb_build_array("
    "  jsonb_build_object('digest', x.digest)))) k ON true WHERE ($1 OR d.env_id = ANY ($2::text[]))"
    " AND (NOT (e.deleted OR a.deleted OR o.deleted) OR EXISTS (SELECT 1 FROM instances_view i WHERE i.env_id = d.env_id"
    "  AND i.process_type = d.process_type AND i.released_at IS NULL))"
    " ORDER BY d.env_id COLLATE \"C\", d.process_type COLLATE \"C\""};

static const struct mt_pg_stmt release = {"pass_release",
                                          "SELECT " MT_RELEASE_COLUMNS " FROM releases_view r WHERE r.release_id = $1"};

/* What ended the last attempt. The wait of a crash loop has a code of its own and says in its detail which one that was: the platform's are nobody's fault. */
#define ENDED_BY(code, detail) "CASE WHEN " code " = 'crash_loop_backoff' THEN " detail " ELSE " code " END"

static const struct mt_pg_stmt instances = {
    "pass_instances",
    "SELECT process_type, instance_id, node_id, release_id, spec_hash, cpu_millis, memory_bytes, disk_bytes, desired_state,"
    " desired_reason, status, " ENDED_BY("reason_code", "reason_detail") ", status = 'failed' AND reason_code = 'crash_loop_backoff',"
    " ready_at IS NOT NULL, last_transition_at, desired_changed_at,"
    " coalesce(drain_delay_seconds, $2), coalesce(grace_seconds, 10), image_digest, arch,"
    " overlay_ipv6, secret_version_id, resource_version, restart_requested FROM instances_view"
    " WHERE env_id = $1 AND released_at IS NULL AND (status <> 'stopped' OR desired_state = 'running')"
    " ORDER BY process_type COLLATE \"C\", instance_id COLLATE \"C\""};

/* Its columns: there are thousands of rows, too many to look names up. */
enum { I_TYPE = 0, I_ID, I_NODE, I_RELEASE, I_SPEC, I_CPU, I_MEMORY, I_DISK, I_DESIRED, I_DESIRED_REASON, I_STATUS, I_CODE, I_RETRY,
       I_EVER_READY, I_TRANSITION_AT, I_DESIRED_AT, I_DRAIN_DELAY, I_GRACE, I_DIGEST, I_ARCH, I_ADDRESS, I_SECRET, I_VERSION, I_RESTART };

/* What an environment has lived through before is not read: the index of its events is entered at the first one that may count. The minute
 * more is for clocks that were set back. */
#define LATELY "e.occurred_at > now() - interval '70 minutes'"
#define OF_LATELY MT_SQL_EVENTS_OF("env", "$1", "(SELECT COALESCE(moat.event_at(now() - interval '71 minutes'), 0) + 1)", MT_SQL_LAST_ID, "")
/* Ends of attempts and, of instances that have one, returns to readiness, oldest first. */
static const struct mt_pg_stmt attempts = {
    "pass_attempts",
    "WITH bad AS MATERIALIZED (SELECT DISTINCT e.aggregate_id FROM " OF_LATELY " WHERE e.event_type = 'instance.status_changed'"
    "  AND " LATELY " AND e.payload->>'reason_code' IS NOT NULL"
    "  AND e.payload->>'status' IN ('booting', 'starting', 'failed', 'stopped'))"
    " SELECT e.event_id, e.aggregate_id, e.occurred_at, e.payload->>'status' AS status, "
    ENDED_BY("e.payload->>'reason_code'", "e.payload->>'reason_detail'") " AS code,"
    " e.payload->>'reason_detail' AS detail, coalesce(e.payload->>'boot_id', '') || '/' || (e.payload->>'restart_count') AS boot,"
    " i.process_type, i.spec_hash FROM " OF_LATELY " JOIN instances_view i ON i.instance_id = e.aggregate_id"
    " JOIN bad b ON b.aggregate_id = e.aggregate_id"
    " WHERE e.event_type = 'instance.status_changed' AND " LATELY
    " AND (e.payload->>'status' = 'ready' OR (e.payload->>'reason_code' IS NOT NULL"
    "  AND e.payload->>'status' IN ('booting', 'starting', 'failed', 'stopped')))"
    " ORDER BY e.event_id LIMIT 5000"};

static const struct mt_pg_stmt volumes = {
    "pass_volumes", "SELECT v.name, v.volume_id, v.home_node_id, " MT_SQL_VOLUME_HELD("v") " AS held FROM volumes_view v"
                    " WHERE v.env_id = $1 AND NOT v.deleted ORDER BY v.volume_id COLLATE \"C\""};

static const struct mt_pg_stmt held = {
    "pass_held",
    "SELECT coalesce((SELECT max(event_id) FROM moat.events WHERE aggregate_type = 'env' AND aggregate_id = $1 AND event_type ="
    " 'env.scheduling_changed' AND payload->>'process_type' = $2 AND payload->>'condition' = 'held'), 0),"
    " coalesce(greatest((SELECT max(event_id) FROM moat.events WHERE aggregate_type = 'env' AND aggregate_id = $1 AND ("
    "  (event_type IN ('env.desired_release_set', 'env.desired_release_cleared') AND payload->>'process_type' = $2)"
    "  OR (event_type = 'env.scale_set' AND payload->'scales' @> jsonb_build_array(jsonb_build_object('process_type', $2::text)))"
    "  OR (event_type IN ('env.restart_requested', 'env.rebalance_requested') AND payload->'process_types' ? $2)"
    "  OR (event_type = 'env.scheduling_changed' AND actor_type <> 'system' AND payload->>'process_type' = $2 AND payload->>'condition' = 'ok'))),"
    "  (SELECT b.last_event_id FROM secret_bundles_view b WHERE b.env_id = $1 AND NOT b.deleted)), 0),"
    " coalesce((SELECT max(event_id) FROM moat.events WHERE aggregate_type = 'env' AND aggregate_id = $1"
    "  AND event_type = 'env.rebalance_requested' AND payload->'process_types' ? $2), 0)"};

static const struct mt_pg_stmt deploys = {
    "pass_deploys",
    "SELECT deploy_id, status, created_at, timeout_seconds, on_failure, kind, message, process_types, previous_release_ids,"
    " resource_version FROM deploys_view WHERE env_id = $1 AND finished_at IS NULL ORDER BY deploy_id"};

static const struct mt_pg_stmt crashes = {
    "pass_crashes",
    "SELECT i.process_type, count(*) AS n, max(i.created_at) AS last,"
    " (array_agg(i.created_at ORDER BY i.created_at DESC))[" TEXT(MT_ROLL_CRASHES) "] + interval '10 minutes' AS ends FROM instances_view i JOIN instances_view x"
    " ON x.instance_id = i.replaces WHERE i.env_id = $1 AND i.replaces IS NOT NULL AND x.desired_reason = 'attempt_failed'"
    " AND i.created_at > now() - interval '10 minutes' GROUP BY i.process_type"};

static char *col_dup(struct mt_pass *p, const struct mt_pg_res *r, int row, const char *col)
{
    const char *t = mt_pg_text_or_null(r, row, mt_pg_col(r, col));
    return t ? mt_arena_strdup(&p->arena, t) : NULL;
}

static int64_t num(const struct mt_pg_res *r, int row, const char *col)
{
    return mt_pg_i64_or(r, row, mt_pg_col(r, col), 0);
}

static int64_t ms(const struct mt_pg_res *r, int row, const char *col)
{
    return mt_pg_time_or(r, row, mt_pg_col(r, col), 0) / 1000;
}

static void *room(struct mt_pass *p, size_t n, size_t size)
{
    return mt_arena_alloc(&p->arena, (n + 1) * size);
}

static int out_of_memory(struct mt_err *err)
{
    return MT_FAIL(err, MT_E_NOMEM, "snapshot of a scheduler pass");
}

/* ---------------------------------------------------------------- nodes */

/* {"key": "value"} to a list in the arena; NULL text: none. */
static int labels(struct mt_pass *p, const char *text, const struct mt_place_label **ret, size_t *ret_n, struct mt_err *err)
{
    json_error_t je;
    const char *key;
    json_t *v, *o = text ? json_loads(text, 0, &je) : NULL;
    *ret = NULL;
    *ret_n = 0;
    if (!o)
        return 0;
    struct mt_place_label *list = room(p, json_object_size(o), sizeof *list);
    bool ok = list != NULL;
    json_object_foreach (o, key, v) {
        if (!ok || !json_is_string(v))
            continue;
        list[*ret_n] = (struct mt_place_label){mt_arena_strdup(&p->arena, key), mt_arena_strdup(&p->arena, json_string_value(v))};
        ok = list[*ret_n].key && list[*ret_n].value;
        (*ret_n)++;
    }
    json_decref(o);
    *ret = list;
    return ok ? 0 : out_of_memory(err);
}

static int load_nodes(struct mt_pass *p, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query(p->pg, &nodes, NULL, &r, err);
    if (rc < 0)
        return rc;
    size_t n = (size_t)mt_pg_rows(r);
    p->nodes = room(p, n, sizeof *p->nodes);
    p->node_more = room(p, n, sizeof *p->node_more);
    p->edges = room(p, n, sizeof *p->edges);
    if (!p->nodes || !p->node_more || !p->edges)
        return out_of_memory(err);
    for (int i = 0; i < (int)n; i++) {
        struct mt_place_node *d = &p->nodes[p->n_nodes];
        uint64_t overhead = (uint64_t)num(r, i, "overhead"), count = (uint64_t)num(r, i, "instances");
        bool worker = mt_pg_bool(r, i, mt_pg_col(r, "worker"));
        *d = (struct mt_place_node){
            .node_id = col_dup(p, r, i, "node_id"),
            .zone = col_dup(p, r, i, "zone"),
            .arch = col_dup(p, r, i, "arch"),
            .stops_stateful = mt_pg_bool(r, i, mt_pg_col(r, "stops")),
            .alloc_memory_bytes = worker ? (uint64_t)num(r, i, "memory") : 0,
            .alloc_cpu_millis = worker ? (uint64_t)num(r, i, "cpu") : 0,
            .ceiling_cpu_millis = worker ? (uint64_t)num(r, i, "ceiling") : 0,
            .alloc_disk_bytes = worker ? (uint64_t)num(r, i, "disk") : 0,
            .overhead_bytes = overhead,
            .used_memory_bytes = (uint64_t)num(r, i, "used_memory") + count * overhead,
            .used_cpu_millis = (uint64_t)num(r, i, "used_cpu"),
            .used_disk_bytes = (uint64_t)num(r, i, "used_disk"),
            .booting = (uint32_t)num(r, i, "booting"),
            .boot_failures = (uint32_t)num(r, i, "failed"),
            .instances = (uint32_t)count,
            .draining = (uint32_t)num(r, i, "draining"),
        };
        if (!mt_node_admin_parse(mt_pg_text(r, i, mt_pg_col(r, "admin_state")), &d->admin) ||
            !mt_node_health_parse(mt_pg_text(r, i, mt_pg_col(r, "health")), &d->health))
            return MT_FAIL(err, MT_E_CORRUPT, "node %s has an unknown state", d->node_id);
        if ((rc = labels(p, mt_pg_text_or_null(r, i, mt_pg_col(r, "labels")), &d->labels, &d->n_labels, err)) < 0)
            return rc;
        uint64_t next = (uint64_t)num(r, i, "next_address");
        p->node_more[p->n_nodes] = (struct mt_pass_node){
            .instance_prefix = col_dup(p, r, i, "instance_prefix"), .next_address = next ? next : (uint64_t)num(r, i, "first_address"), .stored_address = next};
        bool serves = d->admin == MT_NODE_ACTIVE || d->admin == MT_NODE_CORDONED || d->admin == MT_NODE_DRAINING; /* an edge does, whatever is placed there */
        if (mt_pg_bool(r, i, mt_pg_col(r, "edge")) && serves &&
            (d->health == MT_NODE_READY || d->health == MT_NODE_DEGRADED))
            p->edges[p->n_edges++] = d->node_id;
        p->n_nodes++;
    }
    return mt_place_index_new(p->nodes, p->n_nodes, &p->index, err);
}

static size_t node_index(const struct mt_pass *p, const char *id)
{
    for (size_t from = 0, to = p->n_nodes; from < to;) { /* as they come: in byte order */
        size_t i = from + (to - from) / 2;
        int c = strcmp(id, p->nodes[i].node_id);
        if (c == 0)
            return i;
        if (c < 0)
            to = i;
        else
            from = i + 1;
    }
    return MT_PLACE_NONE;
}

/* ---------------------------------------------------------------- releases */

static const struct mt_pg_stmt paused = {
    "pass_paused", "SELECT EXISTS (SELECT 1 FROM cluster_view WHERE key = '" MT_PASS_PAUSED_KEY "' AND value = 'true'::jsonb)"};

int mt_pass_paused(struct mt_pass *p, bool *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query_one(p->pg, &paused, NULL, &r, err);
    if (rc == 0)
        *ret = mt_pg_bool(r, 0, 0);
    return rc;
}

struct mt_release_row *mt_pass_release(struct mt_pass *p, const char *id, struct mt_err *err)
{
    for (size_t i = 0; i < p->n_releases; i++)
        if (MT_STREQ(p->releases[i]->release_id, id))
            return p->releases[i];
    struct mt_pg_params pp;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, id);
    if (mt_pg_query_one(p->pg, &release, &pp, &r, err) < 0)
        return NULL;
    if (p->n_releases == p->cap_releases) {
        size_t cap = p->cap_releases ? p->cap_releases * 2 : 16;
        struct mt_release_row **more = realloc(p->releases, cap * sizeof *more);
        if (!more) {
            (void)out_of_memory(err);
            return NULL;
        }
        p->releases = more;
        p->cap_releases = cap;
    }
    struct mt_release_row *row = mt_arena_alloc(&p->arena, sizeof *row);
    if (!row) {
        (void)out_of_memory(err);
        return NULL;
    }
    if (mt_release_row_read(r, 0, row, err) < 0)
        return NULL;
    p->releases[p->n_releases++] = row;
    return row;
}

/* ---------------------------------------------------------------- groups */

static int load_volumes(struct mt_pass *p, struct mt_pass_env *e, struct mt_err *err)
{
    struct mt_pg_params pp;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (e->volumes_read)
        return 0;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->env_id);
    int rc = mt_pg_query(p->pg, &volumes, &pp, &r, err);
    if (rc < 0)
        return rc;
    e->volumes = room(p, (size_t)mt_pg_rows(r), sizeof *e->volumes);
    e->homes = room(p, (size_t)mt_pg_rows(r), sizeof *e->homes);
    if (!e->volumes || !e->homes)
        return out_of_memory(err);
    for (int i = 0; i < mt_pg_rows(r); i++, e->n_volumes++) {
        const char *id = col_dup(p, r, i, "volume_id");
        e->volumes[i] = (struct mt_spec_volume){.name = col_dup(p, r, i, "name"), .volume_id = id};
        e->homes[i] = (struct mt_place_volume){.volume_id = id, .home_node_id = col_dup(p, r, i, "home_node_id"),
                                               .in_use = mt_pg_bool(r, i, mt_pg_col(r, "held"))};
        if (!id || !e->volumes[i].name || !e->homes[i].home_node_id)
            return out_of_memory(err);
    }
    e->volumes_read = true;
    return 0;
}

/* Volumes for the spec of a process. One that the environment has no more stands in with an id that is none: its group is blocked, and
 * says so, until a deploy makes the volume again. */
static int put_spec_volumes(struct mt_pass *p, const struct mt_pass_env *e, const struct mt_manifest_process *pr, struct mt_spec_group *ret,
                            bool *ret_missing, struct mt_err *err)
{
    struct mt_spec_volume *list = room(p, pr->n_mounts, sizeof *list);
    if (!list)
        return out_of_memory(err);
    for (size_t i = 0; i < pr->n_mounts; i++) {
        list[i] = (struct mt_spec_volume){.name = pr->mounts[i].volume};
        for (size_t k = 0; k < e->n_volumes; k++)
            if (MT_STREQ(e->volumes[k].name, list[i].name))
                list[i] = e->volumes[k];
        if (!list[i].volume_id) {
            list[i].volume_id = list[i].name;
            *ret_missing = true;
        }
    }
    ret->volumes = list;
    ret->n_volumes = pr->n_mounts;
    return 0;
}

/* Where the volumes of a process live, for placement. */
static int put_homes(struct mt_pass *p, const struct mt_pass_env *e, const struct mt_manifest_process *pr, struct mt_place_request *ret,
                     struct mt_err *err)
{
    struct mt_place_volume *list = room(p, pr->n_mounts, sizeof *list);
    if (!list)
        return out_of_memory(err);
    for (size_t i = 0; i < pr->n_mounts; i++)
        for (size_t k = 0; k < e->n_volumes; k++)
            if (MT_STREQ(e->volumes[k].name, pr->mounts[i].volume))
                list[ret->n_volumes++] = e->homes[k];
    ret->volumes = list;
    return 0;
}

/* Fill the wanted part of a group from its desired release: @manifest, with what was attached by hand. */
static int want_release(struct mt_pass *p, struct mt_pass_env *e, struct mt_pass_group *g, const struct mt_pg_res *r, int row, const json_t *manifest,
                        struct mt_err *err)
{
    struct mt_manifest_process pr;
    struct mt_roll_group *rg = &g->group;
    if (mt_manifest_process_read(manifest, g->process_type, &pr, err) < 0)
        return -(int)err->code;
    struct mt_spec_group sg = {.org_id = e->org_id,
                               .org_name = e->org_name,
                               .app_id = e->app_id,
                               .app_name = e->app_name,
                               .env_id = e->env_id,
                               .env_name = e->env_name,
                               .process_type = g->process_type,
                               .secret_version_id = g->secret_version_id,
                               .restart_generation = (uint64_t)num(r, row, "restart_generation"),
                               .rebalance_generation = (uint64_t)num(r, row, "rebalance_generation")};
    mt_release_row_group(g->release, &sg);
    sg.manifest = manifest;
    int rc = pr.n_mounts == 0 ? 0 : load_volumes(p, e, err);
    bool missing = false;
    if (rc == 0 && pr.n_mounts > 0)
        rc = put_spec_volumes(p, e, &pr, &sg, &missing, err);
    if (rc == 0)
        rc = mt_spec_hash(&sg, g->target_spec, err);
    if (rc == 0) {
        int col = mt_pg_col(r, "desired_user");
        int64_t wanted = mt_pg_i64_or(r, row, col, pr.scaling_min);
        const char **archs = room(p, 2, sizeof *archs);
        if (!archs) {
            mt_manifest_process_done(&pr);
            return out_of_memory(err);
        }
        rg->target_spec = g->target_spec;
        rg->desired = (uint32_t)(wanted > pr.scaling_max ? pr.scaling_max : wanted);
        rg->stateful = pr.n_mounts > 0;
        rg->restart_policy = pr.restart_policy;
        rg->startup_timeout_seconds = mt_health_startup_timeout(&pr.health);
        rg->boot_budget_seconds = BOOT_LIMITS_SECONDS + pr.prestart_seconds + 60;
        rg->request.size = (struct mt_place_size){pr.cpu_millis, pr.memory_bytes, pr.disk_bytes};
        rg->request.archs = archs;
        rg->request.n_archs = mt_release_row_archs(g->release, archs);
        rg->request.quota = (struct mt_place_quota)MT_PLACE_QUOTA_NONE;
        rg->request.gates.volume_constraints_invalid = missing || (pr.n_mounts > 0 && rg->desired > 1);
        if (pr.n_mounts > 0 && (rc = put_homes(p, e, &pr, &rg->request, err)) < 0) {
            mt_manifest_process_done(&pr);
            return rc;
        }
        rg->request.gates.secrets_missing = pr.secrets_required && !g->secret_version_id;
        rg->request.gates.org_suspended = mt_pg_bool(r, row, mt_pg_col(r, "suspended"));
        rg->request.gates.volume_migrating = mt_pg_bool(r, row, mt_pg_col(r, "migrating"));
        rg->request.gates.release_blocked = mt_pg_bool(r, row, mt_pg_col(r, "blocked"));
        rg->request.gates.release_evicted = mt_pg_bool(r, row, mt_pg_col(r, "evict"));
        g->stop_grace_seconds = pr.stop_grace_seconds;
        rc = labels(p, mt_pg_text_or_null(r, row, mt_pg_col(r, "selector")), &rg->request.selector, &rg->request.n_selector, err);
    }
    mt_manifest_process_done(&pr);
    return rc;
}

/* A release that cannot be read blocks the group, no more. */
static int want(struct mt_pass *p, struct mt_pass_env *e, struct mt_pass_group *g, const struct mt_pg_res *r, int row, struct mt_err *err)
{
    const char *release_id = mt_pg_text_or_null(r, row, mt_pg_col(r, "release_id")), *more = mt_pg_text_or_null(r, row, mt_pg_col(r, "mounts_by_hand"));
    json_error_t je;
    g->secret_version_id = col_dup(p, r, row, "secret_version_id");
    if (!release_id || mt_pg_bool(r, row, mt_pg_col(r, "gone")))
        return 0;
    g->release = mt_pass_release(p, release_id, err);
    if (!g->release)
        return -(int)err->code;
    if (!more)
        return want_release(p, e, g, r, row, g->release->manifest, err);
    json_t *mounts = json_loads(more, 0, &je), *manifest = NULL;
    int rc = mounts ? mt_manifest_with_mounts(g->release->manifest, g->process_type, mounts, &manifest, err) : out_of_memory(err);
    if (rc == 0)
        rc = want_release(p, e, g, r, row, manifest, err);
    json_decref(manifest);
    json_decref(mounts);
    return rc;
}

static int remembered(struct mt_pass *p, struct mt_pass_env *e, struct mt_pass_group *g, const struct mt_pg_res *r, int row,
                      struct mt_err *err)
{
    struct mt_roll_group *rg = &g->group;
    const char *reason = mt_pg_text_or_null(r, row, mt_pg_col(r, "sched_reason"));
    g->process_type = col_dup(p, r, row, "process_type");
    g->deploy_id = col_dup(p, r, row, "deploy_id");
    g->desired_version = num(r, row, "resource_version");
    rg->min_ready_seconds = (uint32_t)p->ctl->conf.min_ready_seconds;
    rg->stable_spec = col_dup(p, r, row, "stable_spec");
    rg->recorded_target = col_dup(p, r, row, "target_spec");
    rg->recorded_detail = col_dup(p, r, row, "sched_detail");
    rg->reason = reason ? mt_reason_from_code(reason) : MT_REASON_NONE;
    rg->may_allocate = true;
    rg->roll_reason = MT_REASON_REPLACED;
    rg->stop_all_reason = mt_pg_bool(r, row, mt_pg_col(r, "gone")) ? MT_REASON_ENV_DELETED : MT_REASON_SCALED_DOWN;
    if (!mt_roll_condition_parse(mt_pg_text(r, row, mt_pg_col(r, "sched_condition")), &rg->condition))
        rg->condition = MT_ROLL_OK;
    if (!g->process_type)
        return out_of_memory(err);
    /* loaded for every group: a command newer than the attempts that failed before makes them count no more (rollout.h) */
    struct mt_pg_params pp;
    mt_auto_pg_res struct mt_pg_res *h = NULL;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->env_id);
    mt_pg_p_text(&pp, g->process_type);
    int rc = mt_pg_query_one(p->pg, &held, &pp, &h, err);
    if (rc < 0)
        return rc;
    if (rg->condition == MT_ROLL_HELD)
        rg->held_event = (uint64_t)mt_pg_i64(h, 0, 0);
    rg->command_event = (uint64_t)mt_pg_i64(h, 0, 1);
    if (rg->command_event && mt_pg_i64(h, 0, 2) == mt_pg_i64(h, 0, 1))
        rg->roll_reason = MT_REASON_REBALANCED;
    return 0;
}

static struct mt_pass_group *group_of(struct mt_pass_env *e, const char *type)
{
    for (size_t i = 0; i < e->n_groups; i++)
        if (MT_STREQ(e->groups[i].process_type, type))
            return &e->groups[i];
    return NULL;
}

/* ---------------------------------------------------------------- instances and attempts */

static char *cell_dup(struct mt_pass *p, const struct mt_pg_res *r, int row, int col)
{
    const char *t = mt_pg_text_or_null(r, row, col);
    return t ? mt_arena_strdup(&p->arena, t) : NULL;
}

static int put_instance(struct mt_pass *p, struct mt_roll_instance *in, struct mt_pass_instance *more, const struct mt_pg_res *r, int i,
                        struct mt_err *err)
{
    const char *reason = mt_pg_text_or_null(r, i, I_DESIRED_REASON), *code = mt_pg_text_or_null(r, i, I_CODE);
    *more = (struct mt_pass_instance){.release_id = cell_dup(p, r, i, I_RELEASE),
                                      .image_digest = cell_dup(p, r, i, I_DIGEST),
                                      .arch = cell_dup(p, r, i, I_ARCH),
                                      .overlay_ipv6 = cell_dup(p, r, i, I_ADDRESS),
                                      .secret_version_id = cell_dup(p, r, i, I_SECRET),
                                      .version = mt_pg_i64_or(r, i, I_VERSION, 0)};
    *in = (struct mt_roll_instance){
        .instance_id = cell_dup(p, r, i, I_ID),
        .node = node_index(p, mt_pg_text(r, i, I_NODE)),
        .spec_hash = cell_dup(p, r, i, I_SPEC),
        .size = {(uint32_t)mt_pg_i64_or(r, i, I_CPU, 0), (uint64_t)mt_pg_i64_or(r, i, I_MEMORY, 0), (uint64_t)mt_pg_i64_or(r, i, I_DISK, 0)},
        .stop_reason = reason ? mt_reason_from_code(reason) : MT_REASON_NONE,
        .reason_code = code ? mt_arena_strdup(&p->arena, code) : NULL,
        .ever_ready = mt_pg_bool(r, i, I_EVER_READY),
        .retry_pending = mt_pg_bool(r, i, I_RETRY),
        .restart_requested = mt_pg_bool(r, i, I_RESTART),
        .drain_delay_seconds = (uint32_t)mt_pg_i64_or(r, i, I_DRAIN_DELAY, 0),
        .stop_grace_seconds = (uint32_t)mt_pg_i64_or(r, i, I_GRACE, 0),
    };
    if (!mt_desired_state_parse(mt_pg_text(r, i, I_DESIRED), &in->desired) || !mt_instance_status_parse(mt_pg_text(r, i, I_STATUS), &in->status))
        return MT_FAIL(err, MT_E_CORRUPT, "instance %s has an unknown state", in->instance_id);
    int64_t since_ms = mt_pg_time_or(r, i, I_TRANSITION_AT, 0) / 1000;
    in->ready_since_ms = in->status == MT_STATUS_READY ? since_ms : 0;
    in->changed_at_ms = in->desired == MT_DESIRED_RUNNING ? since_ms : mt_pg_time_or(r, i, I_DESIRED_AT, 0) / 1000;
    /* A replacement from the spec it had can run where it runs now. */
    const char **archs = room(p, 1, sizeof *archs);
    if (!archs || !in->instance_id || !in->spec_hash)
        return out_of_memory(err);
    archs[0] = more->arch;
    in->archs = archs;
    in->n_archs = 1;
    return 0;
}

static int load_instances(struct mt_pass *p, struct mt_pass_env *e, struct mt_err *err)
{
    struct mt_pg_params pp;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->env_id);
    mt_pg_p_i32(&pp, (int32_t)p->ctl->conf.drain_delay_seconds);
    int rc = mt_pg_query(p->pg, &instances, &pp, &r, err);
    if (rc < 0)
        return rc;
    int rows = mt_pg_rows(r);
    struct mt_roll_instance *list = room(p, (size_t)rows, sizeof *list);
    struct mt_pass_instance *more = room(p, (size_t)rows, sizeof *more);
    if (!list || !more)
        return out_of_memory(err);
    for (size_t k = 0; k < e->n_groups; k++) { /* in case there are none */
        e->groups[k].group.instances = list;
        e->groups[k].more = more;
    }
    for (int i = 0; i < rows;) { /* the rows of one type are together */
        const char *type = mt_pg_text(r, i, I_TYPE);
        struct mt_pass_group *g = group_of(e, type);
        if (g) {
            g->group.instances = &list[i];
            g->more = &more[i];
        }
        for (; i < rows && MT_STREQ(mt_pg_text(r, i, I_TYPE), type); i++) {
            if (g && (rc = put_instance(p, &list[i], &more[i], r, i, err)) < 0)
                return rc;
            if (g)
                g->group.n_instances++;
        }
    }
    return 0;
}

/* Run through one group's history in order: readiness ends a row of failures, each boot counts once. */
static int group_attempts(struct mt_pass *p, struct mt_pass_group *g, const struct mt_pg_res *r, struct mt_err *err)
{
    size_t rows = (size_t)mt_pg_rows(r), n = 0;
    struct mt_roll_attempt *list = room(p, rows, sizeof *list);
    struct mt_roll_instance *ins = room(p, g->group.n_instances, sizeof *ins);
    if (!list || !ins)
        return out_of_memory(err);
    memcpy(ins, g->group.instances, g->group.n_instances * sizeof *ins);
    for (int i = 0; i < (int)rows; i++) {
        const char *id = mt_pg_text(r, i, 1), *boot = mt_pg_text(r, i, 6);
        bool ready = MT_STREQ(mt_pg_text(r, i, 3), "ready"), seen = false, was_ready = false;
        if (!MT_STREQ(mt_pg_text(r, i, 7), g->process_type))
            continue;
        for (int k = 0; k < i; k++) { /* the same boot reported twice, or the instance was ready before */
            if (!MT_STREQ(mt_pg_text(r, k, 1), id))
                continue;
            bool k_ready = MT_STREQ(mt_pg_text(r, k, 3), "ready");
            was_ready = was_ready || k_ready;
            seen = seen || (!k_ready && MT_STREQ(mt_pg_text(r, k, 6), boot));
        }
        for (size_t k = 0; k < g->group.n_instances; k++)
            if (MT_STREQ(ins[k].instance_id, id)) {
                if (ready)
                    ins[k].consecutive_failures = 0;
                else if (!seen)
                    ins[k].consecutive_failures++;
            }
        if (ready || seen || was_ready)
            continue;
        list[n++] = (struct mt_roll_attempt){.event_id = (uint64_t)mt_pg_i64(r, i, 0),
                                             .spec_hash = col_dup(p, r, i, "spec_hash"),
                                             .ended_at_ms = ms(r, i, "occurred_at"),
                                             .reason_code = col_dup(p, r, i, "code"),
                                             .reason_detail = col_dup(p, r, i, "detail")};
    }
    g->group.attempts = list;
    g->group.n_attempts = n;
    g->group.instances = ins;
    return 0;
}

static int load_attempts(struct mt_pass *p, struct mt_pass_env *e, struct mt_err *err)
{
    struct mt_pg_params pp;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_pg_res struct mt_pg_res *cr = NULL;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->env_id);
    int rc = mt_pg_query(p->pg, &attempts, &pp, &r, err);
    if (rc < 0 || (rc = mt_pg_query(p->pg, &crashes, &pp, &cr, err)) < 0)
        return rc;
    for (size_t k = 0; k < e->n_groups; k++)
        if ((rc = group_attempts(p, &e->groups[k], r, err)) < 0)
            return rc;
    for (int i = 0; i < mt_pg_rows(cr); i++) {
        struct mt_pass_group *g = group_of(e, mt_pg_text(cr, i, 0));
        if (!g)
            continue;
        g->group.crash_replacements_10min = (uint32_t)mt_pg_i64(cr, i, 1);
        g->group.last_crash_replacement_ms = mt_pg_time(cr, i, 2) / 1000;
        g->group.crash_limit_ends_ms = mt_pg_time_or(cr, i, 3, 0) / 1000;
    }
    return 0;
}

/* ---------------------------------------------------------------- deploys */

static int keep_json(struct mt_pass *p, json_t *j, struct mt_err *err)
{
    if (j && p->n_owned == p->cap_owned) {
        size_t cap = p->cap_owned ? p->cap_owned * 2 : 16;
        json_t **more = realloc(p->owned, cap * sizeof *more);
        if (more) {
            p->owned = more;
            p->cap_owned = cap;
        }
    }
    if (!j || p->n_owned == p->cap_owned) {
        json_decref(j);
        return out_of_memory(err);
    }
    p->owned[p->n_owned++] = j;
    return 0;
}

static int put_deploy(struct mt_pass *p, struct mt_pass_env *e, struct mt_pass_deploy *d, const struct mt_pg_res *r, int i,
                      struct mt_err *err)
{
    json_error_t je;
    int col = mt_pg_col(r, "process_types"), n = mt_pg_arr_len(r, i, col);
    d->deploy_id = col_dup(p, r, i, "deploy_id");
    d->on_failure = col_dup(p, r, i, "on_failure");
    d->version = num(r, i, "resource_version");
    d->types = room(p, (size_t)n, sizeof *d->types);
    d->previous = json_loads(mt_pg_text(r, i, mt_pg_col(r, "previous_release_ids")), 0, &je);
    if (!d->types || !d->deploy_id || !d->on_failure)
        return out_of_memory(err);
    int rc = keep_json(p, d->previous, err);
    if (rc < 0)
        return rc;
    bool previous = true;
    for (int k = 0; k < n; k++) {
        char type[64];
        if ((rc = mt_pg_arr_text(r, i, col, k, type, sizeof type)) < 0)
            return MT_FAIL(err, MT_E_CORRUPT, "process type of %s", d->deploy_id);
        d->types[d->n_types] = mt_arena_strdup(&p->arena, type);
        if (!d->types[d->n_types])
            return out_of_memory(err);
        d->n_types++;
        previous = previous && json_is_string(json_object_get(d->previous, type));
        struct mt_pass_group *g = group_of(e, type);
        if (g) {
            g->group.rolling = true;
            g->deploy_id = d->deploy_id;
            if (MT_STREQ(mt_pg_text(r, i, mt_pg_col(r, "kind")), "restart"))
                g->group.roll_reason = MT_REASON_RESTART_REQUESTED;
        }
    }
    d->deploy = (struct mt_deploy){
        .created_at_ms = ms(r, i, "created_at"),
        .timeout_seconds = (uint32_t)num(r, i, "timeout_seconds"),
        .rollback_on_failure = MT_STREQ(d->on_failure, "rollback"),
        .is_rollback = MT_STREQ(mt_pg_text(r, i, mt_pg_col(r, "kind")), "rollback"),
        .has_previous = previous,
        .message = col_dup(p, r, i, "message"),
    };
    if (!mt_deploy_status_parse(mt_pg_text(r, i, mt_pg_col(r, "status")), &d->deploy.status))
        return MT_FAIL(err, MT_E_CORRUPT, "status of %s", d->deploy_id);
    return 0;
}

static int load_deploys(struct mt_pass *p, struct mt_pass_env *e, struct mt_err *err)
{
    struct mt_pg_params pp;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->env_id);
    int rc = mt_pg_query(p->pg, &deploys, &pp, &r, err);
    if (rc < 0)
        return rc;
    e->deploys = room(p, (size_t)mt_pg_rows(r), sizeof *e->deploys);
    if (!e->deploys)
        return out_of_memory(err);
    for (int i = 0; i < mt_pg_rows(r); i++, e->n_deploys++)
        if ((rc = put_deploy(p, e, &e->deploys[i], r, i, err)) < 0)
            return rc;
    return 0;
}

/* ---------------------------------------------------------------- all of it */

static int load_env(struct mt_pass *p, struct mt_pass_env *e, const struct mt_pg_res *r, int first, int n, struct mt_err *err)
{
    int rc;
    *e = (struct mt_pass_env){.env_id = col_dup(p, r, first, "env_id"),
                              .env_name = col_dup(p, r, first, "env_name"),
                              .app_id = col_dup(p, r, first, "app_id"),
                              .app_name = col_dup(p, r, first, "app_name"),
                              .org_id = col_dup(p, r, first, "org_id"),
                              .org_name = col_dup(p, r, first, "org_name"),
                              .groups = room(p, (size_t)n, sizeof *e->groups)};
    if (!e->groups || !e->env_id || !e->org_name)
        return out_of_memory(err);
    for (int i = 0; i < n; i++) {
        struct mt_pass_group *g = &e->groups[e->n_groups];
        struct mt_err why = {0};
        if ((rc = remembered(p, e, g, r, first + i, err)) < 0)
            return rc;
        if (want(p, e, g, r, first + i, &why) < 0) {
            if (why.code != MT_E_CORRUPT && why.code != MT_E_INVALID && why.code != MT_E_NOT_FOUND) {
                *err = why;
                return -(int)why.code;
            }
            /* Never guess: the group stays as it is until somebody deploys something readable. */
            mt_log(MT_ERROR, "scheduler.group_unreadable", KV("env_id", e->env_id), KV("process_type", g->process_type),
                   KV_ERR(&why));
            continue;
        }
        e->n_groups++;
    }
    if ((rc = load_instances(p, e, err)) < 0 || (rc = load_attempts(p, e, err)) < 0)
        return rc;
    return load_deploys(p, e, err);
}

/* What each organisation may still take, of all of them: few rows, and the same for every environment of the pass. */
static int load_orgs(struct mt_pass *p, struct mt_err *err)
{
    mt_auto_free struct mt_quota_room *rooms = NULL;
    size_t n = 0;
    int rc = mt_quota_rooms(p->pg, mt_quota_tier_of(p->ctl), NULL, &rooms, &n, err);
    if (rc < 0)
        return rc;
    p->orgs = room(p, n, sizeof *p->orgs);
    if (!p->orgs)
        return out_of_memory(err);
    for (size_t i = 0; i < n; i++) {
        memcpy(p->orgs[i].org_id, rooms[i].org_id, sizeof p->orgs[i].org_id);
        p->orgs[i].quota = mt_quota_left(&rooms[i]);
    }
    p->n_orgs = n;
    return 0;
}

int mt_pass_load(struct mt_pass *p, const char *const *env_ids, size_t n, struct mt_err *err)
{
    struct mt_pg_params pp;
    struct mt_pg_arr ids;
    mt_auto_pg_res struct mt_pg_res *now = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query_one(p->pg, &clock_now, NULL, &now, err);
    if (rc < 0 || (rc = load_nodes(p, err)) < 0 || (rc = load_orgs(p, err)) < 0)
        return rc;
    p->now_ms = mt_pg_time(now, 0, 0) / 1000;
    mt_pg_arr_init(&ids, MT_PG_ELEM_TEXT, 4u * 1024u * 1024u);
    for (size_t i = 0; env_ids && i < n; i++)
        mt_pg_arr_text_add(&ids, env_ids[i]);
    mt_pg_p_init(&pp);
    mt_pg_p_bool(&pp, env_ids == NULL);
    mt_pg_p_arr(&pp, &ids);
    rc = mt_pg_query(p->pg, &groups, &pp, &r, err);
    mt_pg_arr_done(&ids);
    if (rc < 0)
        return rc;
    int rows = mt_pg_rows(r), col = mt_pg_col(r, "env_id");
    p->envs = room(p, (size_t)rows, sizeof *p->envs);
    if (!p->envs)
        return out_of_memory(err);
    for (int i = 0; i < rows;) {
        if (p->stop && atomic_load(p->stop))
            return MT_FAIL(err, MT_E_CANCELLED, "stopping");
        int k = i;
        while (k < rows && MT_STREQ(mt_pg_text(r, k, col), mt_pg_text(r, i, col)))
            k++;
        if ((rc = load_env(p, &p->envs[p->n_envs], r, i, k - i, err)) < 0)
            return rc;
        p->n_envs++;
        i = k;
    }
    return 0;
}

void mt_pass_done(struct mt_pass *p)
{
    for (size_t i = 0; i < p->n_releases; i++)
        mt_release_row_done(p->releases[i]);
    for (size_t i = 0; i < p->n_owned; i++)
        json_decref(p->owned[i]);
    free(p->releases);
    free(p->owned);
    mt_place_index_free(p->index);
    mt_arena_done(&p->arena);
}
