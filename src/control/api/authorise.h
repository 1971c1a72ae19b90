/* SPDX-License-Identifier: Apache-2.0 */
/* May this caller do this here? Scope, role, restriction and kind of caller against the route (control-plane.md §10.4). */
#pragma once

#include "control/api/call.h"

/** After mt_api_owners: refuse with 403 what the caller may not do. Pure; returns 0 or -1. */
int mt_api_authorise(struct mt_api_call *c);
