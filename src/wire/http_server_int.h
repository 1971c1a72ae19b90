/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the HTTP server of http_server.h, shared by http_server.c (threads, queue, lot), http_network.c (the library's callbacks),
 * http_request.c (the request object), http_reply.c (answers and streams) and http_tls.c (TLS in front of a listener). Only these include
 * microhttpd.h.
 *
 * One network thread per listener, so the agents' connections cannot be used up by tenants; one pool of workers; one thread that keeps
 * the deadlines of parked requests. A listener with TLS has a second thread in front (http_tls.c).
 *
 * Locks: s->mu guards the queue, the lot and the list of live requests; req->mu guards one request's phase, connection and stream
 * buffer. s->mu is never taken while req->mu is held.
 */
#pragma once

#include "os/tls.h"
#include "wire/http_server.h"

#include <microhttpd.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define HTTPD_REQ_MAGIC 0x9d3c71e5u
#define HTTPD_MAX_HEADERS 64
#define HTTPD_MAX_QUERY 64
#define HTTPD_MAX_LISTENERS 8

enum phase {
    PHASE_READING = 0, /* the network thread collects the body */
    PHASE_QUEUED,      /* with a worker or in the lot; connection suspended */
    PHASE_ANSWERED,    /* response made, connection resumed */
    PHASE_SENT,        /* response handed to the library */
    PHASE_MAX
};

struct pair {
    char *name, *value;
};

/* Of a connection that came over TLS: belongs to the library's connection. */
struct httpd_origin {
    char address[64];
    bool has_peer;
    struct mt_tls_peer peer;
};

struct httpd_front;

struct mt_http_req {
    uint32_t magic;
    struct mt_http_server *s;
    pthread_mutex_t mu;
    unsigned refs; /* under mu */
    enum phase phase;
    struct MHD_Connection *conn; /* NULL once the library has ended it */
    struct MHD_Response *response;
    unsigned status;
    bool suspended, gone;
    /* the request */
    int tag;
    char *uri; /* as sent; path and query point into it */
    char method[16];
    const char *path;
    bool bad_uri, too_large, has_peer, tls;
    struct mt_tls_peer *tls_peer; /* own copy, NULL without */
    char address[64]; /* of a TCP peer, "" on Unix sockets */
    uid_t uid;
    pid_t pid;
    struct pair *headers; /* grown as they come: streams keep their request for hours */
    size_t headers_n;
    struct pair *query;
    size_t query_n;
    char *body;
    size_t body_len, body_cap;
    int64_t arrived_ns;
    /* the handler */
    unsigned round;
    void *state;
    void (*destroy)(void *);
    mt_http_upgraded_fn upgraded;
    struct pair out[16];
    size_t out_n;
    bool answered, park_asked;
    unsigned topics;
    int64_t deadline_ns;
    uint64_t seen[MT_HTTP_TOPICS];
    /* the stream */
    bool streaming, ended;
    char *buf;
    size_t buf_len, buf_off, buf_cap, buf_max;
    /* lists, under s->mu */
    struct mt_http_req *next, *prev; /* queue or lot */
    struct mt_http_req *all_next, *all_prev;
    bool in_lot;
};

/* What the library hands to the callbacks of one listener; complete before its daemon starts, so that no request can come too early. */
struct httpd_listener {
    struct mt_http_server *s;
    int tag;
    struct httpd_front *front; /* NULL: plain */
};

struct httpd_queue {
    struct mt_http_req *head, *tail;
};

struct mt_http_server {
    struct mt_http_conf conf;
    struct MHD_Daemon *daemons[HTTPD_MAX_LISTENERS];
    struct httpd_listener listeners[HTTPD_MAX_LISTENERS]; /* of daemons[i] */
    size_t daemons_n;
    pthread_mutex_t mu;
    pthread_cond_t work, lot_cv, idle_cv;
    struct httpd_queue first, later; /* to be handled (httpd_queue_push) */
    unsigned first_run;              /* how many of the first were taken since one of the later was */
    unsigned later_busy;             /* workers that handle one of the later */
    struct mt_http_req *lot, *all;
    unsigned queued, parked, busy, live, streams;
    uint64_t requests;
    uint64_t seq[MT_HTTP_TOPICS];
    bool stopping, quit;
    pthread_t *workers;
    unsigned workers_n;
    pthread_t lot_thread;
    bool lot_started;
};

/* http_request.c */

/** Called by the library for every request line (@cls a struct httpd_listener): makes the request object, holding one reference for the
 * connection. */
void *httpd_request_new(void *cls, const char *uri, struct MHD_Connection *conn);

/** The next slot of a list that grows, empty; not counted yet. NULL: @max are there, or no memory. */
struct pair *httpd_pair_next(struct pair **list, size_t n, size_t max);

/* http_server.c */

int httpd_start_thread(pthread_t *t, void *(*fn)(void *), void *arg, struct mt_err *err);

/* http_server.c; s->mu is held */

void httpd_queue_push(struct mt_http_server *s, struct mt_http_req *r);
void httpd_lot_remove(struct mt_http_server *s, struct mt_http_req *r);

/* http_network.c: callbacks of the library; cls is a struct httpd_listener */

enum MHD_Result httpd_on_access(void *cls, struct MHD_Connection *conn, const char *url, const char *method, const char *version,
                                const char *data, size_t *data_len, void **con_cls);
void httpd_on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode code);
void httpd_on_log(void *cls, const char *fmt, va_list ap);

/** "2001:db8::1", "192.0.2.1" (also when mapped), "" for other families. */
void httpd_address_text(const struct sockaddr_storage *ss, char *ret, size_t size);

/* http_tls.c */

int httpd_front_new(struct httpd_listener *l, const struct mt_http_listener *conf, unsigned max_conns, struct httpd_front **ret,
                    struct mt_err *err);
/** Accept from @listen_fd, which belongs to @f from here on, for @daemon. */
int httpd_front_start(struct httpd_front *f, struct MHD_Daemon *daemon, int listen_fd, struct mt_err *err);
void httpd_front_quiesce(struct httpd_front *f);
/** After its daemon has stopped: the last bytes go out, then the thread ends. */
void httpd_front_free(struct httpd_front *f);
void httpd_front_set(struct httpd_front *f, struct mt_tls_ctx *ctx);
void httpd_front_stats(struct httpd_front *f, struct mt_http_stats *add);
void httpd_on_connection(void *cls, struct MHD_Connection *conn, void **context, enum MHD_ConnectionNotificationCode code);

/* http_reply.c */

/** Resume the connection once; req->mu is held. */
void httpd_resume(struct mt_http_req *r);
