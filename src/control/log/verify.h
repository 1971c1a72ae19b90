/* SPDX-License-Identifier: Apache-2.0 */
/* Checking the whole log: ids without gaps, numbers of each aggregate without gaps, the hash chain, the counter row. */
#pragma once

#include "pg/pg.h"

struct mt_log_verdict {
    int64_t events;       /* read and found good */
    int64_t head;
    int64_t bad_event_id; /* 0, or the first event that is wrong or missing */
    char what[240];       /* "" or what is wrong with it */
};

/** Called every 65,536 events; return false to stop (-MT_E_CANCELLED). May be NULL. */
typedef bool mt_log_verify_fn(void *arg, int64_t done, int64_t head);

/**
 * Read the log from the first event to the head in one snapshot. 0 whether good or bad: @ret->bad_event_id and ->what tell;
 * -code when it could not be read.
 */
int mt_log_verify(struct mt_pg *pg, mt_log_verify_fn *fn, void *arg, struct mt_log_verdict *ret, struct mt_err *err);
