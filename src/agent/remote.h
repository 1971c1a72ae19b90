/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent as the control plane of another machine asks it: logs, console and exec over the mesh (networking.md §0, §1.4, §5).
 *
 * Port 5180 of the node's overlay address, TLS 1.3 on both sides. Who may ask is who shows the certificate that the cluster's authority
 * gave to its control plane; what may be asked is a part of the local socket's ops (admin.h), in the same form. Bounded: 128 connections,
 * 5 s for a handshake. A machine without identity (the control plane's own) has no such listener.
 */
#pragma once

#include "agent/agent.h"

#define MT_REMOTE_PORT 5180

struct mt_remote;

/** NULL and @err when out of memory. Listens once an address is known. */
struct mt_remote *mt_remote_new(struct mt_agent *a, struct mt_err *err);
/** Ends every connection. NULL is fine. */
void mt_remote_free(struct mt_remote *r);
/** The node's overlay address, as the plan in force names it: listen there (a second call with the same address does nothing). The address
 *  need not be on the host yet. NULL is fine for @r. */
void mt_remote_at(struct mt_remote *r, const struct in6_addr *overlay);
