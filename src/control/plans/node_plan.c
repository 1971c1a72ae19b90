/* SPDX-License-Identifier: Apache-2.0 */
/* Plans out of rows. Everything an instance needs is resolved here; the agent never sees a manifest. */
#include "control/plans/node_plan.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/ipv4/ipv4.h"
#include "control/plans/mesh_plan.h"
#include "control/plans/probe_plan.h"
#include "control/plans/release_row.h"
#include "control/plans/traces.h"
#include "control/volumes/volume_sql.h"
#include "model/volume.h"
#include "model/workload.h"
#include "wire/json.h"
#include "pg/array.h"

/* Instances of node $1 that are in quarantine, by themselves or by what they belong to. */
#define QUARANTINED                                                                                              \
    "i.node_id = $1 AND i.released_at IS NULL AND (SELECT array_agg(target_id) FROM quarantines_view WHERE NOT deleted)" \
    " && ARRAY[i.instance_id, i.env_id, i.org_id]"

/* Dedicated IPv4 addresses that the edge of node $1 carries; one that was given up stays for the connections that it has. */
#define CARRIED                                                                                                                 \
    "(SELECT a.allocation_id, a.ipv4_address, (extract(epoch FROM a.ended_at + interval '60 seconds') * 1000)::bigint AS until_ms,"  \
    " ARRAY(SELECT DISTINCT r.listen_port FROM routes_view r WHERE r.env_id = a.env_id AND NOT r.deleted AND r.ipv4_required"        \
    "  ORDER BY 1 LIMIT 256) AS ports, EXISTS (SELECT 1 FROM moat.events e WHERE e.aggregate_id = a.env_id AND e.event_type = 'env.ipv4_carrier_changed'" \
    "  AND e.payload->>'allocation_id' = a.allocation_id AND e.payload->>'reason' IN ('" MT_IPV4_GONE "', '" MT_IPV4_SILENT "')) AS moved FROM ipv4_allocations_view a WHERE a.edge_node_id = $1"                                      \
    " AND (a.ended_at IS NULL OR a.ended_at > now() - interval '60 seconds')) c"

/* Where the edge of node $1 listens on its shared addresses (edge_config.c); nothing on a node without one. */
#define LISTENED                                                                                                               \
    "(SELECT DISTINCT listen_port FROM routes_view WHERE NOT deleted AND address_scope = 'shared6'"                               \
    " AND (SELECT 'edge' = ANY (roles) FROM nodes_view WHERE node_id = $1) ORDER BY 1 LIMIT 4095) l"

/* Instances of environments with private_network of which node $1 has one, and their declared ports; not those into which an edge writes who
 * the client is: a peer could say the same (networking.md §5.1). */
#define PRIVATE                                                                                                                \
    "(SELECT i.instance_id, i.env_id, i.overlay_ipv6, ARRAY(SELECT (q->>'internal')::int FROM"                                    \
    "  jsonb_array_elements(coalesce(r.manifest->'processes'->i.process_type->'ports', '[]')) q WHERE NOT EXISTS (SELECT 1 FROM routes_view t" \
    "  WHERE t.env_id = i.env_id AND NOT t.deleted AND t.proxy_protocol = 'v2' AND t.backend_process_type = i.process_type"        \
    "  AND t.backend_port = (q->>'internal')::int) ORDER BY 1) AS ports FROM (SELECT DISTINCT h.env_id FROM instances_view h"        \
    "  JOIN envs_view e ON e.env_id = h.env_id AND e.private_network AND NOT e.deleted WHERE h.node_id = $1 AND h.released_at IS NULL) m" \
    " JOIN instances_view i ON i.env_id = m.env_id JOIN releases_view r ON r.release_id = i.release_id"                             \
    " WHERE i.released_at IS NULL AND i.desired_state <> 'stopped' ORDER BY i.env_id COLLATE \"C\", i.instance_id COLLATE \"C\" LIMIT 4096) v"

/* The objects of the backups of the volume of row @s are being collected (volumes/collector.h). */
#define COLLECTED_OF(s) "EXISTS (SELECT 1 FROM moat.backup_collections c WHERE c.volume_id = " s ".volume_id AND c.until > clock_timestamp())"
/* A backup of the volume of row @s was found damaged, and none that was asked for after that has sent all its chunks anew: as a node names a chunk by its
 * content and believes the store's list, what is broken there would be in each later backup too. The one that heals says itself that it did (docs/formats/volume-plan.md), so
 * an agent that knows nothing of this goes on being asked. Which came first is read from the log's order: clocks are set back. A row that a program before these
 * columns wrote has no such ids: found damaged then means lately, and asked for means never. */
#define DISTRUSTED(s)                                                                                                                    \
    "EXISTS (SELECT 1 FROM snapshots_view d WHERE d.volume_id = " s ".volume_id AND d.damaged AND NOT EXISTS (SELECT 1 FROM snapshots_view p" \
    " WHERE p.volume_id = d.volume_id AND p.status = 'succeeded' AND p.distrusted_stored AND p.created_event_id > coalesce(d.damaged_event_id, d.last_event_id)))"
/* Restore jobs that are active and have something to read; and pre-copies that are there, for as long as their migration runs. */
#define RESTORED(r, s)                                                                                                                \
    "((" r ".status IN ('queued', 'running') AND " s ".status = 'succeeded') OR (" r ".purpose = 'precopy' AND " r ".status = 'succeeded' AND EXISTS (SELECT 1" \
    " FROM volume_migrations_view m WHERE m.migration_id = " r ".migration_id AND m.status IN ('queued', 'running'))))"

static const struct mt_pg_stmt fingerprint = {
    "plan_fingerprint",
    "SELECT encode(sha256(convert_to("
    "coalesce((SELECT string_agg(instance_id || ' ' || desired_state || ' ' || generation || ' ' ||"
    " coalesce(drain_delay_seconds, -1), ',' ORDER BY instance_id) FROM instances_view"
    " WHERE node_id = $1 AND released_at IS NULL), '') || '|' ||"
    "(SELECT overlay_ipv6 || ' ' || instance_prefix || ' ' || config::text FROM nodes_view WHERE node_id = $1) || '|' ||"
    "coalesce((SELECT string_agg(overlay_ipv6, ',' ORDER BY node_id) FROM nodes_view"
    " WHERE NOT deleted AND 'edge' = ANY (roles) AND admin_state IN ('active', 'cordoned', 'draining')), '') || '|' ||"
    "coalesce((SELECT max(mesh_event_id) FROM nodes_view), 0) || '|' ||"
    "coalesce((SELECT min(n.node_id) FROM nodes_view n WHERE " MT_MESH_MEMBER("n") " AND " MT_ROTATION_MAY_BEGIN("n") "), '') || '|' ||"
    "coalesce((SELECT value #>> '{}' FROM cluster_view WHERE key = '" MT_MESH_REMOVAL_KEY "'), '') || '|' ||"
    "coalesce((SELECT string_agg(route_id || backend_process_type || backend_port, ',' ORDER BY route_id) FROM routes_view"
    " WHERE NOT deleted AND proxy_protocol = 'v2'), '') || '|' ||"
    "coalesce((SELECT string_agg(volume_id || ' ' || resource_version, ',' ORDER BY volume_id) FROM volumes_view"
    " WHERE home_node_id = $1 AND NOT deleted), '') || '|' ||"
    "coalesce((SELECT string_agg(snapshot_id || ' ' || (pruned_at IS NULL) || ' ' || " DISTRUSTED("s") ", ',' ORDER BY snapshot_id) FROM snapshots_view s"
    " WHERE source_node_id = $1 AND status IN ('queued', 'running') AND NOT " COLLECTED_OF("s") "), '') || '|' ||"
    "coalesce((SELECT string_agg(r.restore_id || ' ' || (r.status = 'succeeded') || ' ' || (coalesce(r.purpose = 'proof', false) AND s.pruned_at IS NOT NULL), ',' ORDER BY r.restore_id)"
    " FROM restores_view r JOIN snapshots_view s ON s.snapshot_id = r.snapshot_id"
    " WHERE r.target_node_id = $1 AND " RESTORED("r", "s") "), '') || '|' ||"
    "coalesce((SELECT string_agg(overlay_ipv6, ',' ORDER BY instance_id) FROM instances_view i WHERE " QUARANTINED "), '') || '|' ||"
    "coalesce((SELECT string_agg(allocation_id || ' ' || coalesce(until_ms, 0) || ' ' || ports::text, ',' ORDER BY allocation_id) FROM " CARRIED "), '') || '|' ||"
    "coalesce((SELECT string_agg(listen_port::text, ',' ORDER BY listen_port) FROM " LISTENED "), '') || '|' ||"
    "coalesce((SELECT string_agg(overlay_ipv6 || ports::text, ',' ORDER BY instance_id) FROM " PRIVATE "), '') || $2, 'UTF8')), 'hex')"};

static const struct mt_pg_stmt assignments = {
    "plan_assignments",
    "SELECT i.instance_id, i.generation, i.desired_state, i.drain_delay_seconds, i.spec_hash, i.overlay_ipv6, i.arch,"
    " i.secret_version_id, i.process_type, i.org_id, o.name AS org_name, i.app_id, a.name AS app_name, i.env_id,"
    " e.name AS env_name, i.image_digest, i.release_id,"
    /* Who wants it so: the deploy that made it, and for one that is to end the deploy that said so first. */
    " CASE WHEN i.desired_state = 'running' THEN i.deploy_id ELSE (SELECT x.correlation_id FROM moat.events x WHERE x.aggregate_id = i.instance_id AND x.aggregate_type = 'instance'"
    "  AND x.event_type = 'instance.desired_state_changed' ORDER BY x.aggregate_seq LIMIT 1) END AS wanted_by,"
    " coalesce((SELECT array_agg(t.backend_port::text) FROM routes_view t WHERE t.env_id = i.env_id AND NOT t.deleted"
    "  AND t.backend_process_type = i.process_type AND t.proxy_protocol = 'v2'), '{}') AS proxied,"
    " (SELECT json_object_agg(v.name, json_build_array(v.volume_id, CASE WHEN v.from_snapshot_id IS NOT NULL THEN v.fs_uuid END))::text FROM volumes_view v WHERE v.env_id = i.env_id AND NOT v.deleted) AS volumes,"
    /* An instance mounts what was attached when it was allocated; what came later is for the one after it. */
    " " MT_SQL_MOUNTS_BY_HAND("i", " AND ha.created_at < i.created_at AND hv.home_node_id = i.node_id") " AS mounts_by_hand"
    " FROM instances_view i JOIN orgs_view o ON o.org_id = i.org_id"
    " JOIN apps_view a ON a.app_id = i.app_id JOIN envs_view e ON e.env_id = i.env_id"
    " WHERE i.node_id = $1 AND i.released_at IS NULL ORDER BY i.instance_id"};

static const struct mt_pg_stmt releases = {"plan_releases", "SELECT " MT_RELEASE_COLUMNS " FROM releases_view r WHERE r.release_id = ANY ($1::text[])"};

static const struct mt_pg_stmt homed = {
    "plan_volumes",
    "SELECT volume_id, org_id, app_id, env_id, name, size_bytes, resize_to_bytes, state = 'deleting' AS absent, was_available,"
    " from_snapshot_id IS NOT NULL AS restored, fs_uuid, (SELECT max(r.restore_id) FROM restores_view r WHERE r.new_volume_id = v.volume_id) AS from_restore"
    ", CASE WHEN check_pending THEN check_number ELSE 0 END AS check, check_repair FROM volumes_view v WHERE home_node_id = $1 AND NOT deleted ORDER BY volume_id COLLATE \"C\""};

/* While the objects of its backups are collected, a volume gets no new one: its snapshot waits, and its node is told when that has ended.
 * What a backup builds on is the newest one that is there under the same key; every 7th reads the whole volume (storage-and-secrets.md §4.8),
 * and one that is not to believe the store reads it to send it. */
static const struct mt_pg_stmt jobs = {
    "plan_snapshot_jobs",
    "SELECT s.snapshot_id, s.volume_id, s.org_id, s.origin, k.key_epoch, s.pruned_at IS NOT NULL AS cancel, parent.snapshot_id AS parent,"
    " (SELECT count(*) FROM snapshots_view d WHERE d.volume_id = s.volume_id AND d.status = 'succeeded') % 7 = 6 AS full_read, " DISTRUSTED("s") " AS distrust_stored"
    " FROM snapshots_view s JOIN volumes_view v ON v.volume_id = s.volume_id AND NOT v.deleted AND v.home_node_id = $1"
    " CROSS JOIN LATERAL (SELECT b.key_epoch FROM moat.volume_backup_keys b WHERE b.volume_id = s.volume_id ORDER BY b.key_epoch DESC LIMIT 1) k"
    " LEFT JOIN LATERAL (SELECT p.snapshot_id FROM snapshots_view p WHERE p.volume_id = s.volume_id AND p.status = 'succeeded'"
    "  AND p.pruned_at IS NULL AND NOT p.damaged AND p.key_epoch = k.key_epoch ORDER BY p.captured_at DESC LIMIT 1) parent ON true"
    " WHERE s.source_node_id = $1 AND s.status IN ('queued', 'running') AND NOT " COLLECTED_OF("s") " ORDER BY s.snapshot_id COLLATE \"C\""};

/* A volume that is deleted before its restore has ended is the word to stop; the job stays when the volume is gone from the plan. A proof has no
 * volume, and stops when its backup is no longer kept. */
static const struct mt_pg_stmt restores = {
    "plan_restore_jobs",
    "SELECT r.restore_id, r.snapshot_id, r.source_volume_id, s.org_id AS source_org_id, r.new_volume_id, coalesce(v.size_bytes, s.size_bytes) AS size_bytes, s.key_epoch,"
    " CASE WHEN r.purpose IS DISTINCT FROM 'proof' THEN v.deleted OR v.state = 'deleting' ELSE s.pruned_at IS NOT NULL END AS cancel, coalesce(r.purpose = 'proof', false) AS proof,"
    " coalesce(r.purpose = 'precopy', false) AS precopy, r.status = 'succeeded' AS done, r.base_restore_id, b.snapshot_id AS base_snapshot_id"
    " FROM restores_view r LEFT JOIN volumes_view v ON v.volume_id = r.new_volume_id JOIN snapshots_view s ON s.snapshot_id = r.snapshot_id"
    " LEFT JOIN restores_view b ON b.restore_id = r.base_restore_id WHERE r.target_node_id = $1 AND " RESTORED("r", "s")
    " ORDER BY r.restore_id COLLATE \"C\""};

static const struct mt_pg_stmt edges = {
    "plan_edges", "SELECT overlay_ipv6 FROM nodes_view WHERE NOT deleted AND 'edge' = ANY (roles) AND admin_state IN ('active', 'cordoned', 'draining')"
                  " ORDER BY node_id"};

static const struct mt_pg_stmt quarantined = {
    "plan_quarantined", "SELECT overlay_ipv6 FROM instances_view i WHERE " QUARANTINED " ORDER BY instance_id"};

/* What an operator set for node $1, as node_config of the plan has it (api/node_config.c). */
#define LIMITS "'{disk_bytes_per_second,disk_ops_per_second,net_bytes_per_second,net_packets_per_second}'::text[]"
#define SETTINGS                                                                                                              \
    "(SELECT ((n.config - " LIMITS " - '" MT_NODE_EDGE_DRAIN "'::text) || jsonb_strip_nulls(jsonb_build_object('limits', (SELECT jsonb_object_agg(l.key, l.value) FROM jsonb_each(n.config) l" \
    " WHERE l.key = ANY (" LIMITS ")))))::text FROM nodes_view n WHERE n.node_id = $1)"

static const struct mt_pg_stmt carried = {
    "plan_ipv4", "SELECT coalesce(json_agg(json_strip_nulls(json_build_object('address',ipv4_address,'ports',to_json(ports),'until_unix_ms',until_ms,'moved',CASE WHEN moved THEN true END))"
                 " ORDER BY ipv4_address), '[]')::text, " SETTINGS " FROM (SELECT * FROM " CARRIED " ORDER BY allocation_id LIMIT 256) d"};

static const struct mt_pg_stmt listened = {"plan_edge_ports", "SELECT coalesce(json_agg(listen_port ORDER BY listen_port), '[]')::text FROM " LISTENED};

static const struct mt_pg_stmt neighbours = {
    "plan_private", "SELECT coalesce(json_agg(json_build_object('env_id',env_id,'address',overlay_ipv6,'ports',to_json(ports))"
                    " ORDER BY env_id COLLATE \"C\", instance_id COLLATE \"C\"), '[]')::text FROM " PRIVATE};

int mt_node_plan_fingerprint(struct mt_control *ctl, struct mt_pg *pg, const struct mt_node *node, const struct mt_node_plan_how *how,
                             char ret[65], struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    char conf[360];
    size_t at = (size_t)snprintf(conf, sizeof conf, "|%llu %s %llu|%lld %d %d", (unsigned long long)ctl->conf.mtu, ctl->conf.egress_mode,
                                 (unsigned long long)ctl->conf.drain_delay_seconds, (long long)how->epoch, (int)how->recovery, ctl->conf.http_redirect);
    for (size_t i = 0; i < ctl->conf.vm_dns.n && at < sizeof conf; i++) /* three addresses at most */
        at += (size_t)snprintf(conf + at, sizeof conf - at, " %s", ctl->conf.vm_dns.v[i]);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node->node_id);
    mt_pg_p_text(&p, conf);
    int rc = mt_pg_query_one(pg, &fingerprint, &p, &r, err);
    if (rc < 0)
        return rc;
    snprintf(ret, 65, "%s", mt_pg_text(r, 0, 0));
    return 0;
}

static const char *text(const struct mt_pg_res *r, int row, const char *name)
{
    return mt_pg_text_or_null(r, row, mt_pg_col(r, name));
}

/* True when a route injects PROXY v2 on the port that the health check uses. */
static bool health_is_proxied(const struct mt_pg_res *r, int row, const struct mt_release_row *rel, const char *process)
{
    struct mt_manifest_process pr;
    int col = mt_pg_col(r, "proxied"), n = mt_pg_arr_len(r, row, col);
    bool yes = false;
    if (n == 0 || mt_manifest_process_read(rel->manifest, process, &pr, NULL) < 0)
        return false;
    uint16_t port = pr.health.type != MT_HEALTH_NONE ? pr.health.port : pr.n_ports ? pr.ports[0].internal : 0;
    char want[8], have[8];
    snprintf(want, sizeof want, "%u", port);
    for (int i = 0; i < n; i++)
        if (mt_pg_arr_text(r, row, col, i, have, sizeof have) == 0 && MT_STREQ(have, want))
            yes = true;
    mt_manifest_process_done(&pr);
    return yes;
}

/* The volumes of the environment by name; *ret_doc is what their texts live in. Uuids are kept in @uuids. */
static size_t volumes_of(const struct mt_pg_res *r, int row, json_t **ret_doc, struct mt_spec_volume *list,
                         char (*uuids)[MT_VOLUME_UUID_SIZE], size_t max)
{
    const char *t = text(r, row, "volumes"), *name;
    json_error_t je;
    json_t *both;
    size_t n = 0;
    *ret_doc = t ? json_loads(t, 0, &je) : NULL;
    json_object_foreach (*ret_doc, name, both) {
        const char *id = json_string_value(json_array_get(both, 0)), *brought = json_string_value(json_array_get(both, 1));
        if (n < max && id && mt_id_check(MT_ID_VOLUME, id, NULL) == 0) {
            if (brought)
                snprintf(uuids[n], MT_VOLUME_UUID_SIZE, "%s", brought);
            else
                mt_volume_fs_uuid(id, uuids[n]);
            list[n] = (struct mt_spec_volume){.name = name, .volume_id = id, .fs_uuid = uuids[n]};
            n++;
        }
    }
    return n;
}

/* Volumes of an environment: a quota bounds those of its organisation. */
#define ENV_VOLUMES_MAX 512

/* The releases of what a node runs, each read once: manifests are large, and a hundred instances are of a handful of them. */
struct releases {
    struct mt_release_row *rows; /* owned */
    struct mt_err *broken;       /* in step: why one cannot be read, code 0 when it can */
    size_t n;
};

static void releases_done(struct releases *l)
{
    for (size_t i = 0; i < l->n; i++)
        mt_release_row_done(&l->rows[i]);
    free(l->rows);
    free(l->broken);
}

static bool has_id(const struct mt_pg_res *r, int before, const char *id)
{
    int col = mt_pg_col(r, "release_id");
    for (int i = before - 1; i >= 0; i--)
        if (MT_STREQ(mt_pg_text(r, i, col), id))
            return true;
    return false;
}

/* Those of the rows of @of. One that cannot be read is kept with its error. */
static int read_releases(struct mt_pg *pg, const struct mt_pg_res *of, struct releases *ret, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_pg_arr ids;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_arr_init(&ids, MT_PG_ELEM_TEXT, 1024u * 1024u);
    for (int i = 0; i < mt_pg_rows(of); i++)
        if (!has_id(of, i, text(of, i, "release_id")))
            mt_pg_arr_text_add(&ids, text(of, i, "release_id"));
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, &ids);
    int rc = mt_pg_query(pg, &releases, &p, &r, err);
    mt_pg_arr_done(&ids);
    if (rc < 0)
        return rc;
    size_t n = (size_t)mt_pg_rows(r);
    ret->rows = calloc(n + 1, sizeof *ret->rows);
    ret->broken = calloc(n + 1, sizeof *ret->broken);
    if (!ret->rows || !ret->broken)
        return MT_FAIL(err, MT_E_NOMEM, "releases of a plan");
    for (; ret->n < n; ret->n++)
        (void)mt_release_row_read(r, (int)ret->n, &ret->rows[ret->n], &ret->broken[ret->n]);
    return 0;
}

static const struct mt_release_row *release_of(const struct releases *l, const char *id, struct mt_err *err)
{
    for (size_t i = 0; i < l->n; i++) {
        if (!MT_STREQ(l->rows[i].release_id, id))
            continue;
        if (l->broken[i].code == MT_OK)
            return &l->rows[i];
        *err = l->broken[i];
        return NULL;
    }
    (void)MT_FAIL(err, MT_E_CORRUPT, "release %s is not there", id);
    return NULL;
}

/* The workload of one row as JSON, or NULL with the error set. */
static json_t *workload(const struct mt_pg_res *r, int row, const struct releases *rels, struct mt_err *err)
{
    const struct mt_release_row *rel = release_of(rels, text(r, row, "release_id"), err);
    struct mt_workload *w = NULL;
    if (!rel)
        return NULL;
    struct mt_spec_group g = {
        .org_id = text(r, row, "org_id"),
        .org_name = text(r, row, "org_name"),
        .app_id = text(r, row, "app_id"),
        .app_name = text(r, row, "app_name"),
        .env_id = text(r, row, "env_id"),
        .env_name = text(r, row, "env_name"),
        .process_type = text(r, row, "process_type"),
        .secret_version_id = text(r, row, "secret_version_id"),
        .secrets_file = text(r, row, "secret_version_id") != NULL, /* a version without keys is not pinned */
    };
    mt_release_row_group(rel, &g);
    json_t *names = NULL, *by_hand = NULL, *manifest = NULL;
    json_error_t je;
    struct mt_spec_volume *volumes = NULL;
    char (*uuids)[MT_VOLUME_UUID_SIZE] = NULL;
    if (text(r, row, "volumes")) {
        volumes = calloc(ENV_VOLUMES_MAX, sizeof *volumes);
        uuids = calloc(ENV_VOLUMES_MAX, sizeof *uuids);
        g.volumes = volumes;
        if (volumes && uuids)
            g.n_volumes = volumes_of(r, row, &names, volumes, uuids, ENV_VOLUMES_MAX);
    }
    struct mt_spec_instance in = {
        .instance_id = text(r, row, "instance_id"),
        .generation = (uint64_t)mt_pg_i64(r, row, mt_pg_col(r, "generation")),
        .spec_hash = text(r, row, "spec_hash"),
        .overlay_ipv6 = text(r, row, "overlay_ipv6"),
        .arch = text(r, row, "arch"),
        .resolved_digest = text(r, row, "image_digest"),
        .health_proxy_protocol = health_is_proxied(r, row, rel, g.process_type),
    };
    bool ok = true;
    if (text(r, row, "mounts_by_hand")) {
        by_hand = json_loads(text(r, row, "mounts_by_hand"), 0, &je);
        ok = mt_manifest_with_mounts(rel->manifest, g.process_type, by_hand, &manifest, err) == 0;
        g.manifest = manifest;
    }
    json_t *doc = ok && mt_spec_build(&g, &in, &w, err) == 0 ? json_incref(w->doc) : NULL;
    mt_workload_free(w);
    json_decref(manifest);
    json_decref(by_hand);
    json_decref(names);
    free(volumes);
    free(uuids);
    return doc;
}

static void put_assignment(struct mt_control *ctl, const struct mt_pg_res *r, int row, const struct releases *rels, const struct mt_pg_res *traces, json_t *list)
{
    char trace_id[MT_TRACE_ID];
    const char *id = text(r, row, "instance_id"), *desired = text(r, row, "desired_state");
    const char *secret = text(r, row, "secret_version_id");
    int64_t generation = mt_pg_i64(r, row, mt_pg_col(r, "generation"));
    int64_t delay = mt_pg_i64_or(r, row, mt_pg_col(r, "drain_delay_seconds"), (int64_t)ctl->conf.drain_delay_seconds);
    char assignment[64];
    snprintf(assignment, sizeof assignment, "asg-%s-%lld", mt_id_ulid(id), (long long)generation);
    json_t *a = json_pack("{s:s,s:s,s:I,s:s,s:I}", "assignment_id", assignment, "instance_id", id, "generation",
                          (json_int_t)generation, "desired_state", desired, "drain_delay_seconds", (json_int_t)delay);
    if (a && secret)
        json_object_set_new(a, "secret_ref", json_string(secret));
    if (a && mt_plan_trace_of(traces, text(r, row, "wanted_by"), trace_id))
        json_object_set_new(a, "trace_id", json_string(trace_id));
    if (a && !MT_STREQ(desired, "stopped")) {
        struct mt_err err = {0};
        json_t *w = workload(r, row, rels, &err);
        if (!w) {
            mt_log(MT_ERROR, "plan.workload_broken", KV("instance_id", id), KV_ERR(&err));
            json_decref(a);
            return;
        }
        json_object_set_new(a, "workload", w);
    }
    if (a)
        json_array_append_new(list, a);
}

/* Only a volume that is homed here is backed up here: without volumes there is nothing to ask. */
static int put_jobs(struct mt_pg *pg, const struct mt_pg_params *node, struct mt_plan_storage *s, struct mt_pg_res **ret, struct mt_err *err)
{
    int rc = mt_pg_query(pg, &jobs, node, ret, err);
    if (rc < 0 || mt_pg_rows(*ret) == 0)
        return rc;
    const struct mt_pg_res *r = *ret;
    s->n_snapshots = (size_t)mt_pg_rows(r);
    s->snapshots = calloc(s->n_snapshots, sizeof *s->snapshots);
    if (!s->snapshots)
        return MT_FAIL(err, MT_E_NOMEM, "snapshot jobs of a plan");
    for (int i = 0; i < (int)s->n_snapshots; i++)
        s->snapshots[i] = (struct mt_plan_snapshot_job){
            .snapshot_id = text(r, i, "snapshot_id"),
            .volume_id = text(r, i, "volume_id"),
            .org_id = text(r, i, "org_id"),
            .origin = text(r, i, "origin"),
            .key_epoch = (uint32_t)mt_pg_i64(r, i, mt_pg_col(r, "key_epoch")),
            .parent_snapshot_id = mt_pg_text_or_null(r, i, mt_pg_col(r, "parent")),
            .full_read = mt_pg_bool(r, i, mt_pg_col(r, "full_read")),
            .distrust_stored = mt_pg_bool(r, i, mt_pg_col(r, "distrust_stored")),
            .cancel = mt_pg_bool(r, i, mt_pg_col(r, "cancel")),
        };
    return 0;
}

/* @probes keeps what the jobs borrow. */
static int put_probes(struct mt_pg *pg, const char *node_id, struct mt_plan_storage *s, json_t *probes, struct mt_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc >= 0 && i < s->n_restores; i++) {
        struct mt_plan_restore_job *j = &s->restores[i];
        json_t *w = NULL;
        if (!j->proof || j->cancel)
            continue;
        rc = mt_probe_plan(pg, node_id, j->restore_id, j->new_volume_id, &w, &j->probe_seconds, err);
        if (rc == 1 && json_array_append_new(probes, w) < 0)
            rc = MT_FAIL(err, MT_E_NOMEM, "probes of a plan");
        if (rc == 1)
            j->probe = w;
    }
    return rc < 0 ? rc : 0;
}

static int put_restores(struct mt_pg *pg, const struct mt_pg_params *node, struct mt_plan_storage *s, struct mt_pg_res **ret, struct mt_err *err)
{
    int rc = mt_pg_query(pg, &restores, node, ret, err);
    if (rc < 0 || mt_pg_rows(*ret) == 0)
        return rc;
    const struct mt_pg_res *r = *ret;
    s->n_restores = (size_t)mt_pg_rows(r);
    s->restores = calloc(s->n_restores, sizeof *s->restores);
    if (!s->restores)
        return MT_FAIL(err, MT_E_NOMEM, "restore jobs of a plan");
    for (int i = 0; i < (int)s->n_restores; i++)
        s->restores[i] = (struct mt_plan_restore_job){
            .restore_id = text(r, i, "restore_id"),
            .snapshot_id = text(r, i, "snapshot_id"),
            .source_volume_id = text(r, i, "source_volume_id"),
            .source_org_id = text(r, i, "source_org_id"),
            .new_volume_id = text(r, i, "new_volume_id"),
            .size_bytes = (uint64_t)mt_pg_i64(r, i, mt_pg_col(r, "size_bytes")),
            .key_epoch = (uint32_t)mt_pg_i64(r, i, mt_pg_col(r, "key_epoch")),
            .cancel = mt_pg_bool(r, i, mt_pg_col(r, "cancel")),
            .proof = mt_pg_bool(r, i, mt_pg_col(r, "proof")),
            .precopy = mt_pg_bool(r, i, mt_pg_col(r, "precopy")),
            .done = mt_pg_bool(r, i, mt_pg_col(r, "done")),
            .base_restore_id = mt_pg_text_or_null(r, i, mt_pg_col(r, "base_restore_id")),
            .base_snapshot_id = mt_pg_text_or_null(r, i, mt_pg_col(r, "base_snapshot_id")),
        };
    return 0;
}

static int put_volumes(struct mt_pg *pg, const char *node_id, json_t *plan, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    int rc = mt_pg_query(pg, &homed, &p, &r, err);
    if (rc < 0)
        return rc;
    size_t n = (size_t)mt_pg_rows(r);
    struct mt_plan_storage s = {.volumes = calloc(n + 1, sizeof *s.volumes), .n_volumes = n};
    char (*uuids)[MT_VOLUME_UUID_SIZE] = calloc(n + 1, sizeof *uuids);
    if (!s.volumes || !uuids)
        rc = MT_FAIL(err, MT_E_NOMEM, "volumes of a plan");
    for (int i = 0; rc == 0 && i < (int)n; i++) {
        bool restored = mt_pg_bool(r, i, mt_pg_col(r, "restored"));
        mt_volume_fs_uuid(text(r, i, "volume_id"), uuids[i]);
        s.volumes[i] = (struct mt_plan_volume){
            .volume_id = text(r, i, "volume_id"),
            .org_id = text(r, i, "org_id"),
            .app_id = text(r, i, "app_id"),
            .env_id = text(r, i, "env_id"),
            .name = text(r, i, "name"),
            .size_bytes = (uint64_t)mt_pg_i64(r, i, mt_pg_col(r, "size_bytes")),
            .resize_to_bytes = (uint64_t)mt_pg_i64_or(r, i, mt_pg_col(r, "resize_to_bytes"), 0),
            .fs_uuid = restored ? mt_pg_text_or_null(r, i, mt_pg_col(r, "fs_uuid")) : uuids[i],
            .from_restore = mt_pg_text_or_null(r, i, mt_pg_col(r, "from_restore")),
            .absent = mt_pg_bool(r, i, mt_pg_col(r, "absent")),
            .was_available = mt_pg_bool(r, i, mt_pg_col(r, "was_available")),
            .check = (uint32_t)mt_pg_i64(r, i, mt_pg_col(r, "check")),
            .check_repair = mt_pg_bool(r, i, mt_pg_col(r, "check_repair")),
        };
    }
    mt_auto_pg_res struct mt_pg_res *jr = NULL, *rr = NULL;
    mt_auto_json json_t *probes = json_array();
    if (rc == 0 && n > 0)
        rc = put_jobs(pg, &p, &s, &jr, err);
    if (rc == 0)
        rc = put_restores(pg, &p, &s, &rr, err);
    if (rc == 0)
        rc = put_probes(pg, node_id, &s, probes, err);
    if (rc == 0)
        rc = mt_plan_storage_encode(&s, plan, err);
    free(uuids);
    mt_plan_storage_done(&s);
    return rc;
}

int mt_node_plan_build(struct mt_control *ctl, struct mt_pg *pg, const struct mt_node *node, const struct mt_node_plan_how *how,
                       char **ret_text, size_t *ret_len, int64_t *ret_cursor, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_cleanup(releases_done) struct releases rels = {0};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_pg_res struct mt_pg_res *er = NULL, *qr = NULL, *cr = NULL, *vr = NULL, *lr = NULL, *tr = NULL;
    json_error_t je;
    json_t *mesh = NULL, *peers = NULL, *gateways = NULL;
    int64_t head, epoch;
    char plan_id[MT_ULID_SIZE];
    int rc;
    /* The cursor first: the rows read after it are that new or newer. */
    if ((rc = mt_log_position(pg, &head, &epoch, err)) < 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node->node_id);
    if ((rc = mt_pg_query(pg, &assignments, &p, &r, err)) < 0 || (rc = read_releases(pg, r, &rels, err)) < 0 ||
        (rc = mt_plan_traces_read(pg, r, mt_pg_col(r, "wanted_by"), &tr, err)) < 0 || (rc = mt_pg_query(pg, &edges, NULL, &er, err)) < 0 ||
        (rc = mt_pg_query(pg, &quarantined, &p, &qr, err)) < 0 || (rc = mt_pg_query_one(pg, &carried, &p, &cr, err)) < 0 ||
        (rc = mt_pg_query_one(pg, &neighbours, &p, &vr, err)) < 0 || (rc = mt_pg_query_one(pg, &listened, &p, &lr, err)) < 0 ||
        (rc = mt_mesh_plan_build(pg, node, &mesh, &peers, &gateways, err)) < 0)
        return rc;
    json_t *list = json_array(), *edge_list = json_array(), *quarantine = json_array(), *dns = json_array();
    for (size_t i = 0; i < ctl->conf.vm_dns.n; i++)
        json_array_append_new(dns, json_string(ctl->conf.vm_dns.v[i]));
    for (int i = 0; i < mt_pg_rows(r); i++)
        put_assignment(ctl, r, i, &rels, tr, list);
    for (int i = 0; i < mt_pg_rows(er); i++)
        json_array_append_new(edge_list, json_string(mt_pg_text(er, i, 0)));
    for (int i = 0; i < mt_pg_rows(qr); i++)
        json_array_append_new(quarantine, json_string(mt_pg_text(qr, i, 0)));
    mt_ulid_new(plan_id);
    json_t *plan = json_pack("{s:s,s:s,s:s,s:I,s:I,s:s,s:o,s:{s:I,s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:s,s:o,s:o*},s:o}", "spec_version", "v1",
                             "cluster_id", ctl->cluster_id, "node_id", node->node_id, "epoch", (json_int_t)epoch,
                             "cursor_event_id", (json_int_t)head, "plan_id", plan_id, "instances", list, "network", "mtu",
                             (json_int_t)ctl->conf.mtu, "cluster_prefix", ctl->prefix, "overlay_ipv6", node->overlay_ipv6,
                             "instance_prefix", node->instance_prefix, "dns", dns, "edges", edge_list, "gateways", gateways, "quarantine", quarantine, "egress_mode",
                             ctl->conf.egress_mode, "peers", peers, "mesh", mesh, "node_config", json_loads(mt_pg_text(cr, 0, 1), 0, &je));
    json_t *ipv4 = json_loads(mt_pg_text(cr, 0, 0), 0, &je);
    if (json_array_size(ipv4) > 0)
        json_object_set(json_object_get(plan, "network"), "ipv4", ipv4);
    json_decref(ipv4);
    json_t *ports = json_loads(mt_pg_text(lr, 0, 0), 0, &je);
    if (ctl->conf.http_redirect && node->edge)
        (void)json_array_insert_new(ports, 0, json_integer(80));
    if (json_array_size(ports) > 0)
        json_object_set(json_object_get(plan, "network"), "edge_ports", ports);
    json_decref(ports);
    json_t *private = json_loads(mt_pg_text(vr, 0, 0), 0, &je);
    if (json_array_size(private) > 0)
        json_object_set(json_object_get(plan, "network"), "private", private);
    json_decref(private);
    if (plan && how->recovery != MT_RECOVERY_NONE)
        json_object_set_new(plan, "recovery", json_true());
    if (plan && how->decided)
        json_object_set_new(plan, "allow_empty", json_true());
    if (plan && (rc = put_volumes(pg, node->node_id, plan, err)) < 0) {
        json_decref(plan);
        return rc;
    }
    *ret_text = plan ? json_dumps(plan, JSON_COMPACT) : NULL;
    json_decref(plan);
    if (!*ret_text)
        return MT_FAIL(err, MT_E_NOMEM, "plan of %s", node->node_id);
    *ret_len = strlen(*ret_text);
    *ret_cursor = head;
    return 0;
}
