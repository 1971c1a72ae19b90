/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: the input as an object; and, sealed rightly, as the body of one, or hardly any input would get past the tag. */
#include "backup/frame.h"
#include "base/assert.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static uint8_t *obj, *scratch;
    static struct mt_bk_zip *z;
    static const struct mt_bk_scope scope = {.cluster = "c", .org = "o", .volume = "v"};
    struct mt_bk_keys k;
    const uint8_t vbk[32] = {1}, id[32] = {2}, *plain = NULL;
    size_t n = 0;
    if (!obj) {
        obj = malloc(MT_BK_CHUNK_OBJECT_MAX);
        scratch = malloc(MT_BK_CHUNK);
        z = mt_bk_zip_new();
        MT_ASSERT(obj && scratch && z);
    }
    if (len > (1 << 20))
        return 0;
    mt_bk_keys_derive(vbk, 1, "v", &k);
    if (len)
        memcpy(obj, data, len);
    (void)mt_bk_frame_epoch(obj, len);
    MT_ASSERT(mt_bk_open_chunk(&k, &scope, id, z, obj, len, scratch, &plain) != MT_BK_FINE);
    if (len)
        memcpy(obj, data, len);
    MT_ASSERT(mt_bk_open_manifest(&k, &scope, "s", obj, len, &plain, &n) != MT_BK_FINE);
    if (len)
        memcpy(obj + MT_BK_HEADER, data, len);
    MT_ASSERT(mt_bk_seal(MT_BK_FRAME_CHUNK, true, &k, &scope, id, MT_BK_CHUNK, obj, len, &n, NULL) == 0);
    enum mt_bk_why why = mt_bk_open_chunk(&k, &scope, id, z, obj, n, scratch, &plain);
    MT_ASSERT(why == MT_BK_WHY_COMPRESSION || why == MT_BK_WHY_ID); /* nobody has a preimage of that id */
    return 0;
}
