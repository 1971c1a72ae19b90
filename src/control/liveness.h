/* SPDX-License-Identifier: Apache-2.0 */
/* Node health from heartbeats (scheduling-and-operations.md §2): transitions become events, heartbeats do not. */
#pragma once

#include "control/control.h"
#include "control/liveness_rules.h"

#include "base/map.h"

/** What the monitor remembers of each node between looks; a new leader starts with nothing. */
struct mt_liveness {
    struct mt_map nodes;     /* node id -> struct of liveness.c */
    int64_t leader_since_ns; /* monotonic */
    bool held;               /* the mass-failure guard holds at the moment */
};

void mt_liveness_init(struct mt_liveness *l, int64_t now_ns);
void mt_liveness_done(struct mt_liveness *l);
/** Look once; appends node.health_changed where the health moves. Returns transitions or -code. */
int mt_liveness_look(struct mt_control *ctl, struct mt_pg *pg, struct mt_liveness *l, int64_t lease_epoch, int64_t now_ns,
                     struct mt_err *err);
