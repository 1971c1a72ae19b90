/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounded store of log records on their way to the host. Holds them in wire form; when full it drops the
 * oldest and says so with one gap record in their place. Pure: bytes and numbers, no I/O, no clock.
 */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

struct mt_ring {
    uint8_t *buf;
    size_t cap, head, used; /**< head: offset of the oldest record */
    uint64_t next_seq;
    uint64_t lost_bytes;    /**< payload bytes dropped since the last gap record */
    uint64_t lost_seq;      /**< seq of the newest dropped record: the gap record takes it */
    uint64_t lost_ns;
};

/** @buf is borrowed; @cap at least 64 KiB, so that any record fits. The first seq is 1. */
void mt_ring_init(struct mt_ring *ring, uint8_t *buf, size_t cap);

/** Add a line of at most MT_GUEST_LOG_PAYLOAD_MAX bytes; longer payloads are a broken invariant. */
void mt_ring_put(struct mt_ring *ring, enum mt_guest_stream stream, uint8_t flags, uint64_t unix_ns,
                 const void *payload, size_t len);

/**
 * Move as many whole records as fit, oldest first, a gap record before them if some were dropped.
 * Returns the bytes written to @out, 0 when nothing is there or @cap is smaller than the next record.
 */
size_t mt_ring_take(struct mt_ring *ring, uint8_t *out, size_t cap);

static inline bool mt_ring_empty(const struct mt_ring *ring)
{
    return ring->used == 0 && ring->lost_bytes == 0;
}
