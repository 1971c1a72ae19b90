/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After PostgreSQL was restored to an older point (control-plane.md §16, scheduling-and-operations.md §11.1, docs/recovery.md).
 *
 * Found by what was known to be in the log (log/history.h) and by what agents and edges report. Then the epoch grows by an
 * event, addresses and leases jump, and the platform is FROZEN: nothing is scheduled or appended, agents and edges are told
 * that nothing changed. An operator looks (plan), lets the log rule again (apply) and ends it (finish).
 */
#pragma once

#include "control/control.h"
#include "control/log/history.h"
#include "model/plan.h"

/**
 * Look at the log; when it is not the history that is known, begin the recovery. Also brings this process to a new epoch:
 * heads, streams, what was sent to whom. Any thread; not in a transaction.
 * @ret  the state to act by; or NULL
 */
int mt_recovery_look(struct mt_control *ctl, struct mt_pg *pg, struct mt_history_look *ret, struct mt_err *err);

/** @who ("node node_1", "edge node_1") has applied (@epoch, @cursor). One that the log does not have begins the recovery.
 * @epoch 0: it does not say, and nothing follows. */
int mt_recovery_reported(struct mt_control *ctl, struct mt_pg *pg, const char *who, int64_t epoch, int64_t cursor, struct mt_err *err);

/** Keep what @node_id reports it runs; a full list replaces what it reported before. */
int mt_recovery_keep(struct mt_pg *pg, const char *node_id, const struct mt_status_batch *b, struct mt_err *err);

/** Add the statement to @cmd that empties what was kept. */
int mt_recovery_forget(struct mt_cmd *cmd, struct mt_err *err);
