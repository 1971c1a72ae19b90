/* SPDX-License-Identifier: Apache-2.0 */
/* One question to QEMU's monitor: is the VM running? The answer comes from a process a guest may have taken over: bounded. */
#pragma once

#include "agent/vmm/jail.h"

/**
 * Connect to run/qmp.sock, negotiate, query-status.
 * @ret_status  "running", "internal-error", ...; cut to @size
 * Returns 0; -MT_E_UNAVAILABLE no socket (yet) or closed; -MT_E_TIMEOUT; -MT_E_CORRUPT not QMP.
 */
int mt_qmp_status(const struct mt_jail *jail, int timeout_ms, char *ret_status, size_t size, struct mt_err *err);
