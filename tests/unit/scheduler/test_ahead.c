/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster of three nodes, looked at from before and after one of them changes. Sizes: nodes of 8 GiB without overhead, instances of 1 GiB. */
#include "control/rollout/ahead.h"

#include "base/arena.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define GIB (UINT64_C(1) << 30)
#define NOW 10000000

static const char *const amd64[] = {"amd64"};

struct scene {
    struct mt_place_node nodes[3];
    struct mt_ahead_group groups[4];
    struct mt_roll_instance in[4][40];
    char ids[4][40][24];
    struct mt_place_volume volume;
    struct mt_place_quota quota;
    struct mt_arena arena;
    struct mt_place_index *index;
    struct mt_ahead a;
};

static struct scene *scene(void)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    s->quota = (struct mt_place_quota)MT_PLACE_QUOTA_NONE;
    for (size_t i = 0; i < 3; i++)
        s->nodes[i] = (struct mt_place_node){.node_id = i == 0 ? "a" : i == 1 ? "b" : "c", .arch = "amd64", .admin = MT_NODE_ACTIVE, .health = MT_NODE_READY,
            .alloc_memory_bytes = 8 * GIB, .alloc_cpu_millis = 64000, .ceiling_cpu_millis = 128000, .alloc_disk_bytes = 1000 * GIB};
    mt_arena_init(&s->arena, 16U << 20);
    return s;
}

/* A group of @n ready instances, on the nodes that the letters name; those in capitals start. */
static void group(struct scene *s, const char *where, uint32_t desired)
{
    size_t k = s->a.n_groups++;
    struct mt_ahead_group *g = &s->groups[k];
    const struct mt_place_size size = {100, GIB, GIB};

    g->quota = &s->quota;
    g->group = (struct mt_roll_group){.target_spec = "t", .desired = desired, .startup_timeout_seconds = 130, .may_allocate = true, .stable_spec = "t",
        .recorded_target = "t", .roll_reason = MT_REASON_REPLACED, .request = {.size = size, .archs = amd64, .n_archs = 1}, .instances = s->in[k]};
    for (size_t i = 0; where[i]; i++) {
        bool starts = where[i] < 'a';
        size_t node = (size_t)(where[i] - (starts ? 'A' : 'a'));
        (void)snprintf(s->ids[k][i], sizeof s->ids[k][i], "i%zu-%02zu", k, i);
        s->in[k][i] = (struct mt_roll_instance){.instance_id = s->ids[k][i], .node = node, .spec_hash = "t", .size = size, .archs = amd64, .n_archs = 1,
            .ever_ready = !starts, .status = starts ? MT_STATUS_STARTING : MT_STATUS_READY, .ready_since_ms = starts ? 0 : NOW - 100000,
            .changed_at_ms = NOW - 100000, .drain_delay_seconds = 5, .stop_grace_seconds = 10};
        mt_place_charge(&s->nodes[node], &size);
        mt_place_quota_charge(&s->quota, &size);
        g->group.n_instances++;
    }
}

/* Run: once as it is, then with node a changed. */
static void run(struct scene *s, enum mt_node_admin admin, enum mt_node_health health)
{
    struct mt_err err;

    assert_int_equal(mt_place_index_new(s->nodes, 3, &s->index, &err), 0);
    s->a.groups = s->groups;
    s->a.nodes = s->nodes;
    s->a.n_nodes = 3;
    s->a.index = s->index;
    s->a.now_ms = NOW;
    s->a.arena = &s->arena;
    assert_int_equal(mt_ahead_run(&s->a, &err), 0);
    s->a.made = 0;
    s->nodes[0].admin = admin;
    s->nodes[0].health = health;
    mt_place_index_changed(s->index, 0);
    assert_int_equal(mt_ahead_run(&s->a, &err), 0);
}

/* Where group @k runs: a letter for each instance that is wanted there, in the order of the list; capitals were placed. */
static const char *where(const struct scene *s, size_t k)
{
    static char out[64];
    const struct mt_roll_group *g = &s->groups[k].group;
    size_t n = 0;

    for (size_t i = 0; i < g->n_instances; i++)
        if (g->instances[i].desired == MT_DESIRED_RUNNING)
            out[n++] = (char)((mt_ahead_made(&g->instances[i]) ? 'A' : 'a') + (int)g->instances[i].node);
    out[n] = '\0';
    return out;
}

static void end(struct scene *s)
{
    mt_place_index_free(s->index);
    mt_arena_done(&s->arena);
    free(s);
}

static void a_lost_node_is_replaced_and_stays_counted(void **state)
{
    (void)state;
    struct scene *s = scene();
    group(s, "aab", 3);
    group(s, "abc", 3);
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_string_equal(where(s, 0), "bCB"); /* spread first, then the node with more room, then the smaller id */
    assert_string_equal(where(s, 1), "bcC");
    assert_int_equal(s->nodes[0].used_memory_bytes, 3 * GIB); /* nobody heard of them: their memory is not given away */
    assert_int_equal(s->nodes[1].used_memory_bytes + s->nodes[2].used_memory_bytes, 6 * GIB);
    assert_int_equal(s->groups[0].result.condition, MT_ROLL_OK);
    end(s);
}

static void what_does_not_fit_says_why(void **state)
{
    (void)state;
    struct scene *s = scene();
    group(s, "bbbbbbbccccccc", 14); /* 7 of 8 GiB on each */
    group(s, "aaa", 3);
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_int_equal(strlen(where(s, 1)), 2);
    assert_int_equal(s->groups[1].result.condition, MT_ROLL_BLOCKED);
    assert_int_equal(s->groups[1].result.reason, MT_REASON_NO_CAPACITY_MEMORY);
    assert_string_equal(s->groups[1].result.detail, "3 nodes: 2 memory, 1 not ready");
    assert_int_equal(s->nodes[1].used_memory_bytes, 8 * GIB);
    assert_int_equal(s->nodes[2].used_memory_bytes, 8 * GIB);
    end(s);
}

static void a_drain_moves_all_and_frees_the_node(void **state)
{
    (void)state;
    struct scene *s = scene();
    group(s, "aaaaa", 5);
    group(s, "ab", 2);
    run(s, MT_NODE_DRAINING, MT_NODE_READY);
    assert_string_equal(where(s, 0), "CBBCB");
    assert_string_equal(where(s, 1), "bC");
    assert_int_equal(s->nodes[0].used_memory_bytes, 0);
    assert_int_equal(s->nodes[0].instances, 0);
    assert_int_equal(s->nodes[0].draining, 0);
    end(s);
}

static void a_drain_without_room_leaves_the_rest(void **state)
{
    (void)state;
    struct scene *s = scene();
    group(s, "bbbbbbbbccccccc", 15); /* one place is left */
    group(s, "aaa", 3);
    run(s, MT_NODE_DRAINING, MT_NODE_READY);
    assert_string_equal(where(s, 1), "aaC");
    assert_int_equal(s->groups[1].result.reason, MT_REASON_NO_CAPACITY_MEMORY);
    assert_int_equal(s->nodes[0].used_memory_bytes, 2 * GIB);
    end(s);
}

static void volumes_wait_for_their_node(void **state)
{
    (void)state;
    struct scene *s = scene();
    s->volume = (struct mt_place_volume){.volume_id = "vol", .home_node_id = "a", .in_use = true};
    group(s, "a", 1);
    s->groups[0].group.stateful = true;
    s->groups[0].group.request.volumes = &s->volume;
    s->groups[0].group.request.n_volumes = 1;
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_string_equal(where(s, 0), "a");
    assert_int_equal(s->groups[0].result.reason, MT_REASON_VOLUME_HOME_NODE_OFFLINE);
    assert_true(s->volume.in_use); /* the caller's own is never written */
    end(s);

    s = scene();
    s->volume = (struct mt_place_volume){.volume_id = "vol", .home_node_id = "a", .in_use = true};
    group(s, "a", 1);
    s->groups[0].group.stateful = true;
    s->groups[0].group.request.volumes = &s->volume;
    s->groups[0].group.request.n_volumes = 1;
    run(s, MT_NODE_DRAINING, MT_NODE_READY);
    assert_string_equal(where(s, 0), "a");
    assert_int_equal(s->groups[0].result.condition, MT_ROLL_OK);
    end(s);
}

/* A rollout of a process with a volume: the old one stops, its volume is free, the new one starts on it. */
static void a_rollout_comes_to_its_end(void **state)
{
    (void)state;
    struct scene *s = scene();
    s->volume = (struct mt_place_volume){.volume_id = "vol", .home_node_id = "b", .in_use = true};
    group(s, "b", 1);
    s->in[0][0].spec_hash = "old";
    s->groups[0].group.stable_spec = "old";
    s->groups[0].group.stateful = true;
    s->groups[0].group.request.volumes = &s->volume;
    s->groups[0].group.request.n_volumes = 1;
    group(s, "abcA", 3); /* and one that rolls, with a surge instance on its way */
    for (size_t i = 0; i < 3; i++)
        s->in[1][i].spec_hash = "old";
    s->groups[1].group.stable_spec = "old";
    run(s, MT_NODE_ACTIVE, MT_NODE_READY);
    assert_string_equal(where(s, 0), "B");
    assert_string_equal(s->groups[0].group.instances[0].spec_hash, "t");
    assert_int_equal(strlen(where(s, 1)), 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(s->groups[1].group.instances[i].spec_hash, "t");
    assert_true(s->groups[1].result.satisfied);
    assert_string_equal(s->groups[1].group.stable_spec, "t");
    assert_int_equal(s->nodes[0].used_memory_bytes + s->nodes[1].used_memory_bytes + s->nodes[2].used_memory_bytes, 4 * GIB);
    end(s);
}

static void the_quota_is_charged(void **state)
{
    (void)state;
    struct scene *s = scene();
    group(s, "aab", 3);
    s->quota.instances = 0; /* drain: a surge of one does not fit into the quota, so one goes first */
    run(s, MT_NODE_DRAINING, MT_NODE_READY);
    assert_string_equal(where(s, 0), "bCB");
    assert_int_equal(s->quota.instances, 0);
    end(s);

    s = scene();
    group(s, "aab", 3);
    s->quota.instances = 0; /* loss: what is told to stop counts no more */
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_string_equal(where(s, 0), "bCB");
    assert_int_equal(s->quota.instances, 0);
    end(s);

    s = scene();
    group(s, "ab", 2);
    s->quota.memory_bytes = -(int64_t)GIB; /* lowered below what runs: nothing more is placed */
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_string_equal(where(s, 0), "b");
    assert_int_equal(s->groups[0].result.reason, MT_REASON_ORG_QUOTA_EXCEEDED);
    end(s);
}

static void a_held_group_keeps_what_serves(void **state)
{
    (void)state;
    struct scene *s = scene();
    group(s, "aa", 2);
    s->in[0][0].spec_hash = s->in[0][1].spec_hash = "old";
    s->groups[0].group.stable_spec = "old";
    s->groups[0].group.condition = MT_ROLL_HELD;
    s->groups[0].group.held_event = 9;
    s->groups[0].group.command_event = 4;
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_string_equal(where(s, 0), "BC");
    for (size_t i = 0; i < s->groups[0].group.n_instances; i++)
        assert_string_equal(s->groups[0].group.instances[i].spec_hash, "old");
    assert_int_equal(s->groups[0].result.condition, MT_ROLL_HELD);
    end(s);
}

/* More than boot at once on one node, and more than one step may place. */
static void large_groups_take_several_steps(void **state)
{
    (void)state;
    struct scene *s = scene();
    for (size_t i = 0; i < 3; i++)
        s->nodes[i].alloc_memory_bytes = 64 * GIB;
    s->nodes[1].booting = 10; /* of before: they come up */
    group(s, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 38);
    run(s, MT_NODE_ACTIVE, MT_NODE_OFFLINE);
    assert_int_equal(strlen(where(s, 0)), 38);
    assert_int_equal(s->nodes[1].instances, 19);
    assert_int_equal(s->nodes[2].instances, 19);
    assert_int_equal(s->nodes[1].booting, 0);
    end(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lost_node_is_replaced_and_stays_counted), cmocka_unit_test(what_does_not_fit_says_why),
        cmocka_unit_test(a_drain_moves_all_and_frees_the_node),      cmocka_unit_test(a_drain_without_room_leaves_the_rest),
        cmocka_unit_test(volumes_wait_for_their_node),               cmocka_unit_test(a_rollout_comes_to_its_end),
        cmocka_unit_test(the_quota_is_charged),                      cmocka_unit_test(a_held_group_keeps_what_serves),
        cmocka_unit_test(large_groups_take_several_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
