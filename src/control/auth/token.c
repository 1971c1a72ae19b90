/* SPDX-License-Identifier: Apache-2.0 */
/* Making and checking the text of tokens and user codes. */
#include "control/auth/token.h"

#include "base/assert.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#define RANDOM_CHARS 43
#define CHECK_CHARS 6

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/* RFC 8628 6.1: twenty letters, no vowels, so that no words come out */
static const char letters[] = "BCDFGHJKLMNPQRSTVWXZ";

static const char *const prefixes[MT_TOKEN_KIND_MAX] = {"moat_at_", "moat_rt_", "moat_pat_", "moat_sps_", "moat_dc_",
                                                        "moat_ex_", "moat_en_", "moat_su_",  "moat_bs_"};

const char *mt_token_prefix(enum mt_token_kind kind)
{
    MT_ASSERT(kind < MT_TOKEN_KIND_MAX);
    return prefixes[kind];
}

static void checksum(const char *s, size_t n, char ret[CHECK_CHARS + 1])
{
    char hex[MT_SHA256_HEX];
    mt_sha256_hex(s, n, hex);
    memcpy(ret, hex, CHECK_CHARS);
    ret[CHECK_CHARS] = 0;
}

void mt_token_new(enum mt_token_kind kind, char ret_token[MT_TOKEN_SIZE], uint8_t ret_hash[32])
{
    uint8_t raw[33] = {0};
    char text[RANDOM_CHARS + 2], body[MT_TOKEN_SIZE], sum[CHECK_CHARS + 1];
    mt_random(raw, 32); /* the 33rd byte stays 0: 264 bits give 44 characters, of which 43 carry the 256 */
    for (size_t i = 0; i < 11; i++) {
        uint32_t v = (uint32_t)raw[3 * i] << 16 | (uint32_t)raw[3 * i + 1] << 8 | raw[3 * i + 2];
        for (size_t k = 0; k < 4; k++)
            text[4 * i + k] = alphabet[v >> (18 - 6 * k) & 63];
    }
    text[RANDOM_CHARS] = 0;
    int n = snprintf(body, sizeof body, "%s%s", mt_token_prefix(kind), text);
    checksum(body, (size_t)n, sum);
    n = snprintf(ret_token, MT_TOKEN_SIZE, "%s%s", body, sum);
    mt_sha256_of(ret_token, (size_t)n, ret_hash);
    explicit_bzero(raw, sizeof raw);
    explicit_bzero(text, sizeof text);
    explicit_bzero(body, sizeof body);
}

enum mt_token_kind mt_token_kind_of(const char *token)
{
    size_t n = strnlen(token, MT_TOKEN_SIZE);
    for (int k = 0; k < MT_TOKEN_KIND_MAX; k++) {
        size_t pre = strlen(prefixes[k]);
        if (n != pre + RANDOM_CHARS + CHECK_CHARS || memcmp(token, prefixes[k], pre) != 0)
            continue;
        for (size_t i = pre; i < pre + RANDOM_CHARS; i++)
            if (!strchr(alphabet, token[i]))
                return MT_TOKEN_KIND_MAX;
        char sum[CHECK_CHARS + 1];
        checksum(token, n - CHECK_CHARS, sum);
        return memcmp(sum, token + n - CHECK_CHARS, CHECK_CHARS) == 0 ? (enum mt_token_kind)k : MT_TOKEN_KIND_MAX;
    }
    return MT_TOKEN_KIND_MAX;
}

bool mt_token_hash(enum mt_token_kind kind, const char *token, uint8_t ret_hash[32])
{
    if (mt_token_kind_of(token) != kind)
        return false;
    mt_sha256_of(token, strlen(token), ret_hash);
    return true;
}

void mt_user_code_new(char ret[MT_USER_CODE_SIZE])
{
    for (int i = 0; i < MT_USER_CODE_SIZE - 1; i++) {
        uint8_t b;
        do
            mt_random(&b, 1);
        while (b >= 240); /* 12 * 20: no letter is likelier than another */
        ret[i] = letters[b % 20];
    }
    ret[4] = '-';
    ret[MT_USER_CODE_SIZE - 1] = 0;
}

bool mt_user_code_read(const char *typed, char ret[MT_USER_CODE_SIZE])
{
    int n = 0;
    for (const char *p = typed; *p; p++) {
        char ch = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
        if (ch == '-' || ch == ' ')
            continue;
        if (n == 8 || !strchr(letters, ch))
            return false;
        ret[n < 4 ? n : n + 1] = ch;
        n++;
    }
    ret[4] = '-';
    ret[MT_USER_CODE_SIZE - 1] = 0;
    return n == 8;
}
