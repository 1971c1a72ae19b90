/* SPDX-License-Identifier: Apache-2.0 */
/* What a store says: lists and error documents. */
#include "backup/listing.h"
#include "base/assert.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int each(const struct mt_bk_listed *e, void *arg)
{
    size_t *n = arg;
    ++*n;
    MT_ASSERT((e->key[0] != 0) != (e->prefix[0] != 0) && strlen(e->key) < sizeof e->key && strlen(e->prefix) < sizeof e->prefix);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mt_bk_page page;
    size_t n = 0;
    char code[64];
    if (mt_bk_list_read((const char *)data, len, each, &n, &page, NULL) == 0)
        MT_ASSERT(page.entries == n && n <= 1000 && page.truncated == (page.token[0] != 0));
    mt_bk_error_code((const char *)data, len, code, sizeof code);
    MT_ASSERT(strlen(code) < sizeof code);
    return 0;
}
