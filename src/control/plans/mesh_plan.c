/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plans/mesh_plan.h"

#include "base/str.h"
#include "model/mesh.h"

#define LISTEN_PORT 51820
#define KEEPALIVE_S 25

static const struct mt_pg_stmt members = {
    "mesh_members",
    "SELECT n.node_id, n.wireguard_public_key, n.key_generation, n.overlay_ipv6, n.instance_prefix, to_json(n.roles)::text,"
    " to_json(n.endpoints)::text, 'edge' = ANY (n.roles), cardinality(n.endpoints) = 0, n.next_public_key, n.cutover_unix_ms,"
    " (SELECT max(mesh_event_id) FROM nodes_view), " MT_ROTATION_MAY_BEGIN("n") ","
    " coalesce((SELECT (value #>> '{}')::bigint FROM cluster_view WHERE key = '" MT_MESH_REMOVAL_KEY "'), 0) = (SELECT max(mesh_event_id) FROM nodes_view) FROM nodes_view n WHERE " MT_MESH_MEMBER("n") " ORDER BY n.node_id"};
static const struct mt_pg_stmt gateways = {
    "mesh_gateways", "SELECT overlay_ipv6 FROM nodes_view WHERE NOT deleted AND admin_state <> 'disabled'"
                     " AND (cert_fingerprint = 'local' OR 'control' = ANY (roles)) ORDER BY node_id"};

enum { ID = 0, KEY, GENERATION, OVERLAY, PREFIX, ROLES, ENDPOINTS, EDGE, SILENT, NEXT, CUTOVER, REVISION, ASKED, MAY_SHRINK };

static json_t *list(const struct mt_pg_res *r, int row, int col)
{
    json_error_t je;
    json_t *a = json_loads(mt_pg_text(r, row, col), 0, &je);
    return a ? a : json_array();
}

static void rotation(json_t *to, const struct mt_pg_res *r, int row)
{
    const char *next = mt_pg_text_or_null(r, row, NEXT);
    if (next)
        json_object_set_new(to, "rotation", json_pack("{s:s,s:I}", "next_public_key", next, "cutover_unix_ms",
                                                      (json_int_t)mt_pg_i64_or(r, row, CUTOVER, 1)));
}

static json_t *peer(const struct mt_pg_res *r, int row, bool keepalive)
{
    char own[64];
    snprintf(own, sizeof own, "%s/128", mt_pg_text(r, row, OVERLAY));
    json_t *p = json_pack("{s:s,s:s,s:I,s:[s,s],s:o,s:o,s:i}", "node_id", mt_pg_text(r, row, ID), "public_key", mt_pg_text(r, row, KEY),
                          "key_generation", (json_int_t)mt_pg_i64(r, row, GENERATION), "allowed_ips", own, mt_pg_text(r, row, PREFIX), "roles",
                          list(r, row, ROLES), "endpoints", list(r, row, ENDPOINTS), "keepalive", keepalive ? KEEPALIVE_S : 0);
    rotation(p, r, row);
    return p;
}

/* Is it the turn of row @self to rotate its key? One at a time: the first of those that were asked to and are there, while nobody's rotation runs. */
static bool its_turn(const struct mt_pg_res *r, int self)
{
    int first = -1;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        if (mt_pg_text_or_null(r, i, NEXT))
            return false;
        if (first < 0 && mt_pg_bool(r, i, ASKED))
            first = i;
    }
    return first == self;
}

int mt_mesh_plan_build(struct mt_pg *pg, const struct mt_node *node, json_t **ret_mesh, json_t **ret_peers, json_t **ret_gateways,
                       struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_pg_res struct mt_pg_res *gr = NULL;
    int rc, self = -1;
    if ((rc = mt_pg_query(pg, &members, NULL, &r, err)) < 0 || (rc = mt_pg_query(pg, &gateways, NULL, &gr, err)) < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r) && self < 0; i++)
        if (MT_STREQ(mt_pg_text(r, i, ID), node->node_id))
            self = i;
    *ret_peers = json_array();
    *ret_gateways = json_array();
    *ret_mesh = NULL;
    for (int i = 0; i < mt_pg_rows(gr); i++)
        json_array_append_new(*ret_gateways, json_string(mt_pg_text(gr, i, 0)));
    if (self < 0)
        return 0;
    *ret_mesh = json_pack("{s:I,s:i,s:s,s:I}", "revision", (json_int_t)mt_pg_i64(r, self, REVISION), "listen_port", LISTEN_PORT, "public_key",
                          mt_pg_text(r, self, KEY), "key_generation", (json_int_t)mt_pg_i64(r, self, GENERATION));
    rotation(*ret_mesh, r, self);
    if (mt_pg_bool(r, self, MAY_SHRINK))
        json_object_set_new(*ret_mesh, "allow_mass_removal", json_true());
    if (its_turn(r, self))
        json_object_set_new(*ret_mesh, "rotate", json_true());
    for (int i = 0; i < mt_pg_rows(r); i++)
        if (i != self)
            json_array_append_new(*ret_peers, peer(r, i, mt_pg_bool(r, i, EDGE) || mt_pg_bool(r, self, EDGE) || mt_pg_bool(r, i, SILENT) ||
                                                            mt_pg_bool(r, self, SILENT)));
    return 0;
}
