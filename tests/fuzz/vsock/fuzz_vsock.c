/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile guest on plain memory. The input is a program: it writes anywhere in guest memory (descriptors, indices, headers),
 * sends well-formed packets so that deep states are reached, connects and closes host programs, lets time pass. Whatever it does,
 * nothing may be read or written outside guest memory, the bounds hold, and every connection can be ended.
 */
#include "../../unit/vsock/kit.h"

#include "base/assert.h"
#include "base/rd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HOSTS = 16, STEPS = 512 };

struct world {
    struct mt_vs_mux mux;
    struct mt_vs_ring rx, tx;
    struct mt_vs_mem mem;
    struct kit kit;
    int host[HOSTS];
    unsigned next;
};

static int dial(void *user, uint32_t port)
{
    struct world *w = user;
    int p[2];
    if (port % 3 == 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p) == -1)
        return -1;
    int *slot = &w->host[w->next++ % HOSTS];
    if (*slot >= 0)
        (void)close(*slot);
    *slot = p[1];
    return p[0];
}

static void host_connects(struct world *w, struct mt_rd *in, int64_t now)
{
    int fd = dial(w, 1);
    if (fd < 0)
        return;
    int ours = w->host[(w->next - 1) % HOSTS];
    char line[32];
    int n = snprintf(line, sizeof line, "CONNECT %u\n", mt_rd_u8(in));
    if (mt_rd_u8(in) % 8 != 0)
        (void)!write(ours, line, (size_t)n);
    mt_vs_mux_accept(&w->mux, fd, now);
}

static void host_acts(struct world *w, struct mt_rd *in)
{
    static const char block[8192];
    char sink[8192];
    int *fd = &w->host[mt_rd_u8(in) % HOSTS];
    if (*fd < 0)
        return;
    switch (mt_rd_u8(in) % 5) {
    case 0:
        (void)send(*fd, block, mt_rd_le16(in) % sizeof block, MSG_NOSIGNAL | MSG_DONTWAIT);
        break;
    case 1:
        (void)recv(*fd, sink, sizeof sink, MSG_DONTWAIT);
        break;
    case 2:
        (void)shutdown(*fd, SHUT_WR);
        break;
    case 3:
        (void)shutdown(*fd, SHUT_RD);
        break;
    default:
        (void)close(*fd);
        *fd = -1;
    }
}

static void guest_sends(struct world *w, struct mt_rd *in)
{
    static const uint8_t payload[KIT_BUF];
    uint8_t which = mt_rd_u8(in);
    struct mt_vs_hdr h = {.src_cid = KIT_CID, .dst_cid = MT_VS_CID_HOST, .type = MT_VS_TYPE_STREAM};
    if (!kit_tx_free(&w->kit))
        return;
    h.op = mt_rd_u8(in) % 9;
    h.src_port = which & 7;
    h.dst_port = which & 0x80 ? MT_VS_HOST_PORT_MIN + (which >> 3 & 7) : which >> 3 & 7;
    h.flags = mt_rd_u8(in) & 3;
    h.buf_alloc = (uint32_t)mt_rd_u8(in) << 8;
    h.fwd_cnt = mt_rd_le16(in);
    h.len = h.op == MT_VS_OP_RW ? mt_rd_le16(in) % (KIT_BUF - MT_VS_HDR_LEN) : 0;
    kit_send_hdr(&w->kit, &h, payload, h.len);
}

static void turn(struct world *w, int64_t now)
{
    struct epoll_event ev[16];
    int n = epoll_wait(w->mux.epoll_fd, ev, 16, 0);
    for (int i = 0; i < n; i++)
        mt_vs_mux_host_event(&w->mux, ev[i].data.u64, ev[i].events, now);
    (void)mt_vs_mux_from_guest(&w->mux, &w->tx, &w->mem, now);
    (void)mt_vs_mux_to_guest(&w->mux, &w->rx, &w->mem, now);
    mt_vs_ring_notify(&w->rx);
    mt_vs_ring_notify(&w->tx);
    (void)mt_vs_mux_tick(&w->mux, now);
    MT_ASSERT(w->mux.conn_count <= MT_VS_CONN_MAX && w->mux.rst_count <= MT_VS_RST_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mt_rd in = mt_rd_of(data, size);
    struct world *w = calloc(1, sizeof *w);
    uint8_t *mem = malloc(KIT_MEM); /* exactly: the sanitizer sees one byte too far */
    int64_t now = 1000;
    if (!w || !mem)
        abort();
    for (int i = 0; i < HOSTS; i++)
        w->host[i] = -1;
    kit_init(&w->kit, mem);
    kit_offer_rx(&w->kit, KIT_NUM / 2);
    if (kit_map(&w->rx, &w->mem, &w->kit, 0, dup(0)) < 0 || kit_map(&w->tx, &w->mem, &w->kit, 1, dup(0)) < 0)
        abort();
    mt_vs_mux_init(&w->mux, KIT_CID, epoll_create1(EPOLL_CLOEXEC), dial, w);
    for (int step = 0; step < STEPS && in.left > 0; step++) {
        switch (mt_rd_u8(&in) % 8) {
        case 0: { /* scribble */
            size_t at = mt_rd_le32(&in) % KIT_MEM, n = mt_rd_u8(&in) % 64;
            const uint8_t *bytes = mt_rd_bytes(&in, n);
            if (bytes && at + n <= KIT_MEM)
                memcpy(mem + at, bytes, n);
            break;
        }
        case 1: { /* one descriptor, near the truth or not */
            int q = mt_rd_u8(&in) & 1;
            unsigned i = mt_rd_u8(&in) % KIT_NUM;
            uint64_t gpa = KIT_GPA + mt_rd_le32(&in) % (KIT_MEM + 64);
            uint32_t len = mt_rd_le16(&in);
            kit_desc(&w->kit, q, i, gpa, len, mt_rd_u8(&in) & 7, mt_rd_u8(&in) % (KIT_NUM + 2));
            kit_offer(&w->kit, q, (uint16_t)i);
            break;
        }
        case 2:
        case 3:
        case 4:
            guest_sends(w, &in);
            break;
        case 5:
            host_connects(w, &in, now);
            break;
        case 6:
            host_acts(w, &in);
            break;
        default:
            now += mt_rd_le16(&in);
            if (mt_rd_u8(&in) == 0)
                mt_vs_mux_reset(&w->mux);
        }
        turn(w, now);
    }
    mt_vs_mux_reset(&w->mux);
    MT_ASSERT(w->mux.conn_count == 0);
    (void)close(w->mux.epoll_fd);
    mt_vs_ring_done(&w->rx);
    mt_vs_ring_done(&w->tx);
    for (int i = 0; i < HOSTS; i++) {
        if (w->host[i] >= 0)
            (void)close(w->host[i]);
    }
    free(mem);
    free(w);
    return 0;
}
