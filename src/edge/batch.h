/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many receives, or many sends, in one entry into the kernel, by io_uring. Every call is one that does not wait and is over when
 * run returns: nothing is ever pending, so who owns a descriptor or a buffer is as with plain calls. Where the kernel has no
 * io_uring, or does not allow it, the calls are made one by one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MT_EDGE_BATCH 128U

struct mt_edge_call {
    int fd;
    int flags; /* MSG_*; MSG_DONTWAIT is added */
    uint8_t *p;
    uint32_t len;
    int32_t res; /* set by run: bytes, or a negative errno */
};

struct io_uring_sqe;
struct mt_edge_batch {
    int fd; /* -1: none */
    void *ring, *sqes;
    size_t ring_len, sqes_len;
    unsigned *sq_tail, *sq_array, *cq_head, *cq_tail;
    unsigned sq_mask, cq_mask;
    void *cqes;
};

/** Make the ring, on the thread that uses it; false when the kernel gives none (@b is then good for plain calls). */
bool mt_edge_batch_init(struct mt_edge_batch *b);
/** Make @n calls, at most MT_EDGE_BATCH, all recv or (@send) all send, in their order. Cannot fail; each has its result. */
void mt_edge_batch_run(struct mt_edge_batch *b, bool send, struct mt_edge_call *v, unsigned n);
void mt_edge_batch_done(struct mt_edge_batch *b);
