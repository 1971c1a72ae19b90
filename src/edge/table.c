/* SPDX-License-Identifier: Apache-2.0 */
/* Routing table: building, checking, look-up by hash, taking over shared state from the table before. */
#include "edge/table.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"

#include <arpa/inet.h>

struct mt_edge_slot {
    uint32_t hash;
    uint32_t index; /* of routes, plus 1; 0: empty */
};

mt_edge_key mt_edge_key_of(enum mt_edge_proto proto, enum mt_edge_scope scope, struct in_addr v4, uint16_t port)
{
    return ((uint64_t)proto << 56) | ((uint64_t)scope << 48) | ((uint64_t)v4.s_addr << 16) | port;
}

/* FNV-1a over key and name. Names stored come from checked configuration, so a seed is enough against aimed misses. */
static uint32_t name_hash(uint32_t seed, mt_edge_key key, const char *name, size_t len)
{
    uint64_t h = UINT64_C(14695981039346656037) ^ seed ^ (key * UINT64_C(0x9e3779b97f4a7c15));
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * UINT64_C(1099511628211);
    return (uint32_t)(h ^ (h >> 32));
}

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

struct mt_edge_table *mt_edge_table_new(void)
{
    struct mt_edge_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->magic = MT_EDGE_TABLE_MAGIC;
    mt_random(&t->seed, sizeof t->seed);
    return t;
}

void mt_edge_table_free(struct mt_edge_table *t)
{
    if (!t)
        return;
    MT_CHECK(t, MT_EDGE_TABLE_MAGIC);
    t->magic = 0;
    for (uint32_t i = 0; i < t->n_routes; i++)
        mt_edge_route_unref(t->routes[i]);
    free(t->routes);
    free(t->listeners);
    free(t->slots);
    free(t);
}

/* Room for one more of @size bytes in an array that doubles. */
static int grow(void **array, uint32_t n, uint32_t *cap, size_t size, struct mt_err *err)
{
    if (n < *cap)
        return 0;
    uint32_t want = *cap ? *cap * 2 : 16;
    void *p = reallocarray(*array, want, size);
    if (!p)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %u entries of the routing table", want);
    *array = p;
    *cap = want;
    return 0;
}

int mt_edge_table_add_listener(struct mt_edge_table *t, mt_edge_key key, struct mt_err *err)
{
    if (t->n_listeners >= MT_EDGE_LISTENERS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %u listeners", MT_EDGE_LISTENERS_MAX);
    void *array = t->listeners;
    if (grow(&array, t->n_listeners, &t->cap_listeners, sizeof *t->listeners, err) < 0)
        return -MT_E_NOMEM;
    t->listeners = array;
    t->listeners[t->n_listeners++] = (struct mt_edge_listener_spec){.key = key};
    return 0;
}

static const char *put_text(char **at, const char *s)
{
    size_t n = s ? strlen(s) + 1 : 1;
    char *p = *at;
    memcpy(p, s ? s : "", n);
    *at += n;
    return p;
}

static size_t text_size(const char *s)
{
    return (s ? strlen(s) : 0) + 1;
}

int mt_edge_table_add_route(struct mt_edge_table *t, const struct mt_edge_route_spec *s, struct mt_err *err)
{
    if (t->n_routes >= MT_EDGE_ROUTES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %u routes", MT_EDGE_ROUTES_MAX);
    if (s->n_backends > MT_EDGE_BACKENDS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %u backends", MT_EDGE_BACKENDS_MAX);
    void *array = t->routes;
    if (grow(&array, t->n_routes, &t->cap_routes, sizeof *t->routes, err) < 0)
        return -MT_E_NOMEM;
    t->routes = array;

    /* one block: route, backends, texts */
    size_t size = sizeof(struct mt_edge_route) + s->n_backends * sizeof(struct mt_edge_backend) + text_size(s->route_id) +
                  text_size(s->env_id) + text_size(s->org_id) + text_size(s->hostname);
    for (uint32_t i = 0; i < s->n_backends; i++)
        size += text_size(s->backends[i].instance_id);
    struct mt_edge_route *r = calloc(1, size);
    struct mt_edge_stat *stat = calloc(1, sizeof *stat);
    if (!r || !stat) {
        free(r);
        free(stat);
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a route");
    }
    r->magic = MT_EDGE_ROUTE_MAGIC;
    atomic_store(&r->refs, 1);
    atomic_store(&stat->refs, 1);
    mt_random(&stat->cursor, sizeof stat->cursor);
    r->stat = stat;
    r->key = s->key;
    r->idle_timeout_s = s->idle_timeout_s;
    r->max_conns = s->max_conns;
    r->balance = (uint8_t)s->balance;
    r->proxy_v2 = s->proxy_v2;
    r->proxy_tlv = s->proxy_tlv;
    r->disabled = s->disabled;
    r->is_default = s->is_default;
    r->allow_non_tls = s->allow_non_tls;
    r->backends = (struct mt_edge_backend *)(void *)(r + 1);
    char *text = (char *)(r->backends + s->n_backends);
    r->route_id = put_text(&text, s->route_id);
    r->env_id = put_text(&text, s->env_id);
    r->org_id = put_text(&text, s->org_id);
    r->hostname = put_text(&text, s->hostname);
    r->name_hash = name_hash(t->seed, r->key, r->hostname, strlen(r->hostname));
    for (uint32_t i = 0; i < s->n_backends; i++) {
        struct mt_edge_health *h = calloc(1, sizeof *h);
        if (!h) {
            mt_edge_route_unref(r);
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a backend");
        }
        atomic_store(&h->refs, 1);
        r->backends[i] = (struct mt_edge_backend){.addr = s->backends[i].addr, .health = h};
        r->backends[i].instance_id = put_text(&text, s->backends[i].instance_id);
        r->n_backends = i + 1;
    }
    t->routes[t->n_routes++] = r;
    return 0;
}

static int by_key(const void *a, const void *b)
{
    mt_edge_key x = ((const struct mt_edge_listener_spec *)a)->key, y = ((const struct mt_edge_listener_spec *)b)->key;
    return (x > y) - (x < y);
}

static int by_place(const void *a, const void *b)
{
    /* protocol left out: two protocols on one place are neighbours */
    const mt_edge_key mask = (UINT64_C(1) << 56) - 1;
    mt_edge_key x = ((const struct mt_edge_listener_spec *)a)->key & mask;
    mt_edge_key y = ((const struct mt_edge_listener_spec *)b)->key & mask;
    return (x > y) - (x < y);
}

static int by_route_id(const void *a, const void *b)
{
    const struct mt_edge_route *const *x = a, *const *y = b;
    return strcmp((*x)->route_id, (*y)->route_id);
}

static struct mt_edge_listener_spec *listener_of(const struct mt_edge_table *t, mt_edge_key key)
{
    uint32_t lo = 0, hi = t->n_listeners;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->listeners[mid].key < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->n_listeners && t->listeners[lo].key == key ? &t->listeners[lo] : NULL;
}

const struct mt_edge_listener_spec *mt_edge_table_listener(const struct mt_edge_table *t, mt_edge_key key)
{
    return listener_of(t, key);
}

struct mt_edge_route *mt_edge_table_find(const struct mt_edge_table *t, mt_edge_key key, const char *name, size_t len)
{
    if (t->n_slots == 0)
        return NULL;
    uint32_t h = name_hash(t->seed, key, name, len);
    for (uint32_t i = h & (t->n_slots - 1);; i = (i + 1) & (t->n_slots - 1)) {
        const struct mt_edge_slot *s = &t->slots[i];
        if (s->index == 0)
            return NULL;
        if (s->hash != h)
            continue;
        struct mt_edge_route *r = t->routes[s->index - 1];
        if (r->key == key && strncmp(r->hostname, name, len) == 0 && r->hostname[len] == '\0')
            return r;
    }
}

static int check_listeners(struct mt_edge_table *t, struct mt_err *err)
{
    if (t->n_listeners == 0)
        return 0;
    qsort(t->listeners, t->n_listeners, sizeof *t->listeners, by_place);
    for (uint32_t i = 1; i < t->n_listeners; i++)
        if (by_place(&t->listeners[i - 1], &t->listeners[i]) == 0)
            return MT_FAIL(err, MT_E_INVALID, "two listeners on port %u of one address",
                           mt_edge_key_port(t->listeners[i].key));
    qsort(t->listeners, t->n_listeners, sizeof *t->listeners, by_key);
    return 0;
}

/* Put route @index under its name; -MT_E_INVALID when the name is taken. */
static int put_name(struct mt_edge_table *t, uint32_t index, struct mt_err *err)
{
    struct mt_edge_route *r = t->routes[index];
    uint32_t i = r->name_hash & (t->n_slots - 1);
    while (t->slots[i].index != 0) {
        const struct mt_edge_route *o = t->routes[t->slots[i].index - 1];
        if (o->key == r->key && MT_STREQ(o->hostname, r->hostname))
            return MT_FAIL(err, MT_E_INVALID, "routes '%s' and '%s' both have the name '%s' on port %u", o->route_id,
                           r->route_id, r->hostname, mt_edge_key_port(r->key));
        i = (i + 1) & (t->n_slots - 1);
    }
    t->slots[i] = (struct mt_edge_slot){.hash = r->name_hash, .index = index + 1};
    return 0;
}

/* A nameless client on a dedicated tls listener goes to the default route, or to the only route. */
static int choose_default(struct mt_edge_table *t, struct mt_err *err)
{
    for (uint32_t i = 0; i < t->n_routes; i++) {
        struct mt_edge_route *r = t->routes[i];
        if (mt_edge_key_proto(r->key) != MT_EDGE_TLS || mt_edge_key_scope(r->key) != MT_EDGE_IPV4 || !r->is_default)
            continue;
        struct mt_edge_listener_spec *l = listener_of(t, r->key);
        if (l->only)
            return MT_FAIL(err, MT_E_INVALID, "routes '%s' and '%s' are both the default of one listener", l->only->route_id,
                           r->route_id);
        l->only = r;
    }
    mt_auto_free uint32_t *count = calloc(t->n_listeners ? t->n_listeners : 1, sizeof *count);
    if (!count)
        return MT_FAIL(err, MT_E_NOMEM, "no memory to check the routes");
    for (uint32_t i = 0; i < t->n_routes; i++)
        count[listener_of(t, t->routes[i]->key) - t->listeners]++;
    for (uint32_t i = 0; i < t->n_routes; i++) {
        struct mt_edge_route *r = t->routes[i];
        struct mt_edge_listener_spec *l = listener_of(t, r->key);
        if (!l->only && count[l - t->listeners] == 1 && mt_edge_key_scope(r->key) == MT_EDGE_IPV4)
            l->only = r;
    }
    return 0;
}

int mt_edge_table_finish(struct mt_edge_table *t, struct mt_err *err)
{
    if (check_listeners(t, err) < 0)
        return -(int)err->code;
    if (t->n_routes > 0)
        qsort(t->routes, t->n_routes, sizeof(struct mt_edge_route *), by_route_id);
    uint32_t slots = 16;
    while (slots < t->n_routes * 2)
        slots *= 2;
    t->slots = calloc(slots, sizeof *t->slots);
    if (!t->slots)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %u names", t->n_routes);
    t->n_slots = slots;
    for (uint32_t i = 0; i < t->n_routes; i++) {
        struct mt_edge_route *r = t->routes[i];
        if (i > 0 && MT_STREQ(t->routes[i - 1]->route_id, r->route_id))
            return MT_FAIL(err, MT_E_INVALID, "route '%s' is there twice", r->route_id);
        struct mt_edge_listener_spec *l = listener_of(t, r->key);
        if (!l)
            return MT_FAIL(err, MT_E_INVALID, "route '%s' uses port %u, which is no listener of its protocol", r->route_id,
                           mt_edge_key_port(r->key));
        if (mt_edge_key_proto(r->key) == MT_EDGE_RAW) {
            if (l->only)
                return MT_FAIL(err, MT_E_INVALID, "routes '%s' and '%s' share the raw port %u", l->only->route_id, r->route_id,
                               mt_edge_key_port(r->key));
            l->only = r;
        } else if (put_name(t, i, err) < 0) {
            return -MT_E_INVALID;
        }
    }
    return choose_default(t, err);
}

static bool same_addr(const union mt_edge_addr *a, const union mt_edge_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in4.sin_port == b->in4.sin_port && a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
    return a->in6.sin6_port == b->in6.sin6_port && memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) == 0;
}

static bool same_backend(const struct mt_edge_backend *a, const struct mt_edge_backend *b)
{
    return same_addr(&a->addr, &b->addr) && MT_STREQ(a->instance_id, b->instance_id);
}

static bool same_route(const struct mt_edge_route *a, const struct mt_edge_route *b)
{
    if (a->key != b->key || a->idle_timeout_s != b->idle_timeout_s || a->max_conns != b->max_conns ||
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

void mt_edge_table_adopt(struct mt_edge_table *t, const struct mt_edge_table *old)
{
    if (!old)
        return;
    uint32_t k = 0;
    for (uint32_t i = 0; i < t->n_routes; i++) {
        struct mt_edge_route *r = t->routes[i];
        while (k < old->n_routes && strcmp(old->routes[k]->route_id, r->route_id) < 0)
            k++;
        if (k >= old->n_routes || !MT_STREQ(old->routes[k]->route_id, r->route_id))
            continue;
        struct mt_edge_route *o = old->routes[k];
        if (!same_route(r, o)) {
            inherit(r, o);
            continue;
        }
        struct mt_edge_listener_spec *l = listener_of(t, r->key);
        if (l->only == r)
            l->only = o;
        t->routes[i] = mt_edge_route_ref(o);
        mt_edge_route_unref(r);
    }
}

void mt_edge_table_mark_gone(const struct mt_edge_table *t, const struct mt_edge_table *old, int64_t now)
{
    for (uint32_t i = 0; i < t->n_routes; i++) {
        struct mt_edge_stat *s = t->routes[i]->stat;
        int64_t was = 0;
        if (!t->routes[i]->disabled)
            atomic_store(&s->gone_at, 0);
        else
            (void)atomic_compare_exchange_strong(&s->gone_at, &was, now);
    }
    uint32_t k = 0;
    for (uint32_t i = 0; old && i < old->n_routes; i++) {
        const struct mt_edge_route *o = old->routes[i];
        while (k < t->n_routes && strcmp(t->routes[k]->route_id, o->route_id) < 0)
            k++;
        int64_t was = 0;
        if (k >= t->n_routes || !MT_STREQ(t->routes[k]->route_id, o->route_id))
            (void)atomic_compare_exchange_strong(&o->stat->gone_at, &was, now);
    }
}
