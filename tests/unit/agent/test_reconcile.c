/* SPDX-License-Identifier: Apache-2.0 */
/* The table of runtime.md §3, cell by cell, and the rules on plans. */
#include "agent/reconcile.h"
#include "agent/instance/steps.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SEC 1000000000LL

/* every cell of the specification's table, by phase so that the row mapping is tested with it */
static const struct {
    enum mt_phase phase;
    enum mt_desired want;
    enum mt_action act;
} cells[] = {
    {MT_PH_NONE, MT_WANT_SAME, MT_ACT_PREPARE},       {MT_PH_NONE, MT_WANT_OTHER, MT_ACT_PREPARE},
    {MT_PH_NONE, MT_WANT_DRAINING, MT_ACT_SETTLE},    {MT_PH_NONE, MT_WANT_STOPPED, MT_ACT_SETTLE},
    {MT_PH_PREPARING, MT_WANT_SAME, MT_ACT_NONE},     {MT_PH_PREPARING, MT_WANT_OTHER, MT_ACT_CANCEL},
    {MT_PH_PREPARING, MT_WANT_DRAINING, MT_ACT_CANCEL}, {MT_PH_PREPARING, MT_WANT_STOPPED, MT_ACT_CANCEL},
    {MT_PH_BOOTING, MT_WANT_SAME, MT_ACT_NONE},       {MT_PH_BOOTING, MT_WANT_OTHER, MT_ACT_STOP},
    {MT_PH_BOOTING, MT_WANT_DRAINING, MT_ACT_STOP},   {MT_PH_BOOTING, MT_WANT_STOPPED, MT_ACT_STOP},
    {MT_PH_STARTING, MT_WANT_SAME, MT_ACT_NONE},      {MT_PH_STARTING, MT_WANT_OTHER, MT_ACT_DRAIN},
    {MT_PH_STARTING, MT_WANT_DRAINING, MT_ACT_DRAIN}, {MT_PH_STARTING, MT_WANT_STOPPED, MT_ACT_STOP},
    {MT_PH_READY, MT_WANT_SAME, MT_ACT_NONE},         {MT_PH_READY, MT_WANT_OTHER, MT_ACT_DRAIN},
    {MT_PH_READY, MT_WANT_DRAINING, MT_ACT_DRAIN},    {MT_PH_READY, MT_WANT_STOPPED, MT_ACT_STOP},
    {MT_PH_UNREADY, MT_WANT_SAME, MT_ACT_NONE},       {MT_PH_UNREADY, MT_WANT_OTHER, MT_ACT_DRAIN},
    {MT_PH_UNREADY, MT_WANT_DRAINING, MT_ACT_DRAIN},  {MT_PH_UNREADY, MT_WANT_STOPPED, MT_ACT_STOP},
    {MT_PH_DRAINING, MT_WANT_SAME, MT_ACT_NONE},      {MT_PH_DRAINING, MT_WANT_OTHER, MT_ACT_NONE},
    {MT_PH_DRAINING, MT_WANT_DRAINING, MT_ACT_NONE},  {MT_PH_DRAINING, MT_WANT_STOPPED, MT_ACT_SKIP_DELAY},
    {MT_PH_STOPPING, MT_WANT_SAME, MT_ACT_NONE},      {MT_PH_STOPPING, MT_WANT_STOPPED, MT_ACT_NONE},
    {MT_PH_TEARDOWN, MT_WANT_SAME, MT_ACT_NONE},      {MT_PH_TEARDOWN, MT_WANT_STOPPED, MT_ACT_NONE},
    {MT_PH_BACKOFF, MT_WANT_SAME, MT_ACT_PREPARE},    {MT_PH_BACKOFF, MT_WANT_OTHER, MT_ACT_CLEAR},
    {MT_PH_BACKOFF, MT_WANT_DRAINING, MT_ACT_SETTLE}, {MT_PH_BACKOFF, MT_WANT_STOPPED, MT_ACT_SETTLE},
    {MT_PH_STOPPED, MT_WANT_SAME, MT_ACT_NONE},       {MT_PH_STOPPED, MT_WANT_OTHER, MT_ACT_CLEAR},
    {MT_PH_STOPPED, MT_WANT_STOPPED, MT_ACT_SETTLE},  {MT_PH_FAILED, MT_WANT_SAME, MT_ACT_NONE},
    {MT_PH_FAILED, MT_WANT_OTHER, MT_ACT_CLEAR},      {MT_PH_FAILED, MT_WANT_DRAINING, MT_ACT_SETTLE},
    {MT_PH_FAILED, MT_WANT_STOPPED, MT_ACT_SETTLE},
};

static void every_cell_of_the_table(void **s)
{
    (void)s;
    for (size_t i = 0; i < sizeof cells / sizeof cells[0]; i++) {
        struct mt_reconcile_in in = {.phase = cells[i].phase, .want = cells[i].want, .now_ns = 100 * SEC,
                                     .drain_until_ns = 200 * SEC, .drain_delay_seconds = 5};
        enum mt_action got = mt_reconcile(&in);
        if (got != cells[i].act)
            fail_msg("%s, column %d: %s, not %s", mt_phase_name(cells[i].phase), (int)cells[i].want, mt_action_name(got),
                     mt_action_name(cells[i].act));
        assert_int_equal(mt_reconcile(&in), got); /* asking twice is harmless */
    }
}

static void waiting_for_the_retry_is_no_action(void **s)
{
    (void)s;
    struct mt_reconcile_in in = {.phase = MT_PH_BACKOFF, .want = MT_WANT_SAME, .now_ns = 10 * SEC, .next_retry_ns = 11 * SEC};
    assert_int_equal(mt_reconcile(&in), MT_ACT_NONE);
    in.now_ns = 11 * SEC;
    assert_int_equal(mt_reconcile(&in), MT_ACT_PREPARE);
    in.now_ns = 0;
    in.want = MT_WANT_OTHER; /* a new spec does not wait for the old one's penalty */
    assert_int_equal(mt_reconcile(&in), MT_ACT_CLEAR);
}

static void drain_delay_ends_by_time_or_by_a_zero_delay(void **s)
{
    (void)s;
    struct mt_reconcile_in in = {.phase = MT_PH_DRAINING, .want = MT_WANT_DRAINING, .now_ns = SEC, .drain_until_ns = 6 * SEC,
                                 .drain_delay_seconds = 5};
    assert_int_equal(mt_reconcile(&in), MT_ACT_NONE);
    in.drain_delay_seconds = 0; /* every edge has acknowledged */
    assert_int_equal(mt_reconcile(&in), MT_ACT_SKIP_DELAY);
    in.drain_delay_seconds = 5;
    in.now_ns = 6 * SEC;
    assert_int_equal(mt_reconcile(&in), MT_ACT_SKIP_DELAY);
    in.want = MT_WANT_SAME; /* draining never reverts */
    in.now_ns = SEC;
    assert_int_equal(mt_reconcile(&in), MT_ACT_NONE);
}

static void actions_are_moves_the_phase_table_allows(void **s)
{
    (void)s;
    for (size_t i = 0; i < sizeof cells / sizeof cells[0]; i++) {
        enum mt_phase p = cells[i].phase;
        switch (cells[i].act) {
        case MT_ACT_PREPARE:
            assert_true(p == MT_PH_BACKOFF ? mt_phase_may(p, MT_PH_NONE) : mt_phase_may(p, MT_PH_PREPARING));
            break;
        case MT_ACT_CANCEL:
            assert_true(mt_phase_may(p, MT_PH_TEARDOWN));
            break;
        case MT_ACT_STOP:
        case MT_ACT_SKIP_DELAY:
            assert_true(mt_phase_may(p, MT_PH_STOPPING));
            break;
        case MT_ACT_DRAIN:
            assert_true(mt_phase_may(p, MT_PH_DRAINING));
            break;
        case MT_ACT_CLEAR:
            assert_true(mt_phase_may(p, MT_PH_NONE));
            break;
        case MT_ACT_SETTLE:
            assert_true(p == MT_PH_STOPPED || mt_phase_may(p, MT_PH_STOPPED));
            break;
        case MT_ACT_NONE:
        case MT_ACT_MAX:
            break;
        }
    }
}

static void newer_plans_win_and_older_ones_do_not(void **s)
{
    (void)s;
    struct mt_plan_pos have = {2, 10, "a"};
    assert_int_equal(mt_plan_verdict(NULL, &have), MT_PLAN_APPLY);
    assert_int_equal(mt_plan_verdict(&have, &(struct mt_plan_pos){2, 11, "b"}), MT_PLAN_APPLY);
    assert_int_equal(mt_plan_verdict(&have, &(struct mt_plan_pos){2, 9, "b"}), MT_PLAN_STALE);
    assert_int_equal(mt_plan_verdict(&have, &(struct mt_plan_pos){1, 99, "b"}), MT_PLAN_STALE);
    assert_int_equal(mt_plan_verdict(&have, &(struct mt_plan_pos){3, 1, "b"}), MT_PLAN_APPLY); /* restored from backup */
    assert_int_equal(mt_plan_verdict(&have, &(struct mt_plan_pos){2, 10, "a"}), MT_PLAN_SAME);
    assert_int_equal(mt_plan_verdict(&have, &(struct mt_plan_pos){2, 10, "c"}), MT_PLAN_APPLY);
}

static void absence_needs_two_acceptances_ten_seconds_apart(void **s)
{
    (void)s;
    int64_t since = 0;
    assert_false(mt_absence_seen(&since, false, false, 100 * SEC));
    assert_false(mt_absence_seen(&since, false, false, 109 * SEC));
    assert_true(mt_absence_seen(&since, false, false, 110 * SEC)); /* also by a 304 */
    assert_false(mt_absence_seen(&since, true, false, 111 * SEC)); /* named again: all forgotten */
    assert_int_equal(since, 0);
    assert_false(mt_absence_seen(&since, false, false, 112 * SEC));
    assert_false(mt_absence_seen(&since, false, true, 200 * SEC)); /* recovery drains nothing */
    assert_false(mt_absence_seen(&since, false, false, 201 * SEC)); /* and the count starts over behind it */
    assert_false(mt_absence_seen(&since, false, false, 210 * SEC));
    assert_true(mt_absence_seen(&since, false, false, 211 * SEC));
}

static void an_empty_plan_needs_permission_when_much_runs(void **s)
{
    (void)s;
    assert_true(mt_plan_empty_ok(0, 4, false));
    assert_false(mt_plan_empty_ok(0, 5, false));
    assert_true(mt_plan_empty_ok(0, 5, true));
    assert_true(mt_plan_empty_ok(1, 50, false));
}

static void kill_points_have_names_of_their_own(void **s)
{
    (void)s;
    assert_int_equal(mt_kill_count(), 4 * MT_STEP_MAX + MT_LIFE_MAX + MT_KILL_VOLUME_MAX);
    for (size_t i = 0; i < mt_kill_count(); i++) {
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(mt_kill_name(i), mt_kill_name(k));
        assert_true(mt_kill_init(mt_kill_name(i)));
    }
    assert_false(mt_kill_init("prepare.nothing.done"));
    assert_true(mt_kill_init(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_cell_of_the_table),
        cmocka_unit_test(waiting_for_the_retry_is_no_action),
        cmocka_unit_test(drain_delay_ends_by_time_or_by_a_zero_delay),
        cmocka_unit_test(actions_are_moves_the_phase_table_allows),
        cmocka_unit_test(newer_plans_win_and_older_ones_do_not),
        cmocka_unit_test(absence_needs_two_acceptances_ten_seconds_apart),
        cmocka_unit_test(an_empty_plan_needs_permission_when_much_runs),
        cmocka_unit_test(kill_points_have_names_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
