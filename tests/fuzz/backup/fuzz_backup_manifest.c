/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests: with the root repaired first; what reads writes back to the same bytes. Ranges take the same input. */
#include "backup/manifest.h"
#include "backup/ranges.h"
#include "base/assert.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mt_bk_manifest m;
    uint8_t bits[4] = {0}, head[MT_BK_MANIFEST_HEADER];
    struct mt_bk_ranges r;
    uint8_t *p = malloc(len ? len : 1);
    MT_ASSERT(p);
    if (len)
        memcpy(p, data, len);
    if (len >= MT_BK_MANIFEST_HEADER && (len - MT_BK_MANIFEST_HEADER) % 32 == 0) {
        uint64_t size = 0;
        for (size_t i = 8; i < 16; i++)
            size = size << 8 | p[i];
        MT_ASSERT(mt_bk_image_root(size, (uint32_t)((len - MT_BK_MANIFEST_HEADER) / 32), p + MT_BK_MANIFEST_HEADER, p + 32, NULL) == 0);
    }
    if (mt_bk_manifest_read(p, len, &m, NULL) == 0) {
        mt_bk_manifest_head(&m, head);
        MT_ASSERT(memcmp(head, p, sizeof head) == 0 && len == MT_BK_MANIFEST_LEN(m.count));
    }
    free(p);
    mt_bk_ranges_init(&r, 32 * MT_BK_CHUNK, bits);
    if (mt_bk_ranges_feed(&r, (const char *)data, len, NULL) == 0)
        (void)mt_bk_ranges_end(&r, NULL);
    return 0;
}
