/* SPDX-License-Identifier: Apache-2.0 */
/* Exec sessions: grant, list, revoke, connect (control-plane.md §9.4, §11.3). What runs is what the grant says; the token is good once. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/client_ip.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "control/exec/gateway.h"
#include "control/streams/agent.h"
#include "wire/exec.h"
#include "wire/json.h"
#include "wire/websocket.h"

#define TOKEN_SECONDS 60
#define DURATION_DEFAULT 3600
#define WORD_MAX 8192    /* bytes of one word of the command or one value */
#define COMMAND_MAX 24576 /* of all words; the event and the agent's request hold them */
#define PER_INSTANCE 2
#define PER_ENV 10
#define PER_ORG_HOUR 100
#define AGENT_MS 3000

#define SESSION_OBJECT                                                                                                     \
    "json_strip_nulls(json_build_object('id',session_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,'instance_id',instance_id," \
    "'actor_type',actor_type,'actor_id',actor_id,'command',command,'tty',tty,'user',run_as,'status',status,'expires_at',"    \
    MT_SQL_TS("expires_at") ",'max_duration_seconds',max_duration_seconds,'connected_at'," MT_SQL_TS("connected_at")           \
    ",'ended_at'," MT_SQL_TS("ended_at") ",'exit_code',exit_code,'signal',signal,'end_reason',end_reason,'stdin_bytes',stdin_bytes," \
    "'output_bytes',output_bytes,'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(exec_sessions, SESSION_OBJECT, "exec_sessions_view", "session_id",
            "env_id = $1 AND ($2::text IS NULL OR instance_id = $2) AND ($3::text IS NULL OR status = $3)" MT_SQL_CREATED("4", "5"), "6",
            "7");
static const struct mt_pg_stmt session_get = {
    "exec_session_get", "SELECT " SESSION_OBJECT ", resource_version, status, instance_id FROM exec_sessions_view"
                        " WHERE env_id = $1 AND session_id = $2"};
static const struct mt_pg_stmt target = {
    "exec_target", "SELECT i.desired_state, i.status, i.resource_version,"
                   " (SELECT count(*) FROM exec_sessions_view s WHERE s.org_id = i.org_id AND s.created_at > now() - interval '1 hour')::int"
                   " FROM instances_view i WHERE i.env_id = $1 AND i.instance_id = $2"};
static const struct mt_pg_stmt token_put = {
    "exec_token_put", "INSERT INTO moat.exec_tokens (session_id, token_hash, org_id, app_id, env_id, grant_json, expires_at)"
                      " VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::timestamptz)"};
static const struct mt_pg_stmt token_claim = {
    "exec_token_claim",
    "UPDATE moat.exec_tokens t SET used_at = now(), alive_at = now(), gateway = $3 FROM exec_sessions_view v, instances_view i"
    " WHERE t.session_id = $1 AND t.token_hash = $2 AND t.used_at IS NULL AND NOT t.revoked AND t.expires_at > now()"
    " AND v.session_id = t.session_id AND v.status = 'granted' AND i.instance_id = v.instance_id"
    " RETURNING t.org_id, t.app_id, t.env_id, t.grant_json::text, " MT_SQL_TS("t.expires_at") ", v.actor_type, v.actor_id"};
static const struct mt_pg_stmt token_revoke = {"exec_token_revoke", "UPDATE moat.exec_tokens SET revoked = true WHERE session_id = $1"};
static const struct mt_pg_stmt token_drop = {"exec_token_gone", "DELETE FROM moat.exec_tokens WHERE session_id = $1"};

/* ---------------------------------------------------------------- reading */

int mt_api_exec_sessions_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &exec_sessions_asc, .desc = &exec_sessions_desc};
    const char *instance = mt_api_query(c, "instance_id"), *status = mt_api_query(c, "status");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->env.id);
    mt_pg_p_text(&l.params, instance);
    mt_pg_p_text(&l.params, status);
    if (mt_api_list_created(c, &l) < 0)
        return -1;
    return mt_api_send_list(c, &l);
}

static void session_params(struct mt_api_call *c, struct mt_pg_params *p)
{
    mt_pg_p_init(p);
    mt_pg_p_text(p, c->env.id);
    mt_pg_p_text(p, mt_api_param(c, "exec_session_id"));
}

int mt_api_exec_sessions_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    session_params(c, &p);
    return mt_api_send_row(c, &session_get, &p, "exec session");
}

/* ---------------------------------------------------------------- granting */

static int read_command(struct mt_api_call *c, json_t **ret)
{
    json_t *v = json_object_get(c->body, "command"), *word;
    size_t i, all = 0;
    if (!json_is_array(v) || json_array_size(v) == 0 || json_array_size(v) > MT_EXEC_ARGV_MAX)
        return mt_api_fail(c, 400, "invalid_argument", "'command' is an array of 1 to %d texts", MT_EXEC_ARGV_MAX);
    json_array_foreach (v, i, word) {
        size_t n = json_string_length(word);
        all += n;
        if (!json_is_string(word) || strlen(json_string_value(word)) != n || n > WORD_MAX || all > COMMAND_MAX || (i == 0 && n == 0))
            return mt_api_fail(c, 400, "invalid_argument", "'command[%zu]' is a text of at most %d bytes, all words at most %d, the first not empty",
                               i, WORD_MAX, COMMAND_MAX);
    }
    *ret = v;
    return 0;
}

static int read_env(struct mt_api_call *c, json_t **ret)
{
    json_t *v = json_object_get(c->body, "env");
    size_t all = 0;
    *ret = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_object(v) || json_object_size(v) > MT_EXEC_ENV_MAX)
        return mt_api_fail(c, 400, "invalid_argument", "'env' is an object of at most %d texts", MT_EXEC_ENV_MAX);
    for (void *it = json_object_iter(v); it; it = json_object_iter_next(v, it)) {
        const char *key = json_object_iter_key(it), *p = key;
        json_t *value = json_object_iter_value(it);
        for (; *p; p++)
            if (!((*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || *p == '_' || (p > key && *p >= '0' && *p <= '9')))
                break;
        if (p == key || *p || p - key > 128)
            return mt_api_fail(c, 400, "invalid_argument", "'env' has a name that is not [A-Za-z_][A-Za-z0-9_]*");
        all += json_string_length(value);
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value) || all > COMMAND_MAX)
            return mt_api_fail(c, 400, "invalid_argument", "'env.%s' is a text; all values are at most %d bytes", key, COMMAND_MAX);
    }
    *ret = v;
    return 0;
}

/* May this instance be entered, and is there room? */
static int check_target(struct mt_api_call *c, struct mt_cmd *cmd, const char *instance)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, instance);
    if (mt_pg_query_one(c->pg, &target, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "instance") : mt_api_fail_err(c);
    const char *desired = mt_pg_text(r, 0, 0), *status = mt_pg_text(r, 0, 1);
    bool live = MT_STREQ(status, "starting") || MT_STREQ(status, "ready") || MT_STREQ(status, "unready");
    if (!live || !MT_STREQ(desired, "running"))
        return mt_api_fail(c, 409, "instance_not_execable", "the instance is %s and shall be %s; exec needs one that is starting, ready or unready",
                           status, desired);
    if (mt_pg_i64(r, 0, 3) >= PER_ORG_HOUR)
        return mt_api_fail(c, 429, "too_many_exec_sessions", "%d sessions were opened in the last hour", PER_ORG_HOUR);
    /* counted in the transaction, where grants that come at once see each other; the organisation's own limit is claimed for every command */
    if (mt_cmd_quota(cmd, MT_QUOTA_EXEC_SESSIONS, c->org.id, instance, 1, PER_INSTANCE, &c->err) < 0 ||
        mt_cmd_quota(cmd, MT_QUOTA_EXEC_SESSIONS, c->org.id, c->env.id, 1, PER_ENV, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_INSTANCE, instance, NULL, mt_pg_i64(r, 0, 2), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int put_token(struct mt_api_call *c, struct mt_cmd *cmd, const char *id, const char *grant, const char *expires,
                     struct mt_api_made *made)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    made->secret_name = "session_token";
    mt_token_new(MT_TOKEN_EXEC, made->secret, hash);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, c->app.id);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, grant);
    mt_pg_p_text(&p, expires);
    return mt_cmd_side(cmd, &token_put, &p, 1, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int prepare_grant(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"command", "tty", "cols", "rows", "env", "user", "stdin", "max_duration_seconds", NULL};
    const char *instance = mt_api_param(c, "instance_id"), *user;
    json_t *command, *env;
    bool tty, in;
    int64_t cols, rows, seconds;
    char id[MT_ID_SIZE], expires[MT_RFC3339_LEN];
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || read_command(c, &command) < 0 || read_env(c, &env) < 0 ||
        mt_api_bool(c, "tty", false, &tty) < 0 || mt_api_bool(c, "stdin", tty, &in) < 0 || mt_api_text(c, "user", false, 128, &user) < 0 ||
        mt_api_int(c, "cols", false, 1, MT_EXEC_SIZE_MAX, 80, &cols) < 0 || mt_api_int(c, "rows", false, 1, MT_EXEC_SIZE_MAX, 24, &rows) < 0 ||
        mt_api_int(c, "max_duration_seconds", false, 60, 86400, DURATION_DEFAULT, &seconds) < 0 || check_target(c, cmd, instance) < 0)
        return -1;
    mt_id_new(MT_ID_EXEC, id);
    mt_rfc3339(mt_clock_wall_us() + TOKEN_SECONDS * INT64_C(1000000), expires);
    mt_auto_json json_t *grant =
        json_pack("{s:s,s:s,s:s,s:O,s:O*,s:s*,s:b,s:b,s:I,s:I,s:I}", "session_id", id, "instance_id", instance, "env_id", c->env.id, "command",
                  command, "env", env, "user", user, "tty", tty, "stdin", in, "cols", (json_int_t)cols, "rows", (json_int_t)rows,
                  "max_duration_s", (json_int_t)seconds);
    mt_auto_free char *text = grant ? json_dumps(grant, JSON_COMPACT) : NULL;
    if (!text) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "exec grant");
        return mt_api_fail_err(c);
    }
    if (mt_api_event(c, cmd, MT_EV_EXEC_SESSION_GRANTED, id,
                     json_pack("{s:s,s:O,s:b,s:s*,s:s,s:I}", "instance_id", instance, "command", command, "tty", tty, "user", user,
                               "expires_at", expires, "max_duration_seconds", (json_int_t)seconds)) < 0 ||
        put_token(c, cmd, id, text, expires, made) < 0)
        return -1;
    made->status = 201;
    made->operation = "exec_session.grant";
    made->ids = json_pack("{s:s,s:s,s:s}", "exec_session_id", id, "instance_id", instance, "env_id", c->env.id);
    made->object = json_pack("{s:s,s:s,s:s}", "exec_session_id", id, "instance_id", instance, "expires_at", expires);
    if (made->object) {
        char url[100];
        snprintf(url, sizeof url, "/v1/exec-sessions/%s/connect", id);
        json_object_set_new(made->object, "connect_url", json_string(url));
    }
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s/exec-sessions/%s", c->org.id, c->app.id, c->env.id, id);
    return 0;
}

int mt_api_exec_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_grant);
}

/* ---------------------------------------------------------------- revoking */

static int prepare_revoke(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {NULL};
    const char *id = mt_api_param(c, "exec_session_id");
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    session_params(c, &p);
    if (mt_pg_query_one(c->pg, &session_get, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "exec session") : mt_api_fail_err(c);
    const char *status = mt_pg_text(r, 0, 2);
    bool over = MT_STREQ(status, "ended"), granted = MT_STREQ(status, "granted");
    mt_api_deleted(made, "exec_session.revoke", "exec_session_id", id, over);
    if (over)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_cmd_rely(cmd, MT_RELY_EXEC_SESSION, id, NULL, mt_pg_i64(r, 0, 1), &c->err) < 0 ||
        mt_cmd_side(cmd, granted ? &token_drop : &token_revoke, &p, -1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (granted)
        return mt_api_event(c, cmd, MT_EV_EXEC_SESSION_ENDED, id,
                            json_pack("{s:s,s:s}", "instance_id", mt_pg_text(r, 0, 3), "end_reason", "revoked"));
    /* connected: its gateway ends it within seconds, and says how it ended */
    return mt_api_event(c, cmd, MT_EV_EXEC_SESSION_REVOKED, id, json_pack("{s:s}", "instance_id", mt_pg_text(r, 0, 3)));
}

int mt_api_exec_sessions_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_revoke);
}

/* ---------------------------------------------------------------- connecting */

struct claim {
    const char *org, *app, *env, *actor_type, *actor_id;
    json_t *grant;
    const char *instance;
};

static int append_connected(struct mt_api_call *c, const struct claim *k, const char *id)
{
    const struct mt_cmd_actor actor = {.actor_type = k->actor_type, .actor_id = k->actor_id, .request_id = c->request_id};
    const struct mt_cmd_ids ids = {.org_id = k->org, .app_id = k->app, .env_id = k->env};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    char ip[MT_CLIENT_IP_SIZE];
    json_t *payload = json_pack("{s:s,s:s}", "instance_id", k->instance, "source_ip", mt_api_client_ip(c, ip));
    if (mt_cmd_new(&actor, &cmd, &c->err) < 0 || mt_cmd_event(cmd, MT_EV_EXEC_SESSION_CONNECTED, id, &ids, payload, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_EXEC_SESSION, id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    int rc = mt_append(c->ctl->appender, MT_TAKE(cmd), 5000, &done, &c->err);
    bool stale = rc < 0 && done.end == MT_END_STALE;
    mt_cmd_done_free(&done);
    if (stale) /* its token is used up: no second try with it */
        return mt_api_fail(c, 409, "conflict", "the session was ended at the same moment: ask for another one");
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

static void upgraded(void *session, int fd, const void *early, size_t early_len)
{
    mt_gateway_start(session, fd, early, early_len);
}

static int handshake(struct mt_api_call *c, char accept[MT_WS_ACCEPT_SIZE])
{
    const char *upgrade = mt_http_req_header(c->http, "Upgrade"), *version = mt_http_req_header(c->http, "Sec-WebSocket-Version");
    const char *protocol = mt_http_req_header(c->http, "Sec-WebSocket-Protocol");
    if (!upgrade || strcasecmp(upgrade, "websocket") != 0 || !version || !MT_STREQ(version, "13") ||
        !mt_ws_accept(mt_http_req_header(c->http, "Sec-WebSocket-Key"), accept))
        return mt_api_fail(c, 400, "invalid_argument", "this path is for a WebSocket handshake (RFC 6455, version 13)");
    if (!protocol || !MT_STREQ(protocol, "moat.exec.v1"))
        return mt_api_fail(c, 400, "invalid_argument", "the subprotocol is moat.exec.v1");
    if (mt_http_req_header(c->http, "Origin"))
        return mt_api_fail(c, 403, "forbidden", "pages of other origins may not open sessions"); /* no web terminal is served */
    return 0;
}

static int claim(struct mt_api_call *c, const char *id, struct claim *k, struct mt_pg_res **ret)
{
    const char *h = mt_http_req_header(c->http, "Authorization");
    uint8_t hash[32];
    struct mt_pg_params p;
    if (!h || strncasecmp(h, "Bearer ", 7) != 0 || mt_http_req_header_repeated(c->http, "Authorization") ||
        !mt_token_hash(MT_TOKEN_EXEC, h + 7, hash))
        return mt_api_fail(c, 401, "unauthorized", "send the header Authorization: Bearer <session token>");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, mt_gateway_name(c->ctl->gateway));
    if (mt_pg_query(c->pg, &token_claim, &p, ret, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(*ret) == 0)
        return mt_api_fail(c, 401, "unauthorized", "the session token is not good: unknown, used, expired or revoked");
    *k = (struct claim){.org = mt_pg_text(*ret, 0, 0), .app = mt_pg_text(*ret, 0, 1), .env = mt_pg_text(*ret, 0, 2),
                        .actor_type = mt_pg_text(*ret, 0, 5), .actor_id = mt_pg_text(*ret, 0, 6)};
    const char *text = mt_pg_text(*ret, 0, 3);
    if (mt_json_parse(text, strlen(text), 256u * 1024u, 8, &k->grant, &c->err) < 0)
        return mt_api_fail_err(c);
    json_object_set_new(k->grant, "expires_at", json_string(mt_pg_text(*ret, 0, 4)));
    k->instance = json_string_value(json_object_get(k->grant, "instance_id"));
    return 0;
}

int mt_api_exec_connect(struct mt_api_call *c)
{
    const char *id = mt_api_param(c, "exec_session_id");
    char accept[MT_WS_ACCEPT_SIZE];
    struct claim k = {0};
    struct mt_gateway_session *s = NULL;
    mt_auto_pg_res struct mt_pg_res *row = NULL;
    if (mt_api_query_done(c) < 0 || handshake(c, accept) < 0 || claim(c, id, &k, &row) < 0)
        return -1;
    mt_auto_json json_t *grant = k.grant;
    if (append_connected(c, &k, id) < 0)
        return -1;
    struct mt_gateway_open open = {.session_id = id, .org_id = k.org, .app_id = k.app, .env_id = k.env, .instance_id = k.instance, .agent_fd = -1};
    json_t *ask = json_pack("{s:s,s:O}", "op", "exec", "grant", grant);
    if (mt_agent_open(c->ctl, c->pg, k.instance, ask, AGENT_MS, &open.agent_fd, &c->err) < 0) {
        mt_gateway_unreached(c->ctl->gateway, &open);
        return mt_api_fail(c, 503, "unavailable", "the agent of the instance's node does not answer");
    }
    if (mt_gateway_prepare(c->ctl->gateway, &open, &s, &c->err) < 0) {
        mt_gateway_unreached(c->ctl->gateway, &open);
        return mt_api_fail(c, 429, "too_many_exec_sessions", "%s", c->err.msg);
    }
    mt_http_add_header(c->http, "Sec-WebSocket-Accept", accept);
    mt_http_add_header(c->http, "Sec-WebSocket-Protocol", "moat.exec.v1");
    mt_http_req_set_state(c->http, s, mt_gateway_cancel);
    mt_http_upgrade(c->http, "websocket", upgraded);
    return 0;
}
