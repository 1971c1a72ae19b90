/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's side of two virtqueues on plain memory: what a driver does, and every way to do it wrong. Header only, for tests. */
#pragma once

#include "vsock/mux.h"

#include <string.h>

enum { KIT_NUM = 64, KIT_BUF = 4096, KIT_CID = 3, KIT_MEM = 1 << 20 };
/* guest physical layout; the front end's addresses are the same plus KIT_UVA */
enum { KIT_RX = 0x0, KIT_TX = 0x4000, KIT_AVAIL = 0x1000, KIT_USED = 0x2000, KIT_RX_BUFS = 0x10000, KIT_TX_BUFS = 0x60000 };
#define KIT_GPA UINT64_C(0x1000)
#define KIT_UVA UINT64_C(0x7f0000000000)

struct kit {
    uint8_t *mem;
    uint16_t avail[2]; /* driver's avail.idx of rx, tx */
    uint16_t seen[2];  /* used entries taken */
};

static inline void kit_put16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static inline uint16_t kit_get16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static inline uint8_t *kit_ring(struct kit *k, int q)
{
    return k->mem + (q ? KIT_TX : KIT_RX);
}

static inline void kit_desc(struct kit *k, int q, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    uint8_t *d = kit_ring(k, q) + i * 16;
    memcpy(d, &gpa, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &flags, 2);
    memcpy(d + 14, &next, 2);
}

/* Offer chain @head. */
static inline void kit_offer(struct kit *k, int q, uint16_t head)
{
    uint8_t *a = kit_ring(k, q) + KIT_AVAIL;
    kit_put16(a + 4 + 2 * (k->avail[q] % KIT_NUM), head);
    k->avail[q]++;
    kit_put16(a + 2, k->avail[q]);
}

static inline uint64_t kit_buf(int q, unsigned i)
{
    return KIT_GPA + (q ? KIT_TX_BUFS : KIT_RX_BUFS) + (uint64_t)i * KIT_BUF;
}

static inline void kit_init(struct kit *k, uint8_t *mem)
{
    *k = (struct kit){.mem = mem};
    memset(mem, 0, KIT_MEM);
    for (unsigned i = 0; i < KIT_NUM; i++)
        kit_desc(k, 0, i, kit_buf(0, i), KIT_BUF, 2, 0);
}

static inline void kit_offer_rx(struct kit *k, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        kit_offer(k, 0, (uint16_t)i);
}

/* Attach a device ring to queue @q of the kit. */
static inline int kit_map(struct mt_vs_ring *r, struct mt_vs_mem *m, const struct kit *k, int q, int kick_fd)
{
    if (m->count == 0)
        m->region[m->count++] = (struct mt_vs_region){.gpa = KIT_GPA, .uva = KIT_UVA, .size = KIT_MEM, .base = k->mem};
    mt_vs_ring_init(r);
    r->num = KIT_NUM;
    r->desc_uva = KIT_UVA + (q ? KIT_TX : KIT_RX);
    r->avail_uva = r->desc_uva + KIT_AVAIL;
    r->used_uva = r->desc_uva + KIT_USED;
    r->addr_set = true;
    r->kick_fd = kick_fd;
    r->enabled = true;
    return mt_vs_ring_map(r, m, NULL);
}

static inline void kit_le(uint8_t **p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        *(*p)++ = (uint8_t)(v >> (8 * i));
}

/* Next used entry of @q: its head and length; -1 when there is none. */
static inline int kit_used(struct kit *k, int q, uint32_t *ret_len)
{
    uint8_t *u = kit_ring(k, q) + KIT_USED;
    uint32_t e[2];
    if (kit_get16(u + 2) == k->seen[q])
        return -1;
    memcpy(e, u + 4 + 8 * (k->seen[q] % KIT_NUM), 8);
    k->seen[q]++;
    *ret_len = e[1];
    return (int)e[0];
}

/* True when a tx buffer is free: at most KIT_NUM under way. Buffers are used in turn. */
static inline bool kit_tx_free(struct kit *k)
{
    uint32_t len;
    while (kit_used(k, 1, &len) >= 0) {
    }
    return (uint16_t)(k->avail[1] - k->seen[1]) < KIT_NUM;
}

/* Send one packet in one descriptor; payload at most KIT_BUF - 44. */
static inline void kit_send_hdr(struct kit *k, const struct mt_vs_hdr *h, const void *data, uint32_t len)
{
    unsigned i = k->avail[1] % KIT_NUM;
    uint8_t *b = k->mem + KIT_TX_BUFS + i * KIT_BUF, *p = b;
    kit_le(&p, h->src_cid, 8);
    kit_le(&p, h->dst_cid, 8);
    kit_le(&p, h->src_port, 4);
    kit_le(&p, h->dst_port, 4);
    kit_le(&p, h->len, 4);
    kit_le(&p, h->type, 2);
    kit_le(&p, h->op, 2);
    kit_le(&p, h->flags, 4);
    kit_le(&p, h->buf_alloc, 4);
    kit_le(&p, h->fwd_cnt, 4);
    if (len)
        memcpy(p, data, len);
    kit_desc(k, 1, i, kit_buf(1, i), MT_VS_HDR_LEN + len, 0, 0);
    kit_offer(k, 1, (uint16_t)i);
}

struct kit_stream {
    uint32_t guest_port, host_port;
    uint32_t buf_alloc, fwd_cnt; /* what we tell: room for data from the host */
    uint32_t peer_alloc, peer_fwd, sent;
};

static inline void kit_send(struct kit *k, struct kit_stream *s, enum mt_vs_op op, uint32_t flags, const void *data, uint32_t len)
{
    struct mt_vs_hdr h = {.src_cid = KIT_CID, .dst_cid = MT_VS_CID_HOST, .src_port = s->guest_port, .dst_port = s->host_port, .len = len,
        .type = MT_VS_TYPE_STREAM, .op = (uint16_t)op, .flags = flags, .buf_alloc = s->buf_alloc, .fwd_cnt = s->fwd_cnt};
    kit_send_hdr(k, &h, data, len);
    s->sent += len;
}

/* Next packet from the device: 1 and filled (payload copied to @data), 0 none. The buffer is offered again at once. */
static inline int kit_recv(struct kit *k, struct mt_vs_hdr *h, uint8_t *data)
{
    uint32_t len;
    int head = kit_used(k, 0, &len);
    if (head < 0)
        return 0;
    struct mt_vs_chain c = {.count = 1, .bytes = len, .iov = {{.iov_base = k->mem + KIT_RX_BUFS + (unsigned)head * KIT_BUF, .iov_len = len}}};
    if (mt_vs_packet_parse(&c, h) < 0)
        return -1;
    if (data && h->len)
        memcpy(data, c.iov[0].iov_base, h->len);
    kit_offer(k, 0, (uint16_t)head);
    return 1;
}
