/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations of volumes under way: the role `backups` takes the next step of each (migration.h) as one command that relies on all it has seen. */
#pragma once

#include "control/control.h"

/**
 * One look: as many steps of each as there are. @lease is the epoch under which this process holds the role. *ret_soon: a process stands still
 * meanwhile, or something was done: look again at once. Returns how many steps were taken, or -code.
 */
int mt_migrations_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, bool *ret_soon, struct mt_err *err);

/**
 * Add to @cmd what ends @migration_id, which nobody has ended, before its volumes have changed hands: the job failed with @why, what was made of the new
 * volumes goes, snapshots and restores that have not ended are broken off. Returns 1; 0 it is too late for that, or it has ended; -code.
 */
int mt_migration_end(struct mt_pg *pg, struct mt_cmd *cmd, const char *migration_id, const char *why, struct mt_err *err);
