/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Following the event log: one thread reads each new event once, renders it once and writes the line to every stream that wants
 * it. A stream reads its past from the database by itself, then joins; from there on nothing asks the database on its behalf.
 * A client that does not keep up is ended, never waited for.
 */
#pragma once

#include "base/err.h"
#include "control/auth/auth.h"
#include "control/log/read.h"
#include "control/streams/event_json.h"
#include "wire/http_server.h"

#define MT_FILTER_TYPES 16

/** What a list or stream of events is narrowed to; empty text and 0: not at all. */
struct mt_event_filter {
    char org[40], app[80], env[80], agg_type[64], agg_id[80], correlation[80], actor[80];
    int64_t since_us, until_us;         /* from, and before, wall clock */
    char *types[MT_FILTER_TYPES];       /* LIKE patterns: '\' escapes, '%' only at the end; owned */
    int types_n;
    struct mt_auth_restrict *inside;    /* of the token, NULL for none; owned */
    struct mt_event_eyes eyes;          /* narrows fields, not events; self points to the next */
    char self[40];
};

/** Free what the filter owns. */
void mt_event_filter_done(struct mt_event_filter *f);

/** What a filter looks at; NULL where the event has none. */
struct mt_event_keys {
    const char *org, *app, *env, *agg_type, *agg_id, *correlation, *actor, *type;
    int64_t occurred_us;
    bool operators; /* of a type that operators alone may read */
};
/** The same answer as the WHERE of the pages gives (api/events.c). */
bool mt_event_wanted(const struct mt_event_filter *f, const struct mt_event_keys *k);

struct mt_feed;

/** A stream's place in the feed. Zeroed, then req, filter, sse and after set; the rest is the feed's. Lives until mt_feed_leave. */
struct mt_feed_sub {
    struct mt_http_req *req;
    const struct mt_event_filter *filter;
    bool sse;         /* form of the stream (sse.h) */
    int64_t after;    /* everything up to this event was written or is not wanted */
    int64_t spoke_ns; /* when something was written last, monotonic */
    bool joined;
    bool ended;       /* too slow or gone: the stream is over */
    struct mt_feed_sub *next, **at;
};

/** @pg  role of the workers; one connection, made when somebody follows. */
int mt_feed_new(const struct mt_pg_conf *pg, struct mt_log_head *head, struct mt_feed **ret, struct mt_err *err);
/** After the server whose streams it feeds. NULL is fine. */
void mt_feed_free(struct mt_feed *f);
/** 1 the feed writes from sub->after on; 0 events after it are gone from memory: read on from the database and ask again. */
int mt_feed_join(struct mt_feed *f, struct mt_feed_sub *s);
/** Nothing more is written. Needed before the sub's memory goes; harmless when it is not in. */
void mt_feed_leave(struct mt_feed *f, struct mt_feed_sub *s);
/** The last object of a stream that is not joined (or the feed's own): where to go on. */
void mt_feed_end(const struct mt_feed_sub *s, const char *reason);
/** after, spoke_ns, ended as of now. */
void mt_feed_look(struct mt_feed *f, const struct mt_feed_sub *s, int64_t *ret_after, int64_t *ret_spoke_ns, bool *ret_ended);
/** The log was restored to an older point and ends with @head: every stream is ended with reason `reset` and goes on from there
 * when its client comes back. */
void mt_feed_reset(struct mt_feed *f, int64_t head);
