/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exec gateway: a client's WebSocket on one side, the agent's connection on the other (control-plane.md §11.3, runtime.md 11).
 * One loop thread carries every session of the process; another one tells the database that they live, learns which were revoked, and, on
 * the leader, ends what no process carries any more. Bounded: 256 sessions, two frames towards the agent and 256 KiB towards the client each;
 * who does not read stops the other from being read.
 */
#pragma once

#include "control/control.h"

#include <jansson.h>

#define MT_GATEWAY_SESSIONS_MAX 256

struct mt_gateway;

int mt_gateway_new(struct mt_control *ctl, struct mt_gateway **ret, struct mt_err *err);
/** Ends every session by `agent_unreachable`, stops the threads; what comes later is refused. NULL is fine. */
void mt_gateway_stop(struct mt_gateway *g);
/** After whoever may still call it. NULL is fine. */
void mt_gateway_free(struct mt_gateway *g);

/** A session that was claimed. Texts are copied. */
struct mt_gateway_open {
    const char *session_id, *org_id, *app_id, *env_id, *instance_id;
    int agent_fd; /* the grant was sent on it; taken */
};
struct mt_gateway_session;
/** Make room for a session before its client is answered. -MT_E_LIMIT above the bound; @what->agent_fd is closed then too. */
int mt_gateway_prepare(struct mt_gateway *g, const struct mt_gateway_open *what, struct mt_gateway_session **ret, struct mt_err *err);
/** The client's connection is there (@fd, taken), with bytes it sent already. Any thread. */
void mt_gateway_start(struct mt_gateway_session *s, int fd, const void *early, size_t early_len);
/** It never came. Any thread; the argument is a void pointer for mt_http_req_set_state. */
void mt_gateway_cancel(void *session);
/** A claimed session whose agent could not be reached: it ends by `agent_unreachable`. */
void mt_gateway_unreached(struct mt_gateway *g, const struct mt_gateway_open *what);
/** Name of this process in moat.exec_tokens. */
const char *mt_gateway_name(const struct mt_gateway *g);
/** Sessions now. */
unsigned mt_gateway_count(struct mt_gateway *g);
