/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's command line, jail paths and sockets, the console ring, versions: what needs no VM. */
#include "agent/vmm/fc_api.h"
#include "agent/vmm/jail.h"
#include "agent/vmm/qemu.h"
#include "agent/vmm/tsc.h"
#include "os/file.h"
#include "os/ringfile.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/moat-vmm-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return mt_file_remove_tree(AT_FDCWD, dir, NULL);
}

static const struct mt_vmm_spec base = {.jail_id = "x-1", .vcpu_count = 1, .mem_mib = 128, .overhead_mib = 96, .cpu_weight = 100,
    .boot_args = "console=ttyS0 moat.proto=1", .root = {.read_only = true}, .tap = "mt00001", .guest_mac = {2, 0xfc, 0, 0, 1, 0x12},
    .mtu = 1420};

/* The arguments as one line. */
static const char *line(const struct mt_vmm *v, const struct mt_vmm_spec *s)
{
    static char text[MT_ARGV_TEXT];
    static struct mt_argv a;
    size_t n = 0;
    assert_int_equal(mt_qemu_args(v, s, &a, NULL), 0);
    for (size_t i = 0; i < a.count; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? " " : "", a.argv[i]);
    assert_null(a.argv[a.count]);
    return text;
}

static void tcg_command_line_is_the_measured_one(void **state)
{
    const struct mt_vmm v = {.kind = MT_VMM_QEMU, .accel = MT_VMM_TCG, .tsc_khz = 2596000};
    (void)state;
    static const char want[] =
        "/usr/bin/qemu-system-x86_64 -M microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,memory-backend=mem"
        " -accel tcg,thread=single,tb-size=56 -cpu max,-erms -smp 1 -m 128M -object memory-backend-memfd,id=mem,size=128M,share=on"
        " -nodefaults -no-user-config -display none -no-reboot"
        " -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -kernel /vmlinux -initrd /initramfs"
        " -chardev socket,id=con,fd=4 -serial chardev:con -device i8042"
        " -drive id=d0,file=/root.ext4,format=raw,if=none,cache=unsafe,readonly=on -device virtio-blk-device,drive=d0"
        " -drive id=d1,file=/scratch.ext4,format=raw,if=none,cache=unsafe,werror=report -device virtio-blk-device,drive=d1"
        " -netdev tap,id=n0,ifname=mt00001,script=no,downscript=no"
        " -device virtio-net-device,netdev=n0,mac=02:fc:00:00:01:12,host_mtu=1420"
        " -chardev socket,id=vs,fd=3 -device vhost-user-vsock-device,chardev=vs"
        " -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-device,rng=rng"
        " -chardev socket,id=qmp,path=/run/qmp.sock,server=on,wait=off -mon chardev=qmp,mode=control"
        " -append console=ttyS0 moat.proto=1 tsc_early_khz=2596000 tsc=reliable no_timer_check noreplace-smp cryptomgr.notests pci=off 8250.nr_uarts=1"
        " lsm=lockdown,landlock,yama"
        " initcall_blacklist=load_system_certificate_list,jent_mod_init,trace_eval_init,ftrace_check_for_weak_functions,"
        "bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init";
    const char *got = line(&v, &base);
    size_t same = 0;
    while (want[same] && want[same] == got[same])
        same++;
    if (want[same] != got[same])
        fail_msg("expected '%.60s', got '%.60s'", want + same, got + same); /* cmocka cuts long strings */
}

static void accelerator_and_vcpus_change_machine_and_boot_arguments(void **state)
{
    struct mt_vmm v = {.kind = MT_VMM_QEMU, .accel = MT_VMM_TCG, .tsc_khz = 1};
    struct mt_vmm_spec s = base;
    (void)state;
    s.vcpu_count = 2;
    assert_non_null(strstr(line(&v, &s), "acpi=on,pit=off,pic=off,rtc=on"));
    assert_non_null(strstr(line(&v, &s), "tcg,thread=multi,tb-size=56"));
    assert_null(strstr(line(&v, &s), "nolapic_timer")); /* with it a guest never wakes from a sleep */
    v.accel = MT_VMM_KVM;
    assert_non_null(strstr(line(&v, &s), "-accel kvm -cpu host"));
    assert_null(strstr(line(&v, &s), "tsc_early_khz"));
    v.serial_off = true;
    s.tap = NULL;
    assert_non_null(strstr(line(&v, &s), "-serial null"));
    assert_non_null(strstr(line(&v, &s), "8250.nr_uarts=0"));
    assert_null(strstr(line(&v, &s), "netdev"));
}

static void volumes_keep_their_flushes_and_limits(void **state)
{
    const struct mt_vmm v = {.kind = MT_VMM_QEMU, .accel = MT_VMM_KVM};
    struct mt_vmm_spec s = base;
    (void)state;
    s.volume_count = 2;
    s.volumes[1] = (struct mt_vmm_disk){.read_only = true, .bytes_per_s = 1000, .ops_per_s = 50};
    assert_non_null(strstr(line(&v, &s), "id=d2,file=/vol0,format=raw,if=none,cache=writeback,werror=report -device virtio-blk-device,drive=d2"));
    assert_non_null(strstr(line(&v, &s), "id=d3,file=/vol1,format=raw,if=none,cache=writeback,readonly=on,"
                                         "throttling.bps-total=1000,throttling.iops-total=50"));
}

static void boot_arguments_are_bounded_with_the_drivers_own(void **state)
{
    const struct mt_vmm v = {.kind = MT_VMM_QEMU, .accel = MT_VMM_TCG};
    static char args[MT_VMM_BOOT_ARGS_MAX];
    static struct mt_argv a;
    struct mt_vmm_spec s = base;
    (void)state;
    memset(args, 'a', sizeof args - 1);
    s.boot_args = args;
    assert_int_equal(mt_qemu_args(&v, &s, &a, NULL), -MT_E_LIMIT);
    args[1760] = '\0';
    assert_int_equal(mt_qemu_args(&v, &s, &a, NULL), 0);
}

static void jail_ids_and_paths_are_checked(void **state)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "a_b", "a b", "../x", "inst_1",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct mt_jail j;
    char deep[128];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(mt_jail_check_id(bad[i], NULL), -MT_E_INVALID);
    assert_int_equal(mt_jail_paths("/var/lib/moat/jail", "firecracker", "01hzzzzzzzzzzzzzzzzzzzzzzz-4294967295", &j, NULL), 0);
    assert_string_equal(j.root, "/var/lib/moat/jail/firecracker/01hzzzzzzzzzzzzzzzzzzzzzzz-4294967295/root");
    memset(deep, 'd', sizeof deep - 1);
    deep[0] = '/';
    deep[60] = '\0';
    assert_int_equal(mt_jail_paths(deep, "qemu", "01hzzzzzzzzzzzzzzzzzzzzzzz-1", &j, NULL), -MT_E_LIMIT);
}

/* A jail folder as far as sockets need it. */
static void make_run(struct mt_jail *j)
{
    char path[MT_JAIL_PATH + 8];
    assert_int_equal(mt_jail_paths(dir, "qemu", "x-1", j, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/run", j->root);
    assert_int_equal(mt_file_mkdirs(path, 0755, NULL), 0);
}

static void sockets_are_private_and_can_be_made_anew(void **state)
{
    struct mt_jail j;
    struct stat st;
    char path[MT_JAIL_PATH + 32];
    int first = -1, second = -1, client = -1;
    (void)state;
    make_run(&j);
    assert_int_equal(mt_jail_connect(&j, "v.sock_1", &client, NULL), -MT_E_UNAVAILABLE);
    assert_int_equal(mt_jail_listen(&j, "v.sock_1", getuid(), &first, NULL), 0);
    assert_int_equal(mt_jail_listen(&j, "v.sock_1", getuid(), &second, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/run/v.sock_1", j.root);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(mt_jail_connect(&j, "v.sock_1", &client, NULL), 0);
    (void)close(client);
    (void)close(first);
    (void)close(second);
}

static void planted_links_are_never_followed(void **state)
{
    struct mt_jail j;
    struct stat st;
    char from[MT_JAIL_PATH + 32], to[128];
    int fd = -1;
    (void)state;
    make_run(&j);
    (void)snprintf(to, sizeof to, "%s/precious", dir);
    int file = open(to, O_CREAT | O_WRONLY, 0644);
    assert_true(file >= 0);
    (void)close(file);
    (void)snprintf(from, sizeof from, "%s/run/qmp.sock", j.root);
    assert_int_equal(symlink(to, from), 0);
    assert_int_equal(mt_jail_connect(&j, "qmp.sock", &fd, NULL), -MT_E_CORRUPT);
    assert_int_equal(mt_jail_listen(&j, "qmp.sock", getuid(), &fd, NULL), 0); /* the link goes, what it named stays */
    (void)close(fd);
    assert_int_equal(lstat(to, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0644);
    (void)snprintf(from, sizeof from, "%s/run", j.root);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, from, NULL), 0);
    assert_int_equal(symlink(dir, from), 0); /* the whole folder is a link now */
    assert_true(mt_jail_listen(&j, "v.sock_1", getuid(), &fd, NULL) < 0);
    assert_int_equal(mt_jail_remove(dir, "qemu", "x-1", NULL), 0);
    assert_int_equal(lstat(to, &st), 0);
    assert_int_equal(mt_jail_remove(dir, "qemu", "x-1", NULL), 0); /* again is fine */
}

/* What the jailer does to the root, and what we do to it, while a process of the VM's user looks for Firecracker in it. */
/* Whether @uid, in a process of its own, may execute @path. */
static bool may_execute(uid_t uid, const char *path)
{
    int status;
    pid_t user = fork();
    if (user == 0)
        _exit(setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0 && access(path, X_OK) == 0 ? 0 : 1);
    assert_int_equal(waitpid(user, &status, 0), user);
    return status == 0;
}

/*
 * The owner stops before and after each of its calls and the VM's user looks. Two that ran freely would say less: a kernel reads mode and
 * owner of an inode one after the other, and a reader that is held up in between sees a pair that never was.
 */
static void the_vms_user_is_never_shut_out_of_its_root(void **state)
{
    enum { UID = 200077, CALLS = 4 };
    struct mt_jail j = {.root = ""};
    char inside[sizeof j.root + 16];
    struct stat st;
    int status, stops = 0;
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(dir, 0755), 0);
    (void)snprintf(j.root, sizeof j.root, "%s/root", dir);
    (void)snprintf(inside, sizeof inside, "%s/firecracker", j.root);
    assert_int_equal(mkdir(j.root, 0700), 0);
    assert_int_equal(close(open(inside, O_WRONLY | O_CREAT | O_CLOEXEC, 0755)), 0);
    assert_int_equal(chown(j.root, UID, UID), 0);
    pid_t owner = fork();
    if (owner == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1)
            _exit(77);
        (void)raise(SIGSTOP);
        _exit(mt_jail_own_root(&j, UID, NULL) < 0 ? 1 : 0);
    }
    while (waitpid(owner, &status, 0) == owner && WIFSTOPPED(status)) {
        assert_true(may_execute(UID, inside));
        assert_false(may_execute(UID + 1, inside));
        assert_int_equal(ptrace(PTRACE_SYSCALL, owner, NULL, NULL), 0);
        stops++;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
    assert_true(stops >= 1 + 2 * CALLS);
    assert_int_equal(stat(j.root, &st), 0);
    assert_int_equal(st.st_uid, 0);
    assert_int_equal(st.st_gid, UID);
    assert_int_equal(st.st_mode & 07777, 0750);
}

static void the_end_of_the_monitors_words_is_kept(void **state)
{
    char ret[38];
    int p[2];
    struct mt_err err = {.code = MT_OK};
    (void)state;
    assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
    mt_jail_read_log(p[0], ret, sizeof ret);
    assert_string_equal(ret, "");
    for (int i = 0; i < 900; i++)
        assert_int_equal(dprintf(p[1], "warning %05d\n", i), 14);
    assert_int_equal(dprintf(p[1], "exec: Permission denied (os error 13)\nnote: run with `X=1`\n"), 59);
    mt_jail_read_log(p[0], ret, sizeof ret);
    assert_string_equal(ret, "...Permission denied (os error 13)");
    assert_int_equal(dprintf(p[1], "exec: Permission denied (os error 13)\n"), 38);
    (void)MT_FAIL(&err, MT_E_UNAVAILABLE, "%0230d", 7);
    mt_jail_add_log(p[0], &err);
    assert_int_equal(strlen(err.msg), 207);
    assert_string_equal(err.msg + 207 - 39, ": exec: Permission denied (os error 13)");
    (void)close(p[0]);
    (void)close(p[1]);
}

static void console_ring_keeps_the_last_bytes(void **state)
{
    static char in[200000], out[MT_RINGFILE_SIZE];
    char path[128];
    struct mt_ringfile r;
    size_t len = 1, at = 0;
    int fd = -1;
    (void)state;
    (void)snprintf(path, sizeof path, "%s/ring", dir);
    assert_int_equal(mt_ringfile_read(path, out, sizeof out, &len, NULL), -MT_E_NOT_FOUND);
    assert_int_equal(mt_ringfile_create(path, &fd, NULL), 0);
    assert_int_equal(mt_ringfile_attach(&r, fd, NULL), 0);
    assert_int_equal(mt_ringfile_read(path, out, sizeof out, &len, NULL), 0);
    assert_int_equal(len, 0);
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (char)(i * 7919 >> 5);
    for (size_t step = 1; at + step < sizeof in; at += step, step = step * 3 % 5003 + 1) {
        assert_int_equal(mt_ringfile_append(&r, in + at, step, NULL), 0);
        size_t want = at + step < sizeof out ? at + step : sizeof out;
        assert_int_equal(mt_ringfile_read(path, out, sizeof out, &len, NULL), 0);
        assert_int_equal(len, want);
        assert_memory_equal(out, in + at + step - want, want);
    }
    assert_int_equal(mt_ringfile_append(&r, in, sizeof in, NULL), 0); /* more than it holds, at once */
    assert_int_equal(mt_ringfile_read(path, out, 100, &len, NULL), 0);
    assert_int_equal(len, 100);
    assert_memory_equal(out, in + sizeof in - 100, 100);
    assert_int_equal(mt_ringfile_attach(&r, fd, NULL), 0); /* another writer goes on where the first stopped */
    assert_int_equal(r.total, at + sizeof in);
    assert_int_equal(ftruncate(fd, 4), 0);
    assert_int_equal(mt_ringfile_read(path, out, sizeof out, &len, NULL), -MT_E_CORRUPT);
    (void)close(fd);
}

static void versions_are_parsed_strictly(void **state)
{
    struct mt_fc_version v;
    (void)state;
    assert_int_equal(mt_fc_version_parse("v1.13.1", &v, NULL), 0);
    assert_int_equal(v.minor, 13);
    assert_int_equal(mt_fc_version_parse("1.17.0-dev", &v, NULL), 0);
    assert_int_equal(mt_fc_version_parse("1.17", &v, NULL), -MT_E_INVALID);
    assert_int_equal(mt_fc_version_parse("new", &v, NULL), -MT_E_INVALID);
}

static void patience_stretches_every_wait_and_is_bounded(void **state)
{
    const struct mt_vmm slow = {.kind = MT_VMM_FIRECRACKER, .accel = MT_VMM_KVM, .patience = 10}, plain = {.accel = MT_VMM_TCG, .patience = 1};
    struct mt_vmm *v = NULL;
    struct mt_err err;
    (void)state;
    assert_int_equal(mt_vmm_hello_timeout_ms(&slow), 100000);
    assert_int_equal(mt_vmm_hello_timeout_ms(&plain), 30000);
    const struct mt_vmm_conf conf = {.jail_base = "/var/lib/moat/jail", .patience = 31};
    assert_int_equal(mt_vmm_open(&conf, MT_VMM_QEMU, MT_VMM_TCG, &v, &err), -MT_E_INVALID);
    assert_non_null(strstr(err.msg, "patience is 31"));
    assert_null(v);
}

static void tsc_rate_is_stable(void **state)
{
    uint64_t a = mt_tsc_khz(), b = mt_tsc_khz();
    (void)state;
#if defined(__x86_64__)
    assert_in_range(a, 100000, 10000000);
    assert_in_range(b, a - a / 100, a + a / 100);
#else
    assert_int_equal(a + b, 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tcg_command_line_is_the_measured_one),
        cmocka_unit_test(accelerator_and_vcpus_change_machine_and_boot_arguments),
        cmocka_unit_test(volumes_keep_their_flushes_and_limits),
        cmocka_unit_test(boot_arguments_are_bounded_with_the_drivers_own),
        cmocka_unit_test_setup_teardown(jail_ids_and_paths_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(sockets_are_private_and_can_be_made_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(planted_links_are_never_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(the_vms_user_is_never_shut_out_of_its_root, setup, teardown),
        cmocka_unit_test(the_end_of_the_monitors_words_is_kept),
        cmocka_unit_test_setup_teardown(console_ring_keeps_the_last_bytes, setup, teardown),
        cmocka_unit_test(versions_are_parsed_strictly),
        cmocka_unit_test(patience_stretches_every_wait_and_is_bounded),
        cmocka_unit_test(tsc_rate_is_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
