/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of one worker that have no route yet, oldest first: of all, and of each source. Every operation is O(1), for a source
 * over its limit comes often and must not cost more than others do. One thread only.
 */
#pragma once

#include "base/list.h"

#include <stdint.h>

#define MT_EDGE_UNROUTED_BUCKETS 256U

/* Embedded in a connection; linked while it waits. */
struct mt_edge_waiting {
    struct mt_list all, near; /* in arrival order: every one; those of its bucket */
    const void *of;           /* its source; NULL: exempt from limits, in no bucket */
};

struct mt_edge_unrouted {
    struct mt_list all, buckets[MT_EDGE_UNROUTED_BUCKETS]; /* by source; those of a source are bounded, so few of others are before its own */
    uint32_t n;
};

void mt_edge_unrouted_init(struct mt_edge_unrouted *u);
/** Needed before add and remove. */
void mt_edge_waiting_init(struct mt_edge_waiting *c);
/** The newest. */
void mt_edge_unrouted_add(struct mt_edge_unrouted *u, struct mt_edge_waiting *c, const void *of);
/** Harmless when it is not linked. */
void mt_edge_unrouted_remove(struct mt_edge_unrouted *u, struct mt_edge_waiting *c);
/** The oldest of all; NULL when none waits. */
struct mt_edge_waiting *mt_edge_unrouted_oldest(const struct mt_edge_unrouted *u);
/** The oldest of source @of; NULL when none of it waits. */
struct mt_edge_waiting *mt_edge_unrouted_oldest_of(const struct mt_edge_unrouted *u, const void *of);
