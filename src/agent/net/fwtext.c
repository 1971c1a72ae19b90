/* SPDX-License-Identifier: Apache-2.0 */
/* Text of the nftables table `inet moat`; pure. See firewall.h; the rules are those of networking.md §5.2. */
#include "agent/net/fwtext.h"

#include "agent/net/tally.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"

#include <arpa/inet.h>

static void put_list_set(struct mt_buf *o, const char *name, const char *type, const char *const *v)
{
    mt_buf_printf(o, "  set %s { type %s;", name, type);
    if (v && v[0]) {
        mt_buf_puts(o, " elements = { ");
        for (size_t i = 0; v[i]; i++)
            mt_buf_printf(o, "%s%s", i ? ", " : "", v[i]);
        mt_buf_puts(o, " }");
    }
    mt_buf_puts(o, " }\n");
}

/* IPv4 that is nobody's on the Internet, as it looks behind the NAT64 prefix @prefix ("ADDRESS/96"): RFC 6052 2.2; the ranges of networking.md
 * 5.3. A translator in the operator's own network would else lead guests into it. */
static void put_private_behind(const char *prefix, struct mt_buf *o)
{
    static const struct {
        uint8_t v4[2];
        unsigned len;
    } ranges[] = {{{0, 0}, 8}, {{10, 0}, 8}, {{100, 64}, 10}, {{127, 0}, 8}, {{169, 254}, 16}, {{172, 16}, 12}, {{192, 168}, 16}, {{224, 0}, 4}, {{240, 0}, 4}};
    uint8_t a[16];
    char text[INET6_ADDRSTRLEN];
    (void)snprintf(text, sizeof text, "%.*s", (int)strcspn(prefix, "/"), prefix);
    if (inet_pton(AF_INET6, text, a) != 1)
        return;
    for (size_t i = 0; i < MT_ARRAY_LEN(ranges); i++) {
        memcpy(a + 12, (const uint8_t[4]){ranges[i].v4[0], ranges[i].v4[1], 0, 0}, 4);
        mt_buf_printf(o, ", %s/%u", inet_ntop(AF_INET6, a, text, sizeof text), 96 + ranges[i].len);
    }
}

int mt_fw_ports_parse(const char *text, struct mt_fw_ports *ret, struct mt_err *err)
{
    char from[8] = "", to[8] = "", proto[8] = "";
    int end = 0;
    uint64_t a, b;
    /* FROM[-TO][/PROTO] */
    if (sscanf(text, "%5[0-9]%n", from, &end) != 1)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no port: 25, 135-139 or 11211/udp", text);
    const char *p = text + end;
    if (*p == '-' && sscanf(p, "-%5[0-9]%n", to, &end) == 1)
        p += end;
    if (*p == '/' && sscanf(p, "/%3[a-z]%n", proto, &end) == 1)
        p += end;
    if (*p || mt_parse_u64(from, 1, 65535, &a, NULL) < 0 || mt_parse_u64(to[0] ? to : from, 1, 65535, &b, NULL) < 0 || b < a ||
        (proto[0] && !MT_STREQ(proto, "tcp") && !MT_STREQ(proto, "udp")))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no port: 25, 135-139 or 11211/udp", text);
    *ret = (struct mt_fw_ports){.from = (uint16_t)a, .to = (uint16_t)b, .tcp = !MT_STREQ(proto, "udp"), .udp = !MT_STREQ(proto, "tcp")};
    return 0;
}

/* Ranges of one protocol that do not touch: the kernel takes no overlapping ones, and an operator need not care. */
static void put_runs(const struct mt_fw_conf *c, bool udp, struct mt_buf *o)
{
    uint8_t blocked[65536 / 8] = {0};
    bool any = false;
    mt_buf_printf(o, "  set blocked_%s { type inet_service; flags interval;", udp ? "udp" : "tcp");
    for (size_t i = 0; i < c->blocked_ports_count; i++) {
        const struct mt_fw_ports *p = &c->blocked_ports[i];
        for (unsigned k = p->from; (udp ? p->udp : p->tcp) && k <= p->to; k++)
            blocked[k / 8] = (uint8_t)(blocked[k / 8] | 1U << k % 8);
    }
    for (unsigned k = 1, first = 0; k <= 65536; k++) {
        bool on = k < 65536 && (blocked[k / 8] >> k % 8 & 1);
        if (on && !first)
            first = k;
        if (on || !first)
            continue;
        mt_buf_printf(o, "%s%u", any ? ", " : " elements = { ", first);
        if (k - 1 > first)
            mt_buf_printf(o, "-%u", k - 1);
        any = true;
        first = 0;
    }
    mt_buf_puts(o, any ? " } }\n" : " }\n");
}

/* Two sets, not one of protocol and port: ranges in a concatenation are refused by Debian's 6.12 ("Operation not supported"). */
static void put_blocked_ports(const struct mt_fw_conf *c, struct mt_buf *o)
{
    put_runs(c, false, o);
    put_runs(c, true, o);
}

/* What a set is, without what comes and goes in it: two tables with the same text differ in elements and rules only. */
static void put_fixed_sets(const struct mt_fw_conf *c, struct mt_buf *o)
{
    mt_buf_puts(o, "  set cluster6 { type ipv6_addr; flags interval;");
    if (c->cluster_prefix[0])
        mt_buf_printf(o, " elements = { %s }", c->cluster_prefix);
    mt_buf_puts(o, " }\n"
                   "  set blocked6 { type ipv6_addr; flags interval; auto-merge; elements = { fc00::/7, fe80::/10, "
                   "fec0::/10, ::/96, ::ffff:0:0/96, 2001:db8::/32, ff00::/8, 64:ff9b:1::/48, 2001::/32, "
                   "2002::/16");
    put_private_behind("64:ff9b::/96", o);
    if (c->nat64_prefix[0] && !MT_STREQ(c->nat64_prefix, "64:ff9b::/96"))
        put_private_behind(c->nat64_prefix, o);
    for (size_t i = 0; i < c->blocked6_count; i++)
        mt_buf_printf(o, ", %s", c->blocked6[i]);
    mt_buf_puts(o, " } }\n");
    put_blocked_ports(c, o);
    mt_buf_puts(o,
                   "  set newflows { type ipv6_addr; flags dynamic; size 65536; timeout 1m; }\n"
                   "  set asks { type ipv6_addr; flags dynamic; size 65536; timeout 1m; }\n"
                   "  set flows { type ipv6_addr; flags dynamic; size 65536; }\n");
}

void mt_fw_stamp(const struct mt_fw_conf *c, char ret[MT_FW_STAMP_MAX])
{
    uint8_t sum[MT_SHA256_LEN];
    char hex[17];
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(16384);
    mt_buf_puts(&text, "6 edges gateways underlay6 quarantine own4 public4 private6 edge_ports tapsrc svc\n"); /* raised with every change of the other sets */
    put_fixed_sets(c, &text);
    /* an element of `newflows` and `flows` keeps the limit that it was made with */
    mt_buf_printf(&text, "%u %u %u\n", c->flows, c->new_flows, c->new_flows_burst);
    mt_fw_tally_text(NULL, NULL, NULL, &text);
    mt_sha256_of(mt_buf_cstr(&text), text.len, sum);
    mt_hex_encode(sum, 8, hex);
    hex[16] = '\0';
    (void)snprintf(ret, MT_FW_STAMP_MAX, "made_%s", hex);
}

struct vms {
    const struct mt_fw_vm *v;
    size_t n;
};

static const char *tap_of(const void *arg, const struct in6_addr *address)
{
    const struct vms *vms = arg;
    struct in6_addr a;
    for (size_t i = 0; i < vms->n; i++)
        if (inet_pton(AF_INET6, vms->v[i].address, &a) == 1 && memcmp(&a, address, sizeof a) == 0)
            return vms->v[i].tap;
    return NULL;
}

static void put_sets(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, const struct mt_fw_tally *t, struct mt_buf *o)
{
    char stamp[MT_FW_STAMP_MAX];
    const struct vms all = {vms, n};
    mt_fw_stamp(c, stamp);
    mt_buf_printf(o, "  set %s { type inet_service; }\n", stamp);
    put_list_set(o, "edges", "ipv6_addr", c->edges);
    put_fixed_sets(c, o);
    mt_buf_puts(o, "  set tapsrc { type ifname . ipv6_addr;");
    for (size_t i = 0; i < n; i++)
        mt_buf_printf(o, "%s\"%s\" . %s%s", i ? ", " : " elements = { ", vms[i].tap, vms[i].address,
                      i + 1 == n ? " }" : "");
    mt_buf_puts(o, " }\n  set svc { type ipv6_addr . inet_service;");
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < vms[i].port_count; k++) {
            mt_buf_printf(o, "%s%s . %u", any ? ", " : " elements = { ", vms[i].address,
                          (unsigned)vms[i].ports[k]);
            any = true;
        }
    }
    mt_buf_puts(o, any ? " } }\n" : " }\n");
    put_list_set(o, "gateways", "ipv6_addr", c->gateways);
    put_list_set(o, "underlay6", "ipv6_addr", c->underlay);
    put_list_set(o, "quarantine", "ipv6_addr", c->quarantine);
    put_list_set(o, "private6", "ipv6_addr . ipv6_addr . inet_service", c->private6);
    put_list_set(o, "edge_ports", "inet_service", c->edge_ports);
    put_list_set(o, "own4", "ipv4_addr", c->own4);
    put_list_set(o, "public4", "ipv4_addr . inet_service", c->public4);
    mt_fw_tally_text(t, tap_of, &all, o);
}

static void put_input(const struct mt_fw_conf *c, struct mt_buf *o)
{
    bool full = c->mode == MT_FW_FULL;

    mt_buf_printf(o, "  chain in {\n    type filter hook input priority filter; policy %s;\n",
                  full ? "drop" : "accept");
    if (c->resolver[0])
        mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr %s jump guest_asks\n", c->resolver);
    if (full)
        mt_buf_puts(o, "    iifname \"lo\" accept\n"
                       "    ct state established,related accept\n"
                       "    ct state invalid drop\n"
                       /* Connections older than this table: the kernel has begun to watch them with it, and when the other side speaks first
                        * its answer looks new. No connection begins without SYN. */
                       "    iifname != { \"mt*\", \"wg-moat\" } tcp flags & (syn | ack) == ack ct state new accept\n"
                       "    iifname \"mt*\" jump guest_to_host\n"
                       "    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept\n"
                       "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-redirect, "
                       "mld-listener-query } accept\n"
                       "    icmpv6 type echo-request limit rate 100/second accept\n"
                       "    iifname \"wg-moat\" ip6 saddr @gateways tcp dport 5180 accept\n"
                       /* what the host itself serves on all of its addresses is not for the clients of an environment */
                       "    ip daddr . tcp dport @public4 accept\n"
                       "    ip daddr @own4 goto drop_own_ipv4\n");
    if (full && c->mesh_port)
        mt_buf_printf(o, "    iifname != \"wg-moat\" udp dport %u accept\n", (unsigned)c->mesh_port);
    if (full)
        mt_buf_puts(o, "    iifname != \"wg-moat\" meta nfproto ipv6 tcp dport @edge_ports accept\n");
    for (size_t i = 0; full && i < c->open_count; i++) {
        mt_buf_printf(o, "    iifname != \"wg-moat\" tcp dport %u", (unsigned)c->open[i].from);
        if (c->open[i].to > c->open[i].from)
            mt_buf_printf(o, "-%u", (unsigned)c->open[i].to);
        mt_buf_puts(o, " accept\n");
    }
    for (size_t i = 0; full && i < c->scrapers_count; i++) {
        mt_buf_printf(o, "    iifname \"wg-moat\" ip6 saddr %s tcp dport { ", c->scrapers[i]);
        for (size_t k = 0; k < c->metrics_ports_count; k++)
            mt_buf_printf(o, "%s%u", k ? ", " : "", (unsigned)c->metrics_ports[k]);
        mt_buf_puts(o, " } accept\n");
    }
    if (!full)
        mt_buf_puts(o, "    iifname \"mt*\" ct state established,related accept\n"
                       "    iifname \"mt*\" jump guest_to_host\n");
    mt_buf_puts(o, "  }\n  chain guest_to_host {\n"
                   "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
                   "    icmpv6 type echo-request ip6 daddr fe80::1 limit rate 10/second accept\n"
                   "    ip6 saddr @quarantine goto drop_quarantined\n");
    mt_buf_puts(o, "    goto drop_guest_to_host\n  }\n");
}

/* Questions for names, before what is established: a VM that asks all of them by one port, or is put in quarantine while it does, has a flow that
 * is. Over UDP each packet is a question; over TCP connections are counted, what goes through one is the resolver's to bound. */
static void put_questions(const struct mt_fw_conf *c, struct mt_buf *o)
{
    static const char limit[] = "update @asks { ip6 saddr limit rate over 200/second burst 400 packets } goto drop_guest_to_host";
    mt_buf_puts(o, "  chain guest_asks {\n");
    if (c->resolver[0])
        mt_buf_printf(o, "    ip6 saddr @quarantine ct direction original goto drop_quarantined\n"
                         "    udp dport 53 %s\n"
                         "    tcp dport 53 ct state new %s\n"
                         "    meta l4proto { tcp, udp } th dport 53 accept\n", limit, limit);
    mt_buf_puts(o, "  }\n");
}

static void put_forward(const struct mt_fw_conf *c, struct mt_buf *o)
{
    /* on somebody's machine each rule names a tap; on a dedicated node the chain is all ours */
    bool full = c->mode == MT_FW_FULL;
    bool egress = strcmp(c->egress_mode, "nat66") == 0 || strcmp(c->egress_mode, "routed") == 0;

    mt_buf_printf(o, "  chain through {\n    type filter hook forward priority filter; policy %s;\n",
                  full ? "drop" : "accept");
    /* Before what is established: the flows that a VM has opened end too, those opened to it go on. No walk through the kernel's
     * connections is needed for it, and none that comes at the wrong moment is missed. */
    mt_buf_puts(o, "    iifname \"mt*\" ip6 saddr @quarantine ct direction original goto drop_quarantined\n"
                   "    oifname \"mt*\" ip6 daddr @quarantine ct direction reply goto drop_quarantined_reply\n");
    for (int side = 0; side < (full ? 1 : 2); side++) {
        const char *match = full ? "" : side ? "oifname \"mt*\" " : "iifname \"mt*\" ";
        mt_buf_printf(o, "    %sicmpv6 type { destination-unreachable, packet-too-big, time-exceeded, "
                         "parameter-problem } ct state related accept\n", match);
        mt_buf_printf(o, "    %sct state established,related accept\n", match);
    }
    /* an edge's address counts only where WireGuard has proved it: the filter at prerouting is not there in the mode for taps */
    mt_buf_puts(o, "    iifname \"wg-moat\" oifname \"mt*\" ip6 saddr @edges ip6 daddr . tcp dport @svc ct state new accept\n");
    /* between VMs of one environment: the source is what the tap's filter or WireGuard's prefixes have proved */
    mt_buf_puts(o, "    iifname { \"mt*\", \"wg-moat\" } oifname \"mt*\" ip6 saddr . ip6 daddr . tcp dport @private6 ct state new accept\n"
                   "    iifname \"mt*\" oifname \"wg-moat\" ip6 saddr . ip6 daddr . tcp dport @private6 ct state new accept\n");
    /* between VMs it is whoever sends that is counted; what comes from elsewhere is counted where it was to go */
    mt_buf_puts(o, "    iifname \"mt*\" ip6 saddr @quarantine goto drop_quarantined\n"
                   "    iifname \"mt*\" oifname { \"mt*\", \"wg-moat\" } goto drop_guest_lateral\n"
                   "    oifname \"mt*\" goto drop_to_guest\n"
                   "    iifname \"mt*\" ip6 daddr @cluster6 goto drop_guest_lateral\n"
                   "    iifname \"mt*\" ip6 daddr @blocked6 goto drop_blocked_address\n"
                   /* other nodes, but for what anybody may reach there: the edge's and the API's public ports */
                   "    iifname \"mt*\" ip6 daddr @underlay6 meta l4proto != tcp goto drop_blocked_address\n"
                   "    iifname \"mt*\" ip6 daddr @underlay6 tcp dport != { 80, 443 } goto drop_blocked_address\n"
                   "    iifname \"mt*\" tcp dport @blocked_tcp goto drop_blocked_port\n"
                   "    iifname \"mt*\" udp dport @blocked_udp goto drop_blocked_port\n");
    if (egress && c->new_flows)
        mt_buf_printf(o, "    iifname \"mt*\" ct state new update @newflows { ip6 saddr limit rate over %u/second burst %u packets } goto drop_new_flows\n",
                      c->new_flows, c->new_flows_burst);
    if (egress && c->flows)
        mt_buf_printf(o, "    iifname \"mt*\" ct state new add @flows { ip6 saddr ct count over %u } goto drop_flows_full\n", c->flows);
    if (egress)
        mt_buf_puts(o, "    iifname \"mt*\" ct state new update @n_opened { ip6 saddr counter }\n"
                       "    iifname \"mt*\" counter accept\n");
    else
        mt_buf_puts(o, "    iifname \"mt*\" goto drop_no_egress\n");
    mt_buf_puts(o, "  }\n");
}

static void put_output(const struct mt_fw_conf *c, struct mt_buf *o)
{
    mt_buf_puts(o, "  chain out {\n    type filter hook output priority filter; policy accept;\n"
                   "    oifname \"mt*\" ct state established,related accept\n"
                   "    oifname \"mt*\" icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, destination-unreachable, "
                   "packet-too-big, time-exceeded, parameter-problem, echo-reply } accept\n");
    if (c->uid_count) {
        mt_buf_puts(o, "    oifname \"mt*\" ip6 daddr . tcp dport @svc meta skuid { ");
        for (size_t i = 0; i < c->uid_count; i++)
            mt_buf_printf(o, "%s%u", i ? ", " : "", (unsigned)c->uids[i]);
        mt_buf_puts(o, " } accept\n");
    }
    mt_buf_puts(o, "    oifname \"mt*\" goto drop_host_to_guest\n  }\n");
}

static void put_chains(const struct mt_fw_conf *c, struct mt_buf *o)
{
    bool full = c->mode == MT_FW_FULL;

    mt_fw_tally_chains(o);
    mt_buf_puts(o, "  chain pre {\n    type filter hook prerouting priority raw; policy accept;\n"
                   "    iifname \"mt*\" jump guest_in\n");
    if (full) {
        mt_buf_puts(o, "    iifname \"wg-moat\" ip6 saddr != @cluster6 goto drop_mesh_spoof\n"
                       "    iifname != { \"wg-moat\", \"lo\", \"mt*\" } ip6 saddr @cluster6 goto drop_underlay_spoof\n");
        /* routed: answers to this node's VMs come from outside; the forward chain admits established flows only */
        bool answers = strcmp(c->egress_mode, "routed") == 0 && c->own_prefix[0];
        mt_buf_printf(o, "    iifname != { \"wg-moat\", \"lo\", \"mt*\" } ip6 daddr @cluster6%s%s goto drop_underlay_spoof\n", answers ? " ip6 daddr != " : "", answers ? c->own_prefix : "");
    }
    mt_buf_puts(o, "  }\n  chain guest_in {\n"
                   "    meta nfproto != ipv6 goto drop_guest_non_ipv6\n"
                   "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 ip6 saddr fe80::/10 return\n"
                   "    iifname . ip6 saddr @tapsrc return\n"
                   "    goto drop_guest_spoof\n  }\n");
    put_questions(c, o);
    put_input(c, o);
    put_forward(c, o);
    put_output(c, o);
    /* there in every mode, so that a change of mode changes rules only */
    mt_buf_puts(o, "  chain post {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    if (strcmp(c->egress_mode, "nat66") == 0 && c->cluster_prefix[0])
        mt_buf_puts(o, "    iifname \"mt*\" ip6 saddr @cluster6 oifname != { \"wg-moat\", \"lo\", \"mt*\" } masquerade fully-random\n");
    mt_buf_puts(o, "  }\n");
    mt_buf_printf(o, "  chain mss {\n    type filter hook forward priority mangle; policy accept;\n");
    if (full)
        mt_buf_puts(o, "    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n");
    else
        mt_buf_puts(o, "    iifname \"mt*\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n"
                       "    oifname \"mt*\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n");
    mt_buf_puts(o, "  }\n");
}

void mt_fw_text(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, struct mt_buf *o)
{
    mt_fw_text_with(c, vms, n, NULL, o);
}

void mt_fw_text_with(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, const struct mt_fw_tally *t, struct mt_buf *o)
{
    /* naming the table first makes the delete succeed when there was none */
    mt_buf_puts(o, "table inet moat\ndelete table inet moat\ntable inet moat {\n");
    put_sets(c, vms, n, t, o);
    put_chains(c, o);
    mt_buf_puts(o, "}\n");
}

void mt_fw_rules_text(const struct mt_fw_conf *c, struct mt_buf *o)
{
    /* of a table this takes the rules and leaves sets, their elements and what is counted in them */
    mt_buf_puts(o, "flush table inet moat\ntable inet moat {\n");
    put_chains(c, o);
    mt_buf_puts(o, "}\n");
}
