/* SPDX-License-Identifier: Apache-2.0 */
#include "control/scheduler/capacity.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MIB MT_CAPACITY_MIB

static struct mt_place_node node(const char *id, uint64_t mib, uint64_t used_mib)
{
    return (struct mt_place_node){.node_id = id, .arch = "amd64", .admin = MT_NODE_ACTIVE, .alloc_memory_bytes = mib * MIB, .used_memory_bytes = used_mib * MIB,
        .alloc_cpu_millis = 4000, .ceiling_cpu_millis = 8000, .alloc_disk_bytes = 9000 * MIB, .overhead_bytes = 64 * MIB};
}

static bool placed(const struct mt_place_node *nodes, size_t n, uint64_t memory)
{
    static const char *const archs[] = {"amd64"};
    struct mt_place_request r = {.size = {1, memory, 1}, .archs = archs, .n_archs = 1, .quota = MT_PLACE_QUOTA_NONE};
    struct mt_place_decision d;

    mt_place(nodes, n, &r, &d);
    return d.outcome == MT_PLACE_OK;
}

static void the_largest_instance_is_placed_and_one_more_mebibyte_is_not(void **state)
{
    struct mt_place_node nodes[] = {node("b", 1000, 300), node("a", 1000, 100), node("c", 5000, 0), node("d", 3000, 2900)};
    struct mt_capacity c;
    (void)state;

    nodes[2].health = MT_NODE_SUSPECT;
    nodes[1].alloc_memory_bytes += 4095; /* whole MiB are told */
    mt_capacity(nodes, 4, &c);
    assert_int_equal(c.nodes, 3);
    assert_int_equal(c.largest_memory_bytes, (1000 - 100 - 64) * MIB);
    assert_true(placed(nodes, 4, c.largest_memory_bytes));
    assert_false(placed(nodes, 4, c.largest_memory_bytes + MIB));
    nodes[1].used_cpu_millis = 8000; /* its memory is of no use */
    mt_capacity(nodes, 4, &c);
    assert_int_equal(c.largest_memory_bytes, (1000 - 300 - 64) * MIB);
    assert_true(placed(nodes, 4, c.largest_memory_bytes));
    assert_false(placed(nodes, 4, c.largest_memory_bytes + MIB));
}

static void headroom_is_what_is_left_after_the_worst_node(void **state)
{
    struct mt_place_node nodes[] = {node("b", 2000, 300), node("a", 2000, 100), node("c", 1000, 200)};
    struct mt_capacity c;
    (void)state;

    mt_capacity(nodes, 3, &c);
    assert_int_equal(c.worst, 1); /* equal to b, and the smaller id */
    assert_int_equal(c.headroom_bytes, (int64_t)((5000 - 2000 - 600) * MIB));
    nodes[0].used_memory_bytes = 2000 * MIB;
    nodes[1].used_memory_bytes = 1900 * MIB;
    mt_capacity(nodes, 3, &c);
    assert_int_equal(c.headroom_bytes, -(int64_t)(1100 * MIB));
    mt_capacity(nodes, 0, &c);
    assert_int_equal(c.worst, MT_PLACE_NONE);
    assert_int_equal(c.headroom_bytes, 0);
    assert_int_equal(c.largest_memory_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_instance_is_placed_and_one_more_mebibyte_is_not),
        cmocka_unit_test(headroom_is_what_is_left_after_the_worst_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
