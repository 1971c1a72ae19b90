/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch disks. See scratch.h. mkfs on reserved, unwritten space takes some 8 ms whatever the size. */
#include "agent/instance/scratch.h"

#include "base/cleanup.h"
#include "os/file.h"
#include "os/spawn.h"

#include <fcntl.h>

#define MKFS_TIMEOUT_MS 60000

static void uuid4(char ret[37])
{
    uint8_t b[16];
    mt_random(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    (void)snprintf(ret, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
                   b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

int mt_scratch_make(const char *mkfs_path, const char *path, uint64_t bytes, char ret_uuid[37], struct mt_err *err)
{
    if (unlink(path) < 0 && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "replace scratch disk '%s'", path);
    mt_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOSPC ? MT_E_LIMIT : MT_E_IO, "make scratch disk '%s'", path);
    if (fallocate(fd, 0, 0, (off_t)bytes) < 0) {
        int rc = MT_FAIL_ERRNO(err, errno == ENOSPC ? MT_E_LIMIT : MT_E_IO, "reserve scratch disk '%s'", path);
        (void)unlink(path);
        return rc;
    }
    uuid4(ret_uuid);
    const char *const argv[] = {"mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-U", ret_uuid,
                                "-E", "lazy_itable_init=1,nodiscard", path, NULL};
    struct mt_spawn s = {.path = mkfs_path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    int rc = mt_run_ok(&s, NULL, 0, NULL, MKFS_TIMEOUT_MS, err);
    if (rc < 0) {
        (void)unlink(path);
        return mt_err_wrap(err, "scratch disk");
    }
    return 0;
}
