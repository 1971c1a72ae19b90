/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VM from the command line, through the agent's driver interface: for scenario tests and for looking by hand.
 * Speaks JSON lines on stdout; commands come as words on stdin. It may die at any time: the VM stays, `adopt` takes it back.
 *
 *   vmtool run      --jail-base D --vsock-program P --kernel K --initramfs I --root R --scratch S --state F ...
 *   vmtool adopt    --jail-base D --vsock-program P --state F
 *   vmtool teardown --jail-base D --vsock-program P --state F      (or --id NAME instead of a state file)
 *   vmtool list     --jail-base D --vsock-program P
 *   vmtool probe    --jail-base D --vsock-program P --kernel K --initramfs I --cache F [--want auto] [--patience N]
 */
#include "agent/vmm/probe.h"
#include "agent/vmm/vmm.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"
#include "wire/json.h"

#include <getopt.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { HELLO_PORT = 5161, TIMEOUT_MS = 30000, STATE_MAX = 4096 };

struct tool {
    struct mt_vmm_conf conf;
    struct mt_vmm_spec spec;
    const char *state, *cache, *want, *id, *identity;
    char *listed[4];
    const char *hold; /* file that must be removed before record returns: a test kills us there */
    enum mt_vmm_kind kind;
    enum mt_vmm_accel accel;
    int64_t t0;
    struct mt_vmm *vmm;
    struct mt_vmm_run run;
};

static void emit(json_t *j)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1 << 20);
    if (j && mt_json_dump(j, &b, NULL) == 0) {
        (void)printf("%s\n", mt_buf_cstr(&b));
        (void)fflush(stdout);
    }
    json_decref(j);
}

static int fail(const struct mt_err *err)
{
    emit(json_pack("{s:s,s:s,s:s}", "event", "failed", "code", mt_code_name(err->code), "message", err->msg));
    return 1;
}

static json_int_t ms_since(int64_t t0)
{
    return (json_int_t)((mt_clock_mono() - t0) / MT_NS_PER_MS);
}

/* The state file is what the agent would keep: enough to adopt or to undo. */
static int save(const struct tool *t, const struct mt_vmm_ids *ids, struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(STATE_MAX);
    mt_auto_json json_t *procs = json_array(), *j = NULL;
    for (size_t i = 0; i < ids->proc_count; i++)
        json_array_append_new(procs, json_pack("{s:I,s:I}", "pid", (json_int_t)ids->proc[i].pid, "start",
                                               (json_int_t)ids->proc[i].start_ticks));
    j = json_pack("{s:s,s:I,s:s,s:O}", "jail_id", ids->jail_id, "slot", (json_int_t)ids->slot, "console", t->spec.console_path, "procs",
                  procs);
    if (!j || mt_json_dump(j, &b, err) < 0)
        return -MT_E_NOMEM;
    return mt_file_write(t->state, b.p, b.len, 0600, err);
}

static int load(struct tool *t, struct mt_vmm_ids *ids, char console[256], struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *j = NULL;
    size_t len;
    const char *s;
    uint64_t v, pid;
    json_t *procs;
    *ids = (struct mt_vmm_ids){.slot = 0};
    if (t->id)
        return mt_fmt(ids->jail_id, sizeof ids->jail_id, err, "%s", t->id);
    if (mt_file_read(t->state, STATE_MAX, &text, &len, err) < 0 || mt_json_parse(text, len, STATE_MAX, 8, &j, err) < 0 ||
        mt_json_get_str(j, "jail_id", MT_VMM_JAIL_ID_MAX, &s, err) < 0)
        return -(int)err->code;
    (void)mt_fmt(ids->jail_id, sizeof ids->jail_id, NULL, "%s", s);
    if (mt_json_get_u64(j, "slot", 0, MT_VMM_SLOT_MAX, &v, err) < 0 || mt_json_get_str(j, "console", 255, &s, err) < 0 ||
        mt_json_get_array(j, "procs", MT_VMM_PROCS_MAX, &procs, err) < 0)
        return -(int)err->code;
    ids->slot = (uint32_t)v;
    (void)mt_fmt(console, 256, NULL, "%s", s);
    for (size_t i = 0; i < json_array_size(procs); i++) {
        const json_t *p = json_array_get(procs, i);
        if (mt_json_get_u64(p, "pid", 2, INT32_MAX, &pid, err) < 0 || mt_json_get_u64(p, "start", 0, INT64_MAX, &v, err) < 0)
            return -(int)err->code;
        ids->proc[ids->proc_count++] = (struct mt_vmm_proc){.pid = (pid_t)pid, .start_ticks = v};
    }
    return 0;
}

static int record(void *user, const struct mt_vmm_ids *ids, struct mt_err *err)
{
    struct tool *t = user;
    struct stat st;
    if (save(t, ids, err) < 0)
        return -(int)err->code;
    json_t *pids = json_array();
    for (size_t i = 0; i < ids->proc_count; i++)
        json_array_append_new(pids, json_integer(ids->proc[i].pid));
    emit(json_pack("{s:s,s:o,s:I}", "event", "recorded", "pids", pids, "ms", ms_since(t->t0)));
    while (t->hold && stat(t->hold, &st) == 0) {
        const struct timespec ts = {.tv_nsec = 10000000};
        (void)nanosleep(&ts, NULL);
    }
    return 0;
}

/* Commands on stdin until it ends; a VM that ends is told once. */
static int serve(struct tool *t, int listener)
{
    struct mt_err err = {.code = MT_OK};
    static char console[MT_VMM_CONSOLE_BYTES];
    char line[256];
    mt_auto_fd int guest = -1;
    bool over = false;
    for (;;) {
        struct pollfd p[5] = {{.fd = 0, .events = POLLIN}, {.fd = over ? -1 : t->run.pidfd[0], .events = POLLIN},
            {.fd = over ? -1 : t->run.pidfd[1], .events = POLLIN}, {.fd = listener, .events = POLLIN}, {.fd = guest, .events = POLLIN}};
        if (poll(p, 5, -1) < 0)
            return 1;
        if ((p[1].revents | p[2].revents) & POLLIN) {
            over = true;
            emit(json_pack("{s:s,s:b,s:b}", "event", "ended", "first", p[1].revents != 0, "second", p[2].revents != 0));
        }
        if (p[3].revents & POLLIN) {
            int fd;
            uid_t uid;
            if (mt_sock_accept(listener, &fd, &err) > 0) {
                mt_closep(&guest);
                guest = fd;
                (void)mt_sock_peercred(fd, &uid, NULL, NULL, NULL);
                emit(json_pack("{s:s,s:I,s:I}", "event", "guest_connected", "ms", ms_since(t->t0), "uid", (json_int_t)uid));
            }
        }
        if (p[4].revents) {
            ssize_t n = recv(guest, line, sizeof line - 1, MSG_DONTWAIT);
            if (n <= 0) {
                mt_closep(&guest);
            } else {
                char text[256];
                emit(json_pack("{s:s,s:I,s:s}", "event", "guest_said", "ms", ms_since(t->t0), "text",
                               mt_printable(line, (size_t)n, text, sizeof text)));
            }
        }
        if (!p[0].revents)
            continue;
        ssize_t n = read(0, line, sizeof line - 1);
        if (n <= 0)
            return 0; /* as a crash of the agent: nothing is ended */
        line[n] = '\0';
        line[strcspn(line, "\n")] = '\0';
        int r = 0;
        if (MT_STREQ(line, "check")) {
            r = mt_vmm_check(t->vmm, &t->run, &err);
        } else if (MT_STREQ(line, "usage")) {
            struct mt_vmm_usage u;
            r = mt_vmm_usage(t->vmm, &t->run.ids, &u, &err);
            if (r == 0)
                emit(json_pack("{s:s,s:I,s:I,s:I,s:I}", "event", "usage", "cpu_ns", (json_int_t)u.cpu_ns, "mem", (json_int_t)u.mem_bytes,
                               "peak", (json_int_t)u.mem_peak_bytes, "oom", (json_int_t)u.oom_kills));
        } else if (MT_STREQ(line, "console")) {
            size_t len = 0;
            r = mt_vmm_console(t->vmm, t->run.console_path, &t->run, console, sizeof console, &len, &err);
            if (r == 0)
                emit(json_pack("{s:s,s:I,s:s%}", "event", "console", "len", (json_int_t)len, "tail", console + (len > 200 ? len - 200 : 0),
                               len > 200 ? (size_t)200 : len));
        } else if (mt_starts_with(line, "connect ")) {
            uint64_t port;
            int fd = -1;
            r = mt_parse_u64(line + 8, 1, UINT32_MAX - 1, &port, &err);
            if (r == 0)
                r = mt_vmm_connect(t->vmm, &t->run.ids, (uint32_t)port, 5000, &fd, &err);
            mt_closep(&fd);
        } else if (mt_starts_with(line, "say ")) { /* to the guest's control connection */
            line[n - 1] = '\n';
            if (guest < 0 || send(guest, line + 4, (size_t)n - 4, MSG_NOSIGNAL) < 0)
                r = MT_FAIL(&err, MT_E_UNAVAILABLE, "no guest connection");
        } else if (MT_STREQ(line, "kill")) {
            r = mt_vmm_kill(t->vmm, &t->run.ids, &err);
        } else {
            r = MT_FAIL(&err, MT_E_INVALID, "unknown command");
        }
        if (r < 0)
            (void)fail(&err);
        else
            emit(json_pack("{s:s,s:s}", "event", "done", "command", line));
    }
}

static int cmd_run(struct tool *t)
{
    struct mt_err err = {.code = MT_OK};
    mt_auto_fd int listener = -1;
    struct mt_vmm_ids ids = {.slot = t->spec.slot};
    (void)mt_fmt(ids.jail_id, sizeof ids.jail_id, NULL, "%s", t->spec.jail_id);
    if (save(t, &ids, &err) < 0 || mt_vmm_prepare(t->vmm, &t->spec, &err) < 0)
        return fail(&err);
    emit(json_pack("{s:s,s:s,s:i}", "event", "prepared", "version", mt_vmm_version(t->vmm), "cgroup", mt_vmm_cgroup_version(t->vmm)));
    if (mt_vmm_listen(t->vmm, &ids, HELLO_PORT, &listener, &err) < 0)
        return fail(&err);
    t->t0 = mt_clock_mono();
    if (mt_vmm_launch(t->vmm, &t->spec, record, t, &t->run, &err) < 0)
        return fail(&err);
    emit(json_pack("{s:s,s:I}", "event", "launched", "ms", ms_since(t->t0)));
    return serve(t, listener);
}

static int cmd_adopt(struct tool *t)
{
    struct mt_err err = {.code = MT_OK};
    struct mt_vmm_ids ids;
    char console[256] = "";
    mt_auto_fd int listener = -1;
    t->t0 = mt_clock_mono();
    if (load(t, &ids, console, &err) < 0 || mt_vmm_adopt(t->vmm, &ids, console, &t->run, &err) < 0 ||
        mt_vmm_listen(t->vmm, &ids, HELLO_PORT, &listener, &err) < 0)
        return fail(&err);
    emit(json_pack("{s:s}", "event", "adopted"));
    return serve(t, listener);
}

static int cmd_teardown(struct tool *t)
{
    struct mt_err err = {.code = MT_OK};
    struct mt_vmm_ids ids;
    char console[256] = "";
    if (load(t, &ids, console, &err) < 0 || mt_vmm_teardown(t->vmm, &ids, &err) < 0)
        return fail(&err);
    mt_vmm_release(t->vmm);
    emit(json_pack("{s:s}", "event", "gone"));
    return 0;
}

static int cmd_list(struct tool *t)
{
    struct mt_err err = {.code = MT_OK};
    char **ids = NULL;
    size_t n;
    if (mt_vmm_list(t->vmm, &ids, &n, &err) < 0)
        return fail(&err);
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_string(ids[i]));
    emit(json_pack("{s:s,s:o}", "event", "list", "ids", a));
    free(ids);
    return 0;
}

static int cmd_probe(const struct tool *t)
{
    struct mt_err err = {.code = MT_OK};
    struct mt_vmm_choice c;
    const struct mt_vmm_probe_conf conf = {.vmm = t->conf, .want = t->want, .kernel_path = t->spec.kernel_path,
        .initramfs_path = t->spec.initramfs_path, .cache_path = t->cache, .scratch_dir = t->conf.jail_base, .bundle_version = "test"};
    if (mt_vmm_probe(&conf, &c, &err) < 0)
        return fail(&err);
    emit(json_pack("{s:s,s:b,s:s,s:s,s:b,s:i,s:s,s:s}", "event", "choice", "ok", c.ok, "driver", mt_vmm_kind_name(c.kind), "accel",
                   mt_vmm_accel_name(c.accel), "cached", c.cached, "hello_ms", (int)c.hello_ms, "version", c.version, "reason", c.reason));
    return 0;
}

static bool number(const char *text, uint64_t max, uint64_t *ret)
{
    struct mt_err err;
    if (mt_parse_u64(text, 0, max, ret, &err) == 0)
        return true;
    (void)fail(&err);
    return false;
}

static bool options(struct tool *t, int argc, char **argv)
{
    static const struct option table[] = {{"jail-base", 1, NULL, 'j'}, {"vsock-program", 1, NULL, 'v'}, {"kernel", 1, NULL, 'k'},
        {"initramfs", 1, NULL, 'i'}, {"root", 1, NULL, 'r'}, {"scratch", 1, NULL, 's'}, {"state", 1, NULL, 't'}, {"id", 1, NULL, 'd'},
        {"tap", 1, NULL, 'p'}, {"mem", 1, NULL, 'm'}, {"slot", 1, NULL, 'l'}, {"console", 1, NULL, 'c'}, {"boot-args", 1, NULL, 'b'},
        {"cgroup-parent", 1, NULL, 'g'}, {"kvm", 0, NULL, 'K'}, {"cache", 1, NULL, 'C'}, {"want", 1, NULL, 'w'}, {"hold", 1, NULL, 'h'},
        {"vcpus", 1, NULL, 'V'}, {"mountinfo", 1, NULL, 'M'}, {"volume", 1, NULL, 'o'}, {"disk-bps", 1, NULL, 'B'}, {"firecracker", 1, NULL, 'F'}, {"jailer", 1, NULL, 'J'}, {"qemu", 1, NULL, 'q'}, {"patience", 1, NULL, 'P'}, {"net-bps", 1, NULL, 'N'}, {"net-pps", 1, NULL, 'Q'}, {"listed", 1, NULL, 'S'}, {"cpu-template", 1, NULL, 'T'}, {NULL, 0, NULL, 0}};
    uint64_t v;
    for (int o; (o = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        switch (o) {
        case 'j': t->conf.jail_base = optarg; break;
        case 'v': t->conf.vsock_path = optarg; break;
        case 'k': t->spec.kernel_path = optarg; break;
        case 'i': t->spec.initramfs_path = optarg; break;
        case 'r': t->spec.root.path = optarg; break;
        case 's': t->spec.scratch.path = optarg; break;
        case 't': t->state = optarg; break;
        case 'd': t->spec.jail_id = t->id = optarg; break;
        case 'p': t->spec.tap = optarg; break;
        case 'c': t->spec.console_path = optarg; break;
        case 'b': t->spec.boot_args = optarg; break;
        case 'g': t->conf.cgroup_parent = optarg; break;
        case 'C': t->cache = optarg; break;
        case 'w': t->want = optarg; break;
        case 'h': t->hold = optarg; break;
        case 'q': t->conf.qemu_path = optarg; break;
        case 'S':
            t->listed[t->conf.n_sha256++ % 4] = optarg;
            t->conf.sha256 = t->listed;
            break;
        case 'T': t->conf.cpu_template = optarg; break;
        case 'J': t->conf.jailer_path = optarg; break;
        case 'K': t->accel = MT_VMM_KVM; break;
        case 'M': t->conf.cgroup_mountinfo = optarg; break;
        case 'o':
            if (t->spec.volume_count == MT_VMM_VOLUMES_MAX)
                return false;
            t->spec.volumes[t->spec.volume_count++].path = optarg;
            break;
        case 'N':
            if (!number(optarg, UINT32_MAX, &v))
                return false;
            t->spec.net_rx_bytes_per_s = t->spec.net_tx_bytes_per_s = v;
            break;
        case 'Q':
            if (!number(optarg, UINT32_MAX, &v))
                return false;
            t->spec.net_packets_per_s = v;
            break;
        case 'B':
            if (!number(optarg, UINT32_MAX, &v))
                return false;
            t->spec.scratch.bytes_per_s = v;
            break;
        case 'F':
            t->conf.firecracker_path = optarg;
            t->kind = MT_VMM_FIRECRACKER;
            t->accel = MT_VMM_KVM;
            break;
        case 'P':
            if (!number(optarg, 30, &v))
                return false;
            t->conf.patience = (uint32_t)v;
            break;
        case 'm':
            if (!number(optarg, 1 << 20, &v))
                return false;
            t->spec.mem_mib = (uint32_t)v;
            break;
        case 'V':
            if (!number(optarg, 32, &v))
                return false;
            t->spec.vcpu_count = (uint32_t)v;
            break;
        case 'l':
            if (!number(optarg, MT_VMM_SLOT_MAX, &v))
                return false;
            t->spec.slot = (uint32_t)v;
            break;
        default:
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    struct tool t = {.kind = MT_VMM_QEMU, .accel = MT_VMM_TCG, .want = "auto", .run = MT_VMM_RUN_NONE,
        .spec = {.vcpu_count = 1, .mem_mib = 128, .overhead_mib = 96, .cpu_weight = 100, .root = {.read_only = true},
            .guest_mac = {0x02, 0xfc, 0, 0, 0, 0x02}, .mtu = 1420}};
    struct mt_err err = {.code = MT_OK};
    const char *cmd = argc > 1 ? argv[1] : "";
    if (!options(&t, argc - 1, argv + 1))
        return 2;
    if (MT_STREQ(cmd, "probe"))
        return cmd_probe(&t);
    t.id = MT_STREQ(cmd, "teardown") && !t.state ? t.id : NULL;
    if (mt_vmm_open(&t.conf, t.kind, t.accel, &t.vmm, &err) < 0)
        return fail(&err);
    int r = 2;
    if (MT_STREQ(cmd, "run"))
        r = cmd_run(&t);
    else if (MT_STREQ(cmd, "adopt"))
        r = cmd_adopt(&t);
    else if (MT_STREQ(cmd, "teardown"))
        r = cmd_teardown(&t);
    else if (MT_STREQ(cmd, "list"))
        r = cmd_list(&t);
    else
        (void)fprintf(stderr, "usage: vmtool run|adopt|teardown|list|probe ...\n");
    mt_vmm_run_done(&t.run);
    mt_vmm_free(t.vmm);
    return r;
}
