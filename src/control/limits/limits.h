/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rate limits and concurrent streams (control-plane.md §14). Token buckets live in memory; what was spent is written to
 * rate_buckets once a second, for all buckets together, and what other servers spent comes back with it. So no request waits for
 * the database, and several servers share a limit within about a second. Thread-safe.
 *
 * Failure: without the database for ten seconds, or with more subjects than fit, requests of tenants go on with what this server
 * knows (open), sign-ins and token minting are refused (closed).
 */
#pragma once

#include "base/err.h"
#include "pg/pg.h"

/* X(symbol, name, per minute, closed, what) */
#define MT_LIMITS(X)                                                                  \
    X(READ_TOKEN, "read_token", 600, false, "reads of a token")                       \
    X(READ_ORG, "read_org", 2000, false, "reads in an organisation")                  \
    X(WRITE_TOKEN, "write_token", 120, false, "changes by a token")                   \
    X(WRITE_ORG, "write_org", 600, false, "changes in an organisation")               \
    X(HISTORY, "history", 30, false, "looks into the past of an organisation")        \
    X(MINT, "mint", 30, true, "tokens minted for a subject")                          \
    X(DEVICE_START, "device_start", 10, true, "device logins started from an address") \
    X(LOGIN_FAILED, "login_failed", 5, true, "failed logins of an account") \
    X(ENROLL_FAILED, "enroll_failed", 10, true, "failed enrolments from an address")

enum mt_limit {
#define X(symbol, name, per_minute, closed, what) MT_LIMIT_##symbol,
    MT_LIMITS(X)
#undef X
    MT_LIMIT_MAX
};

#define MT_LIMIT_STREAMS_PER_TOKEN 5

struct mt_limits;

/** Where a bucket stands. */
struct mt_limit_state {
    int64_t limit;        /* per minute, and what can be spent at once */
    int64_t remaining;    /* now, at least 0 */
    int reset_seconds;    /* until it is full again */
    int retry_seconds;    /* until the next one is allowed; 0 when allowed now */
};

/**
 * @pg       for the synchronising thread; strings are copied. @pg->conninfo NULL: this process alone (tests)
 * @percent  of the limits of the table; 0: no limits at all
 */
int mt_limits_new(const struct mt_pg_conf *pg, unsigned percent, struct mt_limits **ret, struct mt_err *err);
void mt_limits_free(struct mt_limits *l);

const char *mt_limit_name(enum mt_limit which);
/** Spend one from the bucket of @subject (a token id, an address, an account; any text). False: refused, nothing spent. */
bool mt_limits_take(struct mt_limits *l, enum mt_limit which, const char *subject, struct mt_limit_state *ret);
/** Would one be allowed now? Spends nothing: ask before a login, take when it failed. */
bool mt_limits_peek(struct mt_limits *l, enum mt_limit which, const char *subject, struct mt_limit_state *ret);
/** Refusals so far. */
uint64_t mt_limits_refused(struct mt_limits *l, enum mt_limit which);

/** A place among the open streams of a token and of an organisation; zero-initialised is none. */
struct mt_stream_place {
    struct mt_limits *limits;
    char token[64], org[64];
};
/**
 * Take a place for a stream, @org_max in the organisation (below 0: no limit). 0; -MT_E_LIMIT with *ret_token telling whether the
 * token's limit was it; -MT_E_NOMEM.
 */
int mt_limits_stream_enter(struct mt_limits *l, const char *token, const char *org, int64_t org_max, struct mt_stream_place *ret,
                           bool *ret_token);
void mt_limits_stream_leave(struct mt_stream_place *p);
int64_t mt_limits_streams_of(struct mt_limits *l, const char *org);

/** Write what was spent and take what others spent, now. For the thread and for tests. */
int mt_limits_sync(struct mt_limits *l, struct mt_pg *pg, struct mt_err *err);
