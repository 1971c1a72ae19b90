/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this node's wall clock is off by, as far as the answers to heartbeats prove it (networking.md §2.5, scheduling-and-operations.md §1).
 *
 * An answer holds the control plane's time at some moment between sending and receiving. What lies outside of that span by our own clock is an
 * error for certain; what a slow network, a busy server or a frozen process make is inside of it, so a loaded machine never looks like a wrong clock.
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

#define MT_SKEW_DEGRADED_MS 5000 /* more than this: condition clock_skew */

/**
 * How far our clock is ahead of the other one (behind: negative) at least; 0 when the round trip explains it.
 * @sent_ms, @got_ms   our wall clock, Unix ms, before the request was sent and when its answer was there; false when they cannot be (the clock was
 *                     set between the two)
 * @there_ms           the other clock, somewhere in between
 */
bool mt_skew_least(int64_t sent_ms, int64_t got_ms, int64_t there_ms, int64_t *ret_ms);
