/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which bundle boots VMs here and by which driver: found and proven at start, and taken back when boots show that it does not hold.
 * Loop thread only; reading, hashing and probing run in the worker pool.
 */
#pragma once

#include "agent/agent.h"

/** At start: find the bundle and a driver that boots it. The agent is `probing` until that is done. */
int mt_boots_start(struct mt_agent *a, struct mt_err *err);

/**
 * A VM of @version has said hello, or ended without. A young version of which too many end so gives way to the one before it
 * (runtime.md §7.1); that holds, also over restarts, until `current` or the plan names a third one.
 */
void mt_boots_seen(struct mt_agent *a, const char *version, bool hello);

/** A start failed because the driver's device is gone (runtime.md §23): no further start until a probe boots again. */
void mt_boots_driver_lost(struct mt_agent *a, const char *why);
