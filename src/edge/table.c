/* SPDX-License-Identifier: Apache-2.0 */
/* Routing table: building, checking, look-up by hash. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "edge/pack.h"
#include "os/file.h"

#include <arpa/inet.h>

#define UNIT 8U
#define OPTS_LOOKED_AT 8U /* the newest; routes of one kind come together */

mt_edge_key mt_edge_key_of(enum mt_edge_proto proto, enum mt_edge_scope scope, struct in_addr v4, uint16_t port)
{
    return ((uint64_t)proto << 56) | ((uint64_t)scope << 48) | ((uint64_t)v4.s_addr << 16) | port;
}

/* FNV-1a over key and name, mixed. Names stored come from checked configuration, so a seed is enough against aimed misses. */
static uint32_t name_hash(uint32_t seed, mt_edge_key key, const char *name, size_t len)
{
    uint64_t h = UINT64_C(14695981039346656037) ^ seed ^ (key * UINT64_C(0x9e3779b97f4a7c15));
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * UINT64_C(1099511628211);
    h ^= h >> 32;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32);
}

static const char *const tls_names[] = {"1.0", "1.1", "1.2", "1.3"};

const char *mt_edge_tls_name(uint16_t version)
{
    if (version < 0x0301)
        return "older";
    return version > 0x0304 ? "newer" : tls_names[version - 0x0301];
}

uint16_t mt_edge_tls_version(const char *name)
{
    for (uint16_t i = 0; i < 4; i++)
        if (MT_STREQ(name, tls_names[i]))
            return (uint16_t)(0x0301 + i);
    return 0;
}

struct mt_edge_table *mt_edge_table_new(void)
{
    struct mt_edge_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->magic = MT_EDGE_TABLE_MAGIC;
    t->lives = mt_edge_lives_new();
    if (!t->lives) {
        free(t);
        return NULL;
    }
    mt_random(&t->seed, sizeof t->seed);
    return t;
}

void mt_edge_table_free(struct mt_edge_table *t)
{
    if (!t)
        return;
    MT_CHECK(t, MT_EDGE_TABLE_MAGIC);
    t->magic = 0;
    mt_edge_lives_free(t->lives);
    free(t->mem);
    free(t->opts);
    free(t->offs);
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

/* Index of the options of @s, kept once for routes alike. */
static int opts_of(struct mt_edge_table *t, const struct mt_edge_route_spec *s, uint32_t *ret, struct mt_err *err)
{
    struct mt_edge_opts o;
    memset(&o, 0, sizeof o); /* compared as bytes */
    o.key = s->key;
    o.idle_timeout_s = s->idle_timeout_s;
    o.max_conns = s->max_conns;
    o.min_tls = s->min_tls;
    o.balance = (uint8_t)s->balance;
    o.proxy_v2 = s->proxy_v2;
    o.proxy_tlv = s->proxy_tlv;
    o.disabled = s->disabled;
    o.is_default = s->is_default;
    o.allow_non_tls = s->allow_non_tls;
    o.owners = (s->env_id && s->env_id[0]) || (s->org_id && s->org_id[0]);
    for (uint32_t i = 0; i < OPTS_LOOKED_AT && i < t->n_opts; i++) {
        if (memcmp(&t->opts[t->n_opts - 1 - i], &o, sizeof o) == 0) {
            *ret = t->n_opts - 1 - i;
            return 0;
        }
    }
    void *array = t->opts;
    if (grow(&array, t->n_opts, &t->cap_opts, sizeof o, err) < 0)
        return -MT_E_NOMEM;
    t->opts = array;
    memcpy(&t->opts[t->n_opts], &o, sizeof o);
    *ret = t->n_opts++;
    return 0;
}

int mt_edge_table_add_route(struct mt_edge_table *t, const struct mt_edge_route_spec *s, struct mt_err *err)
{
    size_t size;
    uint32_t opts;
    if (t->n_routes >= MT_EDGE_ROUTES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %u routes", MT_EDGE_ROUTES_MAX);
    if (mt_edge_pack_size(s, &size, err) < 0 || opts_of(t, s, &opts, err) < 0)
        return -(int)err->code;
    void *array = t->offs;
    if (grow(&array, t->n_routes, &t->cap_routes, sizeof *t->offs, err) < 0)
        return -MT_E_NOMEM;
    t->offs = array;
    if (t->mem_len + size > t->mem_cap) {
        size_t cap = t->mem_cap * 2 > t->mem_len + size ? t->mem_cap * 2 : t->mem_len + size + 4096;
        uint8_t *mem = realloc(t->mem, cap);
        if (!mem)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a route");
        t->mem = mem;
        t->mem_cap = cap;
    }
    memset(t->mem + t->mem_len, 0, size);
    mt_edge_pack(t->mem + t->mem_len, s, opts);
    t->offs[t->n_routes++] = (uint32_t)(t->mem_len / UNIT);
    t->mem_len += size;
    t->n_backends += s->n_backends;
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

static uint32_t first_slot(const struct mt_edge_table *t, uint32_t hash)
{
    return (uint32_t)(((uint64_t)hash * t->n_slots) >> 32);
}

/* Bits of the hash that a slot keeps above the place, so that other names are passed over without a look at them. */
static uint32_t tag_of(const struct mt_edge_table *t, uint32_t hash)
{
    return t->off_bits >= 32 ? 0 : hash << t->off_bits; /* low bits: the high ones chose the slot */
}

static uint32_t place_mask(const struct mt_edge_table *t)
{
    return t->off_bits >= 32 ? UINT32_MAX : (UINT32_C(1) << t->off_bits) - 1;
}

/* The slot of the name, or the empty one where it would go. */
static uint32_t slot_of(const struct mt_edge_table *t, mt_edge_key key, const char *name, size_t len, uint32_t hash)
{
    uint32_t mask = place_mask(t), tag = tag_of(t, hash), i = first_slot(t, hash);
    for (;; i = i + 1 == t->n_slots ? 0 : i + 1) {
        uint32_t v = t->slots[i];
        if (v == 0)
            return i;
        if ((v & ~mask) != tag)
            continue;
        const struct mt_edge_rec *r = mt_edge_table_at(t, (size_t)((v & mask) - 1) * UNIT);
        if (r->name_len == len && memcmp(mt_edge_rec_name(r), name, len) == 0 && t->opts[r->opts].key == key)
            return i;
    }
}

struct mt_edge_rec *mt_edge_table_rec(const struct mt_edge_table *t, mt_edge_key key, const char *name, size_t len)
{
    if (mt_edge_key_proto(key) == MT_EDGE_RAW) {
        const struct mt_edge_listener_spec *l = listener_of(t, key);
        return l ? l->only : NULL;
    }
    if (t->n_slots == 0)
        return NULL;
    uint32_t v = t->slots[slot_of(t, key, name, len, name_hash(t->seed, key, name, len))];
    return v ? mt_edge_table_at(t, (size_t)((v & place_mask(t)) - 1) * UNIT) : NULL;
}

struct mt_edge_route *mt_edge_table_find(const struct mt_edge_table *t, mt_edge_key key, const char *name, size_t len)
{
    struct mt_edge_rec *rec = mt_edge_table_rec(t, key, name, len);
    return rec ? mt_edge_table_live(t, rec) : NULL;
}

struct mt_edge_route *mt_edge_table_only(const struct mt_edge_table *t, const struct mt_edge_listener_spec *l)
{
    return l->only ? mt_edge_table_live(t, l->only) : NULL;
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

static const char *shown_id(const struct mt_edge_rec *r, char ret[68])
{
    size_t len;
    const char *id = mt_edge_rec_id(r, &len);
    (void)snprintf(ret, 68, "%.*s", (int)(len < 67 ? len : 67), id);
    return ret;
}

static struct mt_edge_rec *rec_of(const struct mt_edge_table *t, uint32_t i)
{
    return mt_edge_table_at(t, (size_t)t->offs[i] * UNIT);
}

/* Put a route under its name; -MT_E_INVALID when the name is taken. */
static int put_name(struct mt_edge_table *t, uint32_t index, struct mt_err *err)
{
    const struct mt_edge_rec *r = rec_of(t, index);
    mt_edge_key key = t->opts[r->opts].key;
    uint32_t hash = name_hash(t->seed, key, mt_edge_rec_name(r), r->name_len);
    uint32_t i = slot_of(t, key, mt_edge_rec_name(r), r->name_len, hash);
    if (t->slots[i]) {
        char a[68], b[68];
        const struct mt_edge_rec *o = mt_edge_table_at(t, (size_t)((t->slots[i] & place_mask(t)) - 1) * UNIT);
        return MT_FAIL(err, MT_E_INVALID, "routes '%s' and '%s' both have the name '%.*s' on port %u", shown_id(o, a), shown_id(r, b),
                       r->name_len, mt_edge_rec_name(r), mt_edge_key_port(key));
    }
    t->slots[i] = (t->offs[index] + 1) | tag_of(t, hash);
    return 0;
}

/* Every route_id once. A route whose id is its host name needs no look: the name is there once for each listener. */
static int check_ids(const struct mt_edge_table *t, struct mt_err *err)
{
    uint32_t n = 0, size = 16;
    for (uint32_t i = 0; i < t->n_routes; i++)
        n += rec_of(t, i)->id_len != MT_EDGE_ID_IS_NAME || t->n_listeners > 1;
    if (n == 0)
        return 0;
    while (size < t->n_routes * 2)
        size *= 2;
    mt_auto_free uint32_t *seen = calloc(size, sizeof *seen);
    if (!seen)
        return MT_FAIL(err, MT_E_NOMEM, "no memory to check the routes");
    for (uint32_t i = 0; i < t->n_routes; i++) {
        size_t len, other_len;
        const char *id = mt_edge_rec_id(rec_of(t, i), &len);
        uint32_t at = name_hash(t->seed, 0, id, len) & (size - 1);
        for (; seen[at]; at = (at + 1) & (size - 1)) {
            char shown[68];
            const char *other = mt_edge_rec_id(rec_of(t, seen[at] - 1), &other_len);
            if (len == other_len && memcmp(id, other, len) == 0)
                return MT_FAIL(err, MT_E_INVALID, "route '%s' is there twice", shown_id(rec_of(t, i), shown));
        }
        seen[at] = i + 1;
    }
    return 0;
}

/* A nameless client on a dedicated tls listener goes to the default route, or to the only route. */
static int choose_default(struct mt_edge_table *t, struct mt_err *err)
{
    mt_auto_free uint32_t *count = calloc(t->n_listeners ? t->n_listeners : 1, sizeof *count);
    if (!count)
        return MT_FAIL(err, MT_E_NOMEM, "no memory to check the routes");
    for (unsigned round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < t->n_routes; i++) {
            struct mt_edge_rec *r = rec_of(t, i);
            const struct mt_edge_opts *o = &t->opts[r->opts];
            if (mt_edge_key_proto(o->key) != MT_EDGE_TLS || mt_edge_key_scope(o->key) != MT_EDGE_IPV4)
                continue;
            struct mt_edge_listener_spec *l = listener_of(t, o->key);
            if (round == 1) {
                if (!l->only && count[l - t->listeners] == 1)
                    l->only = r;
                continue;
            }
            count[l - t->listeners]++;
            if (!o->is_default)
                continue;
            char a[68], b[68];
            if (l->only)
                return MT_FAIL(err, MT_E_INVALID, "routes '%s' and '%s' are both the default of one listener", shown_id(l->only, a),
                               shown_id(r, b));
            l->only = r;
        }
    }
    return 0;
}

/* Place @index on its listener: by name, or as the only one of a raw port. */
static int place(struct mt_edge_table *t, uint32_t index, struct mt_err *err)
{
    char a[68], b[68];
    struct mt_edge_rec *r = rec_of(t, index);
    mt_edge_key key = t->opts[r->opts].key;
    struct mt_edge_listener_spec *l = listener_of(t, key);
    if (!l)
        return MT_FAIL(err, MT_E_INVALID, "route '%s' uses port %u, which is no listener of its protocol", shown_id(r, a),
                       mt_edge_key_port(key));
    if (mt_edge_key_proto(key) != MT_EDGE_RAW)
        return put_name(t, index, err);
    if (l->only)
        return MT_FAIL(err, MT_E_INVALID, "routes '%s' and '%s' share the raw port %u", shown_id(l->only, a), shown_id(r, b),
                       mt_edge_key_port(key));
    l->only = r;
    return 0;
}

int mt_edge_table_finish(struct mt_edge_table *t, struct mt_err *err)
{
    if (check_listeners(t, err) < 0)
        return -(int)err->code;
    if (t->mem_len / UNIT >= UINT32_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "the routes take more than %u units of memory", UINT32_MAX);
    if (t->mem_len > 0 && t->mem_len < t->mem_cap) {
        uint8_t *mem = realloc(t->mem, t->mem_len); /* records stay where they are from here on */
        if (mem) {
            t->mem = mem;
            t->mem_cap = t->mem_len;
        }
    }
    while (t->off_bits < 32 && (t->mem_len / UNIT + 1) >> t->off_bits)
        t->off_bits++;
    uint32_t slots = t->n_routes + t->n_routes / 2 + 16;
    t->slots = calloc(slots, sizeof *t->slots);
    if (!t->slots)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %u names", t->n_routes);
    t->n_slots = slots;
    if (check_ids(t, err) < 0)
        return -(int)err->code;
    for (uint32_t i = 0; i < t->n_routes; i++)
        if (place(t, i, err) < 0)
            return -(int)err->code;
    if (choose_default(t, err) < 0)
        return -(int)err->code;
    free(t->offs);
    t->offs = NULL;
    return 0;
}
