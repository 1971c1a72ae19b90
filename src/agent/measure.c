/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/measure.h"

#include "agent/exec.h"
#include "agent/forward/forward.h"
#include "agent/identity/identity.h"
#include "agent/instance/inst.h"
#include "agent/mesh/mesh.h"
#include "agent/report.h"
#include "agent/traffic.h"
#include "agent/volumes.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <sys/statvfs.h>

#define PEER_FRESH_S 180 /* WireGuard renews a session that is used every 120 s */

static const char *const phases[MT_BOOT_PHASE_MAX] = {"pull", "rootfs", "vmm", "guest", "ready"};

/* Points of the timeline are wall clock and 0 where they were not reached. */
static void span(struct mt_hist *h, int64_t from_us, int64_t to_us)
{
    if (from_us && to_us)
        mt_hist_observe(h, to_us - from_us);
}

void mt_agent_measure_ready(const struct mt_inst *in)
{
    struct mt_agent_measure *m = &in->a->measure;
    const struct mt_timeline *t = &in->st.t;
    if (in->have_disk && !in->disk.cached) {
        mt_hist_observe(&m->boot[MT_BOOT_PULL][0], (int64_t)in->disk.pull_ms * 1000);
        mt_hist_observe(&m->boot[MT_BOOT_ROOTFS][0], (int64_t)in->disk.build_ms * 1000);
    }
    span(&m->boot[MT_BOOT_VMM][0], t->launch, t->vm);
    span(&m->boot[MT_BOOT_GUEST][0], t->vm, t->started);
    span(&m->boot[MT_BOOT_READY][0], t->started, t->ready);
}

void mt_agent_measure_over(const struct mt_inst *in, bool again)
{
    struct mt_agent_measure *m = &in->a->measure;
    const struct mt_timeline *t = &in->st.t;
    enum mt_reason reason = mt_reason_from_code(in->st.end.reason);
    if (reason == MT_REASON_COMPLETED)
        return;
    m->failures[reason]++;
    if (again)
        m->restarts[reason]++;
    if (reason == MT_REASON_OOM_KILLED && MT_STREQ(in->st.end.detail, "guest"))
        m->oom_guest++;
    else if (reason == MT_REASON_OOM_KILLED)
        m->oom_host++;
    if (t->ready || !t->prepare)
        return;
    enum mt_boot_phase where = !t->image ? MT_BOOT_PULL : !t->launch ? MT_BOOT_ROOTFS : !t->vm ? MT_BOOT_VMM : !t->started ? MT_BOOT_GUEST : MT_BOOT_READY;
    span(&m->boot[where][1], t->prepare, mt_clock_wall_us());
}

/* ---- the page ---- */

/* What the VM takes now, and of the processor since the last page; a VM that is new on this page is counted from the next. */
static void add_used(struct mt_inst *in, uint64_t *memory, uint64_t *cpu_ns)
{
    struct mt_vmm_usage u;
    if (!in->vmm || !in->st.vmm.jail_id[0] || in->job || mt_vmm_usage(in->vmm, &in->st.vmm, &u, NULL) < 0)
        return;
    *memory += u.mem_bytes;
    if (in->cpu_seen_ns && u.cpu_ns > in->cpu_seen_ns)
        *cpu_ns += u.cpu_ns - in->cpu_seen_ns;
    in->cpu_seen_ns = u.cpu_ns;
}

static void put_instances(struct mt_agent *a, struct mt_metrics *p)
{
    int64_t now = mt_loop_now(a->loop), since = now - a->measure.used_at_ns;
    uint64_t counts[MT_STATUS_MAX] = {0}, memory = 0, cpu = 0, errors = 0, used = 0, cpu_ns = 0, overhead = (uint64_t)mt_agent_overhead_mib(a) << 20;
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        struct mt_inst *in = value;
        const char *name = mt_report_status_name(in);
        for (int i = 0; i < MT_STATUS_MAX; i++)
            counts[i] += MT_STREQ(mt_instance_status_name((enum mt_instance_status)i), name);
        errors += mt_phase_live(in->st.phase) ? in->pong.fs_errors : 0;
        if (mt_phase_live(in->st.phase) && in->spec) {
            memory += in->spec->resources.memory_bytes + overhead;
            cpu += in->spec->resources.cpu_millis;
            add_used(in, &used, &cpu_ns);
        }
    }
    for (int i = 0; i < MT_STATUS_MAX; i++)
        mt_metrics_u64(p, MT_M_A_INSTANCES, counts[i], mt_instance_status_name((enum mt_instance_status)i));
    mt_metrics_u64(p, MT_M_A_MEMORY, mt_agent_alloc_memory(a), "allocatable");
    mt_metrics_u64(p, MT_M_A_MEMORY, memory, "assigned");
    mt_metrics_u64(p, MT_M_A_MEMORY, used, "used");
    mt_metrics_u64(p, MT_M_A_CPU, (uint64_t)a->cores * 10 * mt_agent_cpu_overcommit_percent(a), "allocatable");
    mt_metrics_u64(p, MT_M_A_CPU, cpu, "assigned");
    if (a->measure.used_at_ns && since > 0)
        mt_metrics_u64(p, MT_M_A_CPU, cpu_ns * 1000 / (uint64_t)since, "used");
    a->measure.used_at_ns = now;
    mt_metrics_u64(p, MT_M_A_VOLUME_ERRORS, errors);
}

static void put_attempts(const struct mt_agent_measure *m, struct mt_metrics *p)
{
    static const char *const results[] = {"ok", "failed"};
    for (size_t i = 0; i < MT_BOOT_PHASE_MAX; i++)
        for (size_t k = 0; k < 2; k++)
            mt_metrics_hist(p, MT_M_A_BOOT, &m->boot[i][k], phases[i], results[k]);
    /* every reason from the start: an increase from nothing is none for who looks at rates */
    for (size_t i = 1; i < MT_REASON_MAX; i++)
        if (mt_reason_info((enum mt_reason)i)->parts & MT_REASON_INSTANCE)
            mt_metrics_u64(p, MT_M_A_FAILURES, m->failures[i], mt_reason_code((enum mt_reason)i));
    for (size_t i = 1; i < MT_REASON_MAX; i++)
        if (mt_reason_info((enum mt_reason)i)->parts & MT_REASON_INSTANCE)
            mt_metrics_u64(p, MT_M_A_RESTARTS, m->restarts[i], mt_reason_code((enum mt_reason)i));
    mt_metrics_u64(p, MT_M_A_OOM, m->oom_host, "host");
    mt_metrics_u64(p, MT_M_A_OOM, m->oom_guest, "guest");
}

static void put_disks(const struct mt_agent *a, struct mt_metrics *p)
{
    const struct {
        const char *mount, *path;
    } all[] = {{"images", a->conf.images_dir}, {"scratch", a->conf.scratch_dir}, {"logs", a->conf.logs_dir}};
    struct mt_image_usage usage;
    struct statvfs v;
    for (size_t i = 0; i < MT_ARRAY_LEN(all); i++) {
        if (statvfs(all[i].path, &v) < 0)
            continue;
        mt_metrics_u64(p, MT_M_A_DISK, (uint64_t)v.f_blocks * v.f_frsize, all[i].mount, "total");
        mt_metrics_u64(p, MT_M_A_DISK, (uint64_t)v.f_bavail * v.f_frsize, all[i].mount, "free");
    }
    mt_metrics_u64(p, MT_M_A_PULLS, mt_metrics_get(&a->measure.pulls_ok), "ok");
    mt_metrics_u64(p, MT_M_A_PULLS, mt_metrics_get(&a->measure.pulls_failed), "failed");
    mt_metrics_u64(p, MT_M_A_EVICTIONS, mt_metrics_get(&a->measure.evictions));
    if (mt_image_usage(a->images, &usage, NULL) == 0)
        mt_metrics_u64(p, MT_M_A_CACHE, usage.rootdisk_bytes + usage.blob_bytes);
}

static void put_pool(const struct mt_agent *a, struct mt_metrics *p)
{
    struct mt_storage_figures s;
    mt_volumes_figures(a->volumes, &s);
    if (s.pool_bytes) {
        mt_metrics_u64(p, MT_M_A_POOL, s.pool_bytes, "total");
        mt_metrics_u64(p, MT_M_A_POOL, s.pool_used_bytes, "used");
    }
    if (s.meta_bytes) {
        mt_metrics_u64(p, MT_M_A_POOL, s.meta_bytes, "meta_total");
        mt_metrics_u64(p, MT_M_A_POOL, s.meta_used_bytes, "meta_used");
    }
}

static void put_breaches(const struct mt_agent_measure *m, struct mt_metrics *p)
{
    for (size_t i = 0; i < MT_BREACH_MAX; i++)
        mt_metrics_u64(p, MT_M_A_VIOLATIONS, m->breaches[i], mt_breach_word((enum mt_breach)i));
}

/* What the heartbeat says of the mesh, summed up: peers are no labels. */
static void put_mesh(const struct mt_agent *a, struct mt_metrics *p)
{
    /* whose machine is out of the mesh for good has no place in it that somebody should be alarmed about */
    mt_auto_json json_t *mesh = a->disowned ? NULL : mt_mesh_report(a->mesh);
    json_t *peer;
    size_t i;
    uint64_t up = 0, stale = 0, holes = 0;
    int64_t oldest = -1;
    if (mesh) {
        json_array_foreach (json_object_get(mesh, "peers"), i, peer) {
            json_t *age = json_object_get(peer, "handshake_age_s");
            if (age && json_integer_value(age) <= PEER_FRESH_S)
                up++;
            else
                stale++;
            holes += json_is_false(json_object_get(peer, "mtu_ok"));
            if (age && json_integer_value(age) > oldest)
                oldest = json_integer_value(age);
        }
        mt_metrics_u64(p, MT_M_A_PEERS, up, "up");
        mt_metrics_u64(p, MT_M_A_PEERS, stale, "stale");
        mt_metrics_i64(p, MT_M_A_MESH_REVISION, json_integer_value(json_object_get(mesh, "revision")));
        mt_metrics_u64(p, MT_M_A_MTU_HOLES, holes);
        if (oldest >= 0)
            mt_metrics_i64(p, MT_M_A_HANDSHAKE, oldest);
        mt_metrics_i64(p, MT_M_A_DRIFT, json_integer_value(json_object_get(mesh, "repairs")), "mesh");
    }
    mt_metrics_u64(p, MT_M_A_DRIFT, a->measure.firewall_mended, "firewall");
    for (size_t r = 0; r < MT_FW_RULE_MAX; r++)
        mt_metrics_u64(p, MT_M_A_FIREWALL_DROPS, mt_traffic_rules(a->traffic)[r].packets, mt_fw_rule_name((enum mt_fw_rule)r));
}

/* Full, it takes no new flow, of VMs or of the host. Absent as long as nothing has brought the kernel's part of it. */
static void put_conntrack(struct mt_metrics *p)
{
    static const char *const files[] = {"count", "max"}, *const kinds[] = {"used", "max"};
    for (size_t i = 0; i < MT_ARRAY_LEN(files); i++) {
        char path[64];
        mt_auto_free char *text = NULL;
        size_t len = 0;
        uint64_t n;
        (void)snprintf(path, sizeof path, "/proc/sys/net/netfilter/nf_conntrack_%s", files[i]);
        if (mt_file_read(path, 32, &text, &len, NULL) < 0)
            continue;
        text[strcspn(text, "\n")] = '\0';
        if (mt_parse_u64(text, 0, UINT32_MAX, &n, NULL) == 0)
            mt_metrics_u64(p, MT_M_A_CONNTRACK, n, kinds[i]);
    }
}

static void put_node(struct mt_agent *a, struct mt_metrics *p)
{
    const struct mt_agent_measure *m = &a->measure;
    const char *words[32];
    mt_metrics_u64(p, MT_M_A_HEARTBEATS, m->beats_taken, "taken");
    mt_metrics_u64(p, MT_M_A_HEARTBEATS, m->beats_refused, "refused");
    mt_metrics_u64(p, MT_M_A_HEARTBEATS, m->beats_unreachable, "unreachable");
    if (!a->probing)
        mt_metrics_u64(p, MT_M_A_VMM, 1, a->choice.ok ? mt_vmm_kind_name(a->choice.kind) : "none",
                       a->choice.ok ? mt_vmm_accel_name(a->choice.accel) : "none");
    size_t n = mt_report_conditions(a, words, MT_ARRAY_LEN(words));
    for (size_t i = 0; i < n; i++)
        mt_metrics_u64(p, MT_M_A_CONDITION, 1, words[i]);
    mt_metrics_us(p, MT_M_A_CLOCK, a->skew_ms * 1000);
    mt_metrics_u64(p, MT_M_A_EXEC, mt_exec_relays_count(a->exec));
    if (m->plan_heard_ns)
        mt_metrics_us(p, MT_M_A_PLAN_AGE, (mt_loop_now(a->loop) - m->plan_heard_ns) / 1000);
    mt_metrics_hist(p, MT_M_A_RECONCILE, &m->reconcile);
}

int mt_agent_measure_page(void *agent, struct mt_buf *b, struct mt_err *err)
{
    struct mt_agent *a = agent;
    struct mt_metrics p;
    mt_metrics_begin(&p, b, MT_METRICS_AGENT);
    put_node(a, &p);
    put_instances(a, &p);
    put_attempts(&a->measure, &p);
    put_disks(a, &p);
    put_breaches(&a->measure, &p);
    mt_storage_measure_put(&a->measure.storage, &p);
    put_pool(a, &p);
    put_mesh(a, &p);
    put_conntrack(&p);
    for (uint8_t i = MT_LOG_STDOUT; i <= MT_LOG_SYSTEM; i++)
        mt_metrics_u64(&p, MT_M_A_LOG_LINES, a->measure.lines[i - 1], mt_log_stream_name(i));
    mt_forward_measure(a->forward, &p);
    if (a->identity)
        mt_metrics_i64(&p, MT_M_CERT_EXPIRY, mt_identity_not_after(a->identity) - mt_clock_wall_us() / 1000000, "node");
    return mt_metrics_end(&p, err);
}

bool mt_agent_measure_is_ready(void *agent, const char **ret_why)
{
    struct mt_agent *a = agent;
    if (!a->plan)
        *ret_why = "no plan yet\n";
    else if (a->probing)
        *ret_why = "the probe boot runs\n";
    else if (!a->choice.ok)
        *ret_why = "no VMM runs here\n";
    else if (!a->fw_loaded)
        *ret_why = "the firewall is not loaded\n";
    else
        return true;
    return false;
}
