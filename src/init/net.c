/* SPDX-License-Identifier: Apache-2.0 */
#include "init/net.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/cleanup.h"
#include "base/rd.h"
#include "base/str.h"
#include "init/readfile.h"

enum { REQUEST_MAX = 512 };

/* one request: header, fixed part, attributes; sticky-free because every part is of known small size */
struct request {
    _Alignas(struct nlmsghdr) uint8_t bytes[REQUEST_MAX];
    size_t len;
};

static void append(struct request *q, const void *data, size_t n)
{
    size_t padded = (n + 3) & ~(size_t)3;
    if (padded > sizeof q->bytes - q->len)
        return; /* cannot be: the largest request has about 120 bytes */
    memcpy(q->bytes + q->len, data, n);
    q->len += padded;
}

static void start(struct request *q, uint16_t type, uint16_t flags, const void *fixed, size_t n)
{
    const struct nlmsghdr h = {.nlmsg_type = type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags),
                               .nlmsg_seq = 1};
    memset(q, 0, sizeof *q);
    append(q, &h, sizeof h);
    append(q, fixed, n);
}

static void attr(struct request *q, uint16_t type, const void *data, size_t n)
{
    const struct rtattr a = {.rta_len = (uint16_t)(sizeof a + n), .rta_type = type};
    append(q, &a, sizeof a);
    append(q, data, n);
}

/* send and wait for the acknowledgement; "exists already" counts as done */
static int finish(int fd, struct request *q, const char *what, struct mt_err *err)
{
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    uint32_t total = (uint32_t)q->len;
    memcpy(q->bytes, &total, sizeof total); /* nlmsg_len is the first member */
    if (sendto(fd, q->bytes, q->len, 0, (const struct sockaddr *)&kernel, sizeof kernel) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "%s: send to netlink", what);
    for (;;) {
        _Alignas(struct nlmsghdr) uint8_t reply[4096];
        ssize_t n = recv(fd, reply, sizeof reply, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < (ssize_t)sizeof(struct nlmsghdr))
            return MT_FAIL_ERRNO(err, MT_E_IO, "%s: no answer from netlink", what);
        struct nlmsghdr h;
        memcpy(&h, reply, sizeof h);
        if (h.nlmsg_type != NLMSG_ERROR || n < (ssize_t)(sizeof h + sizeof(int)))
            continue;
        int code;
        memcpy(&code, reply + sizeof h, sizeof code);
        if (code == 0 || code == -EEXIST)
            return 0;
        errno = -code;
        return MT_FAIL_ERRNO(err, MT_E_IO, "%s", what);
    }
}

static int open_netlink(int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    const struct timeval limit = {.tv_sec = 5};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open netlink");
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static int link_up(int fd, int index, uint32_t mtu, const char *what, struct mt_err *err)
{
    struct request q;
    const struct ifinfomsg m = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    start(&q, RTM_NEWLINK, 0, &m, sizeof m);
    if (mtu > 0)
        attr(&q, IFLA_MTU, &mtu, sizeof mtu);
    return finish(fd, &q, what, err);
}

static int add_address(int fd, int index, const struct in6_addr *addr, struct mt_err *err)
{
    struct request q;
    const struct ifaddrmsg m = {.ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_index = (uint32_t)index,
                                .ifa_flags = IFA_F_NODAD | IFA_F_PERMANENT};
    start(&q, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &m, sizeof m);
    attr(&q, IFA_LOCAL, addr, sizeof *addr);
    attr(&q, IFA_ADDRESS, addr, sizeof *addr);
    return finish(fd, &q, "add address", err);
}

static int add_neighbour(int fd, int index, const struct in6_addr *addr, const char *mac, struct mt_err *err)
{
    struct request q;
    uint8_t bytes[6];
    for (size_t i = 0; i < 6; i++)
        if (mt_hex_decode(mac + 3 * i, 1, bytes + i) < 0)
            return MT_FAIL(err, MT_E_INVALID, "gateway MAC '%s'", mac);
    const struct ndmsg m = {.ndm_family = AF_INET6, .ndm_ifindex = index, .ndm_state = NUD_PERMANENT};
    start(&q, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &m, sizeof m);
    attr(&q, NDA_DST, addr, sizeof *addr);
    attr(&q, NDA_LLADDR, bytes, sizeof bytes);
    return finish(fd, &q, "add gateway neighbour", err);
}

/* @dst NULL: the default route through @gateway; else a link route to @dst */
static int add_route(int fd, int index, const struct in6_addr *dst, const struct in6_addr *gateway,
                     struct mt_err *err)
{
    struct request q;
    const struct rtmsg m = {.rtm_family = AF_INET6, .rtm_dst_len = dst ? 128 : 0, .rtm_table = RT_TABLE_MAIN,
                            .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_UNICAST,
                            .rtm_scope = dst ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE};
    start(&q, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &m, sizeof m);
    if (dst)
        attr(&q, RTA_DST, dst, sizeof *dst);
    else
        attr(&q, RTA_GATEWAY, gateway, sizeof *gateway);
    attr(&q, RTA_OIF, &index, sizeof index);
    return finish(fd, &q, dst ? "add route to the gateway" : "add default route", err);
}

int mt_net_loopback(struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    int res = open_netlink(&fd, err);
    unsigned index = if_nametoindex("lo");
    if (res == 0 && index == 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "no interface lo");
    return res < 0 ? res : link_up(fd, (int)index, 0, "bring lo up", err);
}

static int check_mac(const struct mt_guest_network *n, struct mt_err *err)
{
    char path[64], mac[32];
    size_t len;
    if (!n->mac)
        return 0;
    int res = mt_fmt(path, sizeof path, err, "/sys/class/net/%s/address", n->ifname);
    if (res == 0)
        res = mt_readfile(path, mac, sizeof mac, &len, err);
    if (res < 0)
        return res;
    mac[strcspn(mac, "\n")] = '\0';
    if (!MT_STREQ(mac, n->mac))
        return MT_FAIL(err, MT_E_INVALID, "%s has MAC %s, the config says %s", n->ifname, mac, n->mac);
    return 0;
}

/* Before the link goes up, or duplicate address detection would delay the address by a second. */
static void set_sysctls(const char *ifname)
{
    static const char *const keys[] = {"accept_ra", "autoconf", "accept_dad", "dad_transmits"};
    char path[96];
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (mt_fmt(path, sizeof path, NULL, "/proc/sys/net/ipv6/conf/%s/%s", ifname, keys[i]) == 0)
            (void)mt_readfile_put(path, "0", NULL);
}

static bool has_line(const char *text, const char *a, const char *b, const char *c)
{
    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        const char *p = memmem(line, n, a, strlen(a));
        if (p == line && memmem(line, n, b, strlen(b)) && memmem(line, n, c, strlen(c)))
            return true;
        line += n + (line[n] == '\n');
    }
    return false;
}

/* /proc/net/if_inet6: address index prefixlen scope flags name; ipv6_route: dst len src len nexthop ... name */
static int verify(const struct mt_guest_network *n, const struct in6_addr *addr, const struct in6_addr *gateway,
                  struct mt_err *err)
{
    char text[8192], hex[33], dev[20];
    size_t len;
    int res = mt_fmt(dev, sizeof dev, err, " %s", n->ifname);
    if (res == 0)
        res = mt_readfile("/proc/net/if_inet6", text, sizeof text, &len, err);
    if (res < 0)
        return res;
    mt_hex_encode(addr, 16, hex);
    if (!has_line(text, hex, " 80 00 ", dev))
        return MT_FAIL(err, MT_E_CONFLICT, "address %s is not on %s", n->address, n->ifname);
    res = mt_readfile("/proc/net/ipv6_route", text, sizeof text, &len, err);
    if (res < 0)
        return res;
    mt_hex_encode(gateway, 16, hex);
    if (!has_line(text, "00000000000000000000000000000000 00 ", hex, dev))
        return MT_FAIL(err, MT_E_CONFLICT, "no default route through %s", n->gateway);
    return 0;
}

int mt_net_configure(const struct mt_guest_network *n, struct mt_err *err)
{
    struct in6_addr addr, gateway;
    mt_auto_fd int fd = -1;
    if (MT_STREQ(n->ifname, "lo")) /* a guest without a network: it has no other interface */
        return 0;
    if (inet_pton(AF_INET6, n->address, &addr) != 1 || inet_pton(AF_INET6, n->gateway, &gateway) != 1)
        return MT_FAIL(err, MT_E_INVALID, "address or gateway");
    unsigned found = if_nametoindex(n->ifname);
    if (found == 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "no interface %s", n->ifname);
    int index = (int)found;
    int res = check_mac(n, err);
    if (res == 0)
        res = open_netlink(&fd, err);
    if (res < 0)
        return res;
    set_sysctls(n->ifname);
    res = link_up(fd, index, n->mtu, "set MTU and bring the link up", err);
    if (res == 0)
        res = add_address(fd, index, &addr, err);
    if (res == 0 && n->gateway_mac)
        res = add_neighbour(fd, index, &gateway, n->gateway_mac, err);
    if (res == 0)
        res = add_route(fd, index, &gateway, NULL, err);
    if (res == 0)
        res = add_route(fd, index, NULL, &gateway, err);
    return res == 0 ? verify(n, &addr, &gateway, err) : res;
}
