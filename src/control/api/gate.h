/* SPDX-License-Identifier: Apache-2.0 */
/* What stops every mutation before it is looked at: recovery, maintenance mode, suspended organisations (control-plane.md §16, §3.1). */
#pragma once

#include "control/api/call.h"

/** The switches, in mt_api_call.switches; NULL where this request passes whatever they are. */
const struct mt_pg_stmt *mt_api_gate_asks(const struct mt_api_call *c);

/**
 * May this request change anything now? A frozen recovery refuses (503 recovery) and maintenance refuses all but the routes that say MT_API_ALWAYS (503 maintenance); in a
 * suspended organisation all but operators may only delete (403 forbidden, details.reason org_suspended). 0 or -1 (problem).
 */
int mt_api_gate(struct mt_api_call *c);
