/* SPDX-License-Identifier: Apache-2.0 */
#include "os/ed25519.h"

#include <limits.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

bool mt_ed25519_verify(const uint8_t key[MT_ED25519_KEY], const void *data, size_t n, const uint8_t sig[MT_ED25519_SIGNATURE])
{
    EVP_PKEY *k = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, MT_ED25519_KEY);
    EVP_MD_CTX *c = k ? EVP_MD_CTX_new() : NULL;
    bool ok = c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, k) == 1 && EVP_DigestVerify(c, sig, MT_ED25519_SIGNATURE, data, n) == 1;
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(k);
    return ok;
}

/* No password is ever asked for on a terminal. */
static int no_password(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return -1;
}

static EVP_PKEY *read_pem(const char *pem, size_t n, bool private)
{
    BIO *b = n > INT_MAX ? NULL : BIO_new_mem_buf(pem, (int)n);
    EVP_PKEY *k = !b ? NULL : private ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : PEM_read_bio_PUBKEY(b, NULL, no_password, NULL);
    BIO_free(b);
    if (k && EVP_PKEY_id(k) != EVP_PKEY_ED25519) {
        EVP_PKEY_free(k);
        return NULL;
    }
    return k;
}

static bool public_of(const EVP_PKEY *k, uint8_t ret_key[MT_ED25519_KEY])
{
    size_t n = MT_ED25519_KEY;
    return EVP_PKEY_get_raw_public_key(k, ret_key, &n) == 1 && n == MT_ED25519_KEY;
}

bool mt_ed25519_sign(const char *pem, size_t pem_len, const void *data, size_t n, uint8_t ret_key[MT_ED25519_KEY], uint8_t ret_sig[MT_ED25519_SIGNATURE])
{
    size_t len = MT_ED25519_SIGNATURE;
    EVP_PKEY *k = read_pem(pem, pem_len, true);
    EVP_MD_CTX *c = k ? EVP_MD_CTX_new() : NULL;
    bool ok = c && public_of(k, ret_key) && EVP_DigestSignInit(c, NULL, NULL, NULL, k) == 1 && EVP_DigestSign(c, ret_sig, &len, data, n) == 1;
    EVP_MD_CTX_free(c);
    EVP_PKEY_free(k);
    return ok && len == MT_ED25519_SIGNATURE;
}

bool mt_ed25519_public(const char *pem, size_t pem_len, uint8_t ret_key[MT_ED25519_KEY])
{
    EVP_PKEY *k = read_pem(pem, pem_len, false);
    bool ok = k && public_of(k, ret_key);
    EVP_PKEY_free(k);
    return ok;
}
