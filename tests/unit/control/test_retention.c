/* SPDX-License-Identifier: Apache-2.0 */
#include "control/volumes/retention.h"

#include "base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HOUR INT64_C(3600000)
#define NOW INT64_C(1800000000000)

/* "s" scheduled, "m" by hand, capital: damaged, "r": scheduled and being restored; newest first. The answer: "x" goes, "." stays. */
static void judge(const char *rows, uint32_t keep, const char *expected)
{
    struct mt_kept_backup b[32];
    char got[33] = "";
    size_t n = strlen(rows), gone = 0;
    for (size_t i = 0; i < n; i++)
        b[i] = (struct mt_kept_backup){.scheduled = strchr("sSr", rows[i]) != NULL, .damaged = strchr("SM", rows[i]) != NULL, .read = rows[i] == 'r'};
    size_t said = mt_retention(b, n, keep);
    for (size_t i = 0; i < n; i++) {
        got[i] = b[i].prune ? 'x' : '.';
        gone += b[i].prune;
    }
    assert_string_equal(got, expected);
    assert_int_equal(said, gone);
}

static void the_newest_good_scheduled_ones_stay(void **state)
{
    (void)state;
    judge("", 1, "");
    judge("s", 1, ".");
    judge("ss", 1, ".x");
    judge("ssss", 3, "...x");
    judge("sssss", 14, ".....");
}

static void what_was_asked_for_by_hand_stays(void **state)
{
    (void)state;
    judge("msmsm", 1, "...x.");
    judge("mmm", 1, "...");
}

static void a_damaged_one_counts_for_nothing_and_goes_with_the_rest(void **state)
{
    (void)state;
    judge("SSs", 1, "...");  /* none good is newer: nothing is given up */
    judge("SsSs", 1, "..xx");
    judge("SSSS", 1, "....");
    judge("sMS", 1, "..x");
}

static void one_that_is_restored_stays_for_now(void **state)
{
    (void)state;
    judge("srs", 1, "..x");
    judge("rs", 1, ".x");
}

/* Whatever is kept and lost: the newest good one of all stays, and asking again after it was done changes nothing. */
static void the_newest_good_one_always_stays_and_a_second_look_finds_nothing(void **state)
{
    (void)state;
    uint64_t seed = 88172645463325252ULL;
    for (int round = 0; round < 20000; round++) {
        struct mt_kept_backup b[24], again[24];
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        uint64_t bits = seed;
        size_t n = 1 + bits % 24, left = 0, good = n, good_scheduled = 0;
        uint32_t keep = 1 + (uint32_t)(bits >> 8) % 5;
        for (size_t i = 0; i < n; i++, bits = bits >> 1 | bits << 63)
            b[i] = (struct mt_kept_backup){.scheduled = (bits >> 20 & 3) != 0, .damaged = (bits >> 30 & 3) == 0, .read = (bits >> 40 & 7) == 0};
        (void)mt_retention(b, n, keep);
        for (size_t i = 0; i < n; i++) {
            good = good == n && !b[i].damaged ? i : good;
            assert_false(b[i].prune && (!b[i].scheduled || b[i].read));
            if (!b[i].prune)
                again[left++] = b[i];
            good_scheduled += !b[i].prune && b[i].scheduled && !b[i].damaged && !b[i].read;
        }
        assert_false(good < n && b[good].prune);
        assert_true(good_scheduled <= keep);
        assert_int_equal(mt_retention(again, left, keep), 0);
    }
}

static void the_store_is_collected_weekly_and_soon_after_something_was_given_up(void **state)
{
    (void)state;
    struct mt_collect_clock c = {.first_ms = NOW};
    assert_int_equal(mt_collect_due_ms(&c), NOW + 168 * HOUR);
    c.given_up_ms = NOW + 5 * HOUR;
    assert_int_equal(mt_collect_due_ms(&c), NOW + 5 * HOUR);
    c = (struct mt_collect_clock){.first_ms = NOW, .collected_ms = NOW + 10 * HOUR, .tried_ms = NOW + 10 * HOUR};
    assert_int_equal(mt_collect_due_ms(&c), NOW + 178 * HOUR);
    c.given_up_ms = NOW + 10 * HOUR + 60000;
    assert_int_equal(mt_collect_due_ms(&c), NOW + 11 * HOUR); /* not once for each that goes */
    c.given_up_ms = NOW + 20 * HOUR;
    assert_int_equal(mt_collect_due_ms(&c), NOW + 20 * HOUR);
    c.given_up_ms = NOW + 500 * HOUR;
    assert_int_equal(mt_collect_due_ms(&c), NOW + 178 * HOUR);
}

static void one_that_failed_is_tried_again_after_six_hours(void **state)
{
    (void)state;
    struct mt_collect_clock c = {.first_ms = NOW, .given_up_ms = NOW + HOUR, .tried_ms = NOW + 2 * HOUR};
    assert_int_equal(mt_collect_due_ms(&c), NOW + 8 * HOUR);
    c.collected_ms = NOW + 3 * HOUR;
    c.given_up_ms = 0;
    assert_int_equal(mt_collect_due_ms(&c), NOW + 171 * HOUR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_good_scheduled_ones_stay),
        cmocka_unit_test(what_was_asked_for_by_hand_stays),
        cmocka_unit_test(a_damaged_one_counts_for_nothing_and_goes_with_the_rest),
        cmocka_unit_test(one_that_is_restored_stays_for_now),
        cmocka_unit_test(the_newest_good_one_always_stays_and_a_second_look_finds_nothing),
        cmocka_unit_test(the_store_is_collected_weekly_and_soon_after_something_was_given_up),
        cmocka_unit_test(one_that_failed_is_tried_again_after_six_hours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
