/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/pipes.h"

#include "base/cleanup.h"

#include <fcntl.h>

#define PIPE_BYTES (256 * 1024) /* fewer system calls for each byte; over the bound of the user the kernel refuses */
#define PASS 64U

static void close_pipe(struct mt_edge_pipe *p)
{
    mt_closep(&p->rd);
    mt_closep(&p->wr);
}

bool mt_edge_pipe_get(struct mt_edge_pipes *ps, struct mt_edge_pipe *ret)
{
    if (ps->n > 0) {
        *ret = ps->kept[--ps->n];
        return true;
    }
    if (ps->pass > 0) {
        ps->pass--;
        return false;
    }
    int fd[2];
    if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) == -1) {
        ps->pass = PASS;
        return false;
    }
    *ret = (struct mt_edge_pipe){.rd = fd[0], .wr = fd[1]};
    /*
     * Over fs.pipe-user-pages-soft a pipe holds 4 or 8 KiB, so clients that take nothing could make splice dearer than copying for
     * all others.
     */
    if (fcntl(fd[1], F_SETPIPE_SZ, PIPE_BYTES) == -1 && fcntl(fd[1], F_GETPIPE_SZ) < MT_EDGE_PIPE_LEAST) {
        close_pipe(ret);
        ps->pass = PASS;
        return false;
    }
    return true;
}

void mt_edge_pipe_put(struct mt_edge_pipes *ps, struct mt_edge_pipe *p, bool empty)
{
    if (empty && ps->n < MT_EDGE_PIPES_KEPT)
        ps->kept[ps->n++] = *p;
    else
        close_pipe(p);
    *p = (struct mt_edge_pipe){.rd = -1, .wr = -1};
}

void mt_edge_pipes_done(struct mt_edge_pipes *ps)
{
    while (ps->n > 0)
        close_pipe(&ps->kept[--ps->n]);
}
