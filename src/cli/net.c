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

#include <stdlib.h>
#include <unistd.h>

#define LOST_IN_ROW 3    /* probes, one every 5 s: a pair is cut */
#define LOSSY_PERCENT 20 /* of a minute's probes */
#define MESH_LARGE 40    /* nodes (networking.md §2.5) */
#define SESSION_S 180    /* as long as a WireGuard session may live */

struct view { /* what one node says of another */
    const json_t *peer; /* NULL: it does not know it */
    int64_t lost, loss, age, rtt;
    bool probed, shook, mtu_known, mtu_ok;
};

static struct view view_of(const json_t *from, const json_t *of)
{
    struct view v = {.age = -1, .rtt = -1};
    size_t i;
    const json_t *p;
    json_array_foreach(cli_member(from, "mesh.peers"), i, p) {
        if (!MT_STREQ(cli_str(p, "node_id"), cli_str(of, "id")))
            continue;
        v.peer = p;
        v.probed = cli_member(p, "loss_percent") != NULL;
        v.loss = cli_int(p, "loss_percent");
        v.lost = cli_int(p, "lost_in_row");
        v.shook = cli_member(p, "handshake_age_s") != NULL;
        v.age = v.shook ? cli_int(p, "handshake_age_s") : -1;
        v.rtt = cli_member(p, "rtt_us") ? cli_int(p, "rtt_us") : -1;
        v.mtu_known = cli_member(p, "mtu_ok") != NULL;
        v.mtu_ok = json_is_true(cli_member(p, "mtu_ok"));
    }
    return v;
}

static bool reports(const json_t *node)
{
    const char *health = cli_str(node, "health");
    return json_is_object(cli_member(node, "mesh")) && !MT_STREQ(health, "suspect") && !MT_STREQ(health, "offline");
}

/* Does @node hear nobody of at least two whose reports are fresh? */
static bool alone(const json_t *nodes, const json_t *node)
{
    size_t i, silent = 0, others = 0;
    const json_t *o;
    json_array_foreach(nodes, i, o) {
        if (o == node || !reports(o))
            continue;
        others++;
        silent += view_of(node, o).lost >= LOST_IN_ROW;
    }
    return others >= 2 && silent == others;
}

static const char *cut_cause(const json_t *nodes, const json_t *a, const json_t *b, const struct view *ab, const struct view *ba, char ret[256])
{
    const json_t *lonely = alone(nodes, a) ? a : alone(nodes, b) ? b : NULL;
    int64_t port = 51820;

    if (lonely)
        (void)snprintf(ret, 256, "%.64s reaches nobody: its uplink, or UDP %lld to and from it", cli_str(lonely, "name"), (long long)port);
    else if (!ab->shook && !ba->shook)
        (void)snprintf(ret, 256, "never a handshake: an endpoint that is not reachable, UDP %lld blocked between the two, or another key", (long long)port);
    else if (ab->age >= 0 && ab->age < SESSION_S)
        (void)snprintf(ret, 256, "worked until less than %d s ago: the path between the two was cut, or a firewall on it changed", SESSION_S);
    else
        (void)snprintf(ret, 256, "no handshake for %lld s: the path between the two is cut; both reach others", (long long)ab->age);
    return ret;
}

/* State and, unless it is "ok", the likely cause. */
static const char *judge(const json_t *nodes, const json_t *a, const json_t *b, const struct view *ab, const struct view *ba, char cause[256])
{
    const json_t *mute = !reports(a) ? a : !reports(b) ? b : NULL;

    *cause = '\0';
    if (mute) {
        (void)snprintf(cause, 256, "%.64s is %.16s: what it last said is old", cli_str(mute, "name"),
                       json_is_object(cli_member(mute, "mesh")) ? cli_str(mute, "health") : "not in the mesh");
        return "unknown";
    }
    if (!ab->peer || !ba->peer) {
        const json_t *who = !ab->peer ? a : b;
        (void)snprintf(cause, 256, "%.64s does not have the other yet (revision %lld applied)", cli_str(who, "name"),
                       (long long)cli_int(who, "mesh.revision"));
        return "missing";
    }
    if (!ab->probed || !ba->probed) {
        (void)snprintf(cause, 256, "not measured yet");
        return "unknown";
    }
    if (ab->lost >= LOST_IN_ROW && ba->lost >= LOST_IN_ROW) {
        (void)cut_cause(nodes, a, b, ab, ba, cause);
        return "broken";
    }
    if (ab->lost >= LOST_IN_ROW || ba->lost >= LOST_IN_ROW) {
        (void)snprintf(cause, 256, "only %.64s gets answers: a filter for one direction", cli_str(ab->lost >= LOST_IN_ROW ? b : a, "name"));
        return "one-way";
    }
    if ((ab->mtu_known && !ab->mtu_ok) || (ba->mtu_known && !ba->mtu_ok)) {
        (void)snprintf(cause, 256, "packets of full size vanish, small ones pass: a narrower link whose ICMP Packet Too Big is dropped; lower the cluster's mtu");
        return "narrow";
    }
    if (ab->loss >= LOSSY_PERCENT || ba->loss >= LOSSY_PERCENT) {
        (void)snprintf(cause, 256, "%lld %% of the last minute's probes lost", (long long)(ab->loss > ba->loss ? ab->loss : ba->loss));
        return "lossy";
    }
    return "ok";
}

static json_t *pair(const json_t *nodes, const json_t *a, const json_t *b)
{
    struct view ab = view_of(a, b), ba = view_of(b, a);
    char cause[256];
    const char *state = judge(nodes, a, b, &ab, &ba, cause);
    json_t *o = json_pack("{s:s, s:s, s:s}", "a", cli_str(a, "name"), "b", cli_str(b, "name"), "state", state);
    if (!o)
        return NULL;
    if (*cause)
        (void)json_object_set_new(o, "cause", json_string(cause));
    if (ab.age >= 0)
        (void)json_object_set_new(o, "handshake_age_s", json_integer(ab.age));
    if (ab.rtt >= 0)
        (void)json_object_set_new(o, "rtt_ms", json_real((double)(ab.rtt / 10) / 100));
    if (ab.probed && ba.probed)
        (void)json_object_set_new(o, "loss_percent", json_integer(ab.loss > ba.loss ? ab.loss : ba.loss));
    if (ab.mtu_known && ba.mtu_known)
        (void)json_object_set_new(o, "mtu_ok", json_boolean(ab.mtu_ok && ba.mtu_ok));
    return o;
}

static json_t *node_row(const json_t *n)
{
    static const char *const numbers[] = {"revision", "mtu", "underlay_mtu", "repairs"};
    static const char *const words[] = {"device", "rejected", "failed"};
    json_t *o = json_pack("{s:s, s:s, s:s}", "name", cli_str(n, "name"), "id", cli_str(n, "id"), "health", cli_str(n, "health"));
    for (size_t i = 0; o && i < MT_ARRAY_LEN(numbers); i++) {
        const json_t *v = json_object_get(cli_member(n, "mesh"), numbers[i]);
        if (json_is_integer(v))
            (void)json_object_set_new(o, numbers[i], json_integer(json_integer_value(v)));
    }
    for (size_t i = 0; o && i < MT_ARRAY_LEN(words); i++) {
        const json_t *v = json_object_get(cli_member(n, "mesh"), words[i]);
        if (json_is_string(v))
            (void)json_object_set_new(o, words[i], json_string(json_string_value(v)));
    }
    return o;
}

/* {ok, nodes, pairs} out of the nodes' records; nodes in no mesh have no pairs. */
static int survey(struct cli *c, json_t **ret, size_t *ret_bad)
{
    mt_auto_json json_t *nodes = NULL;
    int code = cli_list(c, "/v1/nodes", &nodes);
    if (code != CLI_OK)
        return code;
    json_t *rows = json_array(), *pairs = json_array();
    size_t n = json_array_size(nodes), meshed = 0;
    *ret_bad = 0;
    for (size_t i = 0; i < n; i++)
        meshed += json_is_object(cli_member(json_array_get(nodes, i), "mesh"));
    for (size_t i = 0; i < n; i++) {
        const json_t *a = json_array_get(nodes, i);
        (void)json_array_append_new(rows, node_row(a));
        for (size_t k = i + 1; k < n; k++) {
            const json_t *b = json_array_get(nodes, k);
            bool both = json_is_object(cli_member(a, "mesh")) || json_is_object(cli_member(b, "mesh"));
            json_t *p = both ? pair(nodes, a, b) : NULL;
            *ret_bad += p && !MT_STREQ(cli_str(p, "state"), "ok");
            if (p)
                (void)json_array_append_new(pairs, p);
        }
    }
    *ret = json_pack("{s:b, s:i, s:o, s:o}", "ok", *ret_bad == 0, "meshed", (int)meshed, "nodes", rows, "pairs", pairs);
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
