/* SPDX-License-Identifier: Apache-2.0 */
/* The rule for mount paths. libc only: linked into moat-init too. */
#include "model/mountpath.h"

#include <string.h>

static const char *const reserved[] = {
    "/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/boot",
};

static bool at_or_under(const char *s, size_t len, const char *folder, size_t folder_len)
{
    return len >= folder_len && memcmp(s, folder, folder_len) == 0 && (len == folder_len || s[folder_len] == '/');
}

const char *mt_mountpath_fault(const char *s, size_t len)
{
    if (len == 0 || s[0] != '/')
        return "is not absolute";
    if (len > 255)
        return "is longer than 255 bytes";
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return "holds a control byte";
    if (len == 1)
        return "is the root folder";
    for (size_t i = 1; i <= len;) {
        const char *slash = memchr(s + i, '/', len - i);
        size_t n = slash ? (size_t)(slash - (s + i)) : len - i;
        if (n == 0)
            return "has an empty component or a trailing '/'";
        if ((n == 1 && s[i] == '.') || (n == 2 && s[i] == '.' && s[i + 1] == '.'))
            return "has a '.' or '..' component";
        i += n + 1;
        if (slash && i > len - 1)
            return "has an empty component or a trailing '/'";
    }
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
        if (at_or_under(s, len, reserved[i], strlen(reserved[i])))
            return "is in a folder the platform or the image owns (/proc /sys /dev /run /tmp /etc /bin /sbin /lib "
                   "/lib64 /usr /boot)";
    return NULL;
}

bool mt_mountpath_nested(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return at_or_under(a, a_len, b, b_len) || at_or_under(b, b_len, a, a_len);
}
