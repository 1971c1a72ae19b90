/* SPDX-License-Identifier: Apache-2.0 */
/* Static mode: a text file of routes to a table. */
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "edge/options.h"
#include "edge/snapshot.h"
#include "wire/clienthello.h"

struct line {
    char name[256];
    union mt_edge_addr addr;
    uint32_t number;
};

struct lines {
    struct line *v;
    size_t n, cap;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of a line into @ret; false when there is none or it does not fit. */
static bool word(const char **p, const char *end, char *ret, size_t size)
{
    while (*p < end && is_blank(**p))
        (*p)++;
    const char *from = *p;
    while (*p < end && !is_blank(**p))
        (*p)++;
    size_t n = (size_t)(*p - from);
    if (n == 0 || n >= size)
        return false;
    memcpy(ret, from, n);
    ret[n] = '\0';
    return true;
}

static int read_line(const char *p, const char *end, struct line *ret, struct mt_err *err)
{
    char name[300], ip[64], port_text[16], more[2];
    uint64_t port;
    if (!word(&p, end, name, sizeof name) || !word(&p, end, ip, sizeof ip) || !word(&p, end, port_text, sizeof port_text))
        return MT_FAIL(err, MT_E_INVALID, "must be 'hostname backend_addr backend_port'");
    if (word(&p, end, more, sizeof more) || p != end)
        return MT_FAIL(err, MT_E_INVALID, "has more than 'hostname backend_addr backend_port'");
    if (mt_hello_normal_name(name, strlen(name), ret->name) == 0) {
        char shown[64];
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no host name", mt_printable(name, strlen(name), shown, sizeof shown));
    }
    if (mt_parse_u64(port_text, 1, 65535, &port, err) < 0 || mt_edge_parse_addr(ip, (uint16_t)port, &ret->addr, err) < 0)
        return -(int)err->code;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : (x->number > y->number) - (x->number < y->number);
}

static int read_lines(const char *text, size_t len, struct lines *ret, struct mt_err *err)
{
    const char *p = text, *end = text + len;
    for (uint32_t number = 1; p < end; number++) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        const char *stop = eol ? eol : end;
        const char *hash = memchr(p, '#', (size_t)(stop - p));
        const char *last = hash ? hash : stop;
        while (last > p && is_blank(last[-1]))
            last--;
        const char *first = p;
        while (first < last && is_blank(*first))
            first++;
        p = eol ? eol + 1 : end;
        if (first == last)
            continue;
        if (ret->n == ret->cap) {
            size_t cap = ret->cap ? ret->cap * 2 : 64;
            struct line *v = reallocarray(ret->v, cap, sizeof *v);
            if (!v)
                return MT_FAIL(err, MT_E_NOMEM, "no memory for %zu lines", cap);
            ret->v = v;
            ret->cap = cap;
        }
        struct line *l = &ret->v[ret->n];
        if (read_line(first, last, l, err) < 0)
            return mt_err_wrap(err, "line %u", number);
        l->number = number;
        ret->n++;
    }
    return 0;
}

static int add_routes(struct mt_edge_table *t, const struct lines *ls, mt_edge_key key, bool proxy_v2, struct mt_err *err)
{
    if (mt_edge_table_add_listener(t, key, err) < 0)
        return -(int)err->code;
    for (size_t i = 0; i < ls->n;) {
        size_t k = i;
        while (k < ls->n && MT_STREQ(ls->v[k].name, ls->v[i].name))
            k++;
        if (k - i > MT_EDGE_BACKENDS_MAX)
            return MT_FAIL(err, MT_E_LIMIT, "'%s' has more than %u backends", ls->v[i].name, MT_EDGE_BACKENDS_MAX);
        mt_auto_free struct mt_edge_backend_spec *b = calloc(k - i, sizeof *b);
        if (!b)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for backends");
        for (size_t j = i; j < k; j++)
            b[j - i].addr = ls->v[j].addr;
        const struct mt_edge_route_spec s = {.key = key, .route_id = ls->v[i].name, .hostname = ls->v[i].name,
                                             .max_conns = 1000000, .proxy_v2 = proxy_v2, .n_backends = (uint32_t)(k - i),
                                             .backends = b};
        if (mt_edge_table_add_route(t, &s, err) < 0)
            return -(int)err->code;
        i = k;
    }
    return mt_edge_table_finish(t, err);
}

int mt_edge_routes_parse(const char *text, size_t len, mt_edge_key key, bool proxy_v2, struct mt_edge_table **ret,
                         struct mt_err *err)
{
    struct lines ls = {0};
    struct mt_edge_table *t = mt_edge_table_new();
    int r = t ? read_lines(text, len, &ls, err) : MT_FAIL(err, MT_E_NOMEM, "no memory for the routing table");
    if (r == 0) {
        if (ls.n > 0)
            qsort(ls.v, ls.n, sizeof *ls.v, by_name);
        r = add_routes(t, &ls, key, proxy_v2, err);
    }
    free(ls.v);
    if (r < 0) {
        mt_edge_table_free(t);
        return r;
    }
    *ret = t;
    return 0;
}
