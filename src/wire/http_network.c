/* SPDX-License-Identifier: Apache-2.0 */
/* What happens on a listener's network thread: collecting a request, handing it to a worker, handing its answer to the library. See
 * http_server_int.h. */
#include "wire/http_server_int.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define DISCARD_TIMES 8 /* a body up to so many times the limit is read to its end before 413 */

static enum MHD_Result take_header(void *cls, enum MHD_ValueKind kind, const char *key,
                                   const char *value)
{
    struct mt_http_req *r = cls;
    (void)kind;
    struct pair *p = httpd_pair_next(&r->headers, r->headers_n, HTTPD_MAX_HEADERS);
    if (!p)
        return MHD_NO;
    p->name = strdup(key);
    p->value = strdup(value ? value : "");
    r->headers_n++;
    return p->name && p->value ? MHD_YES : MHD_NO;
}

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
    for (size_t i = 0; i < r->out_n; i++)
        (void)MHD_add_response_header(resp, r->out[i].name, r->out[i].value);
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

/* A mapped IPv4 address is shown as the IPv4 address it is. */
void httpd_address_text(const struct sockaddr_storage *ss, char *ret, size_t size)
{
    struct sockaddr_in6 six;
    struct sockaddr_in four;
    ret[0] = 0;
    memcpy(&six, ss, sizeof six);
    memcpy(&four, ss, sizeof four);
    if (ss->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&six.sin6_addr))
        (void)inet_ntop(AF_INET, &six.sin6_addr.s6_addr[12], ret, (socklen_t)size);
    else if (ss->ss_family == AF_INET6)
        (void)inet_ntop(AF_INET6, &six.sin6_addr, ret, (socklen_t)size);
    else if (ss->ss_family == AF_INET)
        (void)inet_ntop(AF_INET, &four.sin_addr, ret, (socklen_t)size);
}

/* Who is at the other end of the socket. */
static void take_peer(struct mt_http_req *r, int fd)
{
    struct sockaddr_storage ss = {0};
    struct ucred uc;
    socklen_t n = sizeof ss, ul = sizeof uc;
    if (getpeername(fd, (struct sockaddr *)&ss, &n) == 0)
        httpd_address_text(&ss, r->address, sizeof r->address);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &uc, &ul) == 0 && uc.pid > 0) {
        r->has_peer = true;
        r->uid = uc.uid;
        r->pid = uc.pid;
    }
}

/* The socket behind a TLS connection is one of our own: its peer credentials are this process's and say nothing of the client. */
static bool take_origin(struct mt_http_req *r, const struct httpd_origin *o)
{
    r->tls = true;
    if (!o)
        return false;
    memcpy(r->address, o->address, sizeof r->address);
    if (!o->has_peer)
        return true;
    r->tls_peer = malloc(sizeof *r->tls_peer);
    if (r->tls_peer)
        *r->tls_peer = o->peer;
    return r->tls_peer != NULL;
}

enum MHD_Result httpd_on_access(void *cls, struct MHD_Connection *conn, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *data_len, void **con_cls)
{
    const struct httpd_listener *l = cls;
    struct mt_http_server *s = l->s;
    struct mt_http_req *r = *con_cls;
    (void)url;
    (void)version;
    if (!r)
        return MHD_NO; /* out of memory when the request line came */
    MT_ASSERT(r->magic == HTTPD_REQ_MAGIC);
    if (!r->method[0]) { /* headers are complete, no body read yet */
        snprintf(r->method, sizeof r->method, "%s", method);
        const union MHD_ConnectionInfo *ci =
            MHD_get_connection_info(conn, l->front ? MHD_CONNECTION_INFO_SOCKET_CONTEXT : MHD_CONNECTION_INFO_CONNECTION_FD);
        if (l->front && !take_origin(r, ci ? ci->socket_context : NULL))
            return MHD_NO;
        if (!l->front && ci)
            take_peer(r, ci->connect_fd);
        size_t before = r->headers_n;
        int total = MHD_get_connection_values(conn, MHD_HEADER_KIND, take_header, r);
        if (total < 0 || (size_t)total != r->headers_n - before || r->headers_n == HTTPD_MAX_HEADERS)
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
            char *nb = malloc(cap); /* a body may hold secrets: no copy of it stays behind */
            if (!nb)
                return MHD_NO;
            if (r->body) {
                memcpy(nb, r->body, r->body_len);
                explicit_bzero(r->body, r->body_cap);
                free(r->body);
            }
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

    /* suspended and queued in one step: a server that ends takes the queue after this or finds us refused before it */
    pthread_mutex_lock(&s->mu);
    bool full = s->queued >= s->conf.max_queue || s->stopping;
    if (!full) {
        pthread_mutex_lock(&r->mu);
        MHD_suspend_connection(conn);
        r->suspended = true;
        r->phase = PHASE_QUEUED;
        r->refs++; /* the run's */
        pthread_mutex_unlock(&r->mu);
        httpd_queue_push(s, r);
    }
    pthread_mutex_unlock(&s->mu);
    if (full)
        return answer_now(r, 503);
    return MHD_YES;
}

void httpd_on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct mt_http_server *s = ((const struct httpd_listener *)cls)->s;
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
        httpd_lot_remove(s, r);
    pthread_mutex_unlock(&s->mu);
    if (lot)
        mt_http_req_unref(r); /* the run's: it will not run again */
    mt_http_req_unref(r);
}

void httpd_on_log(void *cls, const char *fmt, va_list ap)
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
