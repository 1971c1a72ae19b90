/* SPDX-License-Identifier: Apache-2.0 */
/* AES-256-GCM through OpenSSL EVP. Nonces are the caller's: random and used once. */
#pragma once

#include "base/err.h"

#define MT_AEAD_KEY 32
#define MT_AEAD_NONCE 12
#define MT_AEAD_TAG 16

/** Encrypt @n bytes into @ret (n bytes; may be @data) and @tag; @aad is authenticated with it. -MT_E_NOMEM. */
int mt_aead_seal(const uint8_t key[MT_AEAD_KEY], const uint8_t nonce[MT_AEAD_NONCE], const void *aad, size_t aad_len,
                 const void *data, size_t n, uint8_t *ret, uint8_t tag[MT_AEAD_TAG], struct mt_err *err);
/** Decrypt; on -MT_E_CORRUPT (key, nonce, aad, data or tag differ) @ret is wiped. */
int mt_aead_open(const uint8_t key[MT_AEAD_KEY], const uint8_t nonce[MT_AEAD_NONCE], const void *aad, size_t aad_len,
                 const void *data, size_t n, const uint8_t tag[MT_AEAD_TAG], uint8_t *ret, struct mt_err *err);
