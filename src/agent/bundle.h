/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel and init bundle that new boots use (runtime.md §7.1). Blocking: reads and hashes some 60 MB. */
#pragma once

#include "agent/agent.h"

/**
 * Find and check a bundle below @boot_dir: @version, or when NULL the one that `current` points to.
 * Both files must have the hashes of the root-owned manifest. -MT_E_NOT_FOUND names the folder and how to make one;
 * -MT_E_CORRUPT a hash is wrong or the manifest is not root's.
 */
int mt_bundle_find(const char *boot_dir, const char *version, struct mt_bundle *ret, struct mt_err *err);
