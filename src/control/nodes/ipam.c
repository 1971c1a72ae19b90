/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/ipam.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/sql.h"
#include "control/audit/seal.h"
#include "control/ipv4/ipv4.h"
#include "control/nodes/node.h"
#include "model/plan.h"
#include "wire/json.h"

const char *const mt_ipam_pools[MT_IPAM_POOLS] = {"nodes", "ipv4", "shared_ports"};
const char *const mt_ipam_states[MT_IPAM_STATES] = {"allocated", "cooldown", "retired", "free"};

/* $1 seconds of cooldown of IPv4 addresses, $2 and $3 the pool of shared ports and how many these are. Numbers of nodes go up and never come back (number.h): those below the highest that no node has are
 * retired. Shared ports are those of route_free_raw_port. */
static const struct mt_pg_stmt count = {
    "ipam_count",
    "SELECT n.live, 0::bigint, n.top - n.live, 65535 - n.top, i.live, i.cool, 0::bigint, i.free, p.live, p.cool, 0::bigint, greatest($2::bigint - p.live - p.cool, 0) FROM"
    " (SELECT count(*) FILTER (WHERE NOT deleted) AS live,"
    "  coalesce(max(overlay_ipv6::inet - host(network(set_masklen(overlay_ipv6::inet, 64)))::inet), 0) AS top FROM nodes_view) n,"
    " (SELECT count(*) FILTER (WHERE a.live) AS live, count(*) FILTER (WHERE a.cool AND NOT p.deleted) AS cool,"
    "  count(*) FILTER (WHERE NOT p.deleted AND NOT a.live AND NOT a.cool) AS free FROM ipv4_pool_view p CROSS JOIN LATERAL"
    "  (SELECT coalesce(bool_or(v.ended_at IS NULL), false) AS live, coalesce(max(v.ended_at) + make_interval(secs => $1::bigint) > now()"
    "   AND NOT bool_or(v.ended_at IS NULL), false) AS cool FROM ipv4_allocations_view v WHERE v.ipv4_address = p.address) a) i,"
    " (SELECT count(*) FILTER (WHERE s.live) AS live, count(*) FILTER (WHERE NOT s.live) AS cool FROM (SELECT bool_or(NOT deleted) AS live"
    "  FROM routes_view WHERE address_scope = 'shared6' AND listen_port <@ $3::text::int4multirange"
    "  AND (NOT deleted OR updated_at > now() - interval '24 hours') GROUP BY listen_port) s) p"};

/* What is held by nobody, and what mends it: a command, or making the view anew. An environment's end takes its routes and its IPv4 address with it
 * in one command, and a node's removal its instances: rows of the last three kinds are a view that lost something, which making it again from the
 * log mends. */
#define DAY " < now() - interval '24 hours'"
#define VIEW(name) "NULL, '" name "'"
#define GONE "(e.env_id IS NULL OR (e.deleted AND e.updated_at" DAY "))"
#define LEAKS                                                                                                                                     \
    "(SELECT 'nodes' AS pool, n.instance_prefix AS address, n.node_id AS id, n.updated_at AS since, 'the node was disabled for good and is not removed' AS why," \
    " 'moat node remove ' || n.name || ' --reason TEXT' AS reclaim, NULL AS view FROM nodes_view n WHERE NOT n.deleted AND n.admin_state = 'disabled' AND n.updated_at" DAY \
    " UNION ALL SELECT 'instances', i.overlay_ipv6, i.instance_id, coalesce(e.updated_at, i.updated_at),"                                          \
    "  'its environment was deleted and its node has not said that it is gone',"                                                                  \
    "  'the node''s next report; if that machine never returns: moat node disable ' || coalesce(n.name, i.node_id) || ', then moat node remove', NULL" \
    "  FROM instances_view i LEFT JOIN envs_view e USING (env_id) LEFT JOIN nodes_view n ON n.node_id = i.node_id"                                \
    "  WHERE i.released_at IS NULL AND i.updated_at" DAY " AND n.node_id IS NOT NULL AND NOT n.deleted AND " GONE                                 \
    " UNION ALL SELECT 'instances', i.overlay_ipv6, i.instance_id, i.updated_at, 'its node was removed', " VIEW("instances_view")                 \
    "  FROM instances_view i LEFT JOIN nodes_view n USING (node_id) WHERE i.released_at IS NULL AND (n.node_id IS NULL OR (n.deleted AND n.updated_at" DAY "))" \
    " UNION ALL SELECT 'ipv4', a.ipv4_address, a.allocation_id, coalesce(e.updated_at, a.updated_at), 'its environment was deleted', " VIEW("ipv4_allocations_view") \
    "  FROM ipv4_allocations_view a LEFT JOIN envs_view e USING (env_id) WHERE a.ended_at IS NULL AND a.updated_at" DAY " AND " GONE              \
    " UNION ALL SELECT 'ipv4', s.address, s.node_id, s.received_at, CASE s.place WHEN '" MT_IPV4_STRAY_HERE "' THEN 'it is on a link of node ' || coalesce(n.name, s.node_id) ||" \
    "  ', which carries it for no environment' ELSE s.place || ' answers for it on the link of node ' || coalesce(n.name, s.node_id) END,"            \
    "  'take it from that machine, or: moat admin ipv4-pool remove ' || s.address, NULL FROM " MT_IPV4_STRAYS " s LEFT JOIN nodes_view n ON n.node_id = s.node_id" \
    "  WHERE EXISTS (SELECT 1 FROM ipv4_pool_view p WHERE p.address = s.address AND NOT p.deleted)"                                              \
    " UNION ALL SELECT 'shared_ports', r.listen_port::text, r.route_id, coalesce(e.updated_at, r.updated_at), 'its environment was deleted', " VIEW("routes_view") \
    "  FROM routes_view r LEFT JOIN envs_view e USING (env_id) WHERE NOT r.deleted"                                                               \
    "  AND r.address_scope = 'shared6' AND r.protocol = 'tcp_raw' AND r.updated_at" DAY " AND " GONE ") l"
static const struct mt_pg_stmt leaks = {
    "ipam_leaks", "SELECT pool, address, id, " MT_SQL_TS("since") ", why, coalesce(reclaim, 'moat admin projections rebuild ' || view) FROM " LEAKS " ORDER BY since, id LIMIT $1"};

int mt_ipam_count(struct mt_pg *pg, int64_t ipv4_cooldown_s, const struct mt_port_policy *ports, int64_t ret[MT_IPAM_POOLS][MT_IPAM_STATES], struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, ipv4_cooldown_s);
    mt_pg_p_i64(&p, ports->shared_pool_n);
    mt_pg_p_text(&p, ports->shared_pool);
    int rc = mt_pg_query_one(pg, &count, &p, &r, err);
    for (int i = 0; rc == 0 && i < MT_IPAM_POOLS; i++)
        for (int k = 0; k < MT_IPAM_STATES; k++)
            ret[i][k] = mt_pg_i64(r, 0, i * MT_IPAM_STATES + k);
    return rc;
}

int mt_ipam_leaks(struct mt_pg *pg, json_t **ret, struct mt_err *err)
{
    static const char *const names[] = {"pool", "address", "id", "since", "why", "reclaim"};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_json json_t *list = json_array();
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, MT_IPAM_LEAKS_MAX);
    int rc = mt_pg_query(pg, &leaks, &p, &r, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        json_t *o = json_object();
        for (size_t k = 0; k < MT_ARRAY_LEN(names); k++)
            (void)json_object_set_new(o, names[k], json_string(mt_pg_text(r, i, (int)k)));
        if (json_array_append_new(list, o) < 0)
            return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    }
    *ret = MT_TAKE(list);
    return 0;
}

/* ---- the sweeper ---- */

#define SWEEPER "ipam-sweeper"

/* What a removal asks for: nothing is left to replace, and no volume would go with the node. */
static const struct mt_pg_stmt removable = {
    "ipam_removable", "SELECT n.node_id, n.name, n.resource_version FROM " LEAKS " JOIN nodes_view n ON n.node_id = l.id WHERE l.pool = 'nodes'"
                      " AND NOT EXISTS (SELECT 1 FROM instances_view i WHERE i.node_id = n.node_id AND i.released_at IS NULL AND i.desired_state <> 'stopped')"
                      " AND NOT EXISTS (SELECT 1 FROM volumes_view v WHERE v.home_node_id = n.node_id AND NOT v.deleted) ORDER BY n.node_id LIMIT 100"};
static const struct mt_pg_stmt lost = {"ipam_lost", "SELECT DISTINCT view FROM " LEAKS " WHERE view IS NOT NULL ORDER BY view"};
/* One that is waiting, or that failed and is somebody's to look at, is left as it is. */
static const struct mt_pg_stmt ask = {"ipam_ask", "INSERT INTO moat.rebuild_requests (view, requested_by) VALUES ($1, '" SWEEPER "') ON CONFLICT (view) DO NOTHING"};

static struct mt_audit_rec record(const char *audit_id, const char *action, const char *type, const char *id, const char *reason)
{
    struct mt_audit_rec r = {.ts_us = mt_clock_wall_us()};
    r.text[MT_AUDIT_T_audit_id] = audit_id;
    r.text[MT_AUDIT_T_actor_type] = "system";
    r.text[MT_AUDIT_T_actor_id] = SWEEPER;
    r.text[MT_AUDIT_T_action] = action;
    r.text[MT_AUDIT_T_resource_type] = type;
    r.text[MT_AUDIT_T_resource_id] = id;
    r.text[MT_AUDIT_T_reason] = reason;
    r.text[MT_AUDIT_T_decision] = "allow";
    r.text[MT_AUDIT_T_result] = "ok";
    return r;
}

/* 1: removed; 0: the node changed meanwhile, or something came to live on it. */
static int remove_node(struct mt_control *ctl, int64_t lease, const char *id, int64_t version, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = SWEEPER, .request_id = SWEEPER};
    static const char reason[] = "disabled a day ago: nobody had its number any more";
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(32U << 10);
    const struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    char audit_id[MT_ID_SIZE];
    mt_id_new(MT_ID_AUDIT, audit_id);
    const struct mt_audit_rec rec = record(audit_id, "node.remove", "node", id, reason);
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "gc", NULL, lease, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, version, err)) < 0 ||
        (rc = mt_node_cmd_no_volumes(cmd, id, err)) < 0 || (rc = mt_node_cmd_certs_end(cmd, id, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_NODE_REMOVED, id, &none, json_pack("{s:s}", "reason", reason), err)) < 0 || (rc = mt_audit_put(&rec, &json, err)) < 0 ||
        (rc = mt_cmd_audit(cmd, (const char *)json.p, json.len, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    mt_cmd_done_free(&done);
    return rc == 0 ? 1 : rc == -MT_E_CONFLICT ? 0 : rc;
}

/* 1: asked for, and that is in the audit log; 0: somebody has asked before. */
static int ask_view(struct mt_pg *pg, const char *view, struct mt_err *err)
{
    char audit_id[MT_ID_SIZE];
    mt_id_new(MT_ID_AUDIT, audit_id);
    const struct mt_audit_rec rec = record(audit_id, "projections.rebuild", "projection", view, "it has addresses whose owner ended a day ago");
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    struct mt_err ignored;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, view);
    int rc = mt_pg_exec(pg, "BEGIN", err);
    if (rc < 0)
        return rc;
    if ((rc = mt_pg_query(pg, &ask, &p, &r, err)) >= 0 && mt_pg_affected(r) > 0)
        rc = mt_audit_write(pg, &rec, err);
    if (rc >= 0)
        rc = mt_pg_exec(pg, "COMMIT", err);
    else if (mt_pg_alive(pg))
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    return rc < 0 ? rc : mt_pg_affected(r) > 0;
}

int mt_ipam_sweep(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, bool views, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *nodes = NULL, *bad = NULL;
    int asked = 0, rc = mt_pg_query(pg, &removable, NULL, &nodes, err);
    for (int i = 0; rc >= 0 && i < mt_pg_rows(nodes); i++) {
        rc = remove_node(ctl, lease, mt_pg_text(nodes, i, 0), mt_pg_i64(nodes, i, 2), err);
        if (rc > 0)
            mt_log(MT_WARN, "ipam.node_removed", KV("node_id", mt_pg_text(nodes, i, 0)), KV("node", mt_pg_text(nodes, i, 1)));
    }
    if (rc >= 0 && views)
        rc = mt_pg_query(pg, &lost, NULL, &bad, err);
    for (int i = 0; rc >= 0 && views && i < mt_pg_rows(bad); i++) {
        rc = ask_view(pg, mt_pg_text(bad, i, 0), err);
        if (rc > 0)
            mt_log(MT_ERROR, "ipam.view_lost", KV("view", mt_pg_text(bad, i, 0)), KV("means", "it has addresses without an owner, and is made again from the log"));
        asked += rc > 0;
    }
    return rc < 0 ? rc : asked;
}
