/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a node (runtime.md §2.1): everything it shall run, resolved, as one JSON document. */
#pragma once

#include "control/control.h"
#include "control/nodes/local.h"
#include "control/log/history.h"

/** What a plan depends on beside the rows. */
struct mt_node_plan_how {
    enum mt_recovery recovery; /* other than none: nothing that the plan does not name is stopped */
    int64_t epoch;
    bool decided;              /* an operator's decision about a recovery is new to the node: the plan may be empty */
};

/** Hash of everything a plan is made of but its cursor; cheap, one query. @ret holds 65 bytes. */
int mt_node_plan_fingerprint(struct mt_control *ctl, struct mt_pg *pg, const struct mt_node *node, const struct mt_node_plan_how *how,
                             char ret[65], struct mt_err *err);

/**
 * Build the plan. A workload that cannot be built (a broken manifest in the log) is left out and logged: the other
 * instances of the node must not suffer.
 * @ret_text malloc'ed
 */
int mt_node_plan_build(struct mt_control *ctl, struct mt_pg *pg, const struct mt_node *node, const struct mt_node_plan_how *how,
                       char **ret_text, size_t *ret_len, int64_t *ret_cursor, struct mt_err *err);
