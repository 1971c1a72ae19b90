/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS in front of a listener: one thread with a loop accepts, makes the handshakes and moves the bytes; the library gets the plain end of
 * each connection and never knows. Its own TLS would be a second library's, without our policy, and it would not let us say who a client is.
 *
 * What comes from outside is bounded: a handshake has ten seconds, a source (an IPv4 address, an IPv6 /64) a number of connections, the
 * listener a number of connections in all, above which accepting waits.
 */
#include "wire/http_server_int.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "os/file.h"
#include "os/loop.h"
#include "os/sock.h"
#include "os/tls_relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HANDSHAKE_MS = 10000, ACCEPTS_A_TURN = 32, PAUSE_MS = 100, LAST_BYTES_MS = 500 };

struct source {
    unsigned open;
};

struct front_conn {
    struct mt_list link;
    struct httpd_front *front;
    struct mt_tls_relay *relay;
    struct sockaddr_storage addr;
    char prefix[INET6_ADDRSTRLEN + 1]; /* of its source */
};

/* Made by the front, on its way to the library's network thread. */
struct arrival {
    struct arrival *next;
    int fd;
    struct httpd_origin *origin;
};

struct httpd_front {
    struct httpd_listener *listener;
    struct MHD_Daemon *daemon;
    struct mt_loop *loop;
    pthread_t thread;
    bool started, ending;
    int listen_fd;
    struct mt_source *accept_s, *timer;
    struct mt_list conns;
    unsigned open, max_open, max_per_source;
    struct mt_map sources; /* prefix -> struct source */
    pthread_mutex_t mu;    /* what follows */
    struct mt_tls_ctx *ctx;
    struct arrival *arrivals;
    uint64_t refused, failed;
};

static const struct mt_tls_relay_ops relay_ops;

/* ---------------------------------------------------------------- where a connection comes from */

static void prefix_of(const struct sockaddr_storage *ss, char *ret, size_t size)
{
    struct sockaddr_in6 six;
    struct sockaddr_in four;
    memcpy(&six, ss, sizeof six);
    memcpy(&four, ss, sizeof four);
    if (ss->ss_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) {
        memset(&six.sin6_addr.s6_addr[8], 0, 8);
        (void)inet_ntop(AF_INET6, &six.sin6_addr, ret, (socklen_t)size);
    } else if (ss->ss_family == AF_INET6) {
        (void)inet_ntop(AF_INET, &six.sin6_addr.s6_addr[12], ret, (socklen_t)size);
    } else {
        (void)inet_ntop(AF_INET, &four.sin_addr, ret, (socklen_t)size);
    }
}

static bool source_enter(struct httpd_front *f, const char *prefix)
{
    struct source *s = mt_map_get(&f->sources, prefix);
    if (s && s->open >= f->max_per_source)
        return false;
    if (!s) {
        s = calloc(1, sizeof *s);
        if (!s || mt_map_put(&f->sources, prefix, s) < 0) {
            free(s);
            return false;
        }
    }
    s->open++;
    return true;
}

static void source_leave(struct httpd_front *f, const char *prefix)
{
    struct source *s = mt_map_get(&f->sources, prefix);
    MT_ASSERT(s && s->open > 0);
    if (--s->open == 0)
        free(mt_map_remove(&f->sources, prefix));
}

/* ---------------------------------------------------------------- to the library */

static void arrive(struct httpd_front *f, struct arrival *a)
{
    pthread_mutex_lock(&f->mu);
    a->next = f->arrivals;
    f->arrivals = a;
    pthread_mutex_unlock(&f->mu);
}

/* What belongs to @fd, or NULL. */
static struct httpd_origin *collect(struct httpd_front *f, int fd)
{
    struct httpd_origin *o = NULL;
    pthread_mutex_lock(&f->mu);
    for (struct arrival **p = &f->arrivals; *p; p = &(*p)->next) {
        if ((*p)->fd != fd)
            continue;
        struct arrival *a = *p;
        *p = a->next;
        o = a->origin;
        free(a);
        break;
    }
    pthread_mutex_unlock(&f->mu);
    return o;
}

/* Called by the library when it takes a connection or lets go of it. */
void httpd_on_connection(void *cls, struct MHD_Connection *conn, void **context, enum MHD_ConnectionNotificationCode code)
{
    struct httpd_listener *l = cls;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        free(*context);
        *context = NULL;
        return;
    }
    const union MHD_ConnectionInfo *ci = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    *context = ci && l->front ? collect(l->front, ci->connect_fd) : NULL;
}

static int on_ready(struct mt_tls_relay *r, int fd, const struct mt_tls_peer *peer, void *arg)
{
    struct front_conn *c = arg;
    struct httpd_front *f = c->front;
    struct arrival *a = calloc(1, sizeof *a);
    struct httpd_origin *o = calloc(1, sizeof *o);
    (void)r;
    if (!a || !o) {
        free(a);
        free(o);
        close(fd);
        return -MT_E_NOMEM;
    }
    httpd_address_text(&c->addr, o->address, sizeof o->address);
    o->has_peer = peer != NULL;
    if (peer)
        o->peer = *peer;
    *a = (struct arrival){.fd = fd, .origin = o};
    free(collect(f, fd)); /* of a connection that the library did not take */
    arrive(f, a);
    struct sockaddr_un local = {.sun_family = AF_UNIX}; /* what the descriptor is: the library asks addresses of TCP for options */
    if (MHD_add_connection(f->daemon, fd, (struct sockaddr *)&local, sizeof local) != MHD_YES) {
        free(collect(f, fd)); /* it has closed fd */
        return -MT_E_UNAVAILABLE;
    }
    return 0;
}

/* ---------------------------------------------------------------- connections */

static void accept_again(struct httpd_front *f);

static void conn_gone(struct front_conn *c)
{
    struct httpd_front *f = c->front;
    source_leave(f, c->prefix);
    mt_list_remove(&c->link);
    free(c);
    f->open--;
    if (f->ending && f->open == 0)
        mt_loop_stop(f->loop, 0);
    else
        accept_again(f);
}

static void on_closed(struct mt_tls_relay *r, const struct mt_err *err, void *arg)
{
    struct front_conn *c = arg;
    struct httpd_front *f = c->front;
    (void)r;
    if (err) {
        char address[64];
        httpd_address_text(&c->addr, address, sizeof address);
        pthread_mutex_lock(&f->mu);
        f->failed++;
        pthread_mutex_unlock(&f->mu);
        mt_log(MT_DEBUG, "http.tls_refused", KV("peer", (const char *)address), KV_ERR(err));
    }
    conn_gone(c);
}

static const struct mt_tls_relay_ops relay_ops = {.ready = on_ready, .closed = on_closed};

static void count_refused(struct httpd_front *f)
{
    pthread_mutex_lock(&f->mu);
    f->refused++;
    pthread_mutex_unlock(&f->mu);
}

static void admit(struct httpd_front *f, int fd)
{
    struct front_conn *c = calloc(1, sizeof *c);
    socklen_t n = sizeof c->addr;
    const int one = 1;
    if (!c || getpeername(fd, (struct sockaddr *)&c->addr, &n) < 0) {
        free(c);
        close(fd);
        return;
    }
    prefix_of(&c->addr, c->prefix, sizeof c->prefix);
    if (!source_enter(f, c->prefix)) {
        count_refused(f);
        free(c);
        close(fd);
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    c->front = f;
    pthread_mutex_lock(&f->mu);
    struct mt_tls_ctx *ctx = mt_tls_ctx_ref(f->ctx);
    pthread_mutex_unlock(&f->mu);
    int rc = mt_tls_relay_new(f->loop, ctx, fd, HANDSHAKE_MS, &relay_ops, c, &c->relay, NULL);
    mt_tls_ctx_unref(ctx);
    if (rc < 0) {
        source_leave(f, c->prefix);
        free(c);
        return;
    }
    mt_list_push_back(&f->conns, &c->link);
    f->open++;
}

static void on_accept(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct httpd_front *f = arg;
    (void)s;
    (void)revents;
    for (int i = 0; i < ACCEPTS_A_TURN && f->open < f->max_open; i++) {
        int conn = -1, n = mt_sock_accept(fd, &conn, NULL);
        if (n == 0)
            return;
        if (n < 0) { /* descriptors or memory are out: the listener stays readable, so look away for a moment */
            mt_loop_del(f->accept_s);
            f->accept_s = NULL;
            mt_loop_timer_after(f->timer, PAUSE_MS);
            return;
        }
        admit(f, conn);
    }
    if (f->open >= f->max_open) {
        mt_loop_del(f->accept_s);
        f->accept_s = NULL;
    }
}

static void accept_again(struct httpd_front *f)
{
    if (f->ending || f->accept_s || f->open >= f->max_open || f->listen_fd < 0 || mt_loop_timer_armed(f->timer))
        return;
    f->accept_s = mt_loop_fd(f->loop, "tls.listen", f->listen_fd, EPOLLIN, on_accept, f, NULL);
    if (!f->accept_s)
        mt_loop_timer_after(f->timer, PAUSE_MS);
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct httpd_front *f = arg;
    (void)s;
    if (f->ending)
        mt_loop_stop(f->loop, 0);
    else
        accept_again(f);
}

/* ---------------------------------------------------------------- start and end */

static void *front_main(void *arg)
{
    struct httpd_front *f = arg;
    (void)mt_loop_run(f->loop);
    return NULL;
}

static void quiesce(void *arg)
{
    struct httpd_front *f = arg;
    mt_loop_del(f->accept_s);
    f->accept_s = NULL;
    if (f->listen_fd >= 0)
        close(f->listen_fd);
    f->listen_fd = -1;
}

static void finish(void *arg)
{
    struct httpd_front *f = arg;
    quiesce(f);
    f->ending = true;
    if (f->open == 0)
        mt_loop_stop(f->loop, 0);
    else
        mt_loop_timer_after(f->timer, LAST_BYTES_MS);
}

void httpd_front_quiesce(struct httpd_front *f)
{
    if (f->started)
        (void)mt_loop_post(f->loop, quiesce, f);
}

void httpd_front_free(struct httpd_front *f)
{
    if (!f)
        return;
    if (f->started) {
        while (mt_loop_post(f->loop, finish, f) < 0)
            (void)usleep(1000); /* no memory for a task: the thread cannot be left behind */
        pthread_join(f->thread, NULL);
    }
    MT_LIST_EACH(n, &f->conns)
    {
        struct front_conn *c = MT_CONTAINER(n, struct front_conn, link);
        mt_tls_relay_free(c->relay);
        source_leave(f, c->prefix);
        mt_list_remove(&c->link);
        free(c);
    }
    if (f->listen_fd >= 0)
        close(f->listen_fd);
    mt_loop_free(f->loop);
    for (struct arrival *a = f->arrivals, *n; a; a = n) {
        n = a->next;
        free(a->origin);
        free(a);
    }
    mt_map_done(&f->sources);
    mt_tls_ctx_unref(f->ctx);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

int httpd_front_new(struct httpd_listener *l, const struct mt_http_listener *conf, unsigned max_conns, struct httpd_front **ret,
                    struct mt_err *err)
{
    struct httpd_front *f = calloc(1, sizeof *f);
    uint64_t seed;
    if (!f)
        return MT_FAIL(err, MT_E_NOMEM, "TLS listener");
    *f = (struct httpd_front){.listener = l, .listen_fd = -1};
    pthread_mutex_init(&f->mu, NULL);
    mt_list_init(&f->conns);
    mt_random(&seed, sizeof seed);
    mt_map_init(&f->sources, seed);
    f->ctx = mt_tls_ctx_ref(conf->tls);
    /* upgraded connections and those that say goodbye are none of the library's, so there may be more than it takes */
    f->max_open = max_conns * 2;
    f->max_per_source = conf->max_per_source ? conf->max_per_source : max_conns;
    f->loop = mt_loop_new(err);
    f->timer = f->loop ? mt_loop_timer(f->loop, "tls.listener", on_timer, f, err) : NULL;
    if (!f->timer) {
        httpd_front_free(f);
        return err ? -(int)err->code : -MT_E_IO;
    }
    *ret = f;
    return 0;
}

int httpd_front_start(struct httpd_front *f, struct MHD_Daemon *daemon, int listen_fd, struct mt_err *err)
{
    f->daemon = daemon;
    f->listen_fd = listen_fd;
    accept_again(f);
    int rc = httpd_start_thread(&f->thread, front_main, f, err);
    f->started = rc == 0;
    return rc;
}

void httpd_front_set(struct httpd_front *f, struct mt_tls_ctx *ctx)
{
    pthread_mutex_lock(&f->mu);
    struct mt_tls_ctx *before = f->ctx;
    f->ctx = mt_tls_ctx_ref(ctx);
    pthread_mutex_unlock(&f->mu);
    mt_tls_ctx_unref(before);
}

void httpd_front_stats(struct httpd_front *f, struct mt_http_stats *add)
{
    pthread_mutex_lock(&f->mu);
    add->tls_refused += f->refused;
    add->tls_failed += f->failed;
    pthread_mutex_unlock(&f->mu);
}
