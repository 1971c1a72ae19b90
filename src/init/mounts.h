/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filesystems of the guest: first the kernel's own on the initramfs, later the overlay root and what every
 * program expects in it, then the switch of the root (runtime.md 8, steps 1 and 6 to 9).
 */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

/** Step 1: devtmpfs on /dev, proc, sysfs, on the initramfs. */
int mt_mounts_early(struct mt_err *err);

/** Steps 6 and 7: check the UUIDs of both disks, mount lower and scratch, overlay on /newroot. */
int mt_mounts_root(const struct mt_guest_root *root, struct mt_err *err);

/** Step 8: dev, dev/pts, dev/shm, proc, sys, cgroup2, run and tmp beneath /newroot, and the /dev links. */
int mt_mounts_system(const struct mt_guest_tmpfs *sizes, struct mt_err *err);

/** Step 9: /newroot becomes the root; the initramfs is out of reach from here on. */
int mt_mounts_switch(struct mt_err *err);

/** End: flush everything and make the root read-only. True when nothing unwritten can be left. */
bool mt_mounts_finish(void);

/**
 * Read the UUID of the ext4 filesystem on @device as lower-case text.
 * Returns 0; -MT_E_IO; -MT_E_INVALID no ext4 magic there.
 */
int mt_mounts_ext4_uuid(const char *device, char ret[37], struct mt_err *err);
