/* SPDX-License-Identifier: Apache-2.0 */
/* The feed of events. Lock order: the feed's, then a request's (inside mt_http_stream_*). No query runs under the feed's lock. */
#include "control/streams/feed.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/streams/event_json.h"
#include "control/streams/sse.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PAGE 200
#define LOOK_MS 1000 /* also without a word from the log's head */
#define RETRY_MS 200
#define RECENT 1024 /* events kept for those who join */
#define RECENT_BYTES (4u * 1024u * 1024u)

static const struct mt_pg_stmt st_page = {"feed_page", "SELECT " MT_EVENT_COLUMNS
                                                       " FROM moat.events WHERE event_id > $1 ORDER BY event_id LIMIT $2"};

struct entry {
    int64_t id;
    struct mt_event_keys keys; /* point into text */
    bool hides;                /* each enum mt_see has its own line; else all see that of MT_SEE_OPERATOR */
    char *line[MT_SEE_MAX];    /* JSON with its newline; NULL: nobody wanted it when it came */
    size_t len[MT_SEE_MAX];
    char *text;
    size_t bytes;
};

struct mt_feed {
    pthread_mutex_t mu;
    struct mt_feed_sub *subs;
    int64_t cursor;       /* what the subs have been offered; meaningless while there are none */
    struct entry ring[RECENT];
    unsigned first, n;    /* of the ring, oldest first */
    size_t ring_bytes;
    struct mt_log_head *head;
    struct mt_pg_conf pg_conf;
    struct mt_pg *pg;
    int wake_fd;
    atomic_bool stop;
    bool started, subscribed;
    pthread_t thread;
};

/* ---------------------------------------------------------------- filters */

static bool like(const char *pattern, const char *text)
{
    for (; *pattern; pattern++, text++) {
        if (*pattern == '%')
            return true;
        if (*pattern == '\\')
            pattern++;
        if (*pattern != *text)
            return false;
    }
    return *text == 0;
}

static bool same(const char *want, const char *have)
{
    return !want[0] || (have && MT_STREQ(want, have));
}

void mt_event_filter_done(struct mt_event_filter *f)
{
    while (f->types_n > 0)
        free(f->types[--f->types_n]);
    free(f->inside);
    f->inside = NULL;
}

bool mt_event_wanted(const struct mt_event_filter *f, const struct mt_event_keys *k)
{
    if ((k->operators && f->org[0]) || !same(f->org, k->org) || !same(f->app, k->app) || !same(f->env, k->env) || !same(f->agg_type, k->agg_type) ||
        !same(f->agg_id, k->agg_id) || !same(f->correlation, k->correlation) || !same(f->actor, k->actor) ||
        (f->since_us && k->occurred_us < f->since_us) || (f->until_us && k->occurred_us >= f->until_us))
        return false;
    if (f->inside && !(k->app && mt_restrict_has_app(f->inside, k->app)) && !(k->env && mt_restrict_has_env(f->inside, k->env)))
        return false;
    for (int i = 0; i < f->types_n; i++)
        if (like(f->types[i], k->type))
            return true;
    return f->types_n == 0;
}

/* ---------------------------------------------------------------- the ring; under mu */

static void entry_free(struct entry *e)
{
    for (int s = 0; s < MT_SEE_MAX; s++)
        free(e->line[s]);
    free(e->text);
    *e = (struct entry){0};
}

static void ring_clear(struct mt_feed *f)
{
    for (; f->n > 0; f->n--, f->first = (f->first + 1) % RECENT)
        entry_free(&f->ring[f->first]);
    f->first = 0; /* no more of the ring is touched than was ever needed at once */
    f->ring_bytes = 0;
}

static void ring_push(struct mt_feed *f, struct entry *e)
{
    while (f->n > 0 && (f->n == RECENT || f->ring_bytes + e->bytes > RECENT_BYTES)) {
        f->ring_bytes -= f->ring[f->first].bytes;
        entry_free(&f->ring[f->first]);
        f->first = (f->first + 1) % RECENT;
        f->n--;
    }
    f->ring[(f->first + f->n++) % RECENT] = *e;
    f->ring_bytes += e->bytes;
    *e = (struct entry){0};
}

/* ---------------------------------------------------------------- subs; under mu */

static void drop(struct mt_feed_sub *s)
{
    *s->at = s->next;
    if (s->next)
        s->next->at = s->at;
    s->next = NULL;
    s->at = NULL;
    s->joined = false;
}

void mt_feed_end(const struct mt_feed_sub *s, const char *reason)
{
    char line[160], id[24];
    int n = snprintf(line, sizeof line, "{\"type\":\"end\",\"reason\":\"%s\",\"resume_after\":%lld}\n", reason, (long long)s->after);
    snprintf(id, sizeof id, "%lld", (long long)s->after);
    mt_sse_end(s->req, s->sse, id, line, (size_t)n);
}

/* False when the stream is over. */
static bool give(struct mt_feed_sub *s, const struct entry *e, int64_t now)
{
    int see = e->hides ? (int)mt_event_see(&s->filter->eyes, e->keys.actor) : MT_SEE_OPERATOR;
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)e->id);
    int rc = mt_sse_put(s->req, s->sse, id, e->line[see], e->len[see]);
    if (rc == 0) {
        s->after = e->id;
        s->spoke_ns = now;
        return true;
    }
    s->ended = true;
    if (rc == -MT_E_LIMIT)
        mt_feed_end(s, "slow_consumer");
    return false;
}

int mt_feed_join(struct mt_feed *f, struct mt_feed_sub *s)
{
    int rc = 1;
    int64_t now = mt_clock_mono();
    pthread_mutex_lock(&f->mu);
    MT_ASSERT(!s->joined);
    if (!f->subs) { /* the first one: the feed goes on from where it stands */
        ring_clear(f);
        f->cursor = s->after;
    }
    if (s->after < f->cursor) {
        if (f->n == 0 || f->ring[f->first].id > s->after + 1)
            rc = 0;
        for (unsigned i = 0; i < f->n && rc == 1 && !s->ended; i++) {
            const struct entry *e = &f->ring[(f->first + i) % RECENT];
            if (e->id <= s->after || !mt_event_wanted(s->filter, &e->keys))
                continue;
            if (!e->line[MT_SEE_OPERATOR])
                rc = 0;
            else
                (void)give(s, e, now);
        }
        if (rc == 1 && !s->ended)
            s->after = f->cursor;
    }
    if (rc == 1 && !s->ended) {
        s->at = &f->subs;
        s->next = f->subs;
        if (s->next)
            s->next->at = &s->next;
        f->subs = s;
        s->joined = true;
    }
    pthread_mutex_unlock(&f->mu);
    const uint64_t one = 1;
    if (rc == 1 && write(f->wake_fd, &one, sizeof one) < 0) /* the log may have moved on before there was anybody */
        mt_log(MT_DEBUG, "feed.wake_full");
    return rc;
}

void mt_feed_leave(struct mt_feed *f, struct mt_feed_sub *s)
{
    pthread_mutex_lock(&f->mu);
    if (s->joined)
        drop(s);
    pthread_mutex_unlock(&f->mu);
}

void mt_feed_look(struct mt_feed *f, const struct mt_feed_sub *s, int64_t *ret_after, int64_t *ret_spoke_ns, bool *ret_ended)
{
    pthread_mutex_lock(&f->mu);
    *ret_after = s->after;
    *ret_spoke_ns = s->spoke_ns;
    *ret_ended = s->ended;
    pthread_mutex_unlock(&f->mu);
}

void mt_feed_reset(struct mt_feed *f, int64_t head)
{
    pthread_mutex_lock(&f->mu);
    ring_clear(f);
    f->cursor = head;
    while (f->subs) {
        struct mt_feed_sub *s = f->subs;
        s->after = head;
        s->ended = true;
        mt_feed_end(s, "reset");
        drop(s);
    }
    pthread_mutex_unlock(&f->mu);
}

/* ---------------------------------------------------------------- the thread */

static const char *keep(char **at, const char *s)
{
    if (!s)
        return NULL;
    size_t n = strlen(s) + 1;
    char *to = *at;
    memcpy(to, s, n);
    *at += n;
    return to;
}

static void keys_of(const struct mt_pg_res *r, int i, struct mt_event_keys *k)
{
    *k = (struct mt_event_keys){.org = mt_pg_text_or_null(r, i, 2), .app = mt_pg_text_or_null(r, i, 3),
                                .env = mt_pg_text_or_null(r, i, 4), .agg_type = mt_pg_text(r, i, 5),
                                .agg_id = mt_pg_text(r, i, 6), .type = mt_pg_text(r, i, 8), .actor = mt_pg_text(r, i, 11),
                                .correlation = mt_pg_text_or_null(r, i, 13), .occurred_us = mt_pg_time(r, i, 1)};
    enum mt_ev ev = mt_ev_by_name(k->type);
    k->operators = ev != MT_EV_MAX && !mt_ev_info(ev)->tenant;
}

static int remember(const struct mt_pg_res *r, int i, const struct mt_event_keys *k, bool render, struct entry *e)
{
    const char *const all[] = {k->org, k->app, k->env, k->agg_type, k->agg_id, k->correlation, k->actor, k->type};
    size_t n = 0;
    for (size_t j = 0; j < MT_ARRAY_LEN(all); j++)
        n += all[j] ? strlen(all[j]) + 1 : 0;
    *e = (struct entry){.id = mt_pg_i64(r, i, 0), .text = malloc(n)};
    if (!e->text)
        return -1;
    char *at = e->text;
    e->keys = (struct mt_event_keys){.org = keep(&at, k->org), .app = keep(&at, k->app), .env = keep(&at, k->env),
                                     .agg_type = keep(&at, k->agg_type), .agg_id = keep(&at, k->agg_id),
                                     .correlation = keep(&at, k->correlation), .actor = keep(&at, k->actor),
                                     .type = keep(&at, k->type), .occurred_us = k->occurred_us, .operators = k->operators};
    e->bytes = n + sizeof *e;
    if (!render)
        return 0;
    enum mt_ev ev = mt_ev_by_name(k->type);
    e->hides = ev != MT_EV_MAX && mt_ev_hides(ev);
    for (int see = e->hides ? 0 : MT_SEE_OPERATOR; see < MT_SEE_MAX; see++) {
        struct mt_buf b = MT_BUF_INIT(256u * 1024u);
        (void)mt_event_json(r, i, (enum mt_see)see, &b);
        mt_buf_putc(&b, '\n');
        e->len[see] = b.len;
        e->bytes += b.len;
        e->line[see] = mt_buf_take(&b);
        if (!e->line[see])
            return -1;
    }
    return 0;
}

/* Offer row @i, which follows event @before, to everybody. 0; 1 the feed was set elsewhere meanwhile; -1 memory is out. */
static int offer(struct mt_feed *f, const struct mt_pg_res *r, int i, int64_t before)
{
    struct mt_event_keys k;
    struct entry e = {0};
    int64_t now = mt_clock_mono(), id = mt_pg_i64(r, i, 0);
    keys_of(r, i, &k);
    pthread_mutex_lock(&f->mu);
    bool want = false;
    for (struct mt_feed_sub *s = f->subs; s && !want; s = s->next)
        want = s->after < id && mt_event_wanted(s->filter, &k);
    int rc = f->cursor != before ? 1 : remember(r, i, &k, want, &e);
    for (struct mt_feed_sub *s = f->subs, *next; s && rc == 0; s = next) {
        next = s->next;
        if (s->after >= id)
            continue;
        if (!want || !mt_event_wanted(s->filter, &k))
            s->after = id;
        else if (!give(s, &e, now))
            drop(s);
    }
    if (rc == 0) {
        ring_push(f, &e);
        f->cursor = id;
    } else {
        entry_free(&e);
    }
    pthread_mutex_unlock(&f->mu);
    return rc;
}

/* Up to the head. -code: the database is away, later again. */
static int catch_up(struct mt_feed *f, struct mt_err *err)
{
    for (;;) {
        pthread_mutex_lock(&f->mu);
        bool any = f->subs != NULL;
        int64_t cursor = f->cursor;
        pthread_mutex_unlock(&f->mu);
        if (!any || atomic_load(&f->stop))
            return 0;
        int r = f->pg && mt_pg_idle_check(f->pg) ? 0 : mt_pg_open(&f->pg_conf, &f->pg, err);
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_i64(&p, cursor);
        mt_pg_p_i64(&p, PAGE);
        if (r < 0 || (r = mt_pg_query(f->pg, &st_page, &p, &res, err)) < 0)
            return r;
        int n = mt_pg_rows(res), said = 0;
        for (int i = 0; i < n && said == 0; i++) {
            said = offer(f, res, i, cursor);
            cursor = mt_pg_i64(res, i, 0);
        }
        if (said < 0)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for an event");
        if (n < PAGE && said == 0)
            return 0;
    }
}

static void *feed_main(void *arg)
{
    struct mt_feed *f = arg;
    bool good = true;
    (void)pthread_setname_np(pthread_self(), "feed");
    while (!atomic_load(&f->stop)) {
        struct mt_err err = {0};
        struct pollfd p = {.fd = f->wake_fd, .events = POLLIN};
        (void)poll(&p, 1, good ? LOOK_MS : RETRY_MS);
        uint64_t count;
        if (p.revents && read(f->wake_fd, &count, sizeof count) < 0)
            continue;
        bool ok = catch_up(f, &err) == 0;
        if (!ok && good)
            mt_log(MT_WARN, "feed.behind", KV_ERR(&err));
        good = ok;
    }
    return NULL;
}

int mt_feed_new(const struct mt_pg_conf *pg, struct mt_log_head *head, struct mt_feed **ret, struct mt_err *err)
{
    struct mt_feed *f = calloc(1, sizeof *f);
    if (!f)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the feed of events");
    f->pg_conf = *pg; /* its texts are the process's own */
    f->pg_conf.application_name = "moat feed";
    f->head = head;
    pthread_mutex_init(&f->mu, NULL);
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = f->wake_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "eventfd") : mt_log_head_subscribe(head, f->wake_fd, err);
    f->subscribed = rc == 0;
    if (rc == 0 && pthread_create(&f->thread, NULL, feed_main, f) != 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "start a thread");
    f->started = rc == 0;
    if (rc < 0) {
        mt_feed_free(f);
        return rc;
    }
    *ret = f;
    return 0;
}

void mt_feed_free(struct mt_feed *f)
{
    if (!f)
        return;
    atomic_store(&f->stop, true);
    if (f->started) {
        const uint64_t one = 1;
        if (write(f->wake_fd, &one, sizeof one) < 0)
            mt_log(MT_DEBUG, "feed.wake_full");
        pthread_join(f->thread, NULL);
    }
    if (f->subscribed)
        mt_log_head_unsubscribe(f->head, f->wake_fd);
    if (f->wake_fd >= 0)
        close(f->wake_fd);
    while (f->subs)
        drop(f->subs);
    ring_clear(f);
    mt_pg_free(f->pg);
    pthread_mutex_destroy(&f->mu);
    free(f);
}
