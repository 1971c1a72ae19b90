/* SPDX-License-Identifier: Apache-2.0 */
/* Scheduled backups: the role `backups` looks which volumes are due (schedule.h) and asks for their snapshots. */
#pragma once

#include "control/control.h"

/**
 * One look: ask for the snapshots that are due now, the longest owed first, at most MT_BACKUPS_AT_ONCE. @lease is the epoch under which this
 * process holds the role. Returns how many were asked for, or -code of the first that failed for a reason that will not pass by itself.
 */
#define MT_BACKUPS_AT_ONCE 64
int mt_backups_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
