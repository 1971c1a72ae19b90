/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/frame.h"

#include "base/assert.h"
#include "base/rd.h"
#include "os/aead.h"
#include "os/digest.h"
#include "os/file.h"

#include <string.h>
#include <zstd.h>

#define CIPHER_AES_256_GCM 1
#define MANIFEST_MAX (192 + (size_t)MT_BK_CHUNKS_MAX * MT_BK_ID)
/* Level 1: on the mixed data of bench/backup level 3 costs twice the time and saves 2 % more. */
#define LEVEL 1

struct mt_bk_zip {
    ZSTD_CCtx *c;
    ZSTD_DCtx *d;
};

const char *mt_bk_why_name(enum mt_bk_why why)
{
    static const char *const names[MT_BK_WHY_MAX] = {"fine", "missing", "truncated", "frame", "key_missing", "tag", "compression", "id", "manifest"};
    return names[why];
}

static void derive(const uint8_t prk[32], const char *info, uint8_t ret[32])
{
    uint8_t text[64];
    size_t n = strlen(info);
    MT_ASSERT(n < sizeof text);
    memcpy(text, info, n);
    text[n] = 1; /* RFC 5869: T(1) */
    mt_hmac_sha256(prk, 32, text, n + 1, ret);
}

void mt_bk_keys_derive(const uint8_t vbk[32], uint32_t epoch, const char *volume_id, struct mt_bk_keys *ret)
{
    uint8_t prk[32];
    mt_hmac_sha256(volume_id, strlen(volume_id), vbk, 32, prk);
    ret->epoch = epoch;
    derive(prk, "moat-backup-v1 id", ret->id);
    derive(prk, "moat-backup-v1 chunk", ret->chunk);
    derive(prk, "moat-backup-v1 manifest", ret->manifest);
    explicit_bzero(prk, sizeof prk);
}

void mt_bk_chunk_id(const struct mt_bk_keys *k, const uint8_t *data, uint8_t ret[MT_BK_ID])
{
    mt_hmac_sha256(k->id, sizeof k->id, data, MT_BK_CHUNK, ret);
}

bool mt_bk_zero(const uint8_t *p, size_t n)
{
    static const uint8_t zero[16];
    return memcmp(p, zero, 16) == 0 && memcmp(p, p + 16, n - 16) == 0; /* each byte equals the one 16 before it */
}

struct mt_bk_zip *mt_bk_zip_new(void)
{
    struct mt_bk_zip *z = calloc(1, sizeof *z);
    if (z) {
        z->c = ZSTD_createCCtx();
        z->d = ZSTD_createDCtx();
    }
    if (z && z->c && z->d)
        return z;
    mt_bk_zip_free(z);
    return NULL;
}

void mt_bk_zip_free(struct mt_bk_zip *z)
{
    if (!z)
        return;
    (void)ZSTD_freeCCtx(z->c);
    (void)ZSTD_freeDCtx(z->d);
    free(z);
}

size_t mt_bk_compress(struct mt_bk_zip *z, const uint8_t *plain, uint8_t *frame)
{
    size_t most = MT_BK_CHUNK - MT_BK_CHUNK * 3 / 100;
    size_t n = ZSTD_compressCCtx(z->c, frame + MT_BK_HEADER, most, plain, MT_BK_CHUNK, LEVEL);
    return ZSTD_isError(n) ? 0 : n; /* the one error left is that it does not fit */
}

static void put32(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

#define AAD_MAX 256

static size_t additional(enum mt_bk_frame_kind kind, const uint8_t *header, const struct mt_bk_scope *s, const void *name, uint8_t ret[AAD_MAX])
{
    const char *const parts[] = {kind == MT_BK_FRAME_CHUNK ? "moat-backup-chunk-v1" : "moat-backup-manifest-v1", s->cluster, s->org, s->volume};
    size_t n = MT_BK_HEADER, k = kind == MT_BK_FRAME_CHUNK ? MT_BK_ID : strlen(name);
    memcpy(ret, header, MT_BK_HEADER);
    for (size_t i = 0; i < MT_ARRAY_LEN(parts); i++) {
        size_t len = strlen(parts[i]) + 1;
        MT_ASSERT(n + len <= AAD_MAX);
        memcpy(ret + n, parts[i], len);
        n += len;
    }
    MT_ASSERT(n + k <= AAD_MAX);
    memcpy(ret + n, name, k);
    return n + k;
}

int mt_bk_seal(enum mt_bk_frame_kind kind, bool compressed, const struct mt_bk_keys *k, const struct mt_bk_scope *s, const void *name,
               size_t plain_len, uint8_t *frame, size_t body_len, size_t *ret_len, struct mt_err *err)
{
    uint8_t aad[AAD_MAX];
    const uint8_t *key = kind == MT_BK_FRAME_CHUNK ? k->chunk : k->manifest;
    MT_ASSERT(plain_len <= MANIFEST_MAX && body_len <= plain_len + MT_BK_SLACK);
    memcpy(frame, "MTB1", 4);
    frame[4] = (uint8_t)kind;
    frame[5] = CIPHER_AES_256_GCM;
    frame[6] = compressed;
    frame[7] = 0;
    put32(frame + 8, k->epoch);
    put32(frame + 12, plain_len);
    mt_random(frame + 16, MT_AEAD_NONCE);
    put32(frame + 28, body_len);
    size_t n = additional(kind, frame, s, name, aad);
    uint8_t *body = frame + MT_BK_HEADER;
    int r = mt_aead_seal(key, frame + 16, aad, n, body, body_len, body, body + body_len, err);
    if (r == 0)
        *ret_len = MT_BK_OVERHEAD + body_len;
    return r;
}

struct header {
    uint8_t kind, cipher, compression, zero;
    uint32_t epoch, plain_len, body_len;
};

static enum mt_bk_why read_header(const uint8_t *obj, size_t len, struct header *ret)
{
    struct mt_rd r = mt_rd_of(obj, len);
    const uint8_t *magic = mt_rd_bytes(&r, 4);
    struct header h = {.kind = mt_rd_u8(&r), .cipher = mt_rd_u8(&r), .compression = mt_rd_u8(&r), .zero = mt_rd_u8(&r)};
    h.epoch = mt_rd_be32(&r);
    h.plain_len = mt_rd_be32(&r);
    (void)mt_rd_bytes(&r, MT_AEAD_NONCE);
    h.body_len = mt_rd_be32(&r);
    if (r.bad || r.left < MT_BK_TAG)
        return MT_BK_WHY_TRUNCATED;
    if (memcmp(magic, "MTB1", 4) != 0 || h.cipher != CIPHER_AES_256_GCM || h.compression > 1 || h.zero != 0 || h.plain_len > MANIFEST_MAX ||
        h.body_len > h.plain_len + MT_BK_SLACK || (h.compression == 0 && h.body_len != h.plain_len))
        return MT_BK_WHY_FRAME;
    if (r.left != (size_t)h.body_len + MT_BK_TAG)
        return MT_BK_WHY_TRUNCATED;
    *ret = h;
    return MT_BK_FINE;
}

uint32_t mt_bk_frame_epoch(const uint8_t *obj, size_t len)
{
    struct header h;
    return read_header(obj, len, &h) == MT_BK_FINE ? h.epoch : 0;
}

static enum mt_bk_why open_body(enum mt_bk_frame_kind kind, const struct mt_bk_keys *k, const struct mt_bk_scope *s, const void *name, uint8_t *obj,
                                size_t len, struct header *ret)
{
    uint8_t aad[AAD_MAX];
    enum mt_bk_why why = read_header(obj, len, ret);
    if (why != MT_BK_FINE)
        return why;
    if (ret->kind != kind || (kind == MT_BK_FRAME_CHUNK ? ret->plain_len != MT_BK_CHUNK : ret->compression != 0))
        return MT_BK_WHY_FRAME;
    if (ret->epoch != k->epoch)
        return MT_BK_WHY_EPOCH;
    size_t n = additional(kind, obj, s, name, aad);
    uint8_t *body = obj + MT_BK_HEADER;
    const uint8_t *key = kind == MT_BK_FRAME_CHUNK ? k->chunk : k->manifest;
    return mt_aead_open(key, obj + 16, aad, n, body, ret->body_len, body + ret->body_len, body, NULL) < 0 ? MT_BK_WHY_TAG : MT_BK_FINE;
}

enum mt_bk_why mt_bk_open_manifest(const struct mt_bk_keys *k, const struct mt_bk_scope *s, const char *snapshot_id, uint8_t *obj, size_t len,
                                   const uint8_t **ret_plain, size_t *ret_len)
{
    struct header h;
    enum mt_bk_why why = open_body(MT_BK_FRAME_MANIFEST, k, s, snapshot_id, obj, len, &h);
    if (why == MT_BK_FINE) {
        *ret_plain = obj + MT_BK_HEADER;
        *ret_len = h.plain_len;
    }
    return why;
}

enum mt_bk_why mt_bk_open_chunk(const struct mt_bk_keys *k, const struct mt_bk_scope *s, const uint8_t id[MT_BK_ID], struct mt_bk_zip *z,
                                uint8_t *obj, size_t len, uint8_t *scratch, const uint8_t **ret_plain)
{
    struct header h;
    uint8_t got[MT_BK_ID];
    enum mt_bk_why why = open_body(MT_BK_FRAME_CHUNK, k, s, id, obj, len, &h);
    if (why != MT_BK_FINE)
        return why;
    const uint8_t *plain = obj + MT_BK_HEADER;
    if (h.compression == 1) {
        /* one call into a buffer of fixed size: no window of the sender's choosing is ever allocated */
        if (ZSTD_decompressDCtx(z->d, scratch, MT_BK_CHUNK, plain, h.body_len) != MT_BK_CHUNK)
            return MT_BK_WHY_COMPRESSION;
        plain = scratch;
    }
    mt_bk_chunk_id(k, plain, got);
    if (!mt_digest_equal(got, id, MT_BK_ID))
        return MT_BK_WHY_ID;
    *ret_plain = plain;
    return MT_BK_FINE;
}
