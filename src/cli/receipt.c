/* SPDX-License-Identifier: Apache-2.0 */
/* The receipt of a mutation (control-plane.md §15.5). */
#include "cli/cli.h"

int cli_receipt(struct cli *c, const char *type, const json_t *body)
{
    const json_t *r = json_object_get(body, "receipt");
    if (c->quiet) {
        (void)printf("%s\n", cli_str(body, "id"));
        return CLI_OK;
    }
    if (c->json) {
        mt_auto_json json_t *data = json_copy((json_t *)(uintptr_t)body);
        (void)json_object_del(data, "receipt");
        mt_auto_json json_t *doc = json_pack("{s:s,s:s,s:O*,s:{s:s?,s:s?,s:s?},s:{s:s,s:s,s:s?},s:b,s:b,s:O*,s:O*,s:O,s:O*}", "api", "v1", "kind", "Receipt",
                                             "operation", json_object_get(r, "operation"), "target", "org", c->org, "app", c->app, "env", c->env,
                                             "resource", "type", type, "id", cli_str(body, "id"), "name", *cli_str(body, "name") ? cli_str(body, "name") : NULL,
                                             "changed", true, "replayed", json_is_true(json_object_get(r, "replayed")), "event_id", json_object_get(r, "event_id"), "desired", json_object_get(r, "desired"),
                                             "observed", data, "next", json_object_get(r, "next"));
        return cli_print_line(c, doc);
    }
    (void)printf("%s %s%s%s\n", type, cli_str(body, "id"), *cli_str(body, "status") ? " " : "", cli_str(body, "status"));
    size_t i;
    json_t *n;
    json_array_foreach(json_object_get(r, "next"), i, n) cli_say(c, "next: %s", cli_str(n, "command"));
    return CLI_OK;
}
