/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least that a relay in user space can do, as a floor beside the proxies of bench/edge: each client gets a connection to one backend,
 * and each message is one wake-up of epoll, one receive and one send. No names, routes, timers, limits or counters; what cannot be sent at
 * once is lost.
 *
 *   edge_relay PORT BACKEND_PORT WORKERS    on [::1], a thread and an SO_REUSEPORT listener for each worker
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FD 65536
#define MAX_WORKERS 16

static uint16_t listen_port, backend_port;
static int peer[MAX_FD]; /* of a descriptor; 0: none. Both ends of a connection are one worker's. */

static void die(const char *what)
{
    (void)fprintf(stderr, "edge_relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int make(int type, uint16_t port, struct sockaddr_in6 *a)
{
    static const int on = 1;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | type, 0);
    *a = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    if (fd < 0 || fd >= MAX_FD)
        die("socket");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void watch(int epfd, int fd, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.fd = fd};
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) == -1)
        die("epoll_ctl");
}

static void pair(int epfd, int listener)
{
    static const int on = 1;
    struct sockaddr_in6 a;
    int c = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (c < 0)
        return;
    int b = make(SOCK_NONBLOCK, backend_port, &a);
    if (c >= MAX_FD || (connect(b, (struct sockaddr *)&a, sizeof a) == -1 && errno != EINPROGRESS))
        die("connect");
    (void)setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    peer[c] = b;
    peer[b] = c;
    watch(epfd, c, EPOLLIN | EPOLLRDHUP | EPOLLET);
    watch(epfd, b, EPOLLIN | EPOLLRDHUP | EPOLLET);
}

static void move(int fd)
{
    char buf[16384];
    int to = peer[fd];
    if (to == 0)
        return; /* the other end was closed in this turn */
    ssize_t n = recv(fd, buf, sizeof buf, 0);
    if (n > 0) {
        (void)send(to, buf, (size_t)n, MSG_NOSIGNAL);
    } else if (n == 0 || errno != EAGAIN) {
        peer[fd] = peer[to] = 0;
        (void)close(fd);
        (void)close(to);
    }
}

static void *work(void *arg)
{
    static const int on = 1;
    struct sockaddr_in6 a;
    int listener = make(SOCK_NONBLOCK, listen_port, &a), epfd = epoll_create1(EPOLL_CLOEXEC);
    (void)arg;
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (epfd < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) == -1 || listen(listener, 4096) == -1)
        die("listen");
    watch(epfd, listener, EPOLLIN);
    for (;;) {
        struct epoll_event ev[128];
        int n = epoll_wait(epfd, ev, 128, -1);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.fd == listener)
                pair(epfd, listener);
            else
                move(ev[i].data.fd);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct rlimit rl = {MAX_FD, MAX_FD};
    unsigned long n = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
    pthread_t t[MAX_WORKERS];
    if (n < 1 || n > MAX_WORKERS)
        return 2;
    listen_port = (uint16_t)strtoul(argv[1], NULL, 10);
    backend_port = (uint16_t)strtoul(argv[2], NULL, 10);
    (void)setrlimit(RLIMIT_NOFILE, &rl);
    for (unsigned long i = 0; i < n; i++)
        if ((errno = pthread_create(&t[i], NULL, work, NULL)) != 0)
            die("thread");
    for (unsigned long i = 0; i < n; i++)
        (void)pthread_join(t[i], NULL);
    return 0;
}
