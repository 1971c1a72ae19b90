/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the exec gateway: gateway.c (sessions, loop thread) and watch.c (database: life signs, revocations, ends). */
#pragma once

#include "base/list.h"
#include "control/exec/gateway.h"
#include "model/ids.h"
#include "os/loop.h"
#include "pg/pg.h"
#include "wire/exec.h"

#include <pthread.h>
#include <stdatomic.h>

/* Bytes [at, len) wait. */
struct gw_buf {
    uint8_t *p;
    size_t cap, at, len;
};

struct mt_gateway_session {
    struct mt_list link; /* under g->mu for writing; the loop thread reads it without */
    struct mt_gateway *g;
    char id[MT_ID_SIZE], org_id[MT_ID_SIZE], app_id[MT_ID_SIZE], env_id[MT_ID_SIZE], instance_id[MT_ID_SIZE];
    int client, agent;
    struct mt_source *client_src, *agent_src, *timer;
    struct gw_buf from_client, to_client, from_agent, to_agent;
    bool ended, revoked, last_armed;
    char reason[24], signal[16];
    int exit_code;
    uint64_t bytes_in, bytes_out;
};

struct mt_gateway {
    struct mt_control *ctl;
    struct mt_loop *loop;
    pthread_t thread, watcher;
    bool started, watching;
    pthread_mutex_t mu; /* count, stopping, the list's links */
    struct mt_list sessions;
    unsigned count;
    bool stopping;
    int wake_fd;
    atomic_bool quit;
    struct mt_pg *pg; /* the watcher's */
    char name[MT_ULID_SIZE];
    uint8_t mem[MT_EXEC_MEM]; /* loop thread: scratch for one body */
};

/* watch.c */

int gw_watch_start(struct mt_gateway *g, struct mt_err *err);
void gw_watch_stop(struct mt_gateway *g);
/** Append exec_session.ended for @s, asynchronously. */
void gw_append_ended(struct mt_gateway *g, const struct mt_gateway_session *s);

/* gateway.c */

/** The session was revoked; loop thread. */
void gw_revoke(struct mt_gateway_session *s);
