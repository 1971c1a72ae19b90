/* SPDX-License-Identifier: Apache-2.0 */
/* What a command changes in the replicas that its environment wants (control-plane.md §14, "on the final state"). */
#pragma once

#include "control/api/call.h"
#include "control/log/append.h"

/**
 * Add to @delta what the environment of the call wants after @cmd more than before it: instances, memory with overhead, processor;
 * and the largest memory cap among releases that become desired. The command relies on the rows this is computed from.
 * Returns 0 or -1 (problem recorded).
 */
int mt_quota_groups(struct mt_api_call *c, struct mt_cmd *cmd, int64_t delta[MT_QUOTA_MAX]);
