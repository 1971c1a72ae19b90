/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a cluster goes from here: the steps of its groups (rollout.h), one after the other, as if every instance that is placed became ready and
 * every one that is told to stop on a machine that answers did. Pure; nothing but the caller's own copies changes.
 *
 * The caller loads groups and nodes as for a pass, runs, changes a node (its health, its admin state), and runs again: what the second run did is
 * what that change leads to. Source: scheduling-and-operations.md 5; issue "simulate node-loss" and "simulate drain".
 */
#pragma once

#include "control/rollout/rollout.h"

struct mt_ahead_group {
    /* in */
    struct mt_roll_group group;   /* its instances are copied at the first run; from then on they are those of the present moment */
    struct mt_place_quota *quota; /* what is left to its organisation; shared by the groups of it */
    /* out */
    struct mt_roll_result result; /* of the last step; without actions */
    /* private */
    struct mt_roll_instance *list;
    struct mt_place_volume *volumes;
    size_t cap;
    bool taken, acted;
};

struct mt_ahead {
    struct mt_ahead_group *groups;
    size_t n_groups;
    struct mt_place_node *nodes;
    size_t n_nodes;
    struct mt_place_index *index; /* over the nodes */
    int64_t now_ms;               /* stands still */
    struct mt_arena *arena;       /* owns the copies */
    uint64_t made;                /* instances placed so far; each has its number */
};

/**
 * Step the groups until none of them changes any more. On a node that is gone what runs is told to stop, but is counted, as it is until somebody
 * hears of it; anywhere else it is gone at once, with its volumes free.
 * Returns 0; -MT_E_NOMEM; -MT_E_LIMIT when there is no end within bounds (which the rules of a step do not allow).
 */
int mt_ahead_run(struct mt_ahead *a, struct mt_err *err);

/** Number of an instance that a run placed, from 1 on; 0: it was there at the first. */
uint64_t mt_ahead_made(const struct mt_roll_instance *in);
