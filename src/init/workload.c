/* SPDX-License-Identifier: Apache-2.0 */
#include "init/workload.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/str.h"

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { NOFILE_SOFT = 65536, NOFILE_HARD = 1048576, CLOSE_RANGE_CLOEXEC_FLAG = 4 };

enum step { STEP_SETUP = 0, STEP_IDS, STEP_CWD, STEP_EXEC };

struct failure {
    int step, code;
};

static const struct {
    int number;
    const char *name;
} signals[] = {{SIGHUP, "HUP"},     {SIGINT, "INT"},     {SIGQUIT, "QUIT"}, {SIGILL, "ILL"},   {SIGTRAP, "TRAP"},
               {SIGABRT, "ABRT"},   {SIGBUS, "BUS"},     {SIGFPE, "FPE"},   {SIGKILL, "KILL"}, {SIGUSR1, "USR1"},
               {SIGSEGV, "SEGV"},   {SIGUSR2, "USR2"},   {SIGPIPE, "PIPE"}, {SIGALRM, "ALRM"}, {SIGTERM, "TERM"},
               {SIGXCPU, "XCPU"},   {SIGXFSZ, "XFSZ"},   {SIGVTALRM, "VTALRM"}, {SIGPROF, "PROF"},
               {SIGIO, "IO"},       {SIGPWR, "PWR"},     {SIGSYS, "SYS"},   {SIGSTKFLT, "STKFLT"}};

const char *mt_workload_signal_name(int signo)
{
    static char number[16];
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (signals[i].number == signo)
            return signals[i].name;
    (void)snprintf(number, sizeof number, "%d", signo);
    return number;
}

int mt_workload_signal_number(const char *name)
{
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (MT_STREQ(signals[i].name, name))
            return signals[i].number;
    return 0;
}

/* --- environment --- */

struct env_writer {
    struct mt_workload_env *env;
    size_t count, used;
    bool full;
};

static void env_add(struct env_writer *w, const char *key, const char *equals, const char *value)
{
    size_t room = sizeof w->env->text - w->used;
    int n = snprintf(w->env->text + w->used, room, "%s%s%s", key, equals, value);
    if (n < 0 || (size_t)n >= room || w->count + 1 >= MT_WORKLOAD_ENV_MAX) {
        w->full = true;
        return;
    }
    w->env->vars[w->count++] = w->env->text + w->used;
    w->used += (size_t)n + 1;
}

int mt_workload_env(const struct mt_guest_process *p, const struct mt_user *user, struct mt_workload_env *ret,
                    struct mt_err *err)
{
    struct env_writer w = {.env = ret};
    bool path = false, home = false;
    for (size_t i = 0; i < p->env_count && !w.full; i++) {
        path |= MT_STREQ(p->env[i].key, "PATH");
        home |= MT_STREQ(p->env[i].key, "HOME");
        env_add(&w, p->env[i].key, "=", p->env[i].value);
    }
    if (!path)
        env_add(&w, DEFAULT_PATH, "", "");
    if (!home)
        env_add(&w, "HOME", "=", user->home);
    if (w.full)
        return MT_FAIL(err, MT_E_LIMIT, "environment is larger than 128 KiB");
    ret->vars[w.count] = NULL;
    return 0;
}

/* --- child side: nothing here may allocate or return --- */

__attribute__((noreturn)) static void child_fail(int fd, enum step step, int code)
{
    const struct failure f = {.step = (int)step, .code = code};
    ssize_t n = write(fd, &f, sizeof f);
    _exit(n == (ssize_t)sizeof f ? 127 : 126);
}

static const char *env_value(char *const *envp, const char *key)
{
    size_t n = strlen(key);
    for (; *envp; envp++)
        if (strncmp(*envp, key, n) == 0 && (*envp)[n] == '=')
            return *envp + n + 1;
    return "";
}

static void child_exec(const char *const *argv, char *const *envp, int fail_fd)
{
    char path[4096];
    char **args;
    int denied = 0;
    memcpy(&args, &argv, sizeof args); /* execve() takes char *const * but writes nothing */
    if (strchr(argv[0], '/')) {
        (void)execve(argv[0], args, envp);
        child_fail(fail_fd, STEP_EXEC, errno);
    }
    for (const char *dir = env_value(envp, "PATH");; dir++) {
        size_t n = strcspn(dir, ":");
        int len = n > 0 ? snprintf(path, sizeof path, "%.*s/%s", (int)n, dir, argv[0])
                        : snprintf(path, sizeof path, "./%s", argv[0]);
        if (len > 0 && (size_t)len < sizeof path) {
            (void)execve(path, args, envp);
            if (errno == EACCES)
                denied = EACCES; /* a later folder may have one that runs */
            else if (errno != ENOENT && errno != ENOTDIR)
                child_fail(fail_fd, STEP_EXEC, errno);
        }
        dir += n;
        if (*dir == '\0')
            break;
    }
    child_fail(fail_fd, STEP_EXEC, denied ? denied : ENOENT);
}

static void child_limits(const struct mt_workload_spec *spec, int fail_fd)
{
    struct rlimit files = {.rlim_cur = spec->nofile ? spec->nofile : NOFILE_SOFT, .rlim_max = NOFILE_HARD};
    const struct rlimit core = {0, 0};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) {
        /* without CAP_SYS_RESOURCE (tests): as far as the present hard limit goes */
        struct rlimit now;
        if (getrlimit(RLIMIT_NOFILE, &now) != 0)
            child_fail(fail_fd, STEP_SETUP, errno);
        now.rlim_cur = files.rlim_cur < now.rlim_max ? files.rlim_cur : now.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &now) != 0)
            child_fail(fail_fd, STEP_SETUP, errno);
    }
    (void)setrlimit(RLIMIT_CORE, &core);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "0", 1) != 1)
            child_fail(fail_fd, STEP_SETUP, errno); /* else it would be as protected as init itself */
        (void)close(fd);
    }
}

static void child_signals(void)
{
    sigset_t none;
    for (int s = 1; s < NSIG; s++) {
        static const unsigned long fresh[4]; /* struct kernel_sigaction: SIG_DFL, no flags, no restorer, no mask */
        /* the bare system call: libc refuses its own two, which may be ignored by inheritance; KILL and STOP refuse: fine */
        (void)syscall(SYS_rt_sigaction, s, &fresh, NULL, (size_t)8);
    }
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

__attribute__((noreturn)) static void child(const struct mt_workload_spec *spec, int fail_fd)
{
    const struct mt_user *u = spec->user;
    (void)setsid();
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    /* fail_fd was moved to 3 or above by the parent, so these three cannot hit it */
    if (null_fd < 0 || dup2(spec->has_stdin ? spec->stdin_fd : null_fd, 0) < 0 || dup2(spec->stdout_fd, 1) < 0 || dup2(spec->stderr_fd, 2) < 0)
        child_fail(fail_fd, STEP_SETUP, errno);
    if (spec->terminal && ioctl(0, TIOCSCTTY, 0) != 0)
        child_fail(fail_fd, STEP_SETUP, errno);
    if (spec->has_cgroup && write(spec->cgroup_procs_fd, "0", 1) != 1)
        child_fail(fail_fd, STEP_SETUP, errno);
    (void)syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC_FLAG);
    child_limits(spec, fail_fd);
    if (geteuid() == 0 && setgroups(u->groups_count, u->groups) != 0)
        child_fail(fail_fd, STEP_IDS, errno);
    if (setresgid(u->gid, u->gid, u->gid) != 0 || setresuid(u->uid, u->uid, u->uid) != 0)
        child_fail(fail_fd, STEP_IDS, errno);
    if (chdir(spec->cwd) != 0)
        child_fail(fail_fd, STEP_CWD, errno);
    (void)umask(022);
    child_signals();
    child_exec(spec->argv, spec->envp, fail_fd);
    _exit(127);
}

/* --- parent side --- */

static int explain(const struct mt_workload_spec *spec, const struct failure *f, const char **ret_reason,
                   struct mt_err *err)
{
    bool missing = f->code == ENOENT || f->code == ENOTDIR;
    errno = f->code;
    switch (f->step) {
    case STEP_CWD:
        *ret_reason = "workdir_missing";
        return MT_FAIL_ERRNO(err, missing ? MT_E_NOT_FOUND : MT_E_DENIED, "%.160s", spec->cwd);
    case STEP_EXEC:
        *ret_reason = missing ? "exec_not_found" : "exec_denied";
        return MT_FAIL_ERRNO(err, missing ? MT_E_NOT_FOUND : MT_E_DENIED, "%.160s", spec->argv[0]);
    default:
        *ret_reason = "exec_denied";
        return MT_FAIL_ERRNO(err, MT_E_IO, f->step == STEP_IDS ? "set user and group" : "prepare the process");
    }
}

int mt_workload_spawn(const struct mt_workload_spec *spec, pid_t *ret_pid, const char **ret_reason,
                      struct mt_err *err)
{
    int fds[2];
    *ret_reason = "exec_denied";
    if (pipe2(fds, O_CLOEXEC) != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    mt_auto_fd int in = fds[0];
    mt_auto_fd int out = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
    (void)close(fds[1]);
    if (out < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    pid_t pid = fork();
    if (pid < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "fork");
    if (pid == 0)
        child(spec, out);
    mt_closep(&out);
    struct failure f;
    ssize_t n;
    do {
        n = read(in, &f, sizeof f); /* ends when exec closes the pipe or the child dies */
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof f) {
        (void)waitpid(pid, NULL, 0);
        return explain(spec, &f, ret_reason, err);
    }
    *ret_pid = pid;
    return 0;
}
