/* SPDX-License-Identifier: Apache-2.0 */
/* Refusals: the table of error codes (control-plane.md §9.2) and problem+json. */
#include "control/api/call.h"
#include "control/log/history.h"

#include "base/log.h"
#include "base/str.h"

#include <stdarg.h>

static const struct {
    const char *code;
    int status;
    bool retryable;
    const char *title;
} codes[] = {
    {"invalid_secrets_format", 400, false, "The secrets file is malformed"},
    {"secrets_too_large", 400, false, "The secrets are too large together"},
    {"too_many_keys", 400, false, "There are too many secrets"},
    {"invalid_key", 400, false, "The name of a secret is not valid"},
    {"value_too_large", 400, false, "The value of a secret is too large"},
    {"reserved_key", 400, false, "The name belongs to the platform"},
    {"invalid_argument", 400, false, "The request has a bad value"},
    {"invalid_json", 400, false, "The body is not the JSON object expected"},
    {"unknown_field", 400, false, "The body has a field that is not known"},
    {"invalid_cursor", 400, false, "The cursor does not belong to this list"},
    {"invalid_id", 400, false, "The id is malformed"},
    {"no_changes", 400, false, "The request changes nothing"},
    {"expected_version_required", 400, false, "The version this change is based on is missing"},
    {"manifest_invalid", 400, false, "The manifest has errors"},
    {"unknown_process_type", 400, false, "The release has no such process type"},
    {"image_not_found", 400, false, "The registry has no such image"},
    {"image_platform_unsupported", 400, false, "The image has no platform that can run here"},
    {"image_too_large", 400, false, "The image is above the size limit"},
    {"invalid_mount_path", 400, false, "Nothing is mounted at such a path"},
    {"port_not_allowed", 400, false, "The port may not be used"},
    {"hostname_invalid", 400, false, "The host name is not valid"},
    {"volume_shrink_unsupported", 400, false, "A volume never becomes smaller"},
    {"not_supported", 400, false, "Not supported in this version"},
    {"unauthorized", 401, false, "A valid token is needed"},
    {"token_expired", 401, false, "The token has expired"},
    {"token_revoked", 401, false, "The token was revoked"},
    {"invalid_client", 401, false, "The client id or its secret is not valid"},
    {"invalid_grant", 401, false, "The refresh token is not valid"},
    {"authorization_pending", 400, true, "Nobody has approved the login yet"},
    {"slow_down", 400, true, "The client asks too often"},
    {"expired_token", 400, false, "The login has expired"},
    {"access_denied", 400, false, "The login was denied"},
    {"forbidden", 403, false, "Not allowed"},
    {"insufficient_scope", 403, false, "The token lacks a scope"},
    {"restricted_token", 403, false, "The token is restricted to other objects"},
    {"snapshot_not_ready", 409, false, "The snapshot cannot be restored"},
    {"proxy_port_conflict", 409, false, "The port has, or has not, the PROXY header on other routes"},
    {"domain_not_proven", 409, false, "The domain is not shown to be yours"},
    {"operator_only", 403, false, "Only operators may do this"},
    {"account_disabled", 403, false, "The account is disabled"},
    {"not_found", 404, false, "Not found"},
    {"method_not_allowed", 405, false, "The method is not allowed here"},
    {"conflict", 409, false, "The state does not allow this now"},
    {"version_conflict", 409, false, "The object was changed meanwhile"},
    {"idempotency_key_reuse", 409, false, "The idempotency key was used with another body"},
    {"name_taken", 409, false, "The name is taken"},
    {"hostname_taken", 409, false, "The host name is taken"},
    {"port_taken", 409, false, "The port is taken"},
    {"last_owner", 409, false, "The last owner must stay"},
    {"quota_exceeded", 409, false, "A limit of the organisation is reached"},
    {"has_dependents", 409, false, "Other objects depend on this one"},
    {"route_backend_missing", 409, false, "A route would lose its backend"},
    {"config_gate_unmet", 409, false, "Nobody has said what secrets the environment needs"},
    {"secrets_missing", 409, false, "Required secrets are missing"},
    {"ipv4_not_enabled", 409, false, "The environment has no IPv4 address"},
    {"ipv4_in_use", 409, false, "The IPv4 address is needed"},
    {"ipv4_pool_exhausted", 409, false, "No IPv4 address is free"},
    {"volume_replica_limit", 409, false, "A process with volumes has one replica at most"},
    {"no_capacity_storage", 409, false, "No node has room for the volume"},
    {"volume_attached", 409, false, "The volume is attached"},
    {"migration_in_progress", 409, false, "The volume is on its way to another node"},
    {"node_not_eligible", 409, false, "The node does not take this"},
    {"volume_already_attached", 409, false, "The volume is attached to something else"},
    {"mount_path_conflict", 409, false, "Another volume of the process is in the way"},
    {"too_many_mounts", 409, false, "The process has as many volumes as there may be"},
    {"volume_in_use", 409, false, "An instance uses the volume"},
    {"volume_size_mismatch", 409, false, "The volume is smaller than asked for"},
    {"volume_home_node_mismatch", 409, false, "The volumes of a process live on different nodes"},
    {"snapshot_in_progress", 409, false, "A snapshot of the volume is being made"},
    {"backup_store_missing", 409, false, "The node of the volume can make no backups"},
    {"node_has_volumes", 409, false, "Volumes live on the node"},
    {"instance_not_execable", 409, false, "The instance takes no commands now"},
    {"no_rollback_target", 409, false, "There is no release to go back to"},
    {"material_shredded", 410, false, "The content is destroyed"},
    {"precondition_failed", 412, false, "The precondition does not hold"},
    {"payload_too_large", 413, false, "The body is too large"},
    {"unsupported_media_type", 415, false, "The body must be JSON"},
    {"agent_incompatible", 426, false, "The agent's version does not fit"},
    {"rate_limited", 429, true, "Too many requests"},
    {"too_many_streams", 429, true, "Too many streams are open"},
    {"too_many_exec_sessions", 429, true, "Too many exec sessions"},
    {"internal", 500, false, "Something went wrong on the server"},
    {"decrypt_failed", 500, false, "Stored secrets do not open"},
    {"unavailable", 503, true, "The server cannot do this at the moment"},
    {"master_key_unavailable", 503, true, "A key of the server is missing"},
    {"recovery", 503, true, "The database was restored to an older point"},
    {"maintenance", 503, true, "The platform is in maintenance"},
    {"database_unavailable", 503, true, "The database is not available"},
    {"view_rebuilding", 503, true, "What is asked for is being made from the log"},
    {"registry_unavailable", 503, true, "The registry is not available"},
    {"enroll_token_invalid", 401, false, "The enrolment token is not good"},
    {"node_disabled", 403, false, "The node is disabled"},
    {"wireguard_key_exists", 409, false, "Another node has that WireGuard key"},
    {"csr_invalid", 422, false, "The certificate request cannot be signed"},
    {"wireguard_key_invalid", 422, false, "That is no WireGuard key"},
    {"clock_skew", 422, false, "The node's clock is wrong"},
    {"overlay_prefix_conflict", 409, false, "The cluster's prefix is in use where the node is"},
    {"mesh_full", 503, false, "The mesh takes no further node"},
    {"ipam_exhausted", 503, false, "No address is left"},
    {"projection_timeout", 504, true, "The view did not catch up in time"},
};

bool mt_api_code_known(const char *code, int *ret_status)
{
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (MT_STREQ(codes[i].code, code)) {
            *ret_status = codes[i].status;
            return true;
        }
    return false;
}

void mt_api_codes_print(FILE *out)
{
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        (void)fprintf(out, "%d\t%s\t%s\t%s\n", codes[i].status, codes[i].code, codes[i].retryable ? "retry" : "-", codes[i].title);
}

int (mt_api_fail)(struct mt_api_call *c, int status, const char *code, const char *fmt, ...)
{
    va_list ap;
    struct mt_api_problem *p = &c->problem;
    p->status = status;
    snprintf(p->code, sizeof p->code, "%s", code);
    va_start(ap, fmt);
    vsnprintf(p->detail, sizeof p->detail, fmt, ap);
    va_end(ap);
    if (status == 503 && p->retry_after == 0)
        p->retry_after = 1;
    return -1;
}

int (mt_api_not_found)(struct mt_api_call *c, const char *what)
{
    return mt_api_fail(c, 404, "not_found", "there is no such %s", what);
}

int mt_api_not_ready(struct mt_api_call *c)
{
    struct mt_control *ctl = c->ctl;
    if (!atomic_load(&ctl->making_views))
        return mt_api_fail(c, 503, "database_unavailable", "the server is waiting for its database");
    c->problem.retry_after = 5;
    return mt_api_fail(c, 503, "view_rebuilding", "this version has other views than the database had: they are being made from the log (event %lld of %lld)",
                       (long long)atomic_load(&ctl->views_at), (long long)atomic_load(&ctl->views_of));
}

int mt_api_in_recovery(struct mt_api_call *c)
{
    c->problem.retry_after = 30;
    return mt_api_fail(c, 503, "recovery", MT_HISTORY_REFUSAL ": its database was restored to an older point, and nothing can be changed"
                       " until an operator has decided (moat admin recovery plan). What runs goes on");
}

/* The server answers, and refuses to write: read-only (25006), out of disk, memory or connections (53...). src/pg/conn.c puts the
 * state in brackets behind the server's text. */
static bool takes_no_writes(const struct mt_err *err)
{
    return strstr(err->msg, " (25006") || strstr(err->msg, " (53");
}

int (mt_api_fail_err)(struct mt_api_call *c)
{
    switch (c->err.code) {
    case MT_E_UNAVAILABLE:
    case MT_E_TIMEOUT:
    case MT_E_CANCELLED:
        if (strstr(c->err.msg, MT_HISTORY_REFUSAL))
            return mt_api_in_recovery(c);
        if (takes_no_writes(&c->err)) {
            mt_log(MT_ERROR, "api.database_takes_no_writes", KV("request_id", c->request_id), KV_ERR(&c->err));
            return mt_api_fail(c, 503, "unavailable", "the database takes no changes at the moment (read-only, or its disk is full)");
        }
        mt_log(MT_WARN, "api.database_unavailable", KV("request_id", c->request_id), KV_ERR(&c->err));
        return mt_api_fail(c, 503, "database_unavailable", "the database is not reachable; nothing is known to be changed");
    case MT_E_LIMIT:
        return mt_api_fail(c, 503, "unavailable", "the server is busy: %s", c->err.msg);
    case MT_E_CONFLICT: /* nothing was appended; the text may be the database's, so it is for the log */
        mt_log(MT_INFO, "api.conflict", KV("request_id", c->request_id), KV_ERR(&c->err));
        c->problem.retryable = true;
        c->problem.retry_after = 1;
        return mt_api_fail(c, 409, "conflict", "what this depends on was changed at the same moment and nothing was done; try again");
    case MT_E_INVALID:
        return mt_api_fail(c, 400, "invalid_argument", "%s", c->err.msg);
    case MT_OK:
    case MT_E_NOT_FOUND:
    case MT_E_IO:
    case MT_E_NOMEM:
    case MT_E_CORRUPT:
    case MT_E_DENIED:
    case MT_E_MAX:
        break;
    }
    mt_log(MT_ERROR, "api.internal", KV("request_id", c->request_id), KV_ERR(&c->err), KV("file", c->err.file),
           KV("line", c->err.line));
    return mt_api_fail(c, 500, "internal", "the request could not be carried out; the server's log has request %s",
                       c->request_id);
}

void mt_api_send_problem(struct mt_api_call *c)
{
    struct mt_api_problem *p = &c->problem;
    const char *title = "Error";
    bool retryable = p->status >= 503;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (MT_STREQ(codes[i].code, p->code)) {
            title = codes[i].title;
            retryable = codes[i].retryable || p->retryable;
        }
    char type[80], retry[16];
    snprintf(type, sizeof type, "urn:moat:error:%s", p->code);
    json_t *o = json_pack("{s:s,s:s,s:i,s:s#,s:s,s:s,s:s,s:b}", "type", type, "title", title, "status", p->status, "detail",
                          mt_utf8_valid(p->detail, strlen(p->detail)) ? p->detail : title,
                          mt_utf8_valid(p->detail, strlen(p->detail)) ? (int)strlen(p->detail) : (int)strlen(title),
                          "instance", mt_http_req_path(c->http), "code", p->code, "request_id", c->request_id, "retryable",
                          retryable);
    if (p->retry_after > 0) {
        snprintf(retry, sizeof retry, "%d", p->retry_after);
        mt_http_add_header(c->http, "Retry-After", retry);
        if (o)
            json_object_set_new(o, "retry_after_seconds", json_integer(p->retry_after));
    }
    if (o && p->errors)
        json_object_set(o, "errors", p->errors);
    if (o && p->details)
        json_object_set(o, "details", p->details);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    mt_http_reply(c->http, (unsigned)p->status, "application/problem+json", text, text ? strlen(text) : 0);
}
