/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking agents: one line of JSON asks, NDJSON answers until the connection ends (docs/formats/agent-socket.md).
 *
 * The agent of this machine is behind its Unix socket. One of another machine is at port 5180 of its overlay address, over the mesh, TLS 1.3:
 * this server shows the certificate that its authority made for it, the node the one it was given, which must be for that address and not
 * revoked. A node that did not answer is not tried again for two seconds, so that a dead one cannot hold every worker.
 */
#pragma once

#include "base/buf.h"

#include <jansson.h>

struct mt_control;
struct mt_node_ca;
struct mt_pg;
struct mt_agents;

/** @ca: NULL: there are no agents but this machine's. Never blocks, except for reading the files of @ca. */
int mt_agents_new(const char *socket_path, const struct mt_node_ca *ca, struct mt_agents **ret, struct mt_err *err);
/** The files of @ca have changed: further calls show and trust what they say now. Any thread. On failure all is as before. */
int mt_agents_follow(struct mt_agents *a, const struct mt_node_ca *ca, struct mt_err *err);
/** NULL is fine. */
void mt_agents_free(struct mt_agents *a);

/**
 * Connect to the agent of the node that @instance_id is or was on, and send the request line; the caller reads from @ret_fd (non-blocking)
 * and closes it. @request is taken. @timeout_ms: for all of it.
 * Returns 0; -MT_E_UNAVAILABLE, -MT_E_TIMEOUT the agent cannot be reached now; -MT_E_DENIED the node is disabled, or it is another one that
 * answers there; -MT_E_NOT_FOUND no such instance, or its node was removed; else as the database says.
 */
int mt_agent_open(struct mt_control *ctl, struct mt_pg *pg, const char *instance_id, json_t *request, int timeout_ms, int *ret_fd,
                  struct mt_err *err);

/**
 * Ask and read the whole answer (no follow). @ret: array of the records, owned by the caller.
 * Returns as mt_agent_open; -MT_E_LIMIT more than 8 MiB; -MT_E_CORRUPT.
 */
int mt_agent_ask(struct mt_control *ctl, struct mt_pg *pg, const char *instance_id, json_t *request, int timeout_ms, json_t **ret,
                 struct mt_err *err);
