/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One backup into a new volume: space, what the store has of it, a check of its filesystem, its name. Blocks; on a worker of its own.
 *
 * Killed at any instruction, the next call goes on: what was fetched is in the part of the volume and in the journal beside the records of
 * backups. A volume has its name only when all of it is there and its filesystem was found whole. Knows nothing of plans and reports.
 * Source: storage-and-secrets.md 5.1; docs/formats/backup.md.
 */
#pragma once

#include "agent/backup/engine.h"
#include "agent/volume/backend.h"
#include "agent/volume/fstool.h"
#include "model/volume.h"

struct mt_restore_run {
    struct mt_engine e; /* job: the restore; organisation and volume: those of the snapshot. phase: "downloading", "checking" */
    /* given; strings borrowed */
    const char *snapshot_id, *new_volume_id;
    uint64_t size_bytes; /* of the new volume, at least that of the snapshot's */
    bool proof;          /* it is only tried: what is found whole is removed instead of named */
    bool precopy;        /* it is fetched and no more: the volume of base_restore_id of another run */
    const char *base_restore_id, *base_snapshot_id; /* the pre-copy that this run goes on with: only what differs is fetched; NULL none */
    const char *dir;     /* of journals */
    const struct mt_backend *backend;
    const struct mt_fstool *tools;
    /** Of a proof, may be NULL: the copy at @device is whole, try it; nothing of it is read afterwards. 0; -MT_E_CORRUPT it is no good; else it could not be tried. */
    int (*trial)(void *arg, const char *device, const char *fs_uuid, struct mt_err *err);
    void *trial_arg;
    /* result */
    char fs_uuid[MT_VOLUME_UUID_SIZE];
    bool damaged; /* the backup is: not to be built on */
};

/**
 * Returns 0 it is there (or was: done and not told; a proof: was); -MT_E_CANCELLED; else -code, e.failed_reason (a word of storage-and-secrets.md 5.1)
 * and e.retryable. What was fetched stays until mt_restore_remove().
 */
int mt_restore_run(struct mt_restore_run *r, struct mt_err *err);
/** Remove the part of @new_volume_id, its lock, and the journal of @restore_id; not there is success. Not while it runs. */
int mt_restore_remove(const char *dir, const struct mt_backend *b, const char *restore_id, const char *new_volume_id, struct mt_err *err);
/** A pre-copy is no longer wanted: its journal goes, and the part too unless it has become a volume. Not while anything fills it. */
int mt_restore_forget(const char *dir, const struct mt_backend *b, const char *restore_id, const char *new_volume_id, struct mt_err *err);
/** Remove parts and journals of restores that are not among the @n wanted. Not while one runs. Returns the number of parts removed. */
size_t mt_restore_sweep(const char *dir, const struct mt_backend *b, const char (*restore_ids)[MT_ID_SIZE], const char (*volume_ids)[MT_ID_SIZE], size_t n);
