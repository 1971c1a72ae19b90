/* SPDX-License-Identifier: Apache-2.0 */
#include "control/scheduler/place.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static const char *const amd64[] = {"amd64"};

static struct mt_place_node node(const char *id)
{
    return (struct mt_place_node){.node_id = id, .arch = "amd64", .admin = MT_NODE_ACTIVE, .health = MT_NODE_READY,
        .alloc_memory_bytes = 8 * GIB, .alloc_cpu_millis = 16000, .ceiling_cpu_millis = 32000, .alloc_disk_bytes = 100 * GIB,
        .overhead_bytes = 64 * MIB};
}

static struct mt_place_request request(void)
{
    return (struct mt_place_request){.size = {1000, GIB, 4 * GIB}, .archs = amd64, .n_archs = 1, .quota = MT_PLACE_QUOTA_NONE};
}

static void each_filter_gives_its_reason_and_counts(void **state)
{
    (void)state;
    static const struct mt_place_label zone_b[] = {{"zone", "b"}}, zone_a[] = {{"zone", "a"}};
    static const struct mt_place_volume home_a[] = {{"vol_1", "a", false}}, other[] = {{"vol_1", "x", false}},
                                        split[] = {{"vol_1", "a", false}, {"vol_2", "b", false}}, used[] = {{"vol_1", "a", true}};
    static const char *const arm64[] = {"arm64"};
    enum { OK, CORDONED, ARCH, HOME, SPLIT, USED, MEMORY, DISK, CPU, LABEL, ROWS };
    static const struct {
        enum mt_reason reason;
        const char *detail;
    } want[ROWS] = {
        [OK] = {MT_REASON_NONE, ""},
        [CORDONED] = {MT_REASON_NO_NODES_ACTIVE, "2 nodes: 2 not ready"},
        [ARCH] = {MT_REASON_NO_MATCHING_ARCH, "2 nodes: 1 architecture, 1 not ready"},
        [HOME] = {MT_REASON_VOLUME_HOME_NODE_OFFLINE, "2 nodes: 2 not the volume's home"},
        [SPLIT] = {MT_REASON_VOLUME_LOCALITY_NO_NODE, "2 nodes: 2 not the volume's home"},
        [USED] = {MT_REASON_VOLUME_IN_USE, "2 nodes: 1 not the volume's home, 1 volume in use"},
        [MEMORY] = {MT_REASON_NO_CAPACITY_MEMORY, "2 nodes: 1 memory, 1 not ready"},
        [DISK] = {MT_REASON_NO_CAPACITY_DISK, "2 nodes: 1 memory, 1 disk"},
        [CPU] = {MT_REASON_NO_CAPACITY_CPU, "2 nodes: 2 cpu"},
        [LABEL] = {MT_REASON_NO_MATCHING_LABEL, "2 nodes: 2 labels"},
    };
    for (int row = 0; row < ROWS; row++) {
        struct mt_place_node n[2] = {node("a"), node("b")};
        struct mt_place_request r = request();
        struct mt_place_decision d;
        switch (row) {
        case CORDONED:
            n[0].admin = MT_NODE_CORDONED;
            n[1].health = MT_NODE_DEGRADED;
            break;
        case ARCH:
            r.archs = arm64;
            n[1].health = MT_NODE_SUSPECT;
            break;
        case HOME:
        case SPLIT:
        case USED:
            r.volumes = row == HOME ? other : row == SPLIT ? split : used;
            r.n_volumes = row == SPLIT ? 2 : 1;
            break;
        case MEMORY:
            n[0].used_memory_bytes = 7 * GIB - 64 * MIB + 1; /* one byte too many */
            n[1].admin = MT_NODE_DRAINING;
            break;
        case DISK:
            n[0].used_memory_bytes = 8 * GIB;
            n[1].used_disk_bytes = 97 * GIB;
            break;
        case CPU:
            n[0].used_cpu_millis = n[1].used_cpu_millis = 31001;
            break;
        case LABEL:
            r.selector = zone_b;
            r.n_selector = 1;
            n[0].labels = zone_a;
            n[0].n_labels = 1;
            break;
        default:
            r.volumes = home_a;
            r.n_volumes = 1;
            n[0].used_memory_bytes = 7 * GIB - 64 * MIB; /* fits to the byte */
            break;
        }
        mt_place(n, 2, &r, &d);
        if (d.reason != want[row].reason || !MT_STREQ(d.detail, want[row].detail))
            print_error("row %d: %s '%s'\n", row, mt_reason_code(d.reason), d.detail);
        assert_int_equal(d.reason, want[row].reason);
        assert_string_equal(d.detail, want[row].detail);
        assert_int_equal(d.outcome, row == OK ? MT_PLACE_OK : MT_PLACE_BLOCKED);
        assert_int_equal(d.node, row == OK ? 0 : MT_PLACE_NONE);
    }
}

static void gates_come_before_nodes(void **state)
{
    (void)state;
    struct mt_place_node n = node("a");
    struct mt_place_decision d;
    struct mt_place_request r = request();
    r.gates.secrets_missing = true;
    mt_place(&n, 1, &r, &d);
    assert_int_equal(d.reason, MT_REASON_SECRETS_MISSING);
    r = request();
    r.gates.org_suspended = true;
    mt_place(&n, 1, &r, &d);
    assert_int_equal(d.reason, MT_REASON_ORG_SUSPENDED);
    r = request();
    r.gates.volume_migrating = true;
    mt_place(&n, 1, &r, &d);
    assert_int_equal(d.reason, MT_REASON_VOLUME_MIGRATING);
    r = request();
    r.gates.release_blocked = true;
    mt_place(&n, 1, &r, &d);
    assert_int_equal(d.reason, MT_REASON_RELEASE_BLOCKED);
    static const struct {
        struct mt_place_quota quota;
        const char *dimension;
    } rows[] = {{{0, INT64_MAX, INT64_MAX}, "max_instances"},
                {{1, (INT64_C(1) << 30) + (64 << 20) - 1, INT64_MAX}, "max_total_memory_bytes"},
                {{1, -5, INT64_MAX}, "max_total_memory_bytes"},
                {{1, INT64_MAX, 999}, "max_total_cpu_millis"},
                {{1, (INT64_C(1) << 30) + (64 << 20), 1000}, NULL}};
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        r = request();
        r.quota = rows[i].quota;
        mt_place(&n, 1, &r, &d);
        assert_int_equal(d.reason, rows[i].dimension ? MT_REASON_ORG_QUOTA_EXCEEDED : MT_REASON_NONE);
        assert_string_equal(d.detail, rows[i].dimension ? rows[i].dimension : "");
    }
}

static void the_score_follows_the_formula(void **state)
{
    (void)state;
    struct mt_place_node n[2] = {node("a"), node("b")};
    struct mt_place_request r = request();
    struct mt_place_decision d;
    uint32_t group[2] = {1, 0};
    n[1].admin = MT_NODE_CORDONED;
    n[0].used_memory_bytes = 2 * GIB;
    n[0].used_cpu_millis = 3000;
    n[0].boot_failures = 2;
    r.group_on_node = group;
    mt_place(n, 2, &r, &d);
    /* S = 250 + 250; M = 1000 * (8192 - 2048 - 1088) / 8192 = 617; C = 1000 - 1000*4000/16000 = 750; F = 500 */
    assert_int_equal(d.score, 4 * 500 + 3 * 617 + 2 * 750 + 500);
}

static void spreads_over_nodes_then_zones(void **state)
{
    (void)state;
    struct mt_place_node n[4] = {node("a"), node("b"), node("c"), node("d")};
    struct mt_place_request r = request();
    struct mt_place_decision d;
    uint32_t group[4] = {0};
    n[0].zone = n[1].zone = "east";
    n[2].zone = n[3].zone = "west";
    r.group_on_node = group;
    static const size_t want[] = {0, 2, 1, 3};
    for (size_t i = 0; i < 4; i++) {
        mt_place(n, 4, &r, &d);
        assert_int_equal(d.node, want[i]);
        group[d.node]++;
        mt_place_charge(&n[d.node], &r.size);
    }
}

static void the_order_of_nodes_does_not_matter(void **state)
{
    (void)state;
    static const char *const ids[] = {"n1", "n2", "n3", "n4", "n5"};
    struct mt_place_request r = request();
    for (size_t shift = 0; shift < 5; shift++) {
        struct mt_place_node n[5];
        struct mt_place_decision d;
        for (size_t i = 0; i < 5; i++)
            n[i] = node(ids[(i + shift) % 5]);
        mt_place(n, 5, &r, &d);
        assert_string_equal(n[d.node].node_id, "n1"); /* equal scores: smallest id */
    }
}

static void busy_boots_are_put_off_not_refused(void **state)
{
    (void)state;
    struct mt_place_node n[2] = {node("a"), node("b")};
    struct mt_place_request r = request();
    struct mt_place_decision d;
    n[0].booting = n[1].booting = MT_PLACE_BOOTS_PER_NODE;
    mt_place(n, 2, &r, &d);
    assert_int_equal(d.outcome, MT_PLACE_DEFERRED);
    n[1].booting--;
    mt_place(n, 2, &r, &d);
    assert_int_equal(d.node, 1);
}

static void charges_and_credits_cancel(void **state)
{
    (void)state;
    struct mt_place_node n = node("a");
    struct mt_place_quota q = {5, GIB, 5000}, none = MT_PLACE_QUOTA_NONE;
    const struct mt_place_size size = {1000, GIB / 2, GIB};
    mt_place_charge(&n, &size);
    assert_int_equal(n.used_memory_bytes, GIB / 2 + 64 * MIB);
    mt_place_credit(&n, &size);
    mt_place_credit(&n, &size); /* once too often: sums stay at 0 */
    assert_int_equal(n.used_memory_bytes + n.used_cpu_millis + n.used_disk_bytes + n.instances, 0);
    mt_place_quota_charge(&q, &size);
    assert_int_equal(q.memory_bytes, (int64_t)(GIB / 2 - 64 * MIB));
    mt_place_quota_credit(&q, &size);
    assert_int_equal(q.instances, 5);
    mt_place_quota_charge(&none, &size);
    assert_int_equal(none.memory_bytes, INT64_MAX);
}

/* Processor time of this process: what others take of the machine is not the scheduler's. */
static int64_t worked_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * MT_NS_PER_S + t.tv_nsec;
}

/* Budget of the specification: 100 instances on 100 nodes under 100 ms. Sanitizers get five times that. */
static void a_hundred_on_a_hundred_is_quick(void **state)
{
    (void)state;
    static struct mt_place_node n[100];
    static char ids[100][8];
    uint32_t group[100] = {0};
    struct mt_place_request r = request();
    for (size_t i = 0; i < 100; i++) {
        (void)snprintf(ids[i], sizeof ids[i], "n%03zu", i);
        n[i] = node(ids[i]);
    }
    r.group_on_node = group;
    int64_t start = worked_ns();
    for (int i = 0; i < 100; i++) {
        struct mt_place_decision d;
        mt_place(n, 100, &r, &d);
        assert_int_equal(d.outcome, MT_PLACE_OK);
        mt_place_charge(&n[d.node], &r.size);
        group[d.node]++;
    }
    assert_true(worked_ns() - start < 500 * MT_NS_PER_MS);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(group[i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_filter_gives_its_reason_and_counts),
        cmocka_unit_test(gates_come_before_nodes),
        cmocka_unit_test(the_score_follows_the_formula),
        cmocka_unit_test(spreads_over_nodes_then_zones),
        cmocka_unit_test(the_order_of_nodes_does_not_matter),
        cmocka_unit_test(busy_boots_are_put_off_not_refused),
        cmocka_unit_test(charges_and_credits_cancel),
        cmocka_unit_test(a_hundred_on_a_hundred_is_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
