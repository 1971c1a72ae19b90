/* SPDX-License-Identifier: Apache-2.0 */
/* Organisations, apps, environments, nodes, and who one is. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

/* @project: id of the one it belongs to, or "". */
static int create(struct cli *c, char *path, const char *type, const char *name, const char *project)
{
    mt_auto_json json_t *body = json_pack("{s:s,s:s*}", "name", name, "project_id", *project ? project : NULL);
    mt_auto_json json_t *made = NULL;
    int code = path && body ? cli_call(c, "POST", path, body, &made) : cli_usage(c, "'%.40s' is not a name", name);
    free(path);
    return code == CLI_OK ? cli_receipt(c, type, made) : code;
}

static const struct cli_column named[] = {{"NAME", "name"}, {"ID", "id"}, {"CREATED", "created_at"}};

int cmd_orgs_list(struct cli *c)
{
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/orgs"), named, MT_ARRAY_LEN(named), "organisations") : code;
}

int cmd_apps_list(struct cli *c)
{
    int code = cli_need_org(c);
    if (code == CLI_OK && cli_project_named(c))
        code = cli_need_project(c);
    return code == CLI_OK ? cli_show_list(c, mt_asprintf("/v1/orgs/%s/apps%s%s", c->org_id, *c->project_id ? "?project_id=" : "", c->project_id), named, MT_ARRAY_LEN(named), "apps") : code;
}

int cmd_apps_create(struct cli *c)
{
    int code = cli_need_org(c);
    if (code == CLI_OK && cli_project_named(c))
        code = cli_need_project(c);
    return code == CLI_OK ? create(c, mt_asprintf("/v1/orgs/%s/apps", c->org_id), "app", c->argv[0], c->project_id) : code;
}

int cmd_envs_list(struct cli *c)
{
    int code = cli_need_app(c);
    return code == CLI_OK ? cli_show_list(c, cli_app_path(c, "/envs"), named, MT_ARRAY_LEN(named), "environments") : code;
}

int cmd_envs_create(struct cli *c)
{
    int code = cli_need_app(c);
    return code == CLI_OK ? create(c, cli_app_path(c, "/envs"), "env", c->argv[0], "") : code;
}

int cmd_nodes_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"NAME", "name"}, {"ID", "id"}, {"ADMIN", "admin_state"}, {"HEALTH", "health"}, {"VMM", "vmm.driver"},
                                             {"ACCEL", "vmm.accel"}, {"ADDRESS", "overlay_ipv6"}, {"CONDITIONS", "conditions"}, {"WHY THIS VMM", "vmm.reason"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/nodes"), cols, MT_ARRAY_LEN(cols), "nodes") : code;
}

int cmd_whoami(struct cli *c)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", "/v1/auth/whoami", NULL, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Whoami", j);
    (void)printf("%s %s%s%s\n", cli_str(j, "subject_type"), cli_str(j, "subject_id"), *cli_str(j, "email") ? " " : "", cli_str(j, "email"));
    return CLI_OK;
}

/* POST a named thing unless it is there; *ret_id either way. @gate NULL, or for its config_gate. */
static int ensure(struct cli *c, const char *list_path, const char *noun, const char *name, char ret_id[40], char *gate)
{
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(1024);
    mt_auto_json json_t *found = NULL;
    mt_buf_printf(&t, "%s?name=", list_path);
    mt_http_put_query(&t, name);
    int code = cli_call(c, "GET", mt_buf_cstr(&t), NULL, &found);
    if (code != CLI_OK)
        return code;
    const json_t *first = json_array_get(json_object_get(found, "items"), 0);
    mt_auto_json json_t *made = NULL;
    if (!first) {
        char pinned[sizeof c->idempotency_key];
        memcpy(pinned, c->idempotency_key, sizeof pinned);
        *c->idempotency_key = '\0';
        mt_auto_json json_t *body = json_pack("{s:s}", "name", name);
        c->said = true; /* the deploy names the target */
        code = body ? cli_call(c, "POST", list_path, body, &made) : cli_usage(c, "'%.40s' is not a name", name);
        memcpy(c->idempotency_key, pinned, sizeof pinned);
        if (code != CLI_OK)
            return code;
        c->said = false;
        cli_say(c, "%s✓%s made %s %s", cli_color(c, "green"), cli_color(c, "reset"), noun, name);
        first = made;
    }
    (void)snprintf(ret_id, 40, "%s", cli_str(first, "id"));
    if (gate)
        (void)snprintf(gate, sizeof c->env_gate, "%s", cli_str(first, "config_gate"));
    c->made = made != NULL;
    return CLI_OK;
}

int cli_ensure_env(struct cli *c)
{
    char path[160];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    if (!c->app)
        c->app = c->config_app;
    if (!c->app)
        return cli_usage(c, "no app is named: set app.name in the manifest or add --app NAME");
    if (!c->env)
        return cli_usage(c, "no environment is named: add --env NAME");
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/apps", c->org_id);
    code = ensure(c, path, "app", c->app, c->app_id, NULL);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/apps/%s/envs", c->org_id, c->app_id);
    return ensure(c, path, "environment", c->env, c->env_id, c->env_gate);
}
