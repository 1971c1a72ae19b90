/* SPDX-License-Identifier: Apache-2.0 */
#include "os/aead.h"

#include "base/assert.h"

#include <limits.h>
#include <openssl/evp.h>
#include <string.h>

int mt_aead_seal(const uint8_t key[MT_AEAD_KEY], const uint8_t nonce[MT_AEAD_NONCE], const void *aad, size_t aad_len,
                 const void *data, size_t n, uint8_t *ret, uint8_t tag[MT_AEAD_TAG], struct mt_err *err)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int k = 0;
    MT_ASSERT(n < INT_MAX && aad_len < INT_MAX);
    bool ok = c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
              EVP_EncryptUpdate(c, NULL, &k, aad, (int)aad_len) == 1 && EVP_EncryptUpdate(c, ret, &k, data, (int)n) == 1 &&
              (size_t)k == n && EVP_EncryptFinal_ex(c, ret + n, &k) == 1 &&
              EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, MT_AEAD_TAG, tag) == 1;
    EVP_CIPHER_CTX_free(c); /* wipes the key schedule */
    return ok ? 0 : MT_FAIL(err, MT_E_NOMEM, "encrypt %zu bytes", n);
}

int mt_aead_open(const uint8_t key[MT_AEAD_KEY], const uint8_t nonce[MT_AEAD_NONCE], const void *aad, size_t aad_len,
                 const void *data, size_t n, const uint8_t tag[MT_AEAD_TAG], uint8_t *ret, struct mt_err *err)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    uint8_t want[MT_AEAD_TAG];
    int k = 0;
    MT_ASSERT(n < INT_MAX && aad_len < INT_MAX);
    memcpy(want, tag, sizeof want);
    bool began = c && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
                 EVP_DecryptUpdate(c, NULL, &k, aad, (int)aad_len) == 1 && EVP_DecryptUpdate(c, ret, &k, data, (int)n) == 1 &&
                 (size_t)k == n && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, MT_AEAD_TAG, want) == 1;
    bool right = began && EVP_DecryptFinal_ex(c, ret + n, &k) == 1;
    EVP_CIPHER_CTX_free(c);
    if (!right)
        explicit_bzero(ret, n);
    if (!began)
        return MT_FAIL(err, MT_E_NOMEM, "decrypt %zu bytes", n);
    return right ? 0 : MT_FAIL(err, MT_E_CORRUPT, "the authentication tag does not match");
}
