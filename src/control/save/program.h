/* SPDX-License-Identifier: Apache-2.0 */
/* pg_dump and pg_restore, as children of a verb of moat-control. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

struct mt_pg_program {
    char **env;
    char path[256];
    pid_t pid;
    int pidfd, fd; /* fd: our end of its pipe */
};

/** Find the newest @name of this machine and the environment for the database of @conninfo. */
int mt_pg_program_init(struct mt_pg_program *p, const char *name, const char *conninfo, struct mt_err *err);
/** Start it; @reads: it reads from p->fd, else it writes there. Its complaints go to our stderr. */
int mt_pg_program_start(struct mt_pg_program *p, const char *const *argv, bool reads, struct mt_err *err);
/** Wait for its end, at most @limit_ms. Any status but 0 is -MT_E_IO. */
int mt_pg_program_wait(struct mt_pg_program *p, int64_t limit_ms, struct mt_err *err);
/** Ends it if it runs. */
void mt_pg_program_done(struct mt_pg_program *p);
