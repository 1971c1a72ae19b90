/* SPDX-License-Identifier: Apache-2.0 */
/* Sources are kept in shards, each with its own lock, hash chains and least-recently-used order. */
#include "edge/limits.h"

#include "base/clock.h"
#include "base/list.h"
#include "os/file.h"

#include <pthread.h>

#define SHARDS 64U
#define BUCKETS 256U /* of one shard */
#define PER_SHARD (MT_EDGE_SOURCES_MAX / SHARDS)

struct mt_edge_source {
    struct mt_edge_source *next; /* in its bucket */
    struct mt_list lru;          /* oldest first */
    uint64_t id;
    uint32_t shard, bucket;
    uint32_t conns, preroute;
    int64_t tokens; /* thousandths of a connection */
    int64_t filled_at;
};

struct shard {
    pthread_mutex_t lock;
    struct mt_edge_source *buckets[BUCKETS];
    struct mt_list lru;
    uint32_t count;
    struct mt_edge_source crowd; /* stands for every source that finds no entry */
};

struct mt_edge_limits {
    struct mt_edge_limit_conf conf;
    uint64_t seed;
    struct shard shards[SHARDS];
};

struct mt_edge_limits *mt_edge_limits_new(const struct mt_edge_limit_conf *conf)
{
    struct mt_edge_limits *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->conf = *conf;
    mt_random(&l->seed, sizeof l->seed);
    for (unsigned i = 0; i < SHARDS; i++) {
        (void)pthread_mutex_init(&l->shards[i].lock, NULL);
        mt_list_init(&l->shards[i].lru);
        l->shards[i].crowd = (struct mt_edge_source){.shard = i, .tokens = (int64_t)conf->burst * 1000};
    }
    return l;
}

void mt_edge_limits_free(struct mt_edge_limits *l)
{
    if (!l)
        return;
    for (unsigned i = 0; i < SHARDS; i++) {
        MT_LIST_EACH(n, &l->shards[i].lru)
            free(MT_CONTAINER(n, struct mt_edge_source, lru));
        (void)pthread_mutex_destroy(&l->shards[i].lock);
    }
    free(l);
}

/* The /64 or the IPv4 address as a number; false for an exempt loopback source. */
static bool source_id(const struct mt_edge_limits *l, const union mt_edge_addr *a, uint64_t *ret)
{
    if (a->sa.sa_family == AF_INET) {
        uint32_t v4 = ntohl(a->in4.sin_addr.s_addr);
        *ret = (UINT64_C(0xffff) << 32) | v4; /* ::ffff:0:0/96 is no /64 of anybody */
        return l->conf.loopback || (v4 >> 24) != 127;
    }
    memcpy(ret, &a->in6.sin6_addr, 8);
    return l->conf.loopback || !IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}

static void unchain(struct shard *sh, struct mt_edge_source *s)
{
    struct mt_edge_source **at = &sh->buckets[s->bucket];
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
}

/*
 * A fresh entry: new memory while there is room, else the oldest source without connections. NULL when there is none among the
 * oldest; these go to the end, or a few held connections in front would hide the free ones behind them for ever.
 */
static struct mt_edge_source *fresh(struct shard *sh)
{
    if (sh->count < PER_SHARD) {
        struct mt_edge_source *s = calloc(1, sizeof *s);
        if (s)
            sh->count++;
        return s;
    }
    for (unsigned looked = 0; looked < 64; looked++) {
        struct mt_edge_source *s = MT_CONTAINER(sh->lru.next, struct mt_edge_source, lru);
        mt_list_remove(&s->lru);
        if (s->conns == 0) {
            unchain(sh, s);
            memset(s, 0, sizeof *s);
            return s;
        }
        mt_list_push_back(&sh->lru, &s->lru);
    }
    return NULL;
}

static struct mt_edge_source *lookup(struct mt_edge_limits *l, struct shard *sh, uint64_t id, uint64_t hash, int64_t now)
{
    uint32_t bucket = (uint32_t)(hash >> 32) % BUCKETS;
    struct mt_edge_source *s = sh->buckets[bucket];
    while (s && s->id != id)
        s = s->next;
    if (s) {
        mt_list_remove(&s->lru);
    } else {
        s = fresh(sh);
        if (!s)
            return &sh->crowd; /* it shares the limits of one source: never none */
        s->id = id;
        s->shard = (uint32_t)(sh - l->shards);
        s->bucket = bucket;
        s->next = sh->buckets[bucket];
        sh->buckets[bucket] = s;
        s->tokens = (int64_t)l->conf.burst * 1000;
        s->filled_at = now;
    }
    mt_list_push_back(&sh->lru, &s->lru);
    return s;
}

static bool take_token(const struct mt_edge_limits *l, struct mt_edge_source *s, int64_t now)
{
    if (l->conf.new_per_s == 0)
        return true;
    int64_t full = (int64_t)l->conf.burst * 1000;
    int64_t gone_ms = (now - s->filled_at) / MT_NS_PER_MS;
    if (gone_ms > 0) {
        /* rate per second times milliseconds is thousandths; an hour fills any bucket */
        int64_t add = gone_ms > 3600 * 1000 ? full : gone_ms * (int64_t)l->conf.new_per_s;
        s->tokens = s->tokens + add > full ? full : s->tokens + add;
        s->filled_at += gone_ms * MT_NS_PER_MS;
    }
    if (s->tokens < 1000)
        return false;
    s->tokens -= 1000;
    return true;
}

enum mt_edge_admit mt_edge_limits_enter(struct mt_edge_limits *l, const union mt_edge_addr *peer, int64_t now,
                                        struct mt_edge_source **ret)
{
    uint64_t id;
    *ret = NULL;
    if (!source_id(l, peer, &id))
        return MT_EDGE_ADMIT_OK;
    uint64_t hash = mix(id ^ l->seed);
    struct shard *sh = &l->shards[hash % SHARDS];
    enum mt_edge_admit verdict = MT_EDGE_ADMIT_OK;
    (void)pthread_mutex_lock(&sh->lock);
    struct mt_edge_source *s = lookup(l, sh, id, hash, now);
    if (l->conf.conns && s->conns >= l->conf.conns)
        verdict = MT_EDGE_ADMIT_CONNS;
    else if (!take_token(l, s, now))
        verdict = MT_EDGE_ADMIT_RATE;
    else if (l->conf.preroute && s->preroute >= l->conf.preroute)
        verdict = MT_EDGE_ADMIT_PREROUTE;
    if (verdict == MT_EDGE_ADMIT_OK || verdict == MT_EDGE_ADMIT_PREROUTE) {
        s->conns++;
        s->preroute++;
        *ret = s;
    }
    (void)pthread_mutex_unlock(&sh->lock);
    return verdict;
}

void mt_edge_limits_routed(struct mt_edge_limits *l, struct mt_edge_source *s)
{
    if (!s)
        return;
    struct shard *sh = &l->shards[s->shard];
    (void)pthread_mutex_lock(&sh->lock);
    s->preroute--;
    (void)pthread_mutex_unlock(&sh->lock);
}

void mt_edge_limits_leave(struct mt_edge_limits *l, struct mt_edge_source *s, bool routed)
{
    if (!s)
        return;
    struct shard *sh = &l->shards[s->shard];
    (void)pthread_mutex_lock(&sh->lock);
    s->conns--;
    if (!routed)
        s->preroute--;
    (void)pthread_mutex_unlock(&sh->lock);
}

bool mt_edge_rate_take(_Atomic int64_t *at, uint64_t per_s, uint64_t burst, int64_t now)
{
    if (per_s == 0)
        return true;
    const int64_t step = MT_NS_PER_S / (int64_t)per_s;
    int64_t was = atomic_load_explicit(at, memory_order_relaxed), next;
    do {
        int64_t from = was > now ? was : now;
        if (from - now > step * ((int64_t)burst - 1))
            return false;
        next = from + step;
    } while (!atomic_compare_exchange_weak_explicit(at, &was, next, memory_order_relaxed, memory_order_relaxed));
    return true;
}
