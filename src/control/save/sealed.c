/* SPDX-License-Identifier: Apache-2.0 */
/* See sealed.h. The key is used for this file alone, so the place of a frame is its nonce. */
#include "control/save/sealed.h"

#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "moat-control-backup 1 "
#define HEADER (sizeof MAGIC - 1 + 2 * (size_t)MT_SEAL_WRAPPED + 1)
#define LAST 0x80000000U

static const char context[] = "moat-control-backup-v1";

static void seal_context(struct mt_seal_context *ret)
{
    *ret = (struct mt_seal_context){.len = sizeof context - 1};
    memcpy(ret->p, context, sizeof context - 1);
}

static int put(struct mt_sealed *s, const uint8_t *p, size_t n, struct mt_err *err)
{
    s->bytes += n;
    while (n) {
        ssize_t w = write(s->fd, p, n);
        if (w < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "write the backup");
        if (w > 0) {
            p += w;
            n -= (size_t)w;
        }
    }
    return 0;
}

/* As many of @n bytes as the file has. */
static int get(struct mt_sealed *s, void *p, size_t n, size_t *ret, struct mt_err *err)
{
    *ret = 0;
    while (*ret < n) {
        ssize_t r = read(s->fd, (uint8_t *)p + *ret, n - *ret);
        if (r == 0)
            break;
        if (r < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read the backup");
        *ret += r > 0 ? (size_t)r : 0;
    }
    s->bytes += *ret;
    return 0;
}

static int begin(struct mt_sealed *s, int fd, struct mt_err *err)
{
    *s = (struct mt_sealed){.fd = fd};
    s->plain = malloc(MT_SEALED_FRAME);
    s->frame = malloc(MT_SEALED_FRAME + MT_AEAD_TAG + 4);
    if (!s->plain || !s->frame)
        return MT_FAIL(err, MT_E_NOMEM, "backup");
    int rc = mt_lockmem_new(&s->key, MT_AEAD_KEY, err);
    s->key.len = MT_AEAD_KEY;
    return rc;
}

int mt_sealed_create(struct mt_sealed *s, int fd, struct mt_keys *keys, struct mt_err *err)
{
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char header[HEADER + 1], id[MT_MASTERKEY_ID];
    struct mt_seal_context c;
    int rc = begin(s, fd, err);
    if (rc < 0)
        return rc;
    mt_random(s->key.p, MT_AEAD_KEY);
    seal_context(&c);
    if ((rc = mt_keys_wrap(keys, &c, s->key.p, wrapped, id, err)) < 0)
        return rc;
    memcpy(header, MAGIC, sizeof MAGIC - 1);
    mt_hex_encode(wrapped, sizeof wrapped, header + sizeof MAGIC - 1);
    header[HEADER - 1] = '\n';
    mt_sha256_of(header, HEADER, s->file);
    return put(s, (const uint8_t *)header, HEADER, err);
}

static void bound_to(const struct mt_sealed *s, bool last, uint8_t aad[41], uint8_t nonce[MT_AEAD_NONCE])
{
    memcpy(aad, s->file, 32);
    memset(nonce, 0, MT_AEAD_NONCE);
    for (int i = 0; i < 8; i++)
        aad[32 + i] = nonce[4 + i] = (uint8_t)(s->index >> (56 - 8 * i));
    aad[40] = last;
}

static int flush(struct mt_sealed *s, bool last, struct mt_err *err)
{
    uint8_t aad[41], nonce[MT_AEAD_NONCE];
    uint32_t word = (uint32_t)s->fill | (last ? LAST : 0);
    bound_to(s, last, aad, nonce);
    for (int i = 0; i < 4; i++)
        s->frame[i] = (uint8_t)(word >> (24 - 8 * i));
    int rc = mt_aead_seal(s->key.p, nonce, aad, sizeof aad, s->plain, s->fill, s->frame + 4, s->frame + 4 + s->fill, err);
    if (rc == 0)
        rc = put(s, s->frame, 4 + s->fill + MT_AEAD_TAG, err);
    s->index++;
    s->fill = 0;
    s->last = last;
    return rc;
}

int mt_sealed_write(struct mt_sealed *s, const void *data, size_t n, struct mt_err *err)
{
    const uint8_t *p = data;
    while (n) {
        size_t part = MT_SEALED_FRAME - s->fill < n ? MT_SEALED_FRAME - s->fill : n;
        memcpy(s->plain + s->fill, p, part);
        s->fill += part;
        p += part;
        n -= part;
        if (s->fill == MT_SEALED_FRAME) {
            int rc = flush(s, false, err);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

int mt_sealed_finish(struct mt_sealed *s, struct mt_err *err)
{
    int rc = flush(s, true, err);
    if (rc == 0 && fsync(s->fd) < 0 && errno != EINVAL && errno != EROFS) /* EINVAL: a pipe */
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "write the backup to its disk");
    return rc;
}

int mt_sealed_open(struct mt_sealed *s, int fd, struct mt_keys *keys, struct mt_err *err)
{
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char header[HEADER + 1];
    struct mt_seal_context c;
    size_t n;
    int rc = begin(s, fd, err);
    if (rc < 0 || (rc = get(s, header, HEADER, &n, err)) < 0)
        return rc;
    header[n] = '\0';
    if (n != HEADER || memcmp(header, MAGIC, sizeof MAGIC - 1) != 0 || header[HEADER - 1] != '\n')
        return MT_FAIL(err, MT_E_CORRUPT, "this is no backup of a control plane (its first line is not 'moat-control-backup 1 …')");
    mt_sha256_of(header, HEADER, s->file);
    header[HEADER - 1] = '\0';
    if (mt_hex_decode(header + sizeof MAGIC - 1, sizeof wrapped, wrapped) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "the first line of the backup is malformed");
    seal_context(&c);
    rc = mt_keys_unwrap(keys, &c, wrapped, sizeof wrapped, s->key.p, err);
    return rc < 0 ? mt_err_wrap(err, "the backup's own key") : 0;
}

/* The next frame into plain. */
static int next(struct mt_sealed *s, struct mt_err *err)
{
    uint8_t aad[41], nonce[MT_AEAD_NONCE];
    size_t n;
    int rc = get(s, s->frame, 4, &n, err);
    if (rc < 0)
        return rc;
    uint32_t word = (uint32_t)s->frame[0] << 24 | (uint32_t)s->frame[1] << 16 | (uint32_t)s->frame[2] << 8 | s->frame[3];
    size_t len = word & ~LAST;
    bool last = (word & LAST) != 0;
    if (n != 4)
        return MT_FAIL(err, MT_E_CORRUPT, "the backup is cut off after %llu bytes", (unsigned long long)s->bytes);
    if (len > MT_SEALED_FRAME)
        return MT_FAIL(err, MT_E_CORRUPT, "the backup is damaged near byte %llu", (unsigned long long)s->bytes);
    if ((rc = get(s, s->frame + 4, len + MT_AEAD_TAG, &n, err)) < 0)
        return rc;
    if (n != len + MT_AEAD_TAG)
        return MT_FAIL(err, MT_E_CORRUPT, "the backup is cut off after %llu bytes", (unsigned long long)s->bytes);
    bound_to(s, last, aad, nonce);
    if (mt_aead_open(s->key.p, nonce, aad, sizeof aad, s->frame + 4, len, s->frame + 4 + len, s->plain, err) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "the backup is damaged before byte %llu", (unsigned long long)s->bytes);
    s->index++;
    s->fill = len;
    s->at = 0;
    s->last = last;
    return 0;
}

int mt_sealed_read(struct mt_sealed *s, void *ret, size_t n, struct mt_err *err)
{
    uint8_t *p = ret;
    while (n) {
        if (s->at == s->fill) {
            if (s->last)
                return MT_FAIL(err, MT_E_CORRUPT, "the backup ends too early");
            int rc = next(s, err);
            if (rc < 0)
                return rc;
            continue;
        }
        size_t part = s->fill - s->at < n ? s->fill - s->at : n;
        memcpy(p, s->plain + s->at, part);
        s->at += part;
        p += part;
        n -= part;
    }
    return 0;
}

int mt_sealed_at_end(struct mt_sealed *s, struct mt_err *err)
{
    uint8_t more;
    size_t n = 0;
    while (s->at == s->fill && !s->last) { /* the last frame may be empty */
        int rc = next(s, err);
        if (rc < 0)
            return rc;
    }
    int rc = s->at == s->fill ? get(s, &more, 1, &n, err) : 0;
    return rc < 0 ? rc : s->at != s->fill || n ? MT_FAIL(err, MT_E_CORRUPT, "something follows the end of the backup") : 0;
}

void mt_sealed_done(struct mt_sealed *s)
{
    mt_lockmem_done(&s->key);
    if (s->plain)
        explicit_bzero(s->plain, MT_SEALED_FRAME);
    free(s->plain);
    free(s->frame);
    *s = (struct mt_sealed){.fd = -1};
}
