/* SPDX-License-Identifier: Apache-2.0 */
/* The pure parts of the control plane: addresses, route rules, node health, path matching, tokens, sentences. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/changes.h"
#include "control/api/call.h"
#include "control/api/cursor.h"
#include "control/api/dispatch.h"
#include "control/api/moment.h"
#include "control/auth/auth.h"
#include "control/commands/route.h"
#include "control/names/cache.h"
#include "control/names/proxy_watch.h"
#include "control/liveness.h"
#include "control/plans/address.h"
#include "control/plans/edge_acks.h"
#include "control/plans/sent.h"
#include "control/streams/event_json.h"
#include "model/json_patch.h"
#include "wire/json.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* main.c gives these to the library. */
bool mt_control_database_up(struct mt_control *ctl)
{
    (void)ctl;
    return true;
}

void mt_control_poke(struct mt_control *ctl)
{
    (void)ctl;
}

static void addresses_come_from_disjoint_parts_of_the_prefix(void **state)
{
    (void)state;
    char a[MT_ADDR_SIZE];
    struct mt_err err = {0};
    assert_int_equal(mt_addr_node("fd00:1:2::/48", 1, a, &err), 0);
    assert_string_equal(a, "fd00:1:2::1");
    assert_int_equal(mt_addr_node_prefix("fd00:1:2::/48", 1, a, &err), 0);
    assert_string_equal(a, "fd00:1:2:1:1::/80");
    assert_int_equal(mt_addr_instance("fd00:1:2:1:1::/80", 5, a, &err), 0);
    assert_string_equal(a, "fd00:1:2:1:1::5");
    assert_int_equal(mt_addr_instance("fd00:1:2:1:1::/80", (UINT64_C(1) << 48) - 1, a, &err), 0);
    assert_string_equal(a, "fd00:1:2:1:1:ffff:ffff:ffff");
    assert_int_equal(mt_addr_instance("fd00:1:2:1:1::/80", UINT64_C(1) << 48, a, &err), -MT_E_LIMIT);
    assert_int_equal(mt_addr_instance("fd00:1:2:1:1::/80", 0, a, &err), -MT_E_LIMIT);
    assert_int_equal(mt_addr_node("fd00:1:2::/48", 65536, a, &err), -MT_E_LIMIT);
    assert_int_equal(mt_addr_node("fd00:1:2::/64", 1, a, &err), -MT_E_INVALID);
    assert_int_equal(mt_addr_node("fd00:1:2::1/48", 1, a, &err), -MT_E_INVALID);
    assert_int_equal(mt_addr_node_prefix("fd00:1:2:ab00::/56", 2, a, &err), 0);
    assert_string_equal(a, "fd00:1:2:ab01:2::/80");
    static const struct {
        const char *route;
        bool inside;
    } rows[] = {{"fd00:1:2::/48", true}, {"fd00:1:2:9::/64", true}, {"fd00:1:2:ffff:ffff:ffff:ffff:ffff/128", true}, {"fd00:1:3::/48", false}, {"fd00:1:1:ffff::/64", false},
                {"fd00::/8", false}, {"fd00:1:2::/47", false}, {"2001:db8::/32", false}, {"8000::/1", false}};
    bool inside;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(mt_prefix_holds("fd00:1:2::/48", rows[i].route, &inside, &err), 0);
        assert_int_equal(inside, rows[i].inside);
    }
    static const char *const none[] = {"fd00:1:2::", "fd00:1:2::1/64", "::/0", "fd00::/129", "10.0.0.0/8", "", "fd00:1:2::/4x"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_int_equal(mt_prefix_holds("fd00:1:2::/48", none[i], &inside, &err), -MT_E_INVALID);
}

/* Of items with spaces between them. */
static void list_of(const char *items, char text[600], char *v[64], struct mt_conf_list *ret)
{
    *ret = (struct mt_conf_list){.v = v};
    (void)snprintf(text, 600, "%s", items);
    for (char *save, *t = strtok_r(text, " ", &save); t; t = strtok_r(NULL, " ", &save))
        v[ret->n++] = t;
}

/* As the table of keys has it by default, but for what is given. */
static int policy_of(const char *raw, const char *tls, const char *denied, struct mt_port_policy *ret, struct mt_err *err)
{
    struct mt_conf_list l[3];
    char text[3][600], *v[3][64];
    list_of(raw ? raw : "10000-29999", text[0], v[0], &l[0]);
    list_of(tls ? tls : "1024-9999 30000-65535", text[1], v[1], &l[1]);
    list_of(denied ? denied : "", text[2], v[2], &l[2]);
    return mt_port_policy_read(&l[0], &l[1], &l[2], ret, err);
}

static void ports_are_of_one_kind_and_some_are_nobodys(void **state)
{
    (void)state;
    static struct mt_port_policy p;
    struct mt_err err = {0};
    assert_int_equal(policy_of(NULL, NULL, NULL, &p, &err), 0);
    assert_string_equal(p.shared_pool, "{[10000,10249],[10251,29999]}"); /* 10250 is never given */
    assert_int_equal(p.shared_pool_n, 19999);
    assert_true(mt_port_in(&p.shared_raw, 10000) && mt_port_in(&p.shared_raw, 29999) && !mt_port_in(&p.shared_raw, 30000) && mt_port_in(&p.tls, 65535));
    assert_true(mt_port_denied(&p, 25) && mt_port_denied(&p, 10250) && !mt_port_denied(&p, 24));
    assert_int_equal(policy_of("20000-20009 65535", "", "20002 20005-20006", &p, &err), 0);
    assert_string_equal(p.shared_pool, "{[20000,20001],[20003,20004],[20007,20009],[65535,65535]}");
    assert_int_equal(p.shared_pool_n, 8);
    static const char *const bad[][3] = {{"0", NULL, NULL},          {"65536", NULL, NULL},        {"5-4", NULL, NULL},         {"-5", NULL, NULL},
                                         {"5-", NULL, NULL},         {"1e3", NULL, NULL},          {"10000-29999x", NULL, NULL}, {"443", NULL, NULL},
                                         {"80-90", NULL, NULL},      {"9000-12000", NULL, NULL},   {NULL, "80", NULL},          {NULL, "29999-30000", NULL},
                                         {NULL, NULL, "443"},        {NULL, NULL, "x"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(policy_of(bad[i][0], bad[i][1], bad[i][2], &p, &err), -MT_E_INVALID);
        assert_non_null(strstr(err.msg, "port_policy."));
    }
    char many[600] = "";
    for (int i = 0; i < MT_PORT_RANGES; i++)
        (void)snprintf(many + strlen(many), sizeof many - strlen(many), "%d ", 50001 + 2 * i);
    assert_int_equal(policy_of(many, "", NULL, &p, &err), 0);
    assert_int_equal(p.shared_pool_n, MT_PORT_RANGES);
    (void)snprintf(many + strlen(many), sizeof many - strlen(many), "60000");
    assert_int_equal(policy_of(many, "", NULL, &p, &err), -MT_E_INVALID);
}

static void vms_are_given_name_servers_that_they_can_ask(void **state)
{
    (void)state;
    static const char *const good[] = {"2606:4700:4700::1111", "2001:4860:4860::8888", "64:ff9b::808:808", "2a00:1:2::53"};
    static const char *const bad[] = {"", "9.9.9.9", "2606:4700:4700::1111/64", "fd00:ec2::53", "fe80::1", "::1", "::ffff:8.8.8.8", "ff02::fb", "2001:db8::53", "2002:808:808::1", "64:ff9b::a00:1", "dns.example.net"};
    struct mt_err err;
    for (size_t i = 0; i < MT_ARRAY_LEN(good); i++)
        assert_int_equal(mt_addr_dns_check(good[i], "fd00:1:2::/48", &err), 0);
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_int_equal(mt_addr_dns_check(bad[i], "fd00:1:2::/48", &err), -MT_E_INVALID);
    /* a public prefix is the cluster's all the same, to the bit */
    assert_int_equal(mt_addr_dns_check("2a00:1:2:2::53", "2a00:1:2::/48", &err), -MT_E_INVALID);
    assert_non_null(strstr(err.msg, "of the cluster"));
    assert_int_equal(mt_addr_dns_check("2a00:1:0:2::53", "2a00:1::/44", &err), -MT_E_INVALID);
    assert_int_equal(mt_addr_dns_check("2a00:1:f:2::53", "2a00:1::/44", &err), -MT_E_INVALID);
    assert_int_equal(mt_addr_dns_check("2a00:1:10:2::53", "2a00:1::/44", &err), 0);
    assert_int_equal(mt_addr_dns_check("2a00:1:3:2::53", NULL, &err), 0);
}

static void route_rules_name_their_code(void **state)
{
    (void)state;
    static struct mt_port_policy ports;
    assert_int_equal(policy_of(NULL, NULL, NULL, &ports, NULL), 0);
    static const struct {
        const char *host, *protocol, *proxy;
        int64_t port;
        bool expects, ipv4;
        const char *code; /* NULL: fine */
        bool has_ipv4;
    } t[] = {
        {"a.example.com", "tls_passthrough", "off", 443, false, false, NULL},
        {"a.example.com", "tls_passthrough", "off", 8443, false, false, NULL},
        {"a.example.com", "tls_passthrough", "off", 80, false, false, "port_not_allowed"},
        {"a.example.com", "tls_passthrough", "off", 10000, false, false, "port_not_allowed"},
        {"a.example.com", "tls_passthrough", "off", 5180, false, false, "port_not_allowed"},
        {"", "tls_passthrough", "off", 443, false, false, "hostname_invalid"},
        {"*.example.com", "tls_passthrough", "off", 443, false, false, "hostname_invalid"},
        {"a.example.com", "tls_passthrough", "v2", 443, false, false, "invalid_argument"},
        {"a.example.com", "tls_passthrough", "v2", 443, true, false, NULL},
        {"", "tcp_raw", "off", 10000, false, false, NULL},
        {"", "tcp_raw", "off", 9999, false, false, "port_not_allowed"},
        {"", "tcp_raw", "off", 30000, false, false, "port_not_allowed"},
        {"", "tcp_raw", "off", 10250, false, false, "port_not_allowed"},
        {"", "tcp_raw", "off", 10000, false, true, "ipv4_not_enabled"},
        {"a.example.com", "tls_passthrough", "off", 443, false, true, "ipv4_not_enabled"},
        {"a.example.com", "tls_passthrough", "off", 443, false, true, NULL, true},
        {"a.example.com", "tls_passthrough", "off", 80, false, true, "port_not_allowed", true},
        {"", "tcp_raw", "off", 80, false, true, NULL, true},
        {"", "tcp_raw", "off", 22, false, true, NULL, true},
        {"", "tcp_raw", "off", 22, false, false, "port_not_allowed", true},
        {"", "tcp_raw", "off", 25, false, true, "port_not_allowed", true},
        {"", "tcp_raw", "off", 51820, false, true, "port_not_allowed", true},
        {"", "udp", "off", 10000, false, false, "invalid_argument"},
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_route_spec s = {.listen_port = t[i].port, .protocol = t[i].protocol, .backend_process_type = "web",
                                  .backend_port = 1, .proxy_protocol = t[i].proxy,
                                  .backend_expects_proxy_protocol = t[i].expects, .ipv4_required = t[i].ipv4, .has_ipv4 = t[i].has_ipv4,
                                  .balance = "round_robin"};
        struct mt_err err = {0};
        const char *code = NULL;
        snprintf(s.hostname, sizeof s.hostname, "%s", t[i].host);
        int rc = mt_route_check(&s, &ports, &code, &err);
        if (!t[i].code)
            assert_int_equal(rc, 0);
        else
            assert_string_equal(rc < 0 ? code : "accepted", t[i].code);
    }
}

static void options_of_a_listener_are_for_names_on_an_address_of_ones_own(void **state)
{
    (void)state;
    static struct mt_port_policy ports;
    assert_int_equal(policy_of(NULL, NULL, NULL, &ports, NULL), 0);
    static const struct {
        const char *protocol, *min;
        bool ipv4, is_default, allow, fine;
    } t[] = {
        {"tls_passthrough", NULL, true, true, false, true},   {"tls_passthrough", NULL, true, false, true, true},
        {"tls_passthrough", NULL, true, true, true, true},    {"tls_passthrough", "1.2", true, true, false, true},
        {"tls_passthrough", NULL, false, true, false, false}, {"tls_passthrough", NULL, false, false, true, false},
        {"tls_passthrough", "1.2", true, false, true, false}, {"tcp_raw", NULL, true, true, false, false},
        {"tcp_raw", NULL, true, false, true, false},
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_route_spec s = {.hostname = "a.example.com", .listen_port = 443, .protocol = t[i].protocol, .backend_process_type = "web", .backend_port = 1,
                                  .proxy_protocol = "off", .ipv4_required = t[i].ipv4, .has_ipv4 = true, .balance = "round_robin", .min_tls_version = t[i].min,
                                  .default_for_listener = t[i].is_default, .allow_non_tls = t[i].allow};
        struct mt_err err = {0};
        const char *code = NULL;
        assert_int_equal(mt_route_check(&s, &ports, &code, &err) == 0, t[i].fine);
        if (!t[i].fine) {
            assert_string_equal(code, "invalid_argument");
            continue;
        }
        json_t *p = mt_route_payload(&s, "api"), *o = json_object_get(p, "options");
        assert_int_equal(json_is_true(json_object_get(o, "default_for_listener")), t[i].is_default);
        assert_int_equal(json_is_true(json_object_get(o, "allow_non_tls")), t[i].allow);
        json_decref(p);
    }
}

static void a_name_is_asked_for_once_in_five_minutes_and_later_when_nobody_answers(void **state)
{
    (void)state;
    const int64_t s = MT_NS_PER_S;
    struct mt_names_cache *c = mt_names_cache_new();
    struct mt_names_seen seen, got = {.known = true, .n = 1, .at_us = 7};
    char host[MT_NAMES_HOST];
    assert_non_null(c);
    assert_true(mt_names_cache_look(c, "a.example.com", s, &seen));
    assert_false(seen.known);
    assert_false(mt_names_cache_look(c, "a.example.com", 2 * s, &seen)); /* it waits already */
    assert_true(mt_names_cache_next(c, host));
    assert_string_equal(host, "a.example.com");
    assert_false(mt_names_cache_look(c, "a.example.com", 900 * s, &seen)); /* it is being asked */
    assert_false(mt_names_cache_next(c, host));
    mt_names_cache_put(c, "a.example.com", &got, 10 * s);
    assert_false(mt_names_cache_look(c, "a.example.com", 309 * s, &seen));
    assert_true(seen.known && seen.n == 1 && seen.at_us == 7);
    assert_true(mt_names_cache_look(c, "a.example.com", 310 * s, &seen));
    int64_t now = 310 * s;
    static const int waits[] = {300, 600, 1200, 2400, 3600, 3600};
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) { /* what was known stays meanwhile */
        assert_true(mt_names_cache_next(c, host));
        mt_names_cache_put(c, host, NULL, now);
        assert_false(mt_names_cache_look(c, host, now + waits[i] * s - 1, &seen));
        assert_true(seen.known);
        assert_true(mt_names_cache_look(c, host, now += waits[i] * s, &seen));
    }
    /* Bounded: of very many some are forgotten, and of what waits there is an end. */
    size_t taken = 0;
    for (int i = 0; i < 20000; i++) {
        (void)snprintf(host, sizeof host, "n%d.example.com", i);
        taken += mt_names_cache_look(c, host, now, &seen);
    }
    assert_in_range(taken, 500, 512);
    for (size_t i = 0; i < taken + 1; i++)
        assert_true(mt_names_cache_next(c, host));
    assert_false(mt_names_cache_next(c, host));
    mt_names_cache_free(c);
}

static void a_backend_that_drops_half_of_a_minutes_connections_is_suspect(void **state)
{
    (void)state;
    const int64_t s = MT_NS_PER_S;
    struct mt_proxy_watch *w = mt_proxy_watch_new();
    assert_non_null(w);
    mt_proxy_watch_note(w, "e1", "rt", 100, 100, 1 * s); /* before anybody looked */
    mt_proxy_watch_note(w, "e1", "rt", 110, 110, 60 * s);
    assert_false(mt_proxy_watch_suspect(w, "rt")); /* not a minute yet */
    mt_proxy_watch_note(w, "e1", "rt", 120, 110, 61 * s);
    assert_false(mt_proxy_watch_suspect(w, "rt")); /* ten of twenty is half */
    mt_proxy_watch_note(w, "e1", "rt", 120, 110, 130 * s);
    mt_proxy_watch_note(w, "e1", "rt", 123, 112, 195 * s);
    assert_true(mt_proxy_watch_suspect(w, "rt"));
    assert_false(mt_proxy_watch_suspect(w, "rt2"));
    mt_proxy_watch_note(w, "e2", "rt", 5, 0, 196 * s);
    mt_proxy_watch_note(w, "e2", "rt", 50, 0, 260 * s);
    mt_proxy_watch_note(w, "e1", "rt", 123, 112, 260 * s); /* a minute without connections says nothing */
    assert_true(mt_proxy_watch_suspect(w, "rt"));
    mt_proxy_watch_note(w, "e1", "rt", 1, 1, 270 * s); /* the edge began anew */
    assert_true(mt_proxy_watch_suspect(w, "rt"));
    mt_proxy_watch_note(w, "e1", "rt", 9, 1, 331 * s);
    assert_false(mt_proxy_watch_suspect(w, "rt"));
    mt_proxy_watch_free(w);
}

static void node_health_follows_silence_conditions_and_guards(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        int64_t silence_s;
        bool conditions, passing, may_offline;
        unsigned clean;
        const char *to;
    } t[] = {
        {"ready", 1, false, false, true, 1, "ready"},        {"ready", 20, false, false, true, 9, "suspect"},
        {"suspect", 60, false, false, true, 9, "offline"},   {"suspect", 60, false, false, false, 9, "suspect"},
        {"offline", 25, false, false, true, 0, "offline"},   {"offline", 1, false, false, true, 1, "offline"},
        {"offline", 1, false, false, true, 3, "ready"},      {"suspect", 1, false, false, true, 2, "suspect"},
        {"suspect", 1, false, false, true, 3, "ready"},      {"ready", 1, true, false, true, 0, "degraded"},
        {"degraded", 1, false, false, true, 2, "degraded"},  {"degraded", 1, false, false, true, 3, "ready"},
        {"degraded", 1, false, true, true, 1, "ready"},      {"lost", 1, false, false, true, 9, "lost"},
        {"suspect", 1, true, false, true, 0, "degraded"},    {"degraded", 1, false, true, true, 0, "degraded"},
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_liveness_facts f = {.health = t[i].from, .silence_ms = t[i].silence_s * 1000, .conditions = t[i].conditions,
                                      .clean = t[i].clean, .was_passing = t[i].passing, .may_offline = t[i].may_offline,
                                      .suspect_ms = 20000, .offline_ms = 60000};
        assert_string_equal(mt_liveness_health(&f), t[i].to);
    }
}

static void the_guard_sees_the_nodes_that_are_about_to_follow(void **state)
{
    (void)state;
    static const struct {
        struct mt_liveness_silence nodes[5];
        size_t n;
        bool held;
    } t[] = {
        /* our own network is down: heartbeats ended up to 5 s apart, the first is over the limit alone */
        {{{"suspect", 60000}, {"suspect", 58000}, {"suspect", 56500}, {"suspect", 55100}}, 4, true},
        {{{"suspect", 60000}, {"ready", 1000}, {"ready", 900}, {"ready", 4000}}, 4, false},
        {{{"suspect", 60000}, {"suspect", 59000}, {"ready", 900}, {"ready", 4000}}, 4, false}, /* half is not more than half */
        {{{"suspect", 60000}, {"suspect", 21000}, {"ready", 900}}, 3, true},
        {{{"suspect", 60000}}, 1, false},                                                   /* at least two */
        {{{"offline", 90000}, {"suspect", 60000}, {"ready", 0}}, 3, true},                   /* one after the other, within 120 s */
        {{{"offline", 181000}, {"suspect", 60000}, {"ready", 0}, {"ready", 0}}, 4, false},   /* an old loss and a new one */
        {{{"offline", 9000000}, {"offline", 9000000}, {"suspect", 60000}, {"suspect", 57000}, {"ready", 0}}, 5, true},
        {{{"lost", 60000}, {"lost", 60000}, {"suspect", 60000}, {"ready", 0}}, 4, false},
        {{{"offline", 1000}, {"suspect", 60000}, {"ready", 0}}, 3, false},                   /* the first speaks again */
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        if (mt_liveness_mass(t[i].nodes, t[i].n, 20000, 60000) != t[i].held)
            fail_msg("row %zu: the guard %s", i, t[i].held ? "lets go" : "holds");
    /* a long limit: who has more than 120 s left would not follow within them */
    static const struct mt_liveness_silence slow[] = {{"suspect", 600000}, {"suspect", 30000}, {"ready", 0}};
    assert_false(mt_liveness_mass(slow, 3, 20000, 600000));
}

static void paths_match_whole_and_ids_stay_ids(void **state)
{
    (void)state;
    struct mt_api_call c = {0};
    assert_true(mt_api_match("/v1/orgs/{org_id}/apps/{app_id}", "/v1/orgs/org_1/apps/app_2", &c));
    assert_string_equal(mt_api_param(&c, "org_id"), "org_1");
    assert_string_equal(mt_api_param(&c, "app_id"), "app_2");
    assert_false(mt_api_match("/v1/orgs/{org_id}", "/v1/orgs/", &c));
    assert_false(mt_api_match("/v1/orgs/{org_id}", "/v1/orgs/a/b", &c));
    assert_false(mt_api_match("/v1/orgs/{org_id}", "/v1/orgs/a~b", &c));
    assert_false(mt_api_match("/v1/orgs", "/v1/orgs/", &c));
    char big[300] = "/v1/orgs/";
    size_t most = sizeof c.param[0].value - 1;
    memset(big + 9, 'a', most);
    assert_true(mt_api_match("/v1/orgs/{org_id}", big, &c));
    assert_int_equal(strlen(mt_api_param(&c, "org_id")), most);
    big[9 + most] = 'a';
    assert_false(mt_api_match("/v1/orgs/{org_id}", big, &c));
}

static void every_route_has_a_known_scope_and_a_handler(void **state)
{
    (void)state;
    size_t n = 0;
    for (const struct mt_api_route *r = mt_api_routes; r->method; r++, n++) {
        assert_non_null(r->handle);
        assert_non_null(r->summary);
        for (const char *s = r->scope ? r->scope : ""; *s; s += strcspn(s, "|"), s += *s == '|') { /* each name of "a|b" */
            char one[64];
            (void)snprintf(one, sizeof one, "%.*s", (int)strcspn(s, "|"), s);
            assert_true(mt_scope_bit(one) != 0);
            assert_true((mt_scope_any(r->scope) & mt_scope_bit(one)) != 0);
        }
        if (r->flags & MT_API_MUTATES)
            assert_true(r->flags & MT_API_BODY);
    }
    assert_true(n > 40);
}

static void an_unchanged_plan_is_sent_once_and_again_to_who_is_behind(void **state)
{
    (void)state;
    struct mt_plans *p = mt_plans_new();
    bool first = mt_plans_unchanged(p, "n", "f", 9);
    mt_plans_sent(p, "n", "f", 10);
    bool same = mt_plans_unchanged(p, "n", "f", 10), behind = mt_plans_unchanged(p, "n", "f", 9);
    bool changed = mt_plans_unchanged(p, "n", "g", 10), other = mt_plans_unchanged(p, "m", "f", 10);
    bool s1 = mt_plans_seq(p, "i", 5), s2 = mt_plans_seq(p, "i", 5), s3 = mt_plans_seq(p, "i", 4), s4 = mt_plans_seq(p, "i", 6);
    mt_plans_seq_undo(p, "i");
    bool s5 = mt_plans_seq(p, "i", 6);
    mt_plans_free(p);
    assert_false(first);
    assert_true(same);
    assert_false(behind);
    assert_false(changed);
    assert_false(other);
    assert_true(s1 && !s2 && !s3 && s4 && s5);
}

static void a_drain_is_cut_only_when_every_edge_has_the_revision(void **state)
{
    (void)state;
    struct mt_edges *e = mt_edges_new();
    const char *both[] = {"node_a", "node_b"};
    bool none = mt_edges_all_at(e, both, 0, 1), unknown = mt_edges_all_at(e, both, 2, 1);
    mt_edges_note(e, "node_a", 10, 1);
    bool half = mt_edges_all_at(e, both, 2, 10);
    mt_edges_note(e, "node_b", 9, 1);
    bool old = mt_edges_all_at(e, both, 2, 10);
    mt_edges_note(e, "node_b", 11, 2);
    bool all = mt_edges_all_at(e, both, 2, 10);
    int64_t best = mt_edges_best(e, 3), stale = mt_edges_best(e, INT64_C(60000000000));
    mt_edges_free(e);
    assert_false(none || unknown || half || old);
    assert_true(all);
    assert_int_equal(best, 11);
    assert_int_equal(stale, 0);
}

static void events_read_as_sentences(void **state)
{
    (void)state;
    char s[200];
    mt_event_summary("instance.status_changed", "inst_1", "{\"status\":\"failed\",\"reason_code\":\"oom_killed\"}", s, sizeof s);
    assert_string_equal(s, "instance inst_1 is failed: oom_killed");
    mt_event_summary("app.created", "app_1", "{\"name\":\"x\"}", s, sizeof s);
    assert_string_equal(s, "app 'x' is made");
    static const struct {
        const char *type, *payload, *want;
    } said[] = {
        {"env.scale_set", "{\"scales\":[{\"process_type\":\"web\",\"desired\":3},{\"process_type\":\"worker\",\"desired\":0}]}", "replicas wanted: web=3, worker=0"},
        {"env.restart_requested", "{\"process_types\":[\"web\",\"worker\"]}", "a rolling restart is asked for: web, worker"},
        {"instance.status_changed", "{\"status\":\"ready\"}", "instance x is ready"},
        {"instance.status_changed", "{\"status\":\"failed\",\"status_detail\":\"backoff\",\"reason_code\":\"oom_killed\",\"reason_detail\":\"d\"}",
         "instance x is failed, backoff: oom_killed/d"},
        {"deploy.status_changed", "{\"status\":\"failed\",\"failed_reason\":\"\",\"message\":\"m\"}", "deploy x is failed - m"},
        {"app.updated", "{\"name\":\"shop\",\"description\":null}", "app x changed: name, description, its name is now 'shop'"},
        {"app.updated", "{\"description\":null}", "app x changed: description"},
        {"node.config_set", "{\"changed\":{\"rate\":5,\"mtu\":1400},\"previous\":{},\"reason\":\"slow\"}", "node x has new settings (rate, mtu): slow"},
        {"cluster.config_set", "{\"key\":\"mtu\",\"value\":1400,\"reason\":\"vpn\"}", "cluster setting mtu is 1400: vpn"},
        {"cluster.epoch_bumped", "{\"epoch\":2,\"reason\":\"node x is ahead\"}",
         "the log was restored to an older point, epoch 2 begins: node x is ahead"},
        {"cluster.recovery_finished", "{\"epoch\":2,\"reason\":\"done\"}", "recovery of epoch 2 is finished: done"},
        {"route.deleted", "[1]", "route : is removed"}, /* no payload of ours; said without falling over */
    };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        mt_event_summary(said[i].type, "x", said[i].payload, s, sizeof s);
        assert_string_equal(s, said[i].want);
    }
    char small[32];
    mt_event_summary("app.created", "x", "{\"name\":\"\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\"}", small, sizeof small);
    assert_true(mt_utf8_valid(small, strlen(small)) && strlen(small) >= 28);
    mt_event_summary("unknown.thing_happened", "a", "not json", s, sizeof s);
    assert_string_equal(s, "unknown a: thing happened");
}

/* a field is for whom its schema says; what somebody did himself he may always see (control-plane.md §11.1) */
static void fields_are_for_those_who_may_see_them(void **state)
{
    (void)state;
    const struct mt_event_eyes other = {MT_SEE_TENANT, "usr_b"}, self = {MT_SEE_TENANT, "usr_a"}, audit = {MT_SEE_AUDIT, NULL};
    assert_int_equal(mt_event_see(&other, "usr_a"), MT_SEE_TENANT);
    assert_int_equal(mt_event_see(&self, "usr_a"), MT_SEE_AUDIT);
    assert_int_equal(mt_event_see(&audit, "usr_a"), MT_SEE_AUDIT);
    assert_true(mt_ev_hides(MT_EV_EXEC_SESSION_CONNECTED));
    assert_false(mt_ev_hides(MT_EV_APP_CREATED));
    struct mt_buf b = MT_BUF_INIT(4096);
    static const char payload[] = "{\"instance_id\":\"inst_1\",\"source_ip\":\"192.0.2.1\"}";
    mt_event_payload(&b, "exec_session.connected", payload, MT_SEE_TENANT);
    assert_string_equal(mt_buf_cstr(&b), "{\"instance_id\":\"inst_1\"}");
    b.len = 0;
    mt_event_payload(&b, "exec_session.connected", payload, MT_SEE_AUDIT);
    assert_string_equal(mt_buf_cstr(&b), payload);
    b.len = 0;
    mt_event_payload(&b, "app.created", "{\"name\":\"x\"}", MT_SEE_TENANT);
    assert_string_equal(mt_buf_cstr(&b), "{\"name\":\"x\"}");
    b.len = 0;
    mt_event_payload(&b, "exec_session.connected", "broken", MT_SEE_TENANT);
    assert_string_equal(mt_buf_cstr(&b), "{}");
    mt_buf_done(&b);
}

static void a_cursor_reads_back_for_its_own_list_only(void **state)
{
    (void)state;
    char cursor[MT_CURSOR_SIZE], id[MT_ID_SIZE];
    static const char key[] = "/v1/orgs desc\nname=a";
    assert_true(mt_cursor_make("org_01m8hpd6h199cvdfqbmawvq2h9", key, cursor));
    assert_true(mt_cursor_read(cursor, key, id));
    assert_string_equal(id, "org_01m8hpd6h199cvdfqbmawvq2h9");
    assert_false(mt_cursor_read(cursor, "/v1/orgs asc\nname=a", id));
    assert_false(mt_cursor_read(cursor, "/v1/orgs desc\nname=b", id));
    assert_false(mt_cursor_make("org_'; DROP", key, cursor));
    assert_false(mt_cursor_make("", key, cursor));
    assert_false(mt_cursor_read("", key, id));
    assert_false(mt_cursor_read("====", key, id));
    for (size_t i = 0; cursor[i]; i++) { /* any one letter changed */
        char other[MT_CURSOR_SIZE];
        memcpy(other, cursor, sizeof other);
        other[i] = other[i] == 'A' ? 'B' : 'A';
        bool same_list = mt_cursor_read(other, key, id); /* then it names another place in the same list, no more */
        assert_true(!same_list || strlen(id) == strlen("org_01m8hpd6h199cvdfqbmawvq2h9"));
    }
}

static void a_span_before_now_is_read_whole_or_not_at_all(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds; /* -1: refused */
    } spans[] = {{"2h", 7200}, {"1h30m", 5400}, {"0s", 0}, {"1w1d", 691200}, {"90m10s", 5410}, {"", -1}, {"2", -1}, {"h", -1}, {"2H", -1}, {"2h ", -1},
                 {" 2h", -1}, {"-2h", -1}, {"+2h", -1}, {"2.5h", -1}, {"12345678s", -1}, {"9999999w", -1}, {"200000d", -1}, {"2h\n", -1}, {"2hh", -1}};
    (void)state;
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        struct mt_err err = {0};
        int64_t us = -7;
        int r = mt_moment_ago(spans[i].text, &us, &err);
        assert_int_equal(r < 0, spans[i].seconds < 0);
        assert_int_equal(us, spans[i].seconds < 0 ? -7 : spans[i].seconds * 1000000);
    }
    uint32_t x = 1;
    for (int n = 0; n < 20000; n++) { /* any text: an answer, and within its bounds */
        static const char some[] = "0123456789smhdw-+. ";
        char text[24];
        struct mt_err err = {0};
        int64_t us = 0;
        size_t len = x % sizeof text;
        for (size_t i = 0; i < len; i++)
            text[i] = some[(x = x * 1664525 + 1013904223) >> 8 & 15];
        text[len ? len - 1 : 0] = 0;
        x += 7;
        if (mt_moment_ago(text, &us, &err) == 0)
            assert_in_range(us, 0, INT64_C(200) * 366 * 86400 * 1000000);
    }
}

static void patches_name_the_smallest_steps(void **state)
{
    static const struct {
        const char *from, *to, *patch;
    } cases[] = {
        {"{\"a\":1}", "{\"a\":1}", "[]"},
        {"null", "{\"a\":1}", "[{\"op\":\"replace\",\"path\":\"\",\"value\":{\"a\":1}}]"},
        {"{\"a/b\":1,\"c~\":2}", "{\"a/b\":2,\"d\":null}",
         "[{\"op\":\"remove\",\"path\":\"/c~0\"},{\"op\":\"replace\",\"path\":\"/a~1b\",\"value\":2},{\"op\":\"add\",\"path\":\"/d\",\"value\":null}]"},
        {"{\"l\":[1,2]}", "{\"l\":[2]}", "[{\"op\":\"replace\",\"path\":\"/l\",\"value\":[2]}]"},
        {"[{\"id\":\"a\",\"n\":1},{\"id\":\"b\"},{\"id\":\"c\"}]", "[{\"id\":\"c\"},{\"id\":\"a\",\"n\":2},{\"id\":\"d\"}]",
         "[{\"op\":\"remove\",\"path\":\"/1\"},{\"op\":\"move\",\"path\":\"/0\",\"from\":\"/1\"},{\"op\":\"replace\",\"path\":\"/1/n\",\"value\":2},"
         "{\"op\":\"add\",\"path\":\"/2\",\"value\":{\"id\":\"d\"}}]"},
        {"[{\"id\":\"a\"},{\"id\":\"a\"}]", "[{\"id\":\"a\"}]", "[{\"op\":\"replace\",\"path\":\"\",\"value\":[{\"id\":\"a\"}]}]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mt_auto_json json_t *from = json_loads(cases[i].from, JSON_DECODE_ANY, NULL), *to = json_loads(cases[i].to, JSON_DECODE_ANY, NULL);
        mt_auto_json json_t *want = json_loads(cases[i].patch, 0, NULL), *got = mt_json_patch(from, to);
        assert_non_null(want);
        assert_true(json_equal(want, got));
    }
}

static void an_instance_that_ended_says_why(void **state)
{
    (void)state;
    mt_auto_json json_t *before = json_loads("{\"instances\":[{\"id\":\"inst_1\",\"status\":\"ready\"},{\"id\":\"inst_2\",\"status\":\"stopped\"}]}", 0, NULL);
    mt_auto_json json_t *rows = json_loads(
        "[{\"id\":\"inst_1\",\"env_id\":\"env_1\",\"where\":\"shop/prod\",\"process_type\":\"web\",\"born\":false,\"status\":\"stopped\",\"released\":true,"
        "\"reason\":\"replaced\",\"at\":\"2026-01-01T00:00:00.000000Z\"},"
        "{\"id\":\"inst_2\",\"env_id\":\"env_1\",\"where\":\"\",\"process_type\":\"web\",\"born\":false,\"status\":\"stopped\",\"released\":true},"
        "{\"id\":\"inst_3\",\"env_id\":\"env_1\",\"where\":\"\",\"process_type\":\"web\",\"born\":true,\"release_number\":3,\"status\":\"stopped\",\"released\":false,"
        "\"reason_code\":\"workload_exited\",\"exit_code\":7}]", 0, NULL);
    mt_auto_json json_t *out = json_array();
    assert_int_equal(mt_changes_instances(out, before, rows), 0);
    assert_int_equal(json_array_size(out), 3); /* the second had ended before */
    assert_string_equal(json_string_value(json_object_get(json_array_get(out, 0), "text")), "shop/prod: web inst_1 ended: a newer instance took its place");
    assert_string_equal(json_string_value(json_object_get(json_array_get(out, 1), "text")), "web inst_3 started, release v3");
    assert_string_equal(json_string_value(json_object_get(json_array_get(out, 2), "text")),
                        "web inst_3 ended: the process ended with a non-zero exit code, exit code 7");
}

static void a_failure_below_a_handler_has_its_status(void **state)
{
    (void)state;
    static const struct {
        enum mt_code code;
        int status;
        const char *name;
        bool again; /* said to be worth another try by Retry-After */
    } rows[] = {{MT_E_CONFLICT, 409, "conflict", true},          {MT_E_UNAVAILABLE, 503, "database_unavailable", true},
                {MT_E_TIMEOUT, 503, "database_unavailable", true}, {MT_E_LIMIT, 503, "unavailable", true},
                {MT_E_INVALID, 400, "invalid_argument", false},   {MT_E_IO, 500, "internal", false},
                {MT_E_NOMEM, 500, "internal", false},             {MT_E_CORRUPT, 500, "internal", false}};
    for (unsigned i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct mt_api_call c = {.request_id = "r"};
        (void)MT_FAIL(&c.err, rows[i].code, "duplicate key value violates unique constraint \"of_the_database\"");
        assert_int_equal(mt_api_fail_err(&c), -1);
        assert_int_equal(c.problem.status, rows[i].status);
        assert_string_equal(c.problem.code, rows[i].name);
        assert_int_equal(c.problem.retry_after > 0, rows[i].again);
        if (rows[i].code != MT_E_INVALID && rows[i].code != MT_E_LIMIT)
            assert_null(strstr(c.problem.detail, "of_the_database"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_below_a_handler_has_its_status),
        cmocka_unit_test(addresses_come_from_disjoint_parts_of_the_prefix),
        cmocka_unit_test(ports_are_of_one_kind_and_some_are_nobodys),
        cmocka_unit_test(a_name_is_asked_for_once_in_five_minutes_and_later_when_nobody_answers),
        cmocka_unit_test(a_backend_that_drops_half_of_a_minutes_connections_is_suspect),
        cmocka_unit_test(vms_are_given_name_servers_that_they_can_ask),
        cmocka_unit_test(route_rules_name_their_code),
        cmocka_unit_test(options_of_a_listener_are_for_names_on_an_address_of_ones_own),
        cmocka_unit_test(node_health_follows_silence_conditions_and_guards),
        cmocka_unit_test(the_guard_sees_the_nodes_that_are_about_to_follow),
        cmocka_unit_test(paths_match_whole_and_ids_stay_ids),
        cmocka_unit_test(every_route_has_a_known_scope_and_a_handler),
        cmocka_unit_test(an_unchanged_plan_is_sent_once_and_again_to_who_is_behind),
        cmocka_unit_test(a_drain_is_cut_only_when_every_edge_has_the_revision),
        cmocka_unit_test(events_read_as_sentences),
        cmocka_unit_test(fields_are_for_those_who_may_see_them),
        cmocka_unit_test(a_cursor_reads_back_for_its_own_list_only),
        cmocka_unit_test(a_span_before_now_is_read_whole_or_not_at_all),
        cmocka_unit_test(patches_name_the_smallest_steps),
        cmocka_unit_test(an_instance_that_ended_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
