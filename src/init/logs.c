/* SPDX-License-Identifier: Apache-2.0 */
#include "init/logs.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/assert.h"
#include "base/cleanup.h"

static uint64_t wall_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

void mt_logs_init(struct mt_logs *logs)
{
    memset(&logs->ring, 0, sizeof logs->ring);
    logs->streams[0].fd = logs->streams[1].fd = logs->write_fds[0] = logs->write_fds[1] = logs->fd = -1;
    logs->streams[0].kind = MT_GUEST_STREAM_STDOUT;
    logs->streams[1].kind = MT_GUEST_STREAM_STDERR;
    logs->streams[0].len = logs->streams[1].len = 0;
    logs->connecting = false;
    logs->flight_len = logs->flight_sent = 0;
    logs->line_max = MT_LOGS_LINE_MAX;
}

int mt_logs_start(struct mt_logs *logs, size_t ring_bytes, size_t line_max, struct mt_err *err)
{
    size_t cap = ring_bytes ? ring_bytes : MT_LOGS_RING_DEFAULT;
    MT_ASSERT(line_max <= MT_LOGS_LINE_MAX);
    logs->line_max = line_max ? line_max : MT_LOGS_LINE_MAX;
    void *p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return MT_FAIL_ERRNO(err, MT_E_NOMEM, "log ring of %zu bytes", cap);
    mt_ring_init(&logs->ring, p, cap);
    for (size_t i = 0; i < 2; i++) {
        int fds[2];
        /* only the read end may be non-blocking: the write end is the workload's stdout */
        if (pipe2(fds, O_CLOEXEC) != 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "log pipe");
        logs->streams[i].fd = fds[0];
        logs->write_fds[i] = fds[1];
        if (fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "log pipe");
    }
    return 0;
}

void mt_logs_release_pipes(struct mt_logs *logs)
{
    mt_closep(&logs->write_fds[0]);
    mt_closep(&logs->write_fds[1]);
}

static void emit(struct mt_logs *logs, struct mt_logs_stream *s, uint8_t flags, uint64_t unix_ns)
{
    mt_ring_put(&logs->ring, s->kind, flags, unix_ns, s->line, s->len);
    s->len = 0;
}

void mt_logs_feed(struct mt_logs *logs, struct mt_logs_stream *s, const char *data, size_t n, uint64_t unix_ns)
{
    while (n > 0) {
        const char *end = memchr(data, '\n', n);
        size_t left = end ? (size_t)(end - data) : n;
        while (left > 0) {
            /* a full line is sent as "continues" only when a further byte of it is known to come */
            if (s->len == logs->line_max)
                emit(logs, s, MT_GUEST_LOG_CONTINUES, unix_ns);
            size_t take = left < logs->line_max - s->len ? left : logs->line_max - s->len;
            memcpy(s->line + s->len, data, take);
            s->len += take;
            data += take;
            n -= take;
            left -= take;
        }
        if (end) {
            emit(logs, s, 0, unix_ns);
            data++;
            n--;
        }
    }
}

void mt_logs_read(struct mt_logs *logs, struct mt_logs_stream *s)
{
    static char buf[65536];
    ssize_t n;
    do {
        n = read(s->fd, buf, sizeof buf);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        mt_logs_feed(logs, s, buf, (size_t)n, wall_ns());
        return;
    }
    if (n < 0 && errno == EAGAIN)
        return;
    if (s->len > 0)
        emit(logs, s, 0, wall_ns());
    mt_closep(&s->fd);
}

void mt_logs_system(struct mt_logs *logs, const char *line)
{
    size_t n = strnlen(line, MT_LOGS_LINE_MAX);
    if (logs->ring.buf)
        mt_ring_put(&logs->ring, MT_GUEST_STREAM_SYSTEM, 0, wall_ns(), line, n);
}

void mt_logs_open(struct mt_logs *logs, int fd, bool connecting)
{
    mt_logs_close(logs);
    logs->fd = fd;
    logs->connecting = connecting;
    logs->flight_sent = 0;
}

void mt_logs_close(struct mt_logs *logs)
{
    mt_closep(&logs->fd);
    logs->connecting = false;
}

int mt_logs_flush(struct mt_logs *logs, struct mt_err *err)
{
    for (int turns = 0; turns < 16 && logs->fd >= 0 && !logs->connecting; turns++) {
        if (logs->flight_sent == logs->flight_len) {
            logs->flight_sent = 0;
            logs->flight_len = logs->ring.buf ? mt_ring_take(&logs->ring, logs->flight, sizeof logs->flight) : 0;
            if (logs->flight_len == 0)
                return 0;
        }
        ssize_t n = send(logs->fd, logs->flight + logs->flight_sent, logs->flight_len - logs->flight_sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "send log records");
        logs->flight_sent += (size_t)n;
    }
    return 0;
}
