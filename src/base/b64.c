/* SPDX-License-Identifier: Apache-2.0 */
#include "base/b64.h"

#include <stdint.h>
#include <string.h>

static const char url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
static const char standard[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static size_t encode(const char *alphabet, const void *data, size_t n, char *ret)
{
    const uint8_t *p = data;
    size_t len = 0;
    for (size_t i = 0; i < n; i += 3) {
        size_t have = n - i < 3 ? n - i : 3;
        uint32_t v = (uint32_t)p[i] << 16 | (have > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (have > 2 ? p[i + 2] : 0);
        for (size_t k = 0; k < have + 1; k++)
            ret[len++] = alphabet[v >> (18 - 6 * k) & 63];
    }
    ret[len] = '\0';
    return len;
}

static ssize_t decode(const char *alphabet, const char *text, size_t n, void *ret, size_t size)
{
    uint8_t *out = ret;
    size_t len = n / 4 * 3 + (n % 4 ? n % 4 - 1 : 0);
    uint32_t v = 0;
    if (n % 4 == 1 || len > size)
        return -1;
    for (size_t i = 0, o = 0; i < n; i++) {
        const char *at = text[i] ? memchr(alphabet, text[i], 64) : NULL;
        if (!at)
            return -1;
        v = v << 6 | (uint32_t)(at - alphabet);
        if (i % 4 != 0)
            out[o++] = (uint8_t)(v >> (6 - 2 * (i % 4)));
    }
    if ((n % 4 == 2 && (v & 15)) || (n % 4 == 3 && (v & 3)))
        return -1;
    return (ssize_t)len;
}

size_t mt_b64url_encode(const void *data, size_t n, char *ret)
{
    return encode(url, data, n, ret);
}

ssize_t mt_b64url_decode(const char *text, size_t n, void *ret, size_t size)
{
    return decode(url, text, n, ret, size);
}

size_t mt_b64_encode(const void *data, size_t n, char *ret)
{
    size_t len = encode(standard, data, n, ret);
    while (len % 4)
        ret[len++] = '=';
    ret[len] = '\0';
    return len;
}

ssize_t mt_b64_decode(const char *text, size_t n, void *ret, size_t size)
{
    if (n && n % 4 == 0)
        for (int i = 0; i < 2 && text[n - 1] == '='; i++) /* a third one is left and is no digit */
            n--;
    return decode(standard, text, n, ret, size);
}
