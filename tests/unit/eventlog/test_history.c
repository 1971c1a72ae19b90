/* SPDX-License-Identifier: Apache-2.0 */
/* Which history is known: the comparison and the file's line. What a restored database does to it all is in
 * tests/scenario/test_control_recovery.py. */
#include "control/log/history.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

static struct mt_mark at(int64_t epoch, int64_t event, uint8_t fill)
{
    struct mt_mark m = {.epoch = epoch, .event_id = event, .hashed = true};
    memset(m.hash, fill, 32);
    return m;
}

static void what_is_known_is_looked_for_in_the_log(void **s)
{
    (void)s;
    struct mt_mark known = at(2, 100, 7), blind = known, none = {0}, same = at(2, 100, 7), longer = at(2, 140, 9);
    struct mt_mark shorter = at(2, 99, 7), before = at(1, 500, 7), after = at(3, 50, 7);
    uint8_t there[32], other[32];
    memset(there, 7, 32);
    memset(other, 8, 32);
    blind.hashed = false;
    assert_int_equal(mt_history_compare(&none, &before, NULL), MT_HISTORY_SAME); /* nothing known: nothing to miss */
    assert_int_equal(mt_history_compare(&known, &same, there), MT_HISTORY_SAME);
    assert_int_equal(mt_history_compare(&known, &longer, there), MT_HISTORY_SAME);
    assert_int_equal(mt_history_compare(&known, &longer, other), MT_HISTORY_OTHER); /* it went back and on past it */
    assert_int_equal(mt_history_compare(&blind, &longer, other), MT_HISTORY_SAME);
    assert_int_equal(mt_history_compare(&known, &shorter, NULL), MT_HISTORY_BEHIND);
    assert_int_equal(mt_history_compare(&known, &longer, NULL), MT_HISTORY_BEHIND);
    assert_int_equal(mt_history_compare(&known, &before, there), MT_HISTORY_BEHIND); /* more events, an older epoch */
    assert_int_equal(mt_history_compare(&known, &after, NULL), MT_HISTORY_NEWER);
}

static void the_line_of_the_file(void **s)
{
    (void)s;
    struct mt_mark m = at(3, 512, 0xab), back;
    char line[256], cluster[64];
    struct mt_err err = {0};
    mt_mark_print(&m, "cl_01hz", line, sizeof line);
    assert_string_equal(line, "moat-high-water 1 cluster=cl_01hz epoch=3 event=512"
                              " hash=abababababababababababababababababababababababababababababababab\n");
    assert_int_equal(mt_mark_parse(line, strlen(line), &back, cluster, &err), 0);
    assert_string_equal(cluster, "cl_01hz");
    assert_true(back.epoch == 3 && back.event_id == 512 && back.hashed && memcmp(back.hash, m.hash, 32) == 0);
    for (size_t n = 0; n < strlen(line); n++) { /* cut off anywhere */
        char cut[256];
        memcpy(cut, line, n);
        cut[n] = 0;
        assert_int_equal(mt_mark_parse(cut, n, &back, cluster, &err), -MT_E_CORRUPT);
    }
}

static void a_damaged_file_is_refused(void **s)
{
    (void)s;
#define H "abababababababababababababababababababababababababababababababab"
    static const char *const bad[] = {
        "moat-high-water 2 cluster=c epoch=1 event=1 hash=" H "\n",
        "moat-high-water 1 cluster= epoch=1 event=1 hash=" H "\n",
        "moat-high-water 1 cluster=c epoch=0 event=1 hash=" H "\n",
        "moat-high-water 1 cluster=c epoch=1 event=0 hash=" H "\n",
        "moat-high-water 1 cluster=c epoch=-1 event=1 hash=" H "\n",
        "moat-high-water 1 cluster=c epoch=1 event=9223372036854775807 hash=" H "\n",
        "moat-high-water 1 cluster=c epoch=1 event=1 hash=zz" H "\n",
        "moat-high-water 1 cluster=c epoch=1 event=1 hash=zz\n",
        "moat-high-water 1 cluster=c epoch=1 event=1 hash=" H "\nmore\n",
        "moat-high-water 1 cluster=cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc epoch=1 event=1 hash=" H "\n",
        "moat-high-water 1 epoch=1 cluster=c event=1 hash=" H "\n",
        "",
    };
    struct mt_mark m;
    char cluster[64];
    struct mt_err err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(mt_mark_parse(bad[i], strlen(bad[i]), &m, cluster, &err), -MT_E_CORRUPT);
    assert_int_equal(mt_mark_parse("moat-high-water 1\0 x", 20, &m, cluster, &err), -MT_E_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_known_is_looked_for_in_the_log),
        cmocka_unit_test(the_line_of_the_file),
        cmocka_unit_test(a_damaged_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
