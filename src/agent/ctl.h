/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moat-agent ctl: what the agent of this machine knows, for whoever sits at it, without the control plane (runtime.md §21). A client of the local
 * socket; what is on the disk it reads itself, so that it says something when no agent answers.
 */
#pragma once

#include "agent/config.h"

/** One JSON object a line on stdout. Returns the exit code: 0, 1 failed (said on stderr), 2 no such verb. */
int mt_ctl(const struct mt_agent_conf *conf, int argc, char *const *argv);
