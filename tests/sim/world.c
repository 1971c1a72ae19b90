/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated cluster. What a node does is simple on purpose; what is under test is only the pure controllers. */
#include "world.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/str.h"

#include <stdarg.h>

/* splitmix64: small, and the same everywhere. Source: Steele, Lea, Flood 2014. */
static uint64_t next(struct world *w)
{
    uint64_t z = (w->rng += UINT64_C(0x9E3779B97F4A7C15));

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint32_t w_rand(struct world *w, uint32_t below)
{
    return below ? (uint32_t)(next(w) % below) : 0;
}

void w_broken(struct world *w, const char *fmt, ...)
{
    va_list ap;

    if (w->fault[0])
        return;
    int n = snprintf(w->fault, sizeof w->fault, "at %lld ms: ", (long long)w->now_ms);
    va_start(ap, fmt);
    (void)vsnprintf(w->fault + n, sizeof w->fault - (size_t)n, fmt, ap);
    va_end(ap);
}

static void new_id(struct world *w, enum mt_id_kind kind, char ret[MT_ID_SIZE])
{
    uint8_t random[10] = {0};
    char ulid[MT_ULID_SIZE];

    w->ulid++;
    for (int i = 0; i < 8; i++)
        random[9 - i] = (uint8_t)(w->ulid >> (8 * i));
    mt_ulid_encode((uint64_t)w->now_ms, random, ulid);
    mt_id_join(kind, ulid, ret);
}

void w_init(struct world *w, uint64_t seed)
{
    *w = (struct world){.seed = seed, .rng = seed, .now_ms = 1000000000, .event = 1,
                        .quota = {INT64_MAX, INT64_MAX, INT64_MAX}};
}

size_t w_add_node(struct world *w, uint64_t memory_mib, const char *zone)
{
    MT_ASSERT(w->n_nodes < W_NODES);
    new_id(w, MT_ID_NODE, w->node_ids[w->n_nodes]);
    w->nodes[w->n_nodes] = (struct mt_place_node){.node_id = w->node_ids[w->n_nodes], .zone = zone, .arch = "amd64",
        .admin = MT_NODE_ACTIVE, .health = MT_NODE_READY, .alloc_memory_bytes = memory_mib * W_MIB, .alloc_cpu_millis = 32000,
        .ceiling_cpu_millis = 64000, .alloc_disk_bytes = 1000 * 1024 * W_MIB, .overhead_bytes = 64 * W_MIB};
    return w->n_nodes++;
}

size_t w_add_spec(struct world *w, uint32_t memory_mib, unsigned fail_percent)
{
    MT_ASSERT(w->n_specs < 64);
    struct w_spec *s = &w->specs[w->n_specs];
    *s = (struct w_spec){.size = {500, memory_mib * W_MIB, 1024 * W_MIB}, .boot_ms_min = 800, .boot_ms_max = 4000,
                         .fail_percent = fail_percent, .reason = "workload_exited"};
    (void)snprintf(s->hash, sizeof s->hash, "%064zx", w->n_specs + 1);
    return w->n_specs++;
}

size_t w_add_group(struct world *w, size_t spec, uint32_t desired, bool stateful)
{
    MT_ASSERT(w->n_groups < W_GROUPS);
    w->groups[w->n_groups] = (struct w_group){.target = spec, .desired = desired, .stateful = stateful,
                                              .deploy = MT_DEPLOY_SUCCEEDED, .command_event = w->event++};
    if (stateful)
        w->groups[w->n_groups].volume = (struct mt_place_volume){"vol_0", w->node_ids[0], false};
    return w->n_groups++;
}

static struct w_instance *add(struct world *w, size_t group, size_t spec, size_t node)
{
    struct w_instance *i = NULL;

    for (size_t k = 0; k < w->n_in && !i; k++)
        if (!w->in[k].used)
            i = &w->in[k];
    if (!i) {
        MT_ASSERT(w->n_in < W_INSTANCES);
        i = &w->in[w->n_in++];
    }
    *i = (struct w_instance){.used = true, .group = group, .spec = spec, .node = node, .created_ms = w->now_ms,
                             .changed_ms = w->now_ms};
    new_id(w, MT_ID_INSTANCE, i->id);
    return i;
}

static void start_attempt(struct world *w, struct w_instance *i)
{
    const struct w_spec *s = &w->specs[i->spec];

    i->status = MT_STATUS_BOOTING;
    i->changed_ms = w->now_ms;
    i->will_fail = w_rand(w, 100) < s->fail_percent;
    i->next_ms = w->now_ms + s->boot_ms_min + w_rand(w, s->boot_ms_max - s->boot_ms_min);
}

struct w_instance *w_place_old(struct world *w, size_t group, size_t spec, size_t node, bool available)
{
    struct w_instance *i = add(w, group, spec, node);

    i->ever_ready = available;
    i->status = available ? MT_STATUS_READY : MT_STATUS_UNREADY;
    i->ready_since_ms = available ? w->now_ms - 600000 : 0;
    i->frozen = !available;
    i->next_ms = INT64_MAX;
    return i;
}

void w_deploy(struct world *w, size_t group, size_t spec, uint32_t desired)
{
    struct w_group *g = &w->groups[group];

    g->target = spec;
    g->desired = desired;
    g->command_event = w->event++;
    g->deploy = MT_DEPLOY_QUEUED;
    g->deploy_at_ms = w->now_ms;
    g->failed_reason[0] = '\0';
}

uint32_t w_available(const struct world *w, size_t group)
{
    uint32_t n = 0;

    for (size_t k = 0; k < w->n_in; k++) {
        const struct w_instance *i = &w->in[k];
        /* in rotation: ready, not draining, node reachable */
        n += i->used && i->group == group && i->status == MT_STATUS_READY && i->desired == MT_DESIRED_RUNNING &&
             !mt_node_gone(&w->nodes[i->node]);
    }
    return n;
}

uint32_t w_live(const struct world *w, size_t group, size_t spec)
{
    uint32_t n = 0;

    for (size_t k = 0; k < w->n_in; k++)
        n += w->in[k].used && w->in[k].group == group && w->in[k].spec == spec && w->in[k].desired == MT_DESIRED_RUNNING &&
             w->in[k].status != MT_STATUS_STOPPED;
    return n;
}

/* ---- the life of instances ---- */

static void record_attempt(struct world *w, const struct w_instance *i)
{
    if (w->n_attempts == W_ATTEMPTS)
        return;
    w->attempt_group[w->n_attempts] = i->group;
    w->attempts[w->n_attempts++] = (struct mt_roll_attempt){.event_id = w->event++, .spec_hash = w->specs[i->spec].hash,
        .ended_at_ms = w->now_ms, .reason_code = w->specs[i->spec].reason, .reason_detail = "exit code 1"};
}

static void live(struct world *w, struct w_instance *i)
{
    if (mt_node_gone(&w->nodes[i->node]) || i->status == MT_STATUS_STOPPED)
        return; /* nothing is heard of it */
    if (i->desired == MT_DESIRED_STOPPED || (i->desired == MT_DESIRED_DRAINING && w->now_ms >= i->changed_ms + 6000)) {
        i->status = MT_STATUS_STOPPED;
        return;
    }
    if (i->desired == MT_DESIRED_DRAINING) {
        i->status = MT_STATUS_DRAINING;
        return;
    }
    if (i->status == MT_STATUS_READY && w_rand(w, 60000) < w->specs[i->spec].break_percent * 5) {
        i->status = MT_STATUS_UNREADY;
        i->ready_since_ms = 0;
        i->next_ms = w->now_ms + 2000 + w_rand(w, 20000);
        return;
    }
    if (w->now_ms < i->next_ms || i->frozen)
        return;
    switch (i->status) {
    case MT_STATUS_BOOTING:
        i->status = MT_STATUS_STARTING;
        i->next_ms = w->now_ms + 200 + w_rand(w, 1500);
        break;
    case MT_STATUS_STARTING:
        if (i->will_fail) {
            i->consecutive_failures++;
            i->reason_code = w->specs[i->spec].reason;
            i->status = i->consecutive_failures >= 5 ? MT_STATUS_FAILED : MT_STATUS_BOOTING;
            i->changed_ms = w->now_ms;
            i->next_ms = w->now_ms + (2000 << (i->consecutive_failures < 7 ? i->consecutive_failures : 7));
            if (!i->ever_ready)
                record_attempt(w, i);
            i->will_fail = w_rand(w, 100) < w->specs[i->spec].fail_percent;
            break;
        }
        i->status = MT_STATUS_READY;
        i->ready_since_ms = w->now_ms;
        i->ever_ready = true;
        i->consecutive_failures = 0;
        i->next_ms = INT64_MAX;
        break;
    case MT_STATUS_UNREADY:
        i->status = MT_STATUS_READY;
        i->ready_since_ms = w->now_ms;
        i->next_ms = INT64_MAX;
        break;
    case MT_STATUS_FAILED:
        start_attempt(w, i);
        break;
    case MT_STATUS_READY:
    case MT_STATUS_DRAINING:
    case MT_STATUS_STOPPED:
    case MT_STATUS_MAX:
    default:
        break;
    }
}

/* ---- one pass ---- */

static const char *const archs[] = {"amd64"};

static void book_nodes(struct world *w)
{
    for (size_t n = 0; n < w->n_nodes; n++) {
        struct mt_place_node *node = &w->nodes[n];
        node->used_memory_bytes = node->used_cpu_millis = node->used_disk_bytes = 0;
        node->booting = node->instances = node->draining = 0;
    }
    for (size_t k = 0; k < w->n_in; k++) {
        const struct w_instance *i = &w->in[k];
        struct mt_place_node *node = &w->nodes[i->node];
        if (!i->used || i->status == MT_STATUS_STOPPED || node->health == MT_NODE_LOST)
            continue;
        mt_place_charge(node, &w->specs[i->spec].size);
        node->booting -= i->status != MT_STATUS_BOOTING;
        node->draining += i->desired == MT_DESIRED_DRAINING;
    }
    for (size_t n = 0; n < w->n_nodes; n++)
        if (w->nodes[n].used_memory_bytes > w->nodes[n].alloc_memory_bytes)
            w_broken(w, "node %zu is overcommitted", n);
}

static struct mt_place_quota quota_left(const struct world *w)
{
    struct mt_place_quota q = w->quota;

    for (size_t k = 0; k < w->n_in; k++)
        if (w->in[k].used && w->in[k].desired != MT_DESIRED_STOPPED && w->in[k].status != MT_STATUS_STOPPED)
            mt_place_quota_charge(&q, &w->specs[w->in[k].spec].size);
    return q;
}

static void apply(struct world *w, size_t group, const struct mt_roll_result *r)
{
    struct w_group *g = &w->groups[group];

    for (size_t a = 0; a < r->n_actions; a++) {
        const struct mt_roll_action *act = &r->actions[a];
        struct w_instance *i = NULL;
        size_t spec = g->target;
        for (size_t k = 0; k < w->n_in && act->instance; k++)
            if (w->in[k].used && MT_STREQ(w->in[k].id, act->instance->instance_id))
                i = &w->in[k];
        if (act->type == MT_ROLL_ALLOCATE) {
            for (size_t k = 0; act->copy_of && k < w->n_specs; k++)
                if (MT_STREQ(w->specs[k].hash, act->copy_of->spec_hash))
                    spec = k;
            MT_ASSERT(spec != SIZE_MAX);
            if (act->instance && !act->copy_of && g->n_crash < 64)
                g->crash_ms[g->n_crash++] = w->now_ms;
            start_attempt(w, add(w, group, spec, act->node));
            continue;
        }
        MT_ASSERT(i);
        if (i->desired == MT_DESIRED_STOPPED || (act->type == MT_ROLL_DRAIN && i->desired != MT_DESIRED_RUNNING))
            w_broken(w, "a desired state went backwards");
        i->desired = act->type == MT_ROLL_DRAIN ? MT_DESIRED_DRAINING : MT_DESIRED_STOPPED;
        i->stop_reason = act->reason;
        i->changed_ms = w->now_ms;
        if (!(mt_reason_info(act->reason)->parts & MT_REASON_STOP))
            w_broken(w, "'%s' is no planned stop", mt_reason_code(act->reason));
    }
}

/* The step as moat-control takes it, over the index, and the plain one beside it: they must not differ. */
static void roll(struct world *w, const struct mt_roll_group *in, struct mt_place_quota *quota, struct mt_arena *arena,
                 struct mt_roll_result *ret)
{
    struct mt_place_node nodes[W_NODES];
    struct mt_place_quota left = *quota;
    struct mt_place_index *index;
    struct mt_roll_result plain;
    struct mt_err err;

    memcpy(nodes, w->nodes, sizeof nodes);
    MT_ASSERT(mt_roll_step(in, nodes, w->n_nodes, &left, w->now_ms, arena, &plain, &err) == 0);
    MT_ASSERT(mt_place_index_new(w->nodes, w->n_nodes, &index, &err) == 0);
    MT_ASSERT(mt_roll_step_indexed(in, w->nodes, w->n_nodes, index, quota, w->now_ms, arena, ret, &err) == 0);
    mt_place_index_free(index);
    bool same = plain.n_actions == ret->n_actions && plain.condition == ret->condition && plain.reason == ret->reason &&
                MT_STREQ(plain.detail, ret->detail) && memcmp(nodes, w->nodes, sizeof nodes) == 0;
    for (size_t i = 0; same && i < plain.n_actions; i++)
        same = plain.actions[i].type == ret->actions[i].type && plain.actions[i].node == ret->actions[i].node &&
               plain.actions[i].instance == ret->actions[i].instance && plain.actions[i].copy_of == ret->actions[i].copy_of;
    if (!same)
        w_broken(w, "the step over the index differs from the plain one");
}

static void step_group(struct world *w, size_t group, struct mt_arena *arena)
{
    static struct mt_roll_instance snap[W_INSTANCES];
    static struct mt_roll_attempt attempts[W_ATTEMPTS];
    struct w_group *g = &w->groups[group];
    struct mt_place_quota quota = quota_left(w);
    size_t n = 0, n_attempts = 0;

    g->volume.in_use = false;
    for (size_t k = 0; k < w->n_in; k++) {
        struct w_instance *i = &w->in[k];
        if (!i->used || i->group != group)
            continue;
        if (i->status == MT_STATUS_STOPPED && i->desired != MT_DESIRED_RUNNING) {
            i->used = false;
            continue;
        }
        g->volume.in_use = true;
        snap[n++] = (struct mt_roll_instance){.instance_id = i->id, .node = i->node, .spec_hash = w->specs[i->spec].hash,
            .size = w->specs[i->spec].size, .archs = archs, .n_archs = 1, .desired = i->desired, .status = i->status,
            .stop_reason = i->stop_reason, .reason_code = i->reason_code, .ever_ready = i->ever_ready, .retry_pending = true,
            .consecutive_failures = i->consecutive_failures, .ready_since_ms = i->ready_since_ms,
            .changed_at_ms = i->changed_ms, .drain_delay_seconds = 5, .stop_grace_seconds = 10};
    }
    for (size_t k = 0; k < w->n_attempts; k++)
        if (w->attempt_group[k] == group)
            attempts[n_attempts++] = w->attempts[k];
    const struct w_spec *target = g->target == SIZE_MAX ? NULL : &w->specs[g->target];
    struct mt_roll_group in = {.target_spec = target ? target->hash : NULL, .desired = g->desired, .stateful = g->stateful,
        .startup_timeout_seconds = 130, .boot_budget_seconds = 1900, .roll_reason = MT_REASON_REPLACED, .may_allocate = true,
        .rolling = g->deploy == MT_DEPLOY_ROLLING, .condition = g->condition, .reason = g->reason,
        .stable_spec = g->stable[0] ? g->stable : NULL, .recorded_target = g->recorded[0] ? g->recorded : NULL,
        .held_event = g->held_event, .command_event = g->command_event, .instances = snap, .n_instances = n,
        .attempts = attempts, .n_attempts = n_attempts, .request = {.archs = archs, .n_archs = 1}};
    if (target)
        in.request.size = target->size;
    if (g->stateful) {
        in.request.volumes = &g->volume;
        in.request.n_volumes = 1;
    }
    for (size_t k = 0; k < g->n_crash; k++) {
        in.crash_replacements_10min += w->now_ms - g->crash_ms[k] < 600000;
        in.last_crash_replacement_ms = g->crash_ms[k];
    }
    roll(w, &in, &quota, arena, &g->last);
    w->steps++;
    apply(w, group, &g->last);
    if (g->last.scheduling_changed) {
        g->condition = g->last.condition;
        g->reason = g->last.reason;
        if (g->condition == MT_ROLL_HELD)
            g->held_event = w->event++;
        if (g->last.stable_spec && g->last.stable_spec != g->stable)
            (void)snprintf(g->stable, sizeof g->stable, "%s", g->last.stable_spec);
        (void)snprintf(g->recorded, sizeof g->recorded, "%s", in.target_spec ? in.target_spec : "");
    }
    if (g->last.condition == MT_ROLL_BLOCKED && !(mt_reason_info(g->last.reason)->parts & MT_REASON_PLACEMENT))
        w_broken(w, "group %zu is blocked without a reason", group);
}

static void step_deploy(struct world *w, size_t group)
{
    struct w_group *g = &w->groups[group];
    struct mt_deploy_group dg = {"web", &g->last};
    struct mt_deploy d = {.status = g->deploy, .created_at_ms = g->deploy_at_ms, .timeout_seconds = 900, .groups = &dg,
                          .n_groups = 1};
    struct mt_deploy_decision out;

    mt_deploy_step(&d, w->now_ms, &out);
    if (!out.changed)
        return;
    g->deploy = out.status;
    (void)snprintf(g->failed_reason, sizeof g->failed_reason, "%s", out.failed_reason);
}

void w_turn(struct world *w, int64_t ms)
{
    struct mt_arena arena;

    for (size_t k = 0; k < w->n_in; k++)
        if (w->in[k].used)
            live(w, &w->in[k]);
    book_nodes(w);
    for (size_t g = 0; g < w->n_groups; g++) {
        mt_arena_init(&arena, 16U << 20);
        step_group(w, g, &arena);
        step_deploy(w, g);
        w->groups[g].last.actions = NULL; /* they go with the arena */
        mt_arena_done(&arena);
    }
    book_nodes(w);
    w->now_ms += ms;
}

bool w_settle(struct world *w, int64_t limit_ms)
{
    int64_t end = w->now_ms + limit_ms;

    while (w->now_ms < end && !w->fault[0]) {
        bool settled = true;
        w_turn(w, 250);
        for (size_t g = 0; g < w->n_groups; g++)
            settled = settled && (w->groups[g].last.satisfied || w->groups[g].condition == MT_ROLL_HELD);
        if (settled)
            return true;
    }
    return false;
}
