/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/pipes.h"

#include "base/cleanup.h"

#include <fcntl.h>

#define PIPE_BYTES (256 * 1024) /* fewer system calls for each byte; refused by the kernel over the user's bound, then 64 KiB */

bool mt_edge_pipe_get(struct mt_edge_pipes *ps, struct mt_edge_pipe *ret)
{
    if (ps->n > 0) {
        *ret = ps->kept[--ps->n];
        return true;
    }
    int fd[2];
    if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) == -1)
        return false;
    (void)fcntl(fd[1], F_SETPIPE_SZ, PIPE_BYTES);
    *ret = (struct mt_edge_pipe){.rd = fd[0], .wr = fd[1]};
    return true;
}

static void close_pipe(struct mt_edge_pipe *p)
{
    mt_closep(&p->rd);
    mt_closep(&p->wr);
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
