/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop that runs scheduler, rollout and node liveness: one thread, leader by a session advisory lock, woken by the head
 * of the log, by pokes and by time. A lost connection ends leadership; nothing is remembered that the database does not hold.
 */
#pragma once

#include "control/control.h"

struct mt_controller;

int mt_controller_start(struct mt_control *ctl, struct mt_controller **ret, struct mt_err *err);
void mt_controller_poke(struct mt_controller *c);
/** Stop after the running pass, give up the lease, free. NULL is fine. */
void mt_controller_free(struct mt_controller *c);
