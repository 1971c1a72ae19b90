/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which backups of a volume are kept, and when what nobody keeps is taken out of the store (storage-and-secrets.md §4.10). Pure.
 *
 * Of the scheduled ones the newest @keep_last good ones stay; those asked for by hand until they are deleted. A damaged one counts for nothing:
 * it goes with the first good one that is too many. One that is being restored stays for now. So the newest good one always stays.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_COLLECT_INTERVAL_S (7 * 86400)
#define MT_COLLECT_PAUSE_S 3600        /* between two, when backups are given up one after another */
#define MT_COLLECT_RETRY_S (6 * 3600)  /* after one that failed */

struct mt_kept_backup {
    bool scheduled, damaged, read; /* read: a restore of it has not ended */
    bool prune;                    /* result */
};

/** Judge the backups of one live volume, newest first; @keep_last at least 1. Returns how many are to go. */
size_t mt_retention(struct mt_kept_backup *b, size_t n, uint32_t keep_last);

struct mt_collect_clock {
    int64_t first_ms;     /* Unix milliseconds: when its first backup was there */
    int64_t given_up_ms;  /* when the newest backup was given up that has not been collected; 0: none waits */
    int64_t collected_ms; /* when it was last collected; 0 never */
    int64_t tried_ms;     /* when that was last tried, with whatever end; 0 never */
};

/** Unix milliseconds from which on its objects are to be collected. */
int64_t mt_collect_due_ms(const struct mt_collect_clock *c);
