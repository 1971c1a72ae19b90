/* SPDX-License-Identifier: Apache-2.0 */
/* Why something does not run: the state of groups, and of a failing instance its reason and last lines, fetched from the
 * agent while the answer is made. */
#pragma once

#include "control/api/call.h"

/**
 * The groups of the call's environment: [{process_type, release_id, release_number, desired, wanted?, ready, starting, failed,
 * matching, old, old_ready, draining, sched_condition, reason, detail, since, next_try?, next_try_at?}]. wanted: what a user asked for, above the release's maximum. @process_type limits it, NULL: all. NULL with the problem recorded on failure.
 */
json_t *mt_api_groups(struct mt_api_call *c, const char *process_type);

/**
 * Add "failure" to @object when an instance of the deploy (or, with @deploy_id NULL, of the environment) fails:
 * {instance_id, process_type, status, reason_code, reason_detail, reason_text, exit_code, restart_count, last_lines[],
 * last_console[]}. A silent agent leaves the two lists out. Returns 0 or -1.
 */
int mt_api_diagnose(struct mt_api_call *c, const char *deploy_id, json_t *object);
