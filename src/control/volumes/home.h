/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a new volume lives (storage-and-secrets.md §2.3). The choice is pure; that it is still right when the command is appended is
 * asked again under the append lock, where every volume that came before it counts, so no node is ever promised more than it has.
 */
#pragma once

#include "control/log/append.h"
#include "model/ids.h"

struct mt_volume_node {
    char node_id[MT_ID_SIZE];
    bool eligible;    /* active worker, ready */
    bool has_storage; /* its agent told of a pool */
    bool takes_new;   /* the pool is healthy and below 80 % */
    uint64_t allocatable_bytes, used_bytes; /* used: sizes of the volumes homed there, asked-for growth included */
    uint64_t free_memory_bytes;
    bool relied; /* mt_volume_rely_room was called for it */
};

/** Every node, ascending id. *ret is malloc'ed. */
int mt_volume_nodes_load(struct mt_pg *pg, struct mt_volume_node **ret, size_t *ret_n, struct mt_err *err);

/** Index of the node that takes @size_bytes more: largest rest, then free memory, then smallest id; with @only that node or none.
 * -1: none. */
long mt_volume_home(const struct mt_volume_node *nodes, size_t n, uint64_t size_bytes, const char *only);

/** Why there was none, in words that count the nodes: "of 3 nodes 1 has no storage for volumes, 2 have too little room". */
void mt_volume_home_why(const struct mt_volume_node *nodes, size_t n, uint64_t size_bytes, const char *only, char *ret, size_t size);

/** @cmd holds only if what is homed on the node, with what the command adds, fits when it is appended. */
int mt_volume_rely_room(struct mt_cmd *cmd, struct mt_volume_node *node, struct mt_err *err);
