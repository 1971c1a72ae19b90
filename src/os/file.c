/* SPDX-License-Identifier: Apache-2.0 */
#include "os/file.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

static int read_all(int fd, const char *path, size_t max, char **ret, size_t *ret_len, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(max + 1);
    for (;;) {
        char part[4096];
        ssize_t n = read(fd, part, sizeof part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read '%s'", path);
        if (n == 0)
            break;
        mt_buf_put(&b, part, (size_t)n);
        if (b.failed || b.len > max)
            return MT_FAIL(err, MT_E_LIMIT, "'%s' is larger than %zu bytes", path, max);
    }
    size_t len = b.len;
    char *s = mt_buf_take(&b);
    if (!s)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for '%s'", path);
    *ret = s;
    if (ret_len)
        *ret_len = len;
    return 0;
}

static int open_to_read(const char *path, int flags, struct mt_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0 && errno == ELOOP && (flags & O_NOFOLLOW))
        return MT_FAIL(err, MT_E_DENIED, "'%s' is a symbolic link, which is not followed here: name the file itself", path);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT || errno == ENOTDIR ? MT_E_NOT_FOUND : MT_E_IO, "open '%s'", path);
    return fd;
}

int mt_file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct mt_err *err)
{
    mt_auto_fd int fd = open_to_read(path, 0, err);
    return fd < 0 ? fd : read_all(fd, path, max, ret, ret_len, err);
}

int mt_file_read_plain(const char *path, uid_t owner, size_t max, char **ret, size_t *ret_len, struct mt_err *err)
{
    struct stat st;
    mt_auto_fd int fd = open_to_read(path, O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, err);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look at '%s'", path);
    if (!S_ISREG(st.st_mode) || (owner != (uid_t)-1 && st.st_uid != owner && st.st_uid != 0 && st.st_uid != geteuid()))
        return MT_FAIL(err, MT_E_DENIED, "'%s' is not a plain file of ours: look who put it there and remove it", path);
    return read_all(fd, path, max, ret, ret_len, err);
}

static int write_all(int fd, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int mt_file_sync_dir(const char *path, struct mt_err *err)
{
    mt_auto_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "sync folder '%s'", path);
    return 0;
}

/* fsync the folder that @path is in. */
static int sync_parent(const char *path, struct mt_err *err)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int len = slash && slash > path ? (int)(slash - path) : 1;
    if (mt_fmt(dir, sizeof dir, err, "%.*s", len, slash ? path : ".") < 0)
        return -MT_E_LIMIT;
    return mt_file_sync_dir(dir, err);
}

int mt_file_write(const char *path, const void *data, size_t len, mode_t mode, struct mt_err *err)
{
    char tmp[PATH_MAX];
    uint32_t nonce;
    mt_random(&nonce, sizeof nonce);
    if (mt_fmt(tmp, sizeof tmp, err, "%s.%08x.tmp", path, nonce) < 0)
        return -MT_E_LIMIT;
    mt_auto_fd int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "create '%s'", tmp);
    if (write_all(fd, data, len) < 0 || fchmod(fd, mode) < 0 || fsync(fd) < 0 || rename(tmp, path) < 0) {
        int r = MT_FAIL_ERRNO(err, MT_E_IO, "write '%s'", path);
        (void)unlink(tmp);
        return r;
    }
    return sync_parent(path, err);
}

bool mt_file_is_part(const char *name)
{
    size_t n = strlen(name);
    return n > 13 && name[n - 13] == '.' && strspn(name + n - 12, "0123456789abcdef") == 8 && MT_STREQ(name + n - 4, ".tmp");
}

int mt_file_part_open(const char *path, int *ret_fd, struct mt_err *err)
{
    char part[PATH_MAX];
    if (mt_fmt(part, sizeof part, err, "%s.part", path) < 0)
        return -MT_E_LIMIT;
    *ret_fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    return *ret_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "write '%s'", part) : 0;
}

int mt_file_part_end(const char *path, bool whole, struct mt_err *err)
{
    char part[PATH_MAX];
    if (mt_fmt(part, sizeof part, err, "%s.part", path) < 0)
        return -MT_E_LIMIT;
    if (whole && rename(part, path) == 0)
        return sync_parent(path, err);
    int r = whole ? MT_FAIL_ERRNO(err, MT_E_IO, "rename '%s' to '%s'", part, path) : 0;
    (void)unlink(part);
    return r;
}

int mt_file_mkdirs(const char *path, mode_t mode, struct mt_err *err)
{
    char p[PATH_MAX];
    if (mt_fmt(p, sizeof p, err, "%s", path) < 0)
        return -MT_E_LIMIT;
    for (char *s = p + 1;; s++) {
        if (*s != '/' && *s != '\0')
            continue;
        char keep = *s;
        *s = '\0';
        if (mkdir(p, mode) < 0 && errno != EEXIST)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make folder '%s'", p);
        *s = keep;
        if (keep == '\0')
            break;
    }
    struct stat st;
    if (stat(p, &st) < 0 || !S_ISDIR(st.st_mode))
        return MT_FAIL(err, MT_E_IO, "'%s' is not a folder", p);
    return 0;
}

/* Depth is bounded by the tree itself; names are removed relative to their folder, so no link is ever followed. */
static int remove_at(int dirfd, const char *name, dev_t dev, unsigned depth, struct mt_err *err)
{
    if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", name);
    if (depth > 512)
        return MT_FAIL(err, MT_E_LIMIT, "remove '%s': nested deeper than 512", name);
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open folder '%s'", name);
    mt_auto_dir DIR *d = fdopendir(fd);
    if (!d) {
        (void)close(fd);
        return MT_FAIL_ERRNO(err, MT_E_IO, "read folder '%s'", name);
    }
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_dev != dev)
        return MT_FAIL(err, MT_E_CONFLICT, "remove '%s': something is mounted there", name);
    for (struct dirent *e; (e = readdir(d));) {
        if (MT_STREQ(e->d_name, ".") || MT_STREQ(e->d_name, ".."))
            continue;
        int r = remove_at(fd, e->d_name, dev, depth + 1, err);
        if (r < 0)
            return r;
    }
    if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "remove folder '%s'", name);
    return 0;
}

int mt_file_remove_tree(int dirfd, const char *name, struct mt_err *err)
{
    struct stat st;
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : MT_FAIL_ERRNO(err, MT_E_IO, "look at '%s'", name);
    return remove_at(dirfd, name, st.st_dev, 0, err);
}

int mt_file_lock(const char *path, int *ret_fd, struct mt_err *err)
{
    struct stat st;
    mt_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open lock '%s'", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, errno == EWOULDBLOCK ? MT_E_CONFLICT : MT_E_IO, "lock '%s'", path);
    if (st.st_nlink == 0) /* who had it took it away meanwhile: the next to come would lock another file */
        return MT_FAIL(err, MT_E_CONFLICT, "lock '%s': it was removed this moment", path);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

void mt_random(void *p, size_t n)
{
    uint8_t *b = p;
    while (n > 0) {
        ssize_t r = getrandom(b, n, 0);
        if (r <= 0)
            continue; /* EINTR only: the pool is ready long before user space runs */
        b += r;
        n -= (size_t)r;
    }
}

int mt_proc_start_time(pid_t pid, uint64_t *ret, struct mt_err *err)
{
    char path[64];
    mt_auto_free char *text = NULL;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int r = mt_file_read(path, 4096, &text, NULL, err);
    if (r < 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "process %d is gone", (int)pid);
    /* the command name may hold blanks and brackets: fields are counted from the last ')' */
    char *p = strrchr(text, ')');
    unsigned field = 2;
    for (; p && *p && field < 22; p++)
        field += *p == ' ';
    if (!p || field != 22)
        return MT_FAIL(err, MT_E_CORRUPT, "cannot read '%s'", path);
    *ret = strtoull(p, NULL, 10);
    return 0;
}

int mt_host_boot_id(char ret[37], struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t n;
    int r = mt_file_read("/proc/sys/kernel/random/boot_id", 64, &text, &n, err);
    if (r < 0)
        return r;
    if (n < 36)
        return MT_FAIL(err, MT_E_CORRUPT, "boot_id is too short");
    memcpy(ret, text, 36);
    ret[36] = '\0';
    return 0;
}
