/* SPDX-License-Identifier: Apache-2.0 */
/* Work of operators on wrapped keys (storage-and-secrets.md §8): which master key holds what, wrapping anew under the active
 * one, and opening everything to see that it opens. */
#pragma once

#include "control/secrets/keys.h"
#include "pg/pg.h"

struct mt_key_rows {
    char id[MT_MASTERKEY_ID];
    int64_t rows; /* keys wrapped by it: data keys and tag keys */
};
/** Rows by master key id, ascending; @ret malloc'ed. */
int mt_key_rows(struct mt_pg *pg, struct mt_key_rows **ret, size_t *ret_n, struct mt_err *err);

/** Rows whose key is not in the file, and those of keys that are there and not the active one. */
int mt_key_rows_astray(struct mt_keys *keys, struct mt_pg *pg, int64_t *ret_missing, int64_t *ret_retired, struct mt_err *err);

struct mt_rewrap_done {
    int64_t rewrapped, remaining, failed; /* failed: their key is not loaded, or they do not open; logged */
};
/**
 * Wrap what is under other keys under the active one, in batches of 100, each compare-and-set, for at most @budget_ms. Killed
 * at any time it goes on where it was; several at once do no harm. Version ids and contents stay.
 */
int mt_rewrap(struct mt_keys *keys, struct mt_pg *pg, int64_t budget_ms, struct mt_rewrap_done *ret, struct mt_err *err);

struct mt_verify_done {
    int64_t wrapped, opened, envelopes, envelopes_opened;
};
/** Open every wrapped key and the newest envelope of each bundle. What does not open is logged. */
int mt_secrets_verify(struct mt_keys *keys, struct mt_pg *pg, struct mt_verify_done *ret, struct mt_err *err);
