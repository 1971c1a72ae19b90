/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes say of restores (docs/formats/volume-plan.md), as events of the job, of its new volume and of the snapshot that was proven. */
#pragma once

#include "control/api/call.h"
#include "control/log/append.h"
#include "model/plan.h"

/** As mt_snapshot_reports_take (snapshot_reports.h). */
int mt_restore_reports_take(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_status_batch *b, json_t *rejected,
                            int *events, int *ignored);
