/* SPDX-License-Identifier: Apache-2.0 */
/* The first fault wins: what follows it is only its echo. */
#include "unpack/fault.h"

#include "base/assert.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What a person can do about a layer that breaks @rule. */
static const char *mend_of(const char *rule)
{
    static const struct {
        const char *rule, *mend;
    } mends[] = {
        {"U1", "build the image without this path"},
        {"U2", "make the parent a folder, not a link to elsewhere"},
        {"U4", "pack it as an ordinary file"},
        {"U5", "give the link a target of 1 to 4095 bytes"},
        {"U6", "copy the file instead of linking to it"},
        {"U7", "build the layer without this whiteout"},
        {"U8", "chown it to an owner of 0 to 2147483647"},
        {"U10", "remove extended attributes from the file"},
        {"U12", "make the layer smaller or flatter"},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(mends); i++)
        if (MT_STREQ(mends[i].rule, rule))
            return mends[i].mend;
    return "build and push the image again";
}

int (mt_fault_rule)(struct mt_fault *f, const char *rule, const char *path, size_t len, const char *why)
{
    char shown[120];
    if (f->reason)
        return -1;
    f->reason = "image_layer_invalid";
    (void)mt_printable(path ? path : "", path ? len : 0, shown, sizeof shown);
    (void)snprintf(f->detail, sizeof f->detail, "%s%s%s", rule, shown[0] ? " " : "", shown);
    (void)snprintf(f->message, sizeof f->message, "entry '%.80s' breaks rule %s: %s; mend: %s", shown, rule, why, mend_of(rule));
    return -1;
}

void mt_fault_in_layer(struct mt_fault *f, size_t layer, size_t layers)
{
    char text[sizeof f->message];
    if (!f->reason)
        return;
    memcpy(text, f->message, sizeof text);
    (void)snprintf(f->message, sizeof f->message, "layer %zu of %zu: %.*s", layer, layers, (int)(sizeof text - 32), text);
    if (MT_STREQ(f->reason, "image_layer_invalid")) {
        size_t n = strlen(f->detail);
        (void)snprintf(f->detail + n, sizeof f->detail - n, " (layer %zu of %zu)", layer, layers);
    }
}

int (mt_fault_limit)(struct mt_fault *f, const char *limit, uint64_t value)
{
    if (f->reason)
        return -1;
    f->reason = "image_too_large";
    (void)snprintf(f->detail, sizeof f->detail, "%s %ju", limit, (uintmax_t)value);
    (void)snprintf(f->message, sizeof f->message, "image is above the limit %s of %ju", limit, (uintmax_t)value);
    return -1;
}

int (mt_fault_sys)(struct mt_fault *f, const char *detail, int sys_errno, const char *what)
{
    if (f->reason)
        return -1;
    f->reason = sys_errno == ENOSPC || sys_errno == EDQUOT ? "disk_full" : "rootfs_build_failed";
    (void)snprintf(f->detail, sizeof f->detail, "%s", sys_errno == ENOSPC || sys_errno == EDQUOT ? "images" : detail);
    (void)snprintf(f->message, sizeof f->message, "%s%s%s", what, sys_errno ? ": " : "",
                   sys_errno ? strerrordesc_np(sys_errno) : "");
    return -1;
}
