/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/net/arp.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROBES 3
#define PROBE_GAP_MS 150 /* and after the last one; the RFC's seconds are for hosts that come up, this one waits for nobody's bridge to learn */
#define ANNOUNCEMENTS 3
#define ANNOUNCE_GAP_MS 200

struct link {
    int fd;
    uint8_t mac[ETH_ALEN];
    struct sockaddr_ll to;
};

/* 1: the link is one with hardware addresses and @ret is open on it; 0: there are none. */
static int open_link(const char *dev, struct link *ret, struct mt_err *err)
{
    mt_auto_fd int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ARP));
    struct ifreq ifr = {0};
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "packet socket");
    (void)snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", dev);
    if (ioctl(fd, SIOCGIFHWADDR, &ifr) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "hardware address of '%s'", dev);
    if (ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return 0;
    memcpy(ret->mac, ifr.ifr_hwaddr.sa_data, ETH_ALEN);
    ret->to = (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = (int)if_nametoindex(dev), .sll_halen = ETH_ALEN};
    memset(ret->to.sll_addr, 0xff, ETH_ALEN);
    if (bind(fd, (struct sockaddr *)&ret->to, sizeof ret->to) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "listen on '%s'", dev);
    ret->fd = MT_TAKE_FD(fd);
    return 1;
}

static int ask(const struct link *l, const struct in_addr *sender, const struct in_addr *target)
{
    struct ether_arp arp = {.ea_hdr = {.ar_hrd = htons(ARPHRD_ETHER), .ar_pro = htons(ETHERTYPE_IP), .ar_hln = ETH_ALEN, .ar_pln = 4, .ar_op = htons(ARPOP_REQUEST)}};
    memcpy(arp.arp_sha, l->mac, ETH_ALEN);
    memcpy(arp.arp_spa, sender, 4);
    memcpy(arp.arp_tpa, target, 4);
    return sendto(l->fd, &arp, sizeof arp, 0, (const struct sockaddr *)&l->to, sizeof l->to) < 0 && errno != ENOBUFS ? -1 : 0;
}

/* Whoever names one of them as its own, in an answer or by asking for something else. One that only asks whose it is has not got it either. */
static void hear(const struct link *l, const struct in_addr *v, size_t n, struct mt_arp_owner *ret)
{
    struct ether_arp arp;
    while (recv(l->fd, &arp, sizeof arp, 0) == (ssize_t)sizeof arp) {
        if (arp.ea_hdr.ar_hrd != htons(ARPHRD_ETHER) || arp.ea_hdr.ar_pro != htons(ETHERTYPE_IP) || arp.ea_hdr.ar_hln != ETH_ALEN || arp.ea_hdr.ar_pln != 4 ||
            memcmp(arp.arp_sha, l->mac, ETH_ALEN) == 0)
            continue;
        for (size_t i = 0; i < n; i++)
            if (memcmp(arp.arp_spa, &v[i], 4) == 0) {
                ret[i].found = true;
                memcpy(ret[i].mac, arp.arp_sha, ETH_ALEN);
            }
    }
}

int mt_arp_find(const char *dev, const struct in_addr *v, size_t n, struct mt_arp_owner *ret, struct mt_err *err)
{
    static const struct in_addr nobody = {0};
    struct link l = {.fd = -1};
    memset(ret, 0, n * sizeof *ret);
    int rc = n ? open_link(dev, &l, err) : 0;
    mt_auto_fd int fd = l.fd;
    for (int round = 0; rc > 0 && round < PROBES; round++) {
        for (size_t i = 0; i < n; i++)
            if (ask(&l, &nobody, &v[i]) < 0)
                return MT_FAIL_ERRNO(err, MT_E_IO, "ask on '%s'", dev);
        int64_t until = mt_clock_mono() + PROBE_GAP_MS * MT_NS_PER_MS, left;
        while ((left = (until - mt_clock_mono()) / MT_NS_PER_MS) > 0) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            if (poll(&p, 1, (int)left) > 0)
                hear(&l, v, n, ret);
        }
    }
    return rc < 0 ? rc : 0;
}

int mt_arp_announce(const char *dev, const struct in_addr *a, struct mt_err *err)
{
    struct link l = {.fd = -1};
    int rc = open_link(dev, &l, err);
    mt_auto_fd int fd = l.fd;
    for (int i = 0; rc > 0 && i < ANNOUNCEMENTS; i++) {
        if (i > 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = ANNOUNCE_GAP_MS * 1000000L}, NULL);
        if (ask(&l, a, a) < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "announce on '%s'", dev);
    }
    (void)fd;
    return rc < 0 ? rc : 0;
}

void mt_arp_text(const uint8_t mac[6], char ret[MT_ARP_TEXT])
{
    (void)snprintf(ret, MT_ARP_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

int mt_arp_here(const char *dev, const struct in_addr *a, bool *ret, struct mt_err *err)
{
    struct ifaddrs *all = NULL;
    *ret = false;
    if (getifaddrs(&all) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "list addresses");
    for (const struct ifaddrs *i = all; i && !*ret; i = i->ifa_next)
        *ret = i->ifa_addr && i->ifa_addr->sa_family == AF_INET && (!dev || MT_STREQ(i->ifa_name, dev)) &&
               memcmp(&((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr, a, 4) == 0;
    freeifaddrs(all);
    return 0;
}
