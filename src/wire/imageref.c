/* SPDX-License-Identifier: Apache-2.0 */
/* Image reference grammar. Hand-written and strict: what passes here goes into URLs and file names. */
#include "wire/imageref.h"

#include "base/num.h"
#include "base/str.h"

static bool is_lower_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_alnum(char c)
{
    return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

bool mt_digest_valid(const char *text)
{
    if (!text || strlen(text) != MT_DIGEST_LEN || !mt_starts_with(text, "sha256:"))
        return false;
    for (const char *p = text + 7; *p; p++)
        if (!((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f')))
            return false;
    return true;
}

static bool tag_valid(const char *s, size_t n)
{
    if (n < 1 || n > 128 || !(is_alnum(s[0]) || s[0] == '_'))
        return false;
    for (size_t i = 1; i < n; i++)
        if (!is_alnum(s[i]) && s[i] != '_' && s[i] != '.' && s[i] != '-')
            return false;
    return true;
}

/* [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* */
static bool component_valid(const char *s, size_t n)
{
    if (n == 0 || !is_lower_alnum(s[0]) || !is_lower_alnum(s[n - 1]))
        return false;
    for (size_t i = 0; i < n;) {
        if (is_lower_alnum(s[i])) {
            i++;
            continue;
        }
        size_t run = 0;
        while (s[i + run] == s[i]) /* ends before n: the last byte is alphanumeric */
            run++;
        bool ok = (s[i] == '.' && run == 1) || (s[i] == '_' && run <= 2) || s[i] == '-';
        if (!ok || !is_lower_alnum(s[i + run]))
            return false;
        i += run;
    }
    return true;
}

static bool path_valid(const char *s, size_t n)
{
    size_t from = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && s[i] != '/')
            continue;
        if (!component_valid(s + from, i - from))
            return false;
        from = i + 1;
    }
    return n > 0;
}

static bool port_valid(const char *s, size_t n)
{
    char text[6];
    uint64_t port;
    if (n < 1 || n > 5)
        return false;
    memcpy(text, s, n);
    text[n] = 0;
    return mt_parse_u64(text, 1, 65535, &port, NULL) == 0;
}

static bool host_valid(const char *s, size_t n)
{
    size_t name = n;
    if (n && s[0] == '[') { /* IPv6 literal; its value is checked by whoever connects */
        const char *end = memchr(s, ']', n);
        if (!end || end == s + 1)
            return false;
        for (const char *p = s + 1; p < end; p++)
            if (!((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f') || (*p >= 'A' && *p <= 'F') || *p == ':' || *p == '.'))
                return false;
        name = (size_t)(end - s) + 1;
        return name == n || (s[name] == ':' && port_valid(s + name + 1, n - name - 1));
    }
    const char *colon = memchr(s, ':', n);
    if (colon) {
        name = (size_t)(colon - s);
        if (!port_valid(colon + 1, n - name - 1))
            return false;
    }
    if (name < 1 || name > 253)
        return false;
    for (size_t i = 0; i < name; i++) {
        bool edge = i == 0 || i + 1 == name || s[i - 1] == '.' || s[i + 1] == '.';
        if (!is_alnum(s[i]) && (edge || (s[i] != '-' && s[i] != '.')))
            return false;
    }
    return true;
}

static bool looks_like_host(const char *s, size_t n)
{
    return memchr(s, '.', n) || memchr(s, ':', n) || (n == 9 && memcmp(s, "localhost", 9) == 0);
}

bool mt_imageref_host_valid(const char *host)
{
    size_t n = strlen(host);
    return n < sizeof ((struct mt_imageref *)0)->host && looks_like_host(host, n) && host_valid(host, n);
}

/* @text[0..n) is host[:port]/path or path. */
static int parse_name(const char *text, size_t n, bool need_host, struct mt_imageref *ret, struct mt_err *err)
{
    const char *slash = memchr(text, '/', n);
    const char *path = text;
    const char *host = "docker.io";
    size_t host_len = strlen(host), path_len = n;
    if (slash && looks_like_host(text, (size_t)(slash - text))) {
        host = text;
        host_len = (size_t)(slash - text);
        path = slash + 1;
        path_len = n - host_len - 1;
        if (host_len >= sizeof ret->host || !host_valid(host, host_len))
            return MT_FAIL(err, MT_E_INVALID, "the registry of an image reference is not a host name with an optional port");
    } else if (need_host) {
        return MT_FAIL(err, MT_E_INVALID, "a repository must begin with its registry, as in 'registry.example.com/app'");
    }
    bool library = host_len == 9 && memcmp(host, "docker.io", 9) == 0 && !memchr(path, '/', path_len);
    size_t prefix = library ? strlen("library/") : 0;
    if (prefix + path_len >= sizeof ret->path)
        return MT_FAIL(err, MT_E_INVALID, "the repository of an image reference is longer than %zu bytes", sizeof ret->path - 1);
    if (!path_valid(path, path_len))
        return MT_FAIL(err, MT_E_INVALID,
                       "the repository of an image reference may hold a-z, 0-9 and single '.', '_', '-' between them, "
                       "in parts split by '/'");
    memcpy(ret->host, host, host_len);
    ret->host[host_len] = 0;
    memcpy(ret->path, "library/", prefix);
    memcpy(ret->path + prefix, path, path_len);
    ret->path[prefix + path_len] = 0;
    return 0;
}

int mt_imageref_parse(const char *text, struct mt_imageref *ret, struct mt_err *err)
{
    struct mt_imageref ref = {0};
    size_t n = text ? strnlen(text, MT_IMAGEREF_MAX + 1) : 0;
    if (n == 0)
        return MT_FAIL(err, MT_E_INVALID, "an image reference cannot be empty");
    if (n > MT_IMAGEREF_MAX)
        return MT_FAIL(err, MT_E_INVALID, "an image reference is longer than %d bytes", MT_IMAGEREF_MAX);

    const char *at = memchr(text, '@', n);
    size_t name_len = at ? (size_t)(at - text) : n;
    if (at) {
        if (!mt_digest_valid(at + 1))
            return MT_FAIL(err, MT_E_INVALID, "the digest of an image reference must be 'sha256:' and 64 lower-case hex digits");
        memcpy(ref.digest, at + 1, MT_DIGEST_LEN + 1);
    }
    size_t tag_at = name_len; /* a ':' after the last '/' starts the tag; one before it is a port */
    for (size_t i = name_len; i-- > 0 && text[i] != '/';)
        if (text[i] == ':')
            tag_at = i;
    if (tag_at < name_len) {
        size_t len = name_len - tag_at - 1;
        if (!tag_valid(text + tag_at + 1, len))
            return MT_FAIL(err, MT_E_INVALID, "the tag of an image reference must be 1 to 128 of A-Z a-z 0-9 '_' '.' '-'");
        memcpy(ref.tag, text + tag_at + 1, len);
        ref.tag[len] = 0;
    } else if (!at) {
        memcpy(ref.tag, "latest", sizeof "latest");
    }
    int r = parse_name(text, tag_at, false, &ref, err);
    if (r == 0)
        *ret = ref;
    return r;
}

int mt_imageref_parse_repository(const char *text, struct mt_imageref *ret, struct mt_err *err)
{
    struct mt_imageref ref = {0};
    size_t n = text ? strnlen(text, MT_IMAGEREF_MAX + 1) : 0;
    if (n == 0 || n > MT_IMAGEREF_MAX)
        return MT_FAIL(err, MT_E_INVALID, "a repository must have 1 to %d bytes", MT_IMAGEREF_MAX);
    int r = parse_name(text, n, true, &ref, err);
    if (r == 0)
        *ret = ref;
    return r;
}
