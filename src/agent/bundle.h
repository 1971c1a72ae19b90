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

/**
 * The bundle that was made last before @version, checked likewise. -MT_E_NOT_FOUND none is there (that is whole), or @young and @version is a
 * day old: it has proven itself, and what fails then is something else.
 */
int mt_bundle_before(const char *boot_dir, const char *version, bool young, struct mt_bundle *ret, struct mt_err *err);

/** A VM of @version said hello, or ended without. The count is of one version: another one begins it anew. */
void mt_boot_count_note(struct mt_boot_count *c, const char *version, bool hello);
/** At least three of the last MT_BOOTS_LOOKED_AT failed, and at least every fifth. */
bool mt_boot_count_bad(const struct mt_boot_count *c);
