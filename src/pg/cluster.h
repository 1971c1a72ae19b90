/* SPDX-License-Identifier: Apache-2.0 */
/* Our own PostgreSQL cluster: made once by initdb, reachable by a Unix socket only (peer authentication), run by an
 * unprivileged user, started, adopted, stopped. Durability settings stay PostgreSQL's defaults. Blocking; used by `moat up`
 * and by tests. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

/** An operating system user who may connect as a role. */
struct mt_pg_map {
    const char *os_user;
    const char *role;
};

struct mt_pg_cluster_conf {
    const char *bin_dir;    /* folder of initdb and postgres; NULL: the newest of /usr/lib/postgresql/VERSION/bin from 15 on */
    const char *data_dir;   /* absolute; made when missing. The user must be able to traverse the folders above it. */
    const char *socket_dir; /* absolute and short: + "/.s.PGSQL.5432" has to fit 107 bytes; made when missing */
    const char *log_file;   /* the server's stderr; appended */
    uid_t uid;              /* who runs it; not 0 */
    gid_t gid;
    const struct mt_pg_map *maps; /* besides the caller's own user -> moat_super, moat_owner, moat_control */
    int n_maps;
    const char *database;   /* NULL: "moat" */
    const char *extra_conf; /* further lines of postgresql.conf, or NULL */
};

struct mt_pg_cluster {
    pid_t pid; /* postmaster */
    int pidfd; /* owned */
    bool adopted; /* it ran already; else our child */
    bool fresh;   /* initdb ran in this call */
};

/**
 * Bring the cluster up: initdb when there is none (into a folder beside, renamed when complete), end what is left of a
 * killed one, adopt a running one, else start; wait until it accepts connections; make the roles moat_owner,
 * moat_projector (no login, writes log and views), moat_control (member of moat_projector, without inheriting) and the
 * database, owned by moat_owner. The superuser is moat_super.
 * @timeout_ms  for everything after initdb (crash recovery included); initdb itself has 60 s.
 * Errors name the last lines of the log. Safe to call after kill -9 of anything.
 */
int mt_pg_cluster_up(const struct mt_pg_cluster_conf *conf, int timeout_ms, struct mt_pg_cluster *ret, struct mt_err *err);

enum mt_pg_stop { MT_PG_STOP_FAST = 0, MT_PG_STOP_IMMEDIATE };
/** Stop and wait for the end: fast ends sessions and writes a checkpoint, immediate leaves recovery to the next start.
 * After half of @timeout_ms a fast stop turns immediate, after all of it the server is killed. Closes the pidfd. */
int mt_pg_cluster_stop(struct mt_pg_cluster *c, const struct mt_pg_cluster_conf *conf, enum mt_pg_stop how, int timeout_ms,
                       struct mt_err *err);
/** The cluster of @conf, running or not: 0 and @ret filled when its postmaster runs, -MT_E_NOT_FOUND otherwise. */
int mt_pg_cluster_find(const struct mt_pg_cluster_conf *conf, struct mt_pg_cluster *ret, struct mt_err *err);

/** libpq connection string for @role into @ret. */
int mt_pg_cluster_conninfo(const struct mt_pg_cluster_conf *conf, const char *role, char *ret, size_t size, struct mt_err *err);
