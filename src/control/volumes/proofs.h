/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backups that are tried before anybody needs them: the role `backups` asks for the restore of the newest backup of a volume into one that is
 * thrown away, on a schedule and within a budget (storage-and-secrets.md §4.10). What came of it is the snapshot's event.
 *
 * When a volume is due says schedule.h. On one node one proof runs at a time, and in 24 hours not more than MT_PROOF_DAY_BYTES are
 * restored there, or one volume.
 */
#pragma once

#include "control/control.h"
#include "control/volumes/home.h"

/** Of @nodes (home.h) those stay eligible that can restore and try no backup now; no budget is asked. */
int mt_proof_nodes(struct mt_pg *pg, struct mt_volume_node *nodes, size_t n, struct mt_err *err);

/** One look: ask for the proofs that are due and for which there is room, the longest owed first. As mt_backups_look(). */
int mt_proofs_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
