/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Health of one instance: the counting (pure) and the probe (non-blocking, on the loop).
 *
 * Rules of runtime.md §12 and ruling R23: every 25 ms in the first 5 s of a start, then each second
 * until the first success or the end of the grace period, then at the interval. A failure counts only
 * after grace and after those first 5 s. Knows nothing of VMs; an address and a port are enough.
 */
#pragma once

#include "model/workload.h"
#include "os/loop.h"

#include <netinet/in.h>

struct mt_health_conf {
    struct mt_health check; /* type NONE: ready after 5 s of life, nothing is asked */
    bool stay_unready;      /* restart policy `never`: many failures do not end the attempt */
};

/** The check of a workload: its own, or TCP on the first port, or none. */
struct mt_health_conf mt_health_conf_of(const struct mt_workload *w);

struct mt_health_count {
    int64_t started_ns; /* of the workload; an adopted ready instance: long ago */
    bool was_ready;     /* in this attempt */
    bool ready;
    uint32_t good, bad; /* consecutive */
};

enum mt_health_verdict {
    MT_HEALTH_SAME = 0,
    MT_HEALTH_READY,   /* becomes ready */
    MT_HEALTH_UNREADY, /* was ready, is not any more */
    MT_HEALTH_GIVE_UP, /* 3 x failure_threshold: end the attempt as healthcheck_failed */
    MT_HEALTH_TOO_LATE /* never ready within the startup timeout */
};

/** Count one result at @now_ns. */
enum mt_health_verdict mt_health_count_result(struct mt_health_count *c, const struct mt_health_conf *conf, bool ok,
                                              int64_t now_ns);
/** When the next probe is due, after one that ended at @now_ns. */
int64_t mt_health_next_ns(const struct mt_health_count *c, const struct mt_health_conf *conf, int64_t now_ns);

/* ---- one probe --------------------------------------------------------------------------- */

struct mt_probe;
/** @why is NULL on success, else short text. The probe is over; mt_probe_free must still be called. */
#define MT_PROBE_BODY_MAX 512
typedef void (*mt_probe_fn)(void *arg, bool ok, const char *why);

/**
 * Begin a probe of [@dst]:@check->port from @src (NULL: any). @fn is called exactly once, from the loop,
 * never from inside this call, unless mt_probe_free comes first.
 */
struct mt_probe *mt_probe_start(struct mt_loop *loop, const struct mt_health *check, const struct in6_addr *dst,
                                const struct in6_addr *src, int64_t timeout_ms, mt_probe_fn fn, void *arg,
                                struct mt_err *err);
/** End and free; NULL is fine. Safe inside @fn. */
void mt_probe_free(struct mt_probe *p);
/** Of an HTTP check that failed by its status: that status, and the first bytes of the body (borrowed, valid inside @fn). 0: none. */
int mt_probe_answer(const struct mt_probe *p, const char **ret_body, size_t *ret_len);
