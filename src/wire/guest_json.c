/* SPDX-License-Identifier: Apache-2.0 */
/* Strict bounded JSON: see guest_json.h. */
#include "wire/guest_json.h"

#include <stdalign.h>
#include <string.h>

#include "base/err.h"
#include "base/str.h"

struct reader {
    const char *text;
    size_t len, at;
    size_t nodes_left;
    struct mt_guest_mem *mem;
    struct mt_err *err;
};

void *mt_guest_mem_take(struct mt_guest_mem *mem, size_t n)
{
    const size_t align = alignof(max_align_t);
    uintptr_t here = (uintptr_t)mem->base + mem->used;
    size_t pad = (size_t)((align - here % align) % align);
    if (mem->used > mem->cap || pad > mem->cap - mem->used || n > mem->cap - mem->used - pad)
        return NULL;
    uint8_t *p = mem->base + mem->used + pad;
    mem->used += pad + n;
    memset(p, 0, n);
    return p;
}

static int invalid(struct reader *r, const char *what)
{
    return MT_FAIL(r->err, MT_E_INVALID, "json: %s at byte %zu", what, r->at);
}

static int too_large(struct reader *r, const char *what)
{
    return MT_FAIL(r->err, MT_E_LIMIT, "json: %s at byte %zu", what, r->at);
}

static void skip_space(struct reader *r)
{
    while (r->at < r->len && (r->text[r->at] == ' ' || r->text[r->at] == '\t' || r->text[r->at] == '\r'))
        r->at++;
}

/* 0 at the end: no token starts with NUL */
static char peek(struct reader *r)
{
    skip_space(r);
    return r->at < r->len ? r->text[r->at] : '\0';
}

static int read_hex4(struct reader *r, uint32_t *ret)
{
    uint32_t v = 0;
    if (r->len - r->at < 4)
        return invalid(r, "cut \\u escape");
    for (int i = 0; i < 4; i++, r->at++) {
        char c = r->text[r->at];
        uint32_t d;
        if (c >= '0' && c <= '9')
            d = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            d = (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            d = (uint32_t)(c - 'A' + 10);
        else
            return invalid(r, "bad \\u escape");
        v = v << 4 | d;
    }
    *ret = v;
    return 0;
}

static size_t put_utf8(char *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

/* after the backslash; writes at most 4 bytes, never more than the escape took */
static int read_escape(struct reader *r, char *out, size_t *ret_n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->at >= r->len)
        return invalid(r, "cut escape");
    char c = r->text[r->at++];
    if (c != 'u') {
        const char *hit = c ? strchr(from, c) : NULL;
        if (!hit)
            return invalid(r, "unknown escape");
        *out = to[hit - from];
        *ret_n = 1;
        return 0;
    }
    uint32_t cp = 0, low = 0;
    int res = read_hex4(r, &cp);
    if (res < 0)
        return res;
    if (cp == 0)
        return invalid(r, "character U+0000");
    if (cp >= 0xdc00 && cp <= 0xdfff)
        return invalid(r, "lone surrogate");
    if (cp >= 0xd800 && cp <= 0xdbff) {
        if (r->len - r->at < 6 || r->text[r->at] != '\\' || r->text[r->at + 1] != 'u')
            return invalid(r, "lone surrogate");
        r->at += 2;
        res = read_hex4(r, &low);
        if (res < 0)
            return res;
        if (low < 0xdc00 || low > 0xdfff)
            return invalid(r, "lone surrogate");
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    }
    *ret_n = put_utf8(out, cp);
    return 0;
}

/* finds the closing quote, so that exactly enough memory is carved: decoding never grows */
static int string_span(struct reader *r, size_t *ret_span)
{
    for (size_t i = r->at; i < r->len; i++) {
        if (r->text[i] == '"') {
            *ret_span = i - r->at;
            return 0;
        }
        if (r->text[i] == '\\')
            i++;
    }
    return invalid(r, "string without end");
}

static int read_string(struct reader *r, const char **ret_string, uint32_t *ret_len)
{
    size_t span = 0, n = 0;
    if (r->at >= r->len || r->text[r->at] != '"')
        return invalid(r, "string expected");
    r->at++;
    int res = string_span(r, &span);
    if (res < 0)
        return res;
    char *out = mt_guest_mem_take(r->mem, span + 1);
    if (!out)
        return too_large(r, "out of decode memory");
    for (;;) {
        unsigned char c = (unsigned char)r->text[r->at];
        if (c == '"')
            break;
        if (c < 0x20)
            return invalid(r, "control character in string");
        size_t took = 0;
        if (c == '\\') {
            r->at++;
            res = read_escape(r, out + n, &took);
            if (res < 0)
                return res;
        } else {
            took = mt_utf8_len(r->text + r->at, r->len - r->at);
            if (took == 0)
                return invalid(r, "invalid UTF-8");
            memcpy(out + n, r->text + r->at, took);
            r->at += took;
        }
        n += took;
    }
    r->at++;
    *ret_string = out;
    *ret_len = (uint32_t)n;
    return 0;
}

static int read_number(struct reader *r, int64_t *ret)
{
    bool negative = r->text[r->at] == '-';
    uint64_t v = 0, max = negative ? (uint64_t)INT64_MAX + 1 : INT64_MAX;
    size_t digits = 0;
    if (negative)
        r->at++;
    size_t start = r->at;
    while (r->at < r->len && r->text[r->at] >= '0' && r->text[r->at] <= '9') {
        uint64_t d = (uint64_t)(r->text[r->at] - '0');
        if (v > (max - d) / 10)
            return invalid(r, "number out of range");
        v = v * 10 + d;
        digits++;
        r->at++;
    }
    if (digits == 0)
        return invalid(r, "digit expected");
    if (digits > 1 && r->text[start] == '0')
        return invalid(r, "leading zero");
    if (r->at < r->len && (r->text[r->at] == '.' || r->text[r->at] == 'e' || r->text[r->at] == 'E'))
        return invalid(r, "number is not an integer");
    /* two's complement without ever forming -INT64_MIN */
    *ret = negative ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

static int read_word(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->len - r->at < n || memcmp(r->text + r->at, word, n) != 0)
        return invalid(r, "value expected");
    r->at += n;
    return 0;
}

static int read_value(struct reader *r, unsigned depth, struct mt_guest_json_node *node);

static bool has_key(const struct mt_guest_json_node *object, const char *key, uint32_t len)
{
    for (const struct mt_guest_json_node *m = object->child; m; m = m->next)
        if (m->key_len == len && memcmp(m->key, key, len) == 0)
            return true;
    return false;
}

static struct mt_guest_json_node *new_node(struct reader *r)
{
    if (r->nodes_left == 0)
        return NULL;
    r->nodes_left--;
    return mt_guest_mem_take(r->mem, sizeof(struct mt_guest_json_node));
}

static int read_container(struct reader *r, unsigned depth, struct mt_guest_json_node *node)
{
    bool object = r->text[r->at] == '{';
    char end = object ? '}' : ']';
    struct mt_guest_json_node *last = NULL;
    int res;
    if (depth > MT_GUEST_JSON_DEPTH_MAX)
        return too_large(r, "nested deeper than 8");
    node->kind = object ? MT_GUEST_JSON_OBJECT : MT_GUEST_JSON_ARRAY;
    r->at++;
    if (peek(r) == end) {
        r->at++;
        return 0;
    }
    for (;;) {
        struct mt_guest_json_node *item = new_node(r);
        if (!item)
            return too_large(r, "too many values");
        if (object) {
            if (node->len >= MT_GUEST_JSON_MEMBERS_MAX)
                return too_large(r, "too many members in one object");
            (void)peek(r);
            res = read_string(r, &item->key, &item->key_len);
            if (res < 0)
                return res;
            if (has_key(node, item->key, item->key_len))
                return invalid(r, "duplicate key");
            if (peek(r) != ':')
                return invalid(r, "':' expected");
            r->at++;
        }
        res = read_value(r, depth + 1, item);
        if (res < 0)
            return res;
        if (last)
            last->next = item;
        else
            node->child = item;
        last = item;
        node->len++;
        char c = peek(r);
        if (c == end) {
            r->at++;
            return 0;
        }
        if (c != ',')
            return invalid(r, object ? "',' or '}' expected" : "',' or ']' expected");
        r->at++;
    }
}

static int read_value(struct reader *r, unsigned depth, struct mt_guest_json_node *node)
{
    switch (peek(r)) {
    case '{':
    case '[':
        return read_container(r, depth, node);
    case '"':
        node->kind = MT_GUEST_JSON_STRING;
        return read_string(r, &node->string, &node->len);
    case 't':
        node->kind = MT_GUEST_JSON_BOOL;
        node->number = 1;
        return read_word(r, "true");
    case 'f':
        node->kind = MT_GUEST_JSON_BOOL;
        return read_word(r, "false");
    case 'n':
        node->kind = MT_GUEST_JSON_NULL;
        return read_word(r, "null");
    case '-':
    case '0' ... '9':
        node->kind = MT_GUEST_JSON_INT;
        return read_number(r, &node->number);
    default:
        return invalid(r, "value expected");
    }
}

int mt_guest_json_parse(const char *text, size_t len, size_t nodes_max, struct mt_guest_mem *mem,
                        const struct mt_guest_json_node **ret_root, struct mt_err *err)
{
    struct reader r = {.text = text, .len = len, .nodes_left = nodes_max, .mem = mem, .err = err};
    if (len > UINT32_MAX)
        return too_large(&r, "text longer than 4 GiB");
    struct mt_guest_json_node *root = new_node(&r);
    if (!root)
        return too_large(&r, "out of decode memory");
    if (peek(&r) != '{')
        return invalid(&r, "object expected");
    int res = read_container(&r, 1, root);
    if (res < 0)
        return res;
    skip_space(&r);
    if (r.at != len)
        return invalid(&r, "text after the object");
    *ret_root = root;
    return 0;
}

const struct mt_guest_json_node *mt_guest_json_get(const struct mt_guest_json_node *object,
                                                   const char *key)
{
    for (const struct mt_guest_json_node *m = object->child; m; m = m->next)
        if (strcmp(m->key, key) == 0)
            return m;
    return NULL;
}

/* --- writer --- */

void mt_guest_json_put_raw(struct mt_guest_json_out *out, const char *bytes, size_t n)
{
    if (out->full || n > out->cap - out->len) {
        out->full = true;
        return;
    }
    memcpy(out->at + out->len, bytes, n);
    out->len += n;
}

static void put_text(struct mt_guest_json_out *out, const char *s)
{
    static const char hex[] = "0123456789abcdef";
    size_t len = strlen(s), plain = 0, at = 0;
    mt_guest_json_put_raw(out, "\"", 1);
    while (at < len) {
        unsigned char c = (unsigned char)s[at];
        size_t n = mt_utf8_len(s + at, len - at);
        if (n == 0) {
            out->bad_text = true;
            return;
        }
        if (c >= 0x20 && c != '"' && c != '\\') {
            at += n;
            continue;
        }
        mt_guest_json_put_raw(out, s + plain, at - plain);
        if (c == '"' || c == '\\') {
            mt_guest_json_put_raw(out, (const char[]){'\\', (char)c}, 2);
        } else {
            const char esc[] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            mt_guest_json_put_raw(out, esc, sizeof esc);
        }
        plain = ++at;
    }
    mt_guest_json_put_raw(out, s + plain, at - plain);
    mt_guest_json_put_raw(out, "\"", 1);
}

static void put_key(struct mt_guest_json_out *out, const char *key)
{
    if (out->comma)
        mt_guest_json_put_raw(out, ",", 1);
    if (key) {
        put_text(out, key);
        mt_guest_json_put_raw(out, ":", 1);
    }
    out->comma = true;
}

void mt_guest_json_put_open(struct mt_guest_json_out *out, const char *key, char bracket)
{
    put_key(out, key);
    mt_guest_json_put_raw(out, &bracket, 1);
    out->comma = false;
}

void mt_guest_json_put_close(struct mt_guest_json_out *out, char bracket)
{
    mt_guest_json_put_raw(out, &bracket, 1);
    out->comma = true;
}

void mt_guest_json_put_str(struct mt_guest_json_out *out, const char *key, const char *value)
{
    put_key(out, key);
    put_text(out, value);
}

static void put_digits(struct mt_guest_json_out *out, const char *key, uint64_t v, bool negative)
{
    char text[24];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v != 0);
    if (negative)
        text[--at] = '-';
    put_key(out, key);
    mt_guest_json_put_raw(out, text + at, sizeof text - at);
}

void mt_guest_json_put_int(struct mt_guest_json_out *out, const char *key, int64_t value)
{
    put_digits(out, key, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
}

void mt_guest_json_put_uint(struct mt_guest_json_out *out, const char *key, uint64_t value)
{
    put_digits(out, key, value > INT64_MAX ? INT64_MAX : value, false);
}

void mt_guest_json_put_bool(struct mt_guest_json_out *out, const char *key, bool value)
{
    put_key(out, key);
    mt_guest_json_put_raw(out, value ? "true" : "false", value ? 4 : 5);
}
