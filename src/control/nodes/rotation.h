/* SPDX-License-Identifier: Apache-2.0 */
/* Key rotations that begin by age, and the end of those that nobody ends: a node that made its next key known and was not heard of again would keep every other one from
 * rotating, and its peers from reaching it under the key it may still have. */
#pragma once

#include "control/control.h"

/** From a node's word to the moment at which all take its new key, unless the operator said otherwise: every plan is out by then. */
#define MT_ROTATION_LEAD_S 120

/** So long after its moment a rotation without a result is taken back: the node has 120 s to confirm it, and as long again to say so. */
#define MT_ROTATION_OVERDUE_MS (240 * 1000)

/**
 * Take back every rotation that is overdue (`node.wireguard_key_rotation_rolled_back`). For the leader, which @lease proves.
 * Returns how many, or -code; a node that changed meanwhile is looked at again in the next turn.
 * Source: networking.md 2.4, step 5.
 */
int mt_rotation_overdue(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);

/**
 * Ask the node whose key is oldest for another one, when that is `wireguard_key_days` old (up to a tenth earlier, by node: those that came in on one
 * day do not change on one day), nobody's rotation runs or waits, and the node is heard. One that was taken back is tried again a day later. For
 * the leader. Returns 1 when one was asked, 0, or -code. Source: networking.md 2.4.
 */
int mt_rotation_by_age(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
