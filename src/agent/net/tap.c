/* SPDX-License-Identifier: Apache-2.0 */
/* Taps and the node's addresses. See tap.h. */
#include "agent/net/tap.h"

#include "agent/net/limit.h"
#include "agent/vmm/vmm.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/netlink.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#define TAP_TXQLEN 1000
#define LO_INDEX 1U /* the loopback of every network namespace */

static void nl_closep(struct mt_nl **nl)
{
    mt_nl_close(*nl);
}
#define auto_nl mt_cleanup(nl_closep)

static void tap_name(uint32_t slot, char ret[IFNAMSIZ])
{
    (void)snprintf(ret, IFNAMSIZ, "mt%05x", slot & 0xfffffU);
}

/* Slot of a link name of ours: exactly mt and 5 lower-case hex digits. */
static bool tap_slot(const char *name, uint32_t *ret)
{
    if (strncmp(name, "mt", 2) != 0 || strlen(name) != 7)
        return false;
    uint32_t v = 0;
    for (const char *p = name + 2; *p; p++) {
        if (*p >= '0' && *p <= '9')
            v = v * 16 + (uint32_t)(*p - '0');
        else if (*p >= 'a' && *p <= 'f')
            v = v * 16 + (uint32_t)(*p - 'a' + 10);
        else
            return false;
    }
    if (v > MT_VMM_SLOT_MAX)
        return false;
    *ret = v;
    return true;
}

void mt_tap_macs(uint32_t slot, uint8_t ret_host[6], uint8_t ret_guest[6])
{
    /* 02:fc:00:0s:ss:sX: four hex digits of the slot, then 1 for the host, 2 for the guest */
    uint8_t m[6] = {0x02, 0xfc, 0x00, (uint8_t)(slot >> 12 & 0xf), (uint8_t)(slot >> 4 & 0xff),
                    (uint8_t)((slot & 0xf) << 4)};
    memcpy(ret_host, m, 6);
    memcpy(ret_guest, m, 6);
    ret_host[5] |= 1;
    ret_guest[5] |= 2;
}

static int make_tap(const char *name, uint32_t slot, struct mt_err *err)
{
    mt_auto_fd int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "tap: open '/dev/net/tun'");
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    (void)snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", name);
    if (ioctl(fd, TUNSETIFF, &ifr) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "tap: make '%s'", name);
    unsigned long uid = MT_VMM_UID_BASE + (unsigned long)slot;
    if (ioctl(fd, TUNSETOWNER, uid) < 0 || ioctl(fd, TUNSETGROUP, uid) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "tap: set owner of '%s'", name);
    if (ioctl(fd, TUNSETPERSIST, 1UL) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "tap: keep '%s'", name);
    return 0;
}

static int tap_sysctl(const char *name, const char *key, const char *value, struct mt_err *err)
{
    char path[96];
    if (mt_fmt(path, sizeof path, err, "/proc/sys/net/ipv6/conf/%s/%s", name, key) < 0)
        return -MT_E_LIMIT;
    mt_auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "tap: set '%s' of '%s'", key, name);
    return 0;
}

static int tap_routes(struct mt_nl *nl, unsigned index, const struct mt_tap *t, struct mt_err *err)
{
    uint8_t host[6], guest[6];
    mt_tap_macs(t->slot, host, guest);
    if (mt_nl_neigh6_set(nl, index, &t->guest, guest, err) < 0)
        return mt_err_wrap(err, "tap: neighbour");
    struct mt_nl_route6 r = {
        .dst = t->guest, .plen = 128, .oif = index, .src = t->has_node ? &t->node : NULL};
    if (mt_nl_route6_set(nl, &r, err) < 0)
        return mt_err_wrap(err, "route");
    return 0;
}

static int tap_limits(const struct mt_tap *t, const char *name, bool only_missing, struct mt_err *err)
{
    return t->bytes_per_s || t->packets_per_s ? mt_limit_set(t->nft_path, name, t->bytes_per_s, t->packets_per_s, only_missing, err) : 0;
}

int mt_tap_up(const struct mt_tap *t, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    char name[IFNAMSIZ];
    uint8_t host[6], guest[6];
    unsigned index;

    tap_name(t->slot, name);
    mt_tap_macs(t->slot, host, guest);
    if (mt_nl_open(&nl, err) < 0)
        return -MT_E_IO;
    if (make_tap(name, t->slot, err) < 0)
        return -MT_E_IO;
    if (mt_nl_link_index(nl, name, &index, err) < 0)
        return mt_err_wrap(err, "tap");
    /* the switches that need the link down first: no address of the kernel's choosing, no RA */
    struct mt_nl_link set = {.mtu = t->mtu, .txqlen = TAP_TXQLEN, .mac = host, .addrgen_none = true};
    if (mt_nl_link_set(nl, index, &set, err) < 0)
        return mt_err_wrap(err, "tap");
    if (tap_sysctl(name, "accept_ra", "0", err) < 0 || tap_sysctl(name, "accept_dad", "0", err) < 0 ||
        tap_sysctl(name, "forwarding", "1", err) < 0)
        return -MT_E_IO;
    if (tap_limits(t, name, false, err) < 0)
        return -MT_E_IO;
    struct mt_nl_link up = {.up = true};
    if (mt_nl_link_set(nl, index, &up, err) < 0)
        return mt_err_wrap(err, "tap");
    struct in6_addr gateway;
    (void)inet_pton(AF_INET6, "fe80::1", &gateway);
    if (mt_nl_addr6_add(nl, index, &gateway, 64, err) < 0)
        return mt_err_wrap(err, "tap");
    return tap_routes(nl, index, t, err);
}

int mt_tap_repair(const struct mt_tap *t, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    char name[IFNAMSIZ];
    struct mt_nl_link_info info;

    tap_name(t->slot, name);
    if (mt_nl_open(&nl, err) < 0)
        return -MT_E_IO;
    int rc = mt_nl_link_get(nl, name, &info, err);
    if (rc == 0 && t->mtu && info.mtu != t->mtu) {
        struct mt_nl_link change = {.mtu = t->mtu};
        rc = mt_nl_link_set(nl, info.index, &change, err);
    }
    if (rc < 0)
        return rc;
    unsigned index = info.index;
    struct in6_addr gateway;
    (void)inet_pton(AF_INET6, "fe80::1", &gateway);
    if (mt_nl_addr6_add(nl, index, &gateway, 64, err) < 0)
        return mt_err_wrap(err, "tap");
    rc = tap_routes(nl, index, t, err);
    return rc < 0 ? rc : tap_limits(t, name, true, err);
}

int mt_tap_down(uint32_t slot, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    char name[IFNAMSIZ];
    unsigned index;

    tap_name(slot, name);
    if (mt_nl_open(&nl, err) < 0)
        return -MT_E_IO;
    int rc = mt_limit_clear(name, err); /* first: a link that is gone does not take it along in every kernel */
    if (rc < 0)
        return rc;
    rc = mt_nl_link_index(nl, name, &index, err);
    if (rc == -MT_E_NOT_FOUND)
        return 0;
    if (rc == 0)
        rc = mt_nl_link_del(nl, index, err);
    return rc < 0 ? mt_err_wrap(err, "remove tap '%s'", name) : 0;
}

bool mt_tap_exists(uint32_t slot)
{
    char name[IFNAMSIZ];
    tap_name(slot, name);
    return if_nametoindex(name) != 0;
}

struct tap_walk {
    uint32_t *v;
    size_t n;
    bool nomem;
};

static bool on_tap(void *arg, unsigned index, const char *name)
{
    struct tap_walk *w = arg;
    uint32_t slot;
    (void)index;
    if (!tap_slot(name, &slot))
        return true;
    uint32_t *v = realloc(w->v, (w->n + 1) * sizeof *v);
    if (!v) {
        w->nomem = true;
        return false;
    }
    w->v = v;
    w->v[w->n++] = slot;
    return true;
}

int mt_tap_list(uint32_t **ret, size_t *ret_n, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    struct tap_walk w = {0};
    int rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = mt_nl_links(nl, on_tap, &w, err);
    if (rc == 0 && w.nomem)
        rc = MT_FAIL(err, MT_E_NOMEM, "list taps: out of memory");
    if (rc < 0) {
        free(w.v);
        return rc;
    }
    *ret = w.v;
    *ret_n = w.n;
    return 0;
}

int mt_tap_counts(uint32_t slot, struct mt_tap_counts *ret, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    struct mt_nl_link_info info;
    char name[IFNAMSIZ];
    tap_name(slot, name);
    int rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = mt_nl_link_get(nl, name, &info, err);
    if (rc < 0)
        return rc;
    *ret = (struct mt_tap_counts){.from_guest = {info.rx_packets, info.rx_bytes}, .to_guest = {info.tx_packets, info.tx_bytes}, .dropped = info.dropped};
    return 0;
}

int mt_node_addr_has(const struct in6_addr *addr, bool *ret, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    int rc = mt_nl_open(&nl, err);
    return rc < 0 ? rc : mt_nl_addr6_has(nl, LO_INDEX, addr, ret, err);
}

int mt_node_addr_add(const struct in6_addr *addr, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    int rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = mt_nl_addr6_add(nl, LO_INDEX, addr, 128, err);
    return rc < 0 ? mt_err_wrap(err, "overlay address on lo") : 0;
}

int mt_node_addr_del(const struct in6_addr *addr, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    int rc = mt_nl_open(&nl, err);
    return rc < 0 ? rc : mt_nl_addr6_del(nl, LO_INDEX, addr, 128, err);
}

int mt_node_prefix_set(const struct in6_addr *prefix, uint8_t plen, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    struct mt_nl_route6 r = {.dst = *prefix, .plen = plen, .blackhole = true};
    int rc = mt_nl_open(&nl, err);
    return rc < 0 ? rc : mt_nl_route6_set(nl, &r, err);
}

int mt_node_prefix_del(const struct in6_addr *prefix, uint8_t plen, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    struct mt_nl_route6 r = {.dst = *prefix, .plen = plen, .blackhole = true};
    int rc = mt_nl_open(&nl, err);
    return rc < 0 ? rc : mt_nl_route6_del(nl, &r, err);
}

int mt_net_parse6(const char *text, bool network, struct in6_addr *ret, uint8_t *ret_plen,
                  struct mt_err *err)
{
    char addr[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    uint64_t plen = 128;

    if (n >= sizeof addr)
        return MT_FAIL(err, MT_E_INVALID, "not an IPv6 address");
    memcpy(addr, text, n);
    addr[n] = '\0';
    if (inet_pton(AF_INET6, addr, ret) != 1)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not an IPv6 address", addr);
    if (slash && mt_parse_u64(slash + 1, 0, 128, &plen, err) < 0)
        return mt_err_wrap(err, "prefix length of '%s'", addr);
    if (network) {
        for (size_t bit = plen; bit < 128; bit++)
            ret->s6_addr[bit / 8] &= (uint8_t) ~(0x80U >> (bit % 8));
    }
    *ret_plen = (uint8_t)plen;
    return 0;
}

bool mt_net_inside6(const struct in6_addr *addr, const struct in6_addr *prefix, uint8_t plen)
{
    for (size_t bit = 0; bit < plen; bit++) {
        uint8_t mask = (uint8_t)(0x80U >> (bit % 8));
        if ((addr->s6_addr[bit / 8] ^ prefix->s6_addr[bit / 8]) & mask)
            return false;
    }
    return true;
}
