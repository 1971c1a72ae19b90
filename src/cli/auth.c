/* SPDX-License-Identifier: Apache-2.0 */
/* moat auth: sign in by the device flow, sign out, say who one is; personal tokens. */
#include "cli/creds.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/spawn.h"

#include <time.h>
#include <unistd.h>

json_t *cli_words(struct cli *c, const char *option)
{
    json_t *list = NULL;
    const char *v;
    for (size_t i = 0; (v = cli_opt_n(c, option, i)); i++) {
        while (*v) { /* "a,b" as well as the option twice */
            size_t n = strcspn(v, ", ");
            if (n && !list)
                list = json_array();
            if (n)
                (void)json_array_append_new(list, json_stringn(v, n));
            v += n + (v[n] ? 1 : 0);
        }
    }
    return list;
}

/* Only where somebody sits in front of a screen. */
static void open_browser(const char *url)
{
    static const char program[] = "/usr/bin/xdg-open";
    const char *display = getenv("DISPLAY"), *wayland = getenv("WAYLAND_DISPLAY"), *home = getenv("HOME");
    char d[200], w[200], h[300];
    if ((!display && !wayland) || access(program, X_OK) < 0)
        return;
    (void)snprintf(d, sizeof d, "DISPLAY=%s", display ? display : "");
    (void)snprintf(w, sizeof w, "WAYLAND_DISPLAY=%s", wayland ? wayland : "");
    (void)snprintf(h, sizeof h, "HOME=%s", home ? home : "/");
    const char *argv[] = {program, url, NULL}, *envp[] = {d, w, h, "PATH=/usr/local/bin:/usr/bin:/bin", NULL};
    const struct mt_spawn s = {.path = program, .argv = argv, .envp = envp, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .new_session = true};
    struct mt_err ignored;
    pid_t pid;
    int fd = -1;
    if (mt_spawn(&s, &pid, &fd, &ignored) == 0)
        (void)close(fd);
}

/* Ask until somebody has decided. */
static int poll_tokens(struct cli *c, const json_t *started, json_t **ret)
{
    int64_t interval = cli_int(started, "poll_interval_seconds"), until = mt_clock_mono() + cli_int(started, "expires_in_seconds") * MT_NS_PER_S;
    mt_auto_json json_t *body = json_pack("{s:s}", "device_code", cli_str(started, "device_code"));
    if (interval < 1 || interval > 60)
        interval = 5;
    while (mt_clock_mono() < until) {
        mt_auto_json json_t *r = NULL;
        int status = 0;
        (void)nanosleep(&(struct timespec){.tv_sec = interval}, NULL); /* the pace that the server asks for */
        int code = cli_exchange(c, "/v1/auth/device/token", body, &status, &r);
        if (code != CLI_OK && code != CLI_TRANSIENT)
            return code;
        const char *name = cli_str(r, "code");
        if (code == CLI_OK && status == 200) {
            *ret = MT_TAKE(r);
            return CLI_OK;
        }
        if (MT_STREQ(name, "slow_down"))
            interval += 5;
        else if (MT_STREQ(name, "access_denied"))
            return cli_error_reason(c, CLI_AUTH, name, "the login was denied", NULL);
        else if (code == CLI_OK && !MT_STREQ(name, "authorization_pending") && status < 500 && status != 429)
            return cli_exchange_failed(c, MT_STREQ(name, "expired_token") ? 401 : status, r);
    }
    return cli_error_reason(c, CLI_AUTH, "expired_token", "nobody approved the login in time", "moat auth login");
}

int cmd_auth_login(struct cli *c)
{
    char host[65] = "a machine", name[100];
    mt_auto_json json_t *scopes = cli_words(c, "scopes");
    mt_auto_json json_t *started = NULL, *tokens = NULL, *me = NULL;
    int status = 0;
    c->anonymous = true;
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    (void)gethostname(host, sizeof host - 1);
    (void)snprintf(name, sizeof name, "moat on %s", host);
    mt_auto_json json_t *body = json_pack("{s:s,s:O*}", "client_name", name, "scopes", scopes);
    if ((code = cli_exchange(c, "/v1/auth/device/start", body, &status, &started)) != CLI_OK)
        return code;
    if (status != 200)
        return cli_exchange_failed(c, status, started);
    cli_tame(started);
    (void)fprintf(stderr, "Open %s%s%s\nand check that it shows the code %s%s%s\n", cli_color(c, "bold"), cli_str(started, "verification_uri_complete"),
                  cli_color(c, "reset"), cli_color(c, "bold"), cli_str(started, "user_code"), cli_color(c, "reset"));
    if (!cli_has(c, "no-browser") && !cli_no_input(c))
        open_browser(cli_str(started, "verification_uri_complete"));
    if ((code = poll_tokens(c, started, &tokens)) != CLI_OK)
        return code;
    free(c->token);
    c->token = strdup(cli_str(tokens, "access_token"));
    if (!c->token)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if ((code = cli_call(c, "GET", "/v1/auth/whoami", NULL, &me)) != CLI_OK)
        return code;
    mt_auto_json json_t *entry = cli_creds_entry(tokens, cli_str(me, "email"));
    code = entry ? cli_creds_put(c, entry) : cli_error(c, CLI_INTERNAL, "the server's answer holds no tokens", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Whoami", me);
    cli_say(c, "signed in as %s", cli_str(me, "email"));
    return CLI_OK;
}

int cmd_auth_logout(struct cli *c)
{
    mt_auto_json json_t *entry = NULL, *r = NULL;
    int status = 0;
    c->anonymous = true;
    int code = cli_connect(c);
    if (code != CLI_OK || (code = cli_creds_get(c, &entry)) != CLI_OK)
        return code;
    if (!entry) {
        cli_say(c, "not signed in to %s", c->api);
    } else {
        mt_auto_json json_t *body = json_pack("{s:s}", "token", cli_str(entry, "refresh_token"));
        int told = cli_exchange(c, "/v1/auth/token/revoke", body, &status, &r);
        if ((code = cli_creds_put(c, NULL)) != CLI_OK || told != CLI_OK) /* gone here even when the server could not be told */
            return code != CLI_OK ? code : told;
        if (status != 200)
            return cli_exchange_failed(c, status, r);
        cli_say(c, "signed out");
    }
    mt_auto_json json_t *done = json_pack("{s:b}", "was_signed_in", entry != NULL);
    return c->json ? cli_print_object(c, "Logout", done) : CLI_OK;
}

int cmd_auth_status(struct cli *c)
{
    static const char *const names[] = {"none", "the option --token or MOAT_TOKEN", "MOAT_CLIENT_ID", "a login", "the token file of the configuration"};
    mt_auto_json json_t *me = NULL;
    int code = cli_call(c, "GET", "/v1/auth/whoami", NULL, &me);
    if (code != CLI_OK)
        return code;
    const char *from = c->token_from == 3 && c->in_keyring ? "a login, in the desktop's keyring" : names[c->token_from];
    if (c->json) {
        (void)json_object_set_new(me, "credential", json_string(from));
        (void)json_object_set_new(me, "api", json_string(c->api));
        return cli_print_object(c, "AuthStatus", me);
    }
    (void)printf("server     %s\ncredential %s\n", c->api, from);
    (void)printf("subject    %s %s%s%s\n", cli_str(me, "subject_type"), cli_str(me, "subject_id"), *cli_str(me, "email") ? " " : "", cli_str(me, "email"));
    (void)printf("token      %s, %s%s\n", cli_str(me, "token.kind"), *cli_str(me, "token.expires_at") ? "until " : "no end", cli_str(me, "token.expires_at"));
    size_t i;
    json_t *o;
    json_array_foreach(json_object_get(me, "orgs"), i, o)
        (void)printf("%s %s %s\n", i ? "          " : "member of ", cli_str(o, "name"), cli_str(o, "role"));
    return CLI_OK;
}

/* ---- personal tokens ---- */

int cmd_tokens_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"NAME", "name"}, {"ID", "id"}, {"ORG", "org_id"}, {"EXPIRES", "expires_at"}, {"LAST USED", "last_used_at"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/auth/tokens"), cols, MT_ARRAY_LEN(cols), "personal tokens") : code;
}

/* What is shown this once: alone on stdout, so that a script can take it. */
int cli_show_secret(struct cli *c, const char *kind, const char *type, const json_t *made, const char *member)
{
    if (c->json)
        return cli_print_object(c, kind, made);
    if (!*cli_str(made, member))
        return cli_error(c, CLI_CONFLICT, "this was made by an earlier request with the same key: its secret was shown then", NULL);
    cli_say(c, "%s %s; the secret is shown this once:", type, cli_str(made, "id"));
    (void)printf("%s\n", cli_str(made, member));
    return CLI_OK;
}

/* {app_ids, env_ids} of --restrict-app and --restrict-env, NULL for none. */
json_t *cli_restrict(struct cli *c)
{
    mt_auto_json json_t *apps = cli_words(c, "restrict-app"), *envs = cli_words(c, "restrict-env");
    return apps || envs ? json_pack("{s:O*,s:O*}", "app_ids", apps, "env_ids", envs) : NULL;
}

int cmd_tokens_create(struct cli *c)
{
    mt_auto_json json_t *scopes = cli_words(c, "scope");
    mt_auto_json json_t *restrict_to = cli_restrict(c);
    mt_auto_json json_t *made = NULL;
    struct mt_err err;
    uint64_t days = 90;
    const char *expires = cli_opt(c, "expires"), *org = cli_opt(c, "org");
    if (!cli_has(c, "name") || !scopes)
        return cli_usage(c, "--name and --scope are needed");
    if (expires) {
        char number[24];
        size_t n = strlen(expires);
        (void)snprintf(number, sizeof number, "%.*s", (int)(n && expires[n - 1] == 'd' && n < sizeof number ? n - 1 : n), expires);
        if (mt_parse_u64(number, 1, 365, &days, &err) < 0)
            return cli_usage(c, "--expires: a number of days from 1d to 365d");
    }
    int code = org ? cli_need_org(c) : CLI_OK; /* only when it is asked for: a token for one organisation is a choice */
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:O,s:O*,s:s*,s:I}", "name", cli_opt(c, "name"), "scopes", scopes, "restrict", restrict_to, "org_id",
                                          org ? c->org_id : NULL, "expires_in_days", (json_int_t)days);
    if (!body)
        return cli_usage(c, "--name is not UTF-8");
    if ((code = cli_call(c, "POST", "/v1/auth/tokens", body, &made)) != CLI_OK)
        return code;
    return cli_show_secret(c, "PersonalToken", "token", made, "token");
}

int cmd_tokens_revoke(struct cli *c)
{
    mt_auto_json json_t *r = NULL;
    char path[100];
    int code = cli_check_id(c, c->argv[0], "tok_", "moat auth tokens list");
    if (code != CLI_OK || (code = cli_confirm(c, "token", c->argv[0])) != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/auth/tokens/%s", c->argv[0]);
    if ((code = cli_call(c, "DELETE", path, NULL, &r)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Deleted", r);
    cli_say(c, "revoked %s", c->argv[0]);
    return CLI_OK;
}

int cmd_admin_tokens_revoke(struct cli *c)
{
    mt_auto_json json_t *r = NULL;
    char path[100];
    const char *reason = cli_opt(c, "reason");
    int code = cli_check_id(c, c->argv[0], "tok_", "moat admin audit --all");
    if (code != CLI_OK)
        return code;
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the audit log");
    if ((code = cli_confirm(c, "token", c->argv[0])) != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/tokens/%s/revoke", c->argv[0]);
    mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason);
    c->said = true; /* it is about none of the caller's own */
    code = body ? cli_call(c, "POST", path, body, &r) : cli_usage(c, "--reason is not UTF-8");
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "TokenEnd", r);
    cli_say(c, "%s %s: %s of %s", json_is_true(json_object_get(r, "already_revoked")) ? "had been revoked" : "revoked", c->argv[0], cli_str(r, "kind"), cli_str(r, "subject_id"));
    return CLI_OK;
}
