/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL by libpq: one connection, blocking calls with a deadline, statements prepared on first use, pipelines, typed
 * results. A connection belongs to one thread at a time. Knows nothing of events or views. LISTEN/NOTIFY is a hint only.
 * Errors: no connection -MT_E_UNAVAILABLE; deadline passed -MT_E_TIMEOUT (the connection is then dropped: whether the
 * statement took effect is unknown); unique, check, foreign key -MT_E_CONFLICT with the constraint's name in mt_pg_diag();
 * anything else the server refuses -MT_E_IO with the server's text. */
#pragma once

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/err.h"

struct mt_pg;     /* a connection */
struct mt_pg_res; /* the rows of one statement */

/** Where and how to connect; strings are copied. */
struct mt_pg_conf {
    const char *conninfo;         /* libpq connection string or URI */
    const char *application_name; /* shown in pg_stat_activity; NULL = "moat" */
    const char *role;             /* SET ROLE after connecting; NULL = none */
    const char *options;          /* a setting that the session begins with, "-c name=value"; NULL = none */
    const char *shared;           /* name of a setting: sessions may be shared, see mt_pg_name; NULL = the session is the connection's own */
    int connect_timeout_ms;       /* 0 = 5000 */
    int call_timeout_ms;          /* deadline of each call below; 0 = 10000 */
    void (*took)(void *arg, int64_t ns); /* told how long each mt_pg_query took, on its thread; or NULL */
    void *took_arg;
};

/**
 * A statement: static storage, one object per text. It is prepared under @name on a connection when that connection first
 * uses it. The types of its parameters are those of its first use and must stay the same.
 */
struct mt_pg_stmt {
    const char *name; /* unique in the program, [a-z0-9_]{1,60} */
    const char *sql;
};

#define MT_PG_PARAMS_MAX 40
#define MT_PG_INLINE_BYTES 512

/** Parameters of one execution, in order $1, $2, ... Text and bytes are borrowed until the call returns; numbers are kept inside, by
 * their place, so that a copy is as good as the original. */
struct mt_pg_params {
    int n;
    uint32_t type[MT_PG_PARAMS_MAX];
    const char *value[MT_PG_PARAMS_MAX];
    uint16_t own[MT_PG_PARAMS_MAX]; /* 1 + where in num the value is; 0: it is borrowed */
    int len[MT_PG_PARAMS_MAX];
    int format[MT_PG_PARAMS_MAX];
    unsigned used;                 /* bytes of num in use */
    char num[MT_PG_INLINE_BYTES];
};

void mt_pg_p_init(struct mt_pg_params *p);
/** Text; NULL is SQL NULL. Use for text columns. */
void mt_pg_p_text(struct mt_pg_params *p, const char *v);
void mt_pg_p_i64(struct mt_pg_params *p, int64_t v);
void mt_pg_p_i64_null(struct mt_pg_params *p);
void mt_pg_p_i32(struct mt_pg_params *p, int32_t v);
void mt_pg_p_i32_null(struct mt_pg_params *p);
void mt_pg_p_bool(struct mt_pg_params *p, bool v);
/** jsonb from its text; NULL is SQL NULL. */
void mt_pg_p_json(struct mt_pg_params *p, const char *text);
/** timestamptz from microseconds since 1970-01-01 UTC. */
void mt_pg_p_time(struct mt_pg_params *p, int64_t wall_us);
void mt_pg_p_time_null(struct mt_pg_params *p);
/** bytea; @data NULL is SQL NULL. */
void mt_pg_p_bytes(struct mt_pg_params *p, const void *data, size_t n);
/** 16 bytes, borrowed. */
void mt_pg_p_uuid(struct mt_pg_params *p, const uint8_t v[16]);
/** One-dimensional array in binary form made with mt_pg_arr_* (array.h); borrowed. */
struct mt_pg_arr;
void mt_pg_p_arr(struct mt_pg_params *p, struct mt_pg_arr *a);
/** As mt_pg_p_arr, SQL NULL for an empty one. */
void mt_pg_p_arr_or_null(struct mt_pg_params *p, struct mt_pg_arr *a);

/** Connect, check that the server is version 15 or later, set the role. */
int mt_pg_connect(const struct mt_pg_conf *conf, struct mt_pg **ret_pg, struct mt_err *err);
/**
 * The same for one that is kept, and connected again when it is lost: @pg is made when it is NULL and stays, alive or not. What a server has begun with and
 * not ended in the time of one call goes on in the next.
 */
int mt_pg_open(const struct mt_pg_conf *conf, struct mt_pg **pg, struct mt_err *err);
/** A second connection with the configuration of @pg, for another thread. */
int mt_pg_another(const struct mt_pg *pg, struct mt_pg **ret_pg, struct mt_err *err);
/**
 * Are sessions the connection's own? Between @conf and the server may be a pooler that gives the session of one connection to another between two
 * transactions. -MT_E_INVALID says so; 0 when it was not seen; else the error of a connection.
 */
int mt_pg_own_sessions(const struct mt_pg_conf *conf, struct mt_err *err);
/**
 * Behind a pooler in transaction mode (mt_pg_conf.shared) a session lasts for one transaction. So nothing is kept in one: no statement is prepared, nothing
 * is set or locked beyond a transaction, and each transaction first sets what rows it may see, from here on @value ("" after a connect). LISTEN and
 * `options` are not for such connections. A pooler that leads to a standby is refused with -MT_E_UNAVAILABLE by each statement.
 */
void mt_pg_name(struct mt_pg *pg, const char *value);
bool mt_pg_shared(const struct mt_pg *pg);
void mt_pg_free(struct mt_pg *pg);
void mt_pg_freep(struct mt_pg **pg);
#define mt_auto_pg mt_cleanup(mt_pg_freep)
/** False once the connection was lost or dropped; only mt_pg_reset or mt_pg_free make sense then. */
bool mt_pg_alive(const struct mt_pg *pg);
/** With nothing under way: notice that the server closed the connection. Returns mt_pg_alive. */
bool mt_pg_idle_check(struct mt_pg *pg);
/** Connect again with the same configuration, as mt_pg_open. */
int mt_pg_reset(struct mt_pg *pg, struct mt_err *err);
/** Deadline of the following calls, milliseconds each. */
void mt_pg_timeout(struct mt_pg *pg, int call_timeout_ms);
/** Socket, for poll() while waiting for notifications; -1 when not connected. */
int mt_pg_fd(const struct mt_pg *pg);

/** Run one statement and wait for all its rows. @ret_res may be NULL when no rows matter. */
int mt_pg_query(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_pg_res **ret_res,
                struct mt_err *err);
/** Like mt_pg_query for exactly one row: -MT_E_NOT_FOUND when there is none, -MT_E_CORRUPT when there are more. */
/** Two statements in one round trip, the second without parameters; each in its own result. Both or none: on an error neither result is set. */
int mt_pg_query_beside(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const struct mt_pg_stmt *beside,
                       struct mt_pg_res *ret_res[2], struct mt_err *err);
int mt_pg_query_one(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p,
                    struct mt_pg_res **ret_res, struct mt_err *err);
/** Run one or more statements without parameters or rows (BEGIN, SET, migrations). Trusted text only. */
int mt_pg_exec(struct mt_pg *pg, const char *sql, struct mt_err *err);

/**
 * Tell how large the data are, in any unit that only grows. When they are twice what they were, the statements' plans are made anew at their next use:
 * a prepared statement keeps a plan that was made for tables that were empty then, and nothing but a change of the tables' statistics would end it
 * (PostgreSQL manual, "PREPARE", notes). Between statements, outside of a transaction and of a pipeline.
 */
int mt_pg_grown(struct mt_pg *pg, int64_t size, struct mt_err *err);

/* Pipelines: queue statements, then wait once. Between enter and the last sync only these calls are allowed.
 *   mt_pg_pipe_enter(pg); mt_pg_pipe_send(pg, &a, &pa); mt_pg_pipe_send(pg, &b, &pb); mt_pg_pipe_sync(pg, res, 2); ... leave */
int mt_pg_pipe_enter(struct mt_pg *pg, struct mt_err *err);
/** As enter, harmless when the connection is in pipeline mode already. */
int mt_pg_pipe_enter_once(struct mt_pg *pg, struct mt_err *err);
/** Queue one statement; @p may be NULL. Sent when the buffer fills, or by sync. */
int mt_pg_pipe_send(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_err *err);
/** Hand what is queued to the server now, without waiting, so that it works while more is being built. */
int mt_pg_pipe_flush(struct mt_pg *pg, struct mt_err *err);
/**
 * Send what is queued and wait for the results of all @n statements queued since the last sync, in order.
 * @ret_res  @n entries (or NULL: rows are dropped); on success each owned by the caller, on error all are NULL.
 * On a statement's error the rest of the pipeline is skipped by the server and -code is returned; the connection is usable
 * (in a transaction: ROLLBACK or ROLLBACK TO first). mt_pg_diag() tells which statement it was.
 */
int mt_pg_pipe_sync(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, struct mt_err *err);
/** The two halves of mt_pg_pipe_sync: end a group of statements and send it, without waiting; wait for the oldest group
 * that was not yet waited for. Groups run one after the other; a failing statement skips the rest of its own group only. */
int mt_pg_pipe_mark(struct mt_pg *pg, struct mt_err *err);
int mt_pg_pipe_await(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, struct mt_err *err);
/** The same with the results of the first @n statements only; the group has at least as many. */
int mt_pg_pipe_await_first(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, struct mt_err *err);
int mt_pg_pipe_leave(struct mt_pg *pg, struct mt_err *err);

/** Details of the last statement error on this connection. Strings are "" when the server did not say. */
struct mt_pg_diag {
    char sqlstate[6];
    char constraint[64]; /* name of the violated constraint or unique index */
    char table[64];
    const struct mt_pg_stmt *stmt; /* the statement, NULL for mt_pg_exec */
};
const struct mt_pg_diag *mt_pg_diag(const struct mt_pg *pg);
/** True when the last error came from the server's own shutdown or a lost connection, so that a retry may help. */
bool mt_pg_lost(const struct mt_pg *pg);

/** Subscribe to a channel name ([a-z_]+). */
int mt_pg_listen(struct mt_pg *pg, const char *channel, struct mt_err *err);
/**
 * Wait up to @timeout_ms for a notification, or until the descriptor @wake_fd (-1: none) is readable.
 * Returns 1 with the payload in @ret (cut to @size) for the newest notification, 0 when none came.
 */
int mt_pg_notify_wait(struct mt_pg *pg, int wake_fd, int timeout_ms, char *ret, size_t size, struct mt_err *err);

/* Results. Rows and columns count from 0; asking outside, for a NULL with a plain getter, or with the wrong type is a
 * programmer's error and ends the process: columns come from our own SQL. Pointers live as long as the result. */
int mt_pg_rows(const struct mt_pg_res *r);
/** Rows an INSERT, UPDATE or DELETE touched. */
int64_t mt_pg_affected(const struct mt_pg_res *r);
/** Column by name. */
int mt_pg_col(const struct mt_pg_res *r, const char *name);
bool mt_pg_null(const struct mt_pg_res *r, int row, int col);
/** int2, int4, int8. */
int64_t mt_pg_i64(const struct mt_pg_res *r, int row, int col);
int64_t mt_pg_i64_or(const struct mt_pg_res *r, int row, int col, int64_t if_null);
bool mt_pg_bool(const struct mt_pg_res *r, int row, int col);
/** text, varchar, name, json, jsonb; NUL terminated. */
const char *mt_pg_text(const struct mt_pg_res *r, int row, int col);
/** As mt_pg_text, NULL for SQL NULL. */
const char *mt_pg_text_or_null(const struct mt_pg_res *r, int row, int col);
/** timestamptz as microseconds since 1970-01-01 UTC. */
int64_t mt_pg_time(const struct mt_pg_res *r, int row, int col);
int64_t mt_pg_time_or(const struct mt_pg_res *r, int row, int col, int64_t if_null);
/** bytea. */
const void *mt_pg_bytes(const struct mt_pg_res *r, int row, int col, size_t *ret_len);
/** Elements of a text[] without NULLs: count, or element @i (NUL terminated copy into @ret; -MT_E_LIMIT when it does not fit). */
int mt_pg_arr_len(const struct mt_pg_res *r, int row, int col);
int mt_pg_arr_text(const struct mt_pg_res *r, int row, int col, int i, char *ret, size_t size);
void mt_pg_res_free(struct mt_pg_res *r);
void mt_pg_res_freep(struct mt_pg_res **r);
#define mt_auto_pg_res mt_cleanup(mt_pg_res_freep)
