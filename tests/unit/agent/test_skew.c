/* SPDX-License-Identifier: Apache-2.0 */
/* The clock of a node against that of the control plane, as far as an answer proves it. */
#include "agent/skew.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define AT INT64_C(1700000000000)

static int64_t least(int64_t sent, int64_t got, int64_t there)
{
    int64_t ms = -1;
    assert_true(mt_skew_least(AT + sent, AT + got, AT + there, &ms));
    return ms;
}

static void only_what_is_outside_of_the_round_trip_counts(void **state)
{
    (void)state;
    assert_int_equal(least(0, 0, 0), 0);
    assert_int_equal(least(0, 10, 5), 0);
    assert_int_equal(least(0, 9000, 8000), 0);  /* a server that took eight seconds is no wrong clock */
    assert_int_equal(least(0, 9000, 1), 0);     /* nor is an answer that came late */
    assert_int_equal(least(0, 10, 600005), -599995); /* ours is behind by ten minutes */
    assert_int_equal(least(600000, 600010, 5), 599995); /* and ahead */
    assert_int_equal(least(0, 9000, 9001), -1);
    assert_int_equal(least(0, 9000, -1), 1);
}

static void a_clock_set_meanwhile_says_nothing(void **state)
{
    int64_t ms = 7;
    (void)state;
    assert_false(mt_skew_least(AT, AT - 1, AT, &ms));
    assert_false(mt_skew_least(-1, AT, AT, &ms));
    assert_false(mt_skew_least(AT, AT, -1, &ms));
    assert_int_equal(ms, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_what_is_outside_of_the_round_trip_counts), cmocka_unit_test(a_clock_set_meanwhile_says_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
