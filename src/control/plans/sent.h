/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was last sent to whom, in memory: lets a long poll tell "nothing new for you" from "the log moved". A restarted
 * server knows nothing and sends one full snapshot again, which is harmless. Also the last `seq` of each instance's reports.
 * Thread-safe.
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct mt_plans;

struct mt_plans *mt_plans_new(void);
void mt_plans_free(struct mt_plans *p);

/** True when @fingerprint is what was sent to @who last and @who runs @cursor or later of it. */
bool mt_plans_unchanged(struct mt_plans *p, const char *who, const char *fingerprint, int64_t cursor);
/** True when @who runs exactly what it was sent as @cursor and that was compared with the rows within the last MT_PLANS_FRESH_NS: nothing but news since
 * then (plans/news.h) can have changed it. */
bool mt_plans_fresh(struct mt_plans *p, const char *who, int64_t cursor);
#define MT_PLANS_FRESH_NS (INT64_C(60) * 1000000000)
/** @who was sent the content @fingerprint as @cursor. */
void mt_plans_sent(struct mt_plans *p, const char *who, const char *fingerprint, int64_t cursor);

/** Record report @seq of an instance: true when it is newer than every one before it (and is now the newest). */
bool mt_plans_seq(struct mt_plans *p, const char *instance_id, uint64_t seq);
/** Put the seq back when the report could not be stored. */
void mt_plans_seq_undo(struct mt_plans *p, const char *instance_id);
void mt_plans_seq_forget(struct mt_plans *p, const char *instance_id);
/** Forget what was sent and which reports came: the log has another past now. */
void mt_plans_clear(struct mt_plans *p);
