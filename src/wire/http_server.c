/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server of http_server.h on libmicrohttpd: one network thread per listener (so the agents'
 * connections cannot be used up by tenants), one pool of workers, one thread that keeps the deadlines of
 * parked requests. Only this file includes microhttpd.h.
 *
 * Locks: s->mu guards the queue, the lot and the list of live requests; req->mu guards one request's
 * phase, connection and stream buffer. s->mu is never taken while req->mu is held.
 */
#include "wire/http_server.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#include <ctype.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQ_MAGIC 0x9d3c71e5u
#define MAX_HEADERS 64
#define MAX_QUERY 64
#define MAX_URI 8192
#define MAX_LISTENERS 8
#define DISCARD_TIMES 8 /* a body up to so many times the limit is read to its end before 413 */

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
    bool bad_uri, too_large, has_peer;
    uid_t uid;
    pid_t pid;
    struct pair headers[MAX_HEADERS];
    size_t headers_n;
    struct pair query[MAX_QUERY];
    size_t query_n;
    char *body;
    size_t body_len, body_cap;
    int64_t arrived_ns;
    /* the handler */
    unsigned round;
    void *state;
    void (*destroy)(void *);
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

struct mt_http_server {
    struct mt_http_conf conf;
    struct MHD_Daemon *daemons[MAX_LISTENERS];
    int tags[MAX_LISTENERS];
    size_t daemons_n;
    pthread_mutex_t mu;
    pthread_cond_t work, lot_cv, idle_cv;
    struct mt_http_req *q_head, *q_tail, *lot, *all;
    unsigned queued, parked, busy, live, streams;
    uint64_t requests;
    uint64_t seq[MT_HTTP_TOPICS];
    bool stopping, quit;
    pthread_t *workers;
    unsigned workers_n;
    pthread_t lot_thread;
    bool lot_started;
};

struct worker_arg {
    struct mt_http_server *s;
    unsigned index;
};

/* ---------------------------------------------------------------- requests */

static void pairs_free(struct pair *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(p[i].name);
        free(p[i].value);
    }
}

static void req_destroy(struct mt_http_req *r)
{
    struct mt_http_server *s = r->s;
    if (r->destroy)
        r->destroy(r->state);
    if (r->response)
        MHD_destroy_response(r->response);
    pthread_mutex_lock(&s->mu);
    if (r->all_prev)
        r->all_prev->all_next = r->all_next;
    else if (s->all == r)
        s->all = r->all_next;
    if (r->all_next)
        r->all_next->all_prev = r->all_prev;
    s->live--;
    if (r->streaming)
        s->streams--;
    pthread_cond_broadcast(&s->idle_cv);
    pthread_mutex_unlock(&s->mu);
    pairs_free(r->headers, r->headers_n);
    pairs_free(r->query, r->query_n);
    pairs_free(r->out, r->out_n);
    free(r->uri);
    free(r->body);
    free(r->buf);
    pthread_mutex_destroy(&r->mu);
    r->magic = 0;
    free(r);
}

struct mt_http_req *mt_http_req_ref(struct mt_http_req *r)
{
    pthread_mutex_lock(&r->mu);
    r->refs++;
    pthread_mutex_unlock(&r->mu);
    return r;
}

void mt_http_req_unref(struct mt_http_req *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->mu);
    bool last = --r->refs == 0;
    pthread_mutex_unlock(&r->mu);
    if (last)
        req_destroy(r);
}

/* Resume once; req->mu is held. */
static void resume_locked(struct mt_http_req *r)
{
    if (r->suspended && r->conn) {
        r->suspended = false;
        MHD_resume_connection(r->conn);
    }
}

static int hexval(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decode %XX and '+' in place; false on a broken escape or a control byte. */
static bool query_decode(char *t)
{
    char *o = t;
    for (const char *p = t; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            int h = hexval(p[1]);
            int l = h < 0 ? -1 : hexval(p[2]);
            if (l < 0)
                return false;
            c = (unsigned char)(h * 16 + l);
            p += 2;
        }
        if (c < 0x20 || c == 0x7f)
            return false;
        *o++ = (char)c;
    }
    *o = 0;
    return true;
}

/* Split r->uri into path and decoded query; sets bad_uri instead of failing. */
static void uri_parse(struct mt_http_req *r)
{
    char *q = strchr(r->uri, '?');
    if (q)
        *q++ = 0;
    r->path = r->uri;
    if (r->uri[0] != '/')
        r->bad_uri = true;
    for (const char *p = r->uri; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("/-._~:@", *p))
            r->bad_uri = true;
    while (q && *q && !r->bad_uri) {
        char *end = strchr(q, '&');
        if (end)
            *end = 0;
        char *eq = strchr(q, '=');
        if (eq)
            *eq = 0;
        if (*q) {
            if (r->query_n == MAX_QUERY) {
                r->bad_uri = true;
                break;
            }
            struct pair *p = &r->query[r->query_n];
            p->name = strdup(q);
            p->value = strdup(eq ? eq + 1 : "");
            r->query_n++;
            if (!p->name || !p->value || !query_decode(p->name) || !query_decode(p->value))
                r->bad_uri = true;
        }
        q = end ? end + 1 : NULL;
    }
}

/* Called by the library for every request line: makes the request object. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
    struct mt_http_server *s = cls;
    struct mt_http_req *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->magic = REQ_MAGIC;
    r->s = s;
    r->refs = 1; /* the connection's */
    r->conn = conn;
    pthread_mutex_init(&r->mu, NULL);
    size_t n = strnlen(uri, MAX_URI + 1);
    r->uri = strndup(n > MAX_URI ? "" : uri, MAX_URI);
    if (!r->uri) {
        pthread_mutex_destroy(&r->mu);
        free(r);
        return NULL;
    }
    uri_parse(r);
    pthread_mutex_lock(&s->mu);
    r->all_next = s->all;
    if (s->all)
        s->all->all_prev = r;
    s->all = r;
    s->live++;
    s->requests++;
    pthread_mutex_unlock(&s->mu);
    return r;
}

static enum MHD_Result take_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                   const char *value)
{
    struct mt_http_req *r = cls;
    (void)kind;
    if (r->headers_n == MAX_HEADERS)
        return MHD_NO;
    struct pair *p = &r->headers[r->headers_n];
    p->name = strdup(key);
    p->value = strdup(value ? value : "");
    r->headers_n++;
    return p->name && p->value ? MHD_YES : MHD_NO;
}

/* ---------------------------------------------------------------- answers of the server itself */

static struct MHD_Response *text_response(struct mt_http_req *r, unsigned status)
{
    const char *type = "text/plain; charset=utf-8";
    size_t len = 0;
    char *body = r->s->conf.own_answer
                     ? r->s->conf.own_answer(r, status, &type, &len, r->s->conf.arg)
                     : NULL;
    struct MHD_Response *resp =
        body ? MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE)
             : MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!resp) {
        free(body);
        return NULL;
    }
    (void)MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == 503)
        (void)MHD_add_response_header(resp, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    return resp;
}

static enum MHD_Result answer_now(struct mt_http_req *r, unsigned status)
{
    struct MHD_Response *resp = text_response(r, status);
    if (!resp)
        return MHD_NO;
    if (status == 413 || status == 400)
        (void)MHD_add_response_header(resp, MHD_HTTP_HEADER_CONNECTION, "close");
    r->phase = PHASE_SENT;
    enum MHD_Result ok = MHD_queue_response(r->conn, status, resp);
    MHD_destroy_response(resp);
    return ok;
}

/* ---------------------------------------------------------------- queue and lot; s->mu held */

static void queue_push(struct mt_http_server *s, struct mt_http_req *r)
{
    r->next = NULL;
    r->prev = s->q_tail;
    if (s->q_tail)
        s->q_tail->next = r;
    else
        s->q_head = r;
    s->q_tail = r;
    s->queued++;
    pthread_cond_signal(&s->work);
}

static struct mt_http_req *queue_pop(struct mt_http_server *s)
{
    struct mt_http_req *r = s->q_head;
    if (!r)
        return NULL;
    s->q_head = r->next;
    if (s->q_head)
        s->q_head->prev = NULL;
    else
        s->q_tail = NULL;
    r->next = r->prev = NULL;
    s->queued--;
    return r;
}

static void lot_add(struct mt_http_server *s, struct mt_http_req *r)
{
    r->prev = NULL;
    r->next = s->lot;
    if (s->lot)
        s->lot->prev = r;
    s->lot = r;
    r->in_lot = true;
    s->parked++;
    pthread_cond_signal(&s->lot_cv);
}

static void lot_remove(struct mt_http_server *s, struct mt_http_req *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        s->lot = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->next = r->prev = NULL;
    r->in_lot = false;
    s->parked--;
}

void mt_http_server_wake(struct mt_http_server *s, unsigned topics)
{
    pthread_mutex_lock(&s->mu);
    for (unsigned i = 0; i < MT_HTTP_TOPICS; i++)
        if (topics & (1u << i))
            s->seq[i]++;
    for (struct mt_http_req *r = s->lot, *n; r; r = n) {
        n = r->next;
        if (r->topics & topics) {
            lot_remove(s, r);
            queue_push(s, r);
        }
    }
    pthread_mutex_unlock(&s->mu);
}

static void *lot_main(void *arg)
{
    struct mt_http_server *s = arg;
    pthread_mutex_lock(&s->mu);
    while (!s->quit) {
        int64_t now = mt_clock_mono(), next = INT64_MAX;
        for (struct mt_http_req *r = s->lot, *n; r; r = n) {
            n = r->next;
            if (r->deadline_ns <= now) {
                lot_remove(s, r);
                queue_push(s, r);
            } else if (r->deadline_ns < next) {
                next = r->deadline_ns;
            }
        }
        if (next == INT64_MAX) {
            pthread_cond_wait(&s->lot_cv, &s->mu);
        } else {
            struct timespec ts = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000};
            pthread_cond_timedwait(&s->lot_cv, &s->mu, &ts);
        }
    }
    pthread_mutex_unlock(&s->mu);
    return NULL;
}

/* ---------------------------------------------------------------- network thread */

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *data_len, void **con_cls)
{
    struct mt_http_server *s = cls;
    struct mt_http_req *r = *con_cls;
    (void)url;
    (void)version;
    if (!r)
        return MHD_NO; /* out of memory when the request line came */
    MT_ASSERT(r->magic == REQ_MAGIC);
    if (!r->method[0]) { /* headers are complete, no body read yet */
        snprintf(r->method, sizeof r->method, "%s", method);
        const union MHD_ConnectionInfo *ci = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_DAEMON);
        for (size_t i = 0; ci && i < s->daemons_n; i++)
            if (s->daemons[i] == ci->daemon)
                r->tag = s->tags[i];
        ci = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct ucred uc;
        socklen_t ul = sizeof uc;
        if (ci && getsockopt(ci->connect_fd, SOL_SOCKET, SO_PEERCRED, &uc, &ul) == 0 && uc.pid > 0) {
            r->has_peer = true;
            r->uid = uc.uid;
            r->pid = uc.pid;
        }
        size_t before = r->headers_n;
        int total = MHD_get_connection_values(conn, MHD_HEADER_KIND, take_header, r);
        if (total < 0 || (size_t)total != r->headers_n - before || r->headers_n == MAX_HEADERS)
            r->bad_uri = true;
        if (r->bad_uri || strlen(method) >= sizeof r->method)
            return answer_now(r, 400);
        const char *cl = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
        unsigned long long declared = cl ? strtoull(cl, NULL, 10) : 0;
        if (declared / DISCARD_TIMES > s->conf.max_body)
            return answer_now(r, 413); /* the connection closes with bytes unread: the client may see a reset */
        r->too_large = declared > s->conf.max_body; /* read and dropped, so that the client gets its answer */
        return MHD_YES;
    }
    if (*data_len) {
        size_t n = *data_len;
        *data_len = 0;
        if (r->too_large)
            return MHD_YES;
        if (n > s->conf.max_body - r->body_len) {
            r->too_large = true;
            return MHD_YES;
        }
        if (r->body_len + n + 1 > r->body_cap) {
            size_t cap = r->body_cap ? r->body_cap * 2 : 1024;
            while (cap < r->body_len + n + 1)
                cap *= 2;
            char *nb = realloc(r->body, cap);
            if (!nb)
                return MHD_NO;
            r->body = nb;
            r->body_cap = cap;
        }
        memcpy(r->body + r->body_len, data, n);
        r->body_len += n;
        r->body[r->body_len] = 0;
        return MHD_YES;
    }

    pthread_mutex_lock(&r->mu);
    if (r->phase == PHASE_ANSWERED) {
        struct MHD_Response *resp = r->response;
        r->response = NULL;
        r->phase = PHASE_SENT;
        unsigned status = r->status;
        pthread_mutex_unlock(&r->mu);
        enum MHD_Result ok = MHD_queue_response(conn, status, resp);
        MHD_destroy_response(resp);
        return ok;
    }
    if (r->phase != PHASE_READING) { /* resumed for nothing: go back to sleep */
        bool sleep = r->phase == PHASE_QUEUED && !r->suspended;
        if (sleep) {
            MHD_suspend_connection(conn);
            r->suspended = true;
        }
        pthread_mutex_unlock(&r->mu);
        return MHD_YES;
    }
    if (r->too_large) {
        pthread_mutex_unlock(&r->mu);
        return answer_now(r, 413);
    }
    r->arrived_ns = mt_clock_mono();
    pthread_mutex_unlock(&r->mu);

    pthread_mutex_lock(&s->mu);
    bool full = s->queued >= s->conf.max_queue || s->stopping;
    pthread_mutex_unlock(&s->mu);
    if (full)
        return answer_now(r, 503);
    pthread_mutex_lock(&r->mu);
    MHD_suspend_connection(conn);
    r->suspended = true;
    r->phase = PHASE_QUEUED;
    r->refs++; /* the run's */
    pthread_mutex_unlock(&r->mu);
    pthread_mutex_lock(&s->mu);
    queue_push(s, r);
    pthread_mutex_unlock(&s->mu);
    return MHD_YES;
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct mt_http_server *s = cls;
    struct mt_http_req *r = *con_cls;
    (void)conn;
    (void)code;
    if (!r)
        return;
    *con_cls = NULL;
    pthread_mutex_lock(&r->mu);
    r->conn = NULL;
    r->gone = true;
    r->suspended = false;
    pthread_mutex_unlock(&r->mu);
    pthread_mutex_lock(&s->mu);
    bool lot = r->in_lot;
    if (lot)
        lot_remove(s, r);
    pthread_mutex_unlock(&s->mu);
    if (lot)
        mt_http_req_unref(r); /* the run's: it will not run again */
    mt_http_req_unref(r);
}

static void no_log(void *cls, const char *fmt, va_list ap)
{
    char line[256];
    (void)cls;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the library's own format strings */
    vsnprintf(line, sizeof line, fmt, ap);
#pragma GCC diagnostic pop
    for (char *p = line; *p; p++)
        if (*p == '\n')
            *p = ' ';
    mt_log(MT_DEBUG, "http.library", KV("message", line));
}

/* ---------------------------------------------------------------- workers */

static void run_request(struct mt_http_server *s, struct mt_http_req *r, void *worker)
{
    pthread_mutex_lock(&r->mu);
    bool gone = r->gone;
    r->park_asked = false;
    pthread_mutex_unlock(&r->mu);
    if (gone) {
        mt_http_req_unref(r);
        return;
    }
    s->conf.handle(r, worker, s->conf.arg);
    r->round++;
    if (r->park_asked) {
        pthread_mutex_lock(&r->mu);
        bool dead = r->gone || (r->streaming && r->ended);
        pthread_mutex_unlock(&r->mu);
        pthread_mutex_lock(&s->mu);
        bool again = false;
        for (unsigned i = 0; i < MT_HTTP_TOPICS; i++)
            if ((r->topics & (1u << i)) && r->seen[i] != s->seq[i])
                again = true;
        if (!dead && !s->quit) {
            if (again)
                queue_push(s, r);
            else
                lot_add(s, r);
        }
        bool drop = dead || s->quit;
        pthread_mutex_unlock(&s->mu);
        if (drop) {
            mt_http_req_unref(r);
            return;
        }
        /* A client that went away between the check and lot_add stays parked until its deadline. */
        return;
    }
    if (!r->answered && !r->streaming) {
        mt_log(MT_ERROR, "http.no_outcome", KV("path", r->path));
        const char *type = "text/plain; charset=utf-8";
        size_t len = 0;
        char *body = s->conf.own_answer ? s->conf.own_answer(r, 500, &type, &len, s->conf.arg) : NULL;
        mt_http_reply(r, 500, type, body, len);
    }
    mt_http_req_unref(r);
}

static void *worker_main(void *arg)
{
    struct worker_arg wa = *(struct worker_arg *)arg;
    free(arg);
    struct mt_http_server *s = wa.s;
    void *ctx = s->conf.worker_start ? s->conf.worker_start(s->conf.arg, wa.index) : NULL;
    pthread_mutex_lock(&s->mu);
    for (;;) {
        while (!s->q_head && !s->quit)
            pthread_cond_wait(&s->work, &s->mu);
        if (s->quit)
            break;
        struct mt_http_req *r = queue_pop(s);
        memcpy(r->seen, s->seq, sizeof r->seen);
        s->busy++;
        pthread_mutex_unlock(&s->mu);
        run_request(s, r, ctx);
        pthread_mutex_lock(&s->mu);
        s->busy--;
    }
    pthread_mutex_unlock(&s->mu);
    if (s->conf.worker_stop)
        s->conf.worker_stop(s->conf.arg, ctx);
    return NULL;
}

/* ---------------------------------------------------------------- outcomes */

void mt_http_add_header(struct mt_http_req *r, const char *name, const char *value)
{
    if (r->out_n == sizeof r->out / sizeof r->out[0])
        return;
    struct pair *p = &r->out[r->out_n];
    p->name = strdup(name);
    p->value = strdup(value);
    if (!p->name || !p->value) {
        free(p->name);
        free(p->value);
        p->name = p->value = NULL;
        return;
    }
    char *o = p->value;
    for (const char *q = p->value; *q; q++)
        if ((unsigned char)*q >= 0x20 && *q != 0x7f)
            *o++ = *q;
    *o = 0;
    r->out_n++;
}

static void finish(struct mt_http_req *r, unsigned status, const char *type, struct MHD_Response *resp)
{
    if (resp) {
        if (type)
            (void)MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, type);
        for (size_t i = 0; i < r->out_n; i++)
            (void)MHD_add_response_header(resp, r->out[i].name, r->out[i].value);
    }
    pthread_mutex_lock(&r->mu);
    r->answered = true;
    r->status = status;
    if (r->response) /* answered before: the first answer counts */
        MHD_destroy_response(resp);
    else
        r->response = resp;
    if (r->phase == PHASE_QUEUED && r->response) {
        r->phase = PHASE_ANSWERED;
        resume_locked(r);
    }
    pthread_mutex_unlock(&r->mu);
}

void mt_http_reply(struct mt_http_req *r, unsigned status, const char *type, char *body, size_t len)
{
    struct MHD_Response *resp =
        body ? MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE)
             : MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!resp) {
        free(body);
        resp = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
        MT_ASSERT(resp); /* a few hundred bytes: without them nothing can be answered any more */
        status = 500;
    }
    finish(r, status, body ? type : NULL, resp);
}

void mt_http_park(struct mt_http_req *r, unsigned topics, int64_t deadline_ns)
{
    r->park_asked = true;
    r->topics = topics;
    r->deadline_ns = deadline_ns;
}

/* The library asks for bytes of a stream; called on the network thread. */
static ssize_t on_stream_read(void *cls, uint64_t pos, char *out, size_t max)
{
    struct mt_http_req *r = cls;
    (void)pos;
    pthread_mutex_lock(&r->mu);
    ssize_t got = 0;
    size_t have = r->buf_len - r->buf_off;
    if (have) {
        size_t n = have < max ? have : max;
        memcpy(out, r->buf + r->buf_off, n);
        r->buf_off += n;
        if (r->buf_off == r->buf_len)
            r->buf_off = r->buf_len = 0;
        got = (ssize_t)n;
    } else if (r->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (r->conn && !r->suspended) {
        MHD_suspend_connection(r->conn);
        r->suspended = true;
    }
    pthread_mutex_unlock(&r->mu);
    return got;
}

void mt_http_stream_start(struct mt_http_req *r, const char *type, size_t max_buffer)
{
    struct MHD_Response *resp =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, on_stream_read, r, NULL);
    if (!resp) {
        mt_http_reply(r, 500, NULL, NULL, 0);
        return;
    }
    pthread_mutex_lock(&r->s->mu);
    r->s->streams++;
    pthread_mutex_unlock(&r->s->mu);
    r->streaming = true;
    r->buf_max = max_buffer;
    finish(r, 200, type, resp);
}

int mt_http_stream_write(struct mt_http_req *r, const void *data, size_t len)
{
    int rc = 0;
    pthread_mutex_lock(&r->mu);
    if (r->gone || r->ended) {
        rc = -MT_E_UNAVAILABLE;
    } else if (len > r->buf_max - (r->buf_len - r->buf_off)) {
        rc = -MT_E_LIMIT;
    } else {
        if (r->buf_off && r->buf_len + len > r->buf_cap) {
            memmove(r->buf, r->buf + r->buf_off, r->buf_len - r->buf_off);
            r->buf_len -= r->buf_off;
            r->buf_off = 0;
        }
        if (r->buf_len + len > r->buf_cap) {
            size_t cap = r->buf_cap ? r->buf_cap : 1024;
            while (cap < r->buf_len + len)
                cap *= 2;
            char *nb = realloc(r->buf, cap);
            if (!nb) {
                pthread_mutex_unlock(&r->mu);
                return -MT_E_LIMIT;
            }
            r->buf = nb;
            r->buf_cap = cap;
        }
        memcpy(r->buf + r->buf_len, data, len);
        r->buf_len += len;
        if (r->phase == PHASE_SENT)
            resume_locked(r);
    }
    pthread_mutex_unlock(&r->mu);
    return rc;
}

void mt_http_stream_end(struct mt_http_req *r)
{
    pthread_mutex_lock(&r->mu);
    r->ended = true;
    if (r->phase == PHASE_SENT)
        resume_locked(r);
    pthread_mutex_unlock(&r->mu);
}

bool mt_http_stream_gone(struct mt_http_req *r)
{
    pthread_mutex_lock(&r->mu);
    bool gone = r->gone;
    pthread_mutex_unlock(&r->mu);
    return gone;
}

/* ---------------------------------------------------------------- reading the request */

int mt_http_req_listener(const struct mt_http_req *r)
{
    return r->tag;
}

const char *mt_http_req_method(const struct mt_http_req *r)
{
    return r->method;
}

const char *mt_http_req_path(const struct mt_http_req *r)
{
    return r->path;
}

const char *mt_http_req_header(const struct mt_http_req *r, const char *name)
{
    for (size_t i = 0; i < r->headers_n; i++)
        if (strcasecmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    return NULL;
}

bool mt_http_req_header_repeated(const struct mt_http_req *r, const char *name)
{
    unsigned n = 0;
    for (size_t i = 0; i < r->headers_n; i++)
        n += strcasecmp(r->headers[i].name, name) == 0;
    return n > 1;
}

bool mt_http_req_query_at(const struct mt_http_req *r, size_t i, const char **ret_key,
                          const char **ret_value)
{
    if (i >= r->query_n)
        return false;
    *ret_key = r->query[i].name;
    *ret_value = r->query[i].value;
    return true;
}

const char *mt_http_req_body(const struct mt_http_req *r, size_t *ret_len)
{
    *ret_len = r->body_len;
    return r->body ? r->body : "";
}

int mt_http_req_peer(const struct mt_http_req *r, uid_t *ret_uid, pid_t *ret_pid)
{
    if (!r->has_peer)
        return -MT_E_NOT_FOUND;
    *ret_uid = r->uid;
    *ret_pid = r->pid;
    return 0;
}

unsigned mt_http_req_round(const struct mt_http_req *r)
{
    return r->round;
}

int64_t mt_http_req_arrived_ns(const struct mt_http_req *r)
{
    return r->arrived_ns;
}

bool mt_http_req_stopping(const struct mt_http_req *r)
{
    pthread_mutex_lock(&r->s->mu);
    bool stopping = r->s->stopping;
    pthread_mutex_unlock(&r->s->mu);
    return stopping;
}

bool mt_http_req_streaming(const struct mt_http_req *r)
{
    return r->streaming;
}

void mt_http_req_set_state(struct mt_http_req *r, void *state, void (*destroy)(void *))
{
    r->state = state;
    r->destroy = destroy;
}

void *mt_http_req_state(const struct mt_http_req *r)
{
    return r->state;
}

/* ---------------------------------------------------------------- start and stop */

static int start_thread(pthread_t *t, void *(*fn)(void *), void *arg, struct mt_err *err)
{
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 512u * 1024u);
    int rc = pthread_create(t, &a, fn, arg);
    pthread_attr_destroy(&a);
    if (rc) {
        errno = rc;
        return MT_FAIL_ERRNO(err, MT_E_NOMEM, "start a thread");
    }
    return 0;
}

int mt_http_server_start(const struct mt_http_conf *conf, struct mt_http_server **ret, struct mt_err *err)
{
    size_t fds_left = 0;
    struct mt_http_server *s = calloc(1, sizeof *s);
    if (!s || conf->listeners_n > MAX_LISTENERS || conf->workers < 1 || conf->workers > 64) {
        for (size_t i = 0; i < conf->listeners_n; i++)
            close(conf->listeners[i].fd);
        free(s);
        return MT_FAIL(err, s ? MT_E_INVALID : MT_E_NOMEM, "http server: bad configuration or no memory");
    }
    s->conf = *conf;
    s->conf.listeners = NULL;
    pthread_mutex_init(&s->mu, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&s->lot_cv, &ca);
    pthread_cond_init(&s->idle_cv, &ca);
    pthread_cond_init(&s->work, NULL);
    pthread_condattr_destroy(&ca);
    s->workers = calloc(conf->workers, sizeof *s->workers);
    if (!s->workers)
        goto nomem;
    if (start_thread(&s->lot_thread, lot_main, s, err) < 0)
        goto fail;
    s->lot_started = true;
    for (unsigned i = 0; i < conf->workers; i++) {
        struct worker_arg *wa = malloc(sizeof *wa);
        if (!wa)
            goto nomem;
        *wa = (struct worker_arg){.s = s, .index = i};
        if (start_thread(&s->workers[i], worker_main, wa, err) < 0) {
            free(wa);
            goto fail;
        }
        s->workers_n++;
    }
    for (; fds_left < conf->listeners_n; fds_left++) {
        struct MHD_Daemon *d = MHD_start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0,
            NULL, NULL, on_access, s, MHD_OPTION_EXTERNAL_LOGGER, no_log, NULL, MHD_OPTION_LISTEN_SOCKET,
            conf->listeners[fds_left].fd, MHD_OPTION_CONNECTION_LIMIT, conf->max_conns,
            MHD_OPTION_CONNECTION_TIMEOUT, conf->idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)24 * 1024, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK, on_uri, s,
            MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_END);
        if (!d) {
            (void)MT_FAIL(err, MT_E_IO, "http server: listener %zu does not start", fds_left);
            goto fail;
        }
        s->tags[s->daemons_n] = conf->listeners[fds_left].tag;
        s->daemons[s->daemons_n++] = d;
    }
    *ret = s;
    return 0;
nomem:
    (void)MT_FAIL(err, MT_E_NOMEM, "http server: no memory");
fail:
    for (; fds_left < conf->listeners_n; fds_left++)
        close(conf->listeners[fds_left].fd);
    mt_http_server_free(s);
    return -(int)err->code;
}

void mt_http_server_drain(struct mt_http_server *s, unsigned deadline_ms)
{
    for (size_t i = 0; i < s->daemons_n; i++) {
        int fd = MHD_quiesce_daemon(s->daemons[i]);
        if (fd >= 0)
            close(fd);
    }
    int64_t until = mt_clock_mono() + (int64_t)deadline_ms * 1000000;
    struct timespec ts = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    pthread_mutex_lock(&s->mu);
    s->stopping = true;
    for (struct mt_http_req *r = s->lot, *n; r; r = n) {
        n = r->next;
        lot_remove(s, r);
        queue_push(s, r);
    }
    while (s->live && pthread_cond_timedwait(&s->idle_cv, &s->mu, &ts) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&s->mu);
}

void mt_http_server_free(struct mt_http_server *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->mu);
    s->stopping = s->quit = true;
    pthread_cond_broadcast(&s->work);
    pthread_cond_broadcast(&s->lot_cv);
    pthread_mutex_unlock(&s->mu);
    for (unsigned i = 0; i < s->workers_n; i++)
        pthread_join(s->workers[i], NULL);
    if (s->lot_started)
        pthread_join(s->lot_thread, NULL);

    /* No worker runs any more: whatever is queued or parked is answered 503, streams end. The library
     * refuses to stop while a connection is suspended. */
    for (;;) {
        pthread_mutex_lock(&s->mu);
        struct mt_http_req *r = queue_pop(s);
        if (!r && s->lot) {
            r = s->lot;
            lot_remove(s, r);
        }
        pthread_mutex_unlock(&s->mu);
        if (!r)
            break;
        if (r->streaming)
            mt_http_stream_end(r);
        else
            mt_http_reply(r, 503, NULL, NULL, 0);
        mt_http_req_unref(r);
    }
    pthread_mutex_lock(&s->mu);
    for (struct mt_http_req *r = s->all; r; r = r->all_next) { /* streams fed by other threads */
        pthread_mutex_lock(&r->mu);
        r->ended = true;
        resume_locked(r);
        pthread_mutex_unlock(&r->mu);
    }
    pthread_mutex_unlock(&s->mu);
    for (size_t i = 0; i < s->daemons_n; i++)
        MHD_stop_daemon(s->daemons[i]);
    free(s->workers);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->lot_cv);
    pthread_cond_destroy(&s->idle_cv);
    pthread_mutex_destroy(&s->mu);
    free(s);
}

void mt_http_server_stats(struct mt_http_server *s, struct mt_http_stats *ret)
{
    pthread_mutex_lock(&s->mu);
    *ret = (struct mt_http_stats){.parked = s->parked,
                                  .queued = s->queued,
                                  .busy = s->busy,
                                  .streams = s->streams,
                                  .requests = s->requests};
    pthread_mutex_unlock(&s->mu);
}
