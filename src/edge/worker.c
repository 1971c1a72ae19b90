/* SPDX-License-Identifier: Apache-2.0 */
/* The turn of a worker: sleep, take the table, events, run list, timers, commands, free the dead. */
#include "edge/worker.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "edge/hub.h"
#include "wire/clienthello.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#define EVENTS 128
#define ACCEPTS 32 /* of one listener in one turn */
#define THREAD_STACK (256U * 1024U)

/* What an epoll event belongs to: low bits of the pointer (all objects are 8-aligned). */
enum tag { TAG_WAKE = 0, TAG_LISTEN = 1, TAG_CLIENT = 2, TAG_BACKEND = 3, TAG_TIMER = 4, TAG_MASK = 7 };

static uint64_t tagged(void *p, enum tag t)
{
    MT_ASSERT(((uintptr_t)p & TAG_MASK) == 0);
    return (uint64_t)(uintptr_t)p | t;
}

static void *untagged(uint64_t v)
{
    return (void *)(uintptr_t)(v & ~(uint64_t)TAG_MASK);
}

bool mt_edge_worker_watch(struct mt_edge_worker *w, struct mt_edge_conn *c, bool backend, bool out)
{
    struct mt_edge_end *e = backend ? &c->be : &c->cl;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (out ? (uint32_t)EPOLLOUT : 0),
                             .data.u64 = tagged(c, backend ? TAG_BACKEND : TAG_CLIENT)};
    if (epoll_ctl(w->epfd, e->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, e->fd, &ev) == -1)
        return false;
    e->watched = true;
    e->out = out;
    return true;
}

uint32_t mt_edge_worker_share(uint32_t n)
{
    uint32_t each = MT_EDGE_TURN_ALL / (n ? n : 1);
    return each > MT_EDGE_SHARE_MOST ? MT_EDGE_SHARE_MOST : each < MT_EDGE_SHARE_LEAST ? MT_EDGE_SHARE_LEAST : each;
}

void mt_edge_worker_again(struct mt_edge_worker *w, struct mt_edge_conn *c)
{
    if (!mt_list_empty(&c->run))
        return;
    mt_list_push_back(&w->run, &c->run);
    w->n_run++;
}

bool mt_edge_worker_may_log(struct mt_edge_worker *w, uint64_t *ret_suppressed)
{
    const struct mt_edge_options *opt = w->hub->opt;
    if (opt->access_log_per_s == 0)
        return false;
    int64_t full = (int64_t)opt->access_log_per_s * 1000;
    int64_t gone_ms = (w->now - w->log_filled_at) / MT_NS_PER_MS;
    if (gone_ms > 0) {
        w->log_tokens = gone_ms >= 1000 ? full : w->log_tokens + gone_ms * (int64_t)opt->access_log_per_s;
        if (w->log_tokens > full)
            w->log_tokens = full;
        w->log_filled_at = w->now;
    }
    if (w->log_tokens < 1000) {
        w->log_suppressed++;
        return false;
    }
    w->log_tokens -= 1000;
    *ret_suppressed = w->log_suppressed;
    w->log_suppressed = 0;
    return true;
}

void mt_edge_worker_wake(struct mt_edge_worker *w)
{
    const uint64_t one = 1;
    if (write(w->wakefd, &one, sizeof one) < 0) {
        /* full counter: it is awake already */
    }
}

void mt_edge_worker_command(struct mt_edge_worker *w, struct mt_edge_lsock *s)
{
    (void)pthread_mutex_lock(&w->cmd_lock);
    s->next_cmd = atomic_load(&w->cmds);
    atomic_store(&w->cmds, s);
    (void)pthread_mutex_unlock(&w->cmd_lock);
    mt_edge_worker_wake(w);
}

static void listen_watch(struct mt_edge_worker *w, struct mt_edge_lsock *s, int op, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.u64 = tagged(s, TAG_LISTEN)};
    if (epoll_ctl(w->epfd, op, s->fd, &ev) == -1)
        mt_log(MT_ERROR, "edge.listen_watch_failed", KV("port", mt_edge_key_port(s->l->key)), KV("error", strerror(errno)));
}

static void accept_pause(struct mt_edge_worker *w, bool pause)
{
    if (w->accept_paused == pause)
        return;
    w->accept_paused = pause;
    MT_LIST_EACH(n, &w->lsocks)
        listen_watch(w, MT_CONTAINER(n, struct mt_edge_lsock, node), EPOLL_CTL_MOD, pause ? 0 : EPOLLIN);
}

static void lsock_free(struct mt_edge_worker *w, struct mt_edge_lsock *s)
{
    mt_list_remove(&s->node);
    /* by name: closing takes it out only when no other process holds the socket, and a successor may */
    (void)epoll_ctl(w->epfd, EPOLL_CTL_DEL, s->fd, NULL);
    mt_closep(&s->fd);
    s->magic = 0;
    free(s);
}

static void take_commands(struct mt_edge_worker *w)
{
    if (!atomic_load_explicit(&w->cmds, memory_order_relaxed)) /* the wake-up follows the command: a later turn sees it */
        return;
    (void)pthread_mutex_lock(&w->cmd_lock);
    struct mt_edge_lsock *list = atomic_exchange(&w->cmds, NULL), *ordered = NULL;
    (void)pthread_mutex_unlock(&w->cmd_lock);
    while (list) { /* newest first; turned round */
        struct mt_edge_lsock *next = list->next_cmd;
        list->next_cmd = ordered;
        ordered = list;
        list = next;
    }
    while (ordered) {
        struct mt_edge_lsock *s = ordered;
        ordered = s->next_cmd;
        if (!s->remove) {
            mt_list_push_back(&w->lsocks, &s->node);
            listen_watch(w, s, EPOLL_CTL_ADD, w->accept_paused ? 0 : EPOLLIN);
            continue;
        }
        MT_LIST_EACH(n, &w->lsocks) {
            struct mt_edge_lsock *have = MT_CONTAINER(n, struct mt_edge_lsock, node);
            if (have->fd == s->fd && have->l == s->l) {
                lsock_free(w, have);
                break;
            }
        }
        free(s); /* the command itself owns no descriptor */
    }
}

/* Over the connection limit the oldest unrouted one goes; without one, accepting pauses. */
static bool room_for_one(struct mt_edge_worker *w)
{
    struct mt_edge_totals *t = &w->hub->totals;
    uint32_t open = atomic_fetch_add_explicit(&t->open, 1, memory_order_relaxed);
    if (open < w->hub->max_conns)
        return true;
    atomic_fetch_sub_explicit(&t->open, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->limit_hits, 1, memory_order_relaxed);
    struct mt_edge_waiting *oldest = mt_edge_unrouted_oldest(&w->pre);
    if (oldest)
        mt_edge_conn_close(MT_CONTAINER(oldest, struct mt_edge_conn, pre), MT_EDGE_R_OVERLOAD, false);
    accept_pause(w, true);
    w->accept_again_at = w->now + 50 * MT_NS_PER_MS;
    return false;
}

static void on_listen(struct mt_edge_worker *w, struct mt_edge_lsock *s)
{
    MT_CHECK(s, MT_EDGE_LSOCK_MAGIC);
    /* as many as were there lately, so that the call which finds nobody is rare; who is left is told again at once */
    uint32_t most = s->burst < 1 ? 1 : s->burst;
    for (uint32_t i = 0; i < most && !w->accept_paused; i++) {
        if (!room_for_one(w))
            return;
        union mt_edge_addr peer;
        socklen_t len = sizeof peer;
        memset(&peer, 0, sizeof peer);
        int fd = accept4(s->fd, &peer.sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            mt_edge_conn_accept(w, s->l, fd, &peer);
            continue;
        }
        atomic_fetch_sub_explicit(&w->hub->totals.open, 1, memory_order_relaxed);
        if (errno == EAGAIN) {
            s->burst = i;
            s->full = 0;
            return;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            mt_log(MT_ERROR, "edge.accept_failed", KV("port", mt_edge_key_port(s->l->key)), KV("error", strerror(errno)),
                   KV("mend", "raise the descriptor limit or lower max_conns"));
            accept_pause(w, true);
            w->accept_again_at = w->now + 100 * MT_NS_PER_MS;
            return;
        }
        /* ECONNABORTED and network errors of the peer: the next one may be fine */
    }
    if (++s->full == 8) {
        s->full = 0;
        s->burst = most * 2 < ACCEPTS ? most * 2 : ACCEPTS;
    }
}

static void on_timer(struct mt_edge_timer *t, void *arg)
{
    (void)arg;
    mt_edge_conn_timeout(MT_CONTAINER(t, struct mt_edge_conn, timer));
}

static void free_dead(struct mt_edge_worker *w)
{
    struct mt_list *n;
    while ((n = mt_list_pop_front(&w->dead)) != NULL) {
        struct mt_edge_conn *c = MT_CONTAINER(n, struct mt_edge_conn, all);
        c->magic = 0;
        mt_edge_slab_put(&w->conns, c);
    }
}

/* Once a second while routes went away lately: close connections whose route has been gone for the grace time. */
static void purge(struct mt_edge_worker *w)
{
    w->purge_at = w->now + MT_NS_PER_S;
    MT_LIST_EACH(n, &w->all) {
        struct mt_edge_conn *c = MT_CONTAINER(n, struct mt_edge_conn, all);
        if (!c->route)
            continue;
        int64_t gone = atomic_load_explicit(&c->route->stat->gone_at, memory_order_relaxed);
        if (gone != 0 && w->now - gone >= MT_EDGE_ROUTE_GRACE_NS)
            mt_edge_conn_close(c, MT_EDGE_R_ROUTE_GONE, false);
    }
}

static int sleep_ms(struct mt_edge_worker *w)
{
    if (!mt_list_empty(&w->run))
        return 0;
    int ms = mt_edge_wheel_wait_ms(&w->wheel, w->now);
    if (w->accept_paused && !w->stopping && (ms < 0 || ms > 50))
        ms = 50;
    if (atomic_load_explicit(&w->hub->purge_until, memory_order_relaxed) > w->now && (ms < 0 || ms > 1000))
        ms = 1000;
    return ms;
}

/*
 * How long epoll may sleep: 0 or for ever. A timeout of its own costs setting and clearing a timer of the kernel for each sleep, that
 * is for each message of a connection that is not busy; the timerfd stays as it is until something is due before it.
 */
static int arm(struct mt_edge_worker *w)
{
    int ms = sleep_ms(w);
    if (ms <= 0)
        return ms;
    int64_t due = w->now + ms * MT_NS_PER_MS;
    if (due >= w->armed_at)
        return -1; /* it fires early, once, and is set again then */
    const struct itimerspec at = {.it_value = {.tv_sec = (time_t)(due / MT_NS_PER_S), .tv_nsec = (long)(due % MT_NS_PER_S)}};
    if (timerfd_settime(w->timerfd, TFD_TIMER_ABSTIME, &at, NULL) == -1)
        return ms;
    w->armed_at = due;
    return -1;
}

bool mt_edge_worker_gather(struct mt_edge_worker *w, struct mt_edge_conn *c, bool backend)
{
    if (!w->slots || w->n_gathered == MT_EDGE_BATCH)
        return false;
    w->gathered[w->n_gathered++] = (struct mt_edge_gathered){.c = c, .backend = backend};
    return true;
}

/*
 * Small messages of a turn: all receives at once, all sends at once, then a step for each connection. Nothing is closed or opened
 * between the two, so descriptors stay what they are; no connection is stepped before every result is noted, or bytes read on
 * could overtake the rest of a message that did not fit.
 */
static void move_gathered(struct mt_edge_worker *w)
{
    /* each is written before it is read; clearing 9 KiB is more than all the rest for a few */
    struct mt_edge_call in[MT_EDGE_BATCH] __attribute__((uninitialized)), out[MT_EDGE_BATCH] __attribute__((uninitialized));
    unsigned from[MT_EDGE_BATCH] __attribute__((uninitialized)), to[MT_EDGE_BATCH] __attribute__((uninitialized)), n = 0, m = 0;
    const struct mt_edge_gathered *g = w->gathered;
    for (unsigned i = 0; i < w->n_gathered; i++) {
        if (!mt_edge_relay_may_take(g[i].c, g[i].backend))
            continue; /* another event of this turn changed it */
        in[n] = (struct mt_edge_call){.fd = g[i].backend ? g[i].c->be.fd : g[i].c->cl.fd, .p = w->slots + n * MT_EDGE_SLOT, .len = MT_EDGE_SLOT};
        from[n++] = i;
    }
    mt_edge_batch_run(&w->batch, false, in, n);
    for (unsigned k = 0; k < n; k++) {
        const struct mt_edge_gathered *x = &g[from[k]];
        if (in[k].res <= 0)
            continue;
        mt_edge_relay_took(x->c, x->backend, (uint32_t)in[k].res, MT_EDGE_SLOT);
        out[m] = (struct mt_edge_call){.fd = x->backend ? x->c->cl.fd : x->c->be.fd, .p = in[k].p, .len = (uint32_t)in[k].res, .flags = MSG_NOSIGNAL};
        to[m++] = from[k];
    }
    mt_edge_batch_run(&w->batch, true, out, m);
    for (unsigned k = 0; k < m; k++)
        mt_edge_relay_gave(g[to[k]].c, g[to[k]].backend, out[k].p, out[k].len, out[k].res);
    for (unsigned k = 0; k < n; k++)
        if (in[k].res <= 0)
            mt_edge_relay_dry(g[from[k]].c, g[from[k]].backend, in[k].res);
}

/* The run list as it is now; what is put back by a step waits for the next turn. */
static void run_list(struct mt_edge_worker *w)
{
    struct mt_list now;
    mt_list_init(&now);
    struct mt_list *n;
    while ((n = mt_list_pop_front(&w->run)) != NULL)
        mt_list_push_back(&now, n);
    w->n_run = 0;
    while ((n = mt_list_pop_front(&now)) != NULL)
        mt_edge_conn_step(MT_CONTAINER(n, struct mt_edge_conn, run));
}

static void dispatch(struct mt_edge_worker *w, const struct epoll_event *ev)
{
    void *p = untagged(ev->data.u64);
    switch ((enum tag)(ev->data.u64 & TAG_MASK)) {
    case TAG_WAKE: {
        uint64_t drop;
        if (read(w->wakefd, &drop, sizeof drop) < 0) {
            /* somebody's write was read before */
        }
        break;
    }
    case TAG_LISTEN:
        on_listen(w, p);
        break;
    case TAG_CLIENT:
        mt_edge_conn_event(p, false, ev->events);
        break;
    case TAG_BACKEND:
        mt_edge_conn_event(p, true, ev->events);
        break;
    case TAG_TIMER: {
        uint64_t drop;
        if (read(w->timerfd, &drop, sizeof drop) < 0) {
            /* it was set anew since it fired */
        }
        w->armed_at = INT64_MAX;
        break;
    }
    case TAG_MASK:
        break;
    }
}

static void turn(struct mt_edge_worker *w)
{
    struct epoll_event ev[EVENTS] __attribute__((uninitialized)); /* the first n are written */
    int wait = arm(w);
    w->table = NULL;
    atomic_store(&w->seen, MT_EDGE_OFFLINE);
    int n = epoll_wait(w->epfd, ev, EVENTS, wait);
    /* first say which generation, then take the pointer: who swaps waits for all that said an older one */
    atomic_store(&w->seen, atomic_load(&w->hub->generation));
    w->table = atomic_load(&w->hub->table);
    w->now = mt_clock_mono();
    w->share = mt_edge_worker_share((n > 0 ? (uint32_t)n : 0) + w->n_run);
    for (int i = 0; i < n; i++)
        dispatch(w, &ev[i]);
    if (w->n_gathered > 1)
        move_gathered(w);
    for (unsigned i = 0; i < w->n_gathered; i++) /* what is left to read or to write, ends, judgement, counters, timers */
        mt_edge_conn_step(w->gathered[i].c);
    w->n_gathered = 0;
    run_list(w);
    mt_edge_wheel_run(&w->wheel, w->now, on_timer, w);
    take_commands(w); /* after the events: a closed listener may have one in this batch */
    if (atomic_load_explicit(&w->hub->purge_until, memory_order_relaxed) > w->now && w->now >= w->purge_at)
        purge(w);
    w->stopping = atomic_load_explicit(&w->hub->drain, memory_order_relaxed);
    if (w->stopping) {
        MT_LIST_EACH(l, &w->lsocks)
            lsock_free(w, MT_CONTAINER(l, struct mt_edge_lsock, node));
        atomic_store(&w->drained, true);
    } else if (w->accept_paused && w->now >= w->accept_again_at) {
        accept_pause(w, false);
    }
    free_dead(w);
}

static void *worker_main(void *arg)
{
    struct mt_edge_worker *w = arg;
    if (w->hub->opt->io_uring && mt_edge_batch_init(&w->batch))
        w->slots = malloc(MT_EDGE_BATCH * MT_EDGE_SLOT);
    while (!atomic_load(&w->hub->stop))
        turn(w);
    w->now = mt_clock_mono();
    MT_LIST_EACH(n, &w->all)
        mt_edge_conn_close(MT_CONTAINER(n, struct mt_edge_conn, all), MT_EDGE_R_SHUTDOWN, true);
    free_dead(w);
    take_commands(w);
    MT_LIST_EACH(l, &w->lsocks)
        lsock_free(w, MT_CONTAINER(l, struct mt_edge_lsock, node));
    atomic_store(&w->seen, MT_EDGE_OFFLINE);
    return NULL;
}

int mt_edge_worker_start(struct mt_edge_worker *w, struct mt_edge_hub *hub, unsigned index, struct mt_err *err)
{
    memset(w, 0, sizeof *w);
    w->hub = hub;
    w->index = index;
    w->epfd = w->wakefd = w->timerfd = w->batch.fd = -1;
    w->armed_at = INT64_MAX;
    w->now = mt_clock_mono();
    w->log_filled_at = w->now;
    w->log_tokens = (int64_t)hub->opt->access_log_per_s * 1000;
    w->next_seq = ((uint64_t)index << 48) | 1;
    atomic_store(&w->seen, MT_EDGE_OFFLINE);
    mt_edge_wheel_init(&w->wheel, w->now);
    mt_edge_slab_init(&w->conns, sizeof(struct mt_edge_conn));
    mt_edge_slab_init(&w->hellos, sizeof(struct mt_hello));
    mt_list_init(&w->all);
    mt_list_init(&w->run);
    mt_edge_unrouted_init(&w->pre);
    mt_list_init(&w->dead);
    mt_list_init(&w->lsocks);
    (void)pthread_mutex_init(&w->cmd_lock, NULL);
    w->buf = malloc(MT_EDGE_BUF);
    if (!w->buf)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for worker %u", index);
    w->epfd = epoll_create1(EPOLL_CLOEXEC);
    w->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (w->epfd == -1 || w->wakefd == -1 || w->timerfd == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "epoll of worker %u", index);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = TAG_WAKE};
    struct epoll_event timer = {.events = EPOLLIN, .data.u64 = TAG_TIMER};
    if (epoll_ctl(w->epfd, EPOLL_CTL_ADD, w->wakefd, &ev) == -1 || epoll_ctl(w->epfd, EPOLL_CTL_ADD, w->timerfd, &timer) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "wake-up of worker %u", index);
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, THREAD_STACK);
    int e = pthread_create(&w->thread, &attr, worker_main, w);
    (void)pthread_attr_destroy(&attr);
    if (e != 0) {
        errno = e;
        return MT_FAIL_ERRNO(err, MT_E_IO, "thread of worker %u", index);
    }
    return 0;
}

void mt_edge_worker_done(struct mt_edge_worker *w)
{
    mt_closep(&w->epfd);
    mt_closep(&w->wakefd);
    mt_closep(&w->timerfd);
    mt_edge_pipes_done(&w->pipes);
    mt_edge_slab_done(&w->conns);
    mt_edge_slab_done(&w->hellos);
    mt_edge_batch_done(&w->batch);
    free(w->slots);
    free(w->buf);
    w->slots = w->buf = NULL;
    (void)pthread_mutex_destroy(&w->cmd_lock);
}
