/* SPDX-License-Identifier: Apache-2.0 */
/* A route's host name in the DNS: what has to be there, what is, and the proof that the name is the organisation's (networking.md §8.1, §10). */
#include "control/api/routes.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/commands/route.h"
#include "control/names/names.h"
#include "control/names/proxy_watch.h"

#include <arpa/inet.h>

#define TTL_EDGES 60 /* edges come and go */
#define TTL_IPV4 300

static json_t *record(const char *name, const char *type, int ttl, const char *value)
{
    return json_pack("{s:s,s:s,s:i,s:s}", "name", name, "type", type, "ttl", ttl, "value", value);
}

static json_t *proof_record(struct mt_api_call *c, const char *org_id, const char *host)
{
    char name[sizeof MT_PROOF_LABEL + 256], proof[MT_PROOF_SIZE];
    (void)snprintf(name, sizeof name, MT_PROOF_LABEL ".%.253s", host);
    mt_names_proof(c->ctl->cluster_id, org_id, proof);
    return record(name, "TXT", TTL_IPV4, proof);
}

/* An address as the DNS gives it: IPv4 as ::ffff:a.b.c.d. */
static bool read_address(const char *text, struct in6_addr *ret, bool *ret_v4)
{
    struct in_addr v4;
    *ret_v4 = inet_pton(AF_INET, text, &v4) == 1;
    if (!*ret_v4)
        return inet_pton(AF_INET6, text, ret) == 1;
    *ret = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
    memcpy(ret->s6_addr + 12, &v4, 4);
    return true;
}

static bool has_address(const json_t *addresses, const struct in6_addr *a)
{
    size_t i;
    json_t *v;
    json_array_foreach(addresses, i, v) {
        struct in6_addr x;
        bool v4;
        if (read_address(json_string_value(v), &x, &v4) && memcmp(&x, a, sizeof x) == 0)
            return true;
    }
    return false;
}

/* The name leads here: it has addresses, and none that is not one of the route's. */
static void show_dns(struct mt_api_call *c, json_t *route, const char *host, const json_t *addresses, json_t *hints)
{
    struct mt_names_seen seen;
    char at[MT_RFC3339_LEN];
    mt_names_look(c->ctl->names, host, &seen);
    if (!seen.known)
        return;
    bool ok = seen.n > 0 && !seen.more;
    for (size_t i = 0; ok && i < seen.n; i++)
        ok = has_address(addresses, &seen.addrs[i]);
    json_object_set_new(route, "dns_ok", json_boolean(ok));
    json_object_set_new(route, "dns_checked_at", json_string(mt_rfc3339(seen.at_us, at)));
    if (!ok)
        json_array_append_new(hints, json_string("dns_mismatch"));
}

void mt_api_route_show(struct mt_api_call *c, json_t *route)
{
    const char *host = json_string_value(json_object_get(route, "hostname")), *org = json_string_value(json_object_get(route, "org_id"));
    const char *id = json_string_value(json_object_get(route, "id")), *proxy = json_string_value(json_object_get(route, "proxy_protocol"));
    const json_t *addresses = json_object_get(route, "addresses");
    json_t *hints = json_object_get(route, "hints"), *records = json_array(), *v;
    bool live = !json_is_true(json_object_get(route, "deleted"));
    size_t i;
    if (live && proxy && MT_STREQ(proxy, "v2") && mt_proxy_watch_suspect(c->ctl->proxies, id))
        json_array_append_new(hints, json_string("proxy_protocol_suspect"));
    if (!host || !live) {
        json_decref(records);
        return;
    }
    json_array_foreach(addresses, i, v) {
        struct in6_addr ignored;
        bool v4;
        if (read_address(json_string_value(v), &ignored, &v4))
            json_array_append_new(records, record(host, v4 ? "A" : "AAAA", v4 ? TTL_IPV4 : TTL_EDGES, json_string_value(v)));
    }
    if (c->ctl->conf.require_domain_proof && org)
        json_array_append_new(records, proof_record(c, org, host));
    json_object_set_new(route, "dns_records", records);
    if (json_array_size(addresses) > 0) /* else there is nothing to compare with */
        show_dns(c, route, host, addresses, hints);
}

/* Below the platform's domain each environment has one name, whoever owns the domain; first come first served where two organisations have apps and
 * environments of the same names. */
static int given_name(struct mt_api_call *c, const char *host)
{
    char own[MT_HOSTNAME_SIZE];
    if (mt_route_platform_name(c->app.name, c->env.name, c->ctl->conf.base_domain, own, &c->err) < 0)
        return mt_api_fail(c, 400, "hostname_invalid", "names below %s are given by the platform, and %s", c->ctl->conf.base_domain, c->err.msg);
    return MT_STREQ(host, own) ? 0 : mt_api_fail(c, 400, "hostname_invalid", "names below %s are given by the platform: that of this environment is %s", c->ctl->conf.base_domain, own);
}

int mt_api_route_name(struct mt_api_call *c, char hostname[MT_HOSTNAME_SIZE])
{
    if (hostname[0] || !c->ctl->conf.base_domain)
        return 0;
    return mt_route_platform_name(c->app.name, c->env.name, c->ctl->conf.base_domain, hostname, &c->err) < 0 ? mt_api_fail(c, 400, "hostname_invalid", "%s", c->err.msg) : 0;
}

int mt_api_route_proven(struct mt_api_call *c, const char *host)
{
    char proof[MT_PROOF_SIZE];
    if (c->ctl->conf.base_domain && mt_route_below(host, c->ctl->conf.base_domain))
        return given_name(c, host);
    if (!c->ctl->conf.require_domain_proof)
        return 0;
    mt_names_proof(c->ctl->cluster_id, c->org.id, proof);
    int rc = mt_names_proven(c->ctl->names, host, proof, &c->err);
    if (rc == 1)
        return 0;
    if (rc < 0) {
        c->problem.retry_after = 5;
        return mt_api_fail(c, 503, "unavailable", "%s", c->err.msg);
    }
    c->problem.details = json_pack("{s:[o]}", "dns_records", proof_record(c, c->org.id, host));
    return mt_api_fail(c, 409, "domain_not_proven",
                       "'%s' is not shown to be yours: make the TXT record " MT_PROOF_LABEL ".%s (or before a domain above it) with the text %s, then ask again",
                       host, host, proof);
}
