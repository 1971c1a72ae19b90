/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 (FIPS 180-4) in one call: the guest cannot link OpenSSL for one hash of one line. */
#pragma once

#include <stddef.h>

/** Lower-case hex digest of @len bytes into @ret[65]. */
void mt_sha256_hex(const void *data, size_t len, char ret[65]);
