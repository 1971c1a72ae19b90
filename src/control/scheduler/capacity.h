/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the nodes that take new work still have. Pure. Only eligible nodes (active, ready, with memory to give) count.
 * Source: scheduling-and-operations.md 11.7.
 */
#pragma once

#include "control/scheduler/place.h"

#define MT_CAPACITY_MIB (UINT64_C(1) << 20)

struct mt_capacity {
    size_t nodes; /* eligible */
    uint64_t memory_bytes, used_memory_bytes, cpu_millis, used_cpu_millis, disk_bytes, used_disk_bytes;
    size_t worst;                   /* the node whose loss takes most memory, MT_PLACE_NONE: none; ties: the smaller id */
    int64_t headroom_bytes;         /* memory left when that node is gone and what it ran must run elsewhere; negative: it does not fit */
    uint64_t largest_memory_bytes;  /* whole MiB; an instance of it, with the least cpu and disk, is placed. 0: none is */
};

void mt_capacity(const struct mt_place_node *nodes, size_t n, struct mt_capacity *ret);
