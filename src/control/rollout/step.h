/* SPDX-License-Identifier: Apache-2.0 */
/* Private to the rollout controller: the working state of one step, shared by rollout.c (what is there, held groups,
 * stateful groups) and surge.c (stateless groups). */
#pragma once

#include "control/rollout/rollout.h"

struct mt_step_inst {
    const struct mt_roll_instance *i;
    bool live;        /* desired running, not gone, not ended */
    bool lost;        /* must be replaced: its node is gone, or the agent stopped it unasked */
    bool completed;   /* ended with exit 0 under a policy that does not restart: satisfied for good */
    bool matching;    /* spec is the target */
    bool evicted;     /* live on a draining node, or to be restarted (stateless): counts as old */
    bool available;   /* ready for mt_roll_min_ready_ms, or completed */
    bool leaving;     /* an action of this step takes it away */
};

struct mt_step {
    const struct mt_roll_group *g;
    struct mt_place_node *nodes;
    size_t n_nodes;
    struct mt_place_quota *quota;
    int64_t now_ms;
    struct mt_roll_result *r;
    struct mt_step_inst *in;
    size_t n;
    struct mt_place_index *index; /* over the nodes, or NULL: on_node is used */
    uint32_t *on_node; /* non-draining instances of the group per node */
    size_t room;       /* of r->actions */
};

/** Add an action; a DRAIN or STOP marks its instance as leaving. */
void mt_step_act(struct mt_step *s, enum mt_roll_action_type type, struct mt_step_inst *in, enum mt_reason reason);

/** Place one more and book it. @size and archs come from @copy_of when given. */
enum mt_place_outcome mt_step_allocate(struct mt_step *s, const struct mt_roll_instance *replaces,
                                       const struct mt_roll_instance *copy_of, const char *avoid_node_id,
                                       struct mt_place_decision *ret);

/** Would one more of the target fit if @in were gone? */
bool mt_step_fits_without(const struct mt_step *s, const struct mt_step_inst *in, struct mt_place_decision *ret);

void mt_step_blocked(struct mt_step *s, const struct mt_place_decision *why);
void mt_step_wake(struct mt_step *s, int64_t at_ms);

/** Node of an instance, or NULL when unknown. */
struct mt_place_node *mt_step_node(const struct mt_step *s, const struct mt_step_inst *in);

/** surge.c: a stateless group that is not held and wants at least one replica. */
void mt_step_stateless(struct mt_step *s);
