/* SPDX-License-Identifier: Apache-2.0 */
#include "os/sock.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

static int unix_addr(const char *path, struct sockaddr_un *ret, struct mt_err *err)
{
    size_t n = strlen(path);
    if (n > MT_UNIX_PATH_MAX)
        return MT_FAIL(err, MT_E_INVALID, "socket path '%.60s...' has %zu bytes, at most %d fit: use a shorter data folder", path, n,
                       MT_UNIX_PATH_MAX);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, n + 1);
    return 0;
}

/*
 * Root's sockets lie in a folder that other users may write, so one of them may have taken the name while its owner was
 * away: as folder, link, file or socket. It is moved aside, which no one can race, not emptied, which they could.
 */
static int oust(const char *path, const struct stat *st, struct mt_err *err)
{
    char aside[MT_UNIX_PATH_MAX + 32];
    if (geteuid() != 0 || st->st_uid == 0)
        return 0;
    if (mt_fmt(aside, sizeof aside, err, "%s.taken-by-%u", path, (unsigned)st->st_uid) < 0)
        return -MT_E_LIMIT;
    (void)mt_file_remove_tree(AT_FDCWD, aside, NULL); /* of an earlier time */
    if (rename(path, aside) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "move '%s' of user %u aside", path, (unsigned)st->st_uid);
    (void)mt_file_remove_tree(AT_FDCWD, aside, NULL);
    return 1;
}

int mt_sock_unix_listen(const char *path, mode_t mode, uid_t uid, gid_t gid, int *ret_fd, struct mt_err *err)
{
    struct sockaddr_un a;
    int r = unix_addr(path, &a, err);
    if (r < 0)
        return r;
    mt_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket for '%s'", path);
    struct stat st;
    bool there = lstat(path, &st) == 0;
    if (there && (r = oust(path, &st, err)) < 0)
        return r;
    if (there && r == 0 && !S_ISSOCK(st.st_mode))
        return MT_FAIL(err, MT_E_CONFLICT, "'%s' is there and is no socket: remove it or configure another path", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove old socket '%s'", path);
    /* fchmod before bind decides the mode of the file that bind makes: there is no moment with a wider one */
    if (fchmod(fd, mode) < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "bind '%s'", path);
    /* Only what is not so yet: a unit's filter of system calls may leave no chown at all (packaging/systemd/moat-control.service). */
    if (chmod(path, mode) < 0 || lstat(path, &st) < 0 || (((uid != (uid_t)-1 && uid != st.st_uid) || (gid != (gid_t)-1 && gid != st.st_gid)) && lchown(path, uid, gid) < 0))
        return MT_FAIL_ERRNO(err, MT_E_IO, "set owner and mode of '%s'", path);
    if (listen(fd, 128) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "listen on '%s'", path);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_sock_unix_connect(const char *path, int *ret_fd, struct mt_err *err)
{
    struct sockaddr_un a;
    int r = unix_addr(path, &a, err);
    if (r < 0)
        return r;
    mt_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket for '%s'", path);
    /* a peer that hangs with a full queue would hold connect for ever; the bound is for this call alone */
    const struct timeval ten = {.tv_sec = 10}, none = {0};
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &ten, sizeof ten);
    while (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        if (errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect to '%s'", path);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_sock_peercred(int fd, uid_t *ret_uid, gid_t *ret_gid, pid_t *ret_pid, struct mt_err *err)
{
    struct ucred c;
    socklen_t n = sizeof c;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "peer credentials");
    if (ret_uid)
        *ret_uid = c.uid;
    if (ret_gid)
        *ret_gid = c.gid;
    if (ret_pid)
        *ret_pid = c.pid;
    return 0;
}

int mt_sock_accept(int listen_fd, int *ret_fd, struct mt_err *err)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            *ret_fd = fd;
            return 1;
        }
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR && errno != ECONNABORTED)
            return MT_FAIL_ERRNO(err, MT_E_IO, "accept");
    }
}

int mt_sock_nonblock(int fd, bool on, struct mt_err *err)
{
    int f = fcntl(fd, F_GETFL);
    if (f < 0 || fcntl(fd, F_SETFL, on ? f | O_NONBLOCK : f & ~O_NONBLOCK) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set blocking mode");
    return 0;
}

int mt_sock_timeout(int fd, int64_t ms, struct mt_err *err)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set socket timeout");
    return 0;
}

/* "127.0.0.1:80", "[::1]:80" into an address; with @loopback, of the loopback network only. */
static int address_parse(const char *text, bool loopback, struct sockaddr_storage *ret, socklen_t *ret_len, struct mt_err *err)
{
    char host[64];
    uint64_t port;
    const char *colon = strrchr(text, ':');
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (n == 0 || n >= sizeof host || mt_parse_u64(colon + 1, 0, 65535, &port, err) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not address:port", text);
    bool brackets = text[0] == '[' && text[n - 1] == ']';
    memcpy(host, text + brackets, n - 2 * (size_t)brackets);
    host[n - 2 * (size_t)brackets] = 0;
    if (brackets && inet_pton(AF_INET6, host, &six.sin6_addr) == 1 && (!loopback || IN6_IS_ADDR_LOOPBACK(&six.sin6_addr))) {
        six.sin6_port = htons((uint16_t)port);
        memcpy(ret, &six, *ret_len = sizeof six);
        return 0;
    }
    if (!brackets && inet_pton(AF_INET, host, &four.sin_addr) == 1 && (!loopback || ntohl(four.sin_addr.s_addr) >> 24 == 127)) {
        four.sin_port = htons((uint16_t)port);
        memcpy(ret, &four, *ret_len = sizeof four);
        return 0;
    }
    if (!loopback)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not address:port with an IP address ([IPv6]:port)", text);
    return MT_FAIL(err, MT_E_INVALID, "'%s' is not a loopback address: plain HTTP is served there only", text);
}

static int tcp_listen(const char *address, bool loopback, int *ret_fd, struct mt_err *err)
{
    struct sockaddr_storage ss = {0};
    socklen_t n = 0;
    int one = 1, rc = address_parse(address, loopback, &ss, &n, err);
    if (rc < 0)
        return rc;
    mt_auto_fd int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket for '%s'", address);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 || bind(fd, (struct sockaddr *)&ss, n) < 0 || listen(fd, 512) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "listen on '%s'", address);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_sock_loopback_listen(const char *address, int *ret_fd, struct mt_err *err)
{
    return tcp_listen(address, true, ret_fd, err);
}

int mt_sock_tcp_listen(const char *address, int *ret_fd, struct mt_err *err)
{
    return tcp_listen(address, false, ret_fd, err);
}

int mt_sock_split(const char *at, char ret_host[256], uint16_t *ret_port, struct mt_err *err)
{
    const char *colon = strrchr(at, ':'), *begin = at, *end = colon;
    uint64_t port;
    if (*at == '[') {
        begin++;
        end = colon && colon > begin && colon[-1] == ']' ? colon - 1 : NULL;
    } else if (colon && memchr(at, ':', (size_t)(colon - at))) {
        end = NULL; /* an IPv6 address without brackets: where does the port begin? */
    }
    if (!end || end == begin || (size_t)(end - begin) > 255 || mt_parse_u64(colon + 1, 1, 65535, &port, NULL) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%.260s' is not host:port or [address]:port", at);
    memcpy(ret_host, begin, (size_t)(end - begin));
    ret_host[end - begin] = '\0';
    *ret_port = (uint16_t)port;
    return 0;
}

int mt_sock_freebind_listen(const struct in6_addr *address, uint16_t port, int *ret_fd, struct mt_err *err)
{
    const struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = *address};
    const int one = 1;
    mt_auto_fd int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) < 0 ||
        setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket options");
    if (bind(fd, (const struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 128) < 0)
        return MT_FAIL_ERRNO(err, errno == EADDRINUSE ? MT_E_CONFLICT : MT_E_IO, "listen at port %u of the address", port);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

/* One address. 0 connected, -code. */
static int connect_one(const struct addrinfo *a, int64_t deadline_ns, int cancel_fd, int *ret_fd, struct mt_err *err)
{
    const int one = 1;
    int bad = 0;
    socklen_t n = sizeof bad;
    mt_auto_fd int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* a long poll is silent: a peer that is gone, or a firewall that has forgotten the connection (loaded anew), must show within a minute */
    const int idle_s = 15, between_s = 5, times = 6;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between_s, sizeof between_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS && errno != EINTR)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect");
    for (;;) {
        int64_t left = (deadline_ns - mt_clock_mono() + MT_NS_PER_MS - 1) / MT_NS_PER_MS;
        struct pollfd pf[2] = {{.fd = fd, .events = POLLOUT}, {.fd = cancel_fd, .events = POLLIN}};
        if (left <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "no connection in time");
        int k = poll(pf, 2, left > 3600000 ? 3600000 : (int)left);
        if (k > 0 && pf[1].revents)
            return MT_FAIL(err, MT_E_CANCELLED, "cancelled");
        if (k > 0)
            break;
        if (k < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "wait for a connection");
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &bad, &n) < 0 || bad != 0) {
        errno = bad ? bad : errno;
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect");
    }
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_sock_tcp_connect(const char *host, uint16_t port, int64_t deadline_ns, int cancel_fd, int *ret_fd, struct mt_err *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *all = NULL;
    char service[8];
    (void)snprintf(service, sizeof service, "%u", (unsigned)port);
    int bad = getaddrinfo(host, service, &hints, &all), r = -MT_E_UNAVAILABLE;
    if (bad != 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "look up '%.100s': %s", host, gai_strerror(bad));
    for (const struct addrinfo *a = all; a; a = a->ai_next) {
        r = connect_one(a, deadline_ns, cancel_fd, ret_fd, err);
        if (r == 0 || r == -MT_E_TIMEOUT || r == -MT_E_CANCELLED)
            break;
    }
    freeaddrinfo(all);
    return r < 0 ? mt_err_wrap(err, "'%.100s' port %u", host, (unsigned)port) : 0;
}

/* 10/8, 172.16/12, 192.168/16, 100.64/10, 127/8. */
static bool private4(struct in_addr a)
{
    uint32_t v = ntohl(a.s_addr);
    return v >> 24 == 10 || v >> 20 == 0xac1 || v >> 16 == 0xc0a8 || v >> 22 == 0x191 || v >> 24 == 127;
}

int mt_sock_private_listen(const char *address, int *ret_fd, struct mt_err *err)
{
    char host[256];
    uint16_t port;
    struct in6_addr a6;
    struct in_addr a4;
    int rc = mt_sock_split(address, host, &port, err);
    if (rc < 0)
        return rc;
    if (inet_pton(AF_INET6, host, &a6) == 1) {
        if (IN6_IS_ADDR_UNSPECIFIED(&a6) || IN6_IS_ADDR_V4MAPPED(&a6) || IN6_IS_ADDR_MULTICAST(&a6))
            return MT_FAIL(err, MT_E_INVALID, "'%s' is no single address: give one of the mesh or loopback", address);
        return mt_sock_freebind_listen(&a6, port, ret_fd, err);
    }
    if (inet_pton(AF_INET, host, &a4) != 1)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no IP address and port", address);
    if (!private4(a4))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not private: give an address of the mesh or loopback", address);
    return mt_sock_tcp_listen(address, ret_fd, err);
}
