/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks after the firewall table: what somebody else changed is mended, at once when the kernel tells of it and every
 * `drift_seconds` in any case. Loop thread; the look itself on a worker. Source: networking.md §5, §11.
 */
#pragma once

#include "agent/agent.h"

/** NULL and @err when out of memory. Without the kernel's word (no netfilter socket) only the timer is left. */
struct mt_netdrift *mt_netdrift_new(struct mt_agent *a, struct mt_err *err);
void mt_netdrift_free(struct mt_netdrift *d);
