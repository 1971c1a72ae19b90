/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few rtnetlink requests the programs need: links, IPv6 addresses, IPv6 routes, IPv6 neighbours.
 *
 * Blocking, one request and its acknowledgement at a time; every call takes microseconds and may run
 * on a loop thread. Adding what exists and deleting what is gone both succeed, so callers can repeat
 * a step. Knows nothing of taps, VMs or the cluster. A handle is not shared between threads.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>

struct mt_nl;

/** Open a NETLINK_ROUTE socket. Release with mt_nl_close. -MT_E_IO, -MT_E_NOMEM. */
int mt_nl_open(struct mt_nl **ret, struct mt_err *err);
/** Close; NULL is fine. */
void mt_nl_close(struct mt_nl *nl);

/** Index of the link called @name. Returns 0, -MT_E_NOT_FOUND, -MT_E_IO. */
int mt_nl_link_index(struct mt_nl *nl, const char *name, unsigned *ret_index, struct mt_err *err);

/**
 * Make a link of @kind ("wireguard") called @name. 0 also when there is a link of that name; -MT_E_UNAVAILABLE when the kernel does not
 * know the kind.
 */
int mt_nl_link_add(struct mt_nl *nl, const char *name, const char *kind, struct mt_err *err);

struct mt_nl_link_info {
    unsigned index;
    uint32_t mtu; /* bytes */
    bool up;
    char kind[16]; /* "wireguard", "tun"; "" for hardware */
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes, dropped; /* dropped: in either direction */
};
/** What the kernel says of a link. 0, -MT_E_NOT_FOUND, -MT_E_IO. */
int mt_nl_link_get(struct mt_nl *nl, const char *name, struct mt_nl_link_info *ret, struct mt_err *err);

/** What to change on a link; zero and NULL fields stay as they are. */
struct mt_nl_link {
    uint32_t mtu;         /* bytes */
    uint32_t txqlen;      /* packets */
    const uint8_t *mac;   /* 6 bytes */
    bool addrgen_none;    /* no link-local address by the kernel */
    bool up;              /* bring it up */
};

/** Change link @index. -MT_E_IO with the kernel's errno. */
int mt_nl_link_set(struct mt_nl *nl, unsigned index, const struct mt_nl_link *change, struct mt_err *err);
/** Delete link @index; 0 also when it is gone already. */
int mt_nl_link_del(struct mt_nl *nl, unsigned index, struct mt_err *err);

/** Add an IPv6 address with prefix length @plen, without duplicate address detection. 0 also if present. */
int mt_nl_addr6_add(struct mt_nl *nl, unsigned index, const struct in6_addr *addr, uint8_t plen,
                    struct mt_err *err);
/** Remove it; 0 also when absent. */
int mt_nl_addr6_del(struct mt_nl *nl, unsigned index, const struct in6_addr *addr, uint8_t plen,
                    struct mt_err *err);
/** Is exactly this address on the link? */
int mt_nl_addr6_has(struct mt_nl *nl, unsigned index, const struct in6_addr *addr, bool *ret,
                    struct mt_err *err);

/** Put an IPv4 address (/32) on a link; *@ret_there (may be NULL): it was there before. -MT_E_IO. */
int mt_nl_addr4_add(struct mt_nl *nl, unsigned index, const struct in_addr *addr, bool *ret_there, struct mt_err *err);
/** Take it away; one that is not there, or whose link is gone, is success. */
int mt_nl_addr4_del(struct mt_nl *nl, unsigned index, const struct in_addr *addr, struct mt_err *err);

/** One IPv6 route of the main table. */
struct mt_nl_route6 {
    struct in6_addr dst;
    uint8_t plen;
    unsigned oif;               /* link index, 0 for a blackhole */
    const struct in6_addr *src; /* preferred source address, or NULL */
    bool blackhole;
    bool unicast;               /* of a walk: it leads somewhere */
    uint32_t metric;            /* 0: the kernel's default (1024) */
};

/** Add or replace a route (protocol static). */
int mt_nl_route6_set(struct mt_nl *nl, const struct mt_nl_route6 *r, struct mt_err *err);
/** Delete it; 0 also when absent. */
int mt_nl_route6_del(struct mt_nl *nl, const struct mt_nl_route6 *r, struct mt_err *err);

/** Add or replace the permanent neighbour entry @addr -> @mac (6 bytes) on link @index. */
int mt_nl_neigh6_set(struct mt_nl *nl, unsigned index, const struct in6_addr *addr,
                     const uint8_t *mac, struct mt_err *err);

/** Called for each link; return false to stop the walk. @name is valid during the call. */
typedef bool mt_nl_link_fn(void *arg, unsigned index, const char *name);
/** Walk over all links. */
int mt_nl_links(struct mt_nl *nl, mt_nl_link_fn *fn, void *arg, struct mt_err *err);

/** Called for each route of the main table; return false to stop the walk. */
typedef bool mt_nl_route6_fn(void *arg, const struct mt_nl_route6 *r);
/** Walk over the IPv6 routes of the main table. Do not change routes inside @fn. */
int mt_nl_routes6(struct mt_nl *nl, mt_nl_route6_fn *fn, void *arg, struct mt_err *err);
