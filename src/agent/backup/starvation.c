/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/starvation.h"

#include "base/clock.h"

#define NOTHING_S 10 /* not one chunk: no VM lets go of a processor */
#define WINDOW_S 30
#define LEAST_A_SECOND ((uint64_t)4 << 20) /* 100 GiB in seven hours: below the shortest interval that anybody asks for of such a volume */

void mt_starvation_begin(struct mt_starvation *p, int64_t now_ns)
{
    *p = (struct mt_starvation){.since_ns = now_ns, .moved_ns = now_ns};
}

bool mt_starvation_look(struct mt_starvation *p, int64_t now_ns, uint64_t done)
{
    int64_t took = now_ns - p->since_ns;
    if (p->starves)
        return false;
    if (done != p->last) {
        p->last = done;
        p->moved_ns = now_ns;
    }
    p->starves = now_ns - p->moved_ns >= NOTHING_S * MT_NS_PER_S;
    if (p->starves || took < WINDOW_S * MT_NS_PER_S)
        return p->starves;
    uint64_t got = done >= p->then ? done - p->then : done; /* another phase counts from nothing */
    p->starves = got < (uint64_t)(took / MT_NS_PER_S) * LEAST_A_SECOND;
    p->since_ns = now_ns;
    p->then = done;
    return p->starves;
}
