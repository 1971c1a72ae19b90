/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The routing table: listeners, routes by (listener, exact name), backends. Built once, then never changed; workers read
 * it without locks and hub.c swaps it by pointer. Routes are packed records (pack.h); the first connection of one makes it
 * live: a struct mt_edge_route with a reference count, whose counters and health outlive a swap.
 *
 * Knows nothing of files, JSON or sockets. Source: networking.md 8.1, 8.4, 8.6, 8.7.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define MT_EDGE_LISTENERS_MAX 4096U
#define MT_EDGE_ROUTES_MAX 1000000U
#define MT_EDGE_BACKENDS_MAX 4096U /* of one route */
#define MT_EDGE_ID_MAX 64U
#define MT_EDGE_TRACES_MAX 8U
#define MT_EDGE_TRACE_LEN 32U

/* HTTP has no routes: it redirects to those of TLS (redirect.h) */
enum mt_edge_proto { MT_EDGE_TLS = 0, MT_EDGE_RAW, MT_EDGE_HTTP, MT_EDGE_PROTO_MAX };
enum mt_edge_scope { MT_EDGE_SHARED6 = 0, MT_EDGE_IPV4, MT_EDGE_SCOPE_MAX };
enum mt_edge_balance { MT_EDGE_ROUND_ROBIN = 0, MT_EDGE_LEAST_CONN, MT_EDGE_BALANCE_MAX };

union mt_edge_addr {
    struct sockaddr sa;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};

/* Names a listener: protocol, scope, dedicated IPv4 address (0 for shared) and logical port, in one number. */
typedef uint64_t mt_edge_key;
mt_edge_key mt_edge_key_of(enum mt_edge_proto proto, enum mt_edge_scope scope, struct in_addr v4, uint16_t port);
static inline enum mt_edge_proto mt_edge_key_proto(mt_edge_key k)
{
    return (enum mt_edge_proto)(k >> 56);
}
static inline enum mt_edge_scope mt_edge_key_scope(mt_edge_key k)
{
    return (enum mt_edge_scope)((k >> 48) & 0xff);
}
static inline struct in_addr mt_edge_key_v4(mt_edge_key k)
{
    return (struct in_addr){.s_addr = (in_addr_t)((k >> 16) & 0xffffffffU)};
}
static inline uint16_t mt_edge_key_port(mt_edge_key k)
{
    return (uint16_t)(k & 0xffffU);
}

/* Counters of one route_id over all its versions. Relaxed atomics: any worker adds, the status report reads. */
struct mt_edge_stat {
    _Atomic uint32_t refs;
    _Atomic uint32_t cursor; /* round robin */
    _Atomic uint32_t active;
    _Atomic int64_t rate_at; /* of new connections, see mt_edge_rate_take */
    _Atomic int64_t gone_at; /* monotonic ns since when the route is deleted or disabled; 0 while it is served */
    _Atomic uint64_t connections, bytes_in, bytes_out, connect_failures, retries, no_backend, ejections, limit_hits,
        proxy_headers, early_closes;
};

/* Passive health of one backend of one route. */
struct mt_edge_health {
    _Atomic uint32_t refs;
    _Atomic uint32_t active;   /* relaying connections, for least_conn */
    _Atomic uint32_t step_ms;  /* length of the last ejection, 0: healthy */
    _Atomic uint32_t halves;   /* half failures in a row */
    _Atomic bool distant;      /* its connects were not done at once lately */
    _Atomic int64_t ejected_at, eject_until; /* monotonic ns */
};

struct mt_edge_backend {
    union mt_edge_addr addr;
    const char *instance_id; /* owned by the route */
    struct mt_edge_health *health;
};

#define MT_EDGE_ROUTE_MAGIC 0x65726f75U
struct mt_edge_route {
    uint32_t magic;
    _Atomic uint32_t refs;
    mt_edge_key key;
    struct mt_edge_stat *stat;
    const char *route_id, *env_id, *org_id, *hostname; /* "" when not given; hostname normalised */
    uint32_t idle_timeout_s;
    uint32_t max_conns;
    uint16_t min_tls; /* lowest version a hello must offer, as on the wire (0x0303: TLS 1.2); 0: any */
    uint8_t balance;
    bool proxy_v2, proxy_tlv, disabled, is_default, allow_non_tls;
    uint32_t n_backends;
    struct mt_edge_backend *backends;
};

struct mt_edge_listener_spec {
    mt_edge_key key;
    struct mt_edge_rec *only; /* raw: its route; tls on a dedicated address: where a nameless client goes; else NULL */
};

struct mt_edge_rec;
struct mt_edge_opts;
struct mt_edge_lives;

#define MT_EDGE_TABLE_MAGIC 0x65746162U
struct mt_edge_table {
    uint32_t magic;
    char cluster_id[MT_EDGE_ID_MAX + 1];
    uint64_t epoch, revision;
    bool allow_shrink;
    uint32_t n_traces; /* of the requests whose changes are in it, for the log */
    char traces[MT_EDGE_TRACES_MAX][MT_EDGE_TRACE_LEN + 1];
    uint32_t seed;
    struct mt_edge_listener_spec *listeners; /* sorted by key */
    uint32_t n_listeners, cap_listeners;
    uint8_t *mem; /* records, one after the other */
    size_t mem_len, mem_cap;
    struct mt_edge_opts *opts;
    uint32_t n_opts, cap_opts;
    uint32_t *offs; /* of each record in units of 8 bytes; only while it is built */
    uint32_t n_routes, cap_routes;
    uint64_t n_backends; /* of all routes */
    uint32_t *slots;     /* open addressing: low off_bits: place of the record plus 1, rest: of its hash; 0: empty */
    uint32_t n_slots;
    unsigned off_bits;
    struct mt_edge_lives *lives; /* the routes that are live */
};

/* What a caller gives to add a route; text is copied. */
struct mt_edge_route_spec {
    mt_edge_key key;
    const char *route_id, *env_id, *org_id, *hostname; /* route_id needed; others may be NULL; hostname normalised by the caller */
    uint32_t idle_timeout_s, max_conns;
    enum mt_edge_balance balance;
    uint16_t min_tls;
    bool proxy_v2, proxy_tlv, disabled, is_default, allow_non_tls;
    uint32_t n_backends;
    const struct mt_edge_backend_spec *backends;
};
struct mt_edge_backend_spec {
    union mt_edge_addr addr;
    const char *instance_id;
};

/** Empty table; NULL when memory is out. */
struct mt_edge_table *mt_edge_table_new(void);
/** Free the table and drop its references; NULL is fine. No worker may read it any more. */
void mt_edge_table_free(struct mt_edge_table *t);
/** -MT_E_LIMIT, -MT_E_NOMEM. Doubles are found by finish. */
int mt_edge_table_add_listener(struct mt_edge_table *t, mt_edge_key key, struct mt_err *err);
/** -MT_E_LIMIT, -MT_E_NOMEM, -MT_E_INVALID for ids or names that break their bounds. */
int mt_edge_table_add_route(struct mt_edge_table *t, const struct mt_edge_route_spec *s, struct mt_err *err);
/**
 * Check the whole, then make it ready for look-ups: every listener once and of one protocol, every route_id once, every
 * route on a listener, (listener, name) once, one route for each raw listener, at most one default. The error names the
 * first breach (-MT_E_INVALID).
 */
int mt_edge_table_finish(struct mt_edge_table *t, struct mt_err *err);
/**
 * Take over from the running table @old (may be NULL): live routes that are equal become the same object, counters and
 * backend health go to the new version of a live route. Both tables are finished; workers may read @old, and @t too when
 * this is done again after the swap for routes that became live meanwhile (one that is live in both keeps two sets of counters).
 */
void mt_edge_table_adopt(struct mt_edge_table *t, const struct mt_edge_table *old);
/**
 * Mark live routes of @old that @t serves no longer (deleted, disabled), at @now; clear the mark of those that came back. What
 * adopt saw decides, so it has to be called before. Workers must have left @old.
 */
void mt_edge_table_mark_gone(const struct mt_edge_table *t, const struct mt_edge_table *old, int64_t now);

/** Route of a normalised name on a listener, NULL when there is none (or no memory to make it live). Borrowed from the table. */
struct mt_edge_route *mt_edge_table_find(const struct mt_edge_table *t, mt_edge_key key, const char *name, size_t len);
/** The listener entry, NULL when the table has none. */
const struct mt_edge_listener_spec *mt_edge_table_listener(const struct mt_edge_table *t, mt_edge_key key);
/** The one route of a listener, as in its entry; NULL when there is none. Borrowed from the table. */
struct mt_edge_route *mt_edge_table_only(const struct mt_edge_table *t, const struct mt_edge_listener_spec *l);
/** Call @fn for each route that was ever asked for, under a lock that making routes live needs too. */
void mt_edge_table_each_live(const struct mt_edge_table *t, void (*fn)(struct mt_edge_route *r, void *arg), void *arg);

/** "1.2" of 0x0303; "older" or "newer" for what is not 1.0 to 1.3. */
const char *mt_edge_tls_name(uint16_t version);
/** 0x0303 of "1.2"; 0 for anything else than 1.0 to 1.3. */
uint16_t mt_edge_tls_version(const char *name);

/** Same family, address and port. */
bool mt_edge_same_addr(const union mt_edge_addr *a, const union mt_edge_addr *b);

/* between table.c and route.c */
struct mt_edge_lives *mt_edge_lives_new(void);
void mt_edge_lives_free(struct mt_edge_lives *l);
/** The live route of a record, made if need be. */
struct mt_edge_route *mt_edge_table_live(const struct mt_edge_table *t, struct mt_edge_rec *rec);

struct mt_edge_route *mt_edge_route_ref(struct mt_edge_route *r);
/** NULL is fine. */
void mt_edge_route_unref(struct mt_edge_route *r);
