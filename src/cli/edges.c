/* SPDX-License-Identifier: Apache-2.0 */
/* Edges of the platform, for operators: what each has applied and holds, and taking one out of use apart from the rest of its machine. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>
#include <unistd.h>

#define LOOK_MS 500

int cmd_edges_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"NODE", "name"},         {"STATE", "state"},     {"HEALTH", "health"},   {"CONNECTIONS", "connections"},
                                             {"REVISION", "revision"}, {"VERSION", "version"}, {"IPV6", "public_ipv6"}, {"LAST REPORT", "last_report_at"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/admin/edges"), cols, MT_ARRAY_LEN(cols), "edges") : code;
}

/* The edge of the node that @word names; *ret owned by the caller. */
static int find(struct cli *c, const char *node_id, json_t **ret)
{
    mt_auto_json json_t *all = NULL;
    size_t i;
    json_t *e;
    int code = cli_list(c, "/v1/admin/edges", &all);
    if (code != CLI_OK)
        return code;
    json_array_foreach(all, i, e)
        if (MT_STREQ(cli_str(e, "node_id"), node_id)) {
            *ret = json_incref(e);
            return CLI_OK;
        }
    return cli_error(c, CLI_NOT_FOUND, "the node has no edge", "moat admin edges list");
}

/* Until it holds no connection. */
static int wait_empty(struct cli *c, const char *node_id)
{
    int64_t began = mt_clock_mono(), shown = -1;
    cli_catch_interrupt(c, "the drain", "moat admin edges list");
    for (;;) {
        mt_auto_json json_t *e = NULL;
        int code = find(c, node_id, &e);
        if (code != CLI_OK)
            return code;
        int64_t left = cli_int(e, "connections");
        if (!json_is_true(json_object_get(e, "draining")))
            return cli_error_reason(c, CLI_NOT_CONVERGED, "not_draining", "somebody took the drain back", "moat admin edges list");
        if (MT_STREQ(cli_str(e, "state"), "silent") || MT_STREQ(cli_str(e, "state"), "never_heard"))
            return cli_error_reason(c, CLI_NOT_CONVERGED, "edge_silent", "the edge does not report: how many connections it holds is not known", "moat admin edges list");
        if (left != shown)
            cli_say(c, "  %6.2f s  %" PRId64 " connections", (double)(mt_clock_mono() - began) / 1e9, left);
        shown = left;
        if (left == 0)
            return c->json ? cli_print_object(c, "Edge", e) : CLI_OK;
        if ((mt_clock_mono() - began) / MT_NS_PER_MS >= c->wait_ms)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; the drain goes on", "moat admin edges list");
        (void)usleep(LOOK_MS * 1000);
    }
}

static int change(struct cli *c, const char *verb)
{
    const char *reason = cli_opt(c, "reason");
    mt_auto_json json_t *n = NULL, *made = NULL;
    char path[120], name[80];
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
    int code = cli_find_node(c, c->argv[0], &n);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason);
    if (!body)
        return cli_usage(c, "--reason is not UTF-8");
    if (cli_has(c, "force"))
        (void)json_object_set_new(body, "force", json_true());
    (void)snprintf(path, sizeof path, "/v1/admin/edges/%s/%s", cli_str(n, "id"), verb);
    c->said = true; /* it is about none of the caller's own */
    if ((code = cli_call(c, "POST", path, body, &made)) != CLI_OK)
        return code;
    if (cli_has(c, "wait"))
        return wait_empty(c, cli_str(n, "id"));
    if (c->json) {
        (void)json_object_set(made, "id", json_object_get(made, "node_id")); /* what the receipt is about */
        return cli_receipt(c, "edge", made);
    }
    (void)cli_text(n, "name", name, sizeof name);
    if (MT_STREQ(verb, "drain"))
        cli_say(c, "the edge of %s is sent nobody any more; %" PRId64 " connections are left (moat admin edges list)", name, cli_int(made, "connections"));
    else
        cli_say(c, "the edge of %s serves again", name);
    return CLI_OK;
}

int cmd_edges_drain(struct cli *c)
{
    return change(c, "drain");
}

int cmd_edges_undrain(struct cli *c)
{
    return change(c, "undrain");
}
