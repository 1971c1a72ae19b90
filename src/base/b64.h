/* SPDX-License-Identifier: Apache-2.0 */
/* base64url without padding (RFC 4648 5), for opaque texts that go through URLs and headers; and base64 (RFC 4648 4). */
#pragma once

#include <stddef.h>
#include <sys/types.h>

/** Characters that @n bytes take, with NUL. */
#define MT_B64URL_SIZE(n) (((n) * 4 + 2) / 3 + 1)

/** Encode @n bytes; @ret has room for MT_B64URL_SIZE(n). Returns the length without NUL. */
size_t mt_b64url_encode(const void *data, size_t n, char *ret);

/**
 * Decode exactly @n characters into @ret (room for @size bytes). Only the one spelling that mt_b64url_encode gives is taken:
 * no padding, no blanks, unused bits zero. Returns the number of bytes, or -1.
 */
ssize_t mt_b64url_decode(const char *text, size_t n, void *ret, size_t size);

/** Characters that @n bytes take as base64 with padding, with NUL. */
#define MT_B64_SIZE(n) (((n) + 2) / 3 * 4 + 1)

/** Encode @n bytes with padding; @ret has room for MT_B64_SIZE(n). Returns the length without NUL. */
size_t mt_b64_encode(const void *data, size_t n, char *ret);

/**
 * Decode exactly @n characters of base64 into @ret (room for @size bytes; n / 4 * 3 + 2 is always enough): padding is right
 * or absent, no blanks, unused bits zero. Returns the number of bytes, or -1.
 */
ssize_t mt_b64_decode(const char *text, size_t n, void *ret, size_t size);
