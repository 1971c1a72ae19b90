/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Edges and the mesh for operators (control-plane.md §9.5 network). An edge is drained apart from what else its machine does: nobody is sent to it any more, neither
 * by the DNS nor by an IPv4 address, and what is connected goes on (networking.md §8.8). `POST /v1/nodes/{id}/drain` does the same for the whole machine.
 */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/nodes/node.h"
#include "model/mesh_survey.h"
#include "wire/json.h"

#define SILENT_S "30" /* edges post every 10 s */

#define SERVES(n) n ".admin_state IN ('active', 'cordoned') AND NOT " MT_SQL_EDGE_DRAINS(n)
#define HEARD(b) b ".received_at > now() - interval '" SILENT_S " seconds'"
#define EDGE_OBJECT                                                                                                                \
    "json_strip_nulls(json_build_object('node_id',n.node_id,'name',n.name,'admin_state',n.admin_state,'health',n.health,"           \
    "'state',CASE WHEN b.received_at IS NULL THEN 'never_heard' WHEN NOT " HEARD("b") " THEN 'silent' WHEN " SERVES("n")            \
    " THEN 'serving' ELSE 'draining' END,'draining',NOT (" SERVES("n") "),'public_ipv6',n.public_ipv6,'public_ipv4',n.public_ipv4," \
    "'version',b.version,'epoch',b.epoch,'revision',b.revision,'connections',b.connections,'last_report_at'," MT_SQL_TS("b.received_at") "," \
    "'seconds_since_report',floor(extract(epoch FROM now() - b.received_at))::bigint,'ipv4',(SELECT json_agg(a.ipv4_address ORDER BY a.ipv4_address)" \
    " FROM ipv4_allocations_view a WHERE a.edge_node_id = n.node_id AND a.ended_at IS NULL),'ipv4_errors',CASE WHEN jsonb_array_length(b.ipv4_errors) > 0" \
    " THEN b.ipv4_errors END,'resource_version',n.resource_version))::text"
#define EDGES "nodes_view n LEFT JOIN moat.edge_heartbeats b USING (node_id)"

MT_SQL_LIST(edges, EDGE_OBJECT, EDGES, "n.node_id", "NOT n.deleted AND 'edge' = ANY (n.roles) AND ($1::text IS NULL OR n.name = $1)", "2", "3");

static const struct mt_pg_stmt one = {
    "edge_one", "SELECT " EDGE_OBJECT " AS object, " MT_SQL_EDGE_DRAINS("n") " AS drains, n.admin_state, EXISTS (SELECT 1 FROM nodes_view o JOIN moat.edge_heartbeats ob USING (node_id)"
                " WHERE o.node_id <> n.node_id AND NOT o.deleted AND 'edge' = ANY (o.roles) AND o.health IN ('ready', 'degraded') AND " SERVES("o") " AND " HEARD("ob") ") AS others"
                " FROM " EDGES " WHERE n.node_id = $1 AND NOT n.deleted AND 'edge' = ANY (n.roles)"};
enum { E_OBJECT = 0, E_DRAINS, E_ADMIN, E_OTHERS };

int mt_api_edges_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &edges_asc, .desc = &edges_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, mt_api_query(c, "name"));
    return mt_api_send_list(c, &l);
}

/* What the edge is afterwards, as far as the log knows it. */
static json_t *after(const struct mt_pg_res *r, const struct mt_node *n, bool drain, bool changed)
{
    json_error_t je;
    json_t *o = json_loads(mt_pg_text(r, 0, E_OBJECT), 0, &je);
    bool drains = drain || !(MT_STREQ(n->admin_state, "active") || MT_STREQ(n->admin_state, "cordoned"));
    const char *state = json_string_value(json_object_get(o, "state"));
    (void)json_object_set_new(o, "draining", json_boolean(drains));
    if (state && (MT_STREQ(state, "serving") || MT_STREQ(state, "draining")))
        (void)json_object_set_new(o, "state", json_string(drains ? "draining" : "serving"));
    (void)json_object_set_new(o, "resource_version", json_integer((json_int_t)n->version + changed));
    return o;
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool drain)
{
    static const char *const with_force[] = {"reason", "force", NULL}, *const plain[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    struct mt_node n;
    const char *reason, *id = mt_api_param(c, "node_id");
    bool force = false;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, drain ? with_force : plain) < 0 ||
        mt_api_text(c, "reason", true, 500, &reason) < 0 || (drain && mt_api_bool(c, "force", false, &force) < 0))
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_node_find(c->pg, id, &n, &c->err) < 0 || mt_pg_query_one(c->pg, &one, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "edge") : mt_api_fail_err(c);
    made->operation = drain ? "edge.drain" : "edge.undrain";
    made->ids = json_pack("{s:s}", "node_id", id);
    made->nothing = mt_pg_bool(r, 0, E_DRAINS) == drain;
    made->object = after(r, &n, drain, !made->nothing);
    if (made->nothing)
        return 0;
    if (MT_STREQ(n.admin_state, "disabled"))
        return mt_api_fail(c, 409, "conflict", "node %s is disabled: its edge serves nobody any more", n.name);
    if (drain && !force && !mt_pg_bool(r, 0, E_OTHERS))
        return mt_api_fail(c, 409, "conflict", "no other edge serves and was heard of within " SILENT_S " s: without %s nobody is served; force drains it all the same", n.name);
    if (drain)
        mt_api_next(made, "connections that are left", "moat admin edges list");
    if (mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, n.version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_NODE_CONFIG_SET, id,
                        json_pack("{s:{s:o},s:{s:o*},s:s}", "changed", MT_NODE_EDGE_DRAIN, drain ? json_true() : json_null(), "previous", MT_NODE_EDGE_DRAIN,
                                  drain ? NULL : json_true(), "reason", reason));
}

static int prepare_drain(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare(c, cmd, made, true);
}

static int prepare_undrain(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare(c, cmd, made, false);
}

int mt_api_edges_drain(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_drain);
}

int mt_api_edges_undrain(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_undrain);
}

/* ---------------------------------------------------------------- the mesh */

static const struct mt_pg_stmt told = {
    "mesh_told", "SELECT coalesce(json_agg(json_strip_nulls(json_build_object('id',n.node_id,'name',n.name,'health',n.health,'mesh',h.body->'mesh')) ORDER BY n.name), '[]')::text"
                 " FROM nodes_view n LEFT JOIN moat.node_heartbeats h USING (node_id) WHERE NOT n.deleted"};

int mt_api_mesh_get(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_json json_t *nodes = NULL;
    json_error_t je;
    size_t bad;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &told, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    nodes = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    json_t *o = nodes ? mt_mesh_survey(nodes, &bad) : NULL;
    if (!o) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "the mesh");
        return mt_api_fail_err(c);
    }
    return mt_api_send(c, 200, o);
}
