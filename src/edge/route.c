/* SPDX-License-Identifier: Apache-2.0 */
/* Live routes: references, the first use of a record, what a new table takes over from the one before. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "edge/pack.h"

#include <pthread.h>

struct mt_edge_lives {
    pthread_mutex_t lock;
    struct mt_edge_route **v; /* one reference each */
    uint32_t n, cap;
};

static void stat_unref(struct mt_edge_stat *s)
{
    if (s && atomic_fetch_sub(&s->refs, 1) == 1)
        free(s);
}

static void health_unref(struct mt_edge_health *h)
{
    if (h && atomic_fetch_sub(&h->refs, 1) == 1)
        free(h);
}

struct mt_edge_route *mt_edge_route_ref(struct mt_edge_route *r)
{
    MT_CHECK(r, MT_EDGE_ROUTE_MAGIC);
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void mt_edge_route_unref(struct mt_edge_route *r)
{
    if (!r)
        return;
    MT_CHECK(r, MT_EDGE_ROUTE_MAGIC);
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    r->magic = 0;
    for (uint32_t i = 0; i < r->n_backends; i++)
        health_unref(r->backends[i].health);
    stat_unref(r->stat);
    free(r);
}

struct mt_edge_lives *mt_edge_lives_new(void)
{
    struct mt_edge_lives *l = calloc(1, sizeof *l);
    if (l)
        (void)pthread_mutex_init(&l->lock, NULL);
    return l;
}

void mt_edge_lives_free(struct mt_edge_lives *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < l->n; i++)
        mt_edge_route_unref(l->v[i]);
    free(l->v);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

/* Point the record at @r, whose reference goes over; under the lock. False: no memory, nothing was done. */
static bool enter(struct mt_edge_lives *l, struct mt_edge_rec *rec, struct mt_edge_route *r)
{
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 64;
        struct mt_edge_route **v = reallocarray(l->v, cap, sizeof(struct mt_edge_route *));
        if (!v)
            return false;
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = r;
    atomic_store_explicit(&rec->live, r, memory_order_release);
    return true;
}

struct mt_edge_route *mt_edge_table_live(const struct mt_edge_table *t, struct mt_edge_rec *rec)
{
    struct mt_edge_route *r = atomic_load_explicit(&rec->live, memory_order_acquire);
    if (r)
        return r;
    (void)pthread_mutex_lock(&t->lives->lock);
    r = atomic_load_explicit(&rec->live, memory_order_acquire);
    if (!r) {
        r = mt_edge_unpack(rec, &t->opts[rec->opts]);
        if (r && !enter(t->lives, rec, r)) {
            mt_edge_route_unref(r);
            r = NULL;
        }
    }
    (void)pthread_mutex_unlock(&t->lives->lock);
    return r;
}

void mt_edge_table_each_live(const struct mt_edge_table *t, void (*fn)(struct mt_edge_route *r, void *arg), void *arg)
{
    (void)pthread_mutex_lock(&t->lives->lock);
    for (uint32_t i = 0; i < t->lives->n; i++)
        fn(t->lives->v[i], arg);
    (void)pthread_mutex_unlock(&t->lives->lock);
}

/* --- from one table to the next --- */

struct pair {
    struct mt_edge_route *old; /* borrowed from the old table */
    struct mt_edge_rec *rec;   /* of the same route_id in the new one; NULL when it is gone */
};

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->old->route_id, ((const struct pair *)b)->old->route_id);
}

static bool same_id(const struct mt_edge_rec *rec, const char *id)
{
    size_t len;
    const char *have = mt_edge_rec_id(rec, &len);
    return strncmp(have, id, len) == 0 && id[len] == '\0';
}

static struct pair *pair_of(struct pair *v, uint32_t n, const struct mt_edge_rec *rec)
{
    size_t len;
    const char *id = mt_edge_rec_id(rec, &len);
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int c = strncmp(v[mid].old->route_id, id, len);
        if (c == 0 && v[mid].old->route_id[len] == '\0')
            return &v[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* Live routes of @old with their records in @t; most keep their place, so only the rest is looked for among all. */
static struct pair *match(const struct mt_edge_table *t, const struct mt_edge_table *old, uint32_t *ret_n)
{
    (void)pthread_mutex_lock(&old->lives->lock);
    uint32_t n = old->lives->n, rest = 0;
    struct pair *v = calloc(n ? n : 1, sizeof *v);
    for (uint32_t i = 0; v && i < n; i++)
        v[i].old = old->lives->v[i];
    (void)pthread_mutex_unlock(&old->lives->lock);
    *ret_n = v ? n : 0;
    for (uint32_t i = 0; i < *ret_n; i++) {
        v[i].rec = mt_edge_table_rec(t, v[i].old->key, v[i].old->hostname, strlen(v[i].old->hostname));
        if (v[i].rec && !same_id(v[i].rec, v[i].old->route_id))
            v[i].rec = NULL;
        if (!v[i].rec) { /* to the front */
            struct pair swap = v[rest];
            v[rest++] = v[i];
            v[i] = swap;
        }
    }
    if (rest == 0)
        return v;
    qsort(v, rest, sizeof *v, by_id);
    for (size_t at = 0; at < t->mem_len;) {
        struct mt_edge_rec *rec = mt_edge_table_at(t, at);
        struct pair *p = pair_of(v, rest, rec);
        if (p)
            p->rec = rec;
        at += mt_edge_rec_size(rec, &t->opts[rec->opts]);
    }
    return v;
}

bool mt_edge_same_addr(const union mt_edge_addr *a, const union mt_edge_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in4.sin_port == b->in4.sin_port && a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
    return a->in6.sin6_port == b->in6.sin6_port && memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) == 0;
}

static bool same_backend(const struct mt_edge_backend *a, const struct mt_edge_backend *b)
{
    return mt_edge_same_addr(&a->addr, &b->addr) && MT_STREQ(a->instance_id, b->instance_id);
}

static bool same_route(const struct mt_edge_route *a, const struct mt_edge_route *b)
{
    if (a->key != b->key || a->idle_timeout_s != b->idle_timeout_s || a->max_conns != b->max_conns || a->min_tls != b->min_tls ||
        a->balance != b->balance || a->proxy_v2 != b->proxy_v2 || a->proxy_tlv != b->proxy_tlv ||
        a->disabled != b->disabled || a->is_default != b->is_default || a->allow_non_tls != b->allow_non_tls ||
        a->n_backends != b->n_backends || !MT_STREQ(a->hostname, b->hostname) || !MT_STREQ(a->env_id, b->env_id) ||
        !MT_STREQ(a->org_id, b->org_id))
        return false;
    for (uint32_t i = 0; i < a->n_backends; i++)
        if (!same_backend(&a->backends[i], &b->backends[i]))
            return false;
    return true;
}

/* Counters and health of @old go to @r, its next version. */
static void inherit(struct mt_edge_route *r, struct mt_edge_route *old)
{
    stat_unref(r->stat);
    r->stat = old->stat;
    atomic_fetch_add(&r->stat->refs, 1);
    for (uint32_t i = 0; i < r->n_backends; i++) {
        for (uint32_t k = 0; k < old->n_backends; k++) {
            if (!same_backend(&r->backends[i], &old->backends[k]))
                continue;
            health_unref(r->backends[i].health);
            r->backends[i].health = old->backends[k].health;
            atomic_fetch_add(&r->backends[i].health->refs, 1);
            break;
        }
    }
}

/* Memory out leaves the record as it is: its first connection begins with fresh counters. */
static void adopt_one(struct mt_edge_table *t, const struct pair *p)
{
    (void)pthread_mutex_lock(&t->lives->lock);
    struct mt_edge_route *r = atomic_load(&p->rec->live) ? NULL : mt_edge_unpack(p->rec, &t->opts[p->rec->opts]);
    if (r) {
        if (same_route(r, p->old)) {
            mt_edge_route_unref(r);
            r = mt_edge_route_ref(p->old);
        } else {
            inherit(r, p->old);
        }
        if (!enter(t->lives, p->rec, r))
            mt_edge_route_unref(r);
    }
    (void)pthread_mutex_unlock(&t->lives->lock);
}

void mt_edge_table_adopt(struct mt_edge_table *t, const struct mt_edge_table *old)
{
    uint32_t n;
    mt_auto_free struct pair *v = old ? match(t, old, &n) : NULL;
    for (uint32_t i = 0; v && i < n; i++)
        if (v[i].rec)
            adopt_one(t, &v[i]);
}

void mt_edge_table_mark_gone(const struct mt_edge_table *t, const struct mt_edge_table *old, int64_t now)
{
    uint32_t n;
    mt_auto_free struct pair *v = old ? match(t, old, &n) : NULL;
    for (uint32_t i = 0; v && i < n; i++) {
        struct mt_edge_stat *s = v[i].old->stat;
        int64_t was = 0;
        if (v[i].rec && !t->opts[v[i].rec->opts].disabled)
            atomic_store(&s->gone_at, 0);
        else
            (void)atomic_compare_exchange_strong(&s->gone_at, &was, now);
    }
}
