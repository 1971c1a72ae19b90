/* SPDX-License-Identifier: Apache-2.0 */
/* Restart policy and backoff. See restart.h. */
#include "agent/restart.h"

#define SEC_NS 1000000000LL
#define DELAY_MAX_NS (300 * SEC_NS)
#define CRASH_LOOP_FROM 5 /* k >= 5: runtime.md §6 */

int64_t mt_restart_delay_ns(uint32_t base_seconds, uint32_t k, uint32_t random_u)
{
    int64_t ns = (int64_t)base_seconds * SEC_NS;

    if (ns > DELAY_MAX_NS)
        ns = DELAY_MAX_NS;
    for (uint32_t i = 1; i < k && ns < DELAY_MAX_NS; i++)
        ns *= 2;
    if (ns > DELAY_MAX_NS)
        ns = DELAY_MAX_NS;
    /* jitter: random_u maps onto -10 % .. +10 %, in steps of 1/65535 of the span */
    int64_t span = ns / 5;
    return ns - ns / 10 + span * (int64_t)(random_u & 0xffffU) / 0xffff;
}

struct mt_restart_out mt_restart_next(const struct mt_restart_in *in, struct mt_restart_counters *c)
{
    struct mt_restart_out out = {.verdict = MT_RESTART_AGAIN};

    c->restart_count++;
    if (in->ready_ns >= MT_RESTART_RESET_NS) {
        c->attempts = 0;
        c->own_failures = 0;
    }
    c->attempts++;
    if (!in->platform && !in->clean)
        c->own_failures++;

    if (!in->platform) {
        if (in->policy == MT_RESTART_NEVER)
            out.verdict = in->clean ? MT_RESTART_DONE : MT_RESTART_GIVE_UP;
        else if (in->policy == MT_RESTART_ON_FAILURE && in->clean)
            out.verdict = MT_RESTART_DONE;
        else if (in->policy == MT_RESTART_ON_FAILURE && c->own_failures > in->max_retries)
            out.verdict = MT_RESTART_GIVE_UP;
    }
    if (out.verdict != MT_RESTART_AGAIN)
        return out;
    out.delay_ns = mt_restart_delay_ns(in->backoff_seconds, c->attempts, in->random_u);
    out.crash_loop = c->attempts >= CRASH_LOOP_FROM;
    return out;
}
