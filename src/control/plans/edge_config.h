/* SPDX-License-Identifier: Apache-2.0 */
/* The routing snapshot for edges (networking.md §8.7, docs/formats/edge-config.md). */
#pragma once

#include "control/control.h"

/**
 * Build the snapshot of the edge on @node_id: dedicated IPv4 addresses are served by the one that carries them. @ret_fingerprint covers everything but revision and time, and the instances that are draining: an edge
 * is told again when one begins to drain, even if its routes stay the same, so that its acknowledgement covers it.
 * @since  the last event before which nothing has changed for the edge, 0: not known; for the traces of what changed
 * @allow_shrink  an operator's decision is new to the edge: it may lose most of its routes at once
 * @ret_text malloc'ed
 */
int mt_edge_config_build(struct mt_control *ctl, struct mt_pg *pg, const char *node_id, int64_t since, bool allow_shrink, char **ret_text, size_t *ret_len, int64_t *ret_revision,
                         char ret_fingerprint[65], struct mt_err *err);
