/* SPDX-License-Identifier: Apache-2.0 */
/* Members of an organisation, service principals, users of the platform. */
#include "cli/creds.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

/* The object of list @path that is called @word (by @filter), or has that id; *ret owned by the caller. */
static int find(struct cli *c, const char *path, const char *filter, const char *prefix, const char *noun, const char *word, json_t **ret)
{
    mt_auto_json json_t *items = NULL;
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(2048);
    bool id = mt_starts_with(word, prefix) && strlen(word) == strlen(prefix) + 26;
    mt_buf_puts(&t, path);
    if (!id) {
        mt_buf_printf(&t, "%c%s=", strchr(path, '?') ? '&' : '?', filter);
        mt_http_put_query(&t, word);
    }
    int code = cli_list(c, mt_buf_cstr(&t), &items);
    if (code != CLI_OK)
        return code;
    size_t i, hits = 0;
    json_t *o, *found = NULL;
    json_array_foreach(items, i, o)
        if (!id || MT_STREQ(cli_str(o, "id"), word)) {
            found = o;
            hits++;
        }
    char what[200];
    if (hits)
        (void)snprintf(what, sizeof what, "there are %zu %ss called '%.60s': give the id", hits, noun, word);
    else
        (void)snprintf(what, sizeof what, "there is no %s '%.60s'", noun, word);
    if (hits != 1)
        return cli_error(c, hits ? CLI_USAGE : CLI_NOT_FOUND, what, NULL);
    *ret = json_incref(found);
    return CLI_OK;
}

static int org_path(struct cli *c, const char *tail, char *ret, size_t size)
{
    int code = cli_need_org(c);
    (void)snprintf(ret, size, "/v1/orgs/%s/%s", c->org_id, tail);
    return code;
}

static int deleted(struct cli *c, const char *path, const char *noun, const char *name)
{
    mt_auto_json json_t *r = NULL;
    int code = cli_confirm(c, noun, name);
    if (code != CLI_OK || (code = cli_call(c, "DELETE", path, NULL, &r)) != CLI_OK)
        return code;
    if (c->json)
        return cli_receipt(c, noun, r);
    cli_say(c, "removed %s", name);
    return CLI_OK;
}

/* ---- members ---- */

static const struct cli_column member_cols[] = {{"EMAIL", "email"}, {"ROLE", "role"}, {"STATE", "state"}, {"ID", "id"}};

int cmd_members_list(struct cli *c)
{
    char path[100];
    int code = org_path(c, "members", path, sizeof path);
    return code == CLI_OK ? cli_show_list(c, strdup(path), member_cols, MT_ARRAY_LEN(member_cols), "members") : code;
}

int cmd_members_add(struct cli *c)
{
    char path[100];
    mt_auto_json json_t *made = NULL;
    int code = org_path(c, "members", path, sizeof path);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:s}", "email", c->argv[0], "role", cli_has(c, "role") ? cli_opt(c, "role") : "developer");
    if (!body)
        return cli_usage(c, "'%.60s' is not an address", c->argv[0]);
    code = cli_call(c, "POST", path, body, &made);
    return code == CLI_OK ? cli_receipt(c, "member", made) : code;
}

int cmd_members_set_role(struct cli *c)
{
    char path[100], one[160];
    mt_auto_json json_t *m = NULL, *made = NULL;
    if (!cli_has(c, "role"))
        return cli_usage(c, "--role is needed: owner, admin, developer or readonly");
    int code = org_path(c, "members", path, sizeof path);
    if (code != CLI_OK || (code = find(c, path, "email", "mem_", "member", c->argv[0], &m)) != CLI_OK)
        return code;
    (void)snprintf(one, sizeof one, "%s/%s", path, cli_str(m, "id"));
    mt_auto_json json_t *body = json_pack("{s:s,s:I}", "role", cli_opt(c, "role"), "expected_version", (json_int_t)cli_int(m, "resource_version"));
    code = body ? cli_call(c, "PATCH", one, body, &made) : cli_usage(c, "--role is not UTF-8");
    return code == CLI_OK ? cli_receipt(c, "member", made) : code;
}

int cmd_members_remove(struct cli *c)
{
    char path[100], one[160];
    mt_auto_json json_t *m = NULL;
    int code = org_path(c, "members", path, sizeof path);
    if (code != CLI_OK || (code = find(c, path, "email", "mem_", "member", c->argv[0], &m)) != CLI_OK)
        return code;
    (void)snprintf(one, sizeof one, "%s/%s", path, cli_str(m, "id"));
    return deleted(c, one, "member", cli_str(m, "email"));
}

/* ---- service principals ---- */

int cmd_sps_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"NAME", "name"}, {"ID", "id"}, {"CLIENT ID", "client_id"}, {"LAST USED", "last_used_at"}};
    char path[100];
    int code = org_path(c, "service-principals", path, sizeof path);
    return code == CLI_OK ? cli_show_list(c, strdup(path), cols, MT_ARRAY_LEN(cols), "service principals") : code;
}

static int show_client(struct cli *c, const json_t *made)
{
    if (!c->json)
        cli_say(c, "MOAT_CLIENT_ID=%s", cli_str(made, "client_id"));
    return cli_show_secret(c, "ServicePrincipal", "service principal", made, "client_secret");
}

int cmd_sps_create(struct cli *c)
{
    char path[100];
    mt_auto_json json_t *scopes = cli_words(c, "scope");
    mt_auto_json json_t *restrict_to = cli_restrict(c);
    mt_auto_json json_t *made = NULL;
    if (!scopes)
        return cli_usage(c, "--scope is needed, for example --scope deploys:write,releases:write");
    int code = org_path(c, "service-principals", path, sizeof path);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:O,s:O*}", "name", c->argv[0], "scopes", scopes, "restrict", restrict_to);
    code = body ? cli_call(c, "POST", path, body, &made) : cli_usage(c, "'%.60s' is not a name", c->argv[0]);
    return code == CLI_OK ? show_client(c, made) : code;
}

static int find_sp(struct cli *c, char *ret_path, size_t size, json_t **ret)
{
    char path[100];
    int code = org_path(c, "service-principals", path, sizeof path);
    if (code != CLI_OK || (code = find(c, path, "name", "sp_", "service principal", c->argv[0], ret)) != CLI_OK)
        return code;
    (void)snprintf(ret_path, size, "%s/%s", path, cli_str(*ret, "id"));
    return CLI_OK;
}

int cmd_sps_update(struct cli *c)
{
    char path[160];
    mt_auto_json json_t *scopes = cli_words(c, "scope");
    mt_auto_json json_t *restrict_to = cli_restrict(c);
    mt_auto_json json_t *sp = NULL, *made = NULL;
    if (cli_has(c, "no-restrict") && restrict_to)
        return cli_usage(c, "--no-restrict and --restrict-app or --restrict-env exclude each other");
    int code = find_sp(c, path, sizeof path, &sp);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s*,s:O*,s:O*,s:I}", "name", cli_opt(c, "name"), "scopes", scopes, "restrict", restrict_to, "expected_version",
                                          (json_int_t)cli_int(sp, "resource_version"));
    if (body && cli_has(c, "no-restrict"))
        (void)json_object_set_new(body, "restrict", json_null());
    code = body ? cli_call(c, "PATCH", path, body, &made) : cli_usage(c, "--name is not UTF-8");
    return code == CLI_OK ? cli_receipt(c, "service principal", made) : code;
}

int cmd_sps_rotate(struct cli *c)
{
    char path[180];
    int64_t ms = 0;
    struct mt_err err;
    mt_auto_json json_t *sp = NULL, *made = NULL;
    if (cli_has(c, "overlap") && cli_parse_duration(cli_opt(c, "overlap"), &ms, &err) < 0)
        return cli_usage(c, "--overlap: %s", err.msg);
    int code = find_sp(c, path, sizeof path - 10, &sp);
    if (code != CLI_OK)
        return code;
    size_t used = strlen(path);
    (void)snprintf(path + used, sizeof path - used, "/rotate");
    mt_auto_json json_t *body = json_pack("{s:I}", "overlap_seconds", (json_int_t)(ms / 1000));
    code = cli_call(c, "POST", path, body, &made);
    return code == CLI_OK ? show_client(c, made) : code;
}

int cmd_sps_delete(struct cli *c)
{
    char path[160];
    mt_auto_json json_t *sp = NULL;
    int code = find_sp(c, path, sizeof path, &sp);
    return code == CLI_OK ? deleted(c, path, "service principal", cli_str(sp, "name")) : code;
}

/* ---- users, for operators ---- */

int cmd_users_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"EMAIL", "email"},          {"ID", "id"},         {"STATE", "state"},
                                             {"OPERATOR", "is_operator"}, {"PASSWORD", "has_password"}, {"ONE-TIME CODE", "has_totp"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/users"), cols, MT_ARRAY_LEN(cols), "users") : code;
}

int cmd_users_create(struct cli *c)
{
    mt_auto_json json_t *made = NULL;
    mt_auto_json json_t *body = json_pack("{s:s,s:s*,s:b}", "email", c->argv[0], "display_name", cli_opt(c, "name"), "is_operator", cli_has(c, "operator"));
    int code = body ? cli_call(c, "POST", "/v1/users", body, &made) : cli_usage(c, "'%.60s' is not an address", c->argv[0]);
    return code == CLI_OK ? cli_show_secret(c, "User", "user", made, "setup_url") : code;
}

static int find_user(struct cli *c, json_t **ret, char *ret_path, size_t size)
{
    int code = find(c, "/v1/users", "email", "usr_", "user", c->argv[0], ret);
    (void)snprintf(ret_path, size, "/v1/users/%s", code == CLI_OK ? cli_str(*ret, "id") : "");
    return code;
}

static int set_state(struct cli *c, const char *state)
{
    char path[80];
    mt_auto_json json_t *u = NULL, *made = NULL;
    int code = find_user(c, &u, path, sizeof path);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:I}", "state", state, "expected_version", (json_int_t)cli_int(u, "resource_version"));
    code = cli_call(c, "PATCH", path, body, &made);
    return code == CLI_OK ? cli_receipt(c, "user", made) : code;
}

int cmd_users_disable(struct cli *c)
{
    return set_state(c, "disabled");
}

int cmd_users_enable(struct cli *c)
{
    return set_state(c, "active");
}

int cmd_users_setup_link(struct cli *c)
{
    char path[80], link[100];
    mt_auto_json json_t *u = NULL, *made = NULL;
    int code = find_user(c, &u, path, sizeof path);
    if (code != CLI_OK)
        return code;
    (void)snprintf(link, sizeof link, "%s/setup-link", path);
    mt_auto_json json_t *body = json_object();
    code = cli_call(c, "POST", link, body, &made);
    return code == CLI_OK ? cli_show_secret(c, "SetupLink", "setup link of", made, "setup_url") : code;
}

int cmd_break_glass(struct cli *c)
{
    mt_auto_json json_t *made = NULL, *org = NULL;
    if (!cli_has(c, "reason"))
        return cli_usage(c, "--reason is needed: it is shown in the organisation's audit log");
    int code = find(c, "/v1/orgs?all=true", "name", "org_", "organisation", c->argv[0], &org);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:s}", "org_id", cli_str(org, "id"), "reason", cli_opt(c, "reason"));
    code = body ? cli_call(c, "POST", "/v1/admin/break-glass", body, &made) : cli_usage(c, "--reason is not UTF-8");
    return code == CLI_OK ? cli_show_secret(c, "BreakGlass", "token", made, "access_token") : code;
}
