/* SPDX-License-Identifier: Apache-2.0 */
/* Statements: one at a time, or queued in a pipeline. Each is prepared on a connection when it is first used there; in sessions that are shared none is,
 * and statements go in groups of one transaction that first names whose rows it sees (mt_pg_name). */
#include "pg/conn.h"
#include "pg/pg_int.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdlib.h>

/* Read all results of one statement. With @keep the first good one is handed out, on an error -code of the first. */
static int collect(struct mt_pg *pg, const struct mt_pg_stmt *stmt, PGresult **keep, struct mt_err *err)
{
    int ret = 0;
    for (;;) {
        PGresult *res = NULL;
        int r = pg_next(pg, &res, err);
        if (r < 0) {
            if (keep && *keep) {
                PQclear(*keep);
                *keep = NULL;
            }
            return r;
        }
        if (!res)
            break;
        ExecStatusType st = PQresultStatus(res);
        if (st == PGRES_FATAL_ERROR || st == PGRES_BAD_RESPONSE) {
            if (ret == 0)
                ret = pg_fail(pg, stmt, res, err);
            else
                PQclear(res);
        } else if (keep && !*keep && ret == 0) {
            *keep = res;
        } else {
            PQclear(res);
        }
    }
    if (ret < 0 && keep && *keep) {
        PQclear(*keep);
        *keep = NULL;
    }
    if (PQstatus(pg->conn) == CONNECTION_BAD)
        pg_drop(pg);
    return ret;
}

int mt_pg_exec(struct mt_pg *pg, const char *sql, struct mt_err *err)
{
    int r = pg_begin(pg, err);
    if (r < 0)
        return r;
    MT_ASSERT(!pg->piping);
    if (!PQsendQuery(pg->conn, sql))
        return pg_broken(pg, "sending", err);
    return collect(pg, NULL, NULL, err);
}

int mt_pg_grown(struct mt_pg *pg, int64_t size, struct mt_err *err)
{
    if (pg->shared) /* nothing is kept */
        return 0;
    if (pg->planned_size > 0 && size < 2 * pg->planned_size)
        return 0;
    bool fresh = pg->planned_size == 0; /* nothing is planned yet */
    pg->planned_size = size > 500 ? size : 500;
    return fresh ? 0 : mt_pg_exec(pg, "DISCARD PLANS", err);
}

static int send_prepare(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_err *err)
{
    if (!PQsendPrepare(pg->conn, stmt->name, stmt->sql, p ? p->n : 0, p ? p->type : NULL))
        return pg_broken(pg, "sending", err);
    return 0;
}

static int send_exec(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_err *err)
{
    const char *value[MT_PG_PARAMS_MAX];
    for (int i = 0; p && i < p->n; i++)
        value[i] = p->own[i] ? p->num + p->own[i] - 1 : p->value[i];
    int ok = pg->shared ? PQsendQueryParams(pg->conn, stmt->sql, p ? p->n : 0, p ? p->type : NULL, p ? value : NULL, p ? p->len : NULL, p ? p->format : NULL, 1)
                        : PQsendQueryPrepared(pg->conn, stmt->name, p ? p->n : 0, p ? value : NULL, p ? p->len : NULL, p ? p->format : NULL, 1);
    return ok ? 0 : pg_broken(pg, "sending", err);
}

/* Settings of the transaction, which ends with the group of statements or with the COMMIT of one that was begun. A standby would answer with rows of the
 * past: there the statement fails, and the group with it. */
const struct mt_pg_stmt pg_name_stmt = {"pg_name", "SELECT set_config($1, $2, true), set_config('role', COALESCE($3, current_setting('role')), true),"
                                                   " 1 / (NOT pg_is_in_recovery())::int4"};

static int send_name(struct mt_pg *pg, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, pg->shared);
    mt_pg_p_text(&p, pg->named);
    mt_pg_p_text(&p, pg->role);
    return send_exec(pg, &pg_name_stmt, &p, err);
}

static int query_in_group(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_pg_res **ret_res, struct mt_err *err)
{
    struct mt_err left = {.code = MT_OK};
    int r = mt_pg_pipe_enter(pg, err);
    if (r < 0)
        return r;
    if ((r = mt_pg_pipe_send(pg, stmt, p, err)) == 0)
        r = mt_pg_pipe_sync(pg, ret_res, 1, err);
    int l = mt_pg_pipe_leave(pg, r < 0 ? &left : err);
    if (r == 0 && l < 0 && ret_res)
        mt_pg_res_freep(ret_res);
    return r < 0 ? r : l;
}

static int query(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_pg_res **ret_res,
                 struct mt_err *err)
{
    int r = pg_begin(pg, err);
    if (r < 0)
        return r;
    MT_ASSERT(!pg->piping);
    if (pg->shared)
        return query_in_group(pg, stmt, p, ret_res, err);
    struct stmt_slot *slot = pg_slot(pg, stmt);
    if (slot->state != STMT_READY) {
        if ((r = send_prepare(pg, stmt, p, err)) < 0 || (r = collect(pg, stmt, NULL, err)) < 0)
            return r;
        slot->state = STMT_READY;
    }
    PGresult *res = NULL;
    if ((r = send_exec(pg, stmt, p, err)) < 0 || (r = collect(pg, stmt, &res, err)) < 0)
        return r;
    if (!ret_res) {
        PQclear(res);
        return 0;
    }
    *ret_res = mt_pg_res_wrap(res);
    return *ret_res ? 0 : MT_FAIL(err, MT_E_NOMEM, "database: no memory for a result");
}

int mt_pg_query(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_pg_res **ret_res,
                struct mt_err *err)
{
    if (!pg->took)
        return query(pg, stmt, p, ret_res, err);
    int64_t began = mt_clock_mono();
    int r = query(pg, stmt, p, ret_res, err);
    pg->took(pg->took_arg, mt_clock_mono() - began);
    return r;
}

int mt_pg_query_one(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p,
                    struct mt_pg_res **ret_res, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int r = mt_pg_query(pg, stmt, p, &res, err);
    if (r < 0)
        return r;
    if (mt_pg_rows(res) == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no row (%s)", stmt->name);
    if (mt_pg_rows(res) > 1)
        return MT_FAIL(err, MT_E_CORRUPT, "%d rows where one was expected (%s)", mt_pg_rows(res), stmt->name);
    *ret_res = res;
    res = NULL;
    return 0;
}

int mt_pg_pipe_enter(struct mt_pg *pg, struct mt_err *err)
{
    int r = pg_begin(pg, err);
    if (r < 0)
        return r;
    MT_ASSERT(!pg->piping);
    if (!PQenterPipelineMode(pg->conn))
        return pg_broken(pg, "entering pipeline mode", err);
    pg->piping = true;
    pg->ops_first = pg->ops_end = 0;
    return 0;
}

int mt_pg_pipe_enter_once(struct mt_pg *pg, struct mt_err *err)
{
    return pg->conn && pg->piping ? 0 : mt_pg_pipe_enter(pg, err);
}

/* Room for @more operations, before anything of them is sent. Without it the pipeline cannot be ended in order: the connection goes. */
static int ops_room(struct mt_pg *pg, unsigned more, struct mt_err *err)
{
    unsigned used = pg->ops_end - pg->ops_first;
    if (used + more <= pg->ops_cap)
        return 0;
    unsigned cap = pg->ops_cap ? pg->ops_cap * 2 : PIPE_MIN;
    struct pipe_op *ops = cap > PIPE_MAX ? NULL : calloc(cap, sizeof *ops);
    if (!ops) {
        pg_drop(pg);
        return cap > PIPE_MAX ? MT_FAIL(err, MT_E_LIMIT, "more than %d statements in one pipeline", PIPE_MAX)
                              : MT_FAIL(err, MT_E_NOMEM, "queueing a statement: out of memory");
    }
    MT_ASSERT(used == 0 || pg->ops_cap > 0);
    for (unsigned i = 0; i < used; i++)
        ops[i] = pg->ops[(pg->ops_first + i) % pg->ops_cap];
    free(pg->ops);
    pg->ops = ops;
    pg->ops_cap = cap;
    pg->ops_first = 0;
    pg->ops_end = used;
    return 0;
}

static void op_add(struct mt_pg *pg, struct stmt_slot *slot, enum pipe_kind kind)
{
    MT_ASSERT(pg->ops_end - pg->ops_first < pg->ops_cap); /* ops_room was asked */
    pg->ops[pg->ops_end++ % pg->ops_cap] = (struct pipe_op){.slot = slot, .kind = kind};
}

int mt_pg_pipe_send(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_err *err)
{
    if (!pg->conn)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "database: not connected");
    MT_ASSERT(pg->piping);
    struct stmt_slot *slot = pg_slot(pg, stmt);
    int r = ops_room(pg, 2, err);
    if (r < 0)
        return r;
    if (pg->shared && !pg->naming) {
        if ((r = send_name(pg, err)) < 0)
            return r;
        pg->naming = true;
        op_add(pg, pg_slot(pg, &pg_name_stmt), PIPE_NAME);
    } else if (!pg->shared && slot->state == STMT_NEW) {
        if ((r = send_prepare(pg, stmt, p, err)) < 0)
            return r;
        slot->state = STMT_QUEUED;
        op_add(pg, slot, PIPE_PREPARE);
    }
    if ((r = send_exec(pg, stmt, p, err)) < 0)
        return r;
    op_add(pg, slot, PIPE_RUN);
    return 0;
}

int mt_pg_pipe_flush(struct mt_pg *pg, struct mt_err *err)
{
    if (!pg->conn)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "database: not connected");
    return PQflush(pg->conn) < 0 ? pg_broken(pg, "sending", err) : 0;
}

/* The result of one queued operation, then the NULL that ends it. *ret stays NULL unless the statement succeeded. */
static int op_result(struct mt_pg *pg, const struct pipe_op *op, bool *failed, PGresult **ret, struct mt_err *err)
{
    PGresult *res = NULL, *end = NULL;
    int r = pg_next(pg, &res, err);
    if (r < 0)
        return r;
    ExecStatusType st = PQresultStatus(res); /* PGRES_FATAL_ERROR for NULL: lost */
    bool good = res && (st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK);
    if (op->kind == PIPE_PREPARE)
        op->slot->state = good ? STMT_READY : STMT_NEW;
    if (good) {
        *ret = res;
    } else if (res && st == PGRES_PIPELINE_ABORTED) {
        PQclear(res);
    } else {
        if (!res)
            return pg_broken(pg, "reading a pipeline", err);
        if (!*failed)
            (void)pg_fail(pg, op->slot->stmt, res, err);
        else
            PQclear(res);
        *failed = true;
    }
    if (PQstatus(pg->conn) == CONNECTION_BAD)
        return -(int)MT_E_UNAVAILABLE;
    r = pg_next(pg, &end, err);
    if (end)
        PQclear(end);
    return r;
}

int mt_pg_pipe_mark(struct mt_pg *pg, struct mt_err *err)
{
    int r = pg_begin(pg, err);
    if (r < 0)
        return r;
    MT_ASSERT(pg->piping);
    if ((r = ops_room(pg, 1, err)) < 0)
        return r;
    if (!PQpipelineSync(pg->conn))
        return pg_broken(pg, "sending", err);
    op_add(pg, NULL, PIPE_END);
    pg->naming = false;
    return PQflush(pg->conn) < 0 ? pg_broken(pg, "sending", err) : 0;
}

/* Results of one group up to its end: all @n, or the first @n of more when that is all that is @asked for. @failed is set when a statement was
 * refused; -code when the connection is lost. */
enum asked { ASKED_ALL = 0, ASKED_FIRST };
static int group_results(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, enum asked asked, int *ret_n, bool *failed, struct mt_err *err)
{
    for (;;) {
        MT_ASSERT(pg->ops_first != pg->ops_end);
        struct pipe_op op = pg->ops[pg->ops_first++ % pg->ops_cap];
        PGresult *res = NULL;
        int r;
        if (op.kind == PIPE_END) {
            if ((r = pg_next(pg, &res, err)) < 0)
                return r;
            ExecStatusType st = PQresultStatus(res);
            PQclear(res);
            return st == PGRES_PIPELINE_SYNC ? 0 : pg_broken(pg, "reading a pipeline", err);
        }
        if ((r = op_result(pg, &op, failed, &res, err)) < 0)
            return r;
        if (op.kind != PIPE_RUN || !ret_res || (asked == ASKED_FIRST && *ret_n == n)) {
            PQclear(res);
            continue;
        }
        MT_ASSERT(*ret_n < n);
        ret_res[*ret_n] = res ? mt_pg_res_wrap(res) : NULL;
        if (res && !ret_res[*ret_n] && !*failed) {
            (void)MT_FAIL(err, MT_E_NOMEM, "database: no memory for a result");
            *failed = true;
        }
        (*ret_n)++;
    }
}

static int group_await(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, enum asked asked, struct mt_err *err)
{
    struct mt_err local = {.code = MT_OK};
    if (!err)
        err = &local;
    int r = pg_begin(pg, err);
    if (r < 0)
        return r;
    bool failed = false;
    int got = 0;
    r = group_results(pg, ret_res, n, asked, &got, &failed, err);
    if (r == 0 && !failed)
        return 0;
    for (int i = 0; ret_res && i < got; i++)
        mt_pg_res_freep(&ret_res[i]);
    if (r < 0)
        pg_drop(pg);
    return err->code ? -(int)err->code : MT_FAIL(err, MT_E_UNAVAILABLE, "database: connection lost");
}

int mt_pg_pipe_await(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, struct mt_err *err)
{
    return group_await(pg, ret_res, n, ASKED_ALL, err);
}

int mt_pg_pipe_await_first(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, struct mt_err *err)
{
    return group_await(pg, ret_res, n, ASKED_FIRST, err);
}

int mt_pg_pipe_sync(struct mt_pg *pg, struct mt_pg_res **ret_res, int n, struct mt_err *err)
{
    int r = mt_pg_pipe_mark(pg, err);
    return r < 0 ? r : mt_pg_pipe_await(pg, ret_res, n, err);
}

int mt_pg_pipe_leave(struct mt_pg *pg, struct mt_err *err)
{
    if (!pg->conn)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "database: not connected");
    if (!pg->piping)
        return 0;
    if (!PQexitPipelineMode(pg->conn))
        return pg_broken(pg, "leaving pipeline mode", err);
    pg->piping = false;
    return 0;
}

static int query_beside(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const struct mt_pg_stmt *beside,
                        struct mt_pg_res *ret_res[2], struct mt_err *err)
{
    int r = mt_pg_pipe_enter(pg, err);
    if (r < 0)
        return r;
    r = mt_pg_pipe_send(pg, stmt, p, err);
    if (r == 0)
        r = mt_pg_pipe_send(pg, beside, NULL, err);
    if (r == 0)
        r = mt_pg_pipe_sync(pg, ret_res, 2, err);
    struct mt_err left = {.code = MT_OK};
    int l = mt_pg_pipe_leave(pg, r < 0 ? &left : err);
    if (r == 0 && l < 0) {
        mt_pg_res_freep(&ret_res[0]);
        mt_pg_res_freep(&ret_res[1]);
    }
    return r < 0 ? r : l;
}

int mt_pg_query_beside(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const struct mt_pg_stmt *beside,
                       struct mt_pg_res *ret_res[2], struct mt_err *err)
{
    int64_t began = pg->took ? mt_clock_mono() : 0;
    ret_res[0] = ret_res[1] = NULL;
    int r = query_beside(pg, stmt, p, beside, ret_res, err);
    if (pg->took)
        pg->took(pg->took_arg, mt_clock_mono() - began);
    return r;
}
