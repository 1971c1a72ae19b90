/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

int cmd_releases_list(struct cli *c)
{
    int code = cli_need_app(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = cli_app_path(c, "/releases");
    code = cli_list(c, path, &items);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_t *r;
    char v[32];
    json_array_foreach(items, i, r)
    {
        (void)snprintf(v, sizeof v, "v%lld", (long long)cli_int(r, "number"));
        (void)json_object_set_new(r, "version", json_string(v));
    }
    static const struct cli_column cols[] = {{"RELEASE", "version"}, {"ID", "id"}, {"CREATED", "created_at"}, {"PROCESSES", "process_types"}, {"IMAGE", "image_ref"}, {"DIGEST", "image_digest"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "releases");
}

int cmd_releases_get(struct cli *c)
{
    int code = cli_need_app(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = cli_app_path(c, "/releases");
    code = cli_list(c, path, &items);
    if (code != CLI_OK)
        return code;
    size_t i;
    json_t *r;
    json_array_foreach(items, i, r)
    {
        char v[32];
        (void)snprintf(v, sizeof v, "v%lld", (long long)cli_int(r, "number"));
        if (!MT_STREQ(c->argv[0], v) && !MT_STREQ(c->argv[0], cli_str(r, "id")))
            continue;
        mt_auto_json json_t *one = NULL;
        mt_auto_free char *get = cli_app_path(c, "/releases/%s", cli_str(r, "id"));
        code = cli_call(c, "GET", get, NULL, &one);
        if (code != CLI_OK)
            return code;
        if (c->json)
            return cli_print_object(c, "Release", one);
        (void)json_dumpf(one, stdout, JSON_INDENT(2));
        (void)putchar('\n');
        return CLI_OK;
    }
    char what[100];
    (void)snprintf(what, sizeof what, "there is no release '%.40s'", c->argv[0]);
    return cli_error(c, CLI_NOT_FOUND, what, "moat releases");
}

int cmd_deploys_list(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = cli_env_path(c, "/deploys");
    code = cli_list(c, path, &items);
    if (code != CLI_OK)
        return code;
    static const struct cli_column cols[] = {{"ID", "id"}, {"KIND", "kind"}, {"STATUS", "status"}, {"RELEASE", "release_number"}, {"PROCESSES", "process_types"}, {"CREATED", "created_at"}, {"REASON", "failed_reason"}};
    return c->json ? cli_print_list(c, items) : cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "deploys");
}

int cmd_deploys_get(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *j = NULL;
    mt_auto_free char *path = cli_env_path(c, "/deploys/%s", c->argv[0]);
    code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Deploy", j);
    (void)json_dumpf(j, stdout, JSON_INDENT(2));
    (void)putchar('\n');
    return CLI_OK;
}
