/* SPDX-License-Identifier: Apache-2.0 */
/* PROXY protocol version 2 encoder. Golden vectors: networking.md 9.1, tests/unit/wire_hello/test_proxy2.c. */
#include "wire/proxy2.h"

#include "base/crc32c.h"

#include <netinet/in.h>
#include <string.h>

enum { TLV_AUTHORITY = 0x02, TLV_CRC32C = 0x03, TLV_UNIQUE_ID = 0x05 };

static const uint8_t signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

/* An address as it goes on the wire: 4 or 16 bytes, network order. */
struct wire_addr {
    size_t len;
    uint8_t ip[16];
    uint8_t port[2];
};

static bool take_addr(const struct sockaddr *sa, struct wire_addr *ret)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        ret->len = 4;
        memcpy(ret->ip, &in.sin_addr, 4);
        memcpy(ret->port, &in.sin_port, 2);
        return true;
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        ret->len = 16;
        memcpy(ret->ip, &in6.sin6_addr, 16);
        memcpy(ret->port, &in6.sin6_port, 2);
        return true;
    }
    return false;
}

static bool is_mapped(const struct wire_addr *a)
{
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return a->len == 16 && memcmp(a->ip, prefix, sizeof prefix) == 0;
}

static void unmap(struct wire_addr *a)
{
    memmove(a->ip, a->ip + 12, 4);
    a->len = 4;
}

static uint8_t *put(uint8_t *p, const void *data, size_t n)
{
    memcpy(p, data, n);
    return p + n;
}

static uint8_t *put_tlv(uint8_t *p, uint8_t type, const void *data, size_t n)
{
    *p++ = type;
    *p++ = (uint8_t)(n >> 8);
    *p++ = (uint8_t)(n & 0xff);
    return put(p, data, n);
}

int mt_proxy2_encode(const struct mt_proxy2 *h, uint8_t *ret_buf, size_t cap, size_t *ret_len, struct mt_err *err)
{
    struct wire_addr src, dst;
    if (!take_addr(h->src, &src) || !take_addr(h->dst, &dst))
        return MT_FAIL(err, MT_E_INVALID, "proxy header: address family is not IPv4 or IPv6");
    if (is_mapped(&src))
        unmap(&src);
    if (is_mapped(&dst))
        unmap(&dst);
    if (src.len != dst.len)
        return MT_FAIL(err, MT_E_INVALID, "proxy header: source and destination are of different families");
    size_t authority = h->tlv && h->authority ? h->authority_len : 0;
    if (authority > 255)
        return MT_FAIL(err, MT_E_INVALID, "proxy header: authority of %zu bytes, at most 255", authority);

    size_t body = 2 * src.len + 4;
    if (authority > 0)
        body += 3 + authority;
    if (h->tlv && h->unique_id)
        body += 3 + MT_PROXY2_ID_LEN;
    if (h->tlv)
        body += 3 + 4;
    size_t total = 16 + body;
    if (total > cap)
        return MT_FAIL(err, MT_E_LIMIT, "proxy header: %zu bytes do not fit in %zu", total, cap);

    uint8_t *p = put(ret_buf, signature, sizeof signature);
    *p++ = 0x21;
    *p++ = src.len == 16 ? 0x21 : 0x11;
    *p++ = (uint8_t)(body >> 8);
    *p++ = (uint8_t)(body & 0xff);
    p = put(p, src.ip, src.len);
    p = put(p, dst.ip, dst.len);
    p = put(p, src.port, 2);
    p = put(p, dst.port, 2);
    if (authority > 0)
        p = put_tlv(p, TLV_AUTHORITY, h->authority, authority);
    if (h->tlv && h->unique_id)
        p = put_tlv(p, TLV_UNIQUE_ID, h->unique_id, MT_PROXY2_ID_LEN);
    if (h->tlv) {
        static const uint8_t zero[4] = {0};
        p = put_tlv(p, TLV_CRC32C, zero, 4);
        uint32_t crc = mt_crc32c(0, ret_buf, total); /* over the whole header, its own field zeroed */
        p[-4] = (uint8_t)(crc >> 24);
        p[-3] = (uint8_t)(crc >> 16);
        p[-2] = (uint8_t)(crc >> 8);
        p[-1] = (uint8_t)crc;
    }
    *ret_len = total;
    return 0;
}

void mt_proxy2_local(uint8_t ret_buf[MT_PROXY2_LOCAL_LEN])
{
    uint8_t *p = put(ret_buf, signature, sizeof signature);
    *p++ = 0x20;
    *p++ = 0x00;
    *p++ = 0x00;
    *p = 0x00;
}
