/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether this machine is short of memory: condition `memory_pressure`.
 *
 * VMs are never promised more than there is (mt_agent_admit), so this says that something else took it: the reserve is too small, or a process beside
 * moat grows. What is asked is MemAvailable, not the kernel's pressure (PSI): a VM that churns page cache at its own memory.max stalls in reclaim
 * and raises the host's PSI, and the host lacks nothing.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { MT_PRESSURE_BELOW_PERCENT = 5, MT_PRESSURE_UNTIL_PERCENT = 8 };

struct mt_pressure {
    bool on;
    unsigned low; /* looks in a row in which less than the lower bound was available */
    uint64_t total_kib, available_kib; /* of the last look; 0 before the first */
};

/** MemTotal and MemAvailable of the text of /proc/meminfo. -MT_E_INVALID when either is missing. */
int mt_pressure_parse(char *meminfo, uint64_t *ret_total_kib, uint64_t *ret_available_kib, struct mt_err *err);

/** One more look: on from the second one in a row below MT_PRESSURE_BELOW_PERCENT, off from MT_PRESSURE_UNTIL_PERCENT. True when it changed. */
bool mt_pressure_note(struct mt_pressure *p, uint64_t total_kib, uint64_t available_kib);
