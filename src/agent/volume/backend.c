/* SPDX-License-Identifier: Apache-2.0 */
/* Each call goes to the kind of storage that was opened. See backend.h. */
#include "agent/volume/backend_ops.h"

#include "base/assert.h"
#include "base/cleanup.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static const char *const kind_names[MT_BACKEND_KIND_MAX] = {"reflink", "copy", "lvm-thin"};

const char *mt_backend_name(enum mt_backend_kind kind)
{
    MT_ASSERT((unsigned)kind < MT_BACKEND_KIND_MAX);
    return kind_names[kind];
}

void mt_backend_done(struct mt_backend *b)
{
    mt_closep(&b->dir_fd);
}

int mt_backend_fd_size(int fd, uint64_t *ret, struct mt_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, ret) < 0))
        return MT_FAIL_ERRNO(err, MT_E_IO, "size of a volume");
    if (!S_ISBLK(st.st_mode))
        *ret = (uint64_t)st.st_size;
    return 0;
}

int mt_backend_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    return b->ops->path(b, volume_id, ret, err);
}

int mt_backend_size(const struct mt_backend *b, const char *volume_id, uint64_t *ret, struct mt_err *err)
{
    return b->ops->size(b, volume_id, ret, err);
}

int mt_backend_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    return b->ops->begin(b, volume_id, bytes, ret_fd, err);
}

int mt_backend_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err)
{
    return b->ops->commit(b, volume_id, fd, err);
}

void mt_backend_abandon(const struct mt_backend *b, const char *volume_id)
{
    b->ops->abandon(b, volume_id);
}

int mt_backend_part_open(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    return b->ops->part_open(b, volume_id, bytes, ret_fd, err);
}

int mt_backend_part_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    return b->ops->part_begin(b, volume_id, bytes, ret_fd, err);
}

int mt_backend_part_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err)
{
    return b->ops->part_commit(b, volume_id, fd, err);
}

int mt_backend_part_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    return b->ops->part_path(b, volume_id, ret, err);
}

int mt_backend_part_drop(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    return b->ops->part_drop(b, volume_id, err);
}

int mt_backend_extend(const struct mt_backend *b, const char *volume_id, uint64_t bytes, struct mt_err *err)
{
    return b->ops->extend(b, volume_id, bytes, err);
}

int mt_backend_delete(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    return b->ops->delete(b, volume_id, err);
}

int mt_backend_unused(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    return b->ops->unused(b, volume_id, err);
}

int mt_backend_snap_create(const struct mt_backend *b, const char *volume_id, const char *snapshot_id, int64_t *ret_captured_ms, struct mt_err *err)
{
    return b->ops->snap_create(b, volume_id, snapshot_id, ret_captured_ms, err);
}

int mt_backend_snap_open(const struct mt_backend *b, const char *snapshot_id, int *ret_fd, struct mt_err *err)
{
    return b->ops->snap_open(b, snapshot_id, ret_fd, err);
}

int mt_backend_snap_delete(const struct mt_backend *b, const char *snapshot_id, struct mt_err *err)
{
    return b->ops->snap_delete(b, snapshot_id, err);
}

int mt_backend_snap_delta(const struct mt_backend *b, const char *base_id, const char *snapshot_id, mt_delta_fn fn, void *arg, struct mt_err *err)
{
    return b->ops->snap_delta(b, base_id, snapshot_id, fn, arg, err);
}

int mt_backend_enumerate(const struct mt_backend *b, mt_backend_fn fn, void *arg, struct mt_err *err)
{
    return b->ops->enumerate(b, false, fn, arg, err);
}

int mt_backend_parts(const struct mt_backend *b, mt_backend_fn fn, void *arg, struct mt_err *err)
{
    return b->ops->enumerate(b, true, fn, arg, err);
}

int mt_backend_stat(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err)
{
    return b->ops->stat(b, ret, err);
}
