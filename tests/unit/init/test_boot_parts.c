/* SPDX-License-Identifier: Apache-2.0 */
/* Small pieces of moat-init: kernel command line, /etc files, figures, hash, what a config may ask. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "init/secrets.h"
#include "init/volumes.h"
#include "init/boot.h"
#include "init/cmdline.h"
#include "init/etc.h"
#include "init/readfile.h"
#include "init/sha256.h"
#include "base/clock.h"
#include "init/pressure.h"
#include "init/stats.h"

static void command_line_is_parsed_strictly(void **state)
{
    (void)state;
    struct mt_cmdline c;
    struct mt_err err = {0};
    assert_int_equal(mt_cmdline_parse("console=ttyS0 quiet moat.instance=inst_01 moat.boot=boot-2\tmoat.proto=3\n", &c, &err), 0);
    assert_string_equal(c.instance_id, "inst_01");
    assert_string_equal(c.boot_id, "boot-2");
    assert_int_equal(c.proto, 3);
    assert_int_equal(mt_cmdline_parse("moat.instance=a moat.instance=b moat.boot=c", &c, &err), 0);
    assert_string_equal(c.instance_id, "b");
    assert_int_equal(c.proto, 1);
    static const char *const bad[] = {"", "moat.instance=a", "moat.boot=a", "moat.instance= moat.boot=b", "moat.instance=a/b moat.boot=b",
                                      "moat.instance=a moat.boot=b moat.proto=0", "moat.instance=a moat.boot=b moat.proto=x",
                                      "moat.instance=a moat.boot=b moat.proto=123456789", "-- moat.instance=a moat.boot=b",
                                      "xmoat.instance=a moat.boot=b", "moat.instance moat.boot=b",
                                      "moat.boot=b moat.instance=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (mt_cmdline_parse(bad[i], &c, &err) != -MT_E_INVALID)
            fail_msg("accepted '%s'", bad[i]);
}

static void hash_matches_the_standard(void **state)
{
    (void)state;
    char hex[65], long_text[1000];
    mt_sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    mt_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    mt_sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    memset(long_text, 'a', sizeof long_text); /* printf 'a%.0s' $(seq 1000) | sha256sum */
    mt_sha256_hex(long_text, sizeof long_text, hex);
    assert_string_equal(hex, "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
}

static void figures_are_read_from_proc_text(void **state)
{
    (void)state;
    static const char mem[] = "MemTotal:        2028 kB\nMemFree: 1 kB\nMemAvailable:   77 kB\n";
    static const char vm[] = "oom_killer 5\nxoom_kill 4\noom_kill 3\n";
    assert_int_equal(mt_stats_value(mem, "MemTotal:"), 2028);
    assert_int_equal(mt_stats_value(mem, "MemAvailable:"), 77);
    assert_int_equal(mt_stats_value(mem, "Swap:"), 0);
    assert_int_equal(mt_stats_value(vm, "oom_kill"), 3);
    assert_int_equal(mt_stats_value("", "oom_kill"), 0);
    assert_int_equal(mt_stats_milli("0.52 0.1 0.2 1/80 77"), 520);
    assert_int_equal(mt_stats_milli("12.345"), 12345);
    assert_int_equal(mt_stats_milli("3"), 0);
    struct mt_stats s;
    struct mt_guest_pong pong = {0};
    mt_stats_open(&s, "/proc", "/");
    mt_stats_fill(&s, &pong);
    assert_true(pong.mem_total_bytes > pong.mem_available_bytes && pong.mem_available_bytes > 0 && pong.procs > 0);
    mt_stats_done(&s);
}

static void the_oom_killer_is_called_when_all_wait_and_nothing_is_left(void **state)
{
    (void)state;
    enum { TOTAL = 64 << 20, NONE = 300 << 10 };
    const int64_t window = MT_PRESSURE_WINDOW_MS * MT_NS_PER_MS;
    struct mt_pressure p = {.fd = -1, .kill_fd = -1};
    assert_false(mt_pressure_count(&p, TOTAL, NONE, window));
    assert_true(mt_pressure_count(&p, TOTAL, NONE, 2 * window));
    assert_false(mt_pressure_count(&p, TOTAL, NONE, 3 * window)); /* it counts anew */
    assert_false(mt_pressure_count(&p, TOTAL, 28 << 20, 4 * window)); /* stalled by writing, with a cache that can shrink */
    assert_false(mt_pressure_count(&p, TOTAL, NONE, 5 * window));
    assert_false(mt_pressure_count(&p, TOTAL, NONE, 20 * window)); /* long ago */
    assert_true(mt_pressure_count(&p, TOTAL, NONE, 21 * window));
    assert_int_equal(mt_pressure_open(&p, "/nowhere"), -1); /* a kernel that does not tell */
    assert_true(p.fd == -1 && p.kill_fd == -1);
}

/* --- /etc --- */

static char dir[] = "/tmp/moat-etc-XXXXXX";
static int dir_fd = -1;

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    static const char *const names[] = {"resolv.conf", "hosts", "hostname", "elsewhere"};
    for (size_t i = 0; i < 4; i++)
        (void)unlinkat(dir_fd, names[i], 0);
    (void)close(dir_fd);
    return rmdir(dir);
}

static void put(const char *name, const char *text)
{
    (void)unlinkat(dir_fd, name, 0);
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
}

static void assert_file(const char *name, const char *text)
{
    char path[64], got[4096];
    size_t len;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(mt_readfile(path, got, sizeof got, &len, NULL), 0);
    assert_string_equal(got, text);
}

static const char *dns[] = {"fd00::53", "10.0.0.53", NULL}, *search[] = {"a.internal", "b.internal", NULL};
static struct mt_guest_host hosts[] = {{"db", "fd00::9"}, {"cache", "fd00::a"}};

static void etc_files_are_written(void **state)
{
    (void)state;
    const struct mt_guest_network n = {.address = "fd00::2", .dns = dns, .dns_count = 2, .search = search, .search_count = 2,
                                       .hosts = hosts, .hosts_count = 2};
    struct mt_err err = {0};
    struct stat st;
    assert_int_equal(mt_etc_write(dir_fd, "web-1", &n, &err), 0);
    assert_file("hostname", "web-1\n");
    assert_file("resolv.conf", "nameserver fd00::53\nnameserver 10.0.0.53\nsearch a.internal b.internal\noptions timeout:2 attempts:3\n");
    assert_file("hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfd00::2\tweb-1\nfd00::9\tdb\nfd00::a\tcache\n");
    assert_int_equal(fstatat(dir_fd, "hosts", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
    assert_int_equal(mt_etc_write(dir_fd, "web-1", &n, &err), 0); /* twice gives the same */
    assert_file("hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfd00::2\tweb-1\nfd00::9\tdb\nfd00::a\tcache\n");
}

static void a_symlink_is_replaced_not_followed(void **state)
{
    (void)state;
    const struct mt_guest_network n = {.address = "fd00::2", .dns = dns, .dns_count = 1};
    struct stat st;
    put("elsewhere", "untouched");
    (void)unlinkat(dir_fd, "resolv.conf", 0);
    (void)unlinkat(dir_fd, "hosts", 0);
    assert_int_equal(symlinkat("elsewhere", dir_fd, "resolv.conf"), 0);
    assert_int_equal(symlinkat("elsewhere", dir_fd, "hosts"), 0);
    assert_int_equal(mt_etc_write(dir_fd, "h", &n, NULL), 0);
    assert_file("elsewhere", "untouched");
    assert_int_equal(fstatat(dir_fd, "resolv.conf", &st, AT_SYMLINK_NOFOLLOW), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_file("hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfd00::2\th\n");
}

static void without_dns_the_images_resolver_stays(void **state)
{
    (void)state;
    const struct mt_guest_network n = {.address = "fd00::2"};
    put("resolv.conf", "nameserver 9.9.9.9\n");
    assert_int_equal(mt_etc_write(dir_fd, "h", &n, NULL), 0);
    assert_file("resolv.conf", "nameserver 9.9.9.9\n");
}

static void a_customised_hosts_file_keeps_its_lines(void **state)
{
    (void)state;
    const struct mt_guest_network n = {.address = "fd00::2", .hosts = hosts, .hosts_count = 2};
    put("hosts", "127.0.0.1 localhost\n10.1.1.1 legacy db # db too\n#fd00::2 web");
    assert_int_equal(mt_etc_write(dir_fd, "web", &n, NULL), 0);
    assert_file("hosts", "127.0.0.1 localhost\n10.1.1.1 legacy db # db too\n#fd00::2 web\nfd00::2\tweb\nfd00::a\tcache\n");
    put("hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\n");
    assert_int_equal(mt_etc_write(dir_fd, "web", &n, NULL), 0);
    assert_file("hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfd00::2\tweb\nfd00::9\tdb\nfd00::a\tcache\n");
}

static void features_that_are_absent_are_refused(void **state)
{
    (void)state;
    static const char *features[] = {"teleport", NULL};
    const struct mt_cmdline here = {.instance_id = "i", .boot_id = "b"};
    const struct mt_guest_config fine = {.instance_id = "i", .boot_id = "b"};
    struct mt_guest_config rows[] = {fine, fine, fine, fine};
    static const char *const want[][2] = {{"config_fetch_failed", "parse: "},
                                          {"config_fetch_failed", "parse: "},
                                          {"config_fetch_failed", "unknown_feature: teleport"},
                                          {"secrets_missing", ""}};
    rows[0].instance_id = "other";
    rows[1].boot_id = "older";
    rows[2].required_features = features;
    rows[2].required_features_count = 1;
    rows[3].secrets.required = true;
    struct mt_boot_failure f;
    assert_int_equal(mt_boot_accept(&fine, &here, &f), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(mt_boot_accept(&rows[i], &here, &f), -1);
        assert_string_equal(f.reason, want[i][0]);
        assert_memory_equal(f.detail, want[i][1], strlen(want[i][1]));
    }
}

static void no_link_is_followed_to_a_mount_point(void **state)
{
    (void)state;
    char folder[] = "/tmp/moat-test-target-XXXXXX";
    struct stat st;
    assert_non_null(mkdtemp(folder));
    int root = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    assert_true(root >= 0);
    assert_int_equal(mt_volumes_open_target(root, "/srv/new/data", &fd, NULL), 0);
    assert_int_equal(fstatat(root, "srv/new/data", &st, AT_SYMLINK_NOFOLLOW), 0);
    assert_int_equal(st.st_mode & 07777, 0755);
    (void)close(fd);
    int inner = openat(root, "srv/new/data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(mt_volumes_empty(inner));
    assert_int_equal(mkdirat(inner, "lost+found", 0700), 0);
    assert_true(mt_volumes_empty(inner));
    assert_int_equal(symlinkat("/etc", inner, "out"), 0);
    assert_false(mt_volumes_empty(inner));
    assert_int_equal(symlinkat("new", inner, "near"), 0);
    assert_int_equal(mt_volumes_open_target(root, "/srv/new/data/out", &fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_volumes_open_target(root, "/srv/new/data/out/x", &fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_volumes_open_target(root, "/srv/new/data/near/x", &fd, NULL), -MT_E_INVALID);
    assert_int_equal(mt_volumes_open_target(root, "/srv/new/../../etc", &fd, NULL), -MT_E_INVALID);
    static const struct {
        const char *name;
        int flags;
    } made[] = {{"srv/new/data/out", 0}, {"srv/new/data/near", 0}, {"srv/new/data/lost+found", AT_REMOVEDIR}, {"srv/new/data", AT_REMOVEDIR},
                {"srv/new", AT_REMOVEDIR}, {"srv", AT_REMOVEDIR}};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        assert_int_equal(unlinkat(root, made[i].name, made[i].flags), 0);
    (void)close(inner);
    (void)close(root);
    assert_int_equal(rmdir(folder), 0);
}

static void only_the_announced_secrets_become_the_file(void **state)
{
    (void)state;
    char folder[] = "/tmp/moat-test-secrets-XXXXXX", sha[65];
    char good[] = "QT0xCg==", spoilt[] = "QT0xC*==", other[] = "QT0yCg=="; /* decoded in place */
    assert_non_null(mkdtemp(folder));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    mt_sha256_hex("A=1\n", 4, sha);
    const struct mt_guest_secrets config = {.present = true, .version_id = "sv_1", .sha256 = sha, .bytes = 4, .mode = 0440,
                                            .uid = UINT32_MAX, .gid = UINT32_MAX};
    const struct mt_user owner = {.uid = getuid(), .gid = getgid()};
    struct mt_guest_secrets_data rows[] = {{"sv_2", good, sha}, {"sv_1", spoilt, sha}, {"sv_1", other, sha}, {"sv_1", good, sha}};
    static const char *const want[] = {"format_invalid", "format_invalid", "hash_mismatch"};
    const char *what;
    struct mt_err err;
    struct stat st;
    for (size_t i = 0; i < 3; i++) {
        assert_true(mt_secrets_put(fd, &config, &rows[i], &owner, &what, &err) < 0);
        assert_string_equal(what, want[i]);
        assert_int_equal(fstatat(fd, "platform.env", &st, 0), -1);
    }
    assert_int_equal(mt_secrets_put(fd, &config, &rows[3], &owner, &what, &err), 0);
    assert_int_equal(fstatat(fd, "platform.env", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0440);
    assert_int_equal(st.st_size, 4);
    assert_int_equal(unlinkat(fd, "platform.env", 0), 0);
    (void)close(fd);
    assert_int_equal(rmdir(folder), 0); /* and no temporary is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_link_is_followed_to_a_mount_point),
        cmocka_unit_test(only_the_announced_secrets_become_the_file),
        cmocka_unit_test(command_line_is_parsed_strictly),
        cmocka_unit_test(hash_matches_the_standard),
        cmocka_unit_test(figures_are_read_from_proc_text),
        cmocka_unit_test(the_oom_killer_is_called_when_all_wait_and_nothing_is_left),
        cmocka_unit_test(etc_files_are_written),
        cmocka_unit_test(a_symlink_is_replaced_not_followed),
        cmocka_unit_test(without_dns_the_images_resolver_stays),
        cmocka_unit_test(a_customised_hosts_file_keeps_its_lines),
        cmocka_unit_test(features_that_are_absent_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
