/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host side of the log channel of one VM (runtime.md §10): records in, one callback for each.
 *
 * Bounded: one connection, 64 KiB of buffer while it says something. A malformed record closes the connection, and the door for a second; the guest comes back.
 */
#pragma once

#include "os/loop.h"
#include "wire/guest.h"

#include <sys/types.h>

struct mt_logchan;

/** One record; @r lives during the call. */
typedef void (*mt_logchan_fn)(void *arg, const struct mt_guest_log_record *r);

/** Serve @listen_fd (ownership passes in, also on failure). @crowd, when there is one: the guest connects more often than it may (door.h). */
struct mt_logchan *mt_logchan_new(struct mt_loop *loop, int listen_fd, uid_t vm_uid, mt_logchan_fn fn, void (*crowd)(void *arg), void *arg,
                                  struct mt_err *err);
void mt_logchan_free(struct mt_logchan *c);
/** Read what has already arrived: before the VM's sockets go. */
void mt_logchan_drain(struct mt_logchan *c);
