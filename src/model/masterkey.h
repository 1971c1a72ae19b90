/* SPDX-License-Identifier: Apache-2.0 */
/* The file of master keys (storage-and-secrets.md §8): lines `<id16> <active|retired> <base64 of 32 bytes>`, `#` comments.
 * Parser and writer of a line; who may read the file and where keys are kept is the control plane's. */
#pragma once

#include "base/err.h"

#define MT_MASTERKEY_LEN 32
#define MT_MASTERKEY_ID 17     /* 16 hex digits and NUL */
#define MT_MASTERKEYS_MAX 64
#define MT_MASTERKEYS_FILE ((size_t)16384)
#define MT_MASTERKEY_LINE 80   /* of a written line with \n and NUL */

struct mt_masterkey {
    uint8_t key[MT_MASTERKEY_LEN];
    char id[MT_MASTERKEY_ID];
    bool active;
};

/** The id of a key: first 8 bytes of SHA-256("moat-master-key-v1\0" || key) as hex. */
void mt_masterkey_id(const uint8_t key[MT_MASTERKEY_LEN], char ret[MT_MASTERKEY_ID]);
/** One line with its newline. */
void mt_masterkey_line(const struct mt_masterkey *k, char ret[MT_MASTERKEY_LINE]);
/**
 * Read a whole file.
 * @keys  room for MT_MASTERKEYS_MAX, in memory that may hold keys
 * Returns 0, or -MT_E_INVALID with the line: bad form, an id that is not its key's, a key twice, not exactly one active.
 * Messages never hold key bytes.
 */
int mt_masterkeys_read(const char *text, size_t len, struct mt_masterkey *keys, size_t *ret_n, struct mt_err *err);
