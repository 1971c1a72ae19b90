/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces (scheduling-and-operations.md §8, W3C trace context). The id of a request is the id of its trace, in other letters: `req_` and a ULID are the 128 bits of the
 * trace id. So each event carries it (its request_id), and what the scheduler and the nodes did for it is found again from the log, long after. A span is a
 * line of the log with kind=span, when it ended: all that failed, one in a hundred of the others by the trace's own bits, and what the caller marks as sampled.
 */
#pragma once

#include "model/ids.h"
#include "pg/pg.h"

#define MT_TRACE_ID 33
#define MT_SPAN_ID 17

struct mt_trace {
    char trace_id[MT_TRACE_ID], span_id[MT_SPAN_ID], parent_id[MT_SPAN_ID]; /* lower-case hex; parent "": none */
    bool wanted; /* its spans are written whatever they came to */
};

/** The caller's place in a trace from `traceparent` (version 00), with a span of our own in it. False, and @ret untouched, when it is none. */
bool mt_trace_take(const char *traceparent, struct mt_trace *ret);
/** The id of the request of that trace. */
void mt_trace_request_id(const char *trace_id, char ret[MT_ID_SIZE]);
/** The trace of a request; false when its id is none of ours (a client gave it another name). */
bool mt_trace_of_request(const char *request_id, char ret[MT_TRACE_ID]);
/** The trace of a request with an id of ours; a new one when a client gave the request another name. */
void mt_trace_begin(const char *request_id, struct mt_trace *ret);

/** A deploy ended as @became: its span, those of its instances up to their first readiness, from the log. Never an error: a span that cannot be
 * read is not written. */
void mt_trace_deploy(struct mt_pg *pg, const char *deploy_id, const char *became);
