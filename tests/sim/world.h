/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster in one process with virtual time: nodes, one group at a time or several, instances that boot, fail, get ready,
 * break, drain and stop. The controllers under test see it only through the snapshot a real caller would load.
 *
 * Everything random comes from one seed.
 */
#pragma once

#include "control/rollout/deploy.h"
#include "control/rollout/rollout.h"
#include "model/ids.h"

#define W_NODES 8
#define W_GROUPS 4
#define W_INSTANCES 600
#define W_ATTEMPTS 4000
#define W_MIB (UINT64_C(1) << 20)

/* How instances of one spec behave. */
struct w_spec {
    char hash[65];
    struct mt_place_size size;
    unsigned boot_ms_min, boot_ms_max;
    unsigned fail_percent;  /* chance that an attempt ends before ready; 100: it always fails */
    unsigned break_percent; /* chance per minute that a ready one becomes unready for a while */
    const char *reason;     /* of a failed attempt */
};

struct w_instance {
    bool used;
    char id[MT_ID_SIZE];
    size_t group, node, spec;
    enum mt_desired_state desired;
    enum mt_instance_status status;
    enum mt_reason stop_reason;
    const char *reason_code;
    bool ever_ready, will_fail, frozen; /* frozen: an old one that never gets better */
    uint32_t consecutive_failures;
    int64_t created_ms, ready_since_ms, changed_ms, next_ms; /* next_ms: when its own life goes on */
};

struct w_group {
    size_t target; /* index of the spec, SIZE_MAX: none */
    uint32_t desired;
    bool stateful;
    enum mt_roll_condition condition;
    enum mt_reason reason;
    char stable[65], recorded[65];
    uint64_t held_event, command_event;
    struct mt_roll_result last;
    int64_t crash_ms[64];
    size_t n_crash;
    enum mt_deploy_status deploy;
    int64_t deploy_at_ms;
    char failed_reason[64];
    struct mt_place_volume volume;
};

struct world {
    uint64_t seed, rng;
    int64_t now_ms;
    uint64_t event;
    struct mt_place_node nodes[W_NODES];
    char node_ids[W_NODES][MT_ID_SIZE];
    size_t n_nodes;
    struct w_spec specs[64];
    size_t n_specs;
    struct w_group groups[W_GROUPS];
    size_t n_groups;
    struct w_instance in[W_INSTANCES];
    size_t n_in;
    struct mt_roll_attempt attempts[W_ATTEMPTS];
    size_t attempt_group[W_ATTEMPTS];
    size_t n_attempts;
    struct mt_place_quota quota; /* limits; INT64_MAX: none */
    uint64_t ulid;
    unsigned steps;
    char fault[256]; /* first broken property */
};

void w_init(struct world *w, uint64_t seed);
uint32_t w_rand(struct world *w, uint32_t below);
size_t w_add_node(struct world *w, uint64_t memory_mib, const char *zone);
size_t w_add_spec(struct world *w, uint32_t memory_mib, unsigned fail_percent);
size_t w_add_group(struct world *w, size_t spec, uint32_t desired, bool stateful);

/** Put an instance there as if it had been running for long. */
struct w_instance *w_place_old(struct world *w, size_t group, size_t spec, size_t node, bool available);

/** A command (deploy, scale, ...): new target or count, and the event that releases a hold. */
void w_deploy(struct world *w, size_t group, size_t spec, uint32_t desired);

/** Let instances live until now, run one pass of the controllers, check the standing properties, move time on. */
void w_turn(struct world *w, int64_t ms);

/** Turns until every group is settled (satisfied or held) or @limit_ms of virtual time have passed. Returns settled. */
bool w_settle(struct world *w, int64_t limit_ms);

uint32_t w_available(const struct world *w, size_t group);
uint32_t w_live(const struct world *w, size_t group, size_t spec);

/** Record a broken property; only the first is kept. */
void w_broken(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
