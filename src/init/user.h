/* SPDX-License-Identifier: Apache-2.0 */
/* Who the workload runs as: "uid[:gid]" or "name[:group]" against the image's own passwd and group files. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

enum { MT_USER_GROUPS_MAX = 64, MT_USER_HOME_MAX = 256 };

struct mt_user {
    uid_t uid;
    gid_t gid;
    gid_t groups[MT_USER_GROUPS_MAX]; /**< supplementary; only for users given by name */
    size_t groups_count;
    char home[MT_USER_HOME_MAX]; /**< from passwd; "/" when it names none */
};

/**
 * Resolve @spec ("" or NULL: "0:0").
 *
 * A number needs no entry; without a group its gid is that of its passwd entry, else 0. A name must have
 * an entry; without a group the gid is that of the entry, and the groups that list the name are added.
 * Lines longer than 4096 bytes and malformed lines are passed over; at most 4 MiB of each file are read.
 *
 * @passwd_path, @group_path  may be missing: then only numbers resolve
 * Returns 0; -MT_E_NOT_FOUND names the user or group that has no entry; -MT_E_INVALID empty part,
 *         number above 2^32 - 2.
 * Source: runtime.md 2.2 (user), 8 (setgroups).
 */
int mt_user_resolve(const char *spec, const char *passwd_path, const char *group_path, struct mt_user *ret,
                    struct mt_err *err);
