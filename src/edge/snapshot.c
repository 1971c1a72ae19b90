/* SPDX-License-Identifier: Apache-2.0 */
/* JSON snapshot to table, field by field. */
#include "edge/snapshot.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "edge/options.h"
#include "wire/clienthello.h"
#include "wire/json.h"

#include <arpa/inet.h>

struct prefix {
    struct in6_addr addr;
    unsigned bits;
    bool set;
};

static int parse_prefix(const char *s, struct prefix *ret, struct mt_err *err)
{
    char ip[INET6_ADDRSTRLEN];
    uint64_t bits;
    const char *slash = strchr(s, '/');
    if (!slash || (size_t)(slash - s) >= sizeof ip)
        return MT_FAIL(err, MT_E_INVALID, "instance_prefix: not address/length");
    memcpy(ip, s, (size_t)(slash - s));
    ip[slash - s] = '\0';
    if (inet_pton(AF_INET6, ip, &ret->addr) != 1 || mt_parse_u64(slash + 1, 1, 128, &bits, err) < 0)
        return MT_FAIL(err, MT_E_INVALID, "instance_prefix: not address/length");
    ret->bits = (unsigned)bits;
    ret->set = true;
    return 0;
}

static bool inside(const struct prefix *p, const struct in6_addr *a)
{
    unsigned bytes = p->bits / 8, rest = p->bits % 8;
    if (!p->set)
        return true;
    if (memcmp(&p->addr, a, bytes) != 0)
        return false;
    return rest == 0 || ((p->addr.s6_addr[bytes] ^ a->s6_addr[bytes]) >> (8 - rest)) == 0;
}

/* An id: 1..64 bytes of [A-Za-z0-9_-]; "" allowed when @optional. */
static int get_id(const json_t *o, const char *key, bool optional, const char **ret, struct mt_err *err)
{
    int r = optional ? mt_json_opt_str(o, key, MT_EDGE_ID_MAX, "", ret, err) : mt_json_get_str(o, key, MT_EDGE_ID_MAX, ret, err);
    if (r < 0)
        return r;
    size_t n = strspn(*ret, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");
    if ((*ret)[n] != '\0' || (n == 0 && !optional))
        return MT_FAIL(err, MT_E_INVALID, "%s: not 1..%u letters, digits, '_' or '-'", key, MT_EDGE_ID_MAX);
    return 0;
}

/* One of the texts of @names (NULL at its end); the index is the value. */
static int get_choice(const json_t *o, const char *key, const char *fallback, const char *const *names, unsigned *ret,
                      struct mt_err *err)
{
    const char *s;
    int r = fallback ? mt_json_opt_str(o, key, 64, fallback, &s, err) : mt_json_get_str(o, key, 64, &s, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; names[i]; i++) {
        if (MT_STREQ(s, names[i])) {
            *ret = i;
            return 0;
        }
    }
    char shown[64];
    return MT_FAIL(err, MT_E_INVALID, "%s: '%s' is not known", key, mt_printable(s, strlen(s), shown, sizeof shown));
}

static const char *const proto_names[] = {"tls_passthrough", "tcp_raw", NULL};
static const char *const scope_names[] = {"shared6", "ipv4", NULL};
static const char *const balance_names[] = {"round_robin", "least_conn", NULL};
static const char *const proxy_names[] = {"off", "v2", NULL};

/* Protocol, scope, address and port of a listener or of a route. */
static int get_key(const json_t *o, const char *port_key, mt_edge_key *ret, struct mt_err *err)
{
    unsigned proto = 0, scope = 0;
    uint64_t port = 0;
    const char *address = "";
    struct in_addr v4 = {0};
    if (get_choice(o, "protocol", NULL, proto_names, &proto, err) < 0 ||
        get_choice(o, "address_scope", "shared6", scope_names, &scope, err) < 0 ||
        mt_json_get_u64(o, port_key, 1, 65535, &port, err) < 0 || mt_json_opt_str(o, "address", 45, "", &address, err) < 0)
        return -(int)err->code;
    if (scope == MT_EDGE_IPV4 && inet_pton(AF_INET, address, &v4) != 1)
        return MT_FAIL(err, MT_E_INVALID, "address: scope ipv4 needs an IPv4 address");
    *ret = mt_edge_key_of((enum mt_edge_proto)proto, (enum mt_edge_scope)scope, v4, (uint16_t)port);
    return 0;
}

static int read_backends(const json_t *list, const struct prefix *prefix, struct mt_edge_backend_spec **ret, uint32_t *ret_n,
                         struct mt_err *err)
{
    size_t n = json_array_size(list);
    if (n > MT_EDGE_BACKENDS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %u backends", MT_EDGE_BACKENDS_MAX);
    mt_auto_free struct mt_edge_backend_spec *b = calloc(n ? n : 1, sizeof *b);
    if (!b)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %zu backends", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(list, i);
        const char *address, *state;
        uint64_t port, weight;
        if (get_id(o, "instance_id", false, &b[i].instance_id, err) < 0 ||
            mt_json_get_str(o, "address", 45, &address, err) < 0 || mt_json_get_u64(o, "port", 1, 65535, &port, err) < 0 ||
            mt_json_opt_u64(o, "weight", 1, 1, 1, &weight, err) < 0 ||
            mt_json_opt_str(o, "state", 32, "ready", &state, err) < 0)
            return mt_err_wrap(err, "backend %zu", i);
        if (!MT_STREQ(state, "ready"))
            return MT_FAIL(err, MT_E_INVALID, "backend %zu: state must be ready", i);
        b[i].addr.in6.sin6_family = AF_INET6;
        b[i].addr.in6.sin6_port = htons((uint16_t)port);
        if (inet_pton(AF_INET6, address, &b[i].addr.in6.sin6_addr) != 1)
            return MT_FAIL(err, MT_E_INVALID, "backend %zu: address is not IPv6", i);
        if (!inside(prefix, &b[i].addr.in6.sin6_addr))
            return MT_FAIL(err, MT_E_INVALID, "backend %zu: address is outside of instance_prefix", i);
    }
    *ret = MT_TAKE(b);
    *ret_n = (uint32_t)n;
    return 0;
}

/* A dedicated address must be allocated to the environment of the route. */
static int check_owner(const json_t *ipv4, const struct mt_edge_route_spec *s, struct mt_err *err)
{
    char want[INET_ADDRSTRLEN];
    struct in_addr v4 = mt_edge_key_v4(s->key);
    if (mt_edge_key_scope(s->key) != MT_EDGE_IPV4)
        return 0;
    (void)inet_ntop(AF_INET, &v4, want, sizeof want);
    for (size_t i = 0; i < json_array_size(ipv4); i++) {
        const json_t *o = json_array_get(ipv4, i);
        const char *address, *env;
        if (mt_json_get_str(o, "ipv4_address", 45, &address, err) < 0 || mt_json_get_str(o, "env_id", MT_EDGE_ID_MAX, &env, err) < 0)
            return mt_err_wrap(err, "ipv4[%zu]", i);
        if (MT_STREQ(address, want) && MT_STREQ(env, s->env_id))
            return 0;
    }
    return MT_FAIL(err, MT_E_INVALID, "address %s does not belong to its environment", want);
}

static int read_route(struct mt_edge_table *t, const json_t *o, const json_t *backends, const json_t *ipv4,
                      const struct prefix *prefix, struct mt_err *err)
{
    struct mt_edge_route_spec s = {0};
    uint64_t idle, max_conns;
    unsigned balance, proxy;
    const char *min_tls;
    char name[256];
    if (get_id(o, "route_id", false, &s.route_id, err) < 0 || get_id(o, "env_id", false, &s.env_id, err) < 0 ||
        get_id(o, "org_id", true, &s.org_id, err) < 0 || get_key(o, "listen_port", &s.key, err) < 0 ||
        mt_json_opt_str(o, "hostname", 255, "", &s.hostname, err) < 0 ||
        mt_json_opt_u64(o, "idle_timeout_seconds", 0, 86400, 0, &idle, err) < 0 ||
        mt_json_opt_u64(o, "max_connections", 1, 1000000, 10000, &max_conns, err) < 0 ||
        get_choice(o, "balance", "round_robin", balance_names, &balance, err) < 0 ||
        get_choice(o, "proxy_protocol", "off", proxy_names, &proxy, err) < 0 ||
        mt_json_opt_bool(o, "proxy_tlv", false, &s.proxy_tlv, err) < 0 ||
        mt_json_opt_bool(o, "disabled", false, &s.disabled, err) < 0 ||
        mt_json_opt_bool(o, "default_for_listener", false, &s.is_default, err) < 0 ||
        mt_json_opt_bool(o, "allow_non_tls", false, &s.allow_non_tls, err) < 0 ||
        mt_json_opt_str(o, "min_tls_version", 8, "", &min_tls, err) < 0)
        return -(int)err->code;
    s.min_tls = mt_edge_tls_version(min_tls);
    if (min_tls[0] && (s.min_tls == 0 || mt_edge_key_proto(s.key) != MT_EDGE_TLS))
        return MT_FAIL(err, MT_E_INVALID, "min_tls_version: must be 1.0 to 1.3, on a tls route");
    if (idle > 0 && idle < 60)
        return MT_FAIL(err, MT_E_INVALID, "idle_timeout_seconds: must be 0 or 60..86400");
    if (mt_edge_key_proto(s.key) == MT_EDGE_TLS) {
        size_t n = mt_hello_normal_name(s.hostname, strlen(s.hostname), name);
        if (n == 0 || !MT_STREQ(name, s.hostname) || !strchr(name, '.'))
            return MT_FAIL(err, MT_E_INVALID, "hostname: must be a lower-case name of at least two labels");
    } else {
        s.hostname = ""; /* of a raw route: for DNS only */
    }
    if (check_owner(ipv4, &s, err) < 0)
        return -(int)err->code;
    s.idle_timeout_s = (uint32_t)idle;
    s.max_conns = (uint32_t)max_conns;
    s.balance = (enum mt_edge_balance)balance;
    s.proxy_v2 = proxy == 1;
    mt_auto_free struct mt_edge_backend_spec *b = NULL;
    const json_t *list = json_object_get(backends, s.route_id);
    if (list && !json_is_array(list))
        return MT_FAIL(err, MT_E_INVALID, "its backends are no list");
    if (list && read_backends(list, prefix, &b, &s.n_backends, err) < 0)
        return -(int)err->code;
    s.backends = b;
    return mt_edge_table_add_route(t, &s, err);
}

static int check_features(const json_t *root, struct mt_err *err)
{
    json_t *list;
    if (mt_json_opt_array(root, "required_features", 64, &list, err) < 0)
        return -(int)err->code;
    if (list && json_array_size(list) > 0) {
        const char *s = json_string_value(json_array_get(list, 0));
        char shown[64];
        return MT_FAIL(err, MT_E_INVALID, "required_features: '%s' is not known to this edge; upgrade it",
                       s ? mt_printable(s, strlen(s), shown, sizeof shown) : "");
    }
    return 0;
}

static int read_traces(struct mt_edge_table *t, const json_t *root, struct mt_err *err)
{
    json_t *list;
    if (mt_json_opt_array(root, "traces", MT_EDGE_TRACES_MAX, &list, err) < 0)
        return -(int)err->code;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s || strlen(s) != MT_EDGE_TRACE_LEN || strspn(s, "0123456789abcdef") != MT_EDGE_TRACE_LEN)
            return MT_FAIL(err, MT_E_INVALID, "traces[%zu]: not 32 lower-case hex digits", i);
        memcpy(t->traces[t->n_traces++], s, MT_EDGE_TRACE_LEN + 1);
    }
    return 0;
}

static int read_all(struct mt_edge_table *t, const json_t *root, struct mt_err *err)
{
    uint64_t format;
    const char *cluster, *prefix_text;
    json_t *listeners, *routes, *backends, *ipv4;
    bool redirect;
    struct prefix prefix = {0};
    if (mt_json_get_u64(root, "format", 1, 1, &format, err) < 0 || check_features(root, err) < 0 || read_traces(t, root, err) < 0 ||
        get_id(root, "cluster_id", false, &cluster, err) < 0 ||
        mt_json_get_u64(root, "epoch", 1, INT64_MAX, &t->epoch, err) < 0 ||
        mt_json_get_u64(root, "revision", 1, INT64_MAX, &t->revision, err) < 0 ||
        mt_json_opt_bool(root, "allow_shrink", false, &t->allow_shrink, err) < 0 || mt_json_opt_bool(root, "http_redirect", false, &redirect, err) < 0 ||
        mt_json_opt_str(root, "instance_prefix", 49, "", &prefix_text, err) < 0 ||
        mt_json_get_array(root, "listeners", MT_EDGE_LISTENERS_MAX, &listeners, err) < 0 ||
        mt_json_get_array(root, "routes", MT_EDGE_ROUTES_MAX, &routes, err) < 0 ||
        mt_json_get_object(root, "backends", &backends, err) < 0 ||
        mt_json_opt_array(root, "ipv4", MT_EDGE_LISTENERS_MAX, &ipv4, err) < 0)
        return -(int)err->code;
    if (prefix_text[0] && parse_prefix(prefix_text, &prefix, err) < 0)
        return -(int)err->code;
    (void)snprintf(t->cluster_id, sizeof t->cluster_id, "%s", cluster);
    for (size_t i = 0; i < json_array_size(listeners); i++) {
        mt_edge_key key;
        if (get_key(json_array_get(listeners, i), "port", &key, err) < 0 || mt_edge_table_add_listener(t, key, err) < 0)
            return mt_err_wrap(err, "listeners[%zu]", i);
    }
    if (redirect && mt_edge_table_add_listener(t, mt_edge_key_of(MT_EDGE_HTTP, MT_EDGE_SHARED6, (struct in_addr){0}, 80), err) < 0)
        return mt_err_wrap(err, "http_redirect");
    size_t with_backends = 0;
    for (size_t i = 0; i < json_array_size(routes); i++) {
        const json_t *o = json_array_get(routes, i);
        if (read_route(t, o, backends, ipv4, &prefix, err) < 0)
            return mt_err_wrap(err, "routes[%zu]", i);
        if (json_object_get(backends, json_string_value(json_object_get(o, "route_id"))))
            with_backends++;
    }
    if (mt_edge_table_finish(t, err) < 0)
        return -(int)err->code;
    if (with_backends != json_object_size(backends))
        return MT_FAIL(err, MT_E_INVALID, "backends: a key names no route");
    return 0;
}

int mt_edge_snapshot_parse(const char *text, size_t len, struct mt_edge_table **ret, struct mt_err *err)
{
    mt_auto_json json_t *root = NULL;
    if (mt_json_parse(text, len, MT_EDGE_SNAPSHOT_MAX, 16, &root, err) < 0)
        return mt_err_wrap(err, "snapshot");
    struct mt_edge_table *t = mt_edge_table_new();
    if (!t)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the routing table");
    int r = read_all(t, root, err);
    if (r < 0) {
        mt_edge_table_free(t);
        return r;
    }
    *ret = t;
    return 0;
}
