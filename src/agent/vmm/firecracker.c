/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver `firecracker`: the jailer makes the box, the API configures the VM (runtime.md §7.3, §7.4).
 *
 * stdout is a FIFO beside the jail that Firecracker holds open for both directions, non-blocking: no reader is needed, its end
 * never breaks, and what does not fit in 64 KiB is dropped. The driver moves it into the console's ring file.
 */
#include "agent/vmm/firecracker.h"

#include "agent/vmm/confine.h"
#include "agent/vmm/fc_api.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "os/ringfile.h"
#include "os/spawn.h"
#include "wire/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { OVERHEAD_MIB = 64, VERSION_MS = 5000, PID_MS = 2000, POLL_MS = 5, CONSOLE_CHUNK = 4096, CONSOLE_TURN = 32, MIN_MINOR = 12,
       PIDS_MAX = 128, OPEN_FILES = 1024 };
#define MIB (UINT64_C(1) << 20)

/* ---- command line ---- */

int mt_fc_args(const struct mt_vmm *vmm, const struct mt_vmm_spec *spec, uint64_t file_bytes, struct mt_argv *a, struct mt_err *err)
{
    uid_t uid = mt_vmm_uid(spec->slot);
    *a = (struct mt_argv){.count = 0};
    mt_argv_add(a, "%s", vmm->jailer_path);
    mt_argv_add(a, "--id");
    mt_argv_add(a, "%s", spec->jail_id);
    mt_argv_add(a, "--exec-file");
    mt_argv_add(a, "%s", vmm->firecracker_path);
    mt_argv_add(a, "--uid");
    mt_argv_add(a, "%u", uid);
    mt_argv_add(a, "--gid");
    mt_argv_add(a, "%u", uid);
    mt_argv_add(a, "--chroot-base-dir");
    mt_argv_add(a, "%s", vmm->jail_base);
    mt_argv_add(a, "--new-pid-ns");
    mt_argv_add(a, "--cgroup-version");
    mt_argv_add(a, "2");
    mt_argv_add(a, "--parent-cgroup");
    mt_argv_add(a, "%s", vmm->cgroup.parent);
    mt_argv_add(a, "--cgroup");
    mt_argv_add(a, "memory.max=%llu", (unsigned long long)(((uint64_t)spec->mem_mib + spec->overhead_mib) * MIB));
    mt_argv_add(a, "--cgroup");
    mt_argv_add(a, "memory.swap.max=0");
    mt_argv_add(a, "--cgroup");
    mt_argv_add(a, "memory.oom.group=1");
    mt_argv_add(a, "--cgroup");
    mt_argv_add(a, "cpu.weight=%u", spec->cpu_weight);
    mt_argv_add(a, "--cgroup");
    mt_argv_add(a, "pids.max=%d", PIDS_MAX);
    mt_argv_add(a, "--cgroup");
    mt_argv_add(a, "io.weight=100");
    mt_argv_add(a, "--resource-limit");
    mt_argv_add(a, "no-file=%d", OPEN_FILES);
    mt_argv_add(a, "--resource-limit");
    mt_argv_add(a, "fsize=%llu", (unsigned long long)file_bytes);
    mt_argv_add(a, "--");
    mt_argv_add(a, "--api-sock");
    mt_argv_add(a, "/run/api.sock");
    mt_argv_add(a, "--log-path");
    mt_argv_add(a, "/run/fc.log");
    mt_argv_add(a, "--level");
    mt_argv_add(a, "Warning");
    mt_argv_add(a, "--http-api-max-payload-size");
    mt_argv_add(a, "65536");
    if (a->failed)
        return MT_FAIL(err, MT_E_LIMIT, "jailer command line passes %d bytes", MT_ARGV_TEXT);
    return 0;
}

/* ---- open, prepare ---- */

/* "Firecracker v1.13.1\n...", "Jailer v1.13.1\n" */
static int program_version(const struct mt_vmm *vmm, const char *path, char *ret, size_t size, struct mt_err *err)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(4096);
    const char *argv[] = {path, "--version", NULL};
    struct mt_spawn s = {.path = path, .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1, .netns_fd = -1};
    int r = mt_run_ok(&s, NULL, 0, &out, mt_vmm_wait_ms(vmm, VERSION_MS), err);
    if (r < 0)
        return r;
    const char *v = strstr(mt_buf_cstr(&out), " v");
    if (!v)
        return MT_FAIL(err, MT_E_INVALID, "'%s --version' names no version", path);
    (void)snprintf(ret, size, "%.*s", (int)strcspn(v + 2, " \n"), v + 2);
    return 0;
}

static int fc_open(struct mt_vmm *vmm, struct mt_err *err)
{
    struct mt_fc_version v;
    char jailer[64];
    if (mt_vmm_check_binary(vmm->firecracker_path, "install a static release build of firecracker there", err) < 0 ||
        mt_vmm_check_binary(vmm->jailer_path, "install the jailer of the same release there", err) < 0 ||
        mt_vmm_check_listed(vmm, vmm->firecracker_path, err) < 0 || mt_vmm_check_listed(vmm, vmm->jailer_path, err) < 0)
        return -(int)(err ? err->code : MT_E_NOT_FOUND);
    if (vmm->cgroup.version != 2)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "firecracker needs cgroup v2; this host has only v1 controllers");
    if (program_version(vmm, vmm->firecracker_path, vmm->version, sizeof vmm->version, err) < 0 ||
        program_version(vmm, vmm->jailer_path, jailer, sizeof jailer, err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    if (!MT_STREQ(vmm->version, jailer))
        return MT_FAIL(err, MT_E_INVALID, "firecracker is %s but its jailer is %s; install both from one release", vmm->version, jailer);
    if (mt_fc_version_parse(vmm->version, &v, err) < 0)
        return -MT_E_INVALID;
    if (v.major < 1 || (v.major == 1 && v.minor < MIN_MINOR))
        return MT_FAIL(err, MT_E_INVALID, "firecracker is %s, 1.%d or newer is needed", vmm->version, MIN_MINOR);
    mt_auto_json json_t *template = NULL; /* what is wrong with it shows here, not at the first launch */
    int r = mt_fc_cpu_template(vmm, &template, err);
    return r < 0 ? r : mt_cgroup_setup(&vmm->cgroup, err);
}

static int make_fifo(int dir, const char *name, uid_t uid, struct mt_err *err)
{
    if (mkfifoat(dir, name, 0600) == -1 || fchownat(dir, name, uid, uid, AT_SYMLINK_NOFOLLOW) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "make FIFO '%s'", name);
    return 0;
}

static int fc_prepare(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, struct mt_err *err)
{
    mt_auto_fd int run = -1, dir = -1, ring = -1;
    (void)vmm;
    if (mt_jail_build(jail, spec, NULL, NULL, err) < 0 || mt_jail_open_run(jail, &run, err) < 0 ||
        make_fifo(run, "fc.log", mt_vmm_uid(spec->slot), err) < 0)
        return -(int)(err ? err->code : MT_E_IO);
    dir = open(jail->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", jail->dir);
    return make_fifo(dir, "console", 0, err);
}

/* ---- console ---- */

static int open_console(const struct mt_jail *jail)
{
    char path[MT_JAIL_PATH + 16];
    (void)snprintf(path, sizeof path, "%s/console", jail->dir);
    return open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
}

static void fc_attach_console(struct mt_vmm *vmm, const struct mt_jail *jail, struct mt_vmm_run *run)
{
    (void)vmm;
    run->console_fd = open_console(jail);
}

static void fc_drain_console(const struct mt_vmm_run *run)
{
    char buf[CONSOLE_CHUNK];
    struct mt_ringfile ring;
    if (run->console_fd < 0)
        return;
    mt_auto_fd int fd = open(run->console_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd == -1 || mt_ringfile_attach(&ring, fd, NULL) < 0)
        return;
    for (int i = 0; i < CONSOLE_TURN; i++) {
        ssize_t n = read(run->console_fd, buf, sizeof buf);
        if (n <= 0 || mt_ringfile_append(&ring, buf, (size_t)n, NULL) < 0)
            return;
    }
}

/* ---- launch ---- */

static uint64_t file_limit(const struct mt_vmm_spec *spec)
{
    struct stat st;
    uint64_t max = stat(spec->scratch.path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : MIB;
    for (size_t i = 0; i < spec->volume_count; i++) {
        if (!spec->volumes[i].read_only && stat(spec->volumes[i].path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size > max)
            max = (uint64_t)st.st_size;
    }
    return max;
}

static void pause_ms(long ms)
{
    const struct timespec t = {.tv_nsec = ms * 1000000};
    (void)nanosleep(&t, NULL);
}

/* Firecracker's pid out of <root>/<name>.pid, which the jailer writes. -MT_E_TIMEOUT after 2 s. */
static int read_pid(const struct mt_vmm *vmm, const struct mt_jail *jail, int jailer_pidfd, pid_t *ret, struct mt_err *err)
{
    char path[MT_JAIL_PATH + 80], text[24];
    const int limit_ms = mt_vmm_wait_ms(vmm, PID_MS);
    int64_t deadline = mt_clock_mono() + limit_ms * MT_NS_PER_MS;
    struct mt_run_result end;
    bool jailer_done = false;
    if (mt_fmt(path, sizeof path, err, "%s/%s.pid", jail->root, vmm->jail_driver) < 0)
        return -MT_E_LIMIT;
    for (;;) {
        mt_auto_fd int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        ssize_t n = fd == -1 ? -1 : read(fd, text, sizeof text - 1);
        uint64_t pid;
        if (n > 0) {
            text[n] = '\0';
            text[strcspn(text, "\n")] = '\0';
            if (mt_parse_u64(text, 2, INT32_MAX, &pid, NULL) == 0) {
                *ret = (pid_t)pid;
                return 0;
            }
        }
        if (!jailer_done && mt_pidfd_wait(jailer_pidfd, 0, &end, NULL) == 0) {
            jailer_done = true; /* with --new-pid-ns it ends as soon as Firecracker runs */
            if (!end.exited || end.status != 0)
                return MT_FAIL(err, MT_E_UNAVAILABLE, "the jailer failed (%s %d)", end.exited ? "exit" : "signal", end.status);
        }
        if (mt_clock_mono() >= deadline)
            return MT_FAIL(err, MT_E_TIMEOUT, "the jailer wrote no pid file in %d ms", limit_ms);
        pause_ms(POLL_MS);
    }
}

static int record_one(pid_t pid, mt_vmm_record_fn *record, void *user, struct mt_vmm_run *run, struct mt_err *err)
{
    int r = mt_pidfd_open(pid, &run->pidfd[0], err);
    if (r == 0)
        r = mt_proc_start_time(pid, &run->ids.proc[0].start_ticks, err);
    if (r < 0)
        return mt_err_wrap(err, "firecracker ended at once");
    run->ids.proc[0].pid = pid;
    run->ids.proc_count = 1;
    return record ? record(user, &run->ids, err) : 0;
}

static bool proc_text_is(pid_t pid, const char *file, const char *want)
{
    char path[64];
    mt_auto_free char *text = NULL;
    size_t len;
    (void)snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    return mt_file_read(path, 256, &text, &len, NULL) == 0 && MT_STREQ(text, want);
}

/*
 * amd64: KVM's timer thread works for this VM, so it is charged to it. Absent on other hosts.
 * The kernel names it after the number Firecracker has in its own PID namespace, where it is always 1, so the name does not
 * tell whose it is: ours is the first that was made after our Firecracker and that nobody has taken into a group yet.
 */
static void adopt_pit_thread(const struct mt_vmm *vmm, const struct mt_vmm_ids *ids)
{
    pid_t ours = 0;
    uint64_t first = UINT64_MAX;
    mt_auto_dir DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));) {
        uint64_t pid, start;
        if (mt_parse_u64(e->d_name, 2, INT32_MAX, &pid, NULL) < 0 || !proc_text_is((pid_t)pid, "comm", "kvm-pit/1\n") ||
            !proc_text_is((pid_t)pid, "cgroup", "0::/\n") || mt_proc_start_time((pid_t)pid, &start, NULL) < 0)
            continue;
        if (start >= ids->proc[0].start_ticks && start < first) {
            first = start;
            ours = (pid_t)pid;
        }
    }
    if (ours)
        (void)mt_cgroup_join(&vmm->cgroup, ids->jail_id, ours, NULL);
}

static int start_jailer(struct mt_vmm *vmm, const struct mt_vmm_spec *spec, int console, int log, int *ret_pidfd, struct mt_err *err)
{
    mt_auto_free struct mt_argv *a = calloc(1, sizeof *a);
    pid_t pid;
    if (!a)
        return MT_FAIL(err, MT_E_NOMEM, "jailer command line");
    int r = mt_fc_args(vmm, spec, file_limit(spec), a, err);
    if (r < 0)
        return r;
    const struct mt_spawn s = {.path = vmm->jailer_path, .argv = (const char *const *)a->argv, .stdin_fd = -1, .stdout_fd = console,
                               .stderr_fd = log, .new_session = true, .netns_fd = -1};
    return mt_spawn(&s, &pid, ret_pidfd, err);
}

static int fc_launch(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_spec *spec, mt_vmm_record_fn *record, void *user,
                     struct mt_vmm_run *run, struct mt_err *err)
{
    struct mt_err local = {.code = MT_OK};
    struct mt_fc_version version;
    mt_auto_fd int log = -1, jailer = -1, ring = -1;
    pid_t pid = 0;
    if (!err)
        err = &local;
    if (mt_ringfile_create(spec->console_path, &ring, err) < 0)
        return mt_err_wrap(err, "console");
    run->console_fd = open_console(jail);
    log = open(jail->log, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (run->console_fd == -1 || log == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open the FIFOs of '%s'", jail->dir);
    int r = start_jailer(vmm, spec, run->console_fd, log, &jailer, err);
    if (r < 0)
        return r;
    r = read_pid(vmm, jail, jailer, &pid, err);
    if (r == 0) /* the jailer has given it to the VM, which could then rename what we look for by name */
        r = mt_jail_own_root(jail, (gid_t)mt_vmm_uid(spec->slot), err);
    if (r == 0)
        r = record_one(pid, record, user, run, err);
    if (r == 0)
        r = mt_fc_api_version(vmm, jail, run->pidfd[0], &version, err);
    if (r == 0)
        r = mt_fc_api_start(vmm, jail, spec, &version, err);
    if (r == 0)
        r = mt_confine_check(pid, mt_vmm_uid(spec->slot), err);
    if (r < 0) {
        struct mt_run_result end;
        if (pid == 0) /* the jailer itself, and with it whatever it was making */
            (void)mt_pidfd_kill(jailer, SIGKILL, NULL);
        (void)mt_pidfd_wait(jailer, PID_MS, &end, NULL);
        mt_jail_add_log(log, err);
        return r;
    }
    adopt_pit_thread(vmm, &run->ids);
    return 0;
}

static int fc_check(struct mt_vmm *vmm, const struct mt_jail *jail, const struct mt_vmm_run *run, struct mt_err *err)
{
    (void)run;
    return mt_fc_api_alive(vmm, jail, err);
}

const struct mt_vmm_driver mt_firecracker_driver = {
    .proc_count = 1,
    .overhead_mib = OVERHEAD_MIB,
    .open = fc_open,
    .prepare = fc_prepare,
    .launch = fc_launch,
    .check = fc_check,
    .attach_console = fc_attach_console,
    .drain_console = fc_drain_console,
};
