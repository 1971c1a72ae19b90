/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-vsock packet header on the wire (44 bytes, little endian) and its copy to and from buffer chains.
 * Pure; judges nothing but lengths.
 *
 * Source: virtio 1.2, 5.10.6.
 */
#pragma once

#include "vsock/ring.h"

enum { MT_VS_HDR_LEN = 44 };
enum { MT_VS_PAYLOAD_MAX = 64 * 1024 }; /* bytes of one packet, as Linux */
enum { MT_VS_TYPE_STREAM = 1 };
enum { MT_VS_CID_HOST = 2 };

enum mt_vs_op {
    MT_VS_OP_INVALID = 0,
    MT_VS_OP_REQUEST,
    MT_VS_OP_RESPONSE,
    MT_VS_OP_RST,
    MT_VS_OP_SHUTDOWN,
    MT_VS_OP_RW,
    MT_VS_OP_CREDIT_UPDATE,
    MT_VS_OP_CREDIT_REQUEST,
    MT_VS_OP_MAX
};

enum { MT_VS_SHUT_RCV = 1, MT_VS_SHUT_SEND = 2, MT_VS_SHUT_BOTH = 3 };

struct mt_vs_hdr {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len; /* payload bytes */
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc; /* sender's receive buffer for this connection, bytes */
    uint32_t fwd_cnt;   /* bytes the sender has taken out of it so far, modulo 2^32 */
};

/**
 * Read the header out of a readable chain and leave the payload.
 *
 * @chain     as peeked; on success its iov covers exactly hdr->len payload bytes
 * Returns 0; -1 the chain is shorter than the header, the payload longer than the chain or than MT_VS_PAYLOAD_MAX.
 */
int mt_vs_packet_parse(struct mt_vs_chain *chain, struct mt_vs_hdr *ret_hdr);

/** Write the header to the front of a writable chain of at least MT_VS_HDR_LEN bytes. */
void mt_vs_packet_put(const struct mt_vs_chain *chain, const struct mt_vs_hdr *hdr);

/** Copy of @chain without its first @skip bytes, at most @max bytes long, into @ret_iov[MT_VS_CHAIN_MAX]; returns the count. */
size_t mt_vs_packet_slice(const struct mt_vs_chain *chain, size_t skip, size_t max, struct iovec *ret_iov);
