/* SPDX-License-Identifier: Apache-2.0 */
#include "forward/forward.h"

#include "base/assert.h"
#include "os/confine.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <seccomp.h>
#include <sys/ioctl.h>

/* Files are only read (trust anchors, the resolver's configuration): nothing is made, renamed or removed. */
static const struct mt_confine_rule own[] = {
    {SCMP_SYS(openat), 2, O_ACCMODE, O_RDONLY},
    {SCMP_SYS(ioctl), 1, UINT64_MAX, SIOCOUTQ},
};

int mt_forward_sandbox(uid_t uid, gid_t gid, struct mt_err *err)
{
    const struct mt_confine_calls calls = {.rules = own, .n_rules = MT_ARRAY_LEN(own)};
    int r = mt_confine_user(uid, gid, err);
    return r < 0 ? r : mt_confine_client(&calls, err);
}
