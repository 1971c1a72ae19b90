/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/options.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/sock.h"
#include "wire/clienthello.h"

#include <arpa/inet.h>
#include <stddef.h>

#define OFF(field) offsetof(struct mt_edge_options, field)

static const struct mt_conf_key keys[] = {
    {"data_dir", MT_CONF_STRING, OFF(data_dir), 1, 255, MT_CONF_NONE, "path",
     "folder for the last known good configuration; must be there and writable"},
    {"control_socket", MT_CONF_STRING, OFF(control_socket), 1, MT_UNIX_PATH_MAX, MT_CONF_NONE, "path",
     "Unix socket of the control plane's internal API, on its own machine"},
    {"control_address", MT_CONF_STRING, OFF(control_address), 3, 260, MT_CONF_NONE, "",
     "host:port of the control plane's node listener, for an edge of another node; instead of control_socket, with keys_dir"},
    {"keys_dir", MT_CONF_STRING, OFF(keys_dir), 1, 255, MT_CONF_NONE, "path",
     "folder with the edge's certificate, which this node's moat-agent makes and renews: <its data_dir>/keys/edge"},
    {"admin_socket", MT_CONF_STRING, OFF(admin_socket), 1, MT_UNIX_PATH_MAX, MT_CONF_NONE, "path",
     "Unix socket that answers GET /metrics, /livez, /readyz; none when absent"},
    {"listen_metrics", MT_CONF_STRING, OFF(listen_metrics), 3, 80, MT_CONF_NONE, "address:port",
     "the same for a Prometheus of the mesh, for example [fd00::1]:9463: loopback or an inner address, never every address"},
    {"handover_socket", MT_CONF_STRING, OFF(handover_socket), 1, MT_UNIX_PATH_MAX, MT_CONF_NONE, "path",
     "Unix socket over which a new process takes the listening sockets, so that an upgrade cuts nothing; none when absent"},
    {"public_addresses", MT_CONF_STRINGS, OFF(public_addresses), 1, 64, "::", "",
     "addresses that shared listeners bind; IPv6 ones are never used for IPv4"},
    {"port_map", MT_CONF_MAP_U64, OFF(port_map), 0, 4096, "", "port",
     "logical listen port to local port, where this machine cannot use the logical one"},
    {"source_address", MT_CONF_STRING, OFF(source_address), 0, 45, "", "",
     "overlay address that connections to backends come from; empty: chosen by the kernel"},
    {"workers", MT_CONF_U64, OFF(workers), 0, 256, "0", "threads", "worker threads; 0: one for each core"},
    {"max_conns", MT_CONF_U64, OFF(max_conns), 1, 1000000, "200000", "connections",
     "above this, accepting pauses; never more than 48 % of the descriptor limit"},
    {"preroute_max", MT_CONF_U64, OFF(preroute_max), 1, 1000000, "16384", "connections",
     "connections that have not shown their name yet; the oldest goes"},
    {"hello_timeout_ms", MT_CONF_U64, OFF(hello_timeout_ms), 100, 30000, "3000", "ms",
     "time a client has to send its whole ClientHello"},
    {"hello_max_bytes", MT_CONF_U64, OFF(hello_max_bytes), MT_HELLO_MAX_FLOOR, MT_HELLO_MAX_CEIL, "16384", "bytes",
     "largest ClientHello, record headers included"},
    {"tls_alerts", MT_CONF_BOOL, OFF(tls_alerts), 0, 0, "true", "",
     "answer refused TLS clients with an alert; false: plain close"},
    {"connect_timeout_ms", MT_CONF_U64, OFF(connect_timeout_ms), 10, 60000, "2000", "ms", "time for one backend to accept"},
    {"connect_total_ms", MT_CONF_U64, OFF(connect_total_ms), 10, 120000, "5000", "ms", "time for all tries of one client"},
    {"half_close_ms", MT_CONF_U64, OFF(half_close_ms), 1000, 86400000, "600000", "ms",
     "time a connection may stay half closed without traffic"},
    {"stop_grace_ms", MT_CONF_U64, OFF(stop_grace_ms), 0, 3600000, "1000", "ms",
     "time connections have to end after SIGTERM"},
    {"handover_grace_ms", MT_CONF_U64, OFF(handover_grace_ms), 0, 3600000, "600000", "ms",
     "time connections have to end after a new process took over"},
    {"access_log", MT_CONF_STRING, OFF(access_log), 2, 3, "on", "", "one line for each connection at its end: on or off"},
    {"access_log_per_s", MT_CONF_U64, OFF(access_log_per_s), 1, 1000000, "200", "lines",
     "per second and worker; further lines are counted, not written"},
    {"io_uring", MT_CONF_BOOL, OFF(io_uring), 0, 0, "true", "", "receive and send many small messages in one call where the kernel can"},
    {"log_level", MT_CONF_STRING, OFF(log_level), 4, 5, "info", "", "debug, info, warn or error"},
    {"limits.source_conns", MT_CONF_U64, OFF(source_conns), 0, 1000000, "1024", "connections",
     "concurrent for one source (IPv6 /64, IPv4 address); 0: no limit"},
    {"limits.source_new_per_s", MT_CONF_U64, OFF(source_new_per_s), 0, 1000000, "200", "connections",
     "new ones per second for one source; 0: no limit"},
    {"limits.source_burst", MT_CONF_U64, OFF(source_burst), 1, 1000000, "400", "connections", "new ones at once for one source"},
    {"limits.source_preroute", MT_CONF_U64, OFF(source_preroute), 0, 1000000, "64", "connections",
     "of one source without a name yet; its oldest goes; 0: no limit"},
    {"limits.route_new_per_s", MT_CONF_U64, OFF(route_new_per_s), 0, 1000000, "1000", "connections",
     "new ones per second for one route; 0: no limit"},
    {"limits.route_burst", MT_CONF_U64, OFF(route_burst), 1, 1000000, "2000", "connections", "new ones at once for one route"},
    {"limits.loopback", MT_CONF_BOOL, OFF(limit_loopback), 0, 0, "false", "", "apply the limits to loopback sources too"},
};
#define N_KEYS (sizeof keys / sizeof keys[0])

void mt_edge_options_help(FILE *out)
{
    mt_conf_help(keys, N_KEYS, out);
}

void mt_edge_options_done(struct mt_edge_options *o)
{
    mt_conf_done(keys, N_KEYS, o);
    free(o->publics);
    o->publics = NULL;
    o->n_publics = 0;
}

int mt_edge_parse_addr(const char *ip, uint16_t port, union mt_edge_addr *ret, struct mt_err *err)
{
    char text[INET6_ADDRSTRLEN + 1];
    size_t n = strlen(ip);
    if (n >= 2 && ip[0] == '[' && ip[n - 1] == ']') {
        ip++;
        n -= 2;
    }
    union mt_edge_addr a;
    memset(&a, 0, sizeof a);
    if (n < sizeof text) {
        memcpy(text, ip, n);
        text[n] = '\0';
        if (inet_pton(AF_INET6, text, &a.in6.sin6_addr) == 1) {
            a.in6.sin6_family = AF_INET6;
            a.in6.sin6_port = htons(port);
            *ret = a;
            return 0;
        }
        memset(&a, 0, sizeof a);
        if (inet_pton(AF_INET, text, &a.in4.sin_addr) == 1) {
            a.in4.sin_family = AF_INET;
            a.in4.sin_port = htons(port);
            *ret = a;
            return 0;
        }
    }
    char shown[64];
    return MT_FAIL(err, MT_E_INVALID, "'%s' is no IP address", mt_printable(ip, n, shown, sizeof shown));
}

const char *mt_edge_addr_text(const union mt_edge_addr *a, char *ret, size_t size)
{
    char ip[INET6_ADDRSTRLEN] = "?";
    if (a->sa.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &a->in4.sin_addr, ip, sizeof ip);
        (void)snprintf(ret, size, "%s:%u", ip, ntohs(a->in4.sin_port));
    } else {
        (void)inet_ntop(AF_INET6, &a->in6.sin6_addr, ip, sizeof ip);
        (void)snprintf(ret, size, "[%s]:%u", ip, ntohs(a->in6.sin6_port));
    }
    return ret;
}

socklen_t mt_edge_addr_len(const union mt_edge_addr *a)
{
    return a->sa.sa_family == AF_INET ? sizeof a->in4 : sizeof a->in6;
}

int mt_edge_options_check(struct mt_edge_options *o, struct mt_err *err)
{
    enum mt_level level;
    if (mt_level_parse(o->log_level, &level, err) < 0)
        return mt_err_wrap(err, "log_level");
    mt_log_level(level);
    if (!MT_STREQ(o->access_log, "on") && !MT_STREQ(o->access_log, "off"))
        return MT_FAIL(err, MT_E_INVALID, "access_log is '%s', must be on or off", o->access_log);
    if (MT_STREQ(o->access_log, "off"))
        o->access_log_per_s = 0;
    if (o->source_address[0] && mt_edge_parse_addr(o->source_address, 0, &o->source, err) < 0)
        return mt_err_wrap(err, "source_address");
    for (size_t i = 0; i < o->port_map.n; i++) {
        uint64_t port;
        if (mt_parse_u64(o->port_map.v[i].key, 1, 65535, &port, err) < 0)
            return mt_err_wrap(err, "port_map");
        if (o->port_map.v[i].number < 1 || o->port_map.v[i].number > 65535)
            return MT_FAIL(err, MT_E_INVALID, "port_map: %s goes to %llu, must be 1..65535", o->port_map.v[i].key,
                           (unsigned long long)o->port_map.v[i].number);
    }
    o->publics = calloc(o->public_addresses.n ? o->public_addresses.n : 1, sizeof *o->publics);
    if (!o->publics)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the public addresses");
    for (size_t i = 0; i < o->public_addresses.n; i++)
        if (mt_edge_parse_addr(o->public_addresses.v[i], 0, &o->publics[i], err) < 0)
            return mt_err_wrap(err, "public_addresses");
    o->n_publics = o->public_addresses.n;
    return 0;
}

/* What the static mode does without. */
static int check_upstream(const struct mt_edge_options *o, struct mt_err *err)
{
    char host[256];
    uint16_t port;
    if (!o->data_dir)
        return MT_FAIL(err, MT_E_INVALID, "'data_dir' is missing");
    if (o->control_socket && o->control_address)
        return MT_FAIL(err, MT_E_INVALID, "'control_socket' and 'control_address' exclude each other");
    if (!o->control_socket && !o->control_address)
        return MT_FAIL(err, MT_E_INVALID, "'control_socket' is missing (or 'control_address', for an edge of another node)");
    if (!o->control_address)
        return 0;
    if (!o->keys_dir)
        return MT_FAIL(err, MT_E_INVALID, "'keys_dir' is missing: 'control_address' needs the certificate in it");
    int rc = mt_sock_split(o->control_address, host, &port, err);
    return rc < 0 ? mt_err_wrap(err, "control_address") : 0;
}

int mt_edge_options_load(const char *path, struct mt_edge_options *o, FILE *problems, struct mt_err *err)
{
    memset(o, 0, sizeof *o);
    if (mt_conf_load(path, keys, N_KEYS, o, problems, err) < 0)
        return -(int)err->code;
    int r = check_upstream(o, err);
    if (r < 0)
        (void)mt_err_wrap(err, "%s", path);
    else
        r = mt_edge_options_check(o, err);
    if (r < 0) {
        mt_edge_options_done(o);
        return r;
    }
    return 0;
}

int mt_edge_options_default(struct mt_edge_options *o, struct mt_err *err)
{
    memset(o, 0, sizeof *o);
    return mt_conf_parse("", 0, "defaults", keys, N_KEYS, o, NULL, err);
}

uint16_t mt_edge_options_port(const struct mt_edge_options *o, uint16_t logical)
{
    char key[8];
    (void)snprintf(key, sizeof key, "%u", logical);
    return (uint16_t)mt_conf_map_u64(&o->port_map, key, logical);
}
