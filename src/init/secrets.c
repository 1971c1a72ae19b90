/* SPDX-License-Identifier: Apache-2.0 */
#include "init/secrets.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "init/sha256.h"

#define FILE_NAME "platform.env"

int mt_secrets_mount(const char *dir, int *ret_fd, struct mt_err *err)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make %s", dir);
    if (mount("tmpfs", dir, "tmpfs", flags, "mode=0755,size=1048576,noswap") != 0 && /* Linux 6.4; the guest has no swap anyway */
        mount("tmpfs", dir, "tmpfs", flags, "mode=0755,size=1048576") != 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "mount tmpfs on %s", dir);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open %s", dir);
    *ret_fd = fd;
    return 0;
}

static int write_all(int fd, const char *p, size_t n, struct mt_err *err)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "write");
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

static int put_file(int dir_fd, const char *data, size_t n, uid_t uid, gid_t gid, mode_t mode, struct mt_err *err)
{
    uint64_t random = 0;
    char name[40];
    if (getrandom(&random, sizeof random, 0) < 0) /* O_EXCL sees to it that the name is new; nobody else is there yet */
        random = 0;
    (void)snprintf(name, sizeof name, "." FILE_NAME ".%016llx", (unsigned long long)random);
    mt_auto_fd int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make a file");
    int rc = write_all(fd, data, n, err);
    if (rc == 0 && (fchown(fd, uid, gid) != 0 || fchmod(fd, mode) != 0))
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "set owner and mode");
    if (rc == 0 && renameat(dir_fd, name, dir_fd, FILE_NAME) != 0)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "rename");
    if (rc < 0)
        (void)unlinkat(dir_fd, name, 0);
    return rc;
}

int mt_secrets_put(int dir_fd, const struct mt_guest_secrets *config, const struct mt_guest_secrets_data *msg,
                   const struct mt_user *owner, const char **ret_detail, struct mt_err *err)
{
    size_t n = strlen(msg->data);
    char *text = (char *)(uintptr_t)msg->data, sha[65]; /* in the decoder's memory, which is ours to write */
    *ret_detail = "format_invalid";
    if (!config->version_id || !MT_STREQ(msg->version_id, config->version_id))
        return MT_FAIL(err, MT_E_INVALID, "version %.40s came, %.40s was announced", msg->version_id,
                       config->version_id ? config->version_id : "none");
    ssize_t k = mt_b64_decode(text, n, text, n); /* what is written lies behind what is read */
    if (k < 0)
        return MT_FAIL(err, MT_E_INVALID, "not base64");
    *ret_detail = "hash_mismatch";
    mt_sha256_hex(text, (size_t)k, sha);
    if (!MT_STREQ(sha, msg->sha256) || !MT_STREQ(sha, config->sha256) || (uint64_t)k != config->bytes)
        return MT_FAIL(err, MT_E_CORRUPT, "%zd bytes are not those that were announced", k);
    *ret_detail = "write_failed";
    return put_file(dir_fd, text, (size_t)k, config->uid == UINT32_MAX ? owner->uid : config->uid,
                    config->gid == UINT32_MAX ? owner->gid : config->gid, config->mode, err);
}
