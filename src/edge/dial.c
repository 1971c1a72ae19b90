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
#define SETTLE_NS (INT64_C(5) * MT_NS_PER_S)

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
    static const int on = 1;
    if (opt->source.sa.sa_family == to->sa.sa_family) {
        /* the port is chosen by connect, so that many connections to many backends may share one */
        (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, &opt->source.sa, mt_edge_addr_len(&opt->source)) == -1)
            return -1;
    }
    return MT_TAKE_FD(fd);
}

/*
 * What a backend's socket is told, but not at its birth: six calls of about 0.4 us are a tenth of the user's part of a short
 * connection, and none matters before. Nagle holds nothing back while nothing is unacknowledged, that is at the first write;
 * keepalive speaks after 60 s, the user timeout after 120 s, and connecting has a deadline of its own.
 */
void mt_edge_dial_prompt(struct mt_edge_conn *c)
{
    static const int on = 1;
    (void)setsockopt(c->be.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->prompt = true;
}

void mt_edge_dial_settle(struct mt_edge_conn *c)
{
    static const int on = 1, idle = 60, interval = 15, count = 4, user_timeout = 120000;
    int fd = c->be.fd;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof user_timeout);
    c->settled = true;
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

/* The header for this connection into @ret of MT_PROXY2_MAX bytes; 0 bytes when the route wants none. False: it cannot be made. */
static bool make_header(struct mt_edge_conn *c, uint8_t *ret, size_t *ret_len)
{
    *ret_len = 0;
    if (!c->route->proxy_v2)
        return true;
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
    return getsockname(c->cl.fd, &local.sa, &len) == 0 && mt_proxy2_encode(&p, ret, MT_PROXY2_MAX, ret_len, &err) == 0;
}

/* Keep what of the first bytes was not taken; @sent of header and @held bytes were. False: memory is out. */
static bool keep_rest(struct mt_edge_conn *c, const uint8_t *header, size_t header_len, const uint8_t *held, size_t held_len,
                      size_t sent)
{
    struct mt_edge_pump rest = {.pipe = {-1, -1}};
    size_t skip = sent > header_len ? sent - header_len : 0;
    c->be.wr = false;
    if ((sent < header_len && !mt_edge_spill(&rest, header + sent, header_len - sent)) ||
        !mt_edge_spill(&rest, held + skip, held_len - skip)) {
        free(rest.spill);
        return false;
    }
    free(c->up.spill);
    c->up.spill = rest.spill;
    c->up.spill_len = rest.spill_len;
    c->up.spill_cap = rest.spill_cap;
    c->up.spill_off = 0;
    return true;
}

enum first { FIRST_SENT = 0, FIRST_LATER, FIRST_FAILED, FIRST_CLOSED };

/*
 * Header and held client bytes in one write. LATER: the connect is not done; FAILED: nothing was written, another backend may be
 * tried; CLOSED: the connection is.
 */
static enum first send_first(struct mt_edge_conn *c)
{
    uint8_t header[MT_PROXY2_MAX] __attribute__((uninitialized)); /* header_len bytes of it are written */
    size_t header_len;
    if (!make_header(c, header, &header_len)) {
        mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true); /* never a backend byte without the true header */
        return FIRST_CLOSED;
    }
    struct mt_edge_pump *up = &c->up;
    bool shared = c->w->held_of == c;
    uint8_t *held = shared ? c->w->buf : up->spill ? up->spill + up->spill_off : NULL;
    size_t held_len = shared ? c->w->held_len : up->spill_len - up->spill_off;
    if (header_len + held_len == 0)
        return FIRST_SENT;
    struct iovec iov[2] = {{.iov_base = header, .iov_len = header_len}, {.iov_base = held, .iov_len = held_len}};
    struct msghdr msg = {.msg_iov = header_len ? iov : iov + 1, .msg_iovlen = header_len ? 2 : 1};
    ssize_t n = sendmsg(c->be.fd, &msg, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN)
        return FIRST_LATER;
    if (n < 0) {
        if (header_len > 0)
            atomic_fetch_add_explicit(&c->w->hub->totals.proxy_header_failures, 1, memory_order_relaxed);
        return FIRST_FAILED;
    }
    if (header_len > 0) {
        atomic_fetch_add_explicit(&c->w->hub->totals.proxy_headers, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->route->stat->proxy_headers, 1, memory_order_relaxed);
    }
    c->be.wr = true;
    if ((size_t)n < header_len + held_len) {
        if (!keep_rest(c, header, header_len, held, held_len, (size_t)n)) {
            mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
            return FIRST_CLOSED;
        }
    } else {
        free(up->spill);
        up->spill = NULL;
        up->spill_len = up->spill_off = up->spill_cap = 0;
    }
    c->w->held_of = NULL;
    return FIRST_SENT;
}

/* The backend took the first bytes: relay. */
static void joined(struct mt_edge_conn *c)
{
    struct mt_edge_backend *b = current(c);
    if ((!c->be.watched && !mt_edge_worker_watch(c->w, c, true, false)) ||
        (!c->cl.watched && !mt_edge_worker_watch(c->w, c, false, false))) {
        mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
        return;
    }
    c->be.wr = !c->up.spill;
    if (atomic_load_explicit(&b->health->halves, memory_order_relaxed) == 0)
        mt_edge_health_good(b->health);
    atomic_fetch_add_explicit(&b->health->active, 1, memory_order_relaxed);
    c->counted_backend = true;
    c->connected_at = c->moved_at = c->w->now;
    mt_edge_conn_set_state(c, MT_EDGE_RELAY, "connected");
    mt_edge_wheel_set(&c->w->wheel, &c->timer, c->w->now + SETTLE_NS);
    if (c->cl.rd || c->be.rd || c->up.spill) /* else epoll tells */
        mt_edge_worker_again(c->w, c);
}

/* Send the first bytes now that the connect is done. False: this backend failed, another may be tried. */
static bool connected(struct mt_edge_conn *c)
{
    switch (send_first(c)) {
    case FIRST_SENT:
        joined(c);
        return true;
    case FIRST_CLOSED:
        return true;
    case FIRST_LATER: /* a socket that is connected and has no room for its first bytes */
    case FIRST_FAILED:
        break;
    }
    note_failure(c, false);
    return false;
}

/*
 * The connect is under way. On one machine it is done already: then the first bytes go out without a round through epoll.
 * A backend where that failed is asked again with one connection in 64.
 */
static enum first connect_at_once(struct mt_edge_conn *c)
{
    _Atomic bool *distant = &current(c)->health->distant;
    if (mt_edge_key_proto(c->l->key) == MT_EDGE_RAW) /* nothing to send, nothing to learn */
        return FIRST_LATER;
    if (atomic_load_explicit(distant, memory_order_relaxed) && (c->seq & 63) != 0)
        return FIRST_LATER;
    enum first f = send_first(c);
    atomic_store_explicit(distant, f == FIRST_LATER, memory_order_relaxed);
    return f;
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
            if (connected(c))
                return;
            continue;
        }
        if (errno != EINPROGRESS) {
            note_failure(c, false);
            continue;
        }
        enum first f = connect_at_once(c);
        if (f == FIRST_SENT)
            joined(c);
        if (f == FIRST_SENT || f == FIRST_CLOSED)
            return;
        if (f == FIRST_FAILED) {
            note_failure(c, false);
            continue;
        }
        int64_t until = c->w->now + (int64_t)opt->connect_timeout_ms * MT_NS_PER_MS;
        mt_edge_wheel_set(&c->w->wheel, &c->timer, until < c->dial_until ? until : c->dial_until);
        if (!mt_edge_worker_watch(c->w, c, true, true))
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
    if (!connected(c))
        mt_edge_dial_next(c);
}
