/* SPDX-License-Identifier: Apache-2.0 */
/* Restart policy and backoff of runtime.md §6. */
#include "agent/pace.h"
#include "agent/restart.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SEC 1000000000LL

static void delays_double_up_to_five_minutes_with_a_tenth_of_jitter(void **s)
{
    (void)s;
    const int64_t want[] = {2, 4, 8, 16, 32, 64, 128, 256, 300, 300};
    for (uint32_t k = 1; k <= 10; k++) {
        int64_t base = want[k - 1] * SEC;
        assert_int_equal(mt_restart_delay_ns(2, k, 0), base - base / 10);
        int64_t top = mt_restart_delay_ns(2, k, 0xffff);
        assert_true(top <= base + base / 10 && top >= base + base / 10 - 2);
    }
    assert_true(mt_restart_delay_ns(2, UINT32_MAX, 0x8000) <= 330 * SEC);
}

static struct mt_restart_out end(enum mt_restart_policy p, bool clean, bool platform, int64_t ready_ns,
                                 struct mt_restart_counters *c)
{
    struct mt_restart_in in = {.policy = p, .max_retries = 2, .backoff_seconds = 2, .clean = clean, .platform = platform,
                               .ready_ns = ready_ns, .random_u = 7};
    return mt_restart_next(&in, c);
}

static void policies_decide_as_the_table_says(void **s)
{
    (void)s;
    const struct {
        enum mt_restart_policy p;
        bool clean;
        enum mt_restart_verdict want;
    } rows[] = {
        {MT_RESTART_ALWAYS, true, MT_RESTART_AGAIN},     {MT_RESTART_ALWAYS, false, MT_RESTART_AGAIN},
        {MT_RESTART_ON_FAILURE, true, MT_RESTART_DONE},  {MT_RESTART_ON_FAILURE, false, MT_RESTART_AGAIN},
        {MT_RESTART_NEVER, true, MT_RESTART_DONE},       {MT_RESTART_NEVER, false, MT_RESTART_GIVE_UP},
    };
    for (size_t i = 0; i < 6; i++) {
        struct mt_restart_counters c = {0};
        assert_int_equal(end(rows[i].p, rows[i].clean, false, 0, &c).verdict, rows[i].want);
    }
}

static void on_failure_gives_up_after_max_retries(void **s)
{
    (void)s;
    struct mt_restart_counters c = {0};
    assert_int_equal(end(MT_RESTART_ON_FAILURE, false, false, 0, &c).verdict, MT_RESTART_AGAIN);
    assert_int_equal(end(MT_RESTART_ON_FAILURE, false, false, 0, &c).verdict, MT_RESTART_AGAIN);
    assert_int_equal(end(MT_RESTART_ON_FAILURE, false, false, 0, &c).verdict, MT_RESTART_GIVE_UP);
}

static void platform_failures_never_consume_retries(void **s)
{
    (void)s;
    struct mt_restart_counters c = {0};
    for (int i = 0; i < 20; i++)
        assert_int_equal(end(MT_RESTART_NEVER, false, true, 0, &c).verdict, MT_RESTART_AGAIN);
    assert_int_equal(c.own_failures, 0);
}

static void the_fifth_attempt_reads_crash_loop_and_long_readiness_forgets(void **s)
{
    (void)s;
    struct mt_restart_counters c = {0};
    for (int i = 1; i <= 4; i++)
        assert_false(end(MT_RESTART_ALWAYS, false, false, 0, &c).crash_loop);
    assert_true(end(MT_RESTART_ALWAYS, false, false, 0, &c).crash_loop);
    struct mt_restart_out o = end(MT_RESTART_ALWAYS, false, false, MT_RESTART_RESET_NS, &c);
    assert_false(o.crash_loop);
    assert_true(o.delay_ns <= 3 * SEC);
    assert_int_equal(c.restart_count, 6); /* what users see never goes back */
}

static void no_second_has_more_than_so_many_launches(void **s)
{
    (void)s;
    const unsigned rates[] = {1, 3, 10, MT_PACE_MAX};
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        struct mt_pace p = {.next = 0};
        int64_t at[400], now = 5 * SEC, when;
        unsigned n = 0;
        for (; n < 400; now += SEC / 97) { /* somebody asks all the time */
            if (mt_pace_may(&p, rates[r], now, &when)) {
                mt_pace_note(&p, now);
                at[n++] = now;
                continue;
            }
            assert_true(when > now && when <= now + SEC);
            if (n % 7 == 0)
                now = when - SEC / 97; /* comes exactly when it was told to */
        }
        for (unsigned i = rates[r]; i < n; i++)
            assert_true(at[i] - at[i - rates[r]] >= SEC);
        assert_true(at[rates[r] - 1] - at[0] < SEC); /* the first ones do not wait */
        assert_true(at[n - 1] - at[0] < (int64_t)(n / rates[r] + 2) * (SEC + SEC / 97)); /* and it is no slower than that */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays_double_up_to_five_minutes_with_a_tenth_of_jitter),
        cmocka_unit_test(policies_decide_as_the_table_says),
        cmocka_unit_test(on_failure_gives_up_after_max_retries),
        cmocka_unit_test(platform_failures_never_consume_retries),
        cmocka_unit_test(no_second_has_more_than_so_many_launches),
        cmocka_unit_test(the_fifth_attempt_reads_crash_loop_and_long_readiness_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
