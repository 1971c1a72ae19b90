/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One client connection and, from dialling on, its connection to a backend. Owned by one worker thread; never seen by
 * another. conn.c holds life and states, dial.c the way to a backend, relay.c the moving of bytes.
 * Source: networking.md 8.4, 8.5.
 */
#pragma once

#include "edge/limits.h"
#include "edge/pipes.h"
#include "edge/table.h"
#include "edge/unrouted.h"
#include "edge/wheel.h"

struct mt_edge_worker;
struct mt_edge_listener;
struct mt_edge_lsock;
struct mt_hello;

enum mt_edge_state {
    MT_EDGE_NEW = 0, /* accepted, nothing decided */
    MT_EDGE_HELLO,   /* reading the ClientHello */
    MT_EDGE_DIAL,    /* connecting to a backend */
    MT_EDGE_RELAY,   /* moving bytes */
    MT_EDGE_GOODBYE, /* an alert was sent; waiting for the client to take it */
    MT_EDGE_DEAD,    /* descriptors closed; freed at the end of the turn */
    MT_EDGE_STATE_MAX
};

/* Why a connection ended; the names are in the log and the metrics (conn.c). */
enum mt_edge_result {
    MT_EDGE_R_OK = 0,
    MT_EDGE_R_NO_ROUTE,
    MT_EDGE_R_NO_SNI,
    MT_EDGE_R_NOT_TLS,
    MT_EDGE_R_TLS_VERSION, /* older than the route asks for */
    MT_EDGE_R_MALFORMED,
    MT_EDGE_R_TOO_BIG,
    MT_EDGE_R_SNIFF_TIMEOUT,
    MT_EDGE_R_CLIENT_EOF,
    MT_EDGE_R_SUSPENDED,
    MT_EDGE_R_NO_BACKEND,
    MT_EDGE_R_CONNECT_FAILED,
    MT_EDGE_R_ROUTE_LIMIT,
    MT_EDGE_R_SOURCE_LIMIT,
    MT_EDGE_R_OVERLOAD,
    MT_EDGE_R_CLIENT_RESET,
    MT_EDGE_R_BACKEND_RESET,
    MT_EDGE_R_IDLE_TIMEOUT,
    MT_EDGE_R_HALF_TIMEOUT,
    MT_EDGE_R_ROUTE_GONE,
    MT_EDGE_R_SHUTDOWN,
    MT_EDGE_R_INTERNAL,
    MT_EDGE_R_MAX
};

/* One descriptor; edge-triggered, so readiness is remembered here until a call says otherwise. */
struct mt_edge_end {
    int fd;
    bool watched; /* in epoll */
    bool out;     /* epoll tells of room to write too; asked for at the first full buffer, as most connections never have one */
    bool rd, wr;  /* may be read, may be written */
    bool bounded; /* its socket holds little that is not sent yet (relay.c) */
    bool hup;     /* the peer has closed its side: a short read is not the end of what is there */
};

/* Bytes on their way in one direction. What could not be written yet is in spill (copied) or in the pipe (spliced). */
struct mt_edge_pump {
    uint8_t *spill; /* owned; NULL when nothing waits there */
    uint32_t spill_len, spill_off, spill_cap;
    uint32_t held;  /* bytes in the pipe; the pipe is owned while held > 0 */
    struct mt_edge_pipe pipe;
    uint64_t bytes;   /* taken from the source so far */
    uint64_t counted; /* of these, already added to the counters of the route */
    bool eof, fin;    /* source has ended; end was passed on */
    bool bulk;        /* splice instead of copying */
};

#define MT_EDGE_CONN_MAGIC 0x65636f6eU
#define MT_EDGE_TRIES 3U
struct mt_edge_conn {
    uint32_t magic;
    uint8_t state, result;
    bool routed, counted_route, counted_backend, backend_spoke, named;
    bool prompt, settled; /* backend socket: small writes go at once; keepalive and user timeout are set (see dial.c) */
    uint8_t n_tried;
    uint32_t tried[MT_EDGE_TRIES]; /* backend indices of the route; the last is the current one */
    uint32_t idle_timeout_s;       /* of the route, which never changes while it is held */
    struct mt_edge_worker *w;
    struct mt_edge_listener *l;
    struct mt_edge_end cl, be;
    struct mt_edge_pump up, down;
    struct mt_edge_timer timer;
    struct mt_list all, run;      /* membership: every connection; wants another step */
    struct mt_edge_waiting pre;   /* linked while it is not routed */
    struct mt_hello *hello;       /* only while HELLO, and only if one read was not enough */
    struct mt_edge_source *src;
    struct mt_edge_route *route; /* one reference */
    uint64_t seq;
    int64_t accepted_at, moved_at, dial_until, connected_at;
    union mt_edge_addr peer;
};

/** Take over an accepted descriptor. */
void mt_edge_conn_accept(struct mt_edge_worker *w, struct mt_edge_listener *l, int fd, const union mt_edge_addr *peer);
/** epoll said @events of one end. */
void mt_edge_conn_event(struct mt_edge_conn *c, bool backend, uint32_t events);
/** Do what can be done now, bounded; puts itself on the run list when more is left. */
void mt_edge_conn_step(struct mt_edge_conn *c);
/** Its timer fired. */
void mt_edge_conn_timeout(struct mt_edge_conn *c);
/** End it: counters, log line, descriptors, lists. @rst: peers get a reset. Freed by the worker later. */
void mt_edge_conn_close(struct mt_edge_conn *c, enum mt_edge_result result, bool rst);
/** End it before any backend byte was sent to the client: TLS alert @alert (0: none), or a reset on a raw listener. */
void mt_edge_conn_refuse(struct mt_edge_conn *c, enum mt_edge_result result, uint8_t alert);
/** The one place where the state changes. */
void mt_edge_conn_set_state(struct mt_edge_conn *c, enum mt_edge_state to, const char *why);
/** "ok", "no_route", ...; never NULL. */
const char *mt_edge_result_name(enum mt_edge_result r);

/* dial.c */
/** Connect to the next backend; refuses the client when none is left. State DIAL. */
void mt_edge_dial_next(struct mt_edge_conn *c);
/** The connect has an answer, or its time is over (@timeout). */
void mt_edge_dial_answer(struct mt_edge_conn *c, bool timeout);
/** It has lived long enough to deserve keepalive and user timeout at its backend's socket. */
void mt_edge_dial_settle(struct mt_edge_conn *c);
/** The second write to a backend: from now on small ones go at once (the first needs no asking). */
void mt_edge_dial_prompt(struct mt_edge_conn *c);
/** Index of the backend to try, -1 when all of @tried were tried. Pure but for the round-robin cursor. */
int mt_edge_pick(struct mt_edge_route *r, const uint32_t *tried, unsigned n_tried, int64_t now);
/** A connect failed, or a fresh connection died at once (@half): maybe eject. True when it was ejected now. */
bool mt_edge_health_fail(struct mt_edge_health *h, bool half, int64_t now);
/** The backend answered. */
void mt_edge_health_good(struct mt_edge_health *h);

/* relay.c */
/** Move bytes both ways within a bound; may close the connection. State RELAY. */
void mt_edge_relay_step(struct mt_edge_conn *c);
/** May this end be read into a slot now: it relays, nothing waits in that direction, and it goes by copying. */
bool mt_edge_relay_may_take(const struct mt_edge_conn *c, bool backend);
/** @n > 0 bytes were read from this end, into a slot of @room; they are written to the other one next. */
void mt_edge_relay_took(struct mt_edge_conn *c, bool backend, uint32_t n, uint32_t room);
/** Of these @n bytes @res were written (negative errno: none); the rest is kept. May close it. A step has to follow, as after dry. */
void mt_edge_relay_gave(struct mt_edge_conn *c, bool backend, const uint8_t *data, uint32_t n, int32_t res);
/** The read gave no bytes: 0, the end, or a negative errno. May close the connection. */
void mt_edge_relay_dry(struct mt_edge_conn *c, bool backend, int32_t res);
/** Append to the spill of a pump, which grows in steps of 1 KiB; false when memory is out. */
bool mt_edge_spill(struct mt_edge_pump *p, const uint8_t *data, size_t n);
/** Free what a pump holds. */
void mt_edge_pump_done(struct mt_edge_pipes *ps, struct mt_edge_pump *p);
