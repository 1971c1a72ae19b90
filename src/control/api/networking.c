/* SPDX-License-Identifier: Apache-2.0 */
/* Where an environment is reached: the addresses of the edges, and what its routes listen on. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/call.h"
#include "control/commands/route.h"
#include "control/ipv4/ipv4.h"
#include "control/names/names.h"
#include "control/nodes/node.h"

static const struct mt_pg_stmt networking = {
    "env_networking",
    "SELECT json_build_object('env_id',$1::text,"
    "'ipv6',(SELECT coalesce(json_agg(n.public_ipv6 ORDER BY n.public_ipv6),'[]') FROM nodes_view n"
    "  WHERE 'edge' = ANY (n.roles) AND NOT n.deleted AND n.admin_state = 'active' AND NOT " MT_SQL_EDGE_DRAINS("n") " AND n.public_ipv6 IS NOT NULL),"
    "'listeners',(SELECT coalesce(json_agg(json_build_object('protocol',l.protocol,'address_scope',l.address_scope,"
    "  'listen_port',l.listen_port,'routes',l.n,'ipv4_routes',l.v4) ORDER BY l.listen_port, l.protocol),'[]') FROM (SELECT protocol, address_scope,"
    "  listen_port, count(*) AS n, count(*) FILTER (WHERE ipv4_required) AS v4 FROM routes_view WHERE env_id = $1 AND NOT deleted GROUP BY 1, 2, 3) l),"
    "'hostnames',(SELECT coalesce(json_agg(DISTINCT hostname ORDER BY hostname),'[]') FROM routes_view"
    "  WHERE env_id = $1 AND NOT deleted AND protocol = 'tls_passthrough'))::text, resource_version FROM envs_view"
    " WHERE env_id = $1"};

int mt_api_networking_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    json_t *ipv4 = NULL;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query_one(c->pg, &networking, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "environment") : mt_api_fail_err(c);
    if (mt_ipv4_show(c->ctl, c->pg, c->env.id, &ipv4, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *o = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    json_object_set_new(o, "ipv4", ipv4 ? ipv4 : json_null());
    char proof[MT_PROOF_SIZE], name[MT_HOSTNAME_SIZE] = "";
    struct mt_err ignored; /* too long for the DNS: it has none */
    if (c->ctl->conf.base_domain && mt_route_platform_name(c->app.name, c->env.name, c->ctl->conf.base_domain, name, &ignored) < 0)
        name[0] = '\0';
    json_object_set_new(o, "platform_hostname", name[0] ? json_string(name) : json_null());
    mt_names_proof(c->ctl->cluster_id, c->org.id, proof);
    json_object_set_new(o, "domain_proof", json_pack("{s:b,s:s,s:s}", "required", c->ctl->conf.require_domain_proof, "name", MT_PROOF_LABEL ".DOMAIN", "value", proof));
    return mt_api_send(c, 200, o);
}
