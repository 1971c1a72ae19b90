/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node record of the machine this server runs on: made by the first heartbeat of its agent, found again by peer
 * identity (ruling R26). Further nodes come by enrolment with tokens (enroll.h). And what every heartbeat says of a node.
 */
#pragma once

#include "base/err.h"
#include "control/nodes/node.h"
#include "model/plan.h"

/**
 * Make it from a heartbeat: node.enrolled and node.admin_state_changed (active) in one command.
 * -MT_E_CONFLICT when another node holds the place meanwhile.
 */
int mt_local_node_enrol(struct mt_control *ctl, struct mt_pg *pg, const struct mt_heartbeat *hb, const char *request_id,
                        struct mt_err *err);

/** Append node.updated when allocatable, vmm or agent version differ from the record. */
int mt_node_refresh(struct mt_control *ctl, struct mt_pg *pg, const struct mt_node *node,
                          const struct mt_heartbeat *hb, const char *request_id, struct mt_err *err);
