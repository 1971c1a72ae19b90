/* SPDX-License-Identifier: Apache-2.0 */
/* Status batches and heartbeats. See report.h. */
#include "agent/report.h"

#include "agent/backups.h"
#include "agent/control.h"
#include "agent/describe.h"
#include "agent/identity/identity.h"
#include "agent/instance/inst.h"
#include "agent/ipv4.h"
#include "agent/mesh/mesh.h"
#include "agent/restores.h"
#include "agent/strays.h"
#include "agent/volumes.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "os/file.h"
#include "wire/json.h"
#include "wire/node_call.h"

#include <sys/statvfs.h>

#define MEMINFO_MAX 16384
#define TAMPERED_SHOWN_NS (INT64_C(600) * 1000000000)
#define COALESCE_MS 100
#define RETRY_FIRST_MS 250
#define RETRY_MAX_MS 5000
#define RESYNC_MS 60000
/* The control plane takes a batch as one command, which relies on at most 64 rows: one for each of these. The rest comes with the next batch. */
#define VOLUMES_MAX 32
#define JOBS_MAX 16
#define AUTOPSIES_MAX 40 /* of at most 16 KiB each, in a body of at most 1 MiB */

struct sent {
    char instance_id[MT_ID_SIZE];
    uint64_t seq;
    char autopsy[MT_ID_SIZE]; /* boot id of the record that went along, "" none */
};

struct mt_report {
    struct mt_agent *a;
    struct mt_source *timer, *resync_timer;
    bool in_flight, resync;
    struct sent sent[MT_STATUS_BATCH_MAX];
    size_t sent_n;
    struct sent_volume {
        char volume_id[MT_ID_SIZE];
        uint64_t seq;
    } sent_volumes[MT_STATUS_BATCH_MAX];
    size_t sent_volumes_n;
    struct sent_volume sent_snapshots[MT_STATUS_BATCH_MAX];
    size_t sent_snapshots_n;
    struct sent_volume sent_restores[JOBS_MAX];
    size_t sent_restores_n;
    int64_t retry_ms;
};

/* ---- one instance as a report ------------------------------------------------------------ */

static enum mt_instance_status status_of(const struct mt_inst *in)
{
    const struct mt_state *st = &in->st;
    switch (st->phase) {
    case MT_PH_NONE:
    case MT_PH_PREPARING:
    case MT_PH_BOOTING:
        return MT_STATUS_BOOTING;
    case MT_PH_STARTING:
        return MT_STATUS_STARTING;
    case MT_PH_READY:
        return MT_STATUS_READY;
    case MT_PH_UNREADY:
        return MT_STATUS_UNREADY;
    case MT_PH_DRAINING:
        return MT_STATUS_DRAINING;
    case MT_PH_STOPPING:
    case MT_PH_TEARDOWN:
        if (st->planned)
            return MT_STATUS_DRAINING;
        return st->t.started ? MT_STATUS_UNREADY : MT_STATUS_BOOTING;
    case MT_PH_BACKOFF:
        return st->crash_loop ? MT_STATUS_FAILED : MT_STATUS_BOOTING;
    case MT_PH_STOPPED:
        return MT_STATUS_STOPPED;
    case MT_PH_FAILED:
    case MT_PH_MAX:
        break;
    }
    return MT_STATUS_FAILED;
}

const char *mt_report_status_name(const struct mt_inst *in)
{
    return mt_instance_status_name(status_of(in));
}

struct texts {
    char retry[MT_RFC3339_LEN];
    char now[MT_RFC3339_LEN];
};

static void fill(const struct mt_inst *in, struct mt_status_report *r, struct texts *t)
{
    const struct mt_state *st = &in->st;
    bool backoff = st->phase == MT_PH_BACKOFF;

    *r = (struct mt_status_report){.instance_id = st->instance_id,
                                   .boot_id = st->boot_id[0] ? st->boot_id : NULL,
                                   .generation = st->generation,
                                   .status = status_of(in),
                                   .status_detail = backoff ? "backoff" : in->detail,
                                   .restart_count = st->counters.restart_count,
                                   .reported_at = mt_rfc3339(mt_clock_wall_us(), t->now),
                                   .seq = in->seq};
    if (st->end.reason[0]) {
        r->reason_code = st->end.reason;
        r->reason_detail = st->end.detail[0] ? st->end.detail : NULL;
        r->has_exit_code = st->end.has_exit_code;
        r->exit_code = st->end.exit_code;
        r->signal = st->end.signal[0] ? st->end.signal : NULL;
    } else if (st->phase == MT_PH_STOPPED) {
        r->has_exit_code = st->end.has_exit_code;
        r->exit_code = st->end.exit_code;
        r->signal = st->end.signal[0] ? st->end.signal : NULL;
        r->reason_code = st->stop_reason[0] ? st->stop_reason : NULL;
    } else if (st->phase == MT_PH_UNREADY) {
        r->reason_code = mt_reason_code(MT_REASON_HEALTHCHECK_FAILED);
        r->reason_detail = in->health_why[0] ? in->health_why : NULL;
    } else if (st->phase == MT_PH_STARTING && in->health_why[0]) {
        r->reason_detail = in->health_why;
    }
    if (backoff && st->next_retry_us) {
        r->next_retry_at = mt_rfc3339(st->next_retry_us, t->retry);
        if (st->crash_loop) {
            r->reason_detail = st->end.reason;
            r->reason_code = mt_reason_code(MT_REASON_CRASH_LOOP_BACKOFF);
        }
    }
}

/* ---- batches ----------------------------------------------------------------------------- */

static void take_snapshots(struct mt_report *r, struct mt_snapshot_report *items, size_t room, struct mt_storage_reports *ret)
{
    ret->snapshots = items;
    ret->n_snapshots = items ? mt_backups_reports(r->a->backups, items, room) : 0;
    for (size_t i = 0; i < ret->n_snapshots; i++) {
        memcpy(r->sent_snapshots[i].volume_id, items[i].snapshot_id, sizeof r->sent_snapshots[i].volume_id);
        r->sent_snapshots[i].seq = items[i].seq;
    }
    r->sent_snapshots_n = ret->n_snapshots;
}

/* A part of those of jobs; @items has room for JOBS_MAX. */
static void take_restores(struct mt_report *r, struct mt_restore_report *items, size_t room, struct mt_storage_reports *ret)
{
    ret->restores = items;
    ret->n_restores = mt_restores_reports(r->a->restores, items, room);
    for (size_t i = 0; i < ret->n_restores; i++) {
        memcpy(r->sent_restores[i].volume_id, items[i].restore_id, sizeof r->sent_restores[i].volume_id);
        r->sent_restores[i].seq = items[i].seq;
    }
    r->sent_restores_n = ret->n_restores;
}

static void take_volumes(struct mt_report *r, struct mt_volume_report *items, size_t room, struct mt_storage_reports *ret)
{
    ret->volumes = items;
    ret->n_volumes = items ? mt_volumes_reports(r->a->volumes, items, room) : 0;
    for (size_t i = 0; i < ret->n_volumes; i++) {
        memcpy(r->sent_volumes[i].volume_id, items[i].volume_id, sizeof r->sent_volumes[i].volume_id);
        r->sent_volumes[i].seq = items[i].seq;
    }
    r->sent_volumes_n = ret->n_volumes;
}

static void send_batch(struct mt_report *r)
{
    struct mt_agent *a = r->a;
    struct mt_err err = {0};
    mt_auto_buf struct mt_buf body = MT_BUF_INIT(4U << 20);
    mt_auto_json json_t *doc = NULL;
    size_t pos = 0;
    void *value;
    bool resync = r->resync && a->insts.count <= MT_STATUS_BATCH_MAX;

    struct mt_status_report *v = calloc(MT_STATUS_BATCH_MAX, sizeof *v);
    struct texts *t = calloc(MT_STATUS_BATCH_MAX, sizeof *t);
    struct mt_volume_report *volumes = calloc(MT_STATUS_BATCH_MAX, sizeof *volumes);
    struct mt_snapshot_report *snapshots = calloc(MT_STATUS_BATCH_MAX, sizeof *snapshots);
    struct mt_restore_report restores[JOBS_MAX];
    struct mt_status_batch batch = {.agent_version = MOAT_VERSION, .resync = resync, .reports = v};
    size_t autopsies = 0;
    r->sent_n = 0;
    size_t room = MT_STATUS_BATCH_MAX - (resync ? a->insts.count : 0); /* one that tells of all instances has them all */
    take_volumes(r, volumes, room < VOLUMES_MAX ? room : VOLUMES_MAX, &batch.storage);
    room -= batch.storage.n_volumes;
    size_t jobs = room < JOBS_MAX ? room : JOBS_MAX;
    take_restores(r, restores, jobs, &batch.storage);
    take_snapshots(r, snapshots, jobs - batch.storage.n_restores, &batch.storage);
    size_t storage_n = batch.storage.n_volumes + batch.storage.n_snapshots + batch.storage.n_restores;
    room = MT_STATUS_BATCH_MAX - storage_n;
    while (v && t && batch.n_reports < room && mt_map_next(&a->insts, &pos, NULL, &value)) {
        struct mt_inst *in = value;
        if (in->st.phase == MT_PH_NONE || (!in->report_due && !r->resync))
            continue;
        if (in->autopsy && autopsies == AUTOPSIES_MAX)
            continue; /* with the next batch */
        size_t i = batch.n_reports++;
        fill(in, &v[i], &t[i]);
        v[i].autopsy = in->autopsy;
        autopsies += in->autopsy != NULL;
        (void)snprintf(r->sent[i].autopsy, sizeof r->sent[i].autopsy, "%s", in->autopsy ? mt_inst_autopsy_boot(in) : "");
        memcpy(r->sent[i].instance_id, in->st.instance_id, sizeof r->sent[i].instance_id);
        r->sent[i].seq = in->seq;
        r->sent_n = i + 1;
    }
    r->resync = false;
    int rc = 0;
    if (batch.n_reports > 0 || storage_n > 0 || resync)
        rc = mt_status_batch_encode(&batch, &doc, &err);
    if (rc == 0 && doc)
        rc = mt_json_dump(doc, &body, &err);
    if (rc < 0)
        mt_log(MT_ERROR, "report.encode_failed", KV_ERR(&err));
    else if (doc && mt_control_status(a->control, mt_buf_take(&body)) == 0)
        r->in_flight = true;
    free(v);
    free(t);
    free(volumes);
    free(snapshots);
}

static void on_timer(struct mt_source *s, void *arg)
{
    struct mt_report *r = arg;
    (void)s;
    if (!r->in_flight && !r->a->quitting)
        send_batch(r);
}

static void resync_instances(struct mt_report *r)
{
    r->resync = true;
    if (!r->in_flight)
        mt_loop_timer_after(r->timer, 0);
}

static void on_resync(struct mt_source *s, void *arg)
{
    struct mt_report *r = arg;
    mt_loop_timer_after(s, RESYNC_MS);
    resync_instances(r);
}

struct mt_report *mt_report_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_report *r = calloc(1, sizeof *r);
    if (!r) {
        (void)MT_FAIL(err, MT_E_NOMEM, "reports: out of memory");
        return NULL;
    }
    r->a = a;
    r->retry_ms = RETRY_FIRST_MS;
    r->timer = mt_loop_timer(a->loop, "report", on_timer, r, err);
    r->resync_timer = mt_loop_timer(a->loop, "report.resync", on_resync, r, err);
    if (!r->timer || !r->resync_timer) {
        mt_report_free(r);
        return NULL;
    }
    mt_loop_timer_after(r->resync_timer, RESYNC_MS);
    return r;
}

void mt_report_free(struct mt_report *r)
{
    if (!r)
        return;
    mt_loop_del(r->timer);
    mt_loop_del(r->resync_timer);
    free(r);
}

void mt_report_due(struct mt_report *r, struct mt_inst *in)
{
    if (!r || !in->report_due || r->in_flight)
        return; /* the answer in flight looks for what came meanwhile */
    if (in->report_now)
        mt_loop_timer_after(r->timer, 0);
    else if (!mt_loop_timer_armed(r->timer))
        mt_loop_timer_after(r->timer, COALESCE_MS);
}

void mt_report_forget(struct mt_report *r, struct mt_inst *in)
{
    (void)r; /* batches name instances by id; an answer for one that is gone finds nothing */
    (void)in;
}

void mt_report_volumes(struct mt_report *r)
{
    if (r && !r->in_flight && !mt_loop_timer_armed(r->timer))
        mt_loop_timer_after(r->timer, 0);
}

void mt_report_resync(struct mt_report *r)
{
    mt_volumes_resync(r->a->volumes);
    mt_backups_resync(r->a->backups);
    mt_restores_resync(r->a->restores);
    resync_instances(r);
}

void mt_report_answer(struct mt_report *r, int http_status, const char *detail)
{
    bool ok = http_status >= 200 && http_status < 300;
    size_t pos = 0;
    void *value;

    r->in_flight = false;
    if (ok) {
        r->retry_ms = RETRY_FIRST_MS;
        for (size_t i = 0; i < r->sent_n; i++) {
            struct mt_inst *in = mt_map_get(&r->a->insts, r->sent[i].instance_id);
            if (in && r->sent[i].autopsy[0])
                mt_inst_autopsy_told(in, r->sent[i].autopsy);
            if (in)
                mt_inst_acked(in, r->sent[i].seq);
        }
        for (size_t i = 0; i < r->sent_volumes_n; i++)
            mt_volumes_told(r->a->volumes, r->sent_volumes[i].volume_id, r->sent_volumes[i].seq);
        for (size_t i = 0; i < r->sent_snapshots_n; i++)
            mt_backups_told(r->a->backups, r->sent_snapshots[i].volume_id, r->sent_snapshots[i].seq);
        for (size_t i = 0; i < r->sent_restores_n; i++)
            mt_restores_told(r->a->restores, r->sent_restores[i].volume_id, r->sent_restores[i].seq);
    } else {
        mt_log(MT_WARN, "report.not_taken", KV("status", http_status), KV("detail", detail));
        r->retry_ms = r->retry_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : r->retry_ms * 2;
    }
    r->sent_n = r->sent_volumes_n = r->sent_snapshots_n = r->sent_restores_n = 0;
    bool due = r->resync || mt_volumes_due(r->a->volumes) || mt_backups_due(r->a->backups) || mt_restores_due(r->a->restores);
    while (!due && mt_map_next(&r->a->insts, &pos, NULL, &value))
        due = ((struct mt_inst *)value)->report_due;
    if (due)
        mt_loop_timer_after(r->timer, ok ? 0 : r->retry_ms);
}

/* ---- heartbeat --------------------------------------------------------------------------- */

static bool any_stuck(struct mt_agent *a)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        if (((struct mt_inst *)value)->stuck)
            return true;
    }
    return false;
}

/* Of the filesystem of images, as the last pass over the cache left it. */
static bool disk_is_nearly_full(struct mt_agent *a)
{
    struct mt_image_usage usage;
    return mt_image_usage(a->images, &usage, NULL) == 0 && usage.disk_pressure;
}

/* Once a heartbeat; what cannot be read is no finding. */
static void look_at_memory(struct mt_agent *a)
{
    mt_auto_free char *text = NULL;
    size_t len;
    uint64_t total, available;
    if (mt_file_read("/proc/meminfo", MEMINFO_MAX, &text, &len, NULL) < 0 || mt_pressure_parse(text, &total, &available, NULL) < 0 ||
        !mt_pressure_note(&a->pressure, total, available))
        return;
    mt_log(a->pressure.on ? MT_WARN : MT_INFO, a->pressure.on ? "host.memory_short" : "host.memory_there_again", KV("available_mib", available / 1024), KV("total_mib", total / 1024));
}

size_t mt_report_conditions(struct mt_agent *a, const char **ret, size_t max)
{
    const struct {
        bool on;
        const char *word;
    } all[] = {
        {a->probing, "probing"},
        {!a->probing && !a->choice.ok, "vmm_unavailable"},
        {!a->bundle.version[0], "no_boot_bundle"},
        {a->bundle_bad[0] != '\0', "bundle_fallback"},
        {a->plan_rejected[0] != '\0', "plan_rejected"},
        {a->plan && !a->fw_loaded, "firewall_not_loaded"},
        {a->tampered_ns && mt_loop_now(a->loop) - a->tampered_ns < TAMPERED_SHOWN_NS, "firewall_tampered"},
        {any_stuck(a), "vm_stuck"},
        {mt_agent_clock_is_off(a), "clock_skew"},
        {disk_is_nearly_full(a), "disk_pressure"},
        {a->pressure.on, "memory_pressure"},
        {mt_volumes_pool_full(a->volumes), "pool_pressure"},
        {a->stop_all, "stopping"},
    };
    size_t n = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(all) && n < max; i++) {
        if (all[i].on)
            ret[n++] = all[i].word;
    }
    n += mt_mesh_conditions(a->mesh, ret + n, max - n);
    return n + mt_host_conditions(a, ret + n, max - n);
}

static uint64_t scratch_total(const struct mt_agent *a)
{
    struct statvfs v;
    if (statvfs(a->conf.scratch_dir, &v) < 0)
        return 0;
    return (uint64_t)v.f_blocks * v.f_frsize / 10 * 9; /* 90 % of the filesystem */
}

char *mt_report_heartbeat(struct mt_agent *a)
{
    static const char *protos[] = {"guest/1", MT_NODE_PROTOCOL};
    const char *conditions[32];
    struct mt_heartbeat h = {.node_id = a->conf.node_id,
                             .agent_version = MOAT_VERSION,
                             .kernel_version = a->bundle.version[0] ? a->bundle.version : NULL,
                             .init_version = a->bundle.version[0] ? a->bundle.version : NULL,
                             .vmm_version = a->choice.version[0] ? a->choice.version : NULL,
                             .vmm_driver = a->probing ? "probing" : a->choice.ok ? mt_vmm_kind_name(a->choice.kind) : "none",
                             .vmm_accel = !a->probing && a->choice.ok ? mt_vmm_accel_name(a->choice.accel) : "none",
                             .vmm_reason = a->probing ? "the probe boot runs" : a->choice.reason,
#if defined(__x86_64__)
                             .arch = "amd64",
#else
                             .arch = "arm64",
#endif
                             .protocols = {.v = protos, .n = MT_ARRAY_LEN(protos)},
                             .epoch = a->pos.epoch,
                             .cursor_event_id = a->pos.cursor,
                             .plan_id = a->pos.plan_id[0] ? a->pos.plan_id : NULL,
                             .clock_unix_ms = mt_clock_wall_us() / 1000};
    char trust[65];
    if (a->identity) {
        mt_identity_trust(a->identity, trust);
        h.ca_trust = trust;
    }
    look_at_memory(a);
    h.memory_pressure = a->pressure.on;
    h.public_ipv6 = a->conf.public_ipv6;
    h.public_ipv4 = a->conf.public_ipv4;
    h.conditions = (struct mt_strings){.v = conditions, .n = mt_report_conditions(a, conditions, MT_ARRAY_LEN(conditions))};
    h.allocatable.cpu_millis = (uint64_t)a->cores * 10 * mt_agent_cpu_overcommit_percent(a);
    h.ceiling_cpu_millis = (uint64_t)a->cores * 10 * mt_agent_cpu_ceiling_percent(a);
    h.allocatable.memory_bytes = mt_agent_alloc_memory(a);
    h.allocatable.disk_bytes = scratch_total(a);
    h.memory_overhead_bytes = (uint64_t)mt_agent_overhead_mib(a) << 20;
    size_t pos = 0;
    void *value;
    while (mt_map_next(&a->insts, &pos, NULL, &value)) {
        const struct mt_inst *in = value;
        h.counts[status_of(in)]++;
        if (!mt_phase_live(in->st.phase) || !in->spec)
            continue;
        h.used.cpu_millis += in->spec->resources.cpu_millis;
        h.used.memory_bytes += in->spec->resources.memory_bytes + h.memory_overhead_bytes;
        h.used.disk_bytes += in->spec->resources.disk_bytes;
    }
    struct mt_image_usage usage;
    if (mt_image_usage(a->images, &usage, NULL) == 0) {
        h.image_cache_bytes = usage.rootdisk_bytes + usage.blob_bytes;
        h.disk_pressure = usage.disk_pressure;
    }
    mt_auto_json json_t *doc = NULL, *mesh = mt_mesh_report(a->mesh), *ipv4 = mt_ipv4s_report(a->ipv4), *host = mt_host_report(a), *strays = mt_strays_report(a->strays);
    h.host = host;
    h.ipv4 = ipv4;
    h.ipv4_strays = strays;
    h.asks_ipv4_pool = mt_strays_due(a->strays);
    h.mesh = mesh;
    mt_volumes_figures(a->volumes, &h.storage);
    mt_auto_buf struct mt_buf body = MT_BUF_INIT(1U << 20);
    if (mt_heartbeat_encode(&h, &doc, NULL) < 0 || mt_json_dump(doc, &body, NULL) < 0)
        return NULL;
    return mt_buf_take(&body);
}
