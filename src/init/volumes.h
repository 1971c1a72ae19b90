/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes in the guest: mounted before anything of the workload runs, unmounted when all of it has ended (runtime.md 8 step 13, 17).
 *
 * The image decides what lies on the way to a mount point and an earlier boot's workload what is on a volume, so the way is walked
 * without following any link, and a device is mounted only when it holds the filesystem that the config names.
 */
#pragma once

#include "base/err.h"
#include "init/user.h"
#include "wire/guest.h"

/**
 * Open the folder @path below the folder @root_fd; parts that are missing are made, 0755. No part may be a link.
 * @path is absolute. Returns 0 (@ret_fd O_PATH, caller closes); -MT_E_INVALID a part is no folder; -MT_E_IO.
 */
int mt_volumes_open_target(int root_fd, const char *path, int *ret_fd, struct mt_err *err);

/** True when the folder holds nothing, or nothing but lost+found. */
bool mt_volumes_empty(int dir_fd);

/**
 * Mount every volume of the config at its path; an empty one that may be written is given to @user.
 * Returns 0 or -1 with *@ret_detail, a reason_detail of volume_attach_failed (static text), and @err; what was mounted stays.
 */
int mt_volumes_mount(const struct mt_guest_config *config, const struct mt_user *user, const char **ret_detail, struct mt_err *err);

/** Unmount them again, or make read-only what is held. True when nothing unwritten can be left on any. */
bool mt_volumes_finish(const struct mt_guest_config *config);
/** How full each of them is, into the answer of a ping. */
void mt_volumes_use(const struct mt_guest_config *c, struct mt_guest_pong *ret);
/** Errors that the filesystems of the config's volumes count in their superblocks: they stay until a check takes them out. */
uint64_t mt_volumes_errors(const struct mt_guest_config *c);
