/* SPDX-License-Identifier: Apache-2.0 */
/* Privileges only ever shrink here. */
#include "backup/sandbox.h"

#include "base/assert.h"
#include "os/confine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

int mt_bk_leave_root(uid_t uid, gid_t gid, struct mt_err *err)
{
    int r = mt_confine_user(uid, gid, err);
    if (r < 0)
        return r;
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) /* keys are in its memory */
        return MT_FAIL_ERRNO(err, MT_E_IO, "give up privileges");
    return 0;
}

/* What is written is open already: the part of a volume. Its keys may be unlocked, never locked again. What was read of a snapshot may be
 * dropped from memory. */
static const int own[] = {
    SCMP_SYS(pwrite64), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(munlock),
    SCMP_SYS(fadvise64),
};

static const int deadly[] = {SCMP_SYS(creat)};

static const struct mt_confine_rule rules[] = {
    {SCMP_SYS(ioctl), 1, UINT64_MAX, BLKGETSIZE64},
    {SCMP_SYS(ioctl), 1, UINT64_MAX, BLKZEROOUT},
    {SCMP_SYS(openat), 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY}, /* trust anchors, resolver */
};

int mt_bk_sandbox(struct mt_err *err)
{
    const struct mt_confine_calls calls = {.allowed = own, .n_allowed = MT_ARRAY_LEN(own), .deadly = deadly, .n_deadly = MT_ARRAY_LEN(deadly),
                                           .rules = rules, .n_rules = MT_ARRAY_LEN(rules)};
    return mt_confine_client(&calls, err);
}
