/* SPDX-License-Identifier: Apache-2.0 */
/* Ring in a file: see ringfile.h. */
#include "os/ringfile.h"

#include "base/cleanup.h"
#include "base/rd.h"

#include <fcntl.h>

static const char magic[8] = {'M', 'T', 'R', 'I', 'N', 'G', '1', '\n'};

static int write_at(int fd, const void *data, size_t len, size_t at, struct mt_err *err)
{
    if (pwrite(fd, data, len, (off_t)at) != (ssize_t)len)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write ring file");
    return 0;
}

static int write_head(int fd, uint64_t total, struct mt_err *err)
{
    uint8_t head[MT_RINGFILE_HEAD];
    memcpy(head, magic, sizeof magic);
    for (size_t i = 0; i < 8; i++)
        head[8 + i] = (uint8_t)(total >> (8 * i));
    return write_at(fd, head, sizeof head, 0, err);
}

static int read_head(int fd, uint64_t *ret_total, struct mt_err *err)
{
    uint8_t head[MT_RINGFILE_HEAD];
    if (pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head || memcmp(head, magic, sizeof magic) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "not a ring file");
    struct mt_rd r = mt_rd_of(head + 8, 8);
    *ret_total = mt_rd_le64(&r);
    return 0;
}

int mt_ringfile_create(const char *path, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "create '%s'", path);
    if (write_head(fd, 0, err) < 0)
        return mt_err_wrap(err, "'%s'", path);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_ringfile_attach(struct mt_ringfile *ring, int fd, struct mt_err *err)
{
    uint64_t total;
    if (read_head(fd, &total, err) < 0)
        return -MT_E_CORRUPT;
    *ring = (struct mt_ringfile){.fd = fd, .total = total};
    return 0;
}

int mt_ringfile_append(struct mt_ringfile *ring, const void *data, size_t len, struct mt_err *err)
{
    const uint8_t *p = data;
    uint64_t total = ring->total + len;
    if (len > MT_RINGFILE_SIZE) {
        p += len - MT_RINGFILE_SIZE;
        len = MT_RINGFILE_SIZE;
    }
    size_t at = (size_t)((total - len) % MT_RINGFILE_SIZE);
    size_t first = len < MT_RINGFILE_SIZE - at ? len : MT_RINGFILE_SIZE - at;
    if (write_at(ring->fd, p, first, MT_RINGFILE_HEAD + at, err) < 0 ||
        (len > first && write_at(ring->fd, p + first, len - first, MT_RINGFILE_HEAD, err) < 0) ||
        write_head(ring->fd, total, err) < 0)
        return -MT_E_IO;
    ring->total = total;
    return 0;
}

int mt_ringfile_read(const char *path, char *buf, size_t size, size_t *ret_len, struct mt_err *err)
{
    uint64_t total;
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd == -1)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "open '%s'", path);
    if (read_head(fd, &total, err) < 0) {
        (void)mt_err_wrap(err, "'%s'", path);
        return -MT_E_CORRUPT;
    }
    size_t want = total < MT_RINGFILE_SIZE ? (size_t)total : MT_RINGFILE_SIZE;
    if (want > size)
        want = size;
    size_t at = (size_t)((total - want) % MT_RINGFILE_SIZE);
    size_t first = want < MT_RINGFILE_SIZE - at ? want : MT_RINGFILE_SIZE - at;
    if (pread(fd, buf, first, (off_t)(MT_RINGFILE_HEAD + at)) != (ssize_t)first ||
        (want > first && pread(fd, buf + first, want - first, MT_RINGFILE_HEAD) != (ssize_t)(want - first)))
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' is shorter than its header says", path);
    *ret_len = want;
    return 0;
}
