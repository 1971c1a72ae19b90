/* SPDX-License-Identifier: Apache-2.0 */
/* Token buckets in memory, shared through the database by a thread that comes by once a second. */
#include "control/limits/limits.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "pg/array.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define ONE INT64_C(1000000) /* of a token: what one request costs */
#define BUCKETS_MAX 65536
#define STREAMS_MAX 65536
#define SYNC_MAX 4096
#define SYNC_NS (1 * MT_NS_PER_S)
#define STALE_NS (10 * MT_NS_PER_S)
#define FULL_NS (60 * MT_NS_PER_S) /* an empty bucket is full again after a minute, whatever its size */
#define SWEEP_NS (60 * MT_NS_PER_S)

static const struct {
    const char *name;
    int64_t per_minute;
    bool closed;
} table[MT_LIMIT_MAX] = {
#define X(symbol, name, per_minute, closed, what) [MT_LIMIT_##symbol] = {name, per_minute, closed},
    MT_LIMITS(X)
#undef X
};

/* What was spent ($2) goes off the shared bucket, what that holds then comes back. Times are the database's, so that the clocks
 * of servers do not matter. */
static const struct mt_pg_stmt st_sync = {
    "limits_sync",
    "INSERT INTO moat.rate_buckets AS b (key, cap, tokens, updated_at)"
    " SELECT k, c, c - s, now() FROM unnest($1::text[], $2::int8[], $3::int8[]) x(k, s, c) ORDER BY k"
    " ON CONFLICT (key) DO UPDATE SET updated_at = now(), cap = excluded.cap, tokens = excluded.tokens - excluded.cap"
    " + LEAST(excluded.cap, b.tokens + LEAST(extract(epoch FROM now() - b.updated_at) * 1000, 120000)::int8 * excluded.cap / 60000)"
    " RETURNING key, tokens"};
static const struct mt_pg_stmt st_sweep = {"limits_sweep", "DELETE FROM moat.rate_buckets WHERE updated_at < now() - interval '10 minutes'"};

struct bucket {
    enum mt_limit which;
    int64_t tokens, spent; /* millionths; spent: since the last exchange with the database */
    int64_t at_ns;         /* when tokens was reckoned */
};

struct mt_limits {
    struct mt_pg_conf pg_conf;
    char *conninfo, *role;
    unsigned percent;
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* all below */
    pthread_cond_t work;
    bool stop;
    struct mt_map buckets; /* key: 32 hex digits of SHA-256(name|subject): neither accounts nor addresses lie in the table */
    struct mt_map streams; /* "t:<token>", "o:<org>" to counts */
    int64_t synced_ns;
    bool away;
    uint64_t refused[MT_LIMIT_MAX];
};

const char *mt_limit_name(enum mt_limit which)
{
    return table[which].name;
}

static int64_t capacity(const struct mt_limits *l, enum mt_limit which)
{
    int64_t n = table[which].per_minute * (int64_t)l->percent / 100;
    return (n < 1 ? 1 : n) * ONE;
}

static void refill(const struct mt_limits *l, struct bucket *b, int64_t now)
{
    int64_t cap = capacity(l, b->which), gone = now - b->at_ns;
    if (gone <= 0)
        return;
    b->tokens += gone >= FULL_NS ? cap : (int64_t)((__int128)cap * gone / FULL_NS);
    if (b->tokens > cap)
        b->tokens = cap;
    b->at_ns = now;
}

static void key_of(enum mt_limit which, const char *subject, char ret[33])
{
    char text[512], hex[MT_SHA256_HEX];
    int n = snprintf(text, sizeof text, "%s|%s", table[which].name, subject);
    mt_sha256_hex(text, n < (int)sizeof text ? (size_t)n : sizeof text - 1, hex);
    memcpy(ret, hex, 32);
    ret[32] = 0;
}

/* Under the mutex. NULL: no room, or no memory. */
static struct bucket *bucket_of(struct mt_limits *l, enum mt_limit which, const char *subject, int64_t now)
{
    char key[33];
    key_of(which, subject, key);
    struct bucket *b = mt_map_get(&l->buckets, key);
    if (b)
        return b;
    if (l->buckets.count >= BUCKETS_MAX)
        return NULL;
    b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    *b = (struct bucket){.which = which, .tokens = capacity(l, which), .at_ns = now};
    if (mt_map_put(&l->buckets, key, b) < 0) {
        free(b);
        return NULL;
    }
    return b;
}

static void tell(const struct mt_limits *l, const struct bucket *b, struct mt_limit_state *ret)
{
    int64_t cap = capacity(l, b->which), missing = cap - b->tokens, short_of = ONE - b->tokens;
    ret->limit = cap / ONE;
    ret->remaining = b->tokens > 0 ? b->tokens / ONE : 0;
    ret->reset_seconds = (int)((missing * 60 + cap - 1) / cap);
    ret->retry_seconds = short_of <= 0 ? 0 : (int)((short_of * 60 + cap - 1) / cap);
}

static bool ask(struct mt_limits *l, enum mt_limit which, const char *subject, bool spend, struct mt_limit_state *ret)
{
    int64_t now = mt_clock_mono();
    *ret = (struct mt_limit_state){.limit = table[which].per_minute, .remaining = table[which].per_minute};
    if (l->percent == 0)
        return true;
    (void)pthread_mutex_lock(&l->mutex);
    bool blind = l->conninfo && now - l->synced_ns > STALE_NS;
    struct bucket *b = blind && table[which].closed ? NULL : bucket_of(l, which, subject, now);
    bool ok;
    if (!b) {
        ok = !table[which].closed;
        *ret = (struct mt_limit_state){.limit = capacity(l, which) / ONE, .retry_seconds = ok ? 0 : 5};
    } else {
        refill(l, b, now);
        ok = b->tokens >= ONE;
        if (ok && spend) {
            b->tokens -= ONE;
            b->spent += ONE;
        }
        tell(l, b, ret);
        if (ok)
            ret->retry_seconds = 0;
    }
    l->refused[which] += !ok && spend;
    (void)pthread_mutex_unlock(&l->mutex);
    return ok;
}

bool mt_limits_take(struct mt_limits *l, enum mt_limit which, const char *subject, struct mt_limit_state *ret)
{
    return ask(l, which, subject, true, ret);
}

bool mt_limits_peek(struct mt_limits *l, enum mt_limit which, const char *subject, struct mt_limit_state *ret)
{
    return ask(l, which, subject, false, ret);
}

uint64_t mt_limits_refused(struct mt_limits *l, enum mt_limit which)
{
    (void)pthread_mutex_lock(&l->mutex);
    uint64_t n = l->refused[which];
    (void)pthread_mutex_unlock(&l->mutex);
    return n;
}

/* ---- streams ---- */

static int64_t *count_of(struct mt_limits *l, char kind, const char *id, bool make)
{
    char key[80];
    (void)snprintf(key, sizeof key, "%c:%s", kind, id);
    int64_t *n = mt_map_get(&l->streams, key);
    if (n || !make || l->streams.count >= STREAMS_MAX)
        return n;
    n = calloc(1, sizeof *n);
    if (n && mt_map_put(&l->streams, key, n) < 0) {
        free(n);
        n = NULL;
    }
    return n;
}

static void let_go(struct mt_limits *l, char kind, const char *id)
{
    char key[80];
    int64_t *n = count_of(l, kind, id, false);
    (void)snprintf(key, sizeof key, "%c:%s", kind, id);
    if (n && (*n == 0 || --*n == 0))
        free(mt_map_remove(&l->streams, key));
}

int mt_limits_stream_enter(struct mt_limits *l, const char *token, const char *org, int64_t org_max, struct mt_stream_place *ret,
                           bool *ret_token)
{
    int r = 0;
    *ret_token = false;
    (void)pthread_mutex_lock(&l->mutex);
    int64_t *t = token[0] ? count_of(l, 't', token, true) : NULL, *o = count_of(l, 'o', org, true);
    if (!o || (token[0] && !t)) {
        r = -MT_E_NOMEM;
    } else if (t && l->percent && *t >= MT_LIMIT_STREAMS_PER_TOKEN) {
        *ret_token = true;
        r = -MT_E_LIMIT;
    } else if (org_max >= 0 && *o >= org_max) {
        r = -MT_E_LIMIT;
    }
    if (r == 0) {
        *ret = (struct mt_stream_place){.limits = l};
        (void)snprintf(ret->token, sizeof ret->token, "%s", token);
        (void)snprintf(ret->org, sizeof ret->org, "%s", org);
        ++*o;
        if (t)
            ++*t;
    }
    (void)pthread_mutex_unlock(&l->mutex);
    return r;
}

void mt_limits_stream_leave(struct mt_stream_place *p)
{
    if (!p->limits)
        return;
    (void)pthread_mutex_lock(&p->limits->mutex);
    if (p->token[0])
        let_go(p->limits, 't', p->token);
    let_go(p->limits, 'o', p->org);
    (void)pthread_mutex_unlock(&p->limits->mutex);
    p->limits = NULL;
}

int64_t mt_limits_streams_of(struct mt_limits *l, const char *org)
{
    (void)pthread_mutex_lock(&l->mutex);
    const int64_t *n = count_of(l, 'o', org, false);
    int64_t r = n ? *n : 0;
    (void)pthread_mutex_unlock(&l->mutex);
    return r;
}

/* ---- sharing ---- */

struct exchange {
    struct mt_pg_arr keys, spent, caps;
};

/* Take what was spent out of the buckets, and forget those that are full and had no use: they begin full anyway. */
static void collect(struct mt_limits *l, struct exchange *x)
{
    const char *key;
    void *v;
    size_t pos = 0;
    int64_t now = mt_clock_mono();
    (void)pthread_mutex_lock(&l->mutex);
    while (x->keys.count < SYNC_MAX && mt_map_next(&l->buckets, &pos, &key, &v)) {
        struct bucket *b = v;
        refill(l, b, now);
        if (b->spent > 0) {
            mt_pg_arr_text_add(&x->keys, key);
            mt_pg_arr_i64(&x->spent, b->spent);
            mt_pg_arr_i64(&x->caps, capacity(l, b->which));
            b->spent = 0;
        } else if (b->tokens >= capacity(l, b->which)) {
            (void)mt_map_remove(&l->buckets, key);
            free(b);
        }
    }
    (void)pthread_mutex_unlock(&l->mutex);
}

static void adopt(struct mt_limits *l, const struct mt_pg_res *r)
{
    int64_t now = mt_clock_mono();
    (void)pthread_mutex_lock(&l->mutex);
    l->synced_ns = now;
    for (int i = 0; r && i < mt_pg_rows(r); i++) {
        struct bucket *b = mt_map_get(&l->buckets, mt_pg_text(r, i, 0));
        if (!b)
            continue;
        int64_t shared = mt_pg_i64(r, i, 1) - b->spent, cap = capacity(l, b->which);
        b->tokens = shared > cap ? cap : shared < -cap ? -cap : shared;
        b->at_ns = now;
    }
    (void)pthread_mutex_unlock(&l->mutex);
}

int mt_limits_sync(struct mt_limits *l, struct mt_pg *pg, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct exchange x;
    struct mt_pg_params p;
    int rc = 0;
    mt_pg_arr_init(&x.keys, MT_PG_ELEM_TEXT, 1u << 20);
    mt_pg_arr_init(&x.spent, MT_PG_ELEM_I64, 1u << 20);
    mt_pg_arr_init(&x.caps, MT_PG_ELEM_I64, 1u << 20);
    collect(l, &x);
    if (x.keys.count > 0) {
        mt_pg_p_init(&p);
        mt_pg_p_arr(&p, &x.keys);
        mt_pg_p_arr(&p, &x.spent);
        mt_pg_p_arr(&p, &x.caps);
        rc = mt_pg_query(pg, &st_sync, &p, &r, err);
    } else if (mt_clock_mono() - l->synced_ns > STALE_NS / 3) { /* nothing to tell: is it there? */
        rc = mt_pg_exec(pg, "SELECT 1", err);
    } else {
        rc = mt_pg_idle_check(pg) ? 0 : MT_FAIL(err, MT_E_UNAVAILABLE, "the connection is lost");
    }
    if (rc == 0)
        adopt(l, r);
    mt_pg_arr_done(&x.keys);
    mt_pg_arr_done(&x.spent);
    mt_pg_arr_done(&x.caps);
    return rc;
}

static bool connected(struct mt_limits *l, struct mt_pg **pg, struct mt_err *err)
{
    if (*pg && mt_pg_alive(*pg))
        return true;
    return mt_pg_open(&l->pg_conf, pg, err) == 0;
}

static void *limits_main(void *arg)
{
    struct mt_limits *l = arg;
    struct mt_pg *pg = NULL;
    int64_t sweep_at = 0;
    bool stop = false;
    (void)pthread_setname_np(pthread_self(), "limits");
    while (!stop) {
        struct mt_err err = {0};
        bool ok = connected(l, &pg, &err) && mt_limits_sync(l, pg, &err) == 0;
        if (!ok && !l->away)
            mt_log(MT_WARN, "limits.database_away", KV_ERR(&err));
        l->away = !ok;
        if (ok && mt_clock_mono() >= sweep_at) {
            (void)mt_pg_query(pg, &st_sweep, NULL, NULL, &err);
            sweep_at = mt_clock_mono() + SWEEP_NS;
        }
        int64_t until = mt_clock_mono() + SYNC_NS;
        const struct timespec ts = {.tv_sec = (time_t)(until / MT_NS_PER_S), .tv_nsec = (long)(until % MT_NS_PER_S)};
        (void)pthread_mutex_lock(&l->mutex);
        while (!l->stop && mt_clock_mono() < until)
            (void)pthread_cond_timedwait(&l->work, &l->mutex, &ts);
        stop = l->stop;
        (void)pthread_mutex_unlock(&l->mutex);
    }
    mt_pg_free(pg);
    return NULL;
}

int mt_limits_new(const struct mt_pg_conf *pg, unsigned percent, struct mt_limits **ret, struct mt_err *err)
{
    struct mt_limits *l = calloc(1, sizeof *l);
    pthread_condattr_t mono;
    uint64_t seed;
    if (!l)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for rate limits");
    l->pg_conf = *pg;
    l->conninfo = pg->conninfo ? strdup(pg->conninfo) : NULL;
    l->role = pg->role ? strdup(pg->role) : NULL;
    l->pg_conf.conninfo = l->conninfo;
    l->pg_conf.role = l->role;
    l->pg_conf.application_name = "moat limits";
    l->percent = percent;
    l->synced_ns = mt_clock_mono();
    mt_random(&seed, sizeof seed);
    mt_map_init(&l->buckets, seed);
    mt_map_init(&l->streams, seed);
    MT_ASSERT(pthread_mutex_init(&l->mutex, NULL) == 0 && pthread_condattr_init(&mono) == 0 &&
              pthread_condattr_setclock(&mono, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&l->work, &mono) == 0);
    (void)pthread_condattr_destroy(&mono);
    int r = 0;
    if ((pg->conninfo && !l->conninfo) || (pg->role && !l->role))
        r = MT_FAIL(err, MT_E_NOMEM, "no memory for rate limits");
    else if (l->conninfo && percent && pthread_create(&l->thread, NULL, limits_main, l) != 0)
        r = MT_FAIL(err, MT_E_NOMEM, "cannot start the thread of the rate limits");
    else
        l->started = l->conninfo && percent;
    if (r < 0) {
        mt_limits_free(l);
        return r;
    }
    *ret = l;
    return 0;
}

static void free_map(struct mt_map *m)
{
    const char *key;
    void *v;
    size_t pos = 0;
    while (mt_map_next(m, &pos, &key, &v))
        free(v);
    mt_map_done(m);
}

void mt_limits_free(struct mt_limits *l)
{
    if (!l)
        return;
    if (l->started) {
        (void)pthread_mutex_lock(&l->mutex);
        l->stop = true;
        (void)pthread_cond_signal(&l->work);
        (void)pthread_mutex_unlock(&l->mutex);
        (void)pthread_join(l->thread, NULL);
    }
    free_map(&l->buckets);
    free_map(&l->streams);
    (void)pthread_cond_destroy(&l->work);
    (void)pthread_mutex_destroy(&l->mutex);
    free(l->conninfo);
    free(l->role);
    free(l);
}
