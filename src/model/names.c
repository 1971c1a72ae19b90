/* SPDX-License-Identifier: Apache-2.0 */
/* Names: slugs, host names, variable keys. Pure. */
#include "model/names.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

static const struct {
    size_t min, max;
    bool trailing_dash;
    const char *what;
    const char *rule;
} names[MT_NAME_KIND_MAX] = {
    [MT_NAME_ORG] = {2, 39, false, "organisation name",
                     "2 to 39 characters of a-z, 0-9 and '-', starting with a letter, not ending in '-'"},
    [MT_NAME_PROJECT] = {1, 63, false, "project name",
                         "1 to 63 characters of a-z, 0-9 and '-', starting with a letter, not ending in '-'"},
    [MT_NAME_APP] = {1, 63, false, "app name",
                     "1 to 63 characters of a-z, 0-9 and '-', starting with a letter, not ending in '-'"},
    [MT_NAME_ENV] = {1, 32, true, "environment name", "1 to 32 characters of a-z, 0-9 and '-', starting with a letter"},
    [MT_NAME_PROCESS] = {1, 32, true, "process type", "1 to 32 characters of a-z, 0-9 and '-', starting with a letter"},
    [MT_NAME_PORT] = {1, 32, true, "port name", "1 to 32 characters of a-z, 0-9 and '-', starting with a letter"},
    [MT_NAME_VOLUME] = {1, 32, true, "volume name", "1 to 32 characters of a-z, 0-9 and '-', starting with a letter"},
    [MT_NAME_NODE] = {1, 63, false, "node name",
                      "1 to 63 characters of a-z, 0-9 and '-', starting with a letter, not ending in '-'"},
};

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower_hex(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_digit(s[i]) && !(s[i] >= 'a' && s[i] <= 'f'))
            return false;
    return true;
}

bool mt_name_valid(enum mt_name_kind kind, const char *s, size_t len)
{
    MT_ASSERT((unsigned)kind < MT_NAME_KIND_MAX);
    if (len < names[kind].min || len > names[kind].max || !is_lower(s[0]))
        return false;
    for (size_t i = 0; i < len; i++)
        if (!is_lower(s[i]) && !is_digit(s[i]) && s[i] != '-')
            return false;
    return names[kind].trailing_dash || s[len - 1] != '-';
}

const char *mt_name_rule(enum mt_name_kind kind)
{
    MT_ASSERT((unsigned)kind < MT_NAME_KIND_MAX);
    return names[kind].rule;
}

int mt_name_check(enum mt_name_kind kind, const char *s, struct mt_err *err)
{
    char shown[80];

    MT_ASSERT((unsigned)kind < MT_NAME_KIND_MAX);
    if (!s)
        return MT_FAIL(err, MT_E_INVALID, "no %s given (%s)", names[kind].what, names[kind].rule);
    if (!mt_name_valid(kind, s, strlen(s)))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no %s (%s)", mt_printable(s, strlen(s), shown, sizeof shown),
                       names[kind].what, names[kind].rule);
    return 0;
}

const char *mt_hostname_fault(const char *s, size_t len)
{
    size_t labels = 0;

    if (len == 0)
        return "is empty";
    if (len > 253)
        return "is longer than 253 characters";
    if (s[len - 1] == '.')
        return "ends in a dot";
    if (memchr(s, '*', len))
        return "has a wildcard; only exact names route";
    if (memchr(s, ':', len) || s[0] == '[')
        return "is an address or has a port; a host name is needed";
    for (size_t i = 0; i < len;) {
        const char *dot = memchr(s + i, '.', len - i);
        size_t n = dot ? (size_t)(dot - (s + i)) : len - i;
        if (n == 0)
            return "has an empty label";
        if (n > 63)
            return "has a label longer than 63 characters";
        for (size_t k = i; k < i + n; k++) {
            if (s[k] >= 'A' && s[k] <= 'Z')
                return "has upper-case letters";
            if ((unsigned char)s[k] >= 0x80)
                return "is not in A-label form (write international names as xn--...)";
            if (!is_lower(s[k]) && !is_digit(s[k]) && s[k] != '-')
                return "has a character other than a-z, 0-9, '-' and '.'";
        }
        if (s[i] == '-' || s[i + n - 1] == '-')
            return "has a label that starts or ends with '-'";
        labels++;
        i += n + 1;
    }
    if (labels < 2)
        return "has a single label; at least two are needed";
    /* A name whose last label is all digits is read as an IPv4 literal by many programs (WHATWG URL, 4.3.). */
    const char *last = memrchr(s, '.', len);
    bool digits = true;
    for (const char *p = last + 1; p < s + len; p++)
        digits = digits && is_digit(*p);
    return digits ? "is an IPv4 address or ends in a number; a host name is needed" : NULL;
}

int mt_hostname_normalise(const char *s, size_t len, char ret[MT_HOSTNAME_SIZE], struct mt_err *err)
{
    char shown[80];
    char name[MT_HOSTNAME_SIZE];
    const char *fault = NULL;

    if (len > 1 && s[len - 1] == '.')
        len--;
    if (len >= sizeof name) {
        fault = "is longer than 253 characters";
    } else {
        for (size_t i = 0; i < len; i++)
            name[i] = (char)(s[i] >= 'A' && s[i] <= 'Z' ? s[i] - 'A' + 'a' : s[i]);
        name[len] = '\0';
        fault = mt_hostname_fault(name, len);
    }
    if (fault)
        return MT_FAIL(err, MT_E_INVALID, "host name '%s' %s", mt_printable(s, len, shown, sizeof shown), fault);
    memcpy(ret, name, len + 1);
    return 0;
}

bool mt_hex64_valid(const char *s, size_t len)
{
    return len == 64 && is_lower_hex(s, 64);
}

bool mt_idempotency_key_valid(const char *s, size_t len)
{
    if (len < 1 || len > 128)
        return false;
    for (size_t i = 0; i < len; i++)
        if (s[i] < 0x21 || s[i] > 0x7e)
            return false;
    return true;
}

bool mt_email_valid(const char *s, size_t len)
{
    size_t at = 0, n_at = 0;

    if (len > 320 || !mt_utf8_valid(s, len))
        return false;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)s[i] <= 0x20 || s[i] == 0x7f)
            return false;
        if (s[i] == '@') {
            at = i;
            n_at++;
        }
    }
    return n_at == 1 && at > 0 && at + 1 < len;
}

bool mt_var_key_valid(const char *s, size_t len)
{
    if (len < 1 || len > 128 || is_digit(s[0]))
        return false;
    for (size_t i = 0; i < len; i++)
        if (!(s[i] >= 'A' && s[i] <= 'Z') && !is_digit(s[i]) && s[i] != '_')
            return false;
    return true;
}

void mt_email_fold(const char *s, char *ret, size_t size)
{
    size_t n = 0;
    for (; s[n] && n + 1 < size; n++)
        ret[n] = s[n] >= 'A' && s[n] <= 'Z' ? (char)(s[n] + 32) : s[n];
    ret[n] = 0;
}
