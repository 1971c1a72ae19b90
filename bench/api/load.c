/* SPDX-License-Identifier: Apache-2.0 */
/* Load for the API's Unix socket: api-load SOCKET CONNECTIONS MILLISECONDS TOKEN PATH. Keeps one GET in flight on each of its
 * connections, checks every status, and prints "REQUESTS_PER_S P50_US P99_US". One thread, so that it takes little of the machine. */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 256
#define SAMPLES_MAX 2000000

struct conn {
    char in[16384];
    size_t len;
    int64_t sent_ns;
};

static struct conn conns[CONNS_MAX];
static struct pollfd fds[CONNS_MAX];
static uint32_t us[SAMPLES_MAX];
static size_t n_us;

static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int fail(const char *what)
{
    (void)fprintf(stderr, "error: %s: %s\n", what, strerror(errno));
    return 1;
}

/* Length of the answer in @c once it is whole, 0 before, -1 when it is not a 200 with a length. */
static long answer_length(struct conn *c)
{
    c->in[c->len] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return c->len < sizeof c->in - 1 ? 0 : -1;
    char *cl = strcasestr(c->in, "\r\ncontent-length:");
    if (strncmp(c->in, "HTTP/1.1 200", 12) != 0 || !cl || cl > end)
        return -1;
    size_t whole = (size_t)(end + 4 - c->in) + strtoul(cl + 17, NULL, 10);
    return whole >= sizeof c->in ? -1 : c->len >= whole ? (long)whole : 0;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        (void)fprintf(stderr, "usage: api-load SOCKET CONNECTIONS MILLISECONDS TOKEN PATH\n");
        return 2;
    }
    int n = (int)strtol(argv[2], NULL, 10);
    int64_t ms = strtol(argv[3], NULL, 10);
    char req[2048];
    int req_len = snprintf(req, sizeof req, "GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", argv[5], argv[4]);
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (n < 1 || n > CONNS_MAX || req_len >= (int)sizeof req || strlen(argv[1]) >= sizeof to.sun_path) {
        (void)fprintf(stderr, "error: at most %d connections, a short path and a short token\n", CONNS_MAX);
        return 2;
    }
    memcpy(to.sun_path, argv[1], strlen(argv[1]) + 1);
    for (int i = 0; i < n; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
            return fail("connect");
        fds[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    int64_t from = now_ns(), until = from + ms * 1000000;
    for (int i = 0; i < n; i++) {
        conns[i].sent_ns = now_ns();
        if (write(fds[i].fd, req, (size_t)req_len) != req_len)
            return fail("send");
    }
    int left = n;
    while (left > 0) {
        if (poll(fds, (nfds_t)n, 10000) <= 0)
            return fail("no answer in 10 s");
        for (int i = 0; i < n; i++) {
            struct conn *c = &conns[i];
            if (!fds[i].revents)
                continue;
            ssize_t got = read(fds[i].fd, c->in + c->len, sizeof c->in - 1 - c->len);
            if (got <= 0)
                return fail("the server closed a connection");
            c->len += (size_t)got;
            long whole = answer_length(c);
            if (whole < 0) {
                (void)fprintf(stderr, "error: not a 200: %.200s\n", c->in);
                return 1;
            }
            if (whole == 0)
                continue;
            int64_t now = now_ns();
            if (n_us < SAMPLES_MAX)
                us[n_us++] = (uint32_t)((now - c->sent_ns) / 1000);
            c->len = 0;
            if (now >= until) {
                fds[i].fd = -fds[i].fd - 1; /* poll leaves it out; still open, so the others are not helped by its end */
                left--;
                continue;
            }
            c->sent_ns = now;
            if (write(fds[i].fd, req, (size_t)req_len) != req_len)
                return fail("send");
        }
    }
    qsort(us, n_us, sizeof *us, by_value);
    printf("%.0f %u %u\n", (double)n_us * 1e9 / (double)(now_ns() - from), us[n_us / 2], us[n_us * 99 / 100]);
    return 0;
}
