/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/source.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "edge/snapshot.h"
#include "edge/status.h"
#include "edge/store.h"
#include "edge/upstream.h"
#include "wire/json.h"
#include "wire/node_call.h"

#include <malloc.h>

#define POLL_WAIT_S 30
#define POLL_TIMEOUT_MS ((POLL_WAIT_S + 10) * 1000)
#define STATUS_EVERY_S 10
#define STATUS_TIMEOUT_MS 5000
#define STATUS_MAX (256U * 1024U * 1024U)
#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS 2000 /* a control plane that is back must be heard soon */
#define REJECT_PAUSE_MS 2000
#define SAVE_EVERY_NS MT_NS_PER_S
#define HTTP_UPGRADE 426 /* we share no protocol */
#define PROBLEM_MAX 65536
#define THREAD_STACK (512U * 1024U)

struct mt_edge_source_poll {
    struct mt_edge_hub *hub;
    struct mt_edge_upstream poll, post; /* each its thread's */
    pthread_t poll_thread, post_thread;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t wake;  /* monotonic clock */
    bool stop, kick;
    struct mt_edge_rejected rejected;

    /* poll thread only */
    char *unsaved; /* newest snapshot not on disk yet */
    size_t unsaved_len;
    uint64_t unsaved_epoch, unsaved_revision;
    int64_t saved_at;
    bool away; /* the control plane did not answer; logged once */
    bool strange; /* it answered that we share no protocol; logged once */
};

/* Sleep, or until stop; true when stopping. */
static bool pause_ms(struct mt_edge_source_poll *s, int64_t ms, bool until_kick)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)(ms / 1000);
    at.tv_nsec += (long)(ms % 1000) * 1000000L;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    (void)pthread_mutex_lock(&s->lock);
    while (!s->stop && !(until_kick && s->kick))
        if (pthread_cond_timedwait(&s->wake, &s->lock, &at) != 0)
            break;
    if (until_kick)
        s->kick = false;
    bool stop = s->stop;
    (void)pthread_mutex_unlock(&s->lock);
    return stop;
}

static void set_rejected(struct mt_edge_source_poll *s, const char *error)
{
    (void)pthread_mutex_lock(&s->lock);
    bool news = strcmp(s->rejected.error, error) != 0;
    (void)snprintf(s->rejected.error, sizeof s->rejected.error, "%s", error);
    s->kick = true;
    (void)pthread_cond_broadcast(&s->wake);
    (void)pthread_mutex_unlock(&s->lock);
    if (error[0] == '\0')
        return;
    atomic_fetch_add(&s->hub->totals.rejected, 1);
    if (news)
        mt_log(MT_ERROR, "edge.config_rejected", KV("error", error), KV("mend", "the running configuration stays; fix it at its source"));
}

/* A line for each request whose change is in it: one that looks for a trace finds when its change was served here. */
static void log_applied(const char *from, uint64_t epoch, uint64_t revision, char (*traces)[MT_EDGE_TRACE_LEN + 1], uint32_t n_traces)
{
    mt_log(MT_INFO, "edge.config_applied", KV("from", from), KV("epoch", epoch), KV("revision", revision));
    for (uint32_t i = 0; i < n_traces; i++)
        mt_log(MT_INFO, "edge.change_served", KV("trace_id", (const char *)traces[i]), KV("epoch", epoch), KV("revision", revision));
}

/* Take one snapshot; 0 applied. The memory of parsing is given back: it may be many times what the table needs. */
static int take(struct mt_edge_hub *h, const char *text, size_t len, const char *from, struct mt_err *err)
{
    struct mt_edge_table *t = NULL;
    char traces[MT_EDGE_TRACES_MAX][MT_EDGE_TRACE_LEN + 1] = {0};
    uint32_t n_traces = 0;
    uint64_t epoch = 0, revision = 0;
    int r = mt_edge_snapshot_parse(text, len, &t, err);
    if (r == 0) { /* while it is ours */
        epoch = t->epoch;
        revision = t->revision;
        n_traces = t->n_traces;
        memcpy(traces, t->traces, sizeof traces);
        r = mt_edge_hub_apply(h, t, false, err);
    }
    if (len > 65536)
        (void)malloc_trim(0);
    if (r == 0) {
        atomic_fetch_add(&h->totals.applied, 1);
        log_applied(from, epoch, revision, traces, n_traces);
    }
    return r;
}

bool mt_edge_source_load(struct mt_edge_hub *h)
{
    for (unsigned prev = 0; prev < 2; prev++) {
        struct mt_err err = {0};
        mt_auto_free char *text = NULL;
        size_t len;
        int r = mt_edge_store_load(h->opt->data_dir, prev == 1, &text, &len, &err);
        if (r == 0)
            r = take(h, text, len, prev ? "disk_prev" : "disk", &err);
        if (r == 0)
            return true;
        if (r != -MT_E_NOT_FOUND)
            mt_log(MT_ERROR, "edge.config_file_unusable", KV("prev", prev == 1), KV_ERR(&err),
                   KV("mend", "nothing to do when the control plane answers; else restore the file"));
    }
    return false;
}

/* Write the newest snapshot unless one was written within the last second. */
static void save(struct mt_edge_source_poll *s)
{
    struct mt_err err = {0};
    if (!s->unsaved || mt_clock_mono() - s->saved_at < SAVE_EVERY_NS)
        return;
    if (mt_edge_store_save(s->hub->opt->data_dir, s->unsaved, s->unsaved_len, s->unsaved_epoch, s->unsaved_revision, &err) < 0)
        mt_log(MT_ERROR, "edge.config_save_failed", KV_ERR(&err), KV("mend", "serving goes on; a restart would use an older file"));
    s->saved_at = mt_clock_mono();
    free(s->unsaved);
    s->unsaved = NULL;
}

/* A snapshot came: apply, remember for the disk, acknowledge. False when it was refused. */
static bool offered(struct mt_edge_source_poll *s, struct mt_http_reply *reply)
{
    struct mt_err err = {0};
    int r = take(s->hub, mt_buf_cstr(&reply->body), reply->body.len, "control", &err);
    if (r < 0) {
        set_rejected(s, err.msg);
        return false;
    }
    free(s->unsaved);
    s->unsaved_len = reply->body.len;
    s->unsaved = mt_buf_take(&reply->body);
    mt_edge_hub_version(s->hub, &s->unsaved_epoch, &s->unsaved_revision, NULL);
    set_rejected(s, "");
    save(s);
    return true;
}

/* Why an answer is no configuration: where no protocol is shared, in the words of the control plane. */
static void refused(const struct mt_http_reply *reply, struct mt_err *err)
{
    mt_auto_json json_t *doc = NULL;
    char words[240];
    const char *detail = NULL;
    if (reply->status == HTTP_UPGRADE && mt_json_parse((const char *)reply->body.p, reply->body.len, PROBLEM_MAX, 8, &doc, NULL) == 0)
        detail = json_string_value(json_object_get(doc, "detail"));
    if (detail)
        (void)MT_FAIL(err, MT_E_UNAVAILABLE, "%s", mt_printable(detail, strlen(detail), words, sizeof words));
    else
        (void)MT_FAIL(err, MT_E_UNAVAILABLE, "HTTP status %d", reply->status);
}

static void *poll_main(void *arg)
{
    struct mt_edge_source_poll *s = arg;
    int64_t backoff = BACKOFF_FIRST_MS;
    for (;;) {
        char target[96];
        uint64_t epoch, revision;
        struct mt_err err = {0};
        int64_t nap = 0;
        mt_edge_hub_version(s->hub, &epoch, &revision, NULL);
        (void)snprintf(target, sizeof target, "/internal/v1/edge/config?after=%llu&epoch=%llu&wait=%d", (unsigned long long)revision,
                       (unsigned long long)epoch, s->unsaved ? 1 : POLL_WAIT_S);
        const struct mt_http_request q = {.method = "GET", .target = target, .timeout_ms = POLL_TIMEOUT_MS};
        struct mt_http_reply reply = {0};
        int r = mt_edge_upstream_ready(&s->poll, &err);
        if (r == 0)
            r = mt_http_do(s->poll.client, &q, MT_EDGE_SNAPSHOT_MAX, &reply, &err);
        if (r == 0 && (reply.status == 200 || reply.status == 304)) {
            if (s->away)
                mt_log(MT_INFO, "edge.control_back", KV("socket", mt_edge_upstream_name(s->hub->opt)));
            s->away = s->strange = false;
            if (reply.status == 304)
                atomic_store(&s->hub->heard_wall_us, mt_clock_wall_us());
            backoff = BACKOFF_FIRST_MS;
            if (reply.status == 200 && !offered(s, &reply))
                nap = REJECT_PAUSE_MS;
        } else {
            bool strange = r == 0 && reply.status == HTTP_UPGRADE;
            if (r == 0)
                refused(&reply, &err);
            if (strange && !s->strange)
                mt_log(MT_ERROR, "edge.control_incompatible", KV("edge_version", MOAT_VERSION), KV("protocol", MT_NODE_PROTOCOL), KV_ERR(&err),
                       KV("mend", "install on this machine the version of moat that the control plane has; the running configuration stays meanwhile"));
            else if (!s->away && err.code != MT_E_CANCELLED)
                mt_log(MT_WARN, "edge.control_away", KV_ERR(&err), KV("mend", "none needed: the running configuration stays"));
            s->strange = strange;
            s->away = true;
            nap = backoff;
            backoff = backoff * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff * 2;
        }
        if (r == 0)
            mt_http_reply_done(&reply);
        save(s);
        if (pause_ms(s, nap, false))
            break;
    }
    s->saved_at = INT64_MIN / 2; /* at the end without regard to the pace */
    save(s);
    return NULL;
}

static void *post_main(void *arg)
{
    struct mt_edge_source_poll *s = arg;
    do {
        struct mt_err err = {0};
        struct mt_edge_rejected rejected;
        struct mt_http_reply reply = {0};
        mt_auto_buf struct mt_buf body = MT_BUF_INIT(STATUS_MAX);
        mt_edge_hub_retry_listeners(s->hub);
        (void)pthread_mutex_lock(&s->lock);
        rejected = s->rejected;
        (void)pthread_mutex_unlock(&s->lock);
        if (mt_edge_status_json(s->hub, &rejected, &body, &err) < 0) {
            mt_log(MT_ERROR, "edge.status_failed", KV_ERR(&err));
            continue;
        }
        const struct mt_http_request q = {.method = "POST", .target = "/internal/v1/edge/status", .timeout_ms = STATUS_TIMEOUT_MS,
                                          .body = mt_buf_cstr(&body), .body_len = body.len};
        /* a failure is no news: the poll says that the control plane is away, and the next report is whole again */
        if (mt_edge_upstream_ready(&s->post, &err) == 0 && mt_http_do(s->post.client, &q, 65536, &reply, &err) == 0)
            mt_http_reply_done(&reply);
    } while (!pause_ms(s, STATUS_EVERY_S * 1000, true));
    return NULL;
}

static int start_thread(pthread_t *t, void *(*fn)(void *), void *arg)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, THREAD_STACK);
    int e = pthread_create(t, &attr, fn, arg);
    (void)pthread_attr_destroy(&attr);
    return e;
}

struct mt_edge_source_poll *mt_edge_source_start(struct mt_edge_hub *h, struct mt_err *err)
{
    struct mt_edge_source_poll *s = calloc(1, sizeof *s);
    if (!s) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for the configuration source");
        return NULL;
    }
    s->hub = h;
    s->saved_at = INT64_MIN / 2;
    (void)pthread_mutex_init(&s->lock, NULL);
    bool made = mt_edge_upstream_init(&s->poll, h->opt, &s->lock, err) == 0 && mt_edge_upstream_init(&s->post, h->opt, &s->lock, err) == 0;
    pthread_condattr_t ca;
    (void)pthread_condattr_init(&ca);
    (void)pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&s->wake, &ca);
    (void)pthread_condattr_destroy(&ca);
    int e = !made ? ENOMEM : start_thread(&s->poll_thread, poll_main, s);
    if (e == 0)
        e = start_thread(&s->post_thread, post_main, s);
    if (e != 0) { /* the process ends now; what was made goes with it */
        errno = e;
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "threads of the configuration source");
        return NULL;
    }
    return s;
}

void mt_edge_source_stop(struct mt_edge_source_poll *s)
{
    if (!s)
        return;
    (void)pthread_mutex_lock(&s->lock);
    s->stop = true;
    (void)pthread_cond_broadcast(&s->wake);
    mt_edge_upstream_cancel(&s->poll);
    mt_edge_upstream_cancel(&s->post);
    (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_join(s->poll_thread, NULL);
    (void)pthread_join(s->post_thread, NULL);
    mt_edge_upstream_done(&s->poll);
    mt_edge_upstream_done(&s->post);
    free(s->unsaved);
    (void)pthread_cond_destroy(&s->wake);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}
