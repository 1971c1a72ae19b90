/* SPDX-License-Identifier: Apache-2.0 */
/* Why an instance is as it is: the chain of causes out of the event log, one sentence each. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>

int cmd_why(struct cli *c)
{
    int code = cli_check_id(c, c->argv[0], "inst_", "moat ps");
    if (code == CLI_OK)
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *j = NULL;
    mt_auto_free char *path = cli_env_path(c, "/instances/%s/why", c->argv[0]);
    code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    json_t *items = json_object_get(j, "items"), *ev;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    int64_t first = 0, at = 0;
    json_array_foreach (items, i, ev) {
        char safe[600];
        const char *summary = cli_str(ev, "summary"), *ts = cli_str(ev, "occurred_at");
        const json_t *actor = json_object_get(ev, "actor");
        if (mt_rfc3339_parse(ts, &at, NULL) < 0)
            at = first;
        if (i == 0) {
            first = at;
            (void)printf("%.19sZ\n", ts);
        }
        (void)printf("%s%9.3f s  %6" PRId64 "%s  %s%s (%s)%s\n", cli_color(c, "dim"), (double)(at - first) / 1e6, cli_int(ev, "event_id"),
                     cli_color(c, "reset"), mt_printable(summary, strlen(summary), safe, sizeof safe), cli_color(c, "dim"),
                     cli_str(actor, "type"), cli_color(c, "reset"));
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
