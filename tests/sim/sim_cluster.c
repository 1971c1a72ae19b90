/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole cluster, seeded: what nodes really run (truth) and what the log believes (view) are two things here, joined by plans
 * and reports that get lost, come twice, late or out of order. Nodes are cut off, all of them at once too, lose power, are
 * drained, declared lost and come back; the leader goes away; the database's clock jumps; releases fail; groups are deployed,
 * scaled and rotated, instances restarted; quotas are short. Planner and liveness rules see the view alone.
 *
 * A group is stepped when moat-control would step it: something of it changed, its time has come, or it waits for what others
 * hold. One world in four steps every group each time and requires that one that nothing called does nothing.
 *
 * Invariants are checked on the truth after each step. With --mutants the same worlds run against planners with a known bad
 * idea each: every one must be caught.
 *
 * Usage: sim_cluster [--seed N] [--seeds N] [--mutants N]; a failing seed is printed with the command that replays it.
 */
#include "control/liveness_rules.h"
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
#define CHAOS_MS 7200000
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
    bool restart_requested;
    bool known, vm;             /* vm: it holds memory and volumes */
    enum mt_instance_status real;
    int64_t next, drain_from; /* true clock */
    uint32_t real_failures;
    bool real_ever;
    uint64_t seq;
    /* a report that was sent and is still on its way */
    struct {
        int64_t at; /* 0: none */
        enum mt_instance_status real;
        bool ever;
        uint32_t failures;
        uint64_t seq;
    } late;
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
    bool dirty, waits; /* something of it changed; it waits for what others hold */
    int64_t wake;      /* database clock */
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
    SEES_ONLY_ITS_OWN,
    TAKES_SUSPECT_FOR_GONE,
    HAS_NO_GUARD,
    HAS_NO_FENCE,
    SURGES_WITHOUT_BOUND,
    DRAINS_A_NODE_AT_ONCE,
    IGNORES_THE_QUOTA,
    FORGETS_WHEN_TO_WAKE,
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
    [SEES_ONLY_ITS_OWN] = "looks again only when something of its own changes",
    [TAKES_SUSPECT_FOR_GONE] = "replaces what a suspect node runs",
    [HAS_NO_GUARD] = "takes our own outage for that of the nodes",
    [HAS_NO_FENCE] = "lets a former leader write",
    [SURGES_WITHOUT_BOUND] = "counts only the new ones against the surge",
    [DRAINS_A_NODE_AT_ONCE] = "drains more than a fifth of a node at once",
    [IGNORES_THE_QUOTA] = "allocates beyond the quota",
    [FORGETS_WHEN_TO_WAKE] = "does not look again when only time has passed",
};

static struct {
    uint64_t rng, event, hash, steps, actions, disturbances;
    int64_t now, skew; /* true clock; database clock = now + skew */
    int64_t leader_since, outage_from, outage_until; /* true clock; outage: no node reaches us */
    bool outage_clean; /* every node was heard just before it */
    bool every;        /* each group is stepped each time */
    bool room_news;    /* an instance changed since those that wait were stepped */
    bool looks_at_room; /* they are, this time */
    int64_t quota;     /* instances that the organisation may have */
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

/* Something of an instance is in the log now. */
static void changed(const struct inst *i)
{
    w.groups[i->group].dirty = true;
    w.room_news = true;
}

/* A node changed: it concerns every group. */
static void all_changed(void)
{
    for (size_t g = 0; g < w.n_groups; g++)
        w.groups[g].dirty = true;
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

/* A plan reaches the node of one: it learns what is wanted. The agent refuses a start that the plan gets wrong only by memory it
 * does not have; here that would hide the fault, so it starts everything and the invariant looks. */
static void get_plan(struct inst *i)
{
    if (i->known && i->told == i->desired)
        return;
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

static void note_attempt(struct inst *i)
{
    struct group *g = &w.groups[i->group];

    if (g->n_attempts == MT_ARRAY_LEN(g->attempts)) {
        memmove(g->attempts, g->attempts + 1, sizeof g->attempts - sizeof g->attempts[0]);
        g->n_attempts--;
    }
    g->attempts[g->n_attempts++] = (struct mt_roll_attempt){w.event++, spec_names[i->spec], db_now(), "workload_exited", NULL};
}

static void take_report(struct inst *i, enum mt_instance_status real, bool ever, uint32_t failures, uint64_t seq)
{
    if (!i->known || seq <= i->seen)
        return; /* twice, or late: the log has it */
    i->seen = seq;
    if (real == MT_STATUS_FAILED && !ever)
        note_attempt(i);
    if (i->status != real) {
        i->ready_since = real == MT_STATUS_READY ? db_now() : 0;
        if (real == MT_STATUS_BOOTING)
            i->changed = db_now();
        i->status = real;
    }
    i->ever_ready = i->ever_ready || ever;
    i->failures = failures;
    changed(i);
}

/* What a node says of one: now, twice, or so that it arrives after what it says later. */
static void report(struct inst *i)
{
    if (i->late.at && w.now >= i->late.at) {
        i->late.at = 0;
        take_report(i, i->late.real, i->late.ever, i->late.failures, i->late.seq);
    }
    if (!w.calm && rnd(8) == 0)
        return; /* lost: the next one says it too */
    if (!w.calm && !i->late.at && rnd(20) == 0) {
        i->late.at = w.now + 2000 + rnd(40000);
        i->late.real = i->real;
        i->late.ever = i->real_ever;
        i->late.failures = i->real_failures;
        i->late.seq = i->seq;
        return;
    }
    for (uint32_t twice = rnd(10) == 0 ? 2 : 1; twice > 0; twice--)
        take_report(i, i->real, i->real_ever, i->real_failures, i->seq);
}

static void hear(void)
{
    bool heard[NODES] = {0}, planned[NODES] = {0};

    for (size_t n = 0; n < w.n_nodes; n++) {
        struct node *d = &w.nodes[n];
        if (d->dead || d->cut || w.now < w.outage_until || (!w.calm && rnd(10) == 0))
            continue;
        d->clean = d->clean < 9 ? d->clean + 1 : 9;
        d->heard = w.now;
        heard[n] = true;
        planned[n] = w.calm || rnd(3) > 0;
    }
    for (size_t k = 0; k < w.top; k++) {
        struct inst *i = &w.in[k];
        if (!i->used || !heard[i->node])
            continue;
        if (planned[i->node])
            get_plan(i);
        report(i);
    }
}

/* The leader looks at what it heard of each node (control/liveness_rules.h). */
static void judge(void)
{
    struct mt_liveness_silence all[NODES];
    bool grace = w.now - w.leader_since < 90000;

    for (size_t n = 0; n < w.n_nodes; n++)
        all[n] = (struct mt_liveness_silence){mt_node_health_name(w.place[n].health), w.now - w.nodes[n].heard};
    bool mass = mt_liveness_mass(all, w.n_nodes, 20000, 60000);
    for (size_t n = 0; n < w.n_nodes; n++) {
        struct mt_place_node *p = &w.place[n];
        int64_t silence = w.now - w.nodes[n].heard, led = w.now - w.leader_since;
        if (p->health == MT_NODE_READY && silence > led)
            silence = led;
        struct mt_liveness_facts f = {.health = mt_node_health_name(p->health), .silence_ms = silence, .clean = w.nodes[n].clean,
            .may_offline = (!grace && !mass) || w.mutant == HAS_NO_GUARD, .suspect_ms = 20000, .offline_ms = 60000};
        enum mt_node_health to = p->health;
        MT_ASSERT(mt_node_health_parse(mt_liveness_health(&f), &to));
        if (to == p->health)
            continue;
        if (to == MT_NODE_SUSPECT)
            w.nodes[n].clean = 0;
        if (to == MT_NODE_OFFLINE && w.now < w.outage_until && w.outage_clean)
            broken("node %zu is offline while no node reaches us", n);
        p->health = to;
        all_changed();
    }
}

/* ---- the planner's snapshot ---- */

static struct mt_place_size size_of(size_t spec)
{
    return (struct mt_place_size){100, spec_mib[spec] * MIB, 1024 * MIB};
}

/* What was to stop on a machine that is powered off has stopped (pass_apply.c, settle). */
static void end_lost(void)
{
    for (size_t k = 0; k < w.top; k++) {
        struct inst *i = &w.in[k];
        if (i->used && w.place[i->node].health == MT_NODE_LOST && i->desired == MT_DESIRED_STOPPED && i->status != MT_STATUS_STOPPED) {
            i->status = MT_STATUS_STOPPED;
            i->ready_since = 0;
            changed(i);
        }
    }
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
        w.place[i->node].draining += i->desired == MT_DESIRED_DRAINING && w.mutant != DRAINS_A_NODE_AT_ONCE;
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
        bool evicted = !w.groups[g].stateful && (w.place[i->node].admin == MT_NODE_DRAINING || i->restart_requested); /* it counts as old */
        n += i->used && i->group == g && (spec == SPECS || (i->spec == spec && !evicted)) && i->desired == MT_DESIRED_RUNNING &&
             i->status != MT_STATUS_STOPPED && !(mt_node_gone(&w.place[i->node]) && !w.groups[g].stateful);
    }
    return n;
}

/* Instances as the quota counts them, and are they within it? */
static int64_t charged(void)
{
    int64_t n = 0;

    for (size_t k = 0; k < w.top; k++)
        n += w.in[k].used && w.in[k].status != MT_STATUS_STOPPED;
    return n;
}

static bool quota_kept(void)
{
    return charged() <= w.quota;
}

static struct inst *new_inst(size_t group, size_t spec, size_t node)
{
    for (size_t k = 0; k < MAX_IN; k++)
        if (!w.in[k].used) {
            w.top = k + 1 > w.top ? k + 1 : w.top;
            w.in[k] = (struct inst){.used = true, .group = group, .spec = spec, .node = node, .desired = MT_DESIRED_RUNNING,
                                    .status = MT_STATUS_BOOTING, .changed = db_now(), .real = MT_STATUS_BOOTING};
            (void)snprintf(w.in[k].id, sizeof w.in[k].id, "inst_%012llu", (unsigned long long)w.ids++);
            changed(&w.in[k]);
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
    if (a->type == MT_ROLL_DRAIN && a->reason == MT_REASON_NODE_DRAINING) { /* at most a fifth of the node at once */
        unsigned there = 0, leaving = 0;
        for (size_t k = 0; k < w.top; k++) {
            bool here = w.in[k].used && w.in[k].node == i->node && w.in[k].status != MT_STATUS_STOPPED;
            there += here;
            leaving += here && w.in[k].desired == MT_DESIRED_DRAINING;
        }
        if (leaving >= (there / 5 > 1 ? there / 5 : 1))
            broken("%u of %u instances of a node that is drained go at once", leaving + 1, there);
    }
    i->desired = a->type == MT_ROLL_DRAIN ? MT_DESIRED_DRAINING : MT_DESIRED_STOPPED;
    i->stop_reason = a->reason;
    i->changed = db_now();
    changed(i);
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
        if (w.mutant == TAKES_SUSPECT_FOR_GONE && w.place[snap[k].node].health == MT_NODE_SUSPECT)
            snap[k].node = MT_PLACE_NONE;
        if (w.mutant == SURGES_WITHOUT_BOUND && snap[k].desired == MT_DESIRED_RUNNING && !MT_STREQ(snap[k].spec_hash, in->target_spec))
            snap[k].desired = MT_DESIRED_DRAINING; /* as if they were on their way already */
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

static void step(size_t gi, struct mt_place_index *ix, struct mt_place_quota *quota, bool lost_append)
{
    static struct mt_roll_instance snap[MAX_IN];
    static struct inst *map[MAX_IN];
    struct group *g = &w.groups[gi];
    struct mt_place_quota had = *quota;
    struct mt_place_node keep[NODES];
    struct mt_roll_result r;
    struct mt_arena arena;
    struct mt_err err;
    size_t n = 0;
    bool called = g->dirty || g->wake <= db_now() || (g->waits && w.looks_at_room);

    if (!called && !w.every)
        return;
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
            .reason_code = i->status == MT_STATUS_FAILED ? "workload_exited" : NULL, .ever_ready = i->ever_ready, .retry_pending = true, .restart_requested = i->restart_requested,
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
        size_t younger = 0; /* by the database's clock, which jumps */
        for (size_t o = 0; o < g->n_crash; o++)
            younger += g->crash[o] > g->crash[k] || (g->crash[o] == g->crash[k] && o > k);
        in.crash_replacements_10min += db_now() - g->crash[k] < 600000;
        if (younger == 0)
            in.last_crash_replacement_ms = g->crash[k];
        if (younger == MT_ROLL_CRASHES - 1)
            in.crash_limit_ends_ms = g->crash[k] + 600000;
    }
    spoil(&in, snap, g);
    memcpy(keep, w.place, sizeof keep);
    mt_arena_init(&arena, 4U << 20);
    MT_ASSERT(mt_roll_step_indexed(&in, w.place, w.n_nodes, ix, quota, db_now(), &arena, &r, &err) == 0);
    w.steps++;
    if (lost_append && w.mutant == HAS_NO_FENCE)
        for (size_t a = 0; a < r.n_actions; a++) /* it writes, and so does the one that leads now, from the same look */
            act(gi, &r.actions[a], map, snap);
    else if (lost_append) { /* the fence: this leader is none any more, nothing of it is written */
        memcpy(w.place, keep, sizeof keep);
        *quota = had;
        for (size_t k = 0; k < w.n_nodes; k++)
            mt_place_index_changed(ix, k);
        mt_arena_done(&arena);
        return;
    }
    if (w.every && r.n_actions && !called)
        broken("group %zu %s although nothing called it (%s, woken at %lld, now %lld)", gi,
               r.actions[0].type == MT_ROLL_ALLOCATE ? "allocates" : r.actions[0].type == MT_ROLL_DRAIN ? "drains" : "stops",
               r.actions[0].type == MT_ROLL_ALLOCATE ? r.actions[0].instance ? "a replacement" : "one more" : mt_reason_code(r.actions[0].reason), (long long)g->wake, (long long)db_now());
    g->dirty = false;
    g->wake = w.mutant == FORGETS_WHEN_TO_WAKE ? INT64_MAX : r.wake_at_ms;
    g->waits = r.waits_for_others && w.mutant != SEES_ONLY_ITS_OWN;
    uint32_t was = available_of(gi), drained = 0, matching = staying(gi, g->spec), all = staying(gi, SPECS), made = 0;
    for (size_t a = 0; a < r.n_actions; a++) {
        const struct mt_roll_action *x = &r.actions[a];
        drained += x->type != MT_ROLL_ALLOCATE && available(map[x->instance - snap]);
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
    if (made && !quota_kept())
        broken("group %zu: more instances than the quota of %lld", gi, (long long)w.quota);
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
    uint64_t memory[NODES] = {0};
    unsigned users[GROUPS] = {0};

    for (size_t k = 0; k < w.top; k++) {
        const struct inst *i = &w.in[k];
        if (!i->used || !i->vm)
            continue;
        memory[i->node] += spec_mib[i->spec] * MIB + OVERHEAD;
        users[i->group]++;
    }
    for (size_t n = 0; n < w.n_nodes; n++)
        if (memory[n] > w.place[n].alloc_memory_bytes)
            broken("node %zu runs %llu MiB of %llu", n, (unsigned long long)(memory[n] / MIB), (unsigned long long)(w.place[n].alloc_memory_bytes / MIB));
    for (size_t g = 0; g < w.n_groups; g++)
        if (w.groups[g].stateful && users[g] > 1)
            broken("%u VMs on the volume of group %zu", users[g], g);
}

/* ---- what happens ---- */

static void command(struct group *g)
{
    g->command_event = w.event++;
    g->n_crash = 0;
    g->dirty = true;
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
        all_changed();
        w.disturbances++;
    } else if (dice < 24) {
        d->cut = d->dead = false;
        w.place[n].admin = MT_NODE_ACTIVE;
        if (w.place[n].health == MT_NODE_LOST) { /* another machine takes its place, with its disks restored: it has to be heard first */
            w.place[n].health = MT_NODE_SUSPECT;
            d->clean = 0;
        }
        all_changed();
        w.disturbances++;
    } else if (dice == 24) {
        w.skew += (int64_t)rnd(600000); /* the database's clock jumps ahead */
        w.disturbances++;
    } else if (dice == 25) {
        w.skew -= (int64_t)rnd(60000);
        w.disturbances++;
    } else if (dice == 26 && d->dead && w.place[n].health == MT_NODE_OFFLINE) { /* declared lost: nothing of what it ran is there any more */
        w.place[n].health = MT_NODE_LOST;
        for (size_t k = 0; k < w.top; k++)
            if (w.in[k].node == n)
                w.in[k].known = w.in[k].vm = false;
        all_changed();
        w.disturbances++;
    } else if (dice == 27 && w.now >= w.outage_until) { /* our own network, for minutes */
        w.outage_from = w.now;
        w.outage_until = w.now + 30000 + rnd(600000);
        w.outage_clean = true;
        for (size_t k = 0; k < w.n_nodes; k++)
            w.outage_clean = w.outage_clean && w.now - w.nodes[k].heard < 10000 && w.place[k].health == MT_NODE_READY;
        w.disturbances++;
    } else if (dice < 30) {
        struct inst *i = &w.in[rnd(MAX_IN)];
        if (i->used && i->desired == MT_DESIRED_RUNNING && !i->restart_requested) {
            i->restart_requested = true;
            changed(i);
            w.disturbances++;
        }
    }
}

static void turn(struct mt_place_index **ix, bool leader, bool lost_append)
{
    struct mt_err err;

    for (size_t k = 0; k < w.top; k++)
        if (w.in[k].used)
            live(&w.in[k]);
    look();
    hear();
    if (leader) {
        w.looks_at_room = w.room_news; /* what changes from here on is news for the next time */
        w.room_news = lost_append && w.room_news;
        struct mt_place_quota quota = MT_PLACE_QUOTA_NONE;
        judge();
        end_lost();
        book(*ix);
        if (w.quota != INT64_MAX && w.mutant != IGNORES_THE_QUOTA)
            quota.instances = w.quota - charged();
        for (size_t g = 0; g < w.n_groups; g++)
            step(g, *ix, &quota, lost_append);
    } else { /* the next one begins with nothing in its hands, and looks at everything */
        mt_place_index_free(*ix);
        MT_ASSERT(mt_place_index_new(w.place, w.n_nodes, ix, &err) == 0);
        w.leader_since = w.now;
        for (size_t n = 0; n < w.n_nodes; n++)
            w.nodes[n].clean = 0;
        all_changed();
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
    w.every = rnd(4) == 0;
    w.quota = rnd(3) == 0 ? 10 + (int64_t)rnd(6) : INT64_MAX;
    w.leader_since = w.now - 3600000;
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
        w.groups[g] = (struct group){.desired = stateful ? 1 : rnd(6), .stateful = stateful, .command_event = w.event++, .dirty = true,
                                     .volume = {"vol_1", w.nodes[rnd((uint32_t)w.n_nodes)].id, false}};
    }
    MT_ASSERT(mt_place_index_new(w.place, w.n_nodes, &ix, &err) == 0);
    for (int64_t end = w.now + CHAOS_MS; w.now < end && !w.fault[0];) {
        disturb();
        if (rnd(150) == 0) {
            no_leader_until = w.now + (rnd(4) ? rnd(20000) : rnd(300000));
            w.disturbances++;
        }
        turn(&ix, w.now >= no_leader_until, rnd(60) == 0);
    }
    /* faults end, everything heals: it must come to rest, and then nothing may move */
    w.calm = true;
    w.outage_until = w.now;
    for (size_t n = 0; n < w.n_nodes; n++) {
        w.nodes[n].cut = w.nodes[n].dead = false;
        w.place[n].admin = MT_NODE_ACTIVE;
        if (w.place[n].health == MT_NODE_LOST)
            w.place[n].health = MT_NODE_SUSPECT;
    }
    all_changed();
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
        for (size_t k = 0; k < w.top; k++) /* what still drains may have to be stopped */
            rest = rest && (!w.in[k].used || w.in[k].desired == MT_DESIRED_RUNNING);
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
