/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/http_client.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/sock.h"
#include "os/tls_relay.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { HEAD_MAX = 16 * 1024, PART = 16 * 1024, DIAL_MS = 10000 };

struct mt_http_client {
    char *path;        /* of the socket; with TLS "https://host:port", for messages */
    char *host;        /* TLS: where to */
    char *server_name; /* TLS: NULL any */
    char *authority;   /* of the Host header */
    uint16_t port;
    struct mt_tls_ctx *ctx; /* NULL: a Unix socket */
    struct mt_tls *tls;     /* of the kept connection */
    int fd;            /* kept connection, -1 */
    int cancel_fd;     /* eventfd, readable for ever once cancelled */
    struct mt_buf in;  /* received, not yet consumed */
    int64_t idle_ns;   /* deadline step of the running exchange */
    int64_t deadline;  /* monotonic */
    bool got_bytes;    /* of the running exchange */
    bool secret;       /* its answer is wiped from here */
    uid_t trusted[MT_HTTP_TRUST_MAX];
    size_t trusted_count; /* 0: everybody */
    const struct mt_http_header *always;
    size_t always_count;
};

static struct mt_http_client *client_new(void)
{
    struct mt_http_client *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->fd = -1;
    c->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mt_buf_init(&c->in, HEAD_MAX + PART);
    return c;
}

struct mt_http_client *mt_http_client_new(const char *path)
{
    struct mt_http_client *c = client_new();
    if (!c)
        return NULL;
    c->path = strdup(path);
    c->authority = strdup("localhost");
    if (!c->path || !c->authority || c->cancel_fd < 0) {
        mt_http_client_free(c);
        return NULL;
    }
    return c;
}

struct mt_http_client *mt_http_client_new_tls(const char *host, uint16_t port, struct mt_tls_ctx *ctx, const char *server_name)
{
    struct mt_http_client *c = client_new();
    bool six = strchr(host, ':') != NULL, any = server_name && !*server_name;
    if (!c)
        return NULL;
    c->port = port;
    c->ctx = mt_tls_ctx_ref(ctx);
    c->host = strdup(host);
    c->authority = mt_asprintf(port == 443 ? "%s%s%s" : "%s%s%s:%u", six ? "[" : "", host, six ? "]" : "", (unsigned)port);
    c->path = c->authority ? mt_asprintf("https://%s", c->authority) : NULL;
    c->server_name = any ? NULL : strdup(server_name ? server_name : host);
    if (!c->host || !c->path || (!any && !c->server_name) || c->cancel_fd < 0) {
        mt_http_client_free(c);
        return NULL;
    }
    return c;
}

static void hang_up(struct mt_http_client *c)
{
    if (c->tls)
        mt_tls_goodbye(c->tls);
    mt_tls_free(c->tls);
    c->tls = NULL;
    mt_closep(&c->fd);
}

void mt_http_client_set_tls(struct mt_http_client *c, struct mt_tls_ctx *ctx)
{
    MT_ASSERT(c->ctx);
    hang_up(c);
    struct mt_tls_ctx *before = c->ctx;
    c->ctx = mt_tls_ctx_ref(ctx);
    mt_tls_ctx_unref(before);
}

void mt_http_client_free(struct mt_http_client *c)
{
    if (!c)
        return;
    hang_up(c);
    mt_closep(&c->cancel_fd);
    mt_buf_done(&c->in);
    mt_tls_ctx_unref(c->ctx);
    free(c->path);
    free(c->host);
    free(c->server_name);
    free(c->authority);
    free(c);
}

void mt_http_client_trust(struct mt_http_client *c, const uid_t *uids, size_t n)
{
    MT_ASSERT(n >= 1 && n <= MT_HTTP_TRUST_MAX);
    memcpy(c->trusted, uids, n * sizeof *uids);
    c->trusted_count = n;
}

void mt_http_client_always(struct mt_http_client *c, const struct mt_http_header *headers, size_t n)
{
    c->always = headers;
    c->always_count = n;
}

void mt_http_client_cancel(struct mt_http_client *c)
{
    uint64_t one = 1;
    (void)!write(c->cancel_fd, &one, sizeof one);
}

void mt_http_reply_done(struct mt_http_reply *r)
{
    mt_buf_done(&r->body);
}

static int wait_on(const struct mt_http_client *c, int fd, short events, int64_t deadline, struct mt_err *err)
{
    for (;;) {
        int64_t left = (deadline - mt_clock_mono() + MT_NS_PER_MS - 1) / MT_NS_PER_MS;
        struct pollfd pf[2] = {{.fd = fd, .events = events}, {.fd = c->cancel_fd, .events = POLLIN}};
        int n = poll(pf, 2, left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left);
        if (n > 0 && pf[1].revents)
            return MT_FAIL(err, MT_E_CANCELLED, "request to '%s' was cancelled", c->path);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "wait for '%s'", c->path);
        if (n == 0 && mt_clock_mono() >= deadline)
            return MT_FAIL(err, MT_E_TIMEOUT, "no answer from '%s' in time", c->path);
    }
}

static int wait_for(struct mt_http_client *c, short events, struct mt_err *err)
{
    return wait_on(c, c->fd, events, c->deadline, err);
}

static short events_of(int step)
{
    return step == MT_TLS_WANT_WRITE ? POLLOUT : POLLIN;
}

static int send_tls(struct mt_http_client *c, const char *p, size_t len, struct mt_err *err)
{
    while (len > 0) {
        size_t n = 0;
        int step = mt_tls_write(c->tls, p, len, &n, err);
        if (step < 0)
            return step == -MT_E_DENIED ? mt_err_wrap(err, "'%s'", c->path) : MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' closed the connection", c->path);
        if (step != MT_TLS_DONE) {
            int r = wait_for(c, events_of(step), err);
            if (r < 0)
                return r;
            continue;
        }
        p += n;
        len -= n;
    }
    return 0;
}

static int send_all(struct mt_http_client *c, const void *data, size_t len, struct mt_err *err)
{
    const char *p = data;
    if (c->tls)
        return send_tls(c, p, len, err);
    while (len > 0) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            int r = wait_for(c, POLLOUT, err);
            if (r < 0)
                return r;
        } else if (errno != EINTR) {
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "send to '%s'", c->path);
        }
    }
    return 0;
}

/* More bytes into c->in. 1 got some, 0 end of stream, -code. */
static int receive(struct mt_http_client *c, struct mt_err *err)
{
    for (;;) {
        char part[PART];
        size_t room = c->in.max - c->in.len;
        if (mt_clock_mono() >= c->deadline) /* a peer that never pauses is stopped too */
            return MT_FAIL(err, MT_E_TIMEOUT, "no whole answer from '%s' in time", c->path);
        if (room == 0)
            return MT_FAIL(err, MT_E_CORRUPT, "'%s' sent a header over %d bytes", c->path, HEAD_MAX);
        ssize_t n;
        if (c->tls) {
            size_t got = 0;
            int step = mt_tls_read(c->tls, part, room < sizeof part ? room : sizeof part, &got, err);
            if (step == -MT_E_DENIED) /* with TLS 1.3 a client hears only here that its certificate was refused */
                return mt_err_wrap(err, "'%s'", c->path);
            if (step < 0) /* not said to be the end: an answer that only this would end is cut */
                return MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' closed the connection", c->path);
            if (step != MT_TLS_DONE) {
                int r = wait_for(c, events_of(step), err);
                if (r < 0)
                    return r;
                continue;
            }
            n = (ssize_t)got;
        } else {
            n = recv(c->fd, part, room < sizeof part ? room : sizeof part, 0);
        }
        if (n > 0) {
            c->got_bytes = true;
            mt_buf_put(&c->in, part, (size_t)n);
            if (c->secret)
                explicit_bzero(part, (size_t)n);
            return c->in.failed ? MT_FAIL(err, MT_E_NOMEM, "no memory for an answer") : 1;
        }
        if (n == 0)
            return 0;
        if (errno == EAGAIN) {
            int r = wait_for(c, POLLIN, err);
            if (r < 0)
                return r;
        } else if (errno != EINTR) {
            return errno == ECONNRESET || errno == EPIPE ? 0 : MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "receive from '%s'", c->path);
        }
    }
}

struct body {
    enum { BODY_NONE = 0, BODY_LENGTH, BODY_CHUNKED, BODY_TO_END } kind;
    uint64_t left;
    bool close;
};

static bool has_name(const char *line, const char *name, const char **ret_value)
{
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) != 0 || line[n] != ':')
        return false;
    line += n + 1;
    while (*line == ' ' || *line == '\t')
        line++;
    *ret_value = line;
    return true;
}

static int header_line(const char *line, struct mt_http_reply *ret, struct body *b, struct mt_err *err)
{
    const char *v;
    uint64_t n;
    if (has_name(line, "Content-Length", &v)) {
        if (b->kind != BODY_NONE || mt_parse_u64(v, 0, UINT64_C(1) << 40, &n, err) < 0)
            return MT_FAIL(err, MT_E_CORRUPT, "bad Content-Length in an answer");
        b->kind = BODY_LENGTH;
        b->left = n;
    } else if (has_name(line, "Transfer-Encoding", &v)) {
        if (b->kind != BODY_NONE || strcasecmp(v, "chunked") != 0)
            return MT_FAIL(err, MT_E_CORRUPT, "unknown Transfer-Encoding in an answer");
        b->kind = BODY_CHUNKED;
    } else if (has_name(line, "Connection", &v)) {
        b->close = strcasecmp(v, "close") == 0;
    } else if (has_name(line, "X-Request-Id", &v)) {
        (void)mt_printable(v, strlen(v), ret->request_id, sizeof ret->request_id);
    } else if (has_name(line, "X-Event-Id", &v)) {
        if (mt_parse_u64(v, 0, INT64_MAX, &n, NULL) == 0)
            ret->event_id = n;
    } else if (has_name(line, "Retry-After", &v)) {
        if (mt_parse_u64(v, 0, 86400, &n, NULL) == 0)
            ret->retry_after_s = (unsigned)n;
    } else if (has_name(line, "Idempotent-Replay", &v)) {
        ret->idempotent_replay = strcasecmp(v, "true") == 0;
    } else if (has_name(line, "X-Moat-Recovery", &v)) {
        (void)mt_printable(v, strlen(v), ret->recovery, sizeof ret->recovery);
    }
    return 0;
}

static int read_head(struct mt_http_client *c, struct mt_http_reply *ret, struct body *b, struct mt_err *err)
{
    char *end;
    for (;;) {
        const char *text = mt_buf_cstr(&c->in);
        end = memmem(text, c->in.len, "\r\n\r\n", 4) ? (char *)(uintptr_t)memmem(text, c->in.len, "\r\n\r\n", 4) : NULL;
        if (end)
            break;
        int r = receive(c, err);
        if (r < 0)
            return r;
        if (r == 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' closed the connection", c->path);
    }
    *end = '\0';
    char *line = (char *)c->in.p;
    uint64_t status;
    char code[4] = {0};
    if (strncmp(line, "HTTP/1.1 ", 9) != 0 || strnlen(line, 12) < 12)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' does not speak HTTP/1.1", c->path);
    memcpy(code, line + 9, 3);
    if (mt_parse_u64(code, 100, 599, &status, NULL) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' sent a bad status line", c->path);
    ret->status = (int)status;
    for (char *next = line; next;) {
        char *eol = strstr(next, "\r\n");
        if (eol)
            *eol = '\0';
        if (next != line) {
            int r = header_line(next, ret, b, err);
            if (r < 0)
                return r;
        }
        next = eol ? eol + 2 : NULL;
    }
    if (status == 204 || status == 304 || status < 200)
        b->kind = BODY_NONE;
    else if (b->kind == BODY_NONE)
        b->kind = BODY_TO_END;
    mt_buf_consume(&c->in, (size_t)(end - (char *)c->in.p) + 4);
    return 0;
}

/* One line ending in CRLF, removed from the input, at most @size - 1 bytes. */
static int read_line(struct mt_http_client *c, char *ret, size_t size, struct mt_err *err)
{
    for (;;) {
        const char *text = mt_buf_cstr(&c->in);
        const char *eol = memmem(text, c->in.len, "\r\n", 2);
        if (eol) {
            size_t n = (size_t)(eol - text);
            if (n >= size)
                return MT_FAIL(err, MT_E_CORRUPT, "over-long chunk line");
            memcpy(ret, text, n);
            ret[n] = '\0';
            mt_buf_consume(&c->in, n + 2);
            return 0;
        }
        if (c->in.len >= size + 2)
            return MT_FAIL(err, MT_E_CORRUPT, "over-long chunk line");
        int r = receive(c, err);
        if (r <= 0)
            return r < 0 ? r : MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' closed the connection in the middle of an answer", c->path);
    }
}

struct sink {
    mt_http_part_fn part; /* NULL: into body */
    void *arg;
    struct mt_buf *body;
};

static int deliver(struct mt_http_client *c, const struct sink *s, size_t n, struct mt_err *err)
{
    if (s->part) {
        int r = s->part((const char *)c->in.p, n, s->arg);
        if (r != 0)
            return r;
        c->deadline = mt_clock_mono() + c->idle_ns;
    } else {
        mt_buf_put(s->body, c->in.p, n);
        if (s->body->failed)
            return MT_FAIL(err, MT_E_LIMIT, "answer of '%s' is over %zu bytes", c->path, s->body->max);
    }
    mt_buf_consume(&c->in, n);
    return 0;
}

static int read_counted(struct mt_http_client *c, const struct sink *s, uint64_t left, struct mt_err *err)
{
    while (left > 0) {
        if (c->in.len == 0) {
            int r = receive(c, err);
            if (r <= 0)
                return r < 0 ? r : MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' closed the connection in the middle of an answer", c->path);
        }
        size_t n = c->in.len < left ? c->in.len : (size_t)left;
        int r = deliver(c, s, n, err);
        if (r != 0)
            return r;
        left -= n;
    }
    return 0;
}

static int read_chunked(struct mt_http_client *c, const struct sink *s, struct mt_err *err)
{
    for (;;) {
        char line[64];
        int r = read_line(c, line, sizeof line, err);
        if (r < 0)
            return r;
        uint64_t n = 0;
        size_t i = 0;
        for (; line[i] && line[i] != ';' && line[i] != ' '; i++) {
            const char *digits = "0123456789abcdef", *d = strchr(digits, line[i] | 0x20);
            if (!d || i >= 8)
                return MT_FAIL(err, MT_E_CORRUPT, "bad chunk size in an answer");
            n = n << 4 | (uint64_t)(d - digits);
        }
        if (i == 0)
            return MT_FAIL(err, MT_E_CORRUPT, "bad chunk size in an answer");
        if (n == 0) {
            do /* trailers are read and dropped */
                r = read_line(c, line, sizeof line, err);
            while (r == 0 && *line);
            return r;
        }
        r = read_counted(c, s, n, err);
        if (r == 0)
            r = read_line(c, line, sizeof line, err);
        if (r != 0)
            return r;
    }
}

static int read_to_end(struct mt_http_client *c, const struct sink *s, struct mt_err *err)
{
    for (;;) {
        if (c->in.len > 0) {
            int r = deliver(c, s, c->in.len, err);
            if (r != 0)
                return r;
        }
        int r = receive(c, err);
        if (r <= 0)
            return r;
    }
}

/* Nothing that would end the line it stands in: a name on a command line must not become a header. */
static bool clean(const char *s, bool blanks)
{
    for (; *s; s++)
        if ((unsigned char)*s < (blanks ? 0x20 : 0x21) || *s == 0x7f)
            return false;
    return true;
}

static int check_request(const struct mt_http_request *req, struct mt_err *err)
{
    if (!clean(req->target, false))
        return MT_FAIL(err, MT_E_INVALID, "'%.100s' holds blanks or control characters and cannot be asked for", req->target);
    for (size_t i = 0; i < req->header_count; i++)
        if (!clean(req->headers[i].value, true))
            return MT_FAIL(err, MT_E_INVALID, "the value for header '%s' holds control characters", req->headers[i].name);
    return 0;
}

static int send_request(struct mt_http_client *c, const struct mt_http_request *req, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(HEAD_MAX);
    mt_buf_printf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", req->method, req->target, c->authority);
    for (size_t i = 0; i < c->always_count; i++)
        mt_buf_printf(&b, "%s: %s\r\n", c->always[i].name, c->always[i].value);
    for (size_t i = 0; i < req->header_count; i++)
        mt_buf_printf(&b, "%s: %s\r\n", req->headers[i].name, req->headers[i].value);
    if (req->body)
        mt_buf_printf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", req->body_len);
    else if (strcmp(req->method, "GET") != 0)
        mt_buf_puts(&b, "Content-Length: 0\r\n");
    mt_buf_puts(&b, "\r\n");
    if (b.failed)
        return MT_FAIL(err, MT_E_LIMIT, "request head over %d bytes", HEAD_MAX);
    int r = send_all(c, b.p, b.len, err);
    if (r == 0 && req->body)
        r = send_all(c, req->body, req->body_len, err);
    return r;
}

static int check_peer(const struct mt_http_client *c, int fd, struct mt_err *err)
{
    uid_t uid;
    if (c->trusted_count == 0)
        return 0;
    int r = mt_sock_peercred(fd, &uid, NULL, NULL, err);
    for (size_t i = 0; r == 0 && i < c->trusted_count; i++)
        if (c->trusted[i] == uid)
            return 0;
    return r < 0 ? r : MT_FAIL(err, MT_E_DENIED, "'%s' is served by user %u, who is not trusted with it: find out who made that socket", c->path, uid);
}

/* A connection of TCP and TLS, made until @deadline. */
static int dial_tls(const struct mt_http_client *c, int64_t deadline, int *ret_fd, struct mt_tls **ret, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    struct mt_tls *t = NULL;
    int r = mt_sock_tcp_connect(c->host, c->port, deadline, c->cancel_fd, &fd, err);
    if (r == 0)
        r = mt_tls_new(c->ctx, fd, c->server_name, &t, err);
    while (r == 0) {
        int step = mt_tls_handshake(t, err);
        if (step == MT_TLS_DONE)
            break;
        r = step < 0 ? mt_err_wrap(err, "'%s'", c->path) : wait_on(c, fd, events_of(step), deadline, err);
    }
    if (r < 0) {
        mt_tls_free(t);
        return r;
    }
    *ret_fd = MT_TAKE_FD(fd);
    *ret = t;
    return 0;
}

static int dial_unix(const struct mt_http_client *c, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    int r = mt_sock_unix_connect(c->path, &fd, err);
    if (r == 0)
        r = check_peer(c, fd, err);
    if (r == 0)
        r = mt_sock_nonblock(fd, true, err);
    if (r == 0)
        *ret_fd = MT_TAKE_FD(fd);
    return r;
}

static int connect_now(struct mt_http_client *c, struct mt_err *err)
{
    hang_up(c);
    mt_buf_reset(&c->in);
    return c->ctx ? dial_tls(c, c->deadline, &c->fd, &c->tls, err) : dial_unix(c, &c->fd, err);
}

int mt_http_client_dial(const struct mt_http_client *c, int *ret_fd, struct mt_err *err)
{
    int fd;
    struct mt_tls *t;
    if (!c->ctx)
        return dial_unix(c, ret_fd, err);
    int r = dial_tls(c, mt_clock_mono() + DIAL_MS * MT_NS_PER_MS, &fd, &t, err);
    return r < 0 ? r : mt_tls_relay_thread(t, fd, ret_fd, err);
}

/* A kept connection is used again while it is open and silent. Bytes behind the last answer belong to no request: they must not become the
 * answer to this one. */
static bool reusable(const struct mt_http_client *c)
{
    char byte;
    return c->fd >= 0 && c->in.len == 0 && !(c->tls && mt_tls_pending(c->tls)) && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static int exchange(struct mt_http_client *c, const struct mt_http_request *req, const struct sink *stream, struct mt_http_reply *ret,
                    struct body *b, struct mt_err *err)
{
    int r = send_request(c, req, err);
    if (r == 0)
        r = read_head(c, ret, b, err);
    if (r < 0)
        return r;
    struct sink s = stream->part && ret->status / 100 == 2 ? *stream : (struct sink){.body = &ret->body};
    if (req->secret && b->kind == BODY_LENGTH && b->left <= ret->body.max)
        (void)mt_buf_reserve(&ret->body, (size_t)b->left); /* growing would leave copies behind */
    switch (b->kind) {
    case BODY_NONE:
        return 0;
    case BODY_LENGTH:
        return read_counted(c, &s, b->left, err);
    case BODY_CHUNKED:
        return read_chunked(c, &s, err);
    case BODY_TO_END:
        b->close = true;
        return read_to_end(c, &s, err);
    }
    return 0;
}

int mt_http_stream(struct mt_http_client *c, const struct mt_http_request *req, size_t max_body, mt_http_part_fn part, void *arg,
                   struct mt_http_reply *ret, struct mt_err *err)
{
    int bad = check_request(req, err);
    if (bad < 0)
        return bad;
    c->idle_ns = req->timeout_ms * MT_NS_PER_MS;
    c->deadline = mt_clock_mono() + c->idle_ns;
    for (bool kept = reusable(c);; kept = false) {
        int r = kept ? 0 : connect_now(c, err);
        if (r < 0)
            return r;
        struct body b = {0};
        *ret = (struct mt_http_reply){.body = MT_BUF_INIT(max_body)};
        c->got_bytes = false;
        c->secret = req->secret;
        if (c->secret)
            (void)mt_buf_reserve(&c->in, c->in.max - c->in.len);
        r = exchange(c, req, &(struct sink){.part = part, .arg = arg}, ret, &b, err);
        if (c->secret && c->in.p)
            explicit_bzero(c->in.p + c->in.len, c->in.cap - c->in.len);
        if (c->secret && r != 0 && ret->body.p)
            explicit_bzero(ret->body.p, ret->body.cap);
        if (r != 0 || b.close)
            hang_up(c);
        if (r == 0)
            return 0;
        mt_http_reply_done(ret);
        /* a kept connection may have been closed by the peer while idle: the one case where asking again is safe */
        if (!(kept && r == -MT_E_UNAVAILABLE && !c->got_bytes))
            return r;
    }
}

int mt_http_do(struct mt_http_client *c, const struct mt_http_request *req, size_t max_body, struct mt_http_reply *ret, struct mt_err *err)
{
    return mt_http_stream(c, req, max_body, NULL, NULL, ret, err);
}

void mt_http_put_query(struct mt_buf *b, const char *s)
{
    for (; *s; s++) {
        unsigned char ch = (unsigned char)*s;
        if ((ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || strchr("-._~", ch))
            mt_buf_putc(b, (char)ch);
        else
            mt_buf_printf(b, "%%%02X", ch);
    }
}
