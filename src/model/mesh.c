/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of a mesh section. See mesh.h. */
#include "model/mesh.h"

#include "base/assert.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

#include <arpa/inet.h>

/* Points of order 1, 2, 4, 8 and their other spellings, little endian (RFC 7748 6.1; the list that libsodium refuses too). Bit 255
 * is ignored by X25519, so it is ignored here. */
static const uint8_t low_order[][MT_WG_KEY_LEN] = {
    {0},
    {1},
    {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
     0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
    {0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
     0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
    {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
    {0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
};

int mt_wg_key_decode(const char *text, uint8_t ret[MT_WG_KEY_LEN], struct mt_err *err)
{
    uint8_t key[MT_WG_KEY_LEN + 3];

    if (strlen(text) != 44 || text[43] != '=' || mt_b64_decode(text, 44, key, sizeof key) != MT_WG_KEY_LEN)
        return MT_FAIL(err, MT_E_INVALID, "a WireGuard key is 44 characters of base64 (32 bytes)");
    uint8_t masked[MT_WG_KEY_LEN];
    memcpy(masked, key, sizeof masked);
    masked[31] &= 0x7f;
    for (size_t i = 0; i < MT_ARRAY_LEN(low_order); i++)
        if (memcmp(low_order[i], masked, sizeof masked) == 0)
            return MT_FAIL(err, MT_E_INVALID, "the WireGuard key is a point of low order, which no key generator gives");
    memcpy(ret, key, MT_WG_KEY_LEN);
    return 0;
}

int mt_mesh_endpoint_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len, struct mt_err *err)
{
    struct sockaddr_storage ss = {0};
    char host[INET6_ADDRSTRLEN];
    bool six = *text == '[';
    const char *colon = strrchr(text, ':'), *begin = text + six;
    const char *end = six && colon > text && colon[-1] == ']' ? colon - 1 : colon;
    size_t n = colon && end > begin ? (size_t)(end - begin) : 0;
    uint64_t port;

    if (n == 0 || n >= sizeof host || (six && *end != ']') || mt_parse_u64(colon + 1, 1, 65535, &port, NULL) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%.64s' is not address:port", text);
    memcpy(host, begin, n);
    host[n] = '\0';
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ss;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&ss;
    if (six && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        *ret_len = sizeof *v6;
    } else if (!six && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *ret_len = sizeof *v4;
    } else {
        return MT_FAIL(err, MT_E_INVALID, "'%.64s' is not address:port (names are not resolved)", text);
    }
    *ret = ss;
    return 0;
}

struct net {
    struct in6_addr addr;
    unsigned len;
};

/* "address/length", host bits zero. */
static bool net_parse(const char *text, struct net *ret)
{
    char addr[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : sizeof addr;
    uint64_t len;

    if (n >= sizeof addr || mt_parse_u64(slash + 1, 0, 128, &len, NULL) < 0)
        return false;
    memcpy(addr, text, n);
    addr[n] = '\0';
    if (inet_pton(AF_INET6, addr, &ret->addr) != 1)
        return false;
    for (unsigned bit = (unsigned)len; bit < 128; bit++)
        if (ret->addr.s6_addr[bit / 8] & (0x80u >> (bit % 8)))
            return false;
    ret->len = (unsigned)len;
    return true;
}

static bool inside(const struct net *n, const struct net *of)
{
    if (n->len < of->len)
        return false;
    for (unsigned bit = 0; bit < of->len; bit++)
        if ((n->addr.s6_addr[bit / 8] ^ of->addr.s6_addr[bit / 8]) & (0x80u >> (bit % 8)))
            return false;
    return true;
}

/* What may be there once only: a key, a /128, or the first ten bytes of a /80. Unused bytes are zero. @owner NULL: the node itself. */
struct claim {
    uint8_t bytes[MT_WG_KEY_LEN];
    const char *owner;
};

struct claims {
    struct claim *v; /* owned */
    size_t n;
};

static void claims_done(struct claims *c)
{
    free(c->v);
}

static int by_bytes(const void *a, const void *b)
{
    return memcmp(((const struct claim *)a)->bytes, ((const struct claim *)b)->bytes, MT_WG_KEY_LEN);
}

static void claim(struct claims *c, const void *bytes, size_t n, const char *owner)
{
    struct claim *e = &c->v[c->n++];
    *e = (struct claim){.owner = owner};
    memcpy(e->bytes, bytes, n);
}

static const char *name(const char *owner)
{
    return owner ? owner : "this node";
}

static int no_doubles(struct claims *c, const char *what, struct mt_err *err)
{
    qsort(c->v, c->n, sizeof *c->v, by_bytes);
    for (size_t i = 1; i < c->n; i++)
        if (by_bytes(&c->v[i - 1], &c->v[i]) == 0)
            return MT_FAIL(err, MT_E_INVALID, "%s and %s have the same %s", name(c->v[i - 1].owner), name(c->v[i].owner), what);
    return 0;
}

static int claim_key(struct claims *c, const char *text, const char *owner, struct mt_err *err)
{
    uint8_t key[MT_WG_KEY_LEN];
    int rc = text ? mt_wg_key_decode(text, key, err) : 0;
    if (rc < 0)
        return mt_err_wrap(err, "%s", name(owner));
    if (text)
        claim(c, key, sizeof key, owner);
    return 0;
}

static int check_peer(const struct mt_plan_peer *p, const struct net *cluster, struct net *ret_addr, struct net *ret_prefix,
                      struct mt_err *err)
{
    struct net a[2];
    struct sockaddr_storage ss;
    socklen_t len;

    if (p->allowed_ips.n != 2)
        return MT_FAIL(err, MT_E_INVALID, "%s has %zu allowed addresses instead of its own and its prefix", p->node_id, p->allowed_ips.n);
    for (size_t i = 0; i < 2; i++)
        if (!net_parse(p->allowed_ips.v[i], &a[i]) || !inside(&a[i], cluster))
            return MT_FAIL(err, MT_E_INVALID, "%s: '%s' is not a prefix inside the cluster's", p->node_id, p->allowed_ips.v[i]);
    if (a[0].len < a[1].len) { /* whichever order */
        struct net swap = a[0];
        a[0] = a[1];
        a[1] = swap;
    }
    if (a[0].len != 128 || a[1].len != 80)
        return MT_FAIL(err, MT_E_INVALID, "%s: allowed addresses are one /128 and one /80", p->node_id);
    for (size_t i = 0; i < p->endpoints.n; i++)
        if (mt_mesh_endpoint_parse(p->endpoints.v[i], &ss, &len, err) < 0)
            return mt_err_wrap(err, "%s", p->node_id);
    *ret_addr = a[0];
    *ret_prefix = a[1];
    return 0;
}

bool mt_mesh_endpoint_inside(const struct sockaddr_storage *ss, const char *cluster_prefix)
{
    struct net cluster, at = {.len = 128};
    if (ss->ss_family != AF_INET6 || !net_parse(cluster_prefix, &cluster))
        return false;
    memcpy(&at.addr, &((const struct sockaddr_in6 *)ss)->sin6_addr, sizeof at.addr);
    return inside(&at, &cluster);
}

int mt_mesh_check(const struct mt_plan_network *n, const char *self_id, struct mt_err *err)
{
    struct mt_err own = {0};
    struct net cluster, addr = {.len = 128}, prefix;
    int rc;

    err = err ? err : &own;
    if (!n->mesh.present)
        return n->n_peers == 0 ? 0 : MT_FAIL(err, MT_E_INVALID, "there are peers but no mesh");
    if (!net_parse(n->cluster_prefix, &cluster) || cluster.len < 40 || cluster.len > 56)
        return MT_FAIL(err, MT_E_INVALID, "the cluster prefix '%s' is not of length 40 to 56", n->cluster_prefix);
    if (inet_pton(AF_INET6, n->overlay_ipv6, &addr.addr) != 1 || !inside(&addr, &cluster) || !net_parse(n->instance_prefix, &prefix) ||
        prefix.len != 80 || !inside(&prefix, &cluster))
        return MT_FAIL(err, MT_E_INVALID, "this node's own address or prefix is not inside the cluster's");
    if (n->n_peers > MT_MESH_PEERS_MAX)
        return MT_FAIL(err, MT_E_INVALID, "%zu peers; a full mesh holds at most %d", n->n_peers, MT_MESH_PEERS_MAX);
    mt_cleanup(claims_done) struct claims keys = {.v = calloc(2 * (n->n_peers + 1), sizeof(struct claim))};
    mt_cleanup(claims_done) struct claims addrs = {.v = calloc(n->n_peers + 1, sizeof(struct claim))};
    mt_cleanup(claims_done) struct claims prefixes = {.v = calloc(n->n_peers + 1, sizeof(struct claim))};
    if (!keys.v || !addrs.v || !prefixes.v)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    claim(&addrs, addr.addr.s6_addr, 16, NULL);
    claim(&prefixes, prefix.addr.s6_addr, 10, NULL);
    if ((rc = claim_key(&keys, n->mesh.public_key, NULL, err)) < 0 || (rc = claim_key(&keys, n->mesh.rotation.next_public_key, NULL, err)) < 0)
        return rc;
    for (size_t i = 0; i < n->n_peers; i++) {
        const struct mt_plan_peer *p = &n->peers[i];
        if (MT_STREQ(p->node_id, self_id))
            return MT_FAIL(err, MT_E_INVALID, "%s is listed as its own peer", self_id);
        if ((rc = check_peer(p, &cluster, &addr, &prefix, err)) < 0 || (rc = claim_key(&keys, p->public_key, p->node_id, err)) < 0 ||
            (rc = claim_key(&keys, p->rotation.next_public_key, p->node_id, err)) < 0)
            return rc;
        claim(&addrs, addr.addr.s6_addr, 16, p->node_id);
        claim(&prefixes, prefix.addr.s6_addr, 10, p->node_id);
    }
    if ((rc = no_doubles(&keys, "WireGuard key", err)) < 0 || (rc = no_doubles(&addrs, "address", err)) < 0 ||
        (rc = no_doubles(&prefixes, "instance prefix", err)) < 0)
        return rc;
    /* Lengths are 128 and 80 only, so what is left of overlapping is an address inside somebody's prefix. */
    for (size_t i = 0; i < addrs.n; i++) {
        struct claim head = {0};
        memcpy(head.bytes, addrs.v[i].bytes, 10);
        const struct claim *in = bsearch(&head, prefixes.v, prefixes.n, sizeof head, by_bytes);
        if (in)
            return MT_FAIL(err, MT_E_INVALID, "the address of %s lies in the instance prefix of %s", name(addrs.v[i].owner), name(in->owner));
    }
    return 0;
}

bool mt_mesh_mass_removal(const struct mt_plan_network *have, const struct mt_plan_network *want)
{
    size_t gone = 0, k = 0;

    for (size_t i = 0; i < have->n_peers; i++) {
        for (k = 0; k < want->n_peers; k++)
            if (MT_STREQ(have->peers[i].node_id, want->peers[k].node_id))
                break;
        gone += k == want->n_peers;
    }
    return have->n_peers >= 4 && gone * 2 > have->n_peers;
}
