/* SPDX-License-Identifier: Apache-2.0 */
/* What silence means. Pure: the simulation runs these. */
#include "control/liveness_rules.h"

#include "base/str.h"

#define CLEAN_NEEDED 3

const char *mt_liveness_health(const struct mt_liveness_facts *f)
{
    if (MT_STREQ(f->health, "lost"))
        return "lost"; /* an operator said so, only an operator takes it back */
    if (f->silence_ms >= f->offline_ms && f->may_offline)
        return "offline";
    if (f->silence_ms >= f->suspect_ms)
        return MT_STREQ(f->health, "offline") ? "offline" : "suspect";
    if (f->conditions)
        return "degraded";
    if (MT_STREQ(f->health, "ready"))
        return "ready";
    if (f->clean >= CLEAN_NEEDED || (f->clean > 0 && f->was_passing))
        return "ready";
    return MT_STREQ(f->health, "degraded") ? "degraded" : f->health;
}

bool mt_liveness_mass(const struct mt_liveness_silence *nodes, size_t n, int64_t suspect_ms, int64_t offline_ms)
{
    size_t silent = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        bool off = MT_STREQ(nodes[i].health, "offline");
        int64_t left = offline_ms - nodes[i].silence_ms; /* negative: that long past the limit */
        if (MT_STREQ(nodes[i].health, "lost") || (off && left < -MT_LIVENESS_MASS_MS))
            continue;
        all++;
        silent += off ? left <= 0 : nodes[i].silence_ms >= suspect_ms && left <= MT_LIVENESS_MASS_MS;
    }
    return silent >= 2 && silent * 2 > all;
}
