/* SPDX-License-Identifier: Apache-2.0 */
/* Restores: a backup becomes a new volume. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

/* What is restored: --snapshot, or the last backup of the volume that is named. Ids into @snapshot and @volume. */
static int what(struct cli *c, char snapshot[40], char volume[40])
{
    const json_t *v = NULL;
    mt_auto_json json_t *volumes = NULL, *s = NULL;
    const char *id = cli_opt(c, "snapshot");
    int code = CLI_OK;
    if (!c->argc && !id)
        return cli_usage(c, "give a VOLUME, for its last backup, or --snapshot ID");
    if (id && (code = cli_get_kind(c, cli_kind_of("snapshot"), id, &s)) == CLI_OK && !c->argc) {
        (void)snprintf(snapshot, 40, "%s", id);
        (void)snprintf(volume, 40, "%s", cli_str(s, "volume_id"));
        return CLI_OK;
    }
    if (code == CLI_OK)
        code = cli_volume(c, c->argv[0], &volumes, &v);
    if (code != CLI_OK)
        return code;
    if (id && !MT_STREQ(cli_str(s, "volume_id"), cli_str(v, "id")))
        return cli_error(c, CLI_USAGE, "the snapshot is of another volume", "moat snapshots list VOLUME");
    if (!id && !*cli_str(v, "last_backup_snapshot_id"))
        return cli_error(c, CLI_CONFLICT, "the volume has no backup yet", "moat snapshots create VOLUME --wait");
    (void)snprintf(snapshot, 40, "%s", id ? id : cli_str(v, "last_backup_snapshot_id"));
    (void)snprintf(volume, 40, "%s", cli_str(v, "id"));
    return CLI_OK;
}

int cmd_volumes_restore(struct cli *c)
{
    char snapshot[40], volume[40], env[40] = "";
    const char *to = cli_opt(c, "to-env");
    uint64_t size = 0;
    mt_auto_json json_t *r = NULL;
    const char *node = cli_opt(c, "node");
    int code = cli_has(c, "size") ? cli_volume_size(c, &size) : CLI_OK;
    if (code == CLI_OK && cli_has(c, "replace") && to)
        return cli_usage(c, "--replace is of the volume's own environment; --to-env is another one");
    if (code == CLI_OK && node)
        code = cli_check_id(c, node, "node_", "moat nodes");
    if (code == CLI_OK)
        code = what(c, snapshot, volume);
    if (code == CLI_OK && cli_has(c, "replace"))
        code = cli_confirm_text(c, "this stops the process of the volume and gives its place to the restored one", c->argc ? c->argv[0] : volume);
    if (code == CLI_OK && to && mt_starts_with(to, "env_")) {
        (void)snprintf(env, sizeof env, "%.39s", to);
        code = cli_check_id(c, to, "env_", "moat envs list");
    } else if (code == CLI_OK && to) {
        code = cli_env_named(c, to, env);
    }
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:s*,s:s*,s:s*}", "snapshot_id", snapshot, "name", cli_opt(c, "name"), "target_node_id", node, "target_env_id",
                                          *env ? env : NULL);
    if (!body)
        return cli_usage(c, "--name is not UTF-8");
    if (size)
        (void)json_object_set_new(body, "size_bytes", json_integer((json_int_t)size));
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/restore", volume);
    code = cli_call(c, "POST", path, body, &r);
    if (code != CLI_OK)
        return code;
    if (!c->json && !c->quiet)
        cli_say(c, "into the new volume %s", cli_str(r, "new_volume_id"));
    if (cli_has(c, "replace"))
        return cli_restored_replace(c, volume, r);
    return cli_wants_wait(c) ? cli_wait_kind(c, cli_kind_of("restore"), cli_str(r, "id"), "succeeded") : cli_receipt(c, "restore", r);
}

int cmd_restores_list(struct cli *c)
{
    mt_auto_json json_t *items = NULL;
    int code = cli_need_org(c);
    mt_auto_free char *path = code == CLI_OK ? mt_asprintf("/v1/orgs/%s/restores", c->org_id) : NULL;
    if (code == CLI_OK)
        code = path ? cli_list(c, path, &items) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    static const struct cli_column cols[] = {{"ID", "id"},           {"SNAPSHOT", "snapshot_id"},   {"NEW VOLUME", "new_volume_id"}, {"STATUS", "status"},
                                             {"PHASE", "phase"},    {"REASON", "failed_reason"},   {"NODE", "target_node_id"},      {"CREATED", "created_at"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "restores");
}

int cmd_restores_get(struct cli *c)
{
    int code = cli_check_id(c, c->argv[0], "rst_", "moat restores");
    if (code == CLI_OK)
        code = cli_need_org(c);
    return code == CLI_OK ? cli_show_object(c, mt_asprintf("/v1/orgs/%s/restores/%s", c->org_id, c->argv[0]), "Restore") : code;
}
