/* SPDX-License-Identifier: Apache-2.0 */
/* Passwords: Argon2id with 64 MiB, three passes, one lane (RFC 9106). Few at once, because each takes its 64 MiB. */
#pragma once

#include "base/err.h"

#define MT_PASSWORD_MIN 12
#define MT_PASSWORD_MAX 256
#define MT_PASSWORD_HASH 160 /* PHC string with NUL */

/** Why a password is not taken, or NULL when it is: length, or one letter all over. */
const char *mt_password_fault(const char *password);
/** -MT_E_LIMIT when too many wait for a turn, -MT_E_NOMEM. */
int mt_password_hash(const char *password, char ret[MT_PASSWORD_HASH], struct mt_err *err);
/**
 * Compare with a stored hash. @hash NULL stands for an account that does not exist or has no password: it takes as long and is
 * never right. Returns 0 with *ret_right, -MT_E_LIMIT when too many wait.
 */
int mt_password_check(const char *hash, const char *password, bool *ret_right, struct mt_err *err);
