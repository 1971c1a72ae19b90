/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/manifest.h"

#include "base/assert.h"
#include "base/rd.h"
#include "os/digest.h"

#include <string.h>

static void put(uint8_t *p, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
}

int mt_bk_image_root(uint64_t size_bytes, uint32_t count, const uint8_t *ids, uint8_t ret[32], struct mt_err *err)
{
    static const char label[] = "moat-image-v1"; /* with its NUL */
    uint8_t head[sizeof label + 16];
    memcpy(head, label, sizeof label);
    put(head + sizeof label, 8, size_bytes);
    put(head + sizeof label + 8, 4, MT_BK_CHUNK);
    put(head + sizeof label + 12, 4, count);
    return mt_sha256_two(head, sizeof head, ids, (size_t)count * MT_BK_ID, ret, err);
}

void mt_bk_manifest_head(const struct mt_bk_manifest *m, uint8_t ret[MT_BK_MANIFEST_HEADER])
{
    memset(ret, 0, MT_BK_MANIFEST_HEADER);
    memcpy(ret, "MTM1", 4);
    put(ret + 4, 4, m->filesystem);
    put(ret + 8, 8, m->size_bytes);
    put(ret + 16, 4, MT_BK_CHUNK);
    put(ret + 20, 4, m->count);
    put(ret + 24, 8, m->captured_at_ms);
    memcpy(ret + 32, m->root, 32);
    const char *const names[] = {m->snapshot, m->volume, m->parent};
    for (size_t i = 0; i < MT_ARRAY_LEN(names); i++) {
        size_t n = strlen(names[i]);
        MT_ASSERT(n < 32);
        memcpy(ret + 64 + 32 * i, names[i], n);
    }
    put(ret + 160, 4, m->delta);
    put(ret + 168, 8, m->changed_bytes);
    put(ret + 176, 8, m->uploaded_bytes);
}

/* 32 bytes, NUL padded, an id of @kind; all zeros only when @optional. */
static bool read_name(struct mt_rd *r, enum mt_id_kind kind, bool optional, char ret[MT_ID_SIZE])
{
    const uint8_t *p = mt_rd_bytes(r, 32);
    if (!p)
        return false;
    size_t n = strnlen((const char *)p, 32);
    for (size_t i = n; i < 32; i++)
        if (p[i])
            return false;
    if (n == 32 || (n == 0 ? !optional : !mt_id_valid(kind, (const char *)p, n)))
        return false;
    memcpy(ret, p, n);
    ret[n] = 0;
    return true;
}

int mt_bk_manifest_read(const uint8_t *p, size_t len, struct mt_bk_manifest *ret, struct mt_err *err)
{
    struct mt_rd r = mt_rd_of(p, len);
    struct mt_bk_manifest m = {0};
    uint8_t root[32];
    const uint8_t *magic = mt_rd_bytes(&r, 4);
    uint32_t flags = mt_rd_be32(&r);
    m.size_bytes = mt_rd_be64(&r);
    uint32_t chunk = mt_rd_be32(&r);
    m.count = mt_rd_be32(&r);
    m.captured_at_ms = mt_rd_be64(&r);
    const uint8_t *stored_root = mt_rd_bytes(&r, 32);
    if (r.bad || memcmp(magic, "MTM1", 4) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "not a manifest");
    if (flags > 1 || chunk != MT_BK_CHUNK || m.count == 0 || m.count > MT_BK_CHUNKS_MAX || m.size_bytes != (uint64_t)m.count * MT_BK_CHUNK)
        return MT_FAIL(err, MT_E_CORRUPT, "the manifest's flags, chunk size, count or volume size are out of their bounds");
    if (!read_name(&r, MT_ID_SNAPSHOT, false, m.snapshot) || !read_name(&r, MT_ID_VOLUME, false, m.volume) ||
        !read_name(&r, MT_ID_SNAPSHOT, true, m.parent))
        return MT_FAIL(err, MT_E_CORRUPT, "an id in the manifest is malformed");
    uint32_t mode = mt_rd_be32(&r);
    bool zeros = mt_rd_be32(&r) == 0;
    m.changed_bytes = mt_rd_be64(&r);
    m.uploaded_bytes = mt_rd_be64(&r);
    zeros = mt_rd_be64(&r) == 0 && zeros;
    m.ids = mt_rd_bytes(&r, (size_t)m.count * MT_BK_ID);
    if (r.bad || r.left != 0 || mode > 1 || !zeros)
        return MT_FAIL(err, MT_E_CORRUPT, "the manifest's length or scan mode is wrong");
    int rc = mt_bk_image_root(m.size_bytes, m.count, m.ids, root, err);
    if (rc < 0)
        return rc;
    if (!mt_digest_equal(root, stored_root, 32))
        return MT_FAIL(err, MT_E_CORRUPT, "the manifest's image root is not that of its chunks");
    memcpy(m.root, root, 32);
    m.filesystem = flags & 1;
    m.delta = mode == 1;
    *ret = m;
    return 0;
}
