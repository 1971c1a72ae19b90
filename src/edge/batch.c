/* SPDX-License-Identifier: Apache-2.0 */
/* The few calls of io_uring that are needed, by hand: no library for a page of code. Source: io_uring(7), io_uring_enter(2). */
#include "edge/batch.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOT_YET INT32_MIN

bool mt_edge_batch_init(struct mt_edge_batch *b)
{
    memset(b, 0, sizeof *b);
    b->fd = -1;
    /* SINGLE_ISSUER is of Linux 6.0: where that is not known, this is not worth its while either */
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL};
    long fd = syscall(SYS_io_uring_setup, MT_EDGE_BATCH, &p);
    if (fd < 0)
        return false;
    b->fd = (int)fd;
    size_t sq = p.sq_off.array + p.sq_entries * sizeof(unsigned), cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    b->ring_len = sq > cq ? sq : cq;
    b->sqes_len = p.sq_entries * sizeof(struct io_uring_sqe);
    void *ring = MAP_FAILED, *sqes = MAP_FAILED;
    if ((p.features & IORING_FEAT_SINGLE_MMAP) && p.sq_entries >= MT_EDGE_BATCH && p.cq_entries >= MT_EDGE_BATCH) {
        ring = mmap(NULL, b->ring_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, b->fd, (off_t)IORING_OFF_SQ_RING);
        sqes = mmap(NULL, b->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, b->fd, (off_t)IORING_OFF_SQES);
    }
    b->ring = ring == MAP_FAILED ? NULL : ring;
    b->sqes = sqes == MAP_FAILED ? NULL : sqes;
    if (!b->ring || !b->sqes) {
        mt_edge_batch_done(b);
        return false;
    }
    uint8_t *at = ring;
    b->sq_tail = (unsigned *)(void *)(at + p.sq_off.tail);
    b->sq_array = (unsigned *)(void *)(at + p.sq_off.array);
    b->cq_head = (unsigned *)(void *)(at + p.cq_off.head);
    b->cq_tail = (unsigned *)(void *)(at + p.cq_off.tail);
    b->sq_mask = p.sq_entries - 1;
    b->cq_mask = p.cq_entries - 1;
    b->cqes = at + p.cq_off.cqes;
    return true;
}

void mt_edge_batch_done(struct mt_edge_batch *b)
{
    if (b->ring)
        (void)munmap(b->ring, b->ring_len);
    if (b->sqes)
        (void)munmap(b->sqes, b->sqes_len);
    if (b->fd >= 0)
        (void)close(b->fd);
    memset(b, 0, sizeof *b);
    b->fd = -1;
}

static void plain(bool out, struct mt_edge_call *c)
{
    ssize_t n = out ? send(c->fd, c->p, c->len, c->flags | MSG_DONTWAIT) : recv(c->fd, c->p, c->len, c->flags | MSG_DONTWAIT);
    c->res = n < 0 ? -errno : (int32_t)n;
}

static void fill(struct mt_edge_batch *b, bool out, const struct mt_edge_call *v, unsigned n)
{
    unsigned tail = *b->sq_tail; /* only we write it */
    for (unsigned i = 0; i < n; i++) {
        unsigned at = (tail + i) & b->sq_mask;
        struct io_uring_sqe *s = (struct io_uring_sqe *)b->sqes + at;
        memset(s, 0, sizeof *s);
        s->opcode = out ? IORING_OP_SEND : IORING_OP_RECV;
        s->fd = v[i].fd;
        s->addr = (uintptr_t)v[i].p;
        s->len = v[i].len;
        s->msg_flags = (uint32_t)(v[i].flags | MSG_DONTWAIT); /* it is answered at once, never put off to wait for readiness */
        s->user_data = i;
        b->sq_array[at] = at;
    }
    __atomic_store_n(b->sq_tail, tail + n, __ATOMIC_RELEASE);
}

static unsigned harvest(struct mt_edge_batch *b, struct mt_edge_call *v, unsigned n)
{
    unsigned head = *b->cq_head, tail = __atomic_load_n(b->cq_tail, __ATOMIC_ACQUIRE), got = 0;
    for (; head != tail; head++) {
        const struct io_uring_cqe *c = (const struct io_uring_cqe *)b->cqes + (head & b->cq_mask);
        if (c->user_data < n) {
            v[c->user_data].res = c->res;
            got++;
        }
    }
    __atomic_store_n(b->cq_head, head, __ATOMIC_RELEASE);
    return got;
}

void mt_edge_batch_run(struct mt_edge_batch *b, bool out, struct mt_edge_call *v, unsigned n)
{
    unsigned submitted = 0, got = 0;
    for (unsigned i = 0; i < n; i++)
        v[i].res = NOT_YET;
    if (b->fd >= 0 && n > 1) {
        fill(b, out, v, n);
        while (got < n) {
            long r = syscall(SYS_io_uring_enter, b->fd, n - submitted, n - got, IORING_ENTER_GETEVENTS, NULL, 0);
            if (r < 0 && errno != EINTR)
                break;
            submitted += r > 0 ? (unsigned)r : 0;
            got += harvest(b, v, n);
        }
        if (got < n)
            mt_edge_batch_done(b); /* what was not taken is made as plain calls, now and from now on */
    }
    for (unsigned i = 0; got < n && i < n; i++) {
        if (v[i].res != NOT_YET)
            continue;
        if (i < submitted)
            v[i].res = -EIO; /* taken and not answered: whether it was done is not known */
        else
            plain(out, &v[i]);
    }
}
