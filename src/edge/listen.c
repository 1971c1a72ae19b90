/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets: opening, closing, taking over those of the process before. All under h->lock. */
#include "base/cleanup.h"
#include "base/log.h"
#include "edge/hub.h"

#include <netinet/tcp.h>

#define BACKLOG 4096

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

/* A socket that the process before held for this place; -1 when there is none (any more). */
static int inherited(struct mt_edge_hub *h, const struct mt_edge_bound *b)
{
    for (size_t i = 0; i < h->n_inherited; i++)
        if (h->inherited[i].fd >= 0 && h->inherited[i].key == b->l->key && mt_edge_same_addr(&h->inherited[i].addr, &b->addr))
            return MT_TAKE_FD(h->inherited[i].fd);
    return -1;
}

void mt_edge_listen_start(struct mt_edge_hub *h)
{
    for (size_t i = 0; i < h->n_bounds; i++) {
        struct mt_edge_bound *b = &h->bounds[i];
        for (unsigned k = 0; b->waiting && k < b->n_fds; k++)
            mt_edge_worker_command(&h->workers[k % h->n_workers], b->waiting[k]);
        free(b->waiting);
        b->waiting = NULL;
    }
}

/*
 * One socket for each worker, and every one that was inherited: each has a queue of its own, and what waits in one that
 * nobody serves would be lost.
 */
static void open_bound(struct mt_edge_hub *h, struct mt_edge_bound *b)
{
    struct mt_err err = {0};
    unsigned most = h->n_workers + (unsigned)h->n_inherited, n = 0, old = 0;
    int *fds = calloc(most, sizeof *fds);
    struct mt_edge_lsock **socks = calloc(most, sizeof(struct mt_edge_lsock *));
    bool ok = fds && socks;
    for (; ok; n++) {
        int fd = inherited(h, b);
        old += fd >= 0;
        if (fd < 0 && n >= h->n_workers)
            break;
        if (fd < 0)
            fd = listen_socket(&b->addr, mt_edge_key_proto(b->l->key) == MT_EDGE_TLS, &err);
        socks[n] = fd < 0 ? NULL : calloc(1, sizeof *socks[n]);
        if (!socks[n]) {
            mt_closep(&fd);
            ok = false;
            break;
        }
        *socks[n] = (struct mt_edge_lsock){.magic = MT_EDGE_LSOCK_MAGIC, .fd = fd, .l = b->l};
        mt_list_init(&socks[n]->node);
        fds[n] = fd;
    }
    if (!ok && n > 0 && old == n) { /* what was inherited serves, with fewer queues than workers */
        mt_log(MT_WARN, "edge.listener_partial", KV("local", (const char *)b->local), KV_ERR(&err), KV("sockets", n));
        ok = true;
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
    b->waiting = socks;
    b->fds = fds;
    b->n_fds = n;
    b->error[0] = '\0';
    mt_log(MT_INFO, "edge.listener_open", KV("local", (const char *)b->local), KV("port", mt_edge_key_port(b->l->key)),
           KV("inherited", old));
}

static void close_bound(struct mt_edge_hub *h, struct mt_edge_bound *b)
{
    for (unsigned i = 0; b->fds && i < b->n_fds; i++) {
        struct mt_edge_lsock *s = calloc(1, sizeof *s);
        if (!s)
            continue; /* the socket stays open; its connections find no route */
        *s = (struct mt_edge_lsock){.magic = MT_EDGE_LSOCK_MAGIC, .fd = b->fds[i], .l = b->l, .remove = true};
        mt_list_init(&s->node);
        mt_edge_worker_command(&h->workers[i % h->n_workers], s);
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

void mt_edge_listen_open(struct mt_edge_hub *h, const struct mt_edge_table *t)
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

void mt_edge_listen_close(struct mt_edge_hub *h, const struct mt_edge_table *t)
{
    size_t keep = 0;
    for (size_t i = 0; i < h->n_bounds; i++) {
        if (mt_edge_table_listener(t, h->bounds[i].l->key))
            h->bounds[keep++] = h->bounds[i];
        else
            close_bound(h, &h->bounds[i]);
    }
    h->n_bounds = keep;
    for (size_t i = 0; i < h->n_inherited; i++) /* listeners that this configuration has no more */
        mt_closep(&h->inherited[i].fd);
    free(h->inherited);
    h->inherited = NULL;
    h->n_inherited = 0;
}

void mt_edge_hub_retry_listeners(struct mt_edge_hub *h)
{
    (void)pthread_mutex_lock(&h->lock);
    for (size_t i = 0; i < h->n_bounds; i++)
        if (!h->bounds[i].fds && !atomic_load(&h->drain))
            open_bound(h, &h->bounds[i]);
    mt_edge_listen_start(h);
    (void)pthread_mutex_unlock(&h->lock);
}

int mt_edge_hub_inherit(struct mt_edge_hub *h, mt_edge_key key, const union mt_edge_addr *addr, int fd, struct mt_err *err)
{
    (void)pthread_mutex_lock(&h->lock);
    struct mt_edge_inherited *v = reallocarray(h->inherited, h->n_inherited + 1, sizeof *v);
    if (v) {
        v[h->n_inherited++] = (struct mt_edge_inherited){.key = key, .addr = *addr, .fd = fd};
        h->inherited = v;
    }
    (void)pthread_mutex_unlock(&h->lock);
    if (v)
        return 0;
    (void)close(fd);
    return MT_FAIL(err, MT_E_NOMEM, "no memory for inherited sockets");
}

int mt_edge_hub_each_socket(struct mt_edge_hub *h,
                            int (*fn)(void *arg, mt_edge_key key, const union mt_edge_addr *addr, int fd, struct mt_err *err),
                            void *arg, struct mt_err *err)
{
    int r = 0;
    (void)pthread_mutex_lock(&h->lock);
    for (size_t i = 0; r == 0 && i < h->n_bounds; i++)
        for (unsigned k = 0; r == 0 && h->bounds[i].fds && k < h->bounds[i].n_fds; k++)
            r = fn(arg, h->bounds[i].l->key, &h->bounds[i].addr, h->bounds[i].fds[k], err);
    (void)pthread_mutex_unlock(&h->lock);
    return r;
}

void mt_edge_listen_done(struct mt_edge_hub *h)
{
    for (size_t i = 0; i < h->n_bounds; i++)
        free(h->bounds[i].fds);
    free(h->bounds);
    for (size_t i = 0; i < h->n_listeners; i++)
        free(h->listeners[i]);
    free(h->listeners);
    for (size_t i = 0; i < h->n_inherited; i++)
        mt_closep(&h->inherited[i].fd);
    free(h->inherited);
}
