/* SPDX-License-Identifier: Apache-2.0 */
#include "init/exec.h"

#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/vm_sockets.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "init/say.h"

#define MS(n) ((int64_t)(n) * MT_NS_PER_MS)
#define CGROUPS "/sys/fs/cgroup"

enum {
    OPEN_MS = 5000,
    TERM_MS = 5000,
    KILL_MS = 30000,
    DRAIN_MS = 1000,
    RESIZE_EVERY_MS = 33,
    READ_MIN = 4096, /* no output is read into less room than this */
    READS_PER_TURN = 8,
    BULK_MIN = 16384, /* less than this is cheaper to copy than to hand on */
};

void mt_exec_init(struct mt_exec *x)
{
    x->listen_fd = -1;
    x->cgroup_root = CGROUPS;
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++)
        x->sessions[i].state = MT_EXEC_FREE;
}

void mt_exec_setup(struct mt_exec *x, const struct mt_guest_process *process, const struct mt_user *user, size_t max_sessions)
{
    x->process = process;
    x->user = user;
    x->max_sessions = max_sessions < MT_EXEC_SESSIONS_MAX ? max_sessions : MT_EXEC_SESSIONS_MAX;
}

int mt_exec_listen(struct mt_exec *x, uint32_t port, struct mt_err *err)
{
    const struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
    mt_auto_fd int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof any) != 0 || listen(fd, MT_EXEC_SESSIONS_MAX) != 0)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "listen on vsock port %u", port);
    x->listen_fd = MT_TAKE_FD(fd);
    return 0;
}

/* --- output to the host --- */

static size_t room(const struct mt_exec_session *s)
{
    return sizeof s->out - s->out_len;
}

/* Room for output of the process; the slack is for frames of init's own. */
static size_t data_room(const struct mt_exec_session *s)
{
    size_t r = room(s);
    return r > MT_EXEC_SLACK + MT_EXEC_HEAD ? r - MT_EXEC_SLACK - MT_EXEC_HEAD : 0;
}

static void put(struct mt_exec_session *s, uint8_t type, const void *payload, size_t len)
{
    if (room(s) < MT_EXEC_HEAD + len)
        return; /* a host that asks faster than it reads: it misses a pong */
    mt_exec_head(s->out + s->out_len, type, len);
    memcpy(s->out + s->out_len + MT_EXEC_HEAD, payload, len);
    s->out_len += MT_EXEC_HEAD + len;
}

static void put_exit(struct mt_exec_session *s, int code, const char *signal, const char *reason, const char *detail)
{
    const struct mt_exec_exit end = {.exit_code = code, .signal = signal, .reason = reason, .detail = detail};
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    if (mt_exec_exit_encode(&end, body, sizeof body, &n, NULL) == 0)
        put(s, MT_EXEC_EXIT, body, n);
    s->state = MT_EXEC_LAST;
}

static bool bulk_pending(const struct mt_exec_session *s)
{
    return s->frames > 0;
}

static bool pending(const struct mt_exec_session *s)
{
    return bulk_pending(s) || s->out_at < s->out_len;
}

/* Slots from the next one on that neither wait to be sent nor are still read by the kernel. */
static size_t slots_free(const struct mt_exec_session *s)
{
    size_t n = 0;
    while (n < MT_EXEC_SLOTS - s->frames && s->slot_uses[(s->slot + s->frames + n) % MT_EXEC_SLOTS] == 0)
        n++;
    return n;
}

/* The kernel still reads much of the memory that output goes to: waiting is better than many small steps. */
static bool slots_busy(const struct mt_exec_session *s)
{
    return s->bulk && slots_free(s) < MT_EXEC_SLOTS / 2;
}

/*
 * Sends that the kernel is done with, which it says on the socket's queue of errors. 0; 1 it said nothing; -1 it counts sends in another way than
 * vsock of Linux 6.7 to 6.12 does, so nobody knows what it still reads.
 */
static int take_done(struct mt_exec_session *s)
{
    int said = 1;
    for (;;) {
        union {
            struct cmsghdr align;
            uint8_t room[CMSG_SPACE(sizeof(struct sock_extended_err)) + 64];
        } c;
        struct msghdr m = {.msg_control = &c, .msg_controllen = sizeof c};
        if (recvmsg(s->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return said;
        said = 0;
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        struct sock_extended_err e;
        if (!h || h->cmsg_len < CMSG_LEN(sizeof e))
            continue;
        memcpy(&e, CMSG_DATA(h), sizeof e);
        if (e.ee_origin != SO_EE_ORIGIN_ZEROCOPY)
            continue;
        if (e.ee_info != s->sends_done || e.ee_data - e.ee_info >= s->sends - s->sends_done)
            return -1;
        for (; s->sends_done != e.ee_data + 1; s->sends_done++)
            s->slot_uses[s->slot_of[s->sends_done % MT_EXEC_SENDS]]--;
    }
}

/* True once all frames are out: with the kernel, which may need their memory for longer. */
static bool flush_bulk(struct mt_exec_session *s)
{
    while (s->fd >= 0 && bulk_pending(s)) {
        const uint8_t *at = s->bulk + s->slot * MT_EXEC_SLOT + s->bulk_at;
        size_t left = s->frame_len[s->slot] - s->bulk_at;
        bool pins = s->pins && s->sends - s->sends_done < MT_EXEC_SENDS;
        ssize_t n = send(s->fd, at, left, MSG_NOSIGNAL | MSG_DONTWAIT | (pins ? MSG_ZEROCOPY : 0));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && pins && (errno == ENOBUFS || errno == ENOMEM)) { /* no memory to tell of it: let the kernel copy */
            s->pins = false;
            continue;
        }
        if (n <= 0)
            return false; /* a broken connection shows when it is read */
        if (pins) {
            s->slot_of[s->sends++ % MT_EXEC_SENDS] = (uint8_t)s->slot;
            s->slot_uses[s->slot]++;
        }
        s->bulk_at += (size_t)n;
        if ((size_t)n < left)
            continue;
        s->bulk_at = 0;
        s->slot = (s->slot + 1) % MT_EXEC_SLOTS;
        s->frames--;
    }
    return !bulk_pending(s);
}

static void flush(struct mt_exec_session *s)
{
    if (!flush_bulk(s))
        return; /* what is in `out` comes behind it */
    while (s->fd >= 0 && s->out_at < s->out_len) {
        ssize_t n = send(s->fd, s->out + s->out_at, s->out_len - s->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* a broken connection shows when it is read */
        s->out_at += (size_t)n;
    }
    s->out_at = s->out_len = 0;
}

/* --- ends --- */

static void close_pipes(struct mt_exec_session *s)
{
    mt_closep(&s->stdin_fd);
    mt_closep(&s->out_fds[0]);
    mt_closep(&s->out_fds[1]);
}

static void drop_bulk(struct mt_exec_session *s)
{
    s->bulk_at = s->frames = 0;
    if (s->bulk)
        (void)munmap(s->bulk, MT_EXEC_SLOTS * MT_EXEC_SLOT); /* what is on its way keeps its pages */
    s->bulk = NULL;
}

static void release(struct mt_exec_session *s)
{
    char path[64];
    mt_closep(&s->fd);
    close_pipes(s);
    drop_bulk(s);
    if (s->cgroup_fd >= 0) {
        mt_closep(&s->cgroup_fd);
        (void)snprintf(path, sizeof path, "%s/exec.%u", s->cgroup_root, s->cgroup_number);
        (void)rmdir(path); /* processes that were left behind on purpose keep it */
    }
    s->state = MT_EXEC_FREE;
}

static void signal_group(const struct mt_exec_session *s, int signo)
{
    pid_t front = 0;
    if (s->pid <= 1)
        return;
    if (s->tty && s->out_fds[0] >= 0 && ioctl(s->out_fds[0], TIOCGPGRP, &front) == 0 && front > 1 && front != s->pid)
        (void)kill(-front, signo);
    (void)kill(-s->pid, signo);
}

static void ladder(struct mt_exec_session *s, int64_t now)
{
    if (s->kill_at)
        return;
    signal_group(s, SIGHUP);
    s->term_at = now + MS(TERM_MS);
    s->kill_at = now + MS(KILL_MS);
}

static bool group_lives(const struct mt_exec_session *s)
{
    return s->pid > 1 && (!s->dead || kill(-s->pid, 0) == 0);
}

static void client_gone(struct mt_exec_session *s, int64_t now)
{
    bool started = s->state == MT_EXEC_RUNNING || (s->state == MT_EXEC_LAST && s->pid > 1 && !s->dead);
    mt_closep(&s->fd);
    if (!started) {
        release(s);
        return;
    }
    s->state = MT_EXEC_GONE;
    ladder(s, now);
    close_pipes(s);
    drop_bulk(s);
    if (!group_lives(s))
        release(s);
}

static void protocol_error(struct mt_exec_session *s, const char *why, int64_t now)
{
    mt_say(MT_SAY_WARN, "exec: %.120s", why);
    put_exit(s, -1, NULL, "protocol_error", why);
    flush(s);
    client_gone(s, now);
}

/* All output is out (or nobody waits for more): say how it ended. */
static void finish(struct mt_exec_session *s, int64_t now)
{
    close_pipes(s);
    s->drain_until = 0;
    if (WIFEXITED(s->status))
        put_exit(s, WEXITSTATUS(s->status), NULL, s->reason ? s->reason : "exited", NULL);
    else
        put_exit(s, -1, mt_workload_signal_name(WTERMSIG(s->status)), s->reason ? s->reason : "killed", NULL);
    flush(s);
    if (!pending(s))
        client_gone(s, now);
}

/* --- start --- */

static void join_cgroup(struct mt_exec *x, struct mt_exec_session *s)
{
    char path[64];
    s->cgroup_number = ++x->cgroups;
    s->cgroup_root = x->cgroup_root;
    (void)snprintf(path, sizeof path, "%s/exec.%u", x->cgroup_root, s->cgroup_number);
    if (mkdir(path, 0755) == 0)
        s->cgroup_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* without one the process group has to do */
}

static int make_terminal(struct mt_exec_session *s, const struct mt_user *user, int child[3])
{
    int unlock = 0;
    int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0)
        master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0)
        return -1;
    s->out_fds[0] = master;
    s->stdin_fd = fcntl(master, F_DUPFD_CLOEXEC, 3);
    if (s->stdin_fd < 0 || ioctl(master, TIOCSPTLCK, &unlock) != 0 || ioctl(master, TIOCSWINSZ, &s->size) != 0)
        return -1;
    child[0] = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (child[0] < 0)
        return -1;
    return fchown(child[0], user->uid, 5);
}

static int make_pipe(int *ours, int *theirs, bool we_read)
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) != 0)
        return -1;
    *ours = we_read ? p[0] : p[1];
    *theirs = we_read ? p[1] : p[0];
    (void)fcntl(p[0], F_SETPIPE_SZ, we_read ? MT_EXEC_BULK : MT_EXEC_INPUT);
    return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static int make_ends(struct mt_exec_session *s, const struct mt_exec_open *o, const struct mt_user *user, int child[3])
{
    if (o->tty)
        return make_terminal(s, user, child);
    if (o->stdin_open && make_pipe(&s->stdin_fd, &child[0], false) != 0)
        return -1;
    if (make_pipe(&s->out_fds[0], &child[1], true) != 0)
        return -1;
    return make_pipe(&s->out_fds[1], &child[2], true);
}

static int make_env(struct mt_exec *x, const struct mt_exec_open *o, const struct mt_user *user, struct mt_err *err)
{
    static struct mt_guest_env all[MT_GUEST_ENV_MAX + MT_EXEC_ENV_MAX + 1];
    struct mt_guest_process p = *x->process;
    size_t n = 0;
    bool term = false;
    for (size_t i = 0; i < o->env_count; i++) {
        term |= MT_STREQ(o->env[i].key, "TERM");
        all[n++] = o->env[i];
    }
    if (o->tty && !term)
        all[n++] = (struct mt_guest_env){"TERM", o->term ? o->term : "xterm-256color"};
    size_t own = n;
    for (size_t i = 0; i < p.env_count; i++) {
        bool over = false;
        for (size_t k = 0; k < own && !over; k++)
            over = MT_STREQ(all[k].key, p.env[i].key);
        if (!over)
            all[n++] = p.env[i];
    }
    p.env = all;
    p.env_count = n;
    return mt_workload_env(&p, user, &x->env, err);
}

static int spawn(struct mt_exec *x, struct mt_exec_session *s, const struct mt_exec_open *o, int *ret_code, struct mt_err *err)
{
    static struct mt_user other;
    const struct mt_user *user = x->user;
    const char *reason;
    int child[3] = {-1, -1, -1};
    *ret_code = 126;
    if (o->user) {
        int rc = mt_user_resolve(o->user, "/etc/passwd", "/etc/group", &other, err);
        if (rc < 0)
            return rc;
        user = &other;
    }
    int rc = make_env(x, o, user, err);
    if (rc < 0)
        return rc;
    if (make_ends(s, o, user, child) != 0) {
        rc = MT_FAIL_ERRNO(err, MT_E_IO, o->tty ? "make a terminal" : "make pipes");
    } else {
        join_cgroup(x, s);
        mt_auto_fd int procs = s->cgroup_fd >= 0 ? openat(s->cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC) : -1;
        const struct mt_workload_spec spec = {.argv = o->argv, .envp = x->env.vars, .cwd = o->cwd ? o->cwd : x->process->cwd,
                                              .user = user, .has_stdin = child[0] >= 0, .stdin_fd = child[0],
                                              .stdout_fd = o->tty ? child[0] : child[1], .stderr_fd = o->tty ? child[0] : child[2],
                                              .terminal = o->tty, .has_cgroup = procs >= 0, .cgroup_procs_fd = procs,
                                              .nofile = x->process->nofile};
        rc = mt_workload_spawn(&spec, &s->pid, &reason, err);
        if (rc < 0)
            *ret_code = MT_STREQ(reason, "exec_not_found") ? 127 : 126;
    }
    for (int i = 0; i < 3; i++)
        mt_closep(&child[i]);
    return rc;
}

static void take_open(struct mt_exec *x, struct mt_exec_session *s, const struct mt_exec_frame *f, int64_t now)
{
    struct mt_guest_mem mem = {.base = x->mem, .cap = sizeof x->mem};
    struct mt_exec_open o;
    struct mt_err err = {0};
    char text[64];
    int code;
    if (mt_exec_open_decode(f->payload, f->len, &mem, &o, &err) < 0) {
        protocol_error(s, err.msg, now);
        return;
    }
    s->tty = o.tty;
    s->size = (struct winsize){.ws_col = (unsigned short)(o.cols ? o.cols : 80), .ws_row = (unsigned short)(o.rows ? o.rows : 24)};
    s->open_until = 0;
    if (x->ending) {
        put_exit(s, -1, NULL, "instance_stopped", NULL);
        return;
    }
    if (spawn(x, s, &o, &code, &err) < 0) {
        for (char *c = err.msg; *c; c++)
            if ((unsigned char)*c > 0x7e)
                *c = '?';
        close_pipes(s);
        put_exit(s, code, NULL, "start_failed", err.msg);
        return;
    }
    s->state = MT_EXEC_RUNNING;
    int n = snprintf(text, sizeof text, "{\"pid\":%d}", (int)s->pid);
    put(s, MT_EXEC_OPENED, text, (size_t)n);
    if (s->stdin_fd >= 0) {
        s->credit = MT_EXEC_WINDOW;
        put(s, MT_EXEC_WINDOW_MORE, (const uint8_t[]){0, 1, 0, 0}, 4);
    }
}

/* --- input from the host --- */

static void grant(struct mt_exec_session *s)
{
    if (s->owed < MT_EXEC_WINDOW / 2 || room(s) < MT_EXEC_HEAD + 4)
        return;
    const uint8_t more[4] = {(uint8_t)(s->owed >> 24), (uint8_t)(s->owed >> 16), (uint8_t)(s->owed >> 8), (uint8_t)s->owed};
    put(s, MT_EXEC_WINDOW_MORE, more, 4);
    s->credit += s->owed;
    s->owed = 0;
}

static void write_stdin(struct mt_exec_session *s)
{
    while (s->stdin_at < s->stdin_len && s->stdin_fd >= 0) {
        ssize_t n = write(s->stdin_fd, s->stdin_buf + s->stdin_at, s->stdin_len - s->stdin_at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            mt_closep(&s->stdin_fd); /* it reads no more: what comes is dropped, so that the client is not held up */
            break;
        }
        s->stdin_at += (size_t)n;
        s->owed += (uint32_t)n;
    }
    if (s->stdin_fd < 0)
        s->owed += (uint32_t)(s->stdin_len - s->stdin_at);
    s->stdin_at = s->stdin_len = 0;
    grant(s);
    if (!s->stdin_ended || s->stdin_fd < 0)
        return;
    if (s->tty)
        (void)!write(s->stdin_fd, "\x04", 1);
    mt_closep(&s->stdin_fd);
}

static void take_stdin(struct mt_exec_session *s, const struct mt_exec_frame *f, int64_t now)
{
    if (f->len > s->credit || (s->stdin_ended && f->len)) {
        protocol_error(s, "more input than was granted", now);
        return;
    }
    s->credit -= (uint32_t)f->len;
    if (f->len == 0)
        s->stdin_ended = true;
    if (s->stdin_len + f->len > sizeof s->stdin_buf) {
        memmove(s->stdin_buf, s->stdin_buf + s->stdin_at, s->stdin_len - s->stdin_at);
        s->stdin_len -= s->stdin_at;
        s->stdin_at = 0;
    }
    memcpy(s->stdin_buf + s->stdin_len, f->payload, f->len); /* fits: what waits, is owed or may come is one window */
    s->stdin_len += f->len;
    write_stdin(s);
}

static void resize(struct mt_exec_session *s, int64_t now)
{
    s->resize_due = false;
    s->resize_at = now + MS(RESIZE_EVERY_MS);
    if (s->tty && s->out_fds[0] >= 0)
        (void)ioctl(s->out_fds[0], TIOCSWINSZ, &s->size);
}

static void take_signal(const struct mt_exec_session *s, const char *name)
{
    pid_t front = 0;
    int signo = mt_workload_signal_number(name);
    if (s->dead)
        return;
    if (s->tty && s->out_fds[0] >= 0 && ioctl(s->out_fds[0], TIOCGPGRP, &front) == 0 && front > 1)
        (void)kill(-front, signo);
    else
        (void)kill(-s->pid, signo);
}

static void take_control(struct mt_exec *x, struct mt_exec_session *s, const struct mt_exec_frame *f, int64_t now)
{
    struct mt_guest_mem mem = {.base = x->mem, .cap = sizeof x->mem};
    struct mt_exec_control c;
    struct mt_err err = {0};
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    if (mt_exec_control_decode(f->payload, f->len, &mem, &c, &err) < 0) {
        protocol_error(s, err.msg, now);
        return;
    }
    switch (c.kind) {
    case MT_EXEC_RESIZE:
        s->size = (struct winsize){.ws_col = (unsigned short)c.cols, .ws_row = (unsigned short)c.rows};
        s->resize_due = true;
        if (now >= s->resize_at)
            resize(s, now);
        break;
    case MT_EXEC_SIGNAL:
        take_signal(s, c.signal);
        break;
    case MT_EXEC_CLOSE:
        if (!s->reason)
            s->reason = c.reason && MT_STREQ(c.reason, "timeout") ? "timeout"
                        : c.reason && MT_STREQ(c.reason, "revoked") ? "revoked" : "client_disconnect";
        ladder(s, now);
        break;
    case MT_EXEC_PING:
        c.kind = MT_EXEC_PONG;
        if (mt_exec_control_encode(&c, body, sizeof body, &n, NULL) == 0)
            put(s, MT_EXEC_CONTROL, body, n);
        break;
    case MT_EXEC_UNKNOWN:
    case MT_EXEC_PONG:
    case MT_EXEC_CONTROL_MAX:
        break;
    }
}

static void take_frame(struct mt_exec *x, struct mt_exec_session *s, const struct mt_exec_frame *f, int64_t now)
{
    if (s->state == MT_EXEC_LAST)
        return; /* sent before the client knew */
    if ((f->type == MT_EXEC_OPEN) != (s->state == MT_EXEC_OPENING))
        protocol_error(s, "OPEN comes first and once", now);
    else if (f->type == MT_EXEC_OPEN)
        take_open(x, s, f, now);
    else if (f->type == MT_EXEC_STDIN)
        take_stdin(s, f, now);
    else
        take_control(x, s, f, now);
}

static void read_host(struct mt_exec *x, struct mt_exec_session *s, int64_t now)
{
    ssize_t n = recv(s->fd, s->in + s->in_len, sizeof s->in - s->in_len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        client_gone(s, now);
        return;
    }
    s->in_len += (size_t)n;
    size_t at = 0;
    while (s->fd >= 0) {
        struct mt_exec_frame f;
        struct mt_err err = {0};
        size_t used;
        int rc = mt_exec_decode(MT_EXEC_FROM_CLIENT, s->in + at, s->in_len - at, &f, &used, &err);
        if (rc == 1)
            break;
        if (rc < 0) {
            protocol_error(s, err.msg, now);
            return;
        }
        at += used;
        take_frame(x, s, &f, now);
    }
    if (s->fd < 0)
        return;
    memmove(s->in, s->in + at, s->in_len - at);
    s->in_len -= at;
}

/* --- output of the process --- */

/* Pages of 64 KiB for those who ask: a frame is then one piece for the kernel instead of 16. */
static void allow_large_pages(void)
{
    mt_auto_fd int fd = open("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, "madvise", 7);
}

static bool make_bulk(struct mt_exec_session *s)
{
    const size_t len = MT_EXEC_SLOTS * MT_EXEC_SLOT;
    if (s->bulk)
        return true;
    uint8_t *p = mmap(NULL, len + MT_EXEC_SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    size_t skip = (MT_EXEC_SLOT - (uintptr_t)p % MT_EXEC_SLOT) % MT_EXEC_SLOT;
    if (skip > 0)
        (void)munmap(p, skip);
    (void)munmap(p + skip + len, MT_EXEC_SLOT - skip);
    s->bulk = p + skip;
    allow_large_pages();
    (void)madvise(s->bulk, len, MADV_HUGEPAGE);
    (void)madvise(s->bulk, len, MADV_DONTFORK); /* a fork would make each page one to copy at the next write */
    s->pins = setsockopt(s->fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)) == 0;
    return true;
}

/*
 * Much output is read into memory that the kernel then sends without a copy (MSG_ZEROCOPY, which vsock has since Linux 6.7): no packet of 64 KiB
 * is to be found, cleared and filled. Without it, as in the fuzzer's sockets, the same memory is sent with a copy. False: nothing to hand on.
 */
static bool hand_on(struct mt_exec_session *s, size_t which)
{
    struct iovec iov[MT_EXEC_SLOTS];
    int ready = 0;
    if (s->tty || pending(s) || ioctl(s->out_fds[which], FIONREAD, &ready) != 0 || ready < BULK_MIN || !make_bulk(s) || slots_busy(s))
        return false;
    size_t count = slots_free(s);
    for (size_t i = 0; i < count; i++)
        iov[i] = (struct iovec){s->bulk + (s->slot + i) % MT_EXEC_SLOTS * MT_EXEC_SLOT + MT_EXEC_HEAD, MT_EXEC_SLOT - MT_EXEC_HEAD};
    ssize_t n = readv(s->out_fds[which], iov, (int)count);
    for (size_t left = n > 0 ? (size_t)n : 0; left > 0; s->frames++) { /* none: somebody else has read it */
        size_t at = (s->slot + s->frames) % MT_EXEC_SLOTS, part = left < MT_EXEC_SLOT - MT_EXEC_HEAD ? left : MT_EXEC_SLOT - MT_EXEC_HEAD;
        mt_exec_head(s->bulk + at * MT_EXEC_SLOT, which ? MT_EXEC_STDERR : MT_EXEC_STDOUT, part);
        s->frame_len[at] = (uint32_t)(MT_EXEC_HEAD + part);
        left -= part;
    }
    (void)flush_bulk(s);
    return n > 0;
}

static void read_output(struct mt_exec_session *s, size_t which)
{
    if (hand_on(s, which) || bulk_pending(s) || slots_busy(s))
        return;
    for (int i = 0; i < READS_PER_TURN && s->out_fds[which] >= 0 && data_room(s) >= READ_MIN; i++) {
        size_t max = data_room(s) < MT_EXEC_PAYLOAD_MAX ? data_room(s) : MT_EXEC_PAYLOAD_MAX;
        ssize_t n = read(s->out_fds[which], s->out + s->out_len + MT_EXEC_HEAD, max);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) { /* a terminal whose last user is gone says EIO */
            mt_closep(&s->out_fds[which]);
            return;
        }
        mt_exec_head(s->out + s->out_len, which ? MT_EXEC_STDERR : MT_EXEC_STDOUT, (size_t)n);
        s->out_len += MT_EXEC_HEAD + (size_t)n;
    }
}

bool mt_exec_reaped(struct mt_exec *x, pid_t pid, int status, int64_t now)
{
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++) {
        struct mt_exec_session *s = &x->sessions[i];
        if (s->state == MT_EXEC_FREE || s->pid != pid || s->dead)
            continue;
        s->dead = true;
        s->status = status;
        if (x->ending && !s->reason)
            s->reason = "instance_stopped";
        if (s->state == MT_EXEC_RUNNING)
            s->drain_until = now + MS(DRAIN_MS);
        if (s->state == MT_EXEC_GONE && !group_lives(s))
            release(s);
        return true;
    }
    return false;
}

void mt_exec_stopping(struct mt_exec *x)
{
    x->ending = true;
}

/* --- connections --- */

void mt_exec_take(struct mt_exec *x, int fd, int64_t now)
{
    for (size_t i = 0; i < x->max_sessions; i++) {
        struct mt_exec_session *s = &x->sessions[i];
        if (s->state != MT_EXEC_FREE)
            continue;
        memset(s, 0, offsetof(struct mt_exec_session, in));
        s->state = MT_EXEC_OPENING;
        s->fd = fd;
        s->stdin_fd = s->out_fds[0] = s->out_fds[1] = s->cgroup_fd = -1;
        s->open_until = now + MS(OPEN_MS);
        s->ticked_at = now;
        return;
    }
    static const char body[] = "{\"reason\":\"start_failed\",\"detail\":\"too many exec sessions in this instance\"}";
    uint8_t frame[MT_EXEC_HEAD + sizeof body];
    mt_exec_head(frame, MT_EXEC_EXIT, sizeof body - 1);
    memcpy(frame + MT_EXEC_HEAD, body, sizeof body - 1);
    (void)send(fd, frame, MT_EXEC_HEAD + sizeof body - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)close(fd);
}

static void accept_host(struct mt_exec *x, int64_t now)
{
    struct sockaddr_vm peer = {0};
    socklen_t len = sizeof peer;
    int fd = accept4(x->listen_fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (peer.svm_cid != VMADDR_CID_HOST)
        (void)close(fd); /* a process of the guest itself */
    else
        mt_exec_take(x, fd, now);
}

/* --- turns --- */

/* A frame that is handed on has the socket for itself. */
static bool takes_output(const struct mt_exec_session *s)
{
    return data_room(s) >= READ_MIN && !bulk_pending(s) && !slots_busy(s);
}

void mt_exec_poll(const struct mt_exec *x, struct pollfd fds[MT_EXEC_POLLFDS])
{
    fds[0] = (struct pollfd){.fd = x->listen_fd, .events = POLLIN};
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++) {
        const struct mt_exec_session *s = &x->sessions[i];
        struct pollfd *p = fds + 1 + i * MT_EXEC_POLLS;
        bool live = s->state != MT_EXEC_FREE, reads = live && takes_output(s);
        bool writes = live && pending(s);
        p[0] = (struct pollfd){.fd = live ? s->fd : -1, .events = (short)(POLLIN | (writes ? POLLOUT : 0))};
        p[1] = (struct pollfd){.fd = live && s->stdin_at < s->stdin_len ? s->stdin_fd : -1, .events = POLLOUT};
        p[2] = (struct pollfd){.fd = reads ? s->out_fds[0] : -1, .events = POLLIN};
        p[3] = (struct pollfd){.fd = reads ? s->out_fds[1] : -1, .events = POLLIN};
    }
}

static bool due(int64_t at, int64_t now)
{
    return at != 0 && now >= at;
}

static void tick(struct mt_exec_session *s, int64_t now)
{
    if (due(s->open_until, now)) {
        s->open_until = 0;
        protocol_error(s, "no OPEN in time", now);
        return;
    }
    if (s->resize_due && now >= s->resize_at)
        resize(s, now);
    grant(s);
    if (due(s->term_at, now)) {
        s->term_at = 0;
        signal_group(s, SIGTERM);
    }
    if (due(s->kill_at, now)) {
        s->kill_at = INT64_MAX;
        signal_group(s, SIGKILL);
        int fd = s->cgroup_fd >= 0 ? openat(s->cgroup_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC) : -1;
        if (fd >= 0 && write(fd, "1", 1) != 1)
            mt_say(MT_SAY_WARN, "exec: cgroup.kill failed");
        mt_closep(&fd);
    }
    if (s->drain_until && !takes_output(s))
        s->drain_until += now - s->ticked_at; /* it waits for the reader, not the reader for it */
    s->ticked_at = now;
    if (s->state == MT_EXEC_RUNNING && s->dead && ((s->out_fds[0] < 0 && s->out_fds[1] < 0) || due(s->drain_until, now)))
        finish(s, now);
    else if (s->state == MT_EXEC_LAST && !pending(s))
        client_gone(s, now);
    else if (s->state == MT_EXEC_GONE && !group_lives(s))
        release(s);
}

void mt_exec_turn(struct mt_exec *x, const struct pollfd fds[MT_EXEC_POLLFDS], int64_t now)
{
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++) {
        struct mt_exec_session *s = &x->sessions[i];
        const struct pollfd *p = fds + 1 + i * MT_EXEC_POLLS;
        if (s->state == MT_EXEC_FREE)
            continue;
        short host = p[0].fd >= 0 && p[0].fd == s->fd ? p[0].revents : 0;
        int done = host & POLLERR ? take_done(s) : 1;
        if (done == 0)
            host &= ~POLLERR;
        if (done < 0)
            protocol_error(s, "the kernel counts sends in another way", now);
        else if (host & (POLLIN | POLLHUP | POLLERR))
            read_host(x, s, now);
        if (s->state == MT_EXEC_FREE)
            continue;
        if (p[1].fd >= 0 && p[1].revents && s->stdin_fd == p[1].fd)
            write_stdin(s);
        for (size_t k = 0; k < 2; k++)
            if (p[2 + k].fd >= 0 && p[2 + k].revents && s->out_fds[k] == p[2 + k].fd)
                read_output(s, k);
        flush(s);
        tick(s, now);
    }
    if (fds[0].fd >= 0 && fds[0].revents)
        accept_host(x, now);
}

int64_t mt_exec_deadline(const struct mt_exec *x)
{
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < MT_EXEC_SESSIONS_MAX; i++) {
        const struct mt_exec_session *s = &x->sessions[i];
        if (s->state == MT_EXEC_FREE)
            continue;
        const int64_t all[] = {s->open_until, s->resize_due ? s->resize_at : 0, s->term_at, s->kill_at, s->drain_until};
        for (size_t k = 0; k < MT_ARRAY_LEN(all); k++)
            if (all[k] != 0 && all[k] < next)
                next = all[k];
    }
    return next;
}
