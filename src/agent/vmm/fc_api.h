/* SPDX-License-Identifier: Apache-2.0 */
/* Firecracker's HTTP API over its Unix socket: the calls of runtime.md §7.4 in their order. Internal to this folder. */
#pragma once

#include "agent/vmm/driver.h"
#include "wire/json.h"

struct mt_fc_version {
    unsigned major, minor, patch;
};

/** "1.13.1", also with a leading 'v' and a suffix ("-dev"). -MT_E_INVALID. */
int mt_fc_version_parse(const char *text, struct mt_fc_version *ret, struct mt_err *err);

/**
 * Wait for the socket (3 s) and ask for the version. All times here are stretched by the driver's patience.
 * @pidfd  Firecracker's: nothing is waited for once it has ended
 * Returns 0; -MT_E_TIMEOUT; -MT_E_UNAVAILABLE when it ended, or with Firecracker's fault_message.
 */
int mt_fc_api_version(const struct mt_vmm *vmm, const struct mt_jail *jail, int pidfd, struct mt_fc_version *ret, struct mt_err *err);

/** The operator's CPU template, *@ret NULL when there is none; the caller's. -MT_E_NOT_FOUND, -MT_E_INVALID (not root's alone, no JSON object), -MT_E_IO. */
int mt_fc_cpu_template(const struct mt_vmm *vmm, json_t **ret, struct mt_err *err);

/** Configure and start: PUT machine-config ... PUT actions, each within 5 s. The first refusal ends it, fault_message kept. */
int mt_fc_api_start(const struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec,
                    const struct mt_fc_version *version, struct mt_err *err);

/** GET / within 2 s; the state must be "Running". */
int mt_fc_api_alive(const struct mt_vmm *vmm, const struct mt_jail *jail, struct mt_err *err);
