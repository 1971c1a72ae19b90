/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub holds what the process has once: options, workers, the running table, listeners, totals. It swaps tables: new
 * listeners open first, then the pointer, then workers leave the old table, then old listeners close.
 */
#pragma once

#include "edge/options.h"
#include "edge/worker.h"

#define MT_EDGE_ROUTE_GRACE_NS (INT64_C(60) * 1000000000) /* a deleted route's connections live on this long */

/* One bound address of one listener. */
struct mt_edge_bound {
    struct mt_edge_listener *l;
    union mt_edge_addr addr; /* with the local port */
    char local[72];          /* "[addr]:port" */
    int *fds;                /* at least one for each worker, borrowed from the workers; NULL when not open */
    struct mt_edge_lsock **waiting; /* the sockets, until workers get them; NULL after */
    unsigned n_fds;          /* socket i is served by worker i modulo their number */
    char error[120];         /* why it is not open */
};

/* A listening socket that the process before handed over and no listener has taken yet. */
struct mt_edge_inherited {
    mt_edge_key key;
    union mt_edge_addr addr;
    int fd;
};

/* Totals over all workers; relaxed atomics, only growing but for open. */
struct mt_edge_totals {
    _Atomic uint64_t accepted, bytes_in, bytes_out, connect_failures, connect_timeouts, retries, ejections, proxy_headers,
        proxy_header_failures, limit_hits, applied, rejected;
    _Atomic uint32_t open;
};

struct mt_edge_hub {
    const struct mt_edge_options *opt;
    struct mt_edge_limits *limits;
    struct mt_edge_totals totals;
    uint64_t max_conns; /* as configured, or what the descriptor limit allows */
    uint8_t run_id[8]; /* first half of every connection id */

    struct mt_edge_worker *workers;
    unsigned n_workers;

    _Atomic(struct mt_edge_table *) table; /* NULL before the first */
    _Atomic uint64_t generation;
    _Atomic int64_t purge_until; /* workers look for gone routes until then */
    _Atomic bool stop, drain;

    _Atomic int64_t heard_wall_us; /* the control plane said that nothing changed; 0: never */
    pthread_mutex_t lock; /* what follows */
    struct mt_edge_listener **listeners;
    size_t n_listeners, cap_listeners;
    struct mt_edge_bound *bounds;
    size_t n_bounds, cap_bounds;
    struct mt_edge_inherited *inherited; /* until the first table is in force */
    size_t n_inherited;
    int64_t applied_wall_us;
};

/** Make the hub and start its workers (without listeners). @opt is borrowed for the life of the hub. */
int mt_edge_hub_init(struct mt_edge_hub *h, const struct mt_edge_options *opt, struct mt_err *err);
/**
 * Put a finished table in force; takes ownership in any case. @force skips the order and shrink checks (static mode).
 * -MT_E_CONFLICT not newer, other cluster; -MT_E_INVALID shrink guard. Bind failures are no error: they are in the status.
 */
int mt_edge_hub_apply(struct mt_edge_hub *h, struct mt_edge_table *t, bool force, struct mt_err *err);
/** Keep a socket of the process before until the first table, whose listeners take theirs. Takes @fd in any case. */
int mt_edge_hub_inherit(struct mt_edge_hub *h, mt_edge_key key, const union mt_edge_addr *addr, int fd, struct mt_err *err);
/** Call @fn for every open listening socket, until it fails; no listener changes meanwhile. */
int mt_edge_hub_each_socket(struct mt_edge_hub *h,
                            int (*fn)(void *arg, mt_edge_key key, const union mt_edge_addr *addr, int fd, struct mt_err *err),
                            void *arg, struct mt_err *err);
/** Try again to open listeners that failed. */
void mt_edge_hub_retry_listeners(struct mt_edge_hub *h);
/** Epoch and revision of the running table, 0 before the first; @ret_cluster (65 bytes) may be NULL. */
void mt_edge_hub_version(struct mt_edge_hub *h, uint64_t *ret_epoch, uint64_t *ret_revision, char *ret_cluster);
/** Stop accepting; connections go on. */
void mt_edge_hub_drain(struct mt_edge_hub *h);
/** True when no worker accepts any more and no connection is left. */
bool mt_edge_hub_drained(struct mt_edge_hub *h);
/** End all connections and threads, free everything. */
void mt_edge_hub_done(struct mt_edge_hub *h);

/* listen.c, under h->lock */
/** Open what @t wants and is not open. Nobody accepts from it yet. */
void mt_edge_listen_open(struct mt_edge_hub *h, const struct mt_edge_table *t);
/** Give what was opened to the workers: once the table with its routes is in force, or its first connections found none. */
void mt_edge_listen_start(struct mt_edge_hub *h);
/** Close what @t does not want. */
void mt_edge_listen_close(struct mt_edge_hub *h, const struct mt_edge_table *t);
/** Free what is kept about listeners; the sockets are the workers'. */
void mt_edge_listen_done(struct mt_edge_hub *h);
