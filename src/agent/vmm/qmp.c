/* SPDX-License-Identifier: Apache-2.0 */
/* QMP query-status: see qmp.h. */
#include "agent/vmm/qmp.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "wire/json.h"

#include <poll.h>
#include <sys/socket.h>

enum { LINE_MAX_BYTES = 16384, LINES_MAX = 32, DEPTH = 8 };

struct qmp {
    int fd;
    int64_t deadline;
    char buf[LINE_MAX_BYTES];
    size_t have;
};

/* The next line as JSON object. */
static int next(struct qmp *q, json_t **ret, struct mt_err *err)
{
    for (;;) {
        char *nl = memchr(q->buf, '\n', q->have);
        if (nl) {
            size_t n = (size_t)(nl - q->buf);
            int r = mt_json_parse(q->buf, n, LINE_MAX_BYTES, DEPTH, ret, err);
            q->have -= n + 1;
            memmove(q->buf, nl + 1, q->have);
            if (r < 0)
                return MT_FAIL(err, MT_E_CORRUPT, "qmp sent something that is not JSON");
            return 0;
        }
        if (q->have == sizeof q->buf)
            return MT_FAIL(err, MT_E_CORRUPT, "qmp line passes %d bytes", LINE_MAX_BYTES);
        int64_t left = (q->deadline - mt_clock_mono()) / MT_NS_PER_MS;
        int p = poll(&(struct pollfd){.fd = q->fd, .events = POLLIN}, 1, left > 0 ? (int)left : 0);
        if (p == -1 && errno == EINTR)
            continue;
        if (p <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "qmp does not answer");
        ssize_t n = recv(q->fd, q->buf + q->have, sizeof q->buf - q->have, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "qmp closed the connection");
        q->have += (size_t)n;
    }
}

/* Send a command and wait for its return, skipping events. */
static int command(struct qmp *q, const char *text, json_t **ret, struct mt_err *err)
{
    if (send(q->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)strlen(text))
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "qmp send");
    for (int i = 0; i < LINES_MAX; i++) {
        mt_auto_json json_t *j = NULL;
        int r = next(q, &j, err);
        if (r < 0)
            return r;
        if (json_object_get(j, "error"))
            return MT_FAIL(err, MT_E_UNAVAILABLE, "qmp refused a command");
        if (json_object_get(j, "return")) {
            *ret = MT_TAKE(j);
            return 0;
        }
    }
    return MT_FAIL(err, MT_E_CORRUPT, "qmp sends events without end");
}

int mt_qmp_status(const struct mt_jail *jail, int timeout_ms, char *ret_status, size_t size, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    mt_auto_json json_t *greeting = NULL, *caps = NULL, *status = NULL;
    const char *text;
    int r = mt_jail_connect(jail, "qmp.sock", &fd, err);
    if (r < 0)
        return r;
    struct qmp q = {.fd = fd, .deadline = mt_clock_mono() + (int64_t)timeout_ms * MT_NS_PER_MS};
    r = next(&q, &greeting, err);
    if (r == 0 && !json_object_get(greeting, "QMP"))
        r = MT_FAIL(err, MT_E_CORRUPT, "qmp sent no greeting");
    if (r == 0)
        r = command(&q, "{\"execute\":\"qmp_capabilities\"}\n", &caps, err);
    if (r == 0)
        r = command(&q, "{\"execute\":\"query-status\"}\n", &status, err);
    if (r < 0)
        return r;
    if (mt_json_get_str(json_object_get(status, "return"), "status", 32, &text, err) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "qmp answered query-status without a status");
    (void)mt_printable(text, strlen(text), ret_status, size);
    return 0;
}
