/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The role `backups` gives up what the policy does not keep (retention.h): the backups of a live volume that are too many, and all of one that was
 * deleted long enough ago or with its backups. An event each; the objects go later (collector.h).
 */
#pragma once

#include "control/control.h"

/** One look: give up at most MT_PRUNE_AT_ONCE. Returns how many, or -code. */
#define MT_PRUNE_AT_ONCE 64
int mt_prune_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
