/* SPDX-License-Identifier: Apache-2.0 */
/* Where an environment is reached: the addresses of the edges, and what its routes listen on. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/call.h"

static const struct mt_pg_stmt networking = {
    "env_networking",
    "SELECT json_build_object('env_id',$1::text,"
    "'ipv6',(SELECT coalesce(json_agg(n.public_ipv6 ORDER BY n.public_ipv6),'[]') FROM nodes_view n"
    "  WHERE 'edge' = ANY (n.roles) AND NOT n.deleted AND n.admin_state = 'active' AND n.public_ipv6 IS NOT NULL),"
    "'listeners',(SELECT coalesce(json_agg(json_build_object('protocol',l.protocol,'address_scope',l.address_scope,"
    "  'listen_port',l.listen_port,'routes',l.n) ORDER BY l.listen_port, l.protocol),'[]') FROM (SELECT protocol, address_scope,"
    "  listen_port, count(*) AS n FROM routes_view WHERE env_id = $1 AND NOT deleted GROUP BY 1, 2, 3) l),"
    "'hostnames',(SELECT coalesce(json_agg(DISTINCT hostname ORDER BY hostname),'[]') FROM routes_view"
    "  WHERE env_id = $1 AND NOT deleted AND protocol = 'tls_passthrough'))::text, resource_version FROM envs_view"
    " WHERE env_id = $1"};

int mt_api_networking_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    return mt_api_send_row(c, &networking, &p, "environment");
}
