/* SPDX-License-Identifier: Apache-2.0 */
/* Backups of the volumes of all organisations, for operators: which are stale, one tried now, another key for those to come. Volumes by id: they are not the caller's. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "wire/http_client.h"

int cmd_admin_backups_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"ID", "id"}, {"NAME", "name"}, {"ORG", "org_id"}, {"ENV", "env_id"}, {"LAST BACKUP", "last"}, {"LAG", "lag"}, {"PROVEN", "proven"}, {"NODE", "home_node_id"}};
    mt_auto_buf struct mt_buf path = MT_BUF_INIT(1024);
    mt_auto_json json_t *items = NULL;
    size_t i;
    json_t *v;
    mt_buf_printf(&path, "/v1/admin/backups%s", cli_has(c, "stale") ? "?stale=true" : "");
    if (cli_opt(c, "node")) {
        mt_buf_puts(&path, cli_has(c, "stale") ? "&node_id=" : "?node_id=");
        mt_http_put_query(&path, cli_opt(c, "node"));
    }
    int code = cli_connect(c);
    if (code == CLI_OK)
        code = cli_list(c, mt_buf_cstr(&path), &items);
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_print_list(c, items) : code;
    json_array_foreach(items, i, v) cli_put_backup(v);
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), cli_has(c, "stale") ? "volumes with a stale backup" : "volumes that are backed up");
}

int cmd_admin_backups_verify(struct cli *c)
{
    mt_auto_json json_t *body = json_pack("{s:s,s:s*}", "volume_id", c->argv[0], "snapshot_id", cli_opt(c, "snapshot")), *r = NULL;
    int code = cli_check_id(c, c->argv[0], "vol_", "moat admin backups list");
    c->said = true; /* it is about none of the caller's own */
    if (code == CLI_OK)
        code = body ? cli_call(c, "POST", "/v1/admin/backups/verify", body, &r) : cli_usage(c, "--snapshot is not UTF-8");
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_receipt(c, "restore", r) : code;
    cli_say(c, "the newest backup of %s is being tried (%s); PROVEN of moat admin backups list tells", c->argv[0], cli_str(r, "id"));
    return CLI_OK;
}

/* By the running server; on a machine of the control plane, where its configuration is named, also without one. */
int cmd_admin_backups_rekey(struct cli *c)
{
    mt_auto_json json_t *j = NULL, *body = NULL;
    const char *reason = cli_opt(c, "reason");
    const char *const more[] = {"--id", c->argv[0], "--reason", reason ? reason : "", NULL};
    int code;
    if (cli_has(c, "config")) {
        code = cli_control(c, "rekey-backups", more, -1, -1, &j);
    } else {
        c->said = true; /* it is about none of the caller's own */
        if ((code = cli_check_id(c, c->argv[0], "vol_", "moat admin backups list")) != CLI_OK)
            return code;
        if (!reason || !*reason)
            return cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
        body = json_pack("{s:s,s:s}", "volume_id", c->argv[0], "reason", reason);
        code = body ? cli_call(c, "POST", "/v1/admin/backups/rekey", body, &j) : cli_usage(c, "--reason is not UTF-8");
        if (code == CLI_OK && c->json) {
            (void)json_object_set(j, "id", json_object_get(j, "volume_id")); /* what the receipt is about */
            return cli_receipt(c, "volume", j);
        }
    }
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "BackupsKey", j);
    cli_say(c, "volume %s is backed up under key %lld from now on; its next backup is a full one, and those that are there stay readable", cli_str(j, "volume_id"), (long long)cli_int(j, "key_epoch"));
    return CLI_OK;
}
