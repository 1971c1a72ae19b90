/* SPDX-License-Identifier: Apache-2.0 */
/* The planned end of a node's instances, asked of its agent over the local socket (docs/formats/agent-socket.md). Of `moat down` and `moat-agent stop-all`. */
#pragma once

#include "base/err.h"

#include <stdint.h>

/**
 * Ask the agent behind @socket to stop every instance and to give the host back as it was; blocks for @deadline_ms and a little.
 * -MT_E_UNAVAILABLE: no agent answers there; -MT_E_DENIED: who serves it is not root; -MT_E_TIMEOUT; -MT_E_IO with the agent's own words.
 */
int mt_stop_all(const char *socket, int64_t deadline_ms, struct mt_err *err);
