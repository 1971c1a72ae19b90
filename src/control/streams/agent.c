/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's reading side, seen from the control plane. What an agent sends is checked like any input. */
#include "control/streams/agent.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "os/sock.h"
#include "wire/json.h"

#include <poll.h>
#include <sys/socket.h>

#define ANSWER_MAX (8u * 1024u * 1024u)
#define LINE_MAX_BYTES (256u * 1024u)

int mt_agent_open(const char *path, json_t *request, int timeout_ms, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    mt_auto_free char *line = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!line)
        return MT_FAIL(err, MT_E_NOMEM, "agent request");
    int rc = mt_sock_unix_connect(path, &fd, err);
    if (rc < 0 || (rc = mt_sock_timeout(fd, timeout_ms, err)) < 0)
        return rc;
    size_t n = strlen(line);
    line[n] = '\n'; /* the NUL's place: the length says where the line ends */
    for (size_t off = 0; off < n + 1;) {
        ssize_t w = send(fd, line + off, n + 1 - off, MSG_NOSIGNAL);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "send to the agent");
        off += (size_t)w;
    }
    if ((rc = mt_sock_nonblock(fd, true, err)) < 0)
        return rc;
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static int read_all(int fd, int timeout_ms, struct mt_buf *b, struct mt_err *err)
{
    int64_t until = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    for (;;) {
        int64_t left = (until - mt_clock_mono()) / MT_NS_PER_MS;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "the agent did not answer in time");
        char *room = mt_buf_reserve(b, 16384);
        if (!room)
            return MT_FAIL(err, MT_E_LIMIT, "the agent's answer is too long");
        ssize_t n = recv(fd, room, 16384, 0);
        if (n == 0)
            return 0;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "read from the agent");
        b->len += (size_t)n;
    }
}

int mt_agent_ask(const char *path, json_t *request, int timeout_ms, json_t **ret, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(ANSWER_MAX);
    int rc = mt_agent_open(path, request, timeout_ms, &fd, err);
    if (rc < 0 || (rc = read_all(fd, timeout_ms, &b, err)) < 0)
        return rc;
    mt_auto_json json_t *list = json_array();
    const char *p = mt_buf_cstr(&b), *end = p + b.len;
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) : (size_t)(end - p);
        json_t *v = NULL;
        if (n) {
            if (mt_json_parse(p, n, LINE_MAX_BYTES, 16, &v, err) < 0)
                return MT_FAIL(err, MT_E_CORRUPT, "the agent sent a line that is not JSON");
            json_array_append_new(list, v);
        }
        p += n + 1;
    }
    *ret = json_incref(list);
    return 0;
}
