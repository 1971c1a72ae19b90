/* SPDX-License-Identifier: Apache-2.0 */
/* What a kind of storage gives to backend.h; its contracts are those there. */
#pragma once

#include "agent/volume/backend.h"

#define MT_BACKEND_LVM_MARK "lvm-thin" /* file in the folder: volumes of this node are in LVM, and its text says in which pool */

struct mt_backend_ops {
    int (*path)(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err);
    int (*size)(const struct mt_backend *b, const char *volume_id, uint64_t *ret, struct mt_err *err);
    int (*begin)(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err);
    int (*commit)(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err);
    void (*abandon)(const struct mt_backend *b, const char *volume_id);
    int (*part_open)(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err);
    int (*part_begin)(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err);
    int (*part_commit)(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err);
    int (*part_path)(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err);
    int (*part_drop)(const struct mt_backend *b, const char *volume_id, struct mt_err *err);
    int (*extend)(const struct mt_backend *b, const char *volume_id, uint64_t bytes, struct mt_err *err);
    int (*delete)(const struct mt_backend *b, const char *volume_id, struct mt_err *err);
    int (*unused)(const struct mt_backend *b, const char *volume_id, struct mt_err *err);
    int (*snap_create)(const struct mt_backend *b, const char *volume_id, const char *snapshot_id, int64_t *ret_captured_ms, struct mt_err *err);
    int (*snap_open)(const struct mt_backend *b, const char *snapshot_id, int *ret_fd, struct mt_err *err);
    int (*snap_delete)(const struct mt_backend *b, const char *snapshot_id, struct mt_err *err);
    int (*snap_delta)(const struct mt_backend *b, const char *base_id, const char *snapshot_id, mt_delta_fn fn, void *arg, struct mt_err *err);
    int (*enumerate)(const struct mt_backend *b, bool parts, mt_backend_fn fn, void *arg, struct mt_err *err);
    int (*stat)(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err);
};

extern const struct mt_backend_ops mt_backend_files, mt_backend_lvm;

/** mt_backend_snap_delta() of two open files, by where the filesystem keeps their bytes. */
int mt_extents_delta(int base_fd, int snap_fd, mt_delta_fn fn, void *arg, struct mt_err *err);
/**
 * Tell the ranges that thin_delta's answer @text names as not the same, in pieces of its block size; nothing from @base_bytes on, all of which is
 * told by one range up to @bytes. -MT_E_UNAVAILABLE: the answer is cut off, out of order or not of this kind.
 */
int mt_thin_delta_read(const char *text, uint64_t base_bytes, uint64_t bytes, mt_delta_fn fn, void *arg, struct mt_err *err);
