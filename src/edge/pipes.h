/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes for splice, one cache for each worker. A pipe is taken when a pump begins to move bytes in bulk and given back the moment it is
 * empty, so idle connections hold none. Only empty pipes come back; one with bytes left in it is closed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define MT_EDGE_PIPES_KEPT 16U
#define MT_EDGE_PIPE_LEAST (64 * 1024)

struct mt_edge_pipe {
    int rd, wr;
};

struct mt_edge_pipes {
    struct mt_edge_pipe kept[MT_EDGE_PIPES_KEPT];
    unsigned n;
    unsigned pass; /* so often it is not asked again: the kernel gave none, or a tiny one */
};

/** Take a pipe; false when the kernel gives none, or one too small to be of use (then the caller copies). */
bool mt_edge_pipe_get(struct mt_edge_pipes *ps, struct mt_edge_pipe *ret);
/** Give one back; @empty false closes it, as its bytes belong to a connection that is gone. */
void mt_edge_pipe_put(struct mt_edge_pipes *ps, struct mt_edge_pipe *p, bool empty);
/** Close all that are kept. */
void mt_edge_pipes_done(struct mt_edge_pipes *ps);
