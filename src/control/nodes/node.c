/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/node.h"

#include "base/log.h"
#include "base/str.h"
#include "model/mesh.h"
#include "os/tls.h"
#include "wire/node_call.h"

#define ENDPOINTS_MAX 4
#define APPEND_TIMEOUT_MS 10000

#define NODE_COLUMNS                                                                                                              \
    "node_id, name, admin_state, health, overlay_ipv6, instance_prefix, wireguard_public_key, key_generation, 'edge' = ANY (roles)," \
    " cert_fingerprint = 'local', resource_version"

static const struct mt_pg_stmt by_id = {"node_by_id", "SELECT " NODE_COLUMNS " FROM nodes_view WHERE node_id = $1 AND NOT deleted"};
static const struct mt_pg_stmt by_socket = {"node_local", "SELECT " NODE_COLUMNS " FROM nodes_view WHERE cert_fingerprint = 'local' AND NOT deleted"};
static const struct mt_pg_stmt certificate = {
    "node_certificate", "SELECT revoked_at IS NOT NULL, first_used_at IS NULL, node_id = $2 AND kind = $3 FROM moat.node_certs WHERE serial = $1"};
/* The first use of a new certificate ends the ones before it. */
static const struct mt_pg_stmt first_use = {
    "node_certificate_used", "UPDATE moat.node_certs SET first_used_at = CASE WHEN serial = $1 THEN coalesce(first_used_at, now()) ELSE first_used_at END,"
                             " revoked_at = CASE WHEN serial = $1 THEN revoked_at ELSE coalesce(revoked_at, now()) END"
                             " WHERE node_id = $2 AND kind = $3 AND (serial = $1 OR issued_at < (SELECT issued_at FROM moat.node_certs WHERE serial = $1))"};

static void copy(char *ret, size_t size, const char *v)
{
    snprintf(ret, size, "%s", v);
}

static void read_row(const struct mt_pg_res *r, struct mt_node *ret)
{
    *ret = (struct mt_node){.key_generation = (int)mt_pg_i64(r, 0, 7),
                            .edge = mt_pg_bool(r, 0, 8),
                            .local = mt_pg_bool(r, 0, 9),
                            .version = mt_pg_i64(r, 0, 10)};
    copy(ret->node_id, sizeof ret->node_id, mt_pg_text(r, 0, 0));
    copy(ret->name, sizeof ret->name, mt_pg_text(r, 0, 1));
    copy(ret->admin_state, sizeof ret->admin_state, mt_pg_text(r, 0, 2));
    copy(ret->health, sizeof ret->health, mt_pg_text(r, 0, 3));
    copy(ret->overlay_ipv6, sizeof ret->overlay_ipv6, mt_pg_text(r, 0, 4));
    copy(ret->instance_prefix, sizeof ret->instance_prefix, mt_pg_text(r, 0, 5));
    copy(ret->wireguard_key, sizeof ret->wireguard_key, mt_pg_text(r, 0, 6));
}

int mt_node_find(struct mt_pg *pg, const char *node_id, struct mt_node *ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    int rc = mt_pg_query_one(pg, &by_id, &p, &r, err);
    if (rc == 0)
        read_row(r, ret);
    return rc;
}

int mt_node_find_local(struct mt_pg *pg, struct mt_node *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query_one(pg, &by_socket, NULL, &r, err);
    if (rc == 0)
        read_row(r, ret);
    return rc;
}

bool mt_node_call_is_local(const struct mt_api_call *c)
{
    return mt_http_req_listener(c->http) == MT_LISTEN_INTERNAL;
}

int mt_node_call_protocol(struct mt_api_call *c, const struct mt_strings *protocols)
{
    char said[16 * 34] = "";
    size_t n = 0;
    for (size_t i = 0; protocols && i < protocols->n && n < sizeof said; i++)
        n += (size_t)snprintf(said + n, sizeof said - n, "%s%s", n ? ", " : "", protocols->v[i]);
    const char *list = protocols ? said : mt_http_req_header(c->http, MT_NODE_PROTOCOL_HEADER);
    if (mt_node_protocol_shared(list))
        return 0;
    const char *version = mt_http_req_header(c->http, MT_NODE_VERSION_HEADER);
    char clean[3][100];
    (void)mt_printable(list, strlen(list), clean[0], sizeof clean[0]);
    (void)mt_printable(version ? version : "", version ? strlen(version) : 0, clean[1], sizeof clean[1]);
    mt_log(MT_WARN, "node.agent_incompatible", KV("request_id", c->request_id), KV("path", c->route->path), KV("protocols", (const char *)clean[0]),
           KV("agent_version", (const char *)clean[1]), KV("mend", "install the version of moat on the node that the control plane has"));
    mt_http_add_header(c->http, "Upgrade", MT_NODE_PROTOCOL);
    c->problem.details = json_pack("{s:[s],s:s}", "protocols", MT_NODE_PROTOCOL, "server_version", MOAT_VERSION);
    return mt_api_fail(c, 426, "agent_incompatible", "this control plane (moat " MOAT_VERSION ") speaks " MT_NODE_PROTOCOL " with its nodes, the caller %s:"
                       " install on the node the version that the control plane has. What runs there goes on", clean[0]);
}

static int peer_is(struct mt_api_call *c, uid_t want, const char *who)
{
    uid_t uid;
    pid_t pid;
    if (mt_http_req_peer(c->http, &uid, &pid) < 0 || uid != want)
        return mt_api_fail(c, 403, "forbidden", "this call is for the %s of this machine", who);
    return 0;
}

int mt_node_local_agent(struct mt_api_call *c)
{
    return peer_is(c, c->ctl->agent_uid, "agent");
}

/* A certificate that the database does not know is one of a database that was put back to an older point: our signature stands. */
static int check_certificate(struct mt_api_call *c, const char *serial, const char *node_id, enum mt_cert_kind kind)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, serial);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_text(&p, mt_cert_kind_name(kind));
    if (mt_pg_query(c->pg, &certificate, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return 0;
    if (mt_pg_bool(r, 0, 0) || !mt_pg_bool(r, 0, 2))
        return mt_api_fail(c, 403, "forbidden", "the certificate %s is revoked: the node has a newer one, or was disabled", serial);
    if (!mt_pg_bool(r, 0, 1))
        return 0;
    return mt_pg_query(c->pg, &first_use, &p, NULL, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int by_certificate(struct mt_api_call *c, enum mt_cert_kind want, struct mt_node *ret)
{
    const struct mt_tls_peer *peer = mt_http_req_tls_peer(c->http);
    enum mt_cert_kind kind;
    char node_id[40];
    if (!peer)
        return mt_api_fail(c, 401, "unauthorized", "this call needs the certificate of a node");
    if (!mt_node_uri_parse(peer->uri, c->ctl->cluster_id, &kind, node_id))
        return mt_api_fail(c, 403, "forbidden", "the certificate is not one of a node of this cluster");
    if (kind != want)
        return mt_api_fail(c, 403, "forbidden", "this call is for the %s of a node; the certificate is one of its %s",
                           want == MT_CERT_NODE ? "agent" : "edge", kind == MT_CERT_NODE ? "agent" : "edge");
    if (peer->expired && !MT_STREQ(c->route->path, MT_NODE_CERT_PATH))
        return mt_api_fail(c, 403, "forbidden", "the certificate has expired: it is good for its own renewal only");
    if (mt_node_find(c->pg, node_id, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_fail(c, 403, "node_disabled", "node %s was removed, or this database does not know it", node_id)
                                             : mt_api_fail_err(c);
    return check_certificate(c, peer->serial, node_id, kind);
}

int mt_node_caller(struct mt_api_call *c, enum mt_cert_kind kind, struct mt_node *ret)
{
    if (!mt_node_call_is_local(c)) {
        if (by_certificate(c, kind, ret) < 0)
            return -1;
    } else {
        if (peer_is(c, kind == MT_CERT_NODE ? c->ctl->agent_uid : c->ctl->edge_uid, kind == MT_CERT_NODE ? "agent" : "edge") < 0)
            return -1;
        if (mt_node_find_local(c->pg, ret, &c->err) < 0)
            return c->err.code == MT_E_NOT_FOUND
                       ? mt_api_fail(c, 409, "conflict", "the node is not enrolled yet; its first heartbeat enrols it")
                       : mt_api_fail_err(c);
    }
    if (MT_STREQ(ret->admin_state, "disabled"))
        return mt_api_fail(c, 403, "node_disabled", "node %s is disabled: it has to be enrolled again, with new keys", ret->node_id);
    if (kind == MT_CERT_EDGE && !ret->edge)
        return mt_api_fail(c, 403, "forbidden", "node %s has no edge", ret->node_id);
    return 0;
}

static const struct mt_pg_stmt certs_end = {
    "node_certs_end", "UPDATE moat.node_certs SET revoked_at = coalesce(revoked_at, now()) WHERE node_id = $1"};
static const struct mt_pg_stmt no_volumes = {
    "node_no_volumes", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM volumes_view v WHERE v.home_node_id = $1 AND NOT v.deleted)"};

int mt_node_cmd_certs_end(struct mt_cmd *cmd, const char *node_id, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    return mt_cmd_side(cmd, &certs_end, &p, -1, err);
}

int mt_node_cmd_no_volumes(struct mt_cmd *cmd, const char *node_id, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    return mt_cmd_side(cmd, &no_volumes, &p, 1, err);
}

int mt_node_call_endpoints(struct mt_api_call *c, json_t **ret)
{
    json_t *list = json_object_get(c->body, "endpoints"), *v;
    struct sockaddr_storage ss;
    socklen_t len;
    size_t i;
    *ret = list;
    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > ENDPOINTS_MAX)
        return mt_api_fail(c, 400, "invalid_argument", "'endpoints' is an array of at most %d texts address:port", ENDPOINTS_MAX);
    json_array_foreach (list, i, v) {
        if (!json_is_string(v) || mt_mesh_endpoint_parse(json_string_value(v), &ss, &len, &c->err) < 0)
            return mt_api_fail(c, 400, "invalid_argument", "'endpoints[%zu]' is not address:port, as 192.0.2.1:51820 or [2001:db8::1]:51820", i);
        if (mt_mesh_endpoint_inside(&ss, c->ctl->prefix))
            return mt_api_fail(c, 400, "invalid_argument", "'endpoints[%zu]' is of the cluster's own prefix %s: the mesh cannot be carried over itself; name the machine's address outside of it",
                               i, c->ctl->prefix);
    }
    return 0;
}

int mt_node_append(struct mt_api_call *c, const struct mt_node *n, enum mt_ev ev, json_t *payload)
{
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = n->node_id, .request_id = c->request_id};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    if (mt_cmd_new(&actor, &cmd, &c->err) < 0) {
        json_decref(payload);
        return mt_api_fail_err(c);
    }
    if (mt_cmd_event(cmd, ev, n->node_id, &none, payload, &c->err) < 0 || mt_cmd_rely(cmd, MT_RELY_NODE, n->node_id, NULL, n->version, &c->err) < 0)
        return mt_api_fail_err(c);
    /* Two nodes may ask in one moment, and each has seen nobody rotate. */
    if (ev == MT_EV_NODE_KEY_ROTATION_STARTED && mt_cmd_rely(cmd, MT_RELY_KEY_ROTATION, "mesh", NULL, 0, &c->err) < 0)
        return mt_api_fail_err(c);
    int rc = mt_append(c->ctl->appender, MT_TAKE(cmd), APPEND_TIMEOUT_MS, &done, &c->err);
    bool stale = rc < 0 && done.end == MT_END_STALE;
    mt_cmd_done_free(&done);
    return rc == 0 ? 0 : stale ? 1 : mt_api_fail_err(c);
}
