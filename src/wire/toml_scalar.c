/* SPDX-License-Identifier: Apache-2.0 */
/* TOML 1.0: strings, numbers, dates. No recursion. */
#include "wire/toml_parse.h"

#include "base/str.h"

#include <math.h>

/* ---- strings ---- */

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

/* UTF-8 of a scalar value; returns the length. */
static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* At the backslash. Writes at most 4 bytes; an escape is never shorter than what it stands for. */
static int escape(struct mt_tp *t, char *out, size_t *ret_n)
{
    const char *start = t->p;
    static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";

    t->p++;
    char c = t->p < t->end ? *t->p : '\0';
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        out[0] = to[simple - from];
        *ret_n = 1;
        t->p++;
        return 0;
    }
    if (c != 'u' && c != 'U')
        return mt_tp_fail(t, start, "unknown escape; known are \\b \\t \\n \\f \\r \\\" \\\\ \\uXXXX \\UXXXXXXXX");
    size_t digits = c == 'u' ? 4 : 8;
    uint32_t v = 0;
    t->p++;
    for (size_t i = 0; i < digits; i++, t->p++) {
        int h = t->p < t->end ? hex_value(*t->p) : -1;
        if (h < 0)
            return mt_tp_fail(t, start, "\\%c needs %zu hexadecimal digits", c, digits);
        v = v << 4 | (uint32_t)h;
    }
    if (v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF))
        return mt_tp_fail(t, start, "\\%c names no Unicode character", c);
    *ret_n = put_utf8(out, v);
    return 0;
}

/* One character of a string body that is neither quote, escape nor line end: copied as it is. */
static int plain(struct mt_tp *t, char *out, size_t *n)
{
    size_t len = mt_utf8_len(t->p, (size_t)(t->end - t->p));

    if (len == 0)
        return mt_tp_fail(t, t->p, "string is not valid UTF-8");
    if (((unsigned char)*t->p < 0x20 && *t->p != '\t') || *t->p == 0x7f)
        return mt_tp_fail(t, t->p, "string holds a control character (byte 0x%02x); write it as \\u00%02x",
                          (unsigned)(unsigned char)*t->p, (unsigned)(unsigned char)*t->p);
    memcpy(out + *n, t->p, len);
    *n += len;
    t->p += len;
    return 0;
}

static int single_line(struct mt_tp *t, char quote, struct mt_toml_pos open, char *out, size_t *n)
{
    for (;;) {
        size_t len;
        if (mt_tp_at_eol(t))
            return mt_tp_fail_pos(t, open, "string is not closed on its line: %c is missing", quote);
        if (*t->p == quote) {
            t->p++;
            return 0;
        }
        if (quote == '"' && *t->p == '\\') {
            if (escape(t, out + *n, &len) < 0)
                return -1;
            *n += len;
        } else if (plain(t, out, n) < 0) {
            return -1;
        }
    }
}

/* A backslash before a line end swallows white space up to the next character. Returns 1 when it was one. */
static int line_ending_backslash(struct mt_tp *t)
{
    const char *q = t->p + 1;

    while (q < t->end && (*q == ' ' || *q == '\t'))
        q++;
    if (q == t->end || !(*q == '\n' || (*q == '\r' && q + 1 < t->end && q[1] == '\n')))
        return 0;
    t->p = q;
    while (t->p < t->end) {
        if (*t->p == ' ' || *t->p == '\t')
            t->p++;
        else if (mt_tp_at_eol(t))
            mt_tp_eat_eol(t);
        else
            break;
    }
    return 1;
}

static int multi_line(struct mt_tp *t, char quote, struct mt_toml_pos open, char *out, size_t *n)
{
    t->in_value++;
    if (t->p < t->end && mt_tp_at_eol(t))
        mt_tp_eat_eol(t); /* a line end right behind the opening is not part of the text */
    for (;;) {
        size_t len;
        if (t->p == t->end)
            return mt_tp_fail_pos(t, open, "string is not closed: %c%c%c is missing", quote, quote, quote);
        if (*t->p == quote) {
            size_t run = 0;
            while (t->p + run < t->end && t->p[run] == quote && run < 6)
                run++;
            if (run == 6)
                return mt_tp_fail(t, t->p, "more than two quotes before the closing ones");
            size_t content = run >= 3 ? run - 3 : run;
            memcpy(out + *n, t->p, content);
            *n += content;
            t->p += run;
            if (run >= 3)
                break;
        } else if (mt_tp_at_eol(t)) {
            if (*t->p == '\r')
                out[(*n)++] = '\r';
            out[(*n)++] = '\n';
            mt_tp_eat_eol(t);
        } else if (quote == '"' && *t->p == '\\') {
            if (line_ending_backslash(t))
                continue;
            if (escape(t, out + *n, &len) < 0)
                return -1;
            *n += len;
        } else if (plain(t, out, n) < 0) {
            return -1;
        }
    }
    t->in_value--;
    return 0;
}

int mt_tp_string(struct mt_tp *t, const char **ret, size_t *ret_len)
{
    struct mt_toml_pos open = mt_tp_pos(t, t->p);
    char quote = *t->p;
    bool multi = t->end - t->p >= 3 && t->p[1] == quote && t->p[2] == quote;
    const char *body = t->p + (multi ? 3 : 1);
    const char *stop;

    /* The result is never longer than the source; how long that is at most tells the next closing quote. */
    if (multi) {
        char close[3] = {quote, quote, quote};
        stop = body;
        for (;;) {
            stop = memmem(stop, (size_t)(t->end - stop), close, 3);
            if (!stop) {
                stop = t->end;
                break;
            }
            size_t slashes = 0;
            while (quote == '"' && stop - slashes > body && stop[-1 - (ptrdiff_t)slashes] == '\\')
                slashes++;
            if (slashes % 2 == 0) {
                stop += 3;
                break;
            }
            stop++;
        }
        stop = t->end - stop >= 3 ? stop + 3 : t->end; /* up to two more quotes may belong to the text */
    } else {
        stop = memchr(body, '\n', (size_t)(t->end - body));
        const char *s = body;
        while (s < (stop ? stop : t->end) && *s != quote)
            s += quote == '"' && *s == '\\' && s + 1 < t->end ? 2 : 1;
        stop = s < t->end ? s + 1 : t->end;
    }
    size_t room = (size_t)(stop - body) + 8;
    char *out = mt_arena_alloc(&t->mem->arena, room);
    if (!out)
        return mt_tp_nomem(t);
    size_t n = 0;
    t->p = body;
    if ((multi ? multi_line(t, quote, open, out, &n) : single_line(t, quote, open, out, &n)) < 0)
        return -1;
    out[n] = '\0';
    *ret = out;
    *ret_len = n;
    return 0;
}

/* ---- dates ---- */

static bool digits(const char *p, const char *end, size_t n, unsigned *ret)
{
    unsigned v = 0;

    if ((size_t)(end - p) < n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        v = v * 10 + (unsigned)(p[i] - '0');
    }
    *ret = v;
    return true;
}

static bool date_part(const char **p, const char *end, struct mt_toml_date *d)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    unsigned year, month, day;

    if (!digits(*p, end, 4, &year) || end - *p < 10 || (*p)[4] != '-' || !digits(*p + 5, end, 2, &month) ||
        (*p)[7] != '-' || !digits(*p + 8, end, 2, &day))
        return false;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (month < 1 || month > 12 || day < 1 || day > days[month - 1] + (month == 2 && leap ? 1U : 0U))
        return false;
    d->year = (uint16_t)year;
    d->month = (uint8_t)month;
    d->day = (uint8_t)day;
    *p += 10;
    return true;
}

static bool time_part(const char **p, const char *end, struct mt_toml_date *d)
{
    unsigned hour, minute, second;

    if (!digits(*p, end, 2, &hour) || end - *p < 8 || (*p)[2] != ':' || !digits(*p + 3, end, 2, &minute) ||
        (*p)[5] != ':' || !digits(*p + 6, end, 2, &second) || hour > 23 || minute > 59 || second > 60)
        return false;
    d->hour = (uint8_t)hour;
    d->minute = (uint8_t)minute;
    d->second = (uint8_t)second; /* 60: a leap second, RFC 3339 5.6 */
    *p += 8;
    if (*p < end && **p == '.') {
        uint32_t scale = 100000000;
        const char *first = ++*p;
        for (; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
            d->nanosecond += (uint32_t)(**p - '0') * scale;
            scale /= 10;
        }
        if (*p == first)
            return false;
    }
    return true;
}

static bool offset_part(const char **p, const char *end, struct mt_toml_date *d)
{
    unsigned hour, minute;

    if (**p == 'Z' || **p == 'z') {
        (*p)++;
        return true;
    }
    int sign = **p == '-' ? -1 : 1;
    if (!digits(*p + 1, end, 2, &hour) || end - *p < 6 || (*p)[3] != ':' || !digits(*p + 4, end, 2, &minute) ||
        hour > 23 || minute > 59)
        return false;
    d->offset_minutes = (int16_t)(sign * (int)(hour * 60 + minute));
    *p += 6;
    return true;
}

static bool looks_like_date(const struct mt_tp *t)
{
    unsigned ignored;

    return (digits(t->p, t->end, 4, &ignored) && t->end - t->p > 4 && t->p[4] == '-') ||
           (digits(t->p, t->end, 2, &ignored) && t->end - t->p > 2 && t->p[2] == ':');
}

static int date(struct mt_tp *t, struct mt_toml_value *v)
{
    struct mt_toml_date d = {0};
    const char *p = t->p;
    bool ok;

    if (p[2] == ':') {
        v->type = MT_TOML_LOCAL_TIME;
        ok = time_part(&p, t->end, &d);
    } else {
        v->type = MT_TOML_LOCAL_DATE;
        ok = date_part(&p, t->end, &d);
        bool blank = ok && t->end - p >= 2 && *p == ' ' && p[1] >= '0' && p[1] <= '9';
        if (ok && p < t->end && (*p == 'T' || *p == 't' || blank)) {
            p++;
            v->type = MT_TOML_LOCAL_DATETIME;
            ok = time_part(&p, t->end, &d);
            if (ok && p < t->end && (*p == 'Z' || *p == 'z' || *p == '+' || *p == '-')) {
                v->type = MT_TOML_OFFSET_DATETIME;
                ok = offset_part(&p, t->end, &d);
            }
        }
    }
    if (!ok)
        return mt_tp_fail(t, t->p, "not a date or time (RFC 3339, for example 2026-11-23T03:00:00Z)");
    v->date = d;
    t->p = p;
    return 0;
}

/* ---- numbers ---- */

/* Everything a number may be made of; what is wrong with it is found in the copy. */
static size_t number_span(const struct mt_tp *t)
{
    size_t n = 0;

    while (t->p + n < t->end) {
        char c = t->p[n];
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '+' ||
            c == '-' || c == ':')
            n++;
        else
            break;
    }
    return n;
}

/* Drop underscores; each must stand between two digits of the base. */
static bool strip(const char *s, size_t n, unsigned base, char *out)
{
    size_t k = 0;

    for (size_t i = 0; i < n; i++) {
        if (s[i] != '_') {
            out[k++] = s[i];
            continue;
        }
        int before = i > 0 ? hex_value(s[i - 1]) : -1, after = i + 1 < n ? hex_value(s[i + 1]) : -1;
        if (before < 0 || after < 0 || (unsigned)before >= base || (unsigned)after >= base)
            return false;
    }
    out[k] = '\0';
    return true;
}

static bool based_integer(const char *s, unsigned base, int64_t *ret)
{
    uint64_t v = 0;

    if (!*s)
        return false;
    for (; *s; s++) {
        int h = hex_value(*s);
        if (h < 0 || (unsigned)h >= base)
            return false;
        if (v > (uint64_t)INT64_MAX / base || v * base > (uint64_t)INT64_MAX - (uint64_t)h)
            return false;
        v = v * base + (uint64_t)h;
    }
    *ret = (int64_t)v;
    return true;
}

static bool all_digits(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return n > 0;
}

/* decimal integer or float; @s has no underscores. Returns false when it is neither. */
static bool decimal(const char *s, struct mt_toml_value *v, bool *ret_range)
{
    const char *body = *s == '+' || *s == '-' ? s + 1 : s;
    size_t whole = strspn(body, "0123456789");

    if (whole == 0 || (whole > 1 && body[0] == '0'))
        return false;
    const char *p = body + whole;
    if (*p == '\0') {
        uint64_t n = 0, limit = (uint64_t)INT64_MAX + (*s == '-');
        for (size_t i = 0; i < whole; i++) {
            uint64_t d = (uint64_t)(body[i] - '0');
            if (n > (limit - d) / 10) {
                *ret_range = true;
                return false;
            }
            n = n * 10 + d;
        }
        v->type = MT_TOML_INTEGER;
        v->integer = *s == '-' ? (int64_t)(0 - n) : (int64_t)n;
        return true;
    }
    if (*p == '.') {
        size_t frac = strspn(++p, "0123456789");
        if (frac == 0)
            return false;
        p += frac;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-')
            p++;
        size_t n = strlen(p);
        if (!all_digits(p, n))
            return false;
        p += n;
    }
    if (*p != '\0')
        return false;
    v->type = MT_TOML_FLOAT;
    v->number = strtod(s, NULL); /* the form is checked: no hexadecimal, no locale but "C" in any program */
    return true;
}

int mt_tp_number_or_date(struct mt_tp *t, struct mt_toml_value *v)
{
    bool range = false;

    if (looks_like_date(t))
        return date(t, v);
    size_t n = number_span(t);
    char shown[48];
    char *text = n ? mt_arena_alloc(&t->mem->arena, n + 1) : NULL;
    if (n && !text)
        return mt_tp_nomem(t);
    if (n > 2 && t->p[0] == '0' && (t->p[1] == 'x' || t->p[1] == 'o' || t->p[1] == 'b')) {
        unsigned base = t->p[1] == 'x' ? 16 : t->p[1] == 'o' ? 8 : 2;
        v->type = MT_TOML_INTEGER;
        if (strip(t->p + 2, n - 2, base, text) && based_integer(text, base, &v->integer)) {
            (void)snprintf(text, n + 1, "%.*s", (int)n, t->p);
            v->text = text;
            t->p += n;
            return 0;
        }
    } else if (n && strip(t->p, n, 10, text)) {
        const char *body = *text == '+' || *text == '-' ? text + 1 : text;
        if (MT_STREQ(body, "inf") || MT_STREQ(body, "nan")) {
            v->type = MT_TOML_FLOAT;
            v->number = *body == 'i' ? (double)INFINITY : (double)NAN;
            if (*text == '-')
                v->number = -v->number;
            v->text = text;
            t->p += n;
            return 0;
        }
        if (decimal(text, v, &range)) {
            v->text = text;
            t->p += n;
            return 0;
        }
    }
    size_t len = n ? n : mt_utf8_len(t->p, (size_t)(t->end - t->p));
    mt_printable(t->p, len ? len : 1, shown, sizeof shown);
    return range ? mt_tp_fail(t, t->p, "integer '%s' does not fit into 64 bits", shown)
                 : mt_tp_fail(t, t->p, "'%s' is not a value; text goes in double quotes", shown);
}
