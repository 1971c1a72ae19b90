/* SPDX-License-Identifier: Apache-2.0 */
#include "control/scheduler/capacity.h"

#include "base/str.h"

void mt_capacity(const struct mt_place_node *nodes, size_t n, struct mt_capacity *ret)
{
    *ret = (struct mt_capacity){.worst = MT_PLACE_NONE};
    for (size_t i = 0; i < n; i++) {
        const struct mt_place_node *d = &nodes[i];
        if (!mt_node_eligible(d) || d->alloc_memory_bytes == 0)
            continue;
        const struct mt_place_node *w = ret->worst == MT_PLACE_NONE ? NULL : &nodes[ret->worst];
        uint64_t taken = d->used_memory_bytes + d->overhead_bytes;
        uint64_t left = taken < d->alloc_memory_bytes ? (d->alloc_memory_bytes - taken) / MT_CAPACITY_MIB * MT_CAPACITY_MIB : 0;
        if (d->used_cpu_millis >= d->ceiling_cpu_millis || d->used_disk_bytes >= d->alloc_disk_bytes)
            left = 0; /* memory that nothing can use */
        ret->nodes++;
        ret->memory_bytes += d->alloc_memory_bytes;
        ret->used_memory_bytes += d->used_memory_bytes;
        ret->cpu_millis += d->alloc_cpu_millis;
        ret->used_cpu_millis += d->used_cpu_millis;
        ret->disk_bytes += d->alloc_disk_bytes;
        ret->used_disk_bytes += d->used_disk_bytes;
        ret->largest_memory_bytes = left > ret->largest_memory_bytes ? left : ret->largest_memory_bytes;
        if (!w || d->alloc_memory_bytes > w->alloc_memory_bytes ||
            (d->alloc_memory_bytes == w->alloc_memory_bytes && strcmp(d->node_id, w->node_id) < 0))
            ret->worst = i;
    }
    if (ret->worst != MT_PLACE_NONE)
        ret->headroom_bytes = (int64_t)(ret->memory_bytes - nodes[ret->worst].alloc_memory_bytes) - (int64_t)ret->used_memory_bytes;
}
