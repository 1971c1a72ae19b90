/* SPDX-License-Identifier: Apache-2.0 */
/* Routing table, snapshot and static file: look-ups, refusals, what a new version takes over from the old one. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/str.h"
#include "edge/conn.h"
#include "edge/snapshot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

#define HEAD "{\"format\":1,\"cluster_id\":\"cl_1\",\"epoch\":1,\"revision\":7,"
#define L443 "{\"protocol\":\"tls_passthrough\",\"port\":443}"
#define ROUTE(id, name) \
    "{\"route_id\":\"" id "\",\"env_id\":\"env_1\",\"protocol\":\"tls_passthrough\",\"hostname\":\"" name "\",\"listen_port\":443}"
#define BACKEND(i, ip, port) "{\"instance_id\":\"" i "\",\"address\":\"" ip "\",\"port\":" port "}"

static struct mt_edge_table *must(const char *text)
{
    struct mt_edge_table *t = NULL;
    struct mt_err err = {0};
    if (mt_edge_snapshot_parse(text, strlen(text), &t, &err) < 0)
        fail_msg("%s: %s", text, err.msg);
    return t;
}

static mt_edge_key key443(void)
{
    return mt_edge_key_of(MT_EDGE_TLS, MT_EDGE_SHARED6, (struct in_addr){0}, 443);
}

static struct mt_edge_route *find(const struct mt_edge_table *t, const char *name)
{
    return mt_edge_table_find(t, key443(), name, strlen(name));
}

static void names_are_found_exactly_and_only_on_their_listener(void **state)
{
    (void)state;
    struct mt_edge_table *t = must(HEAD "\"listeners\":[" L443 ",{\"protocol\":\"tls_passthrough\",\"port\":8443}],\"routes\":["
                                   ROUTE("rt_a", "a.example.com") "," ROUTE("rt_b", "b.example.com") "],\"backends\":{}}");
    assert_int_equal(t->revision, 7);
    assert_string_equal(find(t, "a.example.com")->route_id, "rt_a");
    assert_string_equal(find(t, "b.example.com")->route_id, "rt_b");
    assert_null(find(t, "a.example.co"));
    assert_null(find(t, "a.example.com.x"));
    assert_null(find(t, ""));
    mt_edge_key other = mt_edge_key_of(MT_EDGE_TLS, MT_EDGE_SHARED6, (struct in_addr){0}, 8443);
    assert_null(mt_edge_table_find(t, other, "a.example.com", 13));
    mt_edge_table_free(t);
}

static void ten_thousand_names_are_all_found(void **state)
{
    (void)state;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1 << 24);
    for (unsigned i = 0; i < 10000; i++)
        mt_buf_printf(&b, "h%u.example.com 2001:db8::1 %u\n", i, i + 1);
    struct mt_edge_table *t = NULL;
    struct mt_err err = {0};
    assert_int_equal(mt_edge_routes_parse(mt_buf_cstr(&b), b.len, key443(), false, &t, &err), 0);
    for (unsigned i = 0; i < 10000; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "h%u.example.com", i);
        const struct mt_edge_route *r = find(t, name);
        assert_non_null(r);
        assert_int_equal(ntohs(r->backends[0].addr.in6.sin6_port), i + 1);
        (void)snprintf(name, sizeof name, "g%u.example.com", i);
        assert_null(find(t, name));
    }
    mt_edge_table_free(t);
}

static void faults_are_refused_with_their_name(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } v[] = {
        {"[]", ""},
        {HEAD "\"listeners\":[],\"routes\":[]}", "backends"},
        {HEAD "\"listeners\":[" L443 "," L443 "],\"routes\":[],\"backends\":{}}", "two listeners"},
        {HEAD "\"listeners\":[" L443 ",{\"protocol\":\"tcp_raw\",\"port\":443}],\"routes\":[],\"backends\":{}}", "two listeners"},
        {HEAD "\"listeners\":[],\"routes\":[" ROUTE("r", "a.b") "],\"backends\":{}}", "no listener"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b") "," ROUTE("r", "c.d") "],\"backends\":{}}", "twice"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b") "," ROUTE("s", "a.b") "],\"backends\":{}}", "both have the name"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "single") "],\"backends\":{}}", "hostname"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "1.2.3.4") "],\"backends\":{}}", "hostname"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "*.a.b") "],\"backends\":{}}", "hostname"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r r", "a.b") "],\"backends\":{}}", "route_id"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b") "],\"backends\":{\"r\":[" BACKEND("i", "10.0.0.1", "1") "]}}",
         "not IPv6"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b") "],\"backends\":{\"r\":[" BACKEND("i", "fd00::1", "0") "]}}", "port"},
        {HEAD "\"instance_prefix\":\"fd00:1:2:1::/64\",\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b")
         "],\"backends\":{\"r\":[" BACKEND("i", "fd00:1:2:2::1", "1") "]}}", "outside"},
        {HEAD "\"listeners\":[" L443 "],\"routes\":[],\"backends\":{\"r\":[]}}", "names no route"},
        {HEAD "\"required_features\":[\"x\"],\"listeners\":[],\"routes\":[],\"backends\":{}}", "'x'"},
        {"{\"format\":2,\"cluster_id\":\"c\",\"epoch\":1,\"revision\":1,\"listeners\":[],\"routes\":[],\"backends\":{}}", "format"},
        {HEAD "\"listeners\":[{\"protocol\":\"tcp_raw\",\"port\":10000}],\"routes\":["
         "{\"route_id\":\"r\",\"env_id\":\"e\",\"protocol\":\"tcp_raw\",\"listen_port\":10000},"
         "{\"route_id\":\"s\",\"env_id\":\"e\",\"protocol\":\"tcp_raw\",\"listen_port\":10000}],\"backends\":{}}", "share the raw port"},
        {HEAD "\"listeners\":[{\"protocol\":\"tls_passthrough\",\"address_scope\":\"ipv4\",\"address\":\"203.0.113.9\",\"port\":443}],"
         "\"routes\":[{\"route_id\":\"r\",\"env_id\":\"e\",\"protocol\":\"tls_passthrough\",\"address_scope\":\"ipv4\","
         "\"address\":\"203.0.113.9\",\"hostname\":\"a.b\",\"listen_port\":443}],\"backends\":{}}", "does not belong"},
    };
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        struct mt_edge_table *t = NULL;
        struct mt_err err = {0};
        if (mt_edge_snapshot_parse(v[i].text, strlen(v[i].text), &t, &err) == 0)
            fail_msg("taken: %s", v[i].text);
        if (!strstr(err.msg, v[i].word))
            fail_msg("'%s' does not name '%s'", err.msg, v[i].word);
        assert_null(t);
    }
}

static void prefix_is_compared_by_bits(void **state)
{
    (void)state;
    mt_edge_table_free(must(HEAD "\"instance_prefix\":\"fd00:1:2:1::/61\",\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b")
                            "],\"backends\":{\"r\":[" BACKEND("i", "fd00:1:2:7::1", "1") "]}}"));
}

static void nameless_clients_go_to_the_only_or_the_default_route_of_a_dedicated_address(void **state)
{
    (void)state;
    struct mt_edge_table *t = must(
        HEAD "\"listeners\":[" L443 ",{\"protocol\":\"tls_passthrough\",\"address_scope\":\"ipv4\",\"address\":\"203.0.113.9\",\"port\":443}],"
        "\"routes\":[" ROUTE("only_shared", "x.y") ",{\"route_id\":\"r\",\"env_id\":\"e\",\"protocol\":\"tls_passthrough\","
        "\"address_scope\":\"ipv4\",\"address\":\"203.0.113.9\",\"hostname\":\"a.b\",\"listen_port\":443}],\"backends\":{},"
        "\"ipv4\":[{\"allocation_id\":\"ip4_1\",\"env_id\":\"e\",\"ipv4_address\":\"203.0.113.9\"}]}");
    struct in_addr v4;
    memcpy(&v4, "\xcb\x00\x71\x09", 4);
    const struct mt_edge_listener_spec *l =
        mt_edge_table_listener(t, mt_edge_key_of(MT_EDGE_TLS, MT_EDGE_IPV4, v4, 443));
    assert_non_null(l);
    assert_string_equal(mt_edge_table_only(t, l)->route_id, "r");
    assert_null(mt_edge_table_listener(t, key443())->only); /* shared: never guess */
    mt_edge_table_free(t);
}

static void equal_routes_stay_the_same_object_and_changed_ones_keep_counters_and_health(void **state)
{
    (void)state;
    struct mt_edge_table *old = must(HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("rt_a", "a.b") "," ROUTE("rt_b", "b.b") ","
                                     ROUTE("rt_gone", "g.b") "],\"backends\":{\"rt_b\":[" BACKEND("i1", "fd00::1", "1") ","
                                     BACKEND("i2", "fd00::2", "1") "]}}");
    struct mt_edge_route *a = find(old, "a.b"), *b = find(old, "b.b");
    struct mt_edge_stat *gone = find(old, "g.b")->stat;
    struct mt_edge_health *h2 = b->backends[1].health;
    atomic_store(&b->stat->connections, 42);
    atomic_store(&h2->step_ms, 1000);
    struct mt_edge_table *t = must(HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("rt_a", "a.b") "," ROUTE("rt_b", "b.b")
                                   "],\"backends\":{\"rt_b\":[" BACKEND("i2", "fd00::2", "1") "," BACKEND("i3", "fd00::3", "1") "]}}");
    mt_edge_table_adopt(t, old);
    mt_edge_table_mark_gone(t, old, 77);
    assert_ptr_equal(find(t, "a.b"), a);
    assert_ptr_not_equal(find(t, "b.b"), b);
    assert_int_equal(atomic_load(&find(t, "b.b")->stat->connections), 42);
    assert_ptr_equal(find(t, "b.b")->backends[0].health, h2);
    assert_int_equal(atomic_load(&find(t, "b.b")->backends[1].health->step_ms), 0);
    assert_int_equal(atomic_load(&gone->gone_at), 77);
    assert_int_equal(atomic_load(&a->stat->gone_at), 0);
    mt_edge_table_free(old);
    assert_string_equal(find(t, "a.b")->route_id, "rt_a"); /* lives on without the old table */
    mt_edge_table_free(t);
}

static void a_route_under_another_name_keeps_its_counters_and_is_not_gone(void **state)
{
    (void)state;
    struct mt_edge_table *old = must(HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("rt_a", "a.b") "," ROUTE("rt_b", "b.b") ","
                                     ROUTE("rt_c", "c.b") "],\"backends\":{}}");
    struct mt_edge_stat *a = find(old, "a.b")->stat, *b = find(old, "b.b")->stat, *c = find(old, "c.b")->stat;
    atomic_store(&a->connections, 1);
    atomic_store(&b->connections, 2);
    /* a and b change names, under c's name is another route now */
    struct mt_edge_table *t = must(HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("rt_b", "a.b") "," ROUTE("rt_a", "b.b") ","
                                   ROUTE("rt_new", "c.b") "],\"backends\":{}}");
    mt_edge_table_adopt(t, old);
    mt_edge_table_mark_gone(t, old, 77);
    assert_ptr_equal(find(t, "b.b")->stat, a);
    assert_ptr_equal(find(t, "a.b")->stat, b);
    assert_ptr_not_equal(find(t, "c.b")->stat, c);
    assert_int_equal(atomic_load(&a->gone_at), 0);
    assert_int_equal(atomic_load(&b->gone_at), 0);
    assert_int_equal(atomic_load(&c->gone_at), 77);
    mt_edge_table_free(old);
    mt_edge_table_free(t);
}

static struct mt_edge_table *numbered(unsigned from, unsigned to, unsigned port)
{
    char text[16384];
    size_t n = 0;
    for (unsigned i = from; i < to; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "r%u.x.y ::1 %u\n", i, port);
    struct mt_edge_table *t = NULL;
    struct mt_err err = {0};
    assert_int_equal(mt_edge_routes_parse(text, n, key443(), false, &t, &err), 0);
    return t;
}

static void every_live_route_is_taken_over_once_however_many_there_are(void **state)
{
    (void)state;
    static const unsigned lives[] = {0, 1, 63, 64, 65, 127, 128, 129, 200};
    for (size_t k = 0; k < sizeof lives / sizeof lives[0]; k++) {
        struct mt_edge_table *old = numbered(0, 210, 80);
        struct mt_edge_route *was[210] = {NULL};
        char name[32];
        for (unsigned i = 0; i < lives[k]; i++) {
            (void)snprintf(name, sizeof name, "r%u.x.y", i);
            was[i] = find(old, name);
        }
        struct mt_edge_table *t = numbered(1, 210, 80); /* the first one is gone */
        mt_edge_table_adopt(t, old);
        /* meanwhile, as workers do: one becomes live in the old table only, one in both */
        was[205] = find(old, "r205.x.y");
        was[206] = find(old, "r206.x.y");
        assert_ptr_not_equal(find(t, "r206.x.y"), was[206]);
        mt_edge_table_adopt(t, old);
        mt_edge_table_mark_gone(t, old, 77);
        for (unsigned i = 0; i < 210; i++) {
            if (!was[i])
                continue;
            (void)snprintf(name, sizeof name, "r%u.x.y", i);
            assert_int_equal(atomic_load(&was[i]->stat->gone_at), i == 0 ? 77 : 0);
            if (i > 0 && i != 206)
                assert_ptr_equal(find(t, name), was[i]);
            assert_int_equal(atomic_load(&was[i]->refs), i == 0 || i == 206 ? 1 : 2);
        }
        mt_edge_table_free(old);
        mt_edge_table_free(t);
    }
}

static struct mt_edge_table *three_backends(struct mt_edge_route **ret)
{
    struct mt_edge_table *t = must(HEAD "\"listeners\":[" L443 "],\"routes\":[" ROUTE("r", "a.b") "],\"backends\":{\"r\":["
                                   BACKEND("i0", "fd00::1", "1") "," BACKEND("i1", "fd00::2", "1") "," BACKEND("i2", "fd00::3", "1") "]}}");
    *ret = find(t, "a.b");
    return t;
}

static void round_robin_visits_all_and_passes_over_the_ejected(void **state)
{
    (void)state;
    struct mt_edge_route *r;
    struct mt_edge_table *t = three_backends(&r);
    unsigned hits[3] = {0};
    for (unsigned i = 0; i < 30; i++)
        hits[mt_edge_pick(r, NULL, 0, 1000)]++;
    assert_true(hits[0] == 10 && hits[1] == 10 && hits[2] == 10);
    assert_true(mt_edge_health_fail(r->backends[1].health, false, 1000));
    for (unsigned i = 0; i < 30; i++)
        assert_int_not_equal(mt_edge_pick(r, NULL, 0, 2000), 1);
    bool back = false;
    for (unsigned i = 0; i < 3; i++)
        back |= mt_edge_pick(r, NULL, 0, 1000 + 1000 * MT_NS_PER_MS) == 1;
    assert_true(back);
    uint32_t tried[] = {0, 2};
    assert_int_equal(mt_edge_pick(r, tried, 2, 2000), 1); /* ejected, but the only one left to try */
    uint32_t all[] = {0, 2, 1};
    assert_int_equal(mt_edge_pick(r, all, 3, 2000), -1);
    mt_edge_table_free(t);
}

static void when_all_are_ejected_the_one_out_longest_is_tried(void **state)
{
    (void)state;
    struct mt_edge_route *r;
    struct mt_edge_table *t = three_backends(&r);
    assert_true(mt_edge_health_fail(r->backends[2].health, false, 1000));
    assert_true(mt_edge_health_fail(r->backends[0].health, false, 2000));
    assert_true(mt_edge_health_fail(r->backends[1].health, false, 3000));
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(mt_edge_pick(r, NULL, 0, 4000), 2);
    mt_edge_table_free(t);
}

static void ejection_doubles_to_thirty_seconds_and_one_success_resets_it(void **state)
{
    (void)state;
    struct mt_edge_health h = {0};
    static const uint32_t steps[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    int64_t now = 1;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        assert_true(mt_edge_health_fail(&h, false, now));
        assert_int_equal(atomic_load(&h.step_ms), steps[i]);
        assert_false(mt_edge_health_fail(&h, false, now + 1)); /* out already */
        now = atomic_load(&h.eject_until);
    }
    mt_edge_health_good(&h);
    assert_int_equal(atomic_load(&h.eject_until), 0);
    assert_false(mt_edge_health_fail(&h, true, now)); /* half a failure */
    assert_true(mt_edge_health_fail(&h, true, now));
    assert_int_equal(atomic_load(&h.step_ms), 1000);
}

static void least_conn_takes_the_least_busy(void **state)
{
    (void)state;
    struct mt_edge_route *r;
    struct mt_edge_table *t = three_backends(&r);
    r->balance = MT_EDGE_LEAST_CONN;
    atomic_store(&r->backends[0].health->active, 5);
    atomic_store(&r->backends[1].health->active, 1);
    atomic_store(&r->backends[2].health->active, 3);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(mt_edge_pick(r, NULL, 0, 1), 1);
    mt_edge_table_free(t);
}

static void static_file_takes_comments_and_several_backends_and_names_the_bad_line(void **state)
{
    (void)state;
    static const char good[] = "# all\n\n  A.Example.com.  ::1 80 # one\na.example.com 192.0.2.1 81\r\nb.example.com [::1] 82";
    struct mt_edge_table *t = NULL;
    struct mt_err err = {0};
    assert_int_equal(mt_edge_routes_parse(good, sizeof good - 1, key443(), true, &t, &err), 0);
    assert_int_equal(t->n_routes, 2);
    assert_int_equal(find(t, "a.example.com")->n_backends, 2);
    assert_true(find(t, "b.example.com")->proxy_v2);
    mt_edge_table_free(t);
    static const char *const bad[] = {"a.b ::1", "a.b ::1 80 x", "a.b ::1 0", "a.b ::1 65536", "a.b nowhere 80", "1.2.3.4 ::1 80", "a..b ::1 80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "ok.example.com ::1 1\n%s\n", bad[i]);
        assert_int_equal(mt_edge_routes_parse(text, strlen(text), key443(), false, &t, &err), -MT_E_INVALID);
        assert_non_null(strstr(err.msg, "line 2"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found_exactly_and_only_on_their_listener),
        cmocka_unit_test(ten_thousand_names_are_all_found),
        cmocka_unit_test(faults_are_refused_with_their_name),
        cmocka_unit_test(prefix_is_compared_by_bits),
        cmocka_unit_test(nameless_clients_go_to_the_only_or_the_default_route_of_a_dedicated_address),
        cmocka_unit_test(equal_routes_stay_the_same_object_and_changed_ones_keep_counters_and_health),
        cmocka_unit_test(a_route_under_another_name_keeps_its_counters_and_is_not_gone),
        cmocka_unit_test(every_live_route_is_taken_over_once_however_many_there_are),
        cmocka_unit_test(round_robin_visits_all_and_passes_over_the_ejected),
        cmocka_unit_test(when_all_are_ejected_the_one_out_longest_is_tried),
        cmocka_unit_test(ejection_doubles_to_thirty_seconds_and_one_success_resets_it),
        cmocka_unit_test(least_conn_takes_the_least_busy),
        cmocka_unit_test(static_file_takes_comments_and_several_backends_and_names_the_bad_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
