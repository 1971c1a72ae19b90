/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanging credentials for tokens: device logins, client credentials, refresh, revoke (control-plane.md §9.3, §10). */
#include "control/api/handlers.h"

#include "base/log.h"
#include "base/str.h"
#include "control/api/client_ip.h"
#include "control/api/grants.h"
#include "control/api/trail.h"
#include "control/auth/device.h"
#include "control/commands/members.h"
#include "control/limits/request.h"

static int send_tokens(struct mt_api_call *c, struct mt_granted *g, enum mt_grant_kind kind)
{
    mt_measure_one(&c->ctl->measure.mints[kind]);
    mt_http_add_header(c->http, "Cache-Control", "no-store");
    int rc = mt_api_send(c, 200, json_pack("{s:s,s:s*,s:s,s:I,s:o}", "access_token", g->access, "refresh_token",
                                           g->refresh[0] ? g->refresh : NULL, "token_type", "Bearer", "expires_in_seconds",
                                           (json_int_t)g->seconds, "scopes", mt_scopes_json(g->scopes)));
    mt_granted_wipe(g);
    return rc;
}

/* Invitations wait for a sign-in; that they could not be activated now is no reason to refuse it. */
static void activate(struct mt_api_call *c, const char *user_id)
{
    struct mt_err why = {0};
    if (mt_members_activate(c->pg, c->ctl->appender, user_id, c->request_id, &why) < 0)
        mt_log(MT_WARN, "auth.invitations", KV("user_id", user_id), KV_ERR(&why));
}

int mt_api_device_start(struct mt_api_call *c)
{
    static const char *const known[] = {"client_name", "scopes", NULL};
    const char *client;
    struct mt_device_started d;
    uint64_t scopes;
    char ip[MT_CLIENT_IP_SIZE];
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        mt_api_text(c, "client_name", true, MT_DEVICE_CLIENT_MAX, &client) < 0 ||
        mt_grant_scopes(c, false, mt_scopes_every(), mt_scopes_every(), &scopes) < 0)
        return -1;
    if (mt_limits_subject(c, MT_LIMIT_DEVICE_START, mt_api_client_ip(c, ip)) < 0)
        return -1;
    mt_grant_prune(c->pg);
    if (mt_device_start(c->pg, client, ip, scopes, &d, &c->err) < 0)
        return c->err.code == MT_E_LIMIT ? mt_api_fail(c, 429, "rate_limited", "too many logins are pending; wait until some have ended")
                                         : mt_api_fail_err(c);
    char uri[320], complete[360];
    snprintf(uri, sizeof uri, "%s/device", c->ctl->conf.public_url);
    snprintf(complete, sizeof complete, "%s?user_code=%s", uri, d.user_code);
    mt_http_add_header(c->http, "Cache-Control", "no-store");
    return mt_api_send(c, 200, json_pack("{s:s,s:s,s:s,s:s,s:i,s:i}", "device_code", d.device_code, "user_code", d.user_code,
                                         "verification_uri", uri, "verification_uri_complete", complete, "expires_in_seconds",
                                         MT_DEVICE_SECONDS, "poll_interval_seconds", MT_DEVICE_INTERVAL));
}

int mt_api_device_token(struct mt_api_call *c)
{
    static const char *const known[] = {"device_code", NULL};
    const char *code;
    struct mt_granted g;
    enum mt_device_end end;
    int interval;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "device_code", true, 200, &code) < 0)
        return -1;
    if (mt_device_poll(c->pg, code, &g, &interval, &end, &c->err) < 0)
        return mt_api_fail_err(c);
    switch (end) {
    case MT_DEVICE_OK:
        activate(c, g.user_id);
        mt_api_trail_note(c, "auth.device_login", "allow", NULL, "user", g.user_id, NULL);
        return send_tokens(c, &g, MT_GRANTED_DEVICE);
    case MT_DEVICE_PENDING:
        return mt_api_fail(c, 400, "authorization_pending", "nobody has decided yet");
    case MT_DEVICE_SLOW_DOWN:
        c->problem.details = json_pack("{s:i}", "poll_interval_seconds", interval);
        return mt_api_fail(c, 400, "slow_down", "ask every %d seconds", interval);
    case MT_DEVICE_DENIED:
        return mt_api_fail(c, 400, "access_denied", "the login was denied");
    case MT_DEVICE_EXPIRED:
    case MT_DEVICE_UNKNOWN:
    default:
        return mt_api_fail(c, 400, "expired_token", "the device code has expired, was used, or never existed");
    }
}

int mt_api_auth_token(struct mt_api_call *c)
{
    static const char *const known[] = {"grant_type", "client_id", "client_secret", "scopes", NULL};
    const char *type, *client, *secret;
    char ip[MT_CLIENT_IP_SIZE], guesser[MT_CLIENT_IP_SIZE + 72];
    struct mt_granted g;
    uint64_t scopes;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "grant_type", true, 40, &type) < 0)
        return -1;
    if (!MT_STREQ(type, "client_credentials"))
        return mt_api_fail(c, 400, "not_supported", "grant_type is client_credentials; people sign in by POST /v1/auth/device/start");
    if (mt_api_text(c, "client_id", true, 64, &client) < 0 || mt_api_text(c, "client_secret", true, 200, &secret) < 0 ||
        mt_grant_scopes(c, false, mt_scopes_every(), 0, &scopes) < 0)
        return -1;
    /* A client id is no secret: guesses are counted with where they come from, or they would lock the client out; minting is counted
     * only once the secret was right. */
    mt_api_client_ip(c, ip);
    snprintf(guesser, sizeof guesser, "%s from %s", client, ip);
    if (mt_limits_room(c, MT_LIMIT_LOGIN_FAILED, guesser) < 0 || mt_limits_room(c, MT_LIMIT_MINT, client) < 0)
        return -1;
    if (mt_grant_client(c->pg, client, secret, scopes, &g, &c->err) < 0) {
        if (c->err.code == MT_E_NOT_FOUND)
            mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_CLIENT]);
        if (c->err.code == MT_E_NOT_FOUND && mt_limits_subject(c, MT_LIMIT_LOGIN_FAILED, guesser) < 0)
            return -1;
        if (c->err.code == MT_E_NOT_FOUND)
            return mt_api_fail(c, 401, "invalid_client", "%s", c->err.msg);
        return c->err.code == MT_E_DENIED ? mt_api_fail(c, 403, "insufficient_scope", "%s", c->err.msg) : mt_api_fail_err(c);
    }
    struct mt_limit_state spent;
    if (!mt_limits_local(c))
        (void)mt_limits_take(c->ctl->limits, MT_LIMIT_MINT, client, &spent);
    mt_grant_prune(c->pg);
    mt_api_trail_note(c, "auth.client_credentials", "allow", NULL, "token", g.token_id, client);
    return send_tokens(c, &g, MT_GRANTED_CLIENT);
}

int mt_api_auth_refresh(struct mt_api_call *c)
{
    static const char *const known[] = {"refresh_token", NULL};
    const char *token;
    char user[MT_ID_SIZE];
    struct mt_granted g;
    enum mt_refresh_end end;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "refresh_token", true, 200, &token) < 0)
        return -1;
    if (mt_grant_refresh_user(c->pg, token, user, &c->err) < 0)
        return mt_api_fail_err(c);
    if (user[0] && mt_limits_subject(c, MT_LIMIT_MINT, user) < 0)
        return -1; /* the token is not used up: it is good for the next try */
    if (mt_grant_refresh(c->pg, token, &g, &end, &c->err) < 0)
        return mt_api_fail_err(c);
    if (end == MT_REFRESH_REUSED) {
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_REFRESH]);
        char ip[MT_CLIENT_IP_SIZE];
        mt_log(MT_ERROR, "auth.refresh_reused", KV("user_id", (const char *)g.user_id), KV("ip", mt_api_client_ip(c, ip)),
               KV("request_id", c->request_id));
        mt_api_trail_note(c, "auth.refresh_reused", "deny", "invalid_grant", "user", g.user_id, "the login was ended");
        return mt_api_fail(c, 401, "invalid_grant", "the refresh token was used before: two parties hold it, so this login has ended");
    }
    if (end != MT_REFRESH_OK) {
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_REFRESH]);
        return mt_api_fail(c, 401, "invalid_grant", "the refresh token is not valid; sign in again");
    }
    activate(c, g.user_id);
    return send_tokens(c, &g, MT_GRANTED_REFRESH);
}

int mt_api_auth_revoke(struct mt_api_call *c)
{
    static const char *const known[] = {"token", NULL};
    const char *token;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "token", true, 200, &token) < 0)
        return -1;
    if (mt_grant_revoke(c->pg, token, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_send(c, 200, json_pack("{s:b}", "ok", true)); /* the same for what was never a token */
}
