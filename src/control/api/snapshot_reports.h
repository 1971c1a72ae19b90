/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes say of snapshots (docs/formats/volume-plan.md), as events. */
#pragma once

#include "control/api/call.h"
#include "control/log/append.h"
#include "model/plan.h"

/**
 * Add the events of the batch's snapshots to @cmd. A job only goes forward: what is behind what is known is ignored, and what a
 * node tells of the snapshots of another is put into @rejected. Progress in bytes is written with the next step, not for itself.
 * Returns 0 or -1 with the reply made.
 */
int mt_snapshot_reports_take(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_status_batch *b, json_t *rejected,
                             int *events, int *ignored);
