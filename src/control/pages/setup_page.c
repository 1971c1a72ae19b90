/* SPDX-License-Identifier: Apache-2.0 */
/* /setup: a person follows a one-time link and sets password and one-time codes; the first link makes the first operator. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/handlers.h"
#include "control/api/trail.h"
#include "control/auth/session.h"
#include "control/pages/page.h"
#include "model/names.h"
#include "os/digest.h"

#define APPEND_TIMEOUT_MS 10000

static bool totp_needed(const struct mt_page *p, const struct mt_setup *s)
{
    return s->is_operator && p->c->ctl->conf.require_operator_totp;
}

static int gone(struct mt_page *p)
{
    return mt_page_say(p, 404, "This link does not work", "It was used, has expired, or was replaced by a newer one. Ask an operator for a new link.");
}

static int failed(struct mt_page *p)
{
    mt_log(MT_WARN, "pages.failed", KV("request_id", p->c->request_id), KV_ERR(&p->c->err));
    return mt_page_say(p, 503, "Not possible at the moment", "The server cannot do this now. Try again in a moment.");
}

static int form(struct mt_page *p, unsigned status, const struct mt_setup *s, const char *code, const char *notice, const char *email)
{
    uint8_t secret[MT_TOTP_SECRET];
    char text[MT_TOTP_BASE32], spaced[48];
    size_t o = 0;
    bool needed = totp_needed(p, s), first = !s->user_id[0];
    mt_totp_open(p->c->ctl->mac_key, s->totp, secret);
    mt_totp_base32(secret, text);
    for (size_t i = 0; text[i]; i++) {
        if (i && i % 4 == 0)
            spaced[o++] = ' ';
        spaced[o++] = text[i];
    }
    spaced[o] = 0;
    if (notice)
        mt_page_notice(p, notice);
    mt_page_html(p, first ? "<p>You become the first operator of this platform.</p>" : "<p>Set a password for this account.</p>");
    mt_page_form_open(p, "/setup");
    mt_page_hidden(p, "code", code);
    if (first)
        mt_page_field(p, "Email", "email", "email", email, " required maxlength=320 autocomplete=username autofocus");
    else
        mt_page_field(p, "Email", "email", "email", s->email, " readonly autocomplete=username");
    mt_page_field(p, "Password, 12 characters or more", "password", "password", "", " required minlength=12 maxlength=256 autocomplete=new-password");
    mt_page_field(p, "The same once more", "again", "password", "", " required maxlength=256 autocomplete=new-password");
    mt_page_html(p, needed ? "<p class=dim>Operators sign in with a one-time code as well. Add this key to an authenticator app:</p>"
                           : "<p class=dim>If you want one-time codes at every sign-in, add this key to an authenticator app:</p>");
    mt_page_html(p, "<p><code>");
    mt_page_text(p, spaced);
    mt_page_html(p, "</code> <a href=\"otpauth://totp/moat:");
    mt_page_text(p, first ? "operator" : s->email);
    mt_page_html(p, "?issuer=moat&amp;secret=");
    mt_page_text(p, text);
    mt_page_html(p, "\">open in an app</a></p>");
    mt_page_field(p, needed ? "Code that the app shows" : "Code that the app shows (leave empty for none)", "otp", "text", "",
                  needed ? " required maxlength=10 inputmode=numeric autocomplete=one-time-code"
                         : " maxlength=10 inputmode=numeric autocomplete=one-time-code");
    mt_page_html(p, "<button>Set it up</button></form>");
    explicit_bzero(secret, sizeof secret);
    explicit_bzero(text, sizeof text);
    explicit_bzero(spaced, sizeof spaced);
    return mt_page_send(p, status, first ? "First operator" : "Set up your account");
}

int mt_page_setup_get(struct mt_api_call *c)
{
    struct mt_page p;
    struct mt_setup s;
    const char *code = mt_api_query(c, "code");
    mt_page_begin(&p, c);
    int rc = mt_setup_find(c->pg, code ? code : "", &s, &c->err);
    if (rc == -MT_E_NOT_FOUND)
        return gone(&p);
    return rc < 0 ? failed(&p) : form(&p, 200, &s, code, NULL, "");
}

/* The first operator: the user, the password and the end of the link, together or not at all. */
static int make_operator(struct mt_api_call *c, const char *code, const char *email, const char *hash, const uint8_t *totp, uint64_t step,
                         char ret_user[MT_ID_SIZE], struct mt_err *err)
{
    const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "setup", .request_id = c->request_id};
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_pg_params use, put;
    uint8_t code_hash[32];
    int rc;
    if (!mt_token_hash(MT_TOKEN_SETUP, code, code_hash))
        return MT_FAIL(err, MT_E_NOT_FOUND, "no such link");
    mt_id_new(MT_ID_USER, ret_user);
    mt_pg_p_init(&use);
    mt_pg_p_bytes(&use, code_hash, sizeof code_hash);
    mt_pg_p_init(&put);
    mt_pg_p_text(&put, ret_user);
    mt_pg_p_text(&put, hash);
    mt_pg_p_bytes(&put, totp, MT_TOTP_BLOB);
    mt_pg_p_i64(&put, (int64_t)step);
    if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_USER_CREATED, ret_user, &none, json_pack("{s:s,s:b}", "email", email, "is_operator", true), err)) < 0 ||
        (rc = mt_cmd_side(cmd, &mt_setup_consume, &use, 1, err)) < 0 ||
        (rc = mt_cmd_side(cmd, &mt_setup_credentials, &put, 1, err)) < 0)
        return rc;
    rc = mt_append(c->ctl->appender, MT_TAKE(cmd), APPEND_TIMEOUT_MS, &done, err);
    mt_cmd_done_free(&done);
    return rc;
}

static int finish(struct mt_page *p, const struct mt_setup *s, const struct mt_form *f, uint64_t step)
{
    struct mt_api_call *c = p->c;
    const char *code = mt_form_get(f, "code"), *given = mt_form_get(f, "email");
    char hash[MT_PASSWORD_HASH], email[321] = "", user[MT_ID_SIZE];
    const uint8_t *totp = step ? s->totp : NULL;
    int rc = mt_password_hash(mt_form_get(f, "password"), hash, &c->err);
    if (rc < 0)
        return rc == -MT_E_LIMIT ? form(p, 429, s, code, "The server is busy. Try again in a moment.", given) : failed(p);
    if (s->user_id[0]) {
        snprintf(user, sizeof user, "%s", s->user_id);
        rc = mt_setup_use(c->pg, code, s->user_id, hash, totp, step, &c->err);
    } else {
        mt_email_fold(given, email, sizeof email);
        rc = make_operator(c, code, email, hash, totp, step, user, &c->err);
    }
    explicit_bzero(hash, sizeof hash);
    if (rc == -MT_E_CONFLICT)
        return form(p, 409, s, code, "An account with this address exists, or the link was used.", given);
    if (rc == -MT_E_NOT_FOUND)
        return gone(p);
    if (rc < 0)
        return failed(p);
    mt_api_trail_note(c, "auth.setup", "allow", NULL, "user", user, NULL);
    return mt_page_redirect(p, "/setup/done");
}

int mt_page_setup_post(struct mt_api_call *c)
{
    struct mt_page p;
    struct mt_setup s;
    static _Thread_local struct mt_form f;
    mt_page_begin(&p, c);
    if (mt_page_form(&p, &f) < 0)
        return 0;
    const char *code = mt_form_get(&f, "code"), *email = mt_form_get(&f, "email"), *otp = mt_form_get(&f, "otp");
    int rc = mt_setup_find(c->pg, code, &s, &c->err);
    if (rc < 0)
        return rc == -MT_E_NOT_FOUND ? gone(&p) : failed(&p);
    const char *fault = mt_password_fault(mt_form_get(&f, "password"));
    uint64_t step = 0;
    uint8_t secret[MT_TOTP_SECRET];
    if (*otp) {
        mt_totp_open(c->ctl->mac_key, s.totp, secret);
        step = mt_totp_check(secret, otp, mt_clock_wall_us() / 1000000, 0);
        explicit_bzero(secret, sizeof secret);
    }
    if (!s.user_id[0] && !mt_email_valid(email, strlen(email)))
        fault = "that is not an email address";
    else if (!fault && !MT_STREQ(mt_form_get(&f, "password"), mt_form_get(&f, "again")))
        fault = "the two passwords differ";
    else if (!fault && *otp && !step)
        fault = "the one-time code is wrong; is the clock of your phone right?";
    else if (!fault && !step && totp_needed(&p, &s))
        fault = "the one-time code is missing";
    rc = fault ? form(&p, 400, &s, code, fault, email) : finish(&p, &s, &f, step);
    mt_form_wipe(&f);
    return rc;
}

int mt_page_setup_done(struct mt_api_call *c)
{
    struct mt_page p;
    mt_page_begin(&p, c);
    return mt_page_say(&p, 200, "Done", "Your account is ready. Run `moat auth login` in a terminal to sign in.");
}
