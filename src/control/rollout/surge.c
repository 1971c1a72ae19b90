/* SPDX-License-Identifier: Apache-2.0 */
/* Stateless groups: surge then drain, drain-first where there is no room, crash replacement outside rollouts. Pure.
 * Source: scheduling-and-operations.md 4.4 (the four steps), 4.6, 5. */
#include "control/rollout/step.h"

#include "base/str.h"

#define CRASH_ATTEMPTS 3
#define CRASH_PAUSE_MS 300000

struct tally {
    uint32_t good;               /* of the target, staying: live and not evicted, or completed */
    uint32_t good_not_available; /* of these */
    uint32_t old;                /* live, of another spec or evicted */
    uint32_t available;          /* of both */
    uint32_t going;              /* draining or stopping, not yet confirmed stopped, on nodes that answer */
};

static bool is_old(const struct mt_step_inst *in)
{
    return in->live && !in->leaving && (!in->matching || in->evicted);
}

static bool is_good(const struct mt_step_inst *in)
{
    return !in->leaving && in->matching && (in->completed || (in->live && !in->evicted));
}

static struct tally tally(const struct mt_step *s)
{
    struct tally t = {0};

    for (size_t k = 0; k < s->n; k++) {
        const struct mt_step_inst *in = &s->in[k];
        const struct mt_place_node *node = mt_step_node(s, in);
        t.good += is_good(in);
        t.good_not_available += is_good(in) && !in->available;
        t.old += is_old(in);
        t.available += (is_good(in) || is_old(in)) && in->available;
        t.going += (in->leaving || in->i->desired != MT_DESIRED_RUNNING) && in->i->status != MT_STATUS_STOPPED && node &&
                   !mt_node_gone(node);
    }
    return t;
}

/* Smaller goes first. @extra: the order of scaling down instead of that of replacing. */
static int rank(const struct mt_step *s, const struct mt_step_inst *in, bool extra)
{
    const struct mt_place_node *node = mt_step_node(s, in);
    bool worse_node = node && (node->admin == MT_NODE_DRAINING || node->health == MT_NODE_DEGRADED);

    if (!extra)
        return !in->available ? 0 : worse_node ? 1 : 2;
    if (in->completed || in->i->status == MT_STATUS_FAILED)
        return 0;
    if (in->i->status != MT_STATUS_READY)
        return 1;
    return worse_node ? 2 : 3;
}

/* A node that is drained gives up at most max(1, 20 %) of its instances at once, whosever they are. */
static bool has_to_wait(struct mt_step *s, const struct mt_step_inst *in)
{
    const struct mt_place_node *node = mt_step_node(s, in);
    uint32_t fifth = node ? node->instances / 5 : 0;

    if (!in->evicted || !in->matching || !node || node->admin != MT_NODE_DRAINING || node->draining < (fifth > 1 ? fifth : 1))
        return false;
    s->r->waits_for_others = true;
    return true;
}

/* The first in order that may go, or NULL. Instances that are available only go while @spare of them are not needed. */
static struct mt_step_inst *first_to_go(struct mt_step *s, bool extra, bool spare)
{
    struct mt_step_inst *best = NULL;
    int best_rank = 0;

    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        if (extra ? !is_good(in) : !is_old(in))
            continue;
        if (in->available && !in->completed && !spare)
            continue;
        if (has_to_wait(s, in))
            continue;
        int r = rank(s, in, extra);
        if (!best || r < best_rank || (r == best_rank && strcmp(in->i->instance_id, best->i->instance_id) < 0)) {
            best = in;
            best_rank = r;
        }
    }
    return best;
}

static enum mt_reason why_old(const struct mt_step *s, const struct mt_step_inst *in)
{
    const struct mt_place_node *node = mt_step_node(s, in);

    if (!in->matching)
        return s->g->roll_reason;
    return node && node->admin == MT_NODE_DRAINING ? MT_REASON_NODE_DRAINING : MT_REASON_RESTART_REQUESTED;
}

static bool capacity(enum mt_reason reason)
{
    return reason == MT_REASON_NO_CAPACITY_MEMORY || reason == MT_REASON_NO_CAPACITY_DISK || reason == MT_REASON_NO_CAPACITY_CPU ||
           reason == MT_REASON_ORG_QUOTA_EXCEEDED;
}

/* No room for one more: drain one old instance whose place is large enough, and only when nothing else is under way. */
static void drain_first(struct mt_step *s, const struct mt_place_decision *blocked)
{
    struct tally t = tally(s);
    struct mt_step_inst *best = NULL;
    int best_rank = 0;
    bool later = false;

    if (!capacity(blocked->reason) || t.old == 0) {
        mt_step_blocked(s, blocked);
        return;
    }
    if (t.going == 0 && t.good_not_available == 0) {
        for (size_t k = 0; k < s->n; k++) {
            struct mt_step_inst *in = &s->in[k];
            struct mt_place_decision ignored;
            int r = rank(s, in, false);
            bool earlier = !best || r < best_rank || (r == best_rank && strcmp(in->i->instance_id, best->i->instance_id) < 0);
            if (!is_old(in) || !earlier || !mt_step_fits_without(s, in, &ignored))
                continue;
            if (has_to_wait(s, in)) {
                later = true;
                continue;
            }
            best = in;
            best_rank = r;
        }
        if (!best && !later) {
            mt_step_blocked(s, blocked); /* draining would only lose service */
            return;
        }
        if (best)
            mt_step_act(s, MT_ROLL_DRAIN, best, why_old(s, best));
    }
    s->r->surge_unavailable = true;
    s->r->reason = MT_REASON_SURGE_UNAVAILABLE;
    (void)snprintf(s->r->detail, sizeof s->r->detail, "%s: %.120s", mt_reason_code(blocked->reason), blocked->detail);
}

static void allocate(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;
    struct tally t = tally(s);
    uint32_t ceiling = g->desired + mt_roll_surge(g->desired, false), total = t.good + t.old;
    struct mt_place_decision d;

    if (!g->may_allocate)
        return;
    for (uint32_t good = t.good; good < g->desired && total < ceiling; good++, total++) {
        enum mt_place_outcome outcome = mt_step_allocate(s, NULL, NULL, NULL, &d);
        if (outcome == MT_PLACE_BLOCKED && good == t.good)
            drain_first(s, &d);
        else if (outcome == MT_PLACE_BLOCKED && t.old == 0)
            mt_step_blocked(s, &d);
        if (outcome != MT_PLACE_OK)
            return;
    }
}

static void drain_old(struct mt_step *s)
{
    struct tally t = tally(s);
    /* what was allocated in this step is one more in total and one more not available: it cancels out */
    int64_t room = (int64_t)t.good + t.old - s->g->desired - t.good_not_available;

    for (; room > 0; room--) {
        struct mt_step_inst *in = first_to_go(s, false, t.available > s->g->desired);
        if (!in)
            return;
        t.available -= in->available;
        mt_step_act(s, MT_ROLL_DRAIN, in, why_old(s, in));
    }
}

static void drain_extras(struct mt_step *s)
{
    struct tally t = tally(s);

    for (; t.good > s->g->desired; t.good--) {
        struct mt_step_inst *in = first_to_go(s, true, t.available > s->g->desired);
        if (!in)
            return;
        t.available -= in->available;
        mt_step_act(s, in->completed ? MT_ROLL_STOP : MT_ROLL_DRAIN, in, MT_REASON_SCALED_DOWN);
    }
}

/* Outside a rollout: one that keeps failing moves to another node, if there is one and not too often. True when one did. */
static bool replace_crashing(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;

    if (!g->may_allocate || g->restart_policy != MT_RESTART_ALWAYS || !g->stable_spec || !MT_STREQ(g->stable_spec, g->target_spec))
        return false;
    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        const struct mt_place_node *node = mt_step_node(s, in);
        struct mt_place_decision d;
        if (!is_good(in) || in->completed || !node || in->i->status == MT_STATUS_READY ||
            in->i->consecutive_failures < CRASH_ATTEMPTS)
            continue;
        if (g->crash_replacements_10min >= MT_ROLL_CRASHES && s->now_ms - g->last_crash_replacement_ms < CRASH_PAUSE_MS) {
            s->r->condition = MT_ROLL_BLOCKED;
            s->r->reason = MT_REASON_RETRY_BACKOFF;
            mt_step_wake(s, g->last_crash_replacement_ms + CRASH_PAUSE_MS);
            mt_step_wake(s, g->crash_limit_ends_ms);
            s->r->retry_at_ms = g->last_crash_replacement_ms + CRASH_PAUSE_MS;
            if (g->crash_limit_ends_ms > s->now_ms && g->crash_limit_ends_ms < s->r->retry_at_ms)
                s->r->retry_at_ms = g->crash_limit_ends_ms;
            return false;
        }
        if (mt_step_allocate(s, in->i, NULL, node->node_id, &d) != MT_PLACE_OK)
            return false;
        mt_step_act(s, MT_ROLL_STOP, in, MT_REASON_ATTEMPT_FAILED);
        return true; /* one a step: the next is judged on what this one did */
    }
    return false;
}

void mt_step_stateless(struct mt_step *s)
{
    if (replace_crashing(s))
        return; /* the replacement is booked but not in the snapshot yet */
    allocate(s);
    drain_old(s);
    drain_extras(s);
}
