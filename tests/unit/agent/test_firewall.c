/* SPDX-License-Identifier: Apache-2.0 */
/* Text of the firewall table. That it loads, and what it lets through, is tested with packets in tests/scenario. */
#include "agent/net/firewall.h"
#include "agent/net/limit.h"
#include "agent/net/fwtext.h"
#include "agent/net/ipv4.h"
#include "agent/net/nfset.h"
#include "agent/net/tally.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const edges[] = {"fd00:1:2::1", "fd00:1:2::2", NULL};
static const struct mt_fw_vm vms[] = {
    {.tap = "mt00000", .address = "fd00:1:2:1::1", .ports = {8443, 9000}, .port_count = 2},
    {.tap = "mt00001", .address = "fd00:1:2:1::2"},
};

static char *text_of(enum mt_fw_mode mode, const char *egress)
{
    struct mt_fw_conf c = {.mode = mode, .cluster_prefix = "fd00:1:2::/48", .edges = edges, .uids = {0, 64042}, .uid_count = 2};
    struct mt_buf b = MT_BUF_INIT(1 << 20);
    (void)snprintf(c.egress_mode, sizeof c.egress_mode, "%s", egress);
    mt_fw_text(&c, vms, 2, &b);
    return mt_buf_take(&b);
}

static void the_table_is_replaced_in_one_transaction(void **s)
{
    (void)s;
    char *t = text_of(MT_FW_FULL, "none");
    assert_int_equal(strncmp(t, "table inet moat\ndelete table inet moat\ntable inet moat {\n", 56), 0);
    assert_non_null(strstr(t, "\"mt00000\" . fd00:1:2:1::1, \"mt00001\" . fd00:1:2:1::2 }"));
    assert_non_null(strstr(t, "elements = { fd00:1:2:1::1 . 8443, fd00:1:2:1::1 . 9000 }"));
    assert_non_null(strstr(t, "meta skuid { 0, 64042 } accept"));
    assert_non_null(strstr(t, "iifname != { \"mt*\", \"wg-moat\" } tcp flags & (syn | ack) == ack ct state new accept\n"));
    free(t);
}

/* ruling R28: on somebody's machine no rule may match anything that does not touch a tap */
static void taps_mode_touches_taps_only(void **s)
{
    (void)s;
    char *t = text_of(MT_FW_TAPS, "nat66");
    const char *base[] = {"chain pre {", "chain in {", "chain through {", "chain out {", "chain post {", "chain mss {"};
    assert_null(strstr(t, "policy drop"));
    for (size_t i = 0; i < sizeof base / sizeof base[0]; i++) {
        char *at = strstr(t, base[i]);
        assert_non_null(at);
        char *end = strstr(at, "\n  }");
        assert_non_null(end);
        char *line = strchr(at, '\n') + 1;
        for (line = strchr(line, '\n') + 1; line < end; line = strchr(line, '\n') + 1) {
            char *stop = strchr(line, '\n'), keep = *stop;
            *stop = '\0';
            if (!strstr(line, "iifname \"mt*\"") && !strstr(line, "oifname \"mt*\""))
                fail_msg("%s holds '%s'", base[i], line);
            *stop = keep;
        }
    }
    free(t);
}

static void without_egress_guests_go_nowhere(void **s)
{
    (void)s;
    char *t = text_of(MT_FW_TAPS, "none");
    assert_null(strstr(t, "iifname \"mt*\" counter accept"));
    assert_null(strstr(t, "masquerade"));
    assert_non_null(strstr(t, "    iifname \"mt*\" goto drop_no_egress\n  }"));
    free(t);
    t = text_of(MT_FW_FULL, "nat66");
    assert_non_null(strstr(t, "iifname \"mt*\" counter accept"));
    assert_non_null(strstr(t, "masquerade"));
    free(t);
}

/* what a VM has opened ends although it is established; that rule must come first, and no table differs in text when somebody is put in */
static void private_ipv4_is_out_of_reach_behind_a_nat64_too(void **s)
{
    (void)s;
    mt_auto_buf struct mt_buf plain = MT_BUF_INIT(1 << 20), own = MT_BUF_INIT(1 << 20);
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48", .egress_mode = "routed", .nat64_prefix = "64:ff9b::/96"};
    mt_fw_text(&c, NULL, 0, &plain);
    assert_non_null(strstr(mt_buf_cstr(&plain), "2002::/16, 64:ff9b::/104, 64:ff9b::a00:0/104, 64:ff9b::6440:0/106, 64:ff9b::7f00:0/104, 64:ff9b::a9fe:0/112, "
                                                "64:ff9b::ac10:0/108, 64:ff9b::c0a8:0/112, 64:ff9b::e000:0/100, 64:ff9b::f000:0/100 } }"));
    (void)snprintf(c.nat64_prefix, sizeof c.nat64_prefix, "2a00:64::/96");
    mt_fw_text(&c, NULL, 0, &own);
    assert_non_null(strstr(mt_buf_cstr(&own), ", 64:ff9b::a00:0/104, "));
    assert_non_null(strstr(mt_buf_cstr(&own), ", 2a00:64::a00:0/104, "));
    assert_null(strstr(mt_buf_cstr(&plain), "2a00:64::"));
}

static void nothing_comes_from_outside_to_the_cluster_but_answers_to_vms_that_are_routed(void **s)
{
    (void)s;
    static const char line[] = "    iifname != { \"wg-moat\", \"lo\", \"mt*\" } ip6 daddr @cluster6";
    static const struct {
        const char *egress, *prefix, *rest;
    } rows[] = {{"routed", "fd00:1:2:1:1::/80", " ip6 daddr != fd00:1:2:1:1::/80 goto drop_underlay_spoof\n"}, {"routed", "", " goto drop_underlay_spoof\n"},
                {"nat66", "fd00:1:2:1:1::/80", " goto drop_underlay_spoof\n"}, {"none", "fd00:1:2:1:1::/80", " goto drop_underlay_spoof\n"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48"};
        mt_auto_buf struct mt_buf o = MT_BUF_INIT(1U << 20);
        (void)snprintf(c.egress_mode, sizeof c.egress_mode, "%s", rows[i].egress);
        (void)snprintf(c.own_prefix, sizeof c.own_prefix, "%s", rows[i].prefix);
        mt_fw_text(&c, NULL, 0, &o);
        const char *at = strstr(mt_buf_cstr(&o), line);
        assert_non_null(at);
        assert_int_equal(strncmp(at + sizeof line - 1, rows[i].rest, strlen(rows[i].rest)), 0);
    }
}

static void a_dedicated_address_is_open_at_its_edges_ports_only(void **s)
{
    (void)s;
    static const char *const own[] = {"203.0.113.9", NULL}, *const open[] = {"203.0.113.9 . 443", NULL}, *const edge[] = {"443", "10000", NULL};
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48", .egress_mode = "none", .own4 = own, .public4 = open, .edge_ports = edge, .open = {{22, 22, true, false}, {10000, 29999, true, false}}, .open_count = 2, .scrapers = {"fd00:1:2::3"}, .scrapers_count = 1, .metrics_ports = {9464, 9999}, .metrics_ports_count = 2};
    mt_auto_buf struct mt_buf o = MT_BUF_INIT(1U << 20);
    mt_fw_text(&c, NULL, 0, &o);
    const char *t = mt_buf_cstr(&o), *accept = strstr(t, "ip daddr . tcp dport @public4 accept"), *drop = strstr(t, "ip daddr @own4 goto drop_own_ipv4");
    assert_non_null(strstr(t, "set own4 { type ipv4_addr; elements = { 203.0.113.9 } }"));
    assert_non_null(strstr(t, "set public4 { type ipv4_addr . inet_service; elements = { 203.0.113.9 . 443 } }"));
    assert_true(accept && drop && accept < drop && drop < strstr(t, "tcp dport 22 accept"));
    assert_non_null(strstr(t, "set edge_ports { type inet_service; elements = { 443, 10000 } }"));
    assert_non_null(strstr(t, "    iifname != \"wg-moat\" meta nfproto ipv6 tcp dport @edge_ports accept\n"));
    assert_non_null(strstr(t, "    iifname != \"wg-moat\" tcp dport 10000-29999 accept\n"));
    assert_non_null(strstr(t, "    iifname \"wg-moat\" ip6 saddr fd00:1:2::3 tcp dport { 9464, 9999 } accept\n"));
    /* somebody's machine: its input is its own */
    mt_auto_buf struct mt_buf taps = MT_BUF_INIT(1U << 20);
    c.mode = MT_FW_TAPS;
    mt_fw_text(&c, NULL, 0, &taps);
    assert_null(strstr(mt_buf_cstr(&taps), "@own4"));
    assert_null(strstr(mt_buf_cstr(&taps), "9464"));
    assert_null(strstr(mt_buf_cstr(&taps), "@edge_ports"));
}

static void neighbours_come_before_what_is_refused_and_after_quarantine(void **s)
{
    (void)s;
    static const char *const pairs[] = {"fd00:1:2:1:1::1 . fd00:1:2:1:1::2 . 8080", NULL};
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48", .egress_mode = "none", .private6 = pairs};
    mt_auto_buf struct mt_buf o = MT_BUF_INIT(1U << 20);
    mt_fw_text(&c, NULL, 0, &o);
    const char *t = mt_buf_cstr(&o), *through = strstr(t, "chain through"), *sick = strstr(through, "@quarantine ct direction original goto drop_quarantined");
    const char *in = strstr(through, "iifname { \"mt*\", \"wg-moat\" } oifname \"mt*\" ip6 saddr . ip6 daddr . tcp dport @private6 ct state new accept");
    const char *out = strstr(through, "iifname \"mt*\" oifname \"wg-moat\" ip6 saddr . ip6 daddr . tcp dport @private6 ct state new accept");
    assert_non_null(strstr(t, "set private6 { type ipv6_addr . ipv6_addr . inet_service; elements = { fd00:1:2:1:1::1 . fd00:1:2:1:1::2 . 8080 } }"));
    assert_true(sick && in && out && sick < in && in < strstr(through, "    oifname \"mt*\" goto drop_to_guest") && out < strstr(through, "iifname \"mt*\" oifname { \"mt*\", \"wg-moat\" } goto drop_guest_lateral"));
}

static void the_uplink_is_that_of_the_best_default_route(void **s)
{
    (void)s;
    char dev[IFNAMSIZ];
    static const char head[] = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    char text[600];
    (void)snprintf(text, sizeof text, "%seth1\t00000000\t0100000A\t0003\t0\t0\t200\t00000000\t0\t0\t0\neth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
                   "lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n", head);
    assert_true(mt_ipv4_uplink(text, dev));
    assert_string_equal(dev, "eth0");
    (void)snprintf(text, sizeof text, "%seth1\t00000000\t0100000A\t0000\t0\t0\t1\t00000000\t0\t0\t0\neth2\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", head);
    assert_false(mt_ipv4_uplink(text, dev)); /* one is down, the other no default route */
    assert_false(mt_ipv4_uplink(head, dev));
    assert_false(mt_ipv4_uplink("", dev));
}

static void quarantine_comes_before_what_is_established(void **s)
{
    (void)s;
    static const char *const sick[] = {"fd00:1:2:1::2", NULL};
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48", .egress_mode = "nat66", .quarantine = sick};
    struct mt_buf b = MT_BUF_INIT(1 << 20), rules = MT_BUF_INIT(1 << 20), well = MT_BUF_INIT(1 << 20);
    mt_fw_text(&c, vms, 2, &b);
    const char *t = mt_buf_cstr(&b), *through = strstr(t, "chain through {"), *out = strstr(through, "ct direction original goto drop_quarantined");
    const char *in = strstr(through, "ip6 daddr @quarantine ct direction reply goto drop_quarantined_reply"), *open = strstr(through, "established,related accept");
    assert_non_null(strstr(t, "set quarantine { type ipv6_addr; elements = { fd00:1:2:1::2 } }"));
    assert_true(out && in && open && out < open && in < open);
    assert_non_null(strstr(open, "iifname \"mt*\" ip6 saddr @quarantine goto drop_quarantined")); /* and what the kernel tracks not at all */
    const char *guest = strstr(t, "chain guest_to_host {");
    assert_true(strstr(guest, "ip6 saddr @quarantine goto drop_quarantined") < strstr(guest, "\n  }"));
    /* questions for names too, and each of them counts, not the flow that they come by */
    (void)snprintf(c.resolver, sizeof c.resolver, "fd00:1:2:2::53");
    for (int mode = 0; mode < 2; mode++) {
        mt_auto_buf struct mt_buf asks = MT_BUF_INIT(1 << 20);
        c.mode = mode ? MT_FW_TAPS : MT_FW_FULL;
        mt_fw_text(&c, vms, 2, &asks);
        const char *chain = strstr(mt_buf_cstr(&asks), "chain guest_asks {"), *input = strstr(mt_buf_cstr(&asks), "chain in {"), *end = strstr(chain, "\n  }");
        const char *gone = strstr(chain, "ip6 saddr @quarantine ct direction original goto drop_quarantined"), *each = strstr(chain, "udp dport 53 update @asks"), *yes = strstr(chain, "th dport 53 accept");
        assert_true(gone && each && yes && gone < each && each < yes && yes < end && end < input);
        assert_true(strstr(input, "iifname \"mt*\" ip6 daddr fd00:1:2:2::53 jump guest_asks") < strstr(input, "established,related accept"));
    }
    c.mode = MT_FW_FULL;
    c.resolver[0] = '\0';
    mt_fw_rules_text(&c, &rules);
    c.quarantine = NULL;
    mt_fw_rules_text(&c, &well);
    assert_string_equal(mt_buf_cstr(&rules), mt_buf_cstr(&well));
    mt_buf_done(&b);
    mt_buf_done(&rules);
    mt_buf_done(&well);
}

static void rules_are_replaced_without_touching_sets(void **s)
{
    (void)s;
    struct mt_buf b = MT_BUF_INIT(1 << 16);
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .cluster_prefix = "fd00:1:2::/48", .egress_mode = "nat66"};
    mt_fw_rules_text(&c, &b);
    assert_int_equal(strncmp(mt_buf_cstr(&b), "flush table inet moat\ntable inet moat {\n  chain drop_guest_non_ipv6 {", 66), 0);
    assert_null(strstr(mt_buf_cstr(&b), "  set "));
    assert_null(strstr(mt_buf_cstr(&b), "delete"));
    mt_buf_done(&b);
}

/* the layout that the kernel keeps for `ifname . ipv6_addr` and `ipv6_addr . inet_service` */
static void elements_have_the_kernels_layout(void **s)
{
    (void)s;
    struct mt_nfset_elem e[33];
    static const uint8_t address[16] = {0xfd, 0, 0, 1, 0, 2, 0, 1, [15] = 1};
    assert_int_equal(mt_fw_vm_elems(&vms[0], true, e), 3);
    assert_string_equal(e[0].set, "tapsrc");
    assert_int_equal(e[0].len, 32);
    assert_memory_equal(e[0].key, "mt00000\0\0\0\0\0\0\0\0", 16);
    assert_memory_equal(e[0].key + 16, address, 16);
    assert_string_equal(e[2].set, "svc");
    assert_int_equal(e[2].len, 20);
    assert_memory_equal(e[2].key, address, 16);
    assert_memory_equal(e[2].key + 16, "\x23\x28\0\0", 4); /* 9000 */
    struct mt_fw_vm bad = {.tap = "mt00002", .address = "none"};
    assert_int_equal(mt_fw_vm_elems(&bad, true, e), 0);
}

static struct mt_fw_ports ports(const char *text)
{
    struct mt_fw_ports p;
    struct mt_err err = {0};
    if (mt_fw_ports_parse(text, &p, &err) < 0)
        fail_msg("%s", err.msg);
    return p;
}

static void blocked_ports_are_one_list_without_overlaps(void **s)
{
    (void)s;
    static const char *const bad[] = {"", "0", "65536", "25-", "-25", "30-20", "25/", "25/icmp", "25 ", "a", "1-2-3", "99999", "25/tcpx", "1000000"};
    struct mt_fw_ports p;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(mt_fw_ports_parse(bad[i], &p, NULL), -MT_E_INVALID);
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .egress_mode = "nat66", .blocked_ports_count = 6};
    const char *const good[] = {"25", "135-139", "130-136/tcp", "11211/udp", "65535", "26/udp"};
    for (size_t i = 0; i < 6; i++)
        c.blocked_ports[i] = ports(good[i]);
    mt_auto_buf struct mt_buf o = MT_BUF_INIT(1U << 20);
    mt_fw_text(&c, NULL, 0, &o);
    assert_non_null(strstr(mt_buf_cstr(&o), "set blocked_tcp { type inet_service; flags interval; elements = { 25, 130-139, 65535 } }\n"
                                            "  set blocked_udp { type inet_service; flags interval; elements = { 25-26, 135-139, 11211, 65535 } }\n"));
}

/* nothing else in the table differs, and still it is another one: what a limit counts keeps the limit that it was made with */
static void other_limits_make_another_table(void **s)
{
    (void)s;
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .egress_mode = "nat66", .flows = 4096, .new_flows = 200, .new_flows_burst = 1000};
    mt_auto_buf struct mt_buf a = MT_BUF_INIT(1U << 20), b = MT_BUF_INIT(1U << 20);
    char one[MT_FW_STAMP_MAX], two[MT_FW_STAMP_MAX];
    mt_fw_text(&c, NULL, 0, &a);
    mt_fw_stamp(&c, one);
    assert_non_null(strstr(mt_buf_cstr(&a), "limit rate over 200/second burst 1000 packets } goto drop_new_flows\n"));
    assert_non_null(strstr(mt_buf_cstr(&a), "ct count over 4096 } goto drop_flows_full\n"));
    c.flows = 0;
    c.new_flows = 0;
    mt_fw_text(&c, NULL, 0, &b);
    mt_fw_stamp(&c, two);
    assert_null(strstr(mt_buf_cstr(&b), "goto drop_new_flows"));
    assert_null(strstr(mt_buf_cstr(&b), "ct count"));
    assert_string_not_equal(one, two);
}

/* every packet that a rule ends is counted: none ends in a chain without a counter */
static void nothing_is_dropped_uncounted(void **s)
{
    (void)s;
    char *t = text_of(MT_FW_FULL, "nat66"), *at = NULL;
    for (char *line = strtok_r(t, "\n", &at), *before = NULL; line; before = line, line = strtok_r(NULL, "\n", &at)) {
        bool ends = strcmp(line, "    drop") == 0 || strncmp(line, "    reject", 10) == 0;
        if (ends && !strstr(before, "counter name ") && !strstr(before, "limit rate 100/second reject"))
            fail_msg("'%s' after '%s'", line, before);
        if (!ends && (strstr(line, " drop") || strstr(line, "reject")) && !strstr(line, "goto drop_") && !strstr(line, "chain drop_") && !strstr(line, "policy drop") &&
            !strstr(line, "ct state invalid drop") && !strstr(line, "limit rate 100/second reject"))
            fail_msg("'%s' is not counted", line);
    }
    free(t);
}

static void a_table_that_is_made_anew_goes_on_counting(void **s)
{
    (void)s;
    struct mt_fw_vm_tally vm = {.opened = {7, 700}, .drops = {[MT_FW_GUEST_SPOOF] = {3, 120}, [MT_FW_BLOCKED_PORT] = {2, 80}}}, gone = vm;
    (void)inet_pton(AF_INET6, vms[0].address, &vm.address);
    (void)inet_pton(AF_INET6, "fd00:1:2:1::99", &gone.address);
    struct mt_fw_vm_tally both[] = {vm, gone};
    struct mt_fw_tally t = {.rules = {[MT_FW_GUEST_SPOOF] = {4, 160}}, .vms = both, .n = 2};
    struct mt_fw_conf c = {.mode = MT_FW_FULL, .egress_mode = "nat66"};
    mt_auto_buf struct mt_buf o = MT_BUF_INIT(1U << 20);
    mt_fw_text_with(&c, vms, 2, &t, &o);
    const char *text = mt_buf_cstr(&o);
    assert_non_null(strstr(text, "counter guest_spoof { packets 4 bytes 160; }"));
    assert_non_null(strstr(text, "set n_guest_spoof { type ifname; flags dynamic; size 65536; elements = { \"mt00000\" counter packets 3 bytes 120 } }"));
    assert_non_null(strstr(text, "fd00:1:2:1::1 counter packets 2 bytes 80, "));
    assert_non_null(strstr(text, "set n_opened { type ipv6_addr; flags dynamic; size 65536; elements = { fd00:1:2:1::1 counter packets 7 bytes 700, "));
    assert_ptr_equal(mt_fw_tally_of(&t, &gone.address), &both[1]);
}

static void limits_are_of_one_link_both_ways(void **state)
{
    (void)state;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(4096);
    mt_limit_text("mt0000a", 1000, 0, &b);
    assert_string_equal(mt_buf_cstr(&b), "table netdev moat-mt0000a\ndelete table netdev moat-mt0000a\ntable netdev moat-mt0000a {\n"
                        "  chain from_guest {\n    type filter hook ingress device \"mt0000a\" priority 0; policy accept;\n"
                        "    limit rate over 1000 bytes/second burst 262144 bytes counter drop\n  }\n"
                        "  chain to_guest {\n    type filter hook egress device \"mt0000a\" priority 0; policy accept;\n"
                        "    limit rate over 1000 bytes/second burst 262144 bytes counter drop\n  }\n}\n");
    mt_buf_done(&b);
    mt_buf_init(&b, 4096);
    mt_limit_text("mtfffff", 10000000000, 7, &b);
    assert_non_null(strstr(mt_buf_cstr(&b), "limit rate over 10000000000 bytes/second burst 4294967295 bytes counter drop\n    limit rate over 7/second burst 14 packets counter drop"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_are_of_one_link_both_ways),
        cmocka_unit_test(the_table_is_replaced_in_one_transaction),
        cmocka_unit_test(taps_mode_touches_taps_only),
        cmocka_unit_test(without_egress_guests_go_nowhere),
        cmocka_unit_test(private_ipv4_is_out_of_reach_behind_a_nat64_too),
        cmocka_unit_test(nothing_comes_from_outside_to_the_cluster_but_answers_to_vms_that_are_routed),
        cmocka_unit_test(a_dedicated_address_is_open_at_its_edges_ports_only),
        cmocka_unit_test(neighbours_come_before_what_is_refused_and_after_quarantine),
        cmocka_unit_test(the_uplink_is_that_of_the_best_default_route),
        cmocka_unit_test(quarantine_comes_before_what_is_established),
        cmocka_unit_test(rules_are_replaced_without_touching_sets),
        cmocka_unit_test(blocked_ports_are_one_list_without_overlaps),
        cmocka_unit_test(other_limits_make_another_table),
        cmocka_unit_test(nothing_is_dropped_uncounted),
        cmocka_unit_test(a_table_that_is_made_anew_goes_on_counting),
        cmocka_unit_test(elements_have_the_kernels_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
