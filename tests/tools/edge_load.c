/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load for an L4 proxy that routes by server name, over IPv6 loopback: the server behind it and the clients before it.
 *
 *   edge_load serve PORT N              backends on [::1]:PORT .. PORT+N-1; what one does is in the first byte of the hello's random
 *   edge_load short PORT MS CONC ROUTES one connection after the other, CONC at once: hello, 1 KiB reply, close
 *   edge_load down  PORT MS STREAMS ROUTES  bytes to the client as fast as they come
 *   edge_load rtt   PORT MS CONNS RATE ROUTES 64 bytes there and back on kept connections; RATE 0: as fast as they come, else per second in all
 *   edge_load idle  PORT CONNS ROUTES   open and hold until the end of stdin
 *   edge_load probe PORT NAME MS        try one name until it answers; prints the monotonic time in ns
 *   edge_load open  PORT MS RATE ROUTES new connections at a fixed pace, each as `short`; latencies
 *
 * A reply begins with the port of its backend (big-endian). With EDGE_LOAD_BASE=PORT and EDGE_LOAD_CLASSES=N in its environment `short` and
 * `open` count as wrong what did not come from a backend whose port is PORT + route modulo N.
 *
 * Each client prints one line: key=value words. Names are r<i>.bench.test. Exit status 1 only when the load itself cannot run.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELLO 517U /* what openssl 3 sends */
#define REPLY 1024U
#define BLOCK (256U * 1024U)
#define MAX_FD 65536

enum { MODE_AT = 11 }; /* first byte of random: record 5, handshake 4, version 2 */

static char block[BLOCK];
static int epfd;

static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
    (void)fprintf(stderr, "edge_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* A TLS 1.3 ClientHello of HELLO bytes, padded by extension 21. */
static void make_hello(uint8_t h[HELLO], char mode, const char *name)
{
    static const uint8_t suites[] = {0x13, 0x02, 0x13, 0x03, 0x13, 0x01, 0xc0, 0x2c, 0xc0, 0x30, 0xc0, 0x2b, 0xc0, 0x2f, 0x00, 0xff};
    size_t n = strlen(name), p = 0;
    memset(h, 0, HELLO);
    const uint8_t head[] = {22, 3, 1, (HELLO - 5) >> 8, (HELLO - 5) & 255, 1, 0, (HELLO - 9) >> 8, (HELLO - 9) & 255, 3, 3};
    memcpy(h, head, sizeof head);
    p = sizeof head;
    for (unsigned i = 0; i < 32; i++)
        h[p++] = i == 0 ? (uint8_t)mode : 0x5a;
    h[p++] = 32;
    for (unsigned i = 0; i < 32; i++)
        h[p++] = 0xa5;
    h[p++] = 0;
    h[p++] = sizeof suites;
    memcpy(h + p, suites, sizeof suites);
    p += sizeof suites;
    h[p++] = 1;
    h[p++] = 0;
    size_t left = HELLO - p - 2;
    h[p++] = (uint8_t)(left >> 8);
    h[p++] = (uint8_t)left;
    const uint8_t sni[] = {0, 0, (uint8_t)((n + 5) >> 8), (uint8_t)(n + 5), (uint8_t)((n + 3) >> 8), (uint8_t)(n + 3), 0, (uint8_t)(n >> 8), (uint8_t)n};
    memcpy(h + p, sni, sizeof sni);
    p += sizeof sni;
    memcpy(h + p, name, n);
    p += n;
    static const uint8_t rest[] = {0, 43, 0, 5, 4, 3, 4, 3, 3, 0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 4, 0, 2, 4, 3, 0, 51, 0, 38, 0, 36, 0, 29, 0, 32};
    memcpy(h + p, rest, sizeof rest);
    p += sizeof rest;
    for (unsigned i = 0; i < 32; i++)
        h[p++] = 0x11;
    size_t pad = HELLO - p - 4;
    h[p++] = 0;
    h[p++] = 21;
    h[p++] = (uint8_t)(pad >> 8);
    h[p++] = (uint8_t)pad;
}

struct conn {
    int fd;
    uint32_t got, route;
    uint16_t port;
    char mode;
    bool open, ready, waiting;
    int64_t at;
};
static struct conn *conns; /* by descriptor */

static void watch(int fd, uint32_t events, int op)
{
    struct epoll_event ev = {.events = events, .data.fd = fd};
    if (epoll_ctl(epfd, op, fd, &ev) == -1)
        die("epoll_ctl");
}

static void set_up(void)
{
    struct rlimit rl = {MAX_FD, MAX_FD};
    (void)setrlimit(RLIMIT_NOFILE, &rl);
    struct sigaction ign = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGPIPE, &ign, NULL);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(MAX_FD, sizeof *conns);
    if (epfd < 0 || !conns)
        die("set-up");
}

/* --- server --- */

static void drop(struct conn *c)
{
    (void)close(c->fd);
    c->open = false;
}

static void serve_stream(struct conn *c)
{
    for (unsigned i = 0; i < 4; i++) {
        ssize_t n = send(c->fd, block, BLOCK, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            drop(c);
            return;
        }
    }
}

static void serve_event(struct conn *c, uint32_t events)
{
    char buf[16384];
    if (events & EPOLLIN) {
        ssize_t n = recv(c->fd, buf, sizeof buf, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            drop(c);
            return;
        }
        if (n < 0)
            return;
        size_t skip = 0;
        if (c->got < HELLO) {
            if (c->got <= MODE_AT && c->got + (size_t)n > MODE_AT)
                c->mode = buf[MODE_AT - c->got];
            skip = HELLO - c->got < (size_t)n ? HELLO - c->got : (size_t)n;
            c->got += (uint32_t)skip;
            if (c->got < HELLO)
                return;
            if (c->mode == 's') {
                char reply[REPLY] = {(char)(c->port >> 8), (char)c->port};
                (void)send(c->fd, reply, REPLY, MSG_NOSIGNAL);
                drop(c);
                return;
            }
            if (c->mode == 'd')
                watch(c->fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            else
                (void)send(c->fd, "k", 1, MSG_NOSIGNAL);
        }
        if (c->mode == 'e' && (size_t)n > skip)
            (void)send(c->fd, buf + skip, (size_t)n - skip, MSG_NOSIGNAL);
    }
    if (c->open && c->mode == 'd' && (events & EPOLLOUT))
        serve_stream(c);
}

static _Noreturn void serve(uint16_t port, unsigned count)
{
    static const int on = 1;
    int first = -1, last = -1;
    for (unsigned i = 0; i < count; i++) {
        int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)(port + i)), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) == -1 || listen(fd, 4096) == -1)
            die("listen");
        if (first < 0)
            first = fd;
        last = fd;
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
    (void)printf("ready\n");
    (void)fflush(stdout);
    for (;;) {
        struct epoll_event ev[256];
        int n = epoll_wait(epfd, ev, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd;
            if (fd >= first && fd <= last) {
                int c;
                while ((c = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    if (c >= MAX_FD)
                        die("descriptors");
                    conns[c] = (struct conn){.fd = c, .open = true, .port = (uint16_t)(port + (fd - first))};
                    watch(c, EPOLLIN, EPOLL_CTL_ADD);
                }
            } else if (conns[fd].open) {
                serve_event(&conns[fd], ev[i].events);
            }
        }
    }
}

/* --- clients --- */

static uint16_t to_port;
static unsigned routes;

static int begin(char mode, unsigned route)
{
    static const int on = 1;
    char name[64];
    uint8_t hello[HELLO];
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(to_port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= MAX_FD)
        die("socket");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == -1) { /* loopback: at once, but for a full backlog */
        (void)close(fd);
        return -1;
    }
    (void)snprintf(name, sizeof name, "r%u.bench.test", route);
    make_hello(hello, mode, name);
    if (send(fd, hello, HELLO, MSG_NOSIGNAL) != (ssize_t)HELLO) {
        (void)close(fd);
        return -1;
    }
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    conns[fd] = (struct conn){.fd = fd, .open = true, .mode = mode, .route = route, .at = now_ns()};
    watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    return fd;
}

static int64_t *lat;
static size_t n_lat, cap_lat;
static void note(int64_t ns)
{
    if (n_lat == cap_lat) {
        cap_lat = cap_lat ? cap_lat * 2 : 65536;
        lat = reallocarray(lat, cap_lat, sizeof *lat);
        if (!lat)
            die("memory");
    }
    lat[n_lat++] = ns;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(double q)
{
    return n_lat ? (double)lat[(size_t)((double)(n_lat - 1) * q)] / 1000 : 0;
}

static void print_latencies(void)
{
    if (n_lat)
        qsort(lat, n_lat, sizeof *lat, by_value);
    (void)printf(" p50_us=%.1f p99_us=%.1f max_us=%.1f\n", quantile_us(0.5), quantile_us(0.99), quantile_us(1));
}

/* @conc at once, or @rate a second when it is not 0 */
static int run_short(int64_t ms, unsigned conc, unsigned rate)
{
    uint64_t done = 0, failed = 0, route = 0, started = 0, wrong = 0;
    const char *base = getenv("EDGE_LOAD_BASE"), *classes = getenv("EDGE_LOAD_CLASSES");
    unsigned from = base ? (unsigned)strtoul(base, NULL, 10) : 0, of = classes ? (unsigned)strtoul(classes, NULL, 10) : 0;
    int64_t t0 = now_ns(), end = t0 + ms * 1000000;
    unsigned live = 0;
    int64_t ended = end; /* the last one; stuck are those that are left when none has for five seconds */
    for (;;) {
        int64_t t = now_ns();
        if (t >= end && (live == 0 || t >= ended + 5000000000))
            break;
        while (t < end && (rate ? started < (uint64_t)((double)(t - t0) / 1e9 * rate) && live < 8192 : live < conc)) {
            started++;
            if (begin('s', (unsigned)(route++ % routes)) >= 0)
                live++;
            else
                failed++;
        }
        struct epoll_event ev[256];
        int n = epoll_wait(epfd, ev, 256, rate ? 1 : 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = &conns[ev[i].data.fd];
            char buf[4096];
            ssize_t k = recv(c->fd, buf, sizeof buf, 0);
            if (k > 0) {
                if (c->got == 0 && k >= 2)
                    c->port = (uint16_t)((uint8_t)buf[0] << 8 | (uint8_t)buf[1]);
                c->got += (uint32_t)k;
                continue;
            }
            if (k < 0 && errno == EAGAIN)
                continue;
            if (k == 0 && c->got == REPLY) {
                done++;
                wrong += of > 0 && (c->port - from) % of != c->route % of;
                note(now_ns() - c->at);
            } else {
                failed++;
            }
            drop(c);
            live--;
            if (ended < t)
                ended = t;
        }
    }
    (void)printf("done=%llu failed=%llu wrong=%llu stuck=%u secs=%.3f", (unsigned long long)done, (unsigned long long)failed,
                 (unsigned long long)wrong, live,
                 (double)(now_ns() - t0) / 1e9);
    print_latencies();
    return 0;
}

static int run_down(int64_t ms, unsigned streams)
{
    uint64_t bytes = 0;
    unsigned cut = 0;
    int64_t t0 = now_ns(), end = t0 + ms * 1000000;
    for (unsigned i = 0; i < streams; i++)
        if (begin('d', i % routes) < 0)
            die("connect");
    while (now_ns() < end) {
        struct epoll_event ev[64];
        int n = epoll_wait(epfd, ev, 64, 100);
        for (int i = 0; i < n; i++) {
            /* MSG_TRUNC drops the bytes without copying them: the client's own cost stays out of the way */
            ssize_t k = recv(ev[i].data.fd, NULL, 1U << 20, MSG_TRUNC);
            if (k > 0)
                bytes += (uint64_t)k;
            else if (k == 0 || errno != EAGAIN) {
                cut++;
                drop(&conns[ev[i].data.fd]);
            }
        }
    }
    (void)printf("bytes=%llu cut=%u secs=%.3f\n", (unsigned long long)bytes, cut, (double)(now_ns() - t0) / 1e9);
    return 0;
}

/* Open @n of a mode and wait for the byte that says the backend is there. */
static void open_all(char mode, unsigned n, int *fds)
{
    unsigned ready = 0;
    for (unsigned i = 0; i < n; i++) {
        fds[i] = begin(mode, i % routes);
        if (fds[i] < 0)
            die("connect");
        while (ready + 64 < i + 1 || (i + 1 == n && ready < n)) {
            struct epoll_event ev[64];
            int k = epoll_wait(epfd, ev, 64, 10000);
            if (k == 0) {
                (void)fprintf(stderr, "edge_load: %u of %u connections got no answer\n", n - ready, n);
                exit(1);
            }
            for (int j = 0; j < k; j++) {
                char b[16];
                ssize_t got = recv(ev[j].data.fd, b, 1, 0);
                if (got != 1) {
                    (void)fprintf(stderr, "edge_load: a connection was closed at its start\n");
                    exit(1);
                }
                conns[ev[j].data.fd].ready = true;
                ready++;
            }
        }
    }
}

static void wait_for_end(void)
{
    char b[16];
    while (read(0, b, sizeof b) > 0) {
    }
}

static void ping(struct conn *c)
{
    c->at = now_ns();
    c->got = 0;
    c->waiting = send(c->fd, block, 64, MSG_NOSIGNAL) == 64;
}

static int run_rtt(int64_t ms, unsigned n, unsigned rate)
{
    int *fds = calloc(n, sizeof *fds);
    uint64_t done = 0, sent = 0;
    unsigned cut = 0, next = 0;
    open_all('e', n, fds);
    (void)printf("begin\n");
    (void)fflush(stdout);
    int64_t t0 = now_ns(), end = t0 + ms * 1000000;
    for (unsigned i = 0; i < n && rate == 0; i++)
        ping(&conns[fds[i]]);
    for (;;) {
        int64_t t = now_ns();
        if (t >= end)
            break;
        while (rate && sent < (uint64_t)((double)(t - t0) / 1e9 * rate)) {
            unsigned look = 0;
            while (look < n && (conns[fds[next]].waiting || !conns[fds[next]].open)) {
                next = (next + 1) % n;
                look++;
            }
            if (look == n)
                break;
            ping(&conns[fds[next]]);
            next = (next + 1) % n;
            sent++;
        }
        struct epoll_event ev[256];
        struct timespec wait = {.tv_nsec = rate ? 100000 : 100000000};
        int k = epoll_pwait2(epfd, ev, 256, &wait, NULL);
        for (int i = 0; i < k; i++) {
            struct conn *c = &conns[ev[i].data.fd];
            char b[256];
            ssize_t got = recv(c->fd, b, sizeof b, 0);
            if (got <= 0) {
                if (got == 0 || errno != EAGAIN) {
                    cut++;
                    drop(c);
                }
                continue;
            }
            c->got += (uint32_t)got;
            if (c->got >= 64 && c->waiting) {
                note(now_ns() - c->at);
                c->waiting = false;
                done++;
                if (rate == 0)
                    ping(c);
            }
        }
    }
    (void)printf("done=%llu cut=%u secs=%.3f", (unsigned long long)done, cut, (double)(now_ns() - t0) / 1e9);
    print_latencies();
    (void)fflush(stdout);
    wait_for_end(); /* what closing them costs is not the measurement's */
    return 0;
}

static int run_idle(unsigned n)
{
    int *fds = calloc(n, sizeof *fds);
    open_all('i', n, fds);
    (void)printf("ready\n");
    (void)fflush(stdout);
    wait_for_end();
    return 0;
}

static int run_probe(const char *name, int64_t ms)
{
    uint8_t hello[HELLO];
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(to_port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const struct timeval limit = {.tv_sec = 1};
    int64_t end = now_ns() + ms * 1000000;
    make_hello(hello, 's', name);
    (void)printf("begin\n");
    (void)fflush(stdout);
    for (unsigned tries = 1; now_ns() < end; tries++) {
        char buf[4096];
        size_t got = 0;
        int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0 && send(fd, hello, HELLO, MSG_NOSIGNAL) == (ssize_t)HELLO) {
            ssize_t n;
            while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
                got += (size_t)n;
        }
        (void)close(fd);
        if (got == REPLY) {
            (void)printf("at_ns=%lld tries=%u\n", (long long)now_ns(), tries);
            return 0;
        }
    }
    (void)printf("at_ns=0\n");
    return 0;
}

static unsigned arg(char **argv, int i)
{
    return (unsigned)strtoul(argv[i], NULL, 10);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    set_up();
    const char *what = argv[1];
    to_port = (uint16_t)arg(argv, 2);
    routes = argc > 4 ? arg(argv, argc - 1) : 1;
    if (routes == 0)
        routes = 1;
    if (strcmp(what, "serve") == 0)
        serve(to_port, arg(argv, 3));
    if (strcmp(what, "short") == 0 && argc == 6)
        return run_short(arg(argv, 3), arg(argv, 4), 0);
    if (strcmp(what, "open") == 0 && argc == 6)
        return run_short(arg(argv, 3), 0, arg(argv, 4));
    if (strcmp(what, "down") == 0 && argc == 6)
        return run_down(arg(argv, 3), arg(argv, 4));
    if (strcmp(what, "rtt") == 0 && argc == 7)
        return run_rtt(arg(argv, 3), arg(argv, 4), arg(argv, 5));
    if (strcmp(what, "idle") == 0 && argc == 5)
        return run_idle(arg(argv, 3));
    if (strcmp(what, "probe") == 0 && argc == 5)
        return run_probe(argv[3], arg(argv, 4));
    return 2;
}
