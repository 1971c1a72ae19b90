/* SPDX-License-Identifier: Apache-2.0 */
/* base64url of "<16 hex of SHA-256(key)>.<id>". A forged one can only name another place in the same list. */
#include "control/api/cursor.h"

#include "base/b64.h"
#include "os/digest.h"

#include <stdio.h>
#include <string.h>

#define HASH_CHARS 16

static bool id_like(const char *s, size_t n)
{
    if (n == 0 || n >= MT_ID_SIZE)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(s[i] >= 'a' && s[i] <= 'z') && !(s[i] >= '0' && s[i] <= '9') && s[i] != '_')
            return false;
    return true;
}

static void hash_of(const char *key, char ret[MT_SHA256_HEX])
{
    mt_sha256_hex(key, strlen(key), ret);
}

bool mt_cursor_make(const char *id, const char *key, char ret[MT_CURSOR_SIZE])
{
    char hex[MT_SHA256_HEX], plain[HASH_CHARS + 1 + MT_ID_SIZE];
    _Static_assert(MT_B64URL_SIZE(sizeof plain) <= MT_CURSOR_SIZE, "a cursor fits");
    if (!id_like(id, strlen(id)))
        return false;
    hash_of(key, hex);
    int n = snprintf(plain, sizeof plain, "%.*s.%s", HASH_CHARS, hex, id);
    mt_b64url_encode(plain, (size_t)n, ret);
    return true;
}

bool mt_cursor_read(const char *text, const char *key, char ret_id[MT_ID_SIZE])
{
    char hex[MT_SHA256_HEX], plain[HASH_CHARS + 1 + MT_ID_SIZE];
    ssize_t n = mt_b64url_decode(text, strlen(text), plain, sizeof plain - 1);
    if (n <= HASH_CHARS + 1 || plain[HASH_CHARS] != '.')
        return false;
    size_t len = (size_t)n - HASH_CHARS - 1;
    hash_of(key, hex);
    if (memcmp(plain, hex, HASH_CHARS) != 0 || !id_like(plain + HASH_CHARS + 1, len))
        return false;
    memcpy(ret_id, plain + HASH_CHARS + 1, len);
    ret_id[len] = '\0';
    return true;
}
