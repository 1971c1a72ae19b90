/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two connections to moat-control: one waits for plans, one tells (heartbeats and status batches).
 *
 * Each is a thread of its own with a blocking client (wire/http_client.h); results come back on the loop's
 * thread. When the control plane is away both keep trying, with growing pauses. Source: control-plane.md §9.6.
 */
#pragma once

#include "agent/agent.h"

struct mt_control;
struct mt_http_client;

/** A client of the control plane: over TLS for a node that has joined, else over the socket, and then of trusted users only. NULL: no memory. */
struct mt_http_client *mt_agent_client(struct mt_agent *a, unsigned *ret_generation);
/** Start both threads. NULL and @err on failure. */
struct mt_control *mt_control_new(struct mt_agent *a, struct mt_err *err);
/** Break off what runs, join the threads, free. */
void mt_control_free(struct mt_control *c);
/** Send a status batch; ownership of @body passes. -MT_E_CONFLICT when one is under way, -MT_E_NOMEM for NULL. */
int mt_control_status(struct mt_control *c, char *body);
/** Tell the poller what is applied, so that it asks for newer. Loop thread. */
void mt_control_applied(struct mt_control *c, uint64_t epoch, uint64_t cursor, bool any);
/** Called on the loop's thread with the HTTP status, 0 when there was no answer. @detail is "" or the answer's text. */
typedef void mt_control_answer_fn(void *arg, int status, const char *detail);
/** Send one small document; a reference of @body passes (NULL: out of memory). -MT_E_CONFLICT while another one waits. */
int mt_control_post(struct mt_control *c, const char *target, json_t *body, mt_control_answer_fn *fn, void *arg, struct mt_err *err);
/** Something a heartbeat tells has changed: send one now. */
void mt_control_beat_now(struct mt_control *c);
/** The host's firewall was just loaded: connections that are older are unknown to its connection tracking, which takes the next answer on one
 *  for a stranger's packet. Ask for the plan on a new connection. NULL is fine. */
void mt_control_repoll(struct mt_control *c);
/** True while the last exchange worked. */
bool mt_control_reachable(const struct mt_control *c);
