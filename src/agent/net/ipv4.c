/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/net/ipv4.h"

#include "agent/net/arp.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/netlink.h"
#include "os/spawn.h"

#include <arpa/inet.h>
#include <limits.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUTES "/proc/net/route"
#define ROUTES_MAX (1U << 20)

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

/* Nobody else has it, or so it seems: an address that two machines answer for serves neither's clients. */
static int free_on(const char *address, const struct in_addr *a, const char *dev, struct mt_err *err)
{
    struct mt_arp_owner owner;
    char mac[MT_ARP_TEXT];
    bool here;
    int rc = mt_arp_here(dev, a, &here, err);
    if (rc < 0 || here)
        return rc;
    if ((rc = mt_arp_find(dev, a, 1, &owner, err)) < 0 || !owner.found)
        return rc;
    mt_arp_text(owner.mac, mac);
    return MT_FAIL(err, MT_E_CONFLICT, "%s is answered for by %s on %s: find that machine, or take the address out of the pool", address, mac, dev);
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

int mt_ipv4_up(const struct mt_ipv4_conf *c, const char *address, const char *dev, bool hook, bool moved, struct mt_err *err)
{
    struct in_addr a;
    int rc = inet_pton(AF_INET, address, &a) == 1 && !hook && !moved ? free_on(address, &a, dev, err) : 0;
    if (rc < 0 || (rc = change(address, dev, 1, NULL, err)) < 0)
        return rc;
    (void)inet_pton(AF_INET, address, &a);
    return hook ? run_hook(c, "ipv4-up", address, err) : mt_arp_announce(dev, &a, err);
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
    return there || !announced ? 0 : mt_arp_announce(dev, &a, err);
}
