/* SPDX-License-Identifier: Apache-2.0 */
/* Enrolment tokens (networking.md §1.1): made and revoked by operators, good once. The text is shown once; kept is its hash. */
#include "control/api/handlers.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/nodes/ca.h"
#include "model/names.h"
#include "wire/json.h"

#include <arpa/inet.h>

#define TTL_MIN 300
#define TTL_MAX 86400
#define TTL_DEFAULT 3600

#define ENR_OBJECT                                                                                                                     \
    "json_strip_nulls(json_build_object('id',enr_id,'roles',roles,'node_name',node_name,'source_cidr',source_cidr,'require_approval',"  \
    "require_approval,'expires_at'," MT_SQL_TS("expires_at") ",'created_by',created_by,'used_by',used_by,'used_at'," MT_SQL_TS("used_at") \
    ",'state',CASE WHEN deleted THEN 'revoked' WHEN used_by IS NOT NULL THEN 'used' WHEN expires_at < now() THEN 'expired' ELSE 'unused' END," \
    "'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(enrs, ENR_OBJECT, "enrollment_tokens_view", "enr_id", "true", "1", "2");
static const struct mt_pg_stmt enr_row = {
    "enr_row", "SELECT deleted, used_by IS NOT NULL, resource_version FROM enrollment_tokens_view WHERE enr_id = $1"};
static const struct mt_pg_stmt hash_put = {"enr_hash_put", "INSERT INTO moat.enrollment_token_hashes (enr_id, token_hash) VALUES ($1, $2)"};
/* Unused only: a token whose node is on its way in keeps its row, so that a lost answer can be asked for again. */
static const struct mt_pg_stmt hash_drop = {"enr_hash_drop", "DELETE FROM moat.enrollment_token_hashes WHERE enr_id = $1 AND used_at IS NULL"};

int mt_api_enrollment_tokens_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &enrs_asc, .desc = &enrs_desc};
    mt_pg_p_init(&l.params);
    return mt_api_send_list(c, &l);
}

/* "worker", "edge", "control", each once, one at least; absent: worker. */
static int read_roles(struct mt_api_call *c, json_t **ret)
{
    static const char *const words[] = {"worker", "edge", "control"};
    json_t *given = json_object_get(c->body, "roles"), *v;
    size_t i;
    bool seen[3] = {false};
    if (!given || json_is_null(given)) {
        *ret = json_pack("[s]", "worker");
        return 0;
    }
    if (!json_is_array(given) || json_array_size(given) < 1)
        return mt_api_fail(c, 400, "invalid_argument", "'roles' is an array of worker, edge and control");
    json_array_foreach (given, i, v) {
        size_t k = 0;
        while (k < 3 && !(json_is_string(v) && MT_STREQ(json_string_value(v), words[k])))
            k++;
        if (k == 3 || seen[k])
            return mt_api_fail(c, 400, "invalid_argument", "'roles' is an array of worker, edge and control, each once at most");
        seen[k] = true;
    }
    *ret = json_deep_copy(given);
    return 0;
}

static bool cidr_valid(const char *text)
{
    char host[INET6_ADDRSTRLEN];
    uint8_t raw[16];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : sizeof host;
    char *end;
    if (n >= sizeof host)
        return false;
    memcpy(host, text, n);
    host[n] = 0;
    unsigned long max = inet_pton(AF_INET6, host, raw) == 1 ? 128 : inet_pton(AF_INET, host, raw) == 1 ? 32 : 0;
    return max && slash[1] >= '0' && slash[1] <= '9' && strtoul(slash + 1, &end, 10) <= max && *end == 0;
}

/* The text that `moat-agent join` takes: the token, and the key of our authority, so that it is shown to nobody else. */
static void join_text(struct mt_api_call *c, const char *token, char ret[400])
{
    uint8_t pin[32];
    char text[MT_B64URL_SIZE(32)];
    (void)mt_hex_decode(mt_node_ca_pin(c->ctl->node_ca), 32, pin);
    (void)mt_b64url_encode(pin, sizeof pin, text);
    snprintf(ret, 400, "%s.%s", token, text);
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"roles", "node_name", "source_cidr", "require_approval", "ttl_seconds", NULL};
    const char *name, *cidr;
    bool approval;
    int64_t ttl;
    mt_auto_json json_t *roles = NULL;
    char id[MT_ID_SIZE], token[MT_TOKEN_SIZE], until[MT_RFC3339_LEN];
    uint8_t hash[32];
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || read_roles(c, &roles) < 0 || mt_api_text(c, "node_name", false, 63, &name) < 0 ||
        mt_api_text(c, "source_cidr", false, 49, &cidr) < 0 || mt_api_bool(c, "require_approval", c->ctl->conf.require_node_approval, &approval) < 0 ||
        mt_api_int(c, "ttl_seconds", false, TTL_MIN, TTL_MAX, TTL_DEFAULT, &ttl) < 0)
        return -1;
    if (name && !mt_name_valid(MT_NAME_NODE, name, strlen(name)))
        return mt_api_fail(c, 400, "invalid_argument", "'node_name' is no name of a node: lower-case letters, digits and dashes, beginning with a letter");
    if (cidr && !cidr_valid(cidr))
        return mt_api_fail(c, 400, "invalid_argument", "'source_cidr' is no address with a length, for example 2001:db8::/64 or 192.0.2.0/24");
    if (!c->ctl->node_ca)
        return mt_api_fail(c, 409, "conflict", "this control plane takes no nodes: set listen_nodes in its configuration");
    mt_id_new(MT_ID_ENROLMENT, id);
    mt_token_new(MT_TOKEN_ENROLMENT, token, hash);
    mt_rfc3339(mt_clock_wall_us() + ttl * 1000000, until);
    made->operation = "enrollment_token.create";
    made->status = 201;
    made->ids = json_pack("{s:s}", "enrollment_token_id", id);
    made->object = json_pack("{s:s,s:O,s:s*,s:s*,s:b,s:s,s:s,s:s,s:i,s:s*,s:s,s:n,s:n}", "id", id, "roles", roles, "node_name", name, "source_cidr", cidr,
                             "require_approval", approval, "expires_at", until, "created_by", c->who.subject_id, "state", "unused", "resource_version", 1,
                             "control_address", c->ctl->conf.nodes_address, "ca_pin", mt_node_ca_pin(c->ctl->node_ca), "created_at", "updated_at");
    made->secret_name = "token";
    join_text(c, token, made->secret);
    explicit_bzero(token, sizeof token);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    if (mt_cmd_side(cmd, &hash_put, &p, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ENROLLMENT_TOKEN_CREATED, id,
                        json_pack("{s:s,s:O,s:s*,s:s*,s:b}", "expires_at", until, "roles", roles, "node_name", name, "source_cidr", cidr,
                                  "require_approval", approval));
}

int mt_api_enrollment_tokens_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {NULL};
    const char *id = mt_api_param(c, "enrollment_token_id");
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &enr_row, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "enrolment token");
    if (mt_pg_bool(r, 0, 1))
        return mt_api_fail(c, 409, "conflict", "the token was used: disable the node that it let in");
    bool gone = mt_pg_bool(r, 0, 0);
    mt_api_deleted(made, "enrollment_token.revoke", "enrollment_token_id", id, gone);
    if (gone)
        return 0;
    /* the row must be there unused: a node that comes in at this moment wins or loses, never both */
    if (mt_cmd_side(cmd, &hash_drop, &p, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ENROLLMENT_TOKEN_REVOKED, id, json_object());
}

int mt_api_enrollment_tokens_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
