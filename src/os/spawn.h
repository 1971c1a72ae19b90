/* SPDX-License-Identifier: Apache-2.0 */
/* The one way to start a process: absolute path, no shell, explicit environment, signals reset, descriptors closed,
 * failure of exec reported to the caller. */
#pragma once

#include "base/buf.h"

#include <sys/types.h>

struct sock_fprog;

/* What a program that reads hostile bytes gives up before its exec; together with set_ids. */
struct mt_spawn_sandbox {
    uint64_t as_bytes, cpu_seconds, file_bytes; /* RLIMIT_AS, _CPU, _FSIZE; core dumps are off */
    const struct sock_fprog *filter;            /* seccomp, in force from before the exec; NULL: none */
};

struct mt_spawn {
    const char *path;         /* absolute */
    const char *const *argv;  /* NULL terminated, argv[0] included */
    const char *const *envp;  /* NULL: only PATH and LC_ALL=C */
    int stdin_fd;             /* borrowed; -1: /dev/null. Likewise below. */
    int stdout_fd;
    int stderr_fd;
    const int *keep_fds;      /* further descriptors kept open under their own numbers */
    size_t keep_count;
    const char *cwd;          /* NULL: "/" */
    uid_t uid;                /* with set_ids: setgroups(0), setgid, setuid in the child */
    gid_t gid;
    bool set_ids;
    uint64_t ambient_caps;    /* with set_ids: bits of capabilities kept across the change of user and exec, e.g. 1 << CAP_NET_BIND_SERVICE */
    bool new_session;         /* setsid: the child outlives our terminal */
    bool no_new_privs;
    bool yields;              /* SCHED_IDLE and the idle class of its I/O: it gives way to everything of its cgroup. Best effort. */
    int parent_death_signal;  /* 0: none (PR_SET_PDEATHSIG; note that it follows the calling *thread*) */
    const char *cgroup_procs[4]; /* cgroup.procs / tasks files that the child joins before exec; NULL: unused */
    const struct mt_spawn_sandbox *sandbox; /* network, mount and IPC namespaces of its own, limits, no_new_privs, filter; NULL: none */
    int netns_fd;             /* setns(CLONE_NEWNET) before exec; 0 or -1: stay */
    int cancel_fd;            /* of mt_run: once it is readable, the program is ended; 0 or -1: none */
};

/** Start the process. @ret_pid, @ret_pidfd (caller closes). -MT_E_NOT_FOUND when the program is missing, -MT_E_IO otherwise; then no
 * process is left. Thread-safe. */
int mt_spawn(const struct mt_spawn *s, pid_t *ret_pid, int *ret_pidfd, struct mt_err *err);

struct mt_run_result {
    bool exited; /* else killed by signal */
    int status;  /* exit code or signal number */
};

/**
 * Run a program to its end: output of stdout goes to @out, stderr to @errout (either may be NULL; both bounded by their max, the rest is
 * read and dropped), @input (may be NULL) to its stdin. TERM at the deadline or at the word of @s->cancel_fd, KILL one second later; with new_session to
 * all that it has started too. 0 when it ended by itself, whatever its status; -MT_E_TIMEOUT; -MT_E_CANCELLED; -code of mt_spawn. stdin_fd, stdout_fd
 * and stderr_fd of @s are ignored.
 */
int mt_run(const struct mt_spawn *s, const void *input, size_t input_len, struct mt_buf *out, struct mt_buf *errout, int64_t timeout_ms,
           struct mt_run_result *ret, struct mt_err *err);
/** As mt_run, but any status other than exit 0 is -MT_E_IO with the last line of its stderr in the message. */
int mt_run_ok(const struct mt_spawn *s, const void *input, size_t input_len, struct mt_buf *out, int64_t timeout_ms, struct mt_err *err);
/** Absolute path of @name in /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; -MT_E_NOT_FOUND names the package hint if given. */
int mt_find_program(const char *name, const char *package, char *ret, size_t size, struct mt_err *err);
/** pidfd_open(2). -MT_E_NOT_FOUND when gone. */
int mt_pidfd_open(pid_t pid, int *ret_fd, struct mt_err *err);
/** pidfd_send_signal(2); a process that is gone already is success. */
int mt_pidfd_kill(int pidfd, int signo, struct mt_err *err);
/** Wait for the end of the process behind @pidfd, our child (reaped) or not. -MT_E_TIMEOUT. */
int mt_pidfd_wait(int pidfd, int64_t timeout_ms, struct mt_run_result *ret, struct mt_err *err);
