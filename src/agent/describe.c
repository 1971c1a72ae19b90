/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of the local socket. See describe.h. */
#include "agent/describe.h"

#include "agent/control.h"
#include "agent/forward/forward.h"
#include "agent/hostcheck.h"
#include "agent/identity/identity.h"
#include "agent/instance/inst.h"
#include "agent/mesh/mesh.h"
#include "agent/report.h"
#include "agent/traffic.h"
#include "agent/volumes.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "wire/json.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

#define CONSOLE_BYTES MT_VMM_CONSOLE_BYTES

static int put_line(json_t *doc, struct mt_buf *out, struct mt_err *err)
{
    int rc = doc ? mt_json_dump(doc, out, err) : MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_decref(doc);
    mt_buf_putc(out, '\n');
    return rc < 0 ? rc : mt_buf_check(out, err);
}

/* ---- timings ----------------------------------------------------------------------------- */

struct span {
    const char *name;
    int64_t from, to;
};

static size_t spans_of(const struct mt_state *st, struct span ret[8])
{
    const struct mt_timeline *t = &st->t;
    int64_t network = t->network && t->network < t->disk ? t->disk : t->network; /* made beside the disk: what it took longer */
    const struct span all[8] = {
        {"wait", t->plan, t->prepare},    {"image", t->prepare, t->image}, {"disk", t->image, t->disk},
        {"net", t->disk, network},        {"vm", network, t->launch},      {"boot", t->launch, t->hello},
        {"start", t->hello, t->started},  {"ready", t->started, t->ready},
    };
    size_t n = 0;
    for (size_t i = 0; i < 8; i++) {
        if (all[i].from && all[i].to >= all[i].from && all[i].to)
            ret[n++] = all[i];
    }
    return n;
}

const char *mt_describe_timing(const struct mt_state *st, char *ret, size_t size)
{
    struct span s[8];
    size_t n = spans_of(st, s), at = 0;
    ret[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s[i].name, "wait") == 0)
            continue; /* the scheduler's and the probe's, not this start's */
        int k = snprintf(ret + at, size - at, "%s%s=%lld", at ? " " : "", s[i].name,
                         (long long)((s[i].to - s[i].from + 500) / 1000));
        if (k < 0 || (size_t)k >= size - at) {
            ret[at] = '\0'; /* whole words only */
            break;
        }
        at += (size_t)k;
    }
    return ret;
}

/* ---- instances --------------------------------------------------------------------------- */

static json_t *brief(const struct mt_inst *in)
{
    const struct mt_state *st = &in->st;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "instance_id", st->instance_id, "env_id", st->env_id,
                          "boot_id", st->boot_id, "phase", mt_phase_name(st->phase), "status", mt_report_status_name(in),
                          "generation", (json_int_t)st->generation, "boot_seq", (json_int_t)st->boot_seq, "restart_count",
                          (json_int_t)st->counters.restart_count);
    if (!o)
        return NULL;
    if (in->detail)
        (void)mt_json_set_str(o, "status_detail", in->detail);
    if (st->address[0])
        (void)mt_json_set_str(o, "overlay_ipv6", st->address);
    if (st->slot != MT_STATE_NO_SLOT)
        (void)mt_json_set_u64(o, "slot", st->slot);
    json_t *pids = json_array();
    for (size_t i = 0; pids && i < st->vmm.proc_count; i++)
        (void)json_array_append_new(pids, json_integer(st->vmm.proc[i].pid));
    (void)json_object_set_new(o, "pids", pids);
    if (st->end.reason[0]) {
        (void)mt_json_set_str(o, "reason_code", st->end.reason);
        (void)mt_json_set_str(o, "reason_detail", st->end.detail);
    }
    if (st->end.has_exit_code)
        (void)json_object_set_new(o, "exit_code", json_integer(st->end.exit_code));
    if (st->end.signal[0])
        (void)mt_json_set_str(o, "signal", st->end.signal);
    return o;
}

int mt_describe_list(struct mt_agent *a, struct mt_buf *out, struct mt_err *err)
{
    size_t pos = 0;
    void *v;
    int rc = 0;
    while (rc == 0 && mt_map_next(&a->insts, &pos, NULL, &v))
        rc = put_line(brief(v), out, err);
    return rc;
}

/* How full each volume is, in the guest's words; of names that are not of its mounts nothing is said. */
static json_t *volumes_of(const struct mt_inst *in)
{
    json_t *all = json_array();
    for (size_t i = 0; all && in->spec && i < in->pong.volumes_count; i++) {
        const struct mt_guest_volume_use *v = &in->pong.volumes[i];
        for (size_t k = 0; k < in->spec->n_mounts; k++)
            if (MT_STREQ(in->spec->mounts[k].name, v->name))
                (void)json_array_append_new(all, json_pack("{s:s, s:s, s:I, s:I}", "name", v->name, "volume_id", in->spec->mounts[k].volume_id,
                                                           "used_bytes", (json_int_t)v->used_bytes, "size_bytes", (json_int_t)v->size_bytes));
    }
    return all;
}

static void put_timeline(json_t *o, const struct mt_state *st)
{
    struct span s[8];
    char text[160];
    size_t n = spans_of(st, s);
    json_t *t = json_object();
    for (size_t i = 0; t && i < n; i++)
        (void)json_object_set_new(t, s[i].name, json_integer((s[i].to - s[i].from + 500) / 1000));
    (void)json_object_set_new(o, "timing_ms", t);
    (void)mt_json_set_str(o, "timing", mt_describe_timing(st, text, sizeof text));
}

int mt_describe_instance(struct mt_agent *a, const char *id, struct mt_buf *out, struct mt_err *err)
{
    struct mt_inst *in = mt_map_get(&a->insts, id);
    char ts[MT_RFC3339_LEN];
    if (!in)
        return MT_FAIL(err, MT_E_NOT_FOUND, "this node has no instance '%s'", id);
    json_t *o = brief(in);
    if (!o)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    const struct mt_state *st = &in->st;
    (void)mt_json_set_str(o, "spec_hash", st->spec_hash);
    (void)mt_json_set_str(o, "image_digest", st->digest);
    (void)mt_json_set_str(o, "driver", st->driver);
    (void)mt_json_set_str(o, "accel", st->accel);
    (void)mt_json_set_str(o, "jail_id", st->vmm.jail_id);
    (void)mt_json_set_bool(o, "in_plan", in->as != NULL);
    (void)mt_json_set_bool(o, "guest_connected", mt_channel_connected(in->chan));
    (void)mt_json_set_u64(o, "guest_breaches", mt_channel_breaches(in->chan));
    (void)mt_json_set_u64(o, "report_seq", in->seq);
    (void)mt_json_set_u64(o, "attempts", st->counters.attempts);
    if (st->phase == MT_PH_BACKOFF && st->next_retry_us)
        (void)mt_json_set_str(o, "next_retry_at", mt_rfc3339(st->next_retry_us, ts));
    if (in->health_why[0])
        (void)mt_json_set_str(o, "health", in->health_why);
    if (in->log)
        (void)mt_json_set_u64(o, "log_last_seq", mt_log_next_seq(in->log) - 1);
    json_t *undo = json_array();
    for (int i = 0; undo && i < MT_STEP_MAX; i++) {
        if (st->undo & MT_STEP_BIT(i))
            (void)json_array_append_new(undo, json_string(mt_step_name((enum mt_step)i)));
    }
    (void)json_object_set_new(o, "undo", undo);
    put_timeline(o, st);
    struct mt_vmm_usage u;
    if (mt_phase_live(st->phase) && in->vmm && st->vmm.jail_id[0] && !in->job && mt_vmm_usage(in->vmm, &st->vmm, &u, NULL) == 0) {
        json_t *usage = json_pack("{s:I, s:I, s:I, s:I}", "cpu_ms", (json_int_t)(u.cpu_ns / 1000000), "mem_bytes", (json_int_t)u.mem_bytes,
                                  "mem_peak_bytes", (json_int_t)u.mem_peak_bytes, "oom_kills", (json_int_t)u.oom_kills);
        if (usage && mt_vmm_cgroup_version(in->vmm) == 2) {
            (void)mt_json_set_u64(usage, "read_bytes", u.read_bytes);
            (void)mt_json_set_u64(usage, "write_bytes", u.write_bytes);
        }
        (void)json_object_set_new(o, "usage", usage);
    }
    json_t *traffic = st->slot != MT_STATE_NO_SLOT ? mt_traffic_of(a->traffic, st->slot, st->address) : NULL;
    if (traffic)
        (void)json_object_set_new(o, "traffic", traffic);
    if (in->pong.mem_total_bytes)
        (void)json_object_set_new(
            o, "guest", json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "mem_total_bytes", (json_int_t)in->pong.mem_total_bytes,
                                  "mem_available_bytes", (json_int_t)in->pong.mem_available_bytes, "oom_kills",
                                  (json_int_t)in->pong.oom_kills, "procs", (json_int_t)in->pong.procs, "load1_milli",
                                  (json_int_t)in->pong.load1_milli, "rootfs_used_bytes",
                                  (json_int_t)in->pong.rootfs_used_bytes, "fs_errors", (json_int_t)in->pong.fs_errors, "volumes", volumes_of(in)));
    return put_line(o, out, err);
}

/* ---- console ----------------------------------------------------------------------------- */

void mt_describe_lines(const char *attempt, const char *text, size_t n, struct mt_buf *out)
{
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t stop = end ? (size_t)(end - text) : n, len = stop - at;
        while (len > 0 && text[at + len - 1] == '\r')
            len--;
        if (attempt)
            mt_buf_printf(out, "{\"attempt\":\"%s\",\"line\":", attempt);
        else
            mt_buf_puts(out, "{\"line\":");
        mt_buf_put_json_str(out, text + at, len);
        mt_buf_puts(out, "}\n");
        at = stop + 1;
    }
}

static int put_console(struct mt_agent *a, const struct mt_inst *in, const char *file, const char *attempt,
                       struct mt_buf *out, struct mt_err *err)
{
    char path[PATH_MAX];
    size_t n = 0;
    struct mt_vmm *vmm = in->vmm ? in->vmm : mt_agent_vmm(a);
    mt_auto_free char *buf = malloc(CONSOLE_BYTES);

    if (!buf)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    int rc = mt_fmt(path, sizeof path, err, "%s/%s", in->dir, file);
    if (rc == 0 && vmm)
        rc = mt_vmm_console(vmm, path, NULL, buf, CONSOLE_BYTES, &n, err);
    if (rc < 0)
        return rc;
    mt_describe_lines(attempt, buf, n, out);
    return mt_buf_check(out, err);
}

int mt_describe_console(struct mt_agent *a, const char *id, struct mt_buf *out, struct mt_err *err)
{
    struct mt_inst *in = mt_map_get(&a->insts, id);
    if (!in)
        return MT_FAIL(err, MT_E_NOT_FOUND, "this node has no instance '%s'", id);
    int rc = put_console(a, in, "console.prev.ring", "previous", out, err);
    return rc < 0 ? rc : put_console(a, in, "console.ring", "latest", out, err);
}

/* ---- doctor ------------------------------------------------------------------------------ */

struct finding {
    const char *check;
    int level; /* 0 ok, 1 warn, 2 fail */
    const char *detail, *mend;
};

static int put_finding(const struct finding *f, struct mt_buf *out, struct mt_err *err)
{
    static const char *const levels[] = {"ok", "warn", "fail"};
    json_t *o = json_pack("{s:s, s:s}", "check", f->check, "severity", levels[f->level]);
    if (o && f->detail)
        (void)mt_json_set_str(o, "finding", f->detail);
    if (o && f->level > 0 && f->mend)
        (void)mt_json_set_str(o, "mend", f->mend);
    return put_line(o, out, err);
}

int mt_describe_doctor(struct mt_agent *a, struct mt_buf *out, struct mt_err *err)
{
    char vmm[900], disk[96], memory[96], mode[96], mesh[320], bundle[200];
    int mesh_level = mt_mesh_doctor(a->mesh, mesh, sizeof mesh);
    mt_auto_buf struct mt_buf logs = MT_BUF_INIT(16384);
    int logs_level = mt_forward_doctor(a->forward, &logs);
    const char *storage, *storage_mend;
    int storage_level = mt_volumes_doctor(a->volumes, &storage, &storage_mend);
    struct statvfs fs = {0};

    (void)snprintf(vmm, sizeof vmm, "%s + %s: %s", a->choice.ok ? mt_vmm_kind_name(a->choice.kind) : "none",
                   a->choice.ok ? mt_vmm_accel_name(a->choice.accel) : "none", a->choice.reason);
    (void)statvfs(a->conf.data_dir, &fs);
    uint64_t free_mib = (uint64_t)fs.f_bavail * fs.f_frsize >> 20;
    unsigned percent = fs.f_blocks ? (unsigned)(fs.f_bavail * 100 / fs.f_blocks) : 100;
    (void)snprintf(disk, sizeof disk, "%llu MiB free, %u %%%s", (unsigned long long)free_mib, percent,
                   atomic_load(&a->logs_stopped) ? ": lines of workloads are not kept" : percent < 5 ? ": nothing starts" : percent < 10 ? ": nothing new starts" : "");
    (void)snprintf(memory, sizeof memory, "%llu MiB available%s", (unsigned long long)(a->pressure.available_kib / 1024), a->pressure.on ? ": this node takes no new work" : "");
    (void)snprintf(mode, sizeof mode, "%s, %s", a->conf.host_firewall, a->fw_loaded ? "loaded" : "not loaded");
    if (a->bundle_bad[0])
        (void)snprintf(bundle, sizeof bundle, "%s, in place of %s, which does not boot here", a->bundle.version, a->bundle_bad);
    else
        (void)snprintf(bundle, sizeof bundle, "%s%s%s", a->bundle.version[0] ? a->bundle.version : "none", a->bundle.origin[0] ? ", " : "", a->bundle.origin);

    const struct finding all[] = {
        {"agent.vmm", a->probing ? 1 : a->choice.ok ? 0 : 2, a->probing ? "the probe boot runs" : vmm,
         "apt-get install qemu-system-x86, or install firecracker and jailer where /dev/kvm works; systemctl restart moat-agent"},
        {"agent.bundle", a->bundle_bad[0] ? 1 : a->bundle.version[0] ? 0 : 2, bundle,
         a->bundle_bad[0] ? "the agent's log says why at bundle.fell_back; a bundle that is made anew is tried again"
                          : "systemctl restart moat-bundle (package), or packaging/bundle/make-bundle: built from the Debian archive"},
        {"agent.firewall", a->fw_loaded ? 0 : a->plan ? 2 : 1, mode, "journalctl -u moat-agent -g network.not_loaded says why (under moat up: log/agent.log)"},
        {"agent.disk", percent < 5 ? 2 : percent < 10 ? 1 : 0, disk, "free space below the data folder"},
        {"agent.memory", a->pressure.on, a->pressure.total_kib ? memory : "not asked yet", "ps -eo rss,comm --sort=-rss | head: what is not moat's has outgrown reserve.memory_bytes; raise it, end that, or moat node drain"},
        {"agent.control", mt_control_reachable(a->control) ? 0 : 1, a->identity ? mt_identity_control(a->identity) : a->conf.control_socket,
         "systemctl start moat-control, or moat up"},
        {"agent.storage", storage_level, storage, storage_mend},
        {"agent.logs", logs_level, mt_buf_cstr(&logs), "docs/runbooks.md, \"Log backlog or sink down\": lines wait in the node's store; mend the receiver or logs.sink"},
        {"agent.mesh", mesh_level, mesh, "`moat net verify` names the pair and the likely cause"},
        {"agent.edge_user", a->edge_uid != (uid_t)-1 ? 0 : 1, a->conf.edge_user, "`moat up` makes the system users"},
        {"agent.plan", a->plan_rejected[0] ? 2 : a->plan ? 0 : 1,
         a->plan_rejected[0] ? a->plan_rejected : a->plan ? "accepted" : "none yet", "journalctl -u moat-agent -g plan.rejected (under moat up: log/agent.log) names the field; moat admin doctor"},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < MT_ARRAY_LEN(all); i++)
        rc = put_finding(&all[i], out, err);
    const struct mt_hostcheck_row *rows = mt_host_rows(a, true);
    for (size_t i = 0; rc == 0 && i < MT_HOSTCHECK_ROWS; i++)
        rc = put_finding(&(struct finding){rows[i].check, rows[i].level, rows[i].finding, rows[i].mend}, out, err);
    return rc;
}
