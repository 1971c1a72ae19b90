/* SPDX-License-Identifier: Apache-2.0 */
/* See backups.h. */
#include "agent/backups.h"

#include "agent/agent.h"
#include "agent/backup/starvation.h"
#include "agent/backup/run.h"
#include "agent/control.h"
#include "agent/instance/inst.h"
#include "agent/instance/steps.h"
#include "agent/report.h"
#include "agent/volume/steps.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/cgroup.h"
#include "os/file.h"
#include "wire/http_client.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_MAX 2             /* backup.node_concurrency */
#define FREEZE_MS 2000        /* what a guest has to answer */
#define RETRY_FIRST_MS 5000
#define RETRY_MAX_MS 60000
#define CAPTURE_TRIES 5
#define TTL_MS (INT64_C(24) * 3600 * 1000) /* snapshot.ttl */
#define POOL_LOW 80
#define POOL_FULL 90
#define TICK_MS 10000
#define GROUP "backup" /* mt_cgroup_work */

enum stage {
    S_WAITING = 0, /* for a place, or the next try of what is captured */
    S_FREEZING,    /* the guest was asked */
    S_CAPTURING,   /* a worker makes the image */
    S_THAWING,     /* was it held all the time? */
    S_RUNNING,     /* a worker runs moat-backup */
    S_ENDING,      /* a worker takes away what is left */
    S_DONE,        /* told, or to be told */
    S_MAX
};

struct job {
    struct mt_backups *b;
    char snapshot_id[MT_ID_SIZE], volume_id[MT_ID_SIZE], org_id[MT_ID_SIZE], parent[MT_ID_SIZE];
    uint32_t key_epoch;
    bool full_read, distrust_stored, migration, in_plan, cancel;
    enum stage stage;
    atomic_bool broken; /* the run is to end */
    const char *given_up; /* and why; static text, NULL it is not */
    int64_t until_ns;   /* of the stage; 0 none */
    unsigned tries;
    char guest[MT_ID_SIZE]; /* instance that was asked to hold still, "" none */
    bool held, captured;
    int64_t frozen_ns, held_us, image_us; /* since when the guest holds still, for how long it did, what the backend took of that */
    struct mt_backup_record record;
    /* of the worker */
    int rc;
    struct mt_err err;
    char base[MT_ID_SIZE];
    bool busy_volume;
    struct mt_backup_conf store;
    struct mt_http_client *control;
    struct mt_backup_run run;
    char group[MT_CGROUP_PATH * 2];
    bool yields; /* it works in the group */
    struct mt_starvation starvation;
    atomic_uint_fast64_t done_bytes; /* of its phase, as the program says */
    /* told */
    bool any, due;
    uint64_t seq;
    enum mt_job_status status;
    enum mt_snapshot_phase phase;
    bool ok; /* how it ended */
    char failed_reason[64];
};

struct mt_backups {
    struct mt_agent *a;
    const struct mt_backend *backend;
    char dir[PATH_MAX], program[PATH_MAX];
    struct mt_map jobs;
    struct mt_map sure; /* volume ids with a success of this process: its image may be believed also without a clean end before */
    bool was_clean;
    struct mt_pool *pool;
    struct mt_source *timer;
    struct mt_cgroup_host group_host;
    bool group_usable;
    unsigned percent;
    bool dropping; /* images of bases are being removed: nothing begins */
    /* the store's file */
    bool ready;
    struct timespec conf_time;
    int64_t conf_looked_ns;
};

/* ---- telling ----------------------------------------------------------------------------- */

static void tell(struct job *j, enum mt_job_status status, enum mt_snapshot_phase phase)
{
    j->status = status;
    j->phase = phase;
    j->any = j->due = true;
    j->seq = mt_volumes_seq(j->b->a->volumes);
    mt_report_volumes(j->b->a->report);
}

size_t mt_backups_reports(struct mt_backups *b, struct mt_snapshot_report *ret, size_t max)
{
    size_t pos = 0, n = 0;
    void *value;
    while (b && n < max && mt_map_next(&b->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        if (!j->due)
            continue;
        bool ok = j->status == MT_JOB_SUCCEEDED;
        ret[n++] = (struct mt_snapshot_report){
            .snapshot_id = j->snapshot_id, .seq = j->seq, .status = j->status, .phase = j->phase, .key_epoch = ok ? j->key_epoch : 0,
            .consistency = j->captured ? j->record.filesystem ? "filesystem" : "crash" : NULL, .captured_at_ms = j->captured ? j->record.captured_ms : 0,
            .has_size = ok, .size_bytes = j->run.size_bytes, .has_changed = ok, .changed_bytes = j->run.changed_bytes, .has_uploaded = ok,
            .uploaded_bytes = j->run.uploaded_bytes, .image_root = ok ? j->run.image_root : NULL, .manifest_sha256 = ok ? j->run.manifest_sha256 : NULL,
            .distrusted_stored = ok && j->run.distrusted_stored, .parent_snapshot_id = ok && j->parent[0] ? j->parent : NULL, .failed_reason = j->status == MT_JOB_FAILED ? j->failed_reason : NULL};
    }
    return n;
}

bool mt_backups_due(const struct mt_backups *b)
{
    size_t pos = 0;
    void *value;
    while (b && mt_map_next(&b->jobs, &pos, NULL, &value))
        if (((const struct job *)value)->due)
            return true;
    return false;
}

void mt_backups_told(struct mt_backups *b, const char *snapshot_id, uint64_t seq)
{
    struct job *j = b ? mt_map_get(&b->jobs, snapshot_id) : NULL;
    if (j && j->seq == seq)
        j->due = false;
}

void mt_backups_resync(struct mt_backups *b)
{
    size_t pos = 0;
    void *value;
    while (b && mt_map_next(&b->jobs, &pos, NULL, &value))
        ((struct job *)value)->due = ((struct job *)value)->any;
}

/* ---- stages ------------------------------------------------------------------------------ */

static void soon(struct mt_backups *b)
{
    mt_loop_timer_after(b->timer, 0);
}

static void wait_again(struct job *j)
{
    int64_t ms = RETRY_FIRST_MS;
    for (unsigned i = 0; i < j->tries && ms < RETRY_MAX_MS; i++)
        ms *= 2;
    j->tries++;
    j->stage = S_WAITING;
    j->until_ns = mt_loop_now(j->b->a->loop) + (ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS) * MT_NS_PER_MS;
}

/* When a guest has to have answered. */
static int64_t answer_by(const struct mt_backups *b)
{
    return mt_loop_now(b->a->loop) + FREEZE_MS * (int64_t)b->a->conf.patience * MT_NS_PER_MS;
}

static void submit(struct job *j, struct mt_pool *pool, enum stage stage, mt_task_fn work, mt_task_fn done)
{
    j->rc = 0;
    j->err = (struct mt_err){0};
    j->until_ns = 0;
    j->stage = stage;
    if (mt_pool_submit(pool, work, done, j, &j->err) == 0)
        return;
    mt_log(MT_WARN, "backup.no_worker", KV("snapshot_id", j->snapshot_id), KV_ERR(&j->err));
    wait_again(j);
}

/* -- the end of a job that is over: image, journal and record of it go; a success keeps its image and drops the one before -- */

static void end_work(void *arg)
{
    struct job *j = arg;
    char path[PATH_MAX];
    struct mt_backup_record *r = &j->record;
    char old[MT_ID_SIZE];
    bool ok = j->ok;
    memcpy(old, r->base, sizeof old);
    if (ok)
        memcpy(r->base, j->snapshot_id, sizeof r->base);
    r->job[0] = '\0';
    j->rc = mt_backup_record_save(j->b->dir, r, &j->err); /* before what it names goes */
    if (j->rc < 0)
        return;
    if (ok && old[0] && !MT_STREQ(old, j->snapshot_id))
        (void)mt_backend_snap_delete(j->b->backend, old, NULL);
    if (!ok && !MT_STREQ(old, j->snapshot_id))
        (void)mt_backend_snap_delete(j->b->backend, j->snapshot_id, NULL);
    if (mt_backup_journal(j->b->dir, j->snapshot_id, path, NULL) == 0)
        (void)unlink(path);
}

static void measure_end(const struct job *j)
{
    struct mt_storage_measure *m = &j->b->a->measure.storage;
    const char *why = j->ok ? NULL : j->failed_reason;
    if (!j->captured) {
        mt_storage_measure_end(m, MT_STORAGE_SNAPSHOT, why, -1);
        return;
    }
    mt_storage_measure_end(m, MT_STORAGE_BACKUP, why, mt_clock_wall_us() - j->record.captured_ms * 1000);
    m->read_bytes += j->ok ? j->run.read_bytes : 0;
    m->uploaded_bytes += j->ok ? j->run.uploaded_bytes : 0;
    m->deduplicated_bytes += j->ok ? j->run.known_bytes : 0;
}

static void end_done(void *arg)
{
    struct job *j = arg;
    if (j->rc < 0)
        mt_log(MT_ERROR, "backup.record_not_saved", KV("snapshot_id", j->snapshot_id), KV_ERR(&j->err));
    j->stage = S_DONE;
    bool ok = j->ok;
    if (ok)
        (void)mt_map_put(&j->b->sure, j->volume_id, j->b);
    if (!ok)
        mt_log(MT_WARN, "backup.failed", KV("snapshot_id", j->snapshot_id), KV("volume_id", j->volume_id), KV("reason", j->failed_reason));
    measure_end(j);
    tell(j, ok ? MT_JOB_SUCCEEDED : MT_JOB_FAILED, MT_SNAPSHOT_NO_PHASE);
    soon(j->b);
}

/* @failed_reason NULL: it succeeded. */
static void finish(struct job *j, const char *failed_reason)
{
    j->ok = failed_reason == NULL;
    (void)snprintf(j->failed_reason, sizeof j->failed_reason, "%s", failed_reason ? failed_reason : "");
    submit(j, j->b->a->steps, S_ENDING, end_work, end_done);
}

/* -- backup -- */

struct phase_note {
    struct mt_backups *b;
    char snapshot_id[MT_ID_SIZE];
};

static void on_phase_note(void *arg)
{
    struct phase_note *n = arg;
    struct job *j = mt_map_get(&n->b->jobs, n->snapshot_id);
    if (j && j->stage == S_RUNNING)
        tell(j, MT_JOB_RUNNING, MT_SNAPSHOT_VERIFYING);
    free(n);
}

static void on_phase(void *arg, const char *word)
{
    struct job *j = arg;
    struct phase_note *n = MT_STREQ(word, "verifying") ? malloc(sizeof *n) : NULL;
    if (!n)
        return;
    *n = (struct phase_note){.b = j->b};
    memcpy(n->snapshot_id, j->snapshot_id, sizeof n->snapshot_id);
    if (mt_loop_post(j->b->a->loop, on_phase_note, n) < 0)
        free(n);
}

static void on_done_bytes(void *arg, uint64_t bytes)
{
    struct job *j = arg;
    atomic_store(&j->done_bytes, bytes);
}

/* The group of those that give way to the VMs: wholly, as long as none in it starves. */
static bool give_way(struct job *j)
{
    size_t pos = 0;
    void *value;
    bool starves = false;
    while (mt_map_next(&j->b->jobs, &pos, NULL, &value)) {
        const struct job *other = value;
        starves |= other->stage == S_RUNNING && other->yields && other->starvation.starves;
    }
    return mt_cgroup_work(&j->b->group_host, GROUP, starves ? MT_CGROUP_YIELD_MOSTLY : MT_CGROUP_YIELD_WHOLLY, false, j->group, NULL) == 0;
}

static void run_work(void *arg)
{
    struct job *j = arg;
    if (mt_backup_conf_load(j->b->a->conf.backup_file, &j->store, &j->err) < 0) {
        (void)snprintf(j->run.e.failed_reason, sizeof j->run.e.failed_reason, "backup_store_unreachable");
        j->run.e.retryable = true;
        j->rc = -MT_E_UNAVAILABLE;
        return;
    }
    j->rc = mt_backup_run(&j->run, &j->err);
    mt_backup_conf_done(&j->store);
}

static bool expired(const struct job *j)
{
    return mt_clock_wall_us() / 1000 > j->record.captured_ms + TTL_MS;
}

static void run_done(void *arg)
{
    struct job *j = arg;
    mt_http_client_free(j->control);
    j->control = NULL;
    if (j->rc == 0) {
        finish(j, NULL);
    } else if (j->b->a->quitting) {
        wait_again(j); /* the next agent goes on */
    } else if (j->given_up || j->cancel || !j->in_plan) {
        finish(j, j->given_up ? j->given_up : "cancelled");
    } else {
        mt_log(MT_WARN, "backup.run_failed", KV("snapshot_id", j->snapshot_id), KV("reason", j->run.e.failed_reason), KV("retryable", j->run.e.retryable), KV_ERR(&j->err));
        if (!j->run.e.retryable)
            finish(j, j->run.e.failed_reason[0] ? j->run.e.failed_reason : "internal_error");
        else if (expired(j))
            finish(j, "artifact_expired");
        else
            wait_again(j);
    }
    soon(j->b);
}

static void run(struct job *j)
{
    struct mt_agent *a = j->b->a;
    unsigned generation;
    bool local = j->parent[0] && MT_STREQ(j->record.base, j->parent) && !j->full_read && !j->distrust_stored && j->b->backend->kind != MT_BACKEND_COPY &&
                 (j->b->was_clean || mt_map_get(&j->b->sure, j->volume_id));
    memcpy(j->base, j->record.base, sizeof j->base);
    j->control = mt_agent_client(a, &generation);
    if (!j->control) {
        wait_again(j);
        return;
    }
    atomic_store(&j->broken, false);
    /* It has what the VMs leave over, and is pushed off a processor the moment that they want it: any share of its own would be a delay of each of their writes.
     * One for whose end a process stands still, or soon will, does not give way. */
    j->yields = j->b->group_usable && !j->migration && give_way(j);
    atomic_store(&j->done_bytes, 0);
    mt_starvation_begin(&j->starvation, mt_clock_mono());
    j->run = (struct mt_backup_run){.e = {.program = j->b->program, .uid = a->worker_uid, .gid = a->worker_gid, .cluster_id = a->cluster_id, .org_id = j->org_id,
                                          .volume_id = j->volume_id, .job_id = j->snapshot_id, .key_epoch = j->key_epoch, .store = &j->store,
                                          .control = j->control, .cgroup_procs = j->yields ? j->group : NULL, .cancelled = &j->broken, .phase = on_phase, .done = on_done_bytes,
                                          .arg = j},
                                    .parent = j->parent[0] ? j->parent : NULL, .base = local ? j->base : NULL, .distrust_stored = j->distrust_stored, .captured_ms = j->record.captured_ms,
                                    .filesystem = j->record.filesystem, .dir = j->b->dir, .backend = j->b->backend};
    if (j->phase < MT_SNAPSHOT_UPLOADING)
        tell(j, MT_JOB_RUNNING, MT_SNAPSHOT_UPLOADING);
    submit(j, j->b->pool, S_RUNNING, run_work, run_done);
}

/* -- image -- */

/* Nobody has it mounted: what it holds is whole if the last one who had left it so. */
static bool left_clean(const struct mt_backend *b, const char *snapshot_id)
{
    enum { SUPERBLOCK = 1024, STATE_AT = 0x3a, INCOMPAT_AT = 0x60, VALID = 1, NEEDS_RECOVERY = 4 };
    uint8_t sb[INCOMPAT_AT + 4];
    mt_auto_fd int fd = -1;
    return mt_backend_snap_open(b, snapshot_id, &fd, NULL) == 0 && pread(fd, sb, sizeof sb, SUPERBLOCK) == (ssize_t)sizeof sb &&
           (sb[STATE_AT] & VALID) && !(sb[INCOMPAT_AT] & NEEDS_RECOVERY);
}

static void capture_work(void *arg)
{
    struct job *j = arg;
    mt_auto_fd int lock = -1;
    j->busy_volume = false;
    /* without a guest that holds still no VM may begin while it is copied */
    if (!j->held && j->b->backend->kind == MT_BACKEND_COPY && (j->rc = mt_volume_lock(j->b->backend, j->volume_id, &lock, &j->err)) < 0) {
        j->busy_volume = j->rc == -MT_E_CONFLICT;
        return;
    }
    bool free_now = lock >= 0 || mt_volume_lock(j->b->backend, j->volume_id, &lock, NULL) == 0;
    /* a copy that is there is of a try whose guest let go too early, or whose end an agent before did not see */
    if (j->b->backend->kind == MT_BACKEND_COPY && (j->rc = mt_backend_snap_delete(j->b->backend, j->snapshot_id, &j->err)) < 0)
        return;
    int64_t began = mt_clock_mono();
    j->rc = mt_backend_snap_create(j->b->backend, j->volume_id, j->snapshot_id, &j->record.captured_ms, &j->err);
    j->image_us = (mt_clock_mono() - began) / 1000;
    if (j->rc < 0)
        return;
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_SNAPPED, MT_KILL_RECORDED);
    j->record.filesystem = free_now && left_clean(j->b->backend, j->snapshot_id);
}

static int guest_says(struct job *j, enum mt_guest_type what)
{
    struct mt_inst *in = mt_map_get(&j->b->a->insts, j->guest);
    struct mt_guest_msg msg = {.type = what, .u.freeze = {.volume_id = j->volume_id}};
    return in && in->chan ? mt_channel_send(in->chan, &msg, NULL, NULL) : -MT_E_UNAVAILABLE;
}

static void keep_record(struct job *j)
{
    struct mt_err err = {0};
    memcpy(j->record.job, j->snapshot_id, sizeof j->record.job);
    if (mt_backup_record_save(j->b->dir, &j->record, &err) < 0)
        mt_log(MT_ERROR, "backup.record_not_saved", KV("snapshot_id", j->snapshot_id), KV_ERR(&err));
    j->captured = true;
    mt_storage_measure_end(&j->b->a->measure.storage, MT_STORAGE_SNAPSHOT, NULL, -1);
    j->stage = S_WAITING;
    j->until_ns = 0;
    j->tries = 0;
    mt_log(MT_INFO, "backup.captured", KV("snapshot_id", j->snapshot_id), KV("volume_id", j->volume_id), KV("consistency", j->record.filesystem ? "filesystem" : "crash"),
           KV("held_us", j->held_us), KV("image_us", j->image_us));
    run(j);
}

/* The image is there, and whether the guest held still for all of it is known. */
static void captured(struct job *j, bool whole)
{
    j->record.filesystem |= whole;
    if (!whole && j->held && j->b->backend->kind == MT_BACKEND_COPY) {
        /* Written to while it was copied: not a moment of the volume at all. A guest that was too slow this once may hold still next time. */
        if (j->tries < CAPTURE_TRIES)
            wait_again(j);
        else
            finish(j, "snapshot_create_failed");
        return;
    }
    keep_record(j);
}

static void capture_done(void *arg)
{
    struct job *j = arg;
    bool asked = j->guest[0] != '\0';
    j->held_us = j->held ? (mt_clock_mono() - j->frozen_ns) / 1000 : 0;
    if (asked)
        (void)guest_says(j, MT_GUEST_THAW); /* whatever came of it, and whether or not it was held */
    if (j->rc < 0) {
        mt_log(MT_WARN, "backup.not_captured", KV("snapshot_id", j->snapshot_id), KV_ERR(&j->err));
        if ((j->busy_volume || j->rc == -MT_E_LIMIT) && j->tries < CAPTURE_TRIES)
            wait_again(j);
        else
            finish(j, j->rc == -MT_E_NOT_FOUND ? "preflight_failed:volume_not_found_on_node" : "snapshot_create_failed");
    } else if (j->held) {
        j->stage = S_THAWING;
        j->until_ns = answer_by(j->b);
    } else {
        captured(j, false);
    }
    soon(j->b);
}

static void capture(struct job *j, bool held)
{
    j->held = held;
    j->frozen_ns = mt_clock_mono();
    submit(j, j->b->a->steps, S_CAPTURING, capture_work, capture_done);
}

static const struct mt_inst *holder(const struct job *j)
{
    size_t pos = 0;
    void *value;
    while (mt_map_next(&j->b->a->insts, &pos, NULL, &value)) {
        const struct mt_inst *in = value;
        for (size_t i = 0; i < in->held_n; i++)
            if (MT_STREQ(in->held[i].volume_id, j->volume_id))
                return in;
    }
    return NULL;
}

static void begin(struct job *j)
{
    const struct mt_inst *in = holder(j);
    j->guest[0] = '\0';
    tell(j, MT_JOB_RUNNING, MT_SNAPSHOT_CAPTURING);
    if (in && in->chan && mt_channel_greeted(in->chan)) {
        memcpy(j->guest, in->st.instance_id, sizeof j->guest);
        if (guest_says(j, MT_GUEST_FREEZE) == 0) {
            j->stage = S_FREEZING;
            j->until_ns = answer_by(j->b);
            return;
        }
        j->guest[0] = '\0';
    }
    capture(j, false);
}

void mt_backups_quiesced(struct mt_backups *b, const char *instance_id, const struct mt_guest_quiesced *q)
{
    size_t pos = 0;
    void *value;
    if (!b)
        return;
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (!MT_STREQ(j->guest, instance_id) || !MT_STREQ(j->volume_id, q->volume_id))
            continue;
        if (j->stage == S_FREEZING)
            capture(j, q->state == MT_GUEST_QUIESCE_FROZEN);
        else if (j->stage == S_THAWING)
            captured(j, q->state == MT_GUEST_QUIESCE_THAWED);
        else if (j->stage == S_CAPTURING && q->state != MT_GUEST_QUIESCE_FROZEN)
            continue; /* it let go by itself; the answer to the thaw, or its silence, will say so */
        else
            continue;
        return; /* the map may have changed */
    }
}

/* ---- what is to be done ------------------------------------------------------------------ */

static unsigned at_work(const struct mt_backups *b)
{
    size_t pos = 0;
    void *value;
    unsigned n = 0;
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        n += j->stage != S_WAITING && j->stage != S_DONE;
    }
    return n;
}

/* @reason static text. */
static void give_up(struct job *j, const char *reason)
{
    if (j->stage == S_RUNNING) {
        j->given_up = reason;
        atomic_store(&j->broken, true);
        if (j->control)
            mt_http_client_cancel(j->control);
    } else if (j->stage == S_WAITING) {
        finish(j, reason);
    } /* else its step is short: looked at when it is over */
}

static void look_at(struct job *j)
{
    struct mt_backups *b = j->b;
    int64_t now = mt_loop_now(b->a->loop);
    if (j->cancel || !j->in_plan)
        give_up(j, "cancelled");
    if (j->until_ns && now < j->until_ns)
        return;
    switch (j->stage) {
    case S_WAITING:
        if (at_work(b) >= RUN_MAX || b->a->stop_all || b->dropping)
            break;
        if (j->captured && expired(j))
            finish(j, "artifact_expired");
        else if (j->captured)
            run(j);
        else if (b->percent < POOL_LOW)
            begin(j);
        break;
    case S_FREEZING: /* no answer: the image is one of a crash */
        capture(j, false);
        break;
    case S_THAWING:
        captured(j, false);
        break;
    case S_RUNNING:
        if (j->yields && mt_starvation_look(&j->starvation, mt_clock_mono(), atomic_load(&j->done_bytes)) && give_way(j))
            mt_log(MT_INFO, "backup.starved", KV("snapshot_id", j->snapshot_id), KV("bytes_done", (uint64_t)atomic_load(&j->done_bytes)));
        break;
    case S_CAPTURING:
    case S_ENDING:
    case S_DONE:
    case S_MAX:
        break;
    }
}

/* A job of the plan that is new here: the record says how far an agent before this one came. */
static struct job *new_job(struct mt_backups *b, const struct mt_plan_snapshot_job *p)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j || mt_map_put(&b->jobs, p->snapshot_id, j) < 0) {
        free(j);
        return NULL;
    }
    j->b = b;
    (void)snprintf(j->snapshot_id, sizeof j->snapshot_id, "%s", p->snapshot_id);
    (void)snprintf(j->volume_id, sizeof j->volume_id, "%s", p->volume_id);
    (void)snprintf(j->org_id, sizeof j->org_id, "%s", p->org_id);
    (void)mt_backup_record_load(b->dir, p->volume_id, &j->record, NULL);
    struct stat st;
    mt_auto_fd int fd = -1;
    bool mine = MT_STREQ(j->record.job, p->snapshot_id), ended = MT_STREQ(j->record.base, p->snapshot_id);
    if ((mine || ended) && mt_backend_snap_open(b->backend, p->snapshot_id, &fd, NULL) == 0 && fstat(fd, &st) == 0)
        j->captured = true; /* ended and not told: the program finds its manifest in the store and says it again */
    return j;
}

static void take_plan(struct mt_backups *b)
{
    const struct mt_plan *p = b->a->plan;
    size_t pos = 0;
    void *value;
    while (mt_map_next(&b->jobs, &pos, NULL, &value))
        ((struct job *)value)->in_plan = false;
    for (size_t i = 0; p && i < p->storage.n_snapshots; i++) {
        const struct mt_plan_snapshot_job *s = &p->storage.snapshots[i];
        struct job *j = mt_map_get(&b->jobs, s->snapshot_id);
        if (!j && !(j = new_job(b, s)))
            continue;
        j->in_plan = true;
        j->cancel |= s->cancel;
        j->key_epoch = s->key_epoch;
        j->full_read = s->full_read;
        j->distrust_stored = s->distrust_stored;
        j->migration = MT_STREQ(s->origin, "migration");
        if (j->stage != S_RUNNING)
            (void)snprintf(j->parent, sizeof j->parent, "%s", s->parent_snapshot_id ? s->parent_snapshot_id : "");
    }
    pos = 0;
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (j->in_plan || j->stage != S_DONE)
            continue;
        (void)mt_map_remove(&b->jobs, j->snapshot_id);
        free(j);
    }
}

static void look(struct mt_backups *b)
{
    size_t pos = 0;
    void *value;
    int64_t now = mt_loop_now(b->a->loop), next = now + TICK_MS * MT_NS_PER_MS;
    if (b->a->quitting)
        return;
    take_plan(b);
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) /* nothing of this puts into the map or takes out of it */
        look_at(value);
    pos = 0;
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        const struct job *j = value;
        if (j->until_ns > now && j->until_ns < next)
            next = j->until_ns;
    }
    if (b->jobs.count > 0 && !mt_loop_timer_armed(b->timer))
        mt_loop_timer_set(b->timer, next);
}

static void on_timer(struct mt_source *s, void *arg)
{
    (void)s;
    look(arg);
}

void mt_backups_look_soon(struct mt_backups *b)
{
    if (b)
        soon(b);
}

bool mt_backups_in_the_way(struct mt_backups *b, const char *volume_id)
{
    size_t pos = 0;
    void *value;
    bool any = false;
    if (!b)
        return false;
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (j->stage == S_DONE || !MT_STREQ(j->volume_id, volume_id))
            continue;
        any = true;
        j->cancel = true;
        soon(b);
    }
    return any;
}

int mt_backups_forget(const struct mt_backups *b, const char *volume_id, struct mt_err *err)
{
    return b ? mt_backup_forget(b->dir, b->backend, volume_id, err) : 0;
}

static void drop_work(void *arg)
{
    struct mt_backups *b = arg;
    size_t n = mt_backup_drop_bases(b->dir, b->backend);
    if (n)
        mt_log(MT_WARN, "backup.bases_dropped", KV("snapshots", (uint64_t)n), KV("why", "the pool is nearly full"));
}

static void drop_done(void *arg)
{
    struct mt_backups *b = arg;
    b->dropping = false;
    soon(b);
}

void mt_backups_pressure(struct mt_backups *b, unsigned percent)
{
    size_t pos = 0;
    void *value;
    if (!b)
        return;
    b->percent = percent;
    if (percent < POOL_FULL)
        return;
    /* live volumes win over backups: the images that backups need go, and with them the jobs that run */
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        if (j->captured && j->stage != S_DONE && j->stage != S_ENDING)
            give_up(j, "pool_pressure");
    }
    if (at_work(b) == 0 && !b->dropping && mt_pool_submit(b->a->steps, drop_work, drop_done, b, NULL) == 0)
        b->dropping = true;
}

bool mt_backups_ready(struct mt_backups *b)
{
    struct stat st;
    struct mt_err err = {0};
    if (!b || stat(b->a->conf.backup_file, &st) < 0) {
        if (b)
            b->ready = false;
        return false;
    }
    if (b->conf_time.tv_sec == st.st_ctim.tv_sec && b->conf_time.tv_nsec == st.st_ctim.tv_nsec)
        return b->ready;
    struct mt_backup_conf c = {0};
    b->conf_time = st.st_ctim;
    b->ready = mt_backup_conf_load(b->a->conf.backup_file, &c, &err) == 0;
    if (b->ready)
        mt_log(MT_INFO, "backup.store", KV("endpoint", (const char *)c.endpoint), KV("bucket", (const char *)c.bucket), KV("prefix", (const char *)c.prefix));
    else
        mt_log(MT_ERROR, "backup.store_refused", KV_ERR(&err));
    mt_backup_conf_done(&c);
    return b->ready;
}

/* ---- start and end ----------------------------------------------------------------------- */

/* There while no agent runs after a clean end of the one before. */
static bool take_mark(const struct mt_backups *b)
{
    char path[PATH_MAX];
    return mt_fmt(path, sizeof path, NULL, "%s/clean", b->dir) == 0 && unlink(path) == 0;
}

static void leave_mark(const struct mt_backups *b)
{
    char path[PATH_MAX];
    if (mt_fmt(path, sizeof path, NULL, "%s/clean", b->dir) == 0)
        (void)mt_file_write(path, "1\n", 2, 0600, NULL);
}

struct mt_backups *mt_backups_new(struct mt_agent *a, const struct mt_backend *backend, struct mt_err *err)
{
    uint64_t seed;
    struct mt_backups *b = calloc(1, sizeof *b);
    if (!b) {
        (void)MT_FAIL(err, MT_E_NOMEM, "backups: out of memory");
        return NULL;
    }
    b->a = a;
    b->backend = backend;
    mt_random(&seed, sizeof seed);
    mt_map_init(&b->jobs, seed);
    mt_map_init(&b->sure, seed);
    int rc = mt_fmt(b->dir, sizeof b->dir, err, "%s/backup", a->conf.data_dir);
    if (rc == 0)
        rc = mt_fmt(b->program, sizeof b->program, err, "%s/moat-backup", a->conf.bin_dir);
    if (rc == 0)
        rc = mt_file_mkdirs(b->dir, 0700, err);
    if (rc == 0 && (!(b->timer = mt_loop_timer(a->loop, "backups", on_timer, b, err)) || !(b->pool = mt_pool_new(a->loop, RUN_MAX, 64, 0, err))))
        rc = -MT_E_NOMEM;
    if (rc < 0) {
        mt_backups_free(b);
        return NULL;
    }
    b->was_clean = take_mark(b);
    b->group_usable = mt_cgroup_open(&b->group_host, NULL, a->conf.cgroup_parent, NULL) == 0;
    size_t gone = mt_backup_sweep(b->dir, backend, mt_clock_wall_us() / 1000, TTL_MS);
    if (gone)
        mt_log(MT_INFO, "backup.swept", KV("snapshots", (uint64_t)gone));
    return b;
}

void mt_backups_free(struct mt_backups *b)
{
    size_t pos = 0;
    void *value;
    if (!b)
        return;
    mt_loop_del(b->timer);
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        struct job *j = value;
        atomic_store(&j->broken, true);
        if (j->control)
            mt_http_client_cancel(j->control);
    }
    mt_pool_free(b->pool);
    if (b->group_usable)
        mt_cgroup_work_remove(&b->group_host, GROUP);
    leave_mark(b);
    pos = 0;
    while (mt_map_next(&b->jobs, &pos, NULL, &value)) {
        mt_http_client_free(((struct job *)value)->control);
        free(value);
    }
    mt_map_done(&b->jobs);
    mt_map_done(&b->sure);
    free(b);
}
