/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/net/ipv4.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/netlink.h"
#include "os/spawn.h"

#include <arpa/inet.h>
#include <limits.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROUTES "/proc/net/route"
#define ROUTES_MAX (1U << 20)
#define ANNOUNCEMENTS 3
#define ANNOUNCE_GAP_MS 200

bool mt_ipv4_uplink(const char *text, char ret[IFNAMSIZ])
{
    unsigned long best = ULONG_MAX;
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        char dev[IFNAMSIZ], to[9], mask[9];
        unsigned long metric;
        unsigned flags;
        if (sscanf(line, "%15s %8s %*s %x %*s %*s %lu %8s", dev, to, &flags, &metric, mask) != 5)
            continue;
        if (strcmp(to, "00000000") != 0 || strcmp(mask, "00000000") != 0 || !(flags & 1U) || metric >= best)
            continue;
        best = metric;
        (void)snprintf(ret, IFNAMSIZ, "%s", dev);
    }
    return best != ULONG_MAX;
}

static int hook_path(const struct mt_ipv4_conf *c, const char *name, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/%s", c->hook_dir, name);
}

int mt_ipv4_place(const struct mt_ipv4_conf *c, bool *ret_hook, char ret_dev[IFNAMSIZ], struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_free char *text = NULL;
    size_t len;
    int rc = hook_path(c, "ipv4-up", path, err);
    if (rc < 0)
        return rc;
    *ret_hook = access(path, X_OK) == 0;
    if (*ret_hook) {
        (void)snprintf(ret_dev, IFNAMSIZ, "lo");
        return 0;
    }
    if (c->interface[0]) {
        (void)snprintf(ret_dev, IFNAMSIZ, "%s", c->interface);
        return 0;
    }
    if ((rc = mt_file_read(ROUTES, ROUTES_MAX, &text, &len, err)) < 0)
        return rc;
    if (mt_ipv4_uplink(text, ret_dev))
        return 0;
    return MT_FAIL(err, MT_E_NOT_FOUND, "this host has no IPv4 default route: set ipv4_interface, or install %.100s", path);
}

/* "This address is at my hardware address", to everybody on the link (RFC 5227 1.1). Links without hardware addresses need none. */
static int announce(const char *dev, const struct in_addr *a, struct mt_err *err)
{
    mt_auto_fd int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP));
    struct ifreq ifr = {0};
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "packet socket");
    (void)snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", dev);
    if (ioctl(fd, SIOCGIFHWADDR, &ifr) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "hardware address of '%s'", dev);
    if (ifr.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return 0;
    struct ether_arp arp = {.ea_hdr = {.ar_hrd = htons(ARPHRD_ETHER), .ar_pro = htons(ETHERTYPE_IP), .ar_hln = ETH_ALEN, .ar_pln = 4, .ar_op = htons(ARPOP_REQUEST)}};
    memcpy(arp.arp_sha, ifr.ifr_hwaddr.sa_data, ETH_ALEN);
    memcpy(arp.arp_spa, a, 4);
    memcpy(arp.arp_tpa, a, 4);
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = (int)if_nametoindex(dev), .sll_halen = ETH_ALEN};
    memset(to.sll_addr, 0xff, ETH_ALEN);
    for (int i = 0; i < ANNOUNCEMENTS; i++) {
        if (i > 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = ANNOUNCE_GAP_MS * 1000000L}, NULL);
        if (sendto(fd, &arp, sizeof arp, 0, (struct sockaddr *)&to, sizeof to) < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "announce on '%s'", dev);
    }
    return 0;
}

static int run_hook(const struct mt_ipv4_conf *c, const char *name, const char *address, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = hook_path(c, name, path, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {path, address, NULL};
    static const char *const env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    struct mt_spawn s = {.path = path, .argv = argv, .envp = env, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    rc = mt_run_ok(&s, NULL, 0, NULL, MT_IPV4_HOOK_MS, err);
    return rc < 0 ? mt_err_wrap(err, "hook %s", name) : 0;
}

/* @what: 1 add, -1 delete. @ret_there (may be NULL): it was there before. */
static int change(const char *address, const char *dev, int what, bool *ret_there, struct mt_err *err)
{
    struct in_addr a;
    struct mt_nl *nl = NULL;
    unsigned index;
    bool there = false;
    if (inet_pton(AF_INET, address, &a) != 1)
        return MT_FAIL(err, MT_E_INVALID, "'%.20s' is no IPv4 address", address);
    int rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = mt_nl_link_index(nl, dev, &index, err);
    if (rc == -MT_E_NOT_FOUND && what < 0)
        rc = 0; /* the link is gone, and the address with it */
    else if (rc == 0 && what < 0)
        rc = mt_nl_addr4_del(nl, index, &a, err);
    else if (rc == 0)
        rc = mt_nl_addr4_add(nl, index, &a, &there, err);
    mt_nl_close(nl);
    if (rc == 0 && ret_there)
        *ret_there = there;
    return rc;
}

int mt_ipv4_up(const struct mt_ipv4_conf *c, const char *address, const char *dev, bool hook, struct mt_err *err)
{
    struct in_addr a;
    int rc = change(address, dev, 1, NULL, err);
    if (rc < 0)
        return rc;
    (void)inet_pton(AF_INET, address, &a);
    return hook ? run_hook(c, "ipv4-up", address, err) : announce(dev, &a, err);
}

int mt_ipv4_down(const struct mt_ipv4_conf *c, const char *address, const char *dev, bool hook, struct mt_err *err)
{
    char path[PATH_MAX];
    struct mt_err why = {0};
    int told = 0;
    if (hook && hook_path(c, "ipv4-down", path, &why) == 0 && access(path, X_OK) == 0)
        told = run_hook(c, "ipv4-down", address, &why);
    int rc = change(address, dev, -1, NULL, err);
    if (rc == 0 && told < 0) {
        *err = why;
        return told;
    }
    return rc;
}

int mt_ipv4_keep(const char *address, const char *dev, bool announced, bool *ret_mended, struct mt_err *err)
{
    struct in_addr a;
    bool there;
    int rc = change(address, dev, 1, &there, err);
    if (rc < 0)
        return rc;
    *ret_mended = !there;
    (void)inet_pton(AF_INET, address, &a);
    return there || !announced ? 0 : announce(dev, &a, err);
}
