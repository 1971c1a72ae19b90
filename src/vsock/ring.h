/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device side of one split virtqueue on guest memory.
 *
 * The guest can change every byte of it at any moment, so each index and descriptor is read once into our own memory,
 * checked there, and never read again. A ring that breaks a rule is marked broken and stays so until it is set up anew:
 * the guest loses its sockets, nobody else loses anything.
 * Knows descriptors, not packets; does no I/O but the interrupt eventfd.
 *
 * Source: virtio 1.2, 2.7 (split virtqueues); INDIRECT_DESC and EVENT_IDX are not offered.
 */
#pragma once

#include "vsock/mem.h"

#include <sys/uio.h>

enum { MT_VS_RING_MAX = 1024 };  /* entries we accept; QEMU's vhost-user-vsock uses 128 */
enum { MT_VS_CHAIN_MAX = 64 };   /* descriptors of one chain; Linux uses at most 19 */

struct mt_vs_ring {
    uint32_t num;                     /* entries, a power of two */
    uint64_t desc_uva, avail_uva, used_uva;
    bool addr_set;
    uint8_t *desc, *avail, *used;     /* NULL while not mapped */
    uint16_t last_avail;              /* next entry of the avail ring we take */
    uint16_t used_idx;                /* our own count; the copy in guest memory is only written */
    int kick_fd;                      /* owned, -1 none; readable = the guest added buffers */
    int call_fd;                      /* owned, -1 none; written = we used buffers */
    bool enabled;
    bool broken;
    bool used_any;                    /* buffers used since the last notify */
};

/** One chain of buffers, all of one direction. */
struct mt_vs_chain {
    uint16_t head;
    size_t count;
    size_t bytes;                     /* sum of iov lengths */
    struct iovec iov[MT_VS_CHAIN_MAX];
};

void mt_vs_ring_init(struct mt_vs_ring *ring);
/** Close descriptors and forget everything. */
void mt_vs_ring_done(struct mt_vs_ring *ring);

/**
 * Turn the ring addresses of SET_VRING_ADDR into pointers; call again when memory changed. Takes used_idx from guest memory.
 * Returns 0; -MT_E_INVALID size not a power of two up to MT_VS_RING_MAX, misaligned, or not inside one region. The ring is
 * left unmapped then.
 */
int mt_vs_ring_map(struct mt_vs_ring *ring, const struct mt_vs_mem *mem, struct mt_err *err);

/** True when chains may be taken. */
bool mt_vs_ring_ready(const struct mt_vs_ring *ring);

/**
 * Look at the next chain without taking it. All of it is @writable by us, or none (else the ring is broken).
 *
 * @ret_chain  iov points into guest memory
 * Returns 1 there is one; 0 none; -1 the ring is (now) broken or not ready.
 */
int mt_vs_ring_peek(struct mt_vs_ring *ring, const struct mt_vs_mem *mem, bool writable, struct mt_vs_chain *ret_chain);

/** Take the chain just peeked and give it back with @written bytes in it. */
void mt_vs_ring_use(struct mt_vs_ring *ring, const struct mt_vs_chain *chain, uint32_t written);

/** Interrupt the guest if buffers were used since the last call and it wants to know. */
void mt_vs_ring_notify(struct mt_vs_ring *ring);
