/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mounted volume held still for a moment, so that an image of it is whole: FIFREEZE, FITHAW.
 *
 * A child does it, because a freeze waits for the disk and init must not. The volume is thawed when the host says so, after
 * MT_QUIESCE_MS, when the child dies and at the end of the machine, whatever comes first. One at a time.
 * Source: storage-and-secrets.md 4.3, runtime.md 17.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/guest.h"

enum { MT_QUIESCE_MS = 5000 };

struct mt_quiesce {
    pid_t pid;    /**< of the newest child, until it is reaped; 0 none */
    int fd;       /**< to the child; readable when it has something to say; -1: nothing is held */
    int mount_fd; /**< the top of the volume */
    char volume_id[64];
};

/** Thaw the filesystem that @fd is of; one that is not frozen stays as it is. */
void mt_quiesce_thaw_fd(int fd);
/** Nothing is held. */
void mt_quiesce_init(struct mt_quiesce *q);
/** Begin to freeze the volume mounted at @path, of which @volume_id is the name. -MT_E_CONFLICT one is held, -MT_E_INVALID, -MT_E_IO. */
int mt_quiesce_begin(struct mt_quiesce *q, const char *volume_id, const char *path, struct mt_err *err);
/** The host wants it thawed; the child says when it is. Another volume, or none: nothing happens. */
void mt_quiesce_thaw(struct mt_quiesce *q, const char *volume_id);
/** @q->fd is readable: true and @ret when there is something to tell the host. After thawed, expired and failed nothing is held. */
bool mt_quiesce_turn(struct mt_quiesce *q, enum mt_guest_quiesce *ret);
/** Is @pid the child? Then the volume is thawed for sure, and what is left to be said is read by the next turn. */
bool mt_quiesce_reaped(struct mt_quiesce *q, pid_t pid);
/** The machine ends: thaw at once. */
void mt_quiesce_end(struct mt_quiesce *q);
