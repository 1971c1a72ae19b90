/* SPDX-License-Identifier: Apache-2.0 */
/* A connection: opening it within a deadline, waiting for results, turning the server's refusals into our errors. */
#include "pg/conn.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_notice(void *arg, const char *message)
{
    (void)arg;
    char line[200];
    (void)snprintf(line, sizeof line, "%s", message);
    size_t n = strlen(line);
    while (n > 0 && line[n - 1] == '\n')
        line[--n] = 0;
    mt_log(MT_DEBUG, "pg.notice", KV("text", (const char *)line));
}

void pg_drop(struct mt_pg *pg)
{
    if (pg->conn)
        PQfinish(pg->conn);
    pg->conn = NULL;
    pg->piping = pg->naming = false;
    pg->named[0] = 0;
    pg->ops_first = pg->ops_end = 0;
    pg->lost = true;
    memset(pg->stmts, 0, sizeof pg->stmts);
    pg->n_stmts = 0;
    pg->planned_size = 0;
}

/* libpq ends its messages with a line feed and may use several lines. */
static void one_line(const char *in, char *out, size_t size)
{
    size_t n = 0;
    for (; *in && n + 1 < size; in++)
        out[n++] = *in == '\n' || *in == '\t' ? ' ' : *in;
    while (n > 0 && out[n - 1] == ' ')
        n--;
    out[n] = 0;
}

int pg_broken(struct mt_pg *pg, const char *doing, struct mt_err *err)
{
    char text[180];
    one_line(pg->conn ? PQerrorMessage(pg->conn) : "not connected", text, sizeof text);
    pg_drop(pg);
    return MT_FAIL(err, MT_E_UNAVAILABLE, "database: %s: %s", doing, text[0] ? text : "connection lost");
}

static int late(struct mt_err *err, const char *doing)
{
    return MT_FAIL(err, MT_E_TIMEOUT, "database: %s: no answer in time", doing);
}

/* -MT_E_TIMEOUT: it is as it was. */
static int poll_socket(struct mt_pg *pg, short events, const char *doing, struct mt_err *err)
{
    for (;;) {
        int64_t left = pg->deadline_ns - mt_clock_mono();
        if (left <= 0)
            return late(err, doing);
        struct pollfd p = {.fd = PQsocket(pg->conn), .events = events};
        int n = poll(&p, 1, (int)((left + MT_NS_PER_MS - 1) / MT_NS_PER_MS));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return pg_broken(pg, doing, err);
    }
}

static int wait_socket(struct mt_pg *pg, short events, const char *doing, struct mt_err *err)
{
    int r = poll_socket(pg, events, doing, err);
    if (r == -(int)MT_E_TIMEOUT)
        pg_drop(pg);
    return r;
}

/* By statement and not as options of the start: a pooler in between does not know these. */
static int begin_session(struct mt_pg *pg, struct mt_err *err)
{
    if (pg->shared) /* it would be somebody else's with the next transaction */
        return 0;
    /* A client that died or gave up must not keep the append lock or a running statement. */
    mt_auto_buf struct mt_buf sql = MT_BUF_INIT(1024);
    mt_buf_puts(&sql, "SET client_connection_check_interval = '2s'; SET idle_in_transaction_session_timeout = '60s'");
    const char *equals = pg->options ? strchr(pg->options, '=') : NULL;
    if (equals && mt_starts_with(pg->options, "-c "))
        mt_buf_printf(&sql, "; SET %.*s = '%s'", (int)(equals - pg->options - 3), pg->options + 3, equals + 1);
    if (pg->role) {
        char *quoted = PQescapeIdentifier(pg->conn, pg->role, strlen(pg->role));
        if (!quoted)
            return pg_broken(pg, "quoting the role", err);
        mt_buf_printf(&sql, "; SET ROLE %s", quoted);
        PQfreemem(quoted);
    }
    return sql.failed ? MT_FAIL(err, MT_E_LIMIT, "database: the session's settings are too long") : mt_pg_exec(pg, mt_buf_cstr(&sql), err);
}

static void drop_half(struct mt_pg *pg)
{
    if (pg->half)
        PQfinish(pg->half);
    pg->half = NULL;
}

static int begin_connect(struct mt_pg *pg, PostgresPollingStatusType *ret_st, struct mt_err *err)
{
    const char *const keys[] = {"dbname", "application_name", "client_encoding", "tcp_user_timeout", NULL};
    const char *const values[] = {pg->conninfo, pg->application_name, "UTF8", "15000", NULL};
    pg->half_since_ns = mt_clock_mono();
    pg->conn = PQconnectStartParams(keys, values, 1);
    if (!pg->conn)
        return MT_FAIL(err, MT_E_NOMEM, "database: no memory for a connection");
    PQsetNoticeProcessor(pg->conn, on_notice, NULL);
    *ret_st = PQstatus(pg->conn) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
    return 0;
}

/* The attempt before, when the server has taken it and was not ready in time, or a new one. A server that is busy with many of them would have nothing but
 * beginnings to work on if each were given up and begun anew: it would never be through. One that nobody has taken is not gone on with: the address may be
 * somebody else's by now. */
static int connect_now(struct mt_pg *pg, struct mt_err *err)
{
    int64_t now = mt_clock_mono();
    PostgresPollingStatusType st = pg->half_state;
    pg->deadline_ns = now + pg->connect_timeout_ms * MT_NS_PER_MS;
    if (now - pg->half_since_ns > HALF_MAX_NS)
        drop_half(pg);
    bool older = pg->half != NULL;
    pg->conn = pg->half;
    pg->half = NULL;
    if (!older && begin_connect(pg, &st, err) < 0)
        return -(int)MT_E_UNAVAILABLE;
    while (st != PGRES_POLLING_OK) {
        if (st == PGRES_POLLING_FAILED && older) { /* by a server that has ended since, say */
            older = false;
            pg_drop(pg);
            if (begin_connect(pg, &st, err) < 0)
                return -(int)MT_E_UNAVAILABLE;
            continue;
        }
        if (st == PGRES_POLLING_FAILED)
            return pg_broken(pg, "connecting", err);
        /* The socket may be another one after each step; poll_socket asks anew. */
        int r = poll_socket(pg, st == PGRES_POLLING_READING ? POLLIN : POLLOUT, "connecting", err);
        if (r == -(int)MT_E_TIMEOUT && PQstatus(pg->conn) != CONNECTION_STARTED) {
            pg->half = pg->conn;
            pg->half_state = st;
            pg->conn = NULL;
        }
        if (r < 0) {
            pg_drop(pg);
            return -(int)MT_E_UNAVAILABLE;
        }
        st = PQconnectPoll(pg->conn);
    }
    if (PQserverVersion(pg->conn) < 150000) {
        int v = PQserverVersion(pg->conn);
        pg_drop(pg);
        return MT_FAIL(err, MT_E_INVALID, "database: the server is version %d.%d, 15 or later is needed", v / 10000, v % 10000);
    }
    if (PQsetnonblocking(pg->conn, 1) != 0)
        return pg_broken(pg, "connecting", err);
    pg->lost = false;
    int r = begin_session(pg, err);
    if (r < 0)
        pg_drop(pg);
    return r;
}

static char *copy_or_null(const char *s, bool *oom)
{
    if (!s)
        return NULL;
    char *c = strdup(s);
    *oom |= c == NULL;
    return c;
}

static int new_pg(const struct mt_pg_conf *conf, struct mt_pg **ret_pg, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = calloc(1, sizeof *pg);
    if (!pg)
        return MT_FAIL(err, MT_E_NOMEM, "database: no memory for a connection");
    bool oom = false;
    pg->magic = PG_MAGIC;
    pg->conninfo = copy_or_null(conf->conninfo, &oom);
    pg->application_name = copy_or_null(conf->application_name ? conf->application_name : "moat", &oom);
    pg->role = copy_or_null(conf->role, &oom);
    pg->options = copy_or_null(conf->options, &oom);
    pg->shared = copy_or_null(conf->shared, &oom);
    if (oom || !pg->conninfo)
        return MT_FAIL(err, MT_E_NOMEM, "database: no memory for a connection");
    pg->connect_timeout_ms = conf->connect_timeout_ms > 0 ? conf->connect_timeout_ms : 5000;
    pg->call_timeout_ms = conf->call_timeout_ms > 0 ? conf->call_timeout_ms : 10000;
    pg->took = conf->took;
    pg->took_arg = conf->took_arg;
    *ret_pg = pg;
    pg = NULL;
    return 0;
}

int mt_pg_connect(const struct mt_pg_conf *conf, struct mt_pg **ret_pg, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    int r = new_pg(conf, &pg, err);
    if (r == 0)
        r = connect_now(pg, err);
    if (r < 0)
        return r;
    *ret_pg = pg;
    pg = NULL;
    return 0;
}

int mt_pg_open(const struct mt_pg_conf *conf, struct mt_pg **pg, struct mt_err *err)
{
    int r = *pg ? 0 : new_pg(conf, pg, err);
    return r < 0 ? r : mt_pg_reset(*pg, err);
}

int mt_pg_another(const struct mt_pg *pg, struct mt_pg **ret_pg, struct mt_err *err)
{
    MT_CHECK(pg, PG_MAGIC);
    const struct mt_pg_conf conf = {.conninfo = pg->conninfo, .application_name = pg->application_name, .role = pg->role, .options = pg->options, .shared = pg->shared,
                                    .connect_timeout_ms = (int)pg->connect_timeout_ms, .call_timeout_ms = (int)pg->call_timeout_ms};
    return mt_pg_connect(&conf, ret_pg, err);
}

int mt_pg_own_sessions(const struct mt_pg_conf *conf, struct mt_err *err)
{
    char set[80], nonce[17];
    uint64_t random;
    mt_auto_pg struct mt_pg *one = NULL, *two = NULL;
    static const struct mt_pg_stmt ask = {"session_mark", "SELECT COALESCE(current_setting('moat.session_mark', true), '')"};
    int r = mt_pg_connect(conf, &one, err);
    if (r == 0)
        r = mt_pg_connect(conf, &two, err);
    for (int i = 0; r == 0 && i < 3; i++) {
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        mt_random(&random, sizeof random);
        (void)snprintf(nonce, sizeof nonce, "%016llx", (unsigned long long)random);
        (void)snprintf(set, sizeof set, "SET moat.session_mark = '%s'", nonce);
        if ((r = mt_pg_exec(one, set, err)) == 0 && (r = mt_pg_query_one(two, &ask, NULL, &res, err)) == 0 && MT_STREQ(mt_pg_text(res, 0, 0), nonce))
            r = MT_FAIL(err, MT_E_INVALID, "database_url: a pooler shares one session among connections, and the log's writer, its locks and LISTEN need their own: name the server "
                                           "itself here (or pool_mode = session), and the pooler in database_pool_url");
    }
    return r;
}

void mt_pg_name(struct mt_pg *pg, const char *value)
{
    MT_CHECK(pg, PG_MAGIC);
    MT_ASSERT(pg->shared && strlen(value) < sizeof pg->named);
    memcpy(pg->named, value, strlen(value) + 1);
}

bool mt_pg_shared(const struct mt_pg *pg)
{
    return pg->shared != NULL;
}

void mt_pg_free(struct mt_pg *pg)
{
    if (!pg)
        return;
    MT_CHECK(pg, PG_MAGIC);
    pg_drop(pg);
    drop_half(pg);
    free(pg->ops);
    free(pg->conninfo);
    free(pg->application_name);
    free(pg->role);
    free(pg->options);
    free(pg->shared);
    pg->magic = 0;
    free(pg);
}

void mt_pg_freep(struct mt_pg **pg)
{
    mt_pg_free(*pg);
    *pg = NULL;
}

bool mt_pg_alive(const struct mt_pg *pg)
{
    return pg->conn != NULL;
}

#define IDLE_READS_MAX 16

bool mt_pg_idle_check(struct mt_pg *pg)
{
    MT_CHECK(pg, PG_MAGIC);
    if (!pg->conn)
        return false;
    /* A server that ends says so before it closes: the message and the end of the stream are two reads. */
    struct pollfd p = {.fd = PQsocket(pg->conn), .events = POLLIN};
    for (int i = 0; pg->conn && i < IDLE_READS_MAX && poll(&p, 1, 0) > 0; i++)
        if ((p.revents & (POLLHUP | POLLERR)) || !PQconsumeInput(pg->conn) || PQstatus(pg->conn) == CONNECTION_BAD)
            pg_drop(pg);
    return pg->conn != NULL;
}

int mt_pg_reset(struct mt_pg *pg, struct mt_err *err)
{
    MT_CHECK(pg, PG_MAGIC);
    pg_drop(pg);
    return connect_now(pg, err);
}

void mt_pg_timeout(struct mt_pg *pg, int call_timeout_ms)
{
    pg->call_timeout_ms = call_timeout_ms;
}

int mt_pg_fd(const struct mt_pg *pg)
{
    return pg->conn ? PQsocket(pg->conn) : -1;
}

const struct mt_pg_diag *mt_pg_diag(const struct mt_pg *pg)
{
    return &pg->diag;
}

bool mt_pg_lost(const struct mt_pg *pg)
{
    return pg->lost;
}

int pg_begin(struct mt_pg *pg, struct mt_err *err)
{
    MT_CHECK(pg, PG_MAGIC);
    memset(&pg->diag, 0, sizeof pg->diag);
    if (!pg->conn)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "database: not connected");
    pg->deadline_ns = mt_clock_mono() + pg->call_timeout_ms * MT_NS_PER_MS;
    return 0;
}

struct stmt_slot *pg_slot(struct mt_pg *pg, const struct mt_pg_stmt *stmt)
{
    size_t i = ((uintptr_t)stmt >> 4) * 0x9e3779b97f4a7c15u >> 32;
    for (;; i++) {
        struct stmt_slot *s = &pg->stmts[i & (STMT_SLOTS - 1)];
        if (s->stmt == stmt)
            return s;
        if (!s->stmt) {
            MT_ASSERT(++pg->n_stmts < STMT_SLOTS * 3 / 4); /* statements are static: their number is known */
            s->stmt = stmt;
            return s;
        }
    }
}

int pg_wait(struct mt_pg *pg, struct mt_err *err)
{
    for (;;) {
        int more = PQflush(pg->conn);
        if (more < 0)
            return pg_broken(pg, "sending", err);
        if (!more && !PQisBusy(pg->conn))
            return 0;
        int r = wait_socket(pg, more ? POLLIN | POLLOUT : POLLIN, "waiting for a result", err);
        if (r < 0)
            return r;
        if (!PQconsumeInput(pg->conn))
            return pg_broken(pg, "reading", err);
        if (!PQisBusy(pg->conn))
            return 0;
    }
}

int pg_next(struct mt_pg *pg, PGresult **ret, struct mt_err *err)
{
    int r = pg_wait(pg, err);
    if (r < 0)
        return r;
    *ret = PQgetResult(pg->conn);
    return 0;
}

static enum mt_code code_of(const char *state)
{
    static const struct {
        const char *prefix;
        enum mt_code code;
    } map[] = {
        {"08", MT_E_UNAVAILABLE}, {"57P", MT_E_UNAVAILABLE}, {"57014", MT_E_TIMEOUT}, {"55P03", MT_E_TIMEOUT},
        {"53", MT_E_UNAVAILABLE}, {"25006", MT_E_UNAVAILABLE}, {"40", MT_E_UNAVAILABLE}, {"25P03", MT_E_UNAVAILABLE},
        {"23", MT_E_CONFLICT},    {"22", MT_E_INVALID},      {"42501", MT_E_DENIED},  {"58", MT_E_IO},
        {"XX001", MT_E_CORRUPT},  {"XX002", MT_E_CORRUPT},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(map); i++)
        if (strncmp(state, map[i].prefix, strlen(map[i].prefix)) == 0)
            return map[i].code;
    return MT_E_IO;
}

static void copy_field(char *to, size_t size, const PGresult *res, int field)
{
    const char *s = PQresultErrorField(res, field);
    (void)snprintf(to, size, "%s", s ? s : "");
}

int pg_fail(struct mt_pg *pg, const struct mt_pg_stmt *stmt, PGresult *res, struct mt_err *err)
{
    copy_field(pg->diag.sqlstate, sizeof pg->diag.sqlstate, res, PG_DIAG_SQLSTATE);
    copy_field(pg->diag.constraint, sizeof pg->diag.constraint, res, PG_DIAG_CONSTRAINT_NAME);
    copy_field(pg->diag.table, sizeof pg->diag.table, res, PG_DIAG_TABLE_NAME);
    pg->diag.stmt = stmt;
    bool standby = stmt == &pg_name_stmt && MT_STREQ(pg->diag.sqlstate, "22012"); /* it divides by zero there */
    char text[160];
    const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    one_line(primary ? primary : PQresultErrorMessage(res), text, sizeof text);
    /* libpq makes results of its own, without a state, when the connection breaks. */
    enum mt_code code = standby ? MT_E_UNAVAILABLE : pg->diag.sqlstate[0] ? code_of(pg->diag.sqlstate) : MT_E_UNAVAILABLE;
    if (code == MT_E_UNAVAILABLE)
        pg->lost = true;
    PQclear(res);
    if (standby)
        return MT_FAIL(err, code, "database: the pooler leads to a standby: let it lead to the primary");
    return MT_FAIL(err, code, "database: %s (%s%s%s)", text[0] ? text : "connection lost",
                   pg->diag.sqlstate[0] ? pg->diag.sqlstate : "no state", stmt ? ", " : "", stmt ? stmt->name : "");
}
