/* SPDX-License-Identifier: Apache-2.0 */
/* Swap of tables, opening and closing of listeners, start and end of workers. */
#include "edge/hub.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "os/file.h"

#include <netinet/tcp.h>
#include <sys/resource.h>

#define BACKLOG 4096
#define SHRINK_FROM 20U

static unsigned core_count(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 256 ? 256 : (unsigned)n;
}

/* Two descriptors for a connection; one in forty of the limit, raised as far as allowed, is left for pipes and listeners. A
 * pipe that cannot be had is no fault: the bytes are copied then. */
static uint64_t fit_descriptors(uint64_t max_conns)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == -1)
        return max_conns;
    rl.rlim_cur = rl.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &rl) == -1 && getrlimit(RLIMIT_NOFILE, &rl) == -1)
        return max_conns;
    uint64_t fits = (rl.rlim_cur - rl.rlim_cur / 40) / 2;
    if (max_conns <= fits)
        return max_conns;
    mt_log(MT_INFO, "edge.descriptor_limit", KV("max_conns", max_conns), KV("fits", fits),
           KV("mend", "none needed; for more connections raise the descriptor limit (LimitNOFILE)"));
    return fits;
}

int mt_edge_hub_init(struct mt_edge_hub *h, const struct mt_edge_options *opt, struct mt_err *err)
{
    memset(h, 0, sizeof *h);
    h->opt = opt;
    mt_random(h->run_id, sizeof h->run_id);
    (void)pthread_mutex_init(&h->lock, NULL);
    h->max_conns = fit_descriptors(opt->max_conns);
    const struct mt_edge_limit_conf lc = {.conns = (uint32_t)opt->source_conns,
                                          .new_per_s = (uint32_t)opt->source_new_per_s,
                                          .burst = (uint32_t)opt->source_burst,
                                          .preroute = (uint32_t)opt->source_preroute,
                                          .loopback = opt->limit_loopback};
    h->limits = mt_edge_limits_new(&lc);
    unsigned n = opt->workers ? (unsigned)opt->workers : core_count();
    h->workers = calloc(n, sizeof *h->workers);
    if (!h->limits || !h->workers)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %u workers", n);
    h->n_workers = n;
    for (unsigned i = 0; i < n; i++)
        if (mt_edge_worker_start(&h->workers[i], h, i, err) < 0)
            return -(int)err->code; /* start-up: the caller exits */
    return 0;
}

/* --- listeners; all under h->lock --- */

static struct mt_edge_listener *listener_for(struct mt_edge_hub *h, mt_edge_key key)
{
    for (size_t i = 0; i < h->n_listeners; i++)
        if (h->listeners[i]->key == key)
            return h->listeners[i];
    if (h->n_listeners == h->cap_listeners) {
        size_t cap = h->cap_listeners ? h->cap_listeners * 2 : 8;
        struct mt_edge_listener **p = reallocarray(h->listeners, cap, sizeof(struct mt_edge_listener *));
        if (!p)
            return NULL;
        h->listeners = p;
        h->cap_listeners = cap;
    }
    struct mt_edge_listener *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->key = key;
    h->listeners[h->n_listeners++] = l;
    return l;
}

static int listen_socket(const union mt_edge_addr *a, bool tls, struct mt_err *err)
{
    static const int on = 1, idle = 60, interval = 15, count = 4, user_timeout = 120000, defer_s = 1;
    mt_auto_fd int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == -1 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "SO_REUSEPORT");
    if (a->sa.sa_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    else
        (void)setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof on);
    /* accepted sockets inherit these */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof user_timeout);
    if (tls) /* on raw listeners the server may have to speak first */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer_s, sizeof defer_s);
    if (bind(fd, &a->sa, mt_edge_addr_len(a)) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "bind");
    if (listen(fd, BACKLOG) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "listen");
    return MT_TAKE_FD(fd);
}

static void open_bound(struct mt_edge_hub *h, struct mt_edge_bound *b)
{
    struct mt_err err = {0};
    int *fds = calloc(h->n_workers, sizeof *fds);
    struct mt_edge_lsock **socks = calloc(h->n_workers, sizeof(struct mt_edge_lsock *));
    unsigned n = 0;
    bool ok = fds && socks;
    for (; ok && n < h->n_workers; n++) {
        socks[n] = calloc(1, sizeof **socks);
        fds[n] = socks[n] ? listen_socket(&b->addr, mt_edge_key_proto(b->l->key) == MT_EDGE_TLS, &err) : -1;
        if (fds[n] < 0) {
            ok = false;
            free(socks[n]);
            break;
        }
        *socks[n] = (struct mt_edge_lsock){.magic = MT_EDGE_LSOCK_MAGIC, .fd = fds[n], .l = b->l};
        mt_list_init(&socks[n]->node);
    }
    if (!ok) {
        while (n > 0) {
            n--;
            (void)close(fds[n]);
            free(socks[n]);
        }
        free(fds);
        free(socks);
        bool news = strcmp(b->error, err.msg) != 0;
        (void)snprintf(b->error, sizeof b->error, "%.110s", err.msg[0] ? err.msg : "no memory");
        if (news)
            mt_log(MT_ERROR, "edge.listener_failed", KV("local", (const char *)b->local), KV("error", (const char *)b->error),
                   KV("mend", "free the port, or map it to another one with port_map"));
        return;
    }
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_command(&h->workers[i], socks[i]);
    free(socks);
    b->fds = fds;
    b->error[0] = '\0';
    mt_log(MT_INFO, "edge.listener_open", KV("local", (const char *)b->local), KV("port", mt_edge_key_port(b->l->key)));
}

static void close_bound(struct mt_edge_hub *h, struct mt_edge_bound *b)
{
    for (unsigned i = 0; b->fds && i < h->n_workers; i++) {
        struct mt_edge_lsock *s = calloc(1, sizeof *s);
        if (!s)
            continue; /* the socket stays open; its connections find no route */
        *s = (struct mt_edge_lsock){.magic = MT_EDGE_LSOCK_MAGIC, .fd = b->fds[i], .l = b->l, .remove = true};
        mt_list_init(&s->node);
        mt_edge_worker_command(&h->workers[i], s);
    }
    mt_log(MT_INFO, "edge.listener_closed", KV("local", (const char *)b->local));
    free(b->fds);
    b->fds = NULL;
}

static struct mt_edge_bound *bound_of(struct mt_edge_hub *h, const struct mt_edge_listener *l, const union mt_edge_addr *a)
{
    for (size_t i = 0; i < h->n_bounds; i++)
        if (h->bounds[i].l == l && memcmp(&h->bounds[i].addr, a, sizeof *a) == 0)
            return &h->bounds[i];
    return NULL;
}

static void want_bound(struct mt_edge_hub *h, mt_edge_key key, const union mt_edge_addr *ip)
{
    union mt_edge_addr a = *ip;
    in_port_t port = htons(mt_edge_options_port(h->opt, mt_edge_key_port(key)));
    if (a.sa.sa_family == AF_INET)
        a.in4.sin_port = port;
    else
        a.in6.sin6_port = port;
    struct mt_edge_listener *l = listener_for(h, key);
    if (!l) {
        mt_log(MT_ERROR, "edge.listener_failed", KV("error", "no memory"));
        return;
    }
    struct mt_edge_bound *b = bound_of(h, l, &a);
    if (!b) {
        if (h->n_bounds == h->cap_bounds) {
            size_t cap = h->cap_bounds ? h->cap_bounds * 2 : 8;
            struct mt_edge_bound *p = reallocarray(h->bounds, cap, sizeof *p);
            if (!p) {
                mt_log(MT_ERROR, "edge.listener_failed", KV("error", "no memory"));
                return;
            }
            h->bounds = p;
            h->cap_bounds = cap;
        }
        b = &h->bounds[h->n_bounds++];
        *b = (struct mt_edge_bound){.l = l, .addr = a};
        (void)mt_edge_addr_text(&a, b->local, sizeof b->local);
    }
    if (!b->fds)
        open_bound(h, b);
}

static void open_wanted(struct mt_edge_hub *h, const struct mt_edge_table *t)
{
    for (uint32_t i = 0; i < t->n_listeners; i++) {
        mt_edge_key key = t->listeners[i].key;
        if (mt_edge_key_scope(key) == MT_EDGE_IPV4) {
            union mt_edge_addr a;
            memset(&a, 0, sizeof a);
            a.in4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = mt_edge_key_v4(key)};
            want_bound(h, key, &a);
            continue;
        }
        for (size_t k = 0; k < h->opt->n_publics; k++)
            want_bound(h, key, &h->opt->publics[k]);
    }
}

static void close_unwanted(struct mt_edge_hub *h, const struct mt_edge_table *t)
{
    size_t keep = 0;
    for (size_t i = 0; i < h->n_bounds; i++) {
        if (mt_edge_table_listener(t, h->bounds[i].l->key))
            h->bounds[keep++] = h->bounds[i];
        else
            close_bound(h, &h->bounds[i]);
    }
    h->n_bounds = keep;
}

/* --- swap --- */

/* Wait until no worker holds a table from before generation @g. Workers' turns are bounded, so this is short. */
static void wait_for_workers(struct mt_edge_hub *h, uint64_t g)
{
    for (unsigned i = 0; i < h->n_workers; i++) {
        for (unsigned tries = 0;; tries++) {
            uint64_t seen = atomic_load(&h->workers[i].seen);
            if (seen == MT_EDGE_OFFLINE || seen >= g)
                break;
            const struct timespec nap = {.tv_nsec = tries < 100 ? 50000 : 2000000};
            (void)nanosleep(&nap, NULL);
        }
    }
}

static int check_order(const struct mt_edge_table *t, const struct mt_edge_table *old, struct mt_err *err)
{
    if (!old)
        return 0;
    if (strcmp(t->cluster_id, old->cluster_id) != 0)
        return MT_FAIL(err, MT_E_CONFLICT, "snapshot of cluster '%s', this edge serves '%s'", t->cluster_id, old->cluster_id);
    if (t->epoch < old->epoch || (t->epoch == old->epoch && t->revision <= old->revision))
        return MT_FAIL(err, MT_E_CONFLICT, "snapshot %llu/%llu is not newer than the running %llu/%llu",
                       (unsigned long long)t->epoch, (unsigned long long)t->revision, (unsigned long long)old->epoch,
                       (unsigned long long)old->revision);
    if (!t->allow_shrink && old->n_routes >= SHRINK_FROM && t->n_routes * 2 < old->n_routes)
        return MT_FAIL(err, MT_E_INVALID, "routes fall from %u to %u without allow_shrink", old->n_routes, t->n_routes);
    return 0;
}

int mt_edge_hub_apply(struct mt_edge_hub *h, struct mt_edge_table *t, bool force, struct mt_err *err)
{
    (void)pthread_mutex_lock(&h->lock);
    struct mt_edge_table *old = atomic_load(&h->table);
    int r = force ? 0 : check_order(t, old, err);
    if (r < 0) {
        (void)pthread_mutex_unlock(&h->lock);
        mt_edge_table_free(t);
        return r;
    }
    int64_t now = mt_clock_mono();
    mt_edge_table_adopt(t, old);
    open_wanted(h, t);
    atomic_store(&h->table, t);
    uint64_t g = atomic_fetch_add(&h->generation, 1) + 1;
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_wake(&h->workers[i]);
    wait_for_workers(h, g);
    mt_edge_table_adopt(t, old); /* again, for routes that became live in the old one meanwhile */
    mt_edge_table_mark_gone(t, old, now);
    atomic_store(&h->purge_until, now + MT_EDGE_ROUTE_GRACE_NS + 5 * MT_NS_PER_S);
    close_unwanted(h, t);
    h->applied_wall_us = mt_clock_wall_us();
    (void)pthread_mutex_unlock(&h->lock);
    mt_edge_table_free(old);
    return 0;
}

void mt_edge_hub_retry_listeners(struct mt_edge_hub *h)
{
    (void)pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < h->n_bounds; i++)
        if (!h->bounds[i].fds && !atomic_load(&h->drain))
            open_bound(h, &h->bounds[i]);
    (void)pthread_mutex_unlock(&h->lock);
}

void mt_edge_hub_version(struct mt_edge_hub *h, uint64_t *ret_epoch, uint64_t *ret_revision, char *ret_cluster)
{
    (void)pthread_mutex_lock(&h->lock);
    const struct mt_edge_table *t = atomic_load(&h->table);
    *ret_epoch = t ? t->epoch : 0;
    *ret_revision = t ? t->revision : 0;
    if (ret_cluster)
        (void)snprintf(ret_cluster, MT_EDGE_ID_MAX + 1, "%s", t ? t->cluster_id : "");
    (void)pthread_mutex_unlock(&h->lock);
}

void mt_edge_hub_drain(struct mt_edge_hub *h)
{
    atomic_store(&h->drain, true);
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_wake(&h->workers[i]);
}

void mt_edge_hub_done(struct mt_edge_hub *h)
{
    atomic_store(&h->stop, true);
    for (unsigned i = 0; i < h->n_workers; i++)
        mt_edge_worker_wake(&h->workers[i]);
    for (unsigned i = 0; i < h->n_workers; i++) {
        (void)pthread_join(h->workers[i].thread, NULL);
        mt_edge_worker_done(&h->workers[i]);
    }
    free(h->workers);
    mt_edge_table_free(atomic_load(&h->table));
    mt_edge_limits_free(h->limits);
    for (size_t i = 0; i < h->n_bounds; i++)
        free(h->bounds[i].fds);
    free(h->bounds);
    for (size_t i = 0; i < h->n_listeners; i++)
        free(h->listeners[i]);
    free(h->listeners);
    (void)pthread_mutex_destroy(&h->lock);
}
