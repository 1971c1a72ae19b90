/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handover of the listening sockets to a new process, so that an upgrade refuses and cuts no connection. The new process
 * asks at the old one's Unix socket (same user only), gets every listening descriptor, opens its listeners out of them and
 * says that it serves; only then does the old one stop accepting. Both accept from the same queues in between. When the new
 * one dies before that, the old one goes on as if nothing had been. Source: networking.md 8.8; docs/formats/edge-config.md 4.
 */
#pragma once

#include "edge/hub.h"
#include "os/loop.h"

struct mt_edge_handover;

struct mt_edge_handover_calls {
    void (*asked)(void *arg);   /* a successor is there: write down what is in force, take no new configuration */
    void (*missed)(void *arg);  /* it went away before it served: go on */
    void (*done)(void *arg);    /* it serves: give up sockets with names, stop accepting, finish what is open */
    void *arg;
};

/** Answer at @path, on @loop. NULL when that cannot be. */
struct mt_edge_handover *mt_edge_handover_serve(struct mt_loop *loop, const char *path, struct mt_edge_hub *h,
                                                const struct mt_edge_handover_calls *calls, struct mt_err *err);
/** Stop answering. @keep_name: a successor owns the path now. NULL is fine. */
void mt_edge_handover_stop(struct mt_edge_handover *x, bool keep_name);
/**
 * Ask at @path for the sockets of a process that runs; they go to the hub, which has no table yet. 1: taken, *ret_conn is for
 * mt_edge_handover_ready; 0: nobody is there; -code: somebody is, and it went wrong.
 */
int mt_edge_handover_take(const char *path, struct mt_edge_hub *h, int *ret_conn, struct mt_err *err);
/** Say that this process serves and wait until the old one has let go of the names. Closes *conn. */
int mt_edge_handover_ready(int *conn, struct mt_err *err);
