/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole cluster, seeded: what nodes really run (truth) and what the log believes (view) are two things here, joined by plans
 * and reports that get lost, come twice or late. Nodes are cut off, lose power, are drained; the leader goes away; the
 * database's clock jumps; releases fail; groups are deployed, scaled and rotated. The planner sees the view alone.
 *
 * Invariants are checked on the truth after each step. With --mutants the same worlds run against planners with a known bad
 * idea each: every one must be caught.
 *
 * Usage: sim_cluster [--seed N] [--seeds N] [--mutants N]; a failing seed is printed with the command that replays it.
 */
#include "control/rollout/rollout.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/num.h"
#include "base/str.h"

#include <stdarg.h>

#define NODES 5
#define GROUPS 3
#define MAX_IN 160
#define SPECS 4
#define MIB (UINT64_C(1) << 20)
#define OVERHEAD (64 * MIB)
#define CHAOS_MS 2400000
#define CALM_MS 1800000

struct inst {
    bool used;
    char id[24];
    size_t group, node, spec;
    /* the log's view */
    enum mt_desired_state desired;
    enum mt_reason stop_reason;
    enum mt_instance_status status;
    int64_t ready_since, changed; /* database clock */
    bool ever_ready;
    uint32_t failures;
    uint64_t seen; /* sequence number of the last report that counted */
    /* the truth on the node */
    enum mt_desired_state told; /* of the last plan the node got; RUNNING only with `known` */
    bool known, vm;             /* vm: it holds memory and volumes */
    enum mt_instance_status real;
    int64_t next, drain_from; /* true clock */
    uint32_t real_failures;
    bool real_ever;
    uint64_t seq;
};

struct node {
    char id[16];
    bool dead, cut;
    int64_t heard; /* true clock */
    unsigned clean;
};

struct group {
    size_t spec;
    uint32_t desired;
    bool stateful;
    enum mt_roll_condition condition;
    enum mt_reason reason;
    char stable[8], recorded[8];
    uint64_t held_event, command_event;
    int64_t crash[32];
    size_t n_crash;
    struct mt_roll_attempt attempts[64];
    size_t n_attempts;
    bool satisfied;
    struct mt_place_volume volume;
};

enum mutant {
    NONE = 0,
    DRAINS_BEFORE_READY,
    IGNORES_OVERHEAD,
    ALLOCATES_TWICE,
    MOVES_A_VOLUME,
    STARTS_BEFORE_THE_STOP,
    FORGETS_WHAT_DRAINS,
    FREES_WHAT_IS_SILENT,
    REBALANCES,
    DRAINS_WITHOUT_REPLACEMENT,
    TRUSTS_A_LOST_NODE,
    MUTANTS
};

static const char *const mutant_names[MUTANTS] = {
    [NONE] = "the planner",
    [DRAINS_BEFORE_READY] = "drains before the new one is ready",
    [IGNORES_OVERHEAD] = "ignores the overhead of a VM",
    [ALLOCATES_TWICE] = "allocates twice",
    [MOVES_A_VOLUME] = "moves a volume to another node",
    [STARTS_BEFORE_THE_STOP] = "starts on a volume before the stop is confirmed",
    [FORGETS_WHAT_DRAINS] = "counts no memory for what drains",
    [FREES_WHAT_IS_SILENT] = "frees the memory of an offline node's instances",
    [REBALANCES] = "moves instances around for balance",
    [DRAINS_WITHOUT_REPLACEMENT] = "drains a node without replacements",
    [TRUSTS_A_LOST_NODE] = "never replaces what an offline node ran",
};

static struct {
    uint64_t rng, event, hash, steps, actions, disturbances;
    int64_t now, skew; /* true clock; database clock = now + skew */
    struct node nodes[NODES];
    struct mt_place_node place[NODES];
    size_t n_nodes, n_groups;
    struct group groups[GROUPS];
    struct inst in[MAX_IN];
    size_t top; /* slots ever used */
    uint64_t ids;
    bool calm;
    enum mutant mutant;
    char fault[200];
} w;

static const char *const archs[] = {"amd64"};
static const char *const spec_names[SPECS] = {"spec-a", "spec-b", "spec-c", "spec-d"};
static uint32_t spec_mib[SPECS], spec_fails[SPECS]; /* percent of attempts */

static uint32_t rnd(uint32_t below) /* splitmix64 */
{
    uint64_t z = (w.rng += UINT64_C(0x9E3779B97F4A7C15));

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)((z ^ (z >> 31)) % below);
}

__attribute__((format(printf, 1, 2))) static void broken(const char *fmt, ...)
{
    va_list ap;
    int n;

    if (w.fault[0])
        return;
    n = snprintf(w.fault, sizeof w.fault, "at %lld s: ", (long long)(w.now / 1000));
    va_start(ap, fmt);
    (void)vsnprintf(w.fault + n, sizeof w.fault - (size_t)n, fmt, ap);
    va_end(ap);
}

static int64_t db_now(void)
{
    return w.now + w.skew;
}

/* ---- nodes: the truth ---- */

static void begin_attempt(struct inst *i)
{
    i->vm = true;
    i->real = MT_STATUS_BOOTING;
    i->next = w.now + 1500 + rnd(6000);
    i->seq++;
}

static void end_real(struct inst *i, enum mt_instance_status as)
{
    i->vm = false;
    i->real = as;
    i->seq++;
}

static void live(struct inst *i)
{
    const struct node *n = &w.nodes[i->node];

    if (n->dead || !i->known)
        return;
    if (i->told != MT_DESIRED_RUNNING) { /* a kill takes its time too */
        if (i->real != MT_STATUS_DRAINING && i->real != MT_STATUS_STOPPED) {
            i->real = MT_STATUS_DRAINING;
            i->drain_from = w.now;
            i->seq++;
        } else if (i->real == MT_STATUS_DRAINING && w.now - i->drain_from > (i->told == MT_DESIRED_DRAINING ? 6000 : 3000)) {
            end_real(i, MT_STATUS_STOPPED);
        }
        return;
    }
    if (i->real == MT_STATUS_READY) {
        if (!w.calm && rnd(4000) == 0) { /* it crashes; the agent starts it again */
            end_real(i, MT_STATUS_FAILED);
            i->next = w.now + 2000;
            w.disturbances++;
        }
        return;
    }
    if (w.now < i->next)
        return;
    if (i->real == MT_STATUS_BOOTING) {
        if (rnd(100) < spec_fails[i->spec]) {
            i->real_failures++;
            end_real(i, MT_STATUS_FAILED);
            i->next = w.now + (2000 << (i->real_failures < 6 ? i->real_failures : 6));
            return;
        }
        i->real = MT_STATUS_READY;
        i->real_ever = true;
        i->real_failures = 0;
        i->seq++;
    } else if (i->real == MT_STATUS_FAILED) {
        begin_attempt(i);
    }
}

/* A plan reaches a node: it learns what is wanted. The agent refuses a start that the plan gets wrong only by memory it does
 * not have; here that would hide the fault, so it starts everything and the invariant looks. */
static void get_plan(size_t n)
{
    for (size_t k = 0; k < w.top; k++) {
        struct inst *i = &w.in[k];
        if (!i->used || i->node != n || (i->known && i->told == i->desired))
            continue;
        if (!i->known && i->desired != MT_DESIRED_RUNNING) {
            i->real = MT_STATUS_STOPPED; /* it never came to be */
            i->seq++;
        }
        bool fresh = !i->known && i->desired == MT_DESIRED_RUNNING;
        i->known = true;
        i->told = i->desired;
        if (fresh)
            begin_attempt(i);
    }
}

static void note_attempt(struct inst *i)
{
    struct group *g = &w.groups[i->group];

    if (g->n_attempts == MT_ARRAY_LEN(g->attempts)) {
        memmove(g->attempts, g->attempts + 1, sizeof g->attempts - sizeof g->attempts[0]);
        g->n_attempts--;
    }
    g->attempts[g->n_attempts++] = (struct mt_roll_attempt){w.event++, spec_names[i->spec], db_now(), "workload_exited", NULL};
}

static void report(struct inst *i)
{
    if (!i->known || i->seq <= i->seen)
        return; /* twice, or late: the log has it */
    i->seen = i->seq;
    if (i->real == MT_STATUS_FAILED && !i->real_ever)
        note_attempt(i);
    if (i->status != i->real) {
        i->ready_since = i->real == MT_STATUS_READY ? db_now() : 0;
        if (i->real == MT_STATUS_BOOTING)
            i->changed = db_now();
        i->status = i->real;
    }
    i->ever_ready = i->ever_ready || i->real_ever;
    i->failures = i->real_failures;
}

static void talk(void)
{
    size_t silent = 0;

    for (size_t n = 0; n < w.n_nodes; n++) {
        struct node *d = &w.nodes[n];
        struct mt_place_node *p = &w.place[n];
        bool heard = !d->dead && !d->cut && (w.calm || rnd(10) > 0);
        if (heard) {
            d->clean = d->clean < 9 ? d->clean + 1 : 9;
            d->heard = w.now;
            if (w.calm || rnd(3) > 0)
                get_plan(n);
            for (size_t k = 0; k < w.top; k++)
                if (w.in[k].used && w.in[k].node == n && (w.calm || rnd(8) > 0))
                    for (uint32_t twice = rnd(10) == 0 ? 2 : 1; twice > 0; twice--)
                        report(&w.in[k]);
        }
        silent += w.now - d->heard >= 20000;
        if (!heard && w.now - d->heard >= 20000)
            d->clean = 0;
        if (p->health != MT_NODE_READY && d->clean >= 3)
            p->health = MT_NODE_READY;
        else if (p->health == MT_NODE_READY && w.now - d->heard >= 20000)
            p->health = MT_NODE_SUSPECT;
    }
    for (size_t n = 0; n < w.n_nodes; n++) /* more than half are silent: the guard holds all of them */
        if (w.place[n].health == MT_NODE_SUSPECT && w.now - w.nodes[n].heard >= 60000 && !(silent >= 2 && silent * 2 > w.n_nodes))
            w.place[n].health = MT_NODE_OFFLINE;
}

/* ---- the planner's snapshot ---- */

static struct mt_place_size size_of(size_t spec)
{
    return (struct mt_place_size){100, spec_mib[spec] * MIB, 1024 * MIB};
}

static bool counts(const struct inst *i)
{
    if (w.mutant == FORGETS_WHAT_DRAINS && i->desired == MT_DESIRED_DRAINING)
        return false;
    if (w.mutant == FREES_WHAT_IS_SILENT && i->desired == MT_DESIRED_STOPPED)
        return false;
    return i->used && i->status != MT_STATUS_STOPPED;
}

static void book(struct mt_place_index *ix)
{
    for (size_t n = 0; n < w.n_nodes; n++) {
        struct mt_place_node *p = &w.place[n];
        p->used_memory_bytes = p->used_cpu_millis = p->used_disk_bytes = 0;
        p->booting = p->instances = p->draining = 0;
        p->overhead_bytes = w.mutant == IGNORES_OVERHEAD ? 0 : OVERHEAD;
    }
    for (size_t k = 0; k < w.top; k++) {
        struct inst *i = &w.in[k];
        struct mt_place_size size = size_of(i->spec);
        if (!counts(i))
            continue;
        mt_place_charge(&w.place[i->node], &size);
        w.place[i->node].booting -= i->status != MT_STATUS_BOOTING;
        w.place[i->node].draining += i->desired == MT_DESIRED_DRAINING;
    }
    for (size_t n = 0; n < w.n_nodes; n++)
        mt_place_index_changed(ix, n);
}

static bool available(const struct inst *i)
{
    const struct mt_place_node *p = &w.place[i->node];

    return i->used && i->desired == MT_DESIRED_RUNNING && i->status == MT_STATUS_READY && i->ready_since > 0 && !mt_node_gone(p) &&
           db_now() - i->ready_since >= MT_ROLL_MIN_READY_MS;
}

static uint32_t available_of(size_t g)
{
    uint32_t n = 0;

    for (size_t k = 0; k < w.top; k++)
        n += w.in[k].group == g && available(&w.in[k]);
    return n;
}

static uint32_t staying(size_t g, size_t spec)
{
    uint32_t n = 0;

    for (size_t k = 0; k < w.top; k++) {
        const struct inst *i = &w.in[k];
        bool evicted = !w.groups[g].stateful && w.place[i->node].admin == MT_NODE_DRAINING; /* it counts as old */
        n += i->used && i->group == g && (spec == SPECS || (i->spec == spec && !evicted)) && i->desired == MT_DESIRED_RUNNING &&
             i->status != MT_STATUS_STOPPED && !(mt_node_gone(&w.place[i->node]) && !w.groups[g].stateful);
    }
    return n;
}

static struct inst *new_inst(size_t group, size_t spec, size_t node)
{
    for (size_t k = 0; k < MAX_IN; k++)
        if (!w.in[k].used) {
            w.top = k + 1 > w.top ? k + 1 : w.top;
            w.in[k] = (struct inst){.used = true, .group = group, .spec = spec, .node = node, .desired = MT_DESIRED_RUNNING,
                                    .status = MT_STATUS_BOOTING, .changed = db_now(), .real = MT_STATUS_BOOTING};
            (void)snprintf(w.in[k].id, sizeof w.in[k].id, "inst_%012llu", (unsigned long long)w.ids++);
            return &w.in[k];
        }
    broken("more than %d instances", MAX_IN);
    return NULL;
}

static void mix(uint64_t v)
{
    w.hash = (w.hash ^ v) * UINT64_C(0x100000001b3);
}

static void act(size_t gi, const struct mt_roll_action *a, struct inst *const *map, const struct mt_roll_instance *snap)
{
    struct inst *i = a->instance ? map[a->instance - snap] : NULL;

    w.actions++;
    mix((uint64_t)a->type * 31 + a->node * 7 + gi);
    if (a->type == MT_ROLL_ALLOCATE) {
        size_t spec = a->copy_of ? map[a->copy_of - snap]->spec : w.groups[gi].spec;
        if (i && !a->copy_of && w.groups[gi].n_crash < MT_ARRAY_LEN(w.groups[gi].crash))
            w.groups[gi].crash[w.groups[gi].n_crash++] = db_now();
        (void)new_inst(gi, spec, a->node);
        return;
    }
    if (i->desired == MT_DESIRED_STOPPED || (a->type == MT_ROLL_DRAIN && i->desired != MT_DESIRED_RUNNING))
        broken("a desired state went backwards");
    i->desired = a->type == MT_ROLL_DRAIN ? MT_DESIRED_DRAINING : MT_DESIRED_STOPPED;
    i->stop_reason = a->reason;
    i->changed = db_now();
}

/* What the bad ideas do to a good step. */
static void spoil(struct mt_roll_group *in, struct mt_roll_instance *snap, struct group *g)
{
    for (size_t k = 0; k < in->n_instances; k++) {
        if (w.mutant == DRAINS_BEFORE_READY && snap[k].desired == MT_DESIRED_RUNNING) {
            snap[k].status = MT_STATUS_READY;
            snap[k].ready_since_ms = 1;
        }
        if (w.mutant == TRUSTS_A_LOST_NODE && snap[k].node < w.n_nodes && mt_node_gone(&w.place[snap[k].node]))
            snap[k].node = snap[k].node == 0 ? 1 : 0; /* as if it were on one that answers */
    }
    if (w.mutant == MOVES_A_VOLUME && g->stateful) {
        in->stateful = false;
        in->request.n_volumes = 0;
    }
    if (w.mutant == STARTS_BEFORE_THE_STOP && g->stateful) {
        in->stateful = false;
        g->volume.in_use = false;
    }
}

static void step(size_t gi, struct mt_place_index *ix, bool lost_append)
{
    static struct mt_roll_instance snap[MAX_IN];
    static struct inst *map[MAX_IN];
    struct group *g = &w.groups[gi];
    struct mt_place_quota quota = MT_PLACE_QUOTA_NONE;
    struct mt_place_node keep[NODES];
    struct mt_roll_result r;
    struct mt_arena arena;
    struct mt_err err;
    size_t n = 0;

    g->volume.in_use = false;
    for (size_t k = 0; k < w.top; k++) {
        struct inst *i = &w.in[k];
        if (!i->used || i->group != gi)
            continue;
        if (i->status == MT_STATUS_STOPPED && i->desired != MT_DESIRED_RUNNING) {
            i->used = false; /* released */
            continue;
        }
        g->volume.in_use = true;
        map[n] = i;
        snap[n++] = (struct mt_roll_instance){.instance_id = i->id, .node = i->node, .spec_hash = spec_names[i->spec], .size = size_of(i->spec),
            .archs = archs, .n_archs = 1, .desired = i->desired, .status = i->status, .stop_reason = i->stop_reason,
            .reason_code = i->status == MT_STATUS_FAILED ? "workload_exited" : NULL, .ever_ready = i->ever_ready, .retry_pending = true,
            .consecutive_failures = i->failures, .ready_since_ms = i->ready_since, .changed_at_ms = i->changed, .drain_delay_seconds = 5,
            .stop_grace_seconds = 10};
    }
    struct mt_roll_group in = {.target_spec = spec_names[g->spec], .desired = g->desired, .stateful = g->stateful,
        .startup_timeout_seconds = 130, .boot_budget_seconds = 1900, .roll_reason = MT_REASON_REPLACED, .may_allocate = true,
        .condition = g->condition, .reason = g->reason, .stable_spec = g->stable[0] ? g->stable : NULL,
        .recorded_target = g->recorded[0] ? g->recorded : NULL, .held_event = g->held_event, .command_event = g->command_event,
        .instances = snap, .n_instances = n, .attempts = g->attempts, .n_attempts = g->n_attempts,
        .request = {.size = size_of(g->spec), .archs = archs, .n_archs = 1, .volumes = &g->volume, .n_volumes = g->stateful}};
    for (size_t k = 0; k < g->n_crash; k++) {
        in.crash_replacements_10min += db_now() - g->crash[k] < 600000;
        in.last_crash_replacement_ms = g->crash[k];
    }
    spoil(&in, snap, g);
    memcpy(keep, w.place, sizeof keep);
    mt_arena_init(&arena, 4U << 20);
    MT_ASSERT(mt_roll_step_indexed(&in, w.place, w.n_nodes, ix, &quota, db_now(), &arena, &r, &err) == 0);
    w.steps++;
    if (lost_append) { /* the fence: this leader is none any more, nothing of it is written */
        memcpy(w.place, keep, sizeof keep);
        for (size_t k = 0; k < w.n_nodes; k++)
            mt_place_index_changed(ix, k);
        mt_arena_done(&arena);
        return;
    }
    uint32_t was = available_of(gi), drained = 0, matching = staying(gi, g->spec), all = staying(gi, SPECS), made = 0;
    for (size_t a = 0; a < r.n_actions; a++) {
        const struct mt_roll_action *x = &r.actions[a];
        drained += x->type == MT_ROLL_DRAIN && available(map[x->instance - snap]);
        made += x->type == MT_ROLL_ALLOCATE && !x->copy_of;
        act(gi, x, map, snap);
        if (w.mutant == ALLOCATES_TWICE && x->type == MT_ROLL_ALLOCATE && rnd(3) == 0)
            act(gi, x, map, snap);
        if (g->stateful && x->type == MT_ROLL_ALLOCATE && !MT_STREQ(w.nodes[x->node].id, g->volume.home_node_id))
            broken("group %zu was placed away from its volume", gi);
    }
    if (w.mutant == REBALANCES && r.satisfied && n > 1 && rnd(20) == 0 && map[0]->desired == MT_DESIRED_RUNNING)
        act(gi, &(struct mt_roll_action){.type = MT_ROLL_DRAIN, .instance = &snap[0], .reason = MT_REASON_REBALANCED}, map, snap);
    if (w.mutant == DRAINS_WITHOUT_REPLACEMENT)
        for (size_t k = 0; k < n; k++)
            if (w.place[map[k]->node].admin == MT_NODE_DRAINING && map[k]->desired == MT_DESIRED_RUNNING && !g->stateful) {
                drained += available(map[k]);
                act(gi, &(struct mt_roll_action){.type = MT_ROLL_DRAIN, .instance = &snap[k], .reason = MT_REASON_NODE_DRAINING}, map, snap);
            }
    if (!g->stateful && drained && g->desired && !r.surge_unavailable && was - drained < g->desired)
        broken("group %zu: %u of %u available were drained, %u are wanted", gi, drained, was, g->desired);
    if (!g->stateful && r.surge_unavailable && drained > 1)
        broken("group %zu: %u drained at once without room", gi, drained);
    uint32_t now_matching = staying(gi, g->spec), now_all = staying(gi, SPECS), top = g->desired + mt_roll_surge(g->desired, g->stateful);
    if (now_matching > g->desired && now_matching > matching)
        broken("group %zu: %u of the target, %u are wanted", gi, now_matching, g->desired);
    if (made && now_all > top && now_all > all)
        broken("group %zu: %u in all, at most %u may be", gi, now_all, top);
    g->satisfied = r.satisfied;
    if (r.condition == MT_ROLL_BLOCKED && !(mt_reason_info(r.reason)->parts & MT_REASON_PLACEMENT))
        broken("group %zu is blocked without a reason", gi);
    if (r.scheduling_changed) {
        g->condition = r.condition;
        g->reason = r.reason;
        if (r.condition == MT_ROLL_HELD)
            g->held_event = w.event++;
        if (r.stable_spec && r.stable_spec != g->stable)
            (void)snprintf(g->stable, sizeof g->stable, "%s", r.stable_spec);
        (void)snprintf(g->recorded, sizeof g->recorded, "%s", spec_names[g->spec]);
    }
    mt_arena_done(&arena);
}

/* ---- what must hold of the truth ---- */

static void look(void)
{
    for (size_t n = 0; n < w.n_nodes; n++) {
        uint64_t memory = 0;
        for (size_t k = 0; k < w.top; k++)
            if (w.in[k].used && w.in[k].node == n && w.in[k].vm)
                memory += spec_mib[w.in[k].spec] * MIB + OVERHEAD;
        if (memory > w.place[n].alloc_memory_bytes)
            broken("node %zu runs %llu MiB of %llu", n, (unsigned long long)(memory / MIB), (unsigned long long)(w.place[n].alloc_memory_bytes / MIB));
    }
    for (size_t g = 0; g < w.n_groups; g++) {
        size_t users = 0;
        for (size_t k = 0; k < w.top && w.groups[g].stateful; k++)
            users += w.in[k].used && w.in[k].group == g && w.in[k].vm;
        if (users > 1)
            broken("%zu VMs on the volume of group %zu", users, g);
    }
}

/* ---- what happens ---- */

static void command(struct group *g)
{
    g->command_event = w.event++;
    g->n_crash = 0;
    w.disturbances++;
}

static void disturb(void)
{
    size_t n = rnd((uint32_t)w.n_nodes), g = rnd((uint32_t)w.n_groups);
    struct node *d = &w.nodes[n];
    uint32_t dice = rnd(400);

    if (dice < 4) {
        w.groups[g].spec = rnd(SPECS); /* a deploy, or a rotation of secrets: another spec */
        command(&w.groups[g]);
    } else if (dice < 6 && !w.groups[g].stateful) {
        w.groups[g].desired = rnd(7);
        command(&w.groups[g]);
    } else if (dice < 8) {
        d->cut = true;
        w.disturbances++;
    } else if (dice < 10 && !d->dead) { /* power off: every VM of it ends */
        d->dead = true;
        for (size_t k = 0; k < w.top; k++)
            if (w.in[k].used && w.in[k].node == n && w.in[k].vm)
                end_real(&w.in[k], MT_STATUS_FAILED);
        w.disturbances++;
    } else if (dice < 12) {
        w.place[n].admin = rnd(2) ? MT_NODE_DRAINING : MT_NODE_CORDONED;
        w.disturbances++;
    } else if (dice < 24) {
        d->cut = d->dead = false;
        w.place[n].admin = MT_NODE_ACTIVE;
        w.disturbances++;
    } else if (dice == 24) {
        w.skew += (int64_t)rnd(600000); /* the database's clock jumps ahead */
        w.disturbances++;
    } else if (dice == 25) {
        w.skew -= (int64_t)rnd(60000);
        w.disturbances++;
    }
}

static void turn(struct mt_place_index **ix, bool leader, bool lost_append)
{
    struct mt_err err;

    for (size_t k = 0; k < w.top; k++)
        if (w.in[k].used)
            live(&w.in[k]);
    look();
    talk();
    if (leader) {
        book(*ix);
        for (size_t g = 0; g < w.n_groups; g++)
            step(g, *ix, lost_append);
    } else { /* the next one begins with nothing in its hands */
        mt_place_index_free(*ix);
        MT_ASSERT(mt_place_index_new(w.place, w.n_nodes, ix, &err) == 0);
    }
    w.now += 1000 + rnd(5000);
}

static void world(uint64_t seed, enum mutant mutant)
{
    struct mt_place_index *ix = NULL;
    struct mt_err err;
    int64_t no_leader_until = 0;

    memset(&w, 0, sizeof w);
    w.rng = seed;
    w.mutant = mutant;
    w.now = 1000000000;
    w.event = 1;
    w.hash = UINT64_C(0xcbf29ce484222325);
    w.n_nodes = 2 + rnd(NODES - 1);
    w.n_groups = 1 + rnd(GROUPS);
    bool tight = rnd(2);
    for (size_t s = 0; s < SPECS; s++) {
        spec_mib[s] = 64 + 64 * rnd(8);
        spec_fails[s] = s == 0 ? 0 : rnd(4) == 0 ? 100 : rnd(15);
    }
    for (size_t n = 0; n < w.n_nodes; n++) {
        (void)snprintf(w.nodes[n].id, sizeof w.nodes[n].id, "node_%zu", n);
        w.nodes[n].heard = w.now;
        w.place[n] = (struct mt_place_node){.node_id = w.nodes[n].id, .zone = rnd(2) ? "a" : NULL, .arch = "amd64", .admin = MT_NODE_ACTIVE,
            .alloc_memory_bytes = (tight ? 1200 + rnd(1200) : 12000) * MIB, .alloc_cpu_millis = 16000, .ceiling_cpu_millis = 32000,
            .alloc_disk_bytes = 400 * 1024 * MIB, .overhead_bytes = OVERHEAD};
    }
    for (size_t g = 0; g < w.n_groups; g++) {
        bool stateful = rnd(3) == 0;
        w.groups[g] = (struct group){.desired = stateful ? 1 : rnd(6), .stateful = stateful, .command_event = w.event++,
                                     .volume = {"vol_1", w.nodes[rnd((uint32_t)w.n_nodes)].id, false}};
    }
    MT_ASSERT(mt_place_index_new(w.place, w.n_nodes, &ix, &err) == 0);
    for (int64_t end = w.now + CHAOS_MS; w.now < end && !w.fault[0];) {
        disturb();
        if (rnd(150) == 0) {
            no_leader_until = w.now + rnd(20000);
            w.disturbances++;
        }
        turn(&ix, w.now >= no_leader_until, rnd(60) == 0);
    }
    /* faults end, everything heals: it must come to rest, and then nothing may move */
    w.calm = true;
    for (size_t n = 0; n < w.n_nodes; n++) {
        w.nodes[n].cut = w.nodes[n].dead = false;
        w.place[n].admin = MT_NODE_ACTIVE;
    }
    for (size_t g = 0; g < w.n_groups; g++) {
        w.groups[g].spec = 0;
        w.groups[g].desired = w.groups[g].stateful ? 1 : tight ? 1 : 3;
        command(&w.groups[g]);
    }
    spec_mib[0] = tight ? 64 : spec_mib[0];
    bool rest = false;
    int64_t end = w.now + CALM_MS;
    while (w.now < end && !rest && !w.fault[0]) {
        turn(&ix, true, false);
        rest = true;
        for (size_t g = 0; g < w.n_groups; g++)
            rest = rest && w.groups[g].satisfied;
    }
    for (size_t g = 0; g < w.n_groups && !rest; g++)
        if (!w.groups[g].satisfied)
            broken("group %zu does not come to rest: %u of %u available, %s", g, available_of(g), w.groups[g].desired,
                   mt_roll_condition_name(w.groups[g].condition));
    uint64_t before = w.actions;
    for (int i = 0; i < 60 && !w.fault[0]; i++)
        turn(&ix, true, false);
    for (size_t g = 0; g < w.n_groups && !w.fault[0]; g++)
        if (available_of(g) != w.groups[g].desired)
            broken("group %zu has %u available, %u are wanted", g, available_of(g), w.groups[g].desired);
    if (w.actions != before)
        broken("%llu actions at rest", (unsigned long long)(w.actions - before));
    if (w.actions > 40 * (w.disturbances + 10))
        broken("%llu actions for %llu disturbances", (unsigned long long)w.actions, (unsigned long long)w.disturbances);
    mt_place_index_free(ix);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 1000, tries = 400, steps = 0, failed = 0;
    struct mt_err err;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t *to = MT_STREQ(argv[i], "--seed") ? &seed : MT_STREQ(argv[i], "--seeds") ? &seeds : &tries;
        if (mt_parse_u64(argv[i + 1], 0, UINT64_MAX, to, &err) < 0) {
            (void)fprintf(stderr, "sim_cluster: %s\n", err.msg);
            return 2;
        }
    }
    for (uint64_t i = 0; i < seeds && failed == 0; i++) {
        world(seed + i, NONE);
        steps += w.steps;
        if (w.fault[0]) {
            printf("# seed %llu: %s\n# again: sim_cluster --seed %llu --seeds 1 --mutants 0\n", (unsigned long long)(seed + i), w.fault,
                   (unsigned long long)(seed + i));
            failed++;
        } else if (i % 50 == 0) { /* the same seed does the same */
            uint64_t hash = w.hash, actions = w.actions;
            world(seed + i, NONE);
            if (w.hash != hash || w.actions != actions) {
                printf("# seed %llu: two runs differ\n", (unsigned long long)(seed + i));
                failed++;
            }
        }
    }
    printf("%s - %llu worlds keep every invariant (%llu steps)\n", failed ? "not ok" : "ok", (unsigned long long)seeds, (unsigned long long)steps);
    for (enum mutant m = 1; m < MUTANTS && tries; m++) {
        bool dead = false;
        for (uint64_t i = 0; i < tries && !dead; i++) {
            world(i + 1, m);
            dead = w.fault[0] != '\0';
            if (dead)
                printf("ok - dies: %s (seed %llu: %s)\n", mutant_names[m], (unsigned long long)(i + 1), w.fault);
        }
        if (!dead)
            printf("not ok - lives: %s\n", mutant_names[m]);
        failed += !dead;
    }
    return failed ? 1 : 0;
}
