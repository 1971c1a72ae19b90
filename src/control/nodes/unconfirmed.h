/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that enrolled and never made their first call: somebody has a certificate that nobody uses. */
#pragma once

#include "control/control.h"

/** So long after its enrolment a node that was not heard loses its identity. */
#define MT_UNCONFIRMED_S 3600

/**
 * Disable every node that is `enrolled` for MT_UNCONFIRMED_S: its certificates are revoked, the machine has to enrol anew. For the leader, which
 * @lease proves. Returns how many, or -code; one that changed meanwhile is looked at again in the next turn. Source: networking.md 1.3.
 */
int mt_nodes_unconfirmed(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err);
