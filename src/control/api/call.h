/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One API request on a worker: who asks, for what, with which body; and the ways to answer. Handlers are straight-line:
 * they return 0 when they answered, parked or streamed, or the result of mt_api_fail() (-1), which records the problem for
 * the dispatcher to send.
 */
#pragma once

#include "control/trace.h"
#include "base/buf.h"
#include "base/err.h"
#include "control/auth/auth.h"
#include "control/control.h"
#include "model/ids.h"

#include <jansson.h>
#include <stdio.h>

#define MT_API_PARAMS 5
#define MT_API_REQUEST_ID 65
#define MT_API_QUERY 24

struct mt_api_call;

/** What the state of every stream's request (mt_http_req_set_state) begins with. */
struct mt_api_stream {
    /* Say @reason and where to go on, then end. */
    void (*end)(struct mt_api_stream *s, struct mt_http_req *req, const char *reason);
};

/** How a route takes its request. */
enum mt_api_flags {
    MT_API_BODY = 1,       /* a JSON object is expected (absent or empty body: {}) */
    MT_API_MUTATES = 2,    /* Idempotency-Key applies */
    MT_API_NO_DB = 4,      /* served while the database is away */
    MT_API_OPERATOR = 8,   /* is_operator needed */
    MT_API_ANYONE = 16,    /* no credential needed */
    MT_API_GONE_OK = 32,   /* the owners named by the path may be deleted already (DELETE is idempotent) */
    MT_API_FILTERS = 64,   /* below an organisation only: the handler leaves out what a restricted token may not see */
    MT_API_USER = 128,     /* a person with an unrestricted token: not service principals, not break-glass tokens */
    MT_API_SECRET = 1 << 11, /* the body holds secret values: bounded at 512 KiB, wiped from memory with the request */
    MT_API_ALWAYS = 1 << 10 /* a change that neither maintenance mode nor recovery stops */
};

struct mt_api_route {
    const char *method;
    const char *path;  /* template: "/v1/orgs/{org_id}/apps/{app_id}" */
    const char *scope; /* needed scope, NULL: any valid credential */
    unsigned flags;
    int (*handle)(struct mt_api_call *c);
    const char *summary;  /* one line for the published API description */
    enum mt_listener listener;
};

struct mt_api_problem {
    int status;
    char code[48];
    char detail[600];
    json_t *errors, *details; /* owned */
    int retry_after;          /* seconds, 0: none */
    bool retryable;           /* though its code is not in general */
};

#define MT_API_VALUE 264 /* of a path's parameter; longest: a registry's host and port */
struct mt_api_worker;    /* dispatch.h */

struct mt_api_call {
    struct mt_control *ctl;
    struct mt_http_req *http;
    struct mt_pg *pg; /* the worker's connection */
    struct mt_api_worker *worker;
    const struct mt_api_route *route;
    char request_id[MT_API_REQUEST_ID];
    struct mt_trace trace;
    struct {
        char name[24];
        char value[MT_API_VALUE];
    } param[MT_API_PARAMS];
    int params_n;
    struct mt_auth_who who;
    struct mt_api_owner org, app, env;
    bool org_suspended;
    struct mt_pg_res *switches; /* owned; what api/gate.c asks, when it came with the look at the token */
    bool app_of_env; /* struct mt_auth_chain */
    json_t *body;             /* owned; an object when the route has MT_API_BODY */
    const char *query[MT_API_QUERY]; /* keys a handler asked for: unknown ones are refused */
    int query_n;
    const char *query_repeats; /* the one key that may be given several times, or NULL */
    bool query_checked;
    struct mt_api_problem problem;
    struct mt_err err; /* scratch for calls that want one */
    void *prepared;    /* a handler's own state between rounds of mt_api_mutate */
    int64_t past;      /* pg's views are those after this event (api/history.c); 0: the live ones */
};

/* --- refusing --- */

/** Record a problem; always returns -1. @code is one of control-plane.md §9.2. */
int (mt_api_fail)(struct mt_api_call *c, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/** A problem out of c->err, for failures of the database, the appender, the system; also for a command that met a change (409 `conflict`,
 * retryable: a handler that can prepare it anew does so first). Returns -1. */
int (mt_api_fail_err)(struct mt_api_call *c);
#ifdef __clang_analyzer__
#define mt_api_fail(...) mt_err_below_0((mt_api_fail)(__VA_ARGS__))
#define mt_api_fail_err(c) mt_err_below_0((mt_api_fail_err)(c))
#endif
/** From now on rows of other organisations than @org_id are not there for c->pg (log/fence.sql); MT_LOG_ALL: all are. Each request begins with
 * the organisation of its path. -1: an answer is set. */
int mt_api_fence(struct mt_api_call *c, const char *org_id);
/** mt_pg_query for what is the platform's (ports, host names, room of a node): with the fence lifted, and put back. -1: an answer is set. */
int mt_api_query_all(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_pg_res **ret);
/** mt_volume_nodes_load (volumes/home.h) likewise. */
struct mt_volume_node;
int mt_api_volume_nodes(struct mt_api_call *c, struct mt_volume_node **ret, size_t *ret_n);
/** 503 recovery: the database was restored, an operator has to decide first. Returns -1. */
int mt_api_in_recovery(struct mt_api_call *c);
/** 503 of a server that does not serve yet: database_unavailable, or view_rebuilding while it makes the views of its version. Returns -1. */
int mt_api_not_ready(struct mt_api_call *c);
/** 404 not_found for the thing called @what. Returns -1. */
int mt_api_not_found(struct mt_api_call *c, const char *what);
#ifdef __clang_analyzer__
#define mt_api_not_found(...) mt_err_below_0((mt_api_not_found)(__VA_ARGS__))
#endif
/** Send the recorded problem. */
void mt_api_send_problem(struct mt_api_call *c);
/** Title and retryability of a code; false when it is not in the table. */
bool mt_api_code_known(const char *code, int *ret_status);
/** The table of error codes, a line each: status, code, `retry` or -, title; with tabs between. */
void mt_api_codes_print(FILE *out);

/* --- reading --- */

/** Path parameter by name; asserts that the template has it. */
const char *mt_api_param(const struct mt_api_call *c, const char *name);
/** Query parameter or NULL; the last mt_api_query_done() refuses keys that were never asked for. */
const char *mt_api_query(struct mt_api_call *c, const char *name);
int mt_api_query_done(struct mt_api_call *c);
int mt_api_query_i64(struct mt_api_call *c, const char *name, int64_t min, int64_t max, int64_t absent, int64_t *ret);
int mt_api_query_bool(struct mt_api_call *c, const char *name, bool absent, bool *ret);

/** Refuse body members that are not in the NULL-terminated list. */
int mt_api_fields(struct mt_api_call *c, const char *const *known);
/** Text member of 1..@max bytes without control bytes other than \n and \t; NULL in @ret when absent or null. */
int mt_api_text(struct mt_api_call *c, const char *name, bool required, size_t max, const char **ret);
int mt_api_bool(struct mt_api_call *c, const char *name, bool absent, bool *ret);
int mt_api_int(struct mt_api_call *c, const char *name, bool required, int64_t min, int64_t max, int64_t absent,
               int64_t *ret);
/** expected_version of the body or If-Match; @ret -1 when neither is given. */
int mt_api_expected_version(struct mt_api_call *c, int64_t *ret);
/** Refuse when the client's expected version is not @current: 409 version_conflict, 412 when it came by If-Match only; 400
 *  expected_version_required when there is none and @required. Returns 0 or -1. */
int mt_api_check_version(struct mt_api_call *c, bool required, int64_t current, const char *what);

/**
 * Load the caller and org, app and env named in the path: the token must be good, the caller a member, each owner live and
 * under the one before it. Once for each request by the dispatcher, again between rounds of a mutation. Returns 0 or -1
 * (401; 404 alike for what is not there and for what belongs to others).
 */
int mt_api_owners(struct mt_api_call *c);
/** True when the caller has @scope ("exec:write") in the organisation of the path. */
bool mt_api_may(const struct mt_api_call *c, const char *scope);
/**
 * Add the caller's restriction to a statement's parameters: two text[] that are NULL for an unrestricted token; arrays live in
 * @arrays until the query is done (mt_api_inside_done). Use MT_SQL_INSIDE with their numbers in the statement.
 */
void mt_api_inside(struct mt_api_call *c, struct mt_pg_params *p, struct mt_pg_arr arrays[2]);
void mt_api_inside_done(struct mt_pg_arr arrays[2]);
/* Rows of an app and, where it has one, an environment that a restricted token may see; @apps, @envs: numbers as text. */
#define MT_SQL_INSIDE(app_col, env_col, apps, envs) \
    "($" apps "::text[] IS NULL AND $" envs "::text[] IS NULL OR " app_col " = ANY($" apps ") OR " env_col " = ANY($" envs "))"
/* Apps that a restricted token may see: its own, and those that hold one of its environments. */
#define MT_SQL_APP_INSIDE(app_col, apps, envs) \
    "($" apps "::text[] IS NULL AND $" envs "::text[] IS NULL OR " app_col " = ANY($" apps ") OR " app_col \
    " IN (SELECT x.app_id FROM envs_view x WHERE x.env_id = ANY($" envs ")))"

/* --- answering --- */

/** Send a JSON text (malloc'ed, taken). */
int mt_api_send_text(struct mt_api_call *c, int status, char *json, size_t len);
/** Send a JSON value (taken). */
int mt_api_send(struct mt_api_call *c, int status, json_t *value);
/** Send the single text cell of a one-row query as the object; 404 @what when there is no row. Sets the ETag from column 1
 *  when the result has one. */
int mt_api_send_row(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const char *what);
/** Adds to an object what is no row's. */
typedef void mt_api_show_fn(struct mt_api_call *c, json_t *object);
/** As mt_api_send_row, with what @show adds. */
int mt_api_send_shown(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const char *what, mt_api_show_fn *show);

/**
 * Answer a list. Statements select (id, object text) with the caller's parameters first, then two more: cursor id or NULL
 * (text) and limit (bigint). One statement for each order. The cursor is bound to the path and to every query parameter
 * that was asked for before the call.
 */
struct mt_api_list {
    const struct mt_pg_stmt *asc, *desc;
    struct mt_pg_params params;
    struct mt_pg_arr inside[2]; /* of mt_api_list_inside */
    mt_api_show_fn *show;       /* of each item, NULL: as the row has it */
    bool filtered;
};
/** Add the caller's restriction as the next two parameters, for MT_SQL_INSIDE. Released by mt_api_send_list. */
void mt_api_list_inside(struct mt_api_call *c, struct mt_api_list *l);
/** Read created_after and created_before into the next two parameters, for MT_SQL_CREATED. */
int mt_api_list_created(struct mt_api_call *c, struct mt_api_list *l);
int mt_api_send_list(struct mt_api_call *c, struct mt_api_list *l);

/* SQL of times in API form. */
#define MT_SQL_TS(col) "to_char(" col " AT TIME ZONE 'UTC','YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
