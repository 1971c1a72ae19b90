/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon: start, plans, passes over the instances, planned end. See agent.h. */
#include "agent/agent.h"

#include "agent/admin.h"
#include "agent/backups.h"
#include "agent/boots.h"
#include "agent/control.h"
#include "agent/drift.h"
#include "agent/exec.h"
#include "agent/forward/forward.h"
#include "agent/identity/identity.h"
#include "agent/instance/inst.h"
#include "agent/mesh/mesh.h"
#include "agent/net/tap.h"
#include "agent/ipv4.h"
#include "agent/netdrift.h"
#include "agent/netstate.h"
#include "agent/remote.h"
#include "agent/report.h"
#include "agent/restores.h"
#include "agent/secrets.h"
#include "agent/skew.h"
#include "agent/strays.h"
#include "agent/traffic.h"
#include "agent/upkeep.h"
#include "agent/volumes.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "os/notify.h"
#include "wire/json.h"
#include "wire/metrics_http.h"

#include <malloc.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#define STEP_THREADS 8
#define PULL_THREADS 6
#define QUEUE_MAX 16384
#define QUIT_POLL_MS 50
#define SAVE_PACE_MS 1000
#define STOP_ALL_MS 20000

/* ---- drivers and admission --------------------------------------------------------------- */

void mt_agent_vmm_conf(const struct mt_agent *a, const char *vsock_path, struct mt_vmm_conf *ret)
{
    *ret = (struct mt_vmm_conf){.jail_base = a->conf.jail_dir,
                                .qemu_path = a->conf.qemu_path,
                                .vsock_path = vsock_path,
                                .firecracker_path = a->conf.firecracker_path,
                                .jailer_path = a->conf.jailer_path,
                                .cgroup_parent = a->conf.cgroup_parent,
                                .sha256 = a->conf.vmm_sha256.v,
                                .n_sha256 = a->conf.vmm_sha256.n,
                                .cpu_template = a->conf.cpu_template,
                                .serial_off = !a->conf.serial,
                                .patience = (uint32_t)a->conf.patience};
}

int mt_agent_vmm_named(struct mt_agent *a, const char *driver, const char *accel, struct mt_vmm **ret, struct mt_err *err)
{
    int kind = 0, acc = 0, rc = 0;
    char vsock[PATH_MAX];
    struct mt_vmm_conf conf;

    while (kind < MT_VMM_KIND_MAX && strcmp(mt_vmm_kind_name((enum mt_vmm_kind)kind), driver) != 0)
        kind++;
    while (acc < MT_VMM_ACCEL_MAX && strcmp(mt_vmm_accel_name((enum mt_vmm_accel)acc), accel) != 0)
        acc++;
    if (kind == MT_VMM_KIND_MAX || acc == MT_VMM_ACCEL_MAX)
        return MT_FAIL(err, MT_E_INVALID, "no driver '%s' with '%s'", driver, accel);
    if (mt_fmt(vsock, sizeof vsock, err, "%s/moat-vsock", a->conf.bin_dir) < 0)
        return -MT_E_LIMIT;
    mt_agent_vmm_conf(a, vsock, &conf);
    (void)pthread_mutex_lock(&a->vmm_lock);
    if (!a->vmm[kind][acc])
        rc = mt_vmm_open(&conf, (enum mt_vmm_kind)kind, (enum mt_vmm_accel)acc, &a->vmm[kind][acc], err);
    *ret = a->vmm[kind][acc];
    (void)pthread_mutex_unlock(&a->vmm_lock);
    return rc;
}

struct mt_vmm *mt_agent_vmm(struct mt_agent *a)
{
    if (a->probing || !a->choice.ok)
        return NULL;
    (void)pthread_mutex_lock(&a->vmm_lock);
    struct mt_vmm *v = a->vmm[a->choice.kind][a->choice.accel];
    (void)pthread_mutex_unlock(&a->vmm_lock);
    return v;
}

/* What the control plane sets for this machine wins over its file. */
#define SET_BY_PLAN(a, member) ((a)->plan ? (a)->plan->node_config.member : 0)

uint64_t mt_agent_cpu_overcommit_percent(const struct mt_agent *a)
{
    uint64_t set = SET_BY_PLAN(a, cpu_overcommit_percent);
    return set ? set : a->conf.cpu_overcommit_percent;
}

uint64_t mt_agent_cpu_ceiling_percent(const struct mt_agent *a)
{
    uint64_t set = SET_BY_PLAN(a, cpu_ceiling_percent);
    return set ? set : a->conf.cpu_ceiling_percent;
}

uint32_t mt_agent_overhead_mib(const struct mt_agent *a)
{
    uint64_t set = SET_BY_PLAN(a, memory_overhead_bytes) >> 20;
    if (set)
        return (uint32_t)(set < 16 ? 16 : set > 256 ? 256 : set);
    if (a->conf.overhead_mib)
        return (uint32_t)a->conf.overhead_mib < 16 ? 16 : (uint32_t)a->conf.overhead_mib;
    return a->choice.ok && a->choice.kind == MT_VMM_FIRECRACKER ? 64 : 96;
}

uint64_t mt_agent_alloc_memory(const struct mt_agent *a)
{
    const uint64_t gib = UINT64_C(1) << 30, mib = UINT64_C(1) << 20;
    uint64_t six = a->physical_bytes / 100 * 6, two = a->physical_bytes / 50;
    uint64_t keep = (six > gib ? six : gib) + (two > 512 * mib ? two : 512 * mib);
    if (a->conf.reserve_memory_bytes)
        keep = a->conf.reserve_memory_bytes;
    if (a->plan && a->plan->node_config.reserved_memory_bytes)
        keep = a->plan->node_config.reserved_memory_bytes;
    return a->physical_bytes > keep ? a->physical_bytes - keep : 0;
}

int mt_agent_admit(struct mt_agent *a, const struct mt_inst *in, uint64_t memory_bytes, enum mt_reason *ret_reason,
                   struct mt_err *err)
{
    uint64_t overhead = (uint64_t)mt_agent_overhead_mib(a) << 20;
    uint64_t used = memory_bytes + overhead, alloc = mt_agent_alloc_memory(a), others = 0;
    struct mt_image_usage usage;
    size_t pos = 0;
    void *value;

    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        const struct mt_inst *other = value;
        if (other == in || !mt_phase_live(other->st.phase))
            continue;
        others++;
        if (other->spec)
            used += other->spec->resources.memory_bytes + overhead;
    }
    if (others >= a->conf.instances) {
        *ret_reason = MT_REASON_NODE_CAPACITY_EXCEEDED;
        return MT_FAIL(err, MT_E_LIMIT, "instances: %llu run here, as many as limits.instances says", (unsigned long long)others);
    }
    if (mt_restores_memory(a->restores))
        used += mt_restores_memory(a->restores) + overhead;
    if (used > alloc) {
        *ret_reason = MT_REASON_NODE_CAPACITY_EXCEEDED;
        return MT_FAIL(err, MT_E_LIMIT, "memory: %llu MiB needed with what runs, %llu MiB allocatable",
                       (unsigned long long)(used >> 20), (unsigned long long)(alloc >> 20));
    }
    /* runtime.md §16: below 10 % after a pass over the cache nothing new begins here; what has run here is restarted until §3's 5 % */
    bool again = in && in->st.boot_seq > 0;
    if (mt_image_usage(a->images, &usage, NULL) < 0 || (usage.fs_free_bytes >= usage.fs_total_bytes / 20 && (again || !usage.disk_pressure)))
        return 0;
    *ret_reason = MT_REASON_DISK_FULL;
    return MT_FAIL(err, MT_E_LIMIT, "disk: less than %s of '%s' is free", usage.disk_pressure && !again ? "10 %" : "5 %", a->conf.data_dir);
}

bool mt_agent_clock_is_off(const struct mt_agent *a)
{
    return a->skew_ms > MT_SKEW_DEGRADED_MS || a->skew_ms < -MT_SKEW_DEGRADED_MS;
}

bool mt_agent_may_boot(struct mt_agent *a)
{
    unsigned booting = 0, most = (unsigned)a->conf.parallel_boots;
    size_t pos = 0;
    void *value;

    if (!mt_agent_vmm(a) || !a->fw_loaded)
        return false;
    int64_t when;
    if (!mt_pace_may(&a->launches, (unsigned)a->conf.launches_per_second, mt_loop_now(a->loop), &when)) {
        mt_loop_timer_set(a->pace_timer, when);
        return false;
    }
    if (!most)
        most = a->choice.accel == MT_VMM_TCG ? a->cores : 8;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        const struct mt_inst *in = value;
        if (in->st.phase == MT_PH_BOOTING || (in->st.phase == MT_PH_PREPARING && in->job && in->have_disk))
            booting++;
    }
    return booting < most;
}

/* ---- plans ------------------------------------------------------------------------------- */

/* An instance that runs or is to run pins the version. */
static bool secret_used(void *arg, const char *version_id)
{
    struct mt_agent *a = arg;
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        const struct mt_inst *in = value;
        const char *pinned = in->spec ? in->spec->secrets.version_id : NULL;
        /* between two attempts it is in use; not when the whole agent stops and there will be no other attempt */
        bool over = in->st.phase == MT_PH_STOPPED || in->st.phase == MT_PH_FAILED || (a->stop_all && in->st.phase == MT_PH_NONE);
        if (pinned && !over && MT_STREQ(pinned, version_id))
            return true;
    }
    return false;
}

static void look_all(struct mt_source *s, void *arg)
{
    struct mt_agent *a = arg;
    int64_t next = INT64_MAX;
    size_t pos = 0;
    void *value;
    int64_t began = mt_clock_mono();
    (void)s;

    /* instances are removed here and nowhere else, so the pointers stay good for the whole pass */
    size_t n = 0;
    mt_auto_free struct mt_inst **all = calloc(a->insts.count + 1, sizeof *all);
    while (all && mt_map_next(&a->insts, &pos, NULL, &value))
        all[n++] = value;
    bool vms = false;
    for (size_t i = 0; i < n; i++) {
        vms |= mt_phase_live(all[i]->st.phase);
        if (all[i]->st.phase == MT_PH_BACKOFF && all[i]->next_retry_ns < next && all[i]->next_retry_ns > mt_loop_now(a->loop))
            next = all[i]->next_retry_ns;
        mt_inst_look(all[i]);
        if (mt_inst_removable(all[i]))
            mt_inst_remove(all[i]);
    }
    mt_image_beside_vms(a->images, vms);
    mt_secret_store_sweep(a->secrets, secret_used, a);
    mt_hist_observe_ns(&a->measure.reconcile, mt_clock_mono() - began);
    if (!mt_loop_timer_armed(a->look_timer) && next != INT64_MAX)
        mt_loop_timer_set(a->look_timer, next);
}

void mt_agent_look_soon(struct mt_agent *a)
{
    if (a->look_timer)
        mt_loop_timer_after(a->look_timer, 0);
}

static void on_pace(struct mt_source *s, void *arg)
{
    (void)s;
    mt_agent_look_soon(arg);
}

static void count_absence(struct mt_agent *a)
{
    int64_t now = mt_loop_now(a->loop);
    /* A plan of the epoch says by itself whether it may stop what it does not name; one of an epoch before may not. */
    bool recovery = a->plan->recovery || a->recovery_epoch > a->pos.epoch;
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        struct mt_inst *in = value;
        if (mt_absence_seen(&in->absent_since_ns, in->as != NULL, recovery, now) && !in->absent) {
            mt_log(MT_INFO, "instance.absent", KV("instance_id", in->st.instance_id));
            in->absent = true;
        }
        if (in->as)
            in->absent = false;
    }
}

static void bind_plan(struct mt_agent *a)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value))
        ((struct mt_inst *)value)->as = NULL;
    for (size_t i = 0; i < a->plan->n_instances; i++) {
        const struct mt_assignment *as = &a->plan->instances[i];
        struct mt_err err = {0};
        bool fresh = !mt_map_get(&a->insts, as->instance_id);
        struct mt_inst *in = mt_inst_get(a, as->instance_id, &err);
        if (!in) {
            mt_log(MT_ERROR, "instance.not_made", KV("instance_id", as->instance_id), KV_ERR(&err));
            continue;
        }
        in->as = as;
        if (fresh)
            in->st.t.plan = mt_clock_wall_us();
    }
}

static void keep_images(struct mt_agent *a)
{
    size_t n = 0;
    mt_auto_free const char **digests = calloc(a->plan->n_instances + 1, sizeof *digests);
    for (size_t i = 0; digests && i < a->plan->n_instances; i++) {
        const struct mt_workload *w = a->plan->instances[i].workload;
        if (w && w->image.resolved_digest)
            digests[n++] = w->image.resolved_digest;
    }
    if (digests)
        (void)mt_image_keep(a->images, digests, n, NULL);
}

static int plan_path(const struct mt_agent *a, const char *name, char ret[PATH_MAX])
{
    return mt_fmt(ret, PATH_MAX, NULL, "%s/%s", a->conf.agent_dir, name);
}

/* The plan in force to the disk. The one before becomes plan.prev.json by a second name, so that plan.json is there at every moment. */
static void store_plan(struct mt_agent *a)
{
    char path[PATH_MAX], prev[PATH_MAX];
    struct mt_err err = {0};

    a->plan_unsaved = false;
    a->plan_saved_ns = mt_loop_now(a->loop);
    if (plan_path(a, "plan.json", path) < 0 || plan_path(a, "plan.prev.json", prev) < 0)
        return;
    (void)unlink(prev);
    if (link(path, prev) < 0 && errno != ENOENT)
        mt_log(MT_WARN, "plan.previous_not_kept", KV("error", (const char *)strerror(errno)));
    if (mt_sealed_save(path, a->plan->doc, &err) < 0)
        mt_log(MT_ERROR, "plan.not_saved", KV_ERR(&err));
}

static void on_save(struct mt_source *s, void *arg)
{
    struct mt_agent *a = arg;
    (void)s;
    if (a->plan && a->plan_unsaved)
        store_plan(a);
}

/* A plan that says what the one before said tells only where the log stands: that is written once a second at most. A process that is
 * killed in between asks from where it stood a second ago and gets the same plan again. */
static void store_plan_soon(struct mt_agent *a)
{
    a->plan_unsaved = true;
    if (mt_loop_now(a->loop) - a->plan_saved_ns >= SAVE_PACE_MS * MT_NS_PER_MS)
        store_plan(a);
    else if (!mt_loop_timer_armed(a->save_timer))
        mt_loop_timer_after(a->save_timer, SAVE_PACE_MS);
}

/* Do two plans say the same, but for where the log stood? */
static bool plans_alike(const json_t *old, const json_t *new, bool same_network)
{
    const char *key;
    json_t *v;
    if (json_object_size(old) != json_object_size(new))
        return false;
    json_object_foreach((json_t *)(uintptr_t)new, key, v) {
        if (MT_STREQ(key, "cursor_event_id") || MT_STREQ(key, "plan_id"))
            continue;
        if (MT_STREQ(key, "network") ? !same_network : !json_equal(json_object_get(old, key), v))
            return false;
    }
    return true;
}

static bool plan_acceptable(struct mt_agent *a, const struct mt_plan *p, struct mt_err *err)
{
    unsigned local = 0;
    size_t pos = 0;
    void *value;

    if (strcmp(p->node_id, a->conf.node_id) != 0)
        return MT_FAIL(err, MT_E_INVALID, "plan is for node '%s'", p->node_id) == 0;
    if (a->cluster_id[0] && strcmp(p->cluster_id, a->cluster_id) != 0)
        return MT_FAIL(err, MT_E_INVALID, "plan is of cluster '%s', this node belongs to '%s'", p->cluster_id,
                       a->cluster_id) == 0;
    while (mt_map_next(&a->insts, &pos, NULL, &value))
        local += mt_phase_live(((struct mt_inst *)value)->st.phase);
    if (!mt_plan_empty_ok((unsigned)p->n_instances, local, p->allow_empty))
        return MT_FAIL(err, MT_E_INVALID, "plan is empty while %u instances run and allow_empty is not set", local) == 0;
    return true;
}

static void pin_cluster(struct mt_agent *a, const char *cluster_id)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    if (a->cluster_id[0])
        return;
    (void)snprintf(a->cluster_id, sizeof a->cluster_id, "%s", cluster_id);
    json_t *doc = json_pack("{s:s, s:s}", "node_id", a->conf.node_id, "cluster_id", cluster_id);
    if (!doc || plan_path(a, "node.json", path) < 0 || mt_sealed_save(path, doc, &err) < 0)
        mt_log(MT_ERROR, "node.not_saved", KV_ERR(&err));
    json_decref(doc);
}

void mt_agent_recovery(struct mt_agent *a, uint64_t epoch)
{
    if (a->recovery_epoch == epoch)
        return;
    mt_log(MT_WARN, "control.recovery", KV("on", epoch > 0), KV("epoch", epoch));
    a->recovery_epoch = epoch;
    /* Its log knows less than we do, or takes reports again: tell all. */
    mt_report_resync(a->report);
}

void mt_agent_plan_unchanged(struct mt_agent *a)
{
    if (!a->plan)
        return;
    a->plan_fresh = true;
    a->measure.plan_heard_ns = mt_loop_now(a->loop);
    count_absence(a);
    mt_agent_look_soon(a);
}

void mt_agent_plan(struct mt_agent *a, struct mt_plan *p, bool from_disk)
{
    struct mt_err err = {0};
    struct mt_plan_pos pos = {.epoch = p->epoch, .cursor = p->cursor_event_id};
    (void)snprintf(pos.plan_id, sizeof pos.plan_id, "%s", p->plan_id);

    if (!plan_acceptable(a, p, &err)) {
        a->plans_rejected++;
        (void)snprintf(a->plan_rejected, sizeof a->plan_rejected, "%s", err.msg);
        mt_log(MT_ERROR, "plan.rejected", KV_ERR(&err));
        mt_plan_free(p);
        return;
    }
    a->plan_rejected[0] = '\0';
    switch (mt_plan_verdict(a->plan ? &a->pos : NULL, &pos)) {
    case MT_PLAN_STALE:
        a->plans_stale++;
        mt_log(MT_WARN, "plan.stale", KV("epoch", pos.epoch), KV("cursor", pos.cursor));
        mt_plan_free(p);
        mt_control_applied(a->control, a->pos.epoch, a->pos.cursor, true);
        return;
    case MT_PLAN_SAME:
        mt_plan_free(p);
        mt_agent_plan_unchanged(a);
        return;
    case MT_PLAN_APPLY:
        break;
    }
    bool bundle = !a->plan || strcmp(p->node_config.kernel_version ? p->node_config.kernel_version : "",
                                     a->plan->node_config.kernel_version ? a->plan->node_config.kernel_version : "") != 0;
    struct mt_plan *old = a->plan;
    bool same_network = old && json_equal(json_object_get(old->doc, "network"), json_object_get(p->doc, "network"));
    bool alike = old && !from_disk && plans_alike(old->doc, p->doc, same_network);
    a->plan = p;
    a->pos = pos;
    bind_plan(a); /* nothing points into the old plan from here on */
    mt_plan_free(old);
    mt_log(MT_INFO, "plan.accepted", KV("epoch", pos.epoch), KV("cursor", pos.cursor), KV("plan_id", pos.plan_id),
           KV("instances", (uint64_t)p->n_instances), KV("from_disk", from_disk));
    pin_cluster(a, p->cluster_id);
    if (!from_disk) {
        a->plan_fresh = true;
        a->measure.plan_heard_ns = mt_loop_now(a->loop);
        if (alike)
            store_plan_soon(a);
        else
            store_plan(a);
        count_absence(a);
    }
    keep_images(a);
    mt_mesh_plan(a->mesh, p, same_network);
    mt_netstate_plan(a, p, same_network);
    if (p->n_instances)
        mt_traffic_begin(a->traffic);
    mt_ipv4s_plan(a->ipv4);
    mt_volumes_look_soon(a->volumes);
    mt_backups_look_soon(a->backups);
    mt_restores_look_soon(a->restores);
    if (bundle && !from_disk && p->node_config.kernel_version && strcmp(p->node_config.kernel_version, a->bundle.version) != 0 &&
        strcmp(p->node_config.kernel_version, a->bundle_bad) != 0)
        mt_agent_find_bundle(a);
    mt_agent_look_soon(a);
}

static void load_plan(struct mt_agent *a)
{
    char path[PATH_MAX];
    mt_auto_json json_t *doc = NULL;
    struct mt_plan *p = NULL;
    struct mt_err err = {0};
    if (plan_path(a, "plan.json", path) < 0)
        return;
    int rc = mt_sealed_load(path, MT_PLAN_BYTES_MAX, &doc, &err);
    if (rc == -MT_E_NOT_FOUND && plan_path(a, "plan.prev.json", path) == 0)
        rc = mt_sealed_load(path, MT_PLAN_BYTES_MAX, &doc, &err);
    if (rc == 0)
        rc = mt_plan_decode(doc, &p, &err);
    if (rc == 0) {
        mt_agent_plan(a, p, true);
        mt_control_applied(a->control, a->pos.epoch, a->pos.cursor, a->plan != NULL);
    } else if (rc != -MT_E_NOT_FOUND) {
        mt_log(MT_WARN, "plan.not_loaded", KV_ERR(&err));
    }
}

/* ---- planned end ------------------------------------------------------------------------- */

static void on_quit_tick(struct mt_source *s, void *arg)
{
    struct mt_agent *a = arg;
    size_t pos = 0, left = 0;
    void *value;
    struct mt_err err = {0};

    while (mt_map_next(&a->insts, &pos, NULL, &value))
        left += !mt_inst_at_rest(value);
    left += mt_restores_end_probe(a->restores);
    bool late = mt_loop_now(a->loop) >= a->stop_deadline_ns;
    if ((left > 0 || a->probing || a->fw_loading) && !late) {
        mt_loop_timer_after(s, QUIT_POLL_MS);
        return;
    }
    if (left > 0) {
        mt_log(MT_ERROR, "stop_all.late", KV("left", (uint64_t)left));
        a->exit_value = 1;
    } else {
        mt_drift_clean_all(a);
        if (mt_mesh_remove(a->mesh, &err) < 0)
            mt_log(MT_WARN, "mesh.not_removed", KV_ERR(&err));
        if (mt_ipv4s_restore(a->ipv4, &err) < 0)
            a->exit_value = 1;
        if (mt_netstate_restore(a, &err) < 0)
            a->exit_value = 1;
    }
    mt_log(MT_INFO, "stop_all.done", KV("clean", a->exit_value == 0));
    mt_admin_stop_all_done(a->admin, a->exit_value == 0);
    a->quitting = true;
    mt_loop_stop(a->loop, a->exit_value);
}

void mt_agent_stop_all(struct mt_agent *a, int64_t deadline_ms)
{
    int64_t at = mt_loop_now(a->loop) + (deadline_ms > 0 ? deadline_ms : STOP_ALL_MS) * MT_NS_PER_MS;
    if (a->stop_all && a->stop_deadline_ns <= at)
        return;
    a->stop_all = true;
    a->stop_deadline_ns = at;
    mt_notify("STOPPING=1");
    mt_log(MT_INFO, "stop_all.begin", KV("deadline_ms", deadline_ms), KV("instances", (uint64_t)a->insts.count));
    mt_loop_timer_after(a->quit_timer, 0);
    mt_agent_look_soon(a);
}

static void on_signal(struct mt_source *s, int signo, void *arg)
{
    struct mt_agent *a = arg;
    (void)s;
    /* Stopping the agent is not drain: VMs go on, the next agent adopts them (runtime.md §1). */
    mt_log(MT_INFO, "agent.signal", KV("signal", signo));
    a->quitting = true;
    mt_loop_stop(a->loop, 0);
}

void mt_agent_logs_grew(struct mt_agent *a, const char *instance_id)
{
    if (a->admin)
        mt_admin_logs_grew(a->admin, instance_id);
}

/* ---- start ------------------------------------------------------------------------------- */

static int make_folders(struct mt_agent *a, struct mt_err *err)
{
    const struct mt_agent_conf *c = &a->conf;
    const struct {
        const char *path;
        mode_t mode;
    } dirs[] = {{c->data_dir, 0755}, {c->run_dir, 0755},     {c->agent_dir, 0700}, {c->images_dir, 0711},
                {c->scratch_dir, 0711}, {c->jail_dir, 0711}, {c->logs_dir, 0700}};
    for (size_t i = 0; i < MT_ARRAY_LEN(dirs); i++) {
        int rc = mt_file_mkdirs(dirs[i].path, dirs[i].mode, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int open_images(struct mt_agent *a, struct mt_err *err)
{
    char fetch[PATH_MAX], unpack[PATH_MAX];
    const char **lists[2] = {NULL, NULL};
    const struct mt_conf_list *from[2] = {&a->conf.local_registries, &a->conf.insecure_registries};
    int rc = 0;

    for (int i = 0; i < 2; i++) {
        lists[i] = calloc(from[i]->n + 1, sizeof *lists[i]);
        if (!lists[i])
            rc = MT_FAIL(err, MT_E_NOMEM, "images: out of memory");
        for (size_t k = 0; lists[i] && k < from[i]->n; k++)
            lists[i][k] = from[i]->v[k];
    }
    if (rc == 0)
        rc = mt_fmt(fetch, sizeof fetch, err, "%s/moat-fetch", a->conf.bin_dir);
    if (rc == 0)
        rc = mt_fmt(unpack, sizeof unpack, err, "%s/moat-unpack", a->conf.bin_dir);
    if (rc == 0) {
        struct mt_image_conf ic = {.images_dir = a->conf.images_dir,
                                   .fetch_path = fetch,
                                   .unpack_path = unpack,
                                   .worker_uid = a->worker_uid,
                                   .worker_gid = a->worker_gid,
                                   .local_registries = lists[0],
                                   .insecure_registries = lists[1],
                                   .ca_file = a->conf.image_ca_file,
                                   .cgroup_parent = a->conf.cgroup_parent,
                                   .cache_budget_bytes = a->conf.image_cache_bytes};
        rc = mt_image_store_open(&ic, &a->images, err);
    }
    free(lists[0]);
    free(lists[1]);
    return rc;
}

static void load_node(struct mt_agent *a)
{
    char path[PATH_MAX];
    mt_auto_json json_t *doc = NULL;
    struct mt_err err = {0};
    if (a->identity) {
        (void)snprintf(a->cluster_id, sizeof a->cluster_id, "%s", mt_identity_cluster_id(a->identity));
        return;
    }
    if (a->conf.cluster_id) {
        (void)snprintf(a->cluster_id, sizeof a->cluster_id, "%s", a->conf.cluster_id);
        return;
    }
    if (plan_path(a, "node.json", path) < 0 || mt_sealed_load(path, 65536, &doc, &err) < 0)
        return;
    const char *node = json_string_value(json_object_get(doc, "node_id"));
    const char *cluster = json_string_value(json_object_get(doc, "cluster_id"));
    if (node && cluster && strcmp(node, a->conf.node_id) == 0)
        (void)snprintf(a->cluster_id, sizeof a->cluster_id, "%s", cluster);
}

static void users(struct mt_agent *a)
{
    struct mt_err err = {0};
    a->control_uid = a->edge_uid = (uid_t)-1;
    a->control_gid = (gid_t)-1;
    a->worker_uid = a->worker_gid = 0;
    if (mt_agent_uid(a->conf.control_user, &a->control_uid, &a->control_gid, &err) < 0)
        mt_log(MT_WARN, "agent.user_missing", KV_ERR(&err));
    if (mt_agent_uid(a->conf.edge_user, &a->edge_uid, NULL, &err) < 0)
        mt_log(MT_WARN, "agent.user_missing", KV_ERR(&err));
    if (mt_agent_uid(a->conf.worker_user, &a->worker_uid, &a->worker_gid, &err) < 0)
        mt_log(MT_WARN, "agent.user_missing", KV_ERR(&err));
}

/* Before the first load of the table: it must never be in the kernel without the VMs that run. */
static void remember_all(struct mt_agent *a)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        const struct mt_inst *in = value;
        struct mt_fw_vm vm;
        if (!(in->st.undo & MT_STEP_BIT(MT_STEP_FIREWALL)))
            continue;
        mt_inst_fw_vm(in, &vm);
        (void)mt_fw_remember(a->fw, &vm, NULL);
    }
}

static void adopt_all(struct mt_agent *a)
{
    size_t pos = 0, n = 0;
    void *value;
    mt_auto_free struct mt_inst **all = calloc(a->insts.count + 1, sizeof *all);
    while (all && mt_map_next(&a->insts, &pos, NULL, &value))
        all[n++] = value;
    for (size_t i = 0; i < n; i++)
        mt_inst_adopt(all[i]);
}

static int open_secrets(struct mt_agent *a, struct mt_err *err)
{
    char dir[PATH_MAX];
    const uid_t trusted[] = {0, geteuid(), a->control_uid}; /* as for plans */
    const struct mt_secret_store_conf conf = {.dir = dir, .control_socket = a->conf.control_socket, .identity = a->identity, .trusted = trusted,
                                              .trusted_n = MT_ARRAY_LEN(trusted)};
    int rc = mt_fmt(dir, sizeof dir, err, "%s/secrets", a->conf.run_dir);
    return rc < 0 ? rc : mt_secret_store_new(&conf, &a->secrets, err);
}

static int open_all(struct mt_agent *a, struct mt_err *err)
{
    char lock[PATH_MAX];
    struct sysinfo si;
    int lock_fd;
    int rc = make_folders(a, err);

    if (rc == 0)
        rc = mt_fmt(lock, sizeof lock, err, "%s/lock", a->conf.agent_dir);
    if (rc == 0)
        rc = mt_file_lock(lock, &lock_fd, err); /* held by the process until its end */
    if (rc == 0)
        rc = mt_host_boot_id(a->host_boot, err);
    if (rc < 0)
        return rc;
    users(a);
    a->cores = (unsigned)get_nprocs();
    a->physical_bytes = sysinfo(&si) == 0 ? (uint64_t)si.totalram * si.mem_unit : 0;
    load_node(a);
    uint64_t seed;
    mt_random(&seed, sizeof seed);
    mt_map_init(&a->insts, seed);
    (void)pthread_mutex_init(&a->vmm_lock, NULL);
    a->net.mtu = 1420;
    a->loop = mt_loop_new(err);
    a->steps = a->loop ? mt_pool_new(a->loop, STEP_THREADS, QUEUE_MAX, 0, err) : NULL;
    a->pulls = a->steps ? mt_pool_new(a->loop, PULL_THREADS, QUEUE_MAX, 0, err) : NULL;
    a->fw = mt_fw_new(a->conf.nft_path);
    if (!a->pulls || !a->fw)
        return -(int)(err->code ? err->code : MT_E_NOMEM);
    a->look_timer = mt_loop_timer(a->loop, "look", look_all, a, err);
    a->pace_timer = mt_loop_timer(a->loop, "launches", on_pace, a, err);
    a->drift_timer = mt_loop_timer(a->loop, "drift", mt_drift_tick, a, err);
    a->quit_timer = mt_loop_timer(a->loop, "quit", on_quit_tick, a, err);
    a->save_timer = mt_loop_timer(a->loop, "plan.save", on_save, a, err);
    if (!a->save_timer || !a->pace_timer || !a->look_timer || !a->drift_timer || !a->quit_timer || !mt_loop_signal(a->loop, SIGTERM, on_signal, a, err) ||
        !mt_loop_signal(a->loop, SIGINT, on_signal, a, err))
        return -(int)(err->code ? err->code : MT_E_IO);
    rc = open_images(a, err);
    if (rc == 0)
        rc = open_secrets(a, err);
    if (rc == 0)
        rc = mt_forward_new(a, &a->forward, err);
    if (rc == 0 && !(a->volumes = mt_volumes_new(a, err)))
        rc = -(int)(err->code ? err->code : MT_E_NOMEM);
    if (rc == 0 && mt_volumes_backend(a->volumes) && !(a->backups = mt_backups_new(a, mt_volumes_backend(a->volumes), err)))
        rc = -(int)(err->code ? err->code : MT_E_NOMEM);
    if (rc == 0 && a->backups && !(a->restores = mt_restores_new(a, mt_volumes_backend(a->volumes), err)))
        rc = -(int)(err->code ? err->code : MT_E_NOMEM);
    if (rc == 0)
        rc = mt_inst_load_all(a, err);
    if (rc < 0)
        return rc;
    a->report = mt_report_new(a, err);
    a->exec = mt_exec_relays_new(a, err);
    a->admin = a->exec ? mt_admin_new(a, err) : NULL;
    a->mesh = mt_mesh_new(a, err);
    if (a->identity && !(a->remote = mt_remote_new(a, err)))
        return -(int)(err->code ? err->code : MT_E_NOMEM);
    a->netdrift = mt_netdrift_new(a, err);
    a->traffic = mt_traffic_new(a, err);
    a->ipv4 = mt_ipv4s_new(a, err);
    a->strays = mt_strays_new(a, err);
    if (!a->report || !a->admin || !a->mesh || !a->netdrift || !a->traffic || !a->ipv4 || !a->strays)
        return -(int)(err->code ? err->code : MT_E_IO);
    const struct mt_metrics_http_conf mc = {.address = a->conf.listen_metrics, .page = mt_agent_measure_page,
                                            .ready = mt_agent_measure_is_ready, .arg = a};
    if (mc.address && !(a->metrics = mt_metrics_http_new(a->loop, &mc, err)))
        return mt_err_wrap(err, "listen_metrics");
    remember_all(a);
    load_plan(a);
    adopt_all(a);
    rc = mt_boots_start(a, err);
    if (rc < 0)
        return rc;
    a->control = mt_control_new(a, err);
    bool any;
    a->upkeep = a->control ? mt_upkeep_new(a, &any, err) : NULL;
    if (!a->control || (any && !a->upkeep))
        return -(int)(err->code ? err->code : MT_E_IO);
    mt_control_applied(a->control, a->pos.epoch, a->pos.cursor, a->plan != NULL);
    mt_loop_timer_after(a->drift_timer, 2000);
    return 0;
}

static void close_all(struct mt_agent *a)
{
    size_t pos = 0;
    void *value;

    mt_metrics_http_free(a->metrics);
    a->metrics = NULL;
    mt_upkeep_stop(a->upkeep);
    mt_control_free(a->control);
    a->control = NULL;
    mt_remote_free(a->remote); /* the sockets' other ends are clients of the next */
    a->remote = NULL;
    mt_admin_free(a->admin);
    a->admin = NULL;
    mt_exec_relays_free(a->exec);
    a->exec = NULL;
    if (a->images) {
        while (mt_map_next(&a->insts, &pos, NULL, &value)) {
            struct mt_inst *in = value;
            mt_image_cancel(a->images, &in->cancelled); /* a pull must not hold the end up; the next agent begins it again */
        }
    }
    /* running steps finish and record themselves; what they would have told the loop is found by the next start */
    mt_pool_free(a->pulls);
    mt_pool_free(a->steps);
    mt_netdrift_free(a->netdrift);
    mt_traffic_free(a->traffic);
    mt_ipv4s_free(a->ipv4);
    mt_strays_free(a->strays);
    mt_mesh_free(a->mesh);
    json_decref(a->net_section);
    mt_report_free(a->report);
    mt_restores_free(a->restores);
    mt_backups_free(a->backups);
    mt_volumes_free(a->volumes);
    mt_image_store_close(a->images);
    if (a->secrets) /* after the planned end nothing is in use; else the VMs go on and so do their secrets */
        mt_secret_store_sweep(a->secrets, secret_used, a);
    mt_secret_store_free(a->secrets);
    mt_forward_free(a->forward);
    mt_fw_free(a->fw);
    if (a->plan && a->plan_unsaved)
        store_plan(a);
    mt_plan_free(a->plan);
    mt_slots_done(&a->slots);
    mt_agent_conf_done(&a->conf);
    /* instances, drivers and the loop end with the process: every descriptor of theirs is close-on-exec and ours alone */
}

int mt_agent_run(struct mt_agent_conf *conf, struct mt_identity *identity, struct mt_err *err)
{
    static struct mt_agent agent; /* one per process; large tables of slots live here and not on the stack */
    struct mt_agent *a = &agent;

    a->conf = *conf;
    *conf = (struct mt_agent_conf){0};
    a->identity = identity;
    mt_host_prepare();
    (void)mallopt(M_ARENA_MAX, 2); /* fourteen worker threads must not have an arena each */
    (void)mallopt(M_TRIM_THRESHOLD, 128 << 10);
    (void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    (void)prctl(PR_SET_DUMPABLE, 0);
    (void)umask(0022); /* modes are given at each creation; folders inside jails must stay passable for the VM uid */
    int rc = open_all(a, err);
    if (rc == 0) {
        mt_log(MT_INFO, "agent.started", KV("node_id", a->conf.node_id), KV("version", MOAT_VERSION),
               KV("data_dir", a->conf.data_dir), KV("vmm", a->conf.vmm), KV("host_firewall", a->conf.host_firewall));
        mt_notify("READY=1");
        rc = mt_loop_run(a->loop);
    }
    close_all(a);
    return rc;
}
