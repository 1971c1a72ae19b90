/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rollout/deploy.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct mt_roll_result done, rolling, blocked, held, surge;

static int setup(void **state)
{
    (void)state;
    done = (struct mt_roll_result){.satisfied = true};
    rolling = (struct mt_roll_result){0};
    blocked = (struct mt_roll_result){.condition = MT_ROLL_BLOCKED, .reason = MT_REASON_NO_CAPACITY_MEMORY, .detail = "1 node: 1 memory"};
    held = (struct mt_roll_result){.condition = MT_ROLL_HELD, .held_reason = "workload_exited", .detail = "3 attempts ended"};
    surge = (struct mt_roll_result){.surge_unavailable = true, .reason = MT_REASON_SURGE_UNAVAILABLE};
    return 0;
}

static struct mt_deploy_decision run(enum mt_deploy_status status, const struct mt_roll_result *a, const struct mt_roll_result *b,
                                     int64_t age_ms, bool rollback)
{
    struct mt_deploy_group groups[2] = {{"web", a}, {"job", b}};
    struct mt_deploy d = {.status = status, .created_at_ms = 1000, .timeout_seconds = 900, .rollback_on_failure = rollback,
                          .has_previous = true, .groups = groups, .n_groups = 2};
    struct mt_deploy_decision out;

    mt_deploy_step(&d, 1000 + age_ms, &out);
    return out;
}

static void status_follows_the_groups(void **state)
{
    (void)state;
    static const struct {
        enum mt_deploy_status from;
        const struct mt_roll_result *a, *b;
        int64_t age_ms;
        bool changed;
        enum mt_deploy_status to;
        const char *failed, *message;
    } rows[] = {
        {MT_DEPLOY_QUEUED, &rolling, &done, 0, true, MT_DEPLOY_ROLLING, "", ""},
        {MT_DEPLOY_QUEUED, &done, &done, 0, true, MT_DEPLOY_SUCCEEDED, "", ""},
        {MT_DEPLOY_ROLLING, &rolling, &rolling, 899999, false, MT_DEPLOY_ROLLING, "", ""},
        {MT_DEPLOY_ROLLING, &rolling, &rolling, 900000, true, MT_DEPLOY_FAILED, "timeout", "not finished after 900 s"},
        {MT_DEPLOY_ROLLING, &done, &done, 900000, true, MT_DEPLOY_SUCCEEDED, "", ""},
        {MT_DEPLOY_ROLLING, &rolling, &blocked, 0, true, MT_DEPLOY_ROLLING, "", "process 'job': no_capacity_memory (1 node: 1 memory)"},
        {MT_DEPLOY_ROLLING, &blocked, &done, 900000, true, MT_DEPLOY_FAILED, "timeout", "no_capacity_memory"},
        {MT_DEPLOY_ROLLING, &done, &held, 0, true, MT_DEPLOY_FAILED, "workload_exited", "process 'job': 3 attempts ended"},
        {MT_DEPLOY_ROLLING, &surge, &done, 0, true, MT_DEPLOY_ROLLING, "", "surge_unavailable"},
        {MT_DEPLOY_SUCCEEDED, &held, &held, 0, false, MT_DEPLOY_SUCCEEDED, "", ""},
        {MT_DEPLOY_SUPERSEDED, &done, &done, 0, false, MT_DEPLOY_SUPERSEDED, "", ""},
        {MT_DEPLOY_FAILED, &done, &done, 0, false, MT_DEPLOY_FAILED, "", ""},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(rows); i++) {
        struct mt_deploy_decision d = run(rows[i].from, rows[i].a, rows[i].b, rows[i].age_ms, false);
        if (d.changed != rows[i].changed || d.status != rows[i].to)
            print_error("row %zu: %s '%s'\n", i, mt_deploy_status_name(d.status), d.message);
        assert_int_equal(d.changed, rows[i].changed);
        assert_int_equal(d.status, rows[i].to);
        assert_string_equal(d.failed_reason, rows[i].failed);
        assert_non_null(strstr(d.message, rows[i].message));
        assert_false(d.append_rollback);
    }
}

static void a_failure_rolls_back_once_and_only_to_something(void **state)
{
    (void)state;
    assert_true(run(MT_DEPLOY_ROLLING, &held, &done, 0, true).append_rollback);
    assert_true(run(MT_DEPLOY_ROLLING, &rolling, &done, 900000, true).append_rollback);
    assert_false(run(MT_DEPLOY_ROLLING, &rolling, &done, 0, true).append_rollback);
    struct mt_deploy_group g = {"web", &held};
    struct mt_deploy d = {.status = MT_DEPLOY_ROLLING, .timeout_seconds = 900, .rollback_on_failure = true, .groups = &g, .n_groups = 1};
    struct mt_deploy_decision out;
    mt_deploy_step(&d, 0, &out); /* no previous release: hold */
    assert_false(out.append_rollback);
    d.has_previous = d.is_rollback = true; /* a failed rollback never triggers another */
    mt_deploy_step(&d, 0, &out);
    assert_int_equal(out.status, MT_DEPLOY_FAILED);
    assert_false(out.append_rollback);
}

static void timeout_has_its_bounds(void **state)
{
    (void)state;
    assert_int_equal(mt_deploy_timeout_seconds(130), 900);
    assert_int_equal(mt_deploy_timeout_seconds(500), 1000);
    assert_int_equal(mt_deploy_timeout_seconds(4000), 3600);
}

static void words_and_states_match(void **state)
{
    (void)state;
    for (unsigned i = 0; i < MT_DEPLOY_STATUS_MAX; i++) {
        enum mt_deploy_status back;
        assert_true(mt_deploy_status_parse(mt_deploy_status_name((enum mt_deploy_status)i), &back));
        assert_int_equal(back, i);
    }
    enum mt_deploy_status ignored;
    assert_false(mt_deploy_status_parse("done", &ignored));
    assert_false(mt_deploy_status_parse(NULL, &ignored));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_follows_the_groups),
        cmocka_unit_test(a_failure_rolls_back_once_and_only_to_something),
        cmocka_unit_test(timeout_has_its_bounds),
        cmocka_unit_test(words_and_states_match),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
