/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/ipam.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/sql.h"
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

/* An environment's end takes its routes and its IPv4 address with it in one command, and a node's removal its instances: rows of the last two
 * kinds are a view that lost something, which making it again from the log mends. */
#define DAY " < now() - interval '24 hours'"
#define GONE "(e.env_id IS NULL OR (e.deleted AND e.updated_at" DAY "))"
static const struct mt_pg_stmt leaks = {
    "ipam_leaks",
    "SELECT pool, address, id, " MT_SQL_TS("since") ", why, reclaim FROM ("
    "SELECT 'nodes' AS pool, n.instance_prefix AS address, n.node_id AS id, n.updated_at AS since, 'the node was disabled for good and is not removed' AS why,"
    " 'moat node remove ' || n.name || ' --reason TEXT' AS reclaim FROM nodes_view n WHERE NOT n.deleted AND n.admin_state = 'disabled' AND n.updated_at" DAY
    " UNION ALL SELECT 'instances', i.overlay_ipv6, i.instance_id, coalesce(e.updated_at, i.updated_at),"
    "  'its environment was deleted and its node has not said that it is gone',"
    "  'the node''s next report; if that machine never returns: moat node disable ' || coalesce(n.name, i.node_id) || ', then moat node remove'"
    "  FROM instances_view i LEFT JOIN envs_view e USING (env_id) LEFT JOIN nodes_view n ON n.node_id = i.node_id"
    "  WHERE i.released_at IS NULL AND i.updated_at" DAY " AND n.node_id IS NOT NULL AND NOT n.deleted AND " GONE
    " UNION ALL SELECT 'instances', i.overlay_ipv6, i.instance_id, i.updated_at, 'its node was removed', 'moat admin projections rebuild instances_view'"
    "  FROM instances_view i LEFT JOIN nodes_view n USING (node_id) WHERE i.released_at IS NULL AND (n.node_id IS NULL OR (n.deleted AND n.updated_at" DAY "))"
    " UNION ALL SELECT 'ipv4', a.ipv4_address, a.allocation_id, coalesce(e.updated_at, a.updated_at), 'its environment was deleted',"
    "  'moat admin projections rebuild ipv4_allocations_view' FROM ipv4_allocations_view a LEFT JOIN envs_view e USING (env_id)"
    "  WHERE a.ended_at IS NULL AND a.updated_at" DAY " AND " GONE
    " UNION ALL SELECT 'shared_ports', r.listen_port::text, r.route_id, coalesce(e.updated_at, r.updated_at), 'its environment was deleted',"
    "  'moat admin projections rebuild routes_view' FROM routes_view r LEFT JOIN envs_view e USING (env_id) WHERE NOT r.deleted"
    "  AND r.address_scope = 'shared6' AND r.protocol = 'tcp_raw' AND r.updated_at" DAY " AND " GONE
    ") l ORDER BY since, id LIMIT $1"};

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
