/* SPDX-License-Identifier: Apache-2.0 */
#include "control/secrets/seal.h"

#include "base/assert.h"
#include "base/rd.h"
#include "base/str.h"
#include "os/file.h"

#include <stdio.h>
#include <string.h>

#define WRAP_MAGIC "MTW1"
#define MATERIAL_MAGIC "MTS1"
#define HEAD 12 /* of either kind: what goes into the associated data */

static void put(struct mt_seal_context *c, const char *part, bool first)
{
    size_t n = strlen(part);
    MT_ASSERT(c->len + n + 1 <= sizeof c->p);
    if (!first)
        c->p[c->len++] = 0;
    memcpy(c->p + c->len, part, n);
    c->len += n;
}

static void context(struct mt_seal_context *c, const char *const *parts)
{
    c->len = 0;
    for (size_t i = 0; parts[i]; i++)
        put(c, parts[i], i == 0);
}

void mt_seal_context_secret(const struct mt_seal_ids *ids, struct mt_seal_context *ret)
{
    context(ret, (const char *[]){"moat-wrap-secret-v1", ids->org_id, ids->env_id, ids->bundle_id, ids->version_id, NULL});
}

void mt_seal_context_tag(const struct mt_seal_ids *ids, struct mt_seal_context *ret)
{
    context(ret, (const char *[]){"moat-wrap-tag-v1", ids->org_id, ids->env_id, ids->bundle_id, NULL});
}

void mt_seal_context_volume(const char *cluster_id, const char *org_id, const char *volume_id, uint64_t epoch,
                            struct mt_seal_context *ret)
{
    char number[24];
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)epoch);
    context(ret, (const char *[]){"moat-wrap-volume-v1", cluster_id, org_id, volume_id, number, NULL});
}

/* head || context */
static size_t associated(const uint8_t *head, const struct mt_seal_context *c, uint8_t ret[HEAD + MT_SEAL_CONTEXT_MAX])
{
    memcpy(ret, head, HEAD);
    memcpy(ret + HEAD, c->p, c->len);
    return HEAD + c->len;
}

static void take_nonce(const uint8_t *given, uint8_t ret[MT_AEAD_NONCE])
{
    if (given)
        memcpy(ret, given, MT_AEAD_NONCE);
    else
        mt_random(ret, MT_AEAD_NONCE);
}

int mt_seal_wrap(const uint8_t master[MT_AEAD_KEY], const uint8_t master_id[8], const struct mt_seal_context *context,
                 const uint8_t key[MT_AEAD_KEY], const uint8_t *nonce, uint8_t ret[MT_SEAL_WRAPPED], struct mt_err *err)
{
    uint8_t aad[HEAD + MT_SEAL_CONTEXT_MAX];
    memcpy(ret, WRAP_MAGIC, 4);
    memcpy(ret + 4, master_id, 8);
    take_nonce(nonce, ret + HEAD);
    size_t n = associated(ret, context, aad);
    return mt_aead_seal(master, ret + HEAD, aad, n, key, MT_AEAD_KEY, ret + 24, ret + 56, err);
}

int mt_seal_wrapped_by(const void *wrapped, size_t len, char ret[17], struct mt_err *err)
{
    if (len != MT_SEAL_WRAPPED || memcmp(wrapped, WRAP_MAGIC, 4) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "not a wrapped key");
    mt_hex_encode((const uint8_t *)wrapped + 4, 8, ret);
    return 0;
}

int mt_seal_unwrap(const uint8_t master[MT_AEAD_KEY], const struct mt_seal_context *context, const void *wrapped, size_t len,
                   uint8_t ret[MT_AEAD_KEY], struct mt_err *err)
{
    uint8_t aad[HEAD + MT_SEAL_CONTEXT_MAX];
    const uint8_t *w = wrapped;
    char id[17];
    int rc = mt_seal_wrapped_by(wrapped, len, id, err);
    if (rc < 0)
        return rc;
    size_t n = associated(w, context, aad);
    rc = mt_aead_open(master, w + HEAD, aad, n, w + 24, MT_AEAD_KEY, w + 56, ret, err);
    return rc < 0 ? mt_err_wrap(err, "wrapped key") : 0;
}

static void material_context(const struct mt_seal_ids *ids, struct mt_seal_context *ret)
{
    context(ret, (const char *[]){"moat-secret-v1", ids->org_id, ids->env_id, ids->bundle_id, ids->version_id, NULL});
}

int mt_seal_material(const uint8_t key[MT_AEAD_KEY], const struct mt_seal_ids *ids, const void *plain, size_t n, const uint8_t *nonce,
                     uint8_t *ret, struct mt_err *err)
{
    uint8_t aad[HEAD + MT_SEAL_CONTEXT_MAX];
    struct mt_seal_context c;
    MT_ASSERT(n <= UINT32_MAX);
    const uint8_t head[HEAD] = {'M', 'T', 'S', '1', 1, 0, 0, 0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    material_context(ids, &c);
    memcpy(ret, head, HEAD);
    take_nonce(nonce, ret + HEAD);
    size_t k = associated(ret, &c, aad);
    return mt_aead_seal(key, ret + HEAD, aad, k, plain, n, ret + 24, ret + 24 + n, err);
}

int mt_seal_open(const uint8_t key[MT_AEAD_KEY], const struct mt_seal_ids *ids, const void *envelope, size_t len, uint8_t *ret,
                 size_t *ret_n, struct mt_err *err)
{
    uint8_t aad[HEAD + MT_SEAL_CONTEXT_MAX];
    struct mt_seal_context c;
    struct mt_rd r = mt_rd_of(envelope, len);
    const uint8_t *magic = mt_rd_bytes(&r, 8);
    uint32_t n = mt_rd_be32(&r);
    const uint8_t *nonce = mt_rd_bytes(&r, MT_AEAD_NONCE), *body = mt_rd_bytes(&r, n), *tag = mt_rd_bytes(&r, MT_AEAD_TAG);
    if (r.bad || r.left || memcmp(magic, MATERIAL_MAGIC "\1\0\0\0", 8) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "not an envelope of secrets");
    material_context(ids, &c);
    size_t k = associated(envelope, &c, aad);
    int rc = mt_aead_open(key, nonce, aad, k, body, n, tag, ret, err);
    if (rc < 0)
        return mt_err_wrap(err, "envelope");
    *ret_n = n;
    return 0;
}

void mt_seal_data_hash(const uint8_t tag_key[MT_AEAD_KEY], const void *canonical, size_t n, char ret[MT_SHA256_HEX])
{
    uint8_t mac[MT_SHA256_LEN];
    mt_hmac_sha256(tag_key, MT_AEAD_KEY, canonical, n, mac);
    mt_hex_encode(mac, sizeof mac, ret);
}
