/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/explain.h"

#include "base/clock.h"
#include "edge/decide.h"

#include <arpa/inet.h>
#include <inttypes.h>

static void put_text(struct mt_buf *b, const char *key, const char *s)
{
    mt_buf_printf(b, "\"%s\":", key);
    if (s)
        mt_buf_put_json_str(b, s, strlen(s));
    else
        mt_buf_puts(b, "null");
    mt_buf_putc(b, ',');
}

static void put_listener(struct mt_edge_hub *h, const struct mt_edge_table *t, mt_edge_key key, struct mt_buf *b)
{
    bool any = false;
    mt_buf_printf(b, "\"listener\":{\"port\":%u,\"configured\":%s,\"local\":[", mt_edge_key_port(key),
                  t && mt_edge_table_listener(t, key) ? "true" : "false");
    for (size_t i = 0; i < h->n_bounds; i++) {
        const struct mt_edge_bound *x = &h->bounds[i];
        if (x->l->key != key || !x->fds)
            continue;
        if (any)
            mt_buf_putc(b, ',');
        any = true;
        mt_buf_put_json_str(b, x->local, strlen(x->local));
    }
    mt_buf_puts(b, "]},");
}

static void put_hello(const struct mt_hello *x, enum mt_hello_result r, struct mt_buf *b)
{
    bool whole = r == MT_HELLO_NAME || r == MT_HELLO_NO_NAME || r == MT_HELLO_BAD_NAME;
    mt_buf_printf(b, "\"hello\":{\"result\":\"%s\",\"bytes\":%u,\"tls_version\":", mt_hello_result_name(r), x->used);
    if (whole)
        mt_buf_printf(b, "\"%s\",\"encrypted_client_hello\":%s},", mt_edge_tls_name(x->best_version), x->saw_ech ? "true" : "false");
    else
        mt_buf_puts(b, "null,\"encrypted_client_hello\":false},");
}

static void put_backends(const struct mt_edge_route *r, struct mt_buf *b)
{
    int64_t now = mt_clock_mono();
    mt_buf_puts(b, "\"backends\":[");
    for (uint32_t i = 0; i < r->n_backends; i++) {
        const struct mt_edge_backend *x = &r->backends[i];
        char addr[72];
        int64_t until = atomic_load_explicit(&x->health->eject_until, memory_order_relaxed);
        mt_buf_printf(b, "%s{", i ? "," : "");
        put_text(b, "instance_id", x->instance_id);
        put_text(b, "address", mt_edge_addr_text(&x->addr, addr, sizeof addr));
        mt_buf_printf(b, "\"connections\":%u,\"ejected_for_ms\":%" PRId64 "}",
                      atomic_load_explicit(&x->health->active, memory_order_relaxed), until > now ? (until - now) / MT_NS_PER_MS : 0);
    }
    mt_buf_puts(b, "],");
}

static void put_route(const struct mt_edge_route *r, struct mt_buf *b)
{
    mt_buf_puts(b, "\"route\":{");
    put_text(b, "route_id", r->route_id);
    put_text(b, "hostname", r->hostname);
    put_text(b, "env_id", r->env_id);
    put_text(b, "org_id", r->org_id);
    put_text(b, "proxy_protocol", r->proxy_v2 ? "v2" : "off");
    put_text(b, "balance", r->balance == MT_EDGE_LEAST_CONN ? "least_conn" : "round_robin");
    put_text(b, "min_tls_version", r->min_tls ? mt_edge_tls_name(r->min_tls) : NULL);
    put_backends(r, b);
    mt_buf_printf(b, "\"connections\":%u,\"max_connections\":%u},", atomic_load_explicit(&r->stat->active, memory_order_relaxed), r->max_conns);
}

/* What will happen to a connection that has its route. */
static const char *fate(const struct mt_edge_route *r, const char **ret_reason)
{
    int64_t now = mt_clock_mono();
    uint32_t out = 0;
    *ret_reason = "ok";
    if (atomic_load_explicit(&r->stat->active, memory_order_relaxed) >= r->max_conns) {
        *ret_reason = "route_limit";
        return "the route is at its limit of connections";
    }
    for (uint32_t i = 0; i < r->n_backends; i++)
        out += atomic_load_explicit(&r->backends[i].health->eject_until, memory_order_relaxed) > now;
    if (r->n_backends == 0) {
        *ret_reason = "no_backend";
        return "the route has no ready backend";
    }
    if (out == r->n_backends)
        return "all backends are ejected after failures; the one that has been out longest is tried all the same";
    return out ? "one of the backends that are not ejected takes it" : "one of the backends takes it";
}

static const char *refusal(enum mt_edge_result why)
{
    static const char *const text[MT_EDGE_R_MAX] = {
        [MT_EDGE_R_NO_ROUTE] = "no route has this name on this listener",
        [MT_EDGE_R_NO_SNI] = "there is no usable name, and this listener has no route for such clients",
        [MT_EDGE_R_SUSPENDED] = "the route is disabled",
        [MT_EDGE_R_TLS_VERSION] = "the client offers no TLS version as new as the route asks for",
        [MT_EDGE_R_NOT_TLS] = "it does not begin as TLS",
        [MT_EDGE_R_TOO_BIG] = "the ClientHello is larger than this edge reads",
        [MT_EDGE_R_MALFORMED] = "it begins as TLS and breaks its rules",
    };
    return (unsigned)why < MT_EDGE_R_MAX && text[why] ? text[why] : "it is refused";
}

static void put_verdict(const struct mt_edge_verdict *v, bool more, struct mt_buf *b)
{
    const char *reason = "ok";
    if (more) {
        put_text(b, "decision", "wait");
        put_text(b, "reason", "more");
        put_text(b, "why", "the ClientHello is not complete; the edge waits for more of it, then closes");
    } else if (!v->route) {
        put_text(b, "decision", v->alert ? "alert" : "close");
        put_text(b, "reason", mt_edge_result_name(v->why));
        put_text(b, "why", refusal(v->why));
        if (v->alert)
            mt_buf_printf(b, "\"alert\":%u,", v->alert);
    } else {
        const char *why = fate(v->route, &reason);
        bool ok = strcmp(reason, "ok") == 0;
        put_text(b, "decision", ok ? "proxy" : mt_edge_key_proto(v->route->key) == MT_EDGE_RAW ? "reset" : "alert");
        put_text(b, "reason", reason);
        put_text(b, "why", why);
        if (!ok && mt_edge_key_proto(v->route->key) == MT_EDGE_TLS)
            mt_buf_puts(b, "\"alert\":80,");
        put_route(v->route, b);
    }
}

/* The listener of the question that the table has: tls before raw. */
static int key_of(const struct mt_edge_table *t, const struct mt_edge_question *q, mt_edge_key *ret, struct mt_err *err)
{
    struct in_addr v4 = {0};
    if (q->address && inet_pton(AF_INET, q->address, &v4) != 1)
        return MT_FAIL(err, MT_E_INVALID, "address: not an IPv4 address");
    enum mt_edge_scope scope = q->address ? MT_EDGE_IPV4 : MT_EDGE_SHARED6;
    mt_edge_key raw = mt_edge_key_of(MT_EDGE_RAW, scope, v4, q->port);
    *ret = t && mt_edge_table_listener(t, raw) ? raw : mt_edge_key_of(MT_EDGE_TLS, scope, v4, q->port);
    return 0;
}

static int explain(struct mt_edge_hub *h, const struct mt_edge_table *t, const struct mt_edge_question *q, struct mt_buf *b,
                   struct mt_err *err)
{
    struct mt_hello x;
    enum mt_hello_result r = MT_HELLO_NAME;
    mt_edge_key key;
    if (key_of(t, q, &key, err) < 0)
        return -(int)err->code;
    mt_hello_init(&x, (uint32_t)h->opt->hello_max_bytes);
    bool raw = mt_edge_key_proto(key) == MT_EDGE_RAW;
    if (q->hello) {
        r = mt_hello_feed(&x, q->hello, q->hello_len);
    } else if (!raw) {
        x.best_version = UINT16_MAX; /* a name alone says nothing of versions: not what decides */
        x.name_len = (uint16_t)mt_hello_normal_name(q->name, strlen(q->name), x.name);
        r = x.name_len ? MT_HELLO_NAME : MT_HELLO_BAD_NAME;
    }
    mt_buf_printf(b, "{\"epoch\":%" PRIu64 ",\"revision\":%" PRIu64 ",", t ? t->epoch : 0, t ? t->revision : 0);
    put_listener(h, t, key, b);
    put_text(b, "name", r == MT_HELLO_NAME && !raw ? x.name : NULL);
    if (q->hello && !raw)
        put_hello(&x, r, b);
    struct mt_edge_verdict v = {.why = MT_EDGE_R_NO_ROUTE};
    if (raw) {
        v.route = mt_edge_table_only(t, mt_edge_table_listener(t, key));
        if (v.route && v.route->disabled)
            v = (struct mt_edge_verdict){.why = MT_EDGE_R_SUSPENDED};
    } else {
        v = mt_edge_decide(t, key, &x, r);
    }
    put_verdict(&v, r == MT_HELLO_MORE, b);
    mt_buf_puts(b, "\"format\":1}\n");
    return mt_buf_check(b, err);
}

int mt_edge_explain(struct mt_edge_hub *h, const struct mt_edge_question *q, struct mt_buf *b, struct mt_err *err)
{
    (void)pthread_mutex_lock(&h->lock); /* the table is not freed meanwhile */
    int r = explain(h, atomic_load(&h->table), q, b, err);
    (void)pthread_mutex_unlock(&h->lock);
    return r;
}
