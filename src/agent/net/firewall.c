/* SPDX-License-Identifier: Apache-2.0 */
/* The nftables table of the agent. See firewall.h; the rules are those of networking.md §5.2. */
#include "agent/net/firewall.h"

#include "agent/net/fwtext.h"
#include "agent/net/nfset.h"
#include "agent/net/tally.h"
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
#define EDGE_PORTS_MAX 4096
#define UNDERLAY_MAX 1024
#define QUARANTINE_MAX 4096
#define OWN4_MAX 256
#define PUBLIC4_MAX 4096
#define PRIVATE6_MAX 16384
#define TAPSRC_LEN 32 /* ifname 16, ipv6_addr 16 */
#define SVC_LEN 20    /* ipv6_addr 16, inet_service 2, filled to 4 */
#define VM_ELEMS (1 + 32)

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

enum { LIST_EDGES = 0, LIST_GATEWAYS, LIST_UNDERLAY, LIST_QUARANTINE, LIST_OWN4, LIST_PUBLIC4, LIST_PRIVATE6, LIST_EDGE_PORTS, LIST_MAX };
static const struct {
    const char *set;
    size_t len; /* of a key: an IPv6 address, an IPv4 one, one with a port filled to 4 bytes, two with a port, a port */
} lists[LIST_MAX] = {{"edges", 16}, {"gateways", 16}, {"underlay6", 16}, {"quarantine", 16}, {"own4", 4}, {"public4", 8}, {"private6", 36}, {"edge_ports", 2}};

struct mt_fw {
    pthread_mutex_t lock; /* held over an nft run: transactions and the list stay in step */
    char *nft;
    struct mt_nfset *nl; /* opened with the first need */
    bool configured;
    struct mt_fw_conf conf;
    char **lists[LIST_MAX]; /* owned copies behind conf.edges, .gateways, .underlay, .quarantine, .own4, .public4, .private6, .edge_ports */
    uint8_t rules_sum[MT_SHA256_LEN]; /* of the text of the rules that this process loaded */
    uint64_t rules; /* what the kernel said of them right after; 0: not loaded by this process */
    struct mt_fw_stats stats;
    struct mt_fw_tally tally; /* as read last: what a table that is made anew begins with */
    struct mt_fw_vm *vms;
    size_t n, cap;
};

static size_t find(const struct mt_fw *f, const char *tap)
{
    size_t i = 0;
    while (i < f->n && strcmp(f->vms[i].tap, tap) != 0)
        i++;
    return i;
}

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
    mt_fw_tally_done(&f->tally);
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

static bool address_of_tap(const void *arg, const char *tap, struct in6_addr *ret)
{
    const struct mt_fw *f = arg;
    size_t i = find(f, tap);
    return i < f->n && inet_pton(AF_INET6, f->vms[i].address, ret) == 1;
}

static int by_address(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct in6_addr));
}

struct known {
    const struct mt_fw *f;
    struct in6_addr *all; /* sorted */
    size_t n;
};

static bool tap_known(const void *arg, const char *tap, struct in6_addr *ret)
{
    return address_of_tap(((const struct known *)arg)->f, tap, ret);
}

static bool address_known(const void *arg, const struct in6_addr *address)
{
    const struct known *k = arg;
    return k->n && bsearch(address, k->all, k->n, sizeof *k->all, by_address);
}

/* Into f->tally, which stays as it was when there is no table or it cannot be read. */
static int read_tally(struct mt_fw *f, struct mt_err *err)
{
    struct mt_fw_tally t = {0};
    mt_auto_free struct in6_addr *all = calloc(f->n + 1, sizeof *all);
    struct known k = {.f = f, .all = all};
    if (!all)
        return MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
    for (size_t i = 0; i < f->n; i++)
        k.n += inet_pton(AF_INET6, f->vms[i].address, &all[k.n]) == 1;
    qsort(all, k.n, sizeof *all, by_address);
    int rc = netlink(f, err);
    if (rc == 0)
        rc = mt_fw_tally_read(f->nl, TABLE, tap_known, address_known, &k, &t, err);
    if (rc < 0)
        return rc;
    mt_fw_tally_done(&f->tally);
    f->tally = t;
    return 0;
}

static int load_whole(struct mt_fw *f, const uint8_t sum[MT_SHA256_LEN], struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(FW_TEXT_MAX);
    (void)read_tally(f, NULL); /* of a table that is there but has to be another one */
    mt_fw_text_with(&f->conf, f->vms, f->n, &f->tally, &text);
    f->stats.tables++;
    return load_rules(f, &text, sum, err);
}

int mt_fw_tally(struct mt_fw *f, struct mt_fw_tally *ret, struct mt_err *err)
{
    (void)pthread_mutex_lock(&f->lock);
    int rc = read_tally(f, err);
    if (rc == 0) {
        *ret = f->tally;
        ret->vms = calloc(ret->n + 1, sizeof *ret->vms);
        if (ret->vms)
            memcpy(ret->vms, f->tally.vms, ret->n * sizeof *ret->vms);
        else
            rc = MT_FAIL(err, MT_E_NOMEM, "firewall: out of memory");
    }
    (void)pthread_mutex_unlock(&f->lock);
    return rc;
}

/* Fields of an element's text, "A . B", one after the other into the kernel's key, which is zero; a port comes last. */
static int list_key(int which, const char *text, uint8_t *key, struct mt_err *err)
{
    size_t at = 0, len = lists[which].len;
    for (const char *p = text; p;) {
        const char *dot = strstr(p, " . ");
        size_t n = dot ? (size_t)(dot - p) : strlen(p), size = len - at >= 16 ? 16 : len - at >= 4 ? 4 : 2;
        char field[INET6_ADDRSTRLEN];
        uint64_t port;
        bool last = !dot && (p != text || len == 2);
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
    mt_fw_stamp(&f->conf, stamp);
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
    if (rc == 0)
        rc = copy_list(c->edge_ports, &f->lists[LIST_EDGE_PORTS], EDGE_PORTS_MAX, err);
    f->conf.edge_ports = (const char *const *)f->lists[LIST_EDGE_PORTS];
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
    struct mt_nfset_elem e[3 * VM_ELEMS + MT_FW_TALLY_CLEAR];
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
    if (vm && (!old || strcmp(old->address, vm->address) != 0))
        n += mt_fw_tally_clear(f->nl, TABLE, vm->tap, e + n); /* the tap may have been another VM's */
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
