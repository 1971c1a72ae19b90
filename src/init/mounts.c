/* SPDX-License-Identifier: Apache-2.0 */
#include "init/mounts.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "init/say.h"

#define NEWROOT "/newroot"
#define NO_EXTRAS (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static int do_mount(const char *what, const char *where, const char *type, unsigned long flags, const char *data,
                    struct mt_err *err)
{
    if (mount(what, where, type, flags, data) != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mount %s on %s", type ? type : what, where);
    return 0;
}

int mt_mounts_early(struct mt_err *err)
{
    (void)mkdir("/dev", 0755);
    (void)mkdir("/proc", 0555);
    (void)mkdir("/sys", 0555);
    int res = do_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755", err);
    if (res < 0 && err->sys_errno != EBUSY) /* CONFIG_DEVTMPFS_MOUNT mounts it before us */
        return res;
    res = do_mount("proc", "/proc", "proc", NO_EXTRAS, NULL, err);
    return res < 0 ? res : do_mount("sysfs", "/sys", "sysfs", NO_EXTRAS, NULL, err);
}

int mt_mounts_ext4_uuid(const char *device, char ret[37], struct mt_err *err)
{
    enum { SUPERBLOCK = 1024, MAGIC_AT = 0x38, UUID_AT = 0x68 };
    uint8_t sb[UUID_AT + 16];
    mt_auto_fd int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, sb, sizeof sb, SUPERBLOCK) != (ssize_t)sizeof sb)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read superblock of '%s'", device);
    if (sb[MAGIC_AT] != 0x53 || sb[MAGIC_AT + 1] != 0xef)
        return MT_FAIL(err, MT_E_INVALID, "'%s' holds no ext4 filesystem", device);
    char hex[33];
    mt_hex_encode(sb + UUID_AT, 16, hex);
    return mt_fmt(ret, 37, err, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

static int check_uuid(const char *device, const char *want, struct mt_err *err)
{
    char uuid[37];
    int res = mt_mounts_ext4_uuid(device, uuid, err);
    if (res == 0 && !MT_STREQ(uuid, want))
        return MT_FAIL(err, MT_E_INVALID, "'%s' has UUID %s, the config says %s", device, uuid, want);
    return res;
}

int mt_mounts_root(const struct mt_guest_root *root, struct mt_err *err)
{
    static const char options[] = "lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work,"
                                  "redirect_dir=off,metacopy=off,index=off";
    int res = check_uuid(root->lower, root->lower_uuid, err);
    if (res == 0)
        res = check_uuid(root->upper, root->upper_uuid, err);
    if (res < 0)
        return res;
    (void)mkdir("/lower", 0755);
    (void)mkdir("/scratch", 0755);
    (void)mkdir(NEWROOT, 0755);
    res = do_mount(root->lower, "/lower", "ext4", MS_RDONLY | MS_NODEV, NULL, err);
    if (res == 0)
        res = do_mount(root->upper, "/scratch", "ext4", MS_NODEV | MS_NOATIME, NULL, err);
    if (res < 0)
        return res;
    if ((mkdir("/scratch/upper", 0755) != 0 && errno != EEXIST) ||
        (mkdir("/scratch/work", 0700) != 0 && errno != EEXIST))
        return MT_FAIL_ERRNO(err, MT_E_IO, "create upper and work on '%s'", root->upper);
    /* suid stays: images rely on it */
    return do_mount("overlay", NEWROOT, "overlay", MS_NODEV, options, err);
}

/*
 * The image decides what is at these names, so they are resolved inside its root: a symlink "run -> /x"
 * leads to /newroot/x. A missing folder is made.
 */
static int mount_below(int root_fd, const char *name, const char *what, const char *type, unsigned long flags,
                       const char *data, struct mt_err *err)
{
    const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
    char path[64];
    long got = syscall(SYS_openat2, root_fd, name, &how, sizeof how);
    if (got < 0 && errno == ENOENT && mkdirat(root_fd, name, 0755) == 0)
        got = syscall(SYS_openat2, root_fd, name, &how, sizeof how);
    if (got < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mount point '/%s' in the image", name);
    mt_auto_fd int fd = (int)got;
    int res = mt_fmt(path, sizeof path, err, "/proc/self/fd/%d", fd);
    if (res < 0)
        return res;
    if (mount(what, path, type, flags, data) != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mount %s on /%s", type ? type : what, name);
    return 0;
}

static int mount_tmpfs(int root_fd, const char *name, const char *mode, unsigned long flags, uint64_t size,
                       struct mt_err *err)
{
    char data[64];
    int res = mt_fmt(data, sizeof data, err, "mode=%s,size=%llu", mode, (unsigned long long)size);
    return res < 0 ? res : mount_below(root_fd, name, "tmpfs", "tmpfs", flags, data, err);
}

static void dev_links(void)
{
    static const char *const links[][2] = {{"/proc/self/fd", NEWROOT "/dev/fd"},
                                           {"/proc/self/fd/0", NEWROOT "/dev/stdin"},
                                           {"/proc/self/fd/1", NEWROOT "/dev/stdout"},
                                           {"/proc/self/fd/2", NEWROOT "/dev/stderr"},
                                           {"pts/ptmx", NEWROOT "/dev/ptmx"}};
    (void)unlink(NEWROOT "/dev/ptmx"); /* devtmpfs has its own; with newinstance it must lead to ours */
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
        if (symlink(links[i][0], links[i][1]) != 0 && errno != EEXIST)
            mt_say(MT_SAY_WARN, "no link /dev/%s", links[i][1] + sizeof NEWROOT "/dev");
}

int mt_mounts_system(const struct mt_guest_tmpfs *sizes, struct mt_err *err)
{
    struct sysinfo info;
    uint64_t ram = sysinfo(&info) == 0 ? (uint64_t)info.totalram * info.mem_unit : 64U << 20;
    uint64_t run = sizes->run_bytes ? sizes->run_bytes : mt_max_u64(16U << 20, ram / 10);
    uint64_t tmp = sizes->tmp_bytes ? sizes->tmp_bytes : ram / 4;
    uint64_t shm = sizes->shm_bytes ? sizes->shm_bytes : ram / 4;
    mt_auto_fd int fd = open(NEWROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open %s", NEWROOT);
    int res = mount_below(fd, "dev", "/dev", NULL, MS_MOVE, NULL, err);
    if (res == 0)
        res = mount_below(fd, "dev/pts", "devpts", "devpts", MS_NOSUID | MS_NOEXEC,
                          "newinstance,gid=5,mode=620,ptmxmode=666", err);
    if (res == 0)
        res = mount_tmpfs(fd, "dev/shm", "1777", MS_NOSUID | MS_NODEV, shm, err);
    if (res == 0)
        res = mount_below(fd, "proc", "proc", "proc", NO_EXTRAS, NULL, err);
    if (res == 0)
        res = mount_below(fd, "sys", "sysfs", "sysfs", NO_EXTRAS, NULL, err);
    if (res == 0)
        res = mount_below(fd, "sys/fs/cgroup", "cgroup2", "cgroup2", NO_EXTRAS, NULL, err);
    if (res == 0)
        res = mount_tmpfs(fd, "run", "0755", MS_NOSUID | MS_NODEV, run, err);
    if (res == 0)
        res = mount_tmpfs(fd, "tmp", "1777", MS_NOSUID | MS_NODEV, tmp, err);
    if (res == 0)
        dev_links();
    return res;
}

int mt_mounts_switch(struct mt_err *err)
{
    (void)umount2("/sys", MNT_DETACH);
    (void)umount2("/proc", MNT_DETACH);
    (void)unlink("/init");
    if (chdir(NEWROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "switch to the new root");
    return 0;
}

bool mt_mounts_finish(void)
{
    sync();
    /* the scratch filesystem beneath is out of reach and goes away with this boot */
    return mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NODEV, NULL) == 0;
}
