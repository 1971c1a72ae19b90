/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the bytes of volumes and snapshots are: files in one folder, on a filesystem that clones (reflink: XFS, btrfs) or on any other (copy).
 *
 * vol-<id>.img, snap-<id>.img, both 0600; what is being made carries .tmp behind and is removed at the next start, what is being filled over
 * several starts .part, so a name without either is whole. Knows nothing of plans, guests and filesystems inside. Any thread; one call for one volume at a time (the
 * caller holds its lock). Source: storage-and-secrets.md 3.1, 3.3.
 */
#pragma once

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mt_backend_kind { MT_BACKEND_REFLINK = 0, MT_BACKEND_COPY, MT_BACKEND_KIND_MAX };

struct mt_backend {
    enum mt_backend_kind kind;
    char dir[PATH_MAX - 96]; /* room for a name */
    int dir_fd;
};

struct mt_pool_stat {
    uint64_t total_bytes, used_bytes;
    size_t snapshots;
};

/** "reflink", "copy". */
const char *mt_backend_name(enum mt_backend_kind kind);

/**
 * Open the folder (made, 0711 root) and remove what was being made when the agent before ended.
 * @want "auto": reflink when the filesystem can, else copy if @allow_copy; "reflink" and "copy" as they say, copy only with @allow_copy.
 * Returns 0; -MT_E_UNAVAILABLE this filesystem cannot and copies are not allowed; -MT_E_IO.
 */
int mt_backend_open(const char *dir, const char *want, bool allow_copy, struct mt_backend *ret, struct mt_err *err);
void mt_backend_done(struct mt_backend *b);

/** Path of the volume's file for the VMM; whether it is there or not. */
int mt_backend_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err);
/** Size of the volume; -MT_E_NOT_FOUND. */
int mt_backend_size(const struct mt_backend *b, const char *volume_id, uint64_t *ret, struct mt_err *err);

/**
 * Begin a volume: a new file of zeros whose space is reserved, under its temporary name; open for reading and writing (caller closes).
 * Then the caller puts a filesystem on it and mt_backend_commit() gives it its name, durably. -MT_E_LIMIT no space.
 */
int mt_backend_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err);
int mt_backend_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err);
void mt_backend_abandon(const struct mt_backend *b, const char *volume_id);
/**
 * A volume that is filled in more than one go (a restore): like those above, but what is there of it outlives the agent, until it is
 * committed or dropped. _open: an earlier one of exactly @bytes, -MT_E_NOT_FOUND there is none; _begin: a new one of zeros. The descriptor is locked,
 * and a program that has inherited it keeps the lock when the agent is killed: -MT_E_CONFLICT, one of an agent before still writes.
 */
int mt_backend_part_open(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err);
int mt_backend_part_begin(const struct mt_backend *b, const char *volume_id, uint64_t bytes, int *ret_fd, struct mt_err *err);
int mt_backend_part_commit(const struct mt_backend *b, const char *volume_id, int fd, struct mt_err *err);
int mt_backend_part_drop(const struct mt_backend *b, const char *volume_id, struct mt_err *err);
/** Grow to @bytes, offline; smaller or equal is success and changes nothing. -MT_E_LIMIT no space. */
int mt_backend_extend(const struct mt_backend *b, const char *volume_id, uint64_t bytes, struct mt_err *err);
/** Remove the volume and what was begun of it; one that is not there is success. Its snapshots are the caller's to remove: only it knows whose they are. */
int mt_backend_delete(const struct mt_backend *b, const char *volume_id, struct mt_err *err);

/** Image of the volume at one moment (a clone; with copy: not atomic, the caller has paused the VM). There already: success. */
int mt_backend_snap_create(const struct mt_backend *b, const char *volume_id, const char *snapshot_id, int64_t *ret_captured_ms, struct mt_err *err);
/** Open for reading. -MT_E_NOT_FOUND. */
int mt_backend_snap_open(const struct mt_backend *b, const char *snapshot_id, int *ret_fd, struct mt_err *err);
int mt_backend_snap_delete(const struct mt_backend *b, const char *snapshot_id, struct mt_err *err);

/** A range of bytes that may differ; non-zero ends the walk and becomes its result. Ranges ascend and do not overlap. */
typedef int (*mt_delta_fn)(void *arg, uint64_t offset, uint64_t bytes);
/**
 * Tell every range of @snap that may differ from @base, two open snapshots of one volume of which @base exists since it was taken;
 * never leaves one out. -MT_E_UNAVAILABLE: this backend cannot tell, read all.
 */
int mt_backend_snap_delta(const struct mt_backend *b, int base_fd, int snap_fd, mt_delta_fn fn, void *arg, struct mt_err *err);

/** Every volume (@snapshot false) and snapshot in the folder, by its id; names that are neither are passed over. */
typedef void (*mt_backend_fn)(void *arg, bool snapshot, const char *id, uint64_t bytes);
int mt_backend_enumerate(const struct mt_backend *b, mt_backend_fn fn, void *arg, struct mt_err *err);
/** Every part. */
int mt_backend_parts(const struct mt_backend *b, mt_backend_fn fn, void *arg, struct mt_err *err);
int mt_backend_stat(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err);
