/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/metrics.h"

#include "base/assert.h"
#include "base/str.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>

#ifndef MOAT_REVISION
#define MOAT_REVISION "unknown"
#endif

static const struct mt_metric_info list[MT_M_MAX] = {
#define MT_METRIC(id, name, kind, who, labels, help) [MT_M_##id] = {name, help, MT_METRIC_##kind, who, labels},
#define C MT_METRICS_CONTROL
#define A MT_METRICS_AGENT
#define E MT_METRICS_EDGE
#include "wire/metrics_list.inc"
#undef C
#undef A
#undef E
#undef MT_METRIC
};
static const char *const kinds[] = {"counter", "gauge", "histogram", "histogram"};

#define S INT64_C(1000000)
static const struct scale {
    const char *text[MT_HIST_BUCKETS];
    int64_t us[MT_HIST_BUCKETS];
} quick = {{"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "120", "300", "+Inf"},
           {5000, 10000, 25000, 50000, 100000, 250000, 500000, S, 2500000, 5 * S, 10 * S, 30 * S, 60 * S, 120 * S, 300 * S, INT64_MAX}},
  slow = {{"1", "2", "5", "10", "20", "30", "60", "120", "300", "600", "1200", "1800", "3600", "7200", "14400", "+Inf"},
          {S, 2 * S, 5 * S, 10 * S, 20 * S, 30 * S, 60 * S, 120 * S, 300 * S, 600 * S, 1200 * S, 1800 * S, 3600 * S, 7200 * S, 14400 * S, INT64_MAX}};
#undef S

const struct mt_metric_info *mt_metric_info(enum mt_metric id)
{
    return &list[id];
}

void mt_metrics_print_list(FILE *out)
{
    for (size_t i = 0; i < MT_M_MAX; i++) {
        const struct mt_metric_info *x = &list[i];
        (void)fprintf(out, "%s\t%s\t%s%s%s\t%s\t%s\n", x->name, kinds[x->kind], x->who & MT_METRICS_CONTROL ? "control" : "",
                      x->who & MT_METRICS_AGENT ? x->who & MT_METRICS_CONTROL ? ",agent" : "agent" : "",
                      x->who & MT_METRICS_EDGE ? x->who == MT_METRICS_EDGE ? "edge" : ",edge" : "", x->labels[0] ? x->labels : "-",
                      x->help);
    }
}

static void observe(struct mt_hist *h, const struct scale *scale, int64_t us)
{
    size_t i = 0;
    us = us < 0 ? 0 : us;
    while (us > scale->us[i])
        i++;
    (void)atomic_fetch_add_explicit(&h->n[i], 1, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&h->sum_us, (uint64_t)us, memory_order_relaxed);
}

void mt_hist_observe(struct mt_hist *h, int64_t us)
{
    observe(h, &quick, us);
}

void mt_hist_observe_long(struct mt_hist *h, int64_t us)
{
    observe(h, &slow, us);
}

void mt_hist_observe_ns(struct mt_hist *h, int64_t ns)
{
    mt_hist_observe(h, ns / 1000);
}

/* ---- the page ---- */

/* Backslash, quote and newline are escaped as the format says; what is no printable ASCII becomes a question mark. */
static void put_value(struct mt_buf *b, const char *v)
{
    for (size_t i = 0; i < MT_METRICS_VALUE_MAX && v[i]; i++) {
        if (v[i] == '\\' || v[i] == '"')
            mt_buf_putc(b, '\\');
        if (v[i] == '\n')
            mt_buf_puts(b, "\\n");
        else
            mt_buf_putc(b, v[i] < ' ' || v[i] > '~' ? '?' : v[i]);
    }
}

/* {a="x",b="y"<more>}; nothing when there is nothing in it. */
static void put_labels(struct mt_buf *b, const char *names, const char *const *values, size_t n, const char *le)
{
    if (n == 0 && !le)
        return;
    mt_buf_putc(b, '{');
    for (size_t i = 0; i < n; i++) {
        size_t len = strcspn(names, ",");
        mt_buf_put(b, names, len);
        mt_buf_puts(b, "=\"");
        put_value(b, values[i]);
        mt_buf_puts(b, "\",");
        names += len + (names[len] == ',');
    }
    if (le)
        mt_buf_printf(b, "le=\"%s\"", le);
    else
        b->len -= !b->failed; /* the last comma */
    mt_buf_putc(b, '}');
}

/* Room for @series more of @id; writes its head when they are the first. */
static bool begin_series(struct mt_metrics *m, enum mt_metric id, unsigned series)
{
    const struct mt_metric_info *x = &list[id];
    MT_ASSERT(x->who & m->who);
    if (m->series + series > MT_METRICS_SERIES_MAX) {
        m->left_out += series;
        return false;
    }
    if (m->open != (int)id) {
        MT_ASSERT(!m->done[id]);
        m->done[id] = true;
        m->open = (int)id;
        mt_buf_printf(m->b, "# HELP %s %s\n# TYPE %s %s\n", x->name, x->help, x->name, kinds[x->kind]);
    }
    m->series += series;
    return true;
}

/* As many values as there are labels, NULL after the last. */
static size_t take_values(enum mt_metric id, va_list ap, const char *ret[MT_METRICS_LABELS_MAX])
{
    const char *names = list[id].labels, *v;
    size_t n = 0, want = names[0] != '\0';
    for (; *names; names++)
        want += *names == ',';
    while ((v = va_arg(ap, const char *)) != NULL) {
        MT_ASSERT(n < want && n < MT_METRICS_LABELS_MAX);
        ret[n++] = v;
    }
    MT_ASSERT(n == want);
    return n;
}

void mt_metrics_begin(struct mt_metrics *m, struct mt_buf *b, unsigned who)
{
    *m = (struct mt_metrics){.b = b, .who = who, .open = -1};
    mt_metrics_u64(m, MT_M_BUILD_INFO, 1,
                   who == MT_METRICS_CONTROL ? "control" : who == MT_METRICS_AGENT ? "agent" : "edge", MOAT_VERSION, MOAT_REVISION);
    const struct mallinfo2 heap = mallinfo2(); /* tells what grows from what is merely not given back */
    mt_metrics_u64(m, MT_M_HEAP, heap.uordblks, "used");
    mt_metrics_u64(m, MT_M_HEAP, heap.fordblks, "free");
    mt_metrics_u64(m, MT_M_HEAP, heap.hblkhd, "mapped");
}

int mt_metrics_end(struct mt_metrics *m, struct mt_err *err)
{
    if (m->left_out)
        mt_buf_printf(m->b, "# %u series are left out: a process exports %u at most\n", m->left_out, MT_METRICS_SERIES_MAX);
    return mt_buf_check(m->b, err);
}

static void put_sample(struct mt_metrics *m, enum mt_metric id, const char *const *values, size_t n, const char *text)
{
    MT_ASSERT(list[id].kind < MT_METRIC_HISTOGRAM);
    if (!begin_series(m, id, 1))
        return;
    mt_buf_puts(m->b, list[id].name);
    put_labels(m->b, list[id].labels, values, n, NULL);
    mt_buf_printf(m->b, " %s\n", text);
}

#define TAKE(last)                                                                                                               \
    const char *values[MT_METRICS_LABELS_MAX];                                                                                   \
    va_list ap;                                                                                                                  \
    va_start(ap, last);                                                                                                          \
    size_t n = take_values(id, ap, values);                                                                                      \
    va_end(ap)

void mt_metrics_u64_(struct mt_metrics *m, enum mt_metric id, uint64_t v, ...)
{
    char text[32];
    TAKE(v);
    (void)snprintf(text, sizeof text, "%" PRIu64, v);
    put_sample(m, id, values, n, text);
}

void mt_metrics_i64_(struct mt_metrics *m, enum mt_metric id, int64_t v, ...)
{
    char text[32];
    TAKE(v);
    (void)snprintf(text, sizeof text, "%" PRId64, v);
    put_sample(m, id, values, n, text);
}

void mt_metrics_us_(struct mt_metrics *m, enum mt_metric id, int64_t us, ...)
{
    char text[40];
    TAKE(us);
    uint64_t a = us < 0 ? (uint64_t)-us : (uint64_t)us;
    (void)snprintf(text, sizeof text, "%s%" PRIu64 ".%06" PRIu64, us < 0 ? "-" : "", a / 1000000, a % 1000000);
    put_sample(m, id, values, n, text);
}

void mt_metrics_hist_(struct mt_metrics *m, enum mt_metric id, const struct mt_hist *h, ...)
{
    uint64_t sum = 0;
    TAKE(h);
    const struct mt_metric_info *x = &list[id];
    MT_ASSERT(x->kind >= MT_METRIC_HISTOGRAM);
    const struct scale *scale = x->kind == MT_METRIC_HISTOGRAM_LONG ? &slow : &quick;
    if (!begin_series(m, id, MT_HIST_BUCKETS + 2))
        return;
    for (size_t i = 0; i < MT_HIST_BUCKETS; i++) {
        sum += mt_metrics_get(&h->n[i]);
        mt_buf_printf(m->b, "%s_bucket", x->name);
        put_labels(m->b, x->labels, values, n, scale->text[i]);
        mt_buf_printf(m->b, " %" PRIu64 "\n", sum);
    }
    uint64_t us = mt_metrics_get(&h->sum_us);
    mt_buf_printf(m->b, "%s_sum", x->name);
    put_labels(m->b, x->labels, values, n, NULL);
    mt_buf_printf(m->b, " %" PRIu64 ".%06" PRIu64 "\n%s_count", us / 1000000, us % 1000000, x->name);
    put_labels(m->b, x->labels, values, n, NULL);
    mt_buf_printf(m->b, " %" PRIu64 "\n", sum);
}
