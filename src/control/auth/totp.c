/* SPDX-License-Identifier: Apache-2.0 */
/* One-time passwords. */
#include "control/auth/totp.h"

#include "base/assert.h"
#include "os/digest.h"
#include "os/file.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#define STEP_SECONDS 30
#define NONCE (MT_TOTP_BLOB - MT_TOTP_SECRET)

uint32_t mt_totp_code(const uint8_t secret[MT_TOTP_SECRET], uint64_t step)
{
    uint8_t msg[8], mac[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    for (int i = 0; i < 8; i++)
        msg[i] = (uint8_t)(step >> (56 - 8 * i));
    MT_ASSERT(HMAC(EVP_sha1(), secret, MT_TOTP_SECRET, msg, sizeof msg, mac, &n) && n == 20);
    const uint8_t *p = mac + (mac[19] & 15);
    uint32_t v = (uint32_t)(p[0] & 0x7f) << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    return v % 1000000;
}

uint64_t mt_totp_check(const uint8_t secret[MT_TOTP_SECRET], const char *typed, int64_t unix_s, uint64_t last_step)
{
    char digits[7];
    size_t n = 0;
    for (const char *p = typed; *p; p++) {
        if (*p == ' ')
            continue;
        if (n == 6 || *p < '0' || *p > '9')
            return 0;
        digits[n++] = *p;
    }
    if (n != 6 || unix_s < 2 * STEP_SECONDS)
        return 0;
    uint64_t now = (uint64_t)unix_s / STEP_SECONDS, found = 0;
    for (uint64_t step = now - 1; step <= now + 1; step++) {
        char want[6];
        uint32_t v = mt_totp_code(secret, step);
        for (int i = 5; i >= 0; i--, v /= 10)
            want[i] = (char)('0' + v % 10);
        if (step > last_step && mt_digest_equal(want, digits, 6))
            found = step;
    }
    return found;
}

void mt_totp_base32(const uint8_t secret[MT_TOTP_SECRET], char ret[MT_TOTP_BASE32])
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    size_t out = 0;
    uint32_t acc = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < MT_TOTP_SECRET; i++) {
        acc = (acc << 8 | secret[i]) & 0xffffu;
        for (bits += 8; bits >= 5; bits -= 5)
            ret[out++] = alphabet[acc >> (bits - 5) & 31];
    }
    ret[out] = 0;
}

static void mask(const uint8_t key[32], const uint8_t nonce[NONCE], uint8_t ret[32])
{
    uint8_t msg[16 + NONCE];
    memcpy(msg, "moat totp mask 1", 16);
    memcpy(msg + 16, nonce, NONCE);
    mt_hmac_sha256(key, 32, msg, sizeof msg, ret);
}

void mt_totp_new(const uint8_t key[32], uint8_t ret_blob[MT_TOTP_BLOB])
{
    uint8_t m[32];
    mt_random(ret_blob, MT_TOTP_BLOB);
    mask(key, ret_blob, m);
    for (size_t i = 0; i < MT_TOTP_SECRET; i++)
        ret_blob[NONCE + i] ^= m[i];
}

void mt_totp_open(const uint8_t key[32], const uint8_t blob[MT_TOTP_BLOB], uint8_t ret_secret[MT_TOTP_SECRET])
{
    uint8_t m[32];
    mask(key, blob, m);
    for (size_t i = 0; i < MT_TOTP_SECRET; i++)
        ret_secret[i] = blob[NONCE + i] ^ m[i];
}
