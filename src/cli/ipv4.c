/* SPDX-License-Identifier: Apache-2.0 */
/* The IPv4 address of an environment, and the operators' pool of them. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <inttypes.h>

int cmd_ipv4_enable(struct cli *c)
{
    mt_auto_json json_t *r = NULL;
    int code = cli_need_env(c);
    mt_auto_free char *path = code == CLI_OK ? cli_env_path(c, "/networking/ipv4") : NULL;
    if (code == CLI_OK)
        code = cli_call(c, "POST", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_receipt(c, "ipv4", r);
    (void)printf("%s\n", cli_str(r, "ipv4_address"));
    cli_say(c, "the address is %s; routes come to it with --ipv4, A records are yours to make", cli_str(r, "status"));
    return CLI_OK;
}

int cmd_ipv4_disable(struct cli *c)
{
    mt_auto_json json_t *r = NULL;
    int code = cli_need_env(c);
    mt_auto_free char *path = code == CLI_OK ? cli_env_path(c, cli_has(c, "force") ? "/networking/ipv4?force=true" : "/networking/ipv4") : NULL;
    if (code == CLI_OK)
        code = cli_confirm(c, "IPv4 address of environment", c->env);
    if (code == CLI_OK)
        code = cli_call(c, "DELETE", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        mt_auto_json json_t *doc = cli_receipt_json(c, "ipv4", "ipv4.disable", r);
        return doc ? cli_print_line(c, doc) : cli_error(c, CLI_INTERNAL, "out of memory", NULL);
    }
    cli_say(c, json_is_true(json_object_get(r, "already_deleted")) ? "%s has no IPv4 address" : "%s has no IPv4 address any more; connections end within a minute", c->env);
    return CLI_OK;
}

int cmd_ipv4_show(struct cli *c)
{
    mt_auto_json json_t *r = NULL;
    int code = cli_need_env(c);
    mt_auto_free char *path = code == CLI_OK ? cli_env_path(c, "/networking") : NULL;
    if (code == CLI_OK)
        code = cli_call(c, "GET", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Networking", r);
    cli_tame(r);
    const json_t *v4 = json_object_get(r, "ipv4"), *l;
    size_t i;
    if (!json_is_object(v4)) {
        cli_say(c, "no IPv4 address (moat env ipv4 enable)");
        return CLI_OK;
    }
    (void)printf("address  %s\nstatus   %s%s%s\nedge     %s\n", cli_str(v4, "ipv4_address"), cli_str(v4, "status"), *cli_str(v4, "detail") ? ": " : "",
                 cli_str(v4, "detail"), *cli_str(v4, "edge_node_id") ? cli_str(v4, "edge_node_id") : "none");
    json_array_foreach(json_object_get(r, "listeners"), i, l)
        if (cli_int(l, "ipv4_routes") > 0)
            (void)printf("port     %" PRId64 " %s\n", cli_int(l, "listen_port"), cli_str(l, "protocol"));
    return CLI_OK;
}

/* ---- the pool ---- */

int cmd_ipv4_pool_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"ADDRESS", "address"}, {"STATE", "state"}, {"ENV", "env_id"}, {"EDGE", "edge_node_id"}, {"COOLS UNTIL", "cooldown_until"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/ipv4-pool"), cols, MT_ARRAY_LEN(cols), "addresses") : code;
}

/* All of them at once: they have no pages. */
static int whole_list(struct cli *c, const char *path, const struct cli_column *cols, size_t n, const char *plural)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    const json_t *items = json_object_get(j, "items");
    return c->json ? cli_print_list(c, items) : cli_print_table(c, items, cols, n, plural);
}

int cmd_ipam_status(struct cli *c)
{
    static const struct cli_column cols[] = {{"POOL", "pool"}, {"ALLOCATED", "allocated"}, {"COOLDOWN", "cooldown"}, {"RETIRED", "retired"}, {"FREE", "free"}};
    return whole_list(c, "/v1/admin/ipam", cols, MT_ARRAY_LEN(cols), "pools");
}

int cmd_ipam_leaks(struct cli *c)
{
    static const struct cli_column cols[] = {{"POOL", "pool"}, {"ADDRESS", "address"}, {"ID", "id"}, {"SINCE", "since"}, {"WHY", "why"}, {"RECLAIMED BY", "reclaim"}};
    return whole_list(c, "/v1/admin/ipam/leaks", cols, MT_ARRAY_LEN(cols), "leaks");
}

static int check(struct cli *c, const char *word)
{
    struct in_addr a;
    char safe[60];
    return inet_pton(AF_INET, word, &a) == 1 ? CLI_OK : cli_usage(c, "'%s' is no IPv4 address", mt_printable(word, strlen(word), safe, sizeof safe));
}

int cmd_ipv4_pool_add(struct cli *c)
{
    int code = check(c, c->argv[0]);
    mt_auto_json json_t *body = json_pack("{s:s}", "address", c->argv[0]), *r = NULL;
    c->said = true;
    if (code == CLI_OK)
        code = cli_call(c, "POST", "/v1/ipv4-pool", body, &r);
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_receipt(c, "ipv4_pool", r) : code;
    cli_say(c, "%s is in the pool: %s", cli_str(r, "address"), cli_str(r, "state"));
    return CLI_OK;
}

int cmd_ipv4_pool_remove(struct cli *c)
{
    int code = check(c, c->argv[0]);
    char path[64];
    mt_auto_json json_t *r = NULL;
    c->said = true;
    (void)snprintf(path, sizeof path, "/v1/ipv4-pool/%.15s", c->argv[0]);
    if (code == CLI_OK)
        code = cli_call(c, "DELETE", path, NULL, &r);
    if (code == CLI_OK && c->json) {
        mt_auto_json json_t *doc = cli_receipt_json(c, "ipv4_pool", "ipv4_pool.remove", r);
        return doc ? cli_print_line(c, doc) : cli_error(c, CLI_INTERNAL, "out of memory", NULL);
    }
    if (code != CLI_OK)
        return code;
    cli_say(c, "%s is in the pool no more", c->argv[0]);
    return CLI_OK;
}
