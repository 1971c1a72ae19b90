/* SPDX-License-Identifier: Apache-2.0 */
/* LISTEN and waiting. A notification is a hint: it vanishes when the connection drops, so readers poll as well. */
#include "pg/conn.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

int mt_pg_listen(struct mt_pg *pg, const char *channel, struct mt_err *err)
{
    char sql[96];
    MT_ASSERT(strspn(channel, "abcdefghijklmnopqrstuvwxyz_") == strlen(channel));
    int r = mt_fmt(sql, sizeof sql, err, "LISTEN %s", channel);
    return r < 0 ? r : mt_pg_exec(pg, sql, err);
}

static bool take_newest(struct mt_pg *pg, char *ret, size_t size)
{
    bool got = false;
    for (PGnotify *n; (n = PQnotifies(pg->conn)) != NULL; PQfreemem(n)) {
        (void)snprintf(ret, size, "%s", n->extra);
        got = true;
    }
    return got;
}

int mt_pg_notify_wait(struct mt_pg *pg, int wake_fd, int timeout_ms, char *ret, size_t size, struct mt_err *err)
{
    int r = pg_begin(pg, err);
    if (r < 0)
        return r;
    int64_t end = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    for (;;) {
        if (take_newest(pg, ret, size))
            return 1;
        int64_t left = end - mt_clock_mono();
        if (left <= 0)
            return 0;
        struct pollfd p[2] = {{.fd = PQsocket(pg->conn), .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
        int n = poll(p, 2, (int)((left + MT_NS_PER_MS - 1) / MT_NS_PER_MS));
        if (n < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "poll");
        if (n > 0 && p[1].revents)
            return 0;
        if (n > 0 && (!PQconsumeInput(pg->conn) || PQstatus(pg->conn) == CONNECTION_BAD))
            return pg_broken(pg, "listening", err);
    }
}
