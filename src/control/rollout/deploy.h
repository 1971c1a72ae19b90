/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The status of a deploy, from the results of its groups. Pure.
 *
 * Superseding is not here: the command that creates the newer deploy appends it. Source: scheduling-and-operations.md 4.5,
 * control-plane.md 5.3 (Retry, Deadline, Success, Failure).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/rollout/rollout.h"

enum mt_deploy_status {
    MT_DEPLOY_QUEUED = 0,
    MT_DEPLOY_ROLLING,
    MT_DEPLOY_SUCCEEDED,
    MT_DEPLOY_FAILED,
    MT_DEPLOY_SUPERSEDED,
    MT_DEPLOY_STATUS_MAX
};

const char *mt_deploy_status_name(enum mt_deploy_status status);
bool mt_deploy_status_parse(const char *word, enum mt_deploy_status *ret);

/** default max(900, 2 x startup timeout), at most 3600; @startup_timeout_seconds is the largest of the deploy's processes. */
uint32_t mt_deploy_timeout_seconds(uint32_t startup_timeout_seconds);

/** A targeted process type and the result of its group, computed from the same snapshot. */
struct mt_deploy_group {
    const char *process_type;
    const struct mt_roll_result *result;
};

struct mt_deploy {
    enum mt_deploy_status status;
    int64_t created_at_ms;
    uint32_t timeout_seconds;
    bool rollback_on_failure; /* on_failure=rollback */
    bool is_rollback;         /* a failed rollback never triggers another */
    bool has_previous;        /* every targeted process has a previous release */
    const char *message;      /* present message, or NULL */
    const struct mt_deploy_group *groups;
    size_t n_groups;
};

struct mt_deploy_decision {
    bool changed; /* append deploy.status_changed */
    enum mt_deploy_status status;
    char failed_reason[64]; /* "timeout", or the reason code the attempts ended with; "" unless failed */
    char message[256];      /* "" = none */
    bool append_rollback;   /* append a rollback deploy to the previous releases in the same transaction */
    int64_t wake_at_ms;     /* deadline of an open deploy, else INT64_MAX */
};

/** Next status of a deploy. A finished deploy never changes. */
void mt_deploy_step(const struct mt_deploy *deploy, int64_t now_ms, struct mt_deploy_decision *ret);
