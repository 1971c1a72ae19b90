/* SPDX-License-Identifier: Apache-2.0 */
#include "init/volumes.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "init/modules.h"
#include "init/mounts.h"
#include "init/quiesce.h"
#include "init/readfile.h"
#include "init/say.h"
#include "model/mountpath.h"

enum { DISK_WAIT_MS = 2000 };

/* The tops of the mounted volumes, in the order of the config; 0: none. Kept open from before the workload runs, because a path that a workload of
 * root has mounted something over may answer never, and PID 1 has to. */
static int tops[MT_GUEST_MOUNTS_MAX];

static int step_into(int dir, const char *name, int *ret_fd, struct mt_err *err)
{
    const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
    long got = syscall(SYS_openat2, dir, name, &how, sizeof how);
    if (got < 0 && errno == ENOENT && mkdirat(dir, name, 0755) == 0)
        got = syscall(SYS_openat2, dir, name, &how, sizeof how);
    if (got < 0)
        return MT_FAIL_ERRNO(err, errno == ELOOP || errno == ENOTDIR || errno == EXDEV ? MT_E_INVALID : MT_E_IO, "'%s' on the way to a mount point", name);
    *ret_fd = (int)got;
    return 0;
}

int mt_volumes_open_target(int root_fd, const char *path, int *ret_fd, struct mt_err *err)
{
    char part[256];
    mt_auto_fd int at = openat(root_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (at < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open the root folder");
    for (const char *p = path; *p;) {
        p += strspn(p, "/");
        size_t n = strcspn(p, "/");
        if (n == 0)
            break;
        if (n >= sizeof part)
            return MT_FAIL(err, MT_E_INVALID, "mount path has a part of %zu bytes", n);
        memcpy(part, p, n);
        part[n] = '\0';
        int next = -1, res = step_into(at, part, &next, err);
        if (res < 0)
            return res;
        mt_closep(&at);
        at = next;
        p += n;
    }
    *ret_fd = MT_TAKE_FD(at);
    return 0;
}

bool mt_volumes_empty(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    bool empty = d != NULL;
    if (!d) {
        mt_closep(&fd);
        return false;
    }
    for (const struct dirent *e; empty && (e = readdir(d));)
        empty = MT_STREQ(e->d_name, ".") || MT_STREQ(e->d_name, "..") || MT_STREQ(e->d_name, "lost+found");
    (void)closedir(d);
    return empty;
}

static int mount_one(const struct mt_guest_mount *m, int root_fd, const struct mt_user *user, int *ret_top, const char **ret_detail, struct mt_err *err)
{
    char uuid[37], at[64];
    mt_auto_fd int target = -1, top = -1;
    const char *fault = mt_mountpath_fault(m->path, strlen(m->path));
    *ret_detail = "mount_path_invalid";
    if (fault)
        return MT_FAIL(err, MT_E_INVALID, "'%s' %s", m->path, fault);
    *ret_detail = "device_attach_failed";
    int res = mt_modules_wait_device(m->device, DISK_WAIT_MS, err);
    if (res < 0)
        return res;
    *ret_detail = "filesystem_mismatch"; /* a mix-up of devices can never mount the wrong data */
    res = mt_mounts_ext4_uuid(m->device, uuid, err);
    if (res == 0 && !MT_STREQ(uuid, m->fs_uuid))
        res = MT_FAIL(err, MT_E_INVALID, "'%s' has UUID %s, volume '%s' is %s", m->device, uuid, m->name, m->fs_uuid);
    if (res < 0)
        return res;
    res = mt_volumes_open_target(root_fd, m->path, &target, err);
    *ret_detail = res == -MT_E_INVALID ? "mount_path_invalid" : "mount_failed";
    if (res == 0)
        res = mt_fmt(at, sizeof at, err, "/proc/self/fd/%d", target);
    if (res < 0)
        return res;
    if (m->ro)
        *ret_detail = "read_only_attach_failed";
    if (mount(m->device, at, "ext4", MS_NOATIME | MS_NODEV | MS_NOSUID | (m->ro ? MS_RDONLY : 0UL), "errors=remount-ro") != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mount volume '%s' on '%s'", m->name, m->path);
    /* the descriptor from before is of the folder beneath */
    *ret_detail = "mount_failed";
    mt_closep(&target);
    if ((res = mt_volumes_open_target(root_fd, m->path, &target, err)) < 0)
        return res;
    *ret_top = fcntl(target, F_DUPFD_CLOEXEC, 3);
    if (m->ro || user->uid == 0)
        return 0;
    top = openat(target, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0 || (mt_volumes_empty(top) && fchown(top, user->uid, user->gid) != 0))
        return MT_FAIL_ERRNO(err, MT_E_IO, "give volume '%s' to uid %u", m->name, (unsigned)user->uid);
    return 0;
}

int mt_volumes_mount(const struct mt_guest_config *c, const struct mt_user *user, const char **ret_detail, struct mt_err *err)
{
    mt_auto_fd int root = c->mounts_count ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    for (size_t i = 0; i < c->mounts_count; i++)
        if (mount_one(&c->mounts[i], root, user, &tops[i], ret_detail, err) < 0)
            return -1;
    return 0;
}

bool mt_volumes_finish(const struct mt_guest_config *c)
{
    bool clean = true;
    for (size_t i = 0; i < c->mounts_count; i++) { /* they would keep it mounted */
        if (tops[i] > 0)
            mt_closep(&tops[i]);
    }
    for (size_t i = 0; i < c->mounts_count; i++) { /* a child that was killed while it froze one: sync would wait for ever */
        mt_auto_fd int fd = open(c->mounts[i].path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0)
            mt_quiesce_thaw_fd(fd);
    }
    if (c->mounts_count > 0)
        sync();
    for (size_t i = c->mounts_count; i-- > 0;) {
        const struct mt_guest_mount *m = &c->mounts[i];
        if (umount2(m->path, UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT)
            continue; /* or it never was mounted */
        if (mount(NULL, m->path, NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME | MS_NODEV | MS_NOSUID, NULL) == 0)
            continue;
        mt_say(MT_SAY_WARN, "volume '%s' is still in use at the end", m->name);
        clean = false;
    }
    return clean;
}

void mt_volumes_use(const struct mt_guest_config *c, struct mt_guest_pong *ret)
{
    for (size_t i = 0; i < c->mounts_count; i++) {
        struct mt_guest_volume_use *v = &ret->volumes[ret->volumes_count];
        struct statfs fs;
        if (tops[i] <= 0 || fstatfs(tops[i], &fs) != 0 || mt_fmt(v->name, sizeof v->name, NULL, "%s", c->mounts[i].name) < 0)
            continue;
        v->size_bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
        v->used_bytes = (uint64_t)(fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
        ret->volumes_count++;
    }
}

uint64_t mt_volumes_errors(const struct mt_guest_config *c)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < c->mounts_count; i++) {
        const char *name = strrchr(c->mounts[i].device, '/');
        char path[128], text[32];
        size_t len;
        uint64_t n;
        if (!name || mt_fmt(path, sizeof path, NULL, "/sys/fs/ext4%s/errors_count", name) < 0)
            continue;
        mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || mt_readfile_fd(fd, text, sizeof text, &len) < 0)
            continue;
        text[strcspn(text, "\n")] = '\0';
        if (mt_parse_u64(text, 0, UINT32_MAX, &n, NULL) == 0)
            sum += n;
    }
    return sum;
}
