/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/status.h"

#include "base/clock.h"
#include "base/str.h"

#include <inttypes.h>

static uint64_t get(_Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static void put_listeners(struct mt_edge_hub *h, struct mt_buf *b)
{
    for (size_t i = 0; i < h->n_bounds; i++) {
        const struct mt_edge_bound *x = &h->bounds[i];
        mt_buf_printf(b, "%s{\"address_scope\":\"%s\",\"port\":%u,\"local\":", i ? "," : "",
                      mt_edge_key_scope(x->l->key) == MT_EDGE_IPV4 ? "ipv4" : "shared6", mt_edge_key_port(x->l->key));
        mt_buf_put_json_str(b, x->local, strlen(x->local));
        if (x->fds) {
            mt_buf_puts(b, ",\"state\":\"open\"}");
        } else {
            mt_buf_puts(b, ",\"state\":\"error\",\"error\":");
            mt_buf_put_json_str(b, x->error, strlen(x->error));
            mt_buf_putc(b, '}');
        }
    }
}

struct route_list {
    struct mt_buf *b;
    bool more;
};

/* Routes that were ever used; the others have nothing to say. */
static void put_route(struct mt_edge_route *r, void *arg)
{
    struct route_list *l = arg;
    struct mt_buf *b = l->b;
    struct mt_edge_stat *s = r->stat;
    if (get(&s->connections) == 0)
        return;
    if (l->more)
        mt_buf_putc(b, ',');
    l->more = true;
    mt_buf_put_json_str(b, r->route_id, strlen(r->route_id));
    mt_buf_printf(b,
                      ":{\"connections\":%" PRIu64 ",\"active\":%u,\"bytes_in\":%" PRIu64 ",\"bytes_out\":%" PRIu64
                      ",\"connect_failures\":%" PRIu64 ",\"retries\":%" PRIu64 ",\"no_backend\":%" PRIu64
                      ",\"ejections\":%" PRIu64 ",\"limit_hits\":%" PRIu64 ",\"proxy_headers\":%" PRIu64
                      ",\"early_closes\":%" PRIu64 "}",
                      get(&s->connections), atomic_load_explicit(&s->active, memory_order_relaxed), get(&s->bytes_in),
                      get(&s->bytes_out), get(&s->connect_failures), get(&s->retries), get(&s->no_backend),
                      get(&s->ejections), get(&s->limit_hits), get(&s->proxy_headers), get(&s->early_closes));
}

int mt_edge_status_json(struct mt_edge_hub *h, const struct mt_edge_rejected *rejected, struct mt_buf *b, struct mt_err *err)
{
    char at[MT_RFC3339_LEN];
    (void)pthread_mutex_lock(&h->lock);
    const struct mt_edge_table *t = atomic_load(&h->table); /* not freed while we hold the lock */
    mt_buf_printf(b, "{\"epoch\":%" PRIu64 ",\"revision\":%" PRIu64 ",\"applied_at\":", t ? t->epoch : 0, t ? t->revision : 0);
    if (t)
        mt_buf_printf(b, "\"%s\"", mt_rfc3339(h->applied_wall_us, at));
    else
        mt_buf_puts(b, "null");
    mt_buf_puts(b, ",\"agent_version\":\"" MOAT_VERSION "\",");
    if (rejected && rejected->error[0]) {
        mt_buf_puts(b, "\"rejected\":{\"error\":\"edge_config_rejected\",\"detail\":");
        mt_buf_put_json_str(b, rejected->error, strlen(rejected->error));
        mt_buf_puts(b, "},");
    }
    mt_buf_puts(b, "\"listeners\":[");
    put_listeners(h, b);
    mt_buf_puts(b, "],\"routes\":{");
    struct route_list list = {.b = b};
    if (t)
        mt_edge_table_each_live(t, put_route, &list);
    mt_buf_puts(b, "}}");
    (void)pthread_mutex_unlock(&h->lock);
    return mt_buf_check(b, err);
}

static void metric(struct mt_buf *b, const char *name, const char *kind, const char *label, uint64_t v)
{
    if (kind)
        mt_buf_printf(b, "# TYPE %s %s\n", name, kind);
    mt_buf_printf(b, "%s%s %" PRIu64 "\n", name, label, v);
}

static void put_listener_metrics(struct mt_edge_hub *h, struct mt_buf *b)
{
    mt_buf_puts(b, "# TYPE moat_edge_connections_total counter\n");
    for (size_t i = 0; i < h->n_listeners; i++) {
        struct mt_edge_listener *l = h->listeners[i];
        for (unsigned r = 0; r < MT_EDGE_R_MAX; r++)
            if (get(&l->results[r]) > 0)
                mt_buf_printf(b, "moat_edge_connections_total{listener_port=\"%u\",result=\"%s\"} %" PRIu64 "\n",
                              mt_edge_key_port(l->key), mt_edge_result_name((enum mt_edge_result)r), get(&l->results[r]));
    }
    mt_buf_puts(b, "# TYPE moat_edge_connections_open gauge\n");
    for (size_t i = 0; i < h->n_listeners; i++)
        mt_buf_printf(b, "moat_edge_connections_open{listener_port=\"%u\"} %u\n", mt_edge_key_port(h->listeners[i]->key),
                      atomic_load_explicit(&h->listeners[i]->open, memory_order_relaxed));
}

/* Outcome of the sniffing, over all tls listeners: every result after a route was found counts as ok. */
static void put_sni_metrics(struct mt_edge_hub *h, struct mt_buf *b)
{
    static const enum mt_edge_result sniffed[] = {
        MT_EDGE_R_NO_SNI,  MT_EDGE_R_SNIFF_TIMEOUT, MT_EDGE_R_NOT_TLS,  MT_EDGE_R_MALFORMED,
        MT_EDGE_R_TOO_BIG, MT_EDGE_R_CLIENT_EOF,    MT_EDGE_R_NO_ROUTE, MT_EDGE_R_SUSPENDED,    MT_EDGE_R_TLS_VERSION,
    };
    static const enum mt_edge_result routed[] = {
        MT_EDGE_R_OK,           MT_EDGE_R_NO_BACKEND,    MT_EDGE_R_CONNECT_FAILED, MT_EDGE_R_ROUTE_LIMIT, MT_EDGE_R_CLIENT_RESET,
        MT_EDGE_R_BACKEND_RESET, MT_EDGE_R_IDLE_TIMEOUT, MT_EDGE_R_HALF_TIMEOUT,   MT_EDGE_R_ROUTE_GONE,
    };
    uint64_t ok = 0, n[sizeof sniffed / sizeof sniffed[0]] = {0};
    for (size_t i = 0; i < h->n_listeners; i++) {
        struct mt_edge_listener *l = h->listeners[i];
        if (mt_edge_key_proto(l->key) != MT_EDGE_TLS)
            continue;
        for (size_t k = 0; k < sizeof routed / sizeof routed[0]; k++)
            ok += get(&l->results[routed[k]]);
        for (size_t k = 0; k < sizeof sniffed / sizeof sniffed[0]; k++)
            n[k] += get(&l->results[sniffed[k]]);
    }
    mt_buf_puts(b, "# TYPE moat_edge_sni_total counter\n");
    mt_buf_printf(b, "moat_edge_sni_total{result=\"ok\"} %" PRIu64 "\n", ok);
    for (size_t k = 0; k < sizeof sniffed / sizeof sniffed[0]; k++)
        mt_buf_printf(b, "moat_edge_sni_total{result=\"%s\"} %" PRIu64 "\n", mt_edge_result_name(sniffed[k]), n[k]);
}

int mt_edge_status_metrics(struct mt_edge_hub *h, struct mt_buf *b, struct mt_err *err)
{
    struct mt_edge_totals *t = &h->totals;
    (void)pthread_mutex_lock(&h->lock);
    put_listener_metrics(h, b);
    put_sni_metrics(h, b);
    metric(b, "moat_edge_upstream_failures_total", "counter", "{reason=\"refused\"}", get(&t->connect_failures));
    metric(b, "moat_edge_upstream_failures_total", NULL, "{reason=\"timeout\"}", get(&t->connect_timeouts));
    metric(b, "moat_edge_retries_total", "counter", "", get(&t->retries));
    metric(b, "moat_edge_limit_hits_total", "counter", "{limit=\"any\"}", get(&t->limit_hits));
    metric(b, "moat_edge_ejections_total", "counter", "", get(&t->ejections));
    metric(b, "moat_edge_bytes_total", "counter", "{direction=\"in\"}", get(&t->bytes_in));
    metric(b, "moat_edge_bytes_total", NULL, "{direction=\"out\"}", get(&t->bytes_out));
    metric(b, "moat_edge_proxy_headers_total", "counter", "{result=\"sent\"}", get(&t->proxy_headers));
    metric(b, "moat_edge_proxy_headers_total", NULL, "{result=\"failed\"}", get(&t->proxy_header_failures));
    metric(b, "moat_edge_config_apply_total", "counter", "{result=\"applied\"}", get(&t->applied));
    metric(b, "moat_edge_config_apply_total", NULL, "{result=\"rejected\"}", get(&t->rejected));
    const struct mt_edge_table *table = atomic_load(&h->table);
    metric(b, "moat_edge_routes", "gauge", "{state=\"configured\"}", table ? table->n_routes : 0);
    metric(b, "moat_edge_backends", "gauge", "{state=\"ready\"}", table ? table->n_backends : 0);
    if (table)
        metric(b, "moat_edge_config_age_seconds", "gauge", "",
               (uint64_t)((mt_clock_wall_us() - h->applied_wall_us) / 1000000));
    (void)pthread_mutex_unlock(&h->lock);
    return mt_buf_check(b, err);
}
