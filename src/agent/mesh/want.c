/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's mesh section in binary. See want.h. */
#include "agent/mesh/want.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <stdlib.h>

static int read_key(const char *text, const struct mt_plan_rotation *r, struct mt_mesh_key *ret, struct mt_err *err)
{
    int rc = mt_wg_key_decode(text, ret->now, err);
    if (rc == 0 && r->next_public_key) {
        rc = mt_wg_key_decode(r->next_public_key, ret->next, err);
        ret->has_next = true;
        ret->cutover_ms = (int64_t)r->cutover_unix_ms;
    }
    return rc;
}

static int read_peer(const struct mt_plan_peer *p, struct mt_mesh_peer *ret, struct mt_err *err)
{
    int rc = read_key(p->public_key, &p->rotation, &ret->key, err);
    (void)snprintf(ret->node_id, sizeof ret->node_id, "%s", p->node_id);
    ret->keepalive = (uint16_t)p->keepalive;
    for (size_t i = 0; rc == 0 && i < p->allowed_ips.n; i++) {
        char addr[INET6_ADDRSTRLEN];
        size_t len = strcspn(p->allowed_ips.v[i], "/");
        if (len >= sizeof addr)
            return MT_FAIL(err, MT_E_INVALID, "%s: not a prefix", p->node_id);
        memcpy(addr, p->allowed_ips.v[i], len);
        addr[len] = '\0';
        if (inet_pton(AF_INET6, addr, MT_STREQ(p->allowed_ips.v[i] + len, "/80") ? &ret->prefix : &ret->addr) != 1)
            return MT_FAIL(err, MT_E_INVALID, "%s: not a prefix", p->node_id);
    }
    for (size_t i = 0; rc == 0 && i < p->endpoints.n && ret->n_endpoints < MT_MESH_ENDPOINTS; i++) {
        struct sockaddr_storage ss;
        socklen_t slen;
        char host[INET6_ADDRSTRLEN];
        char *at = ret->endpoints[ret->n_endpoints];
        rc = mt_mesh_endpoint_parse(p->endpoints.v[i], &ss, &slen, err);
        if (rc < 0)
            break;
        /* one spelling, so that what the device says can be compared */
        if (ss.ss_family == AF_INET6) {
            const struct sockaddr_in6 *v6 = (const void *)&ss;
            (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
            (void)snprintf(at, MT_MESH_ENDPOINT_LEN, "[%s]:%u", host, (unsigned)ntohs(v6->sin6_port));
        } else {
            const struct sockaddr_in *v4 = (const void *)&ss;
            (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
            (void)snprintf(at, MT_MESH_ENDPOINT_LEN, "%s:%u", host, (unsigned)ntohs(v4->sin_port));
        }
        ret->n_endpoints++;
    }
    return rc;
}

int mt_mesh_want_new(const struct mt_plan_network *n, struct mt_mesh_want **ret, struct mt_err *err)
{
    struct mt_mesh_want *w = calloc(1, sizeof *w + n->n_peers * sizeof w->peers[0]);
    int rc = w ? 0 : MT_FAIL(err, MT_E_NOMEM, "mesh: out of memory");
    if (rc == 0) {
        w->refs = 1;
        w->revision = n->mesh.revision;
        w->key_generation = n->mesh.key_generation;
        w->rotate = n->mesh.rotate;
        w->port = (uint16_t)n->mesh.listen_port;
        w->mtu = n->mtu;
        w->n = n->n_peers;
        rc = read_key(n->mesh.public_key, &n->mesh.rotation, &w->key, err);
    }
    if (rc == 0 && inet_pton(AF_INET6, n->overlay_ipv6, &w->own) != 1)
        rc = MT_FAIL(err, MT_E_INVALID, "'%s' is not an IPv6 address", n->overlay_ipv6);
    for (size_t i = 0; rc == 0 && i < w->n; i++)
        rc = read_peer(&n->peers[i], &w->peers[i], err);
    if (rc < 0) {
        free(w);
        return rc;
    }
    *ret = w;
    return 0;
}

struct mt_mesh_want *mt_mesh_want_ref(struct mt_mesh_want *w)
{
    if (w)
        (void)__atomic_add_fetch(&w->refs, 1, __ATOMIC_RELAXED);
    return w;
}

void mt_mesh_want_unref(struct mt_mesh_want *w)
{
    if (w && __atomic_sub_fetch(&w->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(w);
}

const uint8_t *mt_mesh_key_at(const struct mt_mesh_key *k, int64_t now_ms)
{
    return k->has_next && now_ms >= k->cutover_ms ? k->next : k->now;
}

static int64_t sooner(const struct mt_mesh_key *k, int64_t now_ms, int64_t best)
{
    return k->has_next && k->cutover_ms > now_ms && k->cutover_ms < best ? k->cutover_ms : best;
}

int64_t mt_mesh_next_cutover(const struct mt_mesh_want *w, int64_t now_ms)
{
    int64_t best = sooner(&w->key, now_ms, INT64_MAX);
    for (size_t i = 0; i < w->n; i++)
        best = sooner(&w->peers[i].key, now_ms, best);
    return best;
}
