/* SPDX-License-Identifier: Apache-2.0 */
/* Address arithmetic on 16 bytes. */
#include "control/plans/address.h"

#include "base/num.h"
#include "os/addr.h"
#include "os/file.h"

#include <arpa/inet.h>

static int split(const char *text, unsigned min, unsigned max, struct in6_addr *ret, unsigned *ret_len, struct mt_err *err)
{
    char addr[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    uint64_t len;
    size_t n = slash ? (size_t)(slash - text) : 0;
    if (!slash || n >= sizeof addr)
        return MT_FAIL(err, MT_E_INVALID, "'%.60s' is not an IPv6 prefix", text);
    memcpy(addr, text, n);
    addr[n] = 0;
    if (inet_pton(AF_INET6, addr, ret) != 1 || mt_parse_u64(slash + 1, min, max, &len, NULL) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%.60s' is not an IPv6 prefix of length %u to %u", text, min, max);
    for (unsigned bit = (unsigned)len; bit < 128; bit++)
        if (ret->s6_addr[bit / 8] & (0x80u >> (bit % 8)))
            return MT_FAIL(err, MT_E_INVALID, "'%.60s' has bits set behind its length", text);
    *ret_len = (unsigned)len;
    return 0;
}

int mt_prefix_parse(const char *text, struct in6_addr *ret, unsigned *ret_len, struct mt_err *err)
{
    return split(text, 40, 56, ret, ret_len, err);
}

static bool same_bits(const struct in6_addr *a, const struct in6_addr *b, unsigned len)
{
    return memcmp(a, b, len / 8) == 0 && (len % 8 == 0 || (a->s6_addr[len / 8] ^ b->s6_addr[len / 8]) >> (8 - len % 8) == 0);
}

int mt_prefix_holds(const char *prefix, const char *route, bool *ret, struct mt_err *err)
{
    struct in6_addr p, to;
    unsigned plen, len;
    int rc = mt_prefix_parse(prefix, &p, &plen, err);
    if (rc == 0 && (rc = split(route, 1, 128, &to, &len, err)) == 0)
        *ret = len >= plen && same_bits(&p, &to, plen);
    return rc;
}

void mt_prefix_random_ula(char ret[MT_ADDR_SIZE])
{
    struct in6_addr a = {0};
    char text[INET6_ADDRSTRLEN];
    a.s6_addr[0] = 0xfd;
    mt_random(a.s6_addr + 1, 5);
    snprintf(ret, MT_ADDR_SIZE, "%s/48", inet_ntop(AF_INET6, &a, text, sizeof text));
}

int mt_addr_node(const char *prefix, uint32_t k, char ret[MT_ADDR_SIZE], struct mt_err *err)
{
    struct in6_addr a;
    unsigned len;
    if (mt_prefix_parse(prefix, &a, &len, err) < 0)
        return -MT_E_INVALID;
    if (k < 1 || k > 65535)
        return MT_FAIL(err, MT_E_LIMIT, "no node number is left");
    a.s6_addr[14] = (uint8_t)(k >> 8);
    a.s6_addr[15] = (uint8_t)k;
    (void)inet_ntop(AF_INET6, &a, ret, MT_ADDR_SIZE);
    return 0;
}

int mt_addr_node_prefix(const char *prefix, uint32_t k, char ret[MT_ADDR_SIZE], struct mt_err *err)
{
    struct in6_addr a;
    unsigned len;
    char text[INET6_ADDRSTRLEN];
    if (mt_prefix_parse(prefix, &a, &len, err) < 0)
        return -MT_E_INVALID;
    if (k < 1 || k > 65535)
        return MT_FAIL(err, MT_E_LIMIT, "no node number is left");
    a.s6_addr[7] = 1; /* P:1::/64; P is at most 56 bits long, so this byte is free */
    a.s6_addr[8] = (uint8_t)(k >> 8);
    a.s6_addr[9] = (uint8_t)k;
    snprintf(ret, MT_ADDR_SIZE, "%s/80", inet_ntop(AF_INET6, &a, text, sizeof text));
    return 0;
}

int mt_addr_instance(const char *prefix80, uint64_t n, char ret[MT_ADDR_SIZE], struct mt_err *err)
{
    struct in6_addr a;
    unsigned len;
    if (split(prefix80, 80, 80, &a, &len, err) < 0)
        return -MT_E_INVALID;
    if (n < 1 || n >> 48)
        return MT_FAIL(err, MT_E_LIMIT, "the node has no instance address left");
    for (unsigned i = 0; i < 6; i++)
        a.s6_addr[15 - i] = (uint8_t)(n >> (8 * i));
    (void)inet_ntop(AF_INET6, &a, ret, MT_ADDR_SIZE);
    return 0;
}

int mt_addr_dns_check(const char *text, const char *prefix, struct mt_err *err)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6};
    struct in6_addr p;
    unsigned len;
    if (inet_pton(AF_INET6, text, &at.sin6_addr) != 1)
        return MT_FAIL(err, MT_E_INVALID, "vm_dns: '%s' is no IPv6 address; VMs have no other", text);
    if (prefix && mt_prefix_parse(prefix, &p, &len, NULL) == 0 && same_bits(&p, &at.sin6_addr, len))
        return MT_FAIL(err, MT_E_INVALID, "vm_dns: '%s' is of the cluster: which node has a resolver there says its agent.toml (resolver)", text);
    if (IN6_IS_ADDR_V4MAPPED(&at.sin6_addr) || (at.sin6_addr.s6_addr[0] == 0x20 && at.sin6_addr.s6_addr[1] == 2) || !mt_addr_public((const struct sockaddr *)&at, sizeof at))
        return MT_FAIL(err, MT_E_INVALID, "vm_dns: '%s' is not of the Internet, so no VM may ask it; a resolver of the node's own is 'resolver' of its agent.toml", text);
    return 0;
}
