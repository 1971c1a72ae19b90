/* SPDX-License-Identifier: Apache-2.0 */
#include "model/secretfile.h"

#include "base/b64.h"
#include "base/str.h"

#include <string.h>

#define B64_MARK "base64:"
#define B64_MARK_LEN (sizeof B64_MARK - 1)

const char *mt_secretfile_fault_code(enum mt_secretfile_fault fault)
{
    static const char *const codes[] = {"",
#define X(symbol, code) code,
                                        MT_SECRETFILE_FAULTS(X)
#undef X
    };
    return codes[fault];
}

/* ---------------------------------------------------------------- keys */

static bool key_spelled(const char *key, size_t n)
{
    if (n == 0 || (key[0] >= '0' && key[0] <= '9'))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(key[i] == '_' || (key[i] >= 'A' && key[i] <= 'Z') || (key[i] >= '0' && key[i] <= '9')))
            return false;
    return true;
}

static int key_fault(const char *key, size_t n, enum mt_secretfile_fault *ret, struct mt_err *err)
{
    char shown[64];
    *ret = MT_SECRETFILE_KEY;
    if (n > MT_SECRETFILE_KEY_MAX)
        return MT_FAIL(err, MT_E_INVALID, "a key has %zu bytes; at most %zu are allowed", n, MT_SECRETFILE_KEY_MAX);
    if (!key_spelled(key, n)) /* what stands before a "=" may be a piece of a value: only what looks like a name is shown */
        return MT_FAIL(err, MT_E_INVALID, "a key is a letter A-Z or _, then letters A-Z, digits and _");
    *ret = MT_SECRETFILE_KEY_RESERVED;
    if (n >= sizeof MT_SECRETFILE_RESERVED - 1 && memcmp(key, MT_SECRETFILE_RESERVED, sizeof MT_SECRETFILE_RESERVED - 1) == 0)
        return MT_FAIL(err, MT_E_INVALID, "key '%s' is reserved: " MT_SECRETFILE_RESERVED "* belongs to the platform",
                       mt_printable(key, n, shown, sizeof shown));
    *ret = MT_SECRETFILE_OK;
    return 0;
}

int mt_secretfile_key_check(const char *key, enum mt_secretfile_fault *ret, struct mt_err *err)
{
    return key_fault(key, strlen(key), ret, err);
}

/* ---------------------------------------------------------------- entries */

/* Where @key is, or where it would go. */
static size_t place(const struct mt_secretfile *f, const char *key, bool *ret_there)
{
    size_t lo = 0, hi = f->n;
    *ret_there = false;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(f->entries[mid].key, key);
        if (c == 0) {
            *ret_there = true;
            return mid;
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static int put(struct mt_secretfile *f, const struct mt_secretfile_entry *e, bool *ret_replaced, struct mt_err *err)
{
    size_t at = place(f, e->key, ret_replaced);
    if (e->len > MT_SECRETFILE_VALUE_MAX) {
        f->fault = MT_SECRETFILE_VALUE_TOO_LARGE;
        return MT_FAIL(err, MT_E_INVALID, "the value of '%s' has %zu bytes; at most %zu are allowed", e->key, e->len,
                       MT_SECRETFILE_VALUE_MAX);
    }
    if (!*ret_replaced && f->n == MT_SECRETFILE_KEYS_MAX) {
        f->fault = MT_SECRETFILE_TOO_MANY;
        return MT_FAIL(err, MT_E_INVALID, "more than %d keys", MT_SECRETFILE_KEYS_MAX);
    }
    if (!*ret_replaced) {
        memmove(&f->entries[at + 1], &f->entries[at], (f->n - at) * sizeof f->entries[0]);
        f->n++;
    }
    f->entries[at] = *e;
    return 0;
}

int mt_secretfile_set(struct mt_secretfile *f, const char *key, const void *value, size_t len, struct mt_err *err)
{
    struct mt_secretfile_entry e = {.key = key, .value = value, .len = len};
    bool replaced;
    int rc = mt_secretfile_key_check(key, &f->fault, err);
    return rc < 0 ? rc : put(f, &e, &replaced, err);
}

bool mt_secretfile_unset(struct mt_secretfile *f, const char *key)
{
    bool there;
    size_t at = place(f, key, &there);
    if (!there)
        return false;
    f->n--;
    memmove(&f->entries[at], &f->entries[at + 1], (f->n - at) * sizeof f->entries[0]);
    return true;
}

const struct mt_secretfile_entry *mt_secretfile_get(const struct mt_secretfile *f, const char *key)
{
    bool there;
    size_t at = place(f, key, &there);
    return there ? &f->entries[at] : NULL;
}

/* ---------------------------------------------------------------- reading */

struct reader {
    struct mt_secretfile *f;
    uint8_t *mem;
    unsigned line;
    struct mt_err *err;
};

#define WRONG(r, ...) ((r)->f->fault = MT_SECRETFILE_FORMAT, MT_FAIL((r)->err, MT_E_INVALID, __VA_ARGS__))

static bool blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t')
            return false;
    return true;
}

/* Key, NUL and value take no more room than the line did: the NUL stands for "=", and decoding shrinks. */
static int take_entry(struct reader *r, const char *line, size_t n)
{
    const char *eq = memchr(line, '=', n);
    bool twice;
    if (!eq)
        return WRONG(r, "line %u: neither KEY=VALUE nor a comment", r->line);
    size_t key_len = (size_t)(eq - line), len = n - key_len - 1;
    const char *value = eq + 1;
    if (key_fault(line, key_len, &r->f->fault, r->err) < 0)
        return mt_err_wrap(r->err, "line %u", r->line);
    struct mt_secretfile_entry e = {.key = (char *)r->mem, .value = r->mem + key_len + 1, .len = len, .line = r->line};
    memcpy(r->mem, line, key_len);
    r->mem[key_len] = '\0';
    if (len >= B64_MARK_LEN && memcmp(value, B64_MARK, B64_MARK_LEN) == 0) {
        ssize_t got = mt_b64_decode(value + B64_MARK_LEN, len - B64_MARK_LEN, r->mem + key_len + 1, len);
        if (got < 0)
            return WRONG(r, "line %u: the value of '%s' is not base64 (RFC 4648)", r->line, e.key);
        e.len = (size_t)got;
    } else {
        memcpy(r->mem + key_len + 1, value, len);
    }
    const struct mt_secretfile_entry *before = mt_secretfile_get(r->f, e.key);
    if (before)
        return WRONG(r, "line %u: key '%s' was given in line %u already", r->line, e.key, before->line);
    if (put(r->f, &e, &twice, r->err) < 0)
        return mt_err_wrap(r->err, "line %u", r->line);
    r->mem += key_len + 1 + e.len;
    return 0;
}

/* What counts for the whole text, with the line of the first offence. */
static int check_bytes(struct reader *r, const char *s, size_t n)
{
    unsigned line = 1;
    if (n >= 3 && memcmp(s, "\xef\xbb\xbf", 3) == 0)
        return WRONG(r, "line 1: a byte order mark; save the file without one");
    for (size_t i = 0; i < n;) {
        size_t k = mt_utf8_len(s + i, n - i);
        if (s[i] == '\0')
            return WRONG(r, "line %u: a NUL byte; write the value as base64:", line);
        if (k == 0)
            return WRONG(r, "line %u: not UTF-8; write the value as base64:", line);
        if (s[i] == '\r' && (i + 1 == n || s[i + 1] != '\n'))
            return WRONG(r, "line %u: a carriage return that is not part of a line end", line);
        line += s[i] == '\n';
        i += k;
    }
    return 0;
}

int mt_secretfile_read(const void *data, size_t len, uint8_t *mem, struct mt_secretfile *ret, struct mt_err *err)
{
    struct reader r = {.f = ret, .mem = mem, .err = err};
    const char *s = data, *end = s + len;
    bool header = false;
    ret->n = 0;
    ret->fault = MT_SECRETFILE_OK;
    if (len > MT_SECRETFILE_INPUT_MAX) {
        ret->fault = MT_SECRETFILE_TOO_LARGE;
        return MT_FAIL(err, MT_E_INVALID, "the file has %zu bytes; at most %zu are read", len, MT_SECRETFILE_INPUT_MAX);
    }
    int rc = len ? check_bytes(&r, s, len) : 0;
    while (rc == 0 && s < end) {
        const char *nl = memchr(s, '\n', (size_t)(end - s)), *stop = nl ? nl : end;
        size_t n = (size_t)(stop - s);
        r.line++;
        if (nl && n && s[n - 1] == '\r')
            n--;
        if (!header && !blank(s, n)) {
            if (n != sizeof MT_SECRETFILE_HEADER - 1 || memcmp(s, MT_SECRETFILE_HEADER, n) != 0)
                return WRONG(&r, "line %u: the first line is not '%s'", r.line, MT_SECRETFILE_HEADER);
            header = true;
        } else if (n && s[0] != '#' && !blank(s, n)) {
            rc = take_entry(&r, s, n);
        }
        s = nl ? nl + 1 : end;
    }
    if (rc == 0 && !header)
        return WRONG(&r, "the file does not begin with '%s'", MT_SECRETFILE_HEADER);
    return rc;
}

/* ---------------------------------------------------------------- writing */

/* Characters at which some reader splits or trims, or that it drops. */
static bool breaks(uint32_t c)
{
    return (c < 0x20 && c != '\t') || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 || c == 0xfeff;
}

static uint32_t code_point(const uint8_t *s, size_t k)
{
    static const uint8_t first[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = s[0] & first[k];
    for (size_t i = 1; i < k; i++)
        c = c << 6 | (s[i] & 0x3f);
    return c;
}

static bool plain(const uint8_t *v, size_t n)
{
    const char *s = (const char *)v;
    if (n == 0)
        return true;
    if (n > MT_SECRETFILE_PLAIN_MAX || (n >= B64_MARK_LEN && memcmp(v, B64_MARK, B64_MARK_LEN) == 0) || blank(s, 1) || blank(s + n - 1, 1))
        return false;
    for (size_t i = 0; i < n;) {
        size_t k = mt_utf8_len(s + i, n - i);
        if (k == 0 || breaks(code_point(v + i, k)))
            return false;
        i += k;
    }
    return true;
}

struct writer {
    uint8_t *out;
    size_t len;
    bool full;
};

static void bytes(struct writer *w, const void *p, size_t n)
{
    if (w->full || n > MT_SECRETFILE_MAX - w->len) {
        w->full = true;
        return;
    }
    memcpy(w->out + w->len, p, n);
    w->len += n;
}

static void base64(struct writer *w, const uint8_t *v, size_t n)
{
    char four[MT_B64_SIZE(3)];
    bytes(w, B64_MARK, B64_MARK_LEN);
    for (size_t i = 0; i < n && !w->full; i += 3)
        bytes(w, four, mt_b64_encode(v + i, n - i < 3 ? n - i : 3, four));
    explicit_bzero(four, sizeof four);
}

size_t mt_secretfile_room(const struct mt_secretfile *f)
{
    size_t n = sizeof MT_SECRETFILE_HEADER;
    for (size_t i = 0; i < f->n; i++)
        n += strlen(f->entries[i].key) + 2 + B64_MARK_LEN + MT_B64_SIZE(f->entries[i].len);
    return n < MT_SECRETFILE_MAX ? n : MT_SECRETFILE_MAX;
}

int mt_secretfile_write(struct mt_secretfile *f, uint8_t *out, size_t *ret_len, struct mt_err *err)
{
    struct writer w = {.out = out};
    bytes(&w, MT_SECRETFILE_HEADER "\n", sizeof MT_SECRETFILE_HEADER);
    for (size_t i = 0; i < f->n; i++) {
        const struct mt_secretfile_entry *e = &f->entries[i];
        bytes(&w, e->key, strlen(e->key));
        bytes(&w, "=", 1);
        if (plain(e->value, e->len))
            bytes(&w, e->value ? e->value : (const uint8_t *)"", e->len);
        else
            base64(&w, e->value, e->len);
        bytes(&w, "\n", 1);
    }
    if (w.full) {
        explicit_bzero(out, w.len);
        f->fault = MT_SECRETFILE_TOO_LARGE;
        return MT_FAIL(err, MT_E_LIMIT, "the file would have more than %zu bytes", MT_SECRETFILE_MAX);
    }
    *ret_len = w.len;
    return 0;
}
