/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded reader over borrowed bytes. The bad flag is sticky: after one miss all reads give 0; check once at the end. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_rd {
    const uint8_t *p;
    size_t left;
    bool bad;
};

static inline struct mt_rd mt_rd_of(const void *p, size_t n)
{
    return (struct mt_rd){.p = p, .left = n};
}

/** The next @n bytes, or NULL (and bad) when fewer are left. */
const uint8_t *mt_rd_bytes(struct mt_rd *r, size_t n);
uint8_t mt_rd_u8(struct mt_rd *r);
uint16_t mt_rd_be16(struct mt_rd *r);
uint32_t mt_rd_be24(struct mt_rd *r);
uint32_t mt_rd_be32(struct mt_rd *r);
uint64_t mt_rd_be64(struct mt_rd *r);
uint16_t mt_rd_le16(struct mt_rd *r);
uint32_t mt_rd_le32(struct mt_rd *r);
uint64_t mt_rd_le64(struct mt_rd *r);

/** A reader over the next @n bytes: a nested length cannot outgrow its parent. */
static inline struct mt_rd mt_rd_sub(struct mt_rd *r, size_t n)
{
    const uint8_t *b = mt_rd_bytes(r, n);
    return b ? mt_rd_of(b, n) : (struct mt_rd){.bad = true};
}
