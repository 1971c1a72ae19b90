/* SPDX-License-Identifier: Apache-2.0 */
/* Which environments a pass steps, and that nothing is stepped without a cause. */
#include "control/rollout/due.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define PAUSE 100

static void nothing_is_due_without_a_cause(void **state)
{
    (void)state;
    struct mt_due d;
    mt_due_init(&d, 1, 2);
    assert_false(mt_due_gather(&d, 1000, 1000, PAUSE));
    mt_due_said(&d, "env_a", INT64_MAX, false);
    mt_due_said(&d, "env_b", 2000, false);
    mt_due_said(&d, "env_c", INT64_MAX, true);
    assert_false(mt_due_gather(&d, 1999, 1000, PAUSE));
    assert_int_equal(mt_due_next_ms(&d), 2000);
    assert_int_equal(mt_due_room_ns(&d, 1000, PAUSE), INT64_MAX);
    mt_due_done(&d);
}

static void time_makes_one_due_once(void **state)
{
    (void)state;
    struct mt_due d;
    mt_due_init(&d, 1, 2);
    mt_due_said(&d, "env_b", 2000, false);
    mt_due_said(&d, "env_d", 3000, false);
    assert_true(mt_due_gather(&d, 2000, 0, PAUSE));
    assert_non_null(mt_map_get(&d.dirty, "env_b"));
    assert_null(mt_map_get(&d.dirty, "env_d"));
    mt_due_taken(&d);
    assert_false(mt_due_gather(&d, 2001, 0, PAUSE));
    assert_int_equal(mt_due_next_ms(&d), 3000);
    mt_due_said(&d, "env_d", INT64_MAX, false); /* stepped for another cause meanwhile */
    assert_false(mt_due_gather(&d, 5000, 0, PAUSE));
    assert_int_equal(mt_due_next_ms(&d), INT64_MAX);
    mt_due_done(&d);
}

static void who_waits_is_looked_at_when_instances_changed_and_not_too_often(void **state)
{
    (void)state;
    struct mt_due d;
    mt_due_init(&d, 1, 2);
    mt_due_said(&d, "env_c", INT64_MAX, true);
    mt_due_said(&d, "env_e", INT64_MAX, false);
    d.room_news = true;
    assert_true(mt_due_gather(&d, 0, 1000, PAUSE));
    assert_int_equal(d.dirty.count, 1);
    assert_non_null(mt_map_get(&d.dirty, "env_c"));
    mt_due_taken(&d);
    mt_due_said(&d, "env_c", INT64_MAX, true);
    assert_false(mt_due_gather(&d, 0, 1001, PAUSE));
    d.room_news = true;
    assert_int_equal(mt_due_room_ns(&d, 1040, PAUSE), 60);
    assert_false(mt_due_gather(&d, 0, 1040, PAUSE));
    assert_true(mt_due_gather(&d, 0, 1100, PAUSE));
    mt_due_done(&d);
}

static void a_pass_over_all_forgets_who_waits_and_not_the_times(void **state)
{
    (void)state;
    struct mt_due d;
    mt_due_init(&d, 1, 2);
    mt_due_said(&d, "env_gone", INT64_MAX, true);
    mt_due_said(&d, "env_b", 2000, false);
    mt_due_mark(&d, "env_b");
    mt_due_taken(&d);
    d.room_news = true;
    assert_true(mt_due_gather(&d, 0, PAUSE, PAUSE)); /* some were stepped, not this one: it waits still */
    mt_due_taken(&d);
    d.all = true;
    assert_true(mt_due_gather(&d, 0, 0, PAUSE));
    mt_due_taken(&d);
    d.room_news = true;
    assert_false(mt_due_gather(&d, 0, 1000, PAUSE));
    assert_true(mt_due_gather(&d, 2000, 1000, PAUSE));
    mt_due_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_due_without_a_cause),
        cmocka_unit_test(time_makes_one_due_once),
        cmocka_unit_test(who_waits_is_looked_at_when_instances_changed_and_not_too_often),
        cmocka_unit_test(a_pass_over_all_forgets_who_waits_and_not_the_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
