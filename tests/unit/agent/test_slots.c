/* SPDX-License-Identifier: Apache-2.0 */
/* Slot numbers, and the names and MACs that follow from them. */
#include "agent/net/tap.h"
#include "agent/slots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEC 1000000000LL

static void a_freed_number_rests_a_minute(void **st)
{
    (void)st;
    struct mt_slots *s = calloc(1, sizeof *s);
    uint32_t a;
    for (uint32_t i = 0; i < MT_SLOTS; i++) {
        if (!mt_slots_take(s, 0, &a) || a != i)
            fail_msg("number %u", i);
    }
    assert_false(mt_slots_take(s, 0, &a));
    mt_slots_free(s, 77, 0);
    assert_false(mt_slots_take(s, 59 * SEC, &a));
    assert_true(mt_slots_take(s, 60 * SEC, &a));
    assert_int_equal(a, 77);
    mt_slots_done(s);
    free(s);
}

static void a_number_is_claimed_once(void **st)
{
    (void)st;
    struct mt_slots *s = calloc(1, sizeof *s);
    uint32_t a;
    assert_true(mt_slots_claim(s, 0));
    assert_false(mt_slots_claim(s, 0));
    assert_false(mt_slots_claim(s, 70000));
    assert_true(mt_slots_take(s, 0, &a));
    assert_int_equal(a, 1);
    mt_slots_free(s, 70000, 0);
    mt_slots_done(s);
    free(s);
}

static void macs_carry_the_slot(void **st)
{
    (void)st;
    uint8_t host[6], guest[6];
    mt_tap_macs(0xabcd, host, guest);
    /* 02:fc:00:0s:ss:s1 and s2 */
    assert_memory_equal(host, "\x02\xfc\x00\x0a\xbc\xd1", 6);
    assert_memory_equal(guest, "\x02\xfc\x00\x0a\xbc\xd2", 6);
}

static void prefixes_are_parsed_and_compared(void **st)
{
    (void)st;
    struct in6_addr p, a;
    uint8_t n, m;
    assert_int_equal(mt_net_parse6("fd00:1:1:1:2::9/80", true, &p, &n, NULL), 0);
    assert_int_equal(n, 80);
    assert_int_equal(mt_net_parse6("fd00:1:1:1:2::77", false, &a, &m, NULL), 0);
    assert_true(mt_net_inside6(&a, &p, n));
    assert_int_equal(mt_net_parse6("fd00:1:1:1:3::77", false, &a, &m, NULL), 0);
    assert_false(mt_net_inside6(&a, &p, n));
    assert_true(mt_net_parse6("fd00::1/129", false, &a, &m, NULL) < 0);
    assert_true(mt_net_parse6("10.0.0.1", false, &a, &m, NULL) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_freed_number_rests_a_minute),
        cmocka_unit_test(a_number_is_claimed_once),
        cmocka_unit_test(macs_carry_the_slot),
        cmocka_unit_test(prefixes_are_parsed_and_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
