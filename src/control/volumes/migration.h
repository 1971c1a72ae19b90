/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is the next step of moving the volumes of a process to another node (storage-and-secrets.md §5.2). Pure: what is there and the time come
 * in, one step goes out; asked again after each, so whoever is killed between two of them is followed by somebody who takes the next.
 *
 *   precopy      snapshots are stored and fetched by the target, the process runs
 *   stopping     nothing of the process may run from here on, and what runs is told to stop
 *   final_copy   nothing runs: what changed since is stored and fetched
 *   checking     the target looks at the file systems
 *   starting     the new volumes have name and place of the old ones; the process starts on the target, and on no other node
 *   returning    it did not serve: it is stopped, and then the old volumes, to which nothing was written since, get their place back
 *
 * One that only replaces goes from `stopping` to `starting` and ends there.
 *
 * Before `starting` every end leaves the old volumes as they were; after it the old copy is removed only when the new one serves.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/volume.h"

#define MT_MIGRATION_STOP_MS (INT64_C(15) * 60 * 1000)  /* the longest grace and drain delay, twice: then it runs on where it is */
#define MT_MIGRATION_FINAL_MS (INT64_C(30) * 60 * 1000) /* a store that is away: the process has stood still for long enough */
#define MT_MIGRATION_START_MS (INT64_C(15) * 60 * 1000) /* where the startup timeout of the process asks for no more */

enum mt_migration_phase {
    MT_MIGRATION_NO_PHASE = 0,
    MT_MIGRATION_PRECOPY,
    MT_MIGRATION_STOPPING,
    MT_MIGRATION_FINAL_COPY,
    MT_MIGRATION_CHECKING,
    MT_MIGRATION_STARTING,
    MT_MIGRATION_RETURNING,
    MT_MIGRATION_PHASE_MAX
};

/** Wire words, "" for no phase. */
const char *mt_migration_phase_name(enum mt_migration_phase phase);
bool mt_migration_phase_parse(const char *word, enum mt_migration_phase *ret);

struct mt_migration_volume {
    bool kept;          /* the old one is there, available, with size and attachment as they were */
    bool made;          /* the new one is there, or on its way */
    bool coming;        /* of a replacement: a restore fills the new one */
    bool lost;          /* and of one that was: the new one is gone, as its restore failed */
    bool available;     /* the new one is whole */
    bool has_final;     /* the last round was asked for */
    bool checking;      /* its restore looks at the file system */
    enum mt_job_status first_snapshot, first_restore, final_snapshot, final_restore;
};

struct mt_migration_facts {
    enum mt_job_status status;
    enum mt_migration_phase phase;
    int64_t now_ms, phase_at_ms;
    int64_t start_limit_ms; /* how long the new instance may take; 0: MT_MIGRATION_START_MS */
    bool replaces;          /* a volume that is there, or is restored, takes the place of another one (§2.5, drained): nothing is copied, and nothing of either goes */
    bool attached;          /* a process mounts them */
    bool wanted;            /* and is wanted to run */
    bool held;              /* an instance that is not observed stopped mounts old or new ones */
    bool ready;             /* an instance on the target is ready */
    bool gave_up;           /* the group is held after failed attempts */
    bool source_gone, target_gone; /* offline, lost, disabled */
    bool target_fits;       /* the process would be placed on the target now */
    const struct mt_migration_volume *volumes;
    size_t n_volumes;
};

enum mt_migration_step {
    MT_MIGRATION_WAIT = 0,
    MT_MIGRATION_RUN,       /* queued: begin */
    MT_MIGRATION_STOP,      /* -> stopping */
    MT_MIGRATION_FINAL,     /* -> final_copy, with the last snapshots and restores */
    MT_MIGRATION_CHECK,     /* -> checking */
    MT_MIGRATION_SWAP,      /* -> starting: names and attachments change hands */
    MT_MIGRATION_SUCCEED,   /* the old volumes may go */
    MT_MIGRATION_FAIL,      /* everything stays as it was; what was made of the new ones goes */
    MT_MIGRATION_RETURN,    /* -> returning */
    MT_MIGRATION_SWAP_BACK, /* names and attachments go back; the new ones stay, unattached: their process may have written to them */
    MT_MIGRATION_STEP_MAX
};

/** @ret_reason: of FAIL and SWAP_BACK a word for failed_reason, else NULL. */
enum mt_migration_step mt_migration_next(const struct mt_migration_facts *f, const char **ret_reason);

/** May the operator still take it back? After that it ends by itself, one way or the other. */
bool mt_migration_cancellable(enum mt_migration_phase phase);
