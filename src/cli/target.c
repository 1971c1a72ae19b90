/* SPDX-License-Identifier: Apache-2.0 */
/* What a command is about: names of organisation, app and environment to ids (control-plane.md §15.2), and paths below them. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <stdarg.h>

/* The one object of a list endpoint that has this name, or this id. */
static int resolve(struct cli *c, const char *list, const char *noun, const char *name, const char *hint, char ret_id[40])
{
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(1024);
    mt_auto_json json_t *j = NULL;
    const char *underscore = strchr(name, '_');
    if (underscore && strlen(underscore + 1) == 26 && strlen(name) < 40) { /* an id */
        (void)snprintf(ret_id, 40, "%s", name);
        return CLI_OK;
    }
    mt_buf_printf(&t, "%s%cname=", list, strchr(list, '?') ? '&' : '?');
    mt_http_put_query(&t, name);
    int code = cli_call(c, "GET", mt_buf_cstr(&t), NULL, &j);
    if (code != CLI_OK)
        return code;
    const json_t *first = json_array_get(json_object_get(j, "items"), 0);
    if (!first) {
        char what[160];
        (void)snprintf(what, sizeof what, "there is no %s '%.60s'", noun, name);
        return cli_error(c, CLI_NOT_FOUND, what, hint);
    }
    (void)snprintf(ret_id, 40, "%s", cli_str(first, "id"));
    return CLI_OK;
}

int cli_check_id(struct cli *c, const char *word, const char *prefix, const char *hint)
{
    size_t n = strlen(prefix);
    if (mt_starts_with(word, prefix) && strlen(word + n) == 26 && strspn(word + n, "0123456789abcdefghjkmnpqrstvwxyz") == 26)
        return CLI_OK;
    char what[160];
    (void)snprintf(what, sizeof what, "'%.60s' is not an id: it looks like %s...", word, prefix);
    return cli_error(c, CLI_USAGE, what, hint);
}

/* The one object of a list when there is exactly one; else @unnamed is the error. */
static int only_one(struct cli *c, const char *list, const char *unnamed, const char *make, char **keep, const char **ret_name, char ret_id[40])
{
    mt_auto_json json_t *items = NULL;
    int code = cli_list(c, list, &items);
    if (code != CLI_OK)
        return code;
    if (json_array_size(items) != 1)
        return json_array_size(items) ? cli_usage(c, "%s", unnamed) : cli_error(c, CLI_USAGE, unnamed, make);
    (void)snprintf(ret_id, 40, "%s", cli_str(json_array_get(items, 0), "id"));
    free(*keep);
    *ret_name = *keep = strdup(cli_str(json_array_get(items, 0), "name"));
    return CLI_OK;
}

int cli_need_org(struct cli *c)
{
    int code = cli_connect(c);
    if (code != CLI_OK || *c->org_id)
        return code;
    if (!c->org) /* exactly one: no guess is needed */
        return only_one(c, "/v1/orgs", "no organisation is named: add --org NAME", "moat orgs create NAME", &c->config_org, &c->org, c->org_id);
    return resolve(c, "/v1/orgs", "organisation", c->org, "moat orgs list", c->org_id);
}

int cli_need_project(struct cli *c)
{
    char list[100];
    int code = cli_need_org(c);
    if (code != CLI_OK || *c->project_id)
        return code;
    (void)snprintf(list, sizeof list, "/v1/orgs/%s/projects", c->org_id);
    if (!c->project)
        return only_one(c, list, "no project is named: add --project NAME", "moat projects create NAME", &c->config_project, &c->project, c->project_id);
    return resolve(c, list, "project", c->project, "moat projects list", c->project_id);
}

/* `apps update --project` names where the app shall go, not where it is. */
static bool own_project(const struct cli *c)
{
    return c->command && (MT_STREQ(c->command->name, "apps update") || MT_STREQ(c->command->name, "apps create"));
}

bool cli_project_named(struct cli *c)
{
    return c->project && *c->project && (cli_opt(c, "project") || getenv("MOAT_PROJECT"));
}

bool cli_app_named(struct cli *c)
{
    if (!c->app)
        cli_app_of_manifest(c);
    if (!c->app)
        c->app = c->config_app;
    return c->app;
}

int cli_need_app(struct cli *c)
{
    int code = cli_need_org(c);
    if (code != CLI_OK || *c->app_id)
        return code;
    if (!cli_app_named(c)) /* never guessed, not even the only one */
        return cli_usage(c, "no app is named: add --app NAME, or run it beside a moat.toml with app.name");
    if (!own_project(c) && cli_project_named(c) && (code = cli_need_project(c)) != CLI_OK)
        return code; /* a project that is named has to be there, and the app in it */
    char list[160];
    (void)snprintf(list, sizeof list, "/v1/orgs/%s/apps%s%s", c->org_id, *c->project_id ? "?project_id=" : "", c->project_id);
    return resolve(c, list, "app", c->app, "moat apps list", c->app_id);
}

int cli_env_named(struct cli *c, const char *name, char ret[40])
{
    char list[160];
    (void)snprintf(list, sizeof list, "/v1/orgs/%s/apps/%s/envs", c->org_id, c->app_id);
    return resolve(c, list, "environment", name, "moat envs list", ret);
}

int cli_need_env(struct cli *c)
{
    int code = cli_need_app(c);
    if (code != CLI_OK || *c->env_id)
        return code;
    if (!c->env)
        return cli_usage(c, "no environment is named: add --env NAME");
    return cli_env_named(c, c->env, c->env_id);
}

static char *path_of(const char *head, const char *fmt, va_list ap)
{
    char tail[1024];
    (void)vsnprintf(tail, sizeof tail, fmt, ap);
    return mt_asprintf("%s%s", head, tail);
}

char *cli_env_path(const struct cli *c, const char *fmt, ...)
{
    char head[200];
    (void)snprintf(head, sizeof head, "/v1/orgs/%s/apps/%s/envs/%s", c->org_id, c->app_id, c->env_id);
    va_list ap;
    va_start(ap, fmt);
    char *p = path_of(head, fmt, ap);
    va_end(ap);
    return p;
}

char *cli_app_path(const struct cli *c, const char *fmt, ...)
{
    char head[200];
    (void)snprintf(head, sizeof head, "/v1/orgs/%s/apps/%s", c->org_id, c->app_id);
    va_list ap;
    va_start(ap, fmt);
    char *p = path_of(head, fmt, ap);
    va_end(ap);
    return p;
}
