/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v1 and v2 on a scratch folder that a made-up mount table points to. */
#include "os/cgroup.h"

#include "os/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static void write_text(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void write_text(const char *name, const char *fmt, ...)
{
    char path[256], text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void assert_text(const char *name, const char *want)
{
    char path[256], *got = NULL;
    size_t len;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    if (mt_file_read(path, 4096, &got, &len, NULL) < 0)
        fail_msg("%s is missing", name);
    assert_string_equal(got, want);
    free(got);
}

static bool exists(const char *name)
{
    char path[256];
    struct stat st;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &st) == 0;
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/moat-cgroup-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return mt_file_remove_tree(-100 /* AT_FDCWD */, dir, NULL);
}

static void make(const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(mt_file_mkdirs(path, 0755, NULL), 0);
}

static void open_v2(struct mt_cgroup_host *h)
{
    char table[128];
    make("v2");
    write_text("v2/cgroup.controllers", "cpuset cpu io memory pids\n");
    write_text("mounts",
               "24 1 0:22 / /proc rw - proc proc rw\n"
               "31 25 0:27 / %s/elsewhere rw shared:6 - cgroup cgroup rw,freezer\n"
               "30 25 0:26 / %s/v2 rw,nosuid shared:5 master:1 - cgroup2 cgroup2 rw,nsdelegate\n", dir, dir);
    (void)snprintf(table, sizeof table, "%s/mounts", dir);
    assert_int_equal(mt_cgroup_open(h, table, "moat.slice/instances", NULL), 0);
    assert_int_equal(h->version, 2);
}

static void open_v1(struct mt_cgroup_host *h)
{
    char table[128];
    make("cpu and acct");
    make("memory");
    make("pids");
    make("freezer");
    make("unified");
    write_text("unified/cgroup.controllers", "hugetlb\n"); /* mounted, but without what we need */
    write_text("mounts",
               "30 25 0:26 / %s/unified rw - cgroup2 cgroup2 rw\n"
               "31 25 0:27 / %s/cpu\\040and\\040acct rw shared:6 - cgroup cgroup rw,cpu,cpuacct\n"
               "32 25 0:28 / %s/memory rw - cgroup cgroup rw,memory\n"
               "33 25 0:29 / %s/pids rw - cgroup cgroup rw,pids\n"
               "34 25 0:30 / %s/freezer rw - cgroup cgroup rw,freezer\n"
               "35 25 0:31 / %s/systemd rw - cgroup cgroup rw,xattr,name=systemd\n", dir, dir, dir, dir, dir, dir);
    (void)snprintf(table, sizeof table, "%s/mounts", dir);
    assert_int_equal(mt_cgroup_open(h, table, "moat.slice/instances", NULL), 0);
    assert_int_equal(h->version, 1);
}

static const struct mt_cgroup_limits limits = {.memory_bytes = UINT64_C(224) << 20, .cpu_weight = 100, .pids_max = 128};

static void v2_gets_every_limit_and_enables_controllers_above(void **state)
{
    struct mt_cgroup_host h;
    (void)state;
    open_v2(&h);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    assert_text("v2/moat.slice/instances/vm-1/memory.max", "234881024");
    assert_text("v2/moat.slice/instances/vm-1/memory.swap.max", "0");
    assert_text("v2/moat.slice/instances/vm-1/memory.oom.group", "1");
    assert_text("v2/moat.slice/instances/vm-1/cpu.weight", "100");
    assert_text("v2/moat.slice/instances/vm-1/pids.max", "128");
    assert_text("v2/moat.slice/instances/vm-1/io.weight", "100");
    assert_true(exists("v2/cgroup.subtree_control"));
    assert_true(exists("v2/moat.slice/cgroup.subtree_control"));
    assert_true(exists("v2/moat.slice/instances/cgroup.subtree_control"));
    assert_false(exists("v2/moat.slice/instances/vm-1/cgroup.subtree_control")); /* processes live here */
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);            /* again is harmless */
}

static void v1_gets_shares_and_limit_in_its_own_hierarchies(void **state)
{
    static const struct {
        uint32_t weight;
        const char *shares;
    } t[] = {{1, "2"}, {100, "2597"}, {10000, "262144"}};
    struct mt_cgroup_host h;
    (void)state;
    open_v1(&h);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct mt_cgroup_limits l = limits;
        l.cpu_weight = t[i].weight;
        assert_int_equal(mt_cgroup_create(&h, "vm-1", &l, NULL), 0);
        assert_text("cpu and acct/moat.slice/instances/vm-1/cpu.shares", t[i].shares);
    }
    assert_text("memory/moat.slice/instances/vm-1/memory.limit_in_bytes", "234881024");
    assert_text("pids/moat.slice/instances/vm-1/pids.max", "128");
    assert_true(exists("freezer/moat.slice/instances/vm-1"));
    assert_false(exists("unified/moat.slice"));
    assert_false(exists("memory/moat.slice/instances/vm-1/cpu.shares"));
}

static void joining_goes_into_each_hierarchy_once(void **state)
{
    struct mt_cgroup_host h;
    int fd[MT_CGROUP_JOIN_MAX];
    size_t n;
    (void)state;
    open_v1(&h);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    assert_int_equal(mt_cgroup_join_fds(&h, "vm-1", fd, &n, NULL), -MT_E_IO); /* no cgroup.procs yet */
    write_text("cpu and acct/moat.slice/instances/vm-1/cgroup.procs", "%s", "");
    write_text("memory/moat.slice/instances/vm-1/cgroup.procs", "%s", "");
    write_text("pids/moat.slice/instances/vm-1/cgroup.procs", "%s", "");
    write_text("freezer/moat.slice/instances/vm-1/cgroup.procs", "%s", "");
    assert_int_equal(mt_cgroup_join_fds(&h, "vm-1", fd, &n, NULL), 0);
    assert_int_equal(n, 4); /* cpu and cpuacct are one mount */
    for (size_t i = 0; i < n; i++)
        (void)close(fd[i]);
    assert_int_equal(mt_cgroup_join(&h, "vm-1", 4711, NULL), 0);
    assert_text("memory/moat.slice/instances/vm-1/cgroup.procs", "4711");
    assert_text("cpu and acct/moat.slice/instances/vm-1/cgroup.procs", "4711");
}

static void v2_work_gives_way_beside_the_vms(void **state)
{
    struct mt_cgroup_host h;
    char procs[MT_CGROUP_PATH * 2], want[MT_CGROUP_PATH * 2];
    (void)state;
    open_v2(&h);
    assert_int_equal(mt_cgroup_work(&h, "work", MT_CGROUP_YIELD_WHOLLY, true, procs, NULL), 0);
    (void)snprintf(want, sizeof want, "%s/v2/moat.slice/work.instances/cgroup.procs", dir);
    assert_string_equal(procs, want);
    assert_text("v2/moat.slice/work.instances/cpu.idle", "1");
    assert_text("v2/moat.slice/work.instances/cpu.weight", "1");
    assert_text("v2/moat.slice/work.instances/cpu.max", "100000 100000");
    assert_text("v2/moat.slice/work.instances/io.weight", "1");
    assert_true(exists("v2/moat.slice/cgroup.subtree_control"));
    assert_false(exists("v2/moat.slice/work.instances/cgroup.subtree_control")); /* processes live here */
    assert_int_equal(mt_cgroup_work(&h, "work", MT_CGROUP_YIELD_MOSTLY, false, procs, NULL), 0);
    assert_text("v2/moat.slice/work.instances/cpu.idle", "0");
    assert_text("v2/moat.slice/work.instances/cpu.weight", "10");
    assert_text("v2/moat.slice/work.instances/cpu.max", "max 100000");
}

static void v1_work_is_in_the_hierarchy_of_the_processor_alone(void **state)
{
    struct mt_cgroup_host h;
    char procs[MT_CGROUP_PATH * 2], path[256];
    (void)state;
    open_v1(&h);
    assert_int_equal(mt_cgroup_work(&h, "work", MT_CGROUP_YIELD_WHOLLY, true, procs, NULL), 0);
    assert_text("cpu and acct/moat.slice/work.instances/cpu.idle", "1");
    assert_text("cpu and acct/moat.slice/work.instances/cpu.shares", "2");
    assert_text("cpu and acct/moat.slice/work.instances/cpu.cfs_quota_us", "100000");
    assert_false(exists("memory/moat.slice"));
    assert_int_equal(mt_cgroup_work(&h, "work", MT_CGROUP_YIELD_MOSTLY, false, procs, NULL), 0);
    assert_text("cpu and acct/moat.slice/work.instances/cpu.shares", "100");
    assert_text("cpu and acct/moat.slice/work.instances/cpu.cfs_quota_us", "-1");
    for (const char *const *f = (const char *const[]){"cpu.idle", "cpu.shares", "cpu.cfs_quota_us", NULL}; *f; f++) { /* the kernel's go by themselves */
        (void)snprintf(path, sizeof path, "%s/cpu and acct/moat.slice/work.instances/%s", dir, *f);
        assert_int_equal(unlink(path), 0);
    }
    mt_cgroup_work_remove(&h, "work");
    mt_cgroup_work_remove(&h, "work"); /* again is harmless */
    assert_false(exists("cpu and acct/moat.slice/work.instances"));
    /* a parent right below the mount */
    (void)snprintf(h.parent, sizeof h.parent, "vms");
    assert_int_equal(mt_cgroup_work(&h, "work", MT_CGROUP_YIELD_WHOLLY, false, procs, NULL), 0);
    assert_text("cpu and acct/work.vms/cpu.idle", "1");
}

static void v1_kill_freezes_signals_and_thaws(void **state)
{
    struct mt_cgroup_host h;
    struct mt_err err;
    int status;
    (void)state;
    open_v1(&h);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    assert_int_equal(mt_cgroup_kill(&h, "vm-1", 100, NULL), 0); /* empty */
    assert_int_equal(mt_cgroup_kill(&h, "never-made", 100, NULL), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)pause();
        _exit(0);
    }
    write_text("memory/moat.slice/instances/vm-1/cgroup.procs", "%d\n", pid);
    /* a plain file keeps naming the process, so the wait for emptiness must time out: and it must have been killed */
    assert_int_equal(mt_cgroup_kill(&h, "vm-1", 50, &err), -MT_E_TIMEOUT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_text("freezer/moat.slice/instances/vm-1/freezer.state", "THAWED");
}

static void v2_kill_is_one_write(void **state)
{
    struct mt_cgroup_host h;
    struct mt_err err;
    (void)state;
    open_v2(&h);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    write_text("v2/moat.slice/instances/vm-1/cgroup.procs", "%d\n", getpid()); /* were it signalled, this test would end here */
    assert_int_equal(mt_cgroup_kill(&h, "vm-1", 30, &err), -MT_E_TIMEOUT);
    assert_text("v2/moat.slice/instances/vm-1/cgroup.kill", "1");
}

static void what_a_service_manager_rewrote_is_mended(void **state)
{
    struct mt_cgroup_host h;
    const char *const folders[] = {"v2", "v2/moat.slice", "v2/moat.slice/instances"};
    const struct mt_cgroup_limits other = {.memory_bytes = 5 << 20, .cpu_weight = 77, .pids_max = 9};
    char path[256];
    (void)state;
    open_v2(&h);
    assert_int_equal(mt_cgroup_mend(&h, 1 << 30, NULL), 0); /* no parent, and none is made */
    assert_false(exists("v2/moat.slice"));
    assert_int_equal(mt_cgroup_limit(&h, "vm-1", &other, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof path, "%s/cgroup.controllers", folders[i]);
        write_text(path, "cpuset cpu io memory pids\n");
        (void)snprintf(path, sizeof path, "%s/cgroup.subtree_control", folders[i]);
        write_text(path, "cpu io memory pids\n");
    }
    assert_int_equal(mt_cgroup_mend(&h, 123 << 20, NULL), 0);
    assert_text("v2/moat.slice/cgroup.subtree_control", "cpu io memory pids\n");
    assert_text("v2/moat.slice/instances/memory.max", "128974848");
    write_text("v2/moat.slice/cgroup.subtree_control", "cpu io_like memory pids\n");
    assert_int_equal(mt_cgroup_mend(&h, 0, NULL), 1);
    assert_text("v2/moat.slice/cgroup.subtree_control", "+io");
    assert_text("v2/moat.slice/instances/memory.max", "128974848");
    write_text("v2/moat.slice/cgroup.subtree_control", "cpu io memory pids\n");
    write_text("v2/moat.slice/instances/cgroup.controllers", "cpu memory\n"); /* this kernel has no others */
    write_text("v2/moat.slice/instances/cgroup.subtree_control", "memory cpu\n");
    assert_int_equal(mt_cgroup_mend(&h, 0, NULL), 0);
    write_text("v2/moat.slice/instances/vm-1/memory.max", "max\n");
    write_text("v2/moat.slice/instances/vm-1/cpu.weight", "100\n");
    assert_int_equal(mt_cgroup_limit(&h, "vm-1", &other, NULL), 1);
    assert_text("v2/moat.slice/instances/vm-1/memory.max", "5242880");
    assert_text("v2/moat.slice/instances/vm-1/cpu.weight", "77");
    write_text("v2/moat.slice/instances/vm-1/memory.max", "4096\n"); /* an operator's word stays */
    assert_int_equal(mt_cgroup_limit(&h, "vm-1", &other, NULL), 0);
    assert_text("v2/moat.slice/instances/vm-1/memory.max", "4096\n");
    write_text("v2/moat.slice/instances/vm-1/pids.max", "max\n");
    assert_int_equal(mt_cgroup_limit(&h, "vm-1", &other, NULL), 1);
    assert_text("v2/moat.slice/instances/vm-1/pids.max", "9");
    open_v1(&h); /* there a slice of nobody else's */
    assert_int_equal(mt_cgroup_mend(&h, 1 << 30, NULL), 0);
    assert_int_equal(mt_cgroup_limit(&h, "vm-1", &limits, NULL), 0);
}

static void figures_are_read_from_both_versions(void **state)
{
    struct mt_cgroup_host h;
    struct mt_cgroup_usage u;
    (void)state;
    open_v2(&h);
    assert_int_equal(mt_cgroup_usage(&h, "vm-1", &u, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    write_text("v2/moat.slice/instances/vm-1/cpu.stat", "usage_usec 1500\nuser_usec 1\n");
    write_text("v2/moat.slice/instances/vm-1/memory.current", "4096\n");
    write_text("v2/moat.slice/instances/vm-1/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n");
    assert_int_equal(mt_cgroup_usage(&h, "vm-1", &u, NULL), 0);
    assert_int_equal(u.cpu_ns, 1500000);
    assert_int_equal(u.memory_bytes, 4096);
    assert_int_equal(u.memory_peak_bytes, 0); /* absent before 5.19 */
    assert_int_equal(u.oom_kills, 2);
    assert_true(u.read_bytes == 0 && u.write_bytes == 0); /* nothing was read or written yet: the file is empty or absent */
    write_text("v2/moat.slice/instances/vm-1/io.stat", "8:0 rbytes=4096 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n253:3 rbytes=5000000000 wbytes=2 rios=7\n259:0 \n");
    assert_int_equal(mt_cgroup_usage(&h, "vm-1", &u, NULL), 0);
    assert_true(u.read_bytes == UINT64_C(5000004096) && u.write_bytes == 3 && u.memory_bytes == 4096);
    open_v1(&h);
    assert_int_equal(mt_cgroup_create(&h, "vm-1", &limits, NULL), 0);
    write_text("cpu and acct/moat.slice/instances/vm-1/cpuacct.usage", "77\n");
    write_text("memory/moat.slice/instances/vm-1/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
    assert_int_equal(mt_cgroup_usage(&h, "vm-1", &u, NULL), 0);
    assert_int_equal(u.cpu_ns, 77);
    assert_int_equal(u.oom_kills, 1);
}

static void removing_is_idempotent_and_parents_go_when_empty(void **state)
{
    struct mt_cgroup_host h;
    char path[256];
    (void)state;
    open_v1(&h);
    assert_int_equal(mt_cgroup_remove(&h, "vm-1", NULL), 0);
    for (size_t c = 0; c < MT_CGROUP_CTRL_MAX; c++) { /* bare folders: a real group's files do not hinder rmdir */
        assert_int_equal(mt_cgroup_path(&h, (enum mt_cgroup_ctrl)c, "vm-1", path, sizeof path, NULL), 0);
        assert_int_equal(mt_file_mkdirs(path, 0755, NULL), 0);
    }
    make("memory/moat.slice/other");
    assert_int_equal(mt_cgroup_remove(&h, "vm-1", NULL), 0);
    assert_int_equal(mt_cgroup_remove(&h, "vm-1", NULL), 0);
    assert_false(exists("memory/moat.slice/instances/vm-1"));
    mt_cgroup_remove_parents(&h);
    assert_false(exists("cpu and acct/moat.slice"));
    assert_true(exists("cpu and acct"));
    assert_true(exists("memory/moat.slice/other"));
    assert_false(exists("memory/moat.slice/instances"));
}

static void hosts_without_cpu_and_memory_are_refused(void **state)
{
    struct mt_cgroup_host h;
    struct mt_err err;
    char table[128];
    (void)state;
    write_text("mounts", "32 25 0:28 / %s/memory rw - cgroup cgroup rw,memory\nshort line\n36 1 0:1 / /x rw\n", dir);
    (void)snprintf(table, sizeof table, "%s/mounts", dir);
    assert_int_equal(mt_cgroup_open(&h, table, "moat.slice/instances", &err), -MT_E_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "mount cgroup v2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(v2_gets_every_limit_and_enables_controllers_above, setup, teardown),
        cmocka_unit_test_setup_teardown(v1_gets_shares_and_limit_in_its_own_hierarchies, setup, teardown),
        cmocka_unit_test_setup_teardown(joining_goes_into_each_hierarchy_once, setup, teardown),
        cmocka_unit_test_setup_teardown(v2_work_gives_way_beside_the_vms, setup, teardown),
        cmocka_unit_test_setup_teardown(v1_work_is_in_the_hierarchy_of_the_processor_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(v1_kill_freezes_signals_and_thaws, setup, teardown),
        cmocka_unit_test_setup_teardown(v2_kill_is_one_write, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_service_manager_rewrote_is_mended, setup, teardown),
        cmocka_unit_test_setup_teardown(figures_are_read_from_both_versions, setup, teardown),
        cmocka_unit_test_setup_teardown(removing_is_idempotent_and_parents_go_when_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(hosts_without_cpu_and_memory_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
