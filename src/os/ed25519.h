/* SPDX-License-Identifier: Apache-2.0 */
/* Ed25519 signatures (RFC 8032) through OpenSSL; keys in files are PEM, as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_ED25519_KEY 32
#define MT_ED25519_SIGNATURE 64

/** Is @sig that of @key over these bytes? False too when OpenSSL is out of memory. */
bool mt_ed25519_verify(const uint8_t key[MT_ED25519_KEY], const void *data, size_t n, const uint8_t sig[MT_ED25519_SIGNATURE]);
/** Sign with the private key of @pem; @ret_key is its public key. False when that is no such key. */
bool mt_ed25519_sign(const char *pem, size_t pem_len, const void *data, size_t n, uint8_t ret_key[MT_ED25519_KEY], uint8_t ret_sig[MT_ED25519_SIGNATURE]);
/** The public key of @pem, which holds no other. */
bool mt_ed25519_public(const char *pem, size_t pem_len, uint8_t ret_key[MT_ED25519_KEY]);
