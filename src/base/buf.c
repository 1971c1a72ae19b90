/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include "base/str.h"

#include <stdarg.h>

void mt_buf_init(struct mt_buf *b, size_t max)
{
    *b = (struct mt_buf){.max = max};
}

void mt_buf_done(struct mt_buf *b)
{
    free(b->p);
    b->p = NULL;
    b->len = b->cap = 0;
    b->failed = false;
}

void mt_buf_reset(struct mt_buf *b)
{
    b->len = 0;
    b->failed = false;
}

void *mt_buf_reserve(struct mt_buf *b, size_t n)
{
    if (b->failed || n > b->max || b->len > b->max - n) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->len + n;
    if (need > b->cap || !b->p) {
        size_t cap = b->cap ? b->cap : 64;
        while (cap < need)
            cap = cap > b->max / 2 ? b->max : cap * 2;
        uint8_t *p = realloc(b->p, cap + 1);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->p = p;
        b->cap = cap;
    }
    return b->p + b->len;
}

void mt_buf_put(struct mt_buf *b, const void *data, size_t n)
{
    if (n == 0)
        return;
    void *to = mt_buf_reserve(b, n);
    if (!to)
        return;
    memcpy(to, data, n);
    b->len += n;
}

void mt_buf_puts(struct mt_buf *b, const char *s)
{
    mt_buf_put(b, s, strlen(s));
}

void mt_buf_putc(struct mt_buf *b, char c)
{
    if (!b->failed && b->p && b->len < b->cap) { /* cap never passes max */
        b->p[b->len++] = (uint8_t)c;
        return;
    }
    mt_buf_put(b, &c, 1);
}

void mt_buf_printf(struct mt_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : mt_buf_reserve(b, (size_t)n);
    if (to) {
        (void)vsnprintf(to, (size_t)n + 1, fmt, again); /* the spare byte takes the NUL */
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
}

void mt_buf_put_json_str(struct mt_buf *b, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    mt_buf_putc(b, '"');
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') {
            char esc[2] = {'\\', (char)c};
            mt_buf_put(b, esc, 2);
            i++;
        } else if (c < 0x20 || c == 0x7f) {
            char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            mt_buf_put(b, esc, 6);
            i++;
        } else if (c < 0x80) {
            mt_buf_putc(b, (char)c);
            i++;
        } else {
            size_t k = mt_utf8_len(s + i, n - i);
            if (k == 0) {
                mt_buf_put(b, "\xef\xbf\xbd", 3);
                i++;
            } else {
                mt_buf_put(b, s + i, k);
                i += k;
            }
        }
    }
    mt_buf_putc(b, '"');
}

void mt_buf_put_be16(struct mt_buf *b, uint16_t v)
{
    uint8_t x[2] = {(uint8_t)(v >> 8), (uint8_t)v};
    mt_buf_put(b, x, sizeof x);
}

void mt_buf_put_be32(struct mt_buf *b, uint32_t v)
{
    uint8_t x[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    mt_buf_put(b, x, sizeof x);
}

void mt_buf_put_be64(struct mt_buf *b, uint64_t v)
{
    mt_buf_put_be32(b, (uint32_t)(v >> 32));
    mt_buf_put_be32(b, (uint32_t)v);
}

void mt_buf_consume(struct mt_buf *b, size_t n)
{
    if (n >= b->len) {
        b->len = 0;
        return;
    }
    memmove(b->p, b->p + n, b->len - n);
    b->len -= n;
}

const char *mt_buf_cstr(struct mt_buf *b)
{
    if (!b->p)
        return "";
    b->p[b->len] = '\0';
    return (const char *)b->p;
}

int mt_buf_check(const struct mt_buf *b, struct mt_err *err)
{
    if (b->failed)
        return MT_FAIL(err, MT_E_LIMIT, "output does not fit in %zu bytes", b->max);
    return 0;
}

char *mt_buf_take(struct mt_buf *b)
{
    if (b->failed || !mt_buf_reserve(b, 0))
        return NULL;
    b->p[b->len] = '\0';
    char *s = (char *)b->p;
    *b = (struct mt_buf){.max = b->max};
    return s;
}
