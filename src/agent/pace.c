/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/pace.h"

#include "base/clock.h"

bool mt_pace_may(const struct mt_pace *p, unsigned most, int64_t now_ns, int64_t *ret_when_ns)
{
    int64_t then = p->at_ns[(p->next + MT_PACE_MAX - most) % MT_PACE_MAX]; /* the one that has to be a second ago */
    *ret_when_ns = then + MT_NS_PER_S;
    return then == 0 || now_ns >= *ret_when_ns;
}

void mt_pace_note(struct mt_pace *p, int64_t now_ns)
{
    p->at_ns[p->next] = now_ns;
    p->next = (p->next + 1) % MT_PACE_MAX;
}
