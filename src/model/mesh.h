/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must hold of a mesh section before anybody acts on it: asked by the control plane before it publishes one and by
 * every agent before it applies one, with this same code. Pure. Source: networking.md 2.1, 2.2, 2.4; docs/formats/mesh-plan.md.
 */
#pragma once

#include "model/plan.h"

#include <netinet/in.h>

#define MT_WG_KEY_LEN 32
#define MT_MESH_PEERS_WARN 40
#define MT_MESH_PEERS_MAX 200

/**
 * A WireGuard key out of its text: exactly 44 characters of base64 with padding.
 * Returns 0; -MT_E_INVALID: another length or spelling, all zero, or a point of low order (as a public key it would give
 * every sender the same secret).
 */
int mt_wg_key_decode(const char *text, uint8_t ret[MT_WG_KEY_LEN], struct mt_err *err);

/** "192.0.2.1:51820" or "[2001:db8::1]:51820" into a socket address. -MT_E_INVALID: a name, no port, a port of 0. */
int mt_mesh_endpoint_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len, struct mt_err *err);

/** Is the endpoint an address of the cluster @cluster_prefix itself, so that the mesh would be carried over the mesh? */
bool mt_mesh_endpoint_inside(const struct sockaddr_storage *ss, const char *cluster_prefix);

/**
 * Check the mesh of @n as node @self_id would apply it: keys and node ids once each, never its own; every peer with exactly
 * its /128 and its /80, both inside the cluster prefix, none shared, none that of the node itself; endpoints are addresses;
 * a next key that nobody has. A section without `mesh` must have no peers.
 *
 * Returns 0; -MT_E_INVALID with the peer and the reason: the whole section is refused, the last good one stays.
 */
int mt_mesh_check(const struct mt_plan_network *n, const char *self_id, struct mt_err *err);

/** True when going from @have to @want peers takes away more than half of at least four, which needs allow_mass_removal. */
bool mt_mesh_mass_removal(const struct mt_plan_network *have, const struct mt_plan_network *want);
