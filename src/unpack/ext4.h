/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The finished tree as an ext4 file system, written with libext2fs into an empty file. No mount, no tree on the host.
 *
 * The same tree, UUID and library version give the same bytes: entries go in byte order of their names, inodes are numbered in
 * that order, atime = ctime = mtime, crtime and all times of the superblock are 1. Source: runtime.md 15.
 */
#pragma once

#include "unpack/tree.h"

#define MT_EXT4_NO_ROOM 1 /* result: the size did not suffice, try a larger one */

struct mt_ext4 {
    int image_fd;      /* empty regular file, read and write; borrowed */
    int spool_fd;      /* file data; borrowed */
    uint64_t bytes;    /* size of the image, a multiple of 1 MiB */
    uint32_t inodes;   /* at least this many */
    uint8_t uuid[16];  /* also the seed of folder hashes */
};

/** Size and inode count for @tree: data + 10 % + 64 MiB rounded up to 1 MiB, entries x 1.1 + 1024; inode tables
 * above 32 MiB are counted on top (some 120,000 entries). */
void mt_ext4_plan(const struct mt_tree *tree, uint64_t *ret_bytes, uint32_t *ret_inodes);

/** Write it. 0 with *ret_used = bytes in use; MT_EXT4_NO_ROOM; -1 with @f set. Sets disk_ino in the nodes. */
int mt_ext4_write(const struct mt_ext4 *x, struct mt_tree *tree, uint64_t *ret_used, struct mt_fault *f);
