/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of the roles gc, projector and backups: prunes what has had its time, carries out rebuilds that were asked for, asks for the
 * backups that are due. */
#pragma once

#include "control/roles.h"

struct mt_keeper;

int mt_keeper_start(struct mt_control *ctl, struct mt_roles *roles, struct mt_keeper **ret, struct mt_err *err);
void mt_keeper_free(struct mt_keeper *k);
/** Look at once. Any thread; NULL is fine. */
void mt_keeper_poke(struct mt_keeper *k);
