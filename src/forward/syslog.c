/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RFC 5424 messages over one connection. The protocol has no answers, so a batch counts as taken when the receiver's kernel has
 * acknowledged its last byte and the connection held for a second more (main.c); what was not taken so far is sent again over the next one.
 */
#include "forward/forward.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "os/tls.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>

#define RENDER_MAX ((size_t)256 << 10) /* bytes made before they are sent; one record makes at most some 70 KiB */

struct mt_syslog {
    const struct mt_forward_conf *c;
    struct mt_tls_ctx *ctx; /* NULL: plain */
    struct mt_tls *tls;
    int fd;
    size_t chatter; /* bytes that came: a receiver of syslog says nothing */
    int64_t unsent_since_ns; /* the kernel's queue is not empty since; 0 */
};

struct mt_syslog *mt_syslog_new(const struct mt_forward_conf *c, struct mt_err *err)
{
    struct mt_syslog *s = calloc(1, sizeof *s);
    const struct mt_tls_conf conf = {.min = MT_TLS_1_2, .ca_file = c->ca_file, .cert_file = c->cert_file, .key_file = c->key_file};
    if (!s) {
        (void)MT_FAIL(err, MT_E_NOMEM, "syslog: out of memory");
        return NULL;
    }
    *s = (struct mt_syslog){.c = c, .fd = -1};
    if (c->tls && mt_tls_ctx_new(&conf, &s->ctx, err) < 0) {
        free(s);
        return NULL;
    }
    return s;
}

int mt_syslog_fd(const struct mt_syslog *s)
{
    return s->fd;
}

static int drop(struct mt_syslog *s, int rc)
{
    mt_tls_free(s->tls);
    s->tls = NULL;
    mt_closep(&s->fd);
    return rc;
}

static int wait_for(const struct mt_syslog *s, bool read, int64_t deadline_ns, struct mt_err *err)
{
    int64_t left = (deadline_ns - mt_clock_mono()) / MT_NS_PER_MS;
    struct pollfd p = {.fd = s->fd, .events = read ? POLLIN : POLLOUT};
    if (left <= 0 || poll(&p, 1, (int)left) == 0)
        return MT_FAIL(err, MT_E_TIMEOUT, "the receiver takes nothing for %d s", MT_FORWARD_STALL_MS / 1000);
    return 0;
}

static int connect_now(struct mt_syslog *s, struct mt_err *err)
{
    int rc = mt_forward_dial(s->c, &s->fd, err);
    s->chatter = 0;
    s->unsent_since_ns = 0;
    if (rc < 0 || !s->ctx)
        return rc;
    const int64_t deadline = mt_clock_mono() + MT_FORWARD_CONNECT_MS * MT_NS_PER_MS;
    rc = mt_tls_new(s->ctx, s->fd, s->c->host, &s->tls, err);
    while (rc >= 0 && (rc = mt_tls_handshake(s->tls, err)) > 0) {
        int w = wait_for(s, rc == MT_TLS_WANT_READ, deadline, err);
        rc = w < 0 ? w : rc;
    }
    return rc;
}

static int write_all(struct mt_syslog *s, const uint8_t *p, size_t n, struct mt_err *err)
{
    int64_t deadline = mt_clock_mono() + MT_FORWARD_STALL_MS * MT_NS_PER_MS;
    while (n > 0) {
        size_t k = 0;
        int rc = MT_TLS_WANT_WRITE;
        if (s->tls) {
            rc = mt_tls_write(s->tls, p, n, &k, err);
        } else {
            ssize_t w = send(s->fd, p, n, MSG_NOSIGNAL);
            if (w < 0 && errno != EAGAIN && errno != EINTR)
                return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "send");
            k = w > 0 ? (size_t)w : 0;
            rc = k ? MT_TLS_DONE : MT_TLS_WANT_WRITE;
        }
        if (rc > 0)
            rc = wait_for(s, rc == MT_TLS_WANT_READ, deadline, err);
        else if (rc == 0)
            deadline = mt_clock_mono() + MT_FORWARD_STALL_MS * MT_NS_PER_MS;
        if (rc < 0)
            return rc;
        p += k;
        n -= k;
    }
    return 0;
}

int mt_syslog_send(struct mt_syslog *s, struct mt_batch *batch, struct mt_err *err)
{
    struct mt_rd rd = mt_rd_of(batch->body, batch->len);
    struct mt_logfwd_record r = {0};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(RENDER_MAX);
    int rc = s->fd < 0 ? connect_now(s, err) : 0, more = 1;
    while (rc == 0 && more == 1) {
        more = mt_logfwd_next(&rd, &r, err);
        if (more == 1)
            mt_syslog_put(&b, &r, s->c->node, s->c->message_max);
        if (b.failed || more < 0)
            rc = more < 0 ? more : MT_FAIL(err, MT_E_NOMEM, "syslog: out of memory");
        else if (b.len && (more == 0 || b.len >= RENDER_MAX / 2)) {
            rc = write_all(s, b.p, b.len, err);
            mt_buf_reset(&b);
        }
    }
    return rc < 0 ? drop(s, rc) : 0;
}

/* What came, thrown away. */
static int listen_to(struct mt_syslog *s, struct mt_err *err)
{
    uint8_t junk[4096];
    for (int i = 0; i < 16; i++) {
        size_t n = 0;
        if (s->tls) {
            int rc = mt_tls_read(s->tls, junk, sizeof junk, &n, err);
            if (rc != MT_TLS_DONE)
                return rc < 0 ? rc : 0;
        } else {
            ssize_t k = recv(s->fd, junk, sizeof junk, MSG_DONTWAIT);
            if (k < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "receive");
            n = (size_t)k;
        }
        if (n == 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "the receiver closed the connection");
        s->chatter += n;
        if (s->chatter > MT_FORWARD_REPLY_MAX)
            return MT_FAIL(err, MT_E_INVALID, "the receiver talks: it is no receiver of syslog");
    }
    return 0;
}

int mt_syslog_look(struct mt_syslog *s, bool *ret_taken, struct mt_err *err)
{
    int queued = 0;
    *ret_taken = false;
    if (s->fd < 0)
        return 0;
    int rc = listen_to(s, err);
    if (rc == 0 && ioctl(s->fd, SIOCOUTQ, &queued) < 0)
        rc = MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "look at the connection");
    int64_t now = mt_clock_mono();
    s->unsent_since_ns = queued == 0 ? 0 : s->unsent_since_ns ? s->unsent_since_ns : now;
    if (rc == 0 && queued && now - s->unsent_since_ns > MT_FORWARD_STALL_MS * MT_NS_PER_MS)
        rc = MT_FAIL(err, MT_E_TIMEOUT, "the receiver takes nothing for %d s", MT_FORWARD_STALL_MS / 1000);
    *ret_taken = rc == 0 && queued == 0;
    return rc < 0 ? drop(s, rc) : 0;
}
