/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The drift pass: what exists on the host against what the state files say (runtime.md §3).
 *
 * Each 30 s and soon after a start: jails, taps, scratch files and console rings that nobody explains go; the table, the
 * routes and elements of live VMs come back. Only names under moat's own prefixes and folders are touched.
 */
#pragma once

#include "agent/agent.h"

/** Timer callback; @arg is the agent. */
void mt_drift_tick(struct mt_source *s, void *arg);
/** Blocking: remove every orphan; at the planned end, when no instance holds anything. */
void mt_drift_clean_all(struct mt_agent *a);
