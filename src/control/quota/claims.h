/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quotas of API commands (control-plane.md §14). What a command adds follows from its events, so that no handler has to think of
 * it: an app.created adds an app, whoever made it and by whatever path.
 */
#pragma once

#include "control/api/call.h"
#include "control/log/append.h"
#include "control/scheduler/place.h"

/** Give @cmd its claims and refuse at once what cannot pass now. Returns 0 or -1 (problem recorded: 409 quota_exceeded). */
int mt_quota_claim(struct mt_api_call *c, struct mt_cmd *cmd);
/** Record the refusal of a quota as a problem: 409 quota_exceeded with its details. Returns -1. */
int mt_quota_refused(struct mt_api_call *c, const struct mt_cmd_refused_quota *q);
/** Tier of the configuration; checked when the server started. */
enum mt_quota_tier mt_quota_tier_of(const struct mt_control *ctl);

/** What an organisation's instances take now and may take: not asked to stop, failed and draining ones included. */
struct mt_quota_room {
    char org_id[MT_ID_SIZE];
    int64_t used[3], limit[3]; /* instances, memory with overhead, processor; limits below 0 are none */
};
/** Of all organisations (@org_id NULL) or one. *ret is malloc'ed, *ret_n entries. */
int mt_quota_rooms(struct mt_pg *pg, enum mt_quota_tier tier, const char *org_id, struct mt_quota_room **ret, size_t *ret_n,
                   struct mt_err *err);
/** What is left, for the scheduler. */
struct mt_place_quota mt_quota_left(const struct mt_quota_room *r);
