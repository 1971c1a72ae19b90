/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a volume is backed up by itself (storage-and-secrets.md §4.10). Pure: rows and the time come in, an answer goes out.
 *
 * Time is cut into slots of one interval; where a volume's slots begin is a digest of its id, so that those of one node do not all begin
 * at once. A volume is due when a slot has begun since it was made and since it was last asked for. What cannot begin now (a job runs, the
 * node is away or can make no backups) stays due and begins as soon as it can; it is never owed twice. One that failed is tried again
 * after a twenty-fourth of the interval: waiting for the next slot would make two days of one bad minute.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define MT_BACKUP_INTERVAL_S 86400 /* where the operator set none for the environment */
#define MT_BACKUP_INTERVAL_SQL "86400"
#define MT_BACKUP_RETRY_LEAST_S 300

struct mt_backup_clock {
    const char *volume_id;
    int64_t interval_s;  /* at least 1 */
    int64_t made_ms;     /* Unix milliseconds */
    int64_t asked_ms;    /* when the newest scheduled snapshot was asked for; 0: none yet */
    bool failed;         /* that one failed */
    int64_t ended_ms;    /* when it did */
};

/** Seconds after the beginning of an interval at which this volume's slots begin: below @interval_s. */
int64_t mt_backup_offset_s(const char *volume_id, int64_t interval_s);

/** Unix milliseconds from which on the next scheduled snapshot is due. */
int64_t mt_backup_due_ms(const struct mt_backup_clock *c);
