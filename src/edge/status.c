/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/status.h"

#include "base/clock.h"
#include "base/str.h"
#include "wire/metrics.h"

#include <inttypes.h>
#include <stdlib.h>

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

/* Listeners of one port share their series: dedicated IPv4 addresses are no label. */
#define PORTS_MAX 32 /* with series of their own; the others share "other" */

static void put_listener_metrics(struct mt_edge_hub *h, struct mt_metrics *p)
{
    struct port {
        char name[8];
        uint64_t results[MT_EDGE_R_MAX], open;
    };
    struct port *ports = calloc(PORTS_MAX + 1, sizeof *ports);
    size_t n = 0;
    if (!ports)
        return; /* the page goes without */
    (void)snprintf(ports[PORTS_MAX].name, sizeof ports[PORTS_MAX].name, "other");
    for (size_t i = 0; i < h->n_listeners; i++) {
        struct mt_edge_listener *l = h->listeners[i];
        struct port *at = &ports[PORTS_MAX];
        char name[8];
        (void)snprintf(name, sizeof name, "%u", mt_edge_key_port(l->key));
        for (size_t k = 0; k < n; k++)
            if (MT_STREQ(ports[k].name, name))
                at = &ports[k];
        if (at == &ports[PORTS_MAX] && n < PORTS_MAX) {
            at = &ports[n++];
            (void)snprintf(at->name, sizeof at->name, "%s", name);
        }
        for (unsigned r = 0; r < MT_EDGE_R_MAX; r++)
            at->results[r] += get(&l->results[r]);
        at->open += atomic_load_explicit(&l->open, memory_order_relaxed);
    }
    bool more = h->n_listeners > 0 && n == PORTS_MAX;
    for (size_t k = 0; k <= PORTS_MAX; k++)
        for (unsigned r = 0; r < MT_EDGE_R_MAX; r++)
            if (ports[k].results[r] > 0)
                mt_metrics_u64(p, MT_M_E_CONNECTIONS, ports[k].results[r], ports[k].name, mt_edge_result_name((enum mt_edge_result)r));
    for (size_t k = 0; k <= PORTS_MAX; k++)
        if (k < n || (k == PORTS_MAX && more))
            mt_metrics_u64(p, MT_M_E_OPEN, ports[k].open, ports[k].name);
    free(ports);
}

/* Outcome of the sniffing, over all tls listeners: every result after a route was found counts as ok. */
static void put_sni_metrics(struct mt_edge_hub *h, struct mt_metrics *p)
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
    mt_metrics_u64(p, MT_M_E_SNI, ok, "ok");
    for (size_t k = 0; k < sizeof sniffed / sizeof sniffed[0]; k++)
        mt_metrics_u64(p, MT_M_E_SNI, n[k], mt_edge_result_name(sniffed[k]));
}

int mt_edge_status_metrics(struct mt_edge_hub *h, struct mt_buf *b, struct mt_err *err)
{
    struct mt_edge_totals *t = &h->totals;
    struct mt_metrics p;
    mt_metrics_begin(&p, b, MT_METRICS_EDGE);
    (void)pthread_mutex_lock(&h->lock);
    put_sni_metrics(h, &p);
    mt_metrics_u64(&p, MT_M_E_UPSTREAM, get(&t->connect_failures), "refused");
    mt_metrics_u64(&p, MT_M_E_UPSTREAM, get(&t->connect_timeouts), "timeout");
    mt_metrics_u64(&p, MT_M_E_RETRIES, get(&t->retries));
    mt_metrics_u64(&p, MT_M_E_LIMITS, get(&t->limit_hits), "any");
    mt_metrics_u64(&p, MT_M_E_EJECTIONS, get(&t->ejections));
    mt_metrics_u64(&p, MT_M_E_BYTES, get(&t->bytes_in), "in");
    mt_metrics_u64(&p, MT_M_E_BYTES, get(&t->bytes_out), "out");
    mt_metrics_u64(&p, MT_M_E_PROXY, get(&t->proxy_headers), "sent");
    mt_metrics_u64(&p, MT_M_E_PROXY, get(&t->proxy_header_failures), "failed");
    mt_metrics_u64(&p, MT_M_E_APPLY, get(&t->applied), "applied");
    mt_metrics_u64(&p, MT_M_E_APPLY, get(&t->rejected), "rejected");
    int64_t heard = atomic_load(&h->heard_wall_us);
    const struct mt_edge_table *table = atomic_load(&h->table);
    mt_metrics_u64(&p, MT_M_E_ROUTES, table ? table->n_routes : 0, "configured");
    mt_metrics_u64(&p, MT_M_E_BACKENDS, table ? table->n_backends : 0, "ready");
    if (table)
        mt_metrics_us(&p, MT_M_E_AGE, mt_clock_wall_us() - (heard > h->applied_wall_us ? heard : h->applied_wall_us));
    put_listener_metrics(h, &p); /* last: what would pass the bound of series is of this */
    (void)pthread_mutex_unlock(&h->lock);
    return mt_metrics_end(&p, err);
}
