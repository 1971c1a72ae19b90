/* SPDX-License-Identifier: Apache-2.0 */
/* What organisations, projects, apps and environments have in common: made, shown, changed, removed by name. A change reads
 * the version it is based on just before, so that what somebody else changed meanwhile is told, not overwritten. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

int cli_change(struct cli *c, char *path_taken, const char *type, json_t *fields_taken)
{
    mt_auto_free char *path = path_taken;
    mt_auto_json json_t *fields = fields_taken, *now = NULL, *after = NULL;
    if (!path || !fields)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (json_object_size(fields) == 0)
        return cli_usage(c, "nothing to change is given");
    int code = cli_call(c, "GET", path, NULL, &now);
    if (code != CLI_OK)
        return code;
    (void)json_object_set_new(fields, "expected_version", json_integer((json_int_t)cli_int(now, "resource_version")));
    code = cli_call(c, "PATCH", path, fields, &after);
    return code == CLI_OK ? cli_receipt(c, type, after) : code;
}

/* DELETE @path (freed) after asking for @name. */
static int take_away(struct cli *c, char *path_taken, const char *type, const char *name)
{
    mt_auto_free char *path = path_taken;
    mt_auto_json json_t *r = NULL;
    if (!path)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    int code = cli_confirm(c, type, name);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *target = mt_asprintf("%s%s", path, cli_has(c, "cascade") ? "?cascade=true" : "");
    code = cli_call(c, "DELETE", target, NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        char operation[64];
        (void)snprintf(operation, sizeof operation, "%s.delete", type);
        mt_auto_json json_t *about = json_pack("{s:s,s:s}", "id", strrchr(path, '/') + 1, "name", name);
        (void)json_object_update(about, r);
        mt_auto_json json_t *doc = cli_receipt_json(c, type, operation, about);
        return doc ? cli_print_line(c, doc) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    }
    cli_say(c, "%s %s %s", type, name, json_is_true(json_object_get(r, "already_deleted")) ? "was deleted already" : "deleted");
    return CLI_OK;
}

void cli_put_text(const struct cli *c, json_t *fields, const char *option, const char *field)
{
    const char *v = cli_has(c, option) ? cli_opt(c, option) : NULL;
    if (v && fields) /* an empty text takes the value away */
        (void)(*v ? mt_json_set_str(fields, field, v) : json_object_set_new(fields, field, json_null()));
}

int cli_put_switch(struct cli *c, json_t *fields, const char *option, const char *field)
{
    const char *v = cli_has(c, option) ? cli_opt(c, option) : NULL;
    if (!v)
        return CLI_OK;
    if (!MT_STREQ(v, "on") && !MT_STREQ(v, "off"))
        return cli_usage(c, "--%s is on or off", option);
    (void)json_object_set_new(fields, field, json_boolean(MT_STREQ(v, "on")));
    return CLI_OK;
}

/* The thing that the command names, not that of the context: what contains it is found first, since connecting sets the whole target. */
static int need_named_app(struct cli *c)
{
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    c->app = c->argv[0];
    *c->app_id = '\0';
    return cli_need_app(c);
}

/* ---------------------------------------------------------------- organisations */

int cmd_orgs_create(struct cli *c)
{
    mt_auto_json json_t *body = json_pack("{s:s}", "name", c->argv[0]), *made = NULL;
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    if (!body)
        return cli_usage(c, "'%.40s' is not a name", c->argv[0]);
    cli_put_text(c, body, "billing-email", "billing_email");
    code = cli_call(c, "POST", "/v1/orgs", body, &made);
    return code == CLI_OK ? cli_receipt(c, "org", made) : code;
}

static int need_named_org(struct cli *c)
{
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    c->org = c->argv[0];
    *c->org_id = '\0';
    return cli_need_org(c);
}

int cmd_orgs_get(struct cli *c)
{
    int code = need_named_org(c);
    return code == CLI_OK ? cli_show_object(c, mt_asprintf("/v1/orgs/%s", c->org_id), "Org") : code;
}

int cmd_orgs_rename(struct cli *c)
{
    int code = need_named_org(c);
    return code == CLI_OK ? cli_change(c, mt_asprintf("/v1/orgs/%s", c->org_id), "org", json_pack("{s:s}", "name", c->argv[1])) : code;
}

int cmd_orgs_delete(struct cli *c)
{
    int code = need_named_org(c);
    return code == CLI_OK ? take_away(c, mt_asprintf("/v1/orgs/%s", c->org_id), "org", c->argv[0]) : code;
}

/* ---------------------------------------------------------------- projects */

/* Path of the project called @word, by name or id; NULL with *ret_code set. */
static char *project_path(struct cli *c, const char *word, int *ret_code)
{
    if ((*ret_code = cli_need_org(c)) != CLI_OK)
        return NULL;
    if (mt_starts_with(word, "prj_")) {
        *ret_code = cli_check_id(c, word, "prj_", "moat projects list");
        return *ret_code == CLI_OK ? mt_asprintf("/v1/orgs/%s/projects/%s", c->org_id, word) : NULL;
    }
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(1024);
    mt_auto_json json_t *found = NULL;
    mt_buf_printf(&t, "/v1/orgs/%s/projects?name=", c->org_id);
    mt_http_put_query(&t, word);
    if ((*ret_code = cli_call(c, "GET", mt_buf_cstr(&t), NULL, &found)) != CLI_OK)
        return NULL;
    const json_t *first = json_array_get(json_object_get(found, "items"), 0);
    if (first)
        return mt_asprintf("/v1/orgs/%s/projects/%s", c->org_id, cli_str(first, "id"));
    char what[120];
    (void)snprintf(what, sizeof what, "there is no project '%.60s'", word);
    *ret_code = cli_error(c, CLI_NOT_FOUND, what, "moat projects list");
    return NULL;
}

int cmd_projects_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"NAME", "name"}, {"ID", "id"}, {"CREATED", "created_at"}};
    int code = cli_need_org(c);
    return code == CLI_OK ? cli_show_list(c, mt_asprintf("/v1/orgs/%s/projects", c->org_id), cols, MT_ARRAY_LEN(cols), "projects") : code;
}

int cmd_projects_create(struct cli *c)
{
    mt_auto_json json_t *body = json_pack("{s:s}", "name", c->argv[0]), *made = NULL;
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = mt_asprintf("/v1/orgs/%s/projects", c->org_id);
    code = path && body ? cli_call(c, "POST", path, body, &made) : cli_usage(c, "'%.40s' is not a name", c->argv[0]);
    return code == CLI_OK ? cli_receipt(c, "project", made) : code;
}

int cmd_projects_get(struct cli *c)
{
    int code;
    char *path = project_path(c, c->argv[0], &code);
    return path ? cli_show_object(c, path, "Project") : code;
}

int cmd_projects_rename(struct cli *c)
{
    int code;
    char *path = project_path(c, c->argv[0], &code);
    return path ? cli_change(c, path, "project", json_pack("{s:s}", "name", c->argv[1])) : code;
}

int cmd_projects_update(struct cli *c)
{
    const char *name = cli_opt(c, "name");
    int code;
    if (!name)
        return cli_usage(c, "--name: nothing else of a project can be changed");
    char *path = project_path(c, c->argv[0], &code);
    return path ? cli_change(c, path, "project", json_pack("{s:s}", "name", name)) : code;
}

int cmd_projects_delete(struct cli *c)
{
    int code;
    char *path = project_path(c, c->argv[0], &code);
    return path ? take_away(c, path, "project", c->argv[0]) : code;
}

/* ---------------------------------------------------------------- apps */

int cmd_apps_get(struct cli *c)
{
    int code = need_named_app(c);
    return code == CLI_OK ? cli_show_object(c, cli_app_path(c, "%s", ""), "App") : code;
}

int cmd_apps_update(struct cli *c)
{
    int code = need_named_app(c);
    if (code != CLI_OK)
        return code;
    json_t *fields = json_object();
    cli_put_text(c, fields, "name", "name");
    cli_put_text(c, fields, "description", "description");
    if (cli_has(c, "project") && *cli_opt(c, "project")) {
        mt_auto_free char *path = project_path(c, cli_opt(c, "project"), &code);
        if (!path) {
            json_decref(fields);
            return code;
        }
        (void)mt_json_set_str(fields, "project_id", strrchr(path, '/') + 1);
    } else {
        cli_put_text(c, fields, "project", "project_id");
    }
    return cli_change(c, cli_app_path(c, "%s", ""), "app", fields);
}

int cmd_apps_delete(struct cli *c)
{
    int code = need_named_app(c);
    return code == CLI_OK ? take_away(c, cli_app_path(c, "%s", ""), "app", c->argv[0]) : code;
}

/* ---------------------------------------------------------------- environments */

static int need_named_env(struct cli *c)
{
    int code = cli_need_app(c);
    if (code != CLI_OK)
        return code;
    c->env = c->argv[0];
    *c->env_id = '\0';
    return cli_need_env(c);
}

int cmd_envs_get(struct cli *c)
{
    int code = need_named_env(c);
    return code == CLI_OK ? cli_show_object(c, cli_env_path(c, "%s", ""), "Env") : code;
}

/* {label: value} of every --label-selector; one that is empty takes the selector away. */
static int put_selector(struct cli *c, json_t *fields)
{
    const char *w;
    json_t *labels = json_object();
    bool none = false;
    for (size_t i = 0; (w = cli_opt_n(c, "label-selector", i)); i++) {
        const char *eq = strchr(w, '=');
        char key[64];
        if (!*w) {
            none = true;
            continue;
        }
        if (!eq || eq == w || (size_t)(eq - w) >= sizeof key || strlen(eq + 1) > 63) {
            json_decref(labels);
            return cli_usage(c, "--label-selector is LABEL=VALUE, each at most 63 bytes");
        }
        (void)snprintf(key, sizeof key, "%.*s", (int)(eq - w), w);
        (void)json_object_set_new(labels, key, json_string(eq + 1));
    }
    if (none && json_object_size(labels)) {
        json_decref(labels);
        return cli_usage(c, "--label-selector is either empty or LABEL=VALUE");
    }
    if (none || json_object_size(labels))
        (void)json_object_set_new(fields, "label_selector", none ? json_null() : json_incref(labels));
    json_decref(labels);
    return CLI_OK;
}

int cmd_envs_update(struct cli *c)
{
    int code = need_named_env(c);
    json_t *fields = json_object();
    cli_put_text(c, fields, "name", "name");
    if (code == CLI_OK)
        code = cli_put_switch(c, fields, "protected", "protected");
    if (code == CLI_OK)
        code = cli_put_switch(c, fields, "private-network", "private_network");
    if (code == CLI_OK)
        code = put_selector(c, fields);
    if (code != CLI_OK) {
        json_decref(fields);
        return code;
    }
    return cli_change(c, cli_env_path(c, "%s", ""), "env", fields);
}

int cmd_envs_delete(struct cli *c)
{
    int code = need_named_env(c);
    return code == CLI_OK ? take_away(c, cli_env_path(c, "%s", ""), "env", c->argv[0]) : code;
}

int cmd_envs_rebalance(struct cli *c)
{
    mt_auto_json json_t *body = json_object(), *r = NULL;
    const char *p;
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    json_t *list = cli_has(c, "process") ? json_array() : NULL;
    for (size_t i = 0; list && (p = cli_opt_n(c, "process", i)); i++)
        (void)json_array_append_new(list, json_string(p));
    if (list)
        (void)json_object_set_new(body, "process_types", list);
    cli_say(c, "rebalancing %s/%s@%s", c->org, c->app, c->env);
    mt_auto_free char *path = cli_env_path(c, "/rebalance");
    code = path ? cli_call(c, "POST", path, body, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Scale", r);
    cli_say(c, "every instance is placed anew, its replacement first; see: moat ps");
    return CLI_OK;
}

int cmd_instances_restart(struct cli *c)
{
    mt_auto_json json_t *r = NULL, *body = json_object();
    int code = cli_check_id(c, c->argv[0], "inst_", "moat ps");
    if (code == CLI_OK)
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = cli_env_path(c, "/instances/%s/restart", c->argv[0]);
    code = path ? cli_call(c, "POST", path, body, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return code == CLI_OK ? cli_receipt(c, "instance", r) : code;
}
