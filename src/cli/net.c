/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat net status and verify: the mesh as its nodes report it, pair by pair, with the likely cause of what is wrong; rotate-keys.
 *
 * All that is shown comes from the nodes' newest heartbeats (docs/formats/mesh-plan.md); nothing is sent over the mesh from here.
 */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/mesh_survey.h"

#include <stdlib.h>
#include <unistd.h>

#define MESH_LARGE 40 /* nodes (networking.md §2.5) */

/* {ok, nodes, pairs} out of the nodes' records; nodes in no mesh have no pairs. People read milliseconds. */
static int survey(struct cli *c, json_t **ret, size_t *ret_bad)
{
    mt_auto_json json_t *nodes = NULL;
    size_t i;
    json_t *p;
    int code = cli_list(c, "/v1/nodes", &nodes);
    if (code != CLI_OK)
        return code;
    *ret = mt_mesh_survey(nodes, ret_bad);
    json_array_foreach(json_object_get(*ret, "pairs"), i, p)
    {
        const json_t *us = json_object_get(p, "rtt_us");
        if (us)
            (void)json_object_set_new(p, "rtt_ms", json_real((double)(json_integer_value(us) / 10) / 100));
        (void)json_object_del(p, "rtt_us");
    }
    return *ret ? CLI_OK : cli_error(c, CLI_INTERNAL, "out of memory", NULL);
}

static int show(struct cli *c, bool verify)
{
    static const struct cli_column node_cols[] = {{"NAME", "name"}, {"HEALTH", "health"}, {"DEVICE", "device"}, {"REVISION", "revision"},
                                                  {"MTU", "mtu"}, {"REPAIRS", "repairs"}, {"REFUSED", "rejected"}, {"FAILED", "failed"}};
    static const struct cli_column pair_cols[] = {{"A", "a"}, {"B", "b"}, {"STATE", "state"}, {"HANDSHAKE S", "handshake_age_s"}, {"RTT MS", "rtt_ms"},
                                                  {"LOSS %", "loss_percent"}, {"FULL SIZE", "mtu_ok"}, {"LIKELY CAUSE", "cause"}};
    mt_auto_json json_t *all = NULL;
    size_t bad = 0;
    int code = cli_connect(c);
    if (code == CLI_OK)
        code = survey(c, &all, &bad);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        code = cli_print_object(c, "Mesh", all);
    } else {
        cli_tame(all);
        if (!verify)
            code = cli_print_table(c, json_object_get(all, "nodes"), node_cols, MT_ARRAY_LEN(node_cols), "nodes");
        if (!verify && code == CLI_OK && !c->quiet)
            (void)putchar('\n');
        if (!verify && json_array_size(json_object_get(all, "nodes")) >= MESH_LARGE)
            cli_say(c, "%zu nodes: a full mesh takes 200, and from %d on each change of it is felt", json_array_size(json_object_get(all, "nodes")), MESH_LARGE);
        if (code == CLI_OK)
            code = cli_print_table(c, json_object_get(all, "pairs"), pair_cols, MT_ARRAY_LEN(pair_cols), "pairs: no node is in a mesh");
    }
    return code == CLI_OK && verify && bad ? CLI_FAILURE : code;
}

int cmd_net_status(struct cli *c)
{
    return show(c, false);
}

int cmd_net_verify(struct cli *c)
{
    return show(c, true);
}

/* ---- keys ---- */

#define ROTATE_WAIT_MS (30 * 60 * 1000)
#define ROTATE_LEAD_MAX_MS (3600 * 1000)

/* The nodes that were named, or all that have a place in the mesh; *ret owned by the caller. */
static int rotation_nodes(struct cli *c, json_t **ret)
{
    mt_auto_json json_t *list = json_array(), *all = NULL;
    size_t i;
    json_t *n;
    int code = CLI_OK;

    for (int k = 0; k < c->argc && code == CLI_OK; k++) {
        mt_auto_json json_t *one = NULL;
        if ((code = cli_find_node(c, c->argv[k], &one)) == CLI_OK)
            (void)json_array_append(list, one);
    }
    if (c->argc == 0 && (code = cli_list(c, "/v1/nodes", &all)) == CLI_OK) {
        json_array_foreach(all, i, n)
            if (json_is_object(cli_member(n, "mesh")) && !MT_STREQ(cli_str(n, "admin_state"), "disabled"))
                (void)json_array_append(list, n);
        if (json_array_size(list) == 0)
            code = cli_error(c, CLI_CONFLICT, "no node is in a mesh", "moat net status");
    }
    *ret = json_incref(list);
    return code;
}

static json_t *rotation_row(const json_t *node, const char *state)
{
    return json_pack("{s:s, s:s, s:s, s:I}", "id", cli_str(node, "id"), "name", cli_str(node, "name"), "state", state, "key_generation",
                     (json_int_t)cli_int(node, "key_generation"));
}

static int print_rotation(struct cli *c, json_t *rows)
{
    mt_auto_json json_t *o = json_pack("{s:O}", "nodes", rows);
    return cli_print_object(c, "KeyRotation", o);
}

/* Ask until none of @nodes waits or runs; each is told of when it is done. */
static int wait_rotated(struct cli *c, const json_t *nodes)
{
    int64_t began = mt_clock_mono(), limit_ms = cli_has(c, "wait-timeout") ? c->wait_ms : cli_has(c, "timeout") ? c->timeout_ms : ROTATE_WAIT_MS;
    mt_auto_json json_t *results = json_array();
    size_t i, left = json_array_size(nodes), back = 0;
    json_t *was;
    bool *ended = calloc(left + 1, sizeof *ended);
    int code = ended ? CLI_OK : cli_usage(c, "out of memory");

    cli_catch_interrupt(c, "the rotation", "moat net rotate-keys NODE --wait");
    while (code == CLI_OK && left > 0) {
        json_array_foreach(nodes, i, was)
        {
            mt_auto_json json_t *now = NULL;
            if (ended[i])
                continue;
            if ((code = cli_find_node(c, cli_str(was, "id"), &now)) != CLI_OK)
                break;
            if (*cli_str(now, "key_rotation"))
                continue;
            bool done = cli_int(now, "key_generation") > cli_int(was, "key_generation");
            ended[i] = true;
            left--;
            back += !done;
            (void)json_array_append_new(results, rotation_row(now, done ? "rotated" : "taken_back"));
            cli_tame(now);
            cli_say(c, "  %6.2f s  %s %s", (double)(mt_clock_mono() - began) / 1e9, cli_str(now, "name"),
                    done ? "has its new key" : "goes on with the old key: the new one was taken back");
        }
        if (code == CLI_OK && left > 0 && (mt_clock_mono() - began) / MT_NS_PER_MS >= limit_ms)
            code = cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; the rotation goes on", "moat net rotate-keys NODE --wait asks again");
        if (code == CLI_OK && left > 0)
            (void)usleep(300000);
    }
    free(ended);
    if (code == CLI_OK && back > 0)
        return cli_error_reason(c, CLI_NOT_CONVERGED, "rotation_taken_back", "not every key was changed", "moat net verify; moat events tells why");
    return code != CLI_OK || !c->json ? code : print_rotation(c, results);
}

int cmd_net_rotate_keys(struct cli *c)
{
    mt_auto_json json_t *nodes = NULL, *rows = json_array();
    const char *reason = cli_opt(c, "reason");
    int64_t lead_ms = -1;
    size_t i;
    json_t *n;

    if ((c->argc == 0) != cli_has(c, "all"))
        return cli_usage(c, "name the nodes, or --all");
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
    if (cli_has(c, "lead") && cli_has(c, "emergency"))
        return cli_usage(c, "--emergency is a --lead of nothing");
    if (cli_has(c, "lead") && (cli_parse_duration(cli_opt(c, "lead"), &lead_ms, NULL) < 0 || lead_ms > ROTATE_LEAD_MAX_MS || lead_ms % 1000))
        return cli_usage(c, "--lead is whole seconds, up to 1h");
    if (cli_has(c, "emergency"))
        lead_ms = 0;
    int code = cli_connect(c);
    if (code != CLI_OK || (code = rotation_nodes(c, &nodes)) != CLI_OK)
        return code;
    json_array_foreach(nodes, i, n)
    {
        mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason), *made = NULL;
        char path[120];
        if (!body)
            return cli_usage(c, "--reason is not UTF-8");
        if (lead_ms >= 0)
            (void)json_object_set_new(body, "lead_seconds", json_integer(lead_ms / 1000));
        (void)snprintf(path, sizeof path, "/v1/nodes/%s/rotate-key", cli_str(n, "id"));
        if ((code = cli_call(c, "POST", path, body, &made)) != CLI_OK)
            return code;
        (void)json_array_append_new(rows, rotation_row(n, "asked"));
        if (!c->json) {
            mt_auto_json json_t *shown = json_deep_copy(n);
            cli_tame(shown);
            cli_say(c, "%s is to have another key%s", cli_str(shown, "name"), i ? " after those before it" : "");
        }
    }
    if (cli_has(c, "wait"))
        return wait_rotated(c, nodes);
    return c->json ? print_rotation(c, rows) : CLI_OK;
}

int cmd_net_allow_removal(struct cli *c)
{
    mt_auto_json json_t *made = NULL;
    const char *reason = cli_opt(c, "reason");
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
    int code = cli_connect(c);
    if (code == CLI_OK)
        code = cli_confirm(c, "most peers of nodes from the", "mesh");
    mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason);
    if (code == CLI_OK)
        code = body ? cli_call(c, "POST", "/v1/admin/mesh-removal", body, &made) : cli_usage(c, "--reason is not UTF-8");
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "MeshRemoval", made);
    cli_say(c, "nodes take the mesh of revision %lld whatever it removes; the next change of the mesh ends that", (long long)cli_int(made, "revision"));
    return CLI_OK;
}
