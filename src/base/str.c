/* SPDX-License-Identifier: Apache-2.0 */
#include "base/str.h"

#include <stdarg.h>

size_t mt_utf8_len(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || /* overlong, surrogates */
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))  /* overlong, > U+10FFFF */
        return 0;
    return len;
}

/* In each byte the high bit when that byte is 0. A borrow may set it in bytes above such a one too, never below. */
static inline uint64_t zero_bytes(uint64_t w)
{
    return (w - 0x0101010101010101u) & ~w & 0x8080808080808080u;
}

size_t mt_plain_run(const char *s, size_t n)
{
    const uint64_t each = 0x0101010101010101u;
    size_t i = 0;
    for (uint64_t w; n - i >= sizeof w; i += sizeof w) {
        memcpy(&w, s + i, sizeof w);
        uint64_t below_blank = (w - each * 0x20) & ~w;
        if (((w | below_blank) & each * 0x80) || zero_bytes(w ^ each * '"') || zero_bytes(w ^ each * '\\') || zero_bytes(w ^ each * 0x7f))
            break;
    }
    while (i < n && s[i] >= 0x20 && s[i] < 0x7f && s[i] != '"' && s[i] != '\\')
        i++;
    return i;
}

bool mt_utf8_valid(const char *s, size_t n)
{
    for (size_t i = mt_plain_run(s, n); i < n;) {
        size_t k = mt_utf8_len(s + i, n - i);
        if (k == 0 || s[i] == '\0')
            return false;
        i += k;
    }
    return true;
}

void mt_hex_encode(const void *data, size_t n, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digits[p[i] >> 4];
        ret[2 * i + 1] = digits[p[i] & 15];
    }
    ret[2 * n] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int mt_hex_decode(const char *hex, size_t n, void *ret)
{
    unsigned char *out = ret;
    for (size_t i = 0; i < n; i++) {
        int hi = hex_value(hex[2 * i]);
        int lo = hi < 0 ? -1 : hex_value(hex[2 * i + 1]);
        if (lo < 0)
            return -MT_E_INVALID;
        out[i] = (unsigned char)(hi << 4 | lo);
    }
    return 0;
}

/* May a terminal see the @k bytes of one character at @s? @k 0: not UTF-8. U+009B is an escape sequence's start in one character;
 * U+202E and its like make text read as something it is not. */
static bool plain_char(const char *s, size_t k)
{
    const unsigned char *p = (const unsigned char *)s;
    if (k == 1)
        return p[0] >= 0x20 && p[0] != 0x7f;
    if (k == 2)
        return p[0] != 0xc2 || p[1] >= 0xa0; /* U+0080..U+009F */
    if (k == 3 && p[0] == 0xe2 && p[1] == 0x80)
        return p[2] != 0x8e && p[2] != 0x8f && (p[2] < 0xa8 || p[2] > 0xae); /* U+200E, U+200F, U+2028..U+202E */
    if (k == 3 && p[0] == 0xe2 && p[1] == 0x81)
        return p[2] < 0xa6 || p[2] > 0xa9; /* U+2066..U+2069 */
    return k > 0;
}

void mt_make_printable(char *s)
{
    size_t n = strlen(s), o = 0;
    for (size_t i = 0; i < n;) {
        size_t k = mt_utf8_len(s + i, n - i);
        if (plain_char(s + i, k)) {
            memmove(s + o, s + i, k);
            o += k;
        } else {
            s[o++] = s[i] == '\t' ? ' ' : '?';
        }
        i += k ? k : 1;
    }
    s[o] = '\0';
}

const char *mt_printable(const char *s, size_t n, char *ret, size_t size)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        size_t k = mt_utf8_len(s + i, n - i);
        bool plain = plain_char(s + i, k);
        size_t need = plain ? k : 1;
        if (o + need + 4 > size) {
            if (size >= 4) {
                memcpy(ret + o, "...", 3);
                o += 3;
            }
            break;
        }
        if (plain)
            memcpy(ret + o, s + i, k);
        else
            ret[o] = s[i] == '\t' ? ' ' : '?';
        o += need;
        i += k ? k : 1;
    }
    if (size)
        ret[o < size ? o : size - 1] = '\0';
    return ret;
}

char *mt_strndup(const char *s, size_t n)
{
    char *p = malloc(n + 1);
    if (!p)
        return NULL;
    if (n)
        memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *mt_asprintf(const char *fmt, ...)
{
    char *p = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : p;
}

int mt_fmt(char *ret, size_t size, struct mt_err *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(ret, size, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= size)
        return MT_FAIL(err, MT_E_LIMIT, "'%.60s...' is longer than %zu bytes", ret, size ? size - 1 : 0);
    return 0;
}

static size_t edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    size_t row[65];
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diag = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t up = row[j];
            size_t best = diag + (a[i - 1] != b[j - 1]);
            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diag = up;
        }
    }
    return row[m];
}

const char *mt_nearest(const char *word, const char *const *names)
{
    size_t n = strlen(word), best = SIZE_MAX;
    const char *found = NULL;
    if (n > 64)
        return NULL;
    for (; *names; names++) {
        size_t m = strlen(*names);
        if (m > 64)
            continue;
        size_t d = edit_distance(word, n, *names, m);
        if (d < best && d <= 1 + (m > n ? m : n) / 3) {
            best = d;
            found = *names;
        }
    }
    return found;
}
