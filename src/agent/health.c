/* SPDX-License-Identifier: Apache-2.0 */
/* Counting of health results and the probe itself. See health.h. */
#include "agent/health.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define FAST_NS (5 * MT_NS_PER_S)
#define FAST_EVERY_NS (25 * MT_NS_PER_MS)
#define NO_CHECK_READY_NS (5 * MT_NS_PER_S)
#define GIVE_UP_TIMES 3
#define READ_MAX 4096
#define BODY_WAIT_MS 100

struct mt_health_conf mt_health_conf_of(const struct mt_workload *w)
{
    struct mt_health_conf c = {.check = w->health,
                               .stay_unready = w->lifecycle.restart_policy == MT_RESTART_NEVER};
    if (c.check.type == MT_HEALTH_NONE && w->network.n_ports > 0) {
        /* the defaults of runtime.md §12 */
        c.check = (struct mt_health){.type = MT_HEALTH_TCP,
                                     .port = w->network.ports[0].port,
                                     .interval_seconds = 10,
                                     .timeout_seconds = 2,
                                     .grace_period_seconds = 10,
                                     .success_threshold = 1,
                                     .failure_threshold = 3};
    }
    return c;
}

static int64_t grace_end(const struct mt_health_count *c, const struct mt_health *h)
{
    int64_t grace = (int64_t)h->grace_period_seconds * MT_NS_PER_S;
    return c->started_ns + (grace > FAST_NS ? grace : FAST_NS);
}

enum mt_health_verdict mt_health_count_result(struct mt_health_count *c, const struct mt_health_conf *conf, bool ok,
                                              int64_t now_ns)
{
    const struct mt_health *h = &conf->check;

    if (ok) {
        c->bad = 0;
        c->good++;
        if (!c->ready && (h->type == MT_HEALTH_NONE || c->good >= h->success_threshold)) {
            c->ready = c->was_ready = true;
            return MT_HEALTH_READY;
        }
        return MT_HEALTH_SAME;
    }
    c->good = 0;
    if (!c->was_ready) {
        int64_t limit = (int64_t)mt_health_startup_timeout(h) * MT_NS_PER_S;
        if (now_ns - c->started_ns >= limit)
            return MT_HEALTH_TOO_LATE;
        if (now_ns < grace_end(c, h))
            return MT_HEALTH_SAME;
    }
    c->bad++;
    if (c->bad >= GIVE_UP_TIMES * h->failure_threshold && !conf->stay_unready)
        return MT_HEALTH_GIVE_UP;
    if (c->ready && c->bad >= h->failure_threshold) {
        c->ready = false;
        return MT_HEALTH_UNREADY;
    }
    return MT_HEALTH_SAME;
}

int64_t mt_health_next_ns(const struct mt_health_count *c, const struct mt_health_conf *conf, int64_t now_ns)
{
    const struct mt_health *h = &conf->check;

    if (h->type == MT_HEALTH_NONE)
        return c->was_ready ? INT64_MAX : c->started_ns + NO_CHECK_READY_NS;
    if (!c->was_ready && now_ns < c->started_ns + FAST_NS)
        return now_ns + FAST_EVERY_NS;
    if (!c->was_ready && now_ns < grace_end(c, h))
        return now_ns + MT_NS_PER_S;
    return now_ns + (int64_t)h->interval_seconds * MT_NS_PER_S;
}

/* ---- one probe --------------------------------------------------------------------------- */

struct mt_probe {
    int fd;
    struct mt_source *io, *timer;
    struct mt_health check;
    struct in6_addr dst;
    mt_probe_fn fn;
    void *arg;
    bool sent;
    bool over;
    int status; /* of an answer that is a failure; 0 so far */
    size_t got;
    char head[READ_MAX]; /* start of the answer: "HTTP/1.1 200" decides, the body of a failure is kept for its autopsy */
};

static void finish(struct mt_probe *p, bool ok, const char *why)
{
    if (p->over)
        return;
    p->over = true;
    mt_loop_del(p->io);
    mt_loop_del(p->timer);
    p->io = p->timer = NULL;
    mt_closep(&p->fd);
    p->fn(p->arg, ok, why); /* may free p */
}

/* PROXY protocol v2, LOCAL command, no addresses: networking.md §9. */
static const uint8_t proxy_local[16] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51,
                                        0x55, 0x49, 0x54, 0x0a, 0x20, 0x00, 0x00, 0x00};

static int send_request(struct mt_probe *p)
{
    char text[1024 + 256];
    size_t n = 0;

    if (p->check.proxy_protocol) {
        memcpy(text, proxy_local, sizeof proxy_local);
        n = sizeof proxy_local;
    }
    if (p->check.type == MT_HEALTH_HTTP) {
        char host[INET6_ADDRSTRLEN];
        (void)inet_ntop(AF_INET6, &p->dst, host, sizeof host);
        int k = snprintf(text + n, sizeof text - n,
                         "GET %s HTTP/1.1\r\nHost: [%s]:%u\r\nUser-Agent: moat-health\r\nAccept: */*\r\n"
                         "Connection: close\r\n\r\n",
                         p->check.path, host, p->check.port);
        if (k < 0 || (size_t)k >= sizeof text - n)
            return -1;
        n += (size_t)k;
    }
    /* a fresh socket's buffer takes this whole */
    return n == 0 || send(p->fd, text, n, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -1;
}

/* True once the headers of what was read are over; the body's place in *@ret. */
static bool body_at(const struct mt_probe *p, size_t *ret)
{
    const char *end = memmem(p->head, p->got, "\r\n\r\n", 4);
    if (!end)
        return false;
    *ret = (size_t)(end - p->head) + 4;
    return true;
}

static void fail_by_status(struct mt_probe *p)
{
    char why[32];
    (void)snprintf(why, sizeof why, "http_%d", p->status);
    finish(p, false, why);
}

/* Ends the probe when the status line is decided: at once when it is good; when it is not, what the answer says is worth a short wait. */
static void judge_http(struct mt_probe *p, bool eof)
{
    size_t body;
    if (p->got < 12) {
        if (eof)
            finish(p, false, "no HTTP answer");
        return;
    }
    if (memcmp(p->head, "HTTP/1.", 7) != 0 || p->head[8] != ' ') {
        finish(p, false, "not HTTP");
        return;
    }
    int code = 0;
    for (int i = 9; i < 12; i++) {
        if (p->head[i] < '0' || p->head[i] > '9') {
            finish(p, false, "not HTTP");
            return;
        }
        code = code * 10 + (p->head[i] - '0');
    }
    if (code >= 200 && code <= 399) {
        finish(p, true, NULL);
        return;
    }
    bool first = p->status == 0;
    p->status = code;
    if (eof || p->got == sizeof p->head || (body_at(p, &body) && p->got - body >= MT_PROBE_BODY_MAX))
        fail_by_status(p);
    else if (first)
        mt_loop_timer_after(p->timer, BODY_WAIT_MS);
}

int mt_probe_answer(const struct mt_probe *p, const char **ret_body, size_t *ret_len)
{
    size_t at;
    *ret_body = "";
    *ret_len = 0;
    if (p->status && body_at(p, &at)) {
        *ret_body = p->head + at;
        *ret_len = p->got - at < MT_PROBE_BODY_MAX ? p->got - at : MT_PROBE_BODY_MAX;
    }
    return p->status;
}

static void on_io(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_probe *p = arg;
    int soerr = 0;
    socklen_t len = sizeof soerr;

    (void)revents;
    if (!p->sent) {
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &soerr, &len) < 0 || soerr != 0) {
            finish(p, false, soerr == ECONNREFUSED ? "connection refused" : soerr == EHOSTUNREACH
                                                         ? "host unreachable" : "connect failed");
            return;
        }
        p->sent = true;
        if (send_request(p) < 0) {
            finish(p, false, "send failed");
            return;
        }
        if (p->check.type != MT_HEALTH_HTTP) {
            finish(p, true, NULL); /* connected; close sends FIN */
            return;
        }
        if (mt_loop_fd_events(s, EPOLLIN, NULL) < 0)
            finish(p, false, "poll failed");
        return;
    }
    ssize_t n = recv(fd, p->head + p->got, sizeof p->head - p->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0 && p->status) {
        fail_by_status(p);
        return;
    }
    if (n < 0) {
        finish(p, false, "connection reset");
        return;
    }
    p->got += (size_t)n;
    judge_http(p, n == 0);
}

static void on_timeout(struct mt_source *s, void *arg)
{
    struct mt_probe *p = arg;
    (void)s;
    if (p->status)
        fail_by_status(p);
    else
        finish(p, false, p->sent ? "no answer in time" : "connect timed out");
}

/* A failure found before the loop saw the socket: told from the loop all the same. */
static void on_early(struct mt_source *s, void *arg)
{
    (void)s;
    finish(arg, false, "connect failed");
}

struct mt_probe *mt_probe_start(struct mt_loop *loop, const struct mt_health *check, const struct in6_addr *dst,
                                const struct in6_addr *src, int64_t timeout_ms, mt_probe_fn fn, void *arg,
                                struct mt_err *err)
{
    struct mt_probe *p = calloc(1, sizeof *p);
    if (!p) {
        (void)MT_FAIL(err, MT_E_NOMEM, "health probe: out of memory");
        return NULL;
    }
    p->check = *check;
    p->dst = *dst;
    p->fn = fn;
    p->arg = arg;
    p->fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->fd < 0) {
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "health probe: socket");
        free(p);
        return NULL;
    }
    bool early = false;
    struct sockaddr_in6 from = {.sin6_family = AF_INET6};
    if (src) {
        int on = 1; /* many probes in a row: the port is chosen at connect, not at bind */
        (void)setsockopt(p->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        from.sin6_addr = *src;
        early = bind(p->fd, (const struct sockaddr *)&from, sizeof from) < 0;
    }
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(check->port), .sin6_addr = *dst};
    if (!early && connect(p->fd, (const struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        early = true;
    p->timer = mt_loop_timer(loop, "probe", early ? on_early : on_timeout, p, err);
    if (!early)
        p->io = mt_loop_fd(loop, "probe", p->fd, EPOLLOUT, on_io, p, err);
    if (!p->timer || (!early && !p->io)) {
        mt_probe_free(p);
        return NULL;
    }
    mt_loop_timer_after(p->timer, early ? 0 : timeout_ms);
    return p;
}

void mt_probe_free(struct mt_probe *p)
{
    if (!p)
        return;
    p->over = true;
    mt_loop_del(p->io);
    mt_loop_del(p->timer);
    mt_closep(&p->fd);
    free(p);
}
