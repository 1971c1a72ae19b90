/* SPDX-License-Identifier: Apache-2.0 */
/* The nftables table of the agent. See firewall.h; the rules are those of networking.md §5.2. */
#include "agent/net/firewall.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/spawn.h"

#include <pthread.h>

#define FW_TEXT_MAX (4U << 20)
#define NFT_TIMEOUT_MS 10000
#define ADDR_LIST_MAX 256

/* ---- text, pure -------------------------------------------------------------------------- */

static void put_addr_set(struct mt_buf *o, const char *name, const char *const *v)
{
    mt_buf_printf(o, "  set %s { type ipv6_addr;", name);
    if (v && v[0]) {
        mt_buf_puts(o, " elements = { ");
        for (size_t i = 0; v[i]; i++)
            mt_buf_printf(o, "%s%s", i ? ", " : "", v[i]);
        mt_buf_puts(o, " }");
    }
    mt_buf_puts(o, " }\n");
}

static void put_sets(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, struct mt_buf *o)
{
    put_addr_set(o, "edges", c->edges);
    mt_buf_puts(o, "  set cluster6 { type ipv6_addr; flags interval;");
    if (c->cluster_prefix[0])
        mt_buf_printf(o, " elements = { %s }", c->cluster_prefix);
    mt_buf_puts(o, " }\n  set tapsrc { type ifname . ipv6_addr;");
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
    mt_buf_puts(o, "  set blocked6 { type ipv6_addr; flags interval; auto-merge; elements = { fc00::/7, fe80::/10, "
                   "fec0::/10, ::/96, ::ffff:0:0/96, 2001:db8::/32, ff00::/8, 64:ff9b:1::/48, 2001::/32, "
                   "2002::/16 } }\n"
                   "  set blocked_ports { type inet_service; elements = { 25 } }\n"
                   "  set quarantine { type ipv6_addr; }\n");
    put_addr_set(o, "gateways", c->gateways);
    mt_buf_puts(o, "  set newflows { type ipv6_addr; flags dynamic; size 65536; timeout 1m; }\n"
                   "  set flows { type ipv6_addr; flags dynamic; size 65536; }\n");
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
                       "    iifname \"mt*\" jump guest_to_host\n"
                       "    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept\n"
                       "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-redirect, "
                       "mld-listener-query } accept\n"
                       "    icmpv6 type echo-request limit rate 100/second accept\n"
                       "    udp dport 51820 accept\n"
                       "    iifname \"wg-moat\" ip6 saddr @gateways tcp dport 5180 accept\n");
    else
        mt_buf_puts(o, "    iifname \"mt*\" ct state established,related accept\n"
                       "    iifname \"mt*\" jump guest_to_host\n");
    mt_buf_puts(o, "  }\n  chain guest_to_host {\n"
                   "    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n"
                   "    icmpv6 type echo-request ip6 daddr fe80::1 limit rate 10/second accept\n");
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
    for (int side = 0; side < (full ? 1 : 2); side++) {
        const char *match = full ? "" : side ? "oifname \"mt*\" " : "iifname \"mt*\" ";
        mt_buf_printf(o, "    %sicmpv6 type { destination-unreachable, packet-too-big, time-exceeded, "
                         "parameter-problem } ct state related accept\n", match);
        mt_buf_printf(o, "    %sct state established,related accept\n", match);
    }
    mt_buf_puts(o, "    oifname \"mt*\" ip6 saddr @edges ip6 daddr . tcp dport @svc ct state new accept\n");
    mt_buf_printf(o, "    oifname \"mt*\" limit rate 100/second %s", reject);
    mt_buf_puts(o, "    oifname \"mt*\" counter drop\n"
                   "    iifname \"mt*\" ip6 saddr @quarantine counter drop\n");
    mt_buf_printf(o, "    iifname \"mt*\" oifname \"wg-moat\" %s", reject);
    mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr @cluster6 %s", reject);
    mt_buf_printf(o, "    iifname \"mt*\" ip6 daddr @blocked6 %s", reject);
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

void mt_fw_text(const struct mt_fw_conf *c, const struct mt_fw_vm *vms, size_t n, struct mt_buf *o)
{
    bool full = c->mode == MT_FW_FULL;

    /* naming the table first makes the delete succeed when there was none */
    mt_buf_puts(o, "table inet moat\ndelete table inet moat\ntable inet moat {\n");
    put_sets(c, vms, n, o);
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
    if (strcmp(c->egress_mode, "nat66") == 0 && c->cluster_prefix[0])
        mt_buf_puts(o, "  chain post {\n    type nat hook postrouting priority srcnat; policy accept;\n"
                       "    iifname \"mt*\" ip6 saddr @cluster6 oifname != { \"wg-moat\", \"lo\", \"mt*\" } masquerade fully-random\n"
                       "  }\n");
    mt_buf_printf(o, "  chain mss {\n    type filter hook forward priority mangle; policy accept;\n");
    if (full)
        mt_buf_puts(o, "    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n");
    else
        mt_buf_puts(o, "    iifname \"mt*\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n"
                       "    oifname \"mt*\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu\n");
    mt_buf_puts(o, "  }\n}\n");
}

void mt_fw_vm_text(const struct mt_fw_vm *vm, bool add, struct mt_buf *o)
{
    /* deleting what is absent fails the transaction; adding first makes it present either way */
    for (int pass = 0; pass < (add ? 1 : 2); pass++) {
        const char *verb = pass ? "delete" : "add";
        mt_buf_printf(o, "%s element inet moat tapsrc { \"%s\" . %s }\n", verb, vm->tap, vm->address);
        for (size_t i = 0; i < vm->port_count; i++)
            mt_buf_printf(o, "%s element inet moat svc { %s . %u }\n", verb, vm->address,
                          (unsigned)vm->ports[i]);
    }
}

/* ---- the kernel's side ------------------------------------------------------------------- */

struct mt_fw {
    pthread_mutex_t lock; /* held over an nft run: transactions and the list stay in step */
    char *nft;
    bool configured;
    struct mt_fw_conf conf;
    char *lists[2][ADDR_LIST_MAX + 1]; /* owned copies behind conf.edges and conf.gateways */
    struct mt_fw_vm *vms;
    size_t n, cap;
};

static int run_nft(struct mt_fw *f, struct mt_buf *text, const char *const *argv, struct mt_err *err)
{
    struct mt_spawn s = {.path = f->nft, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    if (text && mt_buf_check(text, err) < 0)
        return mt_err_wrap(err, "firewall rules");
    int rc = mt_run_ok(&s, text ? text->p : NULL, text ? text->len : 0, NULL, NFT_TIMEOUT_MS, err);
    return rc < 0 ? mt_err_wrap(err, "nft") : 0;
}

static int run_text(struct mt_fw *f, struct mt_buf *text, struct mt_err *err)
{
    const char *const argv[] = {"nft", "-f", "-", NULL};
    return run_nft(f, text, argv, err);
}

static void lists_done(struct mt_fw *f)
{
    for (int l = 0; l < 2; l++) {
        for (size_t i = 0; f->lists[l][i]; i++)
            free(f->lists[l][i]);
        memset(f->lists[l], 0, sizeof f->lists[l]);
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
    free(f->vms);
    free(f->nft);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}

static int load_locked(struct mt_fw *f, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    mt_fw_text(&f->conf, f->vms, f->n, &text);
    return run_text(f, &text, err);
}

static int copy_list(const char *const *from, char **to, struct mt_err *err)
{
    for (size_t i = 0; from && from[i]; i++) {
        if (i == ADDR_LIST_MAX)
            return MT_FAIL(err, MT_E_LIMIT, "more than %d addresses in a firewall set", ADDR_LIST_MAX);
        to[i] = mt_strndup(from[i], strlen(from[i]));
        if (!to[i])
            return MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
    }
    return 0;
}

int mt_fw_load(struct mt_fw *f, const struct mt_fw_conf *c, struct mt_err *err)
{
    (void)pthread_mutex_lock(&f->lock);
    lists_done(f);
    f->conf = *c;
    int rc = copy_list(c->edges, f->lists[0], err);
    if (rc == 0)
        rc = copy_list(c->gateways, f->lists[1], err);
    f->conf.edges = (const char *const *)f->lists[0];
    f->conf.gateways = (const char *const *)f->lists[1];
    f->configured = rc == 0;
    if (rc == 0)
        rc = load_locked(f, err);
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

int mt_fw_reload(struct mt_fw *f, struct mt_err *err)
{
    (void)pthread_mutex_lock(&f->lock);
    int rc = f->configured ? load_locked(f, err)
                           : MT_FAIL(err, MT_E_CONFLICT, "firewall has no configuration yet");
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

static bool present_locked(struct mt_fw *f)
{
    const char *const argv[] = {"nft", "list", "set", "inet", "moat", "tapsrc", NULL};
    return run_nft(f, NULL, argv, NULL) == 0;
}

bool mt_fw_present(struct mt_fw *f)
{
    (void)pthread_mutex_lock(&f->lock);
    bool yes = present_locked(f);
    (void)pthread_mutex_unlock(&f->lock);
    return yes;
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

int mt_fw_admit(struct mt_fw *f, const struct mt_fw_vm *vm, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    (void)pthread_mutex_lock(&f->lock);
    int rc = f->configured ? remember_locked(f, vm, err)
                           : MT_FAIL(err, MT_E_CONFLICT, "firewall is not loaded yet");
    if (rc == 0) {
        mt_fw_vm_text(vm, true, &text);
        rc = run_text(f, &text, err);
        if (rc < 0 && !present_locked(f)) /* somebody removed the table: bring all of it back */
            rc = load_locked(f, err);
    }
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

int mt_fw_remove(struct mt_fw *f, const char *tap, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    int rc = 0;
    (void)pthread_mutex_lock(&f->lock);
    size_t i = find(f, tap);
    if (i < f->n) {
        mt_fw_vm_text(&f->vms[i], false, &text);
        f->vms[i] = f->vms[--f->n];
        rc = run_text(f, &text, err);
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
    f->n = 0;
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}
