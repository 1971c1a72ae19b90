/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes for operators: record, last heartbeat, what is reserved on them. */
#include "control/api/handlers.h"

#include "control/api/call.h"
#include "control/api/sql.h"
#include "control/volumes/volume_sql.h"

#define MOUNTS "r.manifest->'processes'->i.process_type->'mounts'"
/* A volume of row @v of which a drain of row n has said that it cannot be moved. */
#define REFUSED(v)                                                                                                    \
    "(" v ".move_refused_node IS NOT DISTINCT FROM n.node_id AND " v ".move_refused_at > n.updated_at AND NOT EXISTS (SELECT 1 FROM volume_migrations_view m WHERE " MT_SQL_MIGRATES("m", v) "))"
#define ON_IT "FROM volumes_view w WHERE n.drain_migrates AND w.home_node_id = n.node_id AND NOT w.deleted"
/* Where a drain is: instances that are still to leave, those that stay because their volumes are there (scheduling-and-operations.md 5), and with
 * `migrate` the volumes that are left, those that are on their way, and those that cannot be moved, with the reason. */
#define DRAIN                                                                                                          \
    "(SELECT json_build_object('state',CASE WHEN count(*) FILTER (WHERE NOT x.stays) > 0 OR EXISTS (SELECT 1 " ON_IT " AND NOT " REFUSED("w") ") THEN 'draining'"  \
    " WHEN count(*) > 0 OR EXISTS (SELECT 1 " ON_IT ") THEN 'blocked' ELSE 'complete' END,'remaining',count(*) FILTER (WHERE NOT x.stays),"                   \
    "'blocked_by_stateful',coalesce(json_agg(json_build_object('instance_id',x.instance_id,'volume_id',x.volume_id,'env_id',x.env_id)"                        \
    " ORDER BY x.instance_id, x.volume_id) FILTER (WHERE x.stays),'[]'),'volumes',CASE WHEN n.drain_migrates THEN (SELECT count(*) " ON_IT ") END,"          \
    "'migrations',(SELECT json_agg(json_build_object('id',m.migration_id,'env_id',m.env_id,'process_type',m.process_type,'phase',m.phase,'target_node_id',m.target_node_id)" \
    " ORDER BY m.migration_id) FROM volume_migrations_view m WHERE n.drain_migrates AND m.source_node_id = n.node_id AND m.status IN ('queued', 'running')),"   \
    "'not_moved',(SELECT json_agg(json_build_object('volume_id',w.volume_id,'name',w.name,'env_id',w.env_id,'code',w.move_refused_code,'reason',w.move_refused)"      \
    " ORDER BY w.volume_id) " ON_IT " AND " REFUSED("w") "))"                                                                                                   \
    " FROM (SELECT i.instance_id, i.env_id, v.volume_id, (coalesce(jsonb_array_length(" MOUNTS "), 0) > 0 OR v.volume_id IS NOT NULL) AND NOT n.drain_stops_stateful AND (NOT n.drain_migrates OR " REFUSED("v") ")" \
    " AS stays FROM instances_view i JOIN releases_view r ON r.release_id = i.release_id LEFT JOIN volumes_view v ON v.env_id = i.env_id AND NOT v.deleted AND (" MOUNTS     \
    " @> jsonb_build_array(jsonb_build_object('volume', v.name)) OR EXISTS (SELECT 1 FROM " MT_SQL_BY_HAND("i") " AND ha.volume_id = v.volume_id)) WHERE i.node_id = n.node_id AND i.released_at IS NULL"                      \
    " AND i.status <> 'stopped') x)"

#define NODE_OBJECT                                                                                                    \
    "json_strip_nulls(json_build_object('id',n.node_id,'name',n.name,'roles',n.roles,'admin_state',n.admin_state,"     \
    "'admin_reason',n.admin_reason,'health',n.health,'health_reason',n.health_reason,'conditions',n.conditions,"       \
    "'config',n.config,'vmm',n.vmm,'arch',n.arch,'labels',n.labels,'overlay_ipv6',n.overlay_ipv6,"                      \
    "'instance_prefix',n.instance_prefix,'public_ipv6',n.public_ipv6,'public_ipv4',n.public_ipv4,"                      \
    "'capacity',n.capacity,'allocatable',n.allocatable,'mtu',n.mtu,'agent_version',n.agent_version,"                   \
    "'mesh',h.body->'mesh','host_requirements',h.body->'host','wireguard_public_key',n.wireguard_public_key,'key_generation',n.key_generation,'key_rotation',CASE WHEN n.next_public_key IS NOT NULL THEN 'running'"      \
    " WHEN n.rotation_lead_s IS NOT NULL THEN 'waiting' END,'last_heartbeat_at'," MT_SQL_TS("h.received_at") ",'applied_cursor_event_id',h.plan_cursor,"                       \
    "'usage',(SELECT json_build_object('instances',count(*),'cpu_millis',coalesce(sum(cpu_millis),0),"                 \
    "'memory_bytes',coalesce(sum(memory_bytes),0),'disk_bytes',coalesce(sum(disk_bytes),0)) FROM instances_view i"     \
    " WHERE i.node_id = n.node_id AND i.released_at IS NULL AND i.status <> 'stopped'),"                               \
    "'drain',CASE WHEN n.admin_state = 'draining' THEN " DRAIN " END,"                                                     \
    "'resource_version',n.resource_version,'created_at'," MT_SQL_TS("n.created_at") ",'updated_at'," MT_SQL_TS("n.updated_at") "))::text"

MT_SQL_LIST(nodes, NODE_OBJECT, "nodes_view n LEFT JOIN moat.node_heartbeats h USING (node_id)", "n.node_id",
            "NOT n.deleted AND ($1::text IS NULL OR n.name = $1)", "2", "3");
static const struct mt_pg_stmt node_get = {
    "node_get", "SELECT " NODE_OBJECT ", n.resource_version FROM nodes_view n LEFT JOIN moat.node_heartbeats h USING (node_id)"
                " WHERE n.node_id = $1 AND NOT n.deleted"};

int mt_api_nodes_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &nodes_asc, .desc = &nodes_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, mt_api_query(c, "name"));
    return mt_api_send_list(c, &l);
}

int mt_api_nodes_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, mt_api_param(c, "node_id"));
    return mt_api_send_row(c, &node_get, &p, "node");
}
