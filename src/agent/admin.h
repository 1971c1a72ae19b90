/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local socket: one request line of JSON, NDJSON answers (docs/formats/agent-socket.md).
 *
 * Ops: logs, console, list, describe, doctor, exec, stop-all. Only root and the control plane's user are let in. Bounded:
 * 64 clients, 96 KiB of request, 256 KiB waiting for a client that does not read.
 */
#pragma once

#include "agent/agent.h"

struct mt_admin;

struct mt_admin *mt_admin_new(struct mt_agent *a, struct mt_err *err);
void mt_admin_free(struct mt_admin *ad);
/** A connection of the control plane of another machine (remote.h), already known to be that: logs, console and exec may be asked on it.
 *  @fd (non-blocking) is taken, also when this fails: -MT_E_LIMIT, -MT_E_NOMEM. */
int mt_admin_take(struct mt_admin *ad, int fd);
/** Records were appended for @instance_id. */
void mt_admin_logs_grew(struct mt_admin *ad, const char *instance_id);
/** The planned end is over: tell whoever asked for it. */
void mt_admin_stop_all_done(struct mt_admin *ad, bool clean);
