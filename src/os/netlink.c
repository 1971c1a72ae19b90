/* SPDX-License-Identifier: Apache-2.0 */
/* rtnetlink by libmnl. See netlink.h. Source: rtnetlink(7), netlink(7). */
#include "os/netlink.h"

#include "base/assert.h"
#include "base/cleanup.h"

#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define NL_BUF 16384
/* libmnl's own loop macro narrows a pointer difference; this is the same walk without it */
#define EACH_ATTR(a, h, offset)                                                        \
    for ((a) = mnl_nlmsg_get_payload_offset((h), (offset));                            \
         mnl_attr_ok((a), (int)((const char *)mnl_nlmsg_get_payload_tail(h) - (const char *)(a))); \
         (a) = mnl_attr_next(a))

struct mt_nl {
    struct mnl_socket *sock;
    unsigned portid;
    uint32_t seq;
    char buf[NL_BUF];
};

int mt_nl_open(struct mt_nl **ret, struct mt_err *err)
{
    struct mt_nl *nl = calloc(1, sizeof *nl);
    if (!nl)
        return MT_FAIL(err, MT_E_NOMEM, "netlink socket: out of memory");
    nl->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!nl->sock) {
        MT_FAIL_ERRNO(err, MT_E_IO, "open netlink socket");
        free(nl);
        return -MT_E_IO;
    }
    if (mnl_socket_bind(nl->sock, 0, MNL_SOCKET_AUTOPID) < 0) {
        MT_FAIL_ERRNO(err, MT_E_IO, "bind netlink socket");
        mt_nl_close(nl);
        return -MT_E_IO;
    }
    int on = 1; /* error texts stay short: the kernel need not send our request back */
    (void)mnl_socket_setsockopt(nl->sock, NETLINK_CAP_ACK, &on, sizeof on);
    nl->portid = mnl_socket_get_portid(nl->sock);
    *ret = nl;
    return 0;
}

void mt_nl_close(struct mt_nl *nl)
{
    if (!nl)
        return;
    if (nl->sock)
        (void)mnl_socket_close(nl->sock);
    free(nl);
}

static struct nlmsghdr *begin(struct mt_nl *nl, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(nl->buf);
    h->nlmsg_type = type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    h->nlmsg_seq = ++nl->seq;
    return h;
}

/* Send @h and run over the answers; @fn may be NULL. Returns 0 or -1 with errno set by the kernel. */
static int talk(struct mt_nl *nl, struct nlmsghdr *h, mnl_cb_t fn, void *arg)
{
    uint32_t seq = h->nlmsg_seq;

    if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
        return -1;
    for (;;) {
        ssize_t n = mnl_socket_recvfrom(nl->sock, nl->buf, sizeof nl->buf);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        int rc = mnl_cb_run(nl->buf, (size_t)n, seq, nl->portid, fn, arg);
        if (rc < 0) {
            /* an answer to an earlier, given-up request: drop it and wait for ours */
            if (errno == ESRCH || errno == EPROTO) {
                const struct nlmsghdr *first = (const void *)nl->buf;
                if (first->nlmsg_seq != seq)
                    continue;
            }
            return -1;
        }
        if (rc == MNL_CB_STOP)
            return 0;
    }
}

struct find_link {
    unsigned index;
};

static int on_find_link(const struct nlmsghdr *h, void *arg)
{
    struct find_link *f = arg;
    if (h->nlmsg_type == RTM_NEWLINK) {
        const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
        f->index = (unsigned)ifi->ifi_index;
    }
    return MNL_CB_OK;
}

int mt_nl_link_index(struct mt_nl *nl, const char *name, unsigned *ret_index, struct mt_err *err)
{
    if (strlen(name) >= IFNAMSIZ)
        return MT_FAIL(err, MT_E_INVALID, "link name '%s' is longer than %d bytes", name, IFNAMSIZ - 1);
    struct nlmsghdr *h = begin(nl, RTM_GETLINK, NLM_F_ACK);
    struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(h, sizeof *ifi);
    ifi->ifi_family = AF_UNSPEC;
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    struct find_link f = {0};
    if (talk(nl, h, on_find_link, &f) < 0) {
        if (errno == ENODEV)
            return MT_FAIL(err, MT_E_NOT_FOUND, "no link '%s'", name);
        return MT_FAIL_ERRNO(err, MT_E_IO, "look up link '%s'", name);
    }
    *ret_index = f.index;
    return 0;
}

int mt_nl_link_add(struct mt_nl *nl, const char *name, const char *kind, struct mt_err *err)
{
    if (strlen(name) >= IFNAMSIZ)
        return MT_FAIL(err, MT_E_INVALID, "link name '%s' is longer than %d bytes", name, IFNAMSIZ - 1);
    struct nlmsghdr *h = begin(nl, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(h, sizeof *ifi);
    ifi->ifi_family = AF_UNSPEC;
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
    mnl_attr_put_strz(h, IFLA_INFO_KIND, kind);
    mnl_attr_nest_end(h, info);
    if (talk(nl, h, NULL, NULL) < 0 && errno != EEXIST)
        return MT_FAIL_ERRNO(err, errno == EOPNOTSUPP ? MT_E_UNAVAILABLE : MT_E_IO, "make a link of kind '%s'", kind);
    return 0;
}

static void read_kind(const struct nlattr *info, struct mt_nl_link_info *ret)
{
    const struct nlattr *a;
    const char *tail = (const char *)info + mnl_attr_get_len(info);
    for (a = mnl_attr_get_payload(info); mnl_attr_ok(a, (int)(tail - (const char *)a)); a = mnl_attr_next(a)) {
        if (mnl_attr_get_type(a) == IFLA_INFO_KIND && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
            (void)snprintf(ret->kind, sizeof ret->kind, "%s", mnl_attr_get_str(a));
    }
}

static void read_counts(const struct nlattr *a, struct mt_nl_link_info *ret)
{
    struct rtnl_link_stats64 s = {0};
    size_t n = mnl_attr_get_payload_len(a);
    memcpy(&s, mnl_attr_get_payload(a), n < sizeof s ? n : sizeof s); /* fields were added to it over the years */
    ret->rx_packets = s.rx_packets;
    ret->rx_bytes = s.rx_bytes;
    ret->tx_packets = s.tx_packets;
    ret->tx_bytes = s.tx_bytes;
    ret->dropped = s.rx_dropped + s.tx_dropped;
}

static int on_link_info(const struct nlmsghdr *h, void *arg)
{
    struct mt_nl_link_info *ret = arg;
    const struct nlattr *a;
    if (h->nlmsg_type != RTM_NEWLINK)
        return MNL_CB_OK;
    const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
    ret->index = (unsigned)ifi->ifi_index;
    ret->up = (ifi->ifi_flags & IFF_UP) != 0;
    EACH_ATTR(a, h, sizeof *ifi) {
        if (mnl_attr_get_type(a) == IFLA_MTU && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
            ret->mtu = mnl_attr_get_u32(a);
        else if (mnl_attr_get_type(a) == IFLA_LINKINFO)
            read_kind(a, ret);
        else if (mnl_attr_get_type(a) == IFLA_STATS64)
            read_counts(a, ret);
    }
    return MNL_CB_OK;
}

int mt_nl_link_get(struct mt_nl *nl, const char *name, struct mt_nl_link_info *ret, struct mt_err *err)
{
    struct mt_nl_link_info info = {0};
    if (strlen(name) >= IFNAMSIZ)
        return MT_FAIL(err, MT_E_INVALID, "link name '%s' is longer than %d bytes", name, IFNAMSIZ - 1);
    struct nlmsghdr *h = begin(nl, RTM_GETLINK, NLM_F_ACK);
    struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(h, sizeof *ifi);
    ifi->ifi_family = AF_UNSPEC;
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    if (talk(nl, h, on_link_info, &info) < 0) {
        if (errno == ENODEV)
            return MT_FAIL(err, MT_E_NOT_FOUND, "no link '%s'", name);
        return MT_FAIL_ERRNO(err, MT_E_IO, "look up link '%s'", name);
    }
    *ret = info;
    return 0;
}

int mt_nl_link_set(struct mt_nl *nl, unsigned index, const struct mt_nl_link *change, struct mt_err *err)
{
    struct nlmsghdr *h = begin(nl, RTM_NEWLINK, NLM_F_ACK);
    struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(h, sizeof *ifi);
    ifi->ifi_family = AF_UNSPEC;
    ifi->ifi_index = (int)index;
    if (change->up) {
        ifi->ifi_change = IFF_UP;
        ifi->ifi_flags = IFF_UP;
    }
    if (change->mtu)
        mnl_attr_put_u32(h, IFLA_MTU, change->mtu);
    if (change->txqlen)
        mnl_attr_put_u32(h, IFLA_TXQLEN, change->txqlen);
    if (change->mac)
        mnl_attr_put(h, IFLA_ADDRESS, 6, change->mac);
    if (change->addrgen_none) {
        struct nlattr *spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
        struct nlattr *v6 = mnl_attr_nest_start(h, AF_INET6);
        mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        mnl_attr_nest_end(h, v6);
        mnl_attr_nest_end(h, spec);
    }
    if (talk(nl, h, NULL, NULL) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set link %u", index);
    return 0;
}

int mt_nl_link_del(struct mt_nl *nl, unsigned index, struct mt_err *err)
{
    struct nlmsghdr *h = begin(nl, RTM_DELLINK, NLM_F_ACK);
    struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(h, sizeof *ifi);
    ifi->ifi_family = AF_UNSPEC;
    ifi->ifi_index = (int)index;
    if (talk(nl, h, NULL, NULL) < 0 && errno != ENODEV)
        return MT_FAIL_ERRNO(err, MT_E_IO, "delete link %u", index);
    return 0;
}

static struct nlmsghdr *addr_msg(struct mt_nl *nl, uint16_t type, uint16_t flags, unsigned index,
                                 const struct in6_addr *addr, uint8_t plen)
{
    struct nlmsghdr *h = begin(nl, type, (uint16_t)(NLM_F_ACK | flags));
    struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(h, sizeof *ifa);
    ifa->ifa_family = AF_INET6;
    ifa->ifa_prefixlen = plen;
    ifa->ifa_flags = IFA_F_NODAD | IFA_F_PERMANENT;
    ifa->ifa_index = index;
    mnl_attr_put(h, IFA_LOCAL, sizeof *addr, addr);
    mnl_attr_put(h, IFA_ADDRESS, sizeof *addr, addr);
    return h;
}

int mt_nl_addr6_add(struct mt_nl *nl, unsigned index, const struct in6_addr *addr, uint8_t plen,
                    struct mt_err *err)
{
    struct nlmsghdr *h = addr_msg(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, addr, plen);
    if (talk(nl, h, NULL, NULL) < 0 && errno != EEXIST)
        return MT_FAIL_ERRNO(err, MT_E_IO, "add address to link %u", index);
    return 0;
}

int mt_nl_addr6_del(struct mt_nl *nl, unsigned index, const struct in6_addr *addr, uint8_t plen,
                    struct mt_err *err)
{
    struct nlmsghdr *h = addr_msg(nl, RTM_DELADDR, 0, index, addr, plen);
    if (talk(nl, h, NULL, NULL) < 0 && errno != EADDRNOTAVAIL && errno != ENODEV)
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove address from link %u", index);
    return 0;
}

static struct nlmsghdr *addr4_msg(struct mt_nl *nl, uint16_t type, uint16_t flags, unsigned index, const struct in_addr *addr)
{
    struct nlmsghdr *h = begin(nl, type, (uint16_t)(NLM_F_ACK | flags));
    struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(h, sizeof *ifa);
    ifa->ifa_family = AF_INET;
    ifa->ifa_prefixlen = 32;
    ifa->ifa_flags = IFA_F_PERMANENT;
    ifa->ifa_index = index;
    mnl_attr_put(h, IFA_LOCAL, sizeof *addr, addr);
    mnl_attr_put(h, IFA_ADDRESS, sizeof *addr, addr);
    return h;
}

int mt_nl_addr4_add(struct mt_nl *nl, unsigned index, const struct in_addr *addr, bool *ret_there, struct mt_err *err)
{
    int rc = talk(nl, addr4_msg(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, addr), NULL, NULL);
    if (rc < 0 && errno != EEXIST)
        return MT_FAIL_ERRNO(err, MT_E_IO, "add IPv4 address to link %u", index);
    if (ret_there)
        *ret_there = rc < 0;
    return 0;
}

int mt_nl_addr4_del(struct mt_nl *nl, unsigned index, const struct in_addr *addr, struct mt_err *err)
{
    if (talk(nl, addr4_msg(nl, RTM_DELADDR, 0, index, addr), NULL, NULL) < 0 && errno != EADDRNOTAVAIL && errno != ENODEV)
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove IPv4 address from link %u", index);
    return 0;
}

struct find_addr {
    unsigned index;
    struct in6_addr addr;
    bool found;
};

static int on_addr(const struct nlmsghdr *h, void *arg)
{
    struct find_addr *f = arg;
    const struct nlattr *a;

    if (h->nlmsg_type != RTM_NEWADDR)
        return MNL_CB_OK;
    const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(h);
    if (ifa->ifa_index != f->index)
        return MNL_CB_OK;
    EACH_ATTR(a, h, sizeof *ifa) {
        if (mnl_attr_get_type(a) == IFA_ADDRESS && mnl_attr_get_payload_len(a) == sizeof f->addr &&
            memcmp(mnl_attr_get_payload(a), &f->addr, sizeof f->addr) == 0)
            f->found = true;
    }
    return MNL_CB_OK;
}

int mt_nl_addr6_has(struct mt_nl *nl, unsigned index, const struct in6_addr *addr, bool *ret,
                    struct mt_err *err)
{
    struct find_addr f = {.index = index, .addr = *addr};
    struct nlmsghdr *h = begin(nl, RTM_GETADDR, NLM_F_DUMP);
    struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(h, sizeof *ifa);
    ifa->ifa_family = AF_INET6;
    if (talk(nl, h, on_addr, &f) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "list addresses");
    *ret = f.found;
    return 0;
}

static struct nlmsghdr *route_msg(struct mt_nl *nl, uint16_t type, uint16_t flags,
                                  const struct mt_nl_route6 *r)
{
    struct nlmsghdr *h = begin(nl, type, (uint16_t)(NLM_F_ACK | flags));
    struct rtmsg *rtm = mnl_nlmsg_put_extra_header(h, sizeof *rtm);
    rtm->rtm_family = AF_INET6;
    rtm->rtm_dst_len = r->plen;
    rtm->rtm_table = RT_TABLE_MAIN;
    rtm->rtm_protocol = RTPROT_STATIC;
    rtm->rtm_scope = RT_SCOPE_UNIVERSE;
    rtm->rtm_type = r->blackhole ? RTN_BLACKHOLE : RTN_UNICAST;
    mnl_attr_put(h, RTA_DST, sizeof r->dst, &r->dst);
    if (r->oif)
        mnl_attr_put_u32(h, RTA_OIF, r->oif);
    if (r->metric)
        mnl_attr_put_u32(h, RTA_PRIORITY, r->metric);
    if (r->src && type == RTM_NEWROUTE)
        mnl_attr_put(h, RTA_PREFSRC, sizeof *r->src, r->src);
    return h;
}

int mt_nl_route6_set(struct mt_nl *nl, const struct mt_nl_route6 *r, struct mt_err *err)
{
    struct nlmsghdr *h = route_msg(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, r);
    if (talk(nl, h, NULL, NULL) < 0 && errno != EEXIST)
        return MT_FAIL_ERRNO(err, MT_E_IO, "add route");
    return 0;
}

int mt_nl_route6_del(struct mt_nl *nl, const struct mt_nl_route6 *r, struct mt_err *err)
{
    struct nlmsghdr *h = route_msg(nl, RTM_DELROUTE, 0, r);
    if (talk(nl, h, NULL, NULL) < 0 && errno != ESRCH && errno != ENODEV)
        return MT_FAIL_ERRNO(err, MT_E_IO, "delete route");
    return 0;
}

int mt_nl_neigh6_set(struct mt_nl *nl, unsigned index, const struct in6_addr *addr,
                     const uint8_t *mac, struct mt_err *err)
{
    struct nlmsghdr *h = begin(nl, RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
    struct ndmsg *nd = mnl_nlmsg_put_extra_header(h, sizeof *nd);
    nd->ndm_family = AF_INET6;
    nd->ndm_ifindex = (int)index;
    nd->ndm_state = NUD_PERMANENT;
    nd->ndm_type = RTN_UNICAST;
    mnl_attr_put(h, NDA_DST, sizeof *addr, addr);
    mnl_attr_put(h, NDA_LLADDR, 6, mac);
    if (talk(nl, h, NULL, NULL) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "add neighbour on link %u", index);
    return 0;
}

struct walk_links {
    mt_nl_link_fn *fn;
    void *arg;
    bool stopped;
};

static int on_link(const struct nlmsghdr *h, void *arg)
{
    struct walk_links *w = arg;
    const struct nlattr *a;

    if (h->nlmsg_type != RTM_NEWLINK || w->stopped)
        return MNL_CB_OK;
    const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
    EACH_ATTR(a, h, sizeof *ifi) {
        if (mnl_attr_get_type(a) != IFLA_IFNAME || mnl_attr_validate(a, MNL_TYPE_NUL_STRING) < 0)
            continue;
        if (!w->fn(w->arg, (unsigned)ifi->ifi_index, mnl_attr_get_str(a)))
            w->stopped = true; /* the rest of the dump is read and dropped */
        break;
    }
    return MNL_CB_OK;
}

int mt_nl_links(struct mt_nl *nl, mt_nl_link_fn *fn, void *arg, struct mt_err *err)
{
    struct walk_links w = {.fn = fn, .arg = arg};
    struct nlmsghdr *h = begin(nl, RTM_GETLINK, NLM_F_DUMP);
    struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(h, sizeof *ifi);
    ifi->ifi_family = AF_UNSPEC;
    if (talk(nl, h, on_link, &w) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "list links");
    return 0;
}

struct walk_routes {
    mt_nl_route6_fn *fn;
    void *arg;
    bool stopped;
};

static int on_route(const struct nlmsghdr *h, void *arg)
{
    struct walk_routes *w = arg;
    const struct nlattr *a;
    struct mt_nl_route6 r = {0};
    struct in6_addr src;

    if (h->nlmsg_type != RTM_NEWROUTE || w->stopped)
        return MNL_CB_OK;
    const struct rtmsg *rtm = mnl_nlmsg_get_payload(h);
    if (rtm->rtm_family != AF_INET6 || rtm->rtm_table != RT_TABLE_MAIN)
        return MNL_CB_OK;
    r.plen = rtm->rtm_dst_len;
    r.blackhole = rtm->rtm_type == RTN_BLACKHOLE;
    r.unicast = rtm->rtm_type == RTN_UNICAST;
    EACH_ATTR(a, h, sizeof *rtm) {
        uint16_t len = mnl_attr_get_payload_len(a);
        if (mnl_attr_get_type(a) == RTA_DST && len == sizeof r.dst) {
            memcpy(&r.dst, mnl_attr_get_payload(a), sizeof r.dst);
        } else if (mnl_attr_get_type(a) == RTA_OIF && len == sizeof(uint32_t)) {
            r.oif = mnl_attr_get_u32(a);
        } else if (mnl_attr_get_type(a) == RTA_PRIORITY && len == sizeof(uint32_t)) {
            r.metric = mnl_attr_get_u32(a);
        } else if (mnl_attr_get_type(a) == RTA_PREFSRC && len == sizeof src) {
            memcpy(&src, mnl_attr_get_payload(a), sizeof src);
            r.src = &src;
        }
    }
    if (!w->fn(w->arg, &r))
        w->stopped = true;
    return MNL_CB_OK;
}

int mt_nl_routes6(struct mt_nl *nl, mt_nl_route6_fn *fn, void *arg, struct mt_err *err)
{
    struct walk_routes w = {.fn = fn, .arg = arg};
    struct nlmsghdr *h = begin(nl, RTM_GETROUTE, NLM_F_DUMP);
    struct rtmsg *rtm = mnl_nlmsg_put_extra_header(h, sizeof *rtm);
    rtm->rtm_family = AF_INET6;
    if (talk(nl, h, on_route, &w) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "list routes");
    return 0;
}
