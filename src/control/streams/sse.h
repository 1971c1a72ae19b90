/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two forms of a stream: NDJSON, or server-sent events (WHATWG HTML, "Server-sent events") for who asks with Accept: text/event-stream.
 * Both carry the same JSON objects. As an event an object is one `data:` line, with `id:` where a client that comes back with
 * Last-Event-ID goes on; a heartbeat is a comment, with an `id:` that moves the client's place on and gives it no event; the last
 * object, of type `end`, is an event of that name.
 */
#pragma once

#include "base/err.h"
#include "wire/http_server.h"

/** True when @accept (NULL: absent) names text/event-stream, and application/x-ndjson not with a higher or the same but earlier weight. */
bool mt_sse_accepted(const char *accept);
/** The same of a request, during its handler. */
bool mt_sse_wanted(const struct mt_http_req *req);
/** Last-Event-ID of a request that wants server-sent events; NULL: none. It is newer than what the query says. */
const char *mt_sse_last_id(const struct mt_http_req *req);

/** Begin the answer. */
void mt_sse_start(struct mt_http_req *req, bool sse, size_t max_buffer);
/** One object: @line is JSON with its newline. @id may be NULL; neither has other control characters. As mt_http_stream_write. */
int mt_sse_put(struct mt_http_req *req, bool sse, const char *id, const char *line, size_t len);
/** One heartbeat. */
int mt_sse_beat(struct mt_http_req *req, bool sse, const char *id, const char *line, size_t len);
/** The last object, of some hundred bytes, then the end; it goes out though the buffer is full. @id may be NULL, and is left out
 * above some 900 bytes. */
void mt_sse_end(struct mt_http_req *req, bool sse, const char *id, const char *line, size_t len);
