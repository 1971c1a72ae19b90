/* SPDX-License-Identifier: Apache-2.0 */
/* WireGuard keys of nodes (networking.md §2.4, docs/formats/mesh-plan.md): the first one of the machine's own node, and rotations: one node at
 * a time, at one moment for everybody, taken back when the node says that it did not work. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/nodes/node.h"
#include "control/nodes/rotation.h"
#include "control/plans/mesh_plan.h"
#include "model/mesh.h"

#define CUTOVER_MAX_S 3600
#define TRIES 4 /* of a request whose rows moved between look and append */

static const struct mt_pg_stmt look = {
    "node_key_look", "SELECT n.next_public_key, n.cutover_unix_ms, n.key_generation,"
                     " (SELECT x.name FROM nodes_view x WHERE x.next_public_key IS NOT NULL AND NOT x.deleted AND x.admin_state <> 'disabled'"
                     "  AND x.node_id <> n.node_id LIMIT 1),"
                     " EXISTS (SELECT 1 FROM nodes_view x WHERE $2 IN (x.wireguard_public_key, x.next_public_key) OR $2 = ANY (x.retired_keys)),"
                     " n.rotation_lead_s, " MT_MESH_MEMBER("n") " FROM nodes_view n WHERE n.node_id = $1"};

static int row(struct mt_api_call *c, const struct mt_node *n, const char *key, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n->node_id);
    mt_pg_p_text(&p, key);
    return mt_pg_query_one(c->pg, &look, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int read_key(struct mt_api_call *c, const char **ret)
{
    uint8_t raw[MT_WG_KEY_LEN];
    if (mt_api_text(c, "public_key", true, 64, ret) < 0)
        return -1;
    return mt_wg_key_decode(*ret, raw, &c->err) < 0 ? mt_api_fail(c, 422, "wireguard_key_invalid", "%s", c->err.msg) : 0;
}

/* One look at a node's word that @key is its next (or first) one, and what follows from it. As mt_node_append; 0: answered. */
static int take_key(struct mt_api_call *c, const char *key, json_t *endpoints)
{
    struct mt_node n;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc;
    if (mt_node_caller(c, MT_CERT_NODE, &n) < 0 || row(c, &n, key, &r) < 0)
        return -1;
    int64_t generation = mt_pg_i64(r, 0, 2), cutover = mt_pg_i64_or(r, 0, 1, 0);
    const char *next = mt_pg_text_or_null(r, 0, 0), *other = mt_pg_text_or_null(r, 0, 3);
    bool first = mt_starts_with(n.wireguard_key, "local:");
    if (!first && MT_STREQ(n.wireguard_key, key)) { /* where it is reached has changed, or nothing */
        if (endpoints && (rc = mt_node_append(c, &n, MT_EV_NODE_UPDATED, json_pack("{s:O}", "endpoints", endpoints))) != 0)
            return rc;
        return mt_api_send(c, 202, json_pack("{s:I,s:i}", "key_generation", (json_int_t)generation, "cutover_unix_ms", 0));
    }
    if (next && MT_STREQ(next, key)) /* a lost answer */
        return mt_api_send(c, 202, json_pack("{s:I,s:I}", "key_generation", (json_int_t)generation + 1, "cutover_unix_ms", (json_int_t)cutover));
    if (mt_pg_bool(r, 0, 4))
        return mt_api_fail(c, 409, "wireguard_key_exists", "a node has or had this WireGuard key: make another one");
    if (first) {
        if ((rc = mt_node_append(c, &n, MT_EV_NODE_UPDATED, json_pack("{s:s,s:O*}", "wireguard_public_key", key, "endpoints", endpoints))) != 0)
            return rc;
        return mt_api_send(c, 202, json_pack("{s:I,s:i}", "key_generation", (json_int_t)generation, "cutover_unix_ms", 0));
    }
    if (next || other)
        return mt_api_fail(c, 409, "conflict", "the key of node %s is being rotated: one at a time", next ? n.name : other);
    cutover = mt_clock_wall_us() / 1000 + mt_pg_i64_or(r, 0, 5, MT_ROTATION_LEAD_S) * 1000;
    if ((rc = mt_node_append(c, &n, MT_EV_NODE_KEY_ROTATION_STARTED, json_pack("{s:s,s:I,s:I}", "next_public_key", key, "key_generation", (json_int_t)generation + 1,
                                                                           "cutover_unix_ms", (json_int_t)cutover))) != 0)
        return rc;
    return mt_api_send(c, 202, json_pack("{s:I,s:I}", "key_generation", (json_int_t)generation + 1, "cutover_unix_ms", (json_int_t)cutover));
}

/* Not 409: by that a node throws its next key away, which the log may have by now. */
static int keeps_changing(struct mt_api_call *c)
{
    return mt_api_fail(c, 503, "unavailable", "the nodes keep changing; try again");
}

int mt_api_node_wg_key(struct mt_api_call *c)
{
    static const char *const known[] = {"public_key", "endpoints", NULL};
    const char *key;
    json_t *endpoints;
    struct mt_node n;
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &n) < 0 || mt_api_fields(c, known) < 0 || read_key(c, &key) < 0)
        return -1;
    if (mt_node_call_endpoints(c, &endpoints) < 0)
        return -1;
    int rc = 1;
    for (int try = 0; rc > 0 && try < TRIES; try++)
        rc = take_key(c, key, endpoints);
    return rc > 0 ? keeps_changing(c) : rc;
}

/* One look at a node's word of how its rotation went. As take_key. */
static int take_result(struct mt_api_call *c, const char *key, bool ok, const char *detail)
{
    struct mt_node n;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_node_caller(c, MT_CERT_NODE, &n) < 0 || row(c, &n, key, &r) < 0)
        return -1;
    const char *next = mt_pg_text_or_null(r, 0, 0);
    int64_t generation = mt_pg_i64(r, 0, 2);
    if (!next) /* said before, or never begun */
        return MT_STREQ(n.wireguard_key, key) == ok ? mt_api_send(c, 200, json_pack("{s:I}", "key_generation", (json_int_t)generation))
                                                    : mt_api_fail(c, 409, "conflict", "no rotation of this node's key is under way");
    if (!MT_STREQ(next, key))
        return mt_api_fail(c, 409, "conflict", "the rotation under way is to another key");
    if (ok && mt_clock_wall_us() / 1000 < mt_pg_i64_or(r, 0, 1, 0))
        return mt_api_fail(c, 409, "conflict", "the moment of the rotation has not come yet");
    json_t *payload = ok ? json_pack("{s:s,s:I}", "wireguard_public_key", key, "key_generation", (json_int_t)generation + 1)
                         : json_pack("{s:s,s:I,s:s}", "wireguard_public_key", n.wireguard_key, "key_generation", (json_int_t)generation, "reason",
                                     detail ? detail : "the node says that it did not work");
    int rc = mt_node_append(c, &n, ok ? MT_EV_NODE_KEY_ROTATED : MT_EV_NODE_KEY_ROTATION_ROLLED_BACK, payload);
    return rc != 0 ? rc : mt_api_send(c, 200, json_pack("{s:I}", "key_generation", (json_int_t)generation + ok));
}

int mt_api_node_wg_key_result(struct mt_api_call *c)
{
    static const char *const known[] = {"public_key", "ok", "detail", NULL};
    const char *key, *detail;
    struct mt_node n;
    bool ok;
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &n) < 0 || mt_api_fields(c, known) < 0 || read_key(c, &key) < 0 || mt_api_bool(c, "ok", false, &ok) < 0 ||
        mt_api_text(c, "detail", false, 500, &detail) < 0)
        return -1;
    int rc = 1;
    for (int try = 0; rc > 0 && try < TRIES; try++)
        rc = take_result(c, key, ok, detail);
    return rc > 0 ? keeps_changing(c) : rc;
}

/* ---- an operator's word ---- */

static int prepare_rotate(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"reason", "lead_seconds", NULL};
    const char *reason;
    int64_t lead = MT_ROTATION_LEAD_S;
    struct mt_node n;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0 ||
        mt_api_int(c, "lead_seconds", false, 0, CUTOVER_MAX_S, MT_ROTATION_LEAD_S, &lead) < 0)
        return -1;
    if (mt_node_find(c->pg, mt_api_param(c, "node_id"), &n, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "node") : mt_api_fail_err(c);
    if (row(c, &n, n.wireguard_key, &r) < 0)
        return -1;
    if (!mt_pg_bool(r, 0, 6))
        return mt_api_fail(c, 409, "conflict", "node %s is in no mesh: it has no key that others know", n.name);
    made->operation = "node.rotate_key";
    made->ids = json_pack("{s:s}", "node_id", n.node_id);
    made->nothing = mt_pg_text_or_null(r, 0, 0) != NULL || mt_pg_i64_or(r, 0, 5, -1) == lead;
    made->object = json_pack("{s:s,s:s,s:s,s:I}", "id", n.node_id, "name", n.name, "admin_state", n.admin_state, "resource_version",
                             (json_int_t)n.version + !made->nothing);
    if (made->nothing) /* it runs, or waits for its turn */
        return 0;
    if (mt_cmd_rely(cmd, MT_RELY_NODE, n.node_id, NULL, n.version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_NODE_KEY_ROTATION_REQUESTED, n.node_id,
                        json_pack("{s:I,s:s}", "lead_seconds", (json_int_t)lead, "reason", reason));
}

int mt_api_nodes_rotate_key(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_rotate);
}
