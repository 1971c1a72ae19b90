/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rd.h"

const uint8_t *mt_rd_bytes(struct mt_rd *r, size_t n)
{
    static const uint8_t nothing[1];
    if (r->bad || n > r->left) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *b = r->p ? r->p : nothing;
    if (r->p)
        r->p += n;
    r->left -= n;
    return b;
}

static uint64_t be(struct mt_rd *r, size_t n)
{
    const uint8_t *b = mt_rd_bytes(r, n);
    uint64_t v = 0;
    for (size_t i = 0; b && i < n; i++)
        v = v << 8 | b[i];
    return v;
}

static uint64_t le(struct mt_rd *r, size_t n)
{
    const uint8_t *b = mt_rd_bytes(r, n);
    uint64_t v = 0;
    for (size_t i = 0; b && i < n; i++)
        v |= (uint64_t)b[i] << (8 * i);
    return v;
}

uint8_t mt_rd_u8(struct mt_rd *r) { return (uint8_t)be(r, 1); }
uint16_t mt_rd_be16(struct mt_rd *r) { return (uint16_t)be(r, 2); }
uint32_t mt_rd_be24(struct mt_rd *r) { return (uint32_t)be(r, 3); }
uint32_t mt_rd_be32(struct mt_rd *r) { return (uint32_t)be(r, 4); }
uint64_t mt_rd_be64(struct mt_rd *r) { return be(r, 8); }
uint16_t mt_rd_le16(struct mt_rd *r) { return (uint16_t)le(r, 2); }
uint32_t mt_rd_le32(struct mt_rd *r) { return (uint32_t)le(r, 4); }
uint64_t mt_rd_le64(struct mt_rd *r) { return le(r, 8); }
