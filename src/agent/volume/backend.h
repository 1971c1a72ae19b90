/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the bytes of volumes and snapshots are: files in one folder, on a filesystem that clones (reflink: XFS, btrfs) or on any other (copy), or
 * thin logical volumes of one LVM pool (lvm-thin). Locks of volumes are in the folder in each case.
 *
 * vol-<id>, snap-<id> (files: with .img, 0600); what is being made carries .tmp behind and is removed at the next start, what is being filled over
 * several starts .part, so a name without either is whole. Knows nothing of plans, guests and filesystems inside. Any thread; one call for one volume at a time (the
 * caller holds its lock). Source: storage-and-secrets.md 3.1 to 3.4.
 */
#pragma once

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mt_backend_kind { MT_BACKEND_REFLINK = 0, MT_BACKEND_COPY, MT_BACKEND_LVM, MT_BACKEND_KIND_MAX };

struct mt_backend_ops;

/* A pool of thin volumes and the programs that work on it. */
struct mt_lvm {
    char vg[64], pool[64];
    char lvm[128], dmsetup[128], thin_delta[128]; /* absolute paths */
    char dev[128];                             /* "/dev" but in tests */
};

struct mt_backend {
    enum mt_backend_kind kind;
    const struct mt_backend_ops *ops;
    struct mt_lvm lvm; /* of that kind */
    bool encrypted;    /* of that kind: everything below the pool is dm-crypt */
    char dir[PATH_MAX - 96]; /* room for a name */
    int dir_fd;
};

struct mt_pool_stat {
    uint64_t total_bytes, used_bytes;
    uint64_t meta_bytes, meta_used_bytes; /* 0: it has none of its own */
    size_t snapshots;
    char why[256]; /* it cannot take writes, and the mend; "" well */
};

/** "reflink", "copy", "lvm-thin". */
const char *mt_backend_name(enum mt_backend_kind kind);

/**
 * Open the folder (made, 0711 root) and remove what was being made when the agent before ended.
 * @want "auto": reflink when the filesystem can, else copy if @allow_copy; "reflink" and "copy" as they say, copy only with @allow_copy.
 * Returns 0; -MT_E_UNAVAILABLE this filesystem cannot and copies are not allowed; -MT_E_IO.
 */
int mt_backend_open(const char *dir, const char *want, bool allow_copy, struct mt_backend *ret, struct mt_err *err);
/**
 * Open the thin pool @l->pool of the group @l->vg; @dir for locks. Its volumes are made active, and what was being made when the agent before ended
 * is removed. Programs and device folder that @l does not name are found. -MT_E_NOT_FOUND a program or the pool is missing, -MT_E_INVALID the pool
 * is not one that keeps tenants apart (zeroing) or fails at once when full, -MT_E_CONFLICT volumes as files are in @dir; the message has the mend.
 */
int mt_backend_open_lvm(const char *dir, const struct mt_lvm *l, struct mt_backend *ret, struct mt_err *err);
void mt_backend_done(struct mt_backend *b);

/** Path of the volume's file or device for the VMM; whether it is there or not. */
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
/** Its path for a VMM, as mt_backend_path(). */
int mt_backend_part_path(const struct mt_backend *b, const char *volume_id, char ret[PATH_MAX], struct mt_err *err);
int mt_backend_part_drop(const struct mt_backend *b, const char *volume_id, struct mt_err *err);
/** Grow to @bytes, offline; smaller or equal is success and changes nothing. -MT_E_LIMIT no space. */
int mt_backend_extend(const struct mt_backend *b, const char *volume_id, uint64_t bytes, struct mt_err *err);
/** Remove the volume and what was begun of it; one that is not there is success. Its snapshots are the caller's to remove: only it knows whose they are. */
int mt_backend_delete(const struct mt_backend *b, const char *volume_id, struct mt_err *err);

/** -MT_E_CONFLICT: somebody has it open for writing (a VM whose state an agent lost runs without anybody's lock). */
int mt_backend_unused(const struct mt_backend *b, const char *volume_id, struct mt_err *err);
/** Bytes of what is open as @fd, a file or a device. */
int mt_backend_fd_size(int fd, uint64_t *ret, struct mt_err *err);

/** Image of the volume at one moment (a clone; with copy: not atomic, the caller has paused the VM). There already: success. */
int mt_backend_snap_create(const struct mt_backend *b, const char *volume_id, const char *snapshot_id, int64_t *ret_captured_ms, struct mt_err *err);
/** Open for reading. -MT_E_NOT_FOUND. */
int mt_backend_snap_open(const struct mt_backend *b, const char *snapshot_id, int *ret_fd, struct mt_err *err);
int mt_backend_snap_delete(const struct mt_backend *b, const char *snapshot_id, struct mt_err *err);

/** A range of bytes that may differ; non-zero ends the walk and becomes its result. Ranges ascend and do not overlap. */
typedef int (*mt_delta_fn)(void *arg, uint64_t offset, uint64_t bytes);
/**
 * Tell every range of @snap that may differ from @base, two snapshots of one volume of which @base exists since it was taken;
 * never leaves one out. -MT_E_UNAVAILABLE: this backend cannot tell, read all.
 */
int mt_backend_snap_delta(const struct mt_backend *b, const char *base_id, const char *snapshot_id, mt_delta_fn fn, void *arg, struct mt_err *err);

/** Every volume (@snapshot false) and snapshot in the folder, by its id; names that are neither are passed over. @made_ms: of a snapshot, when it was taken. */
typedef void (*mt_backend_fn)(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms);
int mt_backend_enumerate(const struct mt_backend *b, mt_backend_fn fn, void *arg, struct mt_err *err);
/** Every part. */
int mt_backend_parts(const struct mt_backend *b, mt_backend_fn fn, void *arg, struct mt_err *err);
int mt_backend_stat(const struct mt_backend *b, struct mt_pool_stat *ret, struct mt_err *err);
