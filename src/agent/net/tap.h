/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tap of one VM and what hangs on it: host address, route, neighbour (networking.md §4, ruling R29).
 *
 * Blocking but short (some ten system calls); safe from any thread. Every call may be repeated.
 * Only links named mt + 5 hex digits are ever touched. Knows no instances.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>

struct mt_tap {
    uint32_t slot;           /* gives name, owner uid and both MACs */
    uint32_t mtu;            /* bytes */
    struct in6_addr guest;   /* the VM's /128 */
    struct in6_addr node;    /* this node's overlay address: source of probes and of the local edge */
    bool has_node;
    uint64_t bytes_per_s, packets_per_s; /* each way, dropped above it (net/limit.h); 0: no limit, or the monitor's business */
    const char *nft_path;    /* needed for one */
};

/** Host and guest MAC of a slot: 02:fc:00:0s:ss:s1 and ...:s2 (runtime.md §0). */
void mt_tap_macs(uint32_t slot, uint8_t ret_host[6], uint8_t ret_guest[6]);

/**
 * Make the tap (persistent, owned by the VM's uid), give it MAC, MTU, fe80::1/64, bring it up, add the
 * permanent neighbour and the /128 route with src = node address.
 * Returns 0; -MT_E_IO with the step in the message ("tap", "route").
 */
int mt_tap_up(const struct mt_tap *t, struct mt_err *err);

/** Repair what is missing or other on a live tap: MTU, address, route and neighbour (drift pass). */
int mt_tap_repair(const struct mt_tap *t, struct mt_err *err);

/** Remove the tap of @slot; address, route and neighbour go with it. 0 also when there is none. */
int mt_tap_down(uint32_t slot, struct mt_err *err);

/** Is there a tap of @slot? */
bool mt_tap_exists(uint32_t slot);

struct mt_tap_counts {
    struct {
        uint64_t packets, bytes;
    } from_guest, to_guest;
    uint64_t dropped; /* the VM did not take them in time */
};
/** What went through the tap of @slot since it was made. -MT_E_NOT_FOUND. */
int mt_tap_counts(uint32_t slot, struct mt_tap_counts *ret, struct mt_err *err);

/**
 * Slots of all taps of ours on this host, malloc'ed into *@ret (NULL when none).
 */
int mt_tap_list(uint32_t **ret, size_t *ret_n, struct mt_err *err);

/* ---- the node's own addresses ------------------------------------------------------------ */

/** Is the address on lo? */
int mt_node_addr_has(const struct in6_addr *addr, bool *ret, struct mt_err *err);
/** Put the overlay address on lo as /128; 0 also when it is there. */
int mt_node_addr_add(const struct in6_addr *addr, struct mt_err *err);
/** Take it away again. */
int mt_node_addr_del(const struct in6_addr *addr, struct mt_err *err);
/** Blackhole route for the node's instance prefix, so that addresses without a VM do not loop. */
int mt_node_prefix_set(const struct in6_addr *prefix, uint8_t plen, struct mt_err *err);
int mt_node_prefix_del(const struct in6_addr *prefix, uint8_t plen, struct mt_err *err);

/** "addr/len" into its parts, host bits cleared when @network. -MT_E_INVALID. */
int mt_net_parse6(const char *text, bool network, struct in6_addr *ret, uint8_t *ret_plen,
                  struct mt_err *err);
/** Is @addr inside @prefix/@plen? */
bool mt_net_inside6(const struct in6_addr *addr, const struct in6_addr *prefix, uint8_t plen);
