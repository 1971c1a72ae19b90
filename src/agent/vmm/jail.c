/* SPDX-License-Identifier: Apache-2.0 */
/* Jail folders: see jail.h. */
#include "agent/vmm/jail.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

enum { LISTEN_BACKLOG = 64, LOG_PART = 1024, LOG_PARTS = 64 /* a whole pipe */, LOG_MAX = 4096, PRINTED_MARGIN = 4 /* mt_printable's */ };
enum { WORDS_MAX = 208, SAID_MAX = 120 }; /* of a message: both words, and the monitor's; callers put theirs before it */

int mt_jail_check_id(const char *jail_id, struct mt_err *err)
{
    size_t n = jail_id ? strlen(jail_id) : 0;
    if (n == 0 || n > MT_VMM_JAIL_ID_MAX ||
        strspn(jail_id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != n)
        return MT_FAIL(err, MT_E_INVALID, "jail id must be 1 to %d letters, digits or '-'", MT_VMM_JAIL_ID_MAX);
    return 0;
}

int mt_jail_paths(const char *base, const char *driver, const char *jail_id, struct mt_jail *ret, struct mt_err *err)
{
    if (mt_jail_check_id(jail_id, err) < 0)
        return -MT_E_INVALID;
    if (mt_fmt(ret->dir, sizeof ret->dir, err, "%s/%s/%s", base, driver, jail_id) < 0 ||
        mt_fmt(ret->root, sizeof ret->root, err, "%s/root", ret->dir) < 0 ||
        mt_fmt(ret->log, sizeof ret->log, err, "%s/vmm.log", ret->dir) < 0)
        return mt_err_wrap(err, "jail folder");
    if (strlen(ret->root) + sizeof "/run/v.sock_65535" - 1 > MT_UNIX_PATH_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "jail folder '%s' is too deep: its sockets would pass %d bytes; choose a shorter data folder",
                       ret->dir, MT_UNIX_PATH_MAX);
    return 0;
}

/* Shared, read-only input: only root may be able to change it. */
static int check_shared(const char *path, struct mt_err *err)
{
    struct stat st;
    if (lstat(path, &st) == -1)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "'%s'", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 0022))
        return MT_FAIL(err, MT_E_INVALID, "'%s' must be a regular file that only root can write", path);
    if (!(st.st_mode & 0004))
        return MT_FAIL(err, MT_E_INVALID, "'%s' must be readable by all (0444): the VM's user opens it", path);
    return 0;
}

static int link_into(int root, const char *path, const char *name, struct mt_err *err)
{
    if (linkat(AT_FDCWD, path, root, name, 0) == 0)
        return 0;
    if (errno == EXDEV)
        return MT_FAIL(err, MT_E_INVALID, "'%s' must be on the same filesystem as the jail folder: it enters it as a hard link", path);
    return MT_FAIL_ERRNO(err, MT_E_IO, "link '%s' into the jail", path);
}

static int own_disk(int root, const char *path, const char *name, bool read_only, uid_t uid, struct mt_err *err)
{
    struct stat st;
    if (lstat(path, &st) == -1)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "'%s'", path);
    if (S_ISBLK(st.st_mode)) {
        if (mknodat(root, name, S_IFBLK | 0600, st.st_rdev) == -1)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make block node '%s'", name);
    } else if (!S_ISREG(st.st_mode)) {
        return MT_FAIL(err, MT_E_INVALID, "'%s' is neither a file nor a block device", path);
    } else if (link_into(root, path, name, err) < 0) {
        return -(int)(err ? err->code : MT_E_IO);
    }
    if (fchownat(root, name, uid, uid, AT_SYMLINK_NOFOLLOW) == -1 || fchmodat(root, name, read_only ? 0400 : 0600, 0) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "give '%s' to uid %u", path, uid);
    return 0;
}

static int fill_root(int root, const struct mt_vmm_spec *spec, uid_t uid, struct mt_err *err)
{
    char name[24];
    if (check_shared(spec->kernel_path, err) < 0 || link_into(root, spec->kernel_path, "vmlinux", err) < 0 ||
        check_shared(spec->initramfs_path, err) < 0 || link_into(root, spec->initramfs_path, "initramfs", err) < 0 ||
        check_shared(spec->root.path, err) < 0 || link_into(root, spec->root.path, "root.ext4", err) < 0 ||
        own_disk(root, spec->scratch.path, "scratch.ext4", false, uid, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    for (size_t i = 0; i < spec->volume_count; i++) {
        (void)snprintf(name, sizeof name, "vol%zu", i);
        if (own_disk(root, spec->volumes[i].path, name, spec->volumes[i].read_only, uid, err) < 0)
            return mt_err_wrap(err, "volume %zu", i);
    }
    if (mkdirat(root, "run", 0700) == -1 || fchownat(root, "run", uid, uid, AT_SYMLINK_NOFOLLOW) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make run folder");
    if (spec->identity_json) {
        mt_auto_fd int fd = openat(root, "moat.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
        size_t n = strlen(spec->identity_json);
        if (fd == -1 || write(fd, spec->identity_json, n) != (ssize_t)n)
            return MT_FAIL_ERRNO(err, MT_E_IO, "write moat.json");
    }
    return 0;
}

static int mount_points(int root, const char *const *dirs, const char *const *files, struct mt_err *err)
{
    for (; dirs && *dirs; dirs++) {
        if (mkdirat(root, *dirs, 0755) == -1)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make folder '%s' in the jail", *dirs);
    }
    for (; files && *files; files++) {
        mt_auto_fd int fd = openat(root, *files, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
        if (fd == -1)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make file '%s' in the jail", *files);
    }
    return 0;
}

int mt_jail_own_root(const struct mt_jail *jail, gid_t gid, struct mt_err *err)
{
    mt_auto_fd int root = open(jail->root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /*
     * The mode first: a root's 0700 between the two shuts the VM's user out, and the jailer's child, which has not executed Firecracker
     * yet, failed with "Permission denied". And once more, for as long as it was still the VM's it could change it.
     */
    if (root == -1 || fchmod(root, 0750) == -1 || fchown(root, 0, gid) == -1 || fchmod(root, 0750) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set owner of '%s'", jail->root);
    return 0;
}

int mt_jail_build(const struct mt_jail *jail, const struct mt_vmm_spec *spec, const char *const *empty_dirs,
                  const char *const *empty_files, struct mt_err *err)
{
    gid_t gid = (gid_t)(MT_VMM_UID_BASE + spec->slot);
    if (mt_file_mkdirs(jail->dir, 0711, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    if (mkdir(jail->root, 0750) == -1)
        return MT_FAIL_ERRNO(err, errno == EEXIST ? MT_E_CONFLICT : MT_E_IO, "make '%s'", jail->root);
    if (mt_jail_own_root(jail, gid, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    mt_auto_fd int root = open(jail->root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (root == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", jail->root);
    if (mkfifo(jail->log, 0600) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make '%s'", jail->log);
    if (mount_points(root, empty_dirs, empty_files, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    return fill_root(root, spec, (uid_t)gid, err);
}

int mt_jail_remove(const char *base, const char *driver, const char *jail_id, struct mt_err *err)
{
    char parent[MT_JAIL_PATH];
    if (mt_jail_check_id(jail_id, err) < 0 || mt_fmt(parent, sizeof parent, err, "%s/%s", base, driver) < 0)
        return -(int)(err ? err->code : MT_E_INVALID);
    mt_auto_fd int dir = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir == -1)
        return errno == ENOENT ? 0 : MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", parent);
    return mt_file_remove_tree(dir, jail_id, err);
}

static int open_beneath(int dir, const char *name, uint64_t flags)
{
    const struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, dir, name, &how, sizeof how);
}

int mt_jail_open_run(const struct mt_jail *jail, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int dir = open(jail->root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int fd = dir == -1 ? -1 : open_beneath(dir, "run", O_RDONLY | O_DIRECTORY);
    if (fd == -1)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "open '%s/run'", jail->root);
    *ret_fd = fd;
    return 0;
}

/* An O_PATH descriptor of socket @name, never of what a link points to. */
static int open_socket_node(int run, const char *name, struct mt_err *err)
{
    struct stat st;
    mt_auto_fd int fd = open_beneath(run, name, O_PATH | O_NOFOLLOW);
    if (fd == -1)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "socket '%s'", name);
    if (fstat(fd, &st) == -1 || !S_ISSOCK(st.st_mode))
        return MT_FAIL(err, MT_E_CORRUPT, "'%s' in the jail is not a socket", name);
    return MT_TAKE_FD(fd);
}

int mt_jail_connect(const struct mt_jail *jail, const char *name, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int run = -1;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (mt_jail_open_run(jail, &run, err) < 0)
        return -MT_E_UNAVAILABLE;
    mt_auto_fd int node = open_socket_node(run, name, err);
    if (node < 0)
        return node;
    (void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d", node);
    mt_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd == -1 || connect(fd, (const struct sockaddr *)&a, sizeof a) == -1)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "connect to '%s'", name);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

int mt_jail_listen(const struct mt_jail *jail, const char *name, uid_t uid, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int run = -1;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (mt_jail_open_run(jail, &run, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    if (unlinkat(run, name, 0) == -1 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "replace socket '%s'", name);
    mt_auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", run, name);
    /* the mode of the socket's own inode becomes the mode of the file: no chmod by name afterwards */
    if (fd == -1 || fchmod(fd, 0600) == -1 || bind(fd, (const struct sockaddr *)&a, sizeof a) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "bind socket '%s'", name);
    mt_auto_fd int node = open_socket_node(run, name, err);
    if (node < 0)
        return node;
    if (fchownat(node, "", uid, uid, AT_EMPTY_PATH) == -1 || listen(fd, LISTEN_BACKLOG) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "listen on '%s'", name);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static size_t trimmed(const char *text, size_t len)
{
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' '))
        len--;
    return len;
}

void mt_jail_read_log(int log_fd, char *ret, size_t size)
{
    static const char advice_begin[] = "\nnote: run with ";
    char part[LOG_PART], last[LOG_MAX];
    size_t len = 0;
    ssize_t n;
    for (int i = 0; i < LOG_PARTS && log_fd >= 0 && (n = read(log_fd, part, sizeof part)) > 0; i++) {
        size_t keep = len < sizeof last - (size_t)n ? len : sizeof last - (size_t)n;
        memmove(last, last + len - keep, keep);
        memcpy(last + keep, part, (size_t)n);
        len = keep + (size_t)n;
    }
    len = trimmed(last, len);
    const char *advice = memmem(last, len, advice_begin, sizeof advice_begin - 1);
    if (advice) /* of a Rust program that panicked: it would push out what it is about */
        len = trimmed(last, (size_t)(advice - last));
    size_t cut = len > size - PRINTED_MARGIN ? len - (size - PRINTED_MARGIN) : 0;
    if (cut) /* the system's own word is at the end */
        memcpy(last + cut, "...", 3);
    (void)mt_printable(last + cut, len - cut, ret, size);
}

void mt_jail_add_log(int log_fd, struct mt_err *err)
{
    char said[SAID_MAX], what[WORDS_MAX];
    mt_jail_read_log(log_fd, said, sizeof said);
    if (!err || !said[0])
        return;
    (void)snprintf(what, sizeof what, "%.*s", (int)(sizeof what - sizeof ": " - strlen(said)), err->msg);
    (void)mt_err_set(err, err->code, 0, err->file, err->line, "%s: %s", what, said);
}
