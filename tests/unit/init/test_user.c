/* SPDX-License-Identifier: Apache-2.0 */
/* User lookup of moat-init against the image's own files, which may hold anything. */
#include "init/user.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/moat-user-XXXXXX", passwd[64], group[64];

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(passwd, sizeof passwd, "%s/passwd", dir);
    (void)snprintf(group, sizeof group, "%s/group", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(passwd);
    (void)unlink(group);
    return rmdir(dir);
}

static void resolves_numbers_and_names(void **state)
{
    (void)state;
    put(passwd, "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\nshort:x:5\n:x:7:7::/:\napp:x:1000:1001:App:/home/app:/bin/sh\n"
                "app:x:1:1:second:/:\nnohome:x:1002:1002:::\nrelative:x:1003:1003::home:\nlast:x:4294967294:3:::");
    put(group, "root:x:0:\nwheel:x:10:root,app\nappx:x:11:apps,xapp\nstaff:x:50:app\nbad:x:abc:app\nweb:x:33:");
    static const struct {
        const char *spec;
        uid_t uid;
        gid_t gid;
        size_t groups;
        const char *home;
    } rows[] = {
        {NULL, 0, 0, 0, "/root"},        {"", 0, 0, 0, "/root"},          {"0", 0, 0, 0, "/root"},
        {"1000", 1000, 1001, 0, "/home/app"}, {"1000:5", 1000, 5, 0, "/home/app"}, {"77", 77, 0, 0, "/"},
        {"77:web", 77, 33, 0, "/"},      {"app", 1000, 1001, 2, "/home/app"}, {"app:web", 1000, 33, 0, "/home/app"},
        {"app:9", 1000, 9, 0, "/home/app"}, {"nohome", 1002, 1002, 0, "/"}, {"relative", 1003, 1003, 0, "/"},
        {"last", 4294967294U, 3, 0, "/"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mt_user u;
        struct mt_err err = {0};
        if (mt_user_resolve(rows[i].spec, passwd, group, &u, &err) != 0)
            fail_msg("%s: %s", rows[i].spec, err.msg);
        assert_int_equal(u.uid, rows[i].uid);
        assert_int_equal(u.gid, rows[i].gid);
        assert_int_equal(u.groups_count, rows[i].groups);
        assert_string_equal(u.home, rows[i].home);
    }
    struct mt_user u;
    assert_int_equal(mt_user_resolve("app", passwd, group, &u, NULL), 0);
    assert_int_equal(u.groups[0], 10);
    assert_int_equal(u.groups[1], 50);
}

static void unknown_and_malformed_specs_are_named(void **state)
{
    (void)state;
    put(passwd, "app:x:1000:1001:App:/home/app:/bin/sh\nminus:x:-1:0:::\nhuge:x:4294967295:0:::\n");
    put(group, "web:x:33:\n");
    static const struct {
        const char *spec;
        int want;
    } rows[] = {{"nobody", -MT_E_NOT_FOUND},     {"app:nogroup", -MT_E_NOT_FOUND}, {"minus", -MT_E_NOT_FOUND},
                {"huge", -MT_E_NOT_FOUND},       {"4294967295", -MT_E_INVALID},    {"0:4294967295", -MT_E_INVALID},
                {"99999999999999999999", -MT_E_INVALID}, {":", -MT_E_INVALID},     {":0", -MT_E_INVALID},
                {"app:", -MT_E_INVALID},         {"a:b:c", -MT_E_INVALID},         {"-1", -MT_E_NOT_FOUND}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mt_user u;
        struct mt_err err = {0};
        int res = mt_user_resolve(rows[i].spec, passwd, group, &u, &err);
        if (res != rows[i].want || err.msg[0] == '\0')
            fail_msg("%s: %d '%s'", rows[i].spec, res, err.msg);
    }
}

static void numbers_need_no_files(void **state)
{
    (void)state;
    struct mt_user u;
    struct mt_err err;
    (void)unlink(passwd);
    (void)unlink(group);
    assert_int_equal(mt_user_resolve("12:34", passwd, group, &u, &err), 0);
    assert_int_equal(u.gid, 34);
    assert_string_equal(u.home, "/");
    assert_int_equal(mt_user_resolve("app", passwd, group, &u, &err), -MT_E_NOT_FOUND);
}

static void a_monster_line_is_passed_over(void **state)
{
    (void)state;
    static char text[40000];
    static const char after[] = "\napp:x:1000:1001::/h:\n";
    memset(text, 'x', 30000);
    memcpy(text + 15000, ":x:1:1::/:", 10);
    memcpy(text + 30000, after, sizeof after);
    put(passwd, text);
    struct mt_user u;
    assert_int_equal(mt_user_resolve("app", passwd, group, &u, NULL), 0);
    assert_int_equal(u.uid, 1000);
    /* the same without a newline: the file is one long line */
    memset(text + 30000, 'y', 1);
    put(passwd, text);
    assert_int_equal(mt_user_resolve("app", passwd, group, &u, NULL), -MT_E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resolves_numbers_and_names),
        cmocka_unit_test(unknown_and_malformed_specs_are_named),
        cmocka_unit_test(numbers_need_no_files),
        cmocka_unit_test(a_monster_line_is_passed_over),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
