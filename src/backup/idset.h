/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compact sets of chunk ids. Pure.
 *
 * mt_bk_idset keeps 64 of the 256 bits of each id. Ids are digests under a key that no tenant knows, so nobody can aim at a
 * clash; of 2^20 ids two clash with a chance of 2^-25. A clash makes a chunk look known that is not: the whole ids are compared
 * against the store's list before a manifest is written, and garbage collection errs on the side of keeping.
 * mt_bk_index leads from a whole id to its place in a manifest.
 */
#pragma once

#include "backup/frame.h"

struct mt_bk_idset {
    uint64_t *slots;
    size_t mask, count, most;
    uint64_t seed;
};

/** Room for at least @n ids. -MT_E_NOMEM. */
int mt_bk_idset_init(struct mt_bk_idset *s, size_t n, struct mt_err *err);
void mt_bk_idset_done(struct mt_bk_idset *s);
bool mt_bk_idset_has(const struct mt_bk_idset *s, const uint8_t id[MT_BK_ID]);
/** True when it was new and is in now. A full set (more than room) takes nothing and says true. */
bool mt_bk_idset_add(struct mt_bk_idset *s, const uint8_t id[MT_BK_ID]);
bool mt_bk_idset_full(const struct mt_bk_idset *s);

struct mt_bk_index {
    const uint8_t *ids; /* borrowed: the manifest's */
    uint32_t *slots;    /* place + 1 */
    size_t mask;
    size_t unique;      /* different ids that are not zero */
};

/** Index the first place of each id of @ids that is not zero. -MT_E_NOMEM. */
int mt_bk_index_init(struct mt_bk_index *x, const uint8_t *ids, uint32_t count, struct mt_err *err);
void mt_bk_index_done(struct mt_bk_index *x);
/** First place of @id; false when it is not there. */
bool mt_bk_index_find(const struct mt_bk_index *x, const uint8_t id[MT_BK_ID], uint32_t *ret);

/** True for the id of a chunk of zeros. */
bool mt_bk_id_zero(const uint8_t id[MT_BK_ID]);

/* Bits, one for each chunk. */
static inline bool mt_bk_bit(const uint8_t *bits, size_t i)
{
    return bits[i >> 3] >> (i & 7) & 1;
}
static inline void mt_bk_bit_set(uint8_t *bits, size_t i)
{
    bits[i >> 3] = (uint8_t)(bits[i >> 3] | 1U << (i & 7));
}
