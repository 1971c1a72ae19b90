/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-forward: batches in on standard input, answers out on standard output, both one end of the agent's socket pair. It holds at most
 * MT_LOGFWD_WINDOW batches, and reads no more before one is answered: that is the whole buffer, the rest waits in the node's store of logs.
 */
#include "forward/forward.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <poll.h>

#define FRAME_BUF (MT_LOGFWD_FRAME_MAX + 64)
#define BACKOFF_FIRST_MS 500
#define BACKOFF_MAX_MS 60000
#define HOLD_MS 1000      /* a connection that holds so long after the last byte was acknowledged has delivered it */
#define TICK_MS 250
#define ALIVE_MS 10000    /* the agent hears of us at least so often */

struct forward {
    struct mt_forward_conf conf;
    struct mt_syslog *syslog;
    struct mt_otlp_client *otlp;
    struct mt_buf in;
    struct mt_batch held[MT_LOGFWD_WINDOW]; /* oldest first */
    size_t n;
    int64_t not_before_ns; /* of the next try */
    int64_t backoff_ms;
    int64_t said_ns;
    bool up;
};

static int say(struct forward *f, const struct mt_buf *b)
{
    f->said_ns = mt_clock_mono();
    return b->failed || send(STDOUT_FILENO, b->p, b->len, MSG_NOSIGNAL) != (ssize_t)b->len ? -1 : 0;
}

static int say_state(struct forward *f, bool up, const char *why)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1024);
    f->up = up;
    mt_logfwd_put_state(&b, up, why);
    return say(f, &b);
}

static int answer_first(struct forward *f)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1024);
    const struct mt_batch done = f->held[0];
    mt_logfwd_put_done(&b, done.id, done.rejected, done.why);
    free(done.body);
    f->n--;
    memmove(f->held, f->held + 1, f->n * sizeof *f->held);
    f->held[f->n] = (struct mt_batch){0};
    return say(f, &b);
}

/* Everything that is not answered goes out again; later each time. */
static int failed(struct forward *f, unsigned after_s, const struct mt_err *err)
{
    uint16_t r;
    for (size_t i = 0; i < f->n; i++) {
        f->held[i].sent = false;
        f->held[i].taken_ns = 0;
    }
    f->backoff_ms = f->backoff_ms ? f->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (f->backoff_ms > BACKOFF_MAX_MS)
        f->backoff_ms = BACKOFF_MAX_MS;
    mt_random(&r, sizeof r);
    int64_t wait_ms = f->backoff_ms / 2 + f->backoff_ms * r / UINT16_MAX / 2; /* nodes must not come back in step */
    if (after_s && wait_ms < (int64_t)after_s * 1000)
        wait_ms = (int64_t)after_s * 1000;
    f->not_before_ns = mt_clock_mono() + wait_ms * MT_NS_PER_MS;
    return say_state(f, false, err->msg);
}

static int succeeded(struct forward *f)
{
    f->backoff_ms = 0;
    return f->up ? 0 : say_state(f, true, "");
}

static int work_otlp(struct forward *f)
{
    struct mt_err err = {0};
    unsigned after_s;
    if (f->n == 0)
        return 0;
    int rc = mt_otlp_send(f->otlp, &f->held[0], &after_s, &err);
    if (rc == -MT_E_CORRUPT)
        return -1;
    if (rc < 0)
        return failed(f, after_s, &err);
    return succeeded(f) < 0 || answer_first(f) < 0 ? -1 : 0;
}

static int work_syslog(struct forward *f)
{
    struct mt_err err = {0};
    bool taken;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < f->n; i++) {
        if (f->held[i].sent)
            continue;
        rc = mt_syslog_send(f->syslog, &f->held[i], &err);
        f->held[i].sent = rc == 0;
        if (rc == -MT_E_CORRUPT)
            return -1;
    }
    if (rc == 0)
        rc = mt_syslog_look(f->syslog, &taken, &err);
    if (rc < 0)
        return failed(f, 0, &err);
    int64_t now = mt_clock_mono();
    for (size_t i = 0; taken && i < f->n; i++)
        if (f->held[i].sent && !f->held[i].taken_ns)
            f->held[i].taken_ns = now;
    while (f->n && f->held[0].taken_ns && now - f->held[0].taken_ns >= HOLD_MS * MT_NS_PER_MS)
        if (succeeded(f) < 0 || answer_first(f) < 0)
            return -1;
    return 0;
}

/* Frames that are whole. -1: the agent is gone or talks nonsense. */
static int take(struct forward *f)
{
    struct mt_err err = {0};
    struct mt_rd body;
    uint8_t type;
    int64_t n = 0;
    while (f->n < MT_LOGFWD_WINDOW && (n = mt_logfwd_frame(f->in.p, f->in.len, &type, &body, &err)) > 0) {
        struct mt_batch b = {.id = mt_rd_be64(&body), .len = body.left};
        if (type != MT_LOGFWD_BATCH || body.bad || !(b.body = malloc(body.left + 1)))
            return -1;
        memcpy(b.body, body.p, body.left);
        f->held[f->n++] = b;
        mt_buf_consume(&f->in, (size_t)n);
    }
    return n < 0 ? -1 : 0;
}

static int hear(struct forward *f, int timeout_ms)
{
    struct pollfd p[2] = {{.fd = f->n < MT_LOGFWD_WINDOW ? STDIN_FILENO : -1, .events = POLLIN}, {.fd = f->syslog ? mt_syslog_fd(f->syslog) : -1, .events = POLLIN}};
    if (poll(p, 2, timeout_ms) < 0 && errno != EINTR)
        return -1;
    if (!(p[0].revents & (POLLIN | POLLHUP | POLLERR)))
        return 0;
    void *at = mt_buf_reserve(&f->in, 65536);
    ssize_t n = at ? read(STDIN_FILENO, at, 65536) : -1;
    if (n <= 0)
        return n < 0 && errno == EINTR && at ? 0 : -1;
    f->in.len += (size_t)n;
    return take(f);
}

static int serve(struct forward *f)
{
    for (;;) {
        int64_t now = mt_clock_mono();
        bool may = now >= f->not_before_ns;
        bool busy = may && f->otlp && f->n > 0;
        if (may && (f->otlp ? work_otlp(f) : work_syslog(f)) < 0)
            return 1;
        if (now - f->said_ns >= ALIVE_MS * MT_NS_PER_MS && say_state(f, f->up, "") < 0)
            return 1;
        if (take(f) < 0 || hear(f, busy && f->n ? 0 : TICK_MS) < 0)
            return 0;
    }
}

/* The first frame, blocking. */
static int configure(struct forward *f, struct mt_err *err)
{
    uint8_t type = 0;
    struct mt_rd body = {0};
    int64_t n;
    while ((n = mt_logfwd_frame(f->in.p, f->in.len, &type, &body, err)) == 0) {
        void *at = mt_buf_reserve(&f->in, 65536);
        ssize_t k = at ? read(STDIN_FILENO, at, 65536) : -1;
        if (k <= 0)
            return MT_FAIL(err, MT_E_INVALID, "no configuration came");
        f->in.len += (size_t)k;
    }
    if (n < 0 || type != MT_LOGFWD_CONF)
        return MT_FAIL(err, MT_E_INVALID, "the first frame is no configuration");
    int rc = mt_forward_conf_parse((const char *)body.p, body.left, &f->conf, err);
    explicit_bzero(f->in.p, (size_t)n);
    mt_buf_consume(&f->in, (size_t)n);
    return rc;
}

int main(int argc, char **argv)
{
    static struct forward f;
    struct mt_err err = {0};
    (void)argv;
    if (argc != 1 || isatty(STDIN_FILENO)) {
        (void)fputs("usage: moat-forward, by moat-agent alone; see docs/formats/log-forward.md\n", stderr);
        return 2;
    }
    mt_buf_init(&f.in, FRAME_BUF + 65536);
    int rc = configure(&f, &err);
    if (rc == 0)
        rc = mt_forward_sandbox(f.conf.uid, f.conf.gid, &err);
    if (rc == 0 && f.conf.otlp)
        rc = (f.otlp = mt_otlp_new(&f.conf, &err)) ? 0 : -1;
    else if (rc == 0)
        rc = (f.syslog = mt_syslog_new(&f.conf, &err)) ? 0 : -1;
    if (rc < 0) {
        (void)say_state(&f, false, err.msg);
        return 3;
    }
    return serve(&f);
}
