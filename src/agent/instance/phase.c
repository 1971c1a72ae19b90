/* SPDX-License-Identifier: Apache-2.0 */
/* The phase table. See phase.h. */
#include "agent/instance/phase.h"

#include <string.h>

#define TO(p) (1U << (p))

static const unsigned phase_may[MT_PH_MAX] = {
    [MT_PH_NONE] = TO(MT_PH_PREPARING) | TO(MT_PH_STOPPED) | TO(MT_PH_BACKOFF) | TO(MT_PH_FAILED) |
                   TO(MT_PH_TEARDOWN),
    [MT_PH_PREPARING] = TO(MT_PH_BOOTING) | TO(MT_PH_TEARDOWN),
    [MT_PH_BOOTING] = TO(MT_PH_STARTING) | TO(MT_PH_STOPPING) | TO(MT_PH_TEARDOWN),
    [MT_PH_STARTING] = TO(MT_PH_READY) | TO(MT_PH_UNREADY) | TO(MT_PH_DRAINING) |
                       TO(MT_PH_STOPPING) | TO(MT_PH_TEARDOWN),
    [MT_PH_READY] =
        TO(MT_PH_UNREADY) | TO(MT_PH_DRAINING) | TO(MT_PH_STOPPING) | TO(MT_PH_TEARDOWN),
    [MT_PH_UNREADY] =
        TO(MT_PH_READY) | TO(MT_PH_DRAINING) | TO(MT_PH_STOPPING) | TO(MT_PH_TEARDOWN),
    [MT_PH_DRAINING] = TO(MT_PH_STOPPING) | TO(MT_PH_TEARDOWN),
    [MT_PH_STOPPING] = TO(MT_PH_TEARDOWN),
    [MT_PH_TEARDOWN] = TO(MT_PH_NONE) | TO(MT_PH_BACKOFF) | TO(MT_PH_STOPPED) | TO(MT_PH_FAILED),
    [MT_PH_BACKOFF] = TO(MT_PH_NONE) | TO(MT_PH_STOPPED),
    [MT_PH_STOPPED] = TO(MT_PH_NONE),
    [MT_PH_FAILED] = TO(MT_PH_NONE) | TO(MT_PH_STOPPED),
};

static const char *const phase_names[MT_PH_MAX] = {
    [MT_PH_NONE] = "none",         [MT_PH_PREPARING] = "preparing", [MT_PH_BOOTING] = "booting",
    [MT_PH_STARTING] = "starting", [MT_PH_READY] = "ready",         [MT_PH_UNREADY] = "unready",
    [MT_PH_DRAINING] = "draining", [MT_PH_STOPPING] = "stopping",   [MT_PH_TEARDOWN] = "teardown",
    [MT_PH_BACKOFF] = "backoff",   [MT_PH_STOPPED] = "stopped",     [MT_PH_FAILED] = "failed",
};

const char *mt_phase_name(enum mt_phase p)
{
    return (unsigned)p < MT_PH_MAX ? phase_names[p] : "invalid";
}

bool mt_phase_parse(const char *name, enum mt_phase *ret)
{
    for (int i = 0; i < MT_PH_MAX; i++) {
        if (strcmp(phase_names[i], name) == 0) {
            *ret = (enum mt_phase)i;
            return true;
        }
    }
    return false;
}

bool mt_phase_may(enum mt_phase from, enum mt_phase to)
{
    return (unsigned)from < MT_PH_MAX && (unsigned)to < MT_PH_MAX && (phase_may[from] & TO(to));
}

const char *mt_phase_wire(enum mt_phase p, bool crash_loop)
{
    switch (p) {
    case MT_PH_NONE:
    case MT_PH_PREPARING:
    case MT_PH_BOOTING:
        return "booting";
    case MT_PH_STARTING:
        return "starting";
    case MT_PH_READY:
        return "ready";
    case MT_PH_UNREADY:
        return "unready";
    case MT_PH_DRAINING:
    case MT_PH_STOPPING:
    case MT_PH_TEARDOWN:
        return "draining";
    case MT_PH_BACKOFF:
        return crash_loop ? "failed" : "booting";
    case MT_PH_STOPPED:
        return "stopped";
    case MT_PH_FAILED:
        return "failed";
    case MT_PH_MAX:
        break;
    }
    return "failed";
}

bool mt_phase_live(enum mt_phase p)
{
    return p >= MT_PH_PREPARING && p <= MT_PH_TEARDOWN;
}
