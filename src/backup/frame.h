/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks and manifests as objects: keys, ids, the frame around ciphertext. Pure: bytes in, bytes out; knows neither store nor image.
 * Format: docs/formats/backup.md "Objects"; source: storage-and-secrets.md §4.4, §4.5.
 */
#pragma once

#include "base/err.h"

#define MT_BK_CHUNK ((size_t)4 << 20)
#define MT_BK_ID 32
#define MT_BK_HEADER 32
#define MT_BK_TAG 16
#define MT_BK_OVERHEAD (MT_BK_HEADER + MT_BK_TAG)
#define MT_BK_SLACK ((size_t)64 << 10) /* body <= plaintext + this */
/** Bytes that a buffer for any chunk object needs. */
#define MT_BK_CHUNK_OBJECT_MAX (MT_BK_CHUNK + MT_BK_SLACK + MT_BK_OVERHEAD)
#define MT_BK_CHUNKS_MAX ((uint32_t)1 << 19) /* 2 TiB */

enum mt_bk_frame_kind { MT_BK_FRAME_CHUNK = 1, MT_BK_FRAME_MANIFEST = 2 };

/** Why an object is not what it should be. */
enum mt_bk_why {
    MT_BK_FINE = 0,
    MT_BK_WHY_MISSING,
    MT_BK_WHY_TRUNCATED,   /* longer or shorter than its header says */
    MT_BK_WHY_FRAME,       /* header */
    MT_BK_WHY_EPOCH,       /* no key of that epoch */
    MT_BK_WHY_TAG,         /* altered, swapped, of another volume or key */
    MT_BK_WHY_COMPRESSION,
    MT_BK_WHY_ID,          /* decrypts, but is not the content of that id */
    MT_BK_WHY_MANIFEST,    /* decrypts, but is no well-formed manifest */
    MT_BK_WHY_MAX
};
/** "truncated"; never NULL. */
const char *mt_bk_why_name(enum mt_bk_why why);

/** Whose objects: goes into the additional data, so that an object of another volume never opens. Validated by its owner. */
struct mt_bk_scope {
    char cluster[32], org[36], volume[36];
};

/** Keys of one epoch. Lives in locked memory only. */
struct mt_bk_keys {
    uint32_t epoch;
    uint8_t id[32], chunk[32], manifest[32];
};

/** HKDF-SHA256 of the volume backup key, salt the volume id (RFC 5869). */
void mt_bk_keys_derive(const uint8_t vbk[32], uint32_t epoch, const char *volume_id, struct mt_bk_keys *ret);
/** HMAC-SHA256 of a chunk's plaintext. */
void mt_bk_chunk_id(const struct mt_bk_keys *k, const uint8_t *data, uint8_t ret[MT_BK_ID]);
/** True when all @n bytes (>= 16) are zero; leaves at the first that is not. */
bool mt_bk_zero(const uint8_t *p, size_t n);

/** One compressor and decompressor for each thread. */
struct mt_bk_zip;
struct mt_bk_zip *mt_bk_zip_new(void);
void mt_bk_zip_free(struct mt_bk_zip *z);

/**
 * Seal in place: the body of @body_len bytes stands at @frame + 32 and is encrypted there, header before and tag behind are written
 * (room: body + 48). @name: 32 raw id bytes of a chunk, the snapshot id (NUL terminated) of a manifest. @ret_len: the object's length.
 * -MT_E_NOMEM.
 */
int mt_bk_seal(enum mt_bk_frame_kind kind, bool compressed, const struct mt_bk_keys *k, const struct mt_bk_scope *s, const void *name,
               size_t plain_len, uint8_t *frame, size_t body_len, size_t *ret_len, struct mt_err *err);
/**
 * Compress @plain (one chunk) to @frame + 32 when that saves at least 3 %: returns the body's length, else 0 and the caller stores raw.
 */
size_t mt_bk_compress(struct mt_bk_zip *z, const uint8_t *plain, uint8_t *frame);

/** Epoch that an object's header names, 0 when it is no frame. */
uint32_t mt_bk_frame_epoch(const uint8_t *obj, size_t len);
/** Check and decrypt a manifest object in place; @ret_plain points to obj + 32. */
enum mt_bk_why mt_bk_open_manifest(const struct mt_bk_keys *k, const struct mt_bk_scope *s, const char *snapshot_id, uint8_t *obj, size_t len,
                                   const uint8_t **ret_plain, size_t *ret_len);
/**
 * Check, decrypt (in place), decompress (into @scratch, 4 MiB) and identify a chunk object. @ret_plain: 4 MiB inside @obj or @scratch.
 */
enum mt_bk_why mt_bk_open_chunk(const struct mt_bk_keys *k, const struct mt_bk_scope *s, const uint8_t id[MT_BK_ID], struct mt_bk_zip *z,
                                uint8_t *obj, size_t len, uint8_t *scratch, const uint8_t **ret_plain);
