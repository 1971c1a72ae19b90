/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mkfs.ext4, e2fsck and resize2fs on a volume. They parse metadata that a tenant wrote, so they run as an unprivileged user in namespaces
 * of their own, with limits and a system call filter, and get one descriptor. Source: storage-and-secrets.md 3.6.
 */
#pragma once

#include "base/err.h"

#include "model/volume.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct mt_fstool {
    const char *mkfs, *e2fsck, *resize2fs; /* absolute paths, borrowed */
    uid_t uid;
    gid_t gid;
    struct mt_confine_filter *filter; /* owned; NULL before mt_fstool_init */
};

/** Make the filter; the other members are set by the caller. -MT_E_NOMEM, -MT_E_IO. */
int mt_fstool_init(struct mt_fstool *t, struct mt_err *err);
void mt_fstool_done(struct mt_fstool *t);

/** New ext4 on the whole of @fd (a regular file or block device of ours, lent to the user for the time), UUID @uuid, label the first 16 bytes of @label. The first
 * MiB must read as zeros, else -MT_E_CONFLICT. */
int mt_fstool_format(const struct mt_fstool *t, int fd, const char *uuid, const char *label, struct mt_err *err);
/** `e2fsck -pf`: repairs what is safe. -MT_E_CORRUPT: it is not whole, or the tool died of it. */
int mt_fstool_check(const struct mt_fstool *t, int fd, struct mt_err *err);
/** `e2fsck -fn`: changes nothing and repairs nothing. -MT_E_CORRUPT: something would have to be. */
int mt_fstool_verify(const struct mt_fstool *t, int fd, struct mt_err *err);
/**
 * What an operator asks for. The journal is put back first, as any mount would. Then `e2fsck -fn`, or with @repair `e2fsck -fy` and -fn on what that left.
 * Returns 0 with the verdict (clean, repaired or damaged) and in @ret_detail what the tool said of it, printable; -code: it did not come to its end.
 */
int mt_fstool_judge(const struct mt_fstool *t, int fd, bool repair, enum mt_volume_verdict *ret, char ret_detail[MT_CHECK_DETAIL_MAX + 1], struct mt_err *err);
/** Check, then `resize2fs` to the size of the file. */
int mt_fstool_grow(const struct mt_fstool *t, int fd, struct mt_err *err);

/** Magic and UUID of the superblock, read here and bounded, nothing mounted. -MT_E_INVALID no ext4 there. */
int mt_fstool_uuid(int fd, char ret[37], struct mt_err *err);
