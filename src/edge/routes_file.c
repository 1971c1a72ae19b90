/* SPDX-License-Identifier: Apache-2.0 */
/* Static mode: a text file of routes to a table. */
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "edge/options.h"
#include "edge/snapshot.h"
#include "os/file.h"
#include "wire/clienthello.h"

/* A line in 32 bytes; a million of them are there at once while the table is built. */
struct line {
    uint32_t name; /* place of the normalised name in names, with its NUL */
    uint32_t next; /* line of the same name plus 1; 0: none */
    in_port_t port;
    bool v4, first, least_conn;
    uint8_t min_tls; /* low byte of the version */
    uint8_t ip[16];
};

struct lines {
    struct line *v;
    size_t n, cap;
    struct mt_buf names;
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

static int read_line(struct lines *ls, const char *p, const char *end, struct mt_err *err)
{
    char name[300], normal[256], ip[64], port_text[16], more[32];
    uint64_t port;
    union mt_edge_addr addr;
    if (!word(&p, end, name, sizeof name) || !word(&p, end, ip, sizeof ip) || !word(&p, end, port_text, sizeof port_text))
        return MT_FAIL(err, MT_E_INVALID, "must be 'hostname backend_addr backend_port'");
    struct line l = {.name = (uint32_t)ls->names.len};
    while (word(&p, end, more, sizeof more)) {
        if (MT_STREQ(more, "balance=least_conn"))
            l.least_conn = true;
        else if (strncmp(more, "min_tls=", 8) == 0 && mt_edge_tls_version(more + 8))
            l.min_tls = (uint8_t)mt_edge_tls_version(more + 8);
        else
            return MT_FAIL(err, MT_E_INVALID, "'%s' is not known: after the port come balance=least_conn, min_tls=1.0 to 1.3", more);
    }
    if (p != end)
        return MT_FAIL(err, MT_E_INVALID, "has more than 'hostname backend_addr backend_port' and options");
    size_t len = mt_hello_normal_name(name, strlen(name), normal);
    if (len == 0) {
        char shown[64];
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no host name", mt_printable(name, strlen(name), shown, sizeof shown));
    }
    if (mt_parse_u64(port_text, 1, 65535, &port, err) < 0 || mt_edge_parse_addr(ip, (uint16_t)port, &addr, err) < 0)
        return -(int)err->code;
    l.v4 = addr.sa.sa_family == AF_INET;
    l.port = l.v4 ? addr.in4.sin_port : addr.in6.sin6_port;
    memcpy(l.ip, l.v4 ? (const void *)&addr.in4.sin_addr : (const void *)&addr.in6.sin6_addr, l.v4 ? 4 : 16);
    mt_buf_put(&ls->names, normal, len + 1);
    ls->v[ls->n++] = l;
    return mt_buf_check(&ls->names, err);
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
        if (read_line(ret, first, last, err) < 0)
            return mt_err_wrap(err, "line %u", number);
    }
    return 0;
}

/* Chain the lines of each name to its first one, in the order of the file. */
static int chain(struct lines *ls, struct mt_err *err)
{
    size_t size = 16;
    while (size < ls->n * 2)
        size *= 2;
    struct slot {
        uint32_t first, last; /* line plus 1 */
    };
    mt_auto_free struct slot *slots = calloc(size, sizeof *slots);
    uint64_t seed;
    if (!slots)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %zu lines", ls->n);
    mt_random(&seed, sizeof seed);
    for (uint32_t i = 0; i < ls->n; i++) {
        const char *name = (const char *)ls->names.p + ls->v[i].name;
        uint64_t h = UINT64_C(14695981039346656037) ^ seed;
        for (const char *p = name; *p; p++)
            h = (h ^ (uint8_t)*p) * UINT64_C(1099511628211);
        size_t at = (size_t)(h ^ (h >> 32)) & (size - 1);
        while (slots[at].first && !MT_STREQ((const char *)ls->names.p + ls->v[slots[at].first - 1].name, name))
            at = (at + 1) & (size - 1);
        if (slots[at].first) {
            ls->v[slots[at].last - 1].next = i + 1;
        } else {
            slots[at].first = i + 1;
            ls->v[i].first = true;
        }
        slots[at].last = i + 1;
    }
    return 0;
}

static void backend_of(const struct line *l, struct mt_edge_backend_spec *b)
{
    if (l->v4) {
        b->addr.in4.sin_family = AF_INET;
        b->addr.in4.sin_port = l->port;
        memcpy(&b->addr.in4.sin_addr, l->ip, 4);
    } else {
        b->addr.in6.sin6_family = AF_INET6;
        b->addr.in6.sin6_port = l->port;
        memcpy(&b->addr.in6.sin6_addr, l->ip, 16);
    }
}

static int add_routes(struct mt_edge_table *t, struct lines *ls, mt_edge_key key, bool proxy_v2, struct mt_err *err)
{
    if (mt_edge_table_add_listener(t, key, err) < 0 || chain(ls, err) < 0)
        return -(int)err->code;
    mt_auto_free struct mt_edge_backend_spec *b = calloc(MT_EDGE_BACKENDS_MAX, sizeof *b);
    if (!b)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for backends");
    for (size_t i = 0; i < ls->n; i++) {
        if (!ls->v[i].first)
            continue;
        const char *name = (const char *)ls->names.p + ls->v[i].name;
        uint32_t n = 0;
        for (uint32_t k = (uint32_t)i + 1; k; k = ls->v[k - 1].next) {
            if (n == MT_EDGE_BACKENDS_MAX)
                return MT_FAIL(err, MT_E_LIMIT, "'%s' has more than %u backends", name, MT_EDGE_BACKENDS_MAX);
            if (ls->v[k - 1].least_conn != ls->v[i].least_conn || ls->v[k - 1].min_tls != ls->v[i].min_tls)
                return MT_FAIL(err, MT_E_INVALID, "the lines of '%s' have different options", name);
            backend_of(&ls->v[k - 1], &b[n++]);
        }
        const struct mt_edge_route_spec s = {.key = key, .route_id = name, .hostname = name, .max_conns = 1000000,
                                             .proxy_v2 = proxy_v2, .n_backends = n, .backends = b,
                                             .min_tls = ls->v[i].min_tls ? (uint16_t)(0x0300U | ls->v[i].min_tls) : 0,
                                             .balance = ls->v[i].least_conn ? MT_EDGE_LEAST_CONN : MT_EDGE_ROUND_ROBIN};
        if (mt_edge_table_add_route(t, &s, err) < 0)
            return -(int)err->code;
        memset(b, 0, n * sizeof *b);
    }
    return mt_edge_table_finish(t, err);
}

int mt_edge_routes_parse(const char *text, size_t len, mt_edge_key key, bool proxy_v2, struct mt_edge_table **ret,
                         struct mt_err *err)
{
    struct lines ls = {.names = MT_BUF_INIT(UINT32_MAX)};
    struct mt_edge_table *t = mt_edge_table_new();
    int r = t ? read_lines(text, len, &ls, err) : MT_FAIL(err, MT_E_NOMEM, "no memory for the routing table");
    if (r == 0)
        r = add_routes(t, &ls, key, proxy_v2, err);
    free(ls.v);
    mt_buf_done(&ls.names);
    if (r < 0) {
        mt_edge_table_free(t);
        return r;
    }
    *ret = t;
    return 0;
}
