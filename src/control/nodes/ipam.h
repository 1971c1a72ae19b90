/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How full the pools of addresses are, and what is held by nobody (networking.md §3.2). Both are asked of the views: there is no second set of
 * tables that could disagree with the log. Addresses of instances are no pool: 2^48 for each node, none given out twice.
 */
#pragma once

#include "control/commands/port_policy.h"
#include "pg/pg.h"

#include <jansson.h>

struct mt_control;

enum mt_ipam_pool { MT_IPAM_NODES = 0, MT_IPAM_IPV4, MT_IPAM_PORTS, MT_IPAM_POOLS };
enum mt_ipam_state { MT_IPAM_ALLOCATED = 0, MT_IPAM_COOLDOWN, MT_IPAM_RETIRED, MT_IPAM_FREE, MT_IPAM_STATES };

#define MT_IPAM_LEAKS_MAX 1000 /* of one answer */

extern const char *const mt_ipam_pools[MT_IPAM_POOLS], *const mt_ipam_states[MT_IPAM_STATES];

/** How many of each pool are in each state. An IPv4 address that was withdrawn counts while an environment has it. */
int mt_ipam_count(struct mt_pg *pg, int64_t ipv4_cooldown_s, const struct mt_port_policy *ports, int64_t ret[MT_IPAM_POOLS][MT_IPAM_STATES], struct mt_err *err);

/**
 * What has had no owner for 24 hours and is allocated all the same, as a new JSON array of {pool, address, id, since, why, reclaim}, oldest
 * first and MT_IPAM_LEAKS_MAX at most: the others come when these were reclaimed.
 */
int mt_ipam_leaks(struct mt_pg *pg, json_t **ret, struct mt_err *err);

/**
 * Take back what has had no owner for 24 hours, each with its audit record: nodes that were disabled and hold nothing are removed; with @views, views
 * that lost something are asked to be made again, which the caller does not ask for more than daily: it may not help. Addresses of VMs whose node is
 * silent stay: the machine may run them. For the holder of `gc`, which @lease proves. Returns how many views were asked for, or -code.
 */
int mt_ipam_sweep(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, bool views, struct mt_err *err);
