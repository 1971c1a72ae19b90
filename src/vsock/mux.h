/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All connections of one guest: packets of the tx ring in, packets of the rx ring out, host sockets beside them.
 *
 * Firecracker's host contract: the guest connects to port N -> dial(N) (the socket <path>_N); a host program that
 * connects to <path> writes "CONNECT N\n" and gets "OK <host port>\n" when the guest accepts, or is closed.
 *
 * Memory is bounded by construction: 64 connections of at most 256 KiB each, control packets are bits in the
 * connection, and answers to packets without a connection wait in a fixed queue: when it is full no more packets are
 * taken from the guest until it makes room in its rx ring.
 *
 * No clock and no epoll_wait in here: time comes in as an argument, so tests and the fuzzer drive it on plain memory.
 * Source: virtio 1.2, 5.10; Firecracker docs/vsock.md; runtime.md §7.6, ruling R4.
 */
#pragma once

#include "vsock/conn.h"

enum { MT_VS_RST_MAX = 128 };        /* answers to packets that belong to no connection */
enum { MT_VS_BUCKETS = 64 };
enum { MT_VS_BUDGET = 256 };         /* packets per call, then the loop gets a turn */
#define MT_VS_HOST_PORT_MIN (UINT32_C(1) << 30)
#define MT_VS_HOST_PORT_MAX ((UINT32_C(1) << 31) - 1)

struct mt_vs_rst {
    uint32_t host_port, guest_port;
    uint16_t type;
};

/** Connect to whatever listens for guest port @port: a non-blocking stream socket the mux then owns, or -1. */
typedef int mt_vs_dial_fn(void *user, uint32_t port);

struct mt_vs_mux {
    uint64_t guest_cid;
    mt_vs_dial_fn *dial;
    void *user;
    int epoll_fd;      /* borrowed; -1 in tests that report readiness by hand */
    uint32_t next_port;
    struct mt_vs_conn conn[MT_VS_CONN_MAX];
    size_t conn_count;
    struct mt_vs_conn *bucket[MT_VS_BUCKETS];
    struct mt_list ready;
    struct mt_vs_rst rst[MT_VS_RST_MAX];
    size_t rst_head, rst_count;
    int64_t now_ms;
};

/** epoll_fd tokens of connections are below this; the caller's own tokens start here. */
#define MT_VS_TOKEN_END (UINT64_C(1) << 32)

void mt_vs_mux_init(struct mt_vs_mux *mux, uint64_t guest_cid, int epoll_fd, mt_vs_dial_fn *dial, void *user);
/** End all connections at once, as when the guest's driver went away. */
void mt_vs_mux_reset(struct mt_vs_mux *mux);

/**
 * Take packets from the guest, at most MT_VS_BUDGET.
 * Returns true when more wait and can be taken now. A broken ring resets all connections.
 */
bool mt_vs_mux_from_guest(struct mt_vs_mux *mux, struct mt_vs_ring *tx, const struct mt_vs_mem *mem, int64_t now_ms);

/** Give packets to the guest, at most MT_VS_BUDGET, round robin. Returns true when more could be given now. */
bool mt_vs_mux_to_guest(struct mt_vs_mux *mux, struct mt_vs_ring *rx, const struct mt_vs_mem *mem, int64_t now_ms);

/** A host program connected to <path>. @fd non-blocking; taken over, closed at once when there is no room. */
void mt_vs_mux_accept(struct mt_vs_mux *mux, int fd, int64_t now_ms);

/** epoll reported @events for @token. */
void mt_vs_mux_host_event(struct mt_vs_mux *mux, uint64_t token, uint32_t events, int64_t now_ms);

/** End what is overdue. Returns ms until the next deadline, -1 when there is none. */
int mt_vs_mux_tick(struct mt_vs_mux *mux, int64_t now_ms);
