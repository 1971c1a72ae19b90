/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/pg only: the connection as query.c, pipe.c and notify.c see it. */
#pragma once

#include "pg/pg.h"

#include <libpq-fe.h>

#define PG_MAGIC 0x70676d74u
#define PG_NAMED_MAX 64
#define STMT_SLOTS 512 /* statements known on one connection, power of two */
#define HALF_MAX_NS (30 * MT_NS_PER_S) /* an attempt is gone on with for */
#define PIPE_MIN 256   /* queued operations not yet answered: room at first, power of two */
#define PIPE_MAX 65536 /* and at most; what would queue more is refused */

enum stmt_state { STMT_NEW = 0, STMT_QUEUED, STMT_READY };

struct stmt_slot {
    const struct mt_pg_stmt *stmt;
    enum stmt_state state;
};

enum pipe_kind { PIPE_END = 0, /* of a group */ PIPE_PREPARE, PIPE_NAME, PIPE_RUN };

struct pipe_op {
    struct stmt_slot *slot; /* NULL for PIPE_END */
    enum pipe_kind kind;
};

struct mt_pg {
    uint32_t magic;
    PGconn *conn; /* NULL when lost or dropped */
    PGconn *half; /* an attempt that goes on with the next one, or NULL */
    PostgresPollingStatusType half_state;
    int64_t half_since_ns; /* when the last attempt began */
    char *conninfo, *application_name, *role, *options, *shared;
    char named[PG_NAMED_MAX]; /* mt_pg_name */
    bool naming;              /* the open group of statements has begun with it */
    int connect_timeout_ms, call_timeout_ms;
    int64_t deadline_ns; /* of the running call, monotonic */
    void (*took)(void *arg, int64_t ns);
    void *took_arg;
    bool piping;
    bool lost;
    int64_t planned_size; /* mt_pg_grown */
    struct mt_pg_diag diag;
    int n_stmts;
    struct stmt_slot stmts[STMT_SLOTS];
    unsigned ops_first, ops_end; /* a ring: what was queued and not yet answered */
    unsigned ops_cap;            /* 0 or a power of two */
    struct pipe_op *ops;
};

/** The first statement of each transaction of a shared session. */
extern const struct mt_pg_stmt pg_name_stmt;
/** Start the clock of a call; -MT_E_UNAVAILABLE when there is no connection. */
int pg_begin(struct mt_pg *pg, struct mt_err *err);
/** Slot of @stmt, made on first sight. */
struct stmt_slot *pg_slot(struct mt_pg *pg, const struct mt_pg_stmt *stmt);
/** Flush and wait until PQgetResult will not block; drops the connection on deadline or loss. */
int pg_wait(struct mt_pg *pg, struct mt_err *err);
/** Next result of the current statement, NULL at its end. */
int pg_next(struct mt_pg *pg, PGresult **ret, struct mt_err *err);
/** Turn a failed result into an error, remember the details, clear @res. */
int pg_fail(struct mt_pg *pg, const struct mt_pg_stmt *stmt, PGresult *res, struct mt_err *err);
/** Error of the connection itself; drops it. */
int pg_broken(struct mt_pg *pg, const char *doing, struct mt_err *err);
void pg_drop(struct mt_pg *pg);
