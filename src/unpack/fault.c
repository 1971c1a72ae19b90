/* SPDX-License-Identifier: Apache-2.0 */
/* The first fault wins: what follows it is only its echo. */
#include "unpack/fault.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int mt_fault_rule(struct mt_fault *f, const char *rule, const char *path, size_t len, const char *why)
{
    char shown[120];
    if (f->reason)
        return -1;
    f->reason = "image_layer_invalid";
    (void)mt_printable(path ? path : "", path ? len : 0, shown, sizeof shown);
    (void)snprintf(f->detail, sizeof f->detail, "%s%s%s", rule, shown[0] ? " " : "", shown);
    (void)snprintf(f->message, sizeof f->message, "layer entry '%s' breaks rule %s: %s", shown, rule, why);
    return -1;
}

int mt_fault_limit(struct mt_fault *f, const char *limit, uint64_t value)
{
    if (f->reason)
        return -1;
    f->reason = "image_too_large";
    (void)snprintf(f->detail, sizeof f->detail, "%s %ju", limit, (uintmax_t)value);
    (void)snprintf(f->message, sizeof f->message, "image is above the limit %s of %ju", limit, (uintmax_t)value);
    return -1;
}

int mt_fault_sys(struct mt_fault *f, const char *detail, int sys_errno, const char *what)
{
    if (f->reason)
        return -1;
    f->reason = sys_errno == ENOSPC || sys_errno == EDQUOT ? "disk_full" : "rootfs_build_failed";
    (void)snprintf(f->detail, sizeof f->detail, "%s", sys_errno == ENOSPC || sys_errno == EDQUOT ? "images" : detail);
    (void)snprintf(f->message, sizeof f->message, "%s%s%s", what, sys_errno ? ": " : "",
                   sys_errno ? strerrordesc_np(sys_errno) : "");
    return -1;
}
