/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel and init bundle that new boots use (runtime.md §7.1). Blocking: reads and hashes some 60 MB. */
#pragma once

#include "agent/agent.h"

/* Whose bundles are taken besides those that this machine built (make-bundle leaves `built-here`, which holds for this machine and manifest only). */
struct mt_bundle_trust {
    char *const *keys; /* Ed25519 public keys, base64 of 32 bytes: with one, what was brought here has to be signed by one of them; none: root's copy will do */
    size_t n_keys;
    const char *machine_id; /* file, /etc/machine-id */
};

/** Is @text the base64 of an Ed25519 public key? The key in @ret. -MT_E_INVALID says what it should be. */
int mt_bundle_key(const char *text, uint8_t ret[32], struct mt_err *err);

/**
 * Find and check a bundle below @boot_dir: @version, or when NULL the one that `current` points to.
 * Both files must have the hashes of the root-owned manifest, and the manifest has to be of an origin that is trusted, before anything of it is
 * believed. -MT_E_NOT_FOUND names the folder and how to make one; -MT_E_CORRUPT a hash or signature is wrong or the manifest is not root's;
 * -MT_E_DENIED nobody who is trusted signed it; -MT_E_INVALID it is for another agent.
 */
int mt_bundle_find(const char *boot_dir, const char *version, const struct mt_bundle_trust *trust, struct mt_bundle *ret, struct mt_err *err);

/**
 * The bundle that was made last before @version, checked likewise. -MT_E_NOT_FOUND none is there (that is whole), or @young and @version is a
 * day old: it has proven itself, and what fails then is something else.
 */
int mt_bundle_before(const char *boot_dir, const char *version, bool young, const struct mt_bundle_trust *trust, struct mt_bundle *ret, struct mt_err *err);

/** A VM of @version said hello, or ended without. The count is of one version: another one begins it anew. */
void mt_boot_count_note(struct mt_boot_count *c, const char *version, bool hello);
/** At least three of the last MT_BOOTS_LOOKED_AT failed, and at least every fifth. */
bool mt_boot_count_bad(const struct mt_boot_count *c);
