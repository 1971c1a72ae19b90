/* SPDX-License-Identifier: Apache-2.0 */
/* Which instances a node remembers lines of: without a receiver those that run, with one those whose folder is there. */
#include "agent/forward/sources.h"

#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define ENV "env_01hzzzzzzzzzzzzzzzzzzzzzzz"

static char dir[64];
static struct mt_log_sources sources;

static int setup(void **s)
{
    (void)s;
    (void)snprintf(dir, sizeof dir, "/tmp/mt-sources-XXXXXX");
    return mkdtemp(dir) ? mt_log_sources_init(&sources, dir) : -1;
}

static int teardown(void **s)
{
    (void)s;
    mt_log_sources_done(&sources);
    return mt_file_remove_tree(AT_FDCWD, dir, NULL);
}

/* One with a folder and a line in it. */
static struct mt_log_source *begins(int n, char id[MT_ID_SIZE])
{
    struct mt_log_store *st = NULL;
    const struct mt_log_record r = {.boot = 1, .guest_seq = 1, .stream = MT_LOG_STDOUT, .line = (const uint8_t *)"x", .len = 1};
    uint64_t seq;
    (void)snprintf(id, MT_ID_SIZE, "inst_01hzzzzzzzzzzzzzzzzzzzz%03d", n);
    assert_int_equal(mt_log_store_open(dir, ENV, id, &st, NULL), 0);
    assert_int_equal(mt_log_append(st, &r, 0, &seq, NULL), 0);
    mt_log_store_close(st);
    const char *const ids[MT_LOGFWD_IDS] = {"org_x", "app_x", ENV, "web", id};
    struct mt_log_source *src = mt_log_source_hold(&sources, ids, seq);
    assert_non_null(src);
    return src;
}

static void without_a_receiver_those_that_ended_take_no_memory(void **s)
{
    (void)s;
    char id[MT_ID_SIZE];
    struct mt_log_source *runs = begins(0, id);
    for (int i = 1; i <= 200; i++)
        mt_log_source_release(&sources, begins(i, id));
    assert_int_equal(sources.map.count, 1);
    mt_log_sources_sweep(&sources); /* their folders are there */
    assert_int_equal(sources.map.count, 1);
    mt_log_source_release(&sources, runs);
    assert_int_equal(sources.map.count, 0);
}

static void a_receiver_finds_those_that_ended_before_it(void **s)
{
    (void)s;
    char ended[MT_ID_SIZE], runs[MT_ID_SIZE], path[192];
    mt_log_source_release(&sources, begins(1, ended));
    struct mt_log_source *held = begins(2, runs);
    atomic_store(&held->last, 7);
    mt_log_sources_keep(&sources, true);
    struct mt_log_source *src = mt_map_get(&sources.map, ended);
    assert_non_null(src);
    assert_int_equal(atomic_load(&src->last), 1);
    assert_string_equal(src->ids[MT_LOGFWD_PROCESS], "web");
    assert_int_equal(atomic_load(&held->last), 7); /* not from the disk */

    mt_log_source_release(&sources, held);
    assert_int_equal(sources.map.count, 2);
    (void)snprintf(path, sizeof path, "%s/" ENV "/%s", dir, ended);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, path, NULL), 0);
    mt_log_sources_sweep(&sources);
    assert_null(mt_map_get(&sources.map, ended));
    assert_ptr_equal(mt_map_get(&sources.map, runs), held);

    mt_log_sources_keep(&sources, false);
    assert_int_equal(sources.map.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_a_receiver_those_that_ended_take_no_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(a_receiver_finds_those_that_ended_before_it, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
