/* SPDX-License-Identifier: Apache-2.0 */
#include "os/spawn.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static const char *const plain_env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};

struct failure {
    int step; /* index into step_name */
    int err;
};

enum { STEP_FDS = 0, STEP_CGROUP, STEP_NETNS, STEP_BOX, STEP_IDS, STEP_CWD, STEP_EXEC, STEP_MAX };
static const char *const step_name[STEP_MAX] = {"pass descriptors to", "join cgroup for", "enter network namespace for", "make a sandbox for", "change user for",
                                                "change folder for", "run"};

/* Between fork and exec: async-signal-safe calls only. */
__attribute__((noreturn)) static void child_fail(int fd, int step)
{
    struct failure f = {step, errno};
    (void)!write(fd, &f, sizeof f);
    _exit(127);
}

static int child_fds(const struct mt_spawn *s)
{
    int std[3] = {s->stdin_fd, s->stdout_fd, s->stderr_fd};
    int null_fd = -1;
    /* move above 2 first, so that no dup2 overwrites a source still needed */
    for (int i = 0; i < 3; i++) {
        if (std[i] < 0) {
            if (null_fd < 0)
                null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
            std[i] = null_fd;
        }
        std[i] = fcntl(std[i], F_DUPFD_CLOEXEC, 3);
        if (std[i] < 0)
            return -1;
    }
    for (int i = 0; i < 3; i++)
        if (dup2(std[i], i) < 0)
            return -1;
    /* everything else goes at exec; what is kept is named */
    if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) < 0)
        return -1;
    for (size_t i = 0; i < s->keep_count; i++) {
        int f = fcntl(s->keep_fds[i], F_GETFD);
        if (s->keep_fds[i] > 2 && (f < 0 || fcntl(s->keep_fds[i], F_SETFD, f & ~FD_CLOEXEC) < 0))
            return -1;
    }
    return 0;
}

/* Change user; what is in ambient_caps survives it and the exec, all else goes. capabilities(7). */
static int child_ids(const struct mt_spawn *s)
{
    if (s->ambient_caps && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return -1;
    /* The calls themselves: glibc's wrappers would have all threads follow, by signals and under locks, and there are none in this process. */
    if (syscall(SYS_setgroups, (size_t)0, NULL) < 0 || syscall(SYS_setresgid, s->gid, s->gid, s->gid) < 0 || syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0)
        return -1;
    if (!s->ambient_caps)
        return 0;
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    uint32_t lo = (uint32_t)s->ambient_caps, hi = (uint32_t)(s->ambient_caps >> 32);
    struct __user_cap_data_struct d[2] = {{lo, lo, lo}, {hi, hi, hi}};
    if (syscall(SYS_capset, &h, d) < 0)
        return -1;
    for (unsigned long cap = 0; cap < 64; cap++)
        if ((s->ambient_caps >> cap & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
            return -1;
    return 0;
}

/* Namespaces and limits need root, the rest of the sandbox comes after the change of user. */
static int child_box(const struct mt_spawn_sandbox *b)
{
    const struct rlimit as = {b->as_bytes, b->as_bytes}, cpu = {b->cpu_seconds, b->cpu_seconds + 1}, file = {b->file_bytes, b->file_bytes}, core = {0, 0};
    if (unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    return setrlimit(RLIMIT_AS, &as) < 0 || setrlimit(RLIMIT_CPU, &cpu) < 0 || setrlimit(RLIMIT_FSIZE, &file) < 0 || setrlimit(RLIMIT_CORE, &core) < 0
               ? -1 : 0;
}

__attribute__((noreturn)) static void child(const struct mt_spawn *s, pid_t parent, int report)
{
    int high = fcntl(report, F_DUPFD_CLOEXEC, 3); /* a parent without stdio gets pipes numbered 0..2, which are about to be replaced */
    report = high < 0 ? report : high;
    static const unsigned long fresh[4]; /* struct kernel_sigaction: SIG_DFL, no flags, no restorer, no mask */
    for (int i = 1; i < NSIG; i++)
        /* the bare system call: libc refuses its own two, which may be ignored by inheritance; KILL and STOP refuse: fine */
        (void)syscall(SYS_rt_sigaction, i, &fresh, NULL, (size_t)8);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (s->new_session)
        (void)setsid();
    if (s->parent_death_signal) {
        (void)prctl(PR_SET_PDEATHSIG, s->parent_death_signal);
        if (getppid() != parent) /* it died before we asked: nobody would tell us */
            _exit(127);
    }
    for (size_t i = 0; i < MT_ARRAY_LEN(s->cgroup_procs) && s->cgroup_procs[i]; i++) {
        int fd = open(s->cgroup_procs[i], O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, "0", 1) != 1)
            child_fail(report, STEP_CGROUP);
        (void)close(fd);
    }
    if (s->yields) { /* a kernel or a container that refuses is no reason not to run */
        const struct sched_param none_of_it = {0};
        (void)sched_setscheduler(0, SCHED_IDLE, &none_of_it);
        (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
    }
    if (s->netns_fd > 0 && setns(s->netns_fd, CLONE_NEWNET) < 0)
        child_fail(report, STEP_NETNS);
    if (child_fds(s) < 0)
        child_fail(report, STEP_FDS);
    if (chdir(s->cwd ? s->cwd : "/") < 0)
        child_fail(report, STEP_CWD);
    if (s->sandbox && child_box(s->sandbox) < 0)
        child_fail(report, STEP_BOX);
    if (s->set_ids && child_ids(s) < 0)
        child_fail(report, STEP_IDS);
    if ((s->no_new_privs || s->sandbox) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        child_fail(report, STEP_IDS);
    if (s->sandbox && s->sandbox->filter && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0U, s->sandbox->filter) < 0)
        child_fail(report, STEP_BOX);
    /* execve takes char *const *: it does not write through it */
    union {
        const char *const *in;
        char *const *out;
    } argv = {.in = s->argv}, envp = {.in = s->envp ? s->envp : plain_env};
    (void)execve(s->path, argv.out, envp.out);
    child_fail(report, STEP_EXEC);
}

int mt_spawn(const struct mt_spawn *s, pid_t *ret_pid, int *ret_pidfd, struct mt_err *err)
{
    MT_ASSERT(s->path && s->path[0] == '/' && s->argv && s->argv[0]);
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe for '%s'", s->path);
    mt_auto_fd int rd = p[0];
    mt_auto_fd int wr = p[1];
    /* signals stay blocked until the child has default handlers: none of ours may run in it */
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t self = getpid(), pid = fork();
    if (pid == 0)
        child(s, self, wr);
    int fork_errno = errno;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pid < 0) {
        errno = fork_errno;
        return MT_FAIL_ERRNO(err, MT_E_IO, "fork for '%s'", s->path);
    }
    mt_closep(&wr);
    mt_auto_fd int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct failure f;
    ssize_t n;
    while ((n = read(rd, &f, sizeof f)) < 0 && errno == EINTR)
        ;
    if (n == (ssize_t)sizeof f || pidfd < 0) {
        if (pidfd < 0) {
            f = (struct failure){STEP_EXEC, errno};
            (void)kill(pid, SIGKILL);
        }
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        errno = f.err;
        return MT_FAIL_ERRNO(err, f.err == ENOENT && f.step == STEP_EXEC ? MT_E_NOT_FOUND : MT_E_IO, "%s '%s'",
                             (unsigned)f.step < STEP_MAX ? step_name[f.step] : "start", s->path);
    }
    *ret_pid = pid;
    if (ret_pidfd)
        *ret_pidfd = MT_TAKE_FD(pidfd);
    return 0;
}

int mt_pidfd_open(pid_t pid, int *ret_fd, struct mt_err *err)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ESRCH ? MT_E_NOT_FOUND : MT_E_IO, "process %d", (int)pid);
    *ret_fd = fd;
    return 0;
}

int mt_pidfd_kill(int pidfd, int signo, struct mt_err *err)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0) < 0 && errno != ESRCH)
        return MT_FAIL_ERRNO(err, MT_E_IO, "send signal %d", signo);
    return 0;
}

int mt_pidfd_wait(int pidfd, int64_t timeout_ms, struct mt_run_result *ret, struct mt_err *err)
{
    int64_t end = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    for (;;) {
        int64_t left = (end - mt_clock_mono() + MT_NS_PER_MS - 1) / MT_NS_PER_MS;
        struct pollfd pf = {.fd = pidfd, .events = POLLIN};
        int n = poll(&pf, 1, left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left);
        if (n > 0)
            break;
        if (n < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "wait for process");
        if (n == 0 && mt_clock_mono() >= end)
            return MT_FAIL(err, MT_E_TIMEOUT, "process still runs after %lld ms", (long long)timeout_ms);
    }
    siginfo_t si = {0};
    if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &si, WEXITED) < 0)
        si.si_code = CLD_EXITED; /* not our child: that it ended is all there is to know */
    if (ret)
        *ret = (struct mt_run_result){.exited = si.si_code == CLD_EXITED, .status = si.si_status};
    return 0;
}

struct run {
    int in, out, errfd; /* our ends, -1 when closed */
    const char *input;
    size_t input_left;
    struct mt_buf *outbuf, *errbuf;
};

static void drain(int *fd, struct mt_buf *b)
{
    char part[16384];
    ssize_t n = read(*fd, part, sizeof part);
    if (n > 0) {
        if (b && !b->failed) {
            size_t room = b->max - b->len;
            mt_buf_put(b, part, (size_t)n < room ? (size_t)n : room);
        }
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        mt_closep(fd);
    }
}

static void feed(struct run *r)
{
    ssize_t n = r->input_left ? write(r->in, r->input, r->input_left) : 0;
    if (n > 0) {
        r->input += n;
        r->input_left -= (size_t)n;
    }
    if (r->input_left == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        mt_closep(&r->in);
}

/* Until every pipe is closed and then the program has ended; or the deadline passes, or @cancel (-1: none) is readable. Writes to a closed stdin must not
 * kill us: SIGPIPE is blocked meanwhile. */
static int pump(struct run *r, int pidfd, int cancel, int64_t end)
{
    for (;;) {
        bool piped = r->in >= 0 || r->out >= 0 || r->errfd >= 0;
        int64_t left = (end - mt_clock_mono()) / MT_NS_PER_MS;
        if (left < 0)
            return -MT_E_TIMEOUT;
        struct pollfd pf[5] = {{.fd = r->in, .events = POLLOUT}, {.fd = r->out, .events = POLLIN}, {.fd = r->errfd, .events = POLLIN},
                               {.fd = piped ? -1 : pidfd, .events = POLLIN}, {.fd = cancel, .events = POLLIN}};
        int n = poll(pf, 5, left > 3600000 ? 3600000 : (int)left + 1);
        if (n < 0 && errno != EINTR)
            return -MT_E_IO;
        if (n <= 0)
            continue;
        if (pf[3].revents)
            return 0;
        if (pf[4].revents)
            return -MT_E_CANCELLED;
        if (pf[0].revents)
            feed(r);
        if (pf[1].revents)
            drain(&r->out, r->outbuf);
        if (pf[2].revents)
            drain(&r->errfd, r->errbuf);
    }
}

/* A child that is not reaped yet: with @group it and what it has started. */
static void signal_child(int pidfd, pid_t pid, bool group, int signo)
{
    if (group)
        (void)kill(-pid, signo);
    (void)mt_pidfd_kill(pidfd, signo, NULL);
}

int mt_run(const struct mt_spawn *spec, const void *input, size_t input_len, struct mt_buf *out, struct mt_buf *errout, int64_t timeout_ms,
           struct mt_run_result *ret, struct mt_err *err)
{
    int a[2] = {-1, -1}, b[2] = {-1, -1}, c[2] = {-1, -1};
    bool ok = pipe2(a, O_CLOEXEC) == 0 && pipe2(b, O_CLOEXEC) == 0 && pipe2(c, O_CLOEXEC) == 0;
    mt_auto_fd int child_in = a[0];
    mt_auto_fd int in = a[1];
    mt_auto_fd int our_out = b[0];
    mt_auto_fd int child_out = b[1];
    mt_auto_fd int our_err = c[0];
    mt_auto_fd int child_err = c[1];
    if (!ok)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipes for '%s'", spec->path);
    (void)fcntl(in, F_SETFL, O_NONBLOCK);
    struct mt_spawn s = *spec;
    s.stdin_fd = child_in;
    s.stdout_fd = child_out;
    s.stderr_fd = child_err;
    pid_t pid;
    mt_auto_fd int pidfd = -1;
    int r = mt_spawn(&s, &pid, &pidfd, err);
    if (r < 0)
        return r;
    mt_closep(&child_in);
    mt_closep(&child_out);
    mt_closep(&child_err);

    sigset_t pipe_set, old;
    (void)sigemptyset(&pipe_set);
    (void)sigaddset(&pipe_set, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
    int64_t end = mt_clock_mono() + timeout_ms * MT_NS_PER_MS;
    struct run run = {.in = MT_TAKE_FD(in), .out = MT_TAKE_FD(our_out), .errfd = MT_TAKE_FD(our_err), .input = input,
                      .input_left = input ? input_len : 0, .outbuf = out, .errbuf = errout};
    int pumped = pump(&run, pidfd, s.cancel_fd > 0 ? s.cancel_fd : -1, end);
    struct mt_run_result res = {0};
    int waited = mt_pidfd_wait(pidfd, 0, &res, NULL);
    if (waited < 0) {
        signal_child(pidfd, pid, s.new_session, SIGTERM);
        if (mt_pidfd_wait(pidfd, 1000, &res, NULL) < 0) {
            signal_child(pidfd, pid, s.new_session, SIGKILL);
            (void)mt_pidfd_wait(pidfd, 10000, &res, NULL);
        }
    }
    mt_closep(&run.in);
    mt_closep(&run.out);
    mt_closep(&run.errfd);
    struct timespec zero = {0};
    while (sigtimedwait(&pipe_set, NULL, &zero) > 0)
        ;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (waited < 0 && pumped == -MT_E_CANCELLED)
        return MT_FAIL(err, MT_E_CANCELLED, "'%s' was ended before it had done", spec->path);
    if (waited < 0)
        return MT_FAIL(err, MT_E_TIMEOUT, "'%s' did not end within %lld ms", spec->path, (long long)timeout_ms);
    *ret = res;
    return 0;
}

int mt_run_ok(const struct mt_spawn *s, const void *input, size_t input_len, struct mt_buf *out, int64_t timeout_ms, struct mt_err *err)
{
    mt_auto_buf struct mt_buf e = MT_BUF_INIT(8192);
    struct mt_run_result res;
    int r = mt_run(s, input, input_len, out, &e, timeout_ms, &res, err);
    if (r < 0)
        return r;
    if (res.exited && res.status == 0)
        return 0;
    char text[160];
    const char *p = mt_buf_cstr(&e);
    size_t n = e.len;
    while (n > 0 && (p[n - 1] == '\n' || p[n - 1] == ' '))
        n--;
    size_t from = n;
    while (from > 0 && p[from - 1] != '\n')
        from--;
    mt_printable(p + from, n - from, text, sizeof text);
    return MT_FAIL(err, MT_E_IO, "'%s' %s %d%s%s", s->path, res.exited ? "ended with status" : "was killed by signal", res.status,
                   *text ? ": " : "", text);
}

int mt_find_program(const char *name, const char *package, char *ret, size_t size, struct mt_err *err)
{
    static const char *const dirs[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"};
    for (size_t i = 0; i < MT_ARRAY_LEN(dirs); i++) {
        if (mt_fmt(ret, size, err, "%s/%s", dirs[i], name) < 0)
            return -MT_E_LIMIT;
        if (access(ret, X_OK) == 0)
            return 0;
    }
    return MT_FAIL(err, MT_E_NOT_FOUND, "program '%s' is not installed%s%s", name, package ? ": apt-get install " : "", package ? package : "");
}
