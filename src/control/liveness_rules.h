/* SPDX-License-Identifier: Apache-2.0 */
/* When a silent node is suspect, offline, and when all of them being silent is rather our own fault (scheduling-and-operations.md §2). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** The health a node should have. Pure; exported for tests. */
struct mt_liveness_facts {
    const char *health;       /* present: ready, degraded, suspect, offline, lost */
    int64_t silence_ms;       /* since the last heartbeat that a leader could have seen */
    bool conditions;          /* any condition, or a driver that is not allowed */
    unsigned clean;           /* heartbeats in a row without a condition */
    bool was_passing;         /* degraded only by the agent's own start or stop, which is no fault */
    bool may_offline;         /* past the start-up grace and the mass-failure guard */
    int64_t suspect_ms, offline_ms;
};
const char *mt_liveness_health(const struct mt_liveness_facts *f);

/* What the mass-failure guard looks at. */
struct mt_liveness_silence {
    const char *health;
    int64_t silence_ms;
};

/**
 * True when more than half of the nodes, and at least two, are or would be `offline` within MT_LIVENESS_MASS_MS of each other:
 * those silent for @suspect_ms, and those that went offline not longer ago than that. Nodes that are lost, or were offline before,
 * count on neither side. Nodes fall silent seconds apart even when one cable is the cause, so one that crosses the limit first
 * must see the others behind it. Pure. Source: scheduling-and-operations.md 2.
 */
#define MT_LIVENESS_MASS_MS 120000
bool mt_liveness_mass(const struct mt_liveness_silence *nodes, size_t n, int64_t suspect_ms, int64_t offline_ms);
