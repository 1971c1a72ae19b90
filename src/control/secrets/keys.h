/* SPDX-License-Identifier: Apache-2.0 */
/* The master keys of this server (storage-and-secrets.md §8): read from a file at start and on SIGHUP, kept in locked memory,
 * used only in here. Thread-safe. */
#pragma once

#include "control/secrets/seal.h"
#include "model/masterkey.h"

#include <stdatomic.h>

struct mt_keys;

/** @path NULL: no file is configured. Never fails for the file's sake: without keys every use is -MT_E_UNAVAILABLE. */
int mt_keys_new(const char *path, struct mt_keys **ret, struct mt_err *err);
void mt_keys_free(struct mt_keys *k);
/** Read the file again. On failure the old keys stay; the reason is kept for mt_keys_problem. */
int mt_keys_reload(struct mt_keys *k, struct mt_err *err);
/** Why the last read failed, "" when it did not. */
void mt_keys_problem(struct mt_keys *k, char *ret, size_t size);

struct mt_key_info {
    char id[MT_MASTERKEY_ID];
    bool active;
};
/** What is loaded; returns how many, at most @max. */
size_t mt_keys_list(struct mt_keys *k, struct mt_key_info *ret, size_t max);
/** Id of the active key; -MT_E_UNAVAILABLE. */
int mt_keys_active(struct mt_keys *k, char ret[MT_MASTERKEY_ID], struct mt_err *err);

/** Have key @id no more, until a file is read that has it. -MT_E_NOT_FOUND: it is not loaded; -MT_E_CONFLICT: it is the active one. */
int mt_keys_forget(struct mt_keys *k, const char *id, struct mt_err *err);

/** Wrap with the active key; its id into @ret_id. -MT_E_UNAVAILABLE without keys. */
int mt_keys_wrap(struct mt_keys *k, const struct mt_seal_context *c, const uint8_t key[MT_AEAD_KEY], uint8_t ret[MT_SEAL_WRAPPED],
                 char ret_id[MT_MASTERKEY_ID], struct mt_err *err);
/** Unwrap with the key that it names. -MT_E_UNAVAILABLE when that is not loaded, -MT_E_CORRUPT when it does not open. */
int mt_keys_unwrap(struct mt_keys *k, const struct mt_seal_context *c, const void *wrapped, size_t len, uint8_t ret[MT_AEAD_KEY],
                   struct mt_err *err);
