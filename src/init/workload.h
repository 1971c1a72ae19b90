/* SPDX-License-Identifier: Apache-2.0 */
/* Starts the workload and its prestart commands: ids, limits, folder, environment, search of the program. */
#pragma once

#include <sys/types.h>

#include "base/err.h"
#include "init/user.h"
#include "wire/guest.h"

enum { MT_WORKLOAD_ENV_MAX = MT_GUEST_ENV_MAX + 3 };

/** Environment as execve() wants it. About 140 KiB: keep it static. */
struct mt_workload_env {
    char *vars[MT_WORKLOAD_ENV_MAX];
    char text[MT_GUEST_ENV_BYTES_MAX + 1024];
};

/** "K=V" of every entry; PATH and HOME (of @user) are added when the config sets none. -MT_E_LIMIT. */
int mt_workload_env(const struct mt_guest_process *process, const struct mt_user *user,
                    struct mt_workload_env *ret, struct mt_err *err);

struct mt_workload_spec {
    const char *const *argv; /**< NULL-terminated, at least one */
    char *const *envp;
    const char *cwd;
    const struct mt_user *user;
    int stdout_fd, stderr_fd; /**< borrowed */
    bool has_stdin;           /**< else stdin is /dev/null */
    int stdin_fd;             /**< borrowed */
    bool terminal;            /**< stdin becomes the controlling terminal */
    bool has_cgroup;          /**< the child joins the group of this open cgroup.procs first */
    int cgroup_procs_fd;      /**< borrowed */
    uint64_t nofile;          /**< 0: 65536 */
};

/**
 * Fork and exec in a new session. Without has_stdin stdin is /dev/null; every other descriptor is closed, signals are reset.
 * Returns 0 and @ret_pid when the program runs. Else -MT_E_NOT_FOUND, -MT_E_DENIED or -MT_E_IO with
 * @ret_reason, a reason code of runtime.md 6 (workdir_missing, exec_not_found, exec_denied), static text;
 * the child has been reaped.
 */
int mt_workload_spawn(const struct mt_workload_spec *spec, pid_t *ret_pid, const char **ret_reason,
                      struct mt_err *err);

/** Name of a signal without SIG ("SEGV"), "RTMIN+n" style numbers as "34"; static text until the next call. */
const char *mt_workload_signal_name(int signo);
/** Number of a stop signal of the config; 0 for another name. */
int mt_workload_signal_number(const char *name);
