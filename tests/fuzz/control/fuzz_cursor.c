/* SPDX-License-Identifier: Apache-2.0 */
/* Cursors under any bytes: one that is read gives an id and is the only spelling of it; one that was made reads back for its
 * key and for no other. base64url likewise. */
#include "base/b64.h"
#include "control/api/cursor.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void base64(const uint8_t *data, size_t size)
{
    char text[MT_B64URL_SIZE(300)];
    uint8_t back[300];
    if (size > 300)
        return;
    size_t n = mt_b64url_encode(data, size, text);
    if (n != strlen(text) || mt_b64url_decode(text, n, back, sizeof back) != (ssize_t)size || memcmp(back, data, size) != 0)
        abort();
    ssize_t m = mt_b64url_decode((const char *)data, size, back, sizeof back);
    if (m >= 0 && (mt_b64url_encode(back, (size_t)m, text) != size || memcmp(text, data, size) != 0))
        abort(); /* one spelling each */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char key[] = "/v1/orgs desc";
    char id[MT_ID_SIZE], cursor[MT_CURSOR_SIZE];
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    base64(data, size);
    if (mt_cursor_read(text, key, id) && (!mt_cursor_make(id, key, cursor) || strcmp(cursor, text) != 0))
        abort();
    if (mt_cursor_make(text, key, cursor) &&
        (!mt_cursor_read(cursor, key, id) || strcmp(id, text) != 0 || mt_cursor_read(cursor, "/v1/orgs asc", id)))
        abort();
    free(text);
    return 0;
}
