/* SPDX-License-Identifier: Apache-2.0 */
/* Source: IANA special-purpose address registries (RFC 6890 and its updates). */
#include "os/addr.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static bool v4_public(uint32_t a)
{
    static const struct {
        uint32_t net;
        unsigned bits;
    } refused[] = {
        {0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16}, {0xac100000, 12},
        {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24},
        {0xcb007100, 24}, {0xe0000000, 3},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if ((a ^ refused[i].net) >> (32 - refused[i].bits) == 0)
            return false;
    return true;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool v6_public(const uint8_t a[16])
{
    static const uint8_t zero[12] = {0}, nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    if (memcmp(a, zero, 10) == 0 && a[10] == 0xff && a[11] == 0xff)
        return v4_public(be32(a + 12));
    if (memcmp(a, nat64, 12) == 0)
        return v4_public(be32(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02) /* 6to4 */
        return v4_public(be32(a + 2));
    if ((a[0] & 0xe0) != 0x20) /* only 2000::/3 is global unicast */
        return false;
    if (a[0] == 0x20 && a[1] == 0x01 && a[2] < 0x02) /* 2001::/23: Teredo, ORCHID, benchmarks */
        return false;
    if (a[0] == 0x20 && a[1] == 0x01 && a[2] == 0x0d && a[3] == 0xb8) /* documentation */
        return false;
    return !(a[0] == 0x3f && a[1] == 0xff && a[2] < 0x10); /* documentation, 3fff::/20 */
}

bool mt_addr_public(const struct sockaddr *addr, socklen_t len)
{
    if (addr->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, addr, sizeof in);
        return v4_public(ntohl(in.sin_addr.s_addr));
    }
    if (addr->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;
        memcpy(&in6, addr, sizeof in6);
        return v6_public(in6.sin6_addr.s6_addr);
    }
    return false;
}
