/* SPDX-License-Identifier: Apache-2.0 */
#include "model/dotenv.h"

#include "base/str.h"

#include <string.h>

struct reader {
    struct mt_secretfile *f;
    const char *s, *end;
    uint8_t *mem; /* where the next byte goes; never further than the input was read */
    unsigned line;
    struct mt_err *err;
};

#define WRONG(r, ...) ((r)->f->fault = MT_SECRETFILE_FORMAT, MT_FAIL((r)->err, MT_E_INVALID, __VA_ARGS__))

static bool space(char c)
{
    return c == ' ' || c == '\t' || c == '\r'; /* a CR before the line's end; others are refused before */
}

static void skip_space(struct reader *r)
{
    while (r->s < r->end && space(*r->s))
        r->s++;
}

static void skip_line(struct reader *r)
{
    while (r->s < r->end && *r->s != '\n')
        r->s++;
}

bool mt_dotenv_is_secretfile(const void *data, size_t len)
{
    struct reader r = {.s = data, .end = (const char *)data + len};
    static const char mark[] = "# MOAT_SECRETS"; /* also of another version or spelled wrong: its own reader says what is wrong */
    if (len >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        r.s += 3;
    while (r.s < r.end && (space(*r.s) || *r.s == '\n'))
        r.s++;
    return (size_t)(r.end - r.s) >= sizeof mark - 1 && memcmp(r.s, mark, sizeof mark - 1) == 0;
}

static int check_bytes(struct reader *r)
{
    unsigned line = 1;
    for (const char *p = r->s; p < r->end;) {
        size_t k = mt_utf8_len(p, (size_t)(r->end - p));
        if (*p == '\0' || k == 0)
            return WRONG(r, "line %u: %s; a secrets file takes such a value as base64:", line, *p == '\0' ? "a NUL byte" : "not UTF-8");
        if (*p == '\r' && (p + 1 == r->end || p[1] != '\n'))
            return WRONG(r, "line %u: a carriage return that is not part of a line end", line);
        line += *p == '\n';
        p += k;
    }
    return 0;
}

/* Up to the end of the line or a comment, trimmed. */
static void plain(struct reader *r)
{
    uint8_t *kept = r->mem;
    for (; r->s < r->end && *r->s != '\n'; r->s++) {
        if (*r->s == '#' && space(r->s[-1])) /* A=#1 is a value, as in a shell */
            break;
        *r->mem++ = (uint8_t)*r->s;
    }
    while (r->mem > kept && space((char)r->mem[-1]))
        r->mem--;
    skip_line(r);
}

static char escaped(char c)
{
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case '\\':
    case '"':
    case '$':
        return c;
    default:
        return '\0';
    }
}

/* What stands between quotes; the line counts on. */
static int quoted(struct reader *r, const char *key)
{
    char quote = *r->s++;
    unsigned began = r->line;
    for (; r->s < r->end && *r->s != quote; r->s++) {
        char c = *r->s;
        r->line += c == '\n';
        if (c == '\r') /* of a CRLF: the value has the line end that the file's reader meant */
            continue;
        if (quote == '"' && c == '\\' && r->s + 1 < r->end && escaped(r->s[1]))
            c = escaped(*++r->s);
        *r->mem++ = (uint8_t)c;
    }
    if (r->s == r->end)
        return WRONG(r, "line %u: the value of '%s' has no closing %c", began, key, quote);
    r->s++;
    skip_space(r);
    if (r->s < r->end && *r->s == '#')
        skip_line(r);
    return r->s == r->end || *r->s == '\n' ? 0 : WRONG(r, "line %u: more than a comment after the closing %c of '%s'", r->line, quote, key);
}

static int entry(struct reader *r)
{
    struct mt_secretfile_entry e = {.key = (char *)r->mem};
    static const char word[] = "export";
    unsigned at = r->line;
    enum mt_secretfile_fault fault;
    if ((size_t)(r->end - r->s) > sizeof word && memcmp(r->s, word, sizeof word - 1) == 0 && space(r->s[sizeof word - 1])) {
        r->s += sizeof word;
        skip_space(r);
    }
    while (r->s < r->end && *r->s != '=' && *r->s != '\n' && !space(*r->s))
        *r->mem++ = (uint8_t)*r->s++;
    skip_space(r);
    if (r->s == r->end || *r->s != '=')
        return WRONG(r, "line %u: neither KEY=VALUE nor a comment", at);
    r->s++;
    *r->mem++ = '\0'; /* in the place of the "=" */
    if (mt_secretfile_key_check(e.key, &fault, r->err) < 0) {
        r->f->fault = fault;
        return mt_err_wrap(r->err, "line %u", at);
    }
    if (mt_secretfile_get(r->f, e.key))
        return WRONG(r, "line %u: key '%s' is there twice", at, e.key);
    skip_space(r);
    e.value = r->mem;
    if (r->s < r->end && (*r->s == '\'' || *r->s == '"')) {
        int rc = quoted(r, e.key);
        if (rc < 0)
            return rc;
    } else {
        plain(r);
    }
    e.len = (size_t)(r->mem - e.value);
    return mt_secretfile_set(r->f, e.key, e.value, e.len, r->err) < 0 ? mt_err_wrap(r->err, "line %u", at) : 0;
}

int mt_dotenv_read(const void *data, size_t len, uint8_t *mem, struct mt_secretfile *ret, struct mt_err *err)
{
    struct reader r = {.f = ret, .s = data, .end = (const char *)data + len, .mem = mem, .line = 1, .err = err};
    ret->n = 0;
    ret->fault = MT_SECRETFILE_OK;
    if (len > MT_SECRETFILE_INPUT_MAX) {
        ret->fault = MT_SECRETFILE_TOO_LARGE;
        return MT_FAIL(err, MT_E_INVALID, "the file has %zu bytes; at most %zu are read", len, MT_SECRETFILE_INPUT_MAX);
    }
    if (len >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        r.s += 3;
    int rc = check_bytes(&r);
    while (rc == 0 && r.s < r.end) {
        skip_space(&r);
        if (r.s < r.end && *r.s == '#')
            skip_line(&r);
        else if (r.s < r.end && *r.s != '\n')
            rc = entry(&r);
        if (rc == 0 && r.s < r.end) { /* at the line's end */
            r.s++;
            r.line++;
        }
    }
    return rc;
}
