/* SPDX-License-Identifier: Apache-2.0 */
#include "control/volumes/home.h"

#include "base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define G (UINT64_C(1) << 30)
#define NODE(id, total, used, memory) \
    {.node_id = id, .eligible = true, .has_storage = true, .takes_new = true, .allocatable_bytes = (total) * G, .used_bytes = (used) * G, .free_memory_bytes = (memory)}

static void the_largest_rest_wins_then_memory_then_the_smallest_id(void **state)
{
    (void)state;
    const struct mt_volume_node rest[] = {NODE("a", 10, 5, 9), NODE("b", 20, 14, 1), NODE("c", 8, 3, 9)};
    const struct mt_volume_node memory[] = {NODE("a", 10, 5, 1), NODE("b", 5, 0, 2), NODE("c", 7, 2, 1)};
    const struct mt_volume_node id[] = {NODE("a", 5, 0, 1), NODE("b", 5, 0, 1)};

    assert_int_equal(mt_volume_home(rest, 3, G, NULL), 1);
    assert_int_equal(mt_volume_home(memory, 3, G, NULL), 1);
    assert_int_equal(mt_volume_home(id, 2, G, NULL), 0);
}

static void what_does_not_fit_is_never_chosen(void **state)
{
    (void)state;
    struct mt_volume_node n[] = {NODE("a", 10, 9, 1), NODE("b", 4, 5, 1)}; /* b: its pool became smaller */

    assert_int_equal(mt_volume_home(n, 2, G, NULL), 0);
    assert_int_equal(mt_volume_home(n, 2, G + 1, NULL), -1);
    assert_int_equal(mt_volume_home(n, 2, G, "b"), -1);
    assert_int_equal(mt_volume_home(n, 2, G, "x"), -1);
    assert_int_equal(mt_volume_home(n, 0, G, NULL), -1);
}

static void the_others_of_a_process_leave_one_candidate(void **state)
{
    (void)state;
    const struct mt_volume_node n[] = {NODE("a", 10, 0, 1), NODE("b", 20, 0, 1)};

    assert_int_equal(mt_volume_home(n, 2, G, "a"), 0);
    assert_int_equal(mt_volume_home(n, 2, 15 * G, "a"), -1);
}

static void each_reason_is_counted(void **state)
{
    (void)state;
    struct mt_volume_node n[] = {NODE("a", 10, 0, 1), NODE("b", 10, 0, 1), NODE("c", 10, 0, 1), NODE("d", 10, 10, 1)};
    char why[320];

    n[0].eligible = false;
    n[1].has_storage = false;
    n[2].takes_new = false;
    assert_int_equal(mt_volume_home(n, 4, G, NULL), -1);
    mt_volume_home_why(n, 4, G, NULL, why, sizeof why);
    assert_string_equal(why, "of 4 nodes 1 cannot take work now, 1 told of no storage for volumes, 1 have storage that is ill or nearly full,"
                             " 1 have less room than 1073741824 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_rest_wins_then_memory_then_the_smallest_id),
        cmocka_unit_test(what_does_not_fit_is_never_chosen),
        cmocka_unit_test(the_others_of_a_process_leave_one_candidate),
        cmocka_unit_test(each_reason_is_counted),
    };
    return cmocka_run_group_tests_name("volume home", tests, NULL, NULL);
}
