/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An HTTP/1.1 server for straight-line handlers. This header hides the library behind it
 * (libmicrohttpd today): callers see requests, replies, parking and streams, nothing else.
 *
 * How a request lives: the network thread of its listener reads it whole (bounded), then hands it to a
 * worker thread. The handler runs there from top to bottom, may block (database, agent) and ends in one
 * of three ways:
 *   mt_http_reply()   the answer goes out, the request is over;
 *   mt_http_park()    nobody waits: the request sleeps as an object until a topic it named is woken or
 *                     its deadline passes, then the same handler runs again;
 *   mt_http_stream_start() then any number of mt_http_stream_write(), parked in between.
 * The server knows nothing of JSON, of authorisation or of the product.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mt_err;
struct mt_http_server;
struct mt_http_req;
struct mt_tls_ctx;
struct mt_tls_peer;

/* Topics a parked request can wait for: bits 0..MT_HTTP_TOPICS-1 of a mask. */
#define MT_HTTP_TOPICS 8

/** One listening socket. @fd is a bound and listening stream socket (Unix or TCP), owned by the server
 *  from mt_http_server_start on; @tag is given back by mt_http_req_listener(). */
struct mt_http_listener {
    int fd;
    int tag;
    struct mt_tls_ctx *tls;  /* a server's context: TLS on a TCP socket; NULL: plain. Referenced by the server */
    unsigned max_per_source; /* TLS: connections from one IPv4 address or IPv6 /64, more are closed at once; 0: no such limit */
};

struct mt_http_conf {
    const struct mt_http_listener *listeners;
    size_t listeners_n;
    unsigned workers;       /* worker threads, 1..64 */
    unsigned background;    /* 1 << tag of the listeners (tags below 32) whose requests stand behind those of the others */
    unsigned max_conns;     /* connections per listener; more are refused */
    unsigned max_queue;     /* requests waiting for a worker; more are answered 503 */
    size_t max_body;        /* bytes; a larger body is answered 413 without being kept */
    unsigned idle_seconds;  /* a connection without traffic is closed; parked ones are not idle */
    /** Called on each worker thread before its first request; returns the thread's context. */
    void *(*worker_start)(void *arg, unsigned index);
    /** Called on each worker thread after its last request. May be NULL. */
    void (*worker_stop)(void *arg, void *worker);
    /** The handler. Must reply, park, or have started a stream and parked or ended it. */
    void (*handle)(struct mt_http_req *req, void *worker, void *arg);
    /** Makes the body of an answer the server gives by itself (400, 413, 503, 500 when a handler returned
     *  without an outcome), and may add headers. Returns malloc'ed text and sets @ret_type (static string)
     *  and @ret_len. May be NULL: then a short plain text is sent. What libmicrohttpd refuses before a request
     *  exists (a malformed request line, 431 headers beyond its memory) it answers itself, without this. */
    char *(*own_answer)(struct mt_http_req *req, unsigned status, const char **ret_type,
                        size_t *ret_len, void *arg);
    void *arg;
};

/**
 * Start listeners and workers.
 *
 * @conf  copied; its listener descriptors belong to the server even when this fails
 * Returns 0; -MT_E_NOMEM, -MT_E_IO when a thread or a listener cannot be started.
 */
int mt_http_server_start(const struct mt_http_conf *conf, struct mt_http_server **ret, struct mt_err *err);

/** New connections of the TLS listener with @tag use @ctx from now on (a renewed certificate, another trust). Any thread. */
void mt_http_server_set_tls(struct mt_http_server *s, int tag, struct mt_tls_ctx *ctx);

/** No new connections; parked requests and streams are run once more with mt_http_req_stopping() true,
 *  so that streams can say where to resume. Returns when all requests have ended or @deadline_ms passed. */
void mt_http_server_drain(struct mt_http_server *s, unsigned deadline_ms);

/** Stop all threads, answer what is left with 503, free. NULL is fine. References to requests must be given back before. */
void mt_http_server_free(struct mt_http_server *s);

/** Run again every parked request that waits for one of @topics. Any thread. */
void mt_http_server_wake(struct mt_http_server *s, unsigned topics);

/** Numbers for a metrics page. */
struct mt_http_stats {
    unsigned parked, queued, busy, streams;
    uint64_t requests;
    uint64_t tls_refused, tls_failed; /* connections over a source's limit; handshakes that failed or took too long */
};
void mt_http_server_stats(struct mt_http_server *s, struct mt_http_stats *ret);

/* --- the request, valid during the handler and, for streams, while a reference is held --- */

int mt_http_req_listener(const struct mt_http_req *req);
const char *mt_http_req_method(const struct mt_http_req *req);
/** The path as sent, without query. It holds no percent escapes, no NUL, no control bytes: a request
 *  whose path has them was already answered 400. */
const char *mt_http_req_path(const struct mt_http_req *req);
/** Header by name (any case), first value, or NULL. */
const char *mt_http_req_header(const struct mt_http_req *req, const char *name);
/** True when @name occurs more than once. */
bool mt_http_req_header_repeated(const struct mt_http_req *req, const char *name);
/** i-th query parameter in the order sent, decoded and free of NUL; false past the end. */
bool mt_http_req_query_at(const struct mt_http_req *req, size_t i, const char **ret_key,
                          const char **ret_value);
/** The whole body, NUL-terminated past @ret_len; never NULL. */
const char *mt_http_req_body(const struct mt_http_req *req, size_t *ret_len);
/** Identity of the peer on a Unix socket. Returns 0, or -MT_E_NOT_FOUND on other sockets. */
int mt_http_req_peer(const struct mt_http_req *req, uid_t *ret_uid, pid_t *ret_pid);
/** Address of the peer of a TCP socket as text ("2001:db8::1", "192.0.2.1"). Returns 0, or -MT_E_NOT_FOUND on a Unix socket. */
int mt_http_req_address(const struct mt_http_req *req, char *ret, size_t size);
/** The request came over TLS. */
bool mt_http_req_tls(const struct mt_http_req *req);
/** The client's certificate, verified as the listener's context says; NULL without TLS and when it showed none. As it was when the connection
 *  began: whether it is revoked since is for the handler to ask. */
const struct mt_tls_peer *mt_http_req_tls_peer(const struct mt_http_req *req);
/** How often the handler ran for this request before (0 = first time). */
unsigned mt_http_req_round(const struct mt_http_req *req);
/** Monotonic nanoseconds when the request was complete. */
int64_t mt_http_req_arrived_ns(const struct mt_http_req *req);
/** The server is draining: do not park again. */
bool mt_http_req_stopping(const struct mt_http_req *req);

/** Status of the answer that this request has, 0 while it has none. A stream has 200 from its start. */
unsigned mt_http_req_status(struct mt_http_req *req);

/** mt_http_stream_start was called for this request. */
bool mt_http_req_streaming(const struct mt_http_req *req);

/** State a handler keeps across rounds; @destroy is called once when the request ends. */
void mt_http_req_set_state(struct mt_http_req *req, void *state, void (*destroy)(void *));
void *mt_http_req_state(const struct mt_http_req *req);

/* --- outcomes --- */

/** Add a response header before replying or streaming (copied). Control bytes in @value are dropped. */
void mt_http_add_header(struct mt_http_req *req, const char *name, const char *value);

/**
 * Answer and end the request.
 *
 * @content_type  static string, or NULL when there is no body
 * @body          malloc'ed, owned by the server from here on; NULL = empty
 */
void mt_http_reply(struct mt_http_req *req, unsigned status, const char *content_type, char *body,
                   size_t len);

/**
 * Sleep until one of @topics is woken or @deadline_ns (monotonic, at most some minutes away) passes. A wake that
 * happened after this round of the handler began is not lost: the handler runs again at once.
 */
void mt_http_park(struct mt_http_req *req, unsigned topics, int64_t deadline_ns);

/** Begin a streamed answer with status 200; at most @max_buffer bytes may wait for a slow client. */
void mt_http_stream_start(struct mt_http_req *req, const char *content_type, size_t max_buffer);

/**
 * Queue bytes for the client. Any thread that holds a reference.
 * Returns 0; -MT_E_LIMIT the buffer would overflow (nothing queued); -MT_E_UNAVAILABLE client gone.
 */
int mt_http_stream_write(struct mt_http_req *req, const void *data, size_t len);
/** The same for what lies in @n pieces: all of it or nothing. */
struct iovec;
int mt_http_stream_writev(struct mt_http_req *req, const struct iovec *v, int n);

/** No more bytes; what is queued still goes out. Ends the request. Any thread that holds a reference. */
void mt_http_stream_end(struct mt_http_req *req);

/** A last line, which goes out even when the buffer is full, then the end. @len at most some hundred bytes. */
void mt_http_stream_finish(struct mt_http_req *req, const void *data, size_t len);

/** What becomes of an upgraded connection: @fd is the callee's, with @early bytes that the client sent behind its request. Network thread. */
typedef void (*mt_http_upgraded_fn)(void *state, int fd, const void *early, size_t early_len);
/**
 * Answer 101 and give the connection away: @fn gets it with the request's state (mt_http_req_set_state), which is @fn's from then on; when the
 * client goes away before, the state's destroy is called as ever. The connection no longer counts as one of the server's.
 * @protocol  static string for the Upgrade header
 */
void mt_http_upgrade(struct mt_http_req *req, const char *protocol, mt_http_upgraded_fn fn);

/** The client closed its connection (known only after a write was tried). */
bool mt_http_stream_gone(struct mt_http_req *req);

/** References for streams fed from another thread. */
struct mt_http_req *mt_http_req_ref(struct mt_http_req *req);
void mt_http_req_unref(struct mt_http_req *req);
