/* SPDX-License-Identifier: Apache-2.0 */
/* Forms and cookies. */
#include "control/auth/form.h"

#include "base/str.h"

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decode one name or value of @n bytes. */
static int decode(const char *s, size_t n, char *ret, size_t size, struct mt_err *err)
{
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            int a = i + 1 < n ? hex(s[i + 1]) : -1, b = i + 2 < n ? hex(s[i + 2]) : -1;
            if (a < 0 || b < 0)
                return MT_FAIL(err, MT_E_INVALID, "the form has a bad escape");
            c = (unsigned char)(a << 4 | b);
            i += 2;
        }
        if (c < 0x20 || c == 0x7f)
            return MT_FAIL(err, MT_E_INVALID, "the form has a control character");
        if (out + 1 >= size)
            return MT_FAIL(err, MT_E_INVALID, "a field of the form is too long");
        ret[out++] = (char)c;
    }
    ret[out] = 0;
    if (!mt_utf8_valid(ret, out))
        return MT_FAIL(err, MT_E_INVALID, "the form is not UTF-8");
    return 0;
}

int mt_form_parse(const char *body, size_t len, struct mt_form *ret, struct mt_err *err)
{
    ret->n = 0;
    if (len > MT_FORM_BODY)
        return MT_FAIL(err, MT_E_INVALID, "the form is too long");
    for (size_t at = 0; at < len;) {
        const char *pair = body + at, *end = memchr(pair, '&', len - at);
        size_t n = end ? (size_t)(end - pair) : len - at;
        const char *eq = memchr(pair, '=', n);
        size_t name_n = eq ? (size_t)(eq - pair) : n;
        at += n + 1;
        if (ret->n == MT_FORM_FIELDS)
            return MT_FAIL(err, MT_E_INVALID, "the form has too many fields");
        char *name = ret->field[ret->n].name;
        int rc = decode(pair, name_n, name, MT_FORM_NAME, err);
        if (rc == 0)
            rc = decode(eq ? eq + 1 : "", eq ? n - name_n - 1 : 0, ret->field[ret->n].value, MT_FORM_VALUE, err);
        if (rc < 0)
            return rc;
        if (!*name || strspn(name, "abcdefghijklmnopqrstuvwxyz_") != strlen(name))
            return MT_FAIL(err, MT_E_INVALID, "the form has a field that is not known");
        for (int i = 0; i < ret->n; i++)
            if (MT_STREQ(ret->field[i].name, name))
                return MT_FAIL(err, MT_E_INVALID, "the form has a field twice");
        ret->n++;
    }
    return 0;
}

const char *mt_form_get(const struct mt_form *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (MT_STREQ(f->field[i].name, name))
            return f->field[i].value;
    return "";
}

void mt_form_wipe(struct mt_form *f)
{
    explicit_bzero(f, sizeof *f);
}

bool mt_cookie_get(const char *header, const char *name, char *ret, size_t size)
{
    size_t want = strlen(name);
    bool found = false;
    for (const char *p = header; *p;) {
        p += strspn(p, " ;");
        size_t n = strcspn(p, ";"), name_n = strcspn(p, "=;");
        if (name_n == want && memcmp(p, name, want) == 0 && p[name_n] == '=') {
            size_t len = n - name_n - 1;
            if (found || len >= size)
                return false;
            memcpy(ret, p + name_n + 1, len);
            ret[len] = 0;
            found = true;
        }
        p += n;
    }
    return found;
}
