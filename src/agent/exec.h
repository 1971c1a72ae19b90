/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exec sessions on the node: a connection of the control plane with a grant, a connection to the guest, frames between them
 * (runtime.md 11; docs/formats/agent-socket.md). The OPEN frame is made here, out of the grant. Whole frames are passed on; of what they
 * hold only EXIT is read. Bounded: two buffers of two frames for each session, as many sessions as below; who does not read stops
 * the other from being read.
 */
#pragma once

#include "agent/agent.h"

#define MT_EXEC_RELAYS_MAX 256

struct mt_exec_relays;

struct mt_exec_relays *mt_exec_relays_new(struct mt_agent *a, struct mt_err *err);
/** Ends every session by `agent_unreachable`. NULL is fine. */
void mt_exec_relays_free(struct mt_exec_relays *x);
/**
 * Open the session of @grant (a JSON object, borrowed) for the peer behind @fd (taken, non-blocking). A refusal is an EXIT frame on @fd.
 * @early, @early_len  bytes that came behind the request line
 */
void mt_exec_relays_open(struct mt_exec_relays *x, const json_t *grant, int fd, const uint8_t *early, size_t early_len);
/** Sessions that are open. */
unsigned mt_exec_relays_count(const struct mt_exec_relays *x);
/** The VM of @instance_id is over: its sessions end by `instance_stopped`. */
void mt_exec_relays_stopped(struct mt_exec_relays *x, const char *instance_id);
