/* SPDX-License-Identifier: Apache-2.0 */
/* Ed25519 signatures (RFC 8032) through OpenSSL: checked, not made; who signs uses `openssl pkeyutl`. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_ED25519_KEY 32
#define MT_ED25519_SIGNATURE 64

/** Is @sig that of @key over these bytes? False too when OpenSSL is out of memory. */
bool mt_ed25519_verify(const uint8_t key[MT_ED25519_KEY], const void *data, size_t n, const uint8_t sig[MT_ED25519_SIGNATURE]);
