/* SPDX-License-Identifier: Apache-2.0 */
/* The sealer's thread: a pass each second, at once when somebody waits for one; retention once an hour. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/audit/seal.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RECONNECT_NS (1 * MT_NS_PER_S)
#define PRUNE_NS (3600 * MT_NS_PER_S)
#define PRUNE_AT_ONCE 20000
#define ANONYMOUS_PER_S 5
#define ANONYMOUS_BURST 50

static const struct mt_pg_stmt st_prune = {"audit_prune", "SELECT moat.audit_prune($1, $2)"};

struct mt_audit {
    struct mt_pg_conf pg_conf;
    char *conninfo, *role;
    int retention_days, interval_ms;
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* all below but the thread's own */
    pthread_cond_t work, passed;
    char *queue[MT_AUDIT_QUEUE_MAX]; /* lines, oldest first */
    int queued;
    uint64_t asked, begun, done; /* passes: wanted by mt_audit_settle, started, ended well with nothing left */
    bool stop;
    int64_t anonymous, anonymous_at; /* records of the nameless that may still come, and when that was counted */
    struct mt_audit_stats stats;

    /* the thread's own */
    struct mt_pg *pg;
    int64_t retry_at, prune_at;
    bool away;
};

static bool connected(struct mt_audit *a)
{
    struct mt_err err = {0};
    if (a->pg && mt_pg_alive(a->pg) && mt_pg_idle_check(a->pg))
        return true;
    if (mt_clock_mono() < a->retry_at)
        return false;
    a->retry_at = mt_clock_mono() + RECONNECT_NS;
    int r = a->pg ? mt_pg_reset(a->pg, &err) : mt_pg_connect(&a->pg_conf, &a->pg, &err);
    if (r < 0) {
        if (!a->away)
            mt_log(MT_WARN, "audit.database_away", KV_ERR(&err));
        mt_pg_freep(&a->pg);
        a->away = true;
        return false;
    }
    a->away = false;
    return true;
}

static void free_lines(char **lines, int n)
{
    for (int i = 0; i < n; i++)
        free(lines[i]);
}

/* A pass over what waits. The lines taken from the queue go back when the database refused, as far as there is room. */
static bool pass(struct mt_audit *a)
{
    static _Thread_local char *lines[MT_AUDIT_QUEUE_MAX];
    struct mt_err err = {0};
    bool more = false;
    (void)pthread_mutex_lock(&a->mutex);
    int n = a->queued;
    memcpy(lines, a->queue, (size_t)n * sizeof *lines);
    a->queued = 0;
    uint64_t mine = a->begun = a->asked;
    (void)pthread_mutex_unlock(&a->mutex);
    int r = mt_audit_seal(a->pg, lines, n, &more, &err);
    (void)pthread_mutex_lock(&a->mutex);
    bool elsewhere = r == 0 && more; /* another server holds the lock */
    if (r < 0 || elsewhere) {
        int room = MT_AUDIT_QUEUE_MAX - a->queued < n ? MT_AUDIT_QUEUE_MAX - a->queued : n;
        memmove(a->queue + room, a->queue, (size_t)a->queued * sizeof *a->queue);
        memcpy(a->queue, lines, (size_t)room * sizeof *lines);
        free_lines(lines + room, n - room);
        a->stats.dropped += (uint64_t)(n - room);
        a->queued += room;
        a->stats.failures += r < 0;
    } else {
        free_lines(lines, n);
        a->stats.sealed += (uint64_t)r;
        if (!more)
            a->done = mine;
        (void)pthread_cond_broadcast(&a->passed);
    }
    (void)pthread_mutex_unlock(&a->mutex);
    if (r < 0)
        mt_log(MT_WARN, "audit.seal_failed", KV_ERR(&err));
    if (elsewhere)
        (void)poll(NULL, 0, 10);
    return more && r >= 0;
}

static void prune(struct mt_audit *a)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_err err = {0};
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, a->retention_days);
    mt_pg_p_i32(&p, PRUNE_AT_ONCE);
    a->prune_at = mt_clock_mono() + PRUNE_NS;
    if (mt_pg_query_one(a->pg, &st_prune, &p, &res, &err) < 0) {
        mt_log(MT_WARN, "audit.prune_failed", KV_ERR(&err));
        return;
    }
    int64_t n = mt_pg_i64(res, 0, 0);
    if (n > 0)
        mt_log(MT_INFO, "audit.pruned", KV("records", n), KV("days", a->retention_days));
    (void)pthread_mutex_lock(&a->mutex);
    a->stats.pruned += (uint64_t)n;
    (void)pthread_mutex_unlock(&a->mutex);
}

static void *sealer_main(void *arg)
{
    struct mt_audit *a = arg;
    bool stop = false, more = false;
    (void)pthread_setname_np(pthread_self(), "audit");
    while (!stop) {
        int64_t until = mt_clock_mono() + (int64_t)a->interval_ms * MT_NS_PER_MS;
        const struct timespec ts = {.tv_sec = (time_t)(until / MT_NS_PER_S), .tv_nsec = (long)(until % MT_NS_PER_S)};
        (void)pthread_mutex_lock(&a->mutex);
        while (!a->stop && !more && a->asked == a->begun && a->queued < MT_AUDIT_QUEUE_MAX / 2 && mt_clock_mono() < until)
            (void)pthread_cond_timedwait(&a->work, &a->mutex, &ts);
        stop = a->stop;
        (void)pthread_mutex_unlock(&a->mutex);
        more = connected(a) && pass(a);
        if (!a->pg) { /* away: what asks is not answered by spinning */
            (void)pthread_mutex_lock(&a->mutex);
            a->begun = a->asked;
            (void)pthread_mutex_unlock(&a->mutex);
        }
        if (a->pg && !stop && a->retention_days && mt_clock_mono() >= a->prune_at)
            prune(a);
    }
    return NULL;
}

int mt_audit_new(const struct mt_audit_conf *conf, struct mt_audit **ret, struct mt_err *err)
{
    struct mt_audit *a = calloc(1, sizeof *a);
    pthread_condattr_t mono;
    if (!a)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the audit sealer");
    a->pg_conf = conf->pg;
    a->conninfo = conf->pg.conninfo ? strdup(conf->pg.conninfo) : NULL;
    a->role = conf->pg.role ? strdup(conf->pg.role) : NULL;
    a->pg_conf.conninfo = a->conninfo;
    a->pg_conf.role = a->role;
    a->pg_conf.application_name = "moat audit";
    a->retention_days = conf->retention_days;
    a->interval_ms = conf->interval_ms ? conf->interval_ms : 1000;
    MT_ASSERT(a->retention_days == 0 || a->retention_days >= 90);
    MT_ASSERT(pthread_mutex_init(&a->mutex, NULL) == 0 && pthread_condattr_init(&mono) == 0 &&
              pthread_condattr_setclock(&mono, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&a->work, &mono) == 0 &&
              pthread_cond_init(&a->passed, &mono) == 0);
    (void)pthread_condattr_destroy(&mono);
    int r = 0;
    if ((conf->pg.conninfo && !a->conninfo) || (conf->pg.role && !a->role))
        r = MT_FAIL(err, MT_E_NOMEM, "no memory for the audit sealer");
    else if (pthread_create(&a->thread, NULL, sealer_main, a) != 0)
        r = MT_FAIL(err, MT_E_NOMEM, "cannot start the audit sealer's thread");
    else
        a->started = true;
    if (r < 0) {
        mt_audit_free(a);
        return r;
    }
    *ret = a;
    return 0;
}

void mt_audit_free(struct mt_audit *a)
{
    if (!a)
        return;
    if (a->started) {
        (void)pthread_mutex_lock(&a->mutex);
        a->stop = true;
        (void)pthread_cond_signal(&a->work);
        (void)pthread_mutex_unlock(&a->mutex);
        (void)pthread_join(a->thread, NULL);
    }
    free_lines(a->queue, a->queued);
    mt_pg_free(a->pg);
    (void)pthread_cond_destroy(&a->work);
    (void)pthread_cond_destroy(&a->passed);
    (void)pthread_mutex_destroy(&a->mutex);
    free(a->conninfo);
    free(a->role);
    free(a);
}

void mt_audit_note(struct mt_audit *a, const struct mt_audit_rec *rec)
{
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(32u << 10), line = MT_BUF_INIT(32u << 10);
    struct mt_err err = {0};
    char *text = NULL;
    if (mt_audit_put(rec, &json, &err) == 0) {
        mt_audit_put_line(&line, rec->event_id, 0, rec->ts_us, (const char *)json.p, json.len);
        text = line.failed ? NULL : mt_buf_take(&line);
    }
    (void)pthread_mutex_lock(&a->mutex);
    if (text && a->queued < MT_AUDIT_QUEUE_MAX)
        a->queue[a->queued++] = text;
    else {
        a->stats.dropped++;
        free(text);
    }
    if (a->queued >= MT_AUDIT_QUEUE_MAX / 2)
        (void)pthread_cond_signal(&a->work);
    (void)pthread_mutex_unlock(&a->mutex);
}

void mt_audit_note_anonymous(struct mt_audit *a, const struct mt_audit_rec *rec)
{
    (void)pthread_mutex_lock(&a->mutex);
    int64_t now = mt_clock_mono(), gained = (now - a->anonymous_at) / (MT_NS_PER_S / ANONYMOUS_PER_S);
    if (gained > 0) {
        a->anonymous = a->anonymous + gained > ANONYMOUS_BURST ? ANONYMOUS_BURST : a->anonymous + gained;
        a->anonymous_at = now;
    }
    bool ok = a->anonymous > 0;
    if (ok)
        a->anonymous--;
    else
        a->stats.dropped++;
    (void)pthread_mutex_unlock(&a->mutex);
    if (ok)
        mt_audit_note(a, rec);
}

bool mt_audit_settle(struct mt_audit *a, int timeout_ms)
{
    int64_t until = mt_clock_mono() + (int64_t)timeout_ms * MT_NS_PER_MS;
    const struct timespec ts = {.tv_sec = (time_t)(until / MT_NS_PER_S), .tv_nsec = (long)(until % MT_NS_PER_S)};
    (void)pthread_mutex_lock(&a->mutex);
    uint64_t mine = ++a->asked;
    (void)pthread_cond_signal(&a->work);
    while (a->done < mine && !a->stop && mt_clock_mono() < until)
        (void)pthread_cond_timedwait(&a->passed, &a->mutex, &ts);
    bool ok = a->done >= mine;
    (void)pthread_mutex_unlock(&a->mutex);
    return ok;
}

void mt_audit_stats(struct mt_audit *a, struct mt_audit_stats *ret)
{
    (void)pthread_mutex_lock(&a->mutex);
    *ret = a->stats;
    ret->queued = (unsigned)a->queued;
    (void)pthread_mutex_unlock(&a->mutex);
}
