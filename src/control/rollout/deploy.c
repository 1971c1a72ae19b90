/* SPDX-License-Identifier: Apache-2.0 */
/* The status of a deploy. Pure. */
#include "control/rollout/deploy.h"

#include "base/assert.h"
#include "base/str.h"

static const char *const status_names[MT_DEPLOY_STATUS_MAX] = {
    [MT_DEPLOY_QUEUED] = "queued", [MT_DEPLOY_ROLLING] = "rolling",       [MT_DEPLOY_SUCCEEDED] = "succeeded",
    [MT_DEPLOY_FAILED] = "failed", [MT_DEPLOY_SUPERSEDED] = "superseded",
};

const char *mt_deploy_status_name(enum mt_deploy_status status)
{
    MT_ASSERT((unsigned)status < MT_DEPLOY_STATUS_MAX);
    return status_names[status];
}

bool mt_deploy_status_parse(const char *word, enum mt_deploy_status *ret)
{
    for (unsigned i = 0; word && i < MT_DEPLOY_STATUS_MAX; i++)
        if (MT_STREQ(status_names[i], word)) {
            *ret = (enum mt_deploy_status)i;
            return true;
        }
    return false;
}

uint32_t mt_deploy_timeout_seconds(uint32_t startup_timeout_seconds)
{
    uint32_t twice = startup_timeout_seconds > 1800 ? 3600 : 2 * startup_timeout_seconds;

    return twice < 900 ? 900 : twice;
}

static void fail(const struct mt_deploy *d, struct mt_deploy_decision *ret, const char *reason)
{
    ret->changed = true;
    ret->status = MT_DEPLOY_FAILED;
    (void)snprintf(ret->failed_reason, sizeof ret->failed_reason, "%s", reason);
    ret->append_rollback = d->rollback_on_failure && !d->is_rollback && d->has_previous;
    ret->wake_at_ms = INT64_MAX;
}

/* What a group has to say: why it is blocked, or that it drains first; "" when it just rolls. */
static void speak(const struct mt_deploy_group *g, char *out, size_t size)
{
    const struct mt_roll_result *r = g->result;
    bool blocked = r->condition == MT_ROLL_BLOCKED;

    out[0] = '\0';
    if (r->surge_unavailable)
        (void)snprintf(out, size, "process '%.32s': surge_unavailable, old instances are drained before new ones start",
                       g->process_type);
    else if (blocked)
        (void)snprintf(out, size, "process '%.32s': %s%s%.150s%s", g->process_type, mt_reason_code(r->reason),
                       r->detail[0] ? " (" : "", r->detail, r->detail[0] ? ")" : "");
}

/* A message that was true on the way stays in the record only when it tells of downtime; a block that is over is over. */
static const char *lasting(const struct mt_deploy *d)
{
    return d->message && strstr(d->message, mt_reason_code(MT_REASON_SURGE_UNAVAILABLE)) ? d->message : "";
}

void mt_deploy_step(const struct mt_deploy *d, int64_t now_ms, struct mt_deploy_decision *ret)
{
    bool done = true;
    char said[sizeof ret->message] = "";

    *ret = (struct mt_deploy_decision){.status = d->status, .wake_at_ms = INT64_MAX};
    if (d->status != MT_DEPLOY_QUEUED && d->status != MT_DEPLOY_ROLLING)
        return;
    for (size_t i = 0; i < d->n_groups; i++) {
        const struct mt_roll_result *r = d->groups[i].result;
        done = done && r->satisfied;
        if (r->condition == MT_ROLL_HELD) {
            (void)snprintf(ret->message, sizeof ret->message, "process '%.32s': %.200s", d->groups[i].process_type,
                           r->detail[0] ? r->detail : "held after failed attempts");
            fail(d, ret, r->held_by_operator ? "held_by_operator" : r->held_reason ? r->held_reason : mt_reason_code(MT_REASON_ATTEMPT_FAILED));
            return;
        }
        if (!said[0])
            speak(&d->groups[i], said, sizeof said);
    }
    if (done) {
        ret->changed = true;
        ret->status = MT_DEPLOY_SUCCEEDED;
        (void)snprintf(ret->message, sizeof ret->message, "%s", lasting(d));
        return;
    }
    int64_t deadline = d->created_at_ms + 1000 * (int64_t)d->timeout_seconds;
    if (now_ms >= deadline) {
        (void)snprintf(ret->message, sizeof ret->message, "not finished after %u s%s%.180s", (unsigned)d->timeout_seconds,
                       said[0] ? "; " : "", said);
        fail(d, ret, "timeout");
        return;
    }
    ret->wake_at_ms = deadline;
    (void)snprintf(ret->message, sizeof ret->message, "%s", said[0] ? said : lasting(d));
    ret->changed = d->status == MT_DEPLOY_QUEUED || !MT_STREQ(ret->message, d->message ? d->message : "");
    ret->status = MT_DEPLOY_ROLLING;
}
