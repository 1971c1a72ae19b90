/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rollout/ahead.h"

#include "base/arena.h"
#include "base/num.h"
#include "base/str.h"

#define STEP_BYTES (64U * 1024U * 1024U)
#define PREFIX "~" /* after every id that there is: what is made here is the youngest */

uint64_t mt_ahead_made(const struct mt_roll_instance *in)
{
    uint64_t n = 0;

    if (!mt_starts_with(in->instance_id, PREFIX) || mt_parse_u64(in->instance_id + strlen(PREFIX), 1, UINT64_MAX, &n, NULL) < 0)
        return 0;
    return n;
}

static int out_of_memory(struct mt_err *err)
{
    return MT_FAIL(err, MT_E_NOMEM, "looking ahead");
}

static struct mt_place_node *node_of(const struct mt_ahead *a, const struct mt_roll_instance *in)
{
    return in->node < a->n_nodes ? &a->nodes[in->node] : NULL;
}

static bool on_gone(const struct mt_ahead *a, const struct mt_roll_instance *in)
{
    const struct mt_place_node *node = node_of(a, in);

    return !node || mt_node_gone(node);
}

/* The volumes of @g are taken or free, for every group that mounts them too. */
static void hold(struct mt_ahead *a, const struct mt_ahead_group *g, bool held)
{
    for (size_t v = 0; v < g->group.request.n_volumes; v++)
        for (size_t k = 0; k < a->n_groups; k++) {
            struct mt_ahead_group *o = &a->groups[k];
            for (size_t i = 0; i < o->group.request.n_volumes && o->volumes; i++)
                if (MT_STREQ(o->volumes[i].volume_id, g->group.request.volumes[v].volume_id))
                    o->volumes[i].in_use = held;
        }
}

/* ---- the moment, in a form that steps can go on from ---- */

static int take(struct mt_ahead *a, struct mt_ahead_group *g, struct mt_err *err)
{
    size_t n = g->group.n_instances, v = g->group.request.n_volumes;

    g->cap = n + 8;
    g->list = mt_arena_alloc(a->arena, g->cap * sizeof *g->list);
    g->volumes = mt_arena_alloc(a->arena, (v + 1) * sizeof *g->volumes);
    if (!g->list || !g->volumes)
        return out_of_memory(err);
    if (n)
        memcpy(g->list, g->group.instances, n * sizeof *g->list);
    if (v)
        memcpy(g->volumes, g->group.request.volumes, v * sizeof *g->volumes);
    g->group.instances = g->list;
    g->group.request.volumes = g->volumes;
    g->taken = true;
    return 0;
}

/* Take instance @i out: it has stopped, and what it held is free. */
static void remove_at(struct mt_ahead *a, struct mt_ahead_group *g, size_t i)
{
    struct mt_roll_instance *in = &g->list[i];
    struct mt_place_node *node = node_of(a, in);

    if (in->status != MT_STATUS_STOPPED) {
        if (node) {
            mt_place_credit(node, &in->size);
            node->draining -= in->desired != MT_DESIRED_RUNNING && node->draining > 0;
            mt_place_index_changed(a->index, in->node);
        }
        if (in->desired != MT_DESIRED_STOPPED) /* what is told to stop counts against no quota any more */
            mt_place_quota_credit(g->quota, &in->size);
        hold(a, g, false);
    }
    memmove(in, in + 1, (g->group.n_instances - i - 1) * sizeof *in);
    g->group.n_instances--;
}

/* What is on its way has arrived: starting ones are ready, ready ones for long enough, leaving ones gone. */
static void arrive(struct mt_ahead *a, struct mt_ahead_group *g)
{
    int64_t since = a->now_ms - mt_roll_min_ready_ms(&g->group);

    for (size_t i = g->group.n_instances; i-- > 0;) {
        struct mt_roll_instance *in = &g->list[i];
        if (on_gone(a, in))
            continue;
        if (in->desired != MT_DESIRED_RUNNING) {
            remove_at(a, g, i);
            continue;
        }
        if (in->status == MT_STATUS_BOOTING || in->status == MT_STATUS_STARTING) {
            in->status = MT_STATUS_READY;
            in->ready_since_ms = since;
        }
        if (in->status != MT_STATUS_READY)
            continue;
        in->ever_ready = true;
        in->consecutive_failures = 0;
        in->ready_since_ms = in->ready_since_ms > 0 && in->ready_since_ms < since ? in->ready_since_ms : since;
    }
}

/* ---- a step, and what it did ---- */

static int add(struct mt_ahead *a, struct mt_ahead_group *g, const struct mt_roll_action *act, struct mt_err *err)
{
    const struct mt_roll_instance *from = act->copy_of;

    if (g->group.n_instances == g->cap) {
        size_t cap = 2 * g->cap;
        struct mt_roll_instance *more = mt_arena_alloc(a->arena, cap * sizeof *more);
        if (!more)
            return out_of_memory(err);
        memcpy(more, g->list, g->group.n_instances * sizeof *more);
        g->list = more;
        g->cap = cap;
        g->group.instances = more;
    }
    char *id = mt_arena_printf(a->arena, PREFIX "%020llu", (unsigned long long)++a->made);
    if (!id)
        return out_of_memory(err);
    g->list[g->group.n_instances++] = (struct mt_roll_instance){
        .instance_id = id,
        .node = act->node,
        .spec_hash = from ? from->spec_hash : g->group.target_spec,
        .size = from ? from->size : g->group.request.size,
        .archs = from ? from->archs : g->group.request.archs,
        .n_archs = from ? from->n_archs : g->group.request.n_archs,
        .status = MT_STATUS_BOOTING,
    };
    a->nodes[act->node].booting -= a->nodes[act->node].booting > 0; /* it comes up before the next step */
    mt_place_index_changed(a->index, act->node);
    hold(a, g, true);
    return 0;
}

/* Carry out a decision. A DRAIN is counted on its node when it is decided, a STOP is not (rollout.c); the views count both. */
static void leave(struct mt_ahead *a, struct mt_ahead_group *g, const struct mt_roll_action *act)
{
    struct mt_roll_instance *in = &g->list[act->instance - g->list];
    struct mt_place_node *node = node_of(a, in);

    if (act->type == MT_ROLL_STOP && in->desired != MT_DESIRED_STOPPED && in->status != MT_STATUS_STOPPED) {
        mt_place_quota_credit(g->quota, &in->size);
        if (node)
            node->draining += in->desired == MT_DESIRED_RUNNING;
    }
    in->desired = act->type == MT_ROLL_DRAIN ? MT_DESIRED_DRAINING : MT_DESIRED_STOPPED;
}

static int apply(struct mt_ahead *a, struct mt_ahead_group *g, struct mt_err *err)
{
    const struct mt_roll_result *r = &g->result;
    int rc;

    for (size_t k = 0; k < r->n_actions; k++)
        if (r->actions[k].type != MT_ROLL_ALLOCATE)
            leave(a, g, &r->actions[k]);
    /* From here on the list may move; what actions point at stays in the arena. */
    for (size_t k = 0; k < r->n_actions; k++)
        if (r->actions[k].type == MT_ROLL_ALLOCATE && (rc = add(a, g, &r->actions[k], err)) < 0)
            return rc;
    return 0;
}

static int step(struct mt_ahead *a, struct mt_ahead_group *g, struct mt_err *err)
{
    struct mt_arena own = {0};
    int rc;

    arrive(a, g);
    mt_arena_init(&own, STEP_BYTES);
    rc = mt_roll_step_indexed(&g->group, a->nodes, a->n_nodes, a->index, g->quota, a->now_ms, &own, &g->result, err);
    if (rc == 0)
        rc = apply(a, g, err);
    if (rc == 0) { /* what env.scheduling_changed would have written down */
        const struct mt_roll_result *r = &g->result;
        if (r->condition == MT_ROLL_HELD && g->group.condition != MT_ROLL_HELD)
            g->group.held_event = UINT64_MAX;
        g->group.condition = r->condition;
        g->group.reason = r->reason;
        g->group.stable_spec = r->stable_spec;
        if (g->group.target_spec)
            g->group.recorded_target = g->group.target_spec;
    }
    g->acted = g->result.n_actions > 0;
    g->result.actions = NULL;
    g->result.n_actions = 0;
    mt_arena_done(&own);
    return rc;
}

int mt_ahead_run(struct mt_ahead *a, struct mt_err *err)
{
    size_t bound = 1000;
    int rc;

    for (size_t i = 0; i < a->n_nodes; i++)
        if (a->nodes[i].booting) {
            a->nodes[i].booting = 0;
            mt_place_index_changed(a->index, i);
        }
    for (size_t k = 0; k < a->n_groups; k++) {
        if (!a->groups[k].taken && (rc = take(a, &a->groups[k], err)) < 0)
            return rc;
        bound += 4 * a->groups[k].group.n_instances;
        a->groups[k].acted = false;
    }
    /* Turns of those that did something, until none does; then one of all, for what that made possible for others. */
    for (bool all = true;; bound--) {
        size_t acted = 0;
        if (bound == 0)
            return MT_FAIL(err, MT_E_LIMIT, "the cluster does not come to rest");
        for (size_t k = 0; k < a->n_groups; k++)
            if (all || a->groups[k].acted) {
                if ((rc = step(a, &a->groups[k], err)) < 0)
                    return rc;
                acted += a->groups[k].acted;
            }
        if (acted == 0 && all)
            return 0;
        all = acted == 0;
    }
}
