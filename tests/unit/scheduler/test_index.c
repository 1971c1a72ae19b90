/* SPDX-License-Identifier: Apache-2.0 */
/* The index decides as mt_place does: on random clusters, after every kind of change, for every part of a decision. */
#include "control/scheduler/index.h"

#include "base/err.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define NODES 40

static uint64_t state;

static uint32_t rnd(uint32_t below) /* splitmix64 */
{
    uint64_t z = (state += UINT64_C(0x9E3779B97F4A7C15));

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)((z ^ (z >> 31)) % below);
}

struct cluster {
    struct mt_place_node nodes[NODES];
    char ids[NODES][16];
    size_t n;
};

static const char *const zones[] = {"a", "b", "n07", NULL};
static const struct mt_place_label ssd = {"disk", "ssd"};
static const char *const archs[] = {"amd64", "arm64"};

static void make(struct cluster *c)
{
    uint32_t n_zones = 1 + rnd(4), odd = rnd(3);

    c->n = rnd(8) == 0 ? 0 : 1 + rnd(NODES);
    for (size_t i = 0; i < c->n; i++) {
        (void)snprintf(c->ids[i], sizeof c->ids[i], "n%02u", (unsigned)((i * 17 + 5) % 41)); /* not in the order of ids */
        c->nodes[i] = (struct mt_place_node){.node_id = c->ids[i], .zone = zones[(4 - n_zones) + rnd(n_zones)],
            .arch = archs[odd && rnd(5) == 0], .admin = MT_NODE_ACTIVE, .labels = &ssd, .n_labels = rnd(2),
            .alloc_memory_bytes = (odd ? 1024 + 512 * rnd(4) : 2048) * MIB, .alloc_cpu_millis = rnd(9) ? 16000 : 0, .ceiling_cpu_millis = 32000,
            .alloc_disk_bytes = 20480 * MIB, .overhead_bytes = (odd && rnd(4) == 0 ? 96 : 64) * MIB};
        if (odd == 2 && rnd(4) == 0)
            c->nodes[i].health = (enum mt_node_health)rnd(MT_NODE_HEALTH_MAX);
        c->nodes[i].boot_failures = rnd(6) == 0 ? rnd(6) : 0;
    }
}

static void the_index_decides_as_the_plain_search(void **unused)
{
    static struct cluster c;
    unsigned ok = 0, blocked = 0, deferred = 0;
    (void)unused;

    for (uint64_t seed = 1; seed <= 1500; seed++) {
        struct mt_place_index *ix = NULL;
        struct mt_err err;
        state = seed;
        make(&c);
        assert_int_equal(mt_place_index_new(c.nodes, c.n, &ix, &err), 0);
        for (unsigned group = 0; group < 12; group++) {
            uint32_t on_node[NODES + 1] = {0};
            struct mt_place_request r = {.size = {100 + 500 * rnd(4), (64 + 128 * rnd(3)) * MIB, 1024 * MIB * (1 + rnd(2))},
                .archs = archs, .n_archs = 1 + rnd(2), .selector = &ssd, .n_selector = rnd(5) == 0,
                .quota = MT_PLACE_QUOTA_NONE, .group_on_node = on_node};
            struct mt_place_volume volume = {"v", c.n ? c.ids[rnd((uint32_t)c.n)] : "n01", rnd(4) == 0};
            if (rnd(6) == 0) {
                r.volumes = &volume;
                r.n_volumes = 1;
            }
            r.gates.release_blocked = rnd(40) == 0;
            if (rnd(30) == 0)
                r.quota.instances = 3;
            for (unsigned k = rnd(4); k > 0 && c.n; k--) { /* what is there of the group already */
                size_t n = rnd((uint32_t)c.n);
                on_node[n]++;
                mt_place_index_group(ix, n, 1);
            }
            for (unsigned k = 0, n = 1 + rnd(14); k < n; k++) {
                struct mt_place_decision plain, found;
                r.avoid_node_id = c.n && rnd(6) == 0 ? c.ids[rnd((uint32_t)c.n)] : NULL;
                mt_place(c.nodes, c.n, &r, &plain);
                mt_place_index_find(ix, &r, &found);
                if (plain.outcome != found.outcome || plain.node != found.node || plain.score != found.score ||
                    plain.reason != found.reason || !MT_STREQ(plain.detail, found.detail))
                    fail_msg("seed %llu, group %u, placement %u: %d node %zu score %lld, the index says %d node %zu score %lld",
                             (unsigned long long)seed, group, k, plain.outcome, plain.node, (long long)plain.score, found.outcome,
                             found.node, (long long)found.score);
                ok += plain.outcome == MT_PLACE_OK;
                blocked += plain.outcome == MT_PLACE_BLOCKED;
                deferred += plain.outcome == MT_PLACE_DEFERRED;
                if (plain.outcome != MT_PLACE_OK)
                    continue;
                mt_place_charge(&c.nodes[plain.node], &r.size);
                mt_place_quota_charge(&r.quota, &r.size);
                mt_place_index_changed(ix, plain.node);
                on_node[plain.node]++;
                mt_place_index_group(ix, plain.node, 1);
                if (rnd(5) == 0) { /* one of the group goes again, which leaves an empty holder */
                    on_node[plain.node]--;
                    mt_place_index_group(ix, plain.node, -1);
                }
            }
            mt_place_index_group_done(ix);
            for (size_t i = 0; i < c.n; i++) { /* the cluster lives on */
                struct mt_place_node *n = &c.nodes[i];
                uint32_t dice = rnd(60);
                if (dice < 8)
                    n->booting = 0;
                else if (dice < 10)
                    n->boot_failures = rnd(5);
                else if (dice < 12)
                    n->health = rnd(2) ? MT_NODE_READY : MT_NODE_SUSPECT;
                else if (dice < 14)
                    n->admin = rnd(3) ? MT_NODE_ACTIVE : MT_NODE_DRAINING;
                else if (dice < 18)
                    mt_place_credit(n, &r.size);
                if (dice < 18)
                    mt_place_index_changed(ix, i);
            }
        }
        mt_place_index_free(ix);
    }
    assert_true(ok > 20000 && blocked > 5000 && deferred > 500); /* all three were there to be compared */
}

/* More shapes than trees: the oldest goes, and what comes back is built from the nodes as they are. */
static void a_shape_that_was_dropped_is_built_again(void **unused)
{
    static struct cluster c;
    struct mt_place_index *ix = NULL;
    struct mt_err err;
    (void)unused;

    state = 7;
    do
        make(&c);
    while (c.n < 10);
    assert_int_equal(mt_place_index_new(c.nodes, c.n, &ix, &err), 0);
    for (unsigned k = 0; k < 5 * MT_PLACE_INDEX_SHAPES; k++) {
        struct mt_place_request r = {.size = {50 + (k * 37) % (2 * MT_PLACE_INDEX_SHAPES), 64 * MIB, MIB}, .archs = archs, .n_archs = 2,
                                     .quota = MT_PLACE_QUOTA_NONE};
        struct mt_place_decision plain, found;
        mt_place(c.nodes, c.n, &r, &plain);
        mt_place_index_find(ix, &r, &found);
        assert_int_equal(plain.outcome, found.outcome);
        assert_int_equal(plain.node, found.node);
        if (plain.outcome == MT_PLACE_OK) {
            mt_place_charge(&c.nodes[plain.node], &r.size);
            c.nodes[plain.node].booting = 0;
            mt_place_index_changed(ix, plain.node);
        }
    }
    assert_true(mt_place_index_bytes(ix) < 64 * 1024);
    mt_place_index_free(ix);
}

static void the_order_of_the_nodes_does_not_matter(void **unused)
{
    static struct cluster c;
    char first[16] = "";
    (void)unused;

    state = 99;
    do
        make(&c);
    while (c.n < 20);
    for (size_t i = 0; i < c.n; i++) { /* many are equal, so the id decides */
        c.nodes[i].health = MT_NODE_READY;
        c.nodes[i].boot_failures = 0;
        c.nodes[i].alloc_cpu_millis = 16000;
    }
    for (unsigned round = 0; round < 1000; round++) {
        struct mt_place_request r = {.size = {500, 64 * MIB, MIB}, .archs = archs, .n_archs = 2, .quota = MT_PLACE_QUOTA_NONE};
        struct mt_place_index *ix = NULL;
        struct mt_place_decision d;
        struct mt_err err;
        for (size_t i = c.n - 1; i > 0; i--) {
            size_t k = rnd((uint32_t)i + 1);
            struct mt_place_node keep = c.nodes[i];
            c.nodes[i] = c.nodes[k];
            c.nodes[k] = keep;
        }
        assert_int_equal(mt_place_index_new(c.nodes, c.n, &ix, &err), 0);
        mt_place_index_find(ix, &r, &d);
        mt_place_index_free(ix);
        assert_int_equal(d.outcome, MT_PLACE_OK);
        if (!first[0])
            (void)snprintf(first, sizeof first, "%s", c.nodes[d.node].node_id);
        assert_string_equal(first, c.nodes[d.node].node_id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_index_decides_as_the_plain_search),
        cmocka_unit_test(a_shape_that_was_dropped_is_built_again),
        cmocka_unit_test(the_order_of_the_nodes_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
