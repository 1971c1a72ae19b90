/* SPDX-License-Identifier: Apache-2.0 */
/* What happened between two states (api/state.h), in plain words. Pure: no database. */
#pragma once

#include <jansson.h>

/**
 * Append to @out one {kind, text, ...} for each change between states @from and @to, either of which may be JSON null (not there).
 * An environment below an app or organisation is named in the text. With the entry come, where they apply, app_id, env_id,
 * process_type, id, from and to. Instances are not told here. Returns 0, -1 when memory is out.
 */
int mt_changes(json_t *out, const json_t *from, const json_t *to);

/**
 * Append what became of instances: @rows is [{id, env_id, where ("shop/prod" or ""), process_type, release_number?, born (between the
 * moments), born_at, status, released, at, reason?, reason_code?, reason_detail?, exit_code?}] of those with events between the moments,
 * @before the state they began with. Kinds instance_started and instance_ended; one that began and ended between them has both. Returns 0, -1 when memory is out.
 */
int mt_changes_instances(json_t *out, const json_t *before, const json_t *rows);
