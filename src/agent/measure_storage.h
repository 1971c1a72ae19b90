/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent counts of volumes, snapshots, backups and restores for its metrics page (scheduling-and-operations.md §8). Loop thread, but for
 * the attaching, which workers do. All zero is empty.
 */
#pragma once

#include "wire/metrics.h"

enum mt_storage_work { MT_STORAGE_SNAPSHOT = 0, MT_STORAGE_BACKUP, MT_STORAGE_RESTORE, MT_STORAGE_WORK_MAX };
#define MT_STORAGE_ENDS 26 /* the words of measure_storage.c */

struct mt_storage_measure {
    uint64_t ends[MT_STORAGE_WORK_MAX][MT_STORAGE_ENDS];
    struct mt_hist took[MT_STORAGE_WORK_MAX][2]; /* succeeded, failed; none of snapshots */
    uint64_t read_bytes, uploaded_bytes, deduplicated_bytes;
    _Atomic uint64_t attached, not_attached;
    struct mt_hist attach;
};

/** Work has ended: @failed_reason as it is told to the control plane, NULL it succeeded; @took_us -1: do not say how long. */
void mt_storage_measure_end(struct mt_storage_measure *m, enum mt_storage_work what, const char *failed_reason, int64_t took_us);
/** Worker. A volume was made ready for a VM, or could not be. */
void mt_storage_measure_attach(struct mt_storage_measure *m, bool ok, int64_t took_us);
/** Its part of the page. */
void mt_storage_measure_put(const struct mt_storage_measure *m, struct mt_metrics *p);
