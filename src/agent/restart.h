/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What follows the end of a boot attempt: restart, rest or give up (runtime.md §6).
 *
 * Pure: the clock and the random number come in as arguments.
 */
#pragma once

#include "model/workload.h"

#include <stdbool.h>
#include <stdint.h>

/** Counters of one slot; all zero for a new generation. Kept in state.json. */
struct mt_restart_counters {
    uint32_t attempts;      /* consecutive ended attempts since the last long readiness */
    uint32_t own_failures;  /* of these, the ones that consume max_retries */
    uint32_t restart_count; /* attempts ended over the slot's life, shown to users */
};

struct mt_restart_in {
    enum mt_restart_policy policy;
    uint32_t max_retries;
    uint32_t backoff_seconds;
    bool clean;         /* the workload reported exit 0 */
    bool platform;      /* the reason is one of column P: never consumes max_retries */
    int64_t ready_ns;   /* how long the attempt was ready, nanoseconds, 0 = never */
    uint32_t random_u;  /* any 32 random bits, for the jitter */
};

enum mt_restart_verdict { MT_RESTART_AGAIN = 0, MT_RESTART_DONE, MT_RESTART_GIVE_UP };

struct mt_restart_out {
    enum mt_restart_verdict verdict;
    int64_t delay_ns; /* before the next attempt, with jitter; 0 unless AGAIN */
    bool crash_loop;  /* the coming attempt is the 5th or later: status `failed` meanwhile */
};

/** Readiness this long forgets earlier failures. */
#define MT_RESTART_RESET_NS (600LL * 1000000000LL)

/** Decide, and bring @c up to date. */
struct mt_restart_out mt_restart_next(const struct mt_restart_in *in, struct mt_restart_counters *c);

/** Delay before attempt @k (1 = first restart): min(base * 2^(k-1), 300 s) +-10 %. */
int64_t mt_restart_delay_ns(uint32_t base_seconds, uint32_t k, uint32_t random_u);
