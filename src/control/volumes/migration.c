/* SPDX-License-Identifier: Apache-2.0 */
/* See migration.h. */
#include "control/volumes/migration.h"

#include "base/assert.h"
#include "base/str.h"

static const char *const words[MT_MIGRATION_PHASE_MAX] = {"", "precopy", "stopping", "final_copy", "checking", "starting", "returning"};

const char *mt_migration_phase_name(enum mt_migration_phase phase)
{
    MT_ASSERT((unsigned)phase < MT_MIGRATION_PHASE_MAX);
    return words[phase];
}

bool mt_migration_phase_parse(const char *word, enum mt_migration_phase *ret)
{
    for (unsigned i = 1; word && i < MT_MIGRATION_PHASE_MAX; i++)
        if (MT_STREQ(words[i], word)) {
            *ret = (enum mt_migration_phase)i;
            return true;
        }
    return false;
}

bool mt_migration_cancellable(enum mt_migration_phase phase)
{
    return phase < MT_MIGRATION_STARTING;
}

static bool all_stored(const struct mt_migration_facts *f)
{
    for (size_t i = 0; i < f->n_volumes; i++)
        if (!f->volumes[i].has_final || f->volumes[i].final_snapshot != MT_JOB_SUCCEEDED)
            return false;
    return true;
}

/* Why it cannot go on before the change of hands; NULL it can. */
static const char *obstacle(const struct mt_migration_facts *f)
{
    bool final = f->phase == MT_MIGRATION_FINAL_COPY || f->phase == MT_MIGRATION_CHECKING;
    if (f->source_gone && !(final && all_stored(f))) /* once all is in the store nothing runs there and nothing is needed of it */
        return "source_node_gone";
    if (f->target_gone)
        return "target_node_gone";
    for (size_t i = 0; i < f->n_volumes; i++) {
        const struct mt_migration_volume *v = &f->volumes[i];
        if (f->replaces && v->lost)
            return "restore_failed";
        if (!v->kept || (f->replaces && !v->made))
            return "volume_changed";
        if (f->replaces)
            continue;
        if (v->first_snapshot == MT_JOB_FAILED || (final && v->final_snapshot == MT_JOB_FAILED))
            return "snapshot_failed";
        if (v->first_restore == MT_JOB_FAILED || (final && v->final_restore == MT_JOB_FAILED) || !v->made)
            return "restore_failed";
    }
    return NULL;
}

static bool all_copied(const struct mt_migration_facts *f)
{
    for (size_t i = 0; i < f->n_volumes; i++)
        if (f->volumes[i].first_restore != MT_JOB_SUCCEEDED)
            return false;
    return true;
}

static bool all_available(const struct mt_migration_facts *f)
{
    for (size_t i = 0; i < f->n_volumes; i++)
        if (!f->volumes[i].available || !f->volumes[i].has_final || f->volumes[i].final_restore != MT_JOB_SUCCEEDED)
            return false;
    return true;
}

static bool all_looked_at(const struct mt_migration_facts *f)
{
    for (size_t i = 0; i < f->n_volumes; i++)
        if (!f->volumes[i].checking && f->volumes[i].final_restore != MT_JOB_SUCCEEDED)
            return false;
    return true;
}

/* Nobody is stopped, and no node has to be heard, before there is what shall take the place. */
static bool fills(const struct mt_migration_facts *f)
{
    return f->replaces && f->phase == MT_MIGRATION_NO_PHASE && f->n_volumes == 1 && f->volumes[0].coming && f->volumes[0].kept;
}

static enum mt_migration_step fail(const char *why, const char **ret_reason)
{
    *ret_reason = why;
    return MT_MIGRATION_FAIL;
}

enum mt_migration_step mt_migration_next(const struct mt_migration_facts *f, const char **ret_reason)
{
    int64_t since = f->now_ms - f->phase_at_ms, start_limit = f->start_limit_ms > MT_MIGRATION_START_MS ? f->start_limit_ms : MT_MIGRATION_START_MS;
    const char *why = f->phase < MT_MIGRATION_STARTING ? obstacle(f) : NULL;
    *ret_reason = NULL;
    if (f->status == MT_JOB_SUCCEEDED || f->status == MT_JOB_FAILED)
        return MT_MIGRATION_WAIT;
    if (fills(f))
        return MT_MIGRATION_WAIT;
    if (why)
        return fail(why, ret_reason);
    switch (f->phase) {
    case MT_MIGRATION_NO_PHASE:
        return f->replaces ? MT_MIGRATION_STOP : MT_MIGRATION_RUN;
    case MT_MIGRATION_PRECOPY:
        if (!all_copied(f))
            return MT_MIGRATION_WAIT;
        /* asked once more before anybody is stopped for it */
        return f->attached && f->wanted && !f->target_fits ? fail("target_node_full", ret_reason) : MT_MIGRATION_STOP;
    case MT_MIGRATION_STOPPING:
        if (!f->held)
            return f->replaces ? MT_MIGRATION_SWAP : MT_MIGRATION_FINAL;
        return since > MT_MIGRATION_STOP_MS ? fail("stop_timeout", ret_reason) : MT_MIGRATION_WAIT;
    case MT_MIGRATION_FINAL_COPY:
    case MT_MIGRATION_CHECKING:
        if (all_available(f) && !f->held)
            return MT_MIGRATION_SWAP;
        if (since > MT_MIGRATION_FINAL_MS)
            return fail("final_copy_timeout", ret_reason);
        return f->phase == MT_MIGRATION_FINAL_COPY && all_looked_at(f) ? MT_MIGRATION_CHECK : MT_MIGRATION_WAIT;
    case MT_MIGRATION_STARTING:
        if (f->ready || !f->attached || !f->wanted || f->replaces)
            return MT_MIGRATION_SUCCEED;
        /* A target that only cannot be heard may run it and serve: nothing goes back before somebody knows. */
        if ((f->gave_up || since > start_limit) && !f->target_gone)
            return MT_MIGRATION_RETURN;
        return MT_MIGRATION_WAIT;
    case MT_MIGRATION_RETURNING:
        if (f->held)
            return MT_MIGRATION_WAIT;
        *ret_reason = "not_ready_on_target";
        return MT_MIGRATION_SWAP_BACK;
    case MT_MIGRATION_PHASE_MAX:
    default:
        return MT_MIGRATION_WAIT;
    }
}
