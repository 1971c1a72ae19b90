/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving bytes. Each direction begins by copying through the worker's one buffer: for small messages that is two calls
 * and no pipe. A read that fills the buffer turns the direction to splice until it runs dry. Nothing is read while
 * bytes of that direction wait to be written, so a slow reader holds its peer back through TCP.
 */
#include "base/assert.h"
#include "edge/hub.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define SPLICE_BYTES (256U * 1024U)
#define UNSENT_BYTES (512 * 1024)
#define COUNT_EVERY (1024U * 1024U)

enum moved { MOVED_ALL = 0, MOVED_MORE, MOVED_SRC_ERROR, MOVED_DST_ERROR };

bool mt_edge_spill(struct mt_edge_pump *p, const uint8_t *data, size_t n)
{
    size_t need = p->spill_len + n;
    if (need > p->spill_cap) {
        size_t cap = (need + 1023U) & ~(size_t)1023U;
        uint8_t *q = realloc(p->spill, cap);
        if (!q)
            return false;
        p->spill = q;
        p->spill_cap = (uint32_t)cap;
    }
    memcpy(p->spill + p->spill_len, data, n);
    p->spill_len += (uint32_t)n;
    return true;
}

static void spill_free(struct mt_edge_pump *p)
{
    free(p->spill);
    p->spill = NULL;
    p->spill_len = p->spill_off = p->spill_cap = 0;
}

static void pipe_back(struct mt_edge_pipes *ps, struct mt_edge_pump *p)
{
    if (p->pipe.rd >= 0)
        mt_edge_pipe_put(ps, &p->pipe, p->held == 0);
    p->held = 0;
}

void mt_edge_pump_done(struct mt_edge_pipes *ps, struct mt_edge_pump *p)
{
    spill_free(p);
    pipe_back(ps, p);
}

static bool would_block(void)
{
    return errno == EAGAIN;
}

/* Write what waits. MOVED_ALL: nothing waits any more; MOVED_MORE: dst is full. */
static enum moved flush(struct mt_edge_worker *w, struct mt_edge_pump *p, struct mt_edge_end *dst)
{
    while (p->spill && dst->wr) {
        ssize_t n = send(dst->fd, p->spill + p->spill_off, p->spill_len - p->spill_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (!would_block())
                return MOVED_DST_ERROR;
            dst->wr = false;
        } else {
            p->spill_off += (uint32_t)n;
            if (p->spill_off == p->spill_len)
                spill_free(p);
        }
    }
    while (p->held > 0 && dst->wr && !p->spill) {
        ssize_t n = splice(p->pipe.rd, NULL, dst->fd, NULL, p->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0 && would_block())
            dst->wr = false;
        else if (n <= 0)
            return MOVED_DST_ERROR;
        else
            p->held -= (uint32_t)n;
    }
    if (p->held == 0 && p->pipe.rd >= 0)
        pipe_back(&w->pipes, p);
    return p->spill || p->held > 0 ? MOVED_MORE : MOVED_ALL;
}

/*
 * From now on the socket takes so much beyond what is under way and no more. The kernel would let its buffer grow to megabytes, and some
 * hundred readers that take nothing bring all of TCP on this host to the limit of its memory, where it drops what comes in for others.
 * Told at the first bulk or the first full buffer, as most connections have neither.
 */
static void bound_unsent(struct mt_edge_end *dst)
{
    static const int unsent = UNSENT_BYTES;
    if (!dst->bounded)
        (void)setsockopt(dst->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    dst->bounded = true;
}

/* One read by copy and one write of it. Sets *ret_n to what was read. */
static enum moved copy_once(struct mt_edge_conn *c, struct mt_edge_pump *p, struct mt_edge_end *src, struct mt_edge_end *dst,
                            size_t *ret_n)
{
    struct mt_edge_worker *w = c->w;
    ssize_t n = recv(src->fd, w->buf, MT_EDGE_BUF, 0);
    if (n < 0) {
        if (!would_block())
            return MOVED_SRC_ERROR;
        src->rd = false;
        return MOVED_ALL;
    }
    if (n == 0) {
        p->eof = true;
        src->rd = false;
        return MOVED_ALL;
    }
    *ret_n = (size_t)n;
    if ((size_t)n == MT_EDGE_BUF) {
        p->bulk = true;
        bound_unsent(dst);
    } else if (!src->hup) {
        src->rd = false; /* shorter than asked: empty now, the next arrival is a new edge */
    }
    if (dst == &c->be && !c->prompt)
        mt_edge_dial_prompt(c);
    /* the source has ended, so its end is read next and goes out in one segment with these bytes */
    int more = src->hup ? MSG_MORE : 0;
    ssize_t m = dst->wr ? send(dst->fd, w->buf, (size_t)n, MSG_NOSIGNAL | more) : 0;
    if (m < 0) {
        if (!would_block())
            return MOVED_DST_ERROR;
        m = 0;
    }
    if (m == n)
        return MOVED_ALL;
    dst->wr = false;
    /* memory out is treated as the destination failing: bytes were taken and cannot be passed on */
    return mt_edge_spill(p, w->buf + m, (size_t)(n - m)) ? MOVED_MORE : MOVED_DST_ERROR;
}

static enum moved splice_once(struct mt_edge_worker *w, struct mt_edge_pump *p, struct mt_edge_end *src, size_t *ret_n)
{
    if (p->pipe.rd < 0 && !mt_edge_pipe_get(&w->pipes, &p->pipe)) {
        p->bulk = false; /* no descriptors left: copying still works */
        return MOVED_ALL;
    }
    ssize_t n = splice(src->fd, NULL, p->pipe.wr, NULL, SPLICE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (n > 0) {
        p->held = (uint32_t)n;
        *ret_n = (size_t)n;
        if (n < 4096)
            p->bulk = false; /* small messages again */
        return MOVED_ALL;
    }
    if (n == 0) {
        p->eof = true;
        src->rd = false;
    } else if (would_block()) { /* the pipe is empty here, so it is the source that has nothing */
        src->rd = false;
        p->bulk = false;
    } else {
        pipe_back(&w->pipes, p);
        return MOVED_SRC_ERROR;
    }
    pipe_back(&w->pipes, p);
    return MOVED_ALL;
}

/* Bytes wait for @dst: let epoll tell of room. */
static enum moved wait_for_room(struct mt_edge_conn *c, struct mt_edge_end *dst)
{
    bound_unsent(dst);
    if (!dst->out && !mt_edge_worker_watch(c->w, c, dst == &c->be, true))
        return MOVED_DST_ERROR;
    return MOVED_ALL;
}

/* One direction. MOVED_MORE: the bound was reached, there may be more to do at once. */
static enum moved pump(struct mt_edge_conn *c, struct mt_edge_pump *p, struct mt_edge_end *src, struct mt_edge_end *dst)
{
    const struct mt_edge_pump *other = p == &c->up ? &c->down : &c->up;
    struct mt_edge_worker *w = c->w;
    size_t total = 0;
    for (;;) {
        enum moved r = flush(w, p, dst);
        if (r == MOVED_DST_ERROR)
            return r;
        if (r == MOVED_MORE)
            return wait_for_room(c, dst);
        if (p->eof || !src->rd)
            break;
        if (total >= w->share)
            return MOVED_MORE;
        size_t n = 0;
        r = p->bulk ? splice_once(w, p, src, &n) : copy_once(c, p, src, dst, &n);
        total += n;
        if (n > 0) {
            p->bytes += n;
            c->moved_at = w->now;
        }
        if (r == MOVED_SRC_ERROR || r == MOVED_DST_ERROR)
            return r;
    }
    if (p->eof && !p->fin) {
        p->fin = true;
        if (!other->fin) /* else both are closed now, which says it too */
            (void)shutdown(dst->fd, SHUT_WR);
        c->moved_at = w->now;
    }
    return MOVED_ALL;
}

static void count(struct mt_edge_conn *c, struct mt_edge_pump *p, _Atomic uint64_t *route, _Atomic uint64_t *total)
{
    if (p->bytes - p->counted < COUNT_EVERY)
        return;
    atomic_fetch_add_explicit(route, p->bytes - p->counted, memory_order_relaxed);
    atomic_fetch_add_explicit(total, p->bytes - p->counted, memory_order_relaxed);
    p->counted = p->bytes;
    (void)c;
}

/* Timers of a relaying connection: the route's idle time, and the time a half-closed one may be still. */
static void arm(struct mt_edge_conn *c)
{
    int64_t limit = 0;
    if (c->up.fin || c->down.fin)
        limit = (int64_t)c->w->hub->opt->half_close_ms * MT_NS_PER_MS;
    int64_t idle = (int64_t)c->idle_timeout_s * MT_NS_PER_S;
    if (idle > 0 && (limit == 0 || idle < limit))
        limit = idle;
    /* a timer that is set already fires first and is set again then; only a nearer end moves it */
    if (limit > 0 && (mt_list_empty(&c->timer.node) || c->timer.at > c->moved_at + limit))
        mt_edge_wheel_set(&c->w->wheel, &c->timer, c->moved_at + limit);
}

/* The backend spoke for the first time, or died without a word soon after the connect. */
static void judge(struct mt_edge_conn *c, bool ended)
{
    if (c->backend_spoke) /* first: of a connection that is seldom busy the route is in no cache */
        return;
    struct mt_edge_health *h = c->route->backends[c->tried[c->n_tried - 1]].health;
    if (c->down.bytes > 0) {
        c->backend_spoke = true;
        mt_edge_health_good(h);
    } else if (ended && c->w->now - c->connected_at < MT_NS_PER_S) {
        c->backend_spoke = true; /* judged once */
        if (c->route->proxy_v2) /* perhaps it does not understand the header (networking.md §9) */
            atomic_fetch_add_explicit(&c->route->stat->early_closes, 1, memory_order_relaxed);
        if (c->w->now - c->connected_at < 100 * MT_NS_PER_MS && mt_edge_health_fail(h, true, c->w->now)) {
            atomic_fetch_add_explicit(&c->w->hub->totals.ejections, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&c->route->stat->ejections, 1, memory_order_relaxed);
        }
    }
}

void mt_edge_relay_step(struct mt_edge_conn *c)
{
    struct mt_edge_totals *t = &c->w->hub->totals;
    /* the backend's direction first: the judgement on it must see its bytes before its end */
    enum moved down = pump(c, &c->down, &c->be, &c->cl);
    judge(c, down == MOVED_SRC_ERROR || (c->down.eof && !c->up.eof));
    if (down == MOVED_SRC_ERROR || down == MOVED_DST_ERROR) {
        mt_edge_conn_close(c, down == MOVED_SRC_ERROR ? MT_EDGE_R_BACKEND_RESET : MT_EDGE_R_CLIENT_RESET, true);
        return;
    }
    enum moved up = pump(c, &c->up, &c->cl, &c->be);
    if (up == MOVED_SRC_ERROR || up == MOVED_DST_ERROR) {
        judge(c, up == MOVED_DST_ERROR);
        mt_edge_conn_close(c, up == MOVED_SRC_ERROR ? MT_EDGE_R_CLIENT_RESET : MT_EDGE_R_BACKEND_RESET, true);
        return;
    }
    count(c, &c->up, &c->route->stat->bytes_in, &t->bytes_in);
    count(c, &c->down, &c->route->stat->bytes_out, &t->bytes_out);
    if (c->up.fin && c->down.fin) {
        mt_edge_conn_close(c, MT_EDGE_R_OK, false);
        return;
    }
    if (c->up.fin || c->down.fin || c->idle_timeout_s > 0)
        arm(c);
    if (up == MOVED_MORE || down == MOVED_MORE)
        mt_edge_worker_again(c->w, c);
}

bool mt_edge_relay_may_take(const struct mt_edge_conn *c, bool backend)
{
    const struct mt_edge_pump *p = backend ? &c->down : &c->up;
    const struct mt_edge_end *src = backend ? &c->be : &c->cl, *dst = backend ? &c->cl : &c->be;
    return c->state == MT_EDGE_RELAY && src->rd && !src->hup && dst->wr && !p->bulk && !p->spill && p->held == 0 && !p->eof;
}

void mt_edge_relay_took(struct mt_edge_conn *c, bool backend, uint32_t n, uint32_t room)
{
    struct mt_edge_pump *p = backend ? &c->down : &c->up;
    struct mt_edge_end *src = backend ? &c->be : &c->cl;
    src->rd = n == room; /* shorter than asked: empty now, the next arrival is a new edge */
    p->bytes += n;
    c->moved_at = c->w->now;
    if (!backend && !c->prompt)
        mt_edge_dial_prompt(c);
}

static void lost(struct mt_edge_conn *c, bool backend)
{
    judge(c, backend);
    mt_edge_conn_close(c, backend ? MT_EDGE_R_BACKEND_RESET : MT_EDGE_R_CLIENT_RESET, true);
}

void mt_edge_relay_gave(struct mt_edge_conn *c, bool backend, const uint8_t *data, uint32_t n, int32_t res)
{
    struct mt_edge_pump *p = backend ? &c->down : &c->up;
    struct mt_edge_end *dst = backend ? &c->cl : &c->be;
    uint32_t m = res > 0 ? (uint32_t)res : 0;
    if (c->state != MT_EDGE_RELAY || m == n)
        return;
    dst->wr = false;
    if ((res < 0 && res != -EAGAIN) || !mt_edge_spill(p, data + m, n - m))
        lost(c, !backend);
}

void mt_edge_relay_dry(struct mt_edge_conn *c, bool backend, int32_t res)
{
    struct mt_edge_pump *p = backend ? &c->down : &c->up;
    struct mt_edge_end *src = backend ? &c->be : &c->cl;
    if (c->state != MT_EDGE_RELAY)
        return;
    if (res < 0 && res != -EAGAIN) {
        lost(c, backend);
        return;
    }
    src->rd = false;
    p->eof = p->eof || res == 0;
}
