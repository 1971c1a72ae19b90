/* SPDX-License-Identifier: Apache-2.0 */
/* Releases of an app, deploys of an environment. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

static int all_releases(struct cli *c, json_t **ret)
{
    mt_auto_free char *path = cli_app_path(c, "/releases");
    return cli_list(c, path, ret);
}

int cli_release_id(struct cli *c, const char *word, char ret[40])
{
    uint64_t number;
    struct mt_err err;
    if (mt_starts_with(word, "rel_")) {
        int bad = cli_check_id(c, word, "rel_", "moat releases");
        (void)snprintf(ret, 40, "%s", word);
        return bad;
    }
    if (*word != 'v' || mt_parse_u64(word + 1, 1, 1000000000, &number, &err) < 0)
        return cli_usage(c, "'%.40s' is not a release: give v3 or an id", word);
    mt_auto_json json_t *items = NULL;
    int code = all_releases(c, &items);
    size_t i;
    json_t *item;
    if (code != CLI_OK)
        return code;
    json_array_foreach(items, i, item)
    {
        if ((uint64_t)cli_int(item, "number") == number) {
            (void)snprintf(ret, 40, "%s", cli_str(item, "id"));
            return CLI_OK;
        }
    }
    char what[80];
    (void)snprintf(what, sizeof what, "there is no release v%llu", (unsigned long long)number);
    return cli_error(c, CLI_NOT_FOUND, what, "moat releases");
}

void cli_name_releases(struct cli *c, json_t *items)
{
    mt_auto_json json_t *releases = NULL;
    size_t i, k;
    json_t *item, *r;
    bool hush = c->hush;
    c->hush = true; /* a missing number is no reason to show nothing */
    int code = json_array_size(items) ? all_releases(c, &releases) : CLI_FAILURE;
    c->hush = hush;
    if (code != CLI_OK)
        return;
    json_array_foreach(items, i, item)
        json_array_foreach(releases, k, r) if (MT_STREQ(cli_str(item, "release_id"), cli_str(r, "id")))
            (void)json_object_set_new(item, "release", json_sprintf("v%lld", (long long)cli_int(r, "number")));
}

int cmd_releases_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"RELEASE", "version"}, {"ID", "id"}, {"CREATED", "created_at"}, {"PROCESSES", "process_types"},
                                             {"IMAGE", "image_ref"}, {"DIGEST", "image_digest"}};
    mt_auto_json json_t *items = NULL;
    int code = cli_need_app(c);
    if (code == CLI_OK)
        code = all_releases(c, &items);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_t *r;
    json_array_foreach(items, i, r) (void)json_object_set_new(r, "version", json_sprintf("v%lld", (long long)cli_int(r, "number")));
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "releases");
}

int cmd_releases_get(struct cli *c)
{
    char id[40];
    int code = cli_need_app(c);
    if (code == CLI_OK)
        code = cli_release_id(c, c->argv[0], id);
    return code == CLI_OK ? cli_show_object(c, cli_app_path(c, "/releases/%s", id), "Release") : code;
}

int cmd_deploys_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"ID", "id"}, {"KIND", "kind"}, {"STATUS", "status"}, {"RELEASE", "release"},
                                             {"PROCESSES", "process_types"}, {"CREATED", "created_at"}, {"REASON", "failed_reason"}};
    mt_auto_json json_t *items = NULL;
    int code = cli_need_env(c);
    mt_auto_free char *path = code == CLI_OK ? cli_env_path(c, "/deploys") : NULL;
    if (code == CLI_OK)
        code = cli_list(c, path, &items);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    cli_name_releases(c, items);
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "deploys");
}

int cmd_deploys_get(struct cli *c)
{
    int code = cli_check_id(c, c->argv[0], "dep_", "moat deploys");
    if (code == CLI_OK)
        code = cli_need_env(c);
    return code == CLI_OK ? cli_show_object(c, cli_env_path(c, "/deploys/%s", c->argv[0]), "Deploy") : code;
}
