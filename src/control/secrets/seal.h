/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Envelopes of secrets (storage-and-secrets.md §6.4, §6.5; docs/formats/secrets.md): wrapped keys "MTW1" and secret material
 * "MTS1", bound to where they belong by their associated data. Pure but for randomness.
 */
#pragma once

#include "base/err.h"
#include "os/aead.h"
#include "os/digest.h"

#define MT_SEAL_WRAPPED 72
#define MT_SEAL_MATERIAL_EXTRA 40 /* bytes that an envelope is longer than its content */
#define MT_SEAL_CONTEXT_MAX 256

/** What a key or an envelope belongs to. */
struct mt_seal_ids {
    const char *org_id, *env_id, *bundle_id, *version_id; /* version_id not for tag keys */
};

struct mt_seal_context {
    uint8_t p[MT_SEAL_CONTEXT_MAX];
    size_t len;
};
/** Context of a wrapped data key of one version; of the tag key of a bundle; of a volume's backup key. */
void mt_seal_context_secret(const struct mt_seal_ids *ids, struct mt_seal_context *ret);
void mt_seal_context_tag(const struct mt_seal_ids *ids, struct mt_seal_context *ret);
void mt_seal_context_volume(const char *cluster_id, const char *org_id, const char *volume_id, uint64_t epoch,
                            struct mt_seal_context *ret);

/** Wrap @key under @master, whose id is @master_id (8 bytes). @nonce NULL: random. */
int mt_seal_wrap(const uint8_t master[MT_AEAD_KEY], const uint8_t master_id[8], const struct mt_seal_context *context,
                 const uint8_t key[MT_AEAD_KEY], const uint8_t *nonce, uint8_t ret[MT_SEAL_WRAPPED], struct mt_err *err);
/** The id of the master key that @wrapped needs, as hex; -MT_E_CORRUPT when it is no wrapped key. */
int mt_seal_wrapped_by(const void *wrapped, size_t len, char ret[17], struct mt_err *err);
/** Unwrap; -MT_E_CORRUPT when it was made with another key or context, or changed. */
int mt_seal_unwrap(const uint8_t master[MT_AEAD_KEY], const struct mt_seal_context *context, const void *wrapped, size_t len,
                   uint8_t ret[MT_AEAD_KEY], struct mt_err *err);

/** Envelope of @n bytes; @ret has room for n + MT_SEAL_MATERIAL_EXTRA. @nonce NULL: random. */
int mt_seal_material(const uint8_t key[MT_AEAD_KEY], const struct mt_seal_ids *ids, const void *plain, size_t n, const uint8_t *nonce,
                     uint8_t *ret, struct mt_err *err);
/** Content of an envelope into @ret (len - MT_SEAL_MATERIAL_EXTRA bytes). -MT_E_CORRUPT. */
int mt_seal_open(const uint8_t key[MT_AEAD_KEY], const struct mt_seal_ids *ids, const void *envelope, size_t len, uint8_t *ret,
                 size_t *ret_n, struct mt_err *err);
/** data_hash of a canonical file. */
void mt_seal_data_hash(const uint8_t tag_key[MT_AEAD_KEY], const void *canonical, size_t n, char ret[MT_SHA256_HEX]);
