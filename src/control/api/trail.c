/* SPDX-License-Identifier: Apache-2.0 */
/* Audit records out of API calls. */
#include "control/api/trail.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/client_ip.h"
#include "control/audit/seal.h"
#include "os/digest.h"

#include <arpa/inet.h>

/* Texts that a record points to while it is made. */
struct made {
    struct mt_audit_rec r;
    char audit_id[MT_ID_SIZE], action[160], scopes[MT_AUDIT_TEXT_MAX + 1], key_hash[33], source[MT_CLIENT_IP_SIZE];
};

static const char *or_null(const char *s)
{
    return s && s[0] ? s : NULL;
}

/* "*" for every scope there is, else their names. */
static void put_scopes(uint64_t scopes, char *ret, size_t size)
{
    uint64_t all = 0;
    size_t n = 0;
    for (unsigned i = 0; mt_scopes_all[i]; i++)
        all |= mt_scope_bit(mt_scopes_all[i]);
    ret[0] = 0;
    if ((scopes & all) == all) {
        snprintf(ret, size, "*");
        return;
    }
    for (unsigned i = 0; mt_scopes_all[i] && n < size; i++)
        if (scopes & mt_scope_bit(mt_scopes_all[i]))
            n += (size_t)snprintf(ret + n, size - n, "%s%s", n ? " " : "", mt_scopes_all[i]);
}

static const char *param(const struct mt_api_call *c, const char *name)
{
    for (int i = 0; i < c->params_n; i++)
        if (MT_STREQ(c->param[i].name, name))
            return c->param[i].value;
    return NULL;
}

static void put_source(struct mt_api_call *c, struct made *m)
{
    struct in6_addr six;
    struct in_addr four;
    uid_t uid;
    pid_t pid;
    const char *ip = mt_api_client_ip(c, m->source);
    if (inet_pton(AF_INET6, ip, &six) != 1 && inet_pton(AF_INET, ip, &four) != 1) {
        if (mt_http_req_peer(c->http, &uid, &pid) < 0)
            return;
        snprintf(m->source, sizeof m->source, "unix:uid=%u", (unsigned)uid);
    }
    m->r.text[MT_AUDIT_T_source_ip] = m->source;
}

/* Who, from where, with what; and what was asked, where the route says it. */
static void begin(struct mt_api_call *c, struct made *m)
{
    const char *key = mt_http_req_header(c->http, "Idempotency-Key");
    char hex[MT_SHA256_HEX];
    *m = (struct made){.r = {.ts_us = mt_clock_wall_us()}};
    mt_id_new(MT_ID_AUDIT, m->audit_id);
    put_source(c, m);
    put_scopes(c->who.scopes, m->scopes, sizeof m->scopes);
    if (key) {
        mt_sha256_hex(key, strlen(key), hex);
        snprintf(m->key_hash, sizeof m->key_hash, "%.32s", hex);
    }
    if (c->route && (c->route->flags & MT_API_MUTATES))
        snprintf(m->action, sizeof m->action, "%s", c->route->summary);
    else if (c->route)
        snprintf(m->action, sizeof m->action, "%s %s", c->route->method, c->route->path);
    else
        snprintf(m->action, sizeof m->action, "request");
    const char **t = m->r.text;
    t[MT_AUDIT_T_audit_id] = m->audit_id;
    t[MT_AUDIT_T_action] = m->action;
    t[MT_AUDIT_T_decision] = "allow";
    t[MT_AUDIT_T_result] = "ok";
    t[MT_AUDIT_T_org_id] = or_null(c->org.id);
    t[MT_AUDIT_T_app_id] = or_null(c->app.id);
    t[MT_AUDIT_T_env_id] = or_null(c->env.id);
    t[MT_AUDIT_T_actor_id] = or_null(c->who.subject_id);
    t[MT_AUDIT_T_actor_type] = !c->who.subject_id[0]                       ? "anonymous"
                               : (c->route && (c->route->flags & MT_API_OPERATOR)) || MT_STREQ(c->who.kind, "break_glass") ? "operator"
                                                                     : c->who.subject_type;
    t[MT_AUDIT_T_token_id] = or_null(c->who.token_id);
    t[MT_AUDIT_T_scopes] = or_null(m->scopes);
    t[MT_AUDIT_T_request_id] = c->request_id;
    t[MT_AUDIT_T_idempotency_key_hash] = or_null(m->key_hash);
    t[MT_AUDIT_T_user_agent] = or_null(mt_http_req_header(c->http, "User-Agent"));
    /* The reason that an operator's action demands is what the record is for. */
    if (c->route && (c->route->flags & MT_API_OPERATOR) && c->body)
        t[MT_AUDIT_T_reason] = or_null(json_string_value(json_object_get(c->body, "reason")));
}

int mt_api_trail_command(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_api_made *made)
{
    struct made m;
    struct mt_cmd_event_view first;
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(32u << 10);
    begin(c, &m);
    if (made->operation)
        m.r.text[MT_AUDIT_T_action] = made->operation;
    if (mt_cmd_event_at(cmd, 0, &first)) {
        m.r.text[MT_AUDIT_T_resource_type] = mt_ev_info(first.ev)->aggregate_type;
        m.r.text[MT_AUDIT_T_resource_id] = first.aggregate_id;
        if (!m.r.text[MT_AUDIT_T_org_id]) /* an organisation that is born begins its own chain */
            m.r.text[MT_AUDIT_T_org_id] = first.org_id;
    }
    if (mt_audit_put(&m.r, &json, &c->err) < 0 || mt_cmd_audit(cmd, (const char *)json.p, json.len, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

int mt_api_trail_read(struct mt_api_call *c, const char *action, const char *resource_type, const char *resource_id)
{
    struct made m;
    begin(c, &m);
    m.r.text[MT_AUDIT_T_action] = action;
    m.r.text[MT_AUDIT_T_resource_type] = resource_type ? resource_type : c->env.id[0] ? "env" : NULL;
    m.r.text[MT_AUDIT_T_resource_id] = resource_id ? resource_id : or_null(c->env.id);
    return mt_audit_write(c->pg, &m.r, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static bool foreign(const struct mt_api_call *c)
{
    return c->problem.status == 404 && c->who.subject_id[0] && !c->org.id[0] && param(c, "org_id");
}

void mt_api_trail_refused(struct mt_api_call *c)
{
    int s = c->problem.status;
    bool denied = s == 401 || s == 403 || s == 429 || foreign(c);
    struct made m;
    if (!atomic_load(&c->ctl->ready) || !c->route || c->route->listener != MT_LISTEN_API)
        return;
    if (!denied && !(c->route->flags & MT_API_MUTATES))
        return;
    begin(c, &m);
    m.r.text[MT_AUDIT_T_decision] = denied ? "deny" : "allow";
    m.r.text[MT_AUDIT_T_result] = "error";
    m.r.text[MT_AUDIT_T_error_code] = c->problem.code;
    if (foreign(c)) {
        m.r.text[MT_AUDIT_T_resource_type] = "org";
        m.r.text[MT_AUDIT_T_resource_id] = param(c, "org_id");
    }
    if (c->who.subject_id[0])
        mt_audit_note(c->ctl->audit, &m.r);
    else
        mt_audit_note_anonymous(c->ctl->audit, &m.r);
}

void mt_api_trail_note(struct mt_api_call *c, const char *action, const char *decision, const char *error_code,
                       const char *resource_type, const char *resource_id, const char *reason)
{
    struct made m;
    if (!atomic_load(&c->ctl->ready))
        return;
    begin(c, &m);
    m.r.text[MT_AUDIT_T_action] = action;
    m.r.text[MT_AUDIT_T_decision] = decision;
    m.r.text[MT_AUDIT_T_result] = error_code ? "error" : "ok";
    m.r.text[MT_AUDIT_T_error_code] = error_code;
    m.r.text[MT_AUDIT_T_resource_type] = resource_type;
    m.r.text[MT_AUDIT_T_resource_id] = resource_id;
    if (reason)
        m.r.text[MT_AUDIT_T_reason] = reason;
    mt_audit_note(c->ctl->audit, &m.r);
}
