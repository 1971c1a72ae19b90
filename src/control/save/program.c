/* SPDX-License-Identifier: Apache-2.0 */
/* See program.h. Debian keeps the programs of each version in a folder of its own; a newer pg_dump reads an older server, not the other way. */
#include "control/save/program.h"

#include "base/str.h"
#include "os/spawn.h"
#include "pg/env.h"

#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDERS "/usr/lib/postgresql/*/bin/%s"

static long version_of(const char *path)
{
    return strtol(path + strlen("/usr/lib/postgresql/"), NULL, 10);
}

static int find(const char *name, char *ret, size_t size, struct mt_err *err)
{
    char pattern[128];
    glob_t g = {0};
    long best = 0;
    int rc = mt_fmt(pattern, sizeof pattern, err, FOLDERS, name);
    if (rc < 0)
        return rc;
    if (glob(pattern, 0, NULL, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc; i++)
            if (version_of(g.gl_pathv[i]) > best && access(g.gl_pathv[i], X_OK) == 0 && mt_fmt(ret, size, err, "%s", g.gl_pathv[i]) == 0)
                best = version_of(g.gl_pathv[i]);
    globfree(&g);
    return best ? 0 : mt_find_program(name, "postgresql-client", ret, size, err);
}

int mt_pg_program_init(struct mt_pg_program *p, const char *name, const char *conninfo, struct mt_err *err)
{
    *p = (struct mt_pg_program){.pidfd = -1, .fd = -1};
    int rc = find(name, p->path, sizeof p->path, err);
    return rc < 0 ? rc : mt_pg_env(conninfo, &p->env, err);
}

int mt_pg_program_start(struct mt_pg_program *p, const char *const *argv, bool reads, struct mt_err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    int theirs = fds[reads ? 0 : 1];
    p->fd = fds[reads ? 1 : 0];
    const struct mt_spawn sp = {.path = p->path, .argv = argv, .envp = (const char *const *)p->env, .stdin_fd = reads ? theirs : -1,
                                .stdout_fd = reads ? STDERR_FILENO : theirs, .stderr_fd = STDERR_FILENO, .no_new_privs = true,
                                .parent_death_signal = SIGKILL};
    int rc = mt_spawn(&sp, &p->pid, &p->pidfd, err);
    (void)close(theirs);
    return rc;
}

int mt_pg_program_wait(struct mt_pg_program *p, int64_t limit_ms, struct mt_err *err)
{
    struct mt_run_result r;
    if (p->fd >= 0)
        (void)close(p->fd);
    p->fd = -1;
    int rc = mt_pidfd_wait(p->pidfd, limit_ms, &r, err);
    if (rc < 0)
        return rc;
    (void)close(p->pidfd);
    p->pidfd = -1;
    if (!r.exited || r.status != 0)
        return MT_FAIL(err, MT_E_IO, "%s ended with %s %d; what it said is above", p->path, r.exited ? "status" : "signal", r.status);
    return 0;
}

void mt_pg_program_done(struct mt_pg_program *p)
{
    struct mt_run_result r;
    if (p->fd >= 0)
        (void)close(p->fd);
    if (p->pidfd >= 0) {
        (void)mt_pidfd_kill(p->pidfd, SIGKILL, NULL);
        (void)mt_pidfd_wait(p->pidfd, 10000, &r, NULL);
        (void)close(p->pidfd);
    }
    mt_pg_env_free(p->env);
    *p = (struct mt_pg_program){.pidfd = -1, .fd = -1};
}
