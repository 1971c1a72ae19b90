/* SPDX-License-Identifier: Apache-2.0 */
/* Local and rare, so each request is served in one go, with a short bound on the peer; the workers never see it. */
#include "edge/admin.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "edge/explain.h"
#include "edge/status.h"
#include "os/sock.h"
#include "wire/clienthello.h"

#define PEER_MS 300
#define REPLY_MAX (4U * 1024U * 1024U)
#define HEAD_MAX (4096U + 2U * MT_HELLO_MAX_CEIL) /* a hello comes as hex in the target */

struct mt_edge_admin {
    struct mt_edge_hub *hub;
    struct mt_source *source;
    int fd;
    char path[MT_UNIX_PATH_MAX + 1];
};

/* The bound of one system call starts anew with every byte: this one is for the whole of reading or writing. */
static bool in_time(int64_t began)
{
    return mt_clock_mono() - began < 2 * PEER_MS * MT_NS_PER_MS;
}

static void send_all(int fd, const void *data, size_t n)
{
    const char *p = data;
    int64_t began = mt_clock_mono();
    while (n > 0 && in_time(began)) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return;
        p += k;
        n -= (size_t)k;
    }
}

static void answer(int fd, int status, const char *reason, const char *body, size_t len)
{
    char head[160];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d %s\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                     status, reason, len);
    send_all(fd, head, (size_t)n);
    send_all(fd, body, len);
}

static int read_question(char *text, uint8_t *hello, struct mt_edge_question *q, struct mt_err *err)
{
    char *rest = NULL;
    q->port = 443;
    for (char *p = strtok_r(text, "&", &rest); p; p = strtok_r(NULL, "&", &rest)) {
        uint64_t port;
        size_t n = strlen(p);
        if (strncmp(p, "name=", 5) == 0) {
            q->name = p + 5;
        } else if (strncmp(p, "address=", 8) == 0) {
            q->address = p + 8;
        } else if (strncmp(p, "port=", 5) == 0) {
            if (mt_parse_u64(p + 5, 1, 65535, &port, err) < 0)
                return mt_err_wrap(err, "port");
            q->port = (uint16_t)port;
        } else if (strncmp(p, "hello=", 6) == 0) {
            q->hello_len = (n - 6) / 2;
            if (q->hello_len > MT_HELLO_MAX_CEIL || n % 2 || mt_hex_decode(p + 6, q->hello_len, hello) < 0)
                return MT_FAIL(err, MT_E_INVALID, "hello: not an even number of hex digits, or too many");
            q->hello = hello;
        } else {
            return MT_FAIL(err, MT_E_INVALID, "known: name, hello, port, address");
        }
    }
    if (!q->name && !q->hello)
        return MT_FAIL(err, MT_E_INVALID, "name or hello is missing");
    return 0;
}

static void serve_explain(struct mt_edge_admin *a, int fd, char *target)
{
    struct mt_err err = {0};
    struct mt_edge_question q = {0};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REPLY_MAX);
    mt_auto_free uint8_t *hello = malloc(MT_HELLO_MAX_CEIL);
    target[strcspn(target, " \r\n")] = '\0';
    int r = hello ? read_question(target, hello, &q, &err) : MT_FAIL(&err, MT_E_NOMEM, "no memory");
    if (r == 0)
        r = mt_edge_explain(a->hub, &q, &b, &err);
    if (r < 0)
        answer(fd, r == -MT_E_INVALID ? 400 : 500, "Error", err.msg, strlen(err.msg));
    else
        answer(fd, 200, "OK", mt_buf_cstr(&b), b.len);
}

static void serve(struct mt_edge_admin *a, int fd)
{
    mt_auto_free char *q = malloc(HEAD_MAX);
    size_t have = 0;
    int64_t began = mt_clock_mono();
    while (q && have < HEAD_MAX - 1 && in_time(began)) { /* the head of the request; bodies are not read */
        ssize_t n = recv(fd, q + have, HEAD_MAX - 1 - have, 0);
        if (n <= 0)
            return;
        size_t from = have > 3 ? have - 3 : 0; /* its end may be cut in two */
        have += (size_t)n;
        q[have] = '\0';
        if (strstr(q + from, "\r\n\r\n"))
            break;
    }
    if (!q)
        return;
    struct mt_err err = {0};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REPLY_MAX);
    if (strncmp(q, "GET /metrics ", 13) == 0) {
        if (mt_edge_status_metrics(a->hub, &b, &err) < 0)
            answer(fd, 500, "Internal Server Error", err.msg, strlen(err.msg));
        else
            answer(fd, 200, "OK", mt_buf_cstr(&b), b.len);
    } else if (strncmp(q, "GET /explain?", 13) == 0) {
        serve_explain(a, fd, q + 13);
    } else if (strncmp(q, "GET /livez ", 11) == 0) {
        answer(fd, 200, "OK", "ok\n", 3);
    } else if (strncmp(q, "GET /readyz ", 12) == 0) {
        uint64_t epoch, revision;
        mt_edge_hub_version(a->hub, &epoch, &revision, NULL);
        if (revision > 0)
            answer(fd, 200, "OK", "ok\n", 3);
        else
            answer(fd, 503, "Service Unavailable", "no configuration yet\n", 21);
    } else {
        answer(fd, 404, "Not Found", "known: GET /metrics /livez /readyz /explain\n", 44);
    }
}

static void on_conn(struct mt_source *src, int fd, uint32_t revents, void *arg)
{
    struct mt_edge_admin *a = arg;
    struct mt_err err = {0};
    int got = -1;
    (void)src;
    (void)revents;
    if (mt_sock_accept(fd, &got, &err) <= 0)
        return;
    mt_auto_fd int c = got;
    if (mt_sock_nonblock(c, false, &err) == 0 && mt_sock_timeout(c, PEER_MS, &err) == 0)
        serve(a, c);
}

struct mt_edge_admin *mt_edge_admin_start(struct mt_loop *loop, const char *path, struct mt_edge_hub *h, struct mt_err *err)
{
    struct mt_edge_admin *a = calloc(1, sizeof *a);
    if (!a) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for the admin socket");
        return NULL;
    }
    a->hub = h;
    a->fd = -1;
    (void)snprintf(a->path, sizeof a->path, "%s", path);
    if (mt_sock_unix_listen(path, 0660, (uid_t)-1, (gid_t)-1, &a->fd, err) == 0)
        a->source = mt_loop_fd(loop, "admin", a->fd, EPOLLIN, on_conn, a, err);
    if (!a->source) {
        mt_closep(&a->fd);
        free(a);
        return NULL;
    }
    return a;
}

void mt_edge_admin_stop(struct mt_edge_admin *a)
{
    if (!a)
        return;
    mt_loop_del(a->source);
    mt_closep(&a->fd);
    (void)unlink(a->path);
    free(a);
}
