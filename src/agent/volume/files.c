/* SPDX-License-Identifier: Apache-2.0 */
/* Files in one folder, on a filesystem that clones or on any other. See backend_ops.h. */
#include "agent/volume/backend_ops.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TMP ".tmp"   /* being made: removed at the next start */
#define PART ".part" /* being filled over several starts: removed by who began it */
#define NAME_MAX_ 64

/* An id becomes part of a path: nothing but a valid one may. */
static int name_of(bool snapshot, const char *id, const char *tail, char ret[NAME_MAX_], struct mt_err *err)
{
    int rc = mt_id_check(snapshot ? MT_ID_SNAPSHOT : MT_ID_VOLUME, id, err);
    return rc < 0 ? rc : mt_fmt(ret, NAME_MAX_, err, "%s-%s.img%s", snapshot ? "snap" : "vol", id, tail);
}

static enum mt_code space_or_io(int e)
{
    return e == ENOSPC || e == EDQUOT || e == EFBIG ? MT_E_LIMIT : MT_E_IO;
}

/* Asked before bytes are reserved: fallocate() of what cannot fit takes all that is free before it fails and gives it back, and for
 * that moment everybody else on the filesystem has nothing. */
static int has_room(const struct mt_backend *b, uint64_t bytes, const char *volume_id, struct mt_err *err)
{
    struct statvfs v;
    if (fstatvfs(b->dir_fd, &v) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "statvfs of '%s'", b->dir);
    uint64_t avail = (uint64_t)v.f_bavail * v.f_frsize;
    if (bytes > INT64_MAX || bytes > avail)
        return MT_FAIL(err, MT_E_LIMIT, "no space for %llu bytes of volume '%s': '%s' has %llu free", (unsigned long long)bytes, volume_id,
                       b->dir, (unsigned long long)avail);
    return 0;
}

static int64_t ms_of(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static int sync_dir(const struct mt_backend *b, struct mt_err *err)
{
    if (fsync(b->dir_fd) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "sync folder '%s'", b->dir);
    return 0;
}

static int remove_name(const struct mt_backend *b, const char *name, struct mt_err *err)
{
    if (unlinkat(b->dir_fd, name, 0) < 0) {
        if (errno == ENOENT)
            return 0;
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", name);
    }
    return sync_dir(b, err);
}

static int open_new(const struct mt_backend *b, const char *name, int *ret_fd, struct mt_err *err)
{
    int rc = remove_name(b, name, err);
    if (rc < 0)
        return rc;
    int fd = openat(b->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, space_or_io(errno), "make '%s'", name);
    *ret_fd = fd;
    return 0;
}

/* Both in this folder; after it the new name is there for good. */
static int publish(const struct mt_backend *b, int fd, const char *tmp, const char *name, struct mt_err *err)
{
    if (fsync(fd) < 0 || renameat(b->dir_fd, tmp, b->dir_fd, name) < 0)
        return MT_FAIL_ERRNO(err, space_or_io(errno), "keep '%s'", name);
    return sync_dir(b, err);
}

/* ---- opening ----------------------------------------------------------------------------- */

static void sweep(const struct mt_backend *b)
{
    mt_auto_fd int fd = openat(b->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d)
        return;
    fd = -1; /* the stream's now */
    const struct dirent *e;
    while ((e = readdir(d))) {
        size_t n = strlen(e->d_name);
        bool ours = strncmp(e->d_name, "vol-", 4) == 0 || strncmp(e->d_name, "snap-", 5) == 0 || strncmp(e->d_name, "probe-", 6) == 0;
        if (ours && n > sizeof TMP - 1 && strcmp(e->d_name + n - (sizeof TMP - 1), TMP) == 0)
            (void)unlinkat(b->dir_fd, e->d_name, 0);
    }
    (void)closedir(d);
}

/* What the filesystem says of itself is not asked: it is tried. */
static bool can_clone(const struct mt_backend *b)
{
    static const char from[] = "probe-a" TMP, to[] = "probe-b" TMP;
    char block[4096] = {1};
    mt_auto_fd int a = -1, c = -1;
    bool ok = open_new(b, from, &a, NULL) == 0 && open_new(b, to, &c, NULL) == 0 && write(a, block, sizeof block) == (ssize_t)sizeof block &&
              ioctl(c, FICLONE, a) == 0;
    (void)unlinkat(b->dir_fd, from, 0);
    (void)unlinkat(b->dir_fd, to, 0);
    return ok;
}

int mt_backend_open(const char *dir, const char *want, bool allow_copy, struct mt_backend *ret, struct mt_err *err)
{
    struct mt_backend b = {.ops = &mt_backend_files, .dir_fd = -1};
    int rc = mt_fmt(b.dir, sizeof b.dir, err, "%s", dir);
    if (rc == 0)
        rc = mt_file_mkdirs(dir, 0711, err);
    if (rc < 0)
        return rc;
    mt_auto_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open folder of volumes '%s'", dir);
    b.dir_fd = fd;
    if (faccessat(fd, MT_BACKEND_LVM_MARK, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return MT_FAIL(err, MT_E_CONFLICT, "the volumes of this node are in LVM ('%s/%s' names the pool): set storage.backend = \"lvm-thin\" again, or remove "
                                           "that file when none of them is wanted any more", dir, MT_BACKEND_LVM_MARK);
    sweep(&b);
    bool clones = strcmp(want, "copy") != 0 && can_clone(&b);
    if (!clones && strcmp(want, "reflink") == 0)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' is on a filesystem that cannot clone files; put it on XFS (reflink=1) or btrfs", dir);
    if (!clones && !allow_copy)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "'%s' is on a filesystem that cannot clone files; put it on XFS (reflink=1) or btrfs, or set "
                                              "storage.allow_copy_snapshots (not for production)", dir);
    b.kind = clones ? MT_BACKEND_REFLINK : MT_BACKEND_COPY;
    fd = -1;
    *ret = b;
    return 0;
}

/* ---- volumes ----------------------------------------------------------------------------- */

static int files_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(false, volume_id, "", name, err);
    return rc < 0 ? rc : mt_fmt(ret, PATH_MAX, err, "%s/%s", b->dir, name);
}

static int files_size(const struct mt_backend *b, const char *volume_id, uint64_t *ret, struct mt_err *err)
{
    char name[NAME_MAX_];
    struct stat st;
    int rc = name_of(false, volume_id, "", name, err);
    if (rc < 0)
        return rc;
    if (fstatat(b->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "volume '%s'", volume_id);
    if (!S_ISREG(st.st_mode))
        return MT_FAIL(err, MT_E_CORRUPT, "volume '%s' is not a file", volume_id);
    *ret = (uint64_t)st.st_size;
    return 0;
}

static int begin(const struct mt_backend *b, const char *volume_id, const char *tail, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    char tmp[NAME_MAX_];
    mt_auto_fd int fd = -1;
    int rc = name_of(false, volume_id, tail, tmp, err);
    if (rc == 0)
        rc = has_room(b, bytes, volume_id, err);
    if (rc == 0)
        rc = open_new(b, tmp, &fd, err);
    if (rc < 0)
        return rc;
    if (fallocate(fd, 0, 0, (off_t)bytes) < 0) { /* no hole can cause a late ENOSPC */
        rc = MT_FAIL_ERRNO(err, space_or_io(errno), "reserve %llu bytes for volume '%s'", (unsigned long long)bytes, volume_id);
        (void)unlinkat(b->dir_fd, tmp, 0);
        return rc;
    }
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static int commit(const struct mt_backend *b, const char *volume_id, const char *tail, int fd, struct mt_err *err)
{
    char tmp[NAME_MAX_], name[NAME_MAX_];
    int rc = name_of(false, volume_id, tail, tmp, err);
    if (rc == 0)
        rc = name_of(false, volume_id, "", name, err);
    return rc < 0 ? rc : publish(b, fd, tmp, name, err);
}

static int files_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    return begin(b, volume_id, TMP, bytes, ret_fd, err);
}

static int files_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err)
{
    return commit(b, volume_id, TMP, fd, err);
}

static void files_abandon(const struct mt_backend *b, const char *volume_id)
{
    char tmp[NAME_MAX_];
    if (name_of(false, volume_id, TMP, tmp, NULL) == 0)
        (void)remove_name(b, tmp, NULL);
}

static int files_part_open(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    char name[NAME_MAX_];
    struct stat st;
    int rc = name_of(false, volume_id, PART, name, err);
    if (rc < 0)
        return rc;
    mt_auto_fd int fd = openat(b->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "part of volume '%s'", volume_id);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
        return MT_FAIL(err, MT_E_NOT_FOUND, "part of volume '%s' has another size", volume_id);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return MT_FAIL_ERRNO(err, MT_E_CONFLICT, "part of volume '%s' is still written to", volume_id);
    if (fchown(fd, geteuid(), getegid()) < 0) /* a tool had it when the agent before ended */
        return MT_FAIL_ERRNO(err, MT_E_IO, "take back the part of volume '%s'", volume_id);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static int files_part_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err)
{
    int rc = begin(b, volume_id, PART, bytes, ret_fd, err);
    if (rc == 0 && flock(*ret_fd, LOCK_EX | LOCK_NB) < 0) {
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "lock the part of volume '%s'", volume_id);
        mt_closep(ret_fd);
    }
    return rc;
}

static int files_part_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err)
{
    return commit(b, volume_id, PART, fd, err);
}

static int files_part_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(false, volume_id, PART, name, err);
    return rc < 0 ? rc : mt_fmt(ret, PATH_MAX, err, "%s/%s", b->dir, name);
}

static int files_part_drop(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(false, volume_id, PART, name, err);
    return rc < 0 ? rc : remove_name(b, name, err);
}

static int files_extend(const struct mt_backend *b, const char *volume_id, uint64_t bytes, struct mt_err *err)
{
    char name[NAME_MAX_];
    uint64_t have;
    int rc = files_size(b, volume_id, &have, err);
    if (rc < 0 || bytes <= have)
        return rc;
    if ((rc = has_room(b, bytes - have, volume_id, err)) < 0 || (rc = name_of(false, volume_id, "", name, err)) < 0)
        return rc;
    mt_auto_fd int fd = openat(b->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open volume '%s'", volume_id);
    if (fallocate(fd, 0, (off_t)have, (off_t)(bytes - have)) < 0 || fsync(fd) < 0) {
        rc = MT_FAIL_ERRNO(err, space_or_io(errno), "grow volume '%s' to %llu bytes", volume_id, (unsigned long long)bytes);
        (void)!ftruncate(fd, (off_t)have); /* what was reserved of it is given back; nothing of the filesystem is there */
        return rc;
    }
    return 0;
}

static int files_delete(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(false, volume_id, "", name, err);
    if (rc < 0)
        return rc;
    files_abandon(b, volume_id);
    if ((rc = files_part_drop(b, volume_id, err)) < 0)
        return rc;
    return remove_name(b, name, err);
}

/* ---- snapshots --------------------------------------------------------------------------- */

/* Holes stay holes. */
static int copy_sparse(int from, int to, uint64_t size, struct mt_err *err)
{
    off_t at = 0;
    if (ftruncate(to, (off_t)size) < 0)
        return MT_FAIL_ERRNO(err, space_or_io(errno), "copy");
    while ((uint64_t)at < size) {
        off_t data = lseek(from, at, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : MT_FAIL_ERRNO(err, MT_E_IO, "copy");
        off_t end = lseek(from, data, SEEK_HOLE);
        if (end < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "copy");
        off_t out = data;
        for (at = data; at < end;) {
            ssize_t n = copy_file_range(from, &at, to, &out, (size_t)(end - at), 0);
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return MT_FAIL_ERRNO(err, space_or_io(errno), "copy");
        }
    }
    return 0;
}

static int files_snap_create(const struct mt_backend *b, const char *volume_id, const char *snapshot_id, int64_t *ret_captured_ms, struct mt_err *err)
{
    char vol[NAME_MAX_], tmp[NAME_MAX_], name[NAME_MAX_];
    struct stat st;
    mt_auto_fd int fd = -1, to = -1;
    int rc = name_of(false, volume_id, "", vol, err);
    if (rc == 0)
        rc = name_of(true, snapshot_id, TMP, tmp, err);
    if (rc == 0)
        rc = name_of(true, snapshot_id, "", name, err);
    if (rc < 0)
        return rc;
    if (fstatat(b->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        *ret_captured_ms = ms_of(&st); /* set below, and never written to */
        return 0;
    }
    fd = openat(b->dir_fd, vol, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "volume '%s'", volume_id);
    if ((rc = open_new(b, tmp, &to, err)) < 0)
        return rc;
    if (b->kind == MT_BACKEND_COPY)
        rc = copy_sparse(fd, to, (uint64_t)st.st_size, err);
    else if (ioctl(to, FICLONE, fd) < 0)
        rc = MT_FAIL_ERRNO(err, space_or_io(errno), "clone volume '%s'", volume_id);
    int64_t now_us = mt_clock_wall_us();
    const struct timespec when[2] = {{.tv_sec = now_us / 1000000, .tv_nsec = now_us % 1000000 * 1000}, {.tv_sec = now_us / 1000000, .tv_nsec = now_us % 1000000 * 1000}};
    if (rc == 0 && futimens(to, when) < 0)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "snapshot '%s'", snapshot_id);
    if (rc == 0)
        rc = publish(b, to, tmp, name, err);
    if (rc < 0) {
        (void)unlinkat(b->dir_fd, tmp, 0);
        return rc;
    }
    *ret_captured_ms = now_us / 1000;
    return 0;
}

static int files_snap_open(const struct mt_backend *b, const char *snapshot_id, int *ret_fd, struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(true, snapshot_id, "", name, err);
    if (rc < 0)
        return rc;
    int fd = openat(b->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "snapshot '%s'", snapshot_id);
    *ret_fd = fd;
    return 0;
}

static int files_snap_delete(const struct mt_backend *b, const char *snapshot_id, struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(true, snapshot_id, "", name, err);
    return rc < 0 ? rc : remove_name(b, name, err);
}

/* The kernel knows: a read lease is not given on what is open for writing anywhere. A filesystem without leases has nothing to say. */
static int files_unused(const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    char name[NAME_MAX_];
    int rc = name_of(false, volume_id, "", name, err);
    if (rc < 0)
        return rc;
    mt_auto_fd int fd = openat(b->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "volume '%s'", volume_id);
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
        return errno == EAGAIN ? MT_FAIL(err, MT_E_CONFLICT, "volume '%s' is open for writing somewhere", volume_id) : 0;
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return 0;
}

static int files_snap_delta(const struct mt_backend *b, const char *base_id, const char *snapshot_id, mt_delta_fn fn, void *arg, struct mt_err *err)
{
    mt_auto_fd int base = -1, snap = -1;
    if (b->kind != MT_BACKEND_REFLINK)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "copies share nothing: all has to be read");
    int rc = files_snap_open(b, base_id, &base, err);
    if (rc == 0)
        rc = files_snap_open(b, snapshot_id, &snap, err);
    return rc < 0 ? rc : mt_extents_delta(base, snap, fn, arg, err);
}

/* ---- what is there ----------------------------------------------------------------------- */

static int each(const struct mt_backend *b, const char *tail, mt_backend_fn fn, void *arg, struct mt_err *err)
{
    mt_auto_fd int fd = openat(b->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "list folder of volumes '%s'", b->dir);
    fd = -1;
    const struct dirent *e;
    while ((e = readdir(d))) {
        char id[MT_ID_SIZE];
        bool snapshot = strncmp(e->d_name, "snap-", 5) == 0;
        size_t n = strlen(e->d_name), head = snapshot ? 5 : 4, end = strlen(tail);
        struct stat st;
        if ((!snapshot && strncmp(e->d_name, "vol-", 4) != 0) || n < head + end || strcmp(e->d_name + n - end, tail) != 0 || n - head - end >= sizeof id)
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(n - head - end), e->d_name + head);
        if (mt_id_check(snapshot ? MT_ID_SNAPSHOT : MT_ID_VOLUME, id, NULL) == 0 && fstatat(b->dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode))
            fn(arg, snapshot, id, (uint64_t)st.st_size, ms_of(&st));
    }
    (void)closedir(d);
    return 0;
}

static int files_enumerate(const struct mt_backend *b, bool parts, mt_backend_fn fn, void *arg, struct mt_err *err)
{
    return each(b, parts ? ".img" PART : ".img", fn, arg, err);
}

static void count_snapshot(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    (void)id;
    (void)bytes;
    (void)made_ms;
    *(size_t *)arg += snapshot;
}

static int files_stat(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err)
{
    struct statvfs v;
    if (fstatvfs(b->dir_fd, &v) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "size of the pool '%s'", b->dir);
    *ret = (struct mt_pool_stat){.total_bytes = (uint64_t)v.f_blocks * v.f_frsize, .used_bytes = (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize};
    return files_enumerate(b, false, count_snapshot, &ret->snapshots, err);
}

const struct mt_backend_ops mt_backend_files = {
    .path = files_path, .size = files_size, .begin = files_begin, .commit = files_commit, .abandon = files_abandon, .part_open = files_part_open,
    .part_begin = files_part_begin, .part_commit = files_part_commit, .part_path = files_part_path, .part_drop = files_part_drop, .extend = files_extend, .delete = files_delete,
    .unused = files_unused, .snap_create = files_snap_create, .snap_open = files_snap_open, .snap_delete = files_snap_delete,
    .snap_delta = files_snap_delta, .enumerate = files_enumerate, .stat = files_stat,
};
