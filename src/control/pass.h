/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass of the scheduler and the rollout controller: rows in (pass_load.c), the pure functions of control/rollout, events
 * out (pass_apply.c). Everything lives in one arena and is dropped at the end; nothing is remembered between passes but
 * what the log and the views hold.
 */
#pragma once

#include "base/arena.h"
#include "control/control.h"
#include "control/plans/release_row.h"
#include "control/rollout/deploy.h"
#include "control/rollout/rollout.h"

/* Switch of cluster_view: true while an operator has paused the scheduler. */
#define MT_PASS_PAUSED_KEY "scheduler_paused"

/* A node with what allocation needs beside placement. */
struct mt_pass_node {
    const char *instance_prefix;
    uint64_t next_address;   /* of ipam_counters as read */
    uint64_t stored_address; /* what the row holds, 0: no row */
    bool touched;            /* addresses were taken in the present command */
};

struct mt_pass_instance {
    const char *release_id;
    const char *image_digest, *arch, *overlay_ipv6, *secret_version_id;
    int64_t version;
};

/* One group: what the pure function gets, and what its actions need. Arrays run in step with group.instances. */
struct mt_pass_group {
    struct mt_roll_group group;
    struct mt_roll_result result;
    const char *process_type, *deploy_id; /* deploy_id: open deploy that covers it, else the one that set the release */
    char target_spec[MT_SPEC_HASH_SIZE];
    const char *secret_version_id;  /* what new instances get, NULL: no secrets */
    struct mt_release_row *release; /* NULL: none desired */
    struct mt_pass_instance *more;
    int64_t desired_version;
    uint32_t stop_grace_seconds;
    size_t acted; /* of the result's actions, those that are in the command */
};

struct mt_pass_deploy {
    struct mt_deploy deploy;
    const char *deploy_id, *on_failure;
    char **types; /* process types */
    size_t n_types;
    json_t *previous; /* owned by the pass */
    const char *became; /* status that is in the command, NULL: none */
    int64_t version;
};

/* An environment with everything in it. */
struct mt_pass_env {
    const char *env_id, *env_name, *app_id, *app_name, *org_id, *org_name;
    struct mt_pass_group *groups;
    size_t n_groups;
    bool volumes_read; /* the next two are what the environment has; read when its first group with mounts comes */
    struct mt_spec_volume *volumes;
    struct mt_place_volume *homes; /* in step with volumes */
    size_t n_volumes;
    struct mt_pass_deploy *deploys;
    size_t n_deploys;
    bool waits_for_others; /* a group does (rollout.h): set by mt_pass_env_step */
};

struct mt_pass_org {
    char org_id[MT_ID_SIZE];
    struct mt_place_quota quota;
};

struct mt_pass {
    struct mt_control *ctl;
    struct mt_pg *pg;
    struct mt_arena arena;
    int64_t now_ms; /* the database's clock */
    int64_t lease_epoch;
    const _Atomic bool *stop; /* loading gives up with -MT_E_CANCELLED when it is set; or NULL */
    struct mt_place_node *nodes;
    struct mt_place_index *index; /* over nodes; owned */
    struct mt_pass_node *node_more;
    size_t n_nodes;
    const char **edges; /* node ids of the edges that are waited for */
    size_t n_edges;
    struct mt_pass_env *envs;
    size_t n_envs;
    struct mt_release_row **releases; /* every release read in this pass */
    size_t n_releases, cap_releases;
    struct mt_pass_org *orgs; /* what each organisation may still take; shared by its environments */
    size_t n_orgs;
    json_t **owned; /* JSON to drop at the end */
    size_t n_owned, cap_owned;
};

/** Load nodes and the environments named (@env_ids NULL: all that have anything desired or running). */
int mt_pass_load(struct mt_pass *p, const char *const *env_ids, size_t n, struct mt_err *err);
/** Is the scheduler paused? Read from the views. */
int mt_pass_paused(struct mt_pass *p, bool *ret, struct mt_err *err);
/** A release by id, read once per pass; NULL with the error set. */
struct mt_release_row *mt_pass_release(struct mt_pass *p, const char *release_id, struct mt_err *err);
/** What is left to an organisation; NULL when it is not there. Stepping groups charges it. */
struct mt_place_quota *mt_pass_quota(struct mt_pass *p, const char *org_id);
void mt_pass_done(struct mt_pass *p);

/**
 * Step every group and deploy of @env and append what follows as one command.
 * @ret_events    how many events were appended
 * @ret_wake_ms   when time alone changes the answer (database clock), INT64_MAX: never
 */
int mt_pass_env_step(struct mt_pass *p, struct mt_pass_env *env, int *ret_events, int64_t *ret_wake_ms, struct mt_err *err);

/**
 * Release what is confirmed stopped, take what was to stop on a lost node as stopped, and end drain delays that no edge needs any more.
 * @ret_more  a drain waits for what edges acknowledge, of which no event tells: look again soon
 * Returns events or -code.
 */
int mt_pass_settle(struct mt_pass *p, bool *ret_more, struct mt_err *err);
