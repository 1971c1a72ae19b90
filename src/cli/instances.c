/* SPDX-License-Identifier: Apache-2.0 */
/* Instances of an environment. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

int cmd_instances_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"ID", "id"}, {"PROCESS", "process_type"}, {"RELEASE", "release"}, {"STATUS", "status"},
                                             {"DETAIL", "status_detail"}, {"REASON", "reason_code"}, {"RESTARTS", "restart_count"}, {"ADDRESS", "overlay_ipv6"}};
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(1000);
    mt_buf_printf(&q, "?include_stopped=%s", cli_has(c, "all") ? "true" : "false");
    cli_put_filter(c, &q, "process", "process_type");
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = cli_env_path(c, "/instances%s", mt_buf_cstr(&q));
    code = cli_list(c, path, &items);
    if (code != CLI_OK)
        return code;
    if (!cli_has(c, "all")) /* the API keeps ended ones in the list for a day; a person asks for what is there */
        for (size_t i = json_array_size(items); i-- > 0;)
            if (MT_STREQ(cli_str(json_array_get(items, i), "status"), "stopped"))
                (void)json_array_remove(items, i);
    if (c->json)
        return cli_print_list(c, items);
    cli_name_releases(c, items);
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "instances");
}

int cmd_instances_get(struct cli *c)
{
    int code = cli_check_id(c, c->argv[0], "inst_", "moat ps");
    if (code == CLI_OK)
        code = cli_need_env(c);
    return code == CLI_OK ? cli_show_object(c, cli_env_path(c, "/instances/%s", c->argv[0]), "Instance") : code;
}
