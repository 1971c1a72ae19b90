/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a VM's guest comes in: the listening socket of one of its ports, and how often it may come.
 *
 * Only the VM's own user is let in. Of those that stand at the door together the newest is, for it would take the place of the others. A guest dials
 * once a second at most, however often it is hung up on; one that comes more often than that, or broke a rule of what it says, stands before a
 * closed door for a second: what a guest gone mad costs the node is then bounded by the second, not by how fast it is.
 */
#pragma once

#include "os/loop.h"

#include <sys/types.h>

struct mt_door;

struct mt_door_events {
    /** A connection; @fd is the receiver's. */
    void (*came)(void *arg, int fd);
    /** Of another user than the VM's: it was closed. */
    void (*stranger)(void *arg);
    /** More came than may; the door is closed for a second. Before `came`. */
    void (*crowd)(void *arg);
};

/** Serve @listen_fd (ownership passes in, also on failure). @name of its sources is kept by reference. NULL and @err on failure. */
struct mt_door *mt_door_new(struct mt_loop *loop, const char *name, int listen_fd, uid_t vm_uid, const struct mt_door_events *ev, void *arg, struct mt_err *err);
/** No callback follows. Not inside one. NULL is fine. */
void mt_door_free(struct mt_door *d);
/** Nobody comes in for a second from now. */
void mt_door_shut(struct mt_door *d);
/** Let in who stands there, now, closed or not: before the socket goes. */
void mt_door_look(struct mt_door *d);
