/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workload output: two pipes in, lines cut, kept in a bounded ring, sent to the host as log records
 * (runtime.md 10). The pipes are always read: the workload never waits for the host.
 */
#pragma once

#include "base/err.h"
#include "init/ring.h"

enum { MT_LOGS_LINE_MAX = 16384, MT_LOGS_RING_DEFAULT = 1048576, MT_LOGS_FLIGHT = 65536 };

struct mt_logs_stream {
    int fd; /**< read end; -1 ended */
    enum mt_guest_stream kind;
    size_t len;
    char line[MT_LOGS_LINE_MAX];
};

struct mt_logs {
    struct mt_ring ring;
    size_t line_max;
    struct mt_logs_stream streams[2]; /**< stdout, stderr */
    int write_fds[2];                 /**< write ends for children; -1 once given up */
    int fd;                           /**< to the host; -1 closed */
    bool connecting;
    size_t flight_len, flight_sent;
    uint8_t flight[MT_LOGS_FLIGHT]; /**< whole records; sent again from the start on a new connection */
};

/** All closed, no ring: mt_logs_put() drops until mt_logs_start(). */
void mt_logs_init(struct mt_logs *logs);
/** Make ring (by mmap) and pipes. 0 means the default for @ring_bytes and @line_max. */
int mt_logs_start(struct mt_logs *logs, size_t ring_bytes, size_t line_max, struct mt_err *err);
/** Close the write ends, once the last child has them. */
void mt_logs_release_pipes(struct mt_logs *logs);
/** Cut @n bytes of a stream into records. Pure but for the clock given. */
void mt_logs_feed(struct mt_logs *logs, struct mt_logs_stream *s, const char *data, size_t n, uint64_t unix_ns);
/** Read a stream's pipe, at most 64 KiB; at its end the rest of the line goes out and the pipe is closed. */
void mt_logs_read(struct mt_logs *logs, struct mt_logs_stream *s);
/** A line of init itself, stream 3. */
void mt_logs_system(struct mt_logs *logs, const char *line);
/** Take a socket to the host. */
void mt_logs_open(struct mt_logs *logs, int fd, bool connecting);
void mt_logs_close(struct mt_logs *logs);
/** Send as much as the socket takes; 0 or -MT_E_IO. */
int mt_logs_flush(struct mt_logs *logs, struct mt_err *err);

static inline bool mt_logs_pending(const struct mt_logs *logs)
{
    return logs->flight_sent < logs->flight_len || (logs->ring.buf && !mt_ring_empty(&logs->ring));
}
static inline bool mt_logs_pipes_open(const struct mt_logs *logs)
{
    return logs->streams[0].fd >= 0 || logs->streams[1].fd >= 0;
}
