/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node record of the machine this server runs on: made by the first heartbeat of its agent, found again by peer
 * identity (ruling R26). Further nodes come by enrolment with tokens, which is not here.
 */
#pragma once

#include "base/err.h"
#include "control/control.h"
#include "model/plan.h"

struct mt_local_node {
    char node_id[MT_ID_SIZE];
    char admin_state[24];
    char health[16];
    char agent_version[65];
    char overlay_ipv6[50], instance_prefix[50];
    int64_t version;
};

/** Find it. -MT_E_NOT_FOUND before the first heartbeat. */
int mt_local_node_find(struct mt_pg *pg, struct mt_local_node *ret, struct mt_err *err);

/**
 * Make it from a heartbeat: node.enrolled and node.admin_state_changed (active) in one command.
 * -MT_E_CONFLICT when another node holds the place meanwhile.
 */
int mt_local_node_enrol(struct mt_control *ctl, struct mt_pg *pg, const struct mt_heartbeat *hb, const char *request_id,
                        struct mt_err *err);

/** Append node.updated when allocatable, vmm or agent version differ from the record. */
int mt_local_node_refresh(struct mt_control *ctl, struct mt_pg *pg, const struct mt_local_node *node,
                          const struct mt_heartbeat *hb, const char *request_id, struct mt_err *err);
