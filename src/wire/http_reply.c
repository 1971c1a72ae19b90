/* SPDX-License-Identifier: Apache-2.0 */
/* Outcomes of a handler: answers, parking, streams. See http_server_int.h. */
#include "wire/http_server_int.h"

#include "base/assert.h"
#include "base/err.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/uio.h>

/* The library allocates this with each streamed answer, though chunks are read into the connection's own buffer. */
#define STREAM_BLOCK 256

void httpd_resume(struct mt_http_req *r)
{
    if (r->suspended && r->conn) {
        r->suspended = false;
        MHD_resume_connection(r->conn);
    }
}

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
        httpd_resume(r);
    }
    pthread_mutex_unlock(&r->mu);
}

/* Some answers hold secrets; none stays in freed memory. */
static void wipe_free(void *body)
{
    explicit_bzero(body, malloc_usable_size(body));
    free(body);
}

void mt_http_reply(struct mt_http_req *r, unsigned status, const char *type, char *body, size_t len)
{
    struct MHD_Response *resp =
        body ? MHD_create_response_from_buffer_with_free_callback(len, body, wipe_free)
             : MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (!resp) {
        free(body);
        resp = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
        MT_ASSERT(resp); /* a few hundred bytes: without them nothing can be answered any more */
        status = 500;
    }
    finish(r, status, body ? type : NULL, resp);
}

/* The library has sent the 101. It closes its own descriptor and forgets the connection; ours is a copy. */
static void on_upgrade(void *cls, struct MHD_Connection *conn, void *con_cls, const char *early, size_t early_len, MHD_socket sock,
                       struct MHD_UpgradeResponseHandle *urh)
{
    struct mt_http_req *r = cls;
    int fd = fcntl(sock, F_DUPFD_CLOEXEC, 3);
    (void)conn;
    (void)con_cls;
    if (fd >= 0) {
        void *state = r->state;
        r->state = NULL;
        r->destroy = NULL;
        r->upgraded(state, fd, early, early_len);
    }
    (void)MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

void mt_http_upgrade(struct mt_http_req *r, const char *protocol, mt_http_upgraded_fn fn)
{
    r->upgraded = fn;
    struct MHD_Response *resp = MHD_create_response_for_upgrade(on_upgrade, r);
    if (!resp || MHD_add_response_header(resp, MHD_HTTP_HEADER_UPGRADE, protocol) != MHD_YES) {
        if (resp)
            MHD_destroy_response(resp);
        mt_http_reply(r, 500, NULL, NULL, 0);
        return;
    }
    finish(r, 101, NULL, resp);
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
        if (r->buf_off == r->buf_len) { /* a stream that waits holds no buffer */
            free(r->buf);
            r->buf = NULL;
            r->buf_off = r->buf_len = r->buf_cap = 0;
        }
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
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_stream_read, r, NULL);
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

/* Room for @more; r->mu is held. */
static int make_room(struct mt_http_req *r, size_t more)
{
    if (r->buf_off && r->buf_len + more > r->buf_cap) {
        memmove(r->buf, r->buf + r->buf_off, r->buf_len - r->buf_off);
        r->buf_len -= r->buf_off;
        r->buf_off = 0;
    }
    if (r->buf_len + more > r->buf_cap) {
        size_t cap = r->buf_cap ? r->buf_cap : 1024;
        while (cap < r->buf_len + more)
            cap *= 2;
        char *nb = realloc(r->buf, cap);
        if (!nb)
            return -MT_E_LIMIT;
        r->buf = nb;
        r->buf_cap = cap;
    }
    return 0;
}

/* Append to the stream's buffer; r->mu is held. */
static int queue(struct mt_http_req *r, const void *data, size_t len)
{
    if (make_room(r, len) < 0)
        return -MT_E_LIMIT;
    memcpy(r->buf + r->buf_len, data, len);
    r->buf_len += len;
    return 0;
}

int mt_http_stream_write(struct mt_http_req *r, const void *data, size_t len)
{
    const struct iovec one = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return mt_http_stream_writev(r, &one, 1);
}

int mt_http_stream_writev(struct mt_http_req *r, const struct iovec *v, int n)
{
    int rc = 0;
    size_t len = 0;
    for (int i = 0; i < n; i++)
        len += v[i].iov_len;
    pthread_mutex_lock(&r->mu);
    if (r->gone || r->ended)
        rc = -MT_E_UNAVAILABLE;
    else if (len > r->buf_max - (r->buf_len - r->buf_off))
        rc = -MT_E_LIMIT;
    else
        rc = make_room(r, len); /* all pieces or none */
    for (int i = 0; i < n && rc == 0; i++)
        rc = queue(r, v[i].iov_base, v[i].iov_len);
    if (rc == 0 && r->phase == PHASE_SENT)
        httpd_resume(r);
    pthread_mutex_unlock(&r->mu);
    return rc;
}

void mt_http_stream_finish(struct mt_http_req *r, const void *data, size_t len)
{
    pthread_mutex_lock(&r->mu);
    if (!r->gone && !r->ended)
        (void)queue(r, data, len);
    r->ended = true;
    if (r->phase == PHASE_SENT)
        httpd_resume(r);
    pthread_mutex_unlock(&r->mu);
}

void mt_http_stream_end(struct mt_http_req *r)
{
    pthread_mutex_lock(&r->mu);
    r->ended = true;
    if (r->phase == PHASE_SENT)
        httpd_resume(r);
    pthread_mutex_unlock(&r->mu);
}

bool mt_http_stream_gone(struct mt_http_req *r)
{
    pthread_mutex_lock(&r->mu);
    bool gone = r->gone;
    pthread_mutex_unlock(&r->mu);
    return gone;
}
