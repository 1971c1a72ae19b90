/* SPDX-License-Identifier: Apache-2.0 */
/* Log drains: where the log lines of an organisation go besides (docs/logs.md). The token goes in and reaches the nodes that have instances
 * of the organisation alone; each that gets it is in the audit log before it goes. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "control/nodes/local.h"
#include "control/registry/store.h"
#include "model/names.h"
#include "os/sock.h"
#include "wire/json.h"

#define TARGET_MAX 2048
#define HEADER_MAX 64
#define PEM_MAX 16384
#define TOKEN_CHARS "token characters of RFC 9110: letters, digits and -"

#define DRAIN_OBJECT                                                                                                                             \
    "json_strip_nulls(json_build_object('id',drain_id,'org_id',org_id,'name',name,'kind',kind,'target',target,'header',header,'ca_pem',ca_pem,"  \
    "'has_token',material_id IS NOT NULL,'updated_by',set_by,'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(drains, DRAIN_OBJECT, "log_drains_view", "drain_id", "org_id = $1 AND NOT deleted AND ($2::text IS NULL OR name = $2)", "3", "4");
static const struct mt_pg_stmt drain_row = {
    "drain_row", "SELECT drain_id, resource_version, deleted, " MT_SQL_TS("created_at") " FROM log_drains_view WHERE org_id = $1 AND name = $2"
                 " ORDER BY deleted, drain_id DESC LIMIT 1"};
/* Whose drains are a node's business: an instance of theirs is there. A node that has lines of one that was there goes on by itself. */
#define ON_NODE "EXISTS (SELECT 1 FROM instances_view i JOIN envs_view e USING (env_id) WHERE i.node_id = $1 AND i.released_at IS NULL AND i.org_id = d.org_id)"
static const struct mt_pg_stmt drains_on_node = {
    "drains_on_node", "SELECT json_build_object('log_drains', COALESCE(json_agg(json_build_object('id',drain_id,'org_id',org_id,'version',resource_version,'since_ms',(extract(epoch FROM created_at)*1000)::int8)"
                      " ORDER BY drain_id), '[]'::json))::text FROM (SELECT * FROM log_drains_view d WHERE NOT d.deleted AND " ON_NODE " LIMIT 1000) d"};
static const struct mt_pg_stmt drain_on_node = {
    "drain_on_node", "SELECT d.org_id, d.kind, d.target, d.header, d.ca_pem, d.material_id, " ON_NODE " FROM log_drains_view d WHERE NOT d.deleted AND d.drain_id = $2"};

int mt_api_drains_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &drains_asc, .desc = &drains_desc};
    const char *name = mt_api_query(c, "name");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_pg_p_text(&l.params, name);
    return mt_api_send_list(c, &l);
}

static int load(struct mt_api_call *c, const char *name, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    if (mt_name_check(MT_NAME_ORG, name, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_id", "a drain's name is made of letters, digits and -, begins with a letter and has 2 to 39 characters");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, name);
    return mt_pg_query(c->pg, &drain_row, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

/* A text of the body that may be left out, without control bytes but for line feeds where @lines. It may be secret: no message repeats it. */
static int word(struct mt_api_call *c, const char *name, size_t max, bool lines, const char **ret)
{
    const json_t *v = json_object_get(c->body, name);
    const char *t = json_string_value(v);
    *ret = t;
    if (!v || json_is_null(v))
        return 0;
    bool ok = t && json_string_length(v) >= 1 && json_string_length(v) <= max;
    for (const char *p = t; ok && *p; p++)
        ok = ((unsigned char)*p >= 0x20 && *p != 0x7f) || (lines && (*p == '\n' || *p == '\r'));
    return ok ? 0 : mt_api_fail(c, 400, "invalid_argument", "'%s': a text of 1 to %zu bytes without control bytes", name, max);
}

/* Where lines may go at all: always over TLS. Whether the address is public is asked by the node, each time it connects. */
static int check_target(struct mt_api_call *c, const char *kind, const char *target)
{
    char host[256], at[300];
    uint16_t port;
    if (MT_STREQ(kind, "syslog")) {
        if (mt_sock_split(target, host, &port, &c->err) < 0 || host[strcspn(host, "/@ ")] != '\0')
            return mt_api_fail(c, 400, "invalid_argument", "'target': host:port of a receiver of syslog over TLS, for example logs.example.com:6514");
        return 0;
    }
    const char *from = target + 8;
    size_t n = mt_starts_with(target, "https://") ? strcspn(from, "/?#") : 0;
    bool port_given = n && memchr(from[0] == '[' ? from + strcspn(from, "]") : from, ':', from[0] == '[' ? n - strcspn(from, "]") : n);
    if (n == 0 || n > 260 || memchr(from, '@', n) || strchr(target, ' ') || strchr(target, '#') || mt_fmt(at, sizeof at, &c->err, "%.*s%s", (int)n, from, port_given ? "" : ":443") < 0 ||
        mt_sock_split(at, host, &port, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'target': an https URL that takes OTLP/HTTP logs, without user or fragment, for example https://otlp.example.com/v1/logs; a token goes into 'token'");
    return 0;
}

struct wanted {
    const char *kind, *target, *token, *header, *ca;
};

static int read_body(struct mt_api_call *c, struct wanted *w)
{
    if (word(c, "kind", 16, false, &w->kind) < 0 || word(c, "target", TARGET_MAX, false, &w->target) < 0 ||
        word(c, "token", MT_REGISTRY_PASSWORD_MAX, false, &w->token) < 0 || word(c, "header", HEADER_MAX, false, &w->header) < 0 || word(c, "ca_pem", PEM_MAX, true, &w->ca) < 0)
        return -1;
    bool otlp = w->kind && MT_STREQ(w->kind, "otlp");
    if (!otlp && (!w->kind || !MT_STREQ(w->kind, "syslog")))
        return mt_api_fail(c, 400, "invalid_argument", "'kind': is required, syslog or otlp");
    if (!w->target)
        return mt_api_fail(c, 400, "invalid_argument", "'target': is required");
    if (!otlp && w->token)
        return mt_api_fail(c, 400, "invalid_argument", "'token': syslog has none; a receiver knows its senders by address or by what the structured data says");
    if (w->header && (!w->token || w->header[strspn(w->header, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")] != '\0'))
        return mt_api_fail(c, 400, "invalid_argument", "'header': the name of the header that the token is the value of: " TOKEN_CHARS);
    for (const char *p = w->token ? w->token : ""; *p; p++)
        if ((unsigned char)*p > 0x7e)
            return mt_api_fail(c, 400, "invalid_argument", "'token': is ASCII");
    if (w->ca && !strstr(w->ca, "-----BEGIN CERTIFICATE-----"))
        return mt_api_fail(c, 400, "invalid_argument", "'ca_pem': certificates in PEM");
    return check_target(c, w->kind, w->target);
}

static int prepare_put(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"kind", "target", "token", "header", "ca_pem", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct wanted w = {0};
    const char *name = mt_api_param(c, "drain");
    char id[MT_ID_SIZE], material[MT_ID_SIZE] = "";
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, name, &r) < 0 || read_body(c, &w) < 0)
        return -1;
    bool there = mt_pg_rows(r) && !mt_pg_bool(r, 0, 2);
    int64_t version = there ? mt_pg_i64(r, 0, 1) : 0;
    if (mt_api_check_version(c, there, version, "log drain") < 0)
        return -1;
    if (there)
        (void)snprintf(id, sizeof id, "%s", mt_pg_text(r, 0, 0));
    else
        mt_id_new(MT_ID_DRAIN, id);
    if ((there && mt_cmd_rely(cmd, MT_RELY_DRAIN, id, NULL, version, &c->err) < 0) || mt_cmd_rely(cmd, MT_RELY_ORG_LIVE, c->org.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (w.token && mt_registry_put(c->ctl->keys, cmd, c->org.id, id, w.token, strlen(w.token), material, &c->err) < 0) {
        if (c->err.code != MT_E_UNAVAILABLE)
            return mt_api_fail_err(c);
        mt_log(MT_ERROR, "drains.no_key", KV("org_id", (const char *)c->org.id), KV_ERR(&c->err));
        return mt_api_fail(c, 503, "master_key_unavailable", "the server lacks the master key for tokens");
    }
    if (!w.token && there && mt_registry_drop(cmd, id, &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = there ? 200 : 201;
    made->operation = "drain.set";
    made->ids = json_pack("{s:s}", "log_drain_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:b,s:s,s:I}", "id", id, "org_id", c->org.id, "name", name, "kind", w.kind, "target", w.target, "has_token", (int)(w.token != NULL),
                             "updated_by", c->who.subject_id, "resource_version", (json_int_t)version + 1);
    json_t *payload = json_pack("{s:s,s:s,s:s,s:s*,s:s*,s:s*}", "name", name, "kind", w.kind, "target", w.target, "header", w.header, "ca_pem", w.ca, "material_id", *material ? material : NULL);
    if (w.header)
        json_object_set_new(made->object, "header", json_string(w.header));
    if (w.ca)
        json_object_set_new(made->object, "ca_pem", json_string(w.ca));
    json_object_set_new(made->object, "created_at", there ? json_string(mt_pg_text(r, 0, 3)) : json_null());
    json_object_set_new(made->object, "updated_at", json_null());
    return mt_api_event(c, cmd, there ? MT_EV_LOG_DRAIN_UPDATED : MT_EV_LOG_DRAIN_CREATED, id, payload);
}

int mt_api_drains_put(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_put);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *name = mt_api_param(c, "drain");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, name, &r) < 0)
        return -1;
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "log drain");
    const char *id = mt_pg_text(r, 0, 0);
    bool gone = mt_pg_bool(r, 0, 2);
    int64_t version = mt_pg_i64(r, 0, 1);
    mt_api_deleted(made, "drain.delete", "log_drain_id", id, gone);
    if (gone)
        return 0;
    if (mt_api_check_version(c, false, version, "log drain") < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_DRAIN, id, NULL, version, &c->err) < 0 || mt_registry_drop(cmd, id, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_LOG_DRAIN_DELETED, id, json_pack("{s:s}", "name", name));
}

int mt_api_drains_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}

/* ---------------------------------------------------------------- to a node */

static int caller(struct mt_api_call *c, struct mt_node *node)
{
    if (mt_node_caller(c, MT_CERT_NODE, node) < 0 || mt_api_query_done(c) < 0)
        return -1;
    (void)snprintf(c->who.subject_id, sizeof c->who.subject_id, "%s", node->node_id);
    (void)snprintf(c->who.subject_type, sizeof c->who.subject_type, "node");
    return 0;
}

int mt_api_node_drains(struct mt_api_call *c)
{
    struct mt_node node;
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (caller(c, &node) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node.node_id);
    if (mt_pg_query_one(c->pg, &drains_on_node, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    char *t = strdup(mt_pg_text(r, 0, 0));
    if (!t) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "log drains");
        return mt_api_fail_err(c);
    }
    return mt_api_send_text(c, 200, t, strlen(t));
}

/* The text is wiped when it was sent (wire/http_reply.c). */
static int deliver(struct mt_api_call *c, const struct mt_pg_res *r, const struct mt_lockmem *token)
{
    json_t *o = json_pack("{s:s,s:s,s:s*,s:s*,s:s*}", "kind", mt_pg_text(r, 0, 1), "target", mt_pg_text(r, 0, 2), "header", mt_pg_null(r, 0, 3) ? NULL : mt_pg_text(r, 0, 3), "ca_pem",
                          mt_pg_null(r, 0, 4) ? NULL : mt_pg_text(r, 0, 4), "token", token->p ? (const char *)token->p : NULL);
    char *t = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!t) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "log drain");
        return mt_api_fail_err(c);
    }
    return mt_api_send_text(c, 200, t, strlen(t));
}

/* That an instance of the organisation is here is the authorisation. */
int mt_api_node_drain(struct mt_api_call *c)
{
    struct mt_node node;
    struct mt_pg_params p;
    const char *id;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_lockmem struct mt_lockmem token = {0};
    if (caller(c, &node) < 0)
        return -1;
    if (mt_json_get_str(c->body, "log_drain_id", MT_ID_SIZE, &id, &c->err) < 0 || mt_id_check(MT_ID_DRAIN, id, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node.node_id);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &drain_on_node, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "log drain");
    (void)snprintf(c->org.id, sizeof c->org.id, "%s", mt_pg_text(r, 0, 0));
    if (!mt_pg_bool(r, 0, 6)) {
        mt_api_trail_note(c, "drain.deliver", "deny", "forbidden", "log_drain", id, NULL);
        return mt_api_fail(c, 403, "forbidden", "the organisation of log drain %s has no instance on this node", id);
    }
    if (!mt_pg_null(r, 0, 5) && mt_registry_secret(c->ctl->keys, c->pg, c->org.id, id, mt_pg_text(r, 0, 5), &token, &c->err) < 0) {
        mt_log(MT_ERROR, "drains.do_not_open", KV("org_id", (const char *)c->org.id), KV_ERR(&c->err));
        return c->err.code == MT_E_UNAVAILABLE ? mt_api_fail(c, 503, "master_key_unavailable", "the server lacks the master key for tokens") : mt_api_fail_err(c);
    }
    if (mt_api_trail_read(c, "drain.deliver", "log_drain", id) < 0)
        return -1;
    mt_log(MT_INFO, "drain.delivered", KV("log_drain_id", id), KV("node_id", (const char *)node.node_id));
    return deliver(c, r, &token);
}
