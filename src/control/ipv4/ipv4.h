/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dedicated IPv4 addresses of environments (networking.md §7): who carries one, what is due for it, and whether it works.
 *
 * An allocation is made and ended by commands of the API; here is what follows from it by itself: an edge is chosen to carry it and
 * another one when that is gone, and its hours are cut for billing.
 */
#pragma once

#include "control/control.h"

#define MT_IPV4_CARRIER_LOST_S 30  /* silence of a carrier after which another edge takes over */
#define MT_IPV4_BIND_S 60          /* an address that nobody serves for so long is degraded */
#define MT_IPV4_LINGER_S 60        /* connections of an ended allocation may go on */
#define MT_IPV4_ACTIONS_DAY 30     /* enabled or disabled, by one organisation within 24 hours */

/**
 * One turn of the leader, with its lease and since when it leads (monotonic): carriers and hours. Returns how many events were appended, or -code. What changed
 * meanwhile is left to the next turn.
 */
int mt_ipv4_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, int64_t leader_ns, struct mt_err *err);

/**
 * The address of environment @env_id as a new JSON object {ipv4_address, allocation_id, status, edge_node_id?, detail?, enabled_at};
 * *@ret NULL when it has none. status: `active` once the edge has applied it and its node has the address; `pending` before,
 * `degraded` after MT_IPV4_BIND_S, or at once when there is no edge to carry it.
 */
int mt_ipv4_show(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, json_t **ret, struct mt_err *err);
