/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver `qemu`: -M microvm with KVM or TCG, moat-vsock beside it. Flags and boot arguments are those of runtime.md §7.6; why
 * each is there, with timings, stands in the notes on QEMU microvm. The box both run in is confine.c's.
 */
#include "agent/vmm/qemu.h"

#include "agent/vmm/confine.h"
#include "agent/vmm/qmp.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"
#include "os/ringfile.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { READY_MS = 10000, QMP_MS = 2000, POLL_MS = 5, OPEN_FILES = 1024, OVERHEAD_MIB = 96, GUEST_CID = 3, VERSION_MS = 5000 };
#define MIB (UINT64_C(1) << 20)

/* mount points made in the jail, in an order in which mkdir works */
static const char *const jail_dirs[] = {"dev", "lib", "lib64", "usr", "usr/bin", "usr/lib", "usr/share", "usr/share/qemu",
    "usr/share/seabios", NULL};
static const char *const jail_files[] = {"usr/bin/moat-vsock", "usr/bin/qemu-system-x86_64", NULL};

/* ---- command line ---- */

/*
 * Boot arguments only QEMU needs: on Firecracker the KVM clock makes them unnecessary. Never `nolapic_timer`:
 * microvm with ACPI has no other timer interrupt, so a guest booted with it never wakes from a sleep or timeout.
 */
static int boot_args(const struct mt_vmm *vmm, const struct mt_vmm_spec *spec, char *ret, size_t size, struct mt_err *err)
{
    char tcg[384] = "";
    /*
     * What an emulated boot spends its time on and no guest misses, counted with a TCG plugin (guest instructions until hello, of 459 million):
     * 88 the weak functions of ftrace, which are looked at again when its files are read; 50 the type tables of TCP congestion control
     * written in BPF and of a BPF self-test. noreplace-smp saves 10,000 patches of kernel text, each of which empties the emulator's TLB.
     * tsc=reliable: the emulated TSC is the host's. The kernel would check it against its count of ticks, of which a guest that waits for
     * a processor loses some, call it unstable, and keep time by those ticks from then on: slow, and with 250 interrupts a second when idle.
     * The lsm list leaves out modules that do nothing without a policy (AppArmor, TOMOYO, IPE, BPF, IMA, EVM): 2 % of what is translated until hello.
     */
    if (vmm->accel == MT_VMM_TCG)
        (void)snprintf(tcg, sizeof tcg,
                       " tsc_early_khz=%llu tsc=reliable no_timer_check noreplace-smp cryptomgr.notests pci=off%s"
                       " lsm=lockdown,landlock,yama"
                       " initcall_blacklist=load_system_certificate_list,jent_mod_init,trace_eval_init,ftrace_check_for_weak_functions,"
                       "bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init",
                       (unsigned long long)vmm->tsc_khz, vmm->serial_off ? "" : " 8250.nr_uarts=1");
    if (mt_fmt(ret, size, err, "%s%s%s", spec->boot_args, tcg, vmm->serial_off ? " 8250.nr_uarts=0" : "") < 0)
        return MT_FAIL(err, MT_E_LIMIT, "boot arguments pass %zu bytes", size - 1);
    return 0;
}

static void disk_arg(struct mt_argv *a, size_t n, const char *file, const struct mt_vmm_disk *d, const char *cache)
{
    char limit[96] = "";
    if (d->bytes_per_s || d->ops_per_s)
        (void)snprintf(limit, sizeof limit, ",throttling.bps-total=%llu,throttling.iops-total=%llu", (unsigned long long)d->bytes_per_s,
                       (unsigned long long)d->ops_per_s);
    mt_argv_add(a, "-drive");
    /* the guest is told of every error: left to itself QEMU stops a VM whose host has no room left */
    mt_argv_add(a, "id=d%zu,file=/%s,format=raw,if=none,cache=%s,%s%s", n, file, cache, d->read_only ? "readonly=on" : "werror=report", limit);
    mt_argv_add(a, "-device");
    mt_argv_add(a, "virtio-blk-device,drive=d%zu", n);
}

static void machine_args(const struct mt_vmm *vmm, const struct mt_vmm_spec *spec, struct mt_argv *a)
{
    bool many_tcg = vmm->accel == MT_VMM_TCG && spec->vcpu_count > 1;
    mt_argv_add(a, "-M");
    mt_argv_add(a, "microvm,acpi=on,%s,rtc=on,isa-serial=on,x-option-roms=off,memory-backend=mem", many_tcg ? "pit=off,pic=off" : "pit=on,pic=on");
    mt_argv_add(a, "-accel");
    if (vmm->accel == MT_VMM_KVM)
        mt_argv_add(a, "kvm");
    else
        /*
         * The cache of translated code: the default could grow to 1 GiB. A boot with one service makes some 70 MiB; at 32 it is thrown away
         * twice, at 48 once, but just between config and start (430 ms instead of 250), at 56 after that. More would leave QEMU no room in the
         * group's memory limit.
         */
        mt_argv_add(a, "tcg,thread=%s,tb-size=56", many_tcg ? "multi" : "single");
    mt_argv_add(a, "-cpu");
    /* without ERMS the kernel clears and copies by words: TCG runs `rep stosb` a byte at a time, 5 to 10 % of a boot */
    mt_argv_add(a, "%s", vmm->accel == MT_VMM_KVM ? "host" : "max,-erms");
    mt_argv_add(a, "-smp");
    mt_argv_add(a, "%u", spec->vcpu_count);
    mt_argv_add(a, "-m");
    mt_argv_add(a, "%uM", spec->mem_mib);
    mt_argv_add(a, "-object");
    mt_argv_add(a, "memory-backend-memfd,id=mem,size=%uM,share=on", spec->mem_mib);
    mt_argv_add(a, "-nodefaults");
    mt_argv_add(a, "-no-user-config");
    mt_argv_add(a, "-display");
    mt_argv_add(a, "none");
    mt_argv_add(a, "-no-reboot");
    mt_argv_add(a, "-sandbox");
    mt_argv_add(a, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

int mt_qemu_args(const struct mt_vmm *vmm, const struct mt_vmm_spec *spec, struct mt_argv *a, struct mt_err *err)
{
    char boot[MT_VMM_BOOT_ARGS_MAX], mac[18];
    *a = (struct mt_argv){.count = 0};
    if (boot_args(vmm, spec, boot, sizeof boot, err) < 0)
        return -MT_E_LIMIT;
    mt_argv_add(a, "/usr/bin/qemu-system-x86_64");
    machine_args(vmm, spec, a);
    mt_argv_add(a, "-kernel");
    mt_argv_add(a, "/vmlinux");
    mt_argv_add(a, "-initrd");
    mt_argv_add(a, "/initramfs");
    if (vmm->serial_off) {
        mt_argv_add(a, "-serial");
        mt_argv_add(a, "null");
    } else {
        mt_argv_add(a, "-chardev");
        mt_argv_add(a, "socket,id=con,fd=%d", MT_QEMU_FD_CONSOLE);
        mt_argv_add(a, "-serial");
        mt_argv_add(a, "chardev:con");
    }
    mt_argv_add(a, "-device");
    mt_argv_add(a, "i8042"); /* so that reboot=k ends it */
    disk_arg(a, 0, "root.ext4", &spec->root, "unsafe");
    disk_arg(a, 1, "scratch.ext4", &spec->scratch, "unsafe");
    for (size_t i = 0; i < spec->volume_count; i++) {
        char name[24];
        (void)snprintf(name, sizeof name, "vol%zu", i);
        disk_arg(a, 2 + i, name, &spec->volumes[i], "writeback"); /* a guest's flush must reach fsync */
    }
    if (spec->tap) {
        mt_vmm_mac_text(spec->guest_mac, mac);
        mt_argv_add(a, "-netdev");
        mt_argv_add(a, "tap,id=n0,ifname=%s,script=no,downscript=no", spec->tap);
        mt_argv_add(a, "-device");
        if (spec->mtu)
            mt_argv_add(a, "virtio-net-device,netdev=n0,mac=%s,host_mtu=%u", mac, spec->mtu);
        else
            mt_argv_add(a, "virtio-net-device,netdev=n0,mac=%s", mac);
    }
    mt_argv_add(a, "-chardev");
    mt_argv_add(a, "socket,id=vs,fd=%d", MT_QEMU_FD_VHOST);
    mt_argv_add(a, "-device");
    mt_argv_add(a, "vhost-user-vsock-device,chardev=vs");
    mt_argv_add(a, "-object");
    mt_argv_add(a, "rng-random,id=rng,filename=/dev/urandom");
    mt_argv_add(a, "-device");
    mt_argv_add(a, "virtio-rng-device,rng=rng");
    mt_argv_add(a, "-chardev");
    mt_argv_add(a, "socket,id=qmp,path=/run/qmp.sock,server=on,wait=off");
    mt_argv_add(a, "-mon");
    mt_argv_add(a, "chardev=qmp,mode=control");
    mt_argv_add(a, "-append");
    mt_argv_add(a, "%s", boot);
    if (a->failed)
        return MT_FAIL(err, MT_E_LIMIT, "qemu command line passes %d bytes", MT_ARGV_TEXT);
    return 0;
}

/* ---- open, prepare ---- */

static int qemu_open(struct mt_vmm *vmm, struct mt_err *err)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(4096);
    const char *argv[] = {vmm->qemu_path, "--version", NULL};
    struct mt_spawn s = {.path = vmm->qemu_path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .netns_fd = -1};
    if (mt_vmm_check_binary(vmm->qemu_path, "install qemu-system-x86", err) < 0 ||
        mt_vmm_check_binary(vmm->vsock_path, "set the path of moat-vsock", err) < 0 || mt_vmm_check_listed(vmm, vmm->qemu_path, err) < 0)
        return -(int)(err ? err->code : MT_E_NOT_FOUND);
    int r = mt_run_ok(&s, NULL, 0, &out, mt_vmm_wait_ms(vmm, VERSION_MS), err);
    if (r < 0)
        return r;
    static const char word[] = "version ";
    const char *v = strstr(mt_buf_cstr(&out), word); /* "QEMU emulator version 7.2.22 (Debian ...)" */
    if (v)
        (void)snprintf(vmm->version, sizeof vmm->version, "%.*s", (int)strcspn(v + sizeof word - 1, " \n"), v + sizeof word - 1);
    return 0;
}

static int qemu_prepare(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, struct mt_err *err)
{
    (void)vmm;
    return mt_jail_build(jail, spec, jail_dirs, jail_files, err);
}

/* ---- launch ---- */

/* Descriptors that live only as long as a launch. */
struct wires {
    int vhost[2], console[2]; /* 0 QEMU's end, 1 moat-vsock's */
    int ring, log;
    int cgroup[MT_CGROUP_JOIN_MAX];
    size_t cgroup_count;
};

static void wires_done(struct wires *w)
{
    for (int i = 0; i < 2; i++) {
        mt_closep(&w->vhost[i]);
        mt_closep(&w->console[i]);
    }
    mt_closep(&w->ring);
    mt_closep(&w->log);
    for (size_t i = 0; i < MT_CGROUP_JOIN_MAX; i++)
        mt_closep(&w->cgroup[i]);
}

static int wires_open(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, struct wires *w, struct mt_err *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->vhost) == -1 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, w->console) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socket pair");
    /* both directions, so that it never says EPIPE; not blocking, so that overflow is dropped */
    w->log = open(jail->log, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (w->log == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", jail->log);
    if (mt_ringfile_create(spec->console_path, &w->ring, err) < 0)
        return mt_err_wrap(err, "console");
    return mt_cgroup_join_fds(&vmm->cgroup, spec->jail_id, w->cgroup, &w->cgroup_count, err);
}

static int add_bind(struct mt_confine *c, const char *root, const char *source, const char *target, struct mt_err *err)
{
    MT_ASSERT(c->bind_count < MT_CONFINE_BINDS);
    struct mt_confine_bind *b = &c->bind[c->bind_count++];
    b->source = source;
    return mt_fmt(b->target, sizeof b->target, err, "%s/%s", root, target);
}

static uint64_t file_limit(const struct mt_vmm_spec *spec)
{
    struct stat st;
    uint64_t max = spec->mem_mib * MIB; /* guest RAM is a memfd, and counts as a file */
    if (stat(spec->scratch.path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size > max)
        max = (uint64_t)st.st_size;
    for (size_t i = 0; i < spec->volume_count; i++) {
        if (!spec->volumes[i].read_only && stat(spec->volumes[i].path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size > max)
            max = (uint64_t)st.st_size;
    }
    return max;
}

static int describe(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, const struct wires *w,
                    struct mt_confine *c, struct mt_err *err)
{
    c->root = jail->root;
    c->uid = mt_vmm_uid(spec->slot);
    c->file_bytes = file_limit(spec);
    c->open_files = OPEN_FILES;
    c->stderr_fd = w->log;
    if (add_bind(c, jail->root, "/lib", "lib", err) < 0 || add_bind(c, jail->root, "/lib64", "lib64", err) < 0 ||
        add_bind(c, jail->root, "/usr/lib", "usr/lib", err) < 0 ||
        add_bind(c, jail->root, "/usr/share/qemu", "usr/share/qemu", err) < 0 ||
        add_bind(c, jail->root, "/usr/share/seabios", "usr/share/seabios", err) < 0 ||
        add_bind(c, jail->root, vmm->qemu_path, "usr/bin/qemu-system-x86_64", err) < 0 ||
        add_bind(c, jail->root, vmm->vsock_path, "usr/bin/moat-vsock", err) < 0)
        return -MT_E_LIMIT;
    c->node[c->node_count++] = (struct mt_confine_node){"null", "/dev/null", 0666};
    c->node[c->node_count++] = (struct mt_confine_node){"urandom", "/dev/urandom", 0444};
    if (spec->tap)
        c->node[c->node_count++] = (struct mt_confine_node){"net/tun", "/dev/net/tun", 0600};
    if (vmm->accel == MT_VMM_KVM)
        c->node[c->node_count++] = (struct mt_confine_node){"kvm", "/dev/kvm", 0600};
    for (size_t i = 0; i < w->cgroup_count; i++)
        c->cgroup_fd[c->cgroup_count++] = w->cgroup[i];
    return 0;
}

static int record_both(const struct mt_confined *box, mt_vmm_record_fn *record, void *user, struct mt_vmm_run *run, struct mt_err *err)
{
    for (size_t i = 0; i < 2; i++) {
        run->ids.proc[i].pid = box->pid[i];
        if (mt_proc_start_time(box->pid[i], &run->ids.proc[i].start_ticks, err) < 0)
            return mt_err_wrap(err, "start time");
    }
    run->ids.proc_count = 2;
    return record ? record(user, &run->ids, err) : 0;
}

static void pause_ms(long ms)
{
    const struct timespec t = {.tv_nsec = ms * 1000000};
    (void)nanosleep(&t, NULL);
}

static bool ended(const struct mt_confined *box)
{
    struct pollfd p[2] = {{.fd = box->pidfd[0], .events = POLLIN}, {.fd = box->pidfd[1], .events = POLLIN}};
    return poll(p, 2, 0) > 0;
}

/* Until the monitor answers that it runs; then the check of every thread. */
static int wait_ready(const struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, const struct mt_confined *box,
                      struct mt_err *err)
{
    const int limit_ms = mt_vmm_wait_ms(vmm, READY_MS);
    int64_t deadline = mt_clock_mono() + limit_ms * MT_NS_PER_MS;
    char status[32];
    for (;;) {
        int r = mt_qmp_status(jail, mt_vmm_wait_ms(vmm, QMP_MS), status, sizeof status, err);
        if (r == 0)
            break;
        if (ended(box))
            return MT_FAIL(err, MT_E_UNAVAILABLE, "qemu or moat-vsock ended at once");
        if (mt_clock_mono() >= deadline)
            return MT_FAIL(err, MT_E_TIMEOUT, "qemu's monitor did not answer in %d ms", limit_ms);
        pause_ms(POLL_MS);
    }
    if (!MT_STREQ(status, "running"))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "qemu says the vm is '%s'", status);
    for (size_t i = 0; i < 2; i++) {
        int r = mt_confine_check(box->pid[i], mt_vmm_uid(spec->slot), err);
        if (r < 0)
            return mt_err_wrap(err, "confinement of %s", i == 0 ? "moat-vsock" : "qemu");
    }
    return 0;
}

static int qemu_launch(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, mt_vmm_record_fn *record,
                       void *user, struct mt_vmm_run *run, struct mt_err *err)
{
    mt_cleanup(wires_done) struct wires w = {.vhost = {-1, -1}, .console = {-1, -1}, .ring = -1, .log = -1,
        .cgroup = {-1, -1, -1, -1, -1}};
    mt_auto_free struct mt_argv *qemu = calloc(1, sizeof *qemu);
    struct mt_confine c = {.bind_count = 0};
    struct mt_confined box;
    struct mt_err local = {.code = MT_OK};
    if (!err)
        err = &local;
    if (!qemu)
        return MT_FAIL(err, MT_E_NOMEM, "qemu command line");
    if (mt_qemu_args(vmm, spec, qemu, err) < 0 || wires_open(vmm, jail, spec, &w, err) < 0 || describe(vmm, jail, spec, &w, &c, err) < 0)
        return -(int)err->code;

    char cid[8], prog[] = "/usr/bin/moat-vsock", o_uds[] = "--uds", uds[] = "/run/v.sock", o_cid[] = "--cid", o_vhost[] = "--vhost-fd",
         three[] = "3", o_console[] = "--console-fd", four[] = "4", o_ring[] = "--ring-fd", five[] = "5";
    (void)snprintf(cid, sizeof cid, "%d", GUEST_CID);
    char *vsock_argv[] = {prog, o_uds, uds, o_cid, cid, o_vhost, three, o_console, four, o_ring, five, NULL};
    c.program[0] = (struct mt_confine_program){.path = prog, .argv = vsock_argv, .fds = {w.vhost[1], w.console[1], w.ring}, .fd_count = 3};
    c.program[1] = (struct mt_confine_program){.path = qemu->argv[0], .argv = qemu->argv, .fds = {w.vhost[0], w.console[0]}, .fd_count = 2};

    int r = mt_confine_start(&c, &box, err);
    if (r < 0)
        return r;
    r = record_both(&box, record, user, run, err);
    if (r == 0)
        r = mt_confine_release(&box, err);
    if (r == 0) {
        for (int i = 0; i < 2; i++) { /* ours must be gone, or neither would see the other's end */
            mt_closep(&w.vhost[i]);
            mt_closep(&w.console[i]);
        }
        r = wait_ready(vmm, jail, spec, &box, err);
    }
    if (r < 0) {
        mt_confine_kill(&box);
        mt_jail_add_log(w.log, err);
        return r;
    }
    for (size_t i = 0; i < 2; i++)
        run->pidfd[i] = MT_TAKE_FD(box.pidfd[i]);
    mt_confined_done(&box);
    return 0;
}

static int qemu_check(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_run *run, struct mt_err *err)
{
    char status[32];
    (void)run;
    int r = mt_qmp_status(jail, mt_vmm_wait_ms(vmm, QMP_MS), status, sizeof status, err);
    if (r < 0)
        return r;
    if (!MT_STREQ(status, "running"))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "qemu says the vm is '%s'", status);
    return 0;
}

const struct mt_vmm_driver mt_qemu_driver = {
    .proc_count = 2,
    .overhead_mib = OVERHEAD_MIB,
    .open = qemu_open,
    .prepare = qemu_prepare,
    .launch = qemu_launch,
    .check = qemu_check,
};
