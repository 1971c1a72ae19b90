/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as platform.env: what is accepted has a canonical form that reads back to the same map and to itself; what is
 * refused is refused with a fault. */
#include "model/secretfile.h"

#include "base/assert.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void same(const struct mt_secretfile *a, const struct mt_secretfile *b)
{
    MT_ASSERT(a->n == b->n);
    for (size_t i = 0; i < a->n; i++)
        MT_ASSERT(MT_STREQ(a->entries[i].key, b->entries[i].key) && a->entries[i].len == b->entries[i].len &&
                  memcmp(a->entries[i].value, b->entries[i].value, a->entries[i].len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct mt_secretfile f, g;
    static uint8_t again[MT_SECRETFILE_MAX];
    struct mt_err err;
    size_t n, m;
    uint8_t *out = NULL, *mem = malloc(len ? len : 1), *mem2 = malloc(MT_SECRETFILE_MAX); /* exact: ASan sees a byte too many */
    MT_ASSERT(mem && mem2);
    if (mt_secretfile_read(data, len, mem, &f, &err) < 0) {
        MT_ASSERT(f.fault != MT_SECRETFILE_OK && err.msg[0]);
    } else if (out = malloc(mt_secretfile_room(&f)), MT_ASSERT(out), mt_secretfile_write(&f, out, &n, &err) < 0) {
        MT_ASSERT(f.fault == MT_SECRETFILE_TOO_LARGE);
    } else {
        MT_ASSERT(mt_secretfile_read(out, n, mem2, &g, &err) == 0);
        same(&f, &g);
        MT_ASSERT(mt_secretfile_write(&g, again, &m, &err) == 0 && m == n && memcmp(out, again, n) == 0);
        if (f.n) { /* a change of one key and back */
            struct mt_secretfile_entry e = f.entries[f.n / 2];
            MT_ASSERT(mt_secretfile_unset(&f, e.key) && mt_secretfile_set(&f, e.key, e.value, e.len, &err) == 0);
            same(&f, &g);
        }
    }
    free(mem);
    free(mem2);
    free(out);
    return 0;
}
