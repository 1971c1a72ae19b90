/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the CLI that stand between it and hostile text, folders and processes. */
#include "cli/cli.h"
#include "cli/up/layout.h"
#include "cli/up/service.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

static void answers_are_tamed_before_they_are_shown(void **state)
{
    (void)state;
    static const char text[] = "{\"items\":[{\"reason\":\"a\\u001b[2Jb\\u009bc\\u202ed\",\"line\":\"one\\n\\ttwo\",\"n\":3,\"plain\":\"gr\\u00fc\\u00df\"}]}";
    mt_auto_json json_t *j = NULL;
    assert_int_equal(mt_json_parse(text, strlen(text), 1000, 8, &j, NULL), 0);
    cli_tame(j);
    const json_t *item = json_array_get(json_object_get(j, "items"), 0);
    assert_string_equal(cli_str(item, "reason"), "a?[2Jb?c?d");
    assert_string_equal(cli_str(item, "line"), "one\n\ttwo");
    assert_string_equal(cli_str(item, "plain"), "gr\xc3\xbc\xc3\x9f");
    assert_int_equal(cli_int(item, "n"), 3);
}

static void an_error_is_one_json_document_whatever_it_quotes(void **state)
{
    (void)state;
    char path[] = "/tmp/moat-test-cli-XXXXXX", text[400] = "";
    int fd = mkstemp(path), saved = dup(STDOUT_FILENO);
    assert_true(fd >= 0 && saved >= 0);
    (void)fflush(stdout);
    (void)dup2(fd, STDOUT_FILENO);
    struct cli c = {.json = true};
    int code = cli_usage(&c, "'%s' is not a name", "\xff\xfe\x1b[2J"); /* not even UTF-8 */
    (void)fflush(stdout);
    (void)dup2(saved, STDOUT_FILENO);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    (void)close(saved);
    (void)close(fd);
    (void)unlink(path);
    mt_auto_json json_t *j = NULL;
    assert_int_equal(code, CLI_USAGE);
    assert_true(n > 0);
    assert_int_equal(mt_json_parse(text, (size_t)n, sizeof text, 4, &j, NULL), 0);
    assert_string_equal(cli_str(j, "error.message"), "'???[2J' is not a name");
}

static void a_data_folder_is_named_in_plain_characters(void **state)
{
    (void)state;
    struct up_layout l;
    struct mt_err err;
    assert_int_equal(up_layout_init(&l, "/var/tmp/mt-x_1.2/d/", &err), 0);
    assert_string_equal(l.dir, "/var/tmp/mt-x_1.2/d");
    static const char *const bad[] = {"/tmp/a\"b", "/tmp/a b", "/tmp/a'b", "/tmp/a\\b", "/tmp/a\nb", "/tmp/a$b", "/"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(up_layout_init(&l, bad[i], &err), -MT_E_INVALID);
}

static void folders_are_not_made_through_links(void **state)
{
    (void)state;
    char dir[] = "/tmp/moat-cli-XXXXXX", path[200];
    struct up_layout l;
    struct mt_err err;
    struct stat st;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(up_layout_init(&l, dir, &err), 0);
    l.users = (struct up_users){.pg = geteuid(), .control = geteuid(), .edge = geteuid(), .registry = geteuid(), .fetch = geteuid(),
                                .moat = getegid(), .pg_gid = getegid(), .registry_gid = getegid()};
    (void)snprintf(path, sizeof path, "%s/aim", dir);
    assert_int_equal(mkdir(path, 0711), 0);
    (void)snprintf(path, sizeof path, "%s/registry", dir);
    assert_int_equal(symlink("aim", path), 0);
    int made = up_layout_make(&l, &err);
    (void)snprintf(path, sizeof path, "%s/aim", dir);
    int looked = stat(path, &st);
    (void)mt_file_remove_tree(AT_FDCWD, dir, NULL);
    if (geteuid() == 0 || made == 0) /* without root the owners cannot be set and it ends before */
        assert_int_equal(made, -MT_E_IO);
    assert_int_equal(looked, 0);
    assert_int_equal(st.st_mode & 07777, 0711);
}

static void a_strangers_process_with_our_command_line_is_not_adopted(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    struct service s = {.name = "agent", .argv = {"/bin/sleep", "47.1147"}};
    struct mt_spawn sp = {.path = "/bin/sleep", .argv = s.argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .uid = 65534, .gid = 65534, .set_ids = true};
    pid_t stranger, ours;
    mt_auto_fd int a = -1;
    mt_auto_fd int b = -1;
    assert_int_equal(mt_spawn(&sp, &stranger, &a, NULL), 0);
    pid_t alone = service_find(&s);
    sp.set_ids = false;
    assert_int_equal(mt_spawn(&sp, &ours, &b, NULL), 0);
    pid_t both = service_find(&s);
    (void)mt_pidfd_kill(a, SIGKILL, NULL);
    (void)mt_pidfd_kill(b, SIGKILL, NULL);
    (void)mt_pidfd_wait(a, 1000, NULL, NULL);
    (void)mt_pidfd_wait(b, 1000, NULL, NULL);
    assert_int_equal(alone, 0);
    assert_int_equal(both, ours);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_tamed_before_they_are_shown),
        cmocka_unit_test(an_error_is_one_json_document_whatever_it_quotes),
        cmocka_unit_test(a_data_folder_is_named_in_plain_characters),
        cmocka_unit_test(folders_are_not_made_through_links),
        cmocka_unit_test(a_strangers_process_with_our_command_line_is_not_adopted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
