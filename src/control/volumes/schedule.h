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

#define MT_PROOF_INTERVAL_S (7 * 86400)
#define MT_PROOF_STALE_SQL "1209600" /* twice that: then it is an alert */
#define MT_PROOF_RETRY_S (6 * 3600)
#define MT_PROOF_FIRST_S 3600

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

/*
 * When a backup of a volume is proven, by restoring it: within an hour of its first, then MT_PROOF_INTERVAL_S after the last proof, as soon as
 * there is a newer one. After a try that proved nothing, MT_PROOF_RETRY_S later.
 */
struct mt_proof_clock {
    const char *volume_id;
    int64_t first_ms;  /* Unix milliseconds: when its first backup was there */
    int64_t proven_ms; /* when one was last restored and found whole; 0 never */
    int64_t tried_ms;  /* when a proof was last asked for; 0 never */
};

/** Unix milliseconds from which on a proof is due. */
int64_t mt_proof_due_ms(const struct mt_proof_clock *c);

#define MT_PROOF_DAY_BYTES (INT64_C(256) << 30)

/** May a node prove a backup of @bytes now? One at a time, and in 24 hours (@spent_bytes so far) no more than the budget, or one volume. */
bool mt_proof_fits(bool one_runs, int64_t spent_bytes, int64_t bytes);

/** Something that is due, by its row of an answer. */
struct mt_owed {
    int row;
    int64_t due_ms; /* Unix milliseconds */
};

/** qsort() of struct mt_owed: the longest owed first, then by row. */
int mt_longest_owed_first(const void *a, const void *b);
