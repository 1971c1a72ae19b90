/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placement: which node gets one more instance, and if none, why. Pure: same inputs, same answer; no time, no I/O.
 *
 * Memory and scratch are hard sums over every instance that may still hold them; cpu filters at a high ceiling and
 * otherwise only steers. Source: scheduling-and-operations.md 1.1, 2 (eligible), 3.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/reason.h"

#define MT_PLACE_NONE SIZE_MAX
#define MT_PLACE_BOOTS_PER_NODE 10U /* concurrent boots; more wait for the next pass */
#define MT_PLACE_DETAIL 200

enum mt_node_admin {
    MT_NODE_ENROLLED = 0,
    MT_NODE_PENDING_APPROVAL,
    MT_NODE_ACTIVE,
    MT_NODE_CORDONED,
    MT_NODE_DRAINING,
    MT_NODE_DISABLED,
    MT_NODE_REMOVED,
    MT_NODE_ADMIN_MAX
};

enum mt_node_health {
    MT_NODE_READY = 0,
    MT_NODE_DEGRADED,
    MT_NODE_SUSPECT,
    MT_NODE_OFFLINE,
    MT_NODE_LOST,
    MT_NODE_HEALTH_MAX
};

const char *mt_node_admin_name(enum mt_node_admin admin);
const char *mt_node_health_name(enum mt_node_health health);
bool mt_node_admin_parse(const char *word, enum mt_node_admin *ret);
bool mt_node_health_parse(const char *word, enum mt_node_health *ret);

struct mt_place_label {
    const char *key, *value;
};

struct mt_place_node {
    const char *node_id;
    const char *zone; /* label `zone`, or NULL: the node is its own zone */
    const char *arch; /* "amd64", "arm64" */
    enum mt_node_admin admin;
    enum mt_node_health health;
    bool stops_stateful; /* while draining: instances with volumes stop too, without a replacement */
    const struct mt_place_label *labels;
    size_t n_labels;

    uint64_t alloc_memory_bytes, alloc_cpu_millis, ceiling_cpu_millis, alloc_disk_bytes;
    uint64_t overhead_bytes; /* per instance; 64 MiB, QEMU 96 MiB */

    /* Sums over every instance whose observed state is not `stopped` (draining, booting and failed ones included), memory
     * with overhead, plus scratch of restore and format jobs. Kept up to date by mt_place_charge. */
    uint64_t used_memory_bytes, used_cpu_millis, used_disk_bytes;
    uint32_t booting;       /* instances in `booting` */
    uint32_t boot_failures; /* failed boots in the last 10 min */
    uint32_t instances;     /* not observed stopped */
    uint32_t draining;      /* of these, desired state draining */
};

/** Active and ready: the node may get new work. */
bool mt_node_eligible(const struct mt_place_node *node);
/** Offline, lost, disabled or removed: what ran there is not reachable and is replaced (stateless) or waited for. */
bool mt_node_gone(const struct mt_place_node *node);

struct mt_place_size {
    uint32_t cpu_millis;
    uint64_t memory_bytes; /* the cap, without overhead */
    uint64_t disk_bytes;
};

struct mt_place_volume {
    const char *volume_id;
    const char *home_node_id;
    bool in_use; /* another instance not observed stopped holds it */
};

/* What is left of the organisation's quota; INT64_MAX where there is no limit. memory counts caps + 64 MiB each. */
struct mt_place_quota {
    int64_t instances, memory_bytes, cpu_millis;
};
#define MT_PLACE_QUOTA_NONE {INT64_MAX, INT64_MAX, INT64_MAX}
#define MT_PLACE_QUOTA_OVERHEAD (64U * 1024U * 1024U)

/* Conditions checked before any node is looked at. */
struct mt_place_gates {
    bool secrets_missing;            /* a process with secrets.required and no usable version */
    bool volume_constraints_invalid; /* volumes and more than one replica */
    bool org_suspended;
    bool volume_migrating;           /* nothing of it may run before its volumes are on the other node (volumes/migration.h) */
    bool release_blocked;
    bool release_evicted;            /* blocked, and what runs goes too (rollout.c) */
};

struct mt_place_request {
    struct mt_place_size size;
    const char *const *archs; /* architectures the release was resolved for */
    size_t n_archs;
    const struct mt_place_volume *volumes;
    size_t n_volumes;
    const struct mt_place_label *selector; /* every label must be there */
    size_t n_selector;
    struct mt_place_gates gates;
    struct mt_place_quota quota;
    const uint32_t *group_on_node; /* per node: non-draining instances of the same group; NULL: none anywhere */
    const char *avoid_node_id;     /* never this one, or NULL (crash replacement) */
};

enum mt_place_outcome {
    MT_PLACE_OK = 0,   /* node is set */
    MT_PLACE_BLOCKED,  /* reason and detail are set */
    MT_PLACE_DEFERRED, /* room is there, but every such node boots as many as it may: ask again on the next pass */
    MT_PLACE_OUTCOME_MAX
};

struct mt_place_decision {
    enum mt_place_outcome outcome;
    size_t node;           /* index, MT_PLACE_NONE unless OK */
    int64_t score;         /* of the chosen node */
    enum mt_reason reason; /* of the placement part of the table */
    char detail[MT_PLACE_DETAIL]; /* "5 nodes: 3 memory, 2 not ready"; for quota the dimension */
};

/**
 * Choose a node. Filters run in the order of the specification; the reason is that of the filter that left none.
 * Ties go to the smallest node id, so the order of @nodes does not matter.
 */
void mt_place(const struct mt_place_node *nodes, size_t n_nodes, const struct mt_place_request *request,
              struct mt_place_decision *ret);

/** Why @node does not take the request, in a word or two ("memory", "labels"); NULL when it would, were it asked alone. Gates and quota are not looked at. */
const char *mt_place_refusal(const struct mt_place_node *node, const struct mt_place_request *request);

/** Book one more (booting) instance on a node, or take one off again. Sums saturate at 0, never wrap. */
void mt_place_charge(struct mt_place_node *node, const struct mt_place_size *size);
void mt_place_credit(struct mt_place_node *node, const struct mt_place_size *size);
void mt_place_quota_charge(struct mt_place_quota *quota, const struct mt_place_size *size);
void mt_place_quota_credit(struct mt_place_quota *quota, const struct mt_place_size *size);
