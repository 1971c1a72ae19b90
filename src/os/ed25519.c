/* SPDX-License-Identifier: Apache-2.0 */
#include "os/ed25519.h"

#include <openssl/evp.h>

bool mt_ed25519_verify(const uint8_t key[MT_ED25519_KEY], const void *data, size_t n, const uint8_t sig[MT_ED25519_SIGNATURE])
{
    EVP_PKEY *k = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, MT_ED25519_KEY);
    EVP_MD_CTX *c = k ? EVP_MD_CTX_new() : NULL;
    bool ok = c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, k) == 1 && EVP_DigestVerify(c, sig, MT_ED25519_SIGNATURE, data, n) == 1;
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(k);
    return ok;
}
