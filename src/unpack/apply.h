/* SPDX-License-Identifier: Apache-2.0 */
/* Layers onto the tree: rules U3-U10, U12, U13 of runtime.md 14, one entry after the other. */
#pragma once

#include "unpack/tar.h"
#include "unpack/tree.h"

struct mt_apply_limits {
    uint64_t unpacked_bytes; /* all files of all layers together, overwritten ones too */
    uint64_t file_bytes;
    uint64_t entries;        /* of all layers */
};

struct mt_apply {
    struct mt_tree *tree;
    struct mt_apply_limits limits;
    int spool_fd;          /* file data goes here, one file after the other; borrowed */
    uint64_t spool_at;     /* bytes in the spool */
    uint8_t *buffer;       /* not yet written to the spool */
    size_t buffered;
    uint64_t unpacked, entries, devices_skipped;
};

/** -1 with @f set when memory is out. */
int mt_apply_init(struct mt_apply *a, struct mt_tree *tree, int spool_fd, const struct mt_apply_limits *limits, struct mt_fault *f);
void mt_apply_done(struct mt_apply *a);

/** Apply every entry of one layer, counted from 0. The reader is read to its end. */
int mt_apply_layer(struct mt_apply *a, struct mt_tar *tar, uint8_t layer, struct mt_fault *f);

/** Write out what is buffered; call before reading the spool. */
int mt_apply_flush(struct mt_apply *a, struct mt_fault *f);
