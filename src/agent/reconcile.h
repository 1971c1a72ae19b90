/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to do with one instance: the table of runtime.md §3, and which plan to believe (§2.1).
 *
 * Pure: time comes in as an argument, nothing is done here. Asking twice with the same facts gives
 * the same answer, and doing the answer twice is harmless.
 */
#pragma once

#include "agent/instance/phase.h"

#include <stdbool.h>
#include <stdint.h>

/** What is seen of an instance, the rows of the table. */
enum mt_observed {
    MT_OBS_NONE = 0,
    MT_OBS_PREPARING,
    MT_OBS_BOOTING,
    MT_OBS_SERVING, /* starting, ready, unready */
    MT_OBS_DRAINING,
    MT_OBS_ENDING, /* stopping or teardown: finish first */
    MT_OBS_BACKOFF,
    MT_OBS_FINAL, /* stopped or failed for good */
    MT_OBS_MAX
};

/** What is wanted of it, the columns. */
enum mt_desired {
    MT_WANT_SAME = 0, /* running, same spec_hash */
    MT_WANT_OTHER,    /* running, other spec_hash or newer generation */
    MT_WANT_DRAINING,
    MT_WANT_STOPPED, /* stopped, or absent and confirmed */
    MT_WANT_MAX
};

enum mt_action {
    MT_ACT_NONE = 0,   /* go on as it is */
    MT_ACT_PREPARE,    /* begin a boot attempt */
    MT_ACT_CANCEL,     /* break off prepare, undo it, then look again */
    MT_ACT_STOP,       /* shutdown with grace, tear down, then look again */
    MT_ACT_DRAIN,      /* keep serving for the delay, then stop */
    MT_ACT_SKIP_DELAY, /* end the drain delay now */
    MT_ACT_CLEAR,      /* forget counters and the wait, take the new spec, prepare */
    MT_ACT_SETTLE,     /* report `stopped`, remove the state once acknowledged */
    MT_ACT_MAX
};

/** Facts for one decision. Times are monotonic nanoseconds. */
struct mt_reconcile_in {
    enum mt_phase phase;
    enum mt_desired want;
    int64_t now_ns;
    int64_t next_retry_ns;        /* meaningful in MT_PH_BACKOFF */
    int64_t drain_until_ns;       /* meaningful in MT_PH_DRAINING */
    uint32_t drain_delay_seconds; /* of the newest assignment; 0 ends the delay */
};

/** The row a phase belongs to. */
enum mt_observed mt_reconcile_observed(enum mt_phase phase);

/** The cell of the table without any clock: what the row and column ask for. */
enum mt_action mt_reconcile_cell(enum mt_observed obs, enum mt_desired want);

/** The decision: the cell, with the waits (retry time, drain delay, final states) applied. */
enum mt_action mt_reconcile(const struct mt_reconcile_in *in);

/** Name of an action for logs and tests; never NULL. */
const char *mt_action_name(enum mt_action a);

/* ---- which plan to believe ---------------------------------------------------------------- */

/** Position of a plan: epoch first, then the event cursor; plan_id tells two equal ones apart. */
struct mt_plan_pos {
    uint64_t epoch;
    uint64_t cursor;
    char plan_id[64];
};

enum mt_plan_verdict {
    MT_PLAN_APPLY = 0,
    MT_PLAN_SAME,  /* counts as one more acceptance of the applied plan */
    MT_PLAN_STALE, /* ignored and counted */
};

/** Compare @got with the applied position (@have, NULL when none was ever applied). */
enum mt_plan_verdict mt_plan_verdict(const struct mt_plan_pos *have, const struct mt_plan_pos *got);

/** Two accepted plans must omit an instance this far apart before it is drained (ruling R10). */
#define MT_ABSENT_NS (10LL * 1000000000LL)

/**
 * One acceptance (a plan applied, or the same one confirmed by a repeat or a 304) was seen at
 * @now_ns; @present says whether it names the instance. *@absent_since_ns is the instance's memory
 * (0 = not missing) and is updated. @recovery: nothing is drained for absence,
 * which counts anew when it is over.
 * Returns true when the absence is confirmed.
 */
bool mt_absence_seen(int64_t *absent_since_ns, bool present, bool recovery, int64_t now_ns);

/** A plan without any instance while @local run here needs allow_empty (runtime.md §2.1). */
bool mt_plan_empty_ok(unsigned named, unsigned local, bool allow_empty);
