/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mesh as this node wants it: a plan's section in the form that the device is compared with. Pure.
 *
 * Made only from sections that mt_mesh_check let through. Immutable once made, shared by count between loop and worker.
 * Source: networking.md §2.2, §2.4; docs/formats/mesh-plan.md.
 */
#pragma once

#include "model/ids.h"
#include "model/mesh.h"

#define MT_MESH_ENDPOINTS 8
#define MT_MESH_ENDPOINT_LEN 64

/* A key that takes over from another at a moment known to all. */
struct mt_mesh_key {
    uint8_t now[MT_WG_KEY_LEN], next[MT_WG_KEY_LEN];
    bool has_next;
    int64_t cutover_ms; /* wall clock, Unix */
};

struct mt_mesh_peer {
    char node_id[MT_ID_SIZE];
    struct mt_mesh_key key;
    struct in6_addr addr, prefix; /* its /128 and its /80 */
    uint16_t keepalive; /* s */
    size_t n_endpoints;
    char endpoints[MT_MESH_ENDPOINTS][MT_MESH_ENDPOINT_LEN]; /* as wg(8) writes them */
};

struct mt_mesh_want {
    unsigned refs; /* atomic */
    uint64_t revision, key_generation;
    bool rotate; /* this node is asked for another key */
    uint16_t port;
    uint32_t mtu; /* the cluster's wish, bytes */
    struct in6_addr own;
    struct mt_mesh_key key;
    size_t n;
    struct mt_mesh_peer peers[]; /* in the order of the plan */
};

/** From a section that has `mesh` and was checked. -MT_E_NOMEM; -MT_E_INVALID when it was not checked after all. */
int mt_mesh_want_new(const struct mt_plan_network *n, struct mt_mesh_want **ret, struct mt_err *err);
struct mt_mesh_want *mt_mesh_want_ref(struct mt_mesh_want *w);
void mt_mesh_want_unref(struct mt_mesh_want *w);

/** The key in force at @now_ms. */
const uint8_t *mt_mesh_key_at(const struct mt_mesh_key *k, int64_t now_ms);
/** The first moment after @now_ms at which a key of the mesh changes, INT64_MAX when none does. */
int64_t mt_mesh_next_cutover(const struct mt_mesh_want *w, int64_t now_ms);
