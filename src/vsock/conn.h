/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stream between a guest port and a Unix socket of the host: state, credit, and the bytes in between.
 * Only mux.c uses this. Nothing here touches rings; a connection says what it wants to send (pending, readable)
 * and the mux turns that into packets.
 */
#pragma once

#include "base/list.h"
#include "vsock/packet.h"

enum { MT_VS_CONN_MAX = 64 };             /* per guest, every state counted (runtime.md §7.6) */
/*
 * Bytes the guest may have under way to one host socket. 64 KiB, one packet, made it wait for an answer after each: under TCG 172 in place of
 * 124 MiB/s for a process that only sends, and a third more for exec's output (guest processor time of a MiB: 7.8 in place of 11.8 ms).
 */
enum { MT_VS_BUF = 256 * 1024 };
enum { MT_VS_CONNECT_MS = 2000 };         /* the CONNECT line, and then the guest's answer to it */
enum { MT_VS_LINGER_MS = 2000 };          /* first look at a guest that does not finish after the host is gone */
enum { MT_VS_LINGER_MAX_MS = 60000 };     /* last look */
enum { MT_VS_LINE_MAX = 24 };             /* "CONNECT 4294967295\n" is 19 bytes */

enum mt_vs_state {
    MT_VS_FREE = 0,
    MT_VS_LINE,   /* host socket accepted, its CONNECT line is not complete */
    MT_VS_WAIT,   /* REQUEST is on its way to the guest */
    MT_VS_OPEN,   /* both sides there */
    MT_VS_LINGER, /* host gone, SHUTDOWN sent: the guest may still be reading what it got */
    MT_VS_RESET,  /* RST waits for a free buffer, then over */
    MT_VS_DRAIN,  /* guest gone after a clean shutdown: its last bytes still go to the host */
    MT_VS_STATE_MAX
};

struct mt_vs_conn {
    enum mt_vs_state state;
    uint16_t generation;          /* part of the epoll token: an event of an earlier life is dropped */
    int fd;                       /* owned; -1 in LINGER and RESET */
    uint32_t host_port, guest_port;
    struct mt_vs_conn *hash_next;
    bool keyed;                   /* found by (host_port, guest_port) */
    struct mt_list ready;         /* in the mux's list when it has something for the guest */
    bool is_ready;

    unsigned pending;             /* bit per enum mt_vs_op to send to the guest */
    bool readable, writable, hup; /* what epoll said and EAGAIN has not taken back */
    bool host_eof;                /* host sends no more */
    bool host_deaf;               /* host takes no more: what the guest sends is counted and dropped */
    bool host_wr_shut;            /* we have told the host that the guest sends no more */
    unsigned guest_shut;          /* MT_VS_SHUT_* the guest announced */
    int64_t deadline_ms, linger_end_ms; /* 0 none */

    /* host to guest: how much the guest can take */
    uint32_t peer_alloc, peer_fwd, tx_cnt;
    bool credit_asked;
    /* guest to host: how much we can take */
    uint32_t fwd_cnt, fwd_told;
    uint8_t *buf; /* MT_VS_BUF bytes while something waits for the host, else NULL */
    size_t buf_off, buf_len;

    char line[MT_VS_LINE_MAX];
    size_t line_len;
};

/** Change state; panics on a change the table does not know. */
void mt_vs_conn_set_state(struct mt_vs_conn *c, enum mt_vs_state to);

/** Bytes the guest will still take. */
uint32_t mt_vs_conn_room(const struct mt_vs_conn *c);

/** True when there is a packet to make for the guest. */
bool mt_vs_conn_wants_rx(const struct mt_vs_conn *c);

/**
 * Take payload of the guest: to the host at once as far as the socket allows, the rest into the buffer.
 * May set host_deaf. Returns 0; -1 credit exceeded or memory out: reset the connection.
 */
int mt_vs_conn_from_guest(struct mt_vs_conn *c, const struct mt_vs_chain *payload);

/** Write buffered bytes to the host as far as it takes them. May set host_deaf. */
void mt_vs_conn_flush(struct mt_vs_conn *c);

/** Read the CONNECT line. Returns 1 complete, guest_port set; 0 more to come; -1 malformed or closed. */
int mt_vs_conn_read_line(struct mt_vs_conn *c);
