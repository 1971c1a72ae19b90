/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/metrics_http.h"

#include "base/cleanup.h"
#include "base/list.h"
#include "os/sock.h"
#include "wire/metrics.h"

#include <stdlib.h>
#include <sys/socket.h>

#define CLIENTS_MAX 16
#define HEAD_MAX 2048
#define LIFE_MS 10000

struct client {
    struct mt_list link;
    struct mt_metrics_http *m;
    int fd;
    struct mt_source *src, *timer;
    size_t have;
    char head[HEAD_MAX + 1];
    struct mt_buf out;
    bool answering;
};

struct mt_metrics_http {
    struct mt_metrics_http_conf conf;
    struct mt_loop *loop;
    int fd;
    struct mt_source *src;
    struct mt_list clients;
    unsigned n;
};

static void client_free(struct client *c)
{
    mt_loop_del(c->src);
    mt_loop_del(c->timer);
    mt_closep(&c->fd);
    mt_list_remove(&c->link);
    c->m->n--;
    mt_buf_done(&c->out);
    free(c);
}

static void put_answer(struct client *c, int status, const char *reason, const char *type, const char *body, size_t len)
{
    mt_buf_printf(&c->out,
                  "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
                  status, reason, type, len);
    mt_buf_put(&c->out, body, len);
}

static void answer(struct client *c)
{
    struct mt_metrics_http *m = c->m;
    struct mt_err err = {0};
    mt_auto_buf struct mt_buf page = MT_BUF_INIT(MT_METRICS_PAGE_MAX);
    const char *why = "";
    if (strncmp(c->head, "GET /metrics ", 13) == 0 || strncmp(c->head, "GET /metrics?", 13) == 0) {
        if (m->conf.page(m->conf.arg, &page, &err) < 0)
            put_answer(c, 500, "Internal Server Error", "text/plain", err.msg, strlen(err.msg));
        else
            put_answer(c, 200, "OK", "text/plain; version=0.0.4", mt_buf_cstr(&page), page.len);
    } else if (strncmp(c->head, "GET /livez ", 11) == 0) {
        put_answer(c, 200, "OK", "text/plain", "ok\n", 3);
    } else if (m->conf.ready && strncmp(c->head, "GET /readyz ", 12) == 0) {
        if (m->conf.ready(m->conf.arg, &why))
            put_answer(c, 200, "OK", "text/plain", "ok\n", 3);
        else
            put_answer(c, 503, "Service Unavailable", "text/plain", why, strlen(why));
    } else {
        static const char known[] = "known: GET /metrics /livez /readyz\n";
        put_answer(c, 404, "Not Found", "text/plain", known, sizeof known - 1);
    }
}

/* Returns false when the client is gone. */
static bool flush(struct client *c)
{
    while (c->out.len > 0) {
        ssize_t n = send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return mt_loop_fd_events(c->src, EPOLLOUT, NULL) == 0;
        if (n < 0)
            break;
        mt_buf_consume(&c->out, (size_t)n);
    }
    return false;
}

static void on_client(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct client *c = arg;
    (void)s;
    (void)revents;
    if (!c->answering) {
        ssize_t n = recv(fd, c->head + c->have, HEAD_MAX - c->have, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        size_t from = c->have > 3 ? c->have - 3 : 0; /* its end may be cut in two */
        c->have += n > 0 ? (size_t)n : 0;
        c->head[c->have] = '\0';
        bool whole = strstr(c->head + from, "\r\n\r\n") != NULL;
        if (!whole && n > 0 && c->have < HEAD_MAX)
            return;
        if (!whole) {
            client_free(c);
            return;
        }
        c->answering = true;
        answer(c);
    }
    if (!flush(c))
        client_free(c);
}

static void on_late(struct mt_source *s, void *arg)
{
    (void)s;
    client_free(arg);
}

static void on_conn(struct mt_source *s, int listen_fd, uint32_t revents, void *arg)
{
    struct mt_metrics_http *m = arg;
    struct mt_err err = {0};
    int got = -1;
    (void)s;
    (void)revents;
    if (mt_sock_accept(listen_fd, &got, &err) <= 0)
        return;
    mt_auto_fd int fd = got;
    struct client *c = m->n < CLIENTS_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return; /* closed: whoever scrapes comes again */
    *c = (struct client){.m = m, .fd = -1, .out = MT_BUF_INIT(MT_METRICS_PAGE_MAX + 1024)};
    mt_list_push_back(&m->clients, &c->link);
    m->n++;
    c->src = mt_loop_fd(m->loop, "metrics.client", fd, EPOLLIN, on_client, c, &err);
    c->timer = c->src ? mt_loop_timer(m->loop, "metrics.late", on_late, c, &err) : NULL;
    c->fd = MT_TAKE_FD(fd);
    if (!c->timer) {
        client_free(c);
        return;
    }
    mt_loop_timer_after(c->timer, LIFE_MS);
}

struct mt_metrics_http *mt_metrics_http_new(struct mt_loop *loop, const struct mt_metrics_http_conf *conf, struct mt_err *err)
{
    struct mt_metrics_http *m = calloc(1, sizeof *m);
    if (!m) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for the metrics listener");
        return NULL;
    }
    m->conf = *conf;
    m->conf.address = NULL;
    m->loop = loop;
    m->fd = -1;
    mt_list_init(&m->clients);
    if (mt_sock_private_listen(conf->address, &m->fd, err) == 0)
        m->src = mt_loop_fd(loop, "metrics", m->fd, EPOLLIN, on_conn, m, err);
    if (!m->src) {
        mt_metrics_http_free(m);
        return NULL;
    }
    return m;
}

void mt_metrics_http_free(struct mt_metrics_http *m)
{
    if (!m)
        return;
    while (!mt_list_empty(&m->clients))
        client_free(MT_CONTAINER(m->clients.next, struct client, link));
    mt_loop_del(m->src);
    mt_closep(&m->fd);
    free(m);
}
