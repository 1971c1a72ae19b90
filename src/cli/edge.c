/* SPDX-License-Identifier: Apache-2.0 */
/* The edge of this machine, asked at its admin socket: where a connection would go, and why. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"

#include <inttypes.h>

#define HELLO_MAX (64U * 1024U)
#define ANSWER_MAX (4U * 1024U * 1024U)

/* Path of the admin socket; NULL and a printed error in *ret_code. */
static char *socket_path(struct cli *c, int *ret_code)
{
    const char *dir = cli_opt(c, "data-dir");
    char *path = cli_has(c, "socket") ? strdup(cli_opt(c, "socket")) : mt_asprintf("%s/run/edge/edge.sock", dir ? dir : "/var/lib/moat");
    if (!path)
        *ret_code = cli_error(c, CLI_FAILURE, "out of memory", NULL);
    return path;
}

/* "&hello=<hex of the file>" */
static int put_hello(struct cli *c, struct mt_buf *target)
{
    struct mt_err err = {0};
    mt_auto_free char *data = NULL;
    size_t len;
    if (mt_file_read(cli_opt(c, "from-hello"), HELLO_MAX, &data, &len, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (len == 0)
        return cli_usage(c, "--from-hello: '%s' is empty", cli_opt(c, "from-hello"));
    mt_auto_free char *hex = malloc(2 * len + 1);
    if (!hex)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    mt_hex_encode(data, len, hex);
    mt_buf_puts(target, "&hello=");
    mt_buf_puts(target, hex);
    return CLI_OK;
}

static void show_route(const json_t *r)
{
    size_t i;
    const json_t *b;
    (void)printf("route     %s%s%s\n", cli_str(r, "route_id"), *cli_str(r, "env_id") ? " of " : "", cli_str(r, "env_id"));
    (void)printf("load      %" PRId64 " of %" PRId64 " connections, %s\n", cli_int(r, "connections"), cli_int(r, "max_connections"),
                 MT_STREQ(cli_str(r, "balance"), "least_conn") ? "least connections first" : "round robin");
    if (MT_STREQ(cli_str(r, "proxy_protocol"), "v2"))
        (void)puts("header    PROXY protocol v2");
    if (*cli_str(r, "min_tls_version"))
        (void)printf("versions  TLS %s or newer\n", cli_str(r, "min_tls_version"));
    json_array_foreach(json_object_get(r, "backends"), i, b)
    {
        int64_t out = cli_int(b, "ejected_for_ms");
        char state[64];
        (void)snprintf(state, sizeof state, out > 0 ? "ejected for %" PRId64 " ms" : "%" PRId64 " connections", out > 0 ? out : cli_int(b, "connections"));
        (void)printf("backend   %s  %s  %s\n", cli_str(b, "address"), cli_str(b, "instance_id"), state);
    }
}

static void show(struct cli *c, json_t *a)
{
    size_t i;
    const json_t *local, *route = json_object_get(a, "route"), *hello = json_object_get(a, "hello");
    const char *decision = cli_str(a, "decision");
    char alert[32] = "";
    if (cli_int(a, "alert") > 0)
        (void)snprintf(alert, sizeof alert, " %" PRId64, cli_int(a, "alert"));
    (void)printf("%s%s%s%s: %s (%s)\n", cli_color(c, MT_STREQ(decision, "proxy") ? "green" : "red"), decision, alert, cli_color(c, "reset"), cli_str(a, "why"),
                 cli_str(a, "reason"));
    (void)printf("listener  port %" PRId64, cli_int(a, "listener.port"));
    json_array_foreach(cli_member(a, "listener.local"), i, local) (void)printf("%s%s", i ? ", " : " on ", json_string_value(local));
    (void)puts(json_is_true(cli_member(a, "listener.configured")) ? "" : " (not configured)");
    if (*cli_str(a, "name"))
        (void)printf("name      %s\n", cli_str(a, "name"));
    if (hello)
        (void)printf("hello     %s, %" PRId64 " bytes, best version TLS %s%s\n", cli_str(hello, "result"), cli_int(hello, "bytes"), cli_str(hello, "tls_version"),
                     json_is_true(json_object_get(hello, "encrypted_client_hello")) ? ", outer name of an encrypted hello" : "");
    if (route)
        show_route(route);
}

int cmd_edge_explain(struct cli *c)
{
    int code = CLI_OK;
    uint64_t port = 443;
    struct mt_err err = {0};
    if (c->argc == 0 && !cli_has(c, "from-hello"))
        return cli_usage(c, "HOST is missing (or --from-hello FILE)");
    if (cli_has(c, "listen") && mt_parse_u64(cli_opt(c, "listen"), 1, 65535, &port, &err) < 0)
        return cli_usage(c, "--listen: %s", err.msg);
    mt_auto_free char *path = socket_path(c, &code);
    if (!path)
        return code;
    mt_auto_buf struct mt_buf target = MT_BUF_INIT(2 * HELLO_MAX + 4096);
    mt_buf_printf(&target, "/explain?port=%" PRIu64, port);
    if (cli_has(c, "address")) {
        mt_buf_puts(&target, "&address=");
        mt_http_put_query(&target, cli_opt(c, "address"));
    }
    if (cli_has(c, "from-hello")) {
        code = put_hello(c, &target);
    } else {
        mt_buf_puts(&target, "&name=");
        mt_http_put_query(&target, c->argv[0]);
    }
    if (code != CLI_OK)
        return code;
    struct mt_http_client *http = mt_http_client_new(path);
    const struct mt_http_request q = {.method = "GET", .target = mt_buf_cstr(&target), .timeout_ms = 5000};
    struct mt_http_reply reply = {0};
    int r = http ? mt_http_do(http, &q, ANSWER_MAX, &reply, &err) : MT_FAIL(&err, MT_E_NOMEM, "out of memory");
    mt_http_client_free(http);
    if (r < 0)
        return cli_fail(c, &err, "is moat-edge running here, with admin_socket set? --socket names another one");
    mt_auto_json json_t *a = NULL;
    if (reply.status != 200)
        code = cli_error(c, reply.status == 400 ? CLI_USAGE : CLI_FAILURE, mt_buf_cstr(&reply.body), NULL);
    else if (mt_json_parse(mt_buf_cstr(&reply.body), reply.body.len, ANSWER_MAX, 8, &a, &err) < 0)
        code = cli_fail(c, &err, NULL);
    mt_http_reply_done(&reply);
    if (code != CLI_OK)
        return code;
    if (c->argc == 1 && cli_has(c, "from-hello") && strcasecmp(cli_str(a, "name"), c->argv[0]) != 0)
        cli_say(c, "the hello asks for '%s', not for '%s'", cli_str(a, "name"), c->argv[0]);
    if (c->json)
        return cli_print_object(c, "EdgeExplanation", a);
    cli_tame(a);
    show(c, a);
    return CLI_OK;
}
