/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"

int cmd_instances_list(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(400);
    mt_buf_puts(&q, cli_has(c, "all") ? "?include_stopped=true" : "?include_stopped=false");
    if (cli_has(c, "process")) {
        mt_buf_puts(&q, "&process_type=");
        mt_http_put_query(&q, cli_opt(c, "process"));
    }
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = cli_env_path(c, "/instances%s", mt_buf_cstr(&q));
    code = cli_list(c, path, &items);
    if (code != CLI_OK)
        return code;
    if (!cli_has(c, "all")) /* the API keeps ended ones in the list for a day; a person asks for what is there */
        for (size_t i = json_array_size(items); i-- > 0;)
            if (strcmp(cli_str(json_array_get(items, i), "status"), "stopped") == 0)
                (void)json_array_remove(items, i);
    static const struct cli_column cols[] = {{"ID", "id"}, {"PROCESS", "process_type"}, {"RELEASE", "release_number"}, {"STATUS", "status"},
                                             {"DETAIL", "status_detail"}, {"REASON", "reason_code"}, {"RESTARTS", "restart_count"}, {"ADDRESS", "overlay_ipv6"}};
    return c->json ? cli_print_list(c, items) : cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "instances");
}

int cmd_instances_get(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *j = NULL;
    mt_auto_free char *path = cli_env_path(c, "/instances/%s", c->argv[0]);
    code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Instance", j);
    const char *key;
    json_t *v;
    json_object_foreach(j, key, v)
    {
        char scratch[300];
        if (!json_is_object(v) && !json_is_null(v))
            (void)printf("%-20s %s\n", key, cli_text(j, key, scratch, sizeof scratch));
    }
    return CLI_OK;
}
