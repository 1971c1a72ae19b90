/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of routes that need no rows. */
#include "control/commands/route.h"

#include "base/assert.h"
#include "base/str.h"

static int check_port(const struct mt_route_spec *s, const struct mt_port_policy *ports, bool tls, bool dedicated, struct mt_err *err)
{
    char allowed[320];
    if (tls && s->listen_port == 80)
        return MT_FAIL(err, MT_E_INVALID, "port 80 is not offered for host names: plain HTTP carries no name that a "
                                          "layer 4 edge could route by");
    if (tls && s->listen_port != 443 && !mt_port_in(&ports->tls, s->listen_port))
        return MT_FAIL(err, MT_E_INVALID, "tls listens on 443 or on a port of %.200s", mt_port_ranges_text(&ports->tls, allowed, sizeof allowed));
    if (!tls && !dedicated && !mt_port_in(&ports->shared_raw, s->listen_port))
        return MT_FAIL(err, MT_E_INVALID, "tcp_raw on the shared address listens on a port of %.200s",
                       mt_port_ranges_text(&ports->shared_raw, allowed, sizeof allowed));
    if (mt_port_denied(ports, s->listen_port) && !(dedicated && s->listen_port == 22 && !mt_port_in(&ports->denied, 22))) /* 22 is the host's own on its addresses only */
        return MT_FAIL(err, MT_E_INVALID, "port %lld is reserved", (long long)s->listen_port);
    return 0;
}

int mt_route_platform_name(const char *app, const char *env, const char *base, char ret[MT_HOSTNAME_SIZE], struct mt_err *err)
{
    if (strlen(app) + 1 + strlen(env) > 63 || mt_fmt(ret, MT_HOSTNAME_SIZE, err, "%s-%s.%s", app, env, base) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%.63s-%.32s' is too long for a label of a host name: give the route a name of your own", app, env);
    return 0;
}

bool mt_route_below(const char *host, const char *base)
{
    size_t h = strlen(host), b = strlen(base);
    return h >= b && MT_STREQ(host + h - b, base) && (h == b || host[h - b - 1] == '.');
}

int mt_route_check(struct mt_route_spec *s, const struct mt_port_policy *ports, const char **ret_code, struct mt_err *err)
{
    *ret_code = "invalid_argument";
    bool tls = MT_STREQ(s->protocol, "tls_passthrough");
    if (!tls && !MT_STREQ(s->protocol, "tcp_raw"))
        return MT_FAIL(err, MT_E_INVALID, "protocol is tls_passthrough or tcp_raw");
    if (!MT_STREQ(s->proxy_protocol, "off") && !MT_STREQ(s->proxy_protocol, "v2"))
        return MT_FAIL(err, MT_E_INVALID, "proxy_protocol is off or v2");
    if (!MT_STREQ(s->balance, "round_robin") && !MT_STREQ(s->balance, "least_conn"))
        return MT_FAIL(err, MT_E_INVALID, "balance is round_robin or least_conn");
    if (MT_STREQ(s->proxy_protocol, "v2") && !s->backend_expects_proxy_protocol)
        return MT_FAIL(err, MT_E_INVALID, "proxy_protocol v2 needs backend_expects_proxy_protocol = true: a backend that does "
                                          "not expect the header would break");
    static const char *const versions[] = {"", "1.0", "1.1", "1.2", "1.3"};
    const char *min = s->min_tls_version ? s->min_tls_version : "";
    size_t v = 0;
    while (v < MT_ARRAY_LEN(versions) && !MT_STREQ(versions[v], min))
        v++;
    if (v == MT_ARRAY_LEN(versions))
        return MT_FAIL(err, MT_E_INVALID, "min_tls_version is 1.0, 1.1, 1.2 or 1.3");
    if (*min && !tls)
        return MT_FAIL(err, MT_E_INVALID, "min_tls_version is for tls_passthrough: of a tcp_raw route the edge reads no hello");
    /* On a shared address neither is anybody's to have: the edge never guesses whose a nameless client is (networking.md §8.4). */
    if ((s->default_for_listener || s->allow_non_tls) && !(tls && s->ipv4_required))
        return MT_FAIL(err, MT_E_INVALID, "%s is for a tls_passthrough route with ipv4_required = true: it is about the listener on the environment's own IPv4 address",
                       s->default_for_listener ? "default_for_listener" : "allow_non_tls");
    if (s->allow_non_tls && *min)
        return MT_FAIL(err, MT_E_INVALID, "allow_non_tls lets in who offers no TLS at all, min_tls_version refuses them: one of both");
    if (s->idle_timeout_seconds && s->idle_timeout_seconds < 60)
        return MT_FAIL(err, MT_E_INVALID, "idle_timeout_seconds is 0 or 60 to 86400");
    if (s->ipv4_required && !s->has_ipv4) {
        *ret_code = "ipv4_not_enabled";
        return MT_FAIL(err, MT_E_INVALID, "the environment has no IPv4 address: moat env ipv4 enable");
    }
    bool dedicated = s->ipv4_required && !tls; /* a name is served on the shared addresses too */
    s->address_scope = dedicated ? "ipv4" : "shared6";
    if (tls) {
        *ret_code = "hostname_invalid";
        if (!s->hostname[0])
            return MT_FAIL(err, MT_E_INVALID, "a tls_passthrough route needs a hostname");
        const char *fault = mt_hostname_fault(s->hostname, strlen(s->hostname));
        if (fault)
            return MT_FAIL(err, MT_E_INVALID, "host name '%s' %s", s->hostname, fault);
    }
    *ret_code = "port_not_allowed";
    return s->port_settled ? 0 : check_port(s, ports, tls, dedicated, err);
}

json_t *mt_route_payload(const struct mt_route_spec *s, const char *managed_by)
{
    json_t *options = json_pack("{s:b,s:s}", "proxy_tlv", s->proxy_tlv, "balance", s->balance);
    if (options && s->max_connections)
        json_object_set_new(options, "max_connections", json_integer(s->max_connections));
    if (options && s->idle_timeout_seconds)
        json_object_set_new(options, "idle_timeout_seconds", json_integer(s->idle_timeout_seconds));
    if (options && s->min_tls_version && *s->min_tls_version)
        json_object_set_new(options, "min_tls_version", json_string(s->min_tls_version));
    if (options && s->default_for_listener)
        json_object_set_new(options, "default_for_listener", json_true());
    if (options && s->allow_non_tls)
        json_object_set_new(options, "allow_non_tls", json_true());
    json_t *p = json_pack("{s:I,s:s,s:s,s:s,s:I,s:s,s:b,s:b,s:o,s:s}", "listen_port", (json_int_t)s->listen_port, "protocol",
                          s->protocol, "address_scope", s->address_scope, "backend_process_type", s->backend_process_type,
                          "backend_port", (json_int_t)s->backend_port, "proxy_protocol", s->proxy_protocol,
                          "backend_expects_proxy_protocol", s->backend_expects_proxy_protocol, "ipv4_required",
                          s->ipv4_required, "options", options, "managed_by", managed_by);
    if (p && s->hostname[0])
        json_object_set_new(p, "hostname", json_string(s->hostname));
    return p;
}
