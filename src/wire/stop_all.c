/* SPDX-License-Identifier: Apache-2.0 */
/* See stop_all.h. */
#include "wire/stop_all.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "os/sock.h"

#include <string.h>
#include <sys/socket.h>

#define GRACE_MS 5000 /* the agent's answer comes after its deadline */

/* The folder of the socket may be one that other daemons write into: who serves it could say anything. */
static int by_root(int fd, const char *path, struct mt_err *err)
{
    uid_t uid;
    int rc = mt_sock_peercred(fd, &uid, NULL, NULL, err);
    if (rc == 0 && uid != 0)
        rc = MT_FAIL(err, MT_E_DENIED, "'%s' is served by user %u instead of the agent: remove it and look at that user's processes", path, uid);
    return rc;
}

int mt_stop_all(const char *socket, int64_t deadline_ms, struct mt_err *err)
{
    char line[128], reply[8192];
    mt_auto_fd int fd = -1;
    int rc = mt_sock_unix_connect(socket, &fd, err);
    if (rc == 0)
        rc = mt_sock_timeout(fd, deadline_ms + GRACE_MS, err);
    if (rc == 0)
        rc = by_root(fd, socket, err);
    if (rc < 0)
        return rc;
    int64_t end = mt_clock_mono() + (deadline_ms + GRACE_MS) * MT_NS_PER_MS;
    int n = snprintf(line, sizeof line, "{\"op\":\"stop-all\",\"deadline_ms\":%lld}\n", (long long)deadline_ms);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "ask the agent to stop all instances");
    for (size_t got = 0;; got = got == sizeof reply - 1 ? 0 : got) { /* lines of progress, then the end of the stream */
        ssize_t k = recv(fd, reply + got, sizeof reply - 1 - got, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return MT_FAIL_ERRNO(err, errno == EAGAIN ? MT_E_TIMEOUT : MT_E_UNAVAILABLE, "wait for the agent to stop all instances");
        if (k > 0 && mt_clock_mono() > end)
            return MT_FAIL(err, MT_E_TIMEOUT, "the agent did not stop all instances within %lld ms", (long long)deadline_ms);
        got += (size_t)k;
        reply[got] = '\0';
        if (k == 0)
            return strstr(reply, "\"error\"") ? MT_FAIL(err, MT_E_IO, "the agent could not stop everything: %.160s", reply) : 0;
    }
}
