/* SPDX-License-Identifier: Apache-2.0 */
/* Applying the log to a schema of views again, from any event on, set-wise in batches. A batch is copied into a temporary
 * table of the session, each event with the number of the wave it belongs to; a temporary view named `events` shows one wave
 * at a time. So the very statements that serve appending (projections.c), which name `events` without a schema, run over it. */
#pragma once

#include "control/log/upcast.h"
#include "control/views/projections.h"

/** Events in one batch, at most. */
#define MT_REPLAY_BATCH 50000

/** Whose events to apply: those of one organisation that its app or environment rests on, and no others. Empty: all. */
struct mt_replay_scope {
    char org_id[48];
    char app_id[48]; /* the organisation's own events, and this app's with all its environments */
    char env_id[48]; /* the same, of this environment only */
};

struct mt_replay {
    struct mt_pg *pg;
    struct mt_replay_scope scope;  /* set after mt_replay_init, before the first batch */
    int64_t cursor;                /* events up to here are applied */
    uint64_t views;                /* of mt_proj_tables(), which to fill */
    const struct mt_upcaster *ups; /* NULL: those of the catalogue */
    struct mt_proj_event *events;
    int32_t *wave;
    mt_ev_mask *types; /* per wave */
    int64_t *ids;
};

/** Make the session's temporary objects; its search path is that of the schema to fill, then `moat`. @pg is borrowed and
 * belongs to the replay until mt_replay_done. */
int mt_replay_init(struct mt_replay *r, struct mt_pg *pg, uint64_t views, struct mt_err *err);
void mt_replay_done(struct mt_replay *r);

/**
 * Apply the next events, up to @to, at most one batch, in the transaction under way.
 * @ordered  names are free before they are taken: needed once the tables have their unique indexes.
 * Returns the number of events (0: nothing up to @to), or -code: -MT_E_CORRUPT names an event of unknown type or of a version
 * that this program cannot read, or a gap (with a scope gaps are what it leaves out).
 */
int mt_replay_batch(struct mt_replay *r, int64_t to, bool ordered, struct mt_err *err);
