/* SPDX-License-Identifier: Apache-2.0 */
/* Steps on one volume. See steps.h. */
#include "agent/volume/steps.h"

#include "agent/instance/steps.h"
#include "base/cleanup.h"
#include "base/map.h"
#include "base/str.h"
#include "model/ids.h"
#include "os/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL ".lock"

static int lock_path(const struct mt_backend *b, const char *id, char ret[PATH_MAX], struct mt_err *err)
{
    int rc = mt_id_check(MT_ID_VOLUME, id, err);
    return rc < 0 ? rc : mt_fmt(ret, PATH_MAX, err, "%s/%s" TAIL, b->dir, id);
}

int mt_volume_lock(const struct mt_backend *b, const char *id, int *ret_fd, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = lock_path(b, id, path, err);
    return rc < 0 ? rc : mt_file_lock(path, ret_fd, err);
}

static int open_volume(const struct mt_backend *b, const char *id, char ret_path[PATH_MAX], int *ret_fd, struct mt_err *err)
{
    int rc = mt_backend_path(b, id, ret_path, err);
    if (rc < 0)
        return rc;
    int fd = open(ret_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "volume '%s'", id);
    *ret_fd = fd;
    return 0;
}

static int check_uuid(int fd, const char *id, const char *want, struct mt_err *err)
{
    char uuid[37];
    int rc = mt_fstool_uuid(fd, uuid, err);
    if (rc == 0 && want && !MT_STREQ(uuid, want))
        rc = MT_FAIL(err, MT_E_INVALID, "volume '%s' has UUID %s, not %s", id, uuid, want);
    return rc;
}

/* It has its name already: made by an earlier call. */
static int look_at(const struct mt_backend *b, const struct mt_plan_volume *v, uint64_t bytes, enum mt_volume_fault *ret_fault, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_fd int fd = -1;
    int rc = open_volume(b, v->volume_id, path, &fd, err);
    *ret_fault = MT_VOLUME_FAULT_INTERNAL;
    if (rc == 0 && (rc = check_uuid(fd, v->volume_id, v->fs_uuid, err)) == -MT_E_INVALID)
        *ret_fault = v->was_available ? MT_VOLUME_FAULT_FILESYSTEM_MISMATCH : MT_VOLUME_FAULT_UNEXPECTED_CONTENT;
    if (rc == 0 && bytes < v->size_bytes) {
        *ret_fault = MT_VOLUME_FAULT_UNEXPECTED_CONTENT;
        rc = MT_FAIL(err, MT_E_CORRUPT, "volume '%s' has %llu bytes, not %llu", v->volume_id, (unsigned long long)bytes, (unsigned long long)v->size_bytes);
    }
    return rc;
}

/* No file, no lock: an attach looks for the file first, and an id is never used for another volume. The caller has the lock. */
static void forget_lock(const struct mt_backend *b, const char *id)
{
    char path[PATH_MAX];
    if (lock_path(b, id, path, NULL) == 0)
        (void)unlink(path);
}

static int make(const struct mt_backend *b, const struct mt_fstool *t, const struct mt_plan_volume *v, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    int rc = mt_backend_begin(b, v->volume_id, v->size_bytes, &fd, err);
    if (rc < 0) {
        forget_lock(b, v->volume_id);
        return rc;
    }
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_RESERVED, MT_KILL_RECORDED);
    rc = mt_fstool_format(t, fd, v->fs_uuid, v->name, err);
    if (rc == 0)
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_FORMATTED, MT_KILL_RECORDED);
    if (rc == 0)
        rc = mt_backend_commit(b, v->volume_id, fd, err);
    if (rc < 0) {
        mt_closep(&fd); /* a device that is open is not removed */
        mt_backend_abandon(b, v->volume_id);
        forget_lock(b, v->volume_id);
    } else {
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_NAMED, MT_KILL_RECORDED);
    }
    return rc;
}

void mt_volume_forget_held(const struct mt_backend *b, const char *volume_id)
{
    uint64_t bytes;
    if (mt_backend_size(b, volume_id, &bytes, NULL) == -MT_E_NOT_FOUND)
        forget_lock(b, volume_id);
}

void mt_volume_forget_lock(const struct mt_backend *b, const char *volume_id)
{
    mt_auto_fd int lock = -1;
    int rc = mt_volume_lock(b, volume_id, &lock, NULL);
    /* a program that another thread is about to start has a copy of who had it before, until its exec */
    for (int i = 0; rc == -MT_E_CONFLICT && i < 10; i++) {
        (void)usleep(50000);
        rc = mt_volume_lock(b, volume_id, &lock, NULL);
    }
    if (rc == 0)
        mt_volume_forget_held(b, volume_id);
}

static void strike_out(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    (void)bytes;
    (void)made_ms;
    if (!snapshot)
        (void)mt_map_remove(arg, id);
}

void mt_volume_sweep_locks(const struct mt_backend *b)
{
    struct mt_map locks; /* of which no volume is known */
    mt_auto_dir DIR *d = opendir(b->dir);
    const char *id;
    void *value;
    uint64_t seed;
    mt_random(&seed, sizeof seed);
    mt_map_init(&locks, seed);
    for (struct dirent *e; d && (e = readdir(d));) {
        char name[MT_ID_SIZE];
        size_t n = strlen(e->d_name), tail = sizeof TAIL - 1;
        if (n <= tail || n - tail >= sizeof name || !MT_STREQ(e->d_name + n - tail, TAIL))
            continue;
        (void)snprintf(name, sizeof name, "%.*s", (int)(n - tail), e->d_name);
        if (mt_id_check(MT_ID_VOLUME, name, NULL) == 0)
            (void)mt_map_put(&locks, name, &locks);
    }
    if (locks.count > 0 && mt_backend_enumerate(b, strike_out, &locks, NULL) == 0 && mt_backend_parts(b, strike_out, &locks, NULL) == 0)
        for (size_t pos = 0; mt_map_next(&locks, &pos, &id, &value);)
            mt_volume_forget_lock(b, id);
    mt_map_done(&locks);
}

int mt_volume_provision(const struct mt_backend *b, const struct mt_fstool *t, const struct mt_plan_volume *v, uint64_t *ret_bytes,
                        enum mt_volume_fault *ret_fault, struct mt_err *err)
{
    mt_auto_fd int lock = -1;
    uint64_t bytes;
    *ret_fault = MT_VOLUME_FAULT_INTERNAL;
    int rc = mt_volume_lock(b, v->volume_id, &lock, err);
    if (rc < 0)
        return rc;
    rc = mt_backend_size(b, v->volume_id, &bytes, err);
    if (rc == 0)
        rc = look_at(b, v, bytes, ret_fault, err);
    else if (rc != -MT_E_NOT_FOUND)
        return rc;
    else if (v->was_available || v->from_restore || !v->fs_uuid)
        *ret_fault = MT_VOLUME_FAULT_NOT_PRESENT;
    else if ((rc = make(b, t, v, err)) == 0)
        bytes = v->size_bytes;
    else
        *ret_fault = rc == -MT_E_LIMIT ? MT_VOLUME_FAULT_NO_SPACE : rc == -MT_E_TIMEOUT ? MT_VOLUME_FAULT_PROVISION_TIMEOUT : MT_VOLUME_FAULT_INTERNAL;
    if (rc < 0)
        return rc;
    *ret_fault = MT_VOLUME_FAULT_NONE;
    *ret_bytes = bytes;
    return 0;
}

int mt_volume_remove(const struct mt_backend *b, const char *volume_id, enum mt_volume_fault *ret_fault, struct mt_err *err)
{
    mt_auto_fd int lock = -1;
    *ret_fault = MT_VOLUME_FAULT_REMOVE_FAILED;
    int rc = mt_volume_lock(b, volume_id, &lock, err);
    if (rc == 0)
        rc = mt_backend_delete(b, volume_id, err);
    if (rc < 0)
        return rc;
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_REMOVED, MT_KILL_RECORDED);
    forget_lock(b, volume_id);
    *ret_fault = MT_VOLUME_FAULT_NONE;
    return 0;
}

/* Ours again: the VM before had it, perhaps for reading only. */
static int take_back(int fd, const char *volume_id, struct mt_err *err)
{
    if (fchown(fd, geteuid(), getegid()) < 0 || fchmod(fd, 0600) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "take back volume '%s'", volume_id);
    return 0;
}

int mt_volume_check(const struct mt_backend *b, const struct mt_fstool *t, const char *volume_id, const char *fs_uuid, bool repair, enum mt_volume_verdict *ret,
                    char ret_detail[MT_CHECK_DETAIL_MAX + 1], struct mt_err *err)
{
    mt_auto_fd int lock = -1, fd = -1;
    char path[PATH_MAX];
    uint64_t bytes;
    int rc = mt_backend_size(b, volume_id, &bytes, err);
    if (rc < 0 || (rc = mt_volume_lock(b, volume_id, &lock, err)) < 0 || (rc = mt_backend_unused(b, volume_id, err)) < 0 ||
        (rc = open_volume(b, volume_id, path, &fd, err)) < 0 || (rc = take_back(fd, volume_id, err)) < 0 || (rc = mt_fstool_judge(t, fd, repair, ret, ret_detail, err)) < 0)
        return rc;
    if (fsync(fd) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "write back volume '%s'", volume_id);
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_CHECKED, MT_KILL_RECORDED);
    struct mt_err why = {0};
    if (check_uuid(fd, volume_id, fs_uuid, &why) < 0) { /* whole, and not the one that was made here: no guest may have it */
        *ret = MT_VOLUME_DAMAGED;
        (void)snprintf(ret_detail, MT_CHECK_DETAIL_MAX + 1, "%.*s", MT_CHECK_DETAIL_MAX, why.msg);
    }
    return 0;
}

int mt_volume_attach(const struct mt_backend *b, const struct mt_fstool *t, const char *volume_id, const char *fs_uuid, uint64_t resize_to_bytes, bool check,
                     char ret_path[PATH_MAX], int *ret_lock, const char **ret_detail, struct mt_err *err)
{
    mt_auto_fd int lock = -1, fd = -1;
    uint64_t bytes;
    *ret_detail = "volume_not_present_on_node";
    int rc = mt_backend_size(b, volume_id, &bytes, err);
    if (rc < 0)
        return rc;
    *ret_detail = "busy_or_already_attached";
    if ((rc = mt_volume_lock(b, volume_id, &lock, err)) < 0 || (rc = mt_backend_unused(b, volume_id, err)) < 0)
        return rc;
    *ret_detail = "device_attach_failed";
    if ((rc = open_volume(b, volume_id, ret_path, &fd, err)) < 0)
        return rc;
    if ((rc = take_back(fd, volume_id, err)) < 0)
        return rc;
    *ret_detail = "filesystem_mismatch";
    if ((rc = check_uuid(fd, volume_id, fs_uuid, err)) < 0)
        return rc;
    *ret_detail = "resize_failed";
    if (resize_to_bytes > 0) {
        /* also when it is long enough: an agent that was killed between the two steps left the filesystem behind */
        if ((rc = mt_backend_extend(b, volume_id, resize_to_bytes, err)) < 0)
            return rc;
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_EXTENDED, MT_KILL_RECORDED);
        if ((rc = mt_fstool_grow(t, fd, err)) < 0)
            return rc;
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_GROWN, MT_KILL_RECORDED);
    } else if (check) {
        *ret_detail = "mount_failed";
        if ((rc = mt_fstool_check(t, fd, err)) < 0)
            return rc;
    }
    *ret_lock = MT_TAKE_FD(lock);
    return 0;
}
