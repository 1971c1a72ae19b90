/* SPDX-License-Identifier: Apache-2.0 */
/* The part of every driver that is the same: names, checks of the spec, adoption, killing, teardown. See vmm.h. */
#include "agent/vmm/vmm.h"

#include "agent/vmm/driver.h"
#include "agent/vmm/tsc.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/ringfile.h"
#include "os/sock.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { KILL_MS = 5000, HELLO_MS = 10000, HELLO_TCG_MS = 30000, PIDS_MAX = 128, PATIENCE_MAX = 30 };
enum { VCPU_MAX = 32, OVERHEAD_MIN = 16, OVERHEAD_MAX = 256, WEIGHT_MAX = 10000, MEM_MIN_MIB = 32, MEM_MAX_MIB = 1 << 22 };
#define MIB (UINT64_C(1) << 20)

const char *mt_vmm_kind_name(enum mt_vmm_kind kind)
{
    static const char *const name[MT_VMM_KIND_MAX] = {"firecracker", "qemu", "fake"};
    return kind < MT_VMM_KIND_MAX ? name[kind] : "unknown";
}

const char *mt_vmm_accel_name(enum mt_vmm_accel accel)
{
    static const char *const name[MT_VMM_ACCEL_MAX] = {"kvm", "tcg"};
    return accel < MT_VMM_ACCEL_MAX ? name[accel] : "unknown";
}

void mt_vmm_run_done(struct mt_vmm_run *run)
{
    for (size_t i = 0; i < MT_VMM_PROCS_MAX; i++)
        mt_closep(&run->pidfd[i]);
    mt_closep(&run->console_fd);
    *run = MT_VMM_RUN_NONE;
}

int mt_vmm_check_binary(const char *path, const char *mend, struct mt_err *err)
{
    struct stat st;
    if (path[0] != '/')
        return MT_FAIL(err, MT_E_INVALID, "'%s' must be an absolute path", path);
    if (stat(path, &st) == -1)
        return MT_FAIL(err, MT_E_NOT_FOUND, "'%s' is missing; %s", path, mend);
    if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is not a program", path);
    if (st.st_uid != 0 || (st.st_mode & 0022))
        return MT_FAIL(err, MT_E_INVALID, "'%s' must belong to root and be writable by nobody else", path);
    return 0;
}

int mt_vmm_check_listed(const struct mt_vmm *vmm, const char *path, struct mt_err *err)
{
    char sum[MT_SHA256_HEX];
    if (vmm->n_sha256 == 0)
        return 0;
    if (mt_sha256_file(path, sum, err) < 0)
        return mt_err_wrap(err, "sum of '%s'", path);
    for (size_t i = 0; i < vmm->n_sha256; i++)
        if (MT_STREQ(vmm->sha256[i], sum))
            return 0;
    return MT_FAIL(err, MT_E_INVALID, "'%s' is not one of vmm_sha256 of agent.toml: it has %s", path, sum);
}

void mt_vmm_mac_text(const uint8_t mac[6], char ret[18])
{
    (void)snprintf(ret, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

/* ---- open ---- */

static int copy_path(char *to, size_t size, const char *from, const char *fallback, struct mt_err *err)
{
    return mt_fmt(to, size, err, "%s", from ? from : fallback);
}

static int open_kvm(struct mt_err *err)
{
    mt_auto_fd int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd == -1)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "/dev/kvm does not open");
    return 0;
}

static int fill(struct mt_vmm *v, const struct mt_vmm_conf *conf, struct mt_err *err)
{
    if (conf->patience > PATIENCE_MAX)
        return MT_FAIL(err, MT_E_INVALID, "patience is %u, must be 1 to %d", conf->patience, PATIENCE_MAX);
    if (!conf->jail_base || conf->jail_base[0] != '/')
        return MT_FAIL(err, MT_E_INVALID, "the jail folder must be an absolute path");
    if (copy_path(v->jail_base, sizeof v->jail_base, conf->jail_base, NULL, err) < 0 ||
        copy_path(v->qemu_path, sizeof v->qemu_path, conf->qemu_path, "/usr/bin/qemu-system-x86_64", err) < 0 ||
        copy_path(v->vsock_path, sizeof v->vsock_path, conf->vsock_path, "", err) < 0 ||
        copy_path(v->firecracker_path, sizeof v->firecracker_path, conf->firecracker_path, "/usr/lib/moat/firecracker", err) < 0 ||
        copy_path(v->jailer_path, sizeof v->jailer_path, conf->jailer_path, "/usr/lib/moat/jailer", err) < 0 ||
        copy_path(v->cpu_template, sizeof v->cpu_template, conf->cpu_template, "", err) < 0)
        return mt_err_wrap(err, "vmm configuration");
    const char *file = strrchr(v->firecracker_path, '/');
    if (mt_fmt(v->jail_driver, sizeof v->jail_driver, err, "%s", v->kind == MT_VMM_QEMU ? "qemu" : file ? file + 1 : "") < 0)
        return mt_err_wrap(err, "firecracker path");
    /* a real jail id is 26 characters, '-' and up to 10 digits: fail at start, not at the first launch */
    struct mt_jail jail;
    if (mt_jail_paths(v->jail_base, v->jail_driver, "00000000000000000000000000-4294967295", &jail, err) < 0)
        return -(int)(err ? err->code : MT_E_LIMIT);
    if (mt_cgroup_open(&v->cgroup, conf->cgroup_mountinfo, conf->cgroup_parent ? conf->cgroup_parent : "moat.slice/instances", err) < 0)
        return -MT_E_UNAVAILABLE;
    v->serial_off = conf->serial_off;
    v->sha256 = conf->sha256;
    v->n_sha256 = conf->n_sha256;
    v->patience = conf->patience ? (int)conf->patience : 1;
    return 0;
}

int mt_vmm_open(const struct mt_vmm_conf *conf, enum mt_vmm_kind kind, enum mt_vmm_accel accel, struct mt_vmm **ret_vmm,
                struct mt_err *err)
{
    if (kind != MT_VMM_QEMU && kind != MT_VMM_FIRECRACKER)
        return MT_FAIL(err, MT_E_INVALID, "driver '%s' is not for real machines", mt_vmm_kind_name(kind));
    if (kind == MT_VMM_FIRECRACKER && accel != MT_VMM_KVM)
        return MT_FAIL(err, MT_E_INVALID, "firecracker needs kvm");
    mt_auto_free struct mt_vmm *v = calloc(1, sizeof *v);
    if (!v)
        return MT_FAIL(err, MT_E_NOMEM, "vmm driver");
    v->kind = kind;
    v->accel = accel;
    v->driver = kind == MT_VMM_QEMU ? &mt_qemu_driver : &mt_firecracker_driver;
    int r = fill(v, conf, err);
    if (r == 0)
        r = v->driver->open(v, err);
    if (r == 0 && accel == MT_VMM_KVM)
        r = open_kvm(err);
    if (r < 0)
        return r;
    if (accel == MT_VMM_TCG)
        v->tsc_khz = mt_tsc_khz();
    *ret_vmm = MT_TAKE(v);
    return 0;
}

void mt_vmm_free(struct mt_vmm *vmm)
{
    free(vmm);
}

enum mt_vmm_kind mt_vmm_kind(const struct mt_vmm *vmm)
{
    return vmm->kind;
}

enum mt_vmm_accel mt_vmm_accel(const struct mt_vmm *vmm)
{
    return vmm->accel;
}

const char *mt_vmm_version(const struct mt_vmm *vmm)
{
    return vmm->version;
}

int mt_vmm_cgroup_version(const struct mt_vmm *vmm)
{
    return vmm->cgroup.version;
}

uint32_t mt_vmm_default_overhead_mib(const struct mt_vmm *vmm)
{
    return vmm->driver->overhead_mib;
}

uint32_t mt_vmm_hello_timeout_ms(const struct mt_vmm *vmm)
{
    return (uint32_t)mt_vmm_wait_ms(vmm, vmm->accel == MT_VMM_TCG ? HELLO_TCG_MS : HELLO_MS);
}

void mt_vmm_release(struct mt_vmm *vmm)
{
    mt_cgroup_remove_parents(&vmm->cgroup);
}

/* ---- spec ---- */

static int check_number(const char *what, uint64_t v, uint64_t min, uint64_t max, struct mt_err *err)
{
    if (v < min || v > max)
        return MT_FAIL(err, MT_E_INVALID, "%s is %llu, must be %llu to %llu", what, (unsigned long long)v, (unsigned long long)min,
                       (unsigned long long)max);
    return 0;
}

static int check_path(const char *what, const char *path, struct mt_err *err)
{
    if (!path || path[0] != '/' || strlen(path) >= MT_JAIL_PATH)
        return MT_FAIL(err, MT_E_INVALID, "%s must be an absolute path shorter than %d bytes", what, MT_JAIL_PATH);
    return 0;
}

static int check_spec(const struct mt_vmm_spec *s, struct mt_err *err)
{
    if (mt_jail_check_id(s->jail_id, err) < 0 || check_number("slot", s->slot, 0, MT_VMM_SLOT_MAX, err) < 0 ||
        check_number("vcpu_count", s->vcpu_count, 1, VCPU_MAX, err) < 0 ||
        check_number("mem_mib", s->mem_mib, MEM_MIN_MIB, MEM_MAX_MIB, err) < 0 ||
        check_number("overhead_mib", s->overhead_mib, OVERHEAD_MIN, OVERHEAD_MAX, err) < 0 ||
        check_number("cpu_weight", s->cpu_weight, 1, WEIGHT_MAX, err) < 0 ||
        check_number("volume_count", s->volume_count, 0, MT_VMM_VOLUMES_MAX, err) < 0)
        return -MT_E_INVALID;
    if (check_path("kernel_path", s->kernel_path, err) < 0 || check_path("initramfs_path", s->initramfs_path, err) < 0 ||
        check_path("root disk", s->root.path, err) < 0 || check_path("scratch disk", s->scratch.path, err) < 0 ||
        check_path("console_path", s->console_path, err) < 0)
        return -MT_E_INVALID;
    for (size_t i = 0; i < s->volume_count; i++) {
        if (check_path("volume", s->volumes[i].path, err) < 0)
            return -MT_E_INVALID;
    }
    if (!s->root.read_only || s->scratch.read_only)
        return MT_FAIL(err, MT_E_INVALID, "the root disk must be read-only and the scratch disk writable");
    if (!s->boot_args || strlen(s->boot_args) >= MT_VMM_BOOT_ARGS_MAX)
        return MT_FAIL(err, MT_E_INVALID, "boot arguments are missing or pass %d bytes", MT_VMM_BOOT_ARGS_MAX);
    for (const char *p = s->boot_args; *p; p++) {
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
            return MT_FAIL(err, MT_E_INVALID, "boot arguments hold a byte that is not printable ASCII");
    }
    if (s->tap && (s->tap[0] == '\0' || strlen(s->tap) >= IFNAMSIZ ||
                   strspn(s->tap, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(s->tap)))
        return MT_FAIL(err, MT_E_INVALID, "tap name must be 1 to 15 lower-case letters and digits");
    return 0;
}

static int paths_of(const struct mt_vmm *vmm, const char *jail_id, struct mt_jail *ret, struct mt_err *err)
{
    return mt_jail_paths(vmm->jail_base, vmm->jail_driver, jail_id, ret, err);
}

static struct mt_vmm_ids ids_of(const struct mt_vmm_spec *spec)
{
    struct mt_vmm_ids ids = {.slot = spec->slot};
    (void)mt_fmt(ids.jail_id, sizeof ids.jail_id, NULL, "%s", spec->jail_id);
    return ids;
}

int mt_vmm_prepare(struct mt_vmm *vmm, const struct mt_vmm_spec *spec, struct mt_err *err)
{
    struct mt_jail jail;
    struct stat st;
    if (check_spec(spec, err) < 0 || paths_of(vmm, spec->jail_id, &jail, err) < 0)
        return mt_err_wrap(err, "vm '%s'", spec->jail_id ? spec->jail_id : "");
    if (lstat(jail.dir, &st) == 0) {
        struct mt_vmm_ids ids = ids_of(spec);
        if (mt_vmm_teardown(vmm, &ids, err) < 0)
            return mt_err_wrap(err, "removing what an earlier attempt left");
    }
    const struct mt_cgroup_limits limits = {.memory_bytes = ((uint64_t)spec->mem_mib + spec->overhead_mib) * MIB,
        .cpu_weight = spec->cpu_weight, .pids_max = PIDS_MAX};
    /* the jailer makes its own group from the same numbers (runtime.md §7.3) */
    if (vmm->kind == MT_VMM_QEMU && mt_cgroup_create(&vmm->cgroup, spec->jail_id, &limits, err) < 0)
        return mt_err_wrap(err, "vm '%s'", spec->jail_id);
    if (vmm->driver->prepare(vmm, &jail, spec, err) < 0)
        return mt_err_wrap(err, "vm '%s'", spec->jail_id);
    return 0;
}

/* ---- sockets of the guest ---- */

int mt_vmm_listen(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, uint32_t port, int *ret_fd, struct mt_err *err)
{
    struct mt_jail jail;
    char name[24];
    if (paths_of(vmm, ids->jail_id, &jail, err) < 0)
        return -(int)(err ? err->code : MT_E_INVALID);
    (void)snprintf(name, sizeof name, "v.sock_%u", port);
    return mt_jail_listen(&jail, name, mt_vmm_uid(ids->slot), ret_fd, err);
}

/* Read up to '\n', byte by byte: what follows belongs to the stream. */
static int read_line(int fd, char *buf, size_t size, int64_t deadline, struct mt_err *err)
{
    for (size_t n = 0; n + 1 < size;) {
        struct pollfd pf = {.fd = fd, .events = POLLIN};
        int64_t left = (deadline - mt_clock_mono()) / MT_NS_PER_MS;
        int r = poll(&pf, 1, left > 0 ? (int)left : 0);
        if (r == -1 && errno == EINTR)
            continue;
        if (r <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "the guest's vsock did not answer");
        ssize_t got = recv(fd, buf + n, 1, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "nobody listens on that port in the guest");
        if (buf[n] == '\n') {
            buf[n] = '\0';
            return 0;
        }
        n++;
    }
    return MT_FAIL(err, MT_E_CORRUPT, "vsock backend answered with a line that is too long");
}

int mt_vmm_connect(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, uint32_t port, int timeout_ms, int *ret_fd, struct mt_err *err)
{
    struct mt_jail jail;
    mt_auto_fd int fd = -1;
    char line[32];
    int64_t deadline = mt_clock_mono() + (int64_t)timeout_ms * MT_NS_PER_MS;
    int r = paths_of(vmm, ids->jail_id, &jail, err);
    if (r == 0)
        r = mt_jail_connect(&jail, "v.sock", &fd, err);
    if (r < 0)
        return r;
    int n = snprintf(line, sizeof line, "CONNECT %u\n", port);
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "vsock backend closed");
    r = read_line(fd, line, sizeof line, deadline, err);
    if (r == 0 && !mt_starts_with(line, "OK "))
        r = MT_FAIL(err, MT_E_CORRUPT, "vsock backend did not say OK");
    if (r == 0)
        r = mt_sock_nonblock(fd, true, err);
    if (r < 0)
        return mt_err_wrap(err, "guest port %u", port);
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

/* ---- running ---- */

int mt_vmm_launch(struct mt_vmm *vmm, const struct mt_vmm_spec *spec, mt_vmm_record_fn *record, void *user, struct mt_vmm_run *ret_run,
                  struct mt_err *err)
{
    struct mt_jail jail;
    struct mt_vmm_run run = MT_VMM_RUN_NONE;
    if (check_spec(spec, err) < 0 || paths_of(vmm, spec->jail_id, &jail, err) < 0)
        return mt_err_wrap(err, "vm '%s'", spec->jail_id ? spec->jail_id : "");
    run.ids = ids_of(spec);
    int r = mt_fmt(run.console_path, sizeof run.console_path, err, "%s", spec->console_path);
    if (r == 0)
        r = vmm->driver->launch(vmm, &jail, spec, record, user, &run, err);
    if (r < 0) {
        (void)mt_vmm_kill(vmm, &run.ids, NULL);
        mt_vmm_run_done(&run);
        return mt_err_wrap(err, "vm '%s'", spec->jail_id);
    }
    *ret_run = run;
    return 0;
}

/* Open a pidfd for exactly the recorded process. -MT_E_NOT_FOUND when it is gone or the number is somebody else's now. */
static int open_recorded(const struct mt_vmm_proc *p, int *ret_fd, struct mt_err *err)
{
    mt_auto_fd int fd = -1;
    uint64_t start;
    if (p->pid <= 1)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no process recorded");
    int r = mt_pidfd_open(p->pid, &fd, err);
    if (r == 0)
        r = mt_proc_start_time(p->pid, &start, err); /* after the pidfd: if it fits, the pidfd is of this process */
    if (r == 0 && start != p->start_ticks)
        r = MT_FAIL(err, MT_E_NOT_FOUND, "pid %d belongs to another process now", p->pid);
    if (r == 0 && poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) > 0)
        r = MT_FAIL(err, MT_E_NOT_FOUND, "process %d has ended", p->pid);
    if (r < 0)
        return r;
    *ret_fd = MT_TAKE_FD(fd);
    return 0;
}

static int check_exe(pid_t pid, const char *want, struct mt_err *err)
{
    char path[40], exe[512];
    (void)snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    if (n <= 0)
        return MT_FAIL_ERRNO(err, MT_E_NOT_FOUND, "program of process %d", pid);
    exe[n] = '\0';
    char *gone = strstr(exe, " (deleted)"); /* replaced by an upgrade while it runs */
    if (gone)
        *gone = '\0';
    const char *file = strrchr(exe, '/');
    if (!MT_STREQ(file ? file + 1 : exe, want))
        return MT_FAIL(err, MT_E_NOT_FOUND, "process %d runs '%s', not %s", pid, exe, want);
    return 0;
}

/* File name of the program as the process sees it: under qemu the names in the jail are ours (qemu.c). */
static const char *exe_name(const struct mt_vmm *vmm, size_t i)
{
    static const char *const qemu[] = {"moat-vsock", "qemu-system-x86_64"};
    MT_ASSERT(i < MT_ARRAY_LEN(qemu));
    return vmm->kind == MT_VMM_QEMU ? qemu[i] : vmm->jail_driver;
}

int mt_vmm_adopt(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, const char *console_path, struct mt_vmm_run *ret_run,
                 struct mt_err *err)
{
    struct mt_vmm_run run = MT_VMM_RUN_NONE;
    struct mt_jail jail;
    int r = paths_of(vmm, ids->jail_id, &jail, err);
    if (r == 0)
        r = mt_fmt(run.console_path, sizeof run.console_path, err, "%s", console_path);
    if (r < 0)
        return r;
    run.ids = *ids;
    if (ids->proc_count != vmm->driver->proc_count)
        r = MT_FAIL(err, MT_E_NOT_FOUND, "%zu of %zu processes were recorded", ids->proc_count, vmm->driver->proc_count);
    for (size_t i = 0; i < vmm->driver->proc_count && r == 0; i++) {
        r = open_recorded(&ids->proc[i], &run.pidfd[i], err);
        if (r == 0)
            r = check_exe(ids->proc[i].pid, exe_name(vmm, i), err);
    }
    if (r < 0) {
        mt_vmm_run_done(&run);
        (void)mt_vmm_kill(vmm, ids, NULL);
        (void)mt_err_wrap(err, "vm '%s' cannot be taken over", ids->jail_id);
        return -MT_E_NOT_FOUND;
    }
    if (vmm->driver->attach_console)
        vmm->driver->attach_console(vmm, &jail, &run);
    *ret_run = run;
    return 0;
}

int mt_vmm_check(struct mt_vmm *vmm, const struct mt_vmm_run *run, struct mt_err *err)
{
    struct mt_jail jail;
    if (vmm->driver->drain_console)
        vmm->driver->drain_console(run);
    if (paths_of(vmm, run->ids.jail_id, &jail, err) < 0)
        return -(int)(err ? err->code : MT_E_INVALID);
    for (size_t i = 0; i < vmm->driver->proc_count; i++) {
        if (poll(&(struct pollfd){.fd = run->pidfd[i], .events = POLLIN}, 1, 0) > 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "%s of vm '%s' has ended", exe_name(vmm, i), run->ids.jail_id);
    }
    int r = vmm->driver->check(vmm, &jail, run, err);
    return r < 0 ? mt_err_wrap(err, "vm '%s'", run->ids.jail_id) : 0;
}

/* ---- ending ---- */

int mt_vmm_kill(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, struct mt_err *err)
{
    int64_t deadline = mt_clock_mono() + KILL_MS * MT_NS_PER_MS;
    int fd[MT_VMM_PROCS_MAX] = {-1, -1};
    int r = mt_jail_check_id(ids->jail_id, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ids->proc_count && i < MT_VMM_PROCS_MAX; i++) {
        if (open_recorded(&ids->proc[i], &fd[i], NULL) == 0)
            (void)mt_pidfd_kill(fd[i], SIGKILL, NULL);
    }
    r = mt_cgroup_kill(&vmm->cgroup, ids->jail_id, KILL_MS, err);
    for (size_t i = 0; i < MT_VMM_PROCS_MAX; i++) {
        /* waiting only looks: whoever owns the child reaps it */
        int64_t left = (deadline - mt_clock_mono()) / MT_NS_PER_MS;
        if (r == 0 && fd[i] >= 0 && poll(&(struct pollfd){.fd = fd[i], .events = POLLIN}, 1, left > 0 ? (int)left : 0) <= 0)
            r = MT_FAIL(err, MT_E_TIMEOUT, "process %d does not end after SIGKILL", ids->proc[i].pid);
        mt_closep(&fd[i]);
    }
    return r < 0 ? mt_err_wrap(err, "ending vm '%s'", ids->jail_id) : 0;
}

int mt_vmm_teardown(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, struct mt_err *err)
{
    if (mt_vmm_kill(vmm, ids, err) < 0)
        return -(int)(err ? err->code : MT_E_TIMEOUT);
    if (mt_jail_remove(vmm->jail_base, vmm->jail_driver, ids->jail_id, err) < 0 ||
        mt_cgroup_remove(&vmm->cgroup, ids->jail_id, err) < 0)
        return mt_err_wrap(err, "removing vm '%s'", ids->jail_id);
    return 0;
}

/* ---- looking ---- */

int mt_vmm_console(struct mt_vmm *vmm, const char *console_path, const struct mt_vmm_run *run, char *buf, size_t size, size_t *ret_len,
                   struct mt_err *err)
{
    if (run && vmm->driver->drain_console)
        vmm->driver->drain_console(run);
    int r = mt_ringfile_read(console_path, buf, size, ret_len, err);
    if (r == -MT_E_NOT_FOUND) {
        *ret_len = 0;
        return 0;
    }
    return r;
}

int mt_vmm_mend_cgroups(struct mt_vmm *vmm, uint64_t backstop_bytes, struct mt_err *err)
{
    return mt_cgroup_mend(&vmm->cgroup, backstop_bytes, err);
}

int mt_vmm_limit(struct mt_vmm *vmm, const char *jail_id, uint64_t memory_bytes, uint32_t cpu_weight, struct mt_err *err)
{
    const struct mt_cgroup_limits limits = {.memory_bytes = memory_bytes, .cpu_weight = cpu_weight, .pids_max = PIDS_MAX};
    int r = mt_jail_check_id(jail_id, err);
    return r < 0 ? r : mt_cgroup_limit(&vmm->cgroup, jail_id, &limits, err);
}

int mt_vmm_usage(struct mt_vmm *vmm, const struct mt_vmm_ids *ids, struct mt_vmm_usage *ret_usage, struct mt_err *err)
{
    struct mt_cgroup_usage u;
    int r = mt_jail_check_id(ids->jail_id, err);
    if (r == 0)
        r = mt_cgroup_usage(&vmm->cgroup, ids->jail_id, &u, err);
    if (r < 0)
        return r;
    *ret_usage = (struct mt_vmm_usage){.cpu_ns = u.cpu_ns, .mem_bytes = u.memory_bytes, .mem_peak_bytes = u.memory_peak_bytes,
        .read_bytes = u.read_bytes, .write_bytes = u.write_bytes, .oom_kills = u.oom_kills};
    return 0;
}

struct id_list {
    char **id; /* array and strings are separate until list_pack */
    size_t count, cap;
};

static void id_list_done(struct id_list *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->id[i]);
    free(l->id);
}

static int id_list_add(struct id_list *l, const char *name, struct mt_err *err)
{
    if (mt_jail_check_id(name, NULL) < 0)
        return 0; /* not one of ours: control files, "." */
    for (size_t i = 0; i < l->count; i++) {
        if (MT_STREQ(l->id[i], name))
            return 0;
    }
    if (l->count == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 16;
        char **p = reallocarray(l->id, cap, sizeof *p);
        if (!p)
            return MT_FAIL(err, MT_E_NOMEM, "list of jails");
        l->id = p;
        l->cap = cap;
    }
    char *copy = mt_strndup(name, strlen(name));
    if (!copy)
        return MT_FAIL(err, MT_E_NOMEM, "list of jails");
    l->id[l->count++] = copy;
    return 0;
}

static int add_folders(struct id_list *l, const char *path, struct mt_err *err)
{
    mt_auto_dir DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT ? 0 : MT_FAIL_ERRNO(err, MT_E_IO, "list '%s'", path);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_type == DT_DIR && id_list_add(l, e->d_name, err) < 0)
            return -MT_E_NOMEM;
    }
    return 0;
}

/* One allocation: the pointers, then the text. */
static char **list_pack(const struct id_list *l)
{
    size_t bytes = l->count * sizeof(char *);
    for (size_t i = 0; i < l->count; i++)
        bytes += strlen(l->id[i]) + 1;
    char **out = malloc(bytes);
    if (!out)
        return NULL;
    char *text = (char *)(out + l->count);
    for (size_t i = 0; i < l->count; i++) {
        size_t n = strlen(l->id[i]) + 1;
        out[i] = memcpy(text, l->id[i], n);
        text += n;
    }
    return out;
}

int mt_vmm_list(struct mt_vmm *vmm, char ***ret_ids, size_t *ret_count, struct mt_err *err)
{
    mt_cleanup(id_list_done) struct id_list l = {.count = 0};
    char path[MT_CGROUP_PATH * 2];
    if (mt_fmt(path, sizeof path, err, "%s/%s", vmm->jail_base, vmm->jail_driver) < 0 || add_folders(&l, path, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    if (mt_cgroup_path(&vmm->cgroup, MT_CGROUP_MEMORY, "", path, sizeof path, err) < 0 || add_folders(&l, path, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    *ret_ids = NULL;
    *ret_count = 0;
    if (l.count == 0)
        return 0;
    char **out = list_pack(&l);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "list of jails");
    *ret_ids = out;
    *ret_count = l.count;
    return 0;
}
