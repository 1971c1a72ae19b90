/* SPDX-License-Identifier: Apache-2.0 */
#include "init/readfile.h"

#include <fcntl.h>

#include "base/cleanup.h"

int mt_readfile_fd(int fd, char *buf, size_t cap, size_t *ret_len)
{
    size_t len = 0;
    while (len < cap - 1) {
        ssize_t n = pread(fd, buf + len, cap - 1 - len, (off_t)len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -MT_E_IO;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    buf[len] = '\0';
    *ret_len = len;
    return 0;
}

int mt_readfile(const char *path, char *buf, size_t cap, size_t *ret_len, struct mt_err *err)
{
    char more;
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT || errno == ENOTDIR ? MT_E_NOT_FOUND : MT_E_IO, "open '%s'", path);
    if (mt_readfile_fd(fd, buf, cap, ret_len) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read '%s'", path);
    if (*ret_len == cap - 1 && pread(fd, &more, 1, (off_t)*ret_len) == 1)
        return MT_FAIL(err, MT_E_LIMIT, "'%s' has more than %zu bytes", path, cap - 1);
    return 0;
}

int mt_readfile_put(const char *path, const char *text, struct mt_err *err)
{
    size_t n = strlen(text);
    mt_auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write '%s'", path);
    return 0;
}
