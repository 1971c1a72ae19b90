/* SPDX-License-Identifier: Apache-2.0 */
/* Time-based one-time passwords: RFC 6238 with SHA-1, 6 digits, steps of 30 s, as the usual apps want it. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_TOTP_SECRET 20
#define MT_TOTP_BLOB 36   /* what is stored: nonce and masked secret */
#define MT_TOTP_BASE32 33 /* text of a secret, with NUL */

/** The 6-digit code of a time step (Unix seconds / 30). RFC 4226 5.3. */
uint32_t mt_totp_code(const uint8_t secret[MT_TOTP_SECRET], uint64_t step);
/**
 * Check a typed code at @unix_s, one step of drift either way, newer than @last_step (a code works once).
 * Returns the step it belongs to, 0 when it is wrong. Blanks in @typed do not matter.
 */
uint64_t mt_totp_check(const uint8_t secret[MT_TOTP_SECRET], const char *typed, int64_t unix_s, uint64_t last_step);
/** RFC 4648 base32 without padding, for apps and people. */
void mt_totp_base32(const uint8_t secret[MT_TOTP_SECRET], char ret[MT_TOTP_BASE32]);
/** A new random secret in its stored form: masked with HMAC of @key, which is not in the database. */
void mt_totp_new(const uint8_t key[32], uint8_t ret_blob[MT_TOTP_BLOB]);
/** The secret of a stored form. */
void mt_totp_open(const uint8_t key[32], const uint8_t blob[MT_TOTP_BLOB], uint8_t ret_secret[MT_TOTP_SECRET]);
