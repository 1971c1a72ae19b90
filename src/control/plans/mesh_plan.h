/* SPDX-License-Identifier: Apache-2.0 */
/* The mesh as one node is told of it (docs/formats/mesh-plan.md): out of the rows of all nodes that belong to it. */
#pragma once

#include "control/nodes/node.h"

/**
 * New references: @ret_mesh is NULL while @node is in no mesh (then there are no peers), @ret_peers and @ret_gateways are arrays.
 * What is built obeys mt_mesh_check: the events that lead to it were checked one by one.
 */
int mt_mesh_plan_build(struct mt_pg *pg, const struct mt_node *node, json_t **ret_mesh, json_t **ret_peers, json_t **ret_gateways,
                       struct mt_err *err);

/** Key of cluster_view: the revision of the mesh for which an operator allowed that more than half of a node's peers go. */
#define MT_MESH_REMOVAL_KEY "mesh_removal"

/** SQL condition on nodes_view @n: the node takes part in the mesh. */
#define MT_MESH_MEMBER(n) \
    "NOT " n ".deleted AND " n ".admin_state IN ('active', 'cordoned', 'draining') AND " n ".wireguard_public_key NOT LIKE 'local:%'"

/** SQL condition on nodes_view @n: it was asked to change its key, is there, and would not miss the moment. */
#define MT_ROTATION_MAY_BEGIN(n) n ".rotation_lead_s IS NOT NULL AND " n ".health IN ('ready', 'degraded') AND NOT 'clock_skew' = ANY (" n ".conditions)"
