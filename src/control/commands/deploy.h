/* SPDX-License-Identifier: Apache-2.0 */
/* The events of one deploy, rollback or restart (control-plane.md §5.2, §5.4). Pure: rows come in, events go into a command. */
#pragma once

#include "control/log/append.h"
#include "model/ids.h"

#define MT_DEPLOY_TYPES_MAX 64

struct mt_deploy_item {
    const char *process_type;
    const char *release_id;
    const char *previous_release_id; /* NULL: none */
    int64_t desired_version;         /* resource_version of its env_desired_view row, 0: no row */
};

struct mt_deploy_open {
    const char *deploy_id; /* unfinished deploy that this one supersedes */
    int64_t version;
};

struct mt_deploy_cleared {
    const char *process_type;
    int64_t desired_version;
};

struct mt_deploy_plan {
    const char *deploy_id;
    const char *kind;       /* deploy, rollback, restart */
    const char *release_id; /* NULL when processes have different ones */
    const char *on_failure; /* hold, rollback */
    const char *note;       /* NULL: none */
    const json_t *warnings; /* [{code, ...}], NULL or empty: none; borrowed */
    uint32_t timeout_seconds;
    struct mt_deploy_item items[MT_DEPLOY_TYPES_MAX]; /* ascending process_type */
    size_t n_items;
    struct mt_deploy_cleared cleared[MT_DEPLOY_TYPES_MAX];
    size_t n_cleared;
    struct mt_deploy_open open[MT_DEPLOY_TYPES_MAX];
    size_t n_open;
};

/**
 * Add deploy.created, the supersede events, and the change of what is desired; rely on every row that was read.
 * Everything added carries the deploy as correlation. Returns 0 or the error of mt_cmd_*.
 */
int mt_deploy_events(struct mt_cmd *cmd, const struct mt_cmd_ids *ids, const struct mt_deploy_plan *plan, struct mt_err *err);

/** The deploy as the API shows it right after creation; created_at, updated_at and deadline_at are null. NULL: no memory. */
json_t *mt_deploy_object(const struct mt_cmd_ids *ids, const struct mt_deploy_plan *plan, const char *created_by);
