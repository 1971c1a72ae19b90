/* SPDX-License-Identifier: Apache-2.0 */
/* What the firewall counts. See tally.h. */
#include "agent/net/tally.h"

#include "agent/net/nfset.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#define SET_SIZE 65536 /* as many VMs as slots */
#define REFUSED "n_refused"
#define OPENED "n_opened"
#define KEY_LEN 16 /* of ipv6_addr and of ifname */
#define REFUSED_LEN 24 /* ipv6_addr 16, inet_proto 1 filled to 4, inet_service 2 filled to 4 */
#define STRANGERS_MAX 1024 /* taken out in one reading; what is left goes with the next */

enum key_is { OF_NOBODY = 0, OF_SADDR, OF_DADDR, OF_TAP };
static const struct {
    const char *name;
    enum key_is key;
    const char *end; /* what becomes of the packet */
} rules[MT_FW_RULE_MAX] = {
    /* clang-format off */
    [MT_FW_GUEST_NON_IPV6]  = {"guest_non_ipv6", OF_TAP, "drop"},
    [MT_FW_GUEST_SPOOF]     = {"guest_spoof", OF_TAP, "drop"},
    [MT_FW_GUEST_TO_HOST]   = {"guest_to_host", OF_SADDR, "drop"},
    [MT_FW_GUEST_LATERAL]   = {"guest_lateral", OF_SADDR, "reject with icmpv6 type admin-prohibited"},
    [MT_FW_BLOCKED_ADDRESS] = {"blocked_address", OF_SADDR, "reject with icmpv6 type admin-prohibited"},
    [MT_FW_BLOCKED_PORT]    = {"blocked_port", OF_SADDR, "reject with icmpv6 type admin-prohibited"},
    [MT_FW_NO_EGRESS]       = {"no_egress", OF_SADDR, "reject with icmpv6 type admin-prohibited"},
    [MT_FW_NEW_FLOWS]       = {"new_flows", OF_SADDR, "drop"},
    [MT_FW_FLOWS]           = {"flows_full", OF_SADDR, "drop"},
    [MT_FW_QUARANTINE]      = {"quarantined", OF_SADDR, "drop"},
    [MT_FW_TO_GUEST]        = {"to_guest", OF_DADDR, "reject with icmpv6 type admin-prohibited"},
    [MT_FW_HOST_TO_GUEST]   = {"host_to_guest", OF_DADDR, "drop"},
    [MT_FW_MESH_SPOOF]      = {"mesh_spoof", OF_NOBODY, "drop"},
    [MT_FW_UNDERLAY_SPOOF]  = {"underlay_spoof", OF_NOBODY, "drop"},
    [MT_FW_OWN_IPV4]        = {"own_ipv4", OF_NOBODY, "drop"},
    /* clang-format on */
};

const char *mt_fw_rule_name(enum mt_fw_rule r)
{
    return r < MT_FW_RULE_MAX ? rules[r].name : "";
}

/* ---- text -------------------------------------------------------------------------------- */

static const char *key_type(enum key_is k)
{
    return k == OF_TAP ? "ifname" : "ipv6_addr";
}

typedef const char *tap_of_fn(const void *arg, const struct in6_addr *address);

/* One set for each rule; its elements are those VMs that @t (may be NULL) has something of. */
static void put_set(const char *name, enum key_is key, size_t at, const struct mt_fw_tally *t, tap_of_fn *tap_of, const void *arg, struct mt_buf *o)
{
    bool any = false;
    mt_buf_printf(o, "  set n_%s { type %s; flags dynamic; size %d;", name, key_type(key), SET_SIZE);
    for (size_t i = 0; t && i < t->n; i++) {
        const struct mt_fw_count *c = (const struct mt_fw_count *)(const void *)((const char *)&t->vms[i] + at);
        char text[INET6_ADDRSTRLEN];
        const char *k = key == OF_TAP ? tap_of(arg, &t->vms[i].address) : inet_ntop(AF_INET6, &t->vms[i].address, text, sizeof text);
        if (!c->packets || !k)
            continue;
        mt_buf_printf(o, "%s%s%s%s counter packets %llu bytes %llu", any ? ", " : " elements = { ", key == OF_TAP ? "\"" : "", k, key == OF_TAP ? "\"" : "",
                      (unsigned long long)c->packets, (unsigned long long)c->bytes);
        any = true;
    }
    mt_buf_puts(o, any ? " } }\n" : " }\n");
}

void mt_fw_tally_text(const struct mt_fw_tally *t, tap_of_fn *tap_of, const void *arg, struct mt_buf *o)
{
    for (size_t r = 0; r < MT_FW_RULE_MAX; r++) {
        struct mt_fw_count none = {0}, c = t ? t->rules[r] : none;
        mt_buf_printf(o, "  counter %s { packets %llu bytes %llu; }\n", rules[r].name, (unsigned long long)c.packets, (unsigned long long)c.bytes);
        if (rules[r].key != OF_NOBODY)
            put_set(rules[r].name, rules[r].key, offsetof(struct mt_fw_vm_tally, drops[0]) + r * sizeof none, t, tap_of, arg, o);
    }
    put_set("opened", OF_SADDR, offsetof(struct mt_fw_vm_tally, opened), t, tap_of, arg, o);
    mt_buf_printf(o, "  set " REFUSED " { type ipv6_addr . inet_proto . inet_service; flags dynamic, timeout; size %d; timeout 1h; }\n", SET_SIZE);
}

/* Counting stands in a line of its own: when a set is full the line ends there and the next one decides all the same. */
void mt_fw_tally_chains(struct mt_buf *o)
{
    static const char *const keys[] = {[OF_SADDR] = "ip6 saddr", [OF_DADDR] = "ip6 daddr", [OF_TAP] = "iifname"};
    for (size_t r = 0; r < MT_FW_RULE_MAX; r++) {
        mt_buf_printf(o, "  chain drop_%s {\n", rules[r].name);
        if (rules[r].key != OF_NOBODY)
            mt_buf_printf(o, "    update @n_%s { %s counter }\n", rules[r].name, keys[rules[r].key]);
        if (r == MT_FW_BLOCKED_PORT)
            mt_buf_puts(o, "    update @" REFUSED " { ip6 saddr . meta l4proto . th dport counter }\n");
        mt_buf_printf(o, "    counter name %s\n", rules[r].name);
        if (r == MT_FW_TO_GUEST) /* anybody may send there, so what is told them is bounded */
            mt_buf_printf(o, "    limit rate 100/second %s\n    drop\n", rules[r].end);
        else
            mt_buf_printf(o, "    %s\n", rules[r].end);
        mt_buf_puts(o, "  }\n");
    }
    /* answers to a flow that a VM in quarantine opened: it is whom they are for */
    mt_buf_printf(o, "  chain drop_%s_reply {\n    update @n_%s { ip6 daddr counter }\n    counter name %s\n    drop\n  }\n", rules[MT_FW_QUARANTINE].name,
                  rules[MT_FW_QUARANTINE].name, rules[MT_FW_QUARANTINE].name);
}

/* ---- reading ----------------------------------------------------------------------------- */

void mt_fw_tally_done(struct mt_fw_tally *t)
{
    free(t->vms);
    *t = (struct mt_fw_tally){0};
}

static int by_address(const void *a, const void *b)
{
    return memcmp(&((const struct mt_fw_vm_tally *)a)->address, &((const struct mt_fw_vm_tally *)b)->address, sizeof(struct in6_addr));
}

const struct mt_fw_vm_tally *mt_fw_tally_of(const struct mt_fw_tally *t, const struct in6_addr *address)
{
    const struct mt_fw_vm_tally key = {.address = *address};
    return t->n ? bsearch(&key, t->vms, t->n, sizeof key, by_address) : NULL;
}

/* What one set holds: a line for each element, put together when all are read. */
struct hit {
    struct in6_addr address;
    size_t at; /* of the count in mt_fw_vm_tally; 0: a refused port */
    uint8_t proto;
    uint16_t port;
    struct mt_fw_count count;
};

struct reading {
    mt_fw_tap_fn *tap;
    mt_fw_known_fn *known;
    const void *arg;
    const char *set; /* that is being read */
    enum key_is key;
    size_t at;
    struct hit *hits;
    size_t n, cap;
    struct mt_nfset_elem *strangers;
    size_t strangers_n;
    bool nomem;
    struct mt_fw_tally *out;
};

static void on_element(void *arg, const uint8_t *key, size_t len, uint64_t packets, uint64_t bytes)
{
    struct reading *r = arg;
    struct hit h = {.at = r->at, .count = {packets, bytes}};
    bool ours;
    if (r->key == OF_TAP) {
        char tap[IFNAMSIZ] = {0};
        memcpy(tap, key, len < sizeof tap - 1 ? len : sizeof tap - 1);
        ours = r->tap(r->arg, tap, &h.address);
    } else {
        memcpy(&h.address, key, sizeof h.address);
        ours = r->known(r->arg, &h.address);
    }
    if (!ours) {
        if (r->strangers_n < STRANGERS_MAX) {
            struct mt_nfset_elem *e = &r->strangers[r->strangers_n++];
            *e = (struct mt_nfset_elem){.set = r->set, .len = (uint8_t)len};
            memcpy(e->key, key, len);
        }
        return;
    }
    if (len == REFUSED_LEN) {
        uint16_t be;
        h.proto = key[16];
        memcpy(&be, key + 20, sizeof be);
        h.port = ntohs(be);
    }
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        struct hit *more = realloc(r->hits, cap * sizeof *more);
        if (!more) {
            r->nomem = true;
            return;
        }
        r->hits = more;
        r->cap = cap;
    }
    r->hits[r->n++] = h;
}

static void on_counter(void *arg, const char *name, uint64_t packets, uint64_t bytes)
{
    struct reading *r = arg;
    for (size_t i = 0; i < MT_FW_RULE_MAX; i++)
        if (MT_STREQ(name, rules[i].name))
            r->out->rules[i] = (struct mt_fw_count){packets, bytes};
}

static int by_hit(const void *a, const void *b)
{
    return memcmp(&((const struct hit *)a)->address, &((const struct hit *)b)->address, sizeof(struct in6_addr));
}

static int put_together(struct reading *r, struct mt_err *err)
{
    struct mt_fw_tally *t = r->out;
    if (r->n)
        qsort(r->hits, r->n, sizeof *r->hits, by_hit);
    t->vms = calloc(r->n + 1, sizeof *t->vms);
    if (!t->vms || r->nomem)
        return MT_FAIL(err, MT_E_NOMEM, "firewall counters: out of memory");
    for (size_t i = 0; i < r->n; i++) {
        const struct hit *h = &r->hits[i];
        if (!t->n || memcmp(&t->vms[t->n - 1].address, &h->address, sizeof h->address) != 0)
            t->vms[t->n++].address = h->address;
        struct mt_fw_vm_tally *v = &t->vms[t->n - 1];
        if (h->at) {
            *(struct mt_fw_count *)(void *)((char *)v + h->at) = h->count;
        } else if (h->count.packets > v->top_packets) {
            v->top_packets = h->count.packets;
            v->top_proto = h->proto;
            v->top_port = h->port;
        }
    }
    return 0;
}

static int read_set(struct mt_nfset *nl, const char *table, const char *set, enum key_is key, size_t len, size_t at, struct reading *r, struct mt_err *err)
{
    r->set = set;
    r->key = key;
    r->at = at;
    size_t before = r->n, strangers = r->strangers_n;
    for (int tries = 0;; tries++) {
        int rc = mt_nfset_counts(nl, table, set, len, on_element, r, err);
        if (rc != -MT_E_CONFLICT || tries == 5)
            return rc;
        r->n = before; /* it changed while it was read */
        r->strangers_n = strangers;
    }
}

int mt_fw_tally_read(struct mt_nfset *nl, const char *table, mt_fw_tap_fn *tap, mt_fw_known_fn *known, const void *arg, struct mt_fw_tally *ret, struct mt_err *err)
{
    static const char *const sets[MT_FW_OF_VMS] = {"n_guest_non_ipv6", "n_guest_spoof", "n_guest_to_host", "n_guest_lateral", "n_blocked_address", "n_blocked_port",
                                                   "n_no_egress", "n_new_flows", "n_flows_full", "n_quarantined", "n_to_guest", "n_host_to_guest"};
    mt_auto_free struct mt_nfset_elem *strangers = calloc(STRANGERS_MAX, sizeof *strangers);
    struct reading r = {.tap = tap, .known = known, .arg = arg, .strangers = strangers, .out = ret};
    if (!strangers)
        return MT_FAIL(err, MT_E_NOMEM, "firewall counters: out of memory");
    int rc = mt_nfset_counters(nl, table, on_counter, &r, err);
    for (size_t i = 0; rc == 0 && i < MT_FW_OF_VMS; i++)
        rc = read_set(nl, table, sets[i], rules[i].key, KEY_LEN,
                      offsetof(struct mt_fw_vm_tally, drops[0]) + i * sizeof(struct mt_fw_count), &r, err);
    if (rc == 0)
        rc = read_set(nl, table, OPENED, OF_SADDR, KEY_LEN, offsetof(struct mt_fw_vm_tally, opened), &r, err);
    if (rc == 0)
        rc = read_set(nl, table, REFUSED, OF_SADDR, REFUSED_LEN, 0, &r, err);
    if (rc == 0)
        rc = put_together(&r, err);
    free(r.hits);
    if (rc < 0) {
        mt_fw_tally_done(ret);
        return rc;
    }
    /* one that ran out meanwhile is gone by itself; then these wait for the next reading */
    if (r.strangers_n)
        (void)mt_nfset_change(nl, table, strangers, r.strangers_n, NULL);
    return 0;
}

size_t mt_fw_tally_clear(struct mt_nfset *nl, const char *table, const char *tap, struct mt_nfset_elem *ret)
{
    static const char *const sets[] = {"n_guest_non_ipv6", "n_guest_spoof"};
    size_t n = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(sets); i++) {
        ret[n] = (struct mt_nfset_elem){.set = sets[i], .len = IFNAMSIZ};
        memcpy(ret[n].key, tap, strnlen(tap, IFNAMSIZ - 1));
        n += mt_nfset_has(nl, table, &ret[n]);
    }
    return n;
}
