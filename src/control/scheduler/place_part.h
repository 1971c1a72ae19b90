/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the scheduler: the parts of a decision that place.c (all nodes) and index.c (trees) share. */
#pragma once

#include "control/scheduler/place.h"

/** What a request is refused for before any node is looked at; NONE: go on. @detail is set for the quota. */
enum mt_reason mt_place_gate(const struct mt_place_request *request, char detail[MT_PLACE_DETAIL]);
/** Score without the spread, 0..6000; -1 when a filter refuses the node or it boots as many as it may. avoid_node_id and
 * volumes count as in mt_place. */
int64_t mt_place_base(const struct mt_place_node *node, const struct mt_place_request *request);
/** The spread's part of the score, 0..4000. */
int64_t mt_place_spread(uint64_t on_node, uint64_t in_zone);
/** The node's zone: its label, else its id. */
const char *mt_place_zone(const struct mt_place_node *node);
