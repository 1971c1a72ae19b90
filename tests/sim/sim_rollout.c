/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Properties of scheduler and rollout over many random clusters. Usage: sim_rollout [--seed N] [--rounds N].
 * The seed of every failure is printed; the same seed gives the same run.
 */
#include "world.h"

#include "base/num.h"
#include "base/str.h"

static struct world w; /* large: not on the stack */

#define REQUIRE(cond, ...)            \
    do {                              \
        if (!(cond))                  \
            w_broken(&w, __VA_ARGS__); \
    } while (0)

/* Every start mix of available and broken old instances: the rollout ends, and availability never drops below
 * min(desired, initially available). */
static void every_start_mix_ends(void)
{
    for (size_t i = 0, n = 1 + w_rand(&w, 5); i < n; i++)
        (void)w_add_node(&w, 64 * 1024, NULL);
    size_t old = w_add_spec(&w, 256, 0), new = w_add_spec(&w, 256, w_rand(&w, 3) ? 0 : 10 + w_rand(&w, 30));
    /* failures of the platform's side never hold a group: with them every rollout must end */
    w.specs[new].reason = "boot_timeout";
    uint32_t desired = w_rand(&w, 12), n_old = w_rand(&w, 14);
    size_t g = w_add_group(&w, old, desired, false);
    if (w_rand(&w, 2))
        memcpy(w.groups[g].stable, w.specs[old].hash, 65);
    for (uint32_t i = 0; i < n_old; i++)
        (void)w_place_old(&w, g, old, w_rand(&w, (uint32_t)w.n_nodes), w_rand(&w, 3) > 0);
    uint32_t first = w_available(&w, g), least = first < desired ? first : desired;
    w_deploy(&w, g, new, desired);
    int64_t end = w.now_ms + 890000;
    bool done = false;
    while (w.now_ms < end && !done && !w.fault[0]) {
        w_turn(&w, 250);
        REQUIRE(w_available(&w, g) >= least, "availability %u fell below %u (desired %u, first %u)", w_available(&w, g), least,
                desired, first);
        REQUIRE(w.groups[g].condition != MT_ROLL_HELD, "held by failures of the platform");
        done = w.groups[g].last.satisfied;
    }
    REQUIRE(done, "the rollout did not end: desired %u, old %u, matching %u, available %u", desired, w.groups[g].last.old,
            w.groups[g].last.matching, w.groups[g].last.available);
    REQUIRE(w.groups[g].deploy == MT_DEPLOY_SUCCEEDED, "the deploy is %s", mt_deploy_status_name(w.groups[g].deploy));
    REQUIRE(w_live(&w, g, old) == 0 && w_live(&w, g, new) == desired, "wrong instances at the end");
    REQUIRE(MT_STREQ(w.groups[g].stable, w.specs[new].hash), "the stable spec was not moved on");
}

/* A release that cannot start is held; the old one keeps serving; the next command releases the hold. */
static void failing_release_is_held(void)
{
    for (size_t i = 0, n = 1 + w_rand(&w, 4); i < n; i++)
        (void)w_add_node(&w, 64 * 1024, NULL);
    size_t old = w_add_spec(&w, 256, 0), bad = w_add_spec(&w, 256, 100), good = w_add_spec(&w, 256, 0);
    uint32_t desired = 1 + w_rand(&w, 8);
    size_t g = w_add_group(&w, old, desired, false);
    memcpy(w.groups[g].stable, w.specs[old].hash, 65);
    for (uint32_t i = 0; i < desired; i++)
        (void)w_place_old(&w, g, old, w_rand(&w, (uint32_t)w.n_nodes), true);
    w_deploy(&w, g, bad, desired);
    for (int64_t end = w.now_ms + 890000; w.now_ms < end && w.groups[g].deploy != MT_DEPLOY_FAILED && !w.fault[0];) {
        w_turn(&w, 250);
        REQUIRE(w_available(&w, g) >= desired, "the old release stopped serving");
    }
    REQUIRE(w.groups[g].deploy == MT_DEPLOY_FAILED, "the deploy is %s", mt_deploy_status_name(w.groups[g].deploy));
    REQUIRE(MT_STREQ(w.groups[g].failed_reason, "workload_exited"), "failed reason is '%s'", w.groups[g].failed_reason);
    REQUIRE(w.groups[g].condition == MT_ROLL_HELD, "the group is not held");
    for (int i = 0; i < 4000 && !w.fault[0]; i++) {
        w_turn(&w, 250);
        REQUIRE(w.groups[g].condition == MT_ROLL_HELD, "the hold went away by itself");
        REQUIRE(w_available(&w, g) == desired, "%u of %u serve while held", w_available(&w, g), desired);
    }
    REQUIRE(w_live(&w, g, bad) == 0, "failed new instances were not stopped");
    if (w.n_nodes > 1) { /* a lost instance is replaced from the spec it had */
        w.nodes[0].health = MT_NODE_OFFLINE;
        for (int i = 0; i < 400 && !w.fault[0]; i++)
            w_turn(&w, 250);
        REQUIRE(w_available(&w, g) == desired, "%u of %u serve after a node went while held", w_available(&w, g), desired);
        REQUIRE(w_live(&w, g, bad) == 0, "the held spec came back");
        w.nodes[0].health = MT_NODE_READY;
    }
    w_deploy(&w, g, good, desired);
    REQUIRE(w_settle(&w, 890000) && w.groups[g].deploy == MT_DEPLOY_SUCCEEDED, "the next deploy did not get through");
}

/* More wanted than fits: reasons are given, memory is never overcommitted (a standing check), and what fits runs. */
static void no_capacity_says_so(void)
{
    size_t n_nodes = 1 + w_rand(&w, 3);
    uint64_t room = 0;
    for (size_t i = 0; i < n_nodes; i++) {
        uint64_t mib = 700 + w_rand(&w, 3000);
        (void)w_add_node(&w, mib, NULL);
        room += mib / (256 + 64);
    }
    size_t spec = w_add_spec(&w, 256, 0);
    size_t g = w_add_group(&w, spec, (uint32_t)room + 1 + w_rand(&w, 4), false);
    w_deploy(&w, g, spec, w.groups[g].desired);
    for (int i = 0; i < 400 && !w.fault[0]; i++)
        w_turn(&w, 250);
    REQUIRE(w.groups[g].condition == MT_ROLL_BLOCKED && w.groups[g].reason == MT_REASON_NO_CAPACITY_MEMORY, "condition %s, reason %s",
            mt_roll_condition_name(w.groups[g].condition), mt_reason_code(w.groups[g].reason));
    REQUIRE(strstr(w.groups[g].last.detail, "memory") != NULL, "detail is '%s'", w.groups[g].last.detail);
    REQUIRE(w_available(&w, g) == room, "%u run where %llu fit", w_available(&w, g), (unsigned long long)room);
    while (w.now_ms < w.groups[g].deploy_at_ms + 901000 && !w.fault[0])
        w_turn(&w, 1000);
    REQUIRE(w.groups[g].deploy == MT_DEPLOY_FAILED && MT_STREQ(w.groups[g].failed_reason, "timeout"), "no timeout");
    w_deploy(&w, g, spec, (uint32_t)room);
    REQUIRE(w_settle(&w, 120000), "scaled to what fits, it does not settle");
}

/* A full cluster (or quota) still rolls: drain-first, one at a time, never overcommitted. */
static void full_cluster_rolls_drain_first(void)
{
    uint32_t desired = 1 + w_rand(&w, 6);
    bool by_quota = w_rand(&w, 2);
    (void)w_add_node(&w, by_quota ? 100000 : desired * (256 + 64) + w_rand(&w, 300), NULL);
    if (by_quota)
        w.quota.instances = desired;
    size_t old = w_add_spec(&w, 256, 0), new = w_add_spec(&w, 256, 0);
    size_t g = w_add_group(&w, old, desired, false);
    for (uint32_t i = 0; i < desired; i++)
        (void)w_place_old(&w, g, old, 0, w_rand(&w, 4) > 0);
    uint32_t first = w_available(&w, g);
    bool said = false;
    w_deploy(&w, g, new, desired);
    for (int64_t end = w.now_ms + 890000; w.now_ms < end && w.groups[g].deploy != MT_DEPLOY_SUCCEEDED && !w.fault[0];) {
        w_turn(&w, 250);
        said = said || w.groups[g].last.surge_unavailable;
        REQUIRE(w_available(&w, g) + 1 >= first, "more than one was drained at a time");
    }
    REQUIRE(w.groups[g].deploy == MT_DEPLOY_SUCCEEDED, "the deploy is %s", mt_deploy_status_name(w.groups[g].deploy));
    REQUIRE(said, "surge_unavailable was never said");

    /* a release that fits nowhere: nothing is drained for it */
    size_t huge = w_add_spec(&w, 200000, 0);
    w_deploy(&w, g, huge, desired);
    for (int i = 0; i < 200 && !w.fault[0]; i++)
        w_turn(&w, 250);
    REQUIRE(w_available(&w, g) == desired, "instances were drained for a release that fits nowhere");
    REQUIRE(w.groups[g].condition == MT_ROLL_BLOCKED, "the group is not blocked");
}

/* Groups with a volume: never two at once, always on the home node, and the old one stays if the new one cannot start. */
static void volumes_have_one_user(void)
{
    for (size_t i = 0; i < 3; i++)
        (void)w_add_node(&w, 4096, NULL);
    size_t old = w_add_spec(&w, 512, 0), new = w_add_spec(&w, 512, 0), huge = w_add_spec(&w, 100000, 0);
    size_t g = w_add_group(&w, old, 1, true);
    w_deploy(&w, g, old, 1);
    const size_t order[] = {old, new, huge, new, old};
    for (size_t k = 0; k < 5 && !w.fault[0]; k++) {
        w_deploy(&w, g, order[k], 1);
        bool outage = w_rand(&w, 3) == 0;
        for (int i = 0; i < 400 && !w.fault[0]; i++) {
            if (outage)
                w.nodes[0].health = i > 100 && i < 200 ? MT_NODE_OFFLINE : MT_NODE_READY;
            w_turn(&w, 250);
            size_t users = 0;
            for (size_t n = 0; n < w.n_in; n++) {
                bool runs = w.in[n].used && w.in[n].status != MT_STATUS_STOPPED;
                users += runs;
                REQUIRE(!runs || w.in[n].node == 0, "an instance left the volume's home");
            }
            REQUIRE(users <= 1, "%zu instances share a volume", users);
        }
        if (order[k] == huge) {
            REQUIRE(w_available(&w, g) == 1 && w_live(&w, g, new) == 1, "the old one was stopped for a release that cannot start");
            REQUIRE(w.groups[g].reason == MT_REASON_NO_CAPACITY_MEMORY, "reason %s", mt_reason_code(w.groups[g].reason));
        } else {
            REQUIRE(w.groups[g].last.satisfied, "the volume's group did not settle");
        }
    }
}

/* Nodes go, come back, drain; releases fail now and then; scale changes: in the end everything settles. */
static void long_random_life(void)
{
    for (size_t i = 0; i < 4; i++)
        (void)w_add_node(&w, 16384, i < 2 ? "a" : "b");
    size_t specs[6];
    for (size_t i = 0; i < 6; i++) {
        specs[i] = w_add_spec(&w, 128 + 64 * w_rand(&w, 6), i % 3 == 2 ? 100 : w_rand(&w, 20));
        w.specs[specs[i]].break_percent = w_rand(&w, 20);
    }
    for (size_t g = 0; g < 3; g++)
        (void)w_add_group(&w, specs[0], 1 + w_rand(&w, 6), false);
    for (int i = 0; i < 8000 && !w.fault[0]; i++) {
        uint32_t dice = w_rand(&w, 2000);
        size_t g = w_rand(&w, 3), n = w_rand(&w, 4);
        if (dice < 8)
            w_deploy(&w, g, specs[w_rand(&w, 6)], w_rand(&w, 9));
        else if (dice < 12 && w.groups[g].target != SIZE_MAX)
            w_deploy(&w, g, w.groups[g].target, w_rand(&w, 9));
        else if (dice < 15)
            w.nodes[n].health = (enum mt_node_health)w_rand(&w, MT_NODE_LOST);
        else if (dice < 18)
            w.nodes[n].admin = w_rand(&w, 2) ? MT_NODE_DRAINING : MT_NODE_CORDONED;
        else if (dice < 40) {
            w.nodes[n].health = MT_NODE_READY;
            w.nodes[n].admin = MT_NODE_ACTIVE;
        }
        w_turn(&w, 500);
        for (size_t k = 0; k < 3; k++) {
            uint32_t total = 0;
            for (size_t s = 0; s < 6; s++)
                total += w_live(&w, k, specs[s]);
            /* what was there before a scale-down may stay until it may go; nothing may be added above the surge */
            REQUIRE(total <= 8 + mt_roll_surge(8, false) + 8, "group %zu has %u instances", k, total);
        }
    }
    for (size_t n = 0; n < 4; n++) {
        w.nodes[n].health = MT_NODE_READY;
        w.nodes[n].admin = MT_NODE_ACTIVE;
    }
    for (size_t k = 0; k < 6; k++)
        w.specs[specs[k]].break_percent = 0;
    for (size_t g = 0; g < 3; g++)
        w_deploy(&w, g, specs[0], 3);
    w.specs[specs[0]].fail_percent = 0;
    REQUIRE(w_settle(&w, 890000), "the cluster did not settle");
    for (size_t g = 0; g < 3; g++)
        REQUIRE(w.groups[g].last.satisfied && w_available(&w, g) == 3, "group %zu did not come to rest", g);
}

static const struct {
    const char *name;
    void (*run)(void);
    unsigned rounds;
} worlds[] = {
    {"every start mix ends and availability never drops", every_start_mix_ends, 400},
    {"a failing release is held and the old one serves", failing_release_is_held, 60},
    {"no capacity says so and never overcommits", no_capacity_says_so, 60},
    {"a full cluster rolls drain-first", full_cluster_rolls_drain_first, 100},
    {"a volume has one user, on its home node", volumes_have_one_user, 40},
    {"a long random life settles", long_random_life, 30},
};

int main(int argc, char **argv)
{
    uint64_t seed = 20261123, rounds = 0;
    bool given = false;
    unsigned failed = 0;
    struct mt_err err;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t *to = MT_STREQ(argv[i], "--seed") ? &seed : &rounds;
        if (mt_parse_u64(argv[i + 1], 0, UINT64_MAX, to, &err) < 0) {
            (void)fprintf(stderr, "sim_rollout: %s\n", err.msg);
            return 2;
        }
        given = given || to == &seed;
    }
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t k = 0; k < sizeof worlds / sizeof worlds[0]; k++) {
        uint64_t n = rounds ? rounds : worlds[k].rounds, steps = 0;
        bool bad = false;
        for (uint64_t i = 0; i < n && !bad; i++) {
            w_init(&w, seed + i);
            worlds[k].run();
            steps += w.steps;
            if (w.fault[0]) {
                bad = true;
                printf("# seed %llu: %s\n# again: sim_rollout --seed %llu --rounds 1\n", (unsigned long long)w.seed, w.fault,
                       (unsigned long long)w.seed);
            }
        }
        printf("%s - %s (%llu rounds, %llu steps)\n", bad ? "not ok" : "ok", worlds[k].name, (unsigned long long)n,
               (unsigned long long)steps);
        failed += bad;
    }
    return failed ? 1 : 0;
}
