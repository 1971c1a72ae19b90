/* SPDX-License-Identifier: Apache-2.0 */
#include "control/volumes/schedule.h"

#include "base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define DAY 86400
#define HOUR 3600
#define V "vol_01hz0000000000000000000005"
#define NOW INT64_C(1800000000000)

static void a_slot_begins_once_an_interval_at_the_offset_of_the_volume(void **state)
{
    (void)state;
    const int64_t intervals[] = {1, 7, 900, HOUR, DAY, 30 * DAY}, times[] = {0, 1, 999, 1000, NOW, NOW + 1, NOW + 12345678};
    for (size_t i = 0; i < MT_ARRAY_LEN(intervals); i++) {
        int64_t n = intervals[i], off = mt_backup_offset_s(V, n);
        assert_true(off >= 0 && off < n);
        for (size_t k = 0; k < MT_ARRAY_LEN(times); k++) {
            struct mt_backup_clock c = {.volume_id = V, .interval_s = n, .made_ms = times[k]};
            int64_t due = mt_backup_due_ms(&c);
            assert_true(due > times[k]);
            assert_true(due - times[k] <= n * 1000);
            assert_int_equal(((due / 1000 - off) % n + n) % n, 0);
            assert_int_equal(due % 1000, 0);
        }
    }
}

static void the_offset_is_the_first_eight_bytes_of_the_digest_of_the_id(void **state)
{
    (void)state;
    /* printf %s vol_01hz0000000000000000000005 | sha256sum */
    assert_int_equal(mt_backup_offset_s(V, DAY), 26456);
    assert_int_equal(mt_backup_offset_s(V, HOUR), 1256);
}

static void a_month_of_looking_asks_once_a_day(void **state)
{
    (void)state;
    struct mt_backup_clock c = {.volume_id = V, .interval_s = DAY, .made_ms = NOW};
    int asked = 0;
    int64_t last = 0;
    for (int64_t now = NOW; now < NOW + 30 * DAY * INT64_C(1000); now += 60000)
        if (mt_backup_due_ms(&c) <= now) {
            if (last)
                assert_true(now - last > (DAY - 60) * INT64_C(1000) && now - last < (DAY + 60) * INT64_C(1000));
            last = c.asked_ms = now;
            asked++;
        }
    assert_int_equal(asked, 30);
}

static void what_was_missed_for_a_week_is_owed_once(void **state)
{
    (void)state;
    struct mt_backup_clock c = {.volume_id = V, .interval_s = DAY, .made_ms = NOW};
    int64_t now = NOW + 7 * DAY * INT64_C(1000);
    assert_true(mt_backup_due_ms(&c) <= now);
    c.asked_ms = now;
    assert_true(mt_backup_due_ms(&c) > now);
}

static void one_that_failed_is_tried_again_within_the_hour_and_not_at_once(void **state)
{
    (void)state;
    struct mt_backup_clock c = {.volume_id = V, .interval_s = DAY, .made_ms = NOW};
    int64_t slot = mt_backup_due_ms(&c);
    c.asked_ms = slot;
    c.failed = true;
    c.ended_ms = slot + 5000;
    assert_int_equal(mt_backup_due_ms(&c), slot + 5000 + HOUR * INT64_C(1000));
    c.ended_ms = slot + (DAY - 60) * INT64_C(1000); /* its artifact expired: the next slot comes first */
    assert_int_equal(mt_backup_due_ms(&c), slot + DAY * INT64_C(1000));
    c.interval_s = 900; /* never sooner than the pause, unless a slot comes */
    c.ended_ms = c.asked_ms + 1000;
    assert_true(mt_backup_due_ms(&c) <= c.ended_ms + MT_BACKUP_RETRY_LEAST_S * 1000);
    c.failed = false;
    assert_true(mt_backup_due_ms(&c) > c.asked_ms);
}

static void a_backup_is_proven_within_an_hour_then_weekly_and_after_a_failure_in_six_hours(void **state)
{
    (void)state;
    struct mt_proof_clock c = {.volume_id = V, .first_ms = NOW};
    assert_true(mt_proof_due_ms(&c) >= NOW && mt_proof_due_ms(&c) < NOW + HOUR * INT64_C(1000));
    c.tried_ms = NOW + 1000;
    assert_int_equal(mt_proof_due_ms(&c), c.tried_ms + 6 * HOUR * INT64_C(1000));
    c.proven_ms = c.tried_ms + 500;
    assert_int_equal(mt_proof_due_ms(&c), c.proven_ms + 7 * DAY * INT64_C(1000));
    c.tried_ms = c.proven_ms + 7 * DAY * INT64_C(1000); /* the next one failed */
    assert_int_equal(mt_proof_due_ms(&c), c.tried_ms + 6 * HOUR * INT64_C(1000));
}

static void the_volumes_of_a_node_do_not_begin_together(void **state)
{
    (void)state;
    int per_hour[24] = {0};
    char id[40];
    for (int i = 0; i < 2400; i++) {
        snprintf(id, sizeof id, "vol_%026d", i);
        per_hour[mt_backup_offset_s(id, DAY) / HOUR]++;
    }
    for (int h = 0; h < 24; h++)
        assert_in_range(per_hour[h], 60, 140);
}

static void the_interval_is_the_same_in_sql(void **state)
{
    (void)state;
    char text[16];
    snprintf(text, sizeof text, "%d", MT_BACKUP_INTERVAL_S);
    assert_string_equal(text, MT_BACKUP_INTERVAL_SQL);
}

static void a_node_proves_one_at_a_time_within_its_budget_of_a_day(void **state)
{
    (void)state;
    const int64_t all = MT_PROOF_DAY_BYTES;
    assert_true(mt_proof_fits(false, 0, 1));
    assert_false(mt_proof_fits(true, 0, 1));
    assert_true(mt_proof_fits(false, 0, 4 * all)); /* one that is larger than the budget, alone */
    assert_false(mt_proof_fits(false, 1, 4 * all));
    assert_false(mt_proof_fits(false, 4 * all, 1));
    assert_true(mt_proof_fits(false, all - 1, 1));
    assert_false(mt_proof_fits(false, all - 1, 2));
    assert_false(mt_proof_fits(false, INT64_MAX, INT64_MAX));
    /* a day of volumes of 60 GiB: as many as fit */
    int64_t spent = 0;
    int n = 0;
    for (const int64_t gib60 = INT64_C(60) << 30; mt_proof_fits(false, spent, gib60); n++)
        spent += gib60;
    assert_int_equal(n, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slot_begins_once_an_interval_at_the_offset_of_the_volume),
        cmocka_unit_test(the_offset_is_the_first_eight_bytes_of_the_digest_of_the_id),
        cmocka_unit_test(a_month_of_looking_asks_once_a_day),
        cmocka_unit_test(what_was_missed_for_a_week_is_owed_once),
        cmocka_unit_test(one_that_failed_is_tried_again_within_the_hour_and_not_at_once),
        cmocka_unit_test(a_backup_is_proven_within_an_hour_then_weekly_and_after_a_failure_in_six_hours),
        cmocka_unit_test(the_volumes_of_a_node_do_not_begin_together),
        cmocka_unit_test(the_interval_is_the_same_in_sql),
        cmocka_unit_test(a_node_proves_one_at_a_time_within_its_budget_of_a_day),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
