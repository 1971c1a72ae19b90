/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PROXY protocol version 2, writing side only: the header that tells a backend who the client is.
 * Knows bytes and addresses; opens nothing, sends nothing. Source: networking.md 9, haproxy.org proxy-protocol.txt 2.2.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define MT_PROXY2_ID_LEN 16U
/* fixed part, IPv6 addresses, AUTHORITY of 255 bytes, UNIQUE_ID, CRC32C */
#define MT_PROXY2_MAX (16U + 36U + (3U + 255U) + (3U + MT_PROXY2_ID_LEN) + (3U + 4U))
#define MT_PROXY2_LOCAL_LEN 16U

struct mt_proxy2 {
    const struct sockaddr *src; /* the client as accept saw it; AF_INET or AF_INET6 */
    const struct sockaddr *dst; /* local address of the accepted socket; same family */
    bool tlv;                   /* add the TLVs below, in this order, and CRC32C at the end */
    const char *authority;      /* server name, may be NULL; not NUL-terminated */
    size_t authority_len;       /* 0..255 */
    const uint8_t *unique_id;   /* MT_PROXY2_ID_LEN bytes, may be NULL */
};

/**
 * Write the header for a proxied TCP connection.
 *
 * @ret_buf, @cap  room, MT_PROXY2_MAX is always enough
 * @ret_len        bytes written: 52 (IPv6) or 28 (IPv4) without TLVs
 * v4-mapped addresses are unmapped. Errors: -MT_E_INVALID mixed or foreign families, authority
 * over 255 bytes; -MT_E_LIMIT room too small. Nothing is written then.
 */
int mt_proxy2_encode(const struct mt_proxy2 *h, uint8_t *ret_buf, size_t cap, size_t *ret_len, struct mt_err *err);

/** The 16-byte LOCAL header, for health checks of a port that expects PROXY; never for client traffic. */
void mt_proxy2_local(uint8_t ret_buf[MT_PROXY2_LOCAL_LEN]);
