/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-vsock packet header: see packet.h. */
#include "vsock/packet.h"

#include "base/rd.h"

#include <endian.h>

size_t mt_vs_packet_slice(const struct mt_vs_chain *chain, size_t skip, size_t max, struct iovec *ret_iov)
{
    size_t n = 0;
    for (size_t i = 0; i < chain->count && max > 0; i++) {
        size_t len = chain->iov[i].iov_len;
        if (len <= skip) {
            skip -= len;
            continue;
        }
        size_t take = len - skip < max ? len - skip : max;
        ret_iov[n++] = (struct iovec){.iov_base = (uint8_t *)chain->iov[i].iov_base + skip, .iov_len = take};
        skip = 0;
        max -= take;
    }
    return n;
}

int mt_vs_packet_parse(struct mt_vs_chain *chain, struct mt_vs_hdr *ret_hdr)
{
    uint8_t raw[MT_VS_HDR_LEN];
    struct iovec part[MT_VS_CHAIN_MAX];
    size_t have = 0;
    if (chain->bytes < MT_VS_HDR_LEN)
        return -1;
    size_t n = mt_vs_packet_slice(chain, 0, MT_VS_HDR_LEN, part);
    for (size_t i = 0; i < n; i++) { /* one copy, then guest memory is not read again */
        memcpy(raw + have, part[i].iov_base, part[i].iov_len);
        have += part[i].iov_len;
    }
    struct mt_rd r = mt_rd_of(raw, sizeof raw);
    struct mt_vs_hdr h;
    h.src_cid = mt_rd_le64(&r);
    h.dst_cid = mt_rd_le64(&r);
    h.src_port = mt_rd_le32(&r);
    h.dst_port = mt_rd_le32(&r);
    h.len = mt_rd_le32(&r);
    h.type = mt_rd_le16(&r);
    h.op = mt_rd_le16(&r);
    h.flags = mt_rd_le32(&r);
    h.buf_alloc = mt_rd_le32(&r);
    h.fwd_cnt = mt_rd_le32(&r);
    if (h.len > MT_VS_PAYLOAD_MAX || h.len > chain->bytes - MT_VS_HDR_LEN)
        return -1;
    n = mt_vs_packet_slice(chain, MT_VS_HDR_LEN, h.len, part);
    memcpy(chain->iov, part, n * sizeof part[0]);
    chain->count = n;
    chain->bytes = h.len;
    *ret_hdr = h;
    return 0;
}

static uint8_t *put(uint8_t *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        *p++ = (uint8_t)(v >> (8 * i));
    return p;
}

void mt_vs_packet_put(const struct mt_vs_chain *chain, const struct mt_vs_hdr *h)
{
    uint8_t raw[MT_VS_HDR_LEN];
    uint8_t *p = raw;
    p = put(p, h->src_cid, 8);
    p = put(p, h->dst_cid, 8);
    p = put(p, h->src_port, 4);
    p = put(p, h->dst_port, 4);
    p = put(p, h->len, 4);
    p = put(p, h->type, 2);
    p = put(p, h->op, 2);
    p = put(p, h->flags, 4);
    p = put(p, h->buf_alloc, 4);
    (void)put(p, h->fwd_cnt, 4);
    struct iovec part[MT_VS_CHAIN_MAX];
    size_t n = mt_vs_packet_slice(chain, 0, MT_VS_HDR_LEN, part);
    size_t done = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(part[i].iov_base, raw + done, part[i].iov_len);
        done += part[i].iov_len;
    }
}
