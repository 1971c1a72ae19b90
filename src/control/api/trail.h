/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the API puts into the audit log (control-plane.md §10.6): a record with every mutation, in its transaction; one before
 * the answer of a sensitive read; one for every denial and every refused mutation, afterwards. It names who, what and how it
 * ended; never a body, a token, a secret or a log line.
 */
#pragma once

#include "control/api/mutate.h"

/** Attach the record of a mutation to its command; the resource is the one of the command's first event. 0 or -1 (problem). */
int mt_api_trail_command(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_api_made *made);
/**
 * Record a sensitive read durably before it is answered (log reads, exec sessions, exports, delivery of secrets).
 * @action  dotted: "logs.read"; @resource_type, @resource_id may be NULL: the environment of the path.
 * Returns 0, or -1 with a problem: without a record there is no answer.
 */
int mt_api_trail_read(struct mt_api_call *c, const char *action, const char *resource_type, const char *resource_id);
/** After a request failed: a record when it was denied (401, 403, 429, foreign organisation) or was a mutation. Never fails. */
void mt_api_trail_refused(struct mt_api_call *c);
/**
 * A record of what is no event (logins, tokens, a login page): handed to the bounded queue. @decision "allow" or "deny",
 * @error_code NULL when it went well; @reason and @resource_id may be NULL.
 */
void mt_api_trail_note(struct mt_api_call *c, const char *action, const char *decision, const char *error_code,
                       const char *resource_type, const char *resource_id, const char *reason);
