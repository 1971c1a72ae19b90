/* SPDX-License-Identifier: Apache-2.0 */
/* See want.h. */
#include "agent/volume/want.h"

#define RETRY_FIRST_MS 2000
#define RETRY_MAX_MS 60000

static bool last_was(const struct mt_volume_seen *s, enum mt_volume_event event)
{
    return s->told && s->last == event && !s->failed;
}

static enum mt_volume_act act(const struct mt_plan_volume *v, const struct mt_volume_seen *s, int64_t now_ns)
{
    bool wait = now_ns < s->retry_at_ns;
    if (s->busy)
        return MT_VOLUME_ACT_NONE;
    if (v->absent)
        return wait || last_was(s, MT_VOLUME_REMOVED) ? MT_VOLUME_ACT_NONE : MT_VOLUME_ACT_REMOVE;
    if (!s->found) {
        /* what was there once is never made again empty: neither what the plan knows of, nor what only we do */
        if (last_was(s, MT_VOLUME_MISSING))
            return MT_VOLUME_ACT_NONE;
        if (v->was_available || last_was(s, MT_VOLUME_PROVISIONED))
            return MT_VOLUME_ACT_MISSING;
        if (v->from_restore || wait)
            return MT_VOLUME_ACT_NONE;
        return MT_VOLUME_ACT_PROVISION;
    }
    if (last_was(s, MT_VOLUME_PROVISIONED))
        return MT_VOLUME_ACT_NONE;
    if (v->was_available)
        return MT_VOLUME_ACT_PRESENT;
    return v->from_restore || wait ? MT_VOLUME_ACT_NONE : MT_VOLUME_ACT_PROVISION;
}

enum mt_volume_act mt_volume_act(const struct mt_plan_volume *v, const struct mt_volume_seen *s, int64_t now_ns)
{
    enum mt_volume_act a = act(v, s, now_ns);
    bool check = v->check && v->check != s->checked && !v->absent && !s->busy;
    return a == MT_VOLUME_ACT_NONE && check ? MT_VOLUME_ACT_CHECK : a;
}

int64_t mt_volume_retry_ms(unsigned failures)
{
    int64_t ms = RETRY_FIRST_MS;
    for (unsigned i = 1; i < failures && ms < RETRY_MAX_MS; i++)
        ms *= 2;
    return ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
}
