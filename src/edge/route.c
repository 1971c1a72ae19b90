/* SPDX-License-Identifier: Apache-2.0 */
/* Live routes: references, the first use of a record, what a new table takes over from the one before. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "edge/pack.h"

#include <pthread.h>

struct live {
    struct mt_edge_route *r; /* one reference */
    struct mt_edge_rec *rec; /* of the table that the list belongs to */
    struct mt_edge_rec *next; /* of the same route_id in the table that comes after; NULL: it is gone there */
    bool looked;              /* next is known */
};

struct mt_edge_lives {
    pthread_mutex_t lock;
    struct live *v; /* only grows at its end */
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
        mt_edge_route_unref(l->v[i].r);
    free(l->v);
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

/* Room for @n routes; under the lock, or before anybody else knows of the list. */
static bool reserve(struct mt_edge_lives *l, uint32_t n)
{
    if (n <= l->cap)
        return true;
    uint32_t cap = l->cap ? l->cap * 2 : 64;
    if (cap < n)
        cap = n;
    struct live *v = reallocarray(l->v, cap, sizeof *v);
    if (!v)
        return false;
    l->v = v;
    l->cap = cap;
    return true;
}

/* Point the record at @r, whose reference goes over; under the lock. False: no memory, nothing was done. */
static bool enter(struct mt_edge_lives *l, struct mt_edge_rec *rec, struct mt_edge_route *r)
{
    if (!reserve(l, l->n + 1))
        return false;
    l->v[l->n++] = (struct live){.r = r, .rec = rec};
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
        fn(t->lives->v[i].r, arg);
    (void)pthread_mutex_unlock(&t->lives->lock);
}

/* --- from one table to the next --- */

static bool same_id(const struct mt_edge_rec *rec, const char *id)
{
    size_t len;
    const char *have = mt_edge_rec_id(rec, &len);
    return strncmp(have, id, len) == 0 && id[len] == '\0';
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

/* The same to the byte, so that one live route serves for both; most are, in any change of the configuration. */
static bool same_rec(const struct mt_edge_table *t, const struct mt_edge_rec *a, const struct mt_edge_table *old,
                     const struct mt_edge_rec *b)
{
    const struct mt_edge_opts *x = &t->opts[a->opts], *y = &old->opts[b->opts];
    if (a->n_backends != b->n_backends || a->name_len != b->name_len || a->id_len != b->id_len || memcmp(x, y, sizeof *x) != 0)
        return false;
    size_t n = mt_edge_rec_size(a, x); /* both have zeros up to their full size */
    return n == mt_edge_rec_size(b, y) && memcmp(a->rest, b->rest, n - sizeof *a) == 0;
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
static void adopt_one(struct mt_edge_table *t, const struct mt_edge_table *old, const struct live *o)
{
    (void)pthread_mutex_lock(&t->lives->lock);
    struct mt_edge_route *r = NULL;
    if (atomic_load(&o->next->live)) {
        /* became live in the new table before we came: it keeps what it has */
    } else if (same_rec(t, o->next, old, o->rec)) {
        r = mt_edge_route_ref(o->r);
    } else if ((r = mt_edge_unpack(o->next, &t->opts[o->next->opts])) != NULL) {
        inherit(r, o->r);
    }
    if (r && !enter(t->lives, o->next, r))
        mt_edge_route_unref(r);
    (void)pthread_mutex_unlock(&t->lives->lock);
}

/* Up to CHUNK entries from @from on, as they are now. */
#define CHUNK 64U
static uint32_t copy_out(struct mt_edge_lives *l, uint32_t from, struct live *ret)
{
    (void)pthread_mutex_lock(&l->lock);
    uint32_t n = l->n - from < CHUNK ? l->n - from : CHUNK;
    if (n > 0)
        memcpy(ret, l->v + from, n * sizeof *ret);
    (void)pthread_mutex_unlock(&l->lock);
    return n;
}

static void copy_in(struct mt_edge_lives *l, uint32_t from, const struct live *v, uint32_t n)
{
    (void)pthread_mutex_lock(&l->lock);
    if (n > 0)
        memcpy(l->v + from, v, n * sizeof *v);
    (void)pthread_mutex_unlock(&l->lock);
}

/* A live route whose name or listener leads to no record of its id. */
struct stray {
    const char *id;
    uint32_t index; /* in the list */
    struct mt_edge_rec *rec;
};

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct stray *)a)->id, ((const struct stray *)b)->id);
}

static struct stray *stray_of(struct stray *v, uint32_t n, const struct mt_edge_rec *rec)
{
    size_t len;
    const char *id = mt_edge_rec_id(rec, &len);
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int c = strncmp(v[mid].id, id, len);
        if (c == 0 && v[mid].id[len] == '\0')
            return &v[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* Those of the first @upto that were not found under their own name: look for their ids among all records. */
static void adopt_strays(struct mt_edge_table *t, const struct mt_edge_table *old, uint32_t upto, uint32_t n)
{
    mt_auto_free struct stray *v = calloc(n, sizeof *v);
    if (!v)
        return; /* their fate stays unknown: fresh counters, and no connection is ended for it */
    uint32_t k = 0;
    struct live c[CHUNK];
    for (uint32_t from = 0, got = CHUNK; from < upto && got == CHUNK; from += got) {
        got = copy_out(old->lives, from, c);
        for (uint32_t i = 0; i < got && from + i < upto && k < n; i++)
            if (!c[i].looked)
                v[k++] = (struct stray){.id = c[i].r->route_id, .index = from + i};
    }
    qsort(v, k, sizeof *v, by_id);
    for (size_t at = 0; at < t->mem_len;) {
        struct mt_edge_rec *rec = mt_edge_table_at(t, at);
        struct stray *s = stray_of(v, k, rec);
        if (s)
            s->rec = rec;
        at += mt_edge_rec_size(rec, &t->opts[rec->opts]);
    }
    for (uint32_t i = 0; i < k; i++) {
        struct live one[CHUNK];
        (void)copy_out(old->lives, v[i].index, one);
        one[0].next = v[i].rec;
        one[0].looked = true;
        if (one[0].next)
            adopt_one(t, old, &one[0]);
        copy_in(old->lives, v[i].index, one, 1);
    }
}

void mt_edge_table_adopt(struct mt_edge_table *t, const struct mt_edge_table *old)
{
    if (!old)
        return;
    uint32_t strays = 0, upto = 0;
    struct live c[CHUNK];
    for (uint32_t got = CHUNK; got == CHUNK; upto += got) {
        got = copy_out(old->lives, upto, c);
        for (uint32_t i = 0; i < got; i++) {
            if (c[i].looked)
                continue;
            const struct mt_edge_route *r = c[i].r;
            c[i].next = mt_edge_table_rec(t, r->key, r->hostname, strlen(r->hostname));
            if (!c[i].next || !same_id(c[i].next, r->route_id)) {
                c[i].next = NULL;
                strays++;
                continue;
            }
            c[i].looked = true;
            adopt_one(t, old, &c[i]);
        }
        copy_in(old->lives, upto, c, got);
    }
    if (strays > 0)
        adopt_strays(t, old, upto, strays);
}

void mt_edge_table_mark_gone(const struct mt_edge_table *t, const struct mt_edge_table *old, int64_t now)
{
    for (uint32_t i = 0; old && i < old->lives->n; i++) {
        const struct live *o = &old->lives->v[i];
        int64_t was = 0;
        if (!o->looked)
            continue;
        if (o->next && !t->opts[o->next->opts].disabled)
            atomic_store(&o->r->stat->gone_at, 0);
        else
            (void)atomic_compare_exchange_strong(&o->r->stat->gone_at, &was, now);
    }
}
