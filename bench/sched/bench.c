/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The planner alone: snapshots of a cluster in memory, the pure step of each group, no database. Prints one JSON object;
 * `bench/sched/run` makes rows of it. Times are processor time of this one thread.
 *
 * bench-sched [--nodes N] [--instances N]
 */
#include "base/arena.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/num.h"
#include "base/str.h"
#include "control/rollout/due.h"
#include "control/rollout/rollout.h"

#include <malloc.h>
#include <stdlib.h>
#include <time.h>

#define MIB (UINT64_C(1) << 20)
#define PER_GROUP 10U
#define ROUNDS 9

static uint64_t rng = 20261129;

static uint32_t rnd(uint32_t below) /* splitmix64 */
{
    uint64_t z = (rng += UINT64_C(0x9E3779B97F4A7C15));

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)((z ^ (z >> 31)) % below);
}

static double cpu_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void *must(void *p)
{
    MT_ASSERT(p);
    return p;
}

struct group {
    struct mt_roll_group g;
    struct mt_roll_instance *in; /* room for PER_GROUP + surge */
    uint32_t n;
    bool dirty;
    char spec[17];
};

struct cluster {
    struct mt_place_node *nodes;
    char (*node_ids)[16];
    char (*ids)[32]; /* of instances, one after the other */
    size_t n_ids;
    uint32_t n_nodes, n_groups;
    struct group *groups;
    struct mt_place_index *index;
    uint32_t *dirty; /* groups */
    size_t n_dirty;
    struct mt_due due; /* what the steps said, as the controller keeps it; a group is an environment here */
    int64_t now_ms;
};

static const char *const archs[] = {"amd64"};

/* Sizes of instances and how many of a hundred have them: most are small, a few are large, as in the published traces of
 * shared clusters (Reiss et al. 2012 on Google's, Cortez et al. 2017 on Azure's). MiB; vCPU millis. */
static const struct {
    uint32_t percent, memory_mib, cpu_millis;
} mix[] = {{22, 128, 50}, {24, 256, 100}, {20, 512, 250}, {14, 1024, 500}, {9, 2048, 1000}, {6, 4096, 1000}, {3, 8192, 2000}, {2, 16384, 4000}};

static struct mt_place_size draw(void)
{
    uint32_t dice = rnd(100), k = 0;

    while (dice >= mix[k].percent)
        dice -= mix[k++].percent;
    return (struct mt_place_size){mix[k].cpu_millis, mix[k].memory_mib * MIB, 1024 * MIB};
}

static void make_nodes(struct cluster *c, uint32_t n, uint64_t memory_mib, uint32_t zones)
{
    static const char *const zone[] = {"zone-a", "zone-b", "zone-c"};

    c->n_nodes = n;
    c->nodes = must(calloc(n, sizeof *c->nodes));
    c->node_ids = must(calloc(n, sizeof *c->node_ids));
    for (uint32_t i = 0; i < n; i++) {
        (void)snprintf(c->node_ids[i], sizeof c->node_ids[i], "node-%05u", i);
        c->nodes[i] = (struct mt_place_node){.node_id = c->node_ids[i], .zone = zones ? zone[i % zones] : NULL, .arch = "amd64",
            .admin = MT_NODE_ACTIVE, .alloc_memory_bytes = memory_mib * MIB, .alloc_cpu_millis = 256000, .ceiling_cpu_millis = 512000,
            .alloc_disk_bytes = (UINT64_C(4) << 20) * MIB, .overhead_bytes = 64 * MIB};
    }
}

static void drop(struct cluster *c)
{
    for (uint32_t i = 0; c->groups && i < c->n_groups; i++)
        free(c->groups[i].in);
    free(c->groups);
    free(c->dirty);
    free(c->ids);
    free(c->nodes);
    free(c->node_ids);
    mt_place_index_free(c->index);
    mt_due_done(&c->due);
}

static void mark(struct cluster *c, uint32_t g)
{
    if (!c->groups[g].dirty)
        c->dirty[c->n_dirty++] = g;
    c->groups[g].dirty = true;
}

static void make(struct cluster *c, uint32_t n_nodes, uint32_t n_instances)
{
    struct mt_err err;

    *c = (struct cluster){.now_ms = 1000000000, .n_groups = n_instances / PER_GROUP};
    make_nodes(c, n_nodes, 64 * 1024, 3);
    mt_due_init(&c->due, 1, 2);
    c->groups = must(calloc(c->n_groups, sizeof *c->groups));
    c->dirty = must(calloc(c->n_groups, sizeof *c->dirty));
    c->ids = must(calloc(2 * (size_t)n_instances, sizeof *c->ids));
    MT_ASSERT(mt_place_index_new(c->nodes, n_nodes, &c->index, &err) == 0);
    for (uint32_t i = 0; i < c->n_groups; i++) {
        struct group *g = &c->groups[i];
        (void)snprintf(g->spec, sizeof g->spec, "%016x", i);
        g->in = must(calloc(PER_GROUP + 1, sizeof *g->in));
        g->g = (struct mt_roll_group){.target_spec = g->spec, .stable_spec = g->spec, .recorded_target = g->spec, .desired = PER_GROUP,
            .startup_timeout_seconds = 130, .roll_reason = MT_REASON_REPLACED, .may_allocate = true,
            .request = {.size = draw(), .archs = archs, .n_archs = 1}};
        mark(c, i);
    }
}

/* What the log would give back after an allocation: one more instance, or another one in the place of the lost. */
static void apply(struct cluster *c, struct group *g, const struct mt_roll_result *r)
{
    for (size_t a = 0; a < r->n_actions; a++) {
        const struct mt_roll_action *act = &r->actions[a];
        if (act->type != MT_ROLL_ALLOCATE) {
            struct mt_roll_instance *i = &g->in[act->instance - g->in];
            i->desired = MT_DESIRED_STOPPED;
            continue;
        }
        struct mt_roll_instance *to = NULL;
        for (uint32_t k = 0; k < g->n && !to; k++)
            if (g->in[k].desired == MT_DESIRED_STOPPED)
                to = &g->in[k];
        to = to ? to : &g->in[g->n++];
        (void)snprintf(c->ids[c->n_ids], sizeof c->ids[0], "inst_%026zu", c->n_ids);
        *to = (struct mt_roll_instance){.instance_id = c->ids[c->n_ids++], .node = act->node, .spec_hash = g->spec, .size = g->g.request.size,
            .archs = archs, .n_archs = 1, .desired = MT_DESIRED_RUNNING, .status = MT_STATUS_READY, .ever_ready = true,
            .ready_since_ms = c->now_ms, .changed_at_ms = c->now_ms};
    }
}

/* Steps every dirty group; @ms gets the time of the decisions alone. Returns how many instances were placed. */
static size_t pass(struct cluster *c, double *ms)
{
    struct mt_place_quota quota = MT_PLACE_QUOTA_NONE;
    struct mt_arena arena;
    struct mt_roll_result r;
    struct mt_err err;
    size_t placed = 0, n = c->n_dirty;

    c->n_dirty = 0;
    for (size_t i = 0; i < n; i++) {
        struct group *g = &c->groups[c->dirty[i]];
        double at = cpu_ms();
        mt_arena_init(&arena, 1U << 20);
        g->dirty = false;
        g->g.instances = g->in;
        g->g.n_instances = g->n;
        MT_ASSERT(mt_roll_step_indexed(&g->g, c->nodes, c->n_nodes, c->index, &quota, c->now_ms, &arena, &r, &err) == 0);
        mt_due_said(&c->due, g->spec, r.wake_at_ms, r.waits_for_others);
        *ms += cpu_ms() - at;
        for (size_t a = 0; a < r.n_actions; a++)
            placed += r.actions[a].type == MT_ROLL_ALLOCATE;
        apply(c, g, &r);
        mt_arena_done(&arena);
    }
    return placed;
}

static void booted(struct cluster *c)
{
    for (uint32_t i = 0; i < c->n_nodes; i++) {
        c->nodes[i].booting = 0;
        mt_place_index_changed(c->index, i);
    }
    c->now_ms += 60000;
}

/* The turn of a controller to which nothing happened since its last pass: what time and room make due is looked for, and nothing is. */
static double idle_turn(struct cluster *c)
{
    double at = cpu_ms();
    bool any = mt_due_gather(&c->due, c->now_ms, 1, 0);
    int64_t next = mt_due_next_ms(&c->due);

    at = cpu_ms() - at;
    MT_ASSERT(!any && next > c->now_ms);
    return at;
}

/* Steps whose time has come, as the controller does: nothing is to be placed. */
static void time_goes_on(struct cluster *c)
{
    double ignored = 0;

    while (mt_due_gather(&c->due, c->now_ms, 1, 0)) {
        for (uint32_t i = 0; i < c->n_groups; i++)
            if (mt_map_get(&c->due.dirty, c->groups[i].spec))
                mark(c, i);
        mt_due_taken(&c->due);
        MT_ASSERT(pass(c, &ignored) == 0);
    }
}

static int by_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void scale(uint32_t n_nodes, uint32_t n_instances)
{
    struct cluster c;
    double full = 0, changed[ROUNDS] = {0}, same[ROUNDS] = {0};
    size_t placed = 0, again[ROUNDS], soon[ROUNDS], waves = 0, before = mallinfo2().uordblks + mallinfo2().hblkhd;

    make(&c, n_nodes, n_instances);
    while (placed < n_instances && waves < 20) { /* a node boots ten at once: what waits is placed in the next wave */
        for (uint32_t i = 0; i < c.n_groups; i++)
            if (c.groups[i].n < PER_GROUP)
                mark(&c, i);
        placed += pass(&c, &full);
        booted(&c);
        waves++;
    }
    size_t bytes = mallinfo2().uordblks + mallinfo2().hblkhd - before;
    time_goes_on(&c);
    for (int r = 0; r < ROUNDS; r++) {
        again[r] = 0;
        for (uint32_t i = 0; i < n_instances / 100; i++) { /* one in a hundred was ended by its agent unasked */
            uint32_t k = rnd(c.n_groups);
            struct mt_roll_instance *in = &c.groups[k].in[rnd(PER_GROUP)];
            if (in->status == MT_STATUS_STOPPED)
                continue;
            in->status = MT_STATUS_STOPPED;
            mt_place_credit(&c.nodes[in->node], &in->size);
            mt_place_index_changed(c.index, in->node);
            mark(&c, k);
        }
        again[r] = pass(&c, &changed[r]);
        double ignored = 0;
        for (uint32_t i = 0; i < c.n_groups; i++) /* they report that they are ready */
            for (uint32_t k = 0; k < c.groups[i].n; k++)
                if (c.groups[i].in[k].ready_since_ms == c.now_ms)
                    mark(&c, i);
        MT_ASSERT(pass(&c, &ignored) == 0);
        same[r] = idle_turn(&c); /* those just placed have a time ahead: when they are ready for long enough */
        soon[r] = c.due.wake.count;
        booted(&c);
        time_goes_on(&c); /* which comes */
    }
    qsort(same, ROUNDS, sizeof same[0], by_double);
    qsort(changed, ROUNDS, sizeof changed[0], by_double);
    double all = 0;
    for (uint32_t i = 0; i < c.n_groups; i++)
        mark(&c, i);
    size_t extra = pass(&c, &all); /* the full pass every 30 s: each group is stepped and none changes */
    uint64_t worst = 0, best = UINT64_MAX;
    for (uint32_t i = 0; i < n_nodes; i++) {
        worst = c.nodes[i].used_memory_bytes > worst ? c.nodes[i].used_memory_bytes : worst;
        best = c.nodes[i].used_memory_bytes < best ? c.nodes[i].used_memory_bytes : best;
        MT_ASSERT(c.nodes[i].used_memory_bytes <= c.nodes[i].alloc_memory_bytes);
    }
    uint64_t doubled = 0;
    for (uint32_t i = 0; i < c.n_groups; i++)
        for (uint32_t k = 0; k < c.groups[i].n; k++)
            for (uint32_t m = 0; m < k; m++)
                doubled += c.groups[i].in[k].node == c.groups[i].in[m].node;
    printf("\"nodes\": %u, \"instances\": %u, \"groups\": %u, \"placed\": %zu, \"waves\": %zu, \"full_ms\": %.3f, \"changed_ms\": %.3f,"
           " \"changed_replaced\": %zu, \"unchanged_ms\": %.4f, \"unchanged_wakes\": %zu, \"every_group_ms\": %.3f, \"every_group_actions\": %zu,"
           " \"bytes_per_instance\": %.1f, \"index_bytes\": %zu, \"node_mib_min\": %llu, \"node_mib_max\": %llu, \"pairs_on_one_node\": %llu",
           n_nodes, n_instances, c.n_groups, placed, waves, full, changed[ROUNDS / 2], again[0], same[ROUNDS - 1], soon[0], all, extra,
           (double)bytes / n_instances, mt_place_index_bytes(c.index), (unsigned long long)(best / MIB), (unsigned long long)(worst / MIB),
           (unsigned long long)doubled);
    drop(&c);
}

/* ---- packing ---- */

struct item {
    struct mt_place_size size;
    uint32_t order;
};

static int larger_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->size.memory_bytes != y->size.memory_bytes)
        return x->size.memory_bytes < y->size.memory_bytes ? 1 : -1;
    return (x->order > y->order) - (x->order < y->order);
}

/* Does the planner place all of @n items on @n_nodes nodes? Groups of PER_GROUP items, as drawn. */
static bool all_fit(const struct item *items, uint32_t n, uint32_t n_nodes, uint64_t node_mib, uint64_t *ret_worst)
{
    struct cluster c = {0};
    struct mt_err err;
    bool ok = true;

    make_nodes(&c, n_nodes, node_mib, 3);
    MT_ASSERT(mt_place_index_new(c.nodes, n_nodes, &c.index, &err) == 0);
    for (uint32_t i = 0; ok && i < n; i++) {
        struct mt_place_request r = {.size = items[i].size, .archs = archs, .n_archs = 1, .quota = MT_PLACE_QUOTA_NONE};
        struct mt_place_decision d;
        mt_place_index_find(c.index, &r, &d);
        ok = d.outcome == MT_PLACE_OK;
        if (!ok)
            break;
        mt_place_charge(&c.nodes[d.node], &r.size);
        c.nodes[d.node].booting = 0; /* only memory is asked here */
        mt_place_index_changed(c.index, d.node);
        mt_place_index_group(c.index, d.node, 1);
        if (i % PER_GROUP == PER_GROUP - 1)
            mt_place_index_group_done(c.index);
    }
    *ret_worst = 0;
    for (uint32_t i = 0; i < n_nodes; i++)
        *ret_worst = c.nodes[i].used_memory_bytes > *ret_worst ? c.nodes[i].used_memory_bytes : *ret_worst;
    drop(&c);
    return ok;
}

/* L2 of Martello and Toth (1990): for each k, what is larger than capacity - k needs a node each, what is larger than half too,
 * and what is at least k fills the room that the latter leave. Its maximum over k is a lower bound on the nodes. */
static uint32_t lower_bound(const struct item *items, uint32_t n, uint64_t capacity)
{
    uint32_t best = 0;

    for (size_t m = 0; m <= sizeof mix / sizeof mix[0]; m++) {
        uint64_t k = m ? (mix[m - 1].memory_mib + 64) * MIB : 0, big = 0, half = 0, half_sum = 0, small = 0;
        if (k > capacity / 2)
            continue;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t w = items[i].size.memory_bytes + 64 * MIB;
            if (w > capacity - k)
                big++;
            else if (w > capacity / 2)
                half++, half_sum += w;
            else if (w >= k)
                small += w;
        }
        uint64_t room = half * capacity - half_sum, more = small > room ? (small - room + capacity - 1) / capacity : 0;
        best = (uint32_t)(big + half + more) > best ? (uint32_t)(big + half + more) : best;
    }
    return best;
}

static void packing(const char *name, uint32_t n, uint64_t node_mib, bool sorted)
{
    struct item *items = must(calloc(n, sizeof *items));
    uint64_t worst;

    rng = 77;
    for (uint32_t i = 0; i < n; i++) {
        struct mt_place_size one = i % PER_GROUP ? items[i - 1].size : draw();
        items[i] = (struct item){one, i};
    }
    if (sorted)
        qsort(items, n, sizeof *items, larger_first);
    uint32_t bound = lower_bound(items, n, node_mib * MIB), lo = bound, hi = 2 * bound;
    while (lo < hi) { /* the least number of nodes on which the planner's own order places everything */
        uint32_t mid = lo + (hi - lo) / 2;
        if (all_fit(items, n, mid, node_mib, &worst))
            hi = mid;
        else
            lo = mid + 1;
    }
    printf(", \"%s\": {\"instances\": %u, \"node_mib\": %llu, \"bound\": %u, \"nodes\": %u}", name, n, (unsigned long long)node_mib, bound, lo);
    free(items);
}

int main(int argc, char **argv)
{
    uint64_t nodes = 5000, instances = 100000;
    struct mt_err err;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t *to = MT_STREQ(argv[i], "--nodes") ? &nodes : &instances;
        if (mt_parse_u64(argv[i + 1], PER_GROUP, 1000000, to, &err) < 0) {
            (void)fprintf(stderr, "bench-sched: %s\n", err.msg);
            return 2;
        }
    }
    printf("{");
    scale((uint32_t)nodes, (uint32_t)instances);
    packing("packing", 20000, 256 * 1024, true);
    packing("packing_64g", 20000, 64 * 1024, true);
    packing("packing_arrival", 20000, 256 * 1024, false);
    printf("}\n");
    return 0;
}
