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

/* Why an address was taken from an edge that may still answer for it (reason of env.ipv4_carrier_changed). */
#define MT_IPV4_GONE "the edge is out of service"
#define MT_IPV4_SILENT "the edge is not heard"

/* What nodes with an edge found of the pool elsewhere (docs/api/internal.md, heartbeat), as a table of SQL: address, place, node_id, received_at. */
#define MT_IPV4_STRAYS \
    "(SELECT x->>'address' AS address, x->>'at' AS place, h.node_id, h.received_at FROM moat.node_heartbeats h, jsonb_array_elements(h.body->'ipv4_strays') x" \
    " WHERE h.received_at > now() - interval '10 minutes')"

/* Of a row @a of ipv4_allocations_view, in SQL with @epoch a parameter: its edge has applied it and the node of it has the address. */
#define MT_IPV4_SERVED(a, epoch) \
    "EXISTS (SELECT 1 FROM moat.edge_heartbeats b JOIN moat.node_heartbeats h USING (node_id) WHERE b.node_id = " a ".edge_node_id" \
    " AND b.revision >= " a ".last_event_id AND b.epoch = " epoch " AND b.received_at > now() - interval '30 seconds'" \
    " AND h.body->'ipv4' @> jsonb_build_array(jsonb_build_object('address', " a ".ipv4_address, 'state', 'up'))" \
    " AND NOT b.ipv4_errors @> jsonb_build_array(jsonb_build_object('address', " a ".ipv4_address)))"

/** Addresses of the pool for node @node_id to look for where they should not be, a new array of texts: at most MT_IPV4_POOL_ASKED. */
int mt_ipv4_pool_to_look_for(struct mt_pg *pg, const char *node_id, json_t **ret, struct mt_err *err);

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
