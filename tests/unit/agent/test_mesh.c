/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mesh without a host: wg's output read, wants and devices compared, keys chosen; fifty nodes against recording devices that take
 * `wg set` as wg(8) does. What real devices do with it is shown in tests/scenario/test_mesh.py.
 */
#include "agent/mesh/device.h"
#include "agent/mesh/keys.h"
#include "agent/mesh/pass.h"
#include "base/b64.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { NODES = 50 };
static const int64_t NOW = INT64_C(1800000000000);

/* ---- a device that records: takes the arguments of `wg set` and keeps what they say ------ */

struct device {
    struct mt_wg_device d;
    unsigned sets, removed;
};

static struct mt_wg_peer *peer_of(struct mt_wg_device *d, const char *text, bool make)
{
    uint8_t key[MT_WG_KEY_LEN + 3];
    assert_int_equal(mt_b64_decode(text, strlen(text), key, sizeof key), MT_WG_KEY_LEN);
    for (size_t i = 0; i < d->n; i++) {
        if (memcmp(d->peers[i].key, key, MT_WG_KEY_LEN) == 0)
            return &d->peers[i];
    }
    if (!make)
        return NULL;
    struct mt_wg_peer *more = realloc(d->peers, (d->n + 1) * sizeof *more);
    assert_non_null(more);
    d->peers = more;
    memset(&d->peers[d->n], 0, sizeof *d->peers);
    memcpy(d->peers[d->n].key, key, MT_WG_KEY_LEN);
    return &d->peers[d->n++];
}

static bool allows(const struct mt_wg_peer *p, const struct mt_wg_allowed *a)
{
    for (size_t i = 0; i < p->n_allowed; i++) {
        if (p->allowed[i].plen == a->plen && memcmp(&p->allowed[i].addr, &a->addr, 16) == 0)
            return true;
    }
    return false;
}

/* As WireGuard does: an address belongs to the peer that was given it last. */
static void set_allowed(struct mt_wg_device *d, struct mt_wg_peer *p, char *list)
{
    p->n_allowed = 0;
    for (char *at = list; at;) {
        char *comma = strchr(at, ','), *slash = strchr(at, '/');
        struct mt_wg_allowed a = {.plen = (uint8_t)strtol(slash + 1, NULL, 10)};
        *slash = '\0';
        assert_int_equal(inet_pton(AF_INET6, at, &a.addr), 1);
        for (size_t i = 0; i < d->n; i++) {
            struct mt_wg_peer *o = &d->peers[i];
            for (size_t k = 0; k < o->n_allowed; k++) {
                if (o->allowed[k].plen == a.plen && memcmp(&o->allowed[k].addr, &a.addr, 16) == 0)
                    o->allowed[k--] = o->allowed[--o->n_allowed];
            }
        }
        p->allowed[p->n_allowed++] = a;
        at = comma ? comma + 1 : NULL;
    }
}

static void apply(struct device *dev, struct mt_buf *args, const uint8_t key[MT_WG_KEY_LEN])
{
    char *word[2048], *text = mt_buf_take(args);
    size_t n = 0;
    struct mt_wg_peer *p = NULL;

    for (char *at = text, *end; at && (end = strchr(at, '\n')); at = end + 1) {
        *end = '\0';
        word[n++] = at;
    }
    dev->sets += n > 0;
    for (size_t i = 0; i < n; i++) {
        if (MT_STREQ(word[i], "private-key")) {
            memcpy(dev->d.public_key, key, MT_WG_KEY_LEN);
            dev->d.has_key = true;
            i++;
        } else if (MT_STREQ(word[i], "listen-port")) {
            dev->d.port = (uint16_t)strtol(word[++i], NULL, 10);
        } else if (MT_STREQ(word[i], "fwmark")) {
            i++;
        } else if (MT_STREQ(word[i], "peer")) {
            p = peer_of(&dev->d, word[++i], true);
        } else if (MT_STREQ(word[i], "endpoint")) {
            (void)snprintf(p->endpoint, sizeof p->endpoint, "%s", word[++i]);
        } else if (MT_STREQ(word[i], "persistent-keepalive")) {
            p->keepalive = (uint16_t)strtol(word[++i], NULL, 10);
        } else if (MT_STREQ(word[i], "allowed-ips")) {
            set_allowed(&dev->d, p, word[++i]);
        } else if (MT_STREQ(word[i], "remove")) {
            *p = dev->d.peers[--dev->d.n];
            dev->removed++;
        } else {
            fail_msg("wg set: '%s'", word[i]);
        }
    }
    free(text);
}

/* ---- a cluster --------------------------------------------------------------------------- */

static void key_of(unsigned node, unsigned generation, uint8_t ret[MT_WG_KEY_LEN])
{
    memset(ret, 0x11, MT_WG_KEY_LEN);
    ret[0] = (uint8_t)(9 + node);
    ret[1] = (uint8_t)generation;
}

static struct mt_mesh_want *want_of(unsigned self, unsigned nodes)
{
    struct mt_mesh_want *w = calloc(1, sizeof *w + nodes * sizeof w->peers[0]);
    assert_non_null(w);
    w->refs = 1;
    w->revision = 1;
    w->port = 51820;
    w->mtu = 1420;
    key_of(self, 0, w->key.now);
    for (unsigned i = 0; i < nodes; i++) {
        struct mt_mesh_peer *p = &w->peers[w->n];
        char text[64];
        (void)snprintf(text, sizeof text, "fd00:1:2::%x", i + 1);
        if (i == self) {
            (void)inet_pton(AF_INET6, text, &w->own);
            continue;
        }
        (void)inet_pton(AF_INET6, text, &p->addr);
        (void)snprintf(text, sizeof text, "fd00:1:2:1:%x::", i + 1);
        (void)inet_pton(AF_INET6, text, &p->prefix);
        key_of(i, 0, p->key.now);
        p->keepalive = 25;
        p->n_endpoints = 2;
        (void)snprintf(p->endpoints[0], sizeof p->endpoints[0], "[2001:db8::%x]:51820", i + 1);
        (void)snprintf(p->endpoints[1], sizeof p->endpoints[1], "192.0.2.%u:51820", i + 1);
        w->n++;
    }
    return w;
}

static struct mt_wg_diff one_pass(struct device *dev, const struct mt_mesh_want *w, int64_t now_ms)
{
    struct mt_buf args = MT_BUF_INIT(1 << 20);
    struct mt_wg_diff diff;
    const uint8_t *key = mt_mesh_key_at(&w->key, now_ms);
    mt_wg_compare(w, &dev->d, now_ms, "/keys/wg.key", key, NULL, NULL, &args, &diff);
    assert_int_equal(mt_buf_check(&args, NULL), 0);
    apply(dev, &args, key);
    mt_buf_done(&args);
    return diff;
}

static void exact(const struct device *dev, const struct mt_mesh_want *w, int64_t now_ms)
{
    assert_int_equal(dev->d.n, w->n);
    for (size_t i = 0; i < w->n; i++) {
        const struct mt_wg_peer *p = mt_wg_find(&dev->d, mt_mesh_key_at(&w->peers[i].key, now_ms));
        struct mt_wg_allowed a = {.addr = w->peers[i].addr, .plen = 128}, b = {.addr = w->peers[i].prefix, .plen = 80};
        assert_non_null(p);
        assert_int_equal(p->n_allowed, 2);
        assert_true(allows(p, &a) && allows(p, &b));
        assert_string_equal(p->endpoint, w->peers[i].endpoints[0]);
        assert_int_equal(p->keepalive, 25);
    }
}

static void fifty_nodes_are_configured_once_and_then_left_alone(void **s)
{
    (void)s;
    for (unsigned self = 0; self < NODES; self++) {
        struct device dev = {0};
        struct mt_mesh_want *w = want_of(self, NODES);
        struct mt_wg_diff d = one_pass(&dev, w, NOW);
        assert_int_equal(d.missing, NODES - 1);
        assert_int_equal(d.key + d.port, 2);
        exact(&dev, w, NOW);
        d = one_pass(&dev, w, NOW);
        assert_int_equal(d.missing + d.foreign + d.allowed + d.endpoint + d.keepalive + d.key + d.port + d.psk, 0);
        assert_int_equal(dev.sets, 1); /* the second pass started no wg */
        mt_wg_device_done(&dev.d);
        mt_mesh_want_unref(w);
    }
}

static void a_key_moves_its_addresses_in_one_call_at_the_cut_over(void **s)
{
    (void)s;
    struct device dev = {0};
    struct mt_mesh_want *w = want_of(0, NODES);
    (void)one_pass(&dev, w, NOW);
    struct mt_mesh_key *k = &w->peers[7].key;
    key_of(8, 1, k->next);
    k->has_next = true;
    k->cutover_ms = NOW + 5000;
    assert_int_equal(mt_mesh_next_cutover(w, NOW), NOW + 5000);
    assert_int_equal(one_pass(&dev, w, NOW + 4999).missing, 0);
    struct mt_wg_diff d = one_pass(&dev, w, NOW + 5000);
    assert_int_equal(d.missing, 1);
    assert_int_equal(d.foreign, 1);
    assert_int_equal(dev.sets, 2);
    exact(&dev, w, NOW + 5000);
    assert_int_equal(mt_mesh_next_cutover(w, NOW + 5000), INT64_MAX);
    mt_wg_device_done(&dev.d);
    mt_mesh_want_unref(w);
}

static void drift_of_every_kind_is_found_and_only_that_is_sent(void **s)
{
    (void)s;
    struct device dev = {0};
    struct mt_mesh_want *w = want_of(0, 5);
    (void)one_pass(&dev, w, NOW);
    struct mt_wg_peer *p = dev.d.peers;
    p[0].n_allowed = 1;
    p[1].allowed[1].plen = 64;
    p[2].keepalive = 0;
    p[3].has_psk = true;
    (void)snprintf(p[3].endpoint, sizeof p[3].endpoint, "[2001:db8::99]:1");
    (void)peer_of(&dev.d, "ERERERERERERERERERERERERERERERERERERERERERE=", true);
    dev.d.port = 1;
    struct mt_buf args = MT_BUF_INIT(1 << 16);
    struct mt_wg_diff d;
    mt_wg_compare(w, &dev.d, NOW, "/k", w->key.now, NULL, NULL, &args, &d);
    assert_int_equal(d.allowed, 2);
    assert_int_equal(d.keepalive, 1);
    assert_int_equal(d.psk, 1);
    assert_int_equal(d.endpoint, 1);
    assert_int_equal(d.foreign, 1);
    assert_int_equal(d.port, 1);
    assert_int_equal(d.key + d.missing, 0);
    assert_null(strstr(mt_buf_cstr(&args), "private-key"));
    mt_buf_done(&args);
    mt_wg_device_done(&dev.d);
    mt_mesh_want_unref(w);
}

static void an_address_that_wireguard_learned_stands_while_the_session_is_fresh(void **s)
{
    (void)s;
    struct device dev = {0};
    struct mt_mesh_want *w = want_of(0, 2);
    struct mt_buf args = MT_BUF_INIT(1 << 16);
    struct mt_wg_diff d;
    uint8_t second = 1;
    bool force = true;
    (void)one_pass(&dev, w, NOW);
    (void)snprintf(dev.d.peers[0].endpoint, sizeof dev.d.peers[0].endpoint, "[2001:db8::99]:4000");
    dev.d.peers[0].handshake_s = NOW / 1000 - 100;
    mt_wg_compare(w, &dev.d, NOW, "/k", w->key.now, NULL, NULL, &args, &d);
    assert_int_equal(args.len, 0);
    dev.d.peers[0].handshake_s = NOW / 1000 - 200;
    mt_wg_compare(w, &dev.d, NOW, "/k", w->key.now, NULL, NULL, &args, &d);
    assert_int_equal(d.endpoint, 1);
    mt_buf_reset(&args);
    dev.d.peers[0].handshake_s = NOW / 1000;
    mt_wg_compare(w, &dev.d, NOW, "/k", w->key.now, &second, &force, &args, &d);
    assert_non_null(strstr(mt_buf_cstr(&args), "endpoint\n192.0.2.2:51820\n"));
    mt_buf_done(&args);
    mt_wg_device_done(&dev.d);
    mt_mesh_want_unref(w);
}

#define K1 "ERERERERERERERERERERERERERERERERERERERERERE="
#define K2 "EhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEhI="

static int parse(const char *text, struct mt_wg_device *d, char **ret_text)
{
    char *copy = strdup(text);
    assert_non_null(copy);
    int rc = mt_wg_parse(copy, strlen(copy), d, NULL);
    if (ret_text)
        *ret_text = copy;
    else
        free(copy);
    return rc;
}

static void the_output_of_wg_show_is_read_and_its_private_key_wiped(void **s)
{
    (void)s;
    struct mt_wg_device d;
    char *text;
    assert_int_equal(parse("SECRET\t" K1 "\t51820\toff\n" K2 "\t(none)\t[2001:db8::2]:51820\tfd00::2/128,fd00:0:0:1::/80\t1700000000\t10\t20\t25\n" K1
                           "\t(none)\t(none)\t(none)\t0\t0\t0\toff\n",
                           &d, &text), 0);
    assert_int_equal(strnlen(text, 6), 0);
    free(text);
    assert_int_equal(d.n, 2);
    assert_int_equal(d.port, 51820);
    assert_int_equal(d.peers[0].n_allowed, 2);
    assert_int_equal(d.peers[0].allowed[1].plen, 80);
    assert_int_equal(d.peers[0].handshake_s, 1700000000);
    assert_int_equal(d.peers[0].keepalive, 25);
    assert_string_equal(d.peers[1].endpoint, "");
    assert_int_equal(d.peers[1].n_allowed, 0);
    mt_wg_device_done(&d);
    assert_int_equal(parse("(none)\t(none)\t0\toff\n", &d, NULL), 0);
    assert_false(d.has_key);
    mt_wg_device_done(&d);
    const char *bad[] = {"", "x\n", "a\t" K1 "\t70000\toff\n", "a\t" K1 "\t1\toff\nnot a peer\n", "a\t" K1 "\t1\toff\n" K1 "\t(none)\t(none)\t(none)\t-1\t0\t0\toff\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_not_equal(parse(bad[i], &d, NULL), 0);
}

static void ipv4_and_too_many_allowed_addresses_count_as_odd(void **s)
{
    (void)s;
    struct mt_wg_device d;
    assert_int_equal(parse("a\t" K1 "\t1\toff\n" K2 "\t(none)\t(none)\t0.0.0.0/0\t0\t0\t0\toff\n", &d, NULL), 0);
    assert_true(d.peers[0].odd);
    mt_wg_device_done(&d);
    assert_int_equal(parse("a\t" K1 "\t1\toff\n" K2 "\t(none)\t(none)\tfd00::1/128,fd00::2/128,fd00::3/128,fd00::4/128,fd00::5/128\t0\t0\t0\toff\n", &d, NULL), 0);
    assert_true(d.peers[0].odd);
    mt_wg_device_done(&d);
}

static void the_key_in_force_follows_from_plan_clock_and_files(void **s)
{
    (void)s;
    struct mt_wg_keys k = {.has_now = true};
    struct mt_mesh_key plan = {0};
    const char *name;
    bool promote;
    key_of(0, 0, k.now);
    key_of(0, 1, k.next);
    key_of(0, 0, plan.now);
    assert_int_equal(mt_wg_keys_choose(&k, &plan, NOW, &name, &promote, NULL), 0);
    assert_string_equal(name, "wg.key");
    /* a rotation runs: before and after its moment */
    k.has_next = plan.has_next = true;
    key_of(0, 1, plan.next);
    plan.cutover_ms = NOW + 10;
    assert_int_equal(mt_wg_keys_choose(&k, &plan, NOW, &name, &promote, NULL), 0);
    assert_string_equal(name, "wg.key");
    assert_int_equal(mt_wg_keys_choose(&k, &plan, NOW + 10, &name, &promote, NULL), 0);
    assert_string_equal(name, "wg.key.next");
    assert_false(promote); /* the control plane may still take it back */
    /* it is over: the next key is the key */
    plan.has_next = false;
    key_of(0, 1, plan.now);
    assert_int_equal(mt_wg_keys_choose(&k, &plan, NOW + 20, &name, &promote, NULL), 0);
    assert_true(promote);
    /* it was taken back: the old one is still there */
    key_of(0, 0, plan.now);
    assert_int_equal(mt_wg_keys_choose(&k, &plan, NOW + 20, &name, &promote, NULL), 0);
    assert_string_equal(name, "wg.key");
    key_of(3, 0, plan.now);
    assert_int_equal(mt_wg_keys_choose(&k, &plan, NOW, &name, &promote, NULL), -MT_E_CONFLICT);
}

static void the_mtu_leaves_room_for_the_outer_headers_and_never_goes_below_1280(void **s)
{
    (void)s;
    assert_int_equal(mt_mesh_mtu_over(1500, AF_INET6), 1420);
    assert_int_equal(mt_mesh_mtu_over(1500, AF_INET), 1440);
    assert_int_equal(mt_mesh_mtu_over(1400, AF_INET6), 1320);
    assert_int_equal(mt_mesh_mtu_over(1280, AF_INET6), 1280);
    assert_int_equal(mt_mesh_mtu_over(0, AF_INET), 1280);
}

/* RFC 7748 6.1: Alice's private key and its public half */
static void the_public_half_is_that_of_rfc_7748(void **s)
{
    (void)s;
    static const uint8_t private_key[32] = {0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
                                            0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a};
    static const uint8_t public_key[32] = {0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a,
                                           0x0d, 0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a};
    uint8_t got[32];
    assert_int_equal(mt_wg_public(private_key, got, NULL), 0);
    assert_memory_equal(got, public_key, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fifty_nodes_are_configured_once_and_then_left_alone),
        cmocka_unit_test(a_key_moves_its_addresses_in_one_call_at_the_cut_over),
        cmocka_unit_test(drift_of_every_kind_is_found_and_only_that_is_sent),
        cmocka_unit_test(an_address_that_wireguard_learned_stands_while_the_session_is_fresh),
        cmocka_unit_test(the_output_of_wg_show_is_read_and_its_private_key_wiped),
        cmocka_unit_test(ipv4_and_too_many_allowed_addresses_count_as_odd),
        cmocka_unit_test(the_key_in_force_follows_from_plan_clock_and_files),
        cmocka_unit_test(the_mtu_leaves_room_for_the_outer_headers_and_never_goes_below_1280),
        cmocka_unit_test(the_public_half_is_that_of_rfc_7748),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
