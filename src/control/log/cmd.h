/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/log only: a prepared command as the appender sees it. */
#pragma once

#include "control/log/append.h"
#include "control/views/projections.h"

#include "base/arena.h"
#include "base/list.h"

#include <semaphore.h>

#define CMD_MAGIC 0x636d6474u
#define CMD_SIDES_MAX 16
#define CMD_CLAIMS_MAX 24

struct cmd_event {
    enum mt_ev ev;
    const char *aggregate_id, *org_id, *app_id, *env_id, *correlation_id;
    int64_t causation_id;
    const char *payload; /* canonical */
    size_t payload_len;
    struct mt_proj_keys keys;
    int32_t seq; /* given by the appender */
};

struct cmd_rely {
    enum mt_rely what;
    const char *key, *key2;
    int64_t version;
    uint64_t hash; /* a write of this key by an earlier command of the batch makes this one wait */
    uint64_t note; /* what a later command must wait for because this one relied on it; 0: nothing */
};

struct cmd_claim {
    enum mt_quota dim;
    const char *org, *scope;
    int64_t delta, unless_set;
};

struct cmd_side {
    const struct mt_pg_stmt *stmt;
    struct mt_pg_params p;
    int64_t affected;
};

enum cmd_state { CMD_WAITING = 0, CMD_RUNNING };

struct mt_cmd {
    uint32_t magic;
    struct mt_arena arena;
    const char *actor_type, *actor_id, *request_id, *idempotency_key;
    const char *correlation_id;
    int64_t causation_id;
    int n_events, cap_events;
    struct cmd_event *events; /* malloc'ed, grows */
    int n_relies;
    struct cmd_rely relies[MT_CMD_RELIES_MAX];
    int n_claims;
    struct cmd_claim claims[CMD_CLAIMS_MAX];
    int n_sides;
    struct cmd_side *sides[CMD_SIDES_MAX];
    bool in_recovery; /* appended also while everything else is refused */
    bool idempotent;
    uint8_t idem_scope[MT_IDEM_SCOPE_LEN], idem_mac[32];
    uint64_t idem_hash;
    const char *audit; /* record as JSON, or NULL */
    size_t audit_len;
    mt_cmd_reply_fn *reply_fn;
    void *reply_arg;

    /* the appender's */
    struct mt_list link;
    int64_t queued_ns; /* monotonic */
    enum cmd_state state;
    sem_t answered; /* posted once; no lock is taken to wake, so that a batch of answers does not fight over one */
    bool waited; /* a thread waits in mt_append; else `fn` is called and the command freed */
    mt_append_fn *fn;
    void *fn_arg;
    struct mt_cmd_done done;
    struct mt_err err;
    bool out; /* answered in this batch; takes no part in what follows */
    int64_t first_id;
    struct mt_buf body;
    int status;
};
