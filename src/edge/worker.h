/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker: one thread, one epoll, its own listening sockets (SO_REUSEPORT), its own connections, timers, pipes and pool.
 * Workers share the routing table (read only), the source limits and counters, nothing else.
 */
#pragma once

#include "base/clock.h"
#include "edge/batch.h"
#include "edge/conn.h"
#include "edge/slab.h"

#include <pthread.h>

struct mt_edge_hub;

#define MT_EDGE_BUF (32U * 1024U) /* bytes of the shared copy buffer */
#define MT_EDGE_SLOT 2048U /* a message that fills it is read on by copying, one that is larger yet by splice */
/* Bytes of one direction in one turn: a share of all that is moved in a turn, so that many bulk streams do not make it long for others */
#define MT_EDGE_TURN_ALL (4U * 1024U * 1024U)
#define MT_EDGE_SHARE_MOST (512U * 1024U)
#define MT_EDGE_SHARE_LEAST (64U * 1024U)
#define MT_EDGE_OFFLINE UINT64_MAX

/* Counters of one listener; never freed once made (the set of keys is bounded). Relaxed atomics. */
struct mt_edge_listener {
    mt_edge_key key;
    _Atomic uint64_t results[MT_EDGE_R_MAX];
    _Atomic uint64_t accepted;
    _Atomic uint32_t open;
};

/* A listening socket of one worker. Made by the hub, owned by the worker once handed over. */
struct mt_edge_lsock {
    uint32_t magic;
    int fd;
    struct mt_edge_listener *l;
    struct mt_list node;
    struct mt_edge_lsock *next_cmd;
    uint32_t burst; /* connections it had waiting lately */
    uint32_t full;  /* times in a row that it had at least as many */
    bool remove; /* as a command: close the socket of the same listener and descriptor */
};
#define MT_EDGE_LSOCK_MAGIC 0x656c736bU

struct mt_edge_worker {
    struct mt_edge_hub *hub;
    unsigned index;
    pthread_t thread;
    int epfd, wakefd, timerfd;
    int64_t armed_at; /* when timerfd fires, INT64_MAX: not at all */
    /* generation of the table this worker runs with, or OFFLINE while it sleeps and holds none */
    _Atomic uint64_t seen;
    const struct mt_edge_table *table; /* valid within one turn */
    int64_t now;

    struct mt_edge_wheel wheel;
    struct mt_edge_slab conns, hellos;
    struct mt_edge_pipes pipes;
    struct mt_list all, run, dead, lsocks;
    struct mt_edge_unrouted pre; /* connections that have no route yet */
    uint8_t *buf;
    struct mt_edge_batch batch;
    uint8_t *slots; /* MT_EDGE_BATCH of MT_EDGE_SLOT bytes; NULL: small messages are not gathered */
    struct mt_edge_gathered {
        struct mt_edge_conn *c;
        bool backend;
    } gathered[MT_EDGE_BATCH]; /* ends with bytes to read, of connections that relay; of one turn */
    unsigned n_gathered;
    struct mt_edge_conn *held_of; /* its first held_len client bytes are in buf, not yet copied anywhere; NULL outside of one call */
    size_t held_len;
    uint64_t next_seq;
    uint32_t n_run; /* on the run list */
    uint32_t share; /* bytes of one direction in this turn */
    bool accept_paused;
    int64_t accept_again_at;
    int64_t purge_at; /* next look for connections whose route is gone */
    int64_t log_filled_at, log_tokens;
    uint64_t log_suppressed;
    bool stopping;
    _Atomic bool drained; /* accepts no more */

    pthread_mutex_t cmd_lock;
    struct mt_edge_lsock *_Atomic cmds; /* newest first; written under the lock */
};

/** Start the thread. */
int mt_edge_worker_start(struct mt_edge_worker *w, struct mt_edge_hub *hub, unsigned index, struct mt_err *err);
/** Make it look at commands, table and stop flags. Any thread. */
void mt_edge_worker_wake(struct mt_edge_worker *w);
/** Hand over a listening socket to open or to close. Any thread; ownership moves. */
void mt_edge_worker_command(struct mt_edge_worker *w, struct mt_edge_lsock *s);
/** After the thread ended: free everything. */
void mt_edge_worker_done(struct mt_edge_worker *w);

/* for conn.c, dial.c and relay.c, on the worker's own thread */
/** Watch one end, edge-triggered, for bytes and end, with @out for room to write too. False when the kernel refuses. */
bool mt_edge_worker_watch(struct mt_edge_worker *w, struct mt_edge_conn *c, bool backend, bool out);
/** Its end has bytes to read: have them moved with those of others at the end of this turn's events. False: step it now. */
bool mt_edge_worker_gather(struct mt_edge_worker *w, struct mt_edge_conn *c, bool backend);
/** What each of @n connections may move in one direction in one turn. */
uint32_t mt_edge_worker_share(uint32_t n);
/** Give the connection another step in this turn. */
void mt_edge_worker_again(struct mt_edge_worker *w, struct mt_edge_conn *c);
/** True when a connection line may be logged now; *ret_suppressed lines were dropped since the last one. */
bool mt_edge_worker_may_log(struct mt_edge_worker *w, uint64_t *ret_suppressed);
