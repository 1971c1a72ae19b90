/* SPDX-License-Identifier: Apache-2.0 */
/* The request object: its making from the request line, its references, what handlers ask of it. See http_server_int.h. */
#include "wire/http_server_int.h"

#include "base/err.h"

#include <ctype.h>
#include <strings.h>

#define MAX_URI 8192

static void pairs_free(struct pair *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(p[i].name);
        free(p[i].value);
    }
}

struct pair *httpd_pair_next(struct pair **list, size_t n, size_t max)
{
    if (n == max)
        return NULL;
    if (n == 0 || (n >= 4 && (n & (n - 1)) == 0)) { /* 4, 8, 16... */
        struct pair *more = realloc(*list, (n ? n * 2 : 4) * sizeof *more);
        if (!more)
            return NULL;
        *list = more;
    }
    (*list)[n] = (struct pair){0};
    return &(*list)[n];
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
    free(r->headers);
    free(r->query);
    pairs_free(r->out, r->out_n);
    free(r->uri);
    if (r->body)
        explicit_bzero(r->body, r->body_cap);
    free(r->body);
    free(r->buf);
    free(r->tls_peer);
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
            struct pair *p = httpd_pair_next(&r->query, r->query_n, HTTPD_MAX_QUERY);
            if (!p) {
                r->bad_uri = true;
                break;
            }
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
void *httpd_request_new(void *cls, const char *uri, struct MHD_Connection *conn)
{
    const struct httpd_listener *l = cls;
    struct mt_http_server *s = l->s;
    struct mt_http_req *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->magic = HTTPD_REQ_MAGIC;
    r->s = s;
    r->tag = l->tag;
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

int mt_http_req_address(const struct mt_http_req *r, char *ret, size_t size)
{
    if (!r->address[0])
        return -MT_E_NOT_FOUND;
    snprintf(ret, size, "%s", r->address);
    return 0;
}

bool mt_http_req_tls(const struct mt_http_req *r)
{
    return r->tls;
}

const struct mt_tls_peer *mt_http_req_tls_peer(const struct mt_http_req *r)
{
    return r->tls_peer;
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

unsigned mt_http_req_status(struct mt_http_req *r)
{
    pthread_mutex_lock(&r->mu);
    unsigned status = r->answered ? r->status : r->streaming ? 200 : 0;
    pthread_mutex_unlock(&r->mu);
    return status;
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
