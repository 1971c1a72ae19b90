/* SPDX-License-Identifier: Apache-2.0 */
/* Which bundle comes before another one, and from how many failed boots on a bundle does not hold (runtime.md §7.1). */
#include "agent/bundle.h"

#include "base/clock.h"
#include "os/digest.h"
#include "os/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/moat-bundle-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[96];
    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

/* A bundle of two files of a few bytes, made @ago_s seconds ago; @whole: with the hashes that its manifest says. */
static void make(const char *version, int64_t ago_s, bool whole)
{
    char path[160], text[512], sum[MT_SHA256_HEX];
    (void)snprintf(path, sizeof path, "%s/%s", dir, version);
    assert_int_equal(mkdir(path, 0755), 0);
    mt_sha256_hex("x", 1, sum);
    for (const char *const *f = (const char *const[]){"vmlinux", "initramfs.cpio", NULL}; *f; f++) {
        (void)snprintf(path, sizeof path, "%s/%s/%s", dir, version, *f);
        assert_int_equal(mt_file_write(path, whole ? "x" : "y", 1, 0444, NULL), 0);
    }
    (void)snprintf(path, sizeof path, "%s/%s/manifest.json", dir, version);
    int n = snprintf(text, sizeof text, "{\"version\":\"%s\",\"kind\":\"modules\",\"vmlinux_sha256\":\"%s\",\"initramfs_sha256\":\"%s\"}", version, sum, sum);
    assert_int_equal(mt_file_write(path, text, (size_t)n, 0444, NULL), 0);
    const struct timespec at[2] = {{.tv_sec = time(NULL) - ago_s}, {.tv_sec = time(NULL) - ago_s}};
    assert_int_equal(utimensat(AT_FDCWD, path, at, 0), 0);
}

static void the_one_made_last_before_it(void **state)
{
    struct mt_bundle b;
    struct mt_err err;
    char link[96];
    (void)state;
    if (geteuid() != 0)
        skip(); /* a manifest has to be root's */
    make("6.12-a", 5000, true);
    make("6.12-b", 4000, true);
    make("6.12-broken", 3000, false);
    make("6.12-c", 2000, true);
    make("6.12-later", 10, true);
    (void)snprintf(link, sizeof link, "%s/current", dir);
    assert_int_equal(symlink("6.12-c", link), 0);
    assert_int_equal(mt_bundle_before(dir, "6.12-c", true, &b, &err), 0);
    assert_string_equal(b.version, "6.12-b"); /* not the broken one, not itself by `current`, not one that was made later */
    assert_int_equal(mt_bundle_before(dir, "6.12-b", true, &b, &err), 0);
    assert_string_equal(b.version, "6.12-a");
    assert_int_equal(mt_bundle_before(dir, "6.12-a", true, &b, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_bundle_before(dir, "6.12-nowhere", true, &b, &err), -MT_E_NOT_FOUND);
}

static void a_day_of_use_proves_it(void **state)
{
    struct mt_bundle b;
    struct mt_err err;
    (void)state;
    if (geteuid() != 0)
        skip();
    make("old", 3 * 86400, true);
    make("proven", 86500, true);
    assert_int_equal(mt_bundle_before(dir, "proven", true, &b, &err), -MT_E_NOT_FOUND);
    assert_int_equal(mt_bundle_before(dir, "proven", false, &b, &err), 0); /* one that was given up in its first day stays so */
    assert_string_equal(b.version, "old");
}

static struct mt_boot_count counted(const char *boots)
{
    struct mt_boot_count c = {.n = 0};
    for (; *boots; boots++)
        mt_boot_count_note(&c, "v", *boots == '+');
    return c;
}

static void three_and_every_fifth_of_the_last_twenty(void **state)
{
    static const struct {
        const char *boots; /* '+' hello, '-' none */
        bool bad;
    } t[] = {
        {"", false}, {"--", false}, {"---", true}, {"+-+-+-", true}, {"++++++++++++---", true}, /* 3 of 15 */
        {"+++++++++++++---", false}, /* 3 of 16 */
        {"---+++++++++++++", false}, {"+++++++++++++++++---", false}, {"++++++++++++++++----", true}, /* 4 of 20 */
        {"----++++++++++++++++", true}, {"----+++++++++++++++++", false}, /* the first of them is more than twenty ago */
        {"----------++++++++++++++++++++", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_boot_count c = counted(t[i].boots);
        if (mt_boot_count_bad(&c) != t[i].bad)
            fail_msg("'%s' is %s", t[i].boots, t[i].bad ? "bad" : "not bad");
    }
    struct mt_boot_count c = counted("--");
    mt_boot_count_note(&c, "w", false); /* of another version: not the third */
    assert_false(mt_boot_count_bad(&c));
    assert_int_equal(c.n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_one_made_last_before_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_day_of_use_proves_it, setup, teardown),
        cmocka_unit_test(three_and_every_fifth_of_the_last_twenty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
