/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes as the calls of agents and edges meet them: who is at the other end, and what their record says. On the machine's own Unix socket the
 * peer's uid is the identity (ruling R26), on the node listener its certificate: signed by our authority, named in its URI, not revoked, of a
 * node that is not disabled. Asked for every request anew.
 */
#pragma once

#include "control/api/call.h"
#include "control/nodes/ca.h"
#include "model/plan.h"

/* The one call that an expired certificate is good for. */
#define MT_NODE_CERT_PATH "/internal/v1/nodes/self/cert"

/* Setting of a node that no agent reads: its edge is drained (api/edges.c). Row @n of nodes_view. */
#define MT_NODE_EDGE_DRAIN "edge_drain"
#define MT_SQL_EDGE_DRAINS(n) "coalesce(" n ".config->'" MT_NODE_EDGE_DRAIN "' = 'true'::jsonb, false)"

struct mt_node {
    char node_id[MT_ID_SIZE];
    char name[64];
    char admin_state[24];
    char health[16];
    char overlay_ipv6[50], instance_prefix[50];
    char wireguard_key[80]; /* "local:..." while the machine's own node has none */
    int key_generation;
    bool edge;              /* it has that role */
    bool local;             /* of this machine, without a certificate */
    int64_t version;
};

/** By id. -MT_E_NOT_FOUND when it is not there or removed. */
int mt_node_find(struct mt_pg *pg, const char *node_id, struct mt_node *ret, struct mt_err *err);
/** The node of the machine that this server runs on. -MT_E_NOT_FOUND before its first heartbeat. */
int mt_node_find_local(struct mt_pg *pg, struct mt_node *ret, struct mt_err *err);

/** What ends with a node's identity, in the command @cmd that ends it: its certificates count no more. */
int mt_node_cmd_certs_end(struct mt_cmd *cmd, const char *node_id, struct mt_err *err);
/** Asked under the append lock: no volume lives on the node, or @cmd is stale. */
int mt_node_cmd_no_volumes(struct mt_cmd *cmd, const char *node_id, struct mt_err *err);

/** The caller of a request must be the agent (or edge) of a node. 0 with the node, or -1 (problem recorded): 403 forbidden, 403
 *  node_disabled, 409 before the machine's own node is enrolled. */
int mt_node_caller(struct mt_api_call *c, enum mt_cert_kind kind, struct mt_node *ret);
/** Does the caller speak a protocol that we do (wire/node_call.h)? Asked of every call of agents and edges, before who it is. 0 or -1 (426
 *  agent_incompatible). @protocols: those of its heartbeat, or NULL for what the request's head says. */
int mt_node_call_protocol(struct mt_api_call *c, const struct mt_strings *protocols);
/** Only the question of the Unix socket: is the peer this machine's agent? 0 or -1. For the heartbeat that makes the record. */
int mt_node_local_agent(struct mt_api_call *c);
/** Append one event about @n, said by itself and valid only for the row that was looked at. 0: it is in the log; 1: the row has changed, look again; -1: a
 *  problem is recorded. @payload passes. */
int mt_node_append(struct mt_api_call *c, const struct mt_node *n, enum mt_ev ev, json_t *payload);
/** Member `endpoints` of a request, where a node's WireGuard is reached: borrowed, NULL when there is none. 0 or -1 (problem recorded). */
int mt_node_call_endpoints(struct mt_api_call *c, json_t **ret);
/** True when the request came over the machine's own socket. */
bool mt_node_call_is_local(const struct mt_api_call *c);
