/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine becomes a node (networking.md §1.2): token, certificate request and WireGuard key against a record, addresses and a certificate, in
 * one transaction; then its first call with that certificate. And the renewal of certificates. What is wrong leaves the token good, but for a
 * WireGuard key that another node has or had: that is a copied machine or an attack, and ends the token.
 */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "control/limits/request.h"
#include "control/log/history.h"
#include "control/nodes/node.h"
#include "control/nodes/number.h"
#include "control/plans/address.h"
#include "model/mesh.h"
#include "model/names.h"
#include "os/digest.h"
#include "os/tls.h"
#include "wire/json.h"

#include <pthread.h>
#include <time.h>

#define APPEND_TIMEOUT_MS 10000
#define SKEW_MAX_MS (5 * 60 * 1000)
#define CERT_DAYS 90
#define CONFIRM_US (10 * 60 * INT64_C(1000000))
#define TURN_S 10
#define ROUTES_MAX 256
#define ROUNDS 8 /* of servers or requests that take the same number */

static const struct mt_pg_stmt token_find = {
    "enroll_token",
    "SELECT h.enr_id, h.used_at IS NULL, coalesce(h.used_for, ''), h.used_at > now() - interval '10 minutes', v.expires_at > now(), v.deleted,"
    " coalesce(v.node_name, ''), v.require_approval, to_json(v.roles)::text,"
    " v.source_cidr IS NULL OR $2::inet <<= v.source_cidr::inet, coalesce(v.used_by, ''), v.resource_version"
    " FROM moat.enrollment_token_hashes h JOIN enrollment_tokens_view v USING (enr_id) WHERE h.token_hash = $1"};
static const struct mt_pg_stmt token_use = {
    "enroll_token_use", "UPDATE moat.enrollment_token_hashes SET used_at = now(), used_for = $2 WHERE enr_id = $1 AND used_at IS NULL"};
static const struct mt_pg_stmt token_end = {"enroll_token_end", "DELETE FROM moat.enrollment_token_hashes WHERE enr_id = $1 AND used_at IS NULL"};
static const struct mt_pg_stmt key_known = {
    "enroll_key_known", "SELECT node_id FROM nodes_view WHERE wireguard_public_key = $1 OR next_public_key = $1 OR $1 = ANY (retired_keys) LIMIT 1"};
static const struct mt_pg_stmt cert_put = {
    "node_cert_put", "INSERT INTO moat.node_certs (serial, node_id, kind, spki_sha256, pem, not_after) VALUES ($1, $2, $3, $4, $5, $6)"};
static const struct mt_pg_stmt cert_newest = {
    "node_cert_newest", "SELECT pem FROM moat.node_certs WHERE node_id = $1 AND kind = 'node' ORDER BY issued_at DESC LIMIT 1"};
static const struct mt_pg_stmt approval = {
    "enroll_approval", "SELECT coalesce(bool_or(require_approval), false) FROM enrollment_tokens_view WHERE used_by = $1"};
static const struct mt_pg_stmt roles_of = {"node_roles", "SELECT to_json(roles)::text FROM nodes_view WHERE node_id = $1"};
static const struct mt_pg_stmt fingerprint_of = {"node_fingerprint", "SELECT cert_fingerprint FROM nodes_view WHERE node_id = $1"};

/* What a request asks for, checked. */
struct wish {
    const char *token, *csr, *name, *key, *arch, *version;
    char address[64];
    struct mt_x509_csr about;
    json_t *endpoints, *capacity; /* borrowed from the body */
    char used_for[240];
};

/* A full mesh is for some hundred nodes (networking.md §2.5): from the first on it is said, from the second on nobody gets in. */
#define MESH_LARGE 40
#define MESH_FULL 200
#define MEMBERS "FROM nodes_view WHERE NOT deleted AND admin_state <> 'disabled' AND wireguard_public_key NOT LIKE 'local:%'"
static const struct mt_pg_stmt members = {"enroll_members", "SELECT count(*) " MEMBERS};
/* Asked again under the append lock, the new node's own row counted: one row, or the command is prepared again. */
static const struct mt_pg_stmt mesh_room = {"enroll_mesh_room", "SELECT 1 WHERE (SELECT count(*) " MEMBERS ") <= $1::bigint"};

/* A row of token_find. */
struct found {
    char enr_id[MT_ID_SIZE], used_by[MT_ID_SIZE];
    bool repeat;
    int64_t version;
    json_t *roles; /* owned */
};

/* One code for every fault of a token; what it was is in the audit log. */
static int bad_token(struct mt_api_call *c, const struct wish *w, const char *enr_id, const char *why)
{
    struct mt_limit_state ignored;
    (void)mt_limits_take(c->ctl->limits, MT_LIMIT_ENROLL_FAILED, w->address, &ignored);
    mt_api_trail_note(c, "node.enroll", "deny", "enroll_token_invalid", "enrollment_token", enr_id, why);
    mt_log(MT_WARN, "node.enrolment_refused", KV("address", (const char *)w->address), KV("reason", why));
    return mt_api_fail(c, 401, "enroll_token_invalid",
                       "the token is not known here, was used or revoked, has expired, or is not for this address: make a new one (moat node token create)");
}

static int check_clock(struct mt_api_call *c)
{
    int64_t clock_ms, now_ms = mt_clock_wall_us() / 1000;
    if (mt_api_int(c, "clock_unix_ms", true, 0, INT64_C(1) << 52, 0, &clock_ms) < 0)
        return -1;
    int64_t off = clock_ms - now_ms, s = (off < 0 ? -off : off) / 1000;
    if (s * 1000 <= SKEW_MAX_MS)
        return 0;
    return mt_api_fail(c, 422, "clock_skew", "the clock of the node is %lld min %lld s %s that of the control plane, 5 min are allowed: set it"
                       " (timedatectl set-ntp true) and join again, the token stays good", (long long)s / 60, (long long)s % 60, off < 0 ? "behind" : "ahead of");
}

/* A node whose network has addresses of the cluster's prefix P would lose the one or the other (networking.md §3.1). An agent that is older says none. */
static int check_routes(struct mt_api_call *c)
{
    json_t *list = json_object_get(c->body, "underlay_routes"), *v;
    bool inside = false;
    size_t i;
    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > ROUTES_MAX)
        return mt_api_fail(c, 400, "invalid_argument", "'underlay_routes' is an array of at most %d IPv6 prefixes", ROUTES_MAX);
    json_array_foreach (list, i, v) {
        if (!json_is_string(v) || mt_prefix_holds(c->ctl->prefix, json_string_value(v), &inside, &c->err) < 0)
            return mt_api_fail(c, 400, "invalid_argument", "'underlay_routes[%zu]' is no IPv6 prefix, as 2001:db8:1::/64", i);
        if (inside)
            return mt_api_fail(c, 409, "overlay_prefix_conflict", "the node has a route to %s, of the cluster's prefix %s: take it away (ip -6 route); the token stays good", json_string_value(v), c->ctl->prefix);
    }
    return 0;
}

static int read_wish(struct mt_api_call *c, struct wish *w)
{
    static const char *const known[] = {"token", "csr", "name", "wireguard_public_key", "endpoints", "arch", "capacity", "clock_unix_ms", "agent_version", "underlay_routes", NULL};
    uint8_t key[MT_WG_KEY_LEN];
    *w = (struct wish){0};
    if (mt_http_req_address(c->http, w->address, sizeof w->address) < 0)
        return mt_api_fail(c, 403, "forbidden", "nodes enrol over the node listener");
    if (mt_limits_room(c, MT_LIMIT_ENROLL_FAILED, w->address) < 0)
        return -1;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "token", true, 100, &w->token) < 0 ||
        mt_api_text(c, "csr", true, 8192, &w->csr) < 0 || mt_api_text(c, "name", true, 63, &w->name) < 0 ||
        mt_api_text(c, "wireguard_public_key", true, 64, &w->key) < 0 || mt_api_text(c, "arch", true, 16, &w->arch) < 0 ||
        mt_api_text(c, "agent_version", true, 64, &w->version) < 0 || mt_node_call_endpoints(c, &w->endpoints) < 0 || check_clock(c) < 0)
        return -1;
    if (!mt_name_valid(MT_NAME_NODE, w->name, strlen(w->name)))
        return mt_api_fail(c, 400, "invalid_argument", "'name' is no name of a node: lower-case letters, digits and dashes, beginning with a letter");
    if (!MT_STREQ(w->arch, "amd64") && !MT_STREQ(w->arch, "arm64"))
        return mt_api_fail(c, 400, "invalid_argument", "'arch' is amd64 or arm64");
    w->capacity = json_object_get(c->body, "capacity");
    if (w->capacity && !json_is_object(w->capacity))
        return mt_api_fail(c, 400, "invalid_argument", "'capacity' is an object");
    if (mt_x509_csr_read(w->csr, &w->about, &c->err) < 0)
        return mt_api_fail(c, 422, "csr_invalid", "%s", c->err.msg);
    if (!MT_STREQ(w->about.cn, w->name))
        return mt_api_fail(c, 422, "csr_invalid", "the certificate request is for '%s', the node calls itself '%s'", w->about.cn, w->name);
    if (mt_wg_key_decode(w->key, key, &c->err) < 0)
        return mt_api_fail(c, 422, "wireguard_key_invalid", "%s", c->err.msg);
    snprintf(w->used_for, sizeof w->used_for, "%s %s", w->about.spki_sha256, w->key);
    return 0;
}

/* The token, good for this wish. */
static int find_token(struct mt_api_call *c, const struct wish *w, struct found *ret)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    uint8_t hash[32];
    json_error_t je;
    *ret = (struct found){0};
    if (!mt_token_hash(MT_TOKEN_ENROLMENT, w->token, hash))
        return bad_token(c, w, NULL, "malformed");
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, w->address);
    if (mt_pg_query(c->pg, &token_find, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return bad_token(c, w, NULL, "unknown");
    const char *id = mt_pg_text(r, 0, 0), *name = mt_pg_text(r, 0, 6);
    snprintf(ret->enr_id, sizeof ret->enr_id, "%s", id);
    snprintf(ret->used_by, sizeof ret->used_by, "%s", mt_pg_text(r, 0, 10));
    ret->version = mt_pg_i64(r, 0, 11);
    if (mt_pg_bool(r, 0, 5))
        return bad_token(c, w, id, "revoked");
    if (!mt_pg_bool(r, 0, 9))
        return bad_token(c, w, id, "address");
    if (!mt_pg_bool(r, 0, 1)) { /* the same machine that did not hear the answer, or somebody else */
        ret->repeat = mt_pg_bool(r, 0, 3) && MT_STREQ(mt_pg_text(r, 0, 2), w->used_for) && ret->used_by[0];
        return ret->repeat ? 0 : bad_token(c, w, id, "used");
    }
    if (!mt_pg_bool(r, 0, 4))
        return bad_token(c, w, id, "expired");
    if (*name && !MT_STREQ(name, w->name))
        return mt_api_fail(c, 422, "csr_invalid", "the token is for a node of the name '%s', not '%s' (moat-agent join --name)", name, w->name);
    ret->roles = json_loads(mt_pg_text(r, 0, 8), 0, &je);
    return 0;
}

static int append(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_cmd_done *done)
{
    int rc = mt_append(c->ctl->appender, cmd, APPEND_TIMEOUT_MS, done, &c->err);
    return rc;
}

/* A key that somebody has: the token ends, and an operator should look. */
static int key_exists(struct mt_api_call *c, const struct wish *w, const struct found *f, const char *owner)
{
    struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "enrolment", .request_id = c->request_id};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, f->enr_id);
    mt_log(MT_ERROR, "node.wireguard_key_twice", KV("address", (const char *)w->address), KV("name", w->name), KV("owner", owner), KV("mend",
           "find out whether the machine is a copy of the other one; its token is revoked"));
    mt_api_trail_note(c, "node.enroll", "deny", "wireguard_key_exists", "enrollment_token", f->enr_id, "WireGuard key of another node");
    if (mt_cmd_new(&actor, &cmd, &c->err) == 0 && mt_cmd_event(cmd, MT_EV_ENROLLMENT_TOKEN_REVOKED, f->enr_id, &none, NULL, &c->err) == 0 &&
        mt_cmd_side(cmd, &token_end, &p, 1, &c->err) == 0)
        (void)append(c, MT_TAKE(cmd), &done); /* when it does not get through the next try finds the key again */
    mt_cmd_done_free(&done);
    return mt_api_fail(c, 409, "wireguard_key_exists", "another node has or had this WireGuard key: is this machine a copy? Remove %s of it and join"
                       " with a new token; this one is revoked", "the folder keys");
}

static int check_key(struct mt_api_call *c, const struct wish *w, const struct found *f)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, w->key);
    if (mt_pg_query(c->pg, &key_known, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_pg_rows(r) ? key_exists(c, w, f, mt_pg_text(r, 0, 0)) : 0;
}

static int put_certificate(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, enum mt_cert_kind kind, const struct mt_x509_cert *about,
                           const char *pem)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, about->serial);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_text(&p, mt_cert_kind_name(kind));
    mt_pg_p_text(&p, about->spki_sha256);
    mt_pg_p_text(&p, pem);
    mt_pg_p_time(&p, about->not_after_s * 1000000);
    return mt_cmd_side(cmd, &cert_put, &p, 1, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int reply(struct mt_api_call *c, const char *node_id, const char *pem)
{
    struct mt_node n;
    char by[MT_RFC3339_LEN];
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    if (mt_node_find(c->pg, node_id, &n, &c->err) < 0 || mt_pg_query_one(c->pg, &roles_of, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *roles = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    return mt_api_send(c, 200,
                       json_pack("{s:s,s:s,s:o,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:s}", "node_id", node_id, "name", n.name, "roles", roles, "cluster_id", c->ctl->cluster_id,
                                 "admin_state", n.admin_state, "certificate", pem, "ca", mt_node_ca_trust(c->ctl->node_ca, NULL), "cluster_prefix",
                                 c->ctl->prefix, "overlay_ipv6", n.overlay_ipv6, "instance_prefix", n.instance_prefix, "mtu",
                                 (json_int_t)c->ctl->conf.mtu, "confirm_by", mt_rfc3339(mt_clock_wall_us() + CONFIRM_US, by)));
}

/* One try: addresses, certificate, events. 0 done; 1 somebody took the number or the name meanwhile (c->err): again; -1. */
static int enroll_once(struct mt_api_call *c, const struct wish *w, const struct found *f, char node_id[MT_ID_SIZE], char **ret_pem)
{
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = node_id, .request_id = c->request_id};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    struct mt_pg_params p;
    struct mt_x509_cert about;
    char overlay[MT_ADDR_SIZE], prefix[MT_ADDR_SIZE];
    mt_auto_free char *pem = NULL;
    mt_auto_pg_res struct mt_pg_res *count = NULL;
    struct mt_pg_params room;
    mt_pg_p_init(&room);
    mt_pg_p_i64(&room, MESH_FULL);
    if (mt_pg_query_one(c->pg, &members, NULL, &count, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_i64(count, 0, 0) >= MESH_FULL)
        return mt_api_fail(c, 503, "mesh_full", "the mesh has %lld nodes and takes %d: disable nodes that are not needed; the token stays good", (long long)mt_pg_i64(count, 0, 0),
                           MESH_FULL);
    if (mt_pg_i64(count, 0, 0) >= MESH_LARGE)
        mt_log(MT_WARN, "mesh.large", KV("nodes", mt_pg_i64(count, 0, 0)), KV("most", (int64_t)MESH_FULL));
    mt_id_new(MT_ID_NODE, node_id);
    if (mt_node_addresses_next(c->pg, c->ctl->prefix, overlay, prefix, &c->err) < 0) {
        if (c->err.code != MT_E_LIMIT)
            return mt_api_fail_err(c);
        mt_measure_one(&c->ctl->measure.ipam_failures[MT_IPAM_NODES]);
        return mt_api_fail(c, 503, "ipam_exhausted", "all 65,535 node numbers of %s were given out", c->ctl->prefix);
    }
    if (mt_node_ca_sign(c->ctl->node_ca, w->csr, c->ctl->cluster_id, MT_CERT_NODE, node_id, overlay, CERT_DAYS, &pem, &about, &c->err) < 0 ||
        mt_cmd_new(&actor, &cmd, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_auto_json json_t *endpoints = w->endpoints ? json_incref(w->endpoints) : json_array();
    mt_auto_json json_t *capacity = w->capacity ? json_incref(w->capacity) : json_object();
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, f->enr_id);
    mt_pg_p_text(&p, w->used_for);
    if (mt_cmd_event(cmd, MT_EV_NODE_ENROLLED, node_id, &none,
                     json_pack("{s:s,s:O,s:s,s:s,s:s,s:s,s:s,s:{},s:O,s:s,s:O}", "name", w->name, "roles", f->roles, "arch", w->arch,
                               "wireguard_public_key", w->key, "cert_fingerprint", about.spki_sha256, "overlay_ipv6", overlay, "instance_prefix",
                               prefix, "labels", "capacity", capacity, "enrollment_token_id", f->enr_id, "endpoints", endpoints),
                     &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_ENROLLMENT_TOKEN_USED, f->enr_id, &none, json_pack("{s:s}", "node_id", node_id), &c->err) < 0 ||
        mt_cmd_side(cmd, &token_use, &p, 1, &c->err) < 0 || mt_cmd_side(cmd, &mesh_room, &room, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (put_certificate(c, cmd, node_id, MT_CERT_NODE, &about, pem) < 0)
        return -1;
    int rc = append(c, MT_TAKE(cmd), &done);
    bool taken = rc < 0 && done.end == MT_END_TAKEN;
    bool name = taken && MT_STREQ(done.constraint, "nodes_view_name_live"), key = taken && MT_STREQ(done.constraint, "nodes_view_wireguard_key");
    mt_cmd_done_free(&done);
    if (name)
        return mt_api_fail(c, 409, "conflict", "there is a node named '%s': give this one another name (moat-agent join --name)", w->name);
    if (key)
        return key_exists(c, w, f, "a node that came in at the same time");
    if (rc < 0)
        return taken || c->err.code == MT_E_CONFLICT ? 1 : mt_api_fail_err(c);
    *ret_pem = MT_TAKE(pem);
    return 0;
}

/* The next number is looked up before the command that takes it: machines that join in one moment would take it from each other until one of them
 * has lost all its rounds. In one server they take turns; what is left for the rounds is another server. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static bool my_turn(void)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += TURN_S;
    return pthread_mutex_clocklock(&turn, CLOCK_MONOTONIC, &until) == 0;
}

static int enroll(struct mt_api_call *c, const struct wish *w, struct found *f)
{
    char node_id[MT_ID_SIZE];
    mt_auto_free char *pem = NULL;
    int rc = 1;
    for (int i = 0; rc > 0 && i < ROUNDS; i++) {
        if (i > 0) { /* the number was taken, or the token: look again */
            json_decref(f->roles);
            if (find_token(c, w, f) < 0)
                return -1;
        }
        if (f->repeat)
            break;
        if (check_key(c, w, f) < 0)
            return -1;
        if (!my_turn())
            return mt_api_fail(c, 503, "unavailable", "too many nodes enrol at once");
        rc = enroll_once(c, w, f, node_id, &pem);
        (void)pthread_mutex_unlock(&turn);
    }
    if (f->repeat) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, f->used_by);
        if (mt_pg_query_one(c->pg, &cert_newest, &p, &r, &c->err) < 0)
            return mt_api_fail_err(c);
        return reply(c, f->used_by, mt_pg_text(r, 0, 0));
    }
    if (rc != 0)
        return rc < 0 ? -1 : mt_api_fail(c, 503, "unavailable", "too many nodes enrol at once");
    mt_log(MT_INFO, "node.enrolled", KV("node_id", (const char *)node_id), KV("name", w->name), KV("address", (const char *)w->address));
    mt_api_trail_note(c, "node.enroll", "allow", NULL, "node", node_id, NULL);
    return reply(c, node_id, pem);
}

int mt_api_enroll(struct mt_api_call *c)
{
    struct wish w;
    struct found f = {0};
    if (!c->ctl->node_ca)
        return mt_api_not_found(c, "way in for nodes");
    if (mt_history_state(c->ctl->history) == MT_RECOVERY_FROZEN)
        return mt_api_in_recovery(c);
    int rc = read_wish(c, &w) < 0 || find_token(c, &w, &f) < 0 || check_routes(c) < 0 ? -1 : enroll(c, &w, &f);
    json_decref(f.roles);
    return rc;
}

/* ---------------------------------------------------------------- the first call with the certificate */

int mt_api_node_confirm(struct mt_api_call *c)
{
    static const char *const known[] = {NULL};
    struct mt_node n;
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &n) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (!MT_STREQ(n.admin_state, "enrolled"))
        return mt_api_send(c, 200, json_pack("{s:s}", "admin_state", n.admin_state));
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n.node_id);
    if (mt_pg_query_one(c->pg, &approval, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    const char *to = mt_pg_bool(r, 0, 0) ? "pending_approval" : "active";
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = n.node_id, .request_id = c->request_id};
    if (mt_cmd_new(&actor, &cmd, &c->err) < 0 || mt_cmd_rely(cmd, MT_RELY_NODE, n.node_id, NULL, n.version, &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_NODE_ADMIN_STATE_CHANGED, n.node_id, &none,
                     json_pack("{s:s,s:s,s:s}", "old", "enrolled", "new", to, "reason", "the node has its certificate"), &c->err) < 0)
        return mt_api_fail_err(c);
    int rc = append(c, MT_TAKE(cmd), &done);
    mt_cmd_done_free(&done);
    return rc < 0 ? mt_api_fail_err(c) : mt_api_send(c, 200, json_pack("{s:s}", "admin_state", to));
}

/* ---------------------------------------------------------------- renewal */

static int known_key(struct mt_api_call *c, const struct mt_node *n, const char *spki)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n->node_id);
    if (mt_pg_query_one(c->pg, &fingerprint_of, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return MT_STREQ(mt_pg_text(r, 0, 0), spki) ? mt_api_fail(c, 422, "csr_invalid", "a new certificate needs a new key, this is the one before") : 0;
}

int mt_api_node_cert(struct mt_api_call *c)
{
    static const char *const known[] = {"csr", "kind", NULL};
    const char *csr, *word;
    struct mt_node n;
    struct mt_x509_csr asked;
    struct mt_x509_cert about;
    mt_auto_free char *pem = NULL;
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    char until[MT_RFC3339_LEN];
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &n) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "csr", true, 8192, &csr) < 0 ||
        mt_api_text(c, "kind", false, 8, &word) < 0)
        return -1;
    enum mt_cert_kind kind = word && MT_STREQ(word, "edge") ? MT_CERT_EDGE : MT_CERT_NODE;
    if (word && !MT_STREQ(word, mt_cert_kind_name(kind)))
        return mt_api_fail(c, 400, "invalid_argument", "'kind' is node or edge");
    if (!c->ctl->node_ca)
        return mt_api_not_found(c, "authority for certificates");
    if (kind == MT_CERT_NODE && n.local)
        return mt_api_fail(c, 409, "conflict", "the machine's own node is known by its socket and needs no certificate");
    if (kind == MT_CERT_EDGE && !n.edge)
        return mt_api_fail(c, 403, "forbidden", "node %s has no edge", n.node_id);
    if (mt_x509_csr_read(csr, &asked, &c->err) < 0)
        return mt_api_fail(c, 422, "csr_invalid", "%s", c->err.msg);
    if (!MT_STREQ(asked.cn, n.node_id))
        return mt_api_fail(c, 422, "csr_invalid", "the certificate request is for '%s', the caller is %s", asked.cn, n.node_id);
    if (known_key(c, &n, asked.spki_sha256) < 0)
        return -1;
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = n.node_id, .request_id = c->request_id};
    if (mt_node_ca_sign(c->ctl->node_ca, csr, c->ctl->cluster_id, kind, n.node_id, n.overlay_ipv6, CERT_DAYS, &pem, &about, &c->err) < 0 ||
        mt_cmd_new(&actor, &cmd, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_rfc3339(about.not_after_s * 1000000, until);
    if (mt_cmd_event(cmd, MT_EV_NODE_CERTIFICATE_RENEWED, n.node_id, &none,
                     json_pack("{s:s,s:s,s:s,s:s}", "kind", mt_cert_kind_name(kind), "cert_fingerprint", about.spki_sha256, "serial", about.serial,
                               "not_after", until),
                     &c->err) < 0)
        return mt_api_fail_err(c);
    if (put_certificate(c, cmd, n.node_id, kind, &about, pem) < 0)
        return -1;
    int rc = append(c, MT_TAKE(cmd), &done);
    mt_cmd_done_free(&done);
    if (rc < 0)
        return mt_api_fail_err(c);
    return mt_api_send(c, 200, json_pack("{s:s,s:s,s:s,s:s}", "certificate", pem, "ca", mt_node_ca_trust(c->ctl->node_ca, NULL), "not_after", until, "kind",
                                         mt_cert_kind_name(kind)));
}
