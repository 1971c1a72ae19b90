/* SPDX-License-Identifier: Apache-2.0 */
/* Log segments: order, position, torn tails, repeats, rate, retention. */
#include "agent/logstore.h"

#include "base/clock.h"
#include "os/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ENV "env_01hzzzzzzzzzzzzzzzzzzzzzzz"
#define INST "inst_01hzzzzzzzzzzzzzzzzzzzzzzz"

static char dir[64];

static int setup(void **s)
{
    (void)s;
    (void)snprintf(dir, sizeof dir, "/tmp/mt-logs-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **s)
{
    (void)s;
    return mt_file_remove_tree(AT_FDCWD, dir, NULL);
}

static struct mt_log_store *open_store(void)
{
    struct mt_log_store *st = NULL;
    struct mt_err err = {0};
    if (mt_log_store_open(dir, ENV, INST, &st, &err) < 0)
        fail_msg("%s", err.msg);
    return st;
}

static uint64_t put(struct mt_log_store *st, const char *line, uint32_t boot, uint64_t guest_seq, int64_t now)
{
    struct mt_log_record r = {.boot = boot, .guest_seq = guest_seq, .stream = MT_LOG_STDOUT, .line = (const uint8_t *)line, .len = strlen(line)};
    uint64_t seq = 0;
    struct mt_err err = {0};
    if (mt_log_append(st, &r, now, &seq, &err) < 0)
        fail_msg("%s", err.msg);
    return seq;
}

static void records_come_back_in_order_and_from_any_position(void **s)
{
    (void)s;
    struct mt_log_store *st = open_store();
    struct mt_log_reader *r = NULL;
    struct mt_log_record rec;
    struct mt_err err = {0};
    char line[32];
    for (uint64_t i = 1; i <= 100; i++) {
        (void)snprintf(line, sizeof line, "line %d", (int)i);
        assert_int_equal(put(st, line, 1, i, 1), i);
    }
    assert_int_equal(mt_log_reader_open(dir, INST, 42, &r, &err), 0);
    for (uint64_t i = 43; i <= 100; i++) {
        assert_int_equal(mt_log_reader_next(r, &rec, &err), 1);
        assert_int_equal(rec.seq, i);
    }
    assert_memory_equal(rec.line, "line 100", 8);
    assert_int_equal(mt_log_reader_next(r, &rec, &err), 0);
    (void)put(st, "later", 1, 101, 1); /* a reader at the end sees what comes: follow */
    assert_int_equal(mt_log_reader_next(r, &rec, &err), 1);
    assert_int_equal(rec.seq, 101);
    mt_log_reader_close(r);
    mt_log_store_close(st);
}

static void a_torn_record_is_cut_and_numbers_go_on(void **s)
{
    (void)s;
    struct mt_log_store *st = open_store();
    struct stat sb;
    char path[200];
    uint64_t last = 0;
    struct mt_err err = {0};
    (void)put(st, "one", 1, 1, 1);
    (void)put(st, "two", 1, 2, 1);
    mt_log_store_close(st);
    (void)snprintf(path, sizeof path, "%s/" ENV "/" INST "/00000000000000000001.log", dir);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(truncate(path, sb.st_size - 2), 0);
    st = open_store();
    assert_int_equal(mt_log_next_seq(st), 2);
    assert_int_equal(put(st, "two again", 1, 2, 1), 2); /* the guest sends it again: it was lost, so it is new */
    assert_int_equal(put(st, "two again", 1, 2, 1), 0); /* and now it is not */
    assert_int_equal(put(st, "of the next boot", 2, 1, 1), 3);
    assert_int_equal(mt_log_last_seq(dir, INST, &last, &err), 0);
    assert_int_equal(last, 3);
    mt_log_store_close(st);
}

static void segments_follow_each_other(void **s)
{
    (void)s;
    struct mt_log_store *st = open_store();
    struct mt_log_reader *r = NULL;
    struct mt_log_record rec;
    struct mt_err err = {0};
    char *big = malloc(16001);
    uint64_t n = 0, seen = 0;
    memset(big, 'x', 16000);
    big[16000] = '\0';
    int64_t now = 0;
    for (uint64_t i = 1; i <= 1200; i++) { /* 19 MB: three segments; slowly, so that nothing is dropped */
        now += MT_NS_PER_S / 10;
        n += put(st, big, 1, i, now) != 0;
    }
    assert_int_equal(n, 1200);
    assert_int_equal(mt_log_reader_open(dir, INST, 0, &r, &err), 0);
    while (mt_log_reader_next(r, &rec, &err) == 1)
        assert_int_equal(rec.seq, ++seen);
    assert_int_equal(seen, 1200);
    mt_log_reader_close(r);
    mt_log_retain(dir, 7, 9U << 20, mt_clock_wall_us()); /* the oldest goes, the open one stays */
    assert_int_equal(mt_log_reader_open(dir, INST, 0, &r, &err), 0);
    assert_int_equal(mt_log_reader_next(r, &rec, &err), 1);
    assert_true(rec.seq > 400);
    mt_log_reader_close(r);
    mt_log_store_close(st);
    free(big);
}

static void a_flood_is_cut_and_says_so(void **s)
{
    (void)s;
    struct mt_log_store *st = open_store();
    struct mt_log_reader *r = NULL;
    struct mt_log_record rec;
    struct mt_err err = {0};
    char *big = malloc(16001);
    uint64_t kept = 0;
    bool gap = false;
    memset(big, 'x', 16000);
    big[16000] = '\0';
    for (uint64_t i = 1; i <= 1000; i++)
        kept += put(st, big, 1, i, MT_NS_PER_S) != 0;
    assert_true(kept > 500 && kept < 530); /* 8 MiB of burst */
    assert_true(put(st, "after the flood", 1, 1001, 3 * MT_NS_PER_S) != 0);
    assert_int_equal(mt_log_reader_open(dir, INST, kept, &r, &err), 0);
    assert_int_equal(mt_log_reader_next(r, &rec, &err), 1);
    gap = rec.flags & MT_LOG_GAP && rec.stream == MT_LOG_SYSTEM && memcmp(rec.line, "dropped=", 8) == 0;
    assert_true(gap);
    assert_int_equal(mt_log_reader_next(r, &rec, &err), 1);
    assert_memory_equal(rec.line, "after the flood", 15);
    mt_log_reader_close(r);
    mt_log_store_close(st);
    free(big);
}

static uint64_t bytes_kept(void)
{
    char path[600];
    uint64_t n = 0;
    struct stat sb;
    (void)snprintf(path, sizeof path, "%s/" ENV "/" INST, dir);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (strlen(e->d_name) == 24 && fstatat(dirfd(d), e->d_name, &sb, 0) == 0)
            n += (uint64_t)sb.st_size;
    }
    (void)closedir(d);
    return n;
}

static void a_flood_stays_within_its_bytes_between_two_looks(void **s)
{
    (void)s;
    enum { BOUND = 20 << 20 };
    struct mt_log_store *st = open_store();
    struct mt_log_reader *r = NULL;
    struct mt_log_record rec;
    struct mt_err err = {0};
    char *big = malloc(16001);
    uint64_t last = 0, most = 0;
    memset(big, 'x', 16000);
    big[16000] = '\0';
    mt_log_store_bound(st, BOUND);
    for (uint64_t i = 1; i <= 4000; i++) { /* 64 MB in 64 s, which is what may be written */
        last = put(st, big, 1, i, (int64_t)i * 16 * MT_NS_PER_MS);
        assert_int_equal(last, i);
        if (i % 20 == 0 && bytes_kept() > most)
            most = bytes_kept();
    }
    assert_true(most <= BOUND && most > BOUND - (9 << 20));
    assert_int_equal(mt_log_reader_open(dir, INST, last - 1, &r, &err), 0); /* the newest is what stays */
    assert_int_equal(mt_log_reader_next(r, &rec, &err), 1);
    assert_int_equal(rec.seq, last);
    mt_log_reader_close(r);
    mt_log_store_close(st);
    free(big);
}

static void made_up_gaps_are_cut_too(void **s)
{
    (void)s;
    struct mt_log_store *st = open_store();
    struct mt_err err = {0};
    uint64_t first = mt_log_next_seq(st);
    for (uint64_t i = 1; i <= 400000; i++)
        assert_int_equal(mt_log_append_gap(st, UINT64_MAX, 1, i, MT_NS_PER_S, &err), 0);
    assert_true(mt_log_next_seq(st) - first <= (8U << 20) / 40); /* 8 MiB of burst, 40 bytes each at least */
    assert_true(put(st, "after the flood", 1, 400001, 3 * MT_NS_PER_S) != 0);
    mt_log_store_close(st);
}

static void what_may_not_be_written_is_counted_and_told_later(void **s)
{
    (void)s;
    struct mt_log_store *st = open_store();
    struct mt_log_reader *rd = NULL;
    struct mt_log_record r;
    struct mt_err err = {0};
    assert_int_equal(put(st, "kept", 1, 1, 1), 1);
    mt_log_skip(st, 5, 1, 2);
    mt_log_skip(st, 5, 1, 2); /* sent again: it was counted */
    mt_log_skip(st, 7, 1, 3);
    assert_int_equal(mt_log_next_seq(st), 2);
    assert_int_equal(put(st, "again", 1, 3, 1), 0);
    assert_int_equal(put(st, "again", 1, 4, 1), 3);
    assert_int_equal(mt_log_reader_open(dir, INST, 1, &rd, &err), 0);
    assert_int_equal(mt_log_reader_next(rd, &r, &err), 1);
    assert_true(r.flags & MT_LOG_GAP && r.len == 10 && memcmp(r.line, "dropped=12", 10) == 0);
    assert_int_equal(mt_log_reader_next(rd, &r, &err), 1);
    assert_true(r.len == 5 && memcmp(r.line, "again", 5) == 0);
    mt_log_reader_close(rd);
    mt_log_store_close(st);
}

static void attempts_are_found_again(void **s)
{
    (void)s;
    struct mt_err err = {0};
    uint64_t first = 0, last = 0;
    struct mt_log_store *st = open_store();
    assert_int_equal(mt_log_boot_range(dir, INST, 0, &first, &last, &err), -MT_E_NOT_FOUND);
    assert_int_equal(put(st, "a1", 1, 1, 1), 1);
    assert_int_equal(put(st, "a2", 1, 2, 1), 2);
    assert_int_equal(put(st, "b1", 3, 1, 1), 3); /* attempt 2 said nothing */
    mt_log_store_close(st);
    st = open_store(); /* the agent was restarted: attempt 3 goes on */
    assert_int_equal(put(st, "b2", 3, 2, 1), 4);
    assert_int_equal(put(st, "c1", 4, 1, 1), 5);
    assert_int_equal(mt_log_boot_range(dir, INST, 1, &first, &last, &err), 0);
    assert_true(first == 1 && last == 2);
    assert_int_equal(mt_log_boot_range(dir, INST, 2, &first, &last, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_log_boot_range(dir, INST, 3, &first, &last, &err), 0);
    assert_true(first == 3 && last == 4);
    assert_int_equal(mt_log_boot_range(dir, INST, 0, &first, &last, &err), 0);
    assert_true(first == 5 && last == 5);
    mt_log_store_close(st);
    /* A torn entry is written over, a changed one ends the list. */
    char path[200];
    struct stat sb;
    (void)snprintf(path, sizeof path, "%s/" ENV "/" INST "/attempts", dir);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_size, 3 * 16);
    assert_int_equal(truncate(path, 2 * 16 + 7), 0);
    st = open_store();
    assert_int_equal(put(st, "c2", 4, 2, 1), 6);
    assert_int_equal(mt_log_boot_range(dir, INST, 4, &first, &last, &err), 0);
    assert_true(first == 6 && last == 6);
    mt_log_store_close(st);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "\xff", 1, 16 + 9), 1);
    (void)close(fd);
    assert_int_equal(mt_log_boot_range(dir, INST, 1, &first, &last, &err), 0);
    assert_int_equal(mt_log_boot_range(dir, INST, 3, &first, &last, &err), -MT_E_NOT_FOUND);
    mt_log_retain(dir, 0, 0, mt_clock_wall_us() + INT64_C(10) * 86400 * 1000000);
    assert_int_equal(stat(path, &sb), -1); /* it goes with the last segment */
}

static void foreign_names_open_nothing(void **s)
{
    (void)s;
    struct mt_log_reader *r = NULL;
    struct mt_err err = {0};
    assert_int_equal(mt_log_reader_open(dir, "inst_../../../etc/passwd/xxxxxx", 0, &r, &err), -MT_E_INVALID);
    assert_int_equal(mt_log_reader_open(dir, INST, 0, &r, &err), -MT_E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(records_come_back_in_order_and_from_any_position, setup, teardown),
        cmocka_unit_test_setup_teardown(a_torn_record_is_cut_and_numbers_go_on, setup, teardown),
        cmocka_unit_test_setup_teardown(segments_follow_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flood_is_cut_and_says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flood_stays_within_its_bytes_between_two_looks, setup, teardown),
        cmocka_unit_test_setup_teardown(made_up_gaps_are_cut_too, setup, teardown),
        cmocka_unit_test_setup_teardown(what_may_not_be_written_is_counted_and_told_later, setup, teardown),
        cmocka_unit_test_setup_teardown(attempts_are_found_again, setup, teardown),
        cmocka_unit_test_setup_teardown(foreign_names_open_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
