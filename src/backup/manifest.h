/* SPDX-License-Identifier: Apache-2.0 */
/* The list of a backup's chunks, as the plaintext inside its object. Pure. Source: storage-and-secrets.md §4.6. */
#pragma once

#include "backup/frame.h"
#include "model/ids.h"

#define MT_BK_MANIFEST_HEADER 192
/** Bytes of a manifest's plaintext, and of its object. */
#define MT_BK_MANIFEST_LEN(count) (MT_BK_MANIFEST_HEADER + (size_t)(count) * MT_BK_ID)
#define MT_BK_MANIFEST_OBJECT_MAX (MT_BK_MANIFEST_LEN(MT_BK_CHUNKS_MAX) + MT_BK_OVERHEAD)

struct mt_bk_manifest {
    bool filesystem; /* captured frozen, else crash-consistent */
    bool delta;      /* scan mode */
    uint64_t size_bytes;
    uint32_t count;
    uint64_t captured_at_ms;
    uint8_t root[32];
    char snapshot[MT_ID_SIZE], volume[MT_ID_SIZE], parent[MT_ID_SIZE]; /* parent: "" for none */
    uint64_t changed_bytes, uploaded_bytes;
    const uint8_t *ids; /* count * 32 bytes, borrowed from what was read */
};

/** SHA-256 over size, chunk size, count and ids. */
int mt_bk_image_root(uint64_t size_bytes, uint32_t count, const uint8_t *ids, uint8_t ret[32], struct mt_err *err);
/** Header of @m (root included, ids not) to @ret; the ids follow it in the same memory. */
void mt_bk_manifest_head(const struct mt_bk_manifest *m, uint8_t ret[MT_BK_MANIFEST_HEADER]);
/**
 * Read a plaintext. Everything is checked: sizes, paddings, ids, zero fields and that the root is that of the ids.
 * -MT_E_CORRUPT says what is wrong. @ret borrows from @p.
 */
int mt_bk_manifest_read(const uint8_t *p, size_t len, struct mt_bk_manifest *ret, struct mt_err *err);
