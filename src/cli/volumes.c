/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes of an environment. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

#include <inttypes.h>

int cli_volume_size(struct cli *c, uint64_t *ret)
{
    const char *s = cli_opt(c, "size");
    struct mt_err err;
    char digits[24];
    size_t n = s ? strlen(s) : 0;
    bool gi = n > 2 && MT_STREQ(s + n - 2, "Gi");
    if (!s)
        return cli_usage(c, "--size SIZE is missing, for example --size 10Gi");
    if (n - (gi ? 2 : 0) >= sizeof digits)
        return cli_usage(c, "--size: is <number>Gi, or a number of bytes");
    (void)snprintf(digits, sizeof digits, "%.*s", (int)(n - (gi ? 2 : 0)), s);
    if (mt_parse_u64(digits, 1, gi ? 2048 : UINT64_C(1) << 41, ret, &err) < 0)
        return cli_usage(c, "--size: %s; it is <number>Gi, or a number of bytes", err.msg);
    *ret <<= gi ? 30 : 0;
    return CLI_OK;
}

/* @check: what came of the last look at its filesystem, for operators */
static int list(struct cli *c, const char *path, bool check)
{
    mt_auto_json json_t *items = NULL;
    int code = path ? cli_list(c, path, &items) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_t *v;
    char size[40];
    json_array_foreach(items, i, v)
    {
        const json_t *a = json_object_get(v, "attachment");
        (void)snprintf(size, sizeof size, "%.1f GiB", (double)cli_int(v, "size_bytes") / (1 << 30));
        (void)json_object_set_new(v, "size", json_string(size));
        (void)json_object_set_new(v, "process", json_string(cli_str(a, "process_type")));
        (void)json_object_set_new(v, "path", json_string(cli_str(a, "mount_path")));
        cli_put_backup(v);
        (void)json_object_set_new(v, "checked", json_string(json_is_true(json_object_get(json_object_get(v, "check"), "pending")) ? "in check" : cli_str(v, "check.result")));
    }
    static const struct cli_column cols[] = {{"ID", "id"}, {"NAME", "name"}, {"SIZE", "size"}, {"STATE", "state"}, {"REASON", "error_reason"},
                                             {"PROCESS", "process"}, {"PATH", "path"}, {"LAST BACKUP", "last"}, {"LAG", "lag"},
                                             {"PROVEN", "proven"}, {"NODE", "home_node_id"}, {"FILESYSTEM", "checked"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols) - (check ? 0 : 1), "volumes");
}

int cmd_volumes_list(struct cli *c)
{
    bool all = cli_has(c, "all");
    int code = all ? cli_need_org(c) : cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = all ? mt_asprintf("/v1/orgs/%s/volumes", c->org_id) : cli_env_path(c, "/volumes");
    return list(c, path, false);
}

int cmd_admin_volumes_list(struct cli *c)
{
    const char *node = cli_opt(c, "node");
    int code = node ? cli_check_id(c, node, "node_", "moat nodes") : CLI_OK;
    if (code == CLI_OK)
        code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = mt_asprintf("/v1/admin/volumes%s%s", node ? "?node_id=" : "", node ? node : "");
    return list(c, path, true);
}

int cmd_volumes_create(struct cli *c)
{
    uint64_t size = 0;
    const char *node = cli_opt(c, "node");
    int code = cli_volume_size(c, &size);
    if (code == CLI_OK && node)
        code = cli_check_id(c, node, "node_", "moat nodes");
    if (code == CLI_OK)
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:I,s:s*}", "name", c->argv[0], "size_bytes", (json_int_t)size, "node_id", node), *r = NULL;
    mt_auto_free char *path = cli_env_path(c, "/volumes");
    code = cli_call(c, "POST", path, body, &r);
    return code == CLI_OK ? cli_receipt(c, "volume", r) : code;
}

int cli_volume(struct cli *c, const char *word, json_t **ret_items, const json_t **ret)
{
    int code = cli_need_env(c);
    mt_auto_free char *list = code == CLI_OK ? cli_env_path(c, "/volumes") : NULL;
    size_t i;
    const json_t *v;
    if (code == CLI_OK)
        code = cli_list(c, list, ret_items);
    if (code != CLI_OK)
        return code;
    json_array_foreach(*ret_items, i, v) if (MT_STREQ(cli_str(v, "id"), word) || MT_STREQ(cli_str(v, "name"), word))
    {
        *ret = v;
        return CLI_OK;
    }
    char what[120];
    (void)snprintf(what, sizeof what, "there is no volume '%.60s' here", word);
    return cli_error(c, CLI_NOT_FOUND, what, "moat volumes list");
}

int cmd_volumes_get(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL;
    int code = cli_volume(c, c->argv[0], &items, &v);
    return code == CLI_OK ? cli_show_object(c, cli_env_path(c, "/volumes/%s", cli_str(v, "id")), "Volume") : code;
}

int cmd_volumes_update(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL;
    json_t *fields = json_object();
    cli_put_text(c, fields, "name", "name");
    int code = cli_put_switch(c, fields, "backup", "backup_enabled");
    if (code == CLI_OK)
        code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK) {
        json_decref(fields);
        return code;
    }
    return cli_change(c, cli_env_path(c, "/volumes/%s", cli_str(v, "id")), "volume", fields);
}

int cmd_volumes_resize(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    uint64_t size = 0;
    int code = cli_volume_size(c, &size);
    if (code == CLI_OK)
        code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:I}", "size_bytes", (json_int_t)size);
    if (cli_has(c, "restart"))
        (void)json_object_set_new(body, "restart", json_true());
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/resize", cli_str(v, "id"));
    code = cli_call(c, "POST", path, body, &r);
    const char *deploy = code == CLI_OK ? cli_str(r, "deploy_id") : "";
    if (code != CLI_OK || !*deploy || !cli_wants_wait(c)) /* nothing is restarted where the volume has that size already */
        return code == CLI_OK ? cli_receipt(c, "volume", r) : code;
    cli_say(c, "%s✓%s volume %s grows as %s starts again, by deploy %s", cli_color(c, "green"), cli_color(c, "reset"), cli_str(v, "id"), cli_str(v, "attachment.process_type"), deploy);
    return cli_wait_deploy(c, deploy, (uint64_t)cli_int(r, "receipt.event_id"));
}

int cli_volume_done(struct cli *c, const json_t *v, json_t *r, const char *operation, const char *text)
{
    if (c->json) {
        mt_auto_json json_t *about = json_copy((json_t *)(uintptr_t)v);
        (void)json_object_update(about, r);
        mt_auto_json json_t *doc = cli_receipt_json(c, "volume", operation, about);
        return cli_print_line(c, doc);
    }
    cli_say(c, "volume %s %s", cli_str(v, "id"), text);
    return CLI_OK;
}

int cmd_volumes_attach(struct cli *c)
{
    const json_t *v = NULL;
    const char *process = cli_opt(c, "process"), *path = cli_opt(c, "path");
    mt_auto_json json_t *items = NULL, *r = NULL;
    if (!process || !path)
        return cli_usage(c, "--process NAME and --path PATH say which process gets it, and where");
    int code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:s,s:s,s:b}", "volume_id", cli_str(v, "id"), "process_type", process, "mount_path", path, "read_only", (int)cli_has(c, "read-only"));
    mt_auto_free char *url = cli_env_path(c, "/volume-attachments");
    if (!body)
        return cli_usage(c, "--process and --path are text in UTF-8");
    code = cli_call(c, "POST", url, body, &r);
    if (code == CLI_OK)
        (void)json_object_set(r, "id", json_object_get(v, "id")); /* the answer is the attachment's, the receipt the volume's */
    return code == CLI_OK ? cli_volume_done(c, v, r, "volume.attach", "is attached; the instance of its process is replaced by one that has it") : code;
}

int cmd_volumes_detach(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    int code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK)
        return code;
    const json_t *a = json_object_get(v, "attachment");
    if (!a)
        return cli_error(c, CLI_USAGE, "the volume is not attached", "moat volumes list");
    if (cli_has(c, "drain"))
        return cli_volume_drained_detach(c, v);
    mt_auto_free char *path = cli_env_path(c, "/volume-attachments/%s", cli_str(a, "id"));
    code = cli_call(c, "DELETE", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    return cli_volume_done(c, v, r, "volume.detach", "is detached; its data stays");
}

int cmd_volumes_delete(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    int code = cli_volume(c, c->argv[0], &items, &v);
    if (code == CLI_OK)
        code = cli_confirm(c, "volume", cli_str(v, "name"));
    if (code != CLI_OK)
        return code;
    bool backups = cli_has(c, "delete-backups"), force = cli_has(c, "force");
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s", cli_str(v, "id"));
    mt_auto_json json_t *body = backups || force ? json_object() : NULL;
    if (backups)
        (void)json_object_set_new(body, "delete_backups", json_true());
    if (force)
        (void)json_object_set_new(body, "force", json_true());
    code = cli_call(c, "DELETE", path, body, &r);
    if (code != CLI_OK)
        return code;
    return cli_volume_done(c, v, r, "volume.delete", backups ? "is being deleted, with its data and all backups of it" : "is being deleted, with its data");
}
