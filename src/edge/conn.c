/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a connection: states, hello, choice of the route, refusals, end. */
#include "edge/conn.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "edge/decide.h"
#include "edge/hub.h"
#include "edge/redirect.h"

#include <sys/epoll.h>

#define TO(s) (1U << (s))
#define GOODBYE_NS (INT64_C(1) * MT_NS_PER_S) /* time a refused client has to take its alert */

static const char *const state_name[MT_EDGE_STATE_MAX] = {
    [MT_EDGE_NEW] = "new",     [MT_EDGE_HELLO] = "hello",     [MT_EDGE_DIAL] = "dial",
    [MT_EDGE_RELAY] = "relay", [MT_EDGE_GOODBYE] = "goodbye", [MT_EDGE_DEAD] = "dead",
};
static const unsigned state_may[MT_EDGE_STATE_MAX] = {
    [MT_EDGE_NEW] = TO(MT_EDGE_HELLO) | TO(MT_EDGE_DIAL) | TO(MT_EDGE_GOODBYE) | TO(MT_EDGE_DEAD),
    [MT_EDGE_HELLO] = TO(MT_EDGE_DIAL) | TO(MT_EDGE_GOODBYE) | TO(MT_EDGE_DEAD),
    [MT_EDGE_DIAL] = TO(MT_EDGE_RELAY) | TO(MT_EDGE_GOODBYE) | TO(MT_EDGE_DEAD),
    [MT_EDGE_RELAY] = TO(MT_EDGE_DEAD),
    [MT_EDGE_GOODBYE] = TO(MT_EDGE_DEAD),
};

static const char *const result_name[MT_EDGE_R_MAX] = {
    [MT_EDGE_R_OK] = "ok",
    [MT_EDGE_R_NO_ROUTE] = "no_route",
    [MT_EDGE_R_NO_SNI] = "no_sni",
    [MT_EDGE_R_NOT_TLS] = "not_tls",
    [MT_EDGE_R_TLS_VERSION] = "tls_version",
    [MT_EDGE_R_MALFORMED] = "malformed",
    [MT_EDGE_R_TOO_BIG] = "too_big",
    [MT_EDGE_R_SNIFF_TIMEOUT] = "sniff_timeout",
    [MT_EDGE_R_CLIENT_EOF] = "client_eof",
    [MT_EDGE_R_SUSPENDED] = "suspended",
    [MT_EDGE_R_NO_BACKEND] = "no_backend",
    [MT_EDGE_R_CONNECT_FAILED] = "connect_failed",
    [MT_EDGE_R_ROUTE_LIMIT] = "route_limit",
    [MT_EDGE_R_SOURCE_LIMIT] = "source_limit",
    [MT_EDGE_R_OVERLOAD] = "overload",
    [MT_EDGE_R_CLIENT_RESET] = "client_reset",
    [MT_EDGE_R_BACKEND_RESET] = "backend_reset",
    [MT_EDGE_R_IDLE_TIMEOUT] = "idle_timeout",
    [MT_EDGE_R_HALF_TIMEOUT] = "half_close_timeout",
    [MT_EDGE_R_ROUTE_GONE] = "route_gone",
    [MT_EDGE_R_SHUTDOWN] = "shutdown",
    [MT_EDGE_R_INTERNAL] = "internal",
};

const char *mt_edge_result_name(enum mt_edge_result r)
{
    return (unsigned)r < MT_EDGE_R_MAX ? result_name[r] : "unknown";
}

void mt_edge_conn_set_state(struct mt_edge_conn *c, enum mt_edge_state to, const char *why)
{
    MT_CHECK(c, MT_EDGE_CONN_MAGIC);
    if (!(state_may[c->state] & TO(to)))
        mt_panic(__FILE__, __LINE__, state_name[to]);
    mt_log(MT_DEBUG, "edge.conn.state", KV("conn", c->seq), KV("from", state_name[c->state]), KV("to", state_name[to]),
           KV("why", why));
    c->state = (uint8_t)to;
    mt_edge_wheel_clear(&c->timer);
    if (to == MT_EDGE_DIAL || to == MT_EDGE_GOODBYE || to == MT_EDGE_DEAD) {
        /* decided: no longer one of those that wait for a route */
        mt_edge_unrouted_remove(&c->w->pre, &c->pre);
        if (!c->routed) {
            c->routed = true;
            mt_edge_limits_routed(c->w->hub->limits, c->src);
        }
    }
}

static void log_end(struct mt_edge_conn *c)
{
    uint64_t suppressed = 0;
    if (!mt_edge_worker_may_log(c->w, &suppressed))
        return;
    char peer[72], backend[72] = "", id[2 * 16 + 1];
    mt_hex_encode(c->w->hub->run_id, 8, id);
    (void)snprintf(id + 16, 17, "%016llx", (unsigned long long)c->seq);
    const char *instance = "";
    if (c->route && c->n_tried > 0) {
        const struct mt_edge_backend *b = &c->route->backends[c->tried[c->n_tried - 1]];
        (void)mt_edge_addr_text(&b->addr, backend, sizeof backend);
        instance = b->instance_id;
    }
    mt_log(MT_INFO, "edge.conn.closed", KV("conn_id", (const char *)id), KV("listener", mt_edge_key_port(c->l->key)),
           KV("client", mt_edge_addr_text(&c->peer, peer, sizeof peer)), KV("route_id", c->route ? c->route->route_id : ""),
           KV("env_id", c->route ? c->route->env_id : ""), KV("sni", c->route && c->named ? c->route->hostname : ""),
           KV("instance_id", instance), KV("backend", (const char *)backend), KV("bytes_in", c->up.bytes),
           KV("bytes_out", c->down.bytes), KV("duration_ms", (c->w->now - c->accepted_at) / MT_NS_PER_MS),
           KV("tries", c->n_tried), KV("result", mt_edge_result_name((enum mt_edge_result)c->result)),
           KV("suppressed", suppressed));
}

/* Counters that end with the connection; once, at the end or at the refusal. */
static void settle(struct mt_edge_conn *c, enum mt_edge_result result)
{
    struct mt_edge_totals *t = &c->w->hub->totals;
    c->result = (uint8_t)result;
    atomic_fetch_add_explicit(&c->l->results[result], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->bytes_in, c->up.bytes - c->up.counted, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->bytes_out, c->down.bytes - c->down.counted, memory_order_relaxed);
    if (c->route) {
        struct mt_edge_stat *s = c->route->stat;
        atomic_fetch_add_explicit(&s->bytes_in, c->up.bytes - c->up.counted, memory_order_relaxed);
        atomic_fetch_add_explicit(&s->bytes_out, c->down.bytes - c->down.counted, memory_order_relaxed);
        if (c->counted_route)
            atomic_fetch_sub_explicit(&s->active, 1, memory_order_relaxed);
        if (c->counted_backend) {
            struct mt_edge_health *h = c->route->backends[c->tried[c->n_tried - 1]].health;
            atomic_fetch_sub_explicit(&h->active, 1, memory_order_relaxed);
        }
    }
    log_end(c);
    mt_edge_route_unref(c->route);
    c->route = NULL;
    c->named = c->counted_route = c->counted_backend = false;
}

static void drop_end(struct mt_edge_end *e, bool rst)
{
    if (e->fd >= 0 && rst) {
        const struct linger now = {.l_onoff = 1, .l_linger = 0};
        (void)setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    mt_closep(&e->fd);
}

static void drop_hello(struct mt_edge_conn *c)
{
    if (c->hello)
        mt_edge_slab_put(&c->w->hellos, c->hello);
    c->hello = NULL;
}

void mt_edge_conn_close(struct mt_edge_conn *c, enum mt_edge_result result, bool rst)
{
    MT_CHECK(c, MT_EDGE_CONN_MAGIC);
    if (c->state == MT_EDGE_DEAD)
        return;
    if (c->state != MT_EDGE_GOODBYE)
        settle(c, result);
    mt_edge_conn_set_state(c, MT_EDGE_DEAD, mt_edge_result_name((enum mt_edge_result)c->result));
    drop_end(&c->cl, rst);
    drop_end(&c->be, rst);
    drop_hello(c);
    mt_edge_pump_done(&c->w->pipes, &c->up);
    mt_edge_pump_done(&c->w->pipes, &c->down);
    mt_edge_limits_leave(c->w->hub->limits, c->src, c->routed);
    c->src = NULL;
    atomic_fetch_sub_explicit(&c->l->open, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&c->w->hub->totals.open, 1, memory_order_relaxed);
    mt_list_remove(&c->run);
    mt_list_remove(&c->all);
    mt_list_push_back(&c->w->dead, &c->all); /* freed when no event of this turn can name it */
}

/* The last bytes that a client gets of us. */
static void say_goodbye(struct mt_edge_conn *c, enum mt_edge_result result, const void *data, size_t len)
{
    if (send(c->cl.fd, data, len, MSG_NOSIGNAL) != (ssize_t)len) {
        mt_edge_conn_close(c, result, false);
        return;
    }
    settle(c, result);
    drop_end(&c->be, false);
    drop_hello(c);
    mt_edge_pump_done(&c->w->pipes, &c->up);
    (void)shutdown(c->cl.fd, SHUT_WR);
    /* closing now with bytes unread would send a reset, which may overtake what was said */
    mt_edge_conn_set_state(c, MT_EDGE_GOODBYE, mt_edge_result_name(result));
    mt_edge_wheel_set(&c->w->wheel, &c->timer, c->w->now + GOODBYE_NS);
    c->cl.rd = true;
    if (!c->cl.watched && !mt_edge_worker_watch(c->w, c, false, false))
        mt_edge_conn_close(c, result, false);
    else
        mt_edge_worker_again(c->w, c);
}

void mt_edge_conn_refuse(struct mt_edge_conn *c, enum mt_edge_result result, uint8_t alert)
{
    if (mt_edge_key_proto(c->l->key) == MT_EDGE_RAW) {
        mt_edge_conn_close(c, result, true);
        return;
    }
    if (alert == 0 || !c->w->hub->opt->tls_alerts) {
        mt_edge_conn_close(c, result, false);
        return;
    }
    const uint8_t record[7] = {21, 3, 1, 0, 2, 2, alert};
    say_goodbye(c, result, record, sizeof record);
}

/* Read and drop what a refused client still sends, until it closes. */
static void goodbye_step(struct mt_edge_conn *c)
{
    for (unsigned i = 0; i < 4 && c->cl.rd; i++) {
        ssize_t n = recv(c->cl.fd, c->w->buf, MT_EDGE_BUF, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            mt_edge_conn_close(c, (enum mt_edge_result)c->result, false);
            return;
        }
        if (n < 0)
            c->cl.rd = false;
    }
    if (c->cl.rd)
        mt_edge_worker_again(c->w, c);
}

/* The route is chosen: take a place in its counts and dial. */
static void go_to(struct mt_edge_conn *c, struct mt_edge_route *r)
{
    c->route = mt_edge_route_ref(r);
    c->idle_timeout_s = r->idle_timeout_s;
    atomic_fetch_add_explicit(&r->stat->connections, 1, memory_order_relaxed);
    c->counted_route = true;
    const struct mt_edge_options *opt = c->w->hub->opt;
    bool full = atomic_fetch_add_explicit(&r->stat->active, 1, memory_order_relaxed) >= r->max_conns;
    if (full || !mt_edge_rate_take(&r->stat->rate_at, opt->route_new_per_s, opt->route_burst, c->w->now)) {
        atomic_fetch_add_explicit(&r->stat->limit_hits, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->w->hub->totals.limit_hits, 1, memory_order_relaxed);
        mt_edge_conn_refuse(c, MT_EDGE_R_ROUTE_LIMIT, 80);
        return;
    }
    mt_edge_conn_set_state(c, MT_EDGE_DIAL, "routed");
    c->dial_until = c->w->now + (int64_t)opt->connect_total_ms * MT_NS_PER_MS;
    mt_edge_dial_next(c);
}

/* The hello has a final result. */
static void hello_end(struct mt_edge_conn *c, enum mt_hello_result r, const struct mt_hello *h)
{
    const struct mt_edge_verdict v = mt_edge_decide(c->w->table, c->l->key, h, r);
    drop_hello(c);
    c->named = v.route && r == MT_HELLO_NAME;
    if (v.route)
        go_to(c, v.route);
    else
        mt_edge_conn_refuse(c, v.why, v.alert);
}

/* Plain HTTP: one answer, or none. */
static void http_step(struct mt_edge_conn *c)
{
    static const enum mt_edge_result results[] = {[MT_REDIRECT_UNKNOWN] = MT_EDGE_R_NO_ROUTE, [MT_REDIRECT_MALFORMED] = MT_EDGE_R_MALFORMED,
                                                  [MT_REDIRECT_TOO_BIG] = MT_EDGE_R_TOO_BIG};
    char answer[MT_REDIRECT_ANSWER];
    size_t n_answer = 0;
    while (c->cl.rd) {
        ssize_t n = recv(c->cl.fd, c->w->buf, MT_REDIRECT_REQUEST + 1 - c->up.spill_len, 0);
        if (n < 0 && errno == EAGAIN) {
            c->cl.rd = false;
            break;
        }
        if (n <= 0) {
            mt_edge_conn_close(c, n < 0 ? MT_EDGE_R_CLIENT_RESET : MT_EDGE_R_CLIENT_EOF, n < 0);
            return;
        }
        c->up.bytes += (uint64_t)n;
        if (!mt_edge_spill(&c->up, c->w->buf, (size_t)n)) {
            mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
            return;
        }
        enum mt_redirect r = mt_edge_redirect(c->w->table, c->up.spill, c->up.spill_len, answer, &n_answer);
        if (r == MT_REDIRECT_ANSWERED) {
            say_goodbye(c, MT_EDGE_R_OK, answer, n_answer);
            return;
        }
        if (r != MT_REDIRECT_MORE) {
            mt_edge_conn_close(c, results[r], false);
            return;
        }
    }
    if (!c->cl.watched && !mt_edge_worker_watch(c->w, c, false, false))
        mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
}

static void hello_step(struct mt_edge_conn *c)
{
    if (mt_edge_key_proto(c->l->key) == MT_EDGE_HTTP) {
        http_step(c);
        return;
    }
    struct mt_edge_worker *w = c->w;
    const struct mt_edge_options *opt = w->hub->opt;
    for (unsigned i = 0; c->cl.rd; i++) {
        if (i == 8) { /* many tiny pieces: others first */
            mt_edge_worker_again(w, c);
            return;
        }
        ssize_t n = recv(c->cl.fd, w->buf, MT_EDGE_BUF, 0);
        if (n < 0) {
            if (errno != EAGAIN) {
                mt_edge_conn_close(c, MT_EDGE_R_CLIENT_RESET, true);
                return;
            }
            c->cl.rd = false;
            break;
        }
        if (n == 0) {
            mt_edge_conn_close(c, MT_EDGE_R_CLIENT_EOF, false);
            return;
        }
        if ((size_t)n < MT_EDGE_BUF && !c->cl.hup)
            c->cl.rd = false;
        c->up.bytes += (uint64_t)n;
        struct mt_hello first __attribute__((uninitialized)) /* mt_hello_init clears it */, *h = c->hello;
        if (!h) {
            h = &first;
            mt_hello_init(h, (uint32_t)opt->hello_max_bytes);
        }
        enum mt_hello_result r = mt_hello_feed(h, w->buf, (size_t)n);
        if (r != MT_HELLO_MORE && !c->up.spill) {
            /* the usual case, all in one read: the bytes stay in the shared buffer as long as this call lasts */
            w->held_of = c;
            w->held_len = (size_t)n;
            hello_end(c, r, h);
            if (w->held_of == c && c->state == MT_EDGE_DIAL && !mt_edge_spill(&c->up, w->buf, w->held_len))
                mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
            w->held_of = NULL;
            return;
        }
        if (!mt_edge_spill(&c->up, w->buf, (size_t)n)) {
            mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
            return;
        }
        if (r != MT_HELLO_MORE) {
            hello_end(c, r, h);
            return;
        }
        if (!c->hello) {
            c->hello = mt_edge_slab_get(&w->hellos);
            if (!c->hello) {
                mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
                return;
            }
            *c->hello = first;
        }
    }
    if (c->state == MT_EDGE_HELLO && !c->cl.watched && !mt_edge_worker_watch(w, c, false, false))
        mt_edge_conn_close(c, MT_EDGE_R_INTERNAL, true);
}

/* Too many unrouted connections of one source: its oldest here goes, or else the new one, which is the last of them. */
static void drop_oldest_of(struct mt_edge_worker *w, struct mt_edge_conn *fresh)
{
    struct mt_edge_waiting *oldest = mt_edge_unrouted_oldest_of(&w->pre, fresh->src);
    mt_edge_conn_close(oldest ? MT_CONTAINER(oldest, struct mt_edge_conn, pre) : fresh, MT_EDGE_R_SOURCE_LIMIT, false);
}

/* Limits at accept; false when the connection is closed already. */
static bool admit(struct mt_edge_conn *c)
{
    struct mt_edge_worker *w = c->w;
    enum mt_edge_admit a = mt_edge_limits_enter(w->hub->limits, &c->peer, w->now, &c->src);
    if (a != MT_EDGE_ADMIT_OK)
        atomic_fetch_add_explicit(&w->hub->totals.limit_hits, 1, memory_order_relaxed);
    if (a == MT_EDGE_ADMIT_CONNS || a == MT_EDGE_ADMIT_RATE) {
        mt_edge_conn_close(c, MT_EDGE_R_SOURCE_LIMIT, false);
        return false;
    }
    mt_edge_unrouted_add(&w->pre, &c->pre, c->src);
    if (a == MT_EDGE_ADMIT_PREROUTE)
        drop_oldest_of(w, c);
    else if (w->pre.n > w->hub->opt->preroute_max / w->hub->n_workers + 1)
        mt_edge_conn_close(MT_CONTAINER(mt_edge_unrouted_oldest(&w->pre), struct mt_edge_conn, pre), MT_EDGE_R_OVERLOAD, false);
    return c->state != MT_EDGE_DEAD;
}

void mt_edge_conn_accept(struct mt_edge_worker *w, struct mt_edge_listener *l, int fd, const union mt_edge_addr *peer)
{
    struct mt_edge_conn *c = mt_edge_slab_get(&w->conns);
    if (!c) {
        (void)close(fd);
        atomic_fetch_sub_explicit(&w->hub->totals.open, 1, memory_order_relaxed); /* the place that room_for_one took */
        return;
    }
    c->magic = MT_EDGE_CONN_MAGIC;
    c->w = w;
    c->l = l;
    c->cl = (struct mt_edge_end){.fd = fd, .rd = true, .wr = true};
    c->be.fd = -1;
    c->up.pipe = c->down.pipe = (struct mt_edge_pipe){.rd = -1, .wr = -1};
    c->peer = *peer;
    c->accepted_at = c->moved_at = w->now;
    c->seq = w->next_seq++;
    mt_edge_timer_init(&c->timer);
    mt_list_init(&c->run);
    mt_edge_waiting_init(&c->pre);
    mt_list_init(&c->all);
    mt_list_push_back(&w->all, &c->all);
    atomic_fetch_add_explicit(&l->open, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->accepted, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->hub->totals.accepted, 1, memory_order_relaxed);
    if (!admit(c))
        return;
    if (mt_edge_key_proto(l->key) == MT_EDGE_RAW) {
        const struct mt_edge_listener_spec *s = w->table ? mt_edge_table_listener(w->table, l->key) : NULL;
        c->cl.rd = false; /* told by epoll, watched once the backend is there */
        struct mt_edge_route *r = s ? mt_edge_table_only(w->table, s) : NULL;
        if (r && !r->disabled)
            go_to(c, r);
        else
            mt_edge_conn_refuse(c, r ? MT_EDGE_R_SUSPENDED : MT_EDGE_R_NO_ROUTE, 0);
        return;
    }
    mt_edge_conn_set_state(c, MT_EDGE_HELLO, "accepted");
    mt_edge_wheel_set(&w->wheel, &c->timer, w->now + (int64_t)w->hub->opt->hello_timeout_ms * MT_NS_PER_MS);
    hello_step(c);
}

void mt_edge_conn_event(struct mt_edge_conn *c, bool backend, uint32_t events)
{
    MT_CHECK(c, MT_EDGE_CONN_MAGIC);
    if (c->state == MT_EDGE_DEAD)
        return;
    struct mt_edge_end *e = backend ? &c->be : &c->cl;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        e->rd = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        e->wr = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        e->hup = true;
    if (c->state == MT_EDGE_DIAL) {
        if (backend)
            mt_edge_dial_answer(c, false);
        return;
    }
    /* a client that is gone while its bytes wait for the backend would not be noticed: nothing reads from it */
    if (c->state == MT_EDGE_RELAY && !backend && (events & EPOLLERR) && (c->up.spill || c->up.held > 0)) {
        mt_edge_conn_close(c, MT_EDGE_R_CLIENT_RESET, true);
        return;
    }
    if (events != EPOLLIN || !mt_edge_relay_may_take(c, backend) || !mt_edge_worker_gather(c->w, c, backend))
        mt_edge_conn_step(c);
}

void mt_edge_conn_step(struct mt_edge_conn *c)
{
    switch ((enum mt_edge_state)c->state) {
    case MT_EDGE_HELLO:
        hello_step(c);
        break;
    case MT_EDGE_RELAY:
        mt_edge_relay_step(c);
        break;
    case MT_EDGE_GOODBYE:
        goodbye_step(c);
        break;
    case MT_EDGE_NEW:
    case MT_EDGE_DIAL:
    case MT_EDGE_DEAD:
    case MT_EDGE_STATE_MAX:
        break;
    }
}

/* Idle or half-closed for too long? Bytes may have moved since the timer was set. */
static void relay_timeout(struct mt_edge_conn *c)
{
    if (!c->settled)
        mt_edge_dial_settle(c);
    int64_t still = c->w->now - c->moved_at;
    int64_t idle = (int64_t)c->idle_timeout_s * MT_NS_PER_S;
    int64_t half = (int64_t)c->w->hub->opt->half_close_ms * MT_NS_PER_MS;
    if (idle > 0 && still >= idle)
        mt_edge_conn_close(c, MT_EDGE_R_IDLE_TIMEOUT, false);
    else if ((c->up.fin || c->down.fin) && still >= half)
        mt_edge_conn_close(c, MT_EDGE_R_HALF_TIMEOUT, false);
    else
        mt_edge_relay_step(c); /* sets the timer again */
}

void mt_edge_conn_timeout(struct mt_edge_conn *c)
{
    MT_CHECK(c, MT_EDGE_CONN_MAGIC);
    switch ((enum mt_edge_state)c->state) {
    case MT_EDGE_HELLO:
        mt_edge_conn_close(c, MT_EDGE_R_SNIFF_TIMEOUT, false);
        break;
    case MT_EDGE_DIAL:
        mt_edge_dial_answer(c, true);
        break;
    case MT_EDGE_RELAY:
        relay_timeout(c);
        break;
    case MT_EDGE_GOODBYE:
        mt_edge_conn_close(c, (enum mt_edge_result)c->result, false);
        break;
    case MT_EDGE_NEW:
    case MT_EDGE_DEAD:
    case MT_EDGE_STATE_MAX:
        break;
    }
}
