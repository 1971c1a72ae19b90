/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that are drained with `--stateful migrate` (scheduling-and-operations.md §5): their volumes go one after the other to nodes that the scheduler
 * would take for what mounts them. */
#pragma once

#include "control/control.h"

#define MT_DRAIN_MOVES 2 /* from one node at once; to one node one at a time */

/**
 * One look: begin the migrations that can begin now, and say of the volumes that cannot be moved why (`volume.move_refused`, when that is news). @lease is
 * the epoch under which this process holds the role `backups`. Returns how many were begun, or -code.
 */
int mt_drains_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
