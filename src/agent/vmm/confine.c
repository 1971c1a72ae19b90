/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Confinement: see confine.h. The child side runs between clone and exec in a copy of a threaded process: only raw system
 * calls on data prepared before, no malloc, no locks, no libc wrappers that talk to other threads (setuid and friends).
 */
#include "agent/vmm/confine.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { START_MS = 5000, KILL_MS = 5000, HIGH_FD = 512, CAP_LAST = 63, STATUS_MAX = 16384 };

/* What a child says to the parent: ready (step 0) or which step failed with what. */
struct report {
    int step, error;
};

enum step {
    STEP_READY = 0,
    STEP_SIGNALS,
    STEP_CGROUP,
    STEP_PRIVATE,
    STEP_ROOT,
    STEP_BIND,
    STEP_DEV,
    STEP_PIVOT,
    STEP_FORK,
    STEP_FDS,
    STEP_LIMITS,
    STEP_IDS,
    STEP_EXEC,
    STEP_MAX
};

static const char *const step_name[STEP_MAX] = {"ready", "reset signals", "join cgroup", "make mounts private", "bind jail folder",
    "bind read-only folder", "make /dev", "change root", "fork", "arrange descriptors", "set limits", "drop privileges", "exec"};

/* Everything the children need, computed before clone. */
struct plan {
    const struct mt_confine *c;
    char dev[384], dev_net[384];
    struct {
        char path[384];
        dev_t rdev;
        mode_t mode;
    } node[MT_CONFINE_NODES];
    int gate[2][2]; /* per program: parent end, child end */
    int null_fd;
};

/* ---- child side ---- */

__attribute__((noreturn)) static void child_fail(int gate, enum step step)
{
    struct report r = {.step = step, .error = errno};
    (void)send(gate, &r, sizeof r, MSG_NOSIGNAL);
    _exit(127);
}

static void child_signals(int gate)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, &dfl, NULL); /* KILL, STOP and libc's own fail: fine */
    (void)sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) == -1 || setsid() == -1)
        child_fail(gate, STEP_SIGNALS);
}

static void child_mounts(const struct plan *p, int gate)
{
    const struct mt_confine *c = p->c;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == -1)
        child_fail(gate, STEP_PRIVATE);
    if (mount(c->root, c->root, NULL, MS_BIND, NULL) == -1 || mount(NULL, c->root, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL) == -1)
        child_fail(gate, STEP_ROOT);
    for (size_t i = 0; i < c->bind_count; i++) {
        if (mount(c->bind[i].source, c->bind[i].target, NULL, MS_BIND, NULL) == -1 ||
            mount(NULL, c->bind[i].target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == -1)
            child_fail(gate, STEP_BIND);
    }
    if (mount("tmpfs", p->dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755") == -1 || mkdir(p->dev_net, 0755) == -1)
        child_fail(gate, STEP_DEV);
    for (size_t i = 0; i < c->node_count; i++) {
        if (mknod(p->node[i].path, S_IFCHR | 0600, p->node[i].rdev) == -1 ||
            syscall(SYS_chown, p->node[i].path, c->uid, c->uid) == -1 || chmod(p->node[i].path, p->node[i].mode) == -1)
            child_fail(gate, STEP_DEV);
    }
    if (mount(NULL, p->dev, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) == -1)
        child_fail(gate, STEP_DEV);
    /* the old root goes on top of the new one and is let go: nothing of the host stays reachable */
    if (chdir(c->root) == -1 || syscall(SYS_pivot_root, ".", ".") == -1 || umount2(".", MNT_DETACH) == -1 || chdir("/") == -1)
        child_fail(gate, STEP_PIVOT);
}

/* 0 /dev/null, 1 and 2 the log, 3.. the program's own; the gate right behind them, closing at exec. Returns the gate's number. */
static int child_fds(const struct plan *p, const struct mt_confine_program *prog, int gate)
{
    int from[3 + MT_CONFINE_FDS + 1] = {p->null_fd, p->c->stderr_fd, p->c->stderr_fd};
    int n = 3;
    for (size_t i = 0; i < prog->fd_count; i++)
        from[n++] = prog->fds[i];
    from[n++] = gate;
    for (int i = 0; i < n; i++) { /* first out of the way, so that no target overwrites a source */
        from[i] = fcntl(from[i], F_DUPFD, HIGH_FD);
        if (from[i] == -1)
            child_fail(gate, STEP_FDS);
    }
    for (int i = 0; i < n; i++) {
        if (dup3(from[i], i, i == n - 1 ? O_CLOEXEC : 0) == -1)
            child_fail(from[n - 1], STEP_FDS);
    }
    if (syscall(SYS_close_range, n, ~0U, 0) == -1)
        child_fail(n - 1, STEP_FDS);
    return n - 1;
}

static void child_ids(const struct mt_confine *c, int gate)
{
    const struct rlimit files = {c->open_files, c->open_files}, size = {c->file_bytes, c->file_bytes}, none = {0, 0};
    if (setrlimit(RLIMIT_NOFILE, &files) == -1 || setrlimit(RLIMIT_FSIZE, &size) == -1 || setrlimit(RLIMIT_CORE, &none) == -1)
        child_fail(gate, STEP_LIMITS);
    for (int cap = 0; cap <= CAP_LAST; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == -1 && errno != EINVAL)
            child_fail(gate, STEP_IDS);
    }
    if (syscall(SYS_setgroups, 0, NULL) == -1 || syscall(SYS_setresgid, c->uid, c->uid, c->uid) == -1 ||
        syscall(SYS_setresuid, c->uid, c->uid, c->uid) == -1 || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == -1 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        child_fail(gate, STEP_IDS);
}

__attribute__((noreturn)) static void child_exec(const struct plan *p, size_t which, int gate)
{
    static char lang[] = "LC_ALL=C", path[] = "PATH=/usr/bin";
    static char *const envp[] = {lang, path, NULL};
    const struct mt_confine_program *prog = &p->c->program[which];
    struct report ready = {.step = STEP_READY};
    char go;
    (void)syscall(SYS_umask, 0077);
    gate = child_fds(p, prog, gate);
    child_ids(p->c, gate);
    if (send(gate, &ready, sizeof ready, MSG_NOSIGNAL) != (ssize_t)sizeof ready || recv(gate, &go, 1, 0) != 1)
        _exit(126); /* nobody wants us any more */
    (void)execve(prog->path, prog->argv, envp);
    child_fail(gate, STEP_EXEC);
}

__attribute__((noreturn)) static void child_main(const struct plan *p)
{
    int gate = p->gate[0][1];
    child_signals(gate);
    for (size_t i = 0; i < p->c->cgroup_count; i++) {
        if (write(p->c->cgroup_fd[i], "0", 1) != 1)
            child_fail(gate, STEP_CGROUP);
    }
    child_mounts(p, gate);
    long pid = syscall(SYS_clone, (long)SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == -1)
        child_fail(gate, STEP_FORK);
    if (pid == 0) {
        (void)setsid();
        child_exec(p, 1, p->gate[1][1]);
    }
    child_exec(p, 0, gate);
}

/* ---- parent side ---- */

static int make_plan(const struct mt_confine *c, struct plan *p, struct mt_err *err)
{
    p->c = c;
    if (mt_fmt(p->dev, sizeof p->dev, err, "%s/dev", c->root) < 0 || mt_fmt(p->dev_net, sizeof p->dev_net, err, "%s/dev/net", c->root) < 0)
        return -MT_E_LIMIT;
    for (size_t i = 0; i < c->node_count; i++) {
        struct stat st;
        if (stat(c->node[i].host, &st) == -1 || !S_ISCHR(st.st_mode))
            return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "device '%s'", c->node[i].host);
        if (mt_fmt(p->node[i].path, sizeof p->node[i].path, err, "%s/dev/%s", c->root, c->node[i].name) < 0)
            return -MT_E_LIMIT;
        p->node[i].rdev = st.st_rdev;
        p->node[i].mode = c->node[i].mode;
    }
    return 0;
}

static void plan_done(struct plan *p)
{
    for (int i = 0; i < 2; i++) {
        mt_closep(&p->gate[i][0]);
        mt_closep(&p->gate[i][1]);
    }
    mt_closep(&p->null_fd);
}

/* Wait for the next report on a gate. 1 got one; 0 the child's end closed (exec done, or it died); -code. */
static int next_report(int gate, int64_t deadline, struct report *ret, pid_t *ret_pid, struct mt_err *err)
{
    union {
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
        struct cmsghdr align;
    } control;
    struct pollfd pf = {.fd = gate, .events = POLLIN};
    for (;;) {
        int64_t left = (deadline - mt_clock_mono()) / MT_NS_PER_MS;
        int n = poll(&pf, 1, left > 0 ? (int)left : 0);
        if (n == -1 && errno == EINTR)
            continue;
        if (n <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "confined process did not report in %d ms", START_MS);
        break;
    }
    struct iovec iov = {.iov_base = ret, .iov_len = sizeof *ret};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(gate, &m, MSG_CMSG_CLOEXEC);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return 0;
    if (n != (ssize_t)sizeof *ret)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read from confined process");
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
        struct ucred u;
        memcpy(&u, CMSG_DATA(c), sizeof u);
        *ret_pid = u.pid; /* the kernel translates it into our PID namespace */
    }
    return 1;
}

static int failed(const struct report *r, size_t which, struct mt_err *err)
{
    const char *name = r->step > 0 && r->step < STEP_MAX ? step_name[r->step] : "unknown step";
    errno = r->error;
    return MT_FAIL_ERRNO(err, MT_E_IO, "confining %s: %s", which == 0 ? "moat-vsock" : "monitor", name);
}

static int clone_first(const struct plan *p, struct mt_confined *ret, struct mt_err *err)
{
    int pidfd = -1;
    sigset_t all, old;
    struct clone_args a = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* no handler of ours runs in the child */
    long pid = syscall(SYS_clone3, &a, sizeof a);
    if (pid == 0)
        child_main(p);
    int keep = errno;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = keep;
    if (pid == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "clone into new namespaces");
    ret->pid[0] = (pid_t)pid;
    ret->pidfd[0] = pidfd;
    return 0;
}

int mt_confine_start(const struct mt_confine *c, struct mt_confined *ret, struct mt_err *err)
{
    mt_cleanup(plan_done) struct plan p = {.gate = {{-1, -1}, {-1, -1}}, .null_fd = -1};
    int one = 1;
    *ret = MT_CONFINED_NONE;
    if (make_plan(c, &p, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    p.null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (p.null_fd == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open /dev/null");
    for (size_t i = 0; i < 2; i++) {
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.gate[i]) == -1 ||
            setsockopt(p.gate[i][0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == -1)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make gate");
    }
    if (clone_first(&p, ret, err) < 0)
        return -MT_E_IO;
    for (size_t i = 0; i < 2; i++) {
        ret->gate[i] = MT_TAKE_FD(p.gate[i][0]);
        mt_closep(&p.gate[i][1]);
    }
    int64_t deadline = mt_clock_mono() + START_MS * MT_NS_PER_MS;
    for (size_t k = 0; k < 2; k++) {
        size_t i = 1 - k; /* the second is forked before the first reports, but a failure before that comes from the first */
        struct report r = {0};
        pid_t pid = 0;
        int n = next_report(ret->gate[i], deadline, &r, &pid, err);
        if (n == 0 && i == 1)
            continue; /* it never came to be: the first says why */
        if (n <= 0 || r.step != STEP_READY) {
            n = n > 0 ? failed(&r, i, err) : n == 0 ? MT_FAIL(err, MT_E_IO, "confined process ended before it was ready") : n;
            mt_confine_kill(ret);
            return n;
        }
        if (i == 1)
            ret->pid[1] = pid;
    }
    if (ret->pid[1] <= 0 || mt_pidfd_open(ret->pid[1], &ret->pidfd[1], err) < 0) {
        mt_confine_kill(ret);
        return MT_FAIL(err, MT_E_IO, "the monitor's process ended before it was ready");
    }
    return 0;
}

int mt_confine_release(struct mt_confined *c, struct mt_err *err)
{
    int64_t deadline = mt_clock_mono() + START_MS * MT_NS_PER_MS;
    for (size_t i = 0; i < 2; i++) {
        if (send(c->gate[i], "g", 1, MSG_NOSIGNAL) != 1)
            return MT_FAIL_ERRNO(err, MT_E_IO, "a confined process is gone before its start");
    }
    for (size_t i = 0; i < 2; i++) {
        struct report r = {0};
        pid_t pid = 0;
        int n = next_report(c->gate[i], deadline, &r, &pid, err);
        if (n < 0)
            return n;
        if (n > 0)
            return failed(&r, i, err);
        mt_closep(&c->gate[i]);
    }
    return 0;
}

void mt_confine_kill(struct mt_confined *c)
{
    struct mt_run_result r;
    for (size_t i = 2; i-- > 0;) {
        if (c->pidfd[i] < 0)
            continue;
        (void)mt_pidfd_kill(c->pidfd[i], SIGKILL, NULL);
        (void)mt_pidfd_wait(c->pidfd[i], KILL_MS, &r, NULL);
    }
    mt_confined_done(c);
}

void mt_confined_done(struct mt_confined *c)
{
    for (size_t i = 0; i < 2; i++) {
        mt_closep(&c->pidfd[i]);
        mt_closep(&c->gate[i]);
    }
    *c = MT_CONFINED_NONE;
}

/* ---- the check afterwards ---- */

/* Value of "Key:" in a status file, skipping blanks; NULL when absent. */
static const char *status_value(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
        if (strncmp(p, key, n) == 0 && p[n] == ':') {
            p += n + 1;
            return p + strspn(p, " \t");
        }
    }
    return NULL;
}

static bool value_is(const char *text, const char *key, const char *want)
{
    const char *v = status_value(text, key);
    size_t n = strlen(want);
    return v && strncmp(v, want, n) == 0 && v[n] == '\n';
}

static int check_thread(const char *path, uid_t uid, struct mt_err *err)
{
    static const struct {
        const char *key, *want;
    } rule[] = {{"NoNewPrivs", "1"}, {"Seccomp", "2"}, {"CapEff", "0000000000000000"}, {"CapPrm", "0000000000000000"},
        {"CapInh", "0000000000000000"}, {"CapAmb", "0000000000000000"}};
    mt_auto_free char *text = NULL;
    size_t len;
    char uids[64];
    if (mt_file_read(path, STATUS_MAX, &text, &len, err) < 0)
        return -MT_E_NOT_FOUND;
    (void)snprintf(uids, sizeof uids, "%u\t%u\t%u\t%u", uid, uid, uid, uid);
    if (!value_is(text, "Uid", uids))
        return MT_FAIL(err, MT_E_DENIED, "%s: Uid is not %u in all four places", path, uid);
    for (size_t i = 0; i < MT_ARRAY_LEN(rule); i++) {
        if (!value_is(text, rule[i].key, rule[i].want))
            return MT_FAIL(err, MT_E_DENIED, "%s: %s is not %s", path, rule[i].key, rule[i].want);
    }
    return 0;
}

int mt_confine_check(pid_t pid, uid_t uid, struct mt_err *err)
{
    char path[320];
    (void)snprintf(path, sizeof path, "/proc/%d/task", pid);
    mt_auto_dir DIR *d = opendir(path);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "process %d", pid);
    size_t seen = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/task/%s/status", pid, e->d_name);
        int r = check_thread(path, uid, err);
        if (r == -MT_E_NOT_FOUND)
            continue; /* a thread that ended meanwhile */
        if (r < 0)
            return r;
        seen++;
    }
    return seen > 0 ? 0 : MT_FAIL(err, MT_E_NOT_FOUND, "process %d has no threads left", pid);
}
