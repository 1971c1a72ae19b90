/* SPDX-License-Identifier: Apache-2.0 */
/* The host checks of runtime.md §22: a host that is right, then each fact made wrong alone. One row says so and names a command; no other moves. */
#include "agent/hostcheck.h"

#include "base/str.h"
#include "os/file.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct {
    char dir[64], proc[96], sys[96], swaps[160], forwarding[256], passwd[96], group[96], programs[96], jail[96], images[96], tun[96];
    struct mt_hostcheck h;
} t;

static void put(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    (void)close(fd);
}

static void program(const char *name)
{
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", t.programs, name);
    put(path, "", 0755);
}

static void sysfile(const char *dir, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", t.sys, dir);
    assert_int_equal(mt_file_mkdirs(path, 0755, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/%s/%s", t.sys, dir, name);
    put(path, text, 0644);
}

static int setup(void **s)
{
    char path[192];
    (void)s;
    (void)snprintf(t.dir, sizeof t.dir, "/tmp/mt-hostcheck-XXXXXX");
    if (!mkdtemp(t.dir))
        return -1;
    (void)snprintf(t.proc, sizeof t.proc, "%s/proc", t.dir);
    (void)snprintf(t.sys, sizeof t.sys, "%s/sys", t.dir);
    (void)snprintf(t.swaps, sizeof t.swaps, "%s/swaps", t.proc);
    (void)snprintf(t.images, sizeof t.images, "%s/images", t.dir);
    (void)snprintf(t.tun, sizeof t.tun, "%s/tun", t.dir);
    (void)snprintf(t.passwd, sizeof t.passwd, "%s/passwd", t.dir);
    (void)snprintf(t.group, sizeof t.group, "%s/group", t.dir);
    (void)snprintf(t.programs, sizeof t.programs, "%s/bin", t.dir);
    (void)snprintf(t.jail, sizeof t.jail, "%s/jail", t.dir);
    (void)snprintf(path, sizeof path, "%s/sys/net/ipv6/conf/all", t.proc);
    (void)snprintf(t.forwarding, sizeof t.forwarding, "%s/forwarding", path);
    if (mt_file_mkdirs(path, 0755, NULL) < 0 || mkdir(t.programs, 0755) < 0 || mkdir(t.jail, 0755) < 0 || mkdir(t.images, 0755) < 0)
        return -1;
    put(t.tun, "", 0600);
    sysfile("kernel/mm/ksm", "run", "0\n");
    sysfile("devices/system/cpu/smt", "active", "0\n");
    put(t.swaps, "Filename\tType\tSize\tUsed\tPriority\n", 0644);
    put(t.forwarding, "1\n", 0644);
    /* neighbours of the range, a name that looks like a number of ours, a line cut short */
    put(t.passwd, "root:x:0:0:root:/root:/bin/sh\nlow:x:199999:1:::\nhigh:x:265536:1:::\n200001:x:7:7:::\nodd\n", 0644);
    put(t.group, "root:x:0:\nlow:x:199999:\nhigh:x:265536:low\n", 0644);
    program("mkfs.ext4");
    program("e2fsck");
    program("resize2fs");
    program("nft");
    t.h = (struct mt_hostcheck){.proc = t.proc, .sys = t.sys, .passwd = t.passwd, .group = t.group, .tun = t.tun, .data_dir = t.dir, .jail_dir = t.jail,
                                .linked = {t.images, t.dir, NULL}, .release = "6.1.0-31-cloud-amd64", .e2fs_version = "1.47.0", .openat2 = true, .cgroups = 2,
                                .needs_v2 = true, .programs = t.programs, .forwards = true, .nofile = 1048576, .skew_ms = -1000, .strict = 2};
    return 0;
}

static int teardown(void **s)
{
    (void)s;
    return mt_file_remove_tree(AT_FDCWD, t.dir, NULL);
}

/* The one row that is not ok is @check, at @level, with @word in what was found and a command that begins so. NULL: all are ok. */
static void only(const char *check, int level, const char *word, const char *command)
{
    struct mt_hostcheck_row r[MT_HOSTCHECK_ROWS];
    bool seen = !check;
    mt_hostcheck(&t.h, r);
    for (size_t i = 0; i < MT_HOSTCHECK_ROWS; i++) {
        bool it = check && MT_STREQ(r[i].check, check);
        if (r[i].level != (it ? level : 0))
            fail_msg("%s has level %d: %s", r[i].check, r[i].level, r[i].finding);
        if (it && (!strstr(r[i].finding, word) || strncmp(r[i].mend, command, strlen(command)) != 0))
            fail_msg("%s says '%s', '%s'", r[i].check, r[i].finding, r[i].mend);
        seen |= it;
    }
    assert_true(seen);
}

static void a_host_that_is_right(void **s)
{
    static const char *const good[] = {"6.1", "6.12.117+deb12", "7.0.0"};
    (void)s;
    for (size_t i = 0; i < 3; i++) {
        t.h.release = good[i];
        only(NULL, 0, NULL, NULL);
    }
}

static void each_thing_alone(void **s)
{
    static const char *const old[] = {"6.0.19", "5.10.0-33-amd64", "next"}, *const programs[] = {"mkfs.ext4", "e2fsck", "resize2fs", "nft"};
    char path[160];
    (void)s;
    for (size_t i = 0; i < 3; i++) {
        t.h.release = old[i];
        only("agent.kernel", 2, old[i], "apt-get install linux-image");
    }
    t.h.release = "6.1";
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", t.programs, programs[i]);
        assert_int_equal(unlink(path), 0);
        only(i < 3 ? "agent.e2fsprogs" : "agent.nftables", 2, programs[i], i < 3 ? "apt-get install e2fsprogs" : "apt-get install nftables");
        program(programs[i]);
    }
    t.h.overlay_clash = "fd00:1:2:9::/64 dev eth1";
    only("agent.overlay", 2, "fd00:1:2:9::/64 dev eth1", "ip -6 route");
    t.h.overlay_clash = "";
    put(t.forwarding, "0\n", 0644);
    only("agent.forwarding", 2, "off", "sysctl -w net.ipv6.conf.all.forwarding=1");
    t.h.forwards = false; /* one machine alone */
    only(NULL, 0, NULL, NULL);
    t.h.forwards = true;
    assert_int_equal(unlink(t.forwarding), 0);
    only("agent.forwarding", 2, "no IPv6", "boot without");
    put(t.forwarding, "1\n", 0644);
    t.h.jail_dir = "/proc/self/nothing";
    only("agent.mounts", 2, "cannot be read", "mount -o remount,dev,exec");
    t.h.jail_dir = t.jail;
    if (unshare(CLONE_NEWNS) == 0) { /* root: a mount that ends with this process */
        const unsigned long flags[] = {MS_NODEV, MS_NOEXEC};
        t.h.linked[0] = NULL; /* a filesystem of its own */
        assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        for (size_t i = 0; i < 2; i++) {
            assert_int_equal(mount("none", t.jail, "tmpfs", flags[i], NULL), 0);
            only("agent.mounts", 2, i == 0 ? "nodev" : "noexec", "mount -o remount,dev,exec");
            assert_int_equal(umount(t.jail), 0);
        }
        t.h.linked[0] = t.images;
    }
    put(t.passwd, "root:x:0:0::/:/bin/sh\nbuild:x:200000:1::/:/bin/sh", 0644);
    only("agent.uids", 2, "user 'build' has the number 200000", "usermod -u");
    put(t.passwd, "root:x:0:0::/:/bin/sh\n", 0644);
    put(t.group, "root:x:0:\nteam:x:265535\n", 0644);
    only("agent.uids", 2, "group 'team' has the number 265535", "usermod -u");
    put(t.group, "root:x:0:\n", 0644);
    t.h.skew_ms = 1001;
    only("agent.clock", 1, "1001 ms", "systemctl restart systemd-timesyncd");
    t.h.skew_ms = -5000;
    only("agent.clock", 1, "-5000 ms", "systemctl restart systemd-timesyncd");
    t.h.skew_ms = 5001;
    only("agent.clock", 2, "5001 ms", "systemctl restart systemd-timesyncd");
    t.h.skew_ms = -5001;
    only("agent.clock", 2, "-5001 ms", "systemctl restart systemd-timesyncd");
    t.h.skew_ms = 0;
    t.h.nofile = 65536;
    only("agent.nofile", 2, "65536", "systemctl edit moat-agent");
    t.h.nofile = 1048576;
    static const char *const old_tools[] = {"1.45.6", "1.9", "0.5"}, *const good_tools[] = {"1.46.0", "2.0", ""};
    for (size_t i = 0; i < 3; i++) {
        t.h.e2fs_version = old_tools[i];
        only("agent.e2fsprogs", 2, old_tools[i], "apt-get install e2fsprogs");
        t.h.e2fs_version = good_tools[i];
        only(NULL, 0, NULL, NULL);
    }
    t.h.openat2 = false;
    only("agent.openat2", 2, "refused", "let it through");
    t.h.openat2 = true;
    t.h.cgroups = 0;
    only("agent.cgroups", 2, "no controllers", "boot with");
    t.h.cgroups = 1;
    only("agent.cgroups", 2, "v1", "boot with");
    t.h.needs_v2 = false; /* QEMU does with it */
    only("agent.cgroups", 1, "v1", "boot with");
    t.h.cgroups = -1;
    only("agent.cgroups", 1, "not known", "boot with");
    t.h.cgroups = 2;
    (void)snprintf(path, sizeof path, "%s/self", t.proc);
    assert_int_equal(mt_file_mkdirs(path, 0755, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/self/mounts", t.proc);
    put(path, "none / tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate,memory_recursiveprot 0 0\n", 0644);
    only("agent.cgroups", 1, "without favordynmods", "mount -o remount,favordynmods");
    t.h.strict = 1; /* somebody's own machine: how quick it is, is his */
    only(NULL, 0, NULL, NULL);
    t.h.strict = 2;
    put(path, "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate,favordynmods,memory_recursiveprot 0 0\n", 0644);
    only(NULL, 0, NULL, NULL);
    t.h.tun = "/proc/self/nothing";
    only("agent.tun", 2, "cannot be opened", "modprobe tun");
    t.h.tun = t.tun;
    t.h.linked[1] = "/proc/self";
    only("agent.folders", 2, "'/proc/self'", "jail_dir");
    t.h.linked[1] = "/proc/self/nothing";
    only("agent.folders", 2, "nothing", "jail_dir");
    t.h.linked[1] = NULL;
    sysfile("kernel/mm/ksm", "run", "1\n");
    only("agent.ksm", 2, "KSM is on", "echo 2 >");
    sysfile("kernel/mm/ksm", "run", "2\n"); /* stopped, and what was merged is apart again */
    only(NULL, 0, NULL, NULL);
    sysfile("devices/system/cpu/smt", "active", "1\n");
    only("agent.smt", 2, "SMT is on", "echo off >");
}

/* Swap in the clear, in a file or on a disk; a mapped one without a key; then what no disk can give away. */
static void swap_is_off_or_sealed(void **s)
{
    char text[512], path[160], disk[96], crypt[96], other[96], zram[96];
    (void)s;
    const struct {
        char *path;
        const char *name;
    } made[] = {{disk, "sda2"}, {crypt, "dm-0"}, {other, "dm-1"}, {zram, "zram0"}};
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(made[i].path, 96, "%s/%s", t.dir, made[i].name);
        put(made[i].path, "", 0644);
    }
    sysfile("block/dm-0/dm", "uuid", "CRYPT-PLAIN-swap\n");
    sysfile("block/dm-1/dm", "uuid", "LVM-0123\n");
    sysfile("block/zram0", "backing_dev", "none\n");
    (void)snprintf(path, sizeof path, "%s/mapped", t.dir);
    assert_int_equal(symlink("dm-0", path), 0);
    const struct {
        const char *device;
        bool sealed;
    } rows[] = {{disk, false}, {crypt, true}, {other, false}, {zram, true}, {path, true}, {"/swapfile\\040x", false}};
    for (size_t i = 0; i < 6; i++) {
        (void)snprintf(text, sizeof text, "Filename\tType\tSize\tUsed\tPriority\n%s\tpartition\t1\t0\t-1\n%s   file\t1\t0\t-1\n", crypt, rows[i].device);
        put(t.swaps, text, 0644);
        if (rows[i].sealed)
            only(NULL, 0, NULL, NULL);
        else
            only("agent.swap", 2, rows[i].device, "swapoff -a");
    }
    sysfile("block/zram0", "backing_dev", "/dev/sda3\n");
    (void)snprintf(text, sizeof text, "Filename\n%s\tpartition\n", zram);
    put(t.swaps, text, 0644);
    only("agent.swap", 2, "zram0", "swapoff -a");
}

/* What only matters between strangers warns on somebody's own machine, and where the operator says that he accepts it; nothing else does. */
static void what_may_be_accepted(void **s)
{
    static const char *const may[] = {"swap", "ksm", "smt", "inodes", "nofile"}, *const not[] = {"kernel", "uids", "clock", "tun", "agent.smt", "host_smt", ""};
    char *one[] = {(char *)(uintptr_t) "smt"}, *two[] = {(char *)(uintptr_t) "swap", (char *)(uintptr_t) "nofile"};
    (void)s;
    for (size_t i = 0; i < 5; i++)
        assert_true(mt_hostcheck_may_accept(may[i]));
    for (size_t i = 0; i < 7; i++)
        assert_false(mt_hostcheck_may_accept(not[i]));
    t.h.nofile = 65536;
    t.h.accepted = one;
    t.h.n_accepted = 1;
    only("agent.nofile", 2, "65536", "systemctl edit moat-agent");
    t.h.accepted = two;
    t.h.n_accepted = 2;
    only("agent.nofile", 1, "65536", "systemctl edit moat-agent");
    t.h.n_accepted = 0;
    t.h.strict = 1;
    only("agent.nofile", 1, "65536", "systemctl edit moat-agent");
    t.h.nofile = 1048576;
    put(t.passwd, "build:x:200000:1::/:/bin/sh\n", 0644);
    only("agent.uids", 2, "200000", "usermod -u");
    put(t.passwd, "", 0644);
    t.h.skew_ms = 5001;
    only("agent.clock", 2, "5001 ms", "systemctl restart");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_host_that_is_right, setup, teardown),
        cmocka_unit_test_setup_teardown(each_thing_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(swap_is_off_or_sealed, setup, teardown),
        cmocka_unit_test_setup_teardown(what_may_be_accepted, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
