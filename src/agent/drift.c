/* SPDX-License-Identifier: Apache-2.0 */
/* The drift pass. See drift.h. */
#include "agent/drift.h"

#include "agent/instance/inst.h"
#include "agent/logstore.h"
#include "agent/net/tap.h"
#include "agent/restores.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <inttypes.h>

#define DRIFT_MS 30000
#define RETAIN_EVERY 120 /* passes: once an hour */
#define NAMES_MAX 8192
#define PROBE_ROOM_BYTES (UINT64_C(256) << 20)

/* What a worker found, and then what the loop wants removed. */
struct drift_job {
    struct mt_agent *a;
    uint32_t *taps;
    size_t taps_n;
    char **jails; /* one allocation of the driver */
    size_t jails_n;
    struct mt_vmm *vmm;
    char **scratch; /* names, each owned */
    size_t scratch_n;
    bool retain;
    /* repairs, filled by the loop before listing */
    struct mt_tap *repair;
    size_t repair_n;
    struct drift_vm {
        char jail_id[MT_VMM_JAIL_ID_MAX + 1];
        uint64_t memory_bytes;
        uint32_t cpu_weight;
    } *vms; /* that run, with the limits that are theirs */
    size_t vms_n;
    uint64_t backstop_bytes; /* of all of them together */
};

static void job_free(struct drift_job *j)
{
    for (size_t i = 0; i < j->scratch_n; i++)
        free(j->scratch[i]);
    free(j->scratch);
    free(j->jails);
    free(j->taps);
    free(j->repair);
    free(j->vms);
    free(j);
}

static void list_scratch(struct drift_job *j)
{
    mt_auto_dir DIR *d = opendir(j->a->conf.scratch_dir);
    if (!d)
        return;
    j->scratch = calloc(NAMES_MAX, sizeof *j->scratch);
    for (struct dirent *e; j->scratch && j->scratch_n < NAMES_MAX && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        /* <ulid>-<n>.ext4 and nothing else is ours */
        if (n < MT_ULID_LEN + 7 || !mt_ulid_valid(e->d_name, MT_ULID_LEN) || e->d_name[MT_ULID_LEN] != '-' ||
            strcmp(e->d_name + n - 5, ".ext4") != 0)
            continue;
        char *copy = mt_strndup(e->d_name, n);
        if (copy)
            j->scratch[j->scratch_n++] = copy;
    }
}

/*
 * Only jails with a folder of ours count. Cgroups are named alike on the whole host, so a bare cgroup may be another
 * data folder's VM; one of ours never outlives its folder, because its state file still records the jail then.
 */
static void drop_foreign(struct drift_job *j)
{
    char path[PATH_MAX];
    size_t kept = 0;
    for (size_t i = 0; i < j->jails_n; i++) {
        if (mt_fmt(path, sizeof path, NULL, "%s/%s/%s", j->a->conf.jail_dir, mt_vmm_kind_name(mt_vmm_kind(j->vmm)),
                   j->jails[i]) == 0 &&
            access(path, F_OK) == 0)
            j->jails[kept++] = j->jails[i];
    }
    j->jails_n = kept;
}

static void list_all(struct drift_job *j)
{
    struct mt_err err = {0};
    if (mt_tap_list(&j->taps, &j->taps_n, &err) < 0)
        mt_log(MT_WARN, "drift.list_failed", KV_ERR(&err));
    if (j->vmm && mt_vmm_list(j->vmm, &j->jails, &j->jails_n, &err) < 0)
        mt_log(MT_WARN, "drift.list_failed", KV_ERR(&err));
    if (j->vmm)
        drop_foreign(j);
    list_scratch(j);
}

/* What a pass over the cache left of the disk (runtime.md §16): below 3 % no line of a workload is kept any more. */
static void take_disk(struct mt_agent *a, const struct mt_image_gc_report *gc)
{
    uint64_t mib = gc->after.fs_free_bytes >> 20;
    (void)atomic_fetch_add(&a->measure.evictions, gc->rootdisks_removed);
    bool was = atomic_exchange(&a->logs_stopped, gc->after.disk_critical);
    if (gc->after.disk_critical && !was)
        mt_log(MT_ERROR, "logs.stopped", KV("free_mib", mib), KV("why", "less than 3 % of the disk is free: lines of workloads are counted, not kept"));
    else if (was && !gc->after.disk_critical)
        mt_log(MT_INFO, "logs.kept_again", KV("free_mib", mib));
}

/* A service manager that knows our slice may rewrite it (runtime.md §3): with a controller go the limits of every VM. */
static void mend_cgroups(struct drift_job *j)
{
    struct mt_err err = {0};
    size_t limited = 0;
    if (!j->vmm)
        return;
    int rc = mt_vmm_mend_cgroups(j->vmm, j->backstop_bytes, &err);
    if (rc < 0)
        mt_log(MT_WARN, "drift.cgroups_not_mended", KV_ERR(&err));
    /* whoever saw the controllers missing first, a VM's start does too, has given them back: each group is looked at by itself */
    for (size_t i = 0; i < j->vms_n; i++) {
        int got = mt_vmm_limit(j->vmm, j->vms[i].jail_id, j->vms[i].memory_bytes, j->vms[i].cpu_weight, &err);
        if (got < 0 && got != -MT_E_NOT_FOUND)
            mt_log(MT_WARN, "drift.repair_failed", KV("jail", j->vms[i].jail_id), KV_ERR(&err));
        limited += got == 1;
    }
    if (rc == 1 || limited)
        mt_log(MT_WARN, "drift.cgroups_mended", KV("vms", limited));
}

static void list_work(void *arg)
{
    struct drift_job *j = arg;
    struct mt_err err = {0};
    mend_cgroups(j);
    for (size_t i = 0; i < j->repair_n; i++) {
        if (mt_tap_repair(&j->repair[i], &err) < 0 && err.code != MT_E_NOT_FOUND)
            mt_log(MT_WARN, "drift.repair_failed", KV("slot", j->repair[i].slot), KV_ERR(&err));
    }
    list_all(j);
    struct mt_image_gc_report gc;
    if (mt_image_gc(j->a->images, mt_clock_wall_us() / 1000000, &gc, &err) < 0)
        mt_log(MT_WARN, "image.gc_failed", KV_ERR(&err));
    else
        take_disk(j->a, &gc);
    if (j->retain) {
        char key[MT_IMAGE_KEY_HEX + 1];
        mt_log_retain(j->a->conf.logs_dir, j->a->conf.log_retention_days, j->a->conf.log_max_bytes, mt_clock_wall_us());
        if (mt_image_verify_next(j->a->images, key, &err) < 0)
            mt_log(MT_ERROR, "image.quarantined", KV("key", key), KV_ERR(&err));
    }
}

/* ---- what is explained by a state -------------------------------------------------------- */

static bool explained_slot(struct mt_agent *a, uint32_t slot)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(&a->insts, &pos, NULL, &v)) {
        if (((struct mt_inst *)v)->st.slot == slot)
            return true;
    }
    return false;
}

static bool explained_jail(struct mt_agent *a, const char *jail_id)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(&a->insts, &pos, NULL, &v)) {
        const struct mt_state *st = &((struct mt_inst *)v)->st;
        if (strcmp(st->vmm.jail_id, jail_id) == 0)
            return true;
    }
    return mt_restores_explain(a->restores, jail_id);
}

static bool explained_scratch(struct mt_agent *a, const char *name)
{
    char want[64];
    size_t pos = 0;
    void *v;
    while (mt_map_next(&a->insts, &pos, NULL, &v)) {
        const struct mt_inst *in = v;
        if (!mt_phase_live(in->st.phase))
            continue;
        (void)snprintf(want, sizeof want, "%s-%" PRIu64 ".ext4", mt_id_ulid(in->st.instance_id), in->st.boot_seq);
        if (strcmp(want, name) == 0)
            return true;
    }
    return mt_restores_explain(a->restores, name);
}

/* ---- removing ---------------------------------------------------------------------------- */

static void remove_orphans(struct drift_job *j)
{
    struct mt_err err = {0};
    char path[PATH_MAX];

    for (size_t i = 0; i < j->jails_n; i++) {
        struct mt_vmm_ids ids = {0};
        if (!j->jails[i])
            continue;
        (void)snprintf(ids.jail_id, sizeof ids.jail_id, "%s", j->jails[i]);
        mt_log(MT_WARN, "drift.orphan_jail", KV("jail", ids.jail_id));
        if (mt_vmm_teardown(j->vmm, &ids, &err) < 0)
            mt_log(MT_WARN, "drift.remove_failed", KV("jail", ids.jail_id), KV_ERR(&err));
    }
    for (size_t i = 0; i < j->taps_n; i++) {
        if (j->taps[i] == UINT32_MAX)
            continue;
        mt_log(MT_WARN, "drift.orphan_tap", KV("slot", j->taps[i]));
        if (mt_tap_down(j->taps[i], &err) < 0)
            mt_log(MT_WARN, "drift.remove_failed", KV("slot", j->taps[i]), KV_ERR(&err));
    }
    for (size_t i = 0; i < j->scratch_n; i++) {
        if (!j->scratch[i])
            continue;
        mt_log(MT_WARN, "drift.orphan_scratch", KV("name", j->scratch[i]));
        if (mt_fmt(path, sizeof path, NULL, "%s/%s", j->a->conf.scratch_dir, j->scratch[i]) == 0)
            (void)unlink(path);
    }
}

static void remove_work(void *arg)
{
    remove_orphans(arg);
}

static void remove_done(void *arg)
{
    struct drift_job *j = arg;
    for (size_t i = 0; i < j->taps_n; i++) {
        if (j->taps[i] != UINT32_MAX)
            mt_slots_free(&j->a->slots, j->taps[i], mt_loop_now(j->a->loop));
    }
    job_free(j);
}

/* Strike out what a state explains; returns how much is left. */
static size_t strike(struct drift_job *j)
{
    struct mt_agent *a = j->a;
    size_t left = 0;
    for (size_t i = 0; i < j->taps_n; i++) {
        /* the number is held while its tap is removed, so that no new VM gets it in between */
        if (explained_slot(a, j->taps[i]) || (j->taps[i] < MT_SLOTS && !mt_slots_claim(&a->slots, j->taps[i])))
            j->taps[i] = UINT32_MAX;
        else
            left++;
    }
    for (size_t i = 0; i < j->jails_n; i++) {
        if (explained_jail(a, j->jails[i]))
            j->jails[i] = NULL;
        else
            left++;
    }
    for (size_t i = 0; i < j->scratch_n; i++) {
        if (explained_scratch(a, j->scratch[i])) {
            free(j->scratch[i]);
            j->scratch[i] = NULL;
        } else {
            left++;
        }
    }
    return left;
}

static void list_done(void *arg)
{
    struct drift_job *j = arg;
    struct mt_agent *a = j->a;

    /* without a plan nothing is known about what should be here: kill nothing (runtime.md §5, state directory lost) */
    if (!a->plan || a->quitting || strike(j) == 0 || mt_pool_submit(a->steps, remove_work, remove_done, j, NULL) < 0)
        job_free(j);
}

static void note_vm(struct drift_job *j, const struct mt_inst *in, uint64_t overhead)
{
    if (!in->spec || !in->st.vmm.jail_id[0])
        return;
    struct drift_vm *v = &j->vms[j->vms_n++];
    (void)snprintf(v->jail_id, sizeof v->jail_id, "%s", in->st.vmm.jail_id);
    v->memory_bytes = in->spec->resources.memory_bytes + overhead;
    v->cpu_weight = in->spec->resources.cpu_weight;
}

/* No less than what runs, should the reserve have grown meanwhile; and the probe's VM, which nobody admits. */
static uint64_t backstop_of(const struct drift_job *j)
{
    uint64_t used = 0, alloc = mt_agent_alloc_memory(j->a);
    for (size_t i = 0; i < j->vms_n; i++)
        used += j->vms[i].memory_bytes;
    return (used > alloc ? used : alloc) + PROBE_ROOM_BYTES;
}

void mt_drift_tick(struct mt_source *s, void *arg)
{
    static unsigned passes;
    struct mt_agent *a = arg;
    size_t pos = 0;
    void *v;

    mt_loop_timer_after(s, DRIFT_MS);
    if (a->probing || a->stop_all)
        return; /* the probe VM has no state file */
    if (!a->choice.ok) {
        mt_agent_find_bundle(a); /* no driver worked: the host may have been mended meanwhile */
        return;
    }
    struct drift_job *j = calloc(1, sizeof *j);
    if (!j)
        return;
    j->a = a;
    j->vmm = mt_agent_vmm(a);
    j->retain = passes++ % RETAIN_EVERY == 0;
    j->repair = calloc(a->insts.count + 1, sizeof *j->repair);
    j->vms = calloc(a->insts.count + 1, sizeof *j->vms);
    uint64_t overhead = (uint64_t)mt_agent_overhead_mib(a) << 20;
    while (j->repair && j->vms && mt_map_next(&a->insts, &pos, NULL, &v)) {
        const struct mt_inst *in = v;
        struct mt_tap *t = &j->repair[j->repair_n];
        if (in->st.phase < MT_PH_BOOTING || in->st.phase > MT_PH_DRAINING || in->job)
            continue;
        note_vm(j, in, overhead);
        *t = (struct mt_tap){.slot = in->st.slot, .mtu = a->net.mtu, .node = a->net.node, .has_node = a->net.has_node};
        struct mt_limits limits = mt_inst_limits(in);
        mt_inst_limit_tap(t, a, in->vmm, &limits);
        if (inet_pton(AF_INET6, in->st.address, &t->guest) == 1)
            j->repair_n++;
    }
    j->backstop_bytes = backstop_of(j);
    if (mt_pool_submit(a->steps, list_work, list_done, j, NULL) < 0)
        job_free(j);
}

void mt_drift_clean_all(struct mt_agent *a)
{
    struct drift_job *j = calloc(1, sizeof *j);
    if (!j)
        return;
    j->a = a;
    j->vmm = mt_agent_vmm(a);
    list_all(j);
    if (strike(j) > 0)
        remove_orphans(j);
    mt_image_remove_group(a->images); /* before its parents */
    if (j->vmm)
        mt_vmm_release(j->vmm);
    job_free(j);
}
