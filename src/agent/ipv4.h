/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dedicated IPv4 addresses that this node's edge carries (plan: network.ipv4): taken, kept, given back. Loop thread; each step on a
 * worker, one at a time. What is held is in agent/ipv4.json before the host is changed, so a killed agent's addresses are found again.
 * An address that the plan names no more is given back at once: another edge may have it. Source: networking.md §7.
 */
#pragma once

#include "agent/agent.h"

struct mt_ipv4s;

/** Finds what an earlier process held. NULL and @err when out of memory. */
struct mt_ipv4s *mt_ipv4s_new(struct mt_agent *a, struct mt_err *err);
void mt_ipv4s_free(struct mt_ipv4s *x);
/** The plan of the agent changed. */
void mt_ipv4s_plan(struct mt_ipv4s *x);
/** [{address, state: up|failed|pending, tries, detail?}] of the wanted ones for the heartbeat; NULL: none. New reference. */
json_t *mt_ipv4s_report(const struct mt_ipv4s *x);
/** Is it ours to have, or still to be given back? */
bool mt_ipv4s_holds(const struct mt_ipv4s *x, const char *address);
/** Give all back, blocking: the planned end of the platform. */
int mt_ipv4s_restore(struct mt_ipv4s *x, struct mt_err *err);
