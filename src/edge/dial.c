/* SPDX-License-Identifier: Apache-2.0 */
/* The way to a backend: choice, passive health, connect with deadlines, PROXY header and first bytes. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "edge/hub.h"
#include "wire/proxy2.h"

#include <netinet/tcp.h>
#include <sys/uio.h>

#define EJECT_FIRST_MS 1000U
#define EJECT_MAX_MS 30000U

static bool was_tried(const uint32_t *tried, unsigned n, uint32_t i)
{
    for (unsigned k = 0; k < n; k++)
        if (tried[k] == i)
            return true;
    return false;
}

int mt_edge_pick(struct mt_edge_route *r, const uint32_t *tried, unsigned n_tried, int64_t now)
{
    int best = -1, spare = -1;
    int64_t spare_since = INT64_MAX;
    uint32_t best_active = UINT32_MAX;
    if (r->n_backends == 0)
        return -1;
    uint32_t start = atomic_fetch_add_explicit(&r->stat->cursor, 1, memory_order_relaxed);
    for (uint32_t k = 0; k < r->n_backends; k++) {
        uint32_t i = (start + k) % r->n_backends;
        struct mt_edge_health *h = r->backends[i].health;
        if (was_tried(tried, n_tried, i))
            continue;
        if (atomic_load_explicit(&h->eject_until, memory_order_relaxed) > now) {
            int64_t since = atomic_load_explicit(&h->ejected_at, memory_order_relaxed);
            if (since < spare_since) {
                spare_since = since;
                spare = (int)i;
            }
            continue;
        }
        if (r->balance == MT_EDGE_ROUND_ROBIN)
            return (int)i;
        uint32_t active = atomic_load_explicit(&h->active, memory_order_relaxed);
        if (active < best_active) {
            best_active = active;
            best = (int)i;
        }
    }
    return best >= 0 ? best : spare; /* all ejected: the one that has been out longest */
}

bool mt_edge_health_fail(struct mt_edge_health *h, bool half, int64_t now)
{
    if (half && atomic_fetch_add_explicit(&h->halves, 1, memory_order_relaxed) + 1 < 2)
        return false;
    atomic_store_explicit(&h->halves, 0, memory_order_relaxed);
    if (atomic_load_explicit(&h->eject_until, memory_order_relaxed) > now)
        return false; /* already out; several connections may have failed at once */
    uint32_t step = atomic_load_explicit(&h->step_ms, memory_order_relaxed);
    step = step == 0 ? EJECT_FIRST_MS : step * 2 > EJECT_MAX_MS ? EJECT_MAX_MS : step * 2;
    atomic_store_explicit(&h->step_ms, step, memory_order_relaxed);
    atomic_store_explicit(&h->ejected_at, now, memory_order_relaxed);
    atomic_store_explicit(&h->eject_until, now + (int64_t)step * MT_NS_PER_MS, memory_order_relaxed);
    return true;
}

void mt_edge_health_good(struct mt_edge_health *h)
{
    if (atomic_load_explicit(&h->step_ms, memory_order_relaxed) != 0)
        atomic_store_explicit(&h->step_ms, 0, memory_order_relaxed);
    if (atomic_load_explicit(&h->eject_until, memory_order_relaxed) != 0)
        atomic_store_explicit(&h->eject_until, 0, memory_order_relaxed);
    if (atomic_load_explicit(&h->halves, memory_order_relaxed) != 0)
        atomic_store_explicit(&h->halves, 0, memory_order_relaxed);
}

static int open_socket(struct mt_edge_conn *c, const union mt_edge_addr *to)
{
    const struct mt_edge_options *opt = c->w->hub->opt;
    mt_auto_fd int fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return -1;
    static const int on = 1, idle = 60, interval = 15, count = 4, user_timeout = 120000;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof user_timeout);
    if (opt->source.sa.sa_family == to->sa.sa_family) {
        /* the port is chosen by connect, so that many connections to many backends may share one */
        (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, &opt->source.sa, mt_edge_addr_len(&opt->source)) == -1)
            return -1;
    }
    return MT_TAKE_FD(fd);
}

static void drop_backend(struct mt_edge_conn *c)
{
    mt_closep(&c->be.fd);
    c->be = (struct mt_edge_end){.fd = -1};
}

static struct mt_edge_backend *current(struct mt_edge_conn *c)
{
    return &c->route->backends[c->tried[c->n_tried - 1]];
}

/* The current backend did not take the connection. */
static void note_failure(struct mt_edge_conn *c, bool timeout)
{
    struct mt_edge_totals *t = &c->w->hub->totals;
    atomic_fetch_add_explicit(timeout ? &t->connect_timeouts : &t->connect_failures, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->route->stat->connect_failures, 1, memory_order_relaxed);
    if (mt_edge_health_fail(current(c)->health, false, c->w->now)) {
        atomic_fetch_add_explicit(&t->ejections, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->route->stat->ejections, 1, memory_order_relaxed);
    }
    drop_backend(c);
}

static void give_up(struct mt_edge_conn *c)
{
    atomic_fetch_add_explicit(&c->route->stat->no_backend, 1, memory_order_relaxed);
    mt_edge_conn_refuse(c, c->n_tried == 0 ? MT_EDGE_R_NO_BACKEND : MT_EDGE_R_CONNECT_FAILED, 80);
}

/* Header and held client bytes in one write. False: nothing was written, another backend may be tried. */
static bool send_first(struct mt_edge_conn *c)
{
    uint8_t header[MT_PROXY2_MAX];
    size_t header_len = 0;
    if (c->route->proxy_v2) {
        union mt_edge_addr local;
        socklen_t len = sizeof local;
        uint8_t id[MT_PROXY2_ID_LEN];
        struct mt_err err;
        memcpy(id, c->w->hub->run_id, 8);
        for (unsigned i = 0; i < 8; i++)
            id[8 + i] = (uint8_t)(c->seq >> (56 - 8 * i));
        memset(&local, 0, sizeof local);
        struct mt_proxy2 p = {.src = &c->peer.sa, .dst = &local.sa, .tlv = c->route->proxy_tlv, .unique_id = id};
        if (c->named) {
            p.authority = c->route->hostname;
            p.authority_len = strlen(c->route->hostname);
        }
        if (getsockname(c->cl.fd, &local.sa, &len) == -1 ||
            mt_proxy2_encode(&p, header, sizeof header, &header_len, &err) < 0) {
            mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true); /* never a backend byte without the true header */
            return true;
        }
    }
    struct mt_edge_pump *up = &c->up;
    size_t held = up->spill_len - up->spill_off;
    if (header_len + held == 0)
        return true;
    struct iovec iov[2] = {{.iov_base = header, .iov_len = header_len},
                           {.iov_base = up->spill ? up->spill + up->spill_off : NULL, .iov_len = held}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t n = sendmsg(c->be.fd, &msg, MSG_NOSIGNAL);
    if (n < 0) {
        if (c->route->proxy_v2)
            atomic_fetch_add_explicit(&c->w->hub->totals.proxy_header_failures, 1, memory_order_relaxed);
        return false;
    }
    if (header_len > 0) {
        atomic_fetch_add_explicit(&c->w->hub->totals.proxy_headers, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->route->stat->proxy_headers, 1, memory_order_relaxed);
    }
    size_t sent = (size_t)n;
    if (sent < header_len) {
        /* a fresh socket took a part of the header: what is left goes before the held bytes */
        struct mt_edge_pump rest = {.pipe = {-1, -1}};
        if (!mt_edge_spill(&rest, header + sent, header_len - sent) ||
            (held > 0 && !mt_edge_spill(&rest, up->spill + up->spill_off, held))) {
            free(rest.spill);
            mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
            return true;
        }
        free(up->spill);
        up->spill = rest.spill;
        up->spill_len = rest.spill_len;
        up->spill_cap = rest.spill_cap;
        up->spill_off = 0;
        c->be.wr = false;
    } else if (sent - header_len < held) {
        up->spill_off += (uint32_t)(sent - header_len);
        c->be.wr = false;
    } else {
        free(up->spill);
        up->spill = NULL;
        up->spill_len = up->spill_off = up->spill_cap = 0;
    }
    return true;
}

static void connected(struct mt_edge_conn *c)
{
    struct mt_edge_backend *b = current(c);
    c->be.wr = true;
    if (!send_first(c)) {
        note_failure(c, false);
        mt_edge_dial_next(c);
        return;
    }
    if (c->state != MT_EDGE_DIAL)
        return;
    if (!c->be.watched && !mt_edge_worker_watch(c->w, c, true)) {
        mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
        return;
    }
    if (!c->cl.watched && !mt_edge_worker_watch(c->w, c, false)) {
        mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
        return;
    }
    if (atomic_load_explicit(&b->health->halves, memory_order_relaxed) == 0)
        mt_edge_health_good(b->health);
    atomic_fetch_add_explicit(&b->health->active, 1, memory_order_relaxed);
    c->counted_backend = true;
    c->connected_at = c->moved_at = c->w->now;
    mt_edge_conn_set_state(c, MT_EDGE_RELAY, "connected");
    mt_edge_worker_again(c->w, c);
}

void mt_edge_dial_next(struct mt_edge_conn *c)
{
    const struct mt_edge_options *opt = c->w->hub->opt;
    while (c->state == MT_EDGE_DIAL) {
        int i = c->n_tried < MT_EDGE_TRIES && c->w->now < c->dial_until
                    ? mt_edge_pick(c->route, c->tried, c->n_tried, c->w->now)
                    : -1;
        if (i < 0) {
            give_up(c);
            return;
        }
        if (c->n_tried > 0) {
            atomic_fetch_add_explicit(&c->w->hub->totals.retries, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&c->route->stat->retries, 1, memory_order_relaxed);
        }
        c->tried[c->n_tried++] = (uint32_t)i;
        const union mt_edge_addr *to = &current(c)->addr;
        c->be = (struct mt_edge_end){.fd = open_socket(c, to)};
        if (c->be.fd == -1) {
            /* our own want (descriptors, the source address): no fault of the backend, another would not help */
            mt_log(MT_ERROR, "edge.socket_failed", KV("error", strerror(errno)));
            give_up(c);
            return;
        }
        if (connect(c->be.fd, &to->sa, mt_edge_addr_len(to)) == 0) {
            connected(c);
            return;
        }
        if (errno != EINPROGRESS) {
            note_failure(c, false);
            continue;
        }
        int64_t until = c->w->now + (int64_t)opt->connect_timeout_ms * MT_NS_PER_MS;
        mt_edge_wheel_set(&c->w->wheel, &c->timer, until < c->dial_until ? until : c->dial_until);
        if (!mt_edge_worker_watch(c->w, c, true))
            mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
        return;
    }
}

void mt_edge_dial_answer(struct mt_edge_conn *c, bool timeout)
{
    int e = 0;
    socklen_t len = sizeof e;
    if (timeout || getsockopt(c->be.fd, SOL_SOCKET, SO_ERROR, &e, &len) == -1 || e != 0) {
        note_failure(c, timeout);
        mt_edge_dial_next(c);
        return;
    }
    mt_edge_wheel_clear(&c->timer);
    connected(c);
}
