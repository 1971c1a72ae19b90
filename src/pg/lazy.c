/* SPDX-License-Identifier: Apache-2.0 */
/* libpq for programs that seldom need it: its functions under their own names, found in the shared library when one is first
 * called. libpq brings in some twenty libraries (LDAP, Kerberos, GnuTLS); loading them costs the CLI more than all else it does
 * at its start, and of its commands only `moat up` talks to a database. Links in place of -lpq. */
#include <dlfcn.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libpq.so.5"

static void *find(void **cache, const char *name)
{
    void *f = __atomic_load_n(cache, __ATOMIC_ACQUIRE);
    if (f)
        return f;
    void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL); /* counted; the same handle each time, never closed */
    f = lib ? dlsym(lib, name) : NULL;
    if (!f) { /* an installation without it is broken, as a program linked with it would not start */
        const char *why = dlerror();
        (void)fprintf(stderr, "error: %s: %s\nhint: install the package libpq5\n", LIBRARY, why ? why : name);
        _exit(1);
    }
    __atomic_store_n(cache, f, __ATOMIC_RELEASE);
    return f;
}

#define POINTER(name)                              \
    static void *cache_;                           \
    void *found_ = find(&cache_, #name);           \
    __typeof__(&name) call_;                       \
    memcpy(&call_, &found_, sizeof call_)
#define LAZY(type, name, params, args) \
    type name params                   \
    {                                  \
        POINTER(name);                 \
        return call_ args;             \
    }
#define LAZY_VOID(name, params, args) \
    void name params                  \
    {                                 \
        POINTER(name);                \
        call_ args;                   \
    }

LAZY(PGconn *, PQconnectStartParams, (const char *const *k, const char *const *v, int expand), (k, v, expand))
LAZY(PostgresPollingStatusType, PQconnectPoll, (PGconn * c), (c))
LAZY_VOID(PQfinish, (PGconn * c), (c))
LAZY(ConnStatusType, PQstatus, (const PGconn *c), (c))
LAZY(int, PQsocket, (const PGconn *c), (c))
LAZY(int, PQserverVersion, (const PGconn *c), (c))
LAZY(char *, PQerrorMessage, (const PGconn *c), (c))
LAZY(char *, PQescapeIdentifier, (PGconn * c, const char *s, size_t n), (c, s, n))
LAZY_VOID(PQfreemem, (void *p), (p))
LAZY(PQnoticeProcessor, PQsetNoticeProcessor, (PGconn * c, PQnoticeProcessor p, void *arg), (c, p, arg))
LAZY(int, PQsetnonblocking, (PGconn * c, int arg), (c, arg))
LAZY(int, PQflush, (PGconn * c), (c))
LAZY(int, PQconsumeInput, (PGconn * c), (c))
LAZY(int, PQisBusy, (PGconn * c), (c))
LAZY(PGnotify *, PQnotifies, (PGconn * c), (c))
LAZY(int, PQenterPipelineMode, (PGconn * c), (c))
LAZY(int, PQexitPipelineMode, (PGconn * c), (c))
LAZY(int, PQpipelineSync, (PGconn * c), (c))
LAZY(int, PQsendQuery, (PGconn * c, const char *q), (c, q))
LAZY(int, PQsendQueryParams,
     (PGconn * c, const char *q, int n, const Oid *types, const char *const *values, const int *lengths, const int *formats, int format),
     (c, q, n, types, values, lengths, formats, format))
LAZY(int, PQsendPrepare, (PGconn * c, const char *name, const char *q, int n, const Oid *types), (c, name, q, n, types))
LAZY(int, PQsendQueryPrepared,
     (PGconn * c, const char *name, int n, const char *const *values, const int *lengths, const int *formats, int format),
     (c, name, n, values, lengths, formats, format))
LAZY(PGresult *, PQgetResult, (PGconn * c), (c))
LAZY_VOID(PQclear, (PGresult * r), (r))
LAZY(ExecStatusType, PQresultStatus, (const PGresult *r), (r))
LAZY(char *, PQresultErrorMessage, (const PGresult *r), (r))
LAZY(char *, PQresultErrorField, (const PGresult *r, int field), (r, field))
LAZY(char *, PQcmdTuples, (PGresult * r), (r))
LAZY(int, PQntuples, (const PGresult *r), (r))
LAZY(int, PQnfields, (const PGresult *r), (r))
LAZY(char *, PQfname, (const PGresult *r, int col), (r, col))
LAZY(Oid, PQftype, (const PGresult *r, int col), (r, col))
LAZY(char *, PQgetvalue, (const PGresult *r, int row, int col), (r, row, col))
LAZY(int, PQgetlength, (const PGresult *r, int row, int col), (r, row, col))
LAZY(int, PQgetisnull, (const PGresult *r, int row, int col), (r, row, col))
