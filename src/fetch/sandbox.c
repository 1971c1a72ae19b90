/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/sandbox.h"

#include "base/assert.h"
#include "os/confine.h"

#include <seccomp.h>

/* Blobs are written under a name of their own and take their place by renaming. */
static const int own[] = {
    SCMP_SYS(openat), SCMP_SYS(pwrite64), SCMP_SYS(flock),     SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fsync),   SCMP_SYS(fdatasync),
    SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(unlink),    SCMP_SYS(unlinkat),  SCMP_SYS(mkdirat), SCMP_SYS(fchmod),
};

int mt_fetch_sandbox(uid_t uid, gid_t gid, struct mt_err *err)
{
    const struct mt_confine_calls calls = {.allowed = own, .n_allowed = MT_ARRAY_LEN(own)};
    int r = mt_confine_user(uid, gid, err);
    return r < 0 ? r : mt_confine_client(&calls, err);
}
