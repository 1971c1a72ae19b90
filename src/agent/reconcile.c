/* SPDX-License-Identifier: Apache-2.0 */
/* The reconcile table. See reconcile.h; the cells are those of runtime.md §3, in its order. */
#include "agent/reconcile.h"

#include <string.h>

static const enum mt_action cells[MT_OBS_MAX][MT_WANT_MAX] = {
    [MT_OBS_NONE] = {[MT_WANT_SAME] = MT_ACT_PREPARE,
                     [MT_WANT_OTHER] = MT_ACT_PREPARE,
                     [MT_WANT_DRAINING] = MT_ACT_SETTLE,
                     [MT_WANT_STOPPED] = MT_ACT_SETTLE},
    [MT_OBS_PREPARING] = {[MT_WANT_SAME] = MT_ACT_NONE,
                          [MT_WANT_OTHER] = MT_ACT_CANCEL,
                          [MT_WANT_DRAINING] = MT_ACT_CANCEL,
                          [MT_WANT_STOPPED] = MT_ACT_CANCEL},
    [MT_OBS_BOOTING] = {[MT_WANT_SAME] = MT_ACT_NONE,
                        [MT_WANT_OTHER] = MT_ACT_STOP,
                        [MT_WANT_DRAINING] = MT_ACT_STOP,
                        [MT_WANT_STOPPED] = MT_ACT_STOP},
    [MT_OBS_SERVING] = {[MT_WANT_SAME] = MT_ACT_NONE,
                        [MT_WANT_OTHER] = MT_ACT_DRAIN,
                        [MT_WANT_DRAINING] = MT_ACT_DRAIN,
                        [MT_WANT_STOPPED] = MT_ACT_STOP},
    /* draining never reverts: it finishes, and the next look (row none) prepares anew */
    [MT_OBS_DRAINING] = {[MT_WANT_SAME] = MT_ACT_NONE,
                         [MT_WANT_OTHER] = MT_ACT_NONE,
                         [MT_WANT_DRAINING] = MT_ACT_NONE,
                         [MT_WANT_STOPPED] = MT_ACT_SKIP_DELAY},
    [MT_OBS_ENDING] = {[MT_WANT_SAME] = MT_ACT_NONE,
                       [MT_WANT_OTHER] = MT_ACT_NONE,
                       [MT_WANT_DRAINING] = MT_ACT_NONE,
                       [MT_WANT_STOPPED] = MT_ACT_NONE},
    [MT_OBS_BACKOFF] = {[MT_WANT_SAME] = MT_ACT_PREPARE, /* at next_retry_at */
                        [MT_WANT_OTHER] = MT_ACT_CLEAR,
                        [MT_WANT_DRAINING] = MT_ACT_SETTLE,
                        [MT_WANT_STOPPED] = MT_ACT_SETTLE},
    /* the policy has ended this slot: only another spec or its removal moves it */
    [MT_OBS_FINAL] = {[MT_WANT_SAME] = MT_ACT_NONE,
                      [MT_WANT_OTHER] = MT_ACT_CLEAR,
                      [MT_WANT_DRAINING] = MT_ACT_SETTLE,
                      [MT_WANT_STOPPED] = MT_ACT_SETTLE},
};

static const char *const action_names[MT_ACT_MAX] = {
    [MT_ACT_NONE] = "none",   [MT_ACT_PREPARE] = "prepare",
    [MT_ACT_CANCEL] = "cancel", [MT_ACT_STOP] = "stop",
    [MT_ACT_DRAIN] = "drain", [MT_ACT_SKIP_DELAY] = "skip_delay",
    [MT_ACT_CLEAR] = "clear", [MT_ACT_SETTLE] = "settle",
};

const char *mt_action_name(enum mt_action a)
{
    return (unsigned)a < MT_ACT_MAX ? action_names[a] : "invalid";
}

enum mt_observed mt_reconcile_observed(enum mt_phase phase)
{
    switch (phase) {
    case MT_PH_NONE:
        return MT_OBS_NONE;
    case MT_PH_PREPARING:
        return MT_OBS_PREPARING;
    case MT_PH_BOOTING:
        return MT_OBS_BOOTING;
    case MT_PH_STARTING:
    case MT_PH_READY:
    case MT_PH_UNREADY:
        return MT_OBS_SERVING;
    case MT_PH_DRAINING:
        return MT_OBS_DRAINING;
    case MT_PH_STOPPING:
    case MT_PH_TEARDOWN:
        return MT_OBS_ENDING;
    case MT_PH_BACKOFF:
        return MT_OBS_BACKOFF;
    case MT_PH_STOPPED:
    case MT_PH_FAILED:
    case MT_PH_MAX:
        break;
    }
    return MT_OBS_FINAL;
}

enum mt_action mt_reconcile_cell(enum mt_observed obs, enum mt_desired want)
{
    return cells[obs][want];
}

enum mt_action mt_reconcile(const struct mt_reconcile_in *in)
{
    enum mt_observed obs = mt_reconcile_observed(in->phase);
    enum mt_action act = cells[obs][in->want];

    if (obs == MT_OBS_BACKOFF && act == MT_ACT_PREPARE && in->now_ns < in->next_retry_ns)
        return MT_ACT_NONE;
    if (obs == MT_OBS_DRAINING && act == MT_ACT_NONE &&
        (in->now_ns >= in->drain_until_ns ||
         (in->want == MT_WANT_DRAINING && in->drain_delay_seconds == 0)))
        return MT_ACT_SKIP_DELAY;
    return act;
}

enum mt_plan_verdict mt_plan_verdict(const struct mt_plan_pos *have, const struct mt_plan_pos *got)
{
    if (!have)
        return MT_PLAN_APPLY;
    if (got->epoch != have->epoch)
        return got->epoch > have->epoch ? MT_PLAN_APPLY : MT_PLAN_STALE;
    if (got->cursor != have->cursor)
        return got->cursor > have->cursor ? MT_PLAN_APPLY : MT_PLAN_STALE;
    return strcmp(have->plan_id, got->plan_id) == 0 ? MT_PLAN_SAME : MT_PLAN_APPLY;
}

bool mt_absence_seen(int64_t *absent_since_ns, bool present, bool recovery, int64_t now_ns)
{
    if (present) {
        *absent_since_ns = 0;
        return false;
    }
    if (recovery) {
        *absent_since_ns = 0; /* counted from the end of it */
        return false;
    }
    if (*absent_since_ns == 0) {
        *absent_since_ns = now_ns > 0 ? now_ns : 1;
        return false;
    }
    return now_ns - *absent_since_ns >= MT_ABSENT_NS;
}

bool mt_plan_empty_ok(unsigned named, unsigned local, bool allow_empty)
{
    return named > 0 || local < 5 || allow_empty;
}
