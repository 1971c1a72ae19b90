/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placement for large clusters: the same decisions as mt_place, without a look at every node each time. Pure; no time, no
 * I/O. The caller keeps the nodes and says which of them it changed.
 *
 * How: all of a node's score but the spread depends on the node and on the shape of the request (size, architectures,
 * selector). For each shape a tree of maxima over the nodes, in the order (zone, node id), is kept up to date from a list of
 * changed nodes. The spread is equal for all nodes of a zone that hold nothing of the group, so the best node is the best of
 * a few ranges between the nodes that do, and of those few themselves.
 */
#pragma once

#include "control/scheduler/place.h"

struct mt_err;
struct mt_place_index;

#define MT_PLACE_INDEX_NODES (1U << 18) /* more fall back to mt_place */
#define MT_PLACE_INDEX_SHAPES 64U       /* trees kept; the one used longest ago goes first */

/**
 * @nodes   borrowed; ids and zones must not change while the index lives
 * Returns 0; -MT_E_NOMEM.
 */
int mt_place_index_new(struct mt_place_node *nodes, size_t n_nodes, struct mt_place_index **ret, struct mt_err *err);
void mt_place_index_free(struct mt_place_index *ix);

/** Sums, state, labels or failures of @node are other ones. Cheap: the trees look when they are used. */
void mt_place_index_changed(struct mt_place_index *ix, size_t node);

/** The group about to be placed has @by more (or fewer) non-draining instances on @node. */
void mt_place_index_group(struct mt_place_index *ix, size_t node, int by);
/** Forget the group. */
void mt_place_index_group_done(struct mt_place_index *ix);

/** As mt_place over the same nodes, with the group told by mt_place_index_group in place of @request->group_on_node. */
void mt_place_index_find(struct mt_place_index *ix, const struct mt_place_request *request, struct mt_place_decision *ret);

/** Heap bytes held now. */
size_t mt_place_index_bytes(const struct mt_place_index *ix);
