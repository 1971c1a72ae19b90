/* SPDX-License-Identifier: Apache-2.0 */
/* Paths of layer entries: rule U1 (form) and U2 (parents), over the tree in memory. */
#pragma once

#include "unpack/tree.h"

#define MT_PATH_PARTS_MAX 2048 /* a path of 4096 bytes has no more */

/** A path split into parts; points into the original text. parts == 0 is the root itself. */
struct mt_path {
    const char *text;
    size_t len;
    size_t count;
    struct {
        const char *name;
        size_t len;
    } part[MT_PATH_PARTS_MAX];
};

/** U1: leading "/" and "./" go, so do empty parts and "."; any ".." fails, so do over-long parts and paths. @rule names the rule in
 * the fault ("U1", or "U6" for the target of a hard link). */
int mt_path_split(const char *text, size_t len, const char *rule, struct mt_path *ret, struct mt_fault *f);

/**
 * U2: the folder that holds the last part of @path. Links on the way are followed inside the root; one that climbs above it
 * fails. With @create missing folders are made (0755 root), and a non-folder of a lower layer gives way to one; a
 * non-folder of the same layer fails. Without it *ret is MT_TREE_NONE when there is no such folder.
 */
int mt_walk_parent(struct mt_tree *t, const struct mt_path *path, uint8_t layer, bool create, uint32_t *ret, struct mt_fault *f);
