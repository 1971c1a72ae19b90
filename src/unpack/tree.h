/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image's file tree while layers are applied: names and metadata in memory, file data in the spool.
 *
 * Nothing here touches the host's file system, so nothing in a layer can: "outside the root" has no representation. Paths are
 * resolved by walk.c over this tree. Knows nothing of tar or ext4.
 */
#pragma once

#include "unpack/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_TREE_ROOT 0U            /* node and dent number of the root folder */
#define MT_TREE_NONE UINT32_MAX
#define MT_TREE_DEPTH_MAX 255      /* U12 */
#define MT_TREE_TEXT_MAX ((size_t)512 << 20) /* names, link targets and attributes of one image */

enum mt_node_type { MT_NODE_FILE = 0, MT_NODE_DIR, MT_NODE_SYMLINK, MT_NODE_FIFO, MT_NODE_TYPE_MAX };

/** One inode. */
struct mt_node {
    uint64_t size;      /* file: bytes of data */
    uint64_t data_at;   /* file: offset in the spool */
    int64_t mtime;      /* seconds, 0..2^33 */
    uint32_t mtime_nsec;
    uint32_t uid, gid;
    uint32_t links;     /* dents that name it; 0: free */
    uint32_t xattrs;    /* first attribute, MT_TREE_NONE for none */
    uint32_t text;      /* symlink: its target (length in size) */
    uint32_t children;  /* folder: first dent, MT_TREE_NONE when empty */
    uint32_t dent;      /* folder: the one dent that names it */
    uint32_t disk_ino;  /* set by ext4.c */
    uint16_t mode;      /* low 12 bits */
    uint8_t type;       /* enum mt_node_type */
    uint8_t depth;      /* folder: 0 for the root */
};

/** One name in a folder. */
struct mt_dent {
    uint32_t parent;     /* node of the folder */
    uint32_t node;       /* MT_TREE_NONE when free */
    uint32_t next, prev; /* siblings, or the free list */
    uint32_t chain;      /* hash chain */
    uint32_t name;       /* text */
    uint8_t name_len;    /* 1..255; 0 for the root */
    uint8_t layer;       /* the layer that wrote this path last */
    bool implied;        /* a folder made only because something lies beneath it */
};

struct mt_tree {
    struct mt_node *nodes;
    struct mt_dent *dents;
    uint32_t node_count, node_cap, node_free;
    uint32_t dent_count, dent_cap, dent_free;
    uint32_t live_dents; /* without the root */
    uint32_t *buckets;
    uint32_t bucket_count; /* power of two */
    uint64_t seed;
    uint8_t **text; /* blocks of 1 MiB; a text number is an offset over all of them */
    uint32_t text_blocks;
    uint32_t text_used; /* of all blocks */
};

/** An empty root folder (0755, root). @seed guards the name table against chosen collisions. -1 with @f set. */
int mt_tree_init(struct mt_tree *t, uint64_t seed, struct mt_fault *f);
void mt_tree_done(struct mt_tree *t);

/** Bytes of a text number. */
const uint8_t *mt_tree_text(const struct mt_tree *t, uint32_t at);
/** Store @n <= 128 KiB bytes; returns their number or MT_TREE_NONE with @f set (image_too_large/metadata_bytes, memory). */
uint32_t mt_tree_put_text(struct mt_tree *t, const void *p, size_t n, struct mt_fault *f);

/** The dent of @name in folder node @dir, or MT_TREE_NONE. */
uint32_t mt_tree_find(const struct mt_tree *t, uint32_t dir, const char *name, size_t len);
/** A new node with no name yet (links 0 until mt_tree_link). MT_TREE_NONE with @f set. */
uint32_t mt_tree_new_node(struct mt_tree *t, enum mt_node_type type, struct mt_fault *f);
/** Give @node the free name @name in folder @dir; returns the dent. Too deep (U12) or memory: MT_TREE_NONE with @f set. */
uint32_t mt_tree_link(struct mt_tree *t, uint32_t dir, const char *name, size_t len, uint32_t node, uint8_t layer,
                      struct mt_fault *f);
/** Remove a name; a folder with everything beneath it. Nodes without names are freed. Not the root. */
void mt_tree_remove(struct mt_tree *t, uint32_t dent);
/** Node of the folder that holds folder @dir; the root for the root. */
uint32_t mt_tree_parent(const struct mt_tree *t, uint32_t dir);

/** Add an attribute (full name, e.g. "user.a") to a node. */
int mt_tree_add_xattr(struct mt_tree *t, uint32_t node, const char *name, size_t name_len, const void *value, size_t value_len,
                      struct mt_fault *f);
struct mt_xattr {
    const char *name;
    size_t name_len;
    const uint8_t *value;
    size_t value_len;
};
/** Walk the attributes of a node: start with *pos = node->xattrs; false at the end. */
bool mt_tree_next_xattr(const struct mt_tree *t, uint32_t *pos, struct mt_xattr *ret);
