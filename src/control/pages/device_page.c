/* SPDX-License-Identifier: Apache-2.0 */
/* /device: sign in, see which client asks for what, approve or deny (control-plane.md §10.3). Works without script. */
#include "base/log.h"
#include "base/str.h"
#include "control/api/client_ip.h"
#include "control/api/handlers.h"
#include "control/api/trail.h"
#include "control/auth/session.h"
#include "control/commands/members.h"
#include "control/limits/request.h"
#include "control/pages/page.h"
#include "model/names.h"

static int failed(struct mt_page *p)
{
    mt_log(MT_WARN, "pages.failed", KV("request_id", p->c->request_id), KV_ERR(&p->c->err));
    return mt_page_say(p, 503, "Not possible at the moment", "The server cannot do this now. Try again in a moment.");
}

static int sign_in(struct mt_page *p, unsigned status, const char *notice, const char *email, const char *user_code)
{
    if (notice)
        mt_page_notice(p, notice);
    mt_page_form_open(p, "/device");
    mt_page_hidden(p, "action", "login");
    mt_page_hidden(p, "user_code", user_code);
    mt_page_field(p, "Email", "email", "email", email, " required maxlength=320 autocomplete=username autofocus");
    mt_page_field(p, "Password", "password", "password", "", " required maxlength=256 autocomplete=current-password");
    mt_page_field(p, "One-time code, if you have set one up", "otp", "text", "", " maxlength=10 inputmode=numeric autocomplete=one-time-code");
    mt_page_html(p, "<button>Sign in</button></form>");
    return mt_page_send(p, status, "Sign in");
}

static void signed_in_as(struct mt_page *p, const struct mt_session *s)
{
    mt_page_html(p, "<form class=foot method=post action=\"/device\">");
    mt_page_hidden(p, "csrf", p->csrf);
    mt_page_hidden(p, "action", "logout");
    mt_page_html(p, "<span class=dim>Signed in as ");
    mt_page_text(p, s->email);
    mt_page_html(p, "</span> <button class=quiet>Sign out</button></form>");
}

static int ask_code(struct mt_page *p, const struct mt_session *s, unsigned status, const char *notice)
{
    if (notice)
        mt_page_notice(p, notice);
    mt_page_html(p, "<p>Type the code that your terminal shows.</p>");
    mt_page_html(p, "<form method=get action=\"/device\">");
    mt_page_field(p, "Code", "user_code", "text", "", " class=code required maxlength=12 autocomplete=off spellcheck=false autofocus");
    mt_page_html(p, "<button>Go on</button></form>");
    signed_in_as(p, s);
    return mt_page_send(p, status, "Connect a device");
}

/* What the client gets when this person agrees: never more than the person could use. */
static uint64_t given(const struct mt_session *s, uint64_t asked)
{
    return s->is_operator ? asked : asked & mt_scopes_tenant();
}

static void list_scopes(struct mt_page *p, uint64_t scopes)
{
    uint64_t tenant = mt_role_scopes(MT_ROLE_OWNER, true, false);
    bool all = (scopes & tenant) == tenant;
    mt_page_html(p, "<ul>");
    if (all)
        mt_page_html(p, "<li>everything that your roles in your organisations allow</li>");
    for (unsigned i = 0; mt_scopes_all[i]; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if (!(scopes & bit) || (all && (tenant & bit)) || (bit & mt_scopes_operator()) || MT_STREQ(mt_scopes_all[i], "secrets:read-material"))
            continue;
        mt_page_html(p, "<li><code>");
        mt_page_text(p, mt_scopes_all[i]);
        mt_page_html(p, "</code></li>");
    }
    if (scopes & mt_scopes_operator())
        mt_page_html(p, "<li><strong>rights of an operator of this platform</strong></li>");
    mt_page_html(p, "</ul>");
}

static int show(struct mt_page *p, const struct mt_session *s, const char *code)
{
    struct mt_device_shown d;
    int rc = mt_device_show(p->c->pg, code, &d, &p->c->err);
    if (rc == -MT_E_NOT_FOUND) {
        int n = mt_session_wrong_code(p->c->pg, p->cookie, &p->c->err);
        mt_api_trail_note(p->c, "auth.user_code", "deny", "expired_token", "user", s->user_id, NULL);
        if (n < 0)
            return failed(p);
        if (n >= MT_SESSION_WRONG_CODES)
            return sign_in(p, 403, "Too many wrong codes. Sign in again.", s->email, "");
        return ask_code(p, s, 404, "This code is not known, was used, or has expired.");
    }
    if (rc < 0)
        return failed(p);
    mt_page_html(p, "<p>A program wants to act for you. Go on only if you have started it yourself and the code is the same:</p><p><code class=code>");
    mt_page_text(p, code);
    mt_page_html(p, "</code></p><dl><dt>Program</dt><dd>");
    mt_page_text(p, d.client_name);
    mt_page_html(p, "</dd><dt>Asked from</dt><dd>");
    mt_page_text(p, d.client_ip);
    mt_page_html(p, "</dd><dt>It may</dt><dd>");
    list_scopes(p, given(s, d.scopes));
    mt_page_html(p, "</dd></dl>");
    mt_page_form_open(p, "/device");
    mt_page_hidden(p, "user_code", code);
    mt_page_html(p, "<div class=row><button name=action value=approve>Approve</button>"
                    "<button class=quiet name=action value=deny>Deny</button></div></form>");
    signed_in_as(p, s);
    return mt_page_send(p, 200, "Connect a device");
}

int mt_page_device_get(struct mt_api_call *c)
{
    struct mt_page p;
    struct mt_session s;
    char code[MT_USER_CODE_SIZE] = "";
    const char *typed = mt_api_query(c, "user_code");
    bool asked = typed && *typed, readable = asked && mt_user_code_read(typed, code);
    mt_page_begin(&p, c);
    int rc = mt_session_find(c->pg, p.cookie, &s, &c->err);
    if (rc == -MT_E_NOT_FOUND)
        return sign_in(&p, 200, NULL, "", readable ? code : "");
    if (rc < 0)
        return failed(&p);
    if (readable)
        return show(&p, &s, code);
    return ask_code(&p, &s, asked ? 400 : 200, asked ? "A code is eight letters, for example BCDF-GHJK." : NULL);
}

static int go_to_code(struct mt_page *p, const char *typed)
{
    char code[MT_USER_CODE_SIZE], path[64] = "/device";
    if (mt_user_code_read(typed, code))
        snprintf(path, sizeof path, "/device?user_code=%s", code);
    return mt_page_redirect(p, path);
}

static int wait_page(struct mt_page *p, int seconds, const char *given_email, const char *email, const char *user_code)
{
    char text[120], number[16];
    mt_api_trail_note(p->c, "auth.login", "deny", "rate_limited", NULL, NULL, email);
    snprintf(text, sizeof text, "Too many attempts. Try again in %d second%s.", seconds, seconds == 1 ? "" : "s");
    snprintf(number, sizeof number, "%d", seconds);
    mt_http_add_header(p->c->http, "Retry-After", number);
    return sign_in(p, 429, text, given_email, user_code);
}

static int log_in(struct mt_page *p, const struct mt_form *f)
{
    struct mt_api_call *c = p->c;
    const char *given_email = mt_form_get(f, "email"), *code = mt_form_get(f, "user_code");
    char email[321], ip[MT_CLIENT_IP_SIZE], user[MT_ID_SIZE] = "", cookie[MT_TOKEN_SIZE];
    enum mt_login_end end;
    int wait = 1;
    if (!mt_email_valid(given_email, strlen(given_email)))
        return sign_in(p, 400, "That is not an email address.", given_email, code);
    mt_email_fold(given_email, email, sizeof email);
    struct mt_limit_state room = {0};
    bool counted = !mt_limits_local(c);
    if (counted && !mt_limits_peek(c->ctl->limits, MT_LIMIT_LOGIN_FAILED, email, &room))
        return wait_page(p, room.retry_seconds > 0 ? room.retry_seconds : 1, given_email, email, code);
    int rc = mt_login(c->pg, email, mt_form_get(f, "password"), mt_form_get(f, "otp"), mt_api_client_ip(c, ip), c->ctl->conf.require_operator_totp,
                      c->ctl->mac_key, user, &wait, &end, &c->err);
    if (rc == -MT_E_LIMIT) {
        end = MT_LOGIN_WAIT;
        wait = 5;
    } else if (rc < 0) {
        return failed(p);
    }
    if (end == MT_LOGIN_WAIT)
        return wait_page(p, wait, given_email, email, code);
    if (end != MT_LOGIN_OK)
        mt_api_trail_note(c, "auth.login", "deny", "unauthorized", NULL, NULL, email);
    if (counted && end == MT_LOGIN_WRONG)
        (void)mt_limits_take(c->ctl->limits, MT_LIMIT_LOGIN_FAILED, email, &room);
    switch (end) {
    case MT_LOGIN_WRONG:
        return sign_in(p, 403, "Email, password or one-time code is wrong.", given_email, code);
    case MT_LOGIN_NO_TOTP:
        return sign_in(p, 403, "Operators need a one-time code. Ask another operator for a new setup link.", given_email, code);
    case MT_LOGIN_OK:
    case MT_LOGIN_WAIT:
    default:
        break;
    }
    if (mt_session_begin(c->pg, user, cookie, &c->err) < 0)
        return failed(p);
    mt_api_trail_note(c, "auth.login", "allow", NULL, "user", user, NULL);
    struct mt_err why = {0};
    if (mt_members_activate(c->pg, c->ctl->appender, user, c->request_id, &why) < 0)
        mt_log(MT_WARN, "auth.invitations", KV("user_id", (const char *)user), KV_ERR(&why));
    mt_page_cookie(p, cookie); /* a new one: what was planted before the sign-in is worth nothing after it */
    return go_to_code(p, code);
}

static int decide(struct mt_page *p, const struct mt_session *s, const struct mt_form *f, bool approve)
{
    struct mt_api_call *c = p->c;
    struct mt_device_shown d;
    char code[MT_USER_CODE_SIZE];
    if (!mt_user_code_read(mt_form_get(f, "user_code"), code))
        return ask_code(p, s, 400, "A code is eight letters, for example BCDF-GHJK.");
    int rc = mt_device_show(c->pg, code, &d, &c->err);
    if (rc == 0)
        rc = mt_device_decide(c->pg, code, s->user_id, approve, given(s, d.scopes), &c->err);
    if (rc == -MT_E_NOT_FOUND)
        return ask_code(p, s, 404, "This code was used or has expired meanwhile.");
    if (rc < 0)
        return failed(p);
    mt_api_trail_note(c, approve ? "auth.device_approved" : "auth.device_denied", "allow", NULL, "user", s->user_id, d.client_name);
    return mt_page_redirect(p, approve ? "/device/approved" : "/device/denied");
}

int mt_page_device_post(struct mt_api_call *c)
{
    struct mt_page p;
    struct mt_session s;
    static _Thread_local struct mt_form f;
    mt_page_begin(&p, c);
    if (mt_page_form(&p, &f) < 0)
        return 0;
    const char *action = mt_form_get(&f, "action");
    int rc = 0;
    if (MT_STREQ(action, "login")) {
        rc = log_in(&p, &f);
        mt_form_wipe(&f);
        return rc;
    }
    rc = mt_session_find(c->pg, p.cookie, &s, &c->err);
    if (rc == -MT_E_NOT_FOUND)
        return sign_in(&p, 403, "Your session has ended. Sign in again.", "", mt_form_get(&f, "user_code"));
    if (rc < 0)
        return failed(&p);
    snprintf(c->who.subject_id, sizeof c->who.subject_id, "%s", s.user_id); /* for the audit record */
    snprintf(c->who.subject_type, sizeof c->who.subject_type, "user");
    if (MT_STREQ(action, "logout")) {
        if (mt_session_end(c->pg, p.cookie, &c->err) < 0)
            return failed(&p);
        return mt_page_redirect(&p, "/device");
    }
    if (MT_STREQ(action, "approve") || MT_STREQ(action, "deny"))
        return decide(&p, &s, &f, MT_STREQ(action, "approve"));
    return mt_page_say(&p, 400, "This form cannot be read", "It asks for something that this page does not do.");
}

int mt_page_device_approved(struct mt_api_call *c)
{
    struct mt_page p;
    mt_page_begin(&p, c);
    return mt_page_say(&p, 200, "Approved", "Your terminal goes on by itself within a few seconds. You can close this page.");
}

int mt_page_device_denied(struct mt_api_call *c)
{
    struct mt_page p;
    mt_page_begin(&p, c);
    return mt_page_say(&p, 200, "Denied", "The program has been refused. You can close this page.");
}
