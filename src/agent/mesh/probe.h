/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does the mesh carry packets? ICMPv6 echo to every peer's overlay address, small and of full size.
 *
 * On the loop thread, never blocks. One round at a time: a reply that has not come when the next round starts is lost. Rounds keep
 * every pair's session alive too, so an age of a handshake means something. Source: networking.md §2.5.
 */
#pragma once

#include "os/loop.h"

#include <netinet/in.h>

#define MT_MPROBE_PEERS_MAX 200
#define MT_MPROBE_WINDOW 12 /* rounds over which loss is told */

struct mt_mprobe;

struct mt_mprobe_result {
    bool any;             /* a round is over */
    uint32_t rtt_us;      /* of the newest reply; 0: never any */
    unsigned loss_percent; /* of the last MT_MPROBE_WINDOW rounds */
    unsigned lost_in_row;
    int64_t answered_ns;  /* monotonic, when the newest round that was answered began; 0: never */
    bool big_known, big_ok; /* packets of the mesh's MTU get through while small ones do */
};

/** NULL and @err when the socket cannot be had. */
struct mt_mprobe *mt_mprobe_new(struct mt_loop *l, struct mt_err *err);
void mt_mprobe_free(struct mt_mprobe *p);
/** Whom to ask, from the address @own; what is known of an address that stays is kept. @mtu of the mesh, bytes. */
int mt_mprobe_targets(struct mt_mprobe *p, const struct in6_addr *own, const struct in6_addr *addrs, size_t n, uint32_t mtu, struct mt_err *err);
/** End the round and start the next. */
void mt_mprobe_round(struct mt_mprobe *p);
/** Of target @i in the order given. */
struct mt_mprobe_result mt_mprobe_of(const struct mt_mprobe *p, size_t i);
