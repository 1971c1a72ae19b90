/* SPDX-License-Identifier: Apache-2.0 */
/* The server itself: start and end, workers, the queue and the lot of parked requests. See http_server_int.h. */
#include "wire/http_server_int.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#include <unistd.h>

#define LAST_ANSWERS_MS 500 /* at the end: for what was answered just now to reach its client */

struct worker_arg {
    struct mt_http_server *s;
    unsigned index;
};

/* ---------------------------------------------------------------- queue and lot; s->mu held */

/* Who asks waits; a request that was parked waits anyway, and a move of the log wakes hundreds of these at once; on listeners in the background
 * hundreds of machines report at once. So those of the first kind go first, but for one in FIRST_RUN, so that neither side is starved by the other,
 * and a quarter of the workers is kept for them: the others may all be waiting for the same commit. */
#define FIRST_RUN 4

static bool is_later(const struct mt_http_server *s, const struct mt_http_req *r)
{
    return r->round > 0 || (s->conf.background & (1u << r->tag));
}

void httpd_queue_push(struct mt_http_server *s, struct mt_http_req *r)
{
    struct httpd_queue *q = is_later(s, r) ? &s->later : &s->first;
    r->next = NULL;
    r->prev = q->tail;
    if (q->tail)
        q->tail->next = r;
    else
        q->head = r;
    q->tail = r;
    s->queued++;
    pthread_cond_signal(&s->work);
}

/* The next one that a worker may take; NULL: none, or enough workers have such as there are. */
static struct mt_http_req *queue_pop(struct mt_http_server *s)
{
    bool may = s->later.head && s->later_busy < s->conf.workers - s->conf.workers / 4;
    bool first = s->first.head && (!may || s->first_run < FIRST_RUN);
    struct httpd_queue *q = first ? &s->first : &s->later;
    if (!first && !may)
        return NULL;
    struct mt_http_req *r = q->head;
    s->first_run = first ? s->first_run + 1 : 0;
    q->head = r->next;
    if (q->head)
        q->head->prev = NULL;
    else
        q->tail = NULL;
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

void httpd_lot_remove(struct mt_http_server *s, struct mt_http_req *r)
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
            httpd_lot_remove(s, r);
            httpd_queue_push(s, r);
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
                httpd_lot_remove(s, r);
                httpd_queue_push(s, r);
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

/* ---------------------------------------------------------------- workers */

/* The server ends and nobody will run @r again. A connection left suspended would never be answered. */
static void turn_away(struct mt_http_req *r)
{
    const struct mt_http_conf *conf = &r->s->conf;
    const char *type = NULL;
    size_t len = 0;
    if (r->streaming) {
        mt_http_stream_end(r);
    } else {
        char *body = conf->own_answer ? conf->own_answer(r, 503, &type, &len, conf->arg) : NULL;
        mt_http_reply(r, 503, type, body, len);
    }
}

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
                httpd_queue_push(s, r);
            else
                lot_add(s, r);
        }
        bool drop = dead || s->quit;
        pthread_mutex_unlock(&s->mu);
        if (drop) {
            if (!dead)
                turn_away(r);
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
        struct mt_http_req *r = NULL;
        while (!s->quit && !(r = queue_pop(s)))
            pthread_cond_wait(&s->work, &s->mu);
        if (!r)
            break;
        bool later = is_later(s, r);
        memcpy(r->seen, s->seq, sizeof r->seen);
        s->busy++;
        s->later_busy += later;
        pthread_mutex_unlock(&s->mu);
        run_request(s, r, ctx);
        pthread_mutex_lock(&s->mu);
        s->busy--;
        s->later_busy -= later;
        if (later && s->later.head)
            pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->mu);
    if (s->conf.worker_stop)
        s->conf.worker_stop(s->conf.arg, ctx);
    return NULL;
}

/* ---------------------------------------------------------------- start and stop */

int httpd_start_thread(pthread_t *t, void *(*fn)(void *), void *arg, struct mt_err *err)
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

/* @fd -1: connections are brought by the listener's front. */
static struct MHD_Daemon *listen_start(struct mt_http_server *s, struct httpd_listener *l, int fd)
{
    const unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    const struct MHD_OptionItem own[] = {{fd < 0 ? MHD_OPTION_NOTIFY_CONNECTION : MHD_OPTION_LISTEN_SOCKET,
                                          fd < 0 ? (intptr_t)httpd_on_connection : fd, fd < 0 ? l : NULL},
                                         {MHD_OPTION_END, 0, NULL}};
    return MHD_start_daemon(flags | (fd < 0 ? MHD_USE_NO_LISTEN_SOCKET : 0), 0, NULL, NULL, httpd_on_access, l, MHD_OPTION_EXTERNAL_LOGGER,
                            httpd_on_log, NULL, MHD_OPTION_ARRAY, own, MHD_OPTION_CONNECTION_LIMIT, s->conf.max_conns,
                            MHD_OPTION_CONNECTION_TIMEOUT, s->conf.idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)24 * 1024,
                            MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK, httpd_request_new, l, MHD_OPTION_NOTIFY_COMPLETED,
                            httpd_on_completed, l, MHD_OPTION_END);
}

int mt_http_server_start(const struct mt_http_conf *conf, struct mt_http_server **ret, struct mt_err *err)
{
    size_t fds_left = 0;
    struct mt_http_server *s = calloc(1, sizeof *s);
    if (!s || conf->listeners_n > HTTPD_MAX_LISTENERS || conf->workers < 1 || conf->workers > 64) {
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
    if (httpd_start_thread(&s->lot_thread, lot_main, s, err) < 0)
        goto fail;
    s->lot_started = true;
    for (unsigned i = 0; i < conf->workers; i++) {
        struct worker_arg *wa = malloc(sizeof *wa);
        if (!wa)
            goto nomem;
        *wa = (struct worker_arg){.s = s, .index = i};
        if (httpd_start_thread(&s->workers[i], worker_main, wa, err) < 0) {
            free(wa);
            goto fail;
        }
        s->workers_n++;
    }
    for (; fds_left < conf->listeners_n; fds_left++) {
        const struct mt_http_listener *from = &conf->listeners[fds_left];
        struct httpd_listener *l = &s->listeners[fds_left];
        *l = (struct httpd_listener){.s = s, .tag = from->tag};
        if (from->tls && httpd_front_new(l, from, conf->max_conns, &l->front, err) < 0)
            goto fail;
        s->daemons[fds_left] = listen_start(s, l, from->tls ? -1 : from->fd);
        if (!s->daemons[fds_left]) {
            (void)MT_FAIL(err, MT_E_IO, "http server: listener %zu does not start", fds_left);
            goto fail;
        }
        s->daemons_n = fds_left + 1;
        if (from->tls && httpd_front_start(l->front, s->daemons[fds_left], from->fd, err) < 0) {
            fds_left++; /* the front has it */
            goto fail;
        }
    }
    *ret = s;
    return 0;
nomem:
    (void)MT_FAIL(err, MT_E_NOMEM, "http server: no memory");
fail:
    for (; fds_left < conf->listeners_n; fds_left++)
        close(conf->listeners[fds_left].fd);
    mt_http_server_free(s);
    return err ? -(int)err->code : -MT_E_IO;
}

/* Until no request lives or the time is over; s->mu is held. */
static void wait_idle(struct mt_http_server *s, unsigned ms)
{
    int64_t until = mt_clock_mono() + (int64_t)ms * MT_NS_PER_MS;
    struct timespec ts = {.tv_sec = until / MT_NS_PER_S, .tv_nsec = until % MT_NS_PER_S};
    while (s->live && pthread_cond_timedwait(&s->idle_cv, &s->mu, &ts) != ETIMEDOUT)
        ;
}

void mt_http_server_drain(struct mt_http_server *s, unsigned deadline_ms)
{
    for (size_t i = 0; i < s->daemons_n; i++) {
        if (s->listeners[i].front) {
            httpd_front_quiesce(s->listeners[i].front);
            continue;
        }
        int fd = MHD_quiesce_daemon(s->daemons[i]);
        if (fd >= 0)
            close(fd);
    }
    pthread_mutex_lock(&s->mu);
    s->stopping = true;
    for (struct mt_http_req *r = s->lot, *n; r; r = n) {
        n = r->next;
        httpd_lot_remove(s, r);
        httpd_queue_push(s, r);
    }
    wait_idle(s, deadline_ms);
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
            httpd_lot_remove(s, r);
        }
        pthread_mutex_unlock(&s->mu);
        if (!r)
            break;
        turn_away(r);
        mt_http_req_unref(r);
    }
    pthread_mutex_lock(&s->mu);
    for (struct mt_http_req *r = s->all; r; r = r->all_next) { /* streams fed by other threads */
        pthread_mutex_lock(&r->mu);
        r->ended = true;
        httpd_resume(r);
        pthread_mutex_unlock(&r->mu);
    }
    wait_idle(s, LAST_ANSWERS_MS);
    pthread_mutex_unlock(&s->mu);
    for (size_t i = 0; i < s->daemons_n; i++)
        MHD_stop_daemon(s->daemons[i]);
    for (size_t i = 0; i < HTTPD_MAX_LISTENERS; i++)
        httpd_front_free(s->listeners[i].front);
    free(s->workers);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->lot_cv);
    pthread_cond_destroy(&s->idle_cv);
    pthread_mutex_destroy(&s->mu);
    free(s);
}

void mt_http_server_set_tls(struct mt_http_server *s, int tag, struct mt_tls_ctx *ctx)
{
    for (size_t i = 0; i < s->daemons_n; i++)
        if (s->listeners[i].tag == tag && s->listeners[i].front)
            httpd_front_set(s->listeners[i].front, ctx);
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
    for (size_t i = 0; i < s->daemons_n; i++)
        if (s->listeners[i].front)
            httpd_front_stats(s->listeners[i].front, ret);
}
