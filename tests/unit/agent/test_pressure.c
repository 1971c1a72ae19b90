/* SPDX-License-Identifier: Apache-2.0 */
/* When a machine is short of memory, and that it is not for one look only. */
#include "agent/pressure.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static int parse(const char *text, uint64_t *total, uint64_t *available)
{
    char copy[512];
    struct mt_err err;
    (void)snprintf(copy, sizeof copy, "%s", text);
    return mt_pressure_parse(copy, total, available, &err);
}

static void meminfo_is_read(void **state)
{
    static const char *const bad[] = {"", "MemTotal: 100 kB\n", "MemAvailable: 5 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "MemTotal: 10 kB\nMemAvailable: 11 kB\n",
                                      "MemTotal: x kB\nMemAvailable: 1 kB\n", "MemTotal: 99999999999999999999999 kB\nMemAvailable: 1 kB\n", "MemTotals: 10 kB\nMemAvailable: 1 kB\n"};
    uint64_t total = 7, available = 7;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse(bad[i], &total, &available), -MT_E_INVALID);
    assert_true(total == 7 && available == 7);
    assert_int_equal(parse("MemTotal:       24683700 kB\nMemFree:  1 kB\nMemAvailable:   23987200 kB\nBuffers:  2 kB\n", &total, &available), 0);
    assert_true(total == 24683700 && available == 23987200);
}

static void two_looks_begin_it_and_room_ends_it(void **state)
{
    struct mt_pressure p = {0};
    (void)state;
    assert_false(mt_pressure_note(&p, 1000000, 49999));
    assert_false(mt_pressure_note(&p, 1000000, 50000)); /* in passing */
    assert_false(mt_pressure_note(&p, 1000000, 0));
    assert_false(p.on);
    assert_true(mt_pressure_note(&p, 1000000, 49999) && p.on);
    assert_false(mt_pressure_note(&p, 1000000, 79999)); /* not yet */
    assert_true(p.on);
    assert_true(mt_pressure_note(&p, 1000000, 80000) && !p.on);
    assert_false(mt_pressure_note(&p, 1000000, 49999)); /* counted anew */
    assert_false(p.on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(meminfo_is_read),
        cmocka_unit_test(two_looks_begin_it_and_room_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
