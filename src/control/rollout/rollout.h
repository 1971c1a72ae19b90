/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rollout controller of one group (one process type in one environment): from what is wanted, what is there and the
 * time, the next actions. Pure; evaluated again after every change, so it survives restarts of its caller.
 *
 * The caller loads the snapshot, turns actions into events in one transaction, and asks again. Running a step twice on
 * the same snapshot gives the same actions.
 *
 * Source: scheduling-and-operations.md 4, 5; control-plane.md 5.3; ruling R12.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/scheduler/index.h"
#include "control/scheduler/place.h"
#include "model/plan.h"

struct mt_arena;
struct mt_err;

#define MT_ROLL_MIN_READY_MS 5000 /* unless the group says otherwise */
#define MT_ROLL_ATTEMPTS 3
#define MT_ROLL_CRASHES 3 /* replacements of such as never became ready, in 10 minutes */
#define MT_ROLL_REPLICAS_MAX 100
/* How the detail of a hold begins that an operator has set, not failed attempts. */
#define MT_ROLL_OPERATOR_HOLD "held by an operator: "

/** One instance whose observed state is not `stopped`, or whose desired state is still `running`. */
struct mt_roll_instance {
    const char *instance_id; /* ids grow with time, so byte order is age */
    size_t node;             /* index into the nodes, MT_PLACE_NONE when the node is unknown (counts as gone) */
    const char *spec_hash;
    struct mt_place_size size;
    const char *const *archs; /* of its release, for a replacement from the spec it had */
    size_t n_archs;
    enum mt_desired_state desired;
    enum mt_instance_status status;
    enum mt_reason stop_reason; /* why desired left running; NONE while it is running */
    const char *reason_code;    /* what ended its last attempt (in a crash loop too), or NULL */
    bool ever_ready;
    bool restart_requested;        /* to be replaced by one of the target, although it matches */
    bool retry_pending;            /* failed, but the agent will try again: a crash loop (runtime.md 6) */
    uint32_t consecutive_failures; /* attempts ended without readiness since the last readiness */
    int64_t ready_since_ms;        /* start of the present uninterrupted `ready`, else 0 */
    int64_t changed_at_ms;         /* last change of the desired state, or of the status for `booting` */
    uint32_t drain_delay_seconds, stop_grace_seconds;
};

/** One boot attempt that ended without the instance ever having been ready. */
struct mt_roll_attempt {
    uint64_t event_id;
    const char *spec_hash;
    int64_t ended_at_ms;
    const char *reason_code;
    const char *reason_detail; /* NULL: none */
};

enum mt_roll_condition { MT_ROLL_OK = 0, MT_ROLL_BLOCKED, MT_ROLL_HELD, MT_ROLL_CONDITION_MAX };

/** "ok", "blocked", "held". */
const char *mt_roll_condition_name(enum mt_roll_condition condition);
bool mt_roll_condition_parse(const char *word, enum mt_roll_condition *ret);

struct mt_roll_group {
    /* wanted */
    const char *target_spec; /* spec_hash wanted now; NULL: no desired release, everything is drained */
    uint32_t desired;        /* replicas; 0 when target_spec is NULL */
    bool stateful;           /* the process has mounts */
    enum mt_restart_policy restart_policy;
    uint32_t startup_timeout_seconds; /* mt_health_startup_timeout */
    uint32_t boot_budget_seconds;     /* pull + boot + prestart limits; 0: no backstop */
    uint32_t min_ready_seconds;       /* ready for so long without a break is available; 0: MT_ROLL_MIN_READY_MS */
    struct mt_place_request request;  /* for the target spec; group_on_node and avoid_node_id are filled here */
    enum mt_reason roll_reason;       /* why old ones go: REPLACED, RESTART_REQUESTED, REBALANCED */
    enum mt_reason stop_all_reason;   /* when everything goes: SCALED_DOWN, ENV_DELETED, ORG_SUSPENDED, ... */
    bool may_allocate;                /* false while a view is being rebuilt or the scheduler is paused */
    bool rolling;                     /* an open deploy covers the group */

    /* remembered from the last env.scheduling_changed */
    enum mt_roll_condition condition;
    enum mt_reason reason;
    const char *stable_spec;   /* NULL before the first success */
    const char *recorded_target; /* target_spec of that event, or NULL */
    const char *recorded_detail; /* its detail, or NULL */
    uint64_t held_event;       /* id of the event that set `held` */
    uint64_t command_event;    /* id of the last deploy, rollback, restart, scale or secrets event of the group; needed
                                  always, not only while held: attempts before it do not count */

    /* there */
    const struct mt_roll_instance *instances;
    size_t n_instances;
    const struct mt_roll_attempt *attempts; /* of the last max(10 min, 4 x startup timeout); more is harmless */
    size_t n_attempts;
    uint32_t crash_replacements_10min; /* instances replaced because they never became ready, outside rollouts */
    int64_t last_crash_replacement_ms; /* 0: never */
    int64_t crash_limit_ends_ms;       /* when the MT_ROLL_CRASHES-th youngest of these is 10 minutes old; 0: there are fewer */
};

enum mt_roll_action_type { MT_ROLL_ALLOCATE = 0, MT_ROLL_DRAIN, MT_ROLL_STOP, MT_ROLL_ACTION_MAX };

struct mt_roll_action {
    enum mt_roll_action_type type;
    size_t node;                              /* ALLOCATE: index of the node, already charged */
    const struct mt_roll_instance *instance;  /* DRAIN, STOP: which; ALLOCATE: the one it replaces, or NULL */
    const struct mt_roll_instance *copy_of;   /* ALLOCATE while held: use the spec of this one; NULL: the target spec */
    enum mt_reason reason;                    /* DRAIN, STOP: planned-stop part of the table */
};

struct mt_roll_result {
    struct mt_roll_action *actions; /* in the arena given; apply in this order */
    size_t n_actions;

    enum mt_roll_condition condition;
    enum mt_reason reason;        /* placement part: why blocked; SURGE_UNAVAILABLE also while ok (drain-first); held: NONE */
    char detail[MT_PLACE_DETAIL]; /* blocked: counts per filter; held: what the attempts ended with */
    const char *stable_spec;      /* new value; equals the remembered one when unchanged */
    bool scheduling_changed;      /* append env.scheduling_changed with the five fields above and target_spec */

    bool satisfied;         /* matching = desired, all available, nothing old left running */
    bool surge_unavailable; /* rolling drain-first; goes into the deploy's message */
    uint32_t matching, ready, available, old;
    const struct mt_roll_attempt *last_attempt; /* the last failed attempt of the target that counts, or NULL */
    bool held_by_operator;
    const char *held_reason; /* held: reason code the attempts ended with, or NULL when it is no longer known */
    bool waits_for_others;  /* room, a boot slot or a place in a node's drain, which others' instances hold now, changes the answer */
    int64_t wake_at_ms;     /* when time alone changes the answer; INT64_MAX: never */
    int64_t retry_at_ms;    /* blocked by RETRY_BACKOFF: when the next replacement may come; else 0 */
};

/** max(1, ceil(desired / 4)); 0 for a stateful group. */
uint32_t mt_roll_surge(uint32_t desired, bool stateful);

/** How long an instance of the group has to be ready to be available, in ms. */
int64_t mt_roll_min_ready_ms(const struct mt_roll_group *group);

/** Window in which failed attempts count, in ms: max(10 min, 4 x startup timeout). */
int64_t mt_roll_attempt_window_ms(uint32_t startup_timeout_seconds);

/**
 * One step of a group.
 *
 * @nodes    charged with what is allocated, so that the next group of the pass sees it
 * @quota    what is left of the organisation's, charged likewise; used in place of group->request.quota. It and the nodes
 *           come from the same snapshot as the instances: one that is observed stopped counts nowhere, or a drain-first
 *           rollout would take the room it just made for room it still lacks and drain the next one
 * @now_ms   same clock as the times of the snapshot
 * @arena    owns the actions
 * Returns 0; -MT_E_NOMEM.
 */
int mt_roll_step(const struct mt_roll_group *group, struct mt_place_node *nodes, size_t n_nodes,
                 struct mt_place_quota *quota, int64_t now_ms, struct mt_arena *arena, struct mt_roll_result *ret,
                 struct mt_err *err);

/** The same step with an index over @nodes (mt_place_index_new): equal results, without a look at every node. Nodes that are
 * charged are told to the index. */
int mt_roll_step_indexed(const struct mt_roll_group *group, struct mt_place_node *nodes, size_t n_nodes,
                         struct mt_place_index *index, struct mt_place_quota *quota, int64_t now_ms, struct mt_arena *arena,
                         struct mt_roll_result *ret, struct mt_err *err);
