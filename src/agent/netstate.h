/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent changes on the node itself: overlay address, prefix route, firewall table, forwarding.
 *
 * What it changed is written to <agent_dir>/host.json before it is done, so that the planned end (also of a later
 * process) can leave the host as it was. Loop thread starts the work, a worker does it.
 */
#pragma once

#include "agent/agent.h"

/** Take the network facts of the plan; starts loading when they differ from what is loaded.
 *  @same: `network` is known to equal that of the call before. */
void mt_netstate_plan(struct mt_agent *a, const struct mt_plan *plan, bool same);
/** Load (again) what the last plan said; `fw_loaded` tells when it is done. */
void mt_netstate_load(struct mt_agent *a);
/** The mesh runs with this MTU (bytes): taps follow at the next look, guests at their next boot. */
void mt_netstate_mtu(struct mt_agent *a, uint32_t mtu);
/** Put everything back: blocking, for the planned end, after the last VM is gone. */
int mt_netstate_restore(struct mt_agent *a, struct mt_err *err);
