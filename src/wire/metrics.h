/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prometheus text format 0.0.4, and the one list of what moat exports (metrics_table.c, after
 * scheduling-and-operations.md §8): nothing that is not in the list can be written, and each with exactly its labels.
 *
 *   struct mt_metrics m;
 *   mt_metrics_begin(&m, &buf, MT_METRICS_EDGE);
 *   mt_metrics_u64(&m, MT_M_EDGE_BYTES, in, "in");
 *   mt_metrics_u64(&m, MT_M_EDGE_BYTES, out, "out");
 *   mt_metrics_end(&m, &err);
 *
 * HELP and TYPE are written with the first series of a metric; all its series are written one after the other. Label values
 * are closed sets of the callers; who takes one from outside bounds it first. Past MT_METRICS_SERIES_MAX series nothing more
 * is written: mt_metrics_end says so in a comment, the page stays valid. mt_hist may be observed by any thread.
 */
#pragma once

#include "base/buf.h"

#include <stdatomic.h>
#include <stdio.h>

#define MT_METRICS_SERIES_MAX 2000U /* of one process (scheduling-and-operations.md §8) */
#define MT_METRICS_LABELS_MAX 3
#define MT_METRICS_VALUE_MAX 96    /* bytes of a label value; longer ones are cut */
#define MT_METRICS_PAGE_MAX (1U << 20)

enum mt_metric {
#define MT_METRIC(id, name, kind, who, labels, help) MT_M_##id,
#include "wire/metrics_list.inc"
#undef MT_METRIC
    MT_M_MAX
};

enum mt_metric_kind { MT_METRIC_COUNTER = 0, MT_METRIC_GAUGE, MT_METRIC_HISTOGRAM, MT_METRIC_HISTOGRAM_LONG };
/* Who exports it; bits. */
#define MT_METRICS_CONTROL 1U
#define MT_METRICS_AGENT 2U
#define MT_METRICS_EDGE 4U

struct mt_metric_info {
    const char *name, *help;
    enum mt_metric_kind kind;
    unsigned who;
    const char *labels; /* names with commas between, "" none */
};
/** What the list says of @id; static. */
const struct mt_metric_info *mt_metric_info(enum mt_metric id);
/** The list as text, one line each: name, kind, programs, labels, help, separated by tabs ("-": no labels). */
void mt_metrics_print_list(FILE *out);

/* Upper bounds of the buckets, seconds: .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10 30 60 120 300 +Inf; of a long one, for what moves a volume's bytes:
 * 1 2 5 10 20 30 60 120 300 600 1200 1800 3600 7200 14400 +Inf. */
#define MT_HIST_BUCKETS 16
/** Durations; all zero is empty. Counts only grow. */
struct mt_hist {
    _Atomic uint64_t n[MT_HIST_BUCKETS]; /* by bucket, not summed up */
    _Atomic uint64_t sum_us;
};
/** One more of @us microseconds; below 0 counts as 0. */
void mt_hist_observe(struct mt_hist *h, int64_t us);
/** One more of a metric whose histogram is a long one. */
void mt_hist_observe_long(struct mt_hist *h, int64_t us);
/** The same for a span of the monotonic clock, nanoseconds. */
void mt_hist_observe_ns(struct mt_hist *h, int64_t ns);

struct mt_metrics {
    struct mt_buf *b;
    unsigned who;
    int open; /* metric whose series are being written, -1 none */
    unsigned series, left_out;
    bool done[MT_M_MAX]; /* closed: a second block of one metric would be no valid page */
};

/** Begin a page of program @who in @b (borrowed); writes moat_build_info. */
void mt_metrics_begin(struct mt_metrics *m, struct mt_buf *b, unsigned who);
/** 0, -MT_E_LIMIT when the buffer was too small. */
int mt_metrics_end(struct mt_metrics *m, struct mt_err *err);

/* Use the macros of the same name without the underscore: value, then as many label values as the metric has labels, in the
 * list's order. */
void mt_metrics_u64_(struct mt_metrics *m, enum mt_metric id, uint64_t v, ...);
void mt_metrics_i64_(struct mt_metrics *m, enum mt_metric id, int64_t v, ...);
/** @us microseconds, written as seconds. */
void mt_metrics_us_(struct mt_metrics *m, enum mt_metric id, int64_t us, ...);
void mt_metrics_hist_(struct mt_metrics *m, enum mt_metric id, const struct mt_hist *h, ...);
#define mt_metrics_u64(m, id, ...) mt_metrics_u64_(m, id, __VA_ARGS__, (const char *)NULL)
#define mt_metrics_i64(m, id, ...) mt_metrics_i64_(m, id, __VA_ARGS__, (const char *)NULL)
#define mt_metrics_us(m, id, ...) mt_metrics_us_(m, id, __VA_ARGS__, (const char *)NULL)
#define mt_metrics_hist(m, id, ...) mt_metrics_hist_(m, id, __VA_ARGS__, (const char *)NULL)

/** A counter of several threads, read for the page. */
static inline uint64_t mt_metrics_get(const _Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}
