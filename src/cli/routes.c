/* SPDX-License-Identifier: Apache-2.0 */
/* Routes: which public name or port leads to which process. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

#include <inttypes.h>

const char *cli_route_url(const struct cli *c, const json_t *route, char *ret, size_t size)
{
    const char *host = cli_str(route, "hostname");
    int64_t port = cli_int(route, "listen_port");
    bool tls = !MT_STREQ(cli_str(route, "protocol"), "tcp_raw");
    if (tls && port == 443 && c->tls_port && c->tls_port != 443)
        port = (int64_t)c->tls_port;
    if (tls && port == 443)
        (void)snprintf(ret, size, "https://%s/", host);
    else
        (void)snprintf(ret, size, "%s%s:%" PRId64 "%s", tls ? "https://" : "", *host ? host : "[::]", port, tls ? "/" : "");
    return ret;
}

int cmd_routes_list(struct cli *c)
{
    bool all = cli_has(c, "all");
    int code = all ? cli_need_org(c) : cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = all ? mt_asprintf("/v1/orgs/%s/routes", c->org_id) : cli_env_path(c, "/routes");
    code = path ? cli_list(c, path, &items) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_t *r;
    char url[300];
    json_array_foreach(items, i, r) (void)json_object_set_new(r, "url", json_string(cli_route_url(c, r, url, sizeof url)));
    static const struct cli_column cols[] = {{"ID", "id"}, {"ENDPOINT", "url"}, {"STATUS", "status"}, {"PROCESS", "backend_process_type"},
                                             {"PORT", "backend_port"}, {"PROXY", "proxy_protocol"}, {"MANAGED BY", "managed_by"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "routes");
}

int cmd_routes_create(struct cli *c)
{
    bool raw = cli_has(c, "raw");
    uint64_t port, listen = 443;
    struct mt_err err;
    if (!cli_has(c, "port") || mt_parse_u64(cli_opt(c, "port"), 1, 65535, &port, &err) < 0)
        return cli_usage(c, "--port PORT: the port of the process, 1..65535");
    if (cli_has(c, "listen") && mt_parse_u64(cli_opt(c, "listen"), 1, 65535, &listen, &err) < 0)
        return cli_usage(c, "--listen: %s", err.msg);
    if (cli_has(c, "proxy") && !MT_STREQ(cli_opt(c, "proxy"), "v2"))
        return cli_usage(c, "--proxy knows v2 only");
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:s,s:i}", "protocol", raw ? "tcp_raw" : "tls_passthrough", "backend_process_type",
                                          cli_has(c, "process") ? cli_opt(c, "process") : "web", "backend_port", (int)port);
    if (c->argc)
        (void)mt_json_set_str(body, "hostname", c->argv[0]);
    if (!raw || cli_has(c, "listen"))
        (void)json_object_set_new(body, "listen_port", json_integer((json_int_t)listen));
    if (cli_has(c, "proxy")) {
        (void)json_object_set_new(body, "proxy_protocol", json_string("v2"));
        (void)json_object_set_new(body, "backend_expects_proxy_protocol", json_true());
    }
    if (cli_has(c, "min-tls"))
        (void)mt_json_set_str(body, "min_tls_version", cli_opt(c, "min-tls"));
    if (cli_has(c, "ipv4"))
        (void)json_object_set_new(body, "ipv4_required", json_true());
    if (cli_has(c, "default"))
        (void)json_object_set_new(body, "default_for_listener", json_true());
    if (cli_has(c, "allow-non-tls"))
        (void)json_object_set_new(body, "allow_non_tls", json_true());
    mt_auto_json json_t *r = NULL;
    mt_auto_free char *path = cli_env_path(c, "/routes");
    code = cli_call(c, "POST", path, body, &r);
    if (code != CLI_OK)
        return code;
    char url[300];
    if (!c->json)
        cli_say(c, "%s", cli_route_url(c, r, url, sizeof url));
    return cli_receipt(c, "route", r);
}

/* A route of the environment by id or host name; *ret is borrowed from @items. */
static int find_route(struct cli *c, const json_t *items, const char *word, const json_t **ret)
{
    size_t i, found = 0;
    const json_t *r;
    json_array_foreach(items, i, r)
    {
        if (!MT_STREQ(cli_str(r, "id"), word) && !MT_STREQ(cli_str(r, "hostname"), word))
            continue;
        *ret = r;
        found++;
    }
    char what[160];
    (void)snprintf(what, sizeof what, found ? "'%.80s' has several routes: give the id" : "there is no route '%.80s' here", word);
    return found == 1 ? CLI_OK : cli_error(c, found ? CLI_USAGE : CLI_NOT_FOUND, what, "moat routes");
}

int cmd_routes_delete(struct cli *c)
{
    const json_t *route = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    int code = cli_need_env(c);
    mt_auto_free char *list = code == CLI_OK ? cli_env_path(c, "/routes") : NULL;
    if (code == CLI_OK)
        code = cli_list(c, list, &items);
    if (code == CLI_OK)
        code = find_route(c, items, c->argv[0], &route);
    if (code == CLI_OK)
        code = cli_confirm(c, "route", *cli_str(route, "hostname") ? cli_str(route, "hostname") : cli_str(route, "id"));
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = cli_env_path(c, "/routes/%s", cli_str(route, "id"));
    code = cli_call(c, "DELETE", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        mt_auto_json json_t *about = json_copy((json_t *)(uintptr_t)route);
        (void)json_object_update(about, r);
        mt_auto_json json_t *doc = cli_receipt_json(c, "route", "route.delete", about);
        return cli_print_line(c, doc);
    }
    cli_say(c, "route %s deleted", cli_str(route, "id"));
    return CLI_OK;
}

/* The route called @word of the environment: *ret is borrowed from *ret_items (owned by the caller). */
static int load_route(struct cli *c, const char *word, json_t **ret_items, const json_t **ret)
{
    int code = cli_need_env(c);
    mt_auto_free char *list = code == CLI_OK ? cli_env_path(c, "/routes") : NULL;
    if (code == CLI_OK)
        code = cli_list(c, list, ret_items);
    return code == CLI_OK ? find_route(c, *ret_items, word, ret) : code;
}

int cmd_routes_get(struct cli *c)
{
    const json_t *route = NULL;
    mt_auto_json json_t *items = NULL;
    int code = load_route(c, c->argv[0], &items, &route);
    return code == CLI_OK ? cli_show_object(c, cli_env_path(c, "/routes/%s", cli_str(route, "id")), "Route") : code;
}

/* For whoever runs the zone: nothing is made by itself. */
int cmd_routes_records(struct cli *c)
{
    const json_t *only = NULL, *r, *rec;
    mt_auto_json json_t *items = NULL, *records = json_array();
    mt_auto_free char *list = NULL;
    size_t i, k;
    int code = cli_need_env(c);
    if (code == CLI_OK)
        list = cli_env_path(c, "/routes");
    if (code == CLI_OK)
        code = cli_list(c, list, &items);
    if (code == CLI_OK && c->argc)
        code = find_route(c, items, c->argv[0], &only);
    if (code != CLI_OK)
        return code;
    json_array_foreach(items, i, r) {
        if (only && r != only)
            continue;
        json_array_foreach(json_object_get(r, "dns_records"), k, rec) {
            bool twice = false;
            for (size_t n = 0; n < json_array_size(records); n++) /* a name with several routes */
                twice = twice || json_equal(json_array_get(records, n), rec);
            if (!twice)
                (void)json_array_append(records, (json_t *)(uintptr_t)rec);
        }
    }
    if (c->json)
        return cli_print_list(c, records);
    static const struct cli_column cols[] = {{"NAME", "name"}, {"TTL", "ttl"}, {"TYPE", "type"}, {"VALUE", "value"}};
    code = cli_print_table(c, records, cols, MT_ARRAY_LEN(cols), "records");
    json_array_foreach(items, i, r) {
        if ((!only || r == only) && json_is_false(json_object_get(r, "dns_ok")))
            cli_say(c, "%s does not lead here: its addresses are others, or it has none", cli_str(r, "hostname"));
    }
    return code;
}

/* A number of @min to @max, or none: null. */
static int put_limit(struct cli *c, json_t *body, const char *option, const char *field, uint64_t min, uint64_t max)
{
    uint64_t n;
    struct mt_err err;
    if (!cli_has(c, option))
        return CLI_OK;
    if (MT_STREQ(cli_opt(c, option), "none"))
        (void)json_object_set_new(body, field, json_null());
    else if (mt_parse_u64(cli_opt(c, option), min, max, &n, &err) < 0)
        return cli_usage(c, "--%s: %s", option, err.msg);
    else
        (void)json_object_set_new(body, field, json_integer((json_int_t)n));
    return CLI_OK;
}

/* on or off. */
static int put_switch(struct cli *c, json_t *body, const char *option, const char *field)
{
    if (!cli_has(c, option))
        return CLI_OK;
    bool on = MT_STREQ(cli_opt(c, option), "on");
    if (!on && !MT_STREQ(cli_opt(c, option), "off"))
        return cli_usage(c, "--%s is on or off", option);
    (void)json_object_set_new(body, field, json_boolean(on));
    return CLI_OK;
}

static int read_changes(struct cli *c, json_t *body)
{
    int code = put_limit(c, body, "port", "backend_port", 1, 65535);
    if (code == CLI_OK)
        code = put_limit(c, body, "max-connections", "max_connections", 1, 1000000);
    if (code == CLI_OK)
        code = put_limit(c, body, "idle-timeout", "idle_timeout_seconds", 60, 86400);
    if (code == CLI_OK)
        code = put_switch(c, body, "ipv4", "ipv4_required");
    if (code == CLI_OK)
        code = put_switch(c, body, "default", "default_for_listener");
    if (code == CLI_OK)
        code = put_switch(c, body, "allow-non-tls", "allow_non_tls");
    if (code != CLI_OK)
        return code;
    if (cli_has(c, "process"))
        (void)mt_json_set_str(body, "backend_process_type", cli_opt(c, "process"));
    if (cli_has(c, "balance"))
        (void)mt_json_set_str(body, "balance", cli_opt(c, "balance"));
    if (cli_has(c, "min-tls"))
        (void)json_object_set_new(body, "min_tls_version", MT_STREQ(cli_opt(c, "min-tls"), "none") ? json_null() : json_string(cli_opt(c, "min-tls")));
    if (cli_has(c, "proxy")) {
        bool v2 = MT_STREQ(cli_opt(c, "proxy"), "v2");
        if (!v2 && !MT_STREQ(cli_opt(c, "proxy"), "off"))
            return cli_usage(c, "--proxy is v2 or off");
        (void)json_object_set_new(body, "proxy_protocol", json_string(v2 ? "v2" : "off"));
        (void)json_object_set_new(body, "backend_expects_proxy_protocol", json_boolean(v2));
    }
    return json_object_size(body) ? CLI_OK : cli_usage(c, "nothing to change is given");
}

int cmd_routes_update(struct cli *c)
{
    const json_t *route = NULL;
    mt_auto_json json_t *items = NULL, *body = json_object(), *r = NULL;
    int code = read_changes(c, body);
    if (code == CLI_OK)
        code = load_route(c, c->argv[0], &items, &route);
    if (code != CLI_OK)
        return code;
    (void)json_object_set_new(body, "expected_version", json_integer((json_int_t)cli_int(route, "resource_version")));
    mt_auto_free char *path = cli_env_path(c, "/routes/%s", cli_str(route, "id"));
    code = cli_call(c, "PATCH", path, body, &r);
    return code == CLI_OK ? cli_receipt(c, "route", r) : code;
}
