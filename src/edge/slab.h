/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Typed pool of one worker: objects of one size, cut from blocks, reused last-in first-out. No lock: one thread only.
 * Blocks are kept until the pool ends; the peak is bounded by the connection limit.
 */
#pragma once

#include <stddef.h>

struct mt_edge_slab {
    size_t size;      /* bytes of one object, multiple of 16 */
    void *free_list;  /* first word of a free object points to the next */
    void *blocks;
    size_t in_use;
};

/** Pool for objects of @size bytes. */
void mt_edge_slab_init(struct mt_edge_slab *s, size_t size);
/** A zeroed object, NULL when memory is out. */
void *mt_edge_slab_get(struct mt_edge_slab *s);
/** Give one back. */
void mt_edge_slab_put(struct mt_edge_slab *s, void *p);
/** Free all blocks; every object must have been given back or be dead. */
void mt_edge_slab_done(struct mt_edge_slab *s);
