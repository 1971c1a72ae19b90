/* SPDX-License-Identifier: Apache-2.0 */
#include "os/tls_relay.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "os/loop.h"

#include <pthread.h>
#include <sys/socket.h>

#define RELAY_MAGIC 0x3be6a917u
enum { PART = 16 * 1024, PARTS_A_TURN = 4, LINGER_MS = 1000, LINGER_BYTES = 256 * 1024, PLAIN_BUFFER = 64 * 1024 };

enum state { HANDSHAKE = 0, MOVING, LINGER, OVER };

/* What one side gave and the other has not taken yet. */
struct rest {
    char *p;
    size_t at, len;
};

struct mt_tls_relay {
    uint32_t magic;
    enum state state;
    struct mt_loop *loop;
    struct mt_tls *tls;
    int net, plain; /* plain -1 until the handshake is done */
    struct mt_source *net_s, *plain_s, *timer;
    uint32_t net_events, plain_events;
    struct rest up, down; /* to the plain side, to the net */
    int up_wants, down_wants; /* enum mt_tls_step of the last read and write */
    bool up_eof, up_closed, down_eof;
    size_t lingered;
    struct mt_err failed;
    struct mt_tls_relay_ops ops;
    void *arg;
};

static void on_net(struct mt_source *s, int fd, uint32_t revents, void *arg);
static void on_plain(struct mt_source *s, int fd, uint32_t revents, void *arg);

void mt_tls_relay_free(struct mt_tls_relay *r)
{
    if (!r)
        return;
    MT_ASSERT(r->magic == RELAY_MAGIC);
    r->magic = 0;
    mt_loop_del(r->net_s);
    mt_loop_del(r->plain_s);
    mt_loop_del(r->timer);
    mt_tls_free(r->tls);
    mt_closep(&r->net);
    mt_closep(&r->plain);
    free(r->up.p);
    free(r->down.p);
    free(r);
}

/* Ends @r; nothing may touch it afterwards. */
static void over(struct mt_tls_relay *r)
{
    r->state = OVER;
    if (r->ops.closed)
        r->ops.closed(r, r->failed.code != MT_OK ? &r->failed : NULL, r->arg);
    mt_tls_relay_free(r);
}

/* A source that waits for nothing is taken away: a closed peer would wake an empty one for ever (EPOLLHUP cannot be masked). */
static int watch(struct mt_tls_relay *r, struct mt_source **s, uint32_t *now, const char *name, int fd, uint32_t events, mt_fd_fn fn)
{
    if (events == *now && (*s || !events))
        return 0;
    *now = events;
    if (!events) {
        mt_loop_del(*s);
        *s = NULL;
        return 0;
    }
    if (*s)
        return mt_loop_fd_events(*s, events, NULL);
    *s = mt_loop_fd(r->loop, name, fd, events, fn, r, NULL);
    return *s ? 0 : -MT_E_NOMEM;
}

static int keep(struct rest *q, const char *p, size_t n)
{
    if (n == 0)
        return 0;
    q->p = malloc(n);
    if (!q->p)
        return -MT_E_NOMEM;
    memcpy(q->p, p, n);
    q->at = 0;
    q->len = n;
    return 0;
}

static void took(struct rest *q, size_t n)
{
    q->at += n;
    if (q->at < q->len)
        return;
    free(q->p); /* bytes of tenants: wiped by no one, as everywhere else in kernel and library buffers */
    *q = (struct rest){0};
}

/* @n bytes to the plain side: how many went, 0 when it is full, -code. */
static ssize_t to_plain(struct mt_tls_relay *r, const char *p, size_t n)
{
    for (;;) {
        ssize_t k = send(r->plain, p, n, MSG_NOSIGNAL);
        if (k >= 0 || errno == EAGAIN)
            return k < 0 ? 0 : k;
        if (errno != EINTR)
            return -MT_E_UNAVAILABLE;
    }
}

/* From the net to the plain side. 0, or -code: the relay cannot go on. */
static int move_up(struct mt_tls_relay *r)
{
    char part[PART];
    if (r->up_closed)
        return 0;
    if (r->up.len) {
        ssize_t k = to_plain(r, r->up.p + r->up.at, r->up.len - r->up.at);
        if (k < 0)
            return (int)k;
        took(&r->up, (size_t)k);
    }
    for (int i = 0; !r->up.len && !r->up_eof && i < PARTS_A_TURN; i++) {
        size_t n = 0;
        int step = mt_tls_read(r->tls, part, sizeof part, &n, NULL);
        r->up_wants = step;
        if (step < 0)
            return step;
        if (step != MT_TLS_DONE)
            break;
        if (n == 0) {
            r->up_eof = true;
            break;
        }
        ssize_t k = to_plain(r, part, n);
        if (k < 0 || keep(&r->up, part + k, n - (size_t)k) < 0)
            return -MT_E_UNAVAILABLE;
    }
    if (r->up_eof && !r->up.len) {
        r->up_closed = true;
        (void)shutdown(r->plain, SHUT_WR);
    }
    return 0;
}

/* @n bytes to the net: how many went; fewer than @n: the rest has to wait. -code. */
static ssize_t to_net(struct mt_tls_relay *r, const char *p, size_t n)
{
    size_t done = 0;
    r->down_wants = MT_TLS_DONE;
    while (done < n) {
        size_t k = 0;
        int step = mt_tls_write(r->tls, p + done, n - done, &k, NULL);
        if (step < 0)
            return step;
        r->down_wants = step;
        if (step != MT_TLS_DONE)
            break;
        done += k;
    }
    return (ssize_t)done;
}

static int move_down(struct mt_tls_relay *r)
{
    char part[PART];
    if (r->down.len) {
        ssize_t k = to_net(r, r->down.p + r->down.at, r->down.len - r->down.at);
        if (k < 0)
            return (int)k;
        took(&r->down, (size_t)k);
    }
    for (int i = 0; !r->down.len && !r->down_eof && i < PARTS_A_TURN; i++) {
        ssize_t n = recv(r->plain, part, sizeof part, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0) { /* an error of the plain side is its end too */
            r->down_eof = true;
            break;
        }
        ssize_t k = to_net(r, part, (size_t)n);
        if (k < 0)
            return (int)k;
        if (keep(&r->down, part + k, (size_t)(n - k)) < 0)
            return -MT_E_NOMEM;
    }
    return 0;
}

/* Everything that is to go out is out: say so, and let the peer's last bytes come. */
static int part_in_peace(struct mt_tls_relay *r)
{
    mt_tls_goodbye(r->tls);
    (void)shutdown(r->net, SHUT_WR);
    r->state = LINGER; /* after a handshake that failed too: a reset would take the alert from a client that has sent its request already */
    mt_loop_del(r->plain_s);
    r->plain_s = NULL;
    mt_closep(&r->plain);
    mt_loop_timer_after(r->timer, LINGER_MS);
    return watch(r, &r->net_s, &r->net_events, "tls.net", r->net, EPOLLIN, on_net);
}

/* Move what can be moved, then wait for what is missing. May end @r. */
static void turn(struct mt_tls_relay *r)
{
    if (move_up(r) < 0 || move_down(r) < 0) {
        over(r);
        return;
    }
    if (r->down_eof && !r->down.len) {
        if (part_in_peace(r) < 0)
            over(r);
        return;
    }
    uint32_t net = 0, plain = 0;
    if (r->up.len)
        plain |= EPOLLOUT;
    else if (!r->up_eof)
        net |= r->up_wants == MT_TLS_WANT_WRITE ? EPOLLOUT : EPOLLIN;
    if (r->down.len)
        net |= r->down_wants == MT_TLS_WANT_READ ? EPOLLIN : EPOLLOUT;
    else if (!r->down_eof)
        plain |= EPOLLIN;
    if (!r->up.len && !r->up_eof && mt_tls_pending(r->tls))
        mt_loop_timer_after(r->timer, 0); /* the socket may stay silent while the library still holds bytes */
    if (watch(r, &r->net_s, &r->net_events, "tls.net", r->net, net, on_net) < 0 ||
        watch(r, &r->plain_s, &r->plain_events, "tls.plain", r->plain, plain, on_plain) < 0)
        over(r);
}

static int make_pair(int ret[2], struct mt_err *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket pair");
    const int size = PLAIN_BUFFER; /* for each direction, so that a client that does not read holds little */
    for (int i = 0; i < 2; i++)
        (void)setsockopt(ret[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return 0;
}

static void shake(struct mt_tls_relay *r)
{
    int step = mt_tls_handshake(r->tls, &r->failed), pair[2];
    if (step > 0) {
        if (watch(r, &r->net_s, &r->net_events, "tls.net", r->net, step == MT_TLS_WANT_WRITE ? EPOLLOUT : EPOLLIN, on_net) < 0)
            over(r);
        return;
    }
    if (step < 0 || make_pair(pair, &r->failed) < 0) {
        if (part_in_peace(r) < 0)
            over(r);
        return;
    }
    mt_loop_timer_set(r->timer, -1);
    r->plain = pair[0];
    r->state = MOVING;
    struct mt_tls_peer peer;
    bool shown = mt_tls_peer(r->tls, &peer);
    if (r->ops.ready(r, pair[1], shown ? &peer : NULL, r->arg) < 0)
        over(r);
    else
        turn(r);
}

static void linger(struct mt_tls_relay *r)
{
    char part[PART];
    ssize_t n = recv(r->net, part, sizeof part, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    r->lingered += n > 0 ? (size_t)n : 0;
    if (n <= 0 || r->lingered > LINGER_BYTES)
        over(r);
}

static void on_net(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_tls_relay *r = arg;
    MT_ASSERT(r->magic == RELAY_MAGIC);
    (void)s;
    (void)fd;
    (void)revents;
    if (r->state == HANDSHAKE)
        shake(r);
    else if (r->state == LINGER)
        linger(r);
    else
        turn(r);
}

static void on_plain(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    on_net(s, fd, revents, arg);
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_tls_relay *r = arg;
    MT_ASSERT(r->magic == RELAY_MAGIC);
    (void)s;
    if (r->state == MOVING) {
        turn(r);
        return;
    }
    if (r->state == HANDSHAKE)
        (void)MT_FAIL(&r->failed, MT_E_TIMEOUT, "no TLS handshake in time");
    over(r);
}

static struct mt_tls_relay *relay_make(struct mt_loop *l, int net_fd)
{
    struct mt_tls_relay *r = calloc(1, sizeof *r);
    if (!r) {
        close(net_fd);
        return NULL;
    }
    *r = (struct mt_tls_relay){.magic = RELAY_MAGIC, .loop = l, .net = net_fd, .plain = -1};
    r->timer = mt_loop_timer(l, "tls.timer", on_timer, r, NULL);
    if (!r->timer) {
        mt_tls_relay_free(r);
        return NULL;
    }
    return r;
}

int mt_tls_relay_new(struct mt_loop *l, struct mt_tls_ctx *ctx, int net_fd, int64_t handshake_ms, const struct mt_tls_relay_ops *ops, void *arg,
                     struct mt_tls_relay **ret, struct mt_err *err)
{
    struct mt_tls_relay *r = relay_make(l, net_fd);
    if (!r)
        return MT_FAIL(err, MT_E_NOMEM, "TLS connection");
    r->ops = *ops;
    r->arg = arg;
    int rc = mt_tls_new(ctx, net_fd, NULL, &r->tls, err);
    if (rc == 0 && watch(r, &r->net_s, &r->net_events, "tls.net", r->net, EPOLLIN, on_net) < 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "TLS connection");
    if (rc < 0) {
        mt_tls_relay_free(r);
        return rc;
    }
    mt_loop_timer_after(r->timer, handshake_ms);
    *ret = r;
    return 0;
}

/* ---------------------------------------------------------------- a thread for one */

static void thread_over(struct mt_tls_relay *r, const struct mt_err *err, void *arg)
{
    (void)r;
    (void)err;
    mt_loop_stop(arg, 0);
}

static void *thread_main(void *arg)
{
    struct mt_tls_relay *r = arg;
    struct mt_loop *l = r->loop;
    mt_loop_timer_after(r->timer, 0); /* first turn: bytes may have come with the handshake */
    (void)mt_loop_run(l);
    mt_loop_free(l);
    return NULL;
}

int mt_tls_relay_thread(struct mt_tls *t, int net_fd, int *ret_fd, struct mt_err *err)
{
    int pair[2] = {-1, -1}, rc;
    pthread_t thread;
    pthread_attr_t a;
    struct mt_loop *l = mt_loop_new(err);
    struct mt_tls_relay *r = l ? relay_make(l, net_fd) : NULL;
    if (!l)
        close(net_fd);
    if (!r) {
        mt_tls_free(t);
        mt_loop_free(l);
        return l ? MT_FAIL(err, MT_E_NOMEM, "TLS connection") : -MT_E_IO;
    }
    r->tls = t;
    r->state = MOVING;
    r->ops.closed = thread_over;
    r->arg = l;
    if ((rc = make_pair(pair, err)) == 0) {
        r->plain = pair[0];
        pthread_attr_init(&a);
        pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&a, 256u * 1024u);
        sigset_t all, before; /* signals are for the threads that were there before */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (pthread_create(&thread, &a, thread_main, r) != 0)
            rc = MT_FAIL(err, MT_E_NOMEM, "thread for a TLS connection");
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&a);
    }
    if (rc < 0) {
        mt_closep(&pair[1]);
        mt_tls_relay_free(r);
        mt_loop_free(l);
        return rc;
    }
    *ret_fd = pair[1];
    return 0;
}
