/* SPDX-License-Identifier: Apache-2.0 */
/* Single steps of a group; the long view is in tests/sim. A group is drawn as letters, one per instance:
 *   R ready new   S starting new   F failed new   r ready old   u unready old   d draining old   D draining new
 *   w ready new, but not for long enough   C completed new   X ready new, to be restarted */
#include "control/rollout/rollout.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define GIB (UINT64_C(1) << 30)
#define NOW 10000000

static const char *const amd64[] = {"amd64"};
static const char *const names[] = {"i00", "i01", "i02", "i03", "i04", "i05", "i06", "i07", "i08", "i09", "i10", "i11"};

struct scene {
    struct mt_place_node nodes[2];
    struct mt_roll_instance in[12];
    struct mt_roll_attempt attempts[8];
    struct mt_roll_group g;
    struct mt_place_quota quota;
    struct mt_roll_result r;
    enum mt_reason why; /* of the first action */
    struct mt_arena arena;
    char acts[200];
};

static void draw(struct scene *s, const char *letters, uint32_t desired)
{
    *s = (struct scene){.quota = MT_PLACE_QUOTA_NONE};
    for (size_t i = 0; i < 2; i++)
        s->nodes[i] = (struct mt_place_node){.node_id = i ? "b" : "a", .arch = "amd64", .admin = MT_NODE_ACTIVE,
            .health = MT_NODE_READY, .alloc_memory_bytes = 64 * GIB, .alloc_cpu_millis = 64000, .ceiling_cpu_millis = 128000,
            .alloc_disk_bytes = 1000 * GIB, .overhead_bytes = 64 << 20};
    const struct mt_place_size size = {100, GIB, GIB};
    for (size_t i = 0; letters[i]; i++) {
        char c = letters[i];
        bool new = strchr("RSFDwCX", c) != NULL, ready = strchr("RrwX", c) != NULL;
        s->in[i] = (struct mt_roll_instance){.instance_id = names[i], .node = 0, .spec_hash = new ? "new" : "old", .size = size,
            .archs = amd64, .n_archs = 1, .ever_ready = strchr("RrwudX", c) != NULL, .restart_requested = c == 'X', .retry_pending = true,
            .status = ready ? MT_STATUS_READY : c == 'S' ? MT_STATUS_STARTING : c == 'F' ? MT_STATUS_FAILED
                    : c == 'u' ? MT_STATUS_UNREADY : c == 'C' ? MT_STATUS_STOPPED : MT_STATUS_DRAINING,
            .desired = c == 'd' || c == 'D' ? MT_DESIRED_DRAINING : MT_DESIRED_RUNNING,
            .stop_reason = c == 'd' || c == 'D' ? MT_REASON_REPLACED : MT_REASON_NONE,
            .reason_code = c == 'C' ? "completed" : c == 'F' ? "workload_exited" : NULL,
            .ready_since_ms = c == 'w' ? NOW - MT_ROLL_MIN_READY_MS + 1 : ready ? NOW - MT_ROLL_MIN_READY_MS : 0,
            .changed_at_ms = NOW - 1000, .drain_delay_seconds = 5, .stop_grace_seconds = 10};
        s->g.n_instances++;
        if (c != 'C')
            mt_place_charge(&s->nodes[0], &size);
    }
    s->nodes[0].booting = 0;
    s->g.target_spec = "new";
    s->g.desired = desired;
    s->g.startup_timeout_seconds = 130;
    s->g.request = (struct mt_place_request){.size = size, .archs = amd64, .n_archs = 1};
    s->g.roll_reason = MT_REASON_REPLACED;
    s->g.may_allocate = true;
    s->g.stable_spec = "old";
    s->g.instances = s->in;
    s->g.attempts = s->attempts;
}

/* Run the step; the actions become "+a" (allocate on a), "-i00" (drain), "!i00" (stop). */
static const char *step(struct scene *s)
{
    struct mt_err err;
    size_t n = 0;

    mt_arena_init(&s->arena, 1U << 20);
    s->acts[0] = '\0';
    if (mt_roll_step(&s->g, s->nodes, 2, &s->quota, NOW, &s->arena, &s->r, &err) < 0)
        return "error";
    s->why = s->r.n_actions ? s->r.actions[0].reason : MT_REASON_NONE;
    for (size_t i = 0; i < s->r.n_actions && n < sizeof s->acts; i++) {
        const struct mt_roll_action *a = &s->r.actions[i];
        n += (size_t)snprintf(s->acts + n, sizeof s->acts - n, "%s%c%s", i ? " " : "", "+-!"[a->type],
                              a->type == MT_ROLL_ALLOCATE ? s->nodes[a->node].node_id : a->instance->instance_id);
    }
    s->r.actions = NULL;
    mt_arena_done(&s->arena);
    return s->acts;
}

static void stateless_steps(void **state)
{
    (void)state;
    static const struct {
        const char *there;
        uint32_t desired;
        const char *acts;
        bool satisfied;
    } rows[] = {
        {"", 3, "+a +b +a", false},          /* first deploy: all at once (total stays within desired + surge) */
        {"rrr", 3, "+b", false},             /* surge 1 */
        {"rrrS", 3, "", false},              /* wait for it */
        {"rrrw", 3, "", false},              /* ready, not yet for 5 s */
        {"rrrR", 3, "-i00", false},          /* available: the oldest old one goes */
        {"drrR", 3, "+b", false},            /* draining does not count */
        {"RRR", 3, "", true},                /* done */
        {"RXR", 3, "+b", false},             /* one is to be restarted: its replacement first */
        {"RXRS", 3, "", false},
        {"RXRw", 3, "", false},
        {"RXRR", 3, "-i01", false},          /* then that one and no other */
        {"XX", 2, "+b", false},              /* one at a time within the surge */
        {"RRRr", 3, "-i03", false},
        {"RRw", 3, "", false},              /* all there, the last not for long enough */
        {"ruR", 2, "-i01", false},           /* the one without traffic first */
        {"uuu", 3, "+b", false},             /* a broken old version cannot block its fix */
        {"uuuR", 3, "-i00", false},
        {"uuuS", 3, "", false},              /* what is not available yet makes no room, not even for broken ones */
        {"RwwR", 2, "-i01 -i02", false},     /* scaled down: those that are needed now stay */
        {"uu", 1, "-i00", false},            /* no room for surge, but one is to spare */
        {"rrrr", 2, "-i00 -i01", false},     /* scaled down and rolled at once: never below 2 */
        {"RRRRR", 3, "-i00 -i01", false},    /* extras: oldest */
        {"RFRSR", 3, "-i01 -i03", false},    /* extras: failed, then not ready */
        {"rrrrrrrr", 8, "+b +b", false},     /* surge is a quarter */
        {"RR", 0, "-i00 -i01", false},
        {"dD", 0, "", true},
        {"", 0, "", true},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct scene s;
        draw(&s, rows[i].there, rows[i].desired);
        step(&s);
        if (!MT_STREQ(s.acts, rows[i].acts) || s.r.satisfied != rows[i].satisfied)
            print_error("'%s' of %u: '%s', expected '%s'\n", rows[i].there, rows[i].desired, s.acts, rows[i].acts);
        assert_string_equal(s.acts, rows[i].acts);
        assert_int_equal(s.r.satisfied, rows[i].satisfied);
        assert_int_equal(s.r.condition, MT_ROLL_OK);
    }
}

static void a_step_twice_is_the_same_step(void **state)
{
    (void)state;
    struct scene s, t;
    draw(&s, "rrruR", 4);
    draw(&t, "rrruR", 4);
    char first[200];
    (void)snprintf(first, sizeof first, "%s", step(&s));
    assert_string_equal(first, step(&t));
    assert_true(first[0]);
}

static void success_moves_the_stable_spec(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "RR", 2);
    step(&s);
    assert_true(s.r.satisfied && s.r.scheduling_changed);
    assert_string_equal(s.r.stable_spec, "new");
    s.g.stable_spec = s.g.recorded_target = "new";
    step(&s);
    assert_false(s.r.scheduling_changed);
}

static void time_alone_wakes(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rw", 1);
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.wake_at_ms, NOW + 1);
    draw(&s, "dR", 1);
    s.in[0].changed_at_ms = NOW - 45000 + 7;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.wake_at_ms, NOW + 7);
    s.in[0].changed_at_ms = NOW - 45000; /* 5 delay + 10 grace + 30 */
    assert_string_equal(step(&s), "!i00");
}

static void how_long_ready_is_ready_enough_may_be_said(void **state)
{
    (void)state;
    static const struct {
        uint32_t seconds;
        int64_t ready_for_ms;
        bool available;
    } rows[] = {{0, 4999, false}, {0, 5000, true}, {1, 999, false}, {1, 1000, true}, {30, 5000, false}, {30, 30000, true}};
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct scene s;
        draw(&s, "rR", 1);
        s.g.min_ready_seconds = rows[i].seconds;
        s.in[1].ready_since_ms = NOW - rows[i].ready_for_ms;
        assert_string_equal(step(&s), rows[i].available ? "-i00" : "");
        if (!rows[i].available)
            assert_int_equal(s.r.wake_at_ms, s.in[1].ready_since_ms + mt_roll_min_ready_ms(&s.g));
    }
}

static void attempts(struct scene *s, const char *code, size_t n)
{
    for (size_t i = 0; i < n; i++)
        s->attempts[i] = (struct mt_roll_attempt){10 + i, "new", NOW - 1000, code, "exit code 7"};
    s->g.n_attempts = n;
}

static void three_failed_attempts_hold_the_group(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rrFS", 2);
    attempts(&s, "workload_exited", 2);
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    attempts(&s, "workload_exited", 3);
    assert_string_equal(step(&s), "!i02 !i03"); /* new ones that never were ready stop; old ones stay */
    assert_int_equal(s.r.condition, MT_ROLL_HELD);
    assert_string_equal(s.r.held_reason, "workload_exited");
    assert_string_equal(s.r.detail, "3 attempts ended before the instance was ready: workload_exited (exit code 7)");
    assert_true(s.r.scheduling_changed);

    static const char *const innocent[] = {"boot_timeout", "vm_lost", "replaced", "scaled_down", "completed", "", NULL};
    for (size_t i = 0; i < MT_ARRAY_LEN(innocent); i++) {
        attempts(&s, innocent[i], 5);
        step(&s);
        assert_int_equal(s.r.condition, MT_ROLL_OK);
    }
    attempts(&s, "reason_of_a_newer_agent", 3);
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_HELD);
    attempts(&s, "workload_exited", 3);
    s.attempts[0].ended_at_ms = NOW - mt_roll_attempt_window_ms(130) - 1; /* outside the window */
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    attempts(&s, "workload_exited", 3);
    s.attempts[1].spec_hash = "older";
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    attempts(&s, "workload_exited", 3);
    s.g.command_event = 10; /* a command after the first attempt */
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    assert_int_equal(mt_roll_attempt_window_ms(130), 600000);
    assert_int_equal(mt_roll_attempt_window_ms(300), 1200000);
}

static void a_hold_lasts_until_a_command(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rr", 2);
    s.g.condition = MT_ROLL_HELD;
    s.g.recorded_target = "new";
    s.g.held_event = 20;
    s.g.command_event = 10;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.condition, MT_ROLL_HELD);
    assert_false(s.r.scheduling_changed);
    s.g.command_event = 21;
    assert_string_equal(step(&s), "+b");
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    assert_true(s.r.scheduling_changed);
}

static void an_operators_hold_is_no_failed_attempt(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rS", 1); /* an instance of the old release serves, one of the new one starts */
    s.g.condition = MT_ROLL_HELD;
    s.g.recorded_target = "new";
    s.g.recorded_detail = MT_ROLL_OPERATOR_HOLD "look at it";
    s.g.held_event = 20;
    s.g.command_event = 10;
    assert_string_equal(step(&s), "!i01");
    assert_int_equal(s.r.condition, MT_ROLL_HELD);
    assert_true(s.r.held_by_operator);
    assert_string_equal(s.r.detail, MT_ROLL_OPERATOR_HOLD "look at it");
    assert_false(s.r.scheduling_changed);
    assert_int_equal(s.why, MT_REASON_TERMINATED_BY_OPERATOR);
    s.g.recorded_detail = "3 attempts ended before the instance was ready: workload_exited";
    step(&s);
    assert_false(s.r.held_by_operator);
    assert_int_equal(s.why, MT_REASON_ATTEMPT_FAILED);
    s.g.recorded_detail = MT_ROLL_OPERATOR_HOLD "look at it"; /* a deploy of the tenant ends it, as it ends every hold */
    s.g.command_event = 21;
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
}

static void a_final_failure_holds_at_once(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rF", 1);
    s.g.restart_policy = MT_RESTART_NEVER;
    s.in[1].retry_pending = false;
    assert_string_equal(step(&s), "!i01");
    assert_int_equal(s.r.condition, MT_ROLL_HELD);
}

static void a_crash_loop_after_readiness_holds_at_once(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rFR", 2);
    s.in[1].ever_ready = true; /* a second of it, then it crashed */
    assert_string_equal(step(&s), "!i01"); /* the old one and what is ready of the new serve on */
    assert_int_equal(s.r.condition, MT_ROLL_HELD);
    assert_string_equal(s.r.held_reason, "workload_exited");
    assert_string_equal(s.r.detail, "i01 was ready once and crashes again and again: workload_exited");
    s.in[1].retry_pending = false;
    step(&s);
    assert_string_equal(s.r.detail, "i01 was ready once and ended for good: workload_exited");
    s.in[1].retry_pending = true;
    s.in[1].reason_code = "boot_timeout"; /* the platform's */
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    s.in[1].reason_code = NULL; /* an agent that does not say what ended it */
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    s.in[1].reason_code = "workload_exited";
    s.g.stable_spec = "new"; /* rolled out long ago: what crashes now is no rollout's fault */
    step(&s);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
}

static void a_job_that_completed_is_satisfied(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "C", 1);
    s.g.restart_policy = MT_RESTART_NEVER;
    assert_string_equal(step(&s), "");
    assert_true(s.r.satisfied);
    s.g.restart_policy = MT_RESTART_ALWAYS; /* then it must not have stopped: it is replaced */
    assert_string_equal(step(&s), "!i00 +a");
}

static void drain_first_needs_a_place_that_is_large_enough(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "rr", 2);
    s.nodes[0].alloc_memory_bytes = s.nodes[0].used_memory_bytes;
    s.nodes[1].admin = MT_NODE_CORDONED;
    assert_string_equal(step(&s), "-i00");
    assert_true(s.r.surge_unavailable);
    assert_int_equal(s.r.reason, MT_REASON_SURGE_UNAVAILABLE);
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    draw(&s, "dr", 2); /* one at a time */
    s.nodes[0].alloc_memory_bytes = s.nodes[0].used_memory_bytes;
    s.nodes[1].admin = MT_NODE_CORDONED;
    assert_string_equal(step(&s), "");
    assert_true(s.r.surge_unavailable);
    draw(&s, "rr", 2); /* the new one is larger than what would come free */
    s.nodes[0].alloc_memory_bytes = s.nodes[0].used_memory_bytes;
    s.nodes[1].admin = MT_NODE_CORDONED;
    s.g.request.size.memory_bytes = 2 * GIB;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.condition, MT_ROLL_BLOCKED);
    assert_int_equal(s.r.reason, MT_REASON_NO_CAPACITY_MEMORY);
    draw(&s, "rr", 2); /* not a question of room */
    s.g.request.gates.secrets_missing = true;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.reason, MT_REASON_SECRETS_MISSING);
}

static void a_gone_node_is_left_behind(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "RR", 2);
    s.g.stable_spec = "new";
    s.nodes[0].health = MT_NODE_OFFLINE;
    assert_string_equal(step(&s), "!i00 !i01 +b +b");
    draw(&s, "RR", 2);
    s.nodes[0].health = MT_NODE_SUSPECT; /* nothing is evicted */
    assert_string_equal(step(&s), "");
    draw(&s, "RR", 2);
    s.nodes[0].admin = MT_NODE_DISABLED;
    assert_string_equal(step(&s), "!i00 !i01 +b +b");
    draw(&s, "RRR", 3);
    s.nodes[0].admin = MT_NODE_DRAINING; /* replaced first */
    assert_string_equal(step(&s), "+b");
    draw(&s, "RRR", 3);
    s.g.may_allocate = false;
    s.nodes[0].health = MT_NODE_OFFLINE;
    assert_string_equal(step(&s), "!i00 !i01 !i02");
}

static void held_groups_replace_what_is_lost_from_its_own_spec(void **state)
{
    (void)state;
    struct scene s;
    struct mt_err err;
    draw(&s, "rr", 2);
    s.in[1].node = 1;
    s.g.condition = MT_ROLL_HELD;
    s.g.recorded_target = "new";
    s.g.held_event = 20;
    s.nodes[0].health = MT_NODE_OFFLINE;
    mt_arena_init(&s.arena, 1U << 20);
    assert_int_equal(mt_roll_step(&s.g, s.nodes, 2, &s.quota, NOW, &s.arena, &s.r, &err), 0);
    assert_int_equal(s.r.n_actions, 2);
    assert_int_equal(s.r.actions[0].type, MT_ROLL_STOP);
    assert_int_equal(s.r.actions[0].reason, MT_REASON_NODE_OFFLINE);
    assert_int_equal(s.r.actions[1].type, MT_ROLL_ALLOCATE);
    assert_string_equal(s.r.actions[1].copy_of->spec_hash, "old");
    mt_arena_done(&s.arena);
}

/* What one step makes the next one must not stop: two would follow each other for as long as the hold lasts. */
static void a_held_group_does_not_make_more_of_what_is_held(void **state)
{
    (void)state;
    static const struct {
        const char *there, *stable;
        uint32_t desired;
        const char *acts;
    } rows[] = {
        {"R", "old", 2, ""},       /* one of the release was ready, others failed: the gap stays */
        {"RS", "old", 2, "!i01"},
        {"Rr", "old", 3, "+b"},    /* what is made is of the release that serves */
        {"RSr", "old", 3, "!i01 +b"},
        {"R", "new", 2, "+b"},     /* held without a rollout: the group's own release is made, */
        {"RS", "new", 2, ""},      /* and stays until it is ready */
        {"RF", "new", 2, ""},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct scene s;
        draw(&s, rows[i].there, rows[i].desired);
        s.g.stable_spec = rows[i].stable;
        s.g.condition = MT_ROLL_HELD;
        s.g.recorded_target = "new";
        s.g.held_event = 20;
        s.g.command_event = 10;
        assert_string_equal(step(&s), rows[i].acts);
        assert_int_equal(s.r.condition, MT_ROLL_HELD);
    }
}

static void volumes_stop_before_they_start(void **state)
{
    (void)state;
    static const struct mt_place_volume free_volume[] = {{"vol_1", "a", false}}, held_volume[] = {{"vol_1", "a", true}};
    static const struct {
        const char *there, *acts;
        bool used, big;
        enum mt_reason reason;
    } rows[] = {
        {"", "+a", false, false, MT_REASON_NONE},
        {"r", "-i00", true, false, MT_REASON_NONE},
        {"d", "", true, false, MT_REASON_NONE},
        {"R", "", true, false, MT_REASON_NONE},
        {"r", "", true, true, MT_REASON_NO_CAPACITY_MEMORY}, /* the old one stays if nothing could follow */
        {"RR", "-i01", true, false, MT_REASON_NONE},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct scene s;
        draw(&s, rows[i].there, 1);
        s.g.stateful = true;
        s.g.request.volumes = rows[i].used ? held_volume : free_volume;
        s.g.request.n_volumes = 1;
        if (rows[i].big)
            s.g.request.size.memory_bytes = 100 * GIB;
        step(&s);
        if (!MT_STREQ(s.acts, rows[i].acts))
            print_error("row %zu: '%s'\n", i, s.acts);
        assert_string_equal(s.acts, rows[i].acts);
        assert_int_equal(s.r.reason, rows[i].reason);
    }
    struct scene s;
    for (int stops = 0; stops < 2; stops++) { /* a drain leaves it where it is, or stops it when the operator says so */
        draw(&s, "R", 1);
        s.g.stateful = true;
        s.g.request.volumes = held_volume;
        s.g.request.n_volumes = 1;
        s.nodes[0].admin = MT_NODE_DRAINING;
        s.nodes[0].stops_stateful = stops;
        assert_string_equal(step(&s), stops ? "-i00" : "");
        assert_int_equal(s.why, stops ? MT_REASON_NODE_DRAINING : MT_REASON_NONE);
    }
    draw(&s, "", 1);
    s.g.stateful = true;
    s.g.request.volumes = free_volume;
    s.g.request.n_volumes = 1;
    s.nodes[0].admin = MT_NODE_DRAINING;
    s.nodes[0].stops_stateful = true;
    assert_string_equal(step(&s), ""); /* and nothing follows it before the node is back */
    assert_int_equal(s.r.reason, MT_REASON_VOLUME_HOME_NODE_OFFLINE);
    s.nodes[0].admin = MT_NODE_ACTIVE;
    assert_string_equal(step(&s), "+a");
    draw(&s, "R", 1);
    s.g.stateful = true;
    s.g.request.volumes = held_volume;
    s.g.request.n_volumes = 1;
    s.nodes[0].health = MT_NODE_OFFLINE;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.reason, MT_REASON_VOLUME_HOME_NODE_OFFLINE);
    s.g.desired = 2;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.reason, MT_REASON_VOLUME_CONSTRAINTS_INVALID);
}

static void outside_a_rollout_a_crashing_one_moves_but_not_for_ever(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "RF", 2);
    s.g.stable_spec = "new";
    s.in[1].consecutive_failures = 2;
    assert_string_equal(step(&s), "");
    s.in[1].consecutive_failures = 3;
    assert_string_equal(step(&s), "+b !i01");
    s.nodes[1].admin = MT_NODE_CORDONED; /* no other node: the agent goes on trying here */
    assert_string_equal(step(&s), "");
    s.nodes[1].admin = MT_NODE_ACTIVE;
    s.g.crash_replacements_10min = 3;
    s.g.last_crash_replacement_ms = NOW - 299000;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.reason, MT_REASON_RETRY_BACKOFF);
    assert_int_equal(s.r.wake_at_ms, NOW + 1000);
    assert_int_equal(s.r.retry_at_ms, NOW + 1000); /* what people are told */
    s.g.crash_limit_ends_ms = NOW + 400;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.retry_at_ms, NOW + 400);
    s.g.last_crash_replacement_ms = NOW - 300000;
    assert_string_equal(step(&s), "+b !i01");
}

static void surge_is_a_quarter_rounded_up(void **state)
{
    (void)state;
    static const uint32_t want[][2] = {{0, 1}, {1, 1}, {4, 1}, {5, 2}, {8, 2}, {9, 3}, {100, 25}};
    for (size_t i = 0; i < MT_ARRAY_LEN(want); i++)
        assert_int_equal(mt_roll_surge(want[i][0], false), want[i][1]);
    assert_int_equal(mt_roll_surge(1, true), 0);
}

static void a_suspended_group_drains_and_forgets_nothing(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "RRd", 2);
    s.g.stable_spec = s.g.recorded_target = "new";
    s.g.request.gates.org_suspended = true;
    assert_string_equal(step(&s), "-i00 -i01");
    assert_int_equal(s.r.condition, MT_ROLL_BLOCKED);
    assert_int_equal(s.r.reason, MT_REASON_ORG_SUSPENDED);
    assert_string_equal(s.r.stable_spec, "new");
    assert_false(s.r.satisfied);
    draw(&s, "", 2);
    s.g.stable_spec = s.g.recorded_target = "new";
    assert_string_equal(step(&s), "+a +b"); /* resumed */
}

/* Also while an operator holds the group, and whatever else is wanted of it: nothing may write to the volumes. */
static void a_group_whose_volumes_move_stands_still_and_comes_back(void **state)
{
    (void)state;
    struct scene s;
    for (int held = 0; held < 2; held++) {
        draw(&s, "R", 1);
        s.g.stateful = true;
        s.g.stable_spec = s.g.recorded_target = "new";
        s.g.condition = held ? MT_ROLL_HELD : MT_ROLL_OK;
        s.g.request.gates.volume_migrating = true;
        assert_string_equal(step(&s), "-i00");
        assert_int_equal(s.r.condition, MT_ROLL_BLOCKED);
        assert_int_equal(s.r.reason, MT_REASON_VOLUME_MIGRATING);
        assert_false(s.r.satisfied);
        draw(&s, "", 1);
        s.g.stateful = true;
        s.g.stable_spec = s.g.recorded_target = "new";
        s.g.request.gates.volume_migrating = true;
        assert_string_equal(step(&s), ""); /* nothing is started in its place */
        draw(&s, "", 1);
        s.g.stateful = true;
        s.g.stable_spec = s.g.recorded_target = "new";
        assert_string_equal(step(&s), "+a");
    }
}

static void an_evicted_image_is_drained_and_comes_back_when_it_may(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "RR", 2);
    s.g.stable_spec = s.g.recorded_target = "new";
    s.g.request.gates.release_blocked = true;
    assert_string_equal(step(&s), ""); /* blocked alone: what runs goes on */
    draw(&s, "RR", 2);
    s.g.stable_spec = s.g.recorded_target = "new";
    s.g.request.gates.release_blocked = s.g.request.gates.release_evicted = true;
    assert_string_equal(step(&s), "-i00 -i01");
    assert_int_equal(s.r.condition, MT_ROLL_BLOCKED);
    assert_int_equal(s.r.reason, MT_REASON_RELEASE_BLOCKED);
}

static void a_restart_of_one_with_volumes_drains_it_first(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "X", 1);
    s.g.stateful = true;
    assert_string_equal(step(&s), "-i00");
    assert_int_equal(s.r.n_actions, 1);
}

static void a_group_that_wants_nothing_is_written_about_once(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "", 0);
    s.g.target_spec = NULL;
    s.g.stable_spec = s.g.recorded_target = "old";
    assert_string_equal(step(&s), "");
    assert_false(s.r.scheduling_changed);
}

/* What holds it up belongs to somebody else, whose events are not its own: who calls is told to look again when instances of others change. */
static void what_others_hold_is_waited_for(void **state)
{
    (void)state;
    struct scene s;
    draw(&s, "RRR", 3);
    step(&s);
    assert_false(s.r.waits_for_others); /* done */
    draw(&s, "RR", 3);
    assert_string_equal(step(&s), "+b");
    assert_false(s.r.waits_for_others); /* it got what it wanted */
    draw(&s, "RR", 3);
    s.nodes[0].booting = s.nodes[1].booting = MT_PLACE_BOOTS_PER_NODE;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.condition, MT_ROLL_OK);
    assert_true(s.r.waits_for_others); /* for a boot slot */
    draw(&s, "RR", 3);
    s.nodes[0].used_memory_bytes = s.nodes[1].used_memory_bytes = 64 * GIB;
    assert_string_equal(step(&s), "");
    assert_int_equal(s.r.condition, MT_ROLL_BLOCKED);
    assert_true(s.r.waits_for_others); /* for memory */
    draw(&s, "RR", 1);
    s.in[1].node = 1;
    s.nodes[0].admin = MT_NODE_DRAINING;
    s.nodes[0].instances = 10;
    s.nodes[0].draining = 2;
    s.g.desired = 1;
    assert_string_equal(step(&s), "");
    assert_true(s.r.waits_for_others); /* for its turn: a fifth of the node drains already */
    s.nodes[0].draining = 1;
    assert_string_equal(step(&s), "-i00");
    assert_false(s.r.waits_for_others);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stateless_steps),
        cmocka_unit_test(a_step_twice_is_the_same_step),
        cmocka_unit_test(success_moves_the_stable_spec),
        cmocka_unit_test(time_alone_wakes),
        cmocka_unit_test(how_long_ready_is_ready_enough_may_be_said),
        cmocka_unit_test(three_failed_attempts_hold_the_group),
        cmocka_unit_test(a_hold_lasts_until_a_command),
        cmocka_unit_test(an_operators_hold_is_no_failed_attempt),
        cmocka_unit_test(a_final_failure_holds_at_once),
        cmocka_unit_test(a_crash_loop_after_readiness_holds_at_once),
        cmocka_unit_test(a_job_that_completed_is_satisfied),
        cmocka_unit_test(drain_first_needs_a_place_that_is_large_enough),
        cmocka_unit_test(a_gone_node_is_left_behind),
        cmocka_unit_test(held_groups_replace_what_is_lost_from_its_own_spec),
        cmocka_unit_test(a_held_group_does_not_make_more_of_what_is_held),
        cmocka_unit_test(volumes_stop_before_they_start),
        cmocka_unit_test(outside_a_rollout_a_crashing_one_moves_but_not_for_ever),
        cmocka_unit_test(surge_is_a_quarter_rounded_up),
        cmocka_unit_test(a_suspended_group_drains_and_forgets_nothing),
        cmocka_unit_test(a_group_whose_volumes_move_stands_still_and_comes_back),
        cmocka_unit_test(an_evicted_image_is_drained_and_comes_back_when_it_may),
        cmocka_unit_test(a_restart_of_one_with_volumes_drains_it_first),
        cmocka_unit_test(a_group_that_wants_nothing_is_written_about_once),
        cmocka_unit_test(what_others_hold_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
