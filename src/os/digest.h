/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 and HMAC-SHA-256 through OpenSSL EVP. */
#pragma once

#include "base/err.h"

#define MT_SHA256_LEN 32
#define MT_SHA256_HEX 65 /* with NUL */

struct mt_sha256; /* streaming state */

/** NULL when OpenSSL is out of memory. */
struct mt_sha256 *mt_sha256_new(void);
void mt_sha256_update(struct mt_sha256 *s, const void *data, size_t n);
/** Digest into @ret, then free the state. */
void mt_sha256_final(struct mt_sha256 *s, uint8_t ret[MT_SHA256_LEN]);
void mt_sha256_free(struct mt_sha256 *s);
/** One-shot. */
void mt_sha256_of(const void *data, size_t n, uint8_t ret[MT_SHA256_LEN]);
/** One-shot over two pieces, one after the other. -MT_E_NOMEM when OpenSSL has no memory. */
int mt_sha256_two(const void *a, size_t na, const void *b, size_t nb, uint8_t ret[MT_SHA256_LEN], struct mt_err *err);
/** One-shot, lower-case hex with NUL. */
void mt_sha256_hex(const void *data, size_t n, char ret[MT_SHA256_HEX]);
/** SHA-256 of a whole file as lower-case hex. */
int mt_sha256_file(const char *path, char ret[MT_SHA256_HEX], struct mt_err *err);
#define MT_SHA1_LEN 20
/** SHA-1, for the handshake of RFC 6455 only: it proves nothing. */
void mt_sha1_of(const void *data, size_t n, uint8_t ret[MT_SHA1_LEN]);
/** HMAC-SHA-256, RFC 2104. */
void mt_hmac_sha256(const void *key, size_t key_len, const void *data, size_t n, uint8_t ret[MT_SHA256_LEN]);
/** Constant-time comparison. */
bool mt_digest_equal(const void *a, const void *b, size_t n);
