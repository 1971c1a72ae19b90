/* SPDX-License-Identifier: Apache-2.0 */
/* What a node reports of its volumes, into events (docs/formats/volume-plan.md). */
#pragma once

#include "control/api/call.h"
#include "control/log/append.h"
#include "model/plan.h"

/**
 * Add the events that follow from @b to @cmd. What is of other nodes is added to @rejected, what is known already is counted.
 * Returns 0 or -1 with the problem recorded.
 */
int mt_volume_reports_take(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_status_batch *b, json_t *rejected,
                           int *events, int *ignored);
