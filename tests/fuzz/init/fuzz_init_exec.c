/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exec sessions of moat-init as a whole, not their decoder alone: input is a script of what host, processes and time do. Descriptors,
 * pipes, splices and poll are the kernel's; a process is a pid that no kernel gives (above PID_MAX_LIMIT, so that signals go nowhere) and
 * the ends that it would have, held here. After every step bounds hold and what the host has been sent is frames in a legal order; at the
 * end, with everybody gone and a minute later, every session is free and no descriptor is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "init/exec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HOSTS = MT_EXEC_SESSIONS_MAX + 2, STEPS_MAX = 400, NO_PID = 1 << 24, GARBAGE_MAX = MT_EXEC_PAYLOAD_MAX, FDS = 256 };

struct child {
    pid_t pid;  /* 0: none */
    int in, out[2];
    bool reaped;
};

struct host {
    int fd;
    bool opened, ended;  /* OPENED, EXIT was read */
    uint8_t seen[2 * MT_EXEC_FRAME_MAX];
    size_t len;
};

static struct mt_exec x;
static struct host hosts[HOSTS];
static struct child children[64];
static size_t n_children;
static unsigned refuse_spawn;
static int64_t now;

/* ---- what init calls in workload.c ---- */

int mt_workload_env(const struct mt_guest_process *process, const struct mt_user *user, struct mt_workload_env *ret, struct mt_err *err)
{
    MT_ASSERT(process->env_count <= MT_GUEST_ENV_MAX + MT_EXEC_ENV_MAX + 1 && user);
    ret->vars[0] = NULL;
    return process->env_count > MT_GUEST_ENV_MAX ? MT_FAIL(err, MT_E_LIMIT, "environment") : 0;
}

static int keep(int fd)
{
    return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

int mt_workload_spawn(const struct mt_workload_spec *spec, pid_t *ret_pid, const char **ret_reason, struct mt_err *err)
{
    MT_ASSERT(spec->argv[0] && spec->cwd && spec->stdout_fd >= 0 && spec->stderr_fd >= 0 && spec->has_stdin == (spec->stdin_fd >= 0));
    *ret_reason = "exec_not_found";
    if (refuse_spawn & 1 || n_children == MT_ARRAY_LEN(children))
        return MT_FAIL(err, MT_E_NOT_FOUND, "no such program");
    struct child *c = &children[n_children++];
    *c = (struct child){.pid = NO_PID + (pid_t)n_children, .in = keep(spec->stdin_fd), .out = {keep(spec->stdout_fd), keep(spec->stderr_fd)}};
    for (int i = 0; i < 2; i++)
        (void)fcntl(c->out[i], F_SETFL, O_NONBLOCK);
    if (c->in >= 0)
        (void)fcntl(c->in, F_SETFL, O_NONBLOCK);
    *ret_pid = c->pid;
    return 0;
}

const char *mt_workload_signal_name(int signo)
{
    return signo == 9 ? "KILL" : "34";
}

int mt_workload_signal_number(const char *name)
{
    return name[0] == 'K' ? 9 : 15;
}

/* ---- the script ---- */

struct script {
    const uint8_t *p;
    size_t left;
};

static unsigned byte(struct script *s)
{
    if (s->left == 0)
        return 0;
    s->left--;
    return *s->p++;
}

static size_t number(struct script *s) /* small ones are likely, 64 KiB are possible */
{
    unsigned a = byte(s);
    return a < 200 ? a : (size_t)(a - 199) * (byte(s) + 1U) * 5U;
}

static void close_child(struct child *c)
{
    int *const fds[] = {&c->in, &c->out[0], &c->out[1]};
    for (size_t i = 0; i < MT_ARRAY_LEN(fds); i++) {
        if (*fds[i] >= 0)
            (void)close(*fds[i]);
        *fds[i] = -1;
    }
}

static void reap(struct child *c, int status)
{
    if (c->pid && !c->reaped)
        MT_ASSERT(mt_exec_reaped(&x, c->pid, status, now)); /* a session is there until its process is reaped */
    c->reaped = true;
}

static void check_frame(struct host *h, const struct mt_exec_frame *f)
{
    MT_ASSERT(!h->ended); /* EXIT is the last word */
    MT_ASSERT(f->type != MT_EXEC_OPENED || !h->opened);
    MT_ASSERT(h->opened || f->type == MT_EXEC_OPENED || f->type == MT_EXEC_EXIT);
    h->opened |= f->type == MT_EXEC_OPENED;
    h->ended |= f->type == MT_EXEC_EXIT;
}

/* Read at most @max bytes of what the guest says, and take it apart. */
static void listen_to(struct host *h, size_t max)
{
    while (h->fd >= 0 && max > 0) {
        size_t room = sizeof h->seen - h->len;
        ssize_t n = recv(h->fd, h->seen + h->len, max < room ? max : room, MSG_DONTWAIT);
        if (n <= 0)
            return;
        max -= (size_t)n;
        h->len += (size_t)n;
        size_t at = 0;
        for (;;) {
            struct mt_exec_frame f;
            struct mt_err err = {0};
            size_t used;
            int rc = mt_exec_decode(MT_EXEC_FROM_GUEST, h->seen + at, h->len - at, &f, &used, &err);
            MT_ASSERT(rc >= 0); /* what init sends is frames, nothing else */
            if (rc == 1)
                break;
            check_frame(h, &f);
            at += used;
        }
        memmove(h->seen, h->seen + at, h->len - at);
        h->len -= at;
    }
}

static void connect_host(struct host *h)
{
    int p[2];
    if (h->fd >= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p) != 0)
        return;
    *h = (struct host){.fd = p[0]};
    mt_exec_take(&x, p[1], now);
}

static void hang_up(struct host *h)
{
    if (h->fd >= 0)
        (void)close(h->fd);
    h->fd = -1;
}

static void say(const struct host *h, const void *data, size_t len)
{
    if (h->fd >= 0)
        (void)!send(h->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say_frame(struct host *h, uint8_t type, const void *payload, size_t len)
{
    static uint8_t frame[MT_EXEC_FRAME_MAX];
    if (len > MT_EXEC_PAYLOAD_MAX)
        return;
    mt_exec_head(frame, type, len);
    memcpy(frame + MT_EXEC_HEAD, payload, len);
    say(h, frame, MT_EXEC_HEAD + len);
}

static void say_open(struct host *h, unsigned how)
{
    static const char *argv[] = {"/x", NULL};
    static const char *const users[] = {NULL, "root", "nobody-is-called-so", "65535:65535"};
    static uint8_t body[MT_EXEC_JSON_MAX];
    const struct mt_exec_open o = {.argv = argv, .argc = 1, .tty = how & 1, .stdin_open = how & 2, .user = users[how >> 2 & 3],
                                   .cols = how >> 4 & 1 ? 100 : 0};
    size_t n;
    refuse_spawn = how >> 5;
    if (mt_exec_open_encode(&o, body, sizeof body, &n, NULL) == 0)
        say_frame(h, MT_EXEC_OPEN, body, n);
}

static void step(struct script *s)
{
    static const uint8_t zeros[GARBAGE_MAX];
    static uint8_t sink[65536];
    unsigned op = byte(s) % 14;
    struct host *h = &hosts[byte(s) % HOSTS];
    struct child *c = &children[(unsigned)(h - hosts) % (n_children ? n_children : 1)];
    size_t n = number(s);
    switch (op) {
    case 0:
        connect_host(h);
        break;
    case 1:
        say_open(h, (unsigned)n);
        break;
    case 2: { /* bytes of the script, as they are */
        size_t some = n < s->left ? n : s->left;
        say(h, s->p, some);
        s->p += some;
        s->left -= some;
        break;
    }
    case 3: { /* a frame around bytes of the script */
        uint8_t type = (uint8_t)byte(s);
        size_t some = n < s->left ? n : s->left;
        say_frame(h, type, s->p, some);
        s->p += some;
        s->left -= some;
        break;
    }
    case 4:
        say_frame(h, MT_EXEC_STDIN, zeros, n < MT_EXEC_PAYLOAD_MAX ? n : MT_EXEC_PAYLOAD_MAX);
        break;
    case 5:
        listen_to(h, n * 16);
        break;
    case 6:
        hang_up(h);
        break;
    case 7:
        if (h->fd >= 0)
            (void)shutdown(h->fd, n & 1 ? SHUT_WR : SHUT_RD);
        break;
    case 8: /* the process speaks */
        if (c->pid && c->out[n & 1] >= 0)
            (void)!write(c->out[n & 1], zeros, n * 8 < GARBAGE_MAX ? n * 8 : GARBAGE_MAX);
        break;
    case 9: /* and listens */
        if (c->pid && c->in >= 0)
            (void)!read(c->in, sink, n * 16 < sizeof sink ? n * 16 : sizeof sink);
        break;
    case 10:
        if (c->pid)
            close_child(c);
        break;
    case 11:
        reap(c, n & 1 ? 9 : (int)(n & 0xff) << 8);
        break;
    case 12:
        now += (int64_t)n * 50 * MT_NS_PER_MS;
        break;
    default:
        if (n > 190)
            mt_exec_stopping(&x);
        break;
    }
}

static void check_bounds(void)
{
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++) {
        const struct mt_exec_session *s = &x.sessions[i];
        if (s->state == MT_EXEC_FREE)
            continue;
        MT_ASSERT(s->in_len <= sizeof s->in && s->stdin_at <= s->stdin_len && s->stdin_len <= sizeof s->stdin_buf);
        MT_ASSERT(s->out_at <= s->out_len && s->out_len <= sizeof s->out && s->frames <= MT_EXEC_SLOTS && s->slot < MT_EXEC_SLOTS &&
                  s->bulk_at < MT_EXEC_SLOT && s->sends - s->sends_done <= MT_EXEC_SENDS);
        MT_ASSERT(s->credit + s->owed + (s->stdin_len - s->stdin_at) <= MT_EXEC_WINDOW);
        MT_ASSERT((s->state == MT_EXEC_GONE) == (s->fd < 0));
        MT_ASSERT(s->state != MT_EXEC_RUNNING || s->pid > NO_PID);
    }
}

static void turn(void)
{
    struct pollfd fds[MT_EXEC_POLLFDS];
    mt_exec_poll(&x, fds);
    (void)poll(fds, MT_EXEC_POLLFDS, 0);
    mt_exec_turn(&x, fds, now);
    check_bounds();
    MT_ASSERT(mt_exec_deadline(&x) > 0);
}

static unsigned open_fds(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < FDS; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct mt_guest_process process = {.cwd = "/"};
    static struct mt_user user;
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct script s = {data, size};
    (void)sigaction(SIGPIPE, &ignore, NULL); /* as PID 1 has it, and as a process here may be written to that is gone */
    user.uid = getuid();
    user.gid = getgid();
    now = MT_NS_PER_S;
    n_children = refuse_spawn = 0;
    for (size_t i = 0; i < HOSTS; i++)
        hosts[i].fd = -1;
    memset(children, 0, sizeof children);
    memset(&x, 0, offsetof(struct mt_exec, sessions));
    mt_exec_init(&x);
    x.cgroup_root = "/nonexistent";
    mt_exec_setup(&x, &process, &user, MT_EXEC_SESSIONS_MAX);
    unsigned before = open_fds();
    for (unsigned i = 0; i < STEPS_MAX && s.left; i++) {
        step(&s);
        turn();
    }
    /* everybody goes; half of the hosts hear the end first */
    for (size_t i = 0; i < n_children; i++) {
        close_child(&children[i]);
        reap(&children[i], 0);
        turn();
    }
    for (unsigned i = 0; i < 3 * HOSTS; i++) {
        listen_to(&hosts[i % HOSTS], 2 * sizeof hosts[0].seen);
        if (i >= HOSTS && i % 2)
            hang_up(&hosts[i % HOSTS]);
        now += 5 * MT_NS_PER_S;
        turn();
    }
    for (size_t i = 0; i < HOSTS; i++)
        hang_up(&hosts[i]);
    turn();
    now += 60 * MT_NS_PER_S;
    turn();
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++)
        MT_ASSERT(x.sessions[i].state == MT_EXEC_FREE);
    MT_ASSERT(open_fds() == before);
    return 0;
}
