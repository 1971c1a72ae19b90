/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of the backups of volumes (storage-and-secrets.md §4.4): one for each volume and epoch, random, kept wrapped. */
#pragma once

#include "control/log/append.h"
#include "control/secrets/keys.h"

/** @cmd makes the first key of a volume where it has none; two at once end with one key. -MT_E_UNAVAILABLE: no master key is loaded. */
int mt_backup_key_ensure(struct mt_keys *keys, struct mt_pg *pg, struct mt_cmd *cmd, const char *cluster_id, const char *org_id,
                         const char *volume_id, struct mt_err *err);
/**
 * @cmd makes the key of the next epoch of a volume: what is backed up from then on can be read with that alone, and the next backup is a full one. It goes
 * stale when a snapshot of the volume is not final, or another does the same. -MT_E_NOT_FOUND: it has no key yet.
 */
int mt_backup_key_next(struct mt_keys *keys, struct mt_pg *pg, struct mt_cmd *cmd, const char *cluster_id, const char *volume_id, uint32_t *ret_epoch, struct mt_err *err);
/**
 * The key of a volume and epoch, 0: the newest; @ret_key is to be wiped by the caller and lies in locked memory.
 * -MT_E_NOT_FOUND it has none; -MT_E_UNAVAILABLE its master key is not loaded; -MT_E_CORRUPT it does not open.
 */
int mt_backup_key_open(struct mt_keys *keys, struct mt_pg *pg, const char *cluster_id, const char *volume_id, uint32_t epoch, uint32_t *ret_epoch,
                       uint8_t ret_key[MT_AEAD_KEY], uint8_t ret_wrapped[MT_SEAL_WRAPPED], struct mt_err *err);
