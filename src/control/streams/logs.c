/* SPDX-License-Identifier: Apache-2.0 */
/* The fan-out of log lines: poll over all sources, one line at a time. */
#include "control/streams/logs.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/streams/sse.h"
#include "wire/json.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define FOLLOWERS_MAX 1024
#define LINE_BYTES (256u * 1024u)
#define READ_BYTES 16384u

struct follower {
    struct follower *next;
    struct mt_http_req *req;
    int fd;
    char *instance_id, *process_type, *stream, *contains;
    int64_t until_us;
    struct mt_log_place *place;
    struct mt_buf in;
};

struct mt_fanout {
    pthread_mutex_t mu;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    int wake_fd;
    struct follower *fresh; /* added, not yet taken over by the thread; under mu */
    size_t count;           /* under mu */
};

json_t *mt_log_item(const json_t *r, const char *instance_id, const char *process_type)
{
    json_t *ts = json_object_get(r, "ts"), *seq = json_object_get(r, "seq"), *stream = json_object_get(r, "stream");
    json_t *line = json_object_get(r, "line"), *cut = json_object_get(r, "truncated");
    if (!json_is_string(ts) || !json_is_integer(seq) || !json_is_string(stream) || !json_is_string(line))
        return NULL;
    return json_pack("{s:O,s:O,s:O,s:s,s:s,s:O,s:b}", "ts", ts, "seq", seq, "stream", stream, "process_type", process_type,
                     "instance_id", instance_id, "line", line, "truncated", json_is_true(cut));
}

bool mt_log_item_before(const json_t *item, int64_t until_us)
{
    int64_t at;
    return !until_us || (mt_rfc3339_parse(json_string_value(json_object_get(item, "ts")), &at, NULL) == 0 && at < until_us);
}

bool mt_log_item_wanted(const json_t *item, const char *stream, const char *contains)
{
    if (stream && !MT_STREQ(json_string_value(json_object_get(item, "stream")), stream))
        return false;
    return !contains || strstr(json_string_value(json_object_get(item, "line")), contains) != NULL;
}

/* ---------------------------------------------------------------- places */

#define TELL_NS MT_NS_PER_S

struct mt_log_place {
    pthread_mutex_t mu;
    atomic_uint refs;
    bool sse;
    json_t *at, *lost;
    bool moved; /* since it was told */
    int64_t told_ns;
};

struct mt_log_place *mt_log_place_new(bool sse, const json_t *had)
{
    struct mt_log_place *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    pthread_mutex_init(&p->mu, NULL);
    atomic_init(&p->refs, 1);
    p->sse = sse;
    p->at = had ? json_deep_copy(had) : json_object();
    p->lost = json_object();
    if (p->at && p->lost)
        return p;
    mt_log_place_unref(p);
    return NULL;
}

struct mt_log_place *mt_log_place_ref(struct mt_log_place *p)
{
    if (p)
        atomic_fetch_add(&p->refs, 1);
    return p;
}

void mt_log_place_unref(struct mt_log_place *p)
{
    if (!p || atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    json_decref(p->at);
    json_decref(p->lost);
    pthread_mutex_destroy(&p->mu);
    free(p);
}

void mt_log_place_at(struct mt_log_place *p, const char *instance_id, uint64_t seq)
{
    pthread_mutex_lock(&p->mu);
    json_object_set_new(p->at, instance_id, json_integer((json_int_t)seq));
    p->moved = true;
    pthread_mutex_unlock(&p->mu);
}

uint64_t mt_log_place_seq(struct mt_log_place *p, const char *instance_id)
{
    pthread_mutex_lock(&p->mu);
    json_int_t n = json_integer_value(json_object_get(p->at, instance_id));
    pthread_mutex_unlock(&p->mu);
    return n > 0 ? (uint64_t)n : 0;
}

static void lost(struct mt_log_place *p, const char *instance_id)
{
    pthread_mutex_lock(&p->mu);
    json_object_set_new(p->lost, instance_id, json_true());
    pthread_mutex_unlock(&p->mu);
}

bool mt_log_place_take_lost(struct mt_log_place *p, const char *instance_id)
{
    pthread_mutex_lock(&p->mu);
    bool was = json_object_del(p->lost, instance_id) == 0;
    pthread_mutex_unlock(&p->mu);
    return was;
}

char *mt_log_cursor(const json_t *positions)
{
    mt_auto_free char *t = json_dumps(positions, JSON_COMPACT);
    char *hex = t ? malloc(strlen(t) * 2 + 1) : NULL;
    if (hex)
        mt_hex_encode(t, strlen(t), hex);
    return hex;
}

char *mt_log_place_cursor(struct mt_log_place *p)
{
    pthread_mutex_lock(&p->mu);
    char *t = json_object_size(p->at) ? mt_log_cursor(p->at) : NULL;
    pthread_mutex_unlock(&p->mu);
    return t;
}

/* The place to the client, when it moved and a second has passed. */
static void tell_place(struct mt_http_req *req, struct mt_log_place *p, int64_t now)
{
    static const char nothing[] = "\n";
    pthread_mutex_lock(&p->mu);
    bool due = p->sse && p->moved && now - p->told_ns >= TELL_NS;
    if (due) {
        p->moved = false;
        p->told_ns = now;
    }
    pthread_mutex_unlock(&p->mu);
    mt_auto_free char *cursor = due ? mt_log_place_cursor(p) : NULL;
    if (cursor)
        (void)mt_sse_beat(req, true, cursor, nothing, 1); /* too slow: the next line finds out */
}

static bool untold(struct mt_log_place *p)
{
    pthread_mutex_lock(&p->mu);
    bool moved = p->sse && p->moved;
    pthread_mutex_unlock(&p->mu);
    return moved;
}

int mt_log_put(struct mt_http_req *req, const struct mt_log_place *p, const char *line, size_t len)
{
    return mt_sse_put(req, p->sse, NULL, line, len);
}

void mt_log_beat(struct mt_http_req *req, struct mt_log_place *p)
{
    static const char line[] = "{\"type\":\"heartbeat\"}\n";
    mt_auto_free char *cursor = p->sse ? mt_log_place_cursor(p) : NULL;
    (void)mt_sse_beat(req, p->sse, cursor, line, sizeof line - 1);
}

void mt_log_end(struct mt_http_req *req, struct mt_log_place *p, const char *reason)
{
    char line[120];
    int n = snprintf(line, sizeof line, "{\"type\":\"end\",\"reason\":\"%s\"}\n", reason);
    if (p->sse)
        mt_log_beat(req, p);
    mt_sse_end(req, p->sse, NULL, line, (size_t)n);
}

/* ---------------------------------------------------------------- sources */

static void follower_free(struct follower *w)
{
    mt_closep(&w->fd);
    mt_log_place_unref(w->place);
    mt_http_req_unref(w->req);
    free(w->instance_id);
    free(w->process_type);
    free(w->stream);
    free(w->contains);
    mt_buf_done(&w->in);
    free(w);
}

/* One line to the client. False: the stream is over. */
static bool deliver(struct follower *w, const char *line, size_t n)
{
    struct mt_err err = {0};
    mt_auto_json json_t *record = NULL;
    if (n == 0 || mt_json_parse(line, n, LINE_BYTES, 8, &record, &err) < 0)
        return true; /* not a record: skipped */
    mt_auto_json json_t *item = mt_log_item(record, w->instance_id, w->process_type);
    uint64_t seq = item ? (uint64_t)json_integer_value(json_object_get(item, "seq")) : 0;
    bool wanted = item && mt_log_item_wanted(item, w->stream, w->contains) && mt_log_item_before(item, w->until_us);
    if (item && !wanted)
        mt_log_place_at(w->place, w->instance_id, seq);
    if (!wanted)
        return true;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(LINE_BYTES * 2);
    json_object_set_new(item, "type", json_string("log"));
    if (mt_json_dump(item, &b, &err) < 0)
        return true;
    mt_buf_putc(&b, '\n');
    int rc = mt_log_put(w->req, w->place, mt_buf_cstr(&b), b.len);
    if (rc == 0)
        mt_log_place_at(w->place, w->instance_id, seq);
    if (rc == -MT_E_LIMIT)
        mt_log_end(w->req, w->place, "slow_consumer");
    return rc == 0;
}

/* Read once. False: the source or the stream is over. */
static bool pump(struct follower *w)
{
    char *room = mt_buf_reserve(&w->in, READ_BYTES);
    if (!room)
        return false; /* a line longer than the bound: not an agent of ours */
    ssize_t n = recv(w->fd, room, READ_BYTES, 0);
    if (n == 0)
        return false;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    w->in.len += (size_t)n;
    for (;;) {
        uint8_t *nl = memchr(w->in.p, '\n', w->in.len);
        if (!nl)
            return true;
        size_t len = (size_t)(nl - w->in.p);
        if (!deliver(w, (const char *)w->in.p, len))
            return false;
        mt_buf_consume(&w->in, len + 1);
    }
}

static void *fanout_main(void *arg)
{
    struct mt_fanout *f = arg;
    struct follower *all = NULL;
    struct pollfd *p = calloc(FOLLOWERS_MAX + 1, sizeof *p);
    struct follower **at = calloc(FOLLOWERS_MAX + 1, sizeof *at);
    while (p && at && !atomic_load(&f->stop)) {
        pthread_mutex_lock(&f->mu);
        while (f->fresh) {
            struct follower *w = f->fresh;
            f->fresh = w->next;
            w->next = all;
            all = w;
        }
        pthread_mutex_unlock(&f->mu);
        nfds_t n = 0;
        p[n] = (struct pollfd){.fd = f->wake_fd, .events = POLLIN};
        at[n++] = NULL;
        for (struct follower *w = all; w; w = w->next) {
            p[n] = (struct pollfd){.fd = w->fd, .events = POLLIN};
            at[n++] = w;
        }
        bool owes = false;
        for (struct follower *w = all; w && !owes; w = w->next)
            owes = untold(w->place);
        if (poll(p, n, owes ? 1000 : 5000) < 0)
            continue;
        int64_t now = mt_clock_mono();
        for (struct follower *w = owes ? all : NULL; w; w = w->next)
            tell_place(w->req, w->place, now);
        uint64_t ticks;
        if (p[0].revents)
            (void)!read(f->wake_fd, &ticks, sizeof ticks);
        for (nfds_t i = 1; i < n; i++) {
            struct follower *w = at[i];
            bool keep = !mt_http_stream_gone(w->req) && (!p[i].revents || pump(w));
            if (keep)
                continue;
            struct follower **link = &all;
            while (*link != w)
                link = &(*link)->next;
            *link = w->next;
            lost(w->place, w->instance_id);
            follower_free(w);
            pthread_mutex_lock(&f->mu);
            f->count--;
            pthread_mutex_unlock(&f->mu);
        }
    }
    while (all) {
        struct follower *w = all;
        all = w->next;
        follower_free(w);
    }
    free(p);
    free(at);
    return NULL;
}

int mt_fanout_new(struct mt_fanout **ret, struct mt_err *err)
{
    struct mt_fanout *f = calloc(1, sizeof *f);
    if (!f)
        return MT_FAIL(err, MT_E_NOMEM, "log fan-out");
    pthread_mutex_init(&f->mu, NULL);
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->wake_fd < 0 || pthread_create(&f->thread, NULL, fanout_main, f) != 0) {
        (void)MT_FAIL(err, MT_E_NOMEM, "log fan-out thread");
        mt_fanout_free(f);
        return -MT_E_NOMEM;
    }
    f->started = true;
    *ret = f;
    return 0;
}

void mt_fanout_free(struct mt_fanout *f)
{
    if (!f)
        return;
    uint64_t one = 1;
    atomic_store(&f->stop, true);
    if (f->started) {
        (void)!write(f->wake_fd, &one, sizeof one);
        pthread_join(f->thread, NULL);
    }
    while (f->fresh) {
        struct follower *w = f->fresh;
        f->fresh = w->next;
        follower_free(w);
    }
    mt_closep(&f->wake_fd);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

int mt_fanout_add(struct mt_fanout *f, struct mt_http_req *req, const struct mt_follow *what, struct mt_err *err)
{
    struct follower *w = calloc(1, sizeof *w);
    uint64_t one = 1;
    if (!w) {
        close(what->fd);
        return MT_FAIL(err, MT_E_NOMEM, "log follower");
    }
    *w = (struct follower){.req = mt_http_req_ref(req), .fd = what->fd, .place = mt_log_place_ref(what->place), .in = MT_BUF_INIT(LINE_BYTES)};
    w->instance_id = strdup(what->instance_id);
    w->process_type = strdup(what->process_type);
    w->stream = what->stream ? strdup(what->stream) : NULL;
    w->contains = what->contains ? strdup(what->contains) : NULL;
    w->until_us = what->until_us;
    pthread_mutex_lock(&f->mu);
    bool ok = f->count < FOLLOWERS_MAX && w->instance_id && w->process_type && (!what->stream || w->stream) &&
              (!what->contains || w->contains);
    if (ok) {
        w->next = f->fresh;
        f->fresh = MT_TAKE(w);
        f->count++;
    }
    pthread_mutex_unlock(&f->mu);
    if (w) {
        follower_free(w);
        return MT_FAIL(err, MT_E_LIMIT, "too many log streams are open");
    }
    (void)!write(f->wake_fd, &one, sizeof one);
    return 0;
}
