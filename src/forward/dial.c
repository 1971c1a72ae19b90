/* SPDX-License-Identifier: Apache-2.0 */
#include "forward/forward.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "os/addr.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>

bool mt_forward_may(const struct mt_forward_conf *c, const struct sockaddr *a, socklen_t n)
{
    return c->any_address || mt_addr_public(a, n);
}

static int try_one(const struct addrinfo *a, int64_t deadline_ns, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1, status = 0;
    unsigned stall = MT_FORWARD_STALL_MS;
    socklen_t n = sizeof status;
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall, sizeof stall);
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        if (errno != EINPROGRESS)
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect");
        int64_t left = (deadline_ns - mt_clock_mono()) / MT_NS_PER_MS;
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (left <= 0 || poll(&p, 1, (int)left) <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "connect: nobody answers");
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &status, &n) < 0 || status != 0) {
            errno = status ? status : errno;
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect");
        }
    }
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_forward_dial(const struct mt_forward_conf *c, int *ret_fd, struct mt_err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    char port[8];
    (void)snprintf(port, sizeof port, "%u", c->port);
    int g = getaddrinfo(c->host, port, &hints, &all);
    if (g != 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "look up '%s': %s", c->host, gai_strerror(g));
    int rc = MT_FAIL(err, MT_E_DENIED, "'%s' does not lead to a public address; the operator's logs.local_targets may name it", c->host);
    const int64_t deadline = mt_clock_mono() + MT_FORWARD_CONNECT_MS * MT_NS_PER_MS;
    for (const struct addrinfo *a = all; a && rc != 0; a = a->ai_next)
        if (mt_forward_may(c, a->ai_addr, a->ai_addrlen))
            rc = try_one(a, deadline, ret_fd, err);
    freeaddrinfo(all);
    return rc;
}
