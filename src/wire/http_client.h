/* SPDX-License-Identifier: Apache-2.0 */
/* A small blocking HTTP/1.1 client over Unix sockets and TLS, with deadlines: for the CLI, and for threads of the agent and the edge.
 * One request at a time per client; the connection is kept and re-made when the peer has closed it. Nothing is retried
 * but a request that found a kept connection closed before any byte of an answer came. Source: RFC 9112. */
#pragma once

#include "base/buf.h"
#include "base/cleanup.h"

#include <stdatomic.h>
#include <sys/types.h>

struct mt_http_client;
struct mt_tls_ctx;

struct mt_http_header {
    const char *name; /* compared without case */
    const char *value;
};

struct mt_http_request {
    const char *method;
    const char *target; /* path and query, already encoded; blanks and control characters are -MT_E_INVALID, in header values control characters */
    const struct mt_http_header *headers;
    size_t header_count;
    const char *body; /* NULL: none; sent with Content-Length and Content-Type: application/json */
    size_t body_len;
    int64_t timeout_ms; /* for the whole exchange; for a stream: for the head, and for each silence between parts */
    bool secret;        /* the answer is: the client's own copies are wiped and its body never moves; the caller wipes that */
};

struct mt_http_reply {
    int status;
    char request_id[65]; /* X-Request-Id made printable, "" when absent */
    uint64_t event_id;   /* X-Event-Id, 0 when absent */
    unsigned retry_after_s;
    bool idempotent_replay;
    char recovery[16]; /* X-Moat-Recovery, "" when there is none */
    struct mt_buf body; /* release with mt_http_reply_done */
};

/** Called with each part of a streamed body; a non-zero return ends the stream (mt_http_stream returns it). */
typedef int (*mt_http_part_fn)(const char *data, size_t len, void *arg);

/** Client of the server behind Unix socket @path; connects at the first request. NULL when memory is out. */
struct mt_http_client *mt_http_client_new(const char *path);
/**
 * Client of https://@host:@port (name, or IP literal without brackets). @ctx is referenced; its certificate, CA and pin say who both sides are.
 * @server_name  what the server's certificate must be for; NULL: @host. "": any name, when @ctx verifies by itself (node certificates)
 */
struct mt_http_client *mt_http_client_new_tls(const char *host, uint16_t port, struct mt_tls_ctx *ctx, const char *server_name);
/** Another certificate or trust from the next connection on (a renewed certificate); the kept connection is not used again. */
void mt_http_client_set_tls(struct mt_http_client *c, struct mt_tls_ctx *ctx);
void mt_http_client_free(struct mt_http_client *c);
enum { MT_HTTP_TRUST_MAX = 4 };
/** Unix sockets: talk only to a server whose process belongs to one of @uids (1..MT_HTTP_TRUST_MAX, copied): a request carries secrets, its answer is
 * obeyed, and somebody else may have made a socket of that name first. Others are -MT_E_DENIED. Without this call everybody is trusted. */
void mt_http_client_trust(struct mt_http_client *c, const uid_t *uids, size_t n);
/** Headers that go with every request before its own ones; @headers are borrowed for the client's life. */
void mt_http_client_always(struct mt_http_client *c, const struct mt_http_header *headers, size_t n);
/** A connection of its own to the same server, under the same rule of trust, for what is no longer HTTP. Non-blocking; @ret_fd is the caller's.
 * Over TLS it is the plain end of a relay (os/tls_relay.h) with a thread of its own, ten seconds at most until it is made. */
int mt_http_client_dial(const struct mt_http_client *c, int *ret_fd, struct mt_err *err);
/** From another thread: make the running and all later requests fail with -MT_E_CANCELLED. */
void mt_http_client_cancel(struct mt_http_client *c);
/**
 * Do one exchange. 0 for any HTTP status (look at ret->status); -MT_E_UNAVAILABLE nobody listens or the peer went away,
 * -MT_E_TIMEOUT, -MT_E_CORRUPT not HTTP, -MT_E_LIMIT body over @max_body, -MT_E_CANCELLED. @ret is valid only after 0.
 */
int mt_http_do(struct mt_http_client *c, const struct mt_http_request *req, size_t max_body, struct mt_http_reply *ret, struct mt_err *err);
/** As mt_http_do, but a 2xx body goes to @part as it arrives (other bodies land in ret->body, at most @max_body). */
int mt_http_stream(struct mt_http_client *c, const struct mt_http_request *req, size_t max_body, mt_http_part_fn part, void *arg,
                   struct mt_http_reply *ret, struct mt_err *err);
void mt_http_reply_done(struct mt_http_reply *r);
/** Append @s percent-encoded as a query value. */
void mt_http_put_query(struct mt_buf *b, const char *s);

#define mt_auto_http_reply mt_cleanup(mt_http_reply_done)
