/* SPDX-License-Identifier: Apache-2.0 */
/* See restores.h. */
#include "agent/restores.h"

#include "agent/agent.h"
#include "agent/backup/restore.h"
#include "agent/backup/trial.h"
#include "agent/control.h"
#include "agent/report.h"
#include "agent/volumes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/http_client.h"

#define RETRY_FIRST_MS 2000
#define RETRY_MAX_MS 60000
#define PATIENCE_MS (INT64_C(3600) * 1000) /* of tries that all fail */
#define TICK_MS 10000

enum stage {
    R_WAITING = 0, /* for its turn, or the next try */
    R_RUNNING,     /* a worker fetches and checks */
    R_ENDING,      /* a worker takes away what is left of one that failed */
    R_KEEPING,     /* a pre-copy has ended, and its part waits for the job that goes on with it */
    R_FORGETTING,  /* a worker takes its journal away, and the part if that has not become a volume */
    R_DONE,        /* told, or to be told */
    R_STAGE_MAX
};

struct job {
    struct mt_restores *r;
    char restore_id[MT_ID_SIZE], snapshot_id[MT_ID_SIZE], source_volume_id[MT_ID_SIZE], source_org_id[MT_ID_SIZE], new_volume_id[MT_ID_SIZE];
    uint64_t size_bytes;
    uint32_t key_epoch;
    bool in_plan, cancel, proof, precopy;
    bool done; /* a pre-copy that is told of: what it fetched is kept until nobody wants it */
    char base_restore_id[MT_ID_SIZE], base_snapshot_id[MT_ID_SIZE]; /* "" none */
    struct mt_workload *probe; /* what the proof runs; owned, NULL nothing */
    uint32_t probe_seconds;
    bool probe_unknown; /* the plan has one that this agent cannot read */
    enum stage stage;
    atomic_bool broken; /* the run is to end */
    int64_t began_ns;   /* the first try; 0 none yet */
    int64_t until_ns;   /* of the next try; 0 at once */
    int64_t failing_ns; /* since when every try has failed; 0 none has */
    unsigned tries;
    /* of the worker */
    int rc;
    struct mt_err err;
    struct mt_backup_conf store;
    struct mt_http_client *control;
    struct mt_restore_run run;
    struct mt_trial trial;
    bool holds_slot;
    /* told */
    bool any, due;
    uint64_t seq;
    enum mt_job_status status;
    enum mt_restore_phase phase;
    char failed_reason[64];
};

struct mt_restores {
    struct mt_agent *a;
    const struct mt_backend *backend;
    char dir[PATH_MAX], program[PATH_MAX];
    struct mt_map jobs;
    struct mt_pool *pool;
    struct mt_source *timer;
    bool swept, sweeping; /* parts of restores that no plan has: looked for once, while nothing runs */
};

/* ---- telling ----------------------------------------------------------------------------- */

static void tell(struct job *j, enum mt_job_status status, enum mt_restore_phase phase)
{
    j->status = status;
    j->phase = phase;
    j->any = j->due = true;
    j->seq = mt_volumes_seq(j->r->a->volumes);
    mt_report_volumes(j->r->a->report);
}

size_t mt_restores_reports(struct mt_restores *r, struct mt_restore_report *ret, size_t max)
{
    size_t pos = 0, n = 0;
    void *value;
    while (r && n < max && mt_map_next(&r->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        bool all = j->status == MT_JOB_SUCCEEDED || j->phase == MT_RESTORE_CHECKING;
        if (!j->due)
            continue;
        ret[n++] = (struct mt_restore_report){.restore_id = j->restore_id, .seq = j->seq, .status = j->status, .phase = j->phase,
                                              .bytes_done = all ? j->size_bytes : 0, .bytes_total = j->size_bytes,
                                              .fs_uuid = j->status == MT_JOB_SUCCEEDED && j->run.fs_uuid[0] ? j->run.fs_uuid : NULL,
                                              .failed_reason = j->status == MT_JOB_FAILED ? j->failed_reason : NULL,
                                              .snapshot_damaged = j->status == MT_JOB_FAILED && j->run.damaged,
                                              .probed = j->trial.ran && (j->status == MT_JOB_SUCCEEDED || j->status == MT_JOB_FAILED),
                                              .probe_ms = j->trial.ms, .probe_exit_code = j->trial.exit_code,
                                              .probe_detail = *j->trial.detail ? j->trial.detail : NULL, .probe_output = *j->trial.output ? j->trial.output : NULL};
    }
    return n;
}

bool mt_restores_due(const struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    while (r && mt_map_next(&r->jobs, &pos, NULL, &value))
        if (((const struct job *)value)->due)
            return true;
    return false;
}

void mt_restores_told(struct mt_restores *r, const char *restore_id, uint64_t seq)
{
    struct job *j = r ? mt_map_get(&r->jobs, restore_id) : NULL;
    if (j && j->seq == seq)
        j->due = false;
}

void mt_restores_resync(struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    while (r && mt_map_next(&r->jobs, &pos, NULL, &value))
        ((struct job *)value)->due = ((struct job *)value)->any;
}

/* ---- stages ------------------------------------------------------------------------------ */

static void soon(struct mt_restores *r)
{
    mt_loop_timer_after(r->timer, 0);
}

static void wait_again(struct job *j)
{
    int64_t ms = RETRY_FIRST_MS;
    for (unsigned i = 0; i < j->tries && ms < RETRY_MAX_MS; i++)
        ms *= 2;
    j->tries++;
    j->stage = R_WAITING;
    j->until_ns = mt_loop_now(j->r->a->loop) + (ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS) * MT_NS_PER_MS;
}

static void submit(struct job *j, enum stage stage, mt_task_fn work, mt_task_fn done)
{
    j->rc = 0;
    j->err = (struct mt_err){0};
    j->until_ns = 0;
    j->stage = stage;
    if (mt_pool_submit(j->r->pool, work, done, j, &j->err) == 0)
        return;
    mt_log(MT_WARN, "restore.no_worker", KV("restore_id", j->restore_id), KV_ERR(&j->err));
    wait_again(j);
}

/* -- one that failed leaves nothing -- */

static void end_work(void *arg)
{
    struct job *j = arg;
    j->rc = mt_restore_remove(j->r->dir, j->r->backend, j->restore_id, j->new_volume_id, &j->err);
}

static void measure_end(const struct job *j, const char *failed_reason)
{
    struct mt_agent *a = j->r->a;
    mt_storage_measure_end(&a->measure.storage, MT_STORAGE_RESTORE, failed_reason, j->began_ns ? (mt_loop_now(a->loop) - j->began_ns) / 1000 : -1);
}

static void end_done(void *arg)
{
    struct job *j = arg;
    if (j->rc < 0) {
        mt_log(MT_ERROR, "restore.not_removed", KV("restore_id", j->restore_id), KV("volume_id", j->new_volume_id), KV_ERR(&j->err));
        (void)snprintf(j->failed_reason, sizeof j->failed_reason, "cleanup_failed");
    }
    mt_log(MT_WARN, "restore.failed", KV("restore_id", j->restore_id), KV("volume_id", j->new_volume_id), KV("reason", j->failed_reason));
    j->stage = R_DONE;
    measure_end(j, j->failed_reason);
    tell(j, MT_JOB_FAILED, MT_RESTORE_NO_PHASE);
    soon(j->r);
}

static void fail(struct job *j, const char *reason)
{
    (void)snprintf(j->failed_reason, sizeof j->failed_reason, "%s", reason);
    submit(j, R_ENDING, end_work, end_done);
}

/* -- a pre-copy that nobody wants any more: its migration has ended, one way or the other -- */

static void forget_work(void *arg)
{
    struct job *j = arg;
    j->rc = mt_restore_forget(j->r->dir, j->r->backend, j->restore_id, j->new_volume_id, &j->err);
}

static void forget_done(void *arg)
{
    struct job *j = arg;
    if (j->rc < 0) {
        mt_log(MT_WARN, "restore.not_forgotten", KV("restore_id", j->restore_id), KV_ERR(&j->err));
        wait_again(j);
        j->stage = R_KEEPING;
    } else {
        j->stage = R_DONE;
    }
    soon(j->r);
}

/* -- the run -- */

struct phase_note {
    struct mt_restores *r;
    char restore_id[MT_ID_SIZE];
};

static void on_phase_note(void *arg)
{
    struct phase_note *n = arg;
    struct job *j = mt_map_get(&n->r->jobs, n->restore_id);
    if (j && j->stage == R_RUNNING && j->phase < MT_RESTORE_CHECKING)
        tell(j, MT_JOB_RUNNING, MT_RESTORE_CHECKING);
    free(n);
}

static void on_phase(void *arg, const char *word)
{
    struct job *j = arg;
    struct phase_note *n = MT_STREQ(word, "checking") ? malloc(sizeof *n) : NULL;
    if (!n)
        return;
    *n = (struct phase_note){.r = j->r};
    memcpy(n->restore_id, j->restore_id, sizeof n->restore_id);
    if (mt_loop_post(j->r->a->loop, on_phase_note, n) < 0)
        free(n);
}

static int try_it(void *arg, const char *device, const char *fs_uuid, struct mt_err *err)
{
    return mt_trial_run(arg, device, fs_uuid, err);
}

static void run_work(void *arg)
{
    struct job *j = arg;
    if (j->probe && (j->rc = mt_trial_ready(&j->trial, &j->err)) < 0) {
        (void)mt_engine_failed(&j->run.e, "probe_not_run", true, j->rc);
        return;
    }
    if ((j->rc = mt_backup_conf_load(j->r->a->conf.backup_file, &j->store, &j->err)) < 0) {
        (void)mt_engine_failed(&j->run.e, "download_failed", true, j->rc);
        return;
    }
    j->rc = mt_restore_run(&j->run, &j->err);
    mt_backup_conf_done(&j->store);
}

static void trial_over(struct job *j)
{
    if (!j->holds_slot)
        return;
    mt_trial_done(&j->trial);
    mt_slots_free(&j->r->a->slots, j->trial.slot, mt_loop_now(j->r->a->loop));
    j->holds_slot = false;
}

static void run_done(void *arg)
{
    struct job *j = arg;
    struct mt_restores *r = j->r;
    int64_t now = mt_loop_now(r->a->loop);
    mt_http_client_free(j->control);
    j->control = NULL;
    trial_over(j);
    if (j->rc == 0) {
        mt_log(MT_INFO, j->proof ? "restore.proven" : j->precopy ? "restore.precopied" : "restore.done", KV("restore_id", j->restore_id), KV("volume_id", j->new_volume_id),
               KV("bytes", j->size_bytes));
        if (!j->proof && !j->precopy)
            mt_volumes_appeared(r->a->volumes);
        j->stage = j->precopy ? R_KEEPING : R_DONE;
        measure_end(j, NULL);
        tell(j, MT_JOB_SUCCEEDED, MT_RESTORE_NO_PHASE);
    } else if (r->a->quitting || r->a->stop_all) {
        wait_again(j); /* the next agent goes on */
    } else if (j->cancel || !j->in_plan) {
        j->run.damaged = false;
        fail(j, "cancelled");
    } else {
        const char *reason = j->run.e.failed_reason[0] ? j->run.e.failed_reason : "internal_error";
        mt_log(MT_WARN, "restore.run_failed", KV("restore_id", j->restore_id), KV("reason", reason), KV("retryable", j->run.e.retryable), KV_ERR(&j->err));
        j->failing_ns = j->failing_ns ? j->failing_ns : now;
        if (j->run.e.retryable && now - j->failing_ns < PATIENCE_MS * MT_NS_PER_MS)
            wait_again(j);
        else
            fail(j, reason);
    }
    soon(r);
}

/* What a probe needs of the node, which may be there later: a driver, memory beside what runs, a number. False: the reason in @err. */
static bool trial_begin(struct job *j, struct mt_err *err)
{
    struct mt_agent *a = j->r->a;
    enum mt_reason reason;
    uint32_t slot;
    if (j->probe_unknown) {
        (void)MT_FAIL(err, MT_E_INVALID, "the plan's probe is not one that this agent can run");
        return false;
    }
    if (a->probing || !mt_agent_vmm(a)) {
        (void)MT_FAIL(err, MT_E_UNAVAILABLE, "no virtual machine runs on this node");
        return false;
    }
    if (mt_agent_admit(a, NULL, j->probe->resources.memory_bytes, &reason, err) < 0)
        return false;
    if (!mt_slots_take(&a->slots, mt_loop_now(a->loop), &slot)) {
        (void)MT_FAIL(err, MT_E_LIMIT, "slots");
        return false;
    }
    j->trial = (struct mt_trial){.a = a, .dir = j->r->dir, .restore_id = j->restore_id, .spec = j->probe, .seconds = j->probe_seconds, .slot = slot,
                                 .overhead_mib = mt_agent_overhead_mib(a), .vmm = mt_agent_vmm(a), .bundle = a->bundle, .cancelled = &j->broken, .exit_code = -1};
    j->holds_slot = true;
    return true;
}

/* One that could not begin is tried again, for as long as any other. */
static void not_begun(struct job *j, const struct mt_err *err)
{
    int64_t now = mt_loop_now(j->r->a->loop);
    mt_log(MT_WARN, "probe.not_begun", KV("restore_id", j->restore_id), KV_ERR(err));
    j->failing_ns = j->failing_ns ? j->failing_ns : now;
    if (!j->probe_unknown && now - j->failing_ns < PATIENCE_MS * MT_NS_PER_MS)
        wait_again(j);
    else
        fail(j, "probe_not_run");
}

static void run(struct job *j)
{
    struct mt_restores *r = j->r;
    struct mt_agent *a = r->a;
    struct mt_err err = {0};
    unsigned generation;
    if ((j->probe || j->probe_unknown) && !trial_begin(j, &err)) {
        not_begun(j, &err);
        return;
    }
    j->control = mt_agent_client(a, &generation);
    if (!j->control) {
        trial_over(j);
        wait_again(j);
        return;
    }
    atomic_store(&j->broken, false);
    j->began_ns = j->began_ns ? j->began_ns : mt_loop_now(a->loop);
    j->run = (struct mt_restore_run){.e = {.program = r->program, .uid = a->worker_uid, .gid = a->worker_gid, .cluster_id = a->cluster_id, .org_id = j->source_org_id,
                                           .volume_id = j->source_volume_id, .job_id = j->restore_id, .key_epoch = j->key_epoch, .store = &j->store,
                                           .control = j->control, .cancelled = &j->broken, .phase = on_phase, .arg = j},
                                     .snapshot_id = j->snapshot_id, .new_volume_id = j->new_volume_id, .size_bytes = j->size_bytes, .proof = j->proof, .precopy = j->precopy,
                                     .base_restore_id = j->base_restore_id[0] ? j->base_restore_id : NULL,
                                     .base_snapshot_id = j->base_restore_id[0] ? j->base_snapshot_id : NULL, .dir = r->dir,
                                     .backend = r->backend, .tools = mt_volumes_tools(a->volumes), .trial = j->probe ? try_it : NULL, .trial_arg = &j->trial};
    if (j->phase < MT_RESTORE_DOWNLOADING)
        tell(j, MT_JOB_RUNNING, MT_RESTORE_DOWNLOADING);
    submit(j, R_RUNNING, run_work, run_done);
}

/* ---- what is to be done ------------------------------------------------------------------ */

static bool any_at_work(const struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        if (j->stage == R_RUNNING || j->stage == R_ENDING || j->stage == R_FORGETTING)
            return true;
    }
    return false;
}

static void break_off(struct job *j)
{
    atomic_store(&j->broken, true);
    if (j->holds_slot)
        mt_image_cancel(j->r->a->images, &j->trial.image_cancelled);
    if (j->control)
        mt_http_client_cancel(j->control);
}

static void look_at(struct job *j)
{
    struct mt_restores *r = j->r;
    bool unwanted = j->cancel || !j->in_plan;
    if (unwanted && j->stage == R_RUNNING) {
        break_off(j);
    }
    if (j->stage == R_WAITING && j->done)
        j->stage = R_KEEPING;
    if ((j->stage != R_WAITING && j->stage != R_KEEPING) || any_at_work(r) || r->sweeping || !r->swept || r->a->stop_all)
        return;
    if (j->stage == R_KEEPING) {
        if (unwanted && mt_loop_now(r->a->loop) >= j->until_ns)
            submit(j, R_FORGETTING, forget_work, forget_done);
        if (j->stage == R_WAITING) /* no worker: it is kept still */
            j->stage = R_KEEPING;
    } else if (unwanted)
        fail(j, "cancelled");
    else if (mt_loop_now(r->a->loop) >= j->until_ns)
        run(j);
}

static void job_free(struct job *j)
{
    if (j->holds_slot)
        mt_trial_done(&j->trial);
    mt_workload_free(j->probe);
    free(j);
}

static struct job *new_job(struct mt_restores *r, const struct mt_plan_restore_job *p)
{
    struct job *j = calloc(1, sizeof *j);
    struct mt_workload_fault fault = {0};
    struct mt_err err = {0};
    if (!j || mt_map_put(&r->jobs, p->restore_id, j) < 0) {
        free(j);
        return NULL;
    }
    j->r = r;
    (void)snprintf(j->restore_id, sizeof j->restore_id, "%s", p->restore_id);
    (void)snprintf(j->snapshot_id, sizeof j->snapshot_id, "%s", p->snapshot_id);
    (void)snprintf(j->source_volume_id, sizeof j->source_volume_id, "%s", p->source_volume_id);
    (void)snprintf(j->source_org_id, sizeof j->source_org_id, "%s", p->source_org_id);
    (void)snprintf(j->new_volume_id, sizeof j->new_volume_id, "%s", p->new_volume_id);
    j->size_bytes = p->size_bytes;
    j->key_epoch = p->key_epoch;
    j->proof = p->proof;
    j->precopy = p->precopy;
    (void)snprintf(j->base_restore_id, sizeof j->base_restore_id, "%s", p->base_restore_id ? p->base_restore_id : "");
    (void)snprintf(j->base_snapshot_id, sizeof j->base_snapshot_id, "%s", p->base_snapshot_id ? p->base_snapshot_id : "");
    j->trial.exit_code = -1;
    if (p->probe && mt_workload_decode(p->probe, &j->probe, &fault, &err) < 0) {
        mt_log(MT_ERROR, "probe.not_understood", KV("restore_id", j->restore_id), KV("field", (const char *)fault.field), KV_ERR(&err));
        j->probe_unknown = true;
    }
    j->probe_seconds = p->probe_seconds;
    return j;
}

static void take_plan(struct mt_restores *r)
{
    const struct mt_plan *p = r->a->plan;
    size_t pos = 0;
    void *value;
    while (mt_map_next(&r->jobs, &pos, NULL, &value))
        ((struct job *)value)->in_plan = false;
    for (size_t i = 0; p && i < p->storage.n_restores; i++) {
        const struct mt_plan_restore_job *s = &p->storage.restores[i];
        struct job *j = mt_map_get(&r->jobs, s->restore_id);
        if (!j && !(j = new_job(r, s)))
            continue;
        j->in_plan = true;
        j->cancel |= s->cancel;
        j->done |= s->done;
    }
    pos = 0;
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (j->in_plan || j->stage != R_DONE)
            continue;
        (void)mt_map_remove(&r->jobs, j->restore_id);
        job_free(j);
    }
}

/* -- parts that an agent before left and no plan knows of -- */

struct sweep {
    struct mt_restores *r;
    size_t n, removed;
    char (*restores)[MT_ID_SIZE], (*volumes)[MT_ID_SIZE];
};

static void sweep_free(struct sweep *s)
{
    free(s->restores);
    free(s->volumes);
    free(s);
}

static void sweep_work(void *arg)
{
    struct sweep *s = arg;
    mt_trial_sweep(s->r->a, s->r->dir); /* first: a VM that has a part open keeps it */
    s->removed = mt_restore_sweep(s->r->dir, s->r->backend, s->restores, s->volumes, s->n);
}

static void sweep_done(void *arg)
{
    struct sweep *s = arg;
    struct mt_restores *r = s->r;
    if (s->removed)
        mt_log(MT_INFO, "restore.swept", KV("volumes", (uint64_t)s->removed));
    r->sweeping = false;
    r->swept = true;
    soon(r);
    sweep_free(s);
}

static void sweep(struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    struct sweep *s = calloc(1, sizeof *s);
    if (s) {
        s->r = r;
        s->restores = calloc(r->jobs.count + 1, sizeof *s->restores);
        s->volumes = calloc(r->jobs.count + 1, sizeof *s->volumes);
    }
    if (!s || !s->restores || !s->volumes) {
        if (s)
            sweep_free(s);
        return; /* the next look */
    }
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        memcpy(s->restores[s->n], j->restore_id, sizeof *s->restores);
        memcpy(s->volumes[s->n++], j->new_volume_id, sizeof *s->volumes);
    }
    if (mt_pool_submit(r->pool, sweep_work, sweep_done, s, NULL) == 0)
        r->sweeping = true;
    else
        sweep_free(s);
}

static void look(struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    int64_t now = mt_loop_now(r->a->loop), next = now + TICK_MS * MT_NS_PER_MS;
    if (r->a->quitting)
        return;
    take_plan(r);
    if (r->a->plan_fresh && !r->a->probing && !r->swept && !r->sweeping)
        sweep(r);
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) /* nothing of this puts into the map or takes out of it */
        look_at(value);
    pos = 0;
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        if (j->until_ns > now && j->until_ns < next)
            next = j->until_ns;
    }
    if (r->jobs.count > 0 && !mt_loop_timer_armed(r->timer))
        mt_loop_timer_set(r->timer, next);
}

static void on_timer(struct mt_source *s, void *arg)
{
    (void)s;
    look(arg);
}

void mt_restores_look_soon(struct mt_restores *r)
{
    if (r)
        soon(r);
}

bool mt_restores_explain(const struct mt_restores *r, const char *name)
{
    char restore_id[MT_ID_SIZE];
    if (!mt_trial_name(name, restore_id))
        return false;
    const struct job *j = r ? mt_map_get(&r->jobs, restore_id) : NULL;
    return r && (!r->swept || (j && j->stage == R_RUNNING));
}

bool mt_restores_end_probe(struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    while (r && mt_map_next(&r->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (!j->holds_slot)
            continue;
        break_off(j);
        return true;
    }
    return false;
}

uint64_t mt_restores_memory(const struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    while (r && mt_map_next(&r->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        if (j->holds_slot)
            return j->probe->resources.memory_bytes;
    }
    return 0;
}

bool mt_restores_in_the_way(struct mt_restores *r, const char *volume_id)
{
    size_t pos = 0;
    void *value;
    while (r && mt_map_next(&r->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (j->stage == R_DONE || !MT_STREQ(j->new_volume_id, volume_id))
            continue;
        j->cancel = true;
        soon(r);
        return true;
    }
    return false;
}

/* ---- start and end ----------------------------------------------------------------------- */

struct mt_restores *mt_restores_new(struct mt_agent *a, const struct mt_backend *backend, struct mt_err *err)
{
    uint64_t seed;
    struct mt_restores *r = calloc(1, sizeof *r);
    if (!r) {
        (void)MT_FAIL(err, MT_E_NOMEM, "restores: out of memory");
        return NULL;
    }
    r->a = a;
    r->backend = backend;
    mt_random(&seed, sizeof seed);
    mt_map_init(&r->jobs, seed);
    int rc = mt_fmt(r->dir, sizeof r->dir, err, "%s/backup", a->conf.data_dir);
    if (rc == 0)
        rc = mt_fmt(r->program, sizeof r->program, err, "%s/moat-backup", a->conf.bin_dir);
    if (rc == 0)
        rc = mt_file_mkdirs(r->dir, 0700, err);
    if (rc == 0 && (!(r->timer = mt_loop_timer(a->loop, "restores", on_timer, r, err)) || !(r->pool = mt_pool_new(a->loop, 1, 64, 0, err))))
        rc = -MT_E_NOMEM;
    if (rc < 0) {
        mt_restores_free(r);
        return NULL;
    }
    return r;
}

void mt_restores_free(struct mt_restores *r)
{
    size_t pos = 0;
    void *value;
    if (!r)
        return;
    mt_loop_del(r->timer);
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) {
        break_off(value);
    }
    mt_pool_free(r->pool);
    pos = 0;
    while (mt_map_next(&r->jobs, &pos, NULL, &value)) {
        mt_http_client_free(((struct job *)value)->control);
        job_free(value);
    }
    mt_map_done(&r->jobs);
    free(r);
}
