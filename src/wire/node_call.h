/* SPDX-License-Identifier: Apache-2.0 */
/* What every call of an agent or an edge to the control plane says of its caller (docs/api/internal.md): its version, and the protocols that it
 * speaks. The other side refuses a caller with which it shares none (426 agent_incompatible) before it acts on a field that it would misread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct mt_http_client;

#define MT_NODE_PROTOCOL "node/1" /* of the calls; another number when an old reader would misunderstand a new caller */
#define MT_NODE_PROTOCOL_FAMILY "node/"
#define MT_NODE_VERSION_HEADER "X-Moat-Agent-Version"
#define MT_NODE_PROTOCOL_HEADER "X-Moat-Protocol"

/** Say both with every request of @c. */
void mt_node_call_says(struct mt_http_client *c);

/**
 * Is there one that we speak in @list, "node/1, node/2"? Words of other families are not looked at; with none of ours the caller is one of before
 * there were names, which spoke the first. NULL and "" likewise.
 */
bool mt_node_protocol_shared(const char *list);
