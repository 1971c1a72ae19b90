/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What no backup needs any more is taken out of the store (storage-and-secrets.md §4.10): a thread of the holder of the role `backups` runs
 * `moat-backup gc` for one volume after the other, with credentials that may delete, which no node has.
 *
 * When a volume is due says retention.h. Its lease is a row of moat.backup_collections: taken under the lock of the log only while no snapshot of the
 * volume is active, and while it holds no node is told of one (plans/node_plan.c), so no upload builds on a chunk that goes. It is renewed by us; when that
 * fails the program is ended long before the lease is. One that was left behind by a process that died is ended by whoever holds the role then. Every
 * end, good or bad, is an event of the volume.
 */
#pragma once

#include "control/control.h"

/** Start the thread. *ret stays NULL, and the return is 0, where the configuration names no store. */
int mt_collector_start(struct mt_control *ctl, struct mt_collector **ret, struct mt_err *err);
/** Ends what runs: nothing is lost, it is done again. NULL is fine. */
void mt_collector_free(struct mt_collector *c);
