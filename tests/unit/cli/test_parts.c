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

static const char *vm_dns(const char *first, const char *second, struct mt_buf *b)
{
    char dir[] = "/tmp/moat-test-cli-XXXXXX", one[64], two[64];
    const char *const files[] = {one, two};
    assert_non_null(mkdtemp(dir));
    (void)snprintf(one, sizeof one, "%s/one", dir);
    (void)snprintf(two, sizeof two, "%s/two", dir);
    assert_true(!first || mt_file_write(one, first, strlen(first), 0644, NULL) == 0);
    assert_true(!second || mt_file_write(two, second, strlen(second), 0644, NULL) == 0);
    mt_buf_reset(b);
    up_name_servers(files, 2, b);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, dir, NULL), 0);
    return mt_buf_cstr(b);
}

static void vms_are_told_the_machines_name_servers_that_they_can_reach(void **state)
{
    (void)state;
    static const struct {
        const char *first, *second, *line;
    } rows[] = {
        {"nameserver 2606:4700:4700::1111\n", "nameserver 2620:fe::fe\n", "vm_dns = [\"2606:4700:4700::1111\"]\n"},
        {"# none\nsearch x\nnameserver 192.168.1.1\nnameserver 127.0.0.53\n", "nameserver 2620:fe::fe\n", "vm_dns = [\"2620:fe::fe\"]\n"},
        {NULL, "  nameserver\t2620:fe::fe extra\nnameserver 2620:fe::9", "vm_dns = [\"2620:fe::fe\", \"2620:fe::9\"]\n"},
        {"nameserver 2620:fe::1\nnameserver 2620:fe::2\nnameserver 2620:fe::3\nnameserver 2620:fe::4\n", NULL, "vm_dns = [\"2620:fe::1\", \"2620:fe::2\", \"2620:fe::3\"]\n"},
        /* what no VM may send to: its own network, links, documentation, tunnels, IPv4 in disguise */
        {"nameserver fd00::53\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver 2001:db8::53\nnameserver 2002:c000:204::1\nnameserver ::ffff:8.8.8.8\nnameserver 64:ff9b::808:808\n", "", ""},
        {"nameserver 2606:4700:4700::1111\"]\\nlisten_api = [\"x\n", NULL, "vm_dns = [\"2606:4700:4700::1111\"]\n"}, /* nothing of a line but an address */
        {"nameserver 2606:4700:4700::11111111111111111111111111111111111\nnameserver\nnameserver nowhere\n", NULL, ""},
        {NULL, NULL, ""},
    };
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1024);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_string_equal(vm_dns(rows[i].first, rows[i].second, &b), rows[i].line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_tamed_before_they_are_shown),
        cmocka_unit_test(an_error_is_one_json_document_whatever_it_quotes),
        cmocka_unit_test(a_data_folder_is_named_in_plain_characters),
        cmocka_unit_test(folders_are_not_made_through_links),
        cmocka_unit_test(vms_are_told_the_machines_name_servers_that_they_can_reach),
        cmocka_unit_test(a_strangers_process_with_our_command_line_is_not_adopted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
