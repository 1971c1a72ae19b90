/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A strict tar reader: ustar, PAX (path, linkpath, size, uid, gid, mtime, SCHILY.xattr), GNU long names. Source of the rules:
 * runtime.md 14 (U4, U9-U11), POSIX.1-2017 pax, the GNU tar manual.
 *
 * It parses entries; what an entry may do to a tree is decided in apply.c. Where readers in the wild differ it refuses.
 */
#pragma once

#include "unpack/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_TAR_XATTRS_MAX 64                /* per entry (U10) */
#define MT_TAR_XATTR_MAX ((size_t)64 << 10) /* bytes of one value (U10) */
#define MT_TAR_PAX_MAX ((size_t)1 << 20)    /* bytes of one extended header (U11) */

/** Where the bytes come from: 1 with bytes valid until the next call, 0 at the end, -1 with the fault set. */
struct mt_tar_source {
    int (*read)(void *arg, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f);
    void *arg;
};

enum mt_tar_type { MT_TAR_FILE = 0, MT_TAR_DIR, MT_TAR_SYMLINK, MT_TAR_HARDLINK, MT_TAR_FIFO, MT_TAR_DEVICE, MT_TAR_TYPE_MAX };

struct mt_tar_xattr {
    const char *name; /* after "SCHILY.xattr.", not NUL terminated */
    size_t name_len;
    const uint8_t *value;
    size_t value_len;
};

/** Points into the reader; valid until the next mt_tar_next. Names are bytes, not NUL terminated, without NUL inside. */
struct mt_tar_entry {
    enum mt_tar_type type;
    const char *path, *target;
    size_t path_len, target_len;
    uint64_t size;       /* of the data, 0 unless a file */
    uint32_t uid, gid;   /* 0..2^31-1 */
    uint16_t mode;       /* low 12 bits */
    int64_t mtime;       /* seconds, clamped to 0..2^33 */
    uint32_t mtime_nsec;
    struct mt_tar_xattr xattrs[MT_TAR_XATTRS_MAX]; /* all that the header names, not yet filtered by U10 */
    size_t xattr_count;
};

struct mt_tar;

/** NULL when memory is out. @source is copied. */
struct mt_tar *mt_tar_new(const struct mt_tar_source *source);
void mt_tar_free(struct mt_tar *t);

/**
 * Skip what is left of the current entry's data and read the next header. 1 with @ret filled; 0 at the end of the archive,
 * after the whole source was read (at most 1 MiB of bytes may trail, they are ignored); -1 with @f set.
 */
int mt_tar_next(struct mt_tar *t, struct mt_tar_entry *ret, struct mt_fault *f);

/** The next bytes of the current entry's data; same results. */
int mt_tar_data(struct mt_tar *t, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f);
