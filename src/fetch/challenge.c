/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/challenge.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool token_char(char c)
{
    return c > ' ' && c < 0x7f && !strchr("()<>@,;:\\\"/[]?={}", c);
}

static size_t token_len(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && token_char(p[i]))
        i++;
    return i;
}

/* A quoted string at @p (after the opening quote) into @out; returns bytes used with the closing quote, 0 when malformed. */
static size_t quoted(const char *p, size_t n, char *out, size_t size)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (c == '"') {
            out[at] = 0;
            return i + 1;
        }
        if (c == '\\' && ++i < n)
            c = p[i];
        if (i >= n || (unsigned char)c < ' ' || c == 0x7f || at + 1 >= size)
            return 0;
        out[at++] = c;
    }
    return 0;
}

void mt_challenge_parse(const char *value, size_t len, struct mt_challenge *ret)
{
    struct mt_challenge c = {0};
    *ret = c;
    while (len && blank(*value)) {
        value++;
        len--;
    }
    size_t n = token_len(value, len);
    if (n == 6 && strncasecmp(value, "Bearer", 6) == 0)
        c.scheme = MT_CHALLENGE_BEARER;
    else if (n == 5 && strncasecmp(value, "Basic", 5) == 0)
        c.scheme = MT_CHALLENGE_BASIC;
    else
        return;
    const char *p = value + n;
    size_t left = len - n;
    for (;;) {
        while (left && (blank(*p) || *p == ',')) {
            p++;
            left--;
        }
        if (left == 0)
            break;
        const char *key = p;
        size_t kn = token_len(p, left);
        if (kn == 0 || kn == left || p[kn] != '=')
            break; /* another scheme begins, or noise: what was read so far counts */
        p += kn + 1;
        left -= kn + 1;
        char text[1024];
        size_t used;
        if (left && *p == '"') {
            used = quoted(p + 1, left - 1, text, sizeof text);
            if (used == 0)
                return;
            used++;
        } else {
            used = token_len(p, left);
            if (used >= sizeof text)
                return;
            memcpy(text, p, used);
            text[used] = 0;
        }
        p += used;
        left -= used;
        char *dst = NULL;
        size_t room = 0;
        if (kn == 5 && strncasecmp(key, "realm", 5) == 0) {
            dst = c.realm;
            room = sizeof c.realm;
        } else if (kn == 7 && strncasecmp(key, "service", 7) == 0) {
            dst = c.service;
            room = sizeof c.service;
        } else if (kn == 5 && strncasecmp(key, "scope", 5) == 0) {
            dst = c.scope;
            room = sizeof c.scope;
        }
        size_t tn = strlen(text);
        if (dst && tn >= room)
            return;
        if (dst)
            memcpy(dst, text, tn + 1);
    }
    *ret = c;
}
