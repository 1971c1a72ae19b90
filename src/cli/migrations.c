/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes that move to another node, for operators (storage-and-secrets.md §5.2). */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

int cmd_volumes_migrate(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    const char *node = cli_opt(c, "to-node");
    int code = node ? cli_check_id(c, node, "node_", "moat nodes") : cli_usage(c, "--to-node NODE is missing: moat nodes");
    if (code == CLI_OK)
        code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s}", "node_id", node);
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/migrate", cli_str(v, "id"));
    code = body ? cli_call(c, "POST", path, body, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (!c->json && !c->quiet && json_array_size(json_object_get(r, "volume_ids")) > 1)
        cli_say(c, "all %zu volumes of %s move together", json_array_size(json_object_get(r, "volume_ids")), cli_str(r, "process_type"));
    return cli_wants_wait(c) ? cli_wait_kind(c, cli_kind_of("migration"), cli_str(r, "id"), "succeeded") : cli_receipt(c, "migration", r);
}

int cmd_migrations_list(struct cli *c)
{
    mt_auto_json json_t *items = NULL;
    int code = cli_need_org(c);
    mt_auto_free char *path = code == CLI_OK ? mt_asprintf("/v1/orgs/%s/migrations", c->org_id) : NULL;
    if (code == CLI_OK)
        code = path ? cli_list(c, path, &items) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    static const struct cli_column cols[] = {{"ID", "id"},       {"PROCESS", "process_type"}, {"STATUS", "status"},          {"PHASE", "phase"},
                                             {"REASON", "failed_reason"}, {"FROM", "source_node_id"}, {"TO", "target_node_id"}, {"CREATED", "created_at"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "migrations");
}

/* Its path; NULL with the code in @ret. */
static char *path_of(struct cli *c, int *ret)
{
    *ret = cli_check_id(c, c->argv[0], "mig_", "moat migrations");
    if (*ret == CLI_OK)
        *ret = cli_need_org(c);
    return *ret == CLI_OK ? mt_asprintf("/v1/orgs/%s/migrations/%s", c->org_id, c->argv[0]) : NULL;
}

int cmd_migrations_get(struct cli *c)
{
    int code;
    char *path = path_of(c, &code);
    return code == CLI_OK ? cli_show_object(c, path, "Migration") : code;
}

int cmd_migrations_cancel(struct cli *c)
{
    int code;
    mt_auto_json json_t *r = NULL, *body = json_object();
    mt_auto_free char *path = path_of(c, &code);
    if (code == CLI_OK)
        code = path && body ? cli_call(c, "DELETE", path, body, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return code == CLI_OK ? cli_receipt(c, "migration", r) : code;
}
