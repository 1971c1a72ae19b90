/* SPDX-License-Identifier: Apache-2.0 */
#include "os/landlock.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRUNCATE (UINT64_C(1) << 14) /* since version 3 of the interface; headers of 6.1 do not know it */
#define BELOW (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK)
/* A rename from folder to folder is forbidden by any set of rules that does not speak of it. */
#define NOWHERE                                                                                                                                 \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_FIFO | \
     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

static int allow(int set, const char *dir, uint64_t access, struct mt_err *err)
{
    mt_auto_fd int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    const struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, set, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "allow '%s'", dir);
    return 0;
}

int mt_landlock_writes(const char *const *dirs, size_t n, struct mt_err *err)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0) /* ENOSYS, EOPNOTSUPP, EPERM of a filter */
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "no Landlock here");
    uint64_t more = version >= 3 ? TRUNCATE : 0;
    const struct landlock_ruleset_attr all = {.handled_access_fs = BELOW | NOWHERE | more};
    mt_auto_fd int set = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    if (set < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make a set of Landlock's rules");
    for (size_t i = 0; i < n; i++)
        if (dirs[i] && allow(set, dirs[i], BELOW | more, err) < 0)
            return -(int)err->code;
    if (syscall(SYS_landlock_restrict_self, set, 0) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "take on Landlock's rules");
    return 0;
}
