/* SPDX-License-Identifier: Apache-2.0 */
/* Names: slugs, host names, image references, digests. Pure. */
#include "model/names.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

#include <arpa/inet.h>

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

bool mt_digest_valid(const char *s, size_t len)
{
    return len == MT_DIGEST_LEN && memcmp(s, "sha256:", 7) == 0 && is_lower_hex(s + 7, 64);
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

/* A port of 1..5 digits, 1..65535, without leading zero. */
static bool port_valid(const char *s, size_t len)
{
    unsigned v = 0;

    if (len < 1 || len > 5 || s[0] == '0')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!is_digit(s[i]))
            return false;
        v = v * 10 + (unsigned)(s[i] - '0');
    }
    return v <= 65535;
}

static bool registry_host_valid(const char *s, size_t len)
{
    if (len > 0 && s[0] == '[') {
        const char *end = memchr(s, ']', len);
        char text[INET6_ADDRSTRLEN];
        struct in6_addr addr;
        if (!end || (size_t)(end - s - 1) >= sizeof text)
            return false;
        memcpy(text, s + 1, (size_t)(end - s - 1));
        text[end - s - 1] = '\0';
        size_t rest = len - (size_t)(end - s) - 1;
        return inet_pton(AF_INET6, text, &addr) == 1 && (rest == 0 || (end[1] == ':' && port_valid(end + 2, rest - 1)));
    }
    const char *colon = memchr(s, ':', len);
    size_t n = colon ? (size_t)(colon - s) : len;
    if (colon && !port_valid(colon + 1, len - n - 1))
        return false;
    if (n == 0 || n > 253)
        return false;
    for (size_t i = 0, label = 0; i <= n; i++) {
        if (i == n || s[i] == '.') {
            if (i == label || s[label] == '-' || s[i - 1] == '-')
                return false;
            label = i + 1;
        } else if (!is_lower(s[i]) && !(s[i] >= 'A' && s[i] <= 'Z') && !is_digit(s[i]) && s[i] != '-') {
            return false;
        }
    }
    return true;
}

/* Distribution grammar: components of [a-z0-9]+ joined by one '.', one or two '_', or any run of '-'. */
static bool repo_valid(const char *s, size_t len)
{
    size_t i = 0;

    if (len == 0 || len > 255)
        return false;
    while (i < len) {
        if (!is_lower(s[i]) && !is_digit(s[i]))
            return false;
        while (i < len && (is_lower(s[i]) || is_digit(s[i])))
            i++;
        if (i == len)
            return true;
        if (s[i] == '/' || s[i] == '.') {
            i++;
        } else if (s[i] == '_') {
            i += i + 1 < len && s[i + 1] == '_' ? 2 : 1;
        } else if (s[i] == '-') {
            while (i < len && s[i] == '-')
                i++;
        } else {
            return false;
        }
    }
    return false; /* ended in a separator */
}

static bool tag_valid(const char *s, size_t len)
{
    if (len < 1 || len > 128 || s[0] == '.' || s[0] == '-')
        return false;
    for (size_t i = 0; i < len; i++)
        if (!is_lower(s[i]) && !(s[i] >= 'A' && s[i] <= 'Z') && !is_digit(s[i]) && s[i] != '_' && s[i] != '.' && s[i] != '-')
            return false;
    return true;
}

enum mt_image_ref_fault mt_image_ref_parse(const char *s, size_t len, struct mt_image_ref *ret)
{
    struct mt_image_ref ref = {0};

    if (len == 0 || len > 512)
        return MT_IMAGE_REF_FORM;
    const char *at = memchr(s, '@', len);
    if (at) {
        ref.digest = at + 1;
        ref.digest_len = len - (size_t)(at - s) - 1;
        len = (size_t)(at - s);
    }
    const char *slash = memchr(s, '/', len);
    size_t first = slash ? (size_t)(slash - s) : 0;
    if (slash && (memchr(s, '.', first) || memchr(s, ':', first) || (first == 9 && memcmp(s, "localhost", 9) == 0))) {
        ref.host = s;
        ref.host_len = first;
        if (!registry_host_valid(s, first))
            return MT_IMAGE_REF_FORM;
        s = slash + 1;
        len -= first + 1;
    }
    ref.repo = s;
    const char *colon = len ? memrchr(s, ':', len) : NULL;
    if (colon) {
        ref.tag = colon + 1;
        ref.tag_len = len - (size_t)(colon - s) - 1;
        if (!tag_valid(ref.tag, ref.tag_len))
            return MT_IMAGE_REF_FORM;
        len = (size_t)(colon - s);
    }
    ref.repo_len = len;
    if (!repo_valid(ref.repo, len))
        return MT_IMAGE_REF_FORM;
    if (ref.digest && !mt_digest_valid(ref.digest, ref.digest_len))
        return MT_IMAGE_REF_DIGEST;
    *ret = ref;
    return MT_IMAGE_REF_OK;
}
