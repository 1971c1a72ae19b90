/* SPDX-License-Identifier: Apache-2.0 */
/* The nftables table of the agent. See firewall.h; the rules are those of networking.md §5.2. */
#include "agent/net/firewall.h"

#include "agent/net/nfset.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/spawn.h"

#include <arpa/inet.h>
#include <pthread.h>

#define TABLE "moat"
#define FW_TEXT_MAX (4U << 20)
#define NFT_TIMEOUT_MS 10000
#define ADDR_LIST_MAX 256
#define UNDERLAY_MAX 1024
#define QUARANTINE_MAX 4096
#define OWN4_MAX 256
#define PUBLIC4_MAX 4096
#define PRIVATE6_MAX 16384
#define TAPSRC_LEN 32 /* ifname 16, ipv6_addr 16 */
#define SVC_LEN 20    /* ipv6_addr 16, inet_service 2, filled to 4 */
#define VM_ELEMS (1 + 32)

/* ---- text, pure -------------------------------------------------------------------------- */

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
    mt_buf_puts(o, " } }\n"
                   "  set blocked_ports { type inet_service; elements = { 25 } }\n"
                   "  set newflows { type ipv6_addr; flags dynamic; size 65536; timeout 1m; }\n"
                   "  set flows { type ipv6_addr; flags dynamic; size 65536; }\n");
}

/* An empty set whose name tells which fixed sets the table was made with: asked by a later process, kept by the kernel. */
static void stamp_of(const struct mt_fw_conf *c, char ret[MT_FW_STAMP_MAX])
{
    uint8_t sum[MT_SHA256_LEN];
    char hex[17];
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(16384);
    mt_buf_puts(&text, "4 edges gateways underlay6 quarantine own4 public4 private6 tapsrc svc\n"); /* raised with every change of the other sets */
    put_fixed_sets(c, &text);
    mt_sha256_of(mt_buf_cstr(&text), text.len, sum);
    mt_hex_encode(sum, 8, hex);
    hex[16] = '\0';
    (void)snprintf(ret, MT_FW_STAMP_MAX, "made_%s", hex);
}

static void put_sets(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, struct mt_buf *o)
{
    char stamp[MT_FW_STAMP_MAX];
    stamp_of(c, stamp);
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
    put_list_set(o, "own4", "ipv4_addr", c->own4);
    put_list_set(o, "public4", "ipv4_addr . inet_service", c->public4);
}

static void put_input(const struct mt_fw_conf *c, struct mt_buf *o)
{
    bool full = c->mode == MT_FW_FULL;

    mt_buf_printf(o, "  chain in {\n    type filter hook input priority filter; policy %s;\n",
                  full ? "drop" : "accept");
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
                       "    ip daddr @own4 counter drop\n");
    if (full && c->mesh_port)
        mt_buf_printf(o, "    iifname != \"wg-moat\" udp dport %u accept\n", (unsigned)c->mesh_port);
    for (size_t i = 0; full && i < c->open_count; i++)
        mt_buf_printf(o, "    iifname != \"wg-moat\" tcp dport %u accept\n", (unsigned)c->open[i]);
    if (!full)
        mt_buf_puts(o, "    iifname \"mt*\" ct state established,related accept\n"
                       "    iifname \"mt*\" jump guest_to_host\n");
    mt_buf_puts(o, "  }\n  chain guest_to_host {\n"
                   "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
                   "    icmpv6 type echo-request ip6 daddr fe80::1 limit rate 10/second accept\n"
                   "    ip6 saddr @quarantine counter drop\n");
    if (c->resolver[0])
        mt_buf_printf(o, "    ip6 daddr %s meta l4proto { tcp, udp } th dport 53 accept\n", c->resolver);
    mt_buf_puts(o, "    counter drop\n  }\n");
}

static void put_forward(const struct mt_fw_conf *c, struct mt_buf *o)
{
    static const char reject[] = "counter reject with icmpv6 type admin-prohibited\n";
    /* on somebody's machine each rule names a tap; on a dedicated node the chain is all ours */
    bool full = c->mode == MT_FW_FULL;
    bool egress = strcmp(c->egress_mode, "nat66") == 0 || strcmp(c->egress_mode, "routed") == 0;

    mt_buf_printf(o, "  chain through {\n    type filter hook forward priority filter; policy %s;\n",
                  full ? "drop" : "accept");
    /* Before what is established: the flows that a VM has opened end too, those opened to it go on. No walk through the kernel's
     * connections is needed for it, and none that comes at the wrong moment is missed. */
    mt_buf_puts(o, "    iifname \"mt*\" ip6 saddr @quarantine ct direction original counter drop\n"
                   "    oifname \"mt*\" ip6 daddr @quarantine ct direction reply counter drop\n");
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
    mt_buf_printf(o, "    oifname \"mt*\" limit rate 100/second %s", reject);
    mt_buf_puts(o, "    oifname \"mt*\" counter drop\n"
                   "    iifname \"mt*\" ip6 saddr @quarantine counter drop\n");
    mt_buf_printf(o, "    iifname \"mt*\" oifname \"wg-moat\" %s", reject);
    mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr @cluster6 %s", reject);
    mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr @blocked6 %s", reject);
    /* other nodes, but for what anybody may reach there: the edge's and the API's public ports */
    mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr @underlay6 meta l4proto != tcp %s", reject);
    mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr @underlay6 tcp dport != { 80, 443 } %s", reject);
    mt_buf_printf(o, "    iifname \"mt*\" meta l4proto { tcp, udp } th dport @blocked_ports %s", reject);
    if (egress)
        mt_buf_puts(o, "    iifname \"mt*\" ct state new update @newflows { ip6 saddr limit rate over 200/second burst "
                       "1000 packets } counter drop\n"
                       "    iifname \"mt*\" ct state new add @flows { ip6 saddr ct count over 4096 } counter drop\n"
                       "    iifname \"mt*\" counter accept\n");
    else
        mt_buf_printf(o, "    iifname \"mt*\" %s", reject);
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
    mt_buf_puts(o, "    oifname \"mt*\" counter drop\n  }\n");
}

static void put_chains(const struct mt_fw_conf *c, struct mt_buf *o)
{
    bool full = c->mode == MT_FW_FULL;

    mt_buf_puts(o, "  chain pre {\n    type filter hook prerouting priority raw; policy accept;\n"
                   "    iifname \"mt*\" jump guest_in\n");
    if (full) {
        mt_buf_puts(o, "    iifname \"wg-moat\" ip6 saddr != @cluster6 counter drop\n"
                       "    iifname != { \"wg-moat\", \"lo\", \"mt*\" } ip6 saddr @cluster6 counter drop\n");
        /* routed: answers to our VMs come from outside; the forward chain admits established flows only */
        if (strcmp(c->egress_mode, "routed") != 0)
            mt_buf_puts(o, "    iifname != { \"wg-moat\", \"lo\", \"mt*\" } ip6 daddr @cluster6 counter drop\n");
    }
    mt_buf_puts(o, "  }\n  chain guest_in {\n"
                   "    meta nfproto != ipv6 counter drop\n"
                   "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 ip6 saddr fe80::/10 return\n"
                   "    iifname . ip6 saddr @tapsrc return\n"
                   "    counter drop\n  }\n");
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
    /* naming the table first makes the delete succeed when there was none */
    mt_buf_puts(o, "table inet moat\ndelete table inet moat\ntable inet moat {\n");
    put_sets(c, vms, n, o);
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

/* ---- elements ---------------------------------------------------------------------------- */

static bool svc_key(const struct mt_fw_vm *vm, size_t port, uint8_t ret[SVC_LEN])
{
    uint16_t be = htons(vm->ports[port]);
    memset(ret, 0, SVC_LEN);
    memcpy(ret + 16, &be, sizeof be);
    return inet_pton(AF_INET6, vm->address, ret) == 1;
}

static bool tapsrc_key(const struct mt_fw_vm *vm, uint8_t ret[TAPSRC_LEN])
{
    memset(ret, 0, TAPSRC_LEN);
    memcpy(ret, vm->tap, strnlen(vm->tap, 15));
    return inet_pton(AF_INET6, vm->address, ret + 16) == 1;
}

size_t mt_fw_vm_elems(const struct mt_fw_vm *vm, bool add, struct mt_nfset_elem *ret)
{
    size_t n = 0;
    ret[n] = (struct mt_nfset_elem){.set = "tapsrc", .add = add, .len = TAPSRC_LEN};
    if (!tapsrc_key(vm, ret[n++].key))
        return 0;
    for (size_t i = 0; i < vm->port_count; i++) {
        ret[n] = (struct mt_nfset_elem){.set = "svc", .add = add, .len = SVC_LEN};
        (void)svc_key(vm, i, ret[n++].key);
    }
    return n;
}

/* ---- the kernel's side ------------------------------------------------------------------- */

enum { LIST_EDGES = 0, LIST_GATEWAYS, LIST_UNDERLAY, LIST_QUARANTINE, LIST_OWN4, LIST_PUBLIC4, LIST_PRIVATE6, LIST_MAX };
static const struct {
    const char *set;
    size_t len; /* of a key: an IPv6 address, an IPv4 one, one with a port filled to 4 bytes, two with a port */
} lists[LIST_MAX] = {{"edges", 16}, {"gateways", 16}, {"underlay6", 16}, {"quarantine", 16}, {"own4", 4}, {"public4", 8}, {"private6", 36}};

struct mt_fw {
    pthread_mutex_t lock; /* held over an nft run: transactions and the list stay in step */
    char *nft;
    struct mt_nfset *nl; /* opened with the first need */
    bool configured;
    struct mt_fw_conf conf;
    char **lists[LIST_MAX]; /* owned copies behind conf.edges, .gateways, .underlay, .quarantine, .own4, .public4, .private6 */
    uint8_t rules_sum[MT_SHA256_LEN]; /* of the text of the rules that this process loaded */
    uint64_t rules; /* what the kernel said of them right after; 0: not loaded by this process */
    struct mt_fw_stats stats;
    struct mt_fw_vm *vms;
    size_t n, cap;
};

static int run_text(struct mt_fw *f, struct mt_buf *text, struct mt_err *err)
{
    const char *const argv[] = {"nft", "-f", "-", NULL};
    struct mt_spawn s = {.path = f->nft, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    if (mt_buf_check(text, err) < 0)
        return mt_err_wrap(err, "firewall rules");
    int rc = mt_run_ok(&s, text->p, text->len, NULL, NFT_TIMEOUT_MS, err);
    return rc < 0 ? mt_err_wrap(err, "nft") : 0;
}

static int netlink(struct mt_fw *f, struct mt_err *err)
{
    return f->nl ? 0 : mt_nfset_open(&f->nl, err);
}

static void lists_done(struct mt_fw *f)
{
    for (int l = 0; l < LIST_MAX; l++) {
        for (size_t i = 0; f->lists[l] && f->lists[l][i]; i++)
            free(f->lists[l][i]);
        free(f->lists[l]);
        f->lists[l] = NULL;
    }
}

struct mt_fw *mt_fw_new(const char *nft_path)
{
    struct mt_fw *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    (void)pthread_mutex_init(&f->lock, NULL);
    f->nft = mt_strndup(nft_path, strlen(nft_path));
    if (!f->nft) {
        mt_fw_free(f);
        return NULL;
    }
    return f;
}

void mt_fw_free(struct mt_fw *f)
{
    if (!f)
        return;
    lists_done(f);
    mt_nfset_close(f->nl);
    free(f->vms);
    free(f->nft);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}

/*
 * Run @text, which loads rules, and remember them by their handles. What the kernel holds after it is only ours when nobody else
 * changed anything since before; else it is not known, and the next look loads once more.
 */
static int load_rules(struct mt_fw *f, struct mt_buf *text, const uint8_t sum[MT_SHA256_LEN], struct mt_err *err)
{
    uint32_t before = 0, after = 0;
    bool sure = netlink(f, NULL) == 0 && mt_nfset_generation(f->nl, &before, NULL) == 0;

    f->rules = 0;
    int rc = run_text(f, text, err);
    if (rc < 0)
        return rc;
    memcpy(f->rules_sum, sum, MT_SHA256_LEN);
    if (!sure || mt_nfset_rules(f->nl, TABLE, &f->rules, NULL) < 0 || mt_nfset_generation(f->nl, &after, NULL) < 0 || after != before + 1)
        f->rules = 0;
    return 0;
}

static int load_whole(struct mt_fw *f, const uint8_t sum[MT_SHA256_LEN], struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    mt_fw_text(&f->conf, f->vms, f->n, &text);
    f->stats.tables++;
    return load_rules(f, &text, sum, err);
}

/* Fields of an element's text, "A . B", one after the other into the kernel's key, which is zero; a port comes last. */
static int list_key(int which, const char *text, uint8_t *key, struct mt_err *err)
{
    size_t at = 0, len = lists[which].len;
    for (const char *p = text; p;) {
        const char *dot = strstr(p, " . ");
        size_t n = dot ? (size_t)(dot - p) : strlen(p), size = len - at >= 16 ? 16 : 4;
        char field[INET6_ADDRSTRLEN];
        uint64_t port;
        bool last = !dot && p != text;
        if (at >= len || n >= sizeof field)
            return MT_FAIL(err, MT_E_INVALID, "'%s' is no element of the set '%s'", text, lists[which].set);
        memcpy(field, p, n);
        field[n] = '\0';
        if (last ? mt_parse_u64(field, 1, 65535, &port, NULL) < 0 : inet_pton(size == 16 ? AF_INET6 : AF_INET, field, key + at) != 1)
            return MT_FAIL(err, MT_E_INVALID, "'%s' is no element of the set '%s'", text, lists[which].set);
        if (last) {
            uint16_t be = htons((uint16_t)port);
            memcpy(key + at, &be, sizeof be);
        }
        at += size;
        p = dot ? dot + 3 : NULL;
    }
    return at == len ? 0 : MT_FAIL(err, MT_E_INVALID, "'%s' is no element of the set '%s'", text, lists[which].set);
}

static int sync_list(struct mt_fw *f, int which, size_t *changed, struct mt_err *err)
{
    size_t n = 0, some = 0, len = lists[which].len;
    int rc = 0;
    while (f->lists[which] && f->lists[which][n])
        n++;
    mt_auto_free uint8_t *keys = calloc(n + 1, len);
    if (!keys)
        return MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = list_key(which, f->lists[which][i], keys + i * len, err);
    if (rc == 0)
        rc = mt_nfset_sync(f->nl, TABLE, lists[which].set, keys, len, n, &some, err);
    *changed += some;
    return rc;
}

static int sync_vms(struct mt_fw *f, size_t *changed, struct mt_err *err)
{
    size_t ports = 0, some = 0;
    for (size_t i = 0; i < f->n; i++)
        ports += f->vms[i].port_count;
    mt_auto_free uint8_t *taps = calloc(f->n + 1, TAPSRC_LEN);
    mt_auto_free uint8_t *svc = calloc(ports + 1, SVC_LEN);
    if (!taps || !svc)
        return MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
    ports = 0;
    for (size_t i = 0; i < f->n; i++) {
        if (!tapsrc_key(&f->vms[i], taps + i * TAPSRC_LEN))
            return MT_FAIL(err, MT_E_INVALID, "'%s' is not an IPv6 address", f->vms[i].address);
        for (size_t k = 0; k < f->vms[i].port_count; k++)
            (void)svc_key(&f->vms[i], k, svc + ports++ * SVC_LEN);
    }
    int rc = mt_nfset_sync(f->nl, TABLE, "tapsrc", taps, TAPSRC_LEN, f->n, &some, err);
    *changed += some;
    if (rc == 0)
        rc = mt_nfset_sync(f->nl, TABLE, "svc", svc, SVC_LEN, ports, &some, err);
    *changed += rc == 0 ? some : 0;
    return rc;
}

static int sync_sets(struct mt_fw *f, size_t *changed, struct mt_err *err)
{
    int rc = sync_vms(f, changed, err);
    for (int l = 0; rc == 0 && l < LIST_MAX; l++)
        rc = sync_list(f, l, changed, err);
    return rc;
}

static bool present_locked(struct mt_fw *f)
{
    char stamp[MT_FW_STAMP_MAX];
    bool there = false;
    stamp_of(&f->conf, stamp);
    return netlink(f, NULL) == 0 && mt_nfset_exists(f->nl, TABLE, stamp, &there, NULL) == 0 && there;
}

/* Only as much as differs: elements; rules when they are others; the table when its fixed sets are others or it is gone. */
static int load_locked(struct mt_fw *f, size_t *ret_changed, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    uint8_t sum[MT_SHA256_LEN];
    uint64_t rules = 0;
    struct mt_err why = {0};

    *ret_changed = 0;
    mt_fw_rules_text(&f->conf, &text);
    if (mt_buf_check(&text, err) < 0)
        return mt_err_wrap(err, "firewall rules");
    mt_sha256_of(text.p, text.len, sum);
    if (!present_locked(f))
        return load_whole(f, sum, err);
    if (f->rules == 0 || memcmp(sum, f->rules_sum, sizeof sum) != 0 || mt_nfset_rules(f->nl, TABLE, &rules, &why) < 0 || rules != f->rules) {
        f->stats.rules++;
        if (load_rules(f, &text, sum, &why) < 0) {
            mt_log(MT_WARN, "firewall.rules_not_replaced", KV_ERR(&why));
            return load_whole(f, sum, err);
        }
    }
    if (sync_sets(f, ret_changed, &why) < 0) {
        mt_log(MT_WARN, "firewall.sets_not_synced", KV_ERR(&why));
        return load_whole(f, sum, err);
    }
    f->stats.elements += *ret_changed;
    return 0;
}

static int copy_list(const char *const *from, char ***to, size_t max, struct mt_err *err)
{
    size_t n = 0;
    while (from && from[n])
        n++;
    if (n > max)
        return MT_FAIL(err, MT_E_LIMIT, "more than %zu addresses in a firewall set", max);
    *to = calloc(n + 1, sizeof **to);
    for (size_t i = 0; *to && i < n; i++) {
        (*to)[i] = mt_strndup(from[i], strlen(from[i]));
        if (!(*to)[i])
            return MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
    }
    return *to ? 0 : MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
}

int mt_fw_load(struct mt_fw *f, const struct mt_fw_conf *c, struct mt_err *err)
{
    size_t changed;
    (void)pthread_mutex_lock(&f->lock);
    lists_done(f);
    f->conf = *c;
    int rc = copy_list(c->edges, &f->lists[LIST_EDGES], ADDR_LIST_MAX, err);
    if (rc == 0)
        rc = copy_list(c->gateways, &f->lists[LIST_GATEWAYS], ADDR_LIST_MAX, err);
    if (rc == 0)
        rc = copy_list(c->underlay, &f->lists[LIST_UNDERLAY], UNDERLAY_MAX, err);
    if (rc == 0)
        rc = copy_list(c->quarantine, &f->lists[LIST_QUARANTINE], QUARANTINE_MAX, err);
    if (rc == 0)
        rc = copy_list(c->own4, &f->lists[LIST_OWN4], OWN4_MAX, err);
    if (rc == 0)
        rc = copy_list(c->public4, &f->lists[LIST_PUBLIC4], PUBLIC4_MAX, err);
    if (rc == 0)
        rc = copy_list(c->private6, &f->lists[LIST_PRIVATE6], PRIVATE6_MAX, err);
    f->conf.private6 = (const char *const *)f->lists[LIST_PRIVATE6];
    f->conf.own4 = (const char *const *)f->lists[LIST_OWN4];
    f->conf.public4 = (const char *const *)f->lists[LIST_PUBLIC4];
    f->conf.edges = (const char *const *)f->lists[LIST_EDGES];
    f->conf.gateways = (const char *const *)f->lists[LIST_GATEWAYS];
    f->conf.underlay = (const char *const *)f->lists[LIST_UNDERLAY];
    f->conf.quarantine = (const char *const *)f->lists[LIST_QUARANTINE];
    f->configured = rc == 0;
    if (rc == 0)
        rc = load_locked(f, &changed, err);
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

int mt_fw_check(struct mt_fw *f, struct mt_fw_found *ret, struct mt_err *err)
{
    uint64_t rules = 0;
    (void)pthread_mutex_lock(&f->lock);
    *ret = (struct mt_fw_found){.loaded = f->configured};
    int rc = 0;
    if (f->configured) {
        ret->table_missing = !present_locked(f);
        ret->rules_changed = !ret->table_missing && f->rules && mt_nfset_rules(f->nl, TABLE, &rules, NULL) == 0 && rules != f->rules;
        rc = load_locked(f, &ret->elements, err);
    }
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

struct mt_fw_stats mt_fw_stats(struct mt_fw *f)
{
    (void)pthread_mutex_lock(&f->lock);
    struct mt_fw_stats s = f->stats;
    (void)pthread_mutex_unlock(&f->lock);
    return s;
}

static size_t find(const struct mt_fw *f, const char *tap)
{
    size_t i = 0;
    while (i < f->n && strcmp(f->vms[i].tap, tap) != 0)
        i++;
    return i;
}

static int remember_locked(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err)
{
    size_t i = find(f, vm->tap);
    if (i == f->n) {
        if (f->n == f->cap) {
            size_t cap = f->cap ? f->cap * 2 : 8;
            struct mt_fw_vm *v = realloc(f->vms, cap * sizeof *v);
            if (!v)
                return MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
            f->vms = v;
            f->cap = cap;
        }
        f->n++;
    }
    f->vms[i] = *vm;
    return 0;
}

int mt_fw_remember(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err)
{
    (void)pthread_mutex_lock(&f->lock);
    int rc = remember_locked(f, vm, err);
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

/* Take @old away (may be NULL) and put @vm in (may be NULL), in one transaction. */
static int change_locked(struct mt_fw *f, const struct mt_fw_vm *old, const struct mt_fw_vm *vm, struct mt_err *err)
{
    struct mt_nfset_elem e[3 * VM_ELEMS];
    size_t n = 0;
    int rc = netlink(f, err);
    if (rc < 0)
        return rc;
    /* deleting what is absent fails the transaction; adding first makes it present either way */
    for (int add = 1; old && add >= 0; add--)
        n += mt_fw_vm_elems(old, add, e + n);
    size_t before = n;
    if (vm)
        n += mt_fw_vm_elems(vm, true, e + n);
    if (vm && n == before)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not an IPv6 address", vm->address);
    f->stats.elements += n;
    return mt_nfset_change(f->nl, TABLE, e, n, err);
}

int mt_fw_admit(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err)
{
    size_t changed;
    (void)pthread_mutex_lock(&f->lock);
    int rc = f->configured ? 0 : MT_FAIL(err, MT_E_CONFLICT, "firewall is not loaded yet");
    size_t i = find(f, vm->tap);
    struct mt_fw_vm old = i < f->n ? f->vms[i] : (struct mt_fw_vm){0};
    if (rc == 0)
        rc = remember_locked(f, vm, err);
    if (rc == 0) {
        rc = change_locked(f, old.tap[0] ? &old : NULL, vm, err);
        if (rc < 0 && rc != -MT_E_INVALID) /* somebody removed the table or a set of it: bring back what is missing */
            rc = load_locked(f, &changed, err);
    }
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

int mt_fw_remove(struct mt_fw *f, const char *tap, struct mt_err *err)
{
    int rc = 0;
    (void)pthread_mutex_lock(&f->lock);
    size_t i = find(f, tap);
    if (i < f->n) {
        struct mt_fw_vm old = f->vms[i];
        f->vms[i] = f->vms[--f->n];
        rc = change_locked(f, &old, NULL, err);
        if (rc < 0 && !present_locked(f))
            rc = 0; /* no table, no element */
    }
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

int mt_fw_unload(struct mt_fw *f, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    (void)pthread_mutex_lock(&f->lock);
    mt_buf_puts(&text, "table inet moat\ndelete table inet moat\n");
    int rc = run_text(f, &text, err);
    f->configured = false;
    f->rules = 0;
    f->n = 0;
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}
