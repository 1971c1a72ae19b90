/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits per source (IPv6 /64, IPv4 /32), shared by all workers: concurrent connections, new ones per second, connections
 * that have not been routed yet. The table is bounded; a source with connections is never forgotten. When it is full of such, the
 * other sources of a shard share the limits of one. And the pace of new connections of one route. Source: networking.md 8.9.
 */
#pragma once

#include "edge/table.h"

#define MT_EDGE_SOURCES_MAX 65536U

struct mt_edge_limit_conf {
    uint32_t conns;    /* concurrent, 0: no limit */
    uint32_t new_per_s; /* 0: no limit */
    uint32_t burst;
    uint32_t preroute; /* 0: no limit */
    bool loopback;     /* apply to loopback sources too */
};

enum mt_edge_admit {
    MT_EDGE_ADMIT_OK = 0,
    MT_EDGE_ADMIT_CONNS,    /* too many concurrent */
    MT_EDGE_ADMIT_RATE,     /* too many new ones */
    MT_EDGE_ADMIT_PREROUTE, /* admitted, but the oldest unrouted one of this source must go */
    MT_EDGE_ADMIT_MAX
};

struct mt_edge_limits;
/* A source; stays valid while a connection of it is counted. NULL: exempt. */
struct mt_edge_source;

/** NULL when memory is out. */
struct mt_edge_limits *mt_edge_limits_new(const struct mt_edge_limit_conf *conf);
/** NULL is fine. */
void mt_edge_limits_free(struct mt_edge_limits *l);
/** Count one new connection of @peer at @now. OK and PREROUTE count it and set *ret; the other two do not. Any thread. */
enum mt_edge_admit mt_edge_limits_enter(struct mt_edge_limits *l, const union mt_edge_addr *peer, int64_t now,
                                        struct mt_edge_source **ret);
/** It has been routed: no longer counted as unrouted. */
void mt_edge_limits_routed(struct mt_edge_limits *l, struct mt_edge_source *s);
/** It ended; @routed as told before. NULL @s is fine. */
void mt_edge_limits_leave(struct mt_edge_limits *l, struct mt_edge_source *s, bool routed);

/**
 * Take one of @per_s a second (0: no limit), @burst at once; false when it is one too many. @at is the time (monotonic ns, 0 at
 * first) up to which they were taken. Any thread, no lock: one route may be on all of them.
 */
bool mt_edge_rate_take(_Atomic int64_t *at, uint64_t per_s, uint64_t burst, int64_t now);
