/* SPDX-License-Identifier: Apache-2.0 */
/* verify-log: recompute the chain over every event. Two threads fetch, each on a connection of its own under one snapshot, this one hashes. */
#include "control/log/verify.h"
#include "control/log/append.h"
#include "control/log/batch.h"
#include "control/log/canon.h"
#include "control/log/read.h"

#include "base/assert.h"
#include "base/str.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RANGE 2048
#define AHEAD 6 /* ranges fetched or under way beyond the one that is hashed */
#define READERS 2

static const struct mt_pg_stmt st_counter = {"verify_counter", "SELECT last_event_id, last_chain_hash FROM event_counter"};
static const struct mt_pg_stmt st_snapshot = {"verify_snapshot", "SELECT pg_export_snapshot()"};
static const struct mt_pg_stmt st_range = {
    "verify_range",
    "SELECT event_id, occurred_at, org_id, app_id, env_id, aggregate_type, aggregate_id, aggregate_seq, event_type,"
    " event_version, actor_type, actor_id, request_id, idempotency_key, correlation_id, causation_id, payload, chain_hash,"
    " org_run, env_run FROM events WHERE event_id BETWEEN $1 AND $2 ORDER BY event_id"};
static const struct mt_pg_stmt st_beyond = {"verify_beyond",
                                            "SELECT event_id FROM events WHERE event_id > $1 OR event_id < 1 ORDER BY 1 LIMIT 1"};
static const struct mt_pg_stmt st_seqs = {
    "verify_seqs", "SELECT aggregate_type, aggregate_id, max(aggregate_seq), count(*) FROM events"
                   " GROUP BY aggregate_id, aggregate_type HAVING max(aggregate_seq) <> count(*) OR min(aggregate_seq) <> 1 LIMIT 1"};

/* Ranges fetched ahead by readers, each a thread with a connection of its own that sees the same snapshot. */
struct feed {
    int64_t head, next; /* the range to be fetched next begins with event `next` */
    int64_t first;      /* that which is hashed next; ranges first..first + AHEAD - 1 have a slot each */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct mt_pg_res *slot[AHEAD];
    bool stop, failed;
    struct mt_err err;
};
struct reader {
    struct feed *feed;
    struct mt_pg *pg;
    pthread_t thread;
    bool rest; /* first looks at what the chain does not tell: check_rest */
    struct mt_log_verdict rest_says;
};

static int check_rest(struct mt_pg *pg, struct mt_log_verdict *v, struct mt_err *err);

static int slot_of(int64_t lo)
{
    return (int)((lo - 1) / RANGE % AHEAD);
}

static int fetch(struct mt_pg *pg, int64_t lo, int64_t head, struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, lo);
    mt_pg_p_i64(&p, lo + RANGE - 1 < head ? lo + RANGE - 1 : head);
    return mt_pg_query(pg, &st_range, &p, ret, err);
}

static void fail_feed(struct feed *f, const struct mt_err *err)
{
    (void)pthread_mutex_lock(&f->mutex);
    if (!f->failed)
        f->err = *err;
    f->failed = true;
    (void)pthread_cond_broadcast(&f->changed);
    (void)pthread_mutex_unlock(&f->mutex);
}

/* The range that this reader is to fetch, once there is room for it; false when there is none left. */
static bool claim(struct feed *f, int64_t *ret_lo)
{
    (void)pthread_mutex_lock(&f->mutex);
    while (!f->stop && !f->failed && f->next <= f->head && f->next >= f->first + (int64_t)RANGE * AHEAD)
        (void)pthread_cond_wait(&f->changed, &f->mutex);
    bool any = !f->stop && !f->failed && f->next <= f->head;
    *ret_lo = f->next;
    f->next += any ? RANGE : 0;
    (void)pthread_mutex_unlock(&f->mutex);
    return any;
}

static void *reader_main(void *arg)
{
    struct reader *me = arg;
    struct feed *f = me->feed;
    struct mt_err err = {0};
    if (me->rest && check_rest(me->pg, &me->rest_says, &err) < 0)
        fail_feed(f, &err);
    for (int64_t lo; claim(f, &lo);) {
        struct mt_pg_res *res = NULL;
        if (fetch(me->pg, lo, f->head, &res, &err) < 0) {
            fail_feed(f, &err);
            break;
        }
        (void)pthread_mutex_lock(&f->mutex);
        f->slot[slot_of(lo)] = res;
        (void)pthread_cond_broadcast(&f->changed);
        (void)pthread_mutex_unlock(&f->mutex);
    }
    return NULL;
}

/* The range that begins with event @lo. */
static int take(struct feed *f, int64_t lo, struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_res **slot = &f->slot[slot_of(lo)];
    int r = 0;
    (void)pthread_mutex_lock(&f->mutex);
    while (!*slot && !f->failed)
        (void)pthread_cond_wait(&f->changed, &f->mutex);
    if (f->failed) {
        *err = f->err;
        r = -(int)f->err.code;
    } else {
        *ret = *slot;
        *slot = NULL;
        f->first = lo + RANGE;
        (void)pthread_cond_broadcast(&f->changed);
    }
    (void)pthread_mutex_unlock(&f->mutex);
    return r;
}

static void verdict(struct mt_log_verdict *v, int64_t id, const char *what)
{
    v->bad_event_id = id;
    (void)snprintf(v->what, sizeof v->what, "%s", what);
}

/* Runs that reach further (runs.c): at any event no more than the appender has heads at a time. */
struct open_runs {
    struct {
        uint64_t id;
        int64_t until;
    } v[RUN_HEADS];
};

struct check {
    struct mt_buf payload, scratch;
    uint8_t hash[32];
    struct open_runs orgs, envs;
};

/* What is listed for an organisation is found by these: an event in no run would be hidden there, one in two be there twice. */
static bool run_fits(struct open_runs *o, const char *of, int64_t id, int64_t run)
{
    int at = -1;
    uint64_t h = 0xcbf29ce484222325u;
    if (!of)
        return run == 0;
    for (const char *c = of; *c; c++)
        h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    for (int i = 0; i < RUN_HEADS; i++) {
        if (o->v[i].until < id)
            at = i;
        else if (o->v[i].id == h)
            return run == -1;
    }
    if (run < 0 || run >= BATCH_EVENTS_MAX || (run > 0 && at < 0))
        return false;
    if (run > 0) {
        o->v[at].id = h;
        o->v[at].until = id + run;
    }
    return true;
}

static void check_range(struct check *c, const struct mt_pg_res *res, int64_t lo, int64_t hi, struct mt_log_verdict *v)
{
    const struct mt_log_page page = {.res = (struct mt_pg_res *)(uintptr_t)res, .n = mt_pg_rows(res)};
    int64_t want = lo;
    for (int i = 0; i < page.n && !v->bad_event_id; i++, want++) {
        struct mt_log_event e;
        struct mt_err err = {0};
        mt_log_page_get(&page, i, &e);
        if (e.event_id != want) {
            verdict(v, want, "missing");
            return;
        }
        if (!mt_actor_type_known(e.actor_type) || e.causation_id < 0 || e.causation_id >= want) {
            verdict(v, want, "its actor type is none, or its cause is no earlier event");
            return;
        }
        if (!run_fits(&c->orgs, e.org_id, want, mt_pg_i64_or(res, i, 18, 0)) || !run_fits(&c->envs, e.env_id, want, mt_pg_i64_or(res, i, 19, 0))) {
            verdict(v, want, "no entry of the index of its organisation or environment stands for it, or two do");
            return;
        }
        mt_buf_reset(&c->payload);
        if (mt_canon_text(e.payload, strlen(e.payload), &c->payload, &err) < 0) {
            verdict(v, want, err.msg);
            return;
        }
        const struct mt_chain_event ce = {
            .event_id = e.event_id, .occurred_us = e.occurred_us, .org_id = e.org_id, .app_id = e.app_id, .env_id = e.env_id,
            .aggregate_type = e.aggregate_type, .aggregate_id = e.aggregate_id, .aggregate_seq = e.aggregate_seq,
            .event_type = e.event_type, .event_version = e.event_version, .actor_type = e.actor_type, .actor_id = e.actor_id,
            .request_id = e.request_id, .idempotency_key = e.idempotency_key, .correlation_id = e.correlation_id,
            .causation_id = e.causation_id, .payload = (const char *)c->payload.p, .payload_len = c->payload.len};
        if (mt_chain_hash(c->hash, &ce, &c->scratch, c->hash, &err) < 0)
            verdict(v, want, err.msg);
        else if (memcmp(c->hash, e.chain_hash, 32) != 0)
            verdict(v, want, "chain_hash does not fit its content and what came before");
        else
            v->events++;
    }
    if (!v->bad_event_id && want <= hi)
        verdict(v, want, "missing");
}

/* Hash range after range as the readers bring them. */
static int check_ranges(struct feed *f, const uint8_t last[32], mt_log_verify_fn *fn, void *arg, struct mt_log_verdict *v, struct mt_err *err)
{
    struct check c = {.payload = MT_BUF_INIT(1u << 20), .scratch = MT_BUF_INIT(1u << 20)};
    int r = 0;
    for (int64_t lo = 1; lo <= v->head && r == 0 && !v->bad_event_id; lo += RANGE) {
        struct mt_pg_res *res = NULL;
        if ((r = take(f, lo, &res, err)) < 0)
            break;
        int64_t hi = lo + RANGE - 1 < v->head ? lo + RANGE - 1 : v->head;
        check_range(&c, res, lo, hi, v);
        mt_pg_res_free(res);
        if (fn && (hi & 65535) < RANGE && !fn(arg, hi, v->head))
            r = MT_FAIL(err, MT_E_CANCELLED, "stopped at event %lld", (long long)hi);
    }
    if (r == 0 && !v->bad_event_id && memcmp(c.hash, last, 32) != 0)
        verdict(v, v->head, "event_counter holds another chain hash than the last event");
    mt_buf_done(&c.payload);
    mt_buf_done(&c.scratch);
    return r;
}

/* All of it: this thread hashes, @n readers fetch; the last of them first looks at what the chain does not tell. */
static int check_all(struct mt_pg *const *pgs, int n, const uint8_t last[32], mt_log_verify_fn *fn, void *arg, struct mt_log_verdict *v,
                     struct mt_err *err)
{
    struct feed f = {.head = v->head, .next = 1, .first = 1};
    struct reader readers[READERS];
    int r = 0, began = 0;
    MT_ASSERT(pthread_mutex_init(&f.mutex, NULL) == 0 && pthread_cond_init(&f.changed, NULL) == 0);
    for (; began < n && r == 0; began += r == 0) {
        readers[began] = (struct reader){.feed = &f, .pg = pgs[began], .rest = began == n - 1, .rest_says = {.head = v->head}};
        if (pthread_create(&readers[began].thread, NULL, reader_main, &readers[began]) != 0)
            r = MT_FAIL(err, MT_E_NOMEM, "cannot start a thread to read the log");
    }
    if (r == 0)
        r = check_ranges(&f, last, fn, arg, v, err);
    (void)pthread_mutex_lock(&f.mutex);
    f.stop = true;
    (void)pthread_cond_broadcast(&f.changed);
    (void)pthread_mutex_unlock(&f.mutex);
    for (int i = 0; i < began; i++)
        (void)pthread_join(readers[i].thread, NULL);
    for (int i = 0; i < AHEAD; i++)
        mt_pg_res_free(f.slot[i]);
    if (r == 0 && f.failed && !v->bad_event_id) {
        *err = f.err;
        r = -(int)f.err.code;
    }
    if (r == 0 && !v->bad_event_id && readers[n - 1].rest_says.bad_event_id)
        verdict(v, readers[n - 1].rest_says.bad_event_id, readers[n - 1].rest_says.what);
    (void)pthread_cond_destroy(&f.changed);
    (void)pthread_mutex_destroy(&f.mutex);
    return r;
}

static int check_rest(struct mt_pg *pg, struct mt_log_verdict *v, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *beyond = NULL, *seqs = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, v->head);
    int r = mt_pg_query(pg, &st_beyond, &p, &beyond, err);
    if (r < 0 || (r = mt_pg_query(pg, &st_seqs, NULL, &seqs, err)) < 0)
        return r;
    char text[160];
    if (mt_pg_rows(beyond) > 0) {
        verdict(v, mt_pg_i64(beyond, 0, 0), "lies outside 1..head of event_counter");
    } else if (mt_pg_rows(seqs) > 0) {
        (void)snprintf(text, sizeof text, "aggregate_seq of %.40s '%.60s' has a gap: %lld events, last %lld", mt_pg_text(seqs, 0, 0),
                       mt_pg_text(seqs, 0, 1), (long long)mt_pg_i64(seqs, 0, 3), (long long)mt_pg_i64(seqs, 0, 2));
        verdict(v, v->head, text);
    }
    return 0;
}

#define SETTINGS "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off"

/* A second reader that sees what @pg's transaction sees; NULL when there is none to be had: one does it, slower. */
static struct mt_pg *second_reader(struct mt_pg *pg, const char *snapshot)
{
    struct mt_pg *ret = NULL;
    struct mt_err ignored = {0};
    char sql[240];
    if (strspn(snapshot, "0123456789ABCDEF-") != strlen(snapshot) ||
        mt_fmt(sql, sizeof sql, &ignored, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '%s'; " SETTINGS, snapshot) < 0 ||
        mt_pg_another(pg, &ret, &ignored) < 0)
        return NULL;
    if (mt_pg_exec(ret, sql, &ignored) < 0)
        mt_pg_freep(&ret);
    return ret;
}

static int verify_in_snapshot(struct mt_pg *pg, mt_log_verify_fn *fn, void *arg, struct mt_log_verdict *v, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *counter = NULL, *snapshot = NULL;
    int r = mt_pg_query_one(pg, &st_counter, NULL, &counter, err);
    if (r < 0 || (r = mt_pg_query_one(pg, &st_snapshot, NULL, &snapshot, err)) < 0)
        return r;
    size_t n;
    const void *bytes = mt_pg_bytes(counter, 0, 1, &n);
    uint8_t last[32] = {0};
    if (n == 32)
        memcpy(last, bytes, 32);
    v->head = mt_pg_i64(counter, 0, 0);
    mt_auto_pg struct mt_pg *second = v->head > RANGE ? second_reader(pg, mt_pg_text(snapshot, 0, 0)) : NULL;
    struct mt_pg *const readers[READERS] = {pg, second};
    return check_all(readers, second ? 2 : 1, last, fn, arg, v, err);
}

int mt_log_verify(struct mt_pg *pg, mt_log_verify_fn *fn, void *arg, struct mt_log_verdict *ret, struct mt_err *err)
{
    struct mt_log_verdict v = {0};
    int r = mt_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; " SETTINGS, err);
    if (r < 0)
        return r;
    r = verify_in_snapshot(pg, fn, arg, &v, err);
    struct mt_err ignored;
    int end = mt_pg_alive(pg) ? mt_pg_exec(pg, "ROLLBACK", r < 0 ? &ignored : err) : 0;
    if (r < 0 || end < 0)
        return r < 0 ? r : end;
    *ret = v;
    return 0;
}
