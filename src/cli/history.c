/* SPDX-License-Identifier: Apache-2.0 */
/* The past: where `status --at` asks, and `diff`. Moments are read by the server, whose clock stamps the events. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "wire/http_client.h"

#include <inttypes.h>

int cli_history(struct cli *c, const char *what, json_t **ret)
{
    static const char *const moments[] = {"at", "from", "to", NULL};
    const char *of = cli_has(c, "of") ? cli_opt(c, "of") : "env";
    bool org = MT_STREQ(of, "org"), app = MT_STREQ(of, "app");
    if (!org && !app && !MT_STREQ(of, "env"))
        return cli_usage(c, "--of is env, app or org, not '%s'", of);
    int code = org ? cli_need_org(c) : app ? cli_need_app(c) : cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = org   ? mt_asprintf("/v1/orgs/%s", c->org_id)
                              : app ? cli_app_path(c, "%s", "")
                                    : cli_env_path(c, "%s", "");
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(4096);
    char mark = '?';
    mt_buf_printf(&q, "%s/history/%s", path ? path : "", what);
    for (int i = 0; moments[i]; i++)
        if (cli_has(c, moments[i])) {
            mt_buf_printf(&q, "%c%s=", mark, moments[i]);
            mt_http_put_query(&q, cli_opt(c, moments[i]));
            mark = '&';
        }
    mt_buf_putc(&q, 0);
    if (!path || q.failed)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return cli_call(c, "GET", (const char *)q.p, NULL, ret);
}

int cmd_diff(struct cli *c)
{
    mt_auto_json json_t *d = NULL;
    size_t i;
    json_t *v;
    if (!cli_has(c, "from"))
        return cli_usage(c, "diff needs the moment to compare with, as in: moat diff --from -2h");
    int code = cli_history(c, "diff", &d);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "StateDiff", d);
    cli_tame(d);
    (void)printf("%sfrom event @%" PRId64 " of %s to event @%" PRId64 " of %s%s\n", cli_color(c, "dim"), cli_int(d, "from.event_id"),
                 cli_str(d, "from.last_event_at"), cli_int(d, "to.event_id"), cli_str(d, "to.last_event_at"), cli_color(c, "reset"));
    json_array_foreach(json_object_get(d, "changes"), i, v)
        (void)printf("  %s\n", cli_str(v, "text"));
    if (json_array_size(json_object_get(d, "changes")) == 0)
        (void)printf(json_is_true(json_object_get(d, "same")) ? "  nothing changed\n" : "  only details changed; --json tells which\n");
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
