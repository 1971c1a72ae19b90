/* SPDX-License-Identifier: Apache-2.0 */
/* Machines of the platform: their states, and the tokens by which machines join. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "wire/http_client.h"

#include <inttypes.h>
#include <unistd.h>

#define DRAIN_WAIT_MS (30 * 60 * 1000)

int cli_find_node(struct cli *c, const char *word, json_t **ret)
{
    mt_auto_json json_t *items = NULL;
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(1024);
    char what[200];
    if (mt_starts_with(word, "node_") && strlen(word) == 31 && strspn(word + 5, "0123456789abcdefghijklmnopqrstuvwxyz") == 26) {
        mt_buf_printf(&t, "/v1/nodes/%s", word);
        return cli_call(c, "GET", mt_buf_cstr(&t), NULL, ret);
    }
    mt_buf_puts(&t, "/v1/nodes?name=");
    mt_http_put_query(&t, word);
    int code = cli_list(c, mt_buf_cstr(&t), &items);
    if (code != CLI_OK)
        return code;
    (void)snprintf(what, sizeof what, "there is no node '%.60s'", word);
    if (json_array_size(items) != 1)
        return cli_error(c, CLI_NOT_FOUND, what, "moat nodes lists them");
    *ret = json_incref(json_array_get(items, 0));
    return CLI_OK;
}

static int need_reason(struct cli *c, const char **ret)
{
    *ret = cli_opt(c, "reason");
    return *ret && **ret ? CLI_OK : cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
}

/* POST /v1/nodes/ID/@verb; @verb NULL: what makes the node active from where it is. */
static int post(struct cli *c, const char *verb, json_t **made)
{
    mt_auto_json json_t *n = NULL;
    const char *reason;
    char path[120];
    int code = need_reason(c, &reason);
    if (code != CLI_OK || (code = cli_find_node(c, c->argv[0], &n)) != CLI_OK)
        return code;
    if (!verb)
        verb = MT_STREQ(cli_str(n, "admin_state"), "pending_approval") ? "approve" : "uncordon";
    (void)snprintf(path, sizeof path, "/v1/nodes/%s/%s", cli_str(n, "id"), verb);
    mt_auto_json json_t *body = json_pack("{s:s,s:s*}", "reason", reason, "stateful", MT_STREQ(verb, "drain") ? cli_opt(c, "stateful") : NULL);
    return body ? cli_call(c, "POST", path, body, made) : cli_usage(c, "--reason is not UTF-8");
}

static int change(struct cli *c, const char *verb)
{
    mt_auto_json json_t *made = NULL;
    int code = post(c, verb, &made);
    return code == CLI_OK ? cli_receipt(c, "node", made) : code;
}

int cmd_node_activate(struct cli *c)
{
    return change(c, NULL);
}

int cmd_node_cordon(struct cli *c)
{
    return change(c, "cordon");
}

/* What keeps a drain from its end, one line each. */
static void say_blocked(struct cli *c, const json_t *drain)
{
    size_t i;
    json_t *b;
    json_array_foreach(json_object_get(drain, "blocked_by_stateful"), i, b)
    {
        char volume[64];
        cli_say(c, "  %s stays: its volume %s is there (environment %s)", cli_str(b, "instance_id"), cli_text(b, "volume_id", volume, sizeof volume),
                cli_str(b, "env_id"));
    }
    json_array_foreach(json_object_get(drain, "not_moved"), i, b)
    {
        cli_say(c, "  volume %s (%s, environment %s) cannot be moved: %s", cli_str(b, "name"), cli_str(b, "volume_id"), cli_str(b, "env_id"), cli_str(b, "reason"));
    }
}

/* Volumes on their way, one line for all. */
static void say_moving(struct cli *c, const json_t *drain, double seconds, char shown[240])
{
    char now[240];
    size_t i, at = 0;
    json_t *m;
    at += (size_t)snprintf(now, sizeof now, "%" PRId64 " volumes are still to leave", cli_int(drain, "volumes"));
    json_array_foreach(json_object_get(drain, "migrations"), i, m)
    {
        char process[64], phase[64];
        if (at + 60 < sizeof now)
            at += (size_t)snprintf(now + at, sizeof now - at, "%s%.31s: %.12s", i ? ", " : "; ", *cli_str(m, "process_type") ? cli_text(m, "process_type", process, sizeof process) : "a volume",
                                   *cli_str(m, "phase") ? cli_text(m, "phase", phase, sizeof phase) : "queued");
    }
    if (!MT_STREQ(now, shown))
        cli_say(c, "  %6.2f s  %s", seconds, now);
    (void)snprintf(shown, 240, "%s", now);
}

static int drained(struct cli *c, json_t *node)
{
    const json_t *drain = cli_member(node, "drain");
    bool complete = MT_STREQ(cli_str(drain, "state"), "complete");
    char what[160];
    if (c->json && complete)
        return cli_print_object(c, "Node", node);
    cli_tame(node);
    if (complete) {
        cli_say(c, "%s is drained", cli_str(node, "name"));
        return CLI_OK;
    }
    say_blocked(c, drain);
    if (json_array_size(json_object_get(drain, "not_moved"))) {
        (void)snprintf(what, sizeof what, "%.64s is drained but for %zu volumes that cannot be moved", cli_str(node, "name"), json_array_size(json_object_get(drain, "not_moved")));
        return cli_error_reason(c, CLI_NOT_CONVERGED, "blocked_by_stateful", what, "mend what is said of each, it is tried again by itself; or drain with --stateful stop");
    }
    (void)snprintf(what, sizeof what, "%.64s is drained but for %zu instances with volumes", cli_str(node, "name"),
                   json_array_size(json_object_get(drain, "blocked_by_stateful")));
    return cli_error_reason(c, CLI_NOT_CONVERGED, "blocked_by_stateful", what, "moat node describe NODE --json lists them; scale their processes to 0, or drain with --stateful migrate or stop");
}

/* Ask until nothing is left on the node that leaves by itself. */
static int wait_drained(struct cli *c)
{
    int64_t began = mt_clock_mono(), limit_ms = cli_has(c, "wait-timeout") ? c->wait_ms : cli_has(c, "timeout") ? c->timeout_ms : DRAIN_WAIT_MS;
    cli_catch_interrupt(c, "the drain", "moat node describe NODE");
    char moving[240] = "";
    for (int64_t shown = -1;;) {
        mt_auto_json json_t *n = NULL;
        int code = cli_find_node(c, c->argv[0], &n);
        if (code != CLI_OK)
            return code;
        int64_t left = cli_int(n, "drain.remaining");
        const char *state = cli_str(n, "drain.state");
        if (!*state)
            return cli_error_reason(c, CLI_NOT_CONVERGED, "not_draining", "somebody took the drain back", "moat node describe NODE");
        if (left != shown)
            cli_say(c, "  %6.2f s  %" PRId64 " instances are still to leave", (double)(mt_clock_mono() - began) / 1e9, left);
        shown = left;
        if (json_object_get(cli_member(n, "drain"), "volumes"))
            say_moving(c, cli_member(n, "drain"), (double)(mt_clock_mono() - began) / 1e9, moving);
        if (!MT_STREQ(state, "draining"))
            return drained(c, n);
        if ((mt_clock_mono() - began) / MT_NS_PER_MS >= limit_ms)
            return cli_error_reason(c, CLI_TRANSIENT, "wait_timeout", "gave up waiting; the drain goes on", "moat node drain NODE --wait asks again");
        (void)usleep(300000);
    }
}

int cmd_node_drain(struct cli *c)
{
    bool wait = cli_has(c, "wait");
    mt_auto_json json_t *n = NULL, *made = NULL;
    if (!wait)
        return change(c, "drain");
    int code = cli_find_node(c, c->argv[0], &n);
    if (code == CLI_OK && (!MT_STREQ(cli_str(n, "admin_state"), "draining") || cli_has(c, "stateful")))
        code = post(c, "drain", &made); /* what is printed is the end */
    return code == CLI_OK ? wait_drained(c) : code;
}

int cmd_node_confirm_offline(struct cli *c)
{
    int code = cli_confirm(c, "node", c->argv[0]);
    return code == CLI_OK ? change(c, "confirm-offline") : code;
}

int cmd_node_mark_lost(struct cli *c)
{
    int code = cli_confirm(c, "node", c->argv[0]);
    return code == CLI_OK ? change(c, "mark-lost") : code;
}

int cmd_node_disable(struct cli *c)
{
    mt_auto_json json_t *made = NULL;
    const json_t *held, *v;
    size_t i;
    int code = cli_confirm(c, "node", c->argv[0]);
    if (code != CLI_OK || (code = post(c, "disable", &made)) != CLI_OK)
        return code;
    held = json_object_get(made, "secrets_to_rotate");
    code = cli_receipt(c, "node", made);
    if (json_array_size(held) > 0)
        cli_say(c, "secrets of these environments were on it; if the machine is not trusted, set others there (moat secrets set) where they came from, and here:");
    json_array_foreach(held, i, v)
        cli_say(c, "  %s/%s/%s", cli_str(v, "org"), cli_str(v, "app"), cli_str(v, "env"));
    return code;
}

int cmd_node_remove(struct cli *c)
{
    mt_auto_json json_t *n = NULL, *made = NULL;
    const char *reason;
    char path[120];
    int code = need_reason(c, &reason);
    if (code != CLI_OK || (code = cli_confirm(c, "node", c->argv[0])) != CLI_OK || (code = cli_find_node(c, c->argv[0], &n)) != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/nodes/%s%s", cli_str(n, "id"), cli_has(c, "force") ? "?force=true" : "");
    mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason);
    code = body ? cli_call(c, "DELETE", path, body, &made) : cli_usage(c, "--reason is not UTF-8");
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_receipt(c, "node", made);
    cli_say(c, "removed %s", cli_str(n, "name"));
    return CLI_OK;
}

/* "4Gi", "256Mi", "1000" as a number; "default" as null. NULL: none of them. */
static json_t *setting(const char *v)
{
    char digits[24];
    uint64_t n;
    size_t len = strlen(v);
    unsigned shift = len > 2 && MT_STREQ(v + len - 2, "Gi") ? 30 : len > 2 && MT_STREQ(v + len - 2, "Mi") ? 20 : 0;
    if (MT_STREQ(v, "default"))
        return json_null();
    len -= shift ? 2 : 0;
    if (len >= sizeof digits)
        return NULL;
    (void)snprintf(digits, sizeof digits, "%.*s", (int)len, v);
    return mt_parse_u64(digits, 0, (UINT64_C(1) << 52) >> shift, &n, NULL) < 0 ? NULL : json_integer((json_int_t)(n << shift));
}

/* The words after NODE as an object: KEY=VALUE each. @labels: VALUE is text, and KEY- takes one away. */
static int read_pairs(struct cli *c, bool labels, json_t **ret)
{
    char key[128];
    *ret = json_object();
    for (int i = 1; i < c->argc; i++) {
        const char *word = c->argv[i], *eq = strchr(word, '=');
        size_t n = eq ? (size_t)(eq - word) : strlen(word) - (labels && *word && word[strlen(word) - 1] == '-');
        bool away = labels && !eq && n < strlen(word);
        json_t *v = away ? json_null() : !eq ? NULL : labels ? json_string(eq + 1) : setting(eq + 1);
        if (n == 0 || n >= sizeof key || !v) {
            json_decref(v);
            return cli_usage(c, labels ? "'%.60s': is LABEL=VALUE, or LABEL- to take it away" : "'%.60s': is KEY=NUMBER (with Mi or Gi for bytes), or KEY=default", word);
        }
        (void)snprintf(key, sizeof key, "%.*s", (int)n, word);
        if (json_object_set_new(*ret, key, v) < 0)
            return cli_usage(c, "'%.60s' is not UTF-8", word);
    }
    return CLI_OK;
}

static int configure(struct cli *c, const char *member, const char *reason)
{
    mt_auto_json json_t *n = NULL;
    json_t *pairs = NULL, *fields = json_object();
    int code = read_pairs(c, MT_STREQ(member, "labels"), &pairs);
    if (code == CLI_OK)
        code = cli_find_node(c, c->argv[0], &n);
    (void)json_object_set_new(fields, member, pairs);
    if (code == CLI_OK && reason && mt_json_set_str(fields, "reason", reason) < 0)
        code = cli_usage(c, "--reason is not UTF-8");
    if (code != CLI_OK) {
        json_decref(fields);
        return code;
    }
    return cli_change(c, mt_asprintf("/v1/nodes/%s", cli_str(n, "id")), "node", fields);
}

int cmd_node_label(struct cli *c)
{
    return configure(c, "labels", NULL);
}

int cmd_node_config_set(struct cli *c)
{
    const char *reason;
    int code = need_reason(c, &reason);
    return code == CLI_OK ? configure(c, "config", reason) : code;
}

int cmd_node_describe(struct cli *c)
{
    mt_auto_json json_t *n = NULL;
    int code = cli_find_node(c, c->argv[0], &n);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Node", n);
    code = cli_print_fields(c, n);
    cli_tame(n);
    if (code == CLI_OK && !c->quiet && *cli_str(n, "vmm.driver"))
        (void)printf("%s%-22s%s %s, %s: %s\n", cli_color(c, "dim"), "vmm", cli_color(c, "reset"), cli_str(n, "vmm.driver"), cli_str(n, "vmm.accel"), cli_str(n, "vmm.reason"));
    const json_t *lacks = json_object_get(n, "host_requirements");
    if (code == CLI_OK && !c->quiet && json_array_size(lacks) > 0) {
        size_t i;
        json_t *o;
        (void)printf("%shost, not met%s\n", cli_color(c, "bold"), cli_color(c, "reset"));
        json_array_foreach (lacks, i, o)
            (void)printf("  %-12s %s\n  %-12s %son the node: %s%s\n", cli_str(o, "item"), cli_str(o, "finding"), "", cli_color(c, "dim"), cli_str(o, "mend"), cli_color(c, "reset"));
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : code;
}

/* ---- tokens ---- */

/* "worker,edge" as an array. NULL when memory is out or it is not UTF-8. */
static json_t *words(const char *list)
{
    json_t *a = json_array();
    while (a && *list) {
        size_t n = strcspn(list, ",");
        if (n && json_array_append_new(a, json_stringn(list, n)) != 0) {
            json_decref(a);
            return NULL;
        }
        list += n + (list[n] == ',');
    }
    return a;
}

int cmd_node_token_create(struct cli *c)
{
    mt_auto_json json_t *body = json_object(), *made = NULL;
    uint64_t ttl_s = 0;
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    if (cli_has(c, "roles"))
        (void)json_object_set_new(body, "roles", words(cli_opt(c, "roles")));
    if (cli_has(c, "name"))
        (void)json_object_set_new(body, "node_name", json_string(cli_opt(c, "name")));
    if (cli_has(c, "source"))
        (void)json_object_set_new(body, "source_cidr", json_string(cli_opt(c, "source")));
    if (cli_has(c, "approve"))
        (void)json_object_set_new(body, "require_approval", json_true());
    if (cli_has(c, "minutes")) {
        if (mt_parse_u64(cli_opt(c, "minutes"), 5, 1440, &ttl_s, NULL) < 0)
            return cli_usage(c, "--minutes is a number from 5 to 1440");
        (void)json_object_set_new(body, "ttl_seconds", json_integer((json_int_t)ttl_s * 60));
    }
    if ((code = cli_call(c, "POST", "/v1/enrollment-tokens", body, &made)) != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "EnrollmentToken", made);
    const char *at = cli_str(made, "control_address");
    (void)printf("%s\n", cli_str(made, "token"));
    cli_say(c, "shown this once, good once, until %s. On the new machine, with the token on its stdin:", cli_str(made, "expires_at"));
    cli_say(c, "  moat-agent --config /etc/moat/agent.toml join --control %s --token - --endpoint ADDRESS:51820", *at ? at : "HOST:PORT");
    return CLI_OK;
}

int cmd_node_token_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"ID", "id"}, {"STATE", "state"}, {"ROLES", "roles"}, {"NAME", "node_name"}, {"EXPIRES", "expires_at"},
                                             {"USED BY", "used_by"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/enrollment-tokens"), cols, MT_ARRAY_LEN(cols), "enrolment tokens") : code;
}

int cmd_node_token_revoke(struct cli *c)
{
    mt_auto_json json_t *made = NULL;
    char path[120];
    const char *id = c->argv[0];
    if (!mt_starts_with(id, "enr_") || strlen(id) > 40 || strspn(id, "0123456789abcdefghijklmnopqrstuvwxyz_") != strlen(id))
        return cli_usage(c, "'%.60s' is no id of an enrolment token: moat node token list shows them", id);
    (void)snprintf(path, sizeof path, "/v1/enrollment-tokens/%s", id);
    int code = cli_call(c, "DELETE", path, NULL, &made);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_receipt(c, "enrollment_token", made);
    cli_say(c, "revoked %s", id);
    return CLI_OK;
}
