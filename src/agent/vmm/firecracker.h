/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of the jailer, apart so that a test can look at it. Internal to this folder. */
#pragma once

#include "agent/vmm/argv.h"
#include "agent/vmm/driver.h"

/** The options of runtime.md §7.3 in their exact order. @file_bytes is RLIMIT_FSIZE. -MT_E_LIMIT. */
int mt_fc_args(const struct mt_vmm *vmm, const struct mt_vmm_spec *spec, uint64_t file_bytes, struct mt_argv *ret, struct mt_err *err);
