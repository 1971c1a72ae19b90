/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-vsock: the vhost-user vsock backend beside one QEMU, and the keeper of its console.
 *
 * The agent starts it unprivileged, inside the VM's jail, as PID 1 of the VM's PID namespace: when it ends, the kernel ends
 * QEMU; when QEMU's vhost-user socket closes, it ends. It knows neither the agent nor what the guest says.
 */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/ringfile.h"
#include "os/sock.h"
#include "vsock/mux.h"
#include "vsock/sandbox.h"
#include "vsock/vhost.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { TOKEN_VHOST = 0, TOKEN_LISTEN, TOKEN_KICK_RX, TOKEN_KICK_TX, TOKEN_CONSOLE };
enum { CONSOLE_CHUNK = 4096, CONSOLE_TURN = 16, ACCEPT_TURN = 16, EVENTS = 64 };

struct program {
    const char *uds;
    uint64_t cid;
    int vhost_fd, console_fd, ring_fd; /* inherited; -1 absent */
    int listen_fd, epoll_fd;
    struct mt_ringfile ring;
    struct mt_vs_vhost vhost;
    struct mt_vs_mux mux;
};

static int64_t now_ms(void)
{
    return mt_clock_mono() / MT_NS_PER_MS;
}

static int dial(void *user, uint32_t port)
{
    const struct program *p = user;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path, sizeof a.sun_path, "%s_%u", p->uds, port);
    if (n < 0 || (size_t)n >= sizeof a.sun_path)
        return -1;
    mt_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1 || connect(fd, (const struct sockaddr *)&a, sizeof a) == -1)
        return -1;
    return MT_TAKE_FD(fd);
}

static int watch(const struct program *p, int fd, uint64_t token, uint32_t events, struct mt_err *err)
{
    struct epoll_event ev = {.events = events, .data.u64 = MT_VS_TOKEN_END + token};
    if (epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "watch descriptor %d", fd);
    return 0;
}

static void console_read(struct program *p)
{
    char buf[CONSOLE_CHUNK];
    for (int i = 0; i < CONSOLE_TURN; i++) {
        ssize_t n = recv(p->console_fd, buf, sizeof buf, MSG_DONTWAIT);
        if (n < 0)
            return;
        if (n == 0) {
            mt_closep(&p->console_fd);
            return;
        }
        if (p->ring_fd >= 0)
            (void)mt_ringfile_append(&p->ring, buf, (size_t)n, NULL); /* a full disk costs console text, not the VM */
    }
}

static void host_accept(struct program *p)
{
    for (int i = 0; i < ACCEPT_TURN; i++) {
        int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd == -1)
            return;
        mt_vs_mux_accept(&p->mux, fd, now_ms());
    }
}

static void clear_kick(const struct program *p, size_t queue)
{
    uint64_t count;
    ssize_t n = read(p->vhost.ring[queue].kick_fd, &count, sizeof count);
    (void)n; /* level triggered: what is left comes again */
}

/* 0, 1 QEMU is gone, -code */
static int front_end(struct program *p, struct mt_err *err)
{
    static const uint64_t token[MT_VS_QUEUES] = {TOKEN_KICK_RX, TOKEN_KICK_TX};
    int r = mt_vs_vhost_handle(&p->vhost, err);
    if (r != 0)
        return r;
    if (p->vhost.stopped) {
        mt_vs_mux_reset(&p->mux);
        p->vhost.stopped = false;
    }
    for (size_t i = 0; i < MT_VS_QUEUES; i++) {
        if (!p->vhost.kick_new[i])
            continue;
        p->vhost.kick_new[i] = false;
        r = watch(p, p->vhost.ring[i].kick_fd, token[i], EPOLLIN, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int dispatch(struct program *p, const struct epoll_event *ev, struct mt_err *err)
{
    if (ev->data.u64 < MT_VS_TOKEN_END) {
        mt_vs_mux_host_event(&p->mux, ev->data.u64, ev->events, now_ms());
        return 0;
    }
    switch (ev->data.u64 - MT_VS_TOKEN_END) {
    case TOKEN_VHOST:
        return front_end(p, err);
    case TOKEN_LISTEN:
        host_accept(p);
        return 0;
    case TOKEN_KICK_RX:
        clear_kick(p, MT_VS_RX);
        return 0;
    case TOKEN_KICK_TX:
        clear_kick(p, MT_VS_TX);
        return 0;
    case TOKEN_CONSOLE:
        console_read(p);
        return 0;
    default:
        mt_panic(__FILE__, __LINE__, "unknown epoll token");
    }
}

/* Move packets both ways. Returns true when there is more to do at once. */
static bool move(struct program *p)
{
    struct mt_vs_ring *rx = &p->vhost.ring[MT_VS_RX], *tx = &p->vhost.ring[MT_VS_TX];
    bool was_broken = rx->broken || tx->broken;
    bool stalled = p->mux.rst_count == MT_VS_RST_MAX;
    bool more = mt_vs_mux_from_guest(&p->mux, tx, &p->vhost.mem, now_ms());
    more |= mt_vs_mux_to_guest(&p->mux, rx, &p->vhost.mem, now_ms());
    stalled = (stalled || p->mux.rst_count == MT_VS_RST_MAX) && p->mux.rst_count < MT_VS_RST_MAX;
    mt_vs_ring_notify(tx);
    mt_vs_ring_notify(rx);
    if (!was_broken && (rx->broken || tx->broken))
        mt_log(MT_WARN, "vsock.ring_broken", KV("queue", rx->broken ? "rx" : "tx"));
    return more || stalled;
}

/* Returns when QEMU is gone (0) or something broke (-code). */
static int serve(struct program *p, struct mt_err *err)
{
    bool more = false;
    for (;;) {
        struct epoll_event ev[EVENTS];
        int timeout = mt_vs_mux_tick(&p->mux, now_ms());
        int n = epoll_wait(p->epoll_fd, ev, EVENTS, more ? 0 : timeout);
        if (n == -1 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "epoll");
        for (int i = 0; i < n; i++) {
            int r = dispatch(p, &ev[i], err);
            if (r != 0)
                return r > 0 ? 0 : r;
        }
        more = move(p);
    }
}

static int fd_option(const char *text, int *ret, struct mt_err *err)
{
    uint64_t v;
    if (mt_parse_u64(text, 3, 1023, &v, err) < 0)
        return -MT_E_INVALID;
    *ret = (int)v;
    if (fcntl(*ret, F_SETFD, FD_CLOEXEC) == -1)
        return MT_FAIL_ERRNO(err, MT_E_INVALID, "descriptor %d", *ret);
    return 0;
}

static int options(struct program *p, int argc, char **argv, struct mt_err *err)
{
    static const struct option table[] = {{"uds", required_argument, NULL, 'u'}, {"cid", required_argument, NULL, 'c'},
        {"vhost-fd", required_argument, NULL, 'v'}, {"console-fd", required_argument, NULL, 's'},
        {"ring-fd", required_argument, NULL, 'r'}, {NULL, 0, NULL, 0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", table, NULL)) != -1) {
        int r = 0;
        switch (opt) {
        case 'u':
            p->uds = optarg;
            break;
        case 'c':
            r = mt_parse_u64(optarg, 3, UINT32_MAX - 1, &p->cid, err);
            break;
        case 'v':
            r = fd_option(optarg, &p->vhost_fd, err);
            break;
        case 's':
            r = fd_option(optarg, &p->console_fd, err);
            break;
        case 'r':
            r = fd_option(optarg, &p->ring_fd, err);
            break;
        default:
            return MT_FAIL(err, MT_E_INVALID, "usage: moat-vsock --uds PATH --cid N --vhost-fd N [--console-fd N --ring-fd N]");
        }
        if (r < 0)
            return mt_err_wrap(err, "option %s", argv[optind - 1]);
    }
    if (optind != argc || !p->uds || p->vhost_fd < 0 || p->cid == 0)
        return MT_FAIL(err, MT_E_INVALID, "--uds, --cid and --vhost-fd are required");
    if (strlen(p->uds) + sizeof "_4294967295" > MT_UNIX_PATH_MAX)
        return MT_FAIL(err, MT_E_INVALID, "--uds is longer than a socket path may be");
    return 0;
}

static int start(struct program *p, struct mt_err *err)
{
    if (p->ring_fd >= 0 && mt_ringfile_attach(&p->ring, p->ring_fd, err) < 0)
        return mt_err_wrap(err, "console");
    if (mt_sock_timeout(p->vhost_fd, 5000, err) < 0 || mt_sock_unix_listen(p->uds, 0600, (uid_t)-1, (gid_t)-1, &p->listen_fd, err) < 0)
        return -(int)err->code;
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll_fd == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "epoll");
    if (watch(p, p->vhost_fd, TOKEN_VHOST, EPOLLIN, err) < 0 || watch(p, p->listen_fd, TOKEN_LISTEN, EPOLLIN, err) < 0 ||
        (p->console_fd >= 0 && watch(p, p->console_fd, TOKEN_CONSOLE, EPOLLIN, err) < 0))
        return -(int)err->code;
    mt_vs_vhost_init(&p->vhost, p->vhost_fd, p->cid);
    mt_vs_mux_init(&p->mux, p->cid, p->epoll_fd, dial, p);
    char now[MT_RFC3339_LEN];
    (void)mt_rfc3339(0, now); /* the C library opens its time zone file at the first date: now, or a log line ends us later */
    return mt_vs_sandbox_enter(err);
}

int main(int argc, char **argv)
{
    static struct program p = {.vhost_fd = -1, .console_fd = -1, .ring_fd = -1, .listen_fd = -1, .epoll_fd = -1};
    struct mt_err err = {.code = MT_OK};
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    mt_log_init("vsock", MT_INFO, true);
    (void)sigaction(SIGPIPE, &ignore, NULL);
    if (options(&p, argc, argv, &err) < 0 || start(&p, &err) < 0) {
        mt_log(MT_ERROR, "vsock.start_failed", KV_ERR(&err));
        return 1;
    }
    int r = serve(&p, &err);
    if (p.console_fd >= 0)
        console_read(&p); /* the last words */
    if (r < 0)
        mt_log(MT_ERROR, "vsock.ended", KV_ERR(&err));
    _exit(r < 0 ? 1 : 0); /* nothing to flush, and exit handlers (a sanitizer's) would leave the sandbox */
}
