/* SPDX-License-Identifier: Apache-2.0 */
#include "model/mesh.h"
#include "model/mesh_survey.h"

#include "wire/json.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ULID "01aryz6s4104hmasw9nf6yy09"
#define SELF "node_" ULID "0"
#define K(c) c "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

#define PEER(k, extra)                                                                                                                      \
    "{'node_id':'node_" ULID #k "','public_key':'" K("B" #k) "','endpoints':['192.0.2." #k ":51820','[2001:db8::" #k "]:51820'],"             \
    "'allowed_ips':['fd00:1:2::" #k "/128','fd00:1:2:1:" #k "::/80'],'roles':['worker']" extra "}"
#define PLAN(peers)                                                                                                                         \
    "{'spec_version':'v1','cluster_id':'c1','node_id':'" SELF "','epoch':1,'cursor_event_id':42,'plan_id':'" ULID "0','instances':[],"        \
    "'network':{'mtu':1420,'cluster_prefix':'fd00:1:2::/48','overlay_ipv6':'fd00:1:2::1','instance_prefix':'fd00:1:2:1:1::/80',"              \
    "'mesh':{'revision':7,'listen_port':51820,'public_key':'" K("A1") "','key_generation':2,'rotate':true},'peers':[" peers "]}}"

static struct mt_plan *plan_of(const char *text)
{
    struct mt_plan *p = NULL;
    struct mt_err err = {0};
    char *t = mt_strndup(text, strlen(text));

    assert_non_null(t);
    for (char *c = t; *c; c++)
        if (*c == '\'')
            *c = '"';
    if (mt_plan_parse(t, strlen(t), &p, &err) < 0)
        print_error("%s\n%s\n", err.msg, t);
    assert_non_null(p);
    free(t);
    return p;
}

static struct mt_plan *edited(const char *from, const char *to)
{
    static const char base[] = PLAN(PEER(2, ",'rotation':{'next_public_key':'" K("C2") "','cutover_unix_ms':1800000000000}") "," PEER(3, ""));
    const char *at = strstr(base, from);
    char text[4096];

    assert_non_null(at);
    assert_int_equal(mt_fmt(text, sizeof text, NULL, "%.*s%s%s", (int)(at - base), base, to, at + strlen(from)), 0);
    return plan_of(text);
}

static void a_good_mesh_passes_and_survives_a_round_trip(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct mt_plan *p = edited("", ""), *again = NULL;
    json_t *doc = NULL;
    int rc = mt_mesh_check(&p->network, SELF, &err);

    if (rc < 0)
        print_error("%s\n", err.msg);
    assert_int_equal(rc, 0);
    assert_int_equal(mt_plan_encode(p, &doc, &err), 0);
    assert_int_equal(mt_plan_decode(doc, &again, &err), 0);
    json_decref(doc);
    assert_true(again->network.mesh.present);
    assert_int_equal(again->network.mesh.revision, 7);
    assert_int_equal(again->network.mesh.listen_port, 51820);
    assert_int_equal(again->network.mesh.key_generation, 2);
    assert_true(again->network.mesh.rotate);
    assert_string_equal(again->network.mesh.public_key, K("A1"));
    assert_int_equal(again->network.n_peers, 2);
    assert_string_equal(again->network.peers[0].rotation.next_public_key, K("C2"));
    assert_int_equal(again->network.peers[0].rotation.cutover_unix_ms, 1800000000000);
    assert_null(again->network.peers[1].rotation.next_public_key);
    assert_string_equal(again->network.peers[1].roles.v[0], "worker");
    assert_int_equal(mt_mesh_check(&again->network, SELF, &err), 0);
    mt_plan_free(again);
    mt_plan_free(p);
}

static void a_breach_refuses_the_whole_section_and_names_it(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *says;
    } rows[] = {
        {"'node_id':'node_" ULID "2'", "'node_id':'" SELF "'", "own peer"},
        {"fd00:1:2::2/128", "::/0", "inside the cluster"},
        {"fd00:1:2::2/128", "fd00:1:3::2/128", "inside the cluster"},
        {"fd00:1:2::2/128", "fd00:1:2::/48", "one /128"},
        {"fd00:1:2::2/128", "fd00:1:2::3/128", "same address"},
        {"fd00:1:2::2/128", "fd00:1:2::1/128", "this node"},
        {"fd00:1:2::2/128", "fd00:1:2:1:3::9/128", "lies in the instance prefix"},
        {"fd00:1:2::2/128", "fd00:1:2:1:1::9/128", "lies in the instance prefix"},
        {"fd00:1:2:1:2::/80", "fd00:1:2:1:3::/80", "same instance prefix"},
        {"fd00:1:2:1:2::/80", "fd00:1:2:1:1::/80", "this node"},
        {"fd00:1:2:1:2::/80", "fd00:1:2::/80", "lies in the instance prefix"},
        {"fd00:1:2:1:2::/80", "fd00:1:2:1::/64", "one /80"},
        {"fd00:1:2:1:2::/80", "fd00:1:2:1:2::1/80", "inside the cluster"},
        {",'fd00:1:2:1:2::/80'", "", "1 allowed"},
        {",'fd00:1:2:1:2::/80'", ",'fd00:1:2:1:2::/80','fd00:1:2:1:9::/80'", "3 allowed"},
        {K("B2"), K("B3"), "same WireGuard key"},
        {K("B2"), K("A1"), "this node"},
        {K("C2"), K("B3"), "same WireGuard key"},
        {K("B2"), K("AA"), "low order"},
        {K("B2"), "B2AA", "44 characters"},
        {"192.0.2.2:51820", "node2.example.net:51820", "names are not resolved"},
        {"192.0.2.2:51820", "192.0.2.2", "address:port"},
        {"192.0.2.2:51820", "192.0.2.2:0", "address:port"},
        {"[2001:db8::2]:51820", "2001:db8::2:51820", "names are not"},
        {"'overlay_ipv6':'fd00:1:2::1'", "'overlay_ipv6':'fd00:9:2::1'", "own address"},
        {"fd00:1:2::/48", "fd00::/16", "length 40"},
        {"'mesh':{", "'elsewhere':{", "no mesh"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct mt_err err = {0};
        struct mt_plan *p = edited(rows[i].from, rows[i].to);
        int rc = mt_mesh_check(&p->network, SELF, &err);
        if (rc != -MT_E_INVALID || !strstr(err.msg, rows[i].says))
            print_error("row %zu: %d '%s', wanted '%s'\n", i, rc, err.msg, rows[i].says);
        assert_int_equal(rc, -MT_E_INVALID);
        assert_non_null(strstr(err.msg, rows[i].says));
        mt_plan_free(p);
    }
}

static void no_spelling_of_a_low_order_point_is_a_key(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    };
    uint8_t key[MT_WG_KEY_LEN], ret[MT_WG_KEY_LEN];
    char text[MT_B64_SIZE(MT_WG_KEY_LEN)];
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        assert_int_equal(mt_hex_decode(bad[i], sizeof key, key), 0);
        (void)mt_b64_encode(key, sizeof key, text);
        assert_int_equal(mt_wg_key_decode(text, ret, NULL), -MT_E_INVALID);
    }
    memset(key, 0x55, sizeof key);
    (void)mt_b64_encode(key, sizeof key, text);
    assert_int_equal(mt_wg_key_decode(text, ret, NULL), 0);
    assert_memory_equal(key, ret, sizeof key);
    text[43] = 'A'; /* no padding, 33 bytes */
    assert_int_equal(mt_wg_key_decode(text, ret, NULL), -MT_E_INVALID);
}

static void more_than_half_of_four_gone_is_a_mass_removal(void **state)
{
    (void)state;
    struct mt_plan *four = plan_of(PLAN(PEER(2, "") "," PEER(3, "") "," PEER(4, "") "," PEER(5, "")));
    struct mt_plan *three = plan_of(PLAN(PEER(2, "") "," PEER(3, "") "," PEER(4, "")));
    struct mt_plan *two = plan_of(PLAN(PEER(2, "") "," PEER(5, "")));
    struct mt_plan *one = plan_of(PLAN(PEER(5, "")));
    struct mt_plan *none = plan_of(PLAN(""));

    assert_false(mt_mesh_mass_removal(&four->network, &two->network));
    assert_true(mt_mesh_mass_removal(&four->network, &one->network));
    assert_true(mt_mesh_mass_removal(&four->network, &none->network));
    assert_false(mt_mesh_mass_removal(&three->network, &none->network));
    assert_false(mt_mesh_mass_removal(&none->network, &four->network));
    mt_plan_free(four);
    mt_plan_free(three);
    mt_plan_free(two);
    mt_plan_free(one);
    mt_plan_free(none);
}

static void endpoints_are_addresses_with_a_port(void **state)
{
    (void)state;
    struct sockaddr_storage ss;
    socklen_t len;
    assert_int_equal(mt_mesh_endpoint_parse("192.0.2.1:51820", &ss, &len, NULL), 0);
    assert_int_equal(ss.ss_family, AF_INET);
    assert_int_equal(ntohs(((struct sockaddr_in *)&ss)->sin_port), 51820);
    assert_int_equal(mt_mesh_endpoint_parse("[2001:db8::1]:1", &ss, &len, NULL), 0);
    assert_int_equal(ss.ss_family, AF_INET6);
    assert_int_equal(len, sizeof(struct sockaddr_in6));
    static const struct {
        const char *endpoint, *cluster;
        bool inside;
    } own[] = {{"[fd00:1:2::9]:1", "fd00:1:2::/48", true}, {"[fd00:1:2:ffff::]:1", "fd00:1:2::/48", true}, {"[fd00:1:3::9]:1", "fd00:1:2::/48", false}, {"192.0.2.1:1", "fd00:1:2::/48", false},
               {"[2a00:1:f::1]:1", "2a00:1::/44", true}, {"[2a00:1:10::1]:1", "2a00:1::/44", false}};
    for (size_t i = 0; i < MT_ARRAY_LEN(own); i++) {
        assert_int_equal(mt_mesh_endpoint_parse(own[i].endpoint, &ss, &len, NULL), 0);
        assert_int_equal(mt_mesh_endpoint_inside(&ss, own[i].cluster), own[i].inside);
    }
    static const char *const bad[] = {"", ":", "[", "[]:1", "[::1]", "[::1]1", "[::1:1", "::1:1]:1", "[192.0.2.1]:1", "1.2.3:4", "a:1", "192.0.2.1:",
                                      "192.0.2.1:65536", "192.0.2.1:1x", "[::1%lo]:1", "]:1"};
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++)
        assert_int_equal(mt_mesh_endpoint_parse(bad[i], &ss, &len, NULL), -MT_E_INVALID);
}

/* Reports are what nodes told: anything may stand there. */
static void a_survey_takes_whatever_was_told(void **state)
{
    (void)state;
    static const struct {
        const char *nodes;
        size_t pairs, bad;
    } t[] = {
        {"[]", 0, 0},
        {"[{\"id\":\"a\",\"name\":\"a\",\"health\":\"ready\"},{\"id\":\"b\",\"name\":\"b\",\"health\":\"ready\"}]", 0, 0}, /* in no mesh */
        {"[{\"id\":\"a\",\"name\":\"a\",\"health\":\"ready\",\"mesh\":{\"peers\":7}},{\"id\":\"b\"}]", 1, 1},
        {"[{\"mesh\":{\"peers\":[1,null,{},{\"node_id\":[]},{\"node_id\":\"b\",\"lost_in_row\":\"x\",\"rtt_us\":{},\"loss_percent\":[]}]},\"name\":4},{\"id\":\"b\",\"mesh\":[]}]", 1, 1},
        {"[{\"id\":\"a\",\"name\":\"a\",\"health\":\"ready\",\"mesh\":{\"peers\":[{\"node_id\":\"b\",\"handshake_age_s\":2,\"rtt_us\":900,\"loss_percent\":0,\"lost_in_row\":0,\"mtu_ok\":true}]}},"
         "{\"id\":\"b\",\"name\":\"b\",\"health\":\"ready\",\"mesh\":{\"peers\":[{\"node_id\":\"a\",\"handshake_age_s\":2,\"rtt_us\":900,\"loss_percent\":0,\"lost_in_row\":0}]}},3]", 3, 2},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(t); i++) {
        json_error_t je;
        size_t bad = 99;
        json_t *nodes = json_loads(t[i].nodes, 0, &je), *got;
        assert_non_null(nodes);
        got = mt_mesh_survey(nodes, &bad);
        assert_non_null(got);
        assert_int_equal(json_array_size(json_object_get(got, "pairs")), t[i].pairs);
        assert_int_equal(bad, t[i].bad);
        assert_int_equal(json_is_true(json_object_get(got, "ok")), t[i].bad == 0);
        json_decref(got);
        json_decref(nodes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_mesh_passes_and_survives_a_round_trip),
        cmocka_unit_test(a_breach_refuses_the_whole_section_and_names_it),
        cmocka_unit_test(no_spelling_of_a_low_order_point_is_a_key),
        cmocka_unit_test(more_than_half_of_four_gone_is_a_mass_removal),
        cmocka_unit_test(endpoints_are_addresses_with_a_port),
        cmocka_unit_test(a_survey_takes_whatever_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
