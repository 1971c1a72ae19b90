/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Following logs: one thread reads all agents' sockets of all log streams and writes each line, with its instance and
 * process, to the stream that wants it. A stream that ends drops its sockets; a slow client is ended, never waited for.
 */
#pragma once

#include "base/err.h"
#include "wire/http_server.h"

#include <jansson.h>

struct mt_fanout;

/**
 * Where a stream is in each of its instances, in the form of the cursor that it goes on from: hexadecimal of {instance: seq}. The client of
 * server-sent events is told at most once a second, so one that comes back may see the last second again.
 */
struct mt_log_place;
/** @had: positions the client came with, NULL for none; borrowed. NULL when memory is out. */
struct mt_log_place *mt_log_place_new(bool sse, const json_t *had);
struct mt_log_place *mt_log_place_ref(struct mt_log_place *p);
void mt_log_place_unref(struct mt_log_place *p);
/** @instance_id was read up to @seq. */
void mt_log_place_at(struct mt_log_place *p, const char *instance_id, uint64_t seq);
/** How far it was read; 0: not at all. */
uint64_t mt_log_place_seq(struct mt_log_place *p, const char *instance_id);
/** True once after its agent ended a source of it: the instance is gone, or the agent is. */
bool mt_log_place_take_lost(struct mt_log_place *p, const char *instance_id);
/** The cursor, malloc'ed; NULL while nothing was read or when memory is out. */
char *mt_log_place_cursor(struct mt_log_place *p);
/** One object of a stream, with its newline. As mt_http_stream_write. */
int mt_log_put(struct mt_http_req *req, const struct mt_log_place *p, const char *line, size_t len);
/** A heartbeat. */
void mt_log_beat(struct mt_http_req *req, struct mt_log_place *p);
/** The last object, then the end. */
void mt_log_end(struct mt_http_req *req, struct mt_log_place *p, const char *reason);
/** The cursor of positions, as above. */
char *mt_log_cursor(const json_t *positions);

int mt_fanout_new(struct mt_fanout **ret, struct mt_err *err);
/** Stops the thread and drops every follower. NULL is fine. */
void mt_fanout_free(struct mt_fanout *f);

/** One source of a stream. Texts are copied. */
struct mt_follow {
    int fd; /* non-blocking, taken */
    const char *instance_id, *process_type;
    const char *stream;   /* only this one (stdout, stderr, system), NULL: all */
    const char *contains; /* only lines that hold this, NULL: all */
    int64_t until_us;     /* only lines from before it; 0: all */
    struct mt_log_place *place; /* of the stream; referenced */
};
/** Read @what into @req until either ends. -MT_E_LIMIT above 1024 followers; @what->fd is closed then too. */
int mt_fanout_add(struct mt_fanout *f, struct mt_http_req *req, const struct mt_follow *what, struct mt_err *err);

/** An agent's record as the API shows it: instance and process are added. @record is borrowed. NULL: not a log record. */
json_t *mt_log_item(const json_t *record, const char *instance_id, const char *process_type);
/** True when an item is from before @until_us; 0: always. */
bool mt_log_item_before(const json_t *item, int64_t until_us);
/** True when an item passes the filters. */
bool mt_log_item_wanted(const json_t *item, const char *stream, const char *contains);
