/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The role `backups` ends volumes that are being deleted and whose node was removed with them (DELETE /v1/nodes/{id}?force=true): nobody is there any
 * more who would say that their data is gone. Their backups go as those of any deleted volume (prune.h). One that nobody deleted stays: what is
 * backed up of it can take its place elsewhere (moat volumes recover).
 */
#pragma once

#include "control/control.h"

/** One look. Returns how many ended, or -code. */
int mt_orphans_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
