/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a .env file: what is accepted can be written as a secrets file that reads back to the same map; what is refused is
 * refused with a fault. */
#include "model/dotenv.h"

#include "base/assert.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct mt_secretfile f, g;
    static uint8_t out[MT_SECRETFILE_MAX];
    struct mt_err err;
    size_t n;
    uint8_t *mem = malloc(len ? len : 1), *mem2 = malloc(MT_SECRETFILE_MAX); /* exact: ASan sees a byte too many */
    MT_ASSERT(mem && mem2);
    (void)mt_dotenv_is_secretfile(data, len);
    if (mt_dotenv_read(data, len, mem, &f, &err) < 0) {
        MT_ASSERT(f.fault != MT_SECRETFILE_OK && err.msg[0]);
    } else if (mt_secretfile_write(&f, out, &n, &err) == 0) {
        MT_ASSERT(mt_dotenv_is_secretfile(out, n) && mt_secretfile_read(out, n, mem2, &g, &err) == 0 && f.n == g.n);
        for (size_t i = 0; i < f.n; i++)
            MT_ASSERT(MT_STREQ(f.entries[i].key, g.entries[i].key) && f.entries[i].len == g.entries[i].len &&
                      memcmp(f.entries[i].value, g.entries[i].value, f.entries[i].len) == 0);
    }
    free(mem);
    free(mem2);
    return 0;
}
