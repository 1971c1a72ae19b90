/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/pack.h"

#include "base/str.h"
#include "os/file.h"

#define IS_V4 0x80U
#define PORT_LEN 2U

static size_t text_len(const char *s)
{
    return s ? strlen(s) : 0;
}

static bool id_is_name(const struct mt_edge_route_spec *s)
{
    return s->hostname && MT_STREQ(s->hostname, s->route_id);
}

static bool has_owners(const struct mt_edge_route_spec *s)
{
    return text_len(s->env_id) + text_len(s->org_id) > 0;
}

static size_t ip_len(const union mt_edge_addr *a)
{
    return a->sa.sa_family == AF_INET ? 4 : 16;
}

int mt_edge_pack_size(const struct mt_edge_route_spec *s, size_t *ret, struct mt_err *err)
{
    size_t name = text_len(s->hostname), id = text_len(s->route_id);
    if (name > 253 || id == 0 || (!id_is_name(s) && id > MT_EDGE_ID_MAX) || text_len(s->env_id) > MT_EDGE_ID_MAX ||
        text_len(s->org_id) > MT_EDGE_ID_MAX)
        return MT_FAIL(err, MT_E_INVALID, "a route's id or name is too long");
    if (s->n_backends > MT_EDGE_BACKENDS_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "more than %u backends", MT_EDGE_BACKENDS_MAX);
    size_t n = sizeof(struct mt_edge_rec) + name + (id_is_name(s) ? 0 : id);
    if (has_owners(s))
        n += 2 + text_len(s->env_id) + text_len(s->org_id);
    for (uint32_t i = 0; i < s->n_backends; i++) {
        size_t inst = text_len(s->backends[i].instance_id);
        if (inst > MT_EDGE_ID_MAX)
            return MT_FAIL(err, MT_E_INVALID, "an instance id is too long");
        n += 1 + PORT_LEN + ip_len(&s->backends[i].addr) + inst;
    }
    *ret = (n + 7U) & ~(size_t)7U;
    return 0;
}

static uint8_t *put(uint8_t *p, const void *data, size_t n)
{
    if (n > 0)
        memcpy(p, data, n);
    return p + n;
}

static uint8_t *put_counted(uint8_t *p, const char *s)
{
    size_t n = text_len(s);
    *p++ = (uint8_t)n;
    return put(p, s, n);
}

void mt_edge_pack(void *at, const struct mt_edge_route_spec *s, uint32_t opts)
{
    struct mt_edge_rec *r = at;
    r->opts = opts;
    r->n_backends = (uint16_t)s->n_backends;
    r->name_len = (uint8_t)text_len(s->hostname);
    r->id_len = id_is_name(s) ? MT_EDGE_ID_IS_NAME : (uint8_t)text_len(s->route_id);
    uint8_t *p = put(r->rest, s->hostname, r->name_len);
    if (r->id_len != MT_EDGE_ID_IS_NAME)
        p = put(p, s->route_id, r->id_len);
    if (has_owners(s)) {
        p = put_counted(p, s->env_id);
        p = put_counted(p, s->org_id);
    }
    for (uint32_t i = 0; i < s->n_backends; i++) {
        const struct mt_edge_backend_spec *b = &s->backends[i];
        size_t inst = text_len(b->instance_id);
        bool v4 = b->addr.sa.sa_family == AF_INET;
        *p++ = (uint8_t)(inst | (v4 ? IS_V4 : 0U));
        p = put(p, v4 ? &b->addr.in4.sin_port : &b->addr.in6.sin6_port, PORT_LEN);
        p = v4 ? put(p, &b->addr.in4.sin_addr, 4) : put(p, &b->addr.in6.sin6_addr, 16);
        p = put(p, b->instance_id, inst);
    }
}

const char *mt_edge_rec_name(const struct mt_edge_rec *r)
{
    return (const char *)r->rest;
}

const char *mt_edge_rec_id(const struct mt_edge_rec *r, size_t *ret_len)
{
    bool same = r->id_len == MT_EDGE_ID_IS_NAME;
    *ret_len = same ? r->name_len : r->id_len;
    return (const char *)r->rest + (same ? 0 : r->name_len);
}

/* @n bytes of *p as text at *at, which moves on. */
static const char *take_text(char **at, const uint8_t **p, size_t n)
{
    char *text = *at;
    memcpy(text, *p, n);
    text[n] = '\0';
    *at += n + 1;
    *p += n;
    return text;
}

/* Bytes of all texts of the record with their ends, and (not NULL) where the record ends. */
static size_t texts_size(const struct mt_edge_rec *r, const struct mt_edge_opts *o, const uint8_t **ret_end)
{
    size_t id_len;
    (void)mt_edge_rec_id(r, &id_len);
    const uint8_t *p = r->rest + r->name_len + (r->id_len == MT_EDGE_ID_IS_NAME ? 0 : id_len);
    size_t size = r->name_len + 1U + id_len + 1;
    for (unsigned i = 0; o->owners && i < 2; i++) {
        size += *p + 1U;
        p += 1U + *p;
    }
    size += o->owners ? 0 : 2;
    for (uint32_t i = 0; i < r->n_backends; i++) {
        size_t inst = *p & ~IS_V4;
        size += inst + 1;
        p += 1U + PORT_LEN + (*p & IS_V4 ? 4U : 16U) + inst;
    }
    if (ret_end)
        *ret_end = p;
    return size;
}

size_t mt_edge_rec_size(const struct mt_edge_rec *r, const struct mt_edge_opts *o)
{
    const uint8_t *end;
    (void)texts_size(r, o, &end);
    return ((size_t)(end - (const uint8_t *)r) + 7U) & ~(size_t)7U;
}

static const uint8_t *take_backend(const uint8_t *p, char **text, struct mt_edge_backend *b)
{
    bool v4 = *p & IS_V4;
    size_t inst = *p++ & ~IS_V4;
    memset(&b->addr, 0, sizeof b->addr);
    if (v4) {
        b->addr.in4.sin_family = AF_INET;
        memcpy(&b->addr.in4.sin_port, p, PORT_LEN);
        memcpy(&b->addr.in4.sin_addr, p + PORT_LEN, 4);
    } else {
        b->addr.in6.sin6_family = AF_INET6;
        memcpy(&b->addr.in6.sin6_port, p, PORT_LEN);
        memcpy(&b->addr.in6.sin6_addr, p + PORT_LEN, 16);
    }
    p += PORT_LEN + (v4 ? 4U : 16U);
    b->instance_id = take_text(text, &p, inst);
    return p;
}

struct mt_edge_route *mt_edge_unpack(const struct mt_edge_rec *rec, const struct mt_edge_opts *o)
{
    static const uint8_t no_owners[2];
    /* one block: route, backends, texts */
    struct mt_edge_route *r = calloc(1, sizeof *r + rec->n_backends * sizeof(struct mt_edge_backend) + texts_size(rec, o, NULL));
    struct mt_edge_stat *stat = calloc(1, sizeof *stat);
    if (!r || !stat) {
        free(r);
        free(stat);
        return NULL;
    }
    r->magic = MT_EDGE_ROUTE_MAGIC;
    atomic_store(&r->refs, 1);
    atomic_store(&stat->refs, 1);
    mt_random(&stat->cursor, sizeof stat->cursor);
    r->stat = stat;
    r->key = o->key;
    r->idle_timeout_s = o->idle_timeout_s;
    r->max_conns = o->max_conns;
    r->min_tls = o->min_tls;
    r->balance = o->balance;
    r->proxy_v2 = o->proxy_v2;
    r->proxy_tlv = o->proxy_tlv;
    r->disabled = o->disabled;
    r->is_default = o->is_default;
    r->allow_non_tls = o->allow_non_tls;
    r->backends = (struct mt_edge_backend *)(void *)(r + 1);
    char *text = (char *)(r->backends + rec->n_backends);
    const uint8_t *p = rec->rest;
    r->hostname = take_text(&text, &p, rec->name_len);
    if (rec->id_len == MT_EDGE_ID_IS_NAME) {
        const uint8_t *again = rec->rest;
        r->route_id = take_text(&text, &again, rec->name_len);
    } else {
        r->route_id = take_text(&text, &p, rec->id_len);
    }
    const uint8_t *owners = o->owners ? p : no_owners;
    size_t n = *owners++;
    r->env_id = take_text(&text, &owners, n);
    n = *owners++;
    r->org_id = take_text(&text, &owners, n);
    if (o->owners)
        p = owners;
    for (uint32_t i = 0; i < rec->n_backends; i++) {
        struct mt_edge_health *h = calloc(1, sizeof *h);
        if (!h) {
            mt_edge_route_unref(r);
            return NULL;
        }
        atomic_store(&h->refs, 1);
        r->backends[i].health = h;
        p = take_backend(p, &text, &r->backends[i]);
        r->n_backends = i + 1;
    }
    return r;
}
