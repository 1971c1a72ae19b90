/* SPDX-License-Identifier: Apache-2.0 */
/* The mesh made so on this host. See pass.h. */
#include "agent/mesh/pass.h"

#include "agent/mesh/keys.h"
#include "base/clock.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/netlink.h"
#include "os/spawn.h"

#include <netinet/ip.h>
#include <stdlib.h>
#include <sys/socket.h>

#define ARGS_BYTES (1U << 20)
#define GO_START_MS 5000
#define TRIAL_LINK "moat-wg-probe"
/* WireGuard's data message: type and index 8, counter 8, tag 16; then UDP 8 and the outer IP header */
#define WG_OVERHEAD (32 + 8)

#define auto_nl mt_cleanup(nl_closep)
static void nl_closep(struct mt_nl **nl)
{
    mt_nl_close(*nl);
}

const char *mt_mesh_backend_name(enum mt_mesh_backend b)
{
    static const char *const names[MT_MESH_BACKEND_MAX] = {"none", "kernel", "wireguard-go"};
    return names[b];
}

uint32_t mt_mesh_mtu_over(uint32_t path_mtu, int family)
{
    uint32_t off = WG_OVERHEAD + (family == AF_INET6 ? 40 : 20);
    /* messages are filled to 16 bytes, but never beyond the device's MTU */
    uint32_t mtu = path_mtu > off ? path_mtu - off : 0;
    return mtu < MT_MESH_MTU_MIN ? MT_MESH_MTU_MIN : mtu;
}

/* ---- device ------------------------------------------------------------------------------ */

int mt_mesh_probe(const struct mt_mesh_host *h, enum mt_mesh_backend *ret, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    unsigned index;
    int rc = mt_nl_open(&nl, err);
    if (rc < 0)
        return rc;
    rc = mt_nl_link_add(nl, TRIAL_LINK, "wireguard", err);
    if (rc == 0) {
        *ret = MT_MESH_KERNEL;
        return mt_nl_link_index(nl, TRIAL_LINK, &index, NULL) == 0 ? mt_nl_link_del(nl, index, err) : 0;
    }
    if (rc != -MT_E_UNAVAILABLE)
        return rc;
    *ret = access(h->wireguard_go_path, X_OK) == 0 ? MT_MESH_USERSPACE : MT_MESH_NONE;
    return *ret == MT_MESH_USERSPACE ? 0
                                     : MT_FAIL(err, MT_E_UNAVAILABLE, "the kernel has no WireGuard and '%s' is missing; install the package wireguard-go",
                                               h->wireguard_go_path);
}

/*
 * A process of its own session: the mesh goes on when the agent ends. It ends by itself when its link is deleted, and its
 * link goes when it ends.
 */
static int start_go(struct mt_nl *nl, const struct mt_mesh_host *h, struct mt_nl_link_info *info, struct mt_mesh_done *done, struct mt_err *err)
{
    const char *const argv[] = {"wireguard-go", "-f", MT_MESH_LINK, NULL};
    const char *const envp[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LOG_LEVEL=error", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1", NULL};
    struct mt_spawn s = {.path = h->wireguard_go_path, .argv = argv, .envp = envp, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1,
                         .new_session = true, .no_new_privs = true};
    mt_auto_fd int pidfd = -1;
    pid_t pid;
    int rc = mt_spawn(&s, &pid, &pidfd, err);
    if (rc < 0)
        return mt_err_wrap(err, "wireguard-go");
    for (int64_t end = mt_clock_mono() + GO_START_MS * INT64_C(1000000); mt_clock_mono() < end;) {
        struct mt_run_result r;
        struct mt_wg_device d;
        /* the link comes before the socket through which it is set */
        if (mt_nl_link_get(nl, MT_MESH_LINK, info, NULL) == 0 && mt_wg_show(h->wg_path, MT_MESH_LINK, &d, NULL) == 0) {
            mt_wg_device_done(&d);
            done->go_pid = pid;
            done->go_pidfd = MT_TAKE_FD(pidfd);
            return 0;
        }
        if (mt_pidfd_wait(pidfd, 20, &r, NULL) == 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "wireguard-go ended with %d at its start; is /dev/net/tun there?", r.status);
    }
    struct mt_run_result r;
    (void)mt_pidfd_kill(pidfd, 9, NULL);
    (void)mt_pidfd_wait(pidfd, 1000, &r, NULL);
    return MT_FAIL(err, MT_E_TIMEOUT, "wireguard-go did not answer within %d s", GO_START_MS / 1000);
}

static int device_up(struct mt_nl *nl, const struct mt_mesh_host *h, struct mt_nl_link_info *info, struct mt_mesh_done *d, struct mt_err *err)
{
    int rc = mt_nl_link_get(nl, MT_MESH_LINK, info, err);
    if (rc == -MT_E_NOT_FOUND) {
        d->made = true;
        d->links++;
        rc = mt_nl_link_add(nl, MT_MESH_LINK, "wireguard", err);
        if (rc == 0)
            rc = mt_nl_link_get(nl, MT_MESH_LINK, info, err);
        else if (rc == -MT_E_UNAVAILABLE)
            rc = access(h->wireguard_go_path, X_OK) == 0
                     ? start_go(nl, h, info, d, err)
                     : MT_FAIL(err, MT_E_UNAVAILABLE, "the kernel has no WireGuard and '%s' is missing; install the package wireguard-go",
                               h->wireguard_go_path);
    }
    if (rc == 0)
        d->backend = MT_STREQ(info->kind, "wireguard") ? MT_MESH_KERNEL : MT_MESH_USERSPACE;
    return rc;
}

/* ---- MTU --------------------------------------------------------------------------------- */

/* What the kernel knows of the way to an endpoint: its device's MTU, or less once a router said so. 0: no way. */
static uint32_t path_mtu(const char *endpoint, int *ret_family)
{
    struct sockaddr_storage ss;
    socklen_t len;
    int mtu = 0;
    socklen_t size = sizeof mtu;

    if (mt_mesh_endpoint_parse(endpoint, &ss, &len, NULL) < 0)
        return 0;
    mt_auto_fd int fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool six = ss.ss_family == AF_INET6;
    /* connecting a datagram socket looks the route up and sends nothing */
    if (fd < 0 || connect(fd, (struct sockaddr *)&ss, len) < 0 ||
        getsockopt(fd, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_MTU : IP_MTU, &mtu, &size) < 0 || mtu <= 0)
        return 0;
    *ret_family = ss.ss_family;
    return (uint32_t)mtu;
}

static uint32_t choose_mtu(const struct mt_mesh_todo *t, struct mt_mesh_done *d)
{
    uint32_t mtu = t->want->mtu;
    for (size_t i = 0; i < t->want->n; i++) {
        const struct mt_mesh_peer *p = &t->want->peers[i];
        int family = AF_INET6;
        if (!p->n_endpoints)
            continue;
        uint32_t under = path_mtu(p->endpoints[(t->endpoint ? t->endpoint[i] : 0) % p->n_endpoints], &family);
        if (!under)
            continue;
        if (!d->underlay_mtu || under < d->underlay_mtu)
            d->underlay_mtu = under;
        uint32_t over = mt_mesh_mtu_over(under, family);
        mtu = over < mtu ? over : mtu;
    }
    return mtu;
}

/* ---- routes ------------------------------------------------------------------------------ */

struct net {
    struct in6_addr addr;
    uint8_t plen;
};

struct route_walk {
    unsigned ifindex;
    const struct in6_addr *own;
    const struct net *want; /* sorted */
    bool *have;
    size_t n;
    struct net *stale;
    size_t stale_n, stale_cap;
};

static int by_net(const void *a, const void *b)
{
    const struct net *x = a, *y = b;
    int c = memcmp(&x->addr, &y->addr, sizeof x->addr);
    return c ? c : (int)x->plen - (int)y->plen;
}

static bool on_route(void *arg, const struct mt_nl_route6 *r)
{
    struct route_walk *w = arg;
    if (r->oif != w->ifindex || r->blackhole || (r->dst.s6_addr[0] == 0xfe && (r->dst.s6_addr[1] & 0xc0) == 0x80) || r->dst.s6_addr[0] == 0xff)
        return true;
    struct net key = {.addr = r->dst, .plen = r->plen};
    const struct net *at = bsearch(&key, w->want, w->n, sizeof key, by_net);
    bool ours = memcmp(&r->dst, w->own, sizeof r->dst) == 0 && r->plen == 128; /* the address's own */
    if (at && r->metric == MT_MESH_METRIC && r->src && memcmp(r->src, w->own, sizeof *w->own) == 0)
        w->have[at - w->want] = true;
    else if (!at && !ours && w->stale_n < w->stale_cap)
        w->stale[w->stale_n++] = key;
    return true;
}

static int sync_routes(struct mt_nl *nl, const struct mt_mesh_want *want, unsigned ifindex, unsigned *changed, struct mt_err *err)
{
    enum { STALE_MAX = 1024 };
    size_t n = 2 * want->n;
    mt_auto_free struct net *nets = calloc(n + 1, sizeof *nets);
    mt_auto_free bool *have = calloc(n + 1, sizeof *have);
    mt_auto_free struct net *stale = calloc(STALE_MAX, sizeof *stale);
    if (!nets || !have || !stale)
        return MT_FAIL(err, MT_E_NOMEM, "mesh routes: out of memory");
    for (size_t i = 0; i < want->n; i++) {
        nets[2 * i] = (struct net){.addr = want->peers[i].addr, .plen = 128};
        nets[2 * i + 1] = (struct net){.addr = want->peers[i].prefix, .plen = 80};
    }
    qsort(nets, n, sizeof *nets, by_net);
    struct route_walk w = {.ifindex = ifindex, .own = &want->own, .want = nets, .have = have, .n = n, .stale = stale, .stale_cap = STALE_MAX};
    int rc = mt_nl_routes6(nl, on_route, &w, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct mt_nl_route6 r = {.dst = nets[i].addr, .plen = nets[i].plen, .oif = ifindex, .src = &want->own, .metric = MT_MESH_METRIC};
        if (have[i])
            continue;
        ++*changed;
        rc = mt_nl_route6_set(nl, &r, err);
    }
    for (size_t i = 0; rc == 0 && i < w.stale_n; i++) {
        struct mt_nl_route6 r = {.dst = stale[i].addr, .plen = stale[i].plen, .oif = ifindex};
        ++*changed;
        rc = mt_nl_route6_del(nl, &r, err);
    }
    return rc;
}

/* ---- the pass ---------------------------------------------------------------------------- */

static int set_link(struct mt_nl *nl, const struct mt_mesh_todo *t, const struct mt_nl_link_info *info, struct mt_mesh_done *d, struct mt_err *err)
{
    bool there = false;
    int rc = 0;

    d->mtu = choose_mtu(t, d);
    if (info->mtu != d->mtu || !info->up) {
        /* no address but its own: a mesh needs no link-local ones, and the kernel makes one when the link comes up */
        struct mt_nl_link quiet = {.addrgen_none = true}, change = {.mtu = d->mtu, .up = true};
        d->mtus += info->mtu != d->mtu;
        d->links += !info->up;
        rc = info->up ? 0 : mt_nl_link_set(nl, info->index, &quiet, err);
        if (rc == 0)
            rc = mt_nl_link_set(nl, info->index, &change, err);
    }
    if (rc == 0)
        rc = mt_nl_addr6_has(nl, info->index, &t->want->own, &there, err);
    if (rc == 0 && !there) {
        d->addresses++;
        rc = mt_nl_addr6_add(nl, info->index, &t->want->own, 128, err);
    }
    return rc;
}

int mt_mesh_pass(const struct mt_mesh_host *h, const struct mt_mesh_todo *t, struct mt_mesh_done *ret, struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    mt_auto_buf struct mt_buf args = MT_BUF_INIT(ARGS_BYTES);
    struct mt_nl_link_info info;
    struct mt_wg_keys keys;
    const char *name;
    char key_path[PATH_MAX];
    bool promote;

    *ret = (struct mt_mesh_done){.go_pidfd = -1};
    int rc = mt_wg_keys_load(h->keys_dir, &keys, err);
    if (rc == 0)
        rc = mt_wg_keys_choose(&keys, &t->want->key, t->now_ms, &name, &promote, err);
    if (rc == 0 && promote) {
        rc = mt_wg_keys_promote(h->keys_dir, err);
        name = "wg.key";
    }
    if (rc == 0)
        rc = mt_fmt(key_path, sizeof key_path, err, "%s/%s", h->keys_dir, name);
    if (rc == 0)
        rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = device_up(nl, h, &info, ret, err);
    if (rc < 0)
        return rc;
    memcpy(ret->public_key, mt_mesh_key_at(&t->want->key, t->now_ms), MT_WG_KEY_LEN);
    ret->ifindex = info.index;
    rc = mt_wg_show(h->wg_path, MT_MESH_LINK, &ret->seen, err);
    if (rc == 0)
        mt_wg_compare(t->want, &ret->seen, t->now_ms, key_path, ret->public_key, t->endpoint, t->force, &args, &ret->diff);
    if (rc == 0 && args.len)
        rc = mt_wg_set(h->wg_path, MT_MESH_LINK, &args, err);
    if (rc == 0)
        rc = set_link(nl, t, &info, ret, err);
    if (rc == 0)
        rc = sync_routes(nl, t->want, info.index, &ret->routes, err);
    return rc;
}

int mt_mesh_down(struct mt_err *err)
{
    auto_nl struct mt_nl *nl = NULL;
    unsigned index;
    int rc = mt_nl_open(&nl, err);
    if (rc == 0)
        rc = mt_nl_link_index(nl, MT_MESH_LINK, &index, err);
    if (rc == -MT_E_NOT_FOUND)
        return 0;
    return rc < 0 ? rc : mt_nl_link_del(nl, index, err);
}
