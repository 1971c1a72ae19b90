/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vhost-user protocol as QEMU's vhost-user-vsock-device speaks it: memory table, two rings, their eventfds.
 * Knows nothing of packets. The peer is QEMU, which a hostile guest may have taken over: every length, index and
 * descriptor count is checked; a message that breaks the protocol ends the process, and with it the VM.
 *
 * Source: QEMU docs/interop/vhost-user.rst.
 */
#pragma once

#include "vsock/ring.h"

enum { MT_VS_RX = 0, MT_VS_TX = 1, MT_VS_QUEUES = 2 }; /* the event queue stays in QEMU */

struct mt_vs_vhost {
    int fd; /* borrowed stream socket to the front end */
    uint64_t cid;
    uint64_t features; /* as acknowledged */
    struct mt_vs_mem mem;
    struct mt_vs_ring ring[MT_VS_QUEUES];
    bool kick_new[MT_VS_QUEUES]; /* a kick descriptor came: watch it, then clear the flag */
    bool stopped;                /* a ring stopped or memory changed hands: forget all connections, then clear */
};

void mt_vs_vhost_init(struct mt_vs_vhost *v, int fd, uint64_t cid);
void mt_vs_vhost_done(struct mt_vs_vhost *v);

/**
 * Read one message and act on it. Blocks for the rest of a message that has begun, at most the socket's receive timeout.
 * Returns 0; 1 the front end closed; -MT_E_INVALID protocol broken; -MT_E_LIMIT, -MT_E_IO.
 */
int mt_vs_vhost_handle(struct mt_vs_vhost *v, struct mt_err *err);
