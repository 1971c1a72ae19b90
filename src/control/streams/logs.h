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

int mt_fanout_new(struct mt_fanout **ret, struct mt_err *err);
/** Stops the thread and drops every follower. NULL is fine. */
void mt_fanout_free(struct mt_fanout *f);

/** One source of a stream. Texts are copied. */
struct mt_follow {
    int fd; /* non-blocking, taken */
    const char *instance_id, *process_type;
    const char *stream;   /* only this one (stdout, stderr, system), NULL: all */
    const char *contains; /* only lines that hold this, NULL: all */
};
/** Read @what into @req until either ends. -MT_E_LIMIT above 1024 followers; @what->fd is closed then too. */
int mt_fanout_add(struct mt_fanout *f, struct mt_http_req *req, const struct mt_follow *what, struct mt_err *err);

/** An agent's record as the API shows it: instance and process are added. @record is borrowed. NULL: not a log record. */
json_t *mt_log_item(const json_t *record, const char *instance_id, const char *process_type);
/** True when an item passes the filters. */
bool mt_log_item_wanted(const json_t *item, const char *stream, const char *contains);
