/* SPDX-License-Identifier: Apache-2.0 */
/* The life of one instance. See inst.h. */
#include "agent/instance/inst.h"

#include "agent/forward/forward.h"
#include "agent/instance/spare.h"
#include "agent/report.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>

#define INST_MAGIC 0x74736e31U
#define SEQ_RESERVE 1000
#define SPEC_BYTES_MAX (2U << 20)

/* ---- creation and loading ---------------------------------------------------------------- */

static struct mt_inst *inst_new(struct mt_agent *a, const char *id, struct mt_err *err)
{
    struct mt_inst *in = calloc(1, sizeof *in);
    if (!in) {
        (void)MT_FAIL(err, MT_E_NOMEM, "instance '%s': out of memory", id);
        return NULL;
    }
    in->magic = INST_MAGIC;
    in->a = a;
    in->run = MT_VMM_RUN_NONE;
    in->listen_fds[0] = in->listen_fds[1] = -1;
    mt_state_init(&in->st, id, mt_clock_wall_us());
    in->seq = in->st.seq_reserved;
    if (mt_fmt(in->dir, sizeof in->dir, err, "%s/instances/%s", a->conf.agent_dir, id) < 0 ||
        mt_map_put(&a->insts, id, in) < 0) {
        free(in);
        (void)MT_FAIL(err, MT_E_NOMEM, "instance '%s': out of memory", id);
        return NULL;
    }
    return in;
}

struct mt_inst *mt_inst_get(struct mt_agent *a, const char *id, struct mt_err *err)
{
    struct mt_inst *in = mt_map_get(&a->insts, id);
    if (in)
        return in;
    in = inst_new(a, id, err);
    if (in && mt_file_mkdirs(in->dir, 0700, err) < 0) {
        (void)mt_map_remove(&a->insts, id);
        mt_inst_free(in);
        return NULL;
    }
    return in;
}

/* Temporaries of a process that was killed while it wrote. */
static void sweep(const char *dir)
{
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *end = strrchr(e->d_name, '.');
        if (end && strcmp(end, ".tmp") == 0)
            (void)unlinkat(dirfd(d), e->d_name, 0);
    }
}

static int load_spec(struct mt_inst *in, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_json json_t *doc = NULL;
    int rc = mt_fmt(path, sizeof path, err, "%s/spec.json", in->dir);
    if (rc == 0)
        rc = mt_sealed_load(path, SPEC_BYTES_MAX, &doc, err);
    if (rc == 0)
        rc = mt_workload_decode(doc, &in->spec, NULL, err);
    return rc;
}

static int64_t mono_of_wall(int64_t wall_us)
{
    return mt_clock_mono() + (wall_us - mt_clock_wall_us()) * 1000;
}

static int load_one(struct mt_agent *a, const char *id, struct mt_err *err)
{
    struct mt_inst *in = inst_new(a, id, err);
    if (!in)
        return -MT_E_NOMEM;
    struct mt_state st;
    int rc = mt_state_load(in->dir, &st, err);
    if (rc == 0 && strcmp(st.instance_id, id) != 0)
        rc = MT_FAIL(err, MT_E_NOT_FOUND, "state in '%s' belongs to '%s'", in->dir, st.instance_id);
    if (rc < 0) { /* nothing is known to be held: the drift pass finds what is */
        (void)mt_map_remove(&a->insts, id);
        mt_inst_free(in);
        return rc;
    }
    uint64_t now_ms = (uint64_t)mt_clock_wall_us() / 1000;
    sweep(in->dir);
    in->st = st;
    in->seq = mt_max_u64(st.seq_reserved, now_ms);
    in->next_retry_ns = st.next_retry_us ? mono_of_wall(st.next_retry_us) : 0;
    mt_inst_load_autopsy(in);
    rc = load_spec(in, err);
    if (rc < 0 && st.spec_hash[0]) {
        /* undo needs no spec; a new attempt takes it from the plan */
        mt_log(MT_WARN, "instance.spec_lost", KV("instance_id", id), KV_ERR(err));
        in->st.spec_hash[0] = '\0';
    }
    if (st.slot != MT_STATE_NO_SLOT && (st.undo & MT_STEP_BIT(MT_STEP_SLOT)) && !mt_slots_claim(&a->slots, st.slot))
        mt_log(MT_ERROR, "instance.slot_twice", KV("instance_id", id), KV("slot", st.slot));
    if (st.undo & MT_STEP_BIT(MT_STEP_IMAGE) && st.digest[0])
        (void)mt_image_pin(a->images, st.digest, id, NULL);
    mt_log(MT_INFO, "instance.loaded", KV("instance_id", id), KV("phase", mt_phase_name(st.phase)), KV("boot_id", st.boot_id));
    return 0;
}

int mt_inst_load_all(struct mt_agent *a, struct mt_err *err)
{
    char dir[PATH_MAX];
    if (mt_fmt(dir, sizeof dir, err, "%s/instances", a->conf.agent_dir) < 0 || mt_file_mkdirs(dir, 0700, err) < 0)
        return -MT_E_IO;
    sweep(a->conf.agent_dir);
    mt_spare_restore(a);
    mt_auto_dir DIR *d = opendir(dir);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        struct mt_err why = {0};
        if (!mt_id_valid(MT_ID_INSTANCE, e->d_name, strlen(e->d_name)) || load_one(a, e->d_name, &why) < 0)
            mt_log(MT_WARN, "instance.not_loaded", KV("name", e->d_name), KV("error", why.msg));
    }
    return 0;
}

void mt_inst_free(struct mt_inst *in)
{
    if (!in)
        return;
    MT_CHECK(in, INST_MAGIC);
    MT_ASSERT(!in->job);
    mt_inst_unlive(in);
    mt_inst_release_volumes(in);
    mt_rootdisk_done(&in->disk);
    mt_workload_free(in->spec);
    mt_forward_release(in->a->forward, in->source);
    mt_log_store_close(in->log);
    json_decref(in->autopsy);
    in->magic = 0;
    free(in);
}

/* ---- saving ------------------------------------------------------------------------------ */

struct save_job {
    struct mt_inst *in;
    struct mt_state st;
    char dir[PATH_MAX];
    json_t *autopsy; /* to be written too; NULL none. A copy: reference counts are not for two threads */
    int rc;
    struct mt_err err;
};

static void save_work(void *arg)
{
    struct save_job *j = arg;
    struct mt_err err = {0};
    if (j->autopsy && mt_inst_save_autopsy(j->dir, j->autopsy, &err) < 0)
        mt_log(MT_WARN, "autopsy.not_saved", KV("instance_id", j->st.instance_id), KV_ERR(&err));
    j->rc = mt_state_save(j->dir, &j->st, &j->err);
}

bool mt_inst_removable(const struct mt_inst *in)
{
    return in->removing && in->st.phase == MT_PH_STOPPED && !in->as && mt_inst_at_rest(in) && !(in->autopsy && in->report_due);
}

void mt_inst_remove(struct mt_inst *in)
{
    struct mt_err err = {0};
    MT_ASSERT(mt_inst_removable(in));
    mt_log(MT_INFO, "instance.removed", KV("instance_id", in->st.instance_id));
    if (mt_file_remove_tree(AT_FDCWD, in->dir, &err) < 0)
        mt_log(MT_WARN, "instance.remove_failed", KV("instance_id", in->st.instance_id), KV_ERR(&err));
    (void)mt_map_remove(&in->a->insts, in->st.instance_id);
    mt_report_forget(in->a->report, in);
    mt_inst_free(in);
}

/* @phase: the one that was written, which may be behind the one the instance has by now. */
static void continue_after(struct mt_inst *in, unsigned after, enum mt_phase phase)
{
    if (after & MT_AFTER_BYE) {
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_EXITED, MT_KILL_RECORDED);
        mt_inst_send_bye(in);
    }
    if (after & MT_AFTER_SHUTDOWN) {
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_STOPPING, MT_KILL_RECORDED);
        mt_inst_send_shutdown(in);
    }
    /* a quick health check may be written together with the start */
    if (phase == MT_PH_STARTING || phase == MT_PH_READY)
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_STARTED, MT_KILL_RECORDED);
    if (phase == MT_PH_READY)
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_READY, MT_KILL_RECORDED);
    if (phase == MT_PH_DRAINING)
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_DRAINING, MT_KILL_RECORDED);
    if (phase == MT_PH_STOPPED)
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_STOPPED, MT_KILL_RECORDED);
    if (after & MT_AFTER_REPORT)
        mt_report_due(in->a->report, in);
}

static void start_save(struct mt_inst *in);

static void save_done(void *arg)
{
    struct save_job *j = arg;
    struct mt_inst *in = j->in;
    unsigned after = in->after_running;
    enum mt_phase phase = j->st.phase;

    in->saving = false;
    in->after_running = 0;
    if (j->rc < 0) {
        /* carried on in memory: the next change tries again; undo stays complete because steps save themselves */
        mt_log(MT_ERROR, "instance.save_failed", KV("instance_id", in->st.instance_id), KV_ERR(&j->err));
    }
    json_decref(j->autopsy);
    free(j);
    /* a waiting job carries the newest state in its copy and writes it itself */
    if (in->job_waits)
        mt_inst_job_start(in);
    else if (in->save_again && !in->job)
        start_save(in);
    mt_agent_look_soon(in->a);
    continue_after(in, after, phase);
}

static void start_save(struct mt_inst *in)
{
    struct save_job *j = calloc(1, sizeof *j);
    struct mt_err err = {0};

    in->save_again = false;
    in->after_running = in->after_next;
    in->after_next = 0;
    if (j) {
        j->in = in;
        j->st = in->st;
        memcpy(j->dir, in->dir, sizeof j->dir);
        j->autopsy = in->autopsy_unsaved ? json_deep_copy(in->autopsy) : NULL;
        in->saving = true;
        if (mt_pool_submit(in->a->steps, save_work, save_done, j, &err) == 0) {
            in->autopsy_unsaved = false;
            return;
        }
        in->saving = false;
        json_decref(j->autopsy);
        free(j);
    }
    /* queue full or no memory: write here, slowly but surely */
    if (mt_state_save(in->dir, &in->st, &err) < 0)
        mt_log(MT_ERROR, "instance.save_failed", KV("instance_id", in->st.instance_id), KV_ERR(&err));
    unsigned after = in->after_running;
    in->after_running = 0;
    continue_after(in, after, in->st.phase);
}

void mt_inst_save(struct mt_inst *in, unsigned after)
{
    in->after_next |= after;
    /* a running job writes the file itself; what the loop changed meanwhile is written when it is done */
    if (in->saving || in->job)
        in->save_again = true;
    else
        start_save(in);
}

/* ---- phases, reports, ends --------------------------------------------------------------- */

static void bump_seq(struct mt_inst *in)
{
    in->seq++;
    if (in->seq >= in->st.seq_reserved) {
        in->st.seq_reserved = in->seq + SEQ_RESERVE;
        mt_inst_save(in, 0);
    }
    in->report_due = true;
}

void mt_inst_report(struct mt_inst *in, bool now)
{
    bump_seq(in);
    in->report_now |= now;
    mt_report_due(in->a->report, in);
}

void mt_inst_set_phase(struct mt_inst *in, enum mt_phase to, const char *why)
{
    MT_CHECK(in, INST_MAGIC);
    if (!mt_phase_may(in->st.phase, to)) {
        mt_log(MT_ERROR, "instance.phase_forbidden", KV("instance_id", in->st.instance_id),
               KV("from", mt_phase_name(in->st.phase)), KV("to", mt_phase_name(to)), KV("why", why));
        mt_panic(__FILE__, __LINE__, "phase table");
    }
    mt_log(MT_INFO, "instance.phase", KV("instance_id", in->st.instance_id), KV("boot_id", in->st.boot_id),
           KV("from", mt_phase_name(in->st.phase)), KV("to", mt_phase_name(to)), KV("why", why), mt_inst_kv_trace(in));
    in->st.phase = to;
    in->detail = NULL;
    if (in->deadline)
        mt_loop_timer_set(in->deadline, -1);
}

void mt_inst_end(struct mt_inst *in, enum mt_reason reason, const char *detail)
{
    if (in->st.end.reason[0])
        return;
    mt_inst_note_place(in);
    (void)snprintf(in->st.end.reason, sizeof in->st.end.reason, "%s", mt_reason_code(reason));
    (void)mt_printable(detail ? detail : "", detail ? strlen(detail) : 0, in->st.end.detail, sizeof in->st.end.detail);
    mt_log(MT_INFO, "instance.ended", KV("instance_id", in->st.instance_id), KV("boot_id", in->st.boot_id),
           KV("reason_code", in->st.end.reason), KV("detail", in->st.end.detail), mt_inst_kv_trace(in));
}

static void finish(struct mt_inst *in, enum mt_phase to, const char *why)
{
    mt_inst_set_phase(in, to, why);
    in->st.planned = false;
    in->st.interrupted = false;
    bump_seq(in);
    in->report_now = true;
    mt_inst_save(in, MT_AFTER_REPORT);
    mt_agent_look_soon(in->a);
}

void mt_inst_attempt_over(struct mt_inst *in)
{
    struct mt_state *st = &in->st;

    st->slot = MT_STATE_NO_SLOT;
    st->vmm = (struct mt_vmm_ids){0};
    if (in->ready_since_ns) {
        in->ready_total_ns += mt_loop_now(in->a->loop) - in->ready_since_ns;
        in->ready_since_ns = 0;
    }
    if (st->planned || st->interrupted) {
        mt_inst_set_phase(in, MT_PH_NONE, st->planned ? "ended as wanted" : "interrupted");
        st->planned = st->interrupted = false;
        mt_inst_save(in, 0);
        mt_agent_look_soon(in->a);
        return;
    }
    uint32_t random;
    mt_random(&random, sizeof random);
    struct mt_restart_in ri = {.policy = MT_RESTART_ALWAYS, .max_retries = 3, .backoff_seconds = 2, .random_u = random};
    if (in->spec) {
        ri.policy = in->spec->lifecycle.restart_policy;
        ri.max_retries = in->spec->lifecycle.max_retries;
        ri.backoff_seconds = in->spec->lifecycle.backoff_seconds;
    }
    ri.clean = strcmp(st->end.reason, mt_reason_code(MT_REASON_COMPLETED)) == 0;
    ri.platform = mt_reason_is_platform(st->end.reason);
    ri.ready_ns = in->ready_total_ns;
    struct mt_restart_out ro = mt_restart_next(&ri, &st->counters);
    mt_agent_measure_over(in, ro.verdict == MT_RESTART_AGAIN);
    if (ro.verdict != MT_RESTART_AGAIN) {
        finish(in, ro.verdict == MT_RESTART_DONE ? MT_PH_STOPPED : MT_PH_FAILED, "restart policy");
        return;
    }
    st->crash_loop = ro.crash_loop;
    st->next_retry_us = mt_clock_wall_us() + ro.delay_ns / 1000;
    in->next_retry_ns = mt_loop_now(in->a->loop) + ro.delay_ns;
    finish(in, MT_PH_BACKOFF, "restart policy");
}

void mt_inst_acked(struct mt_inst *in, uint64_t seq)
{
    if (seq != in->seq)
        return; /* something newer waits already */
    in->report_due = in->report_now = false;
    if (in->st.phase == MT_PH_STOPPED && !in->st.stop_reported) {
        in->st.stop_reported = true;
        mt_inst_save(in, 0);
        mt_agent_look_soon(in->a);
    }
}

static bool resting(enum mt_phase p)
{
    return p == MT_PH_NONE || p == MT_PH_BACKOFF || p == MT_PH_STOPPED || p == MT_PH_FAILED;
}

bool mt_inst_at_rest(const struct mt_inst *in)
{
    return resting(in->st.phase) && !in->job && !in->saving && !in->save_again;
}

/* ---- decisions --------------------------------------------------------------------------- */

static enum mt_desired want_of(const struct mt_inst *in)
{
    if (in->a->stop_all)
        return MT_WANT_STOPPED;
    if (!in->as)
        return MT_WANT_DRAINING; /* absent and confirmed, or the caller has looked away */
    switch (in->as->desired_state) {
    case MT_DESIRED_DRAINING:
        return MT_WANT_DRAINING;
    case MT_DESIRED_STOPPED:
        return MT_WANT_STOPPED;
    case MT_DESIRED_RUNNING:
    case MT_DESIRED_STATE_MAX:
        break;
    }
    if (!in->as->workload) /* cannot be honoured: known by its generation alone */
        return in->st.generation == in->as->generation ? MT_WANT_SAME : MT_WANT_OTHER;
    return strcmp(in->st.spec_hash, in->as->workload->spec_hash) == 0 ? MT_WANT_SAME : MT_WANT_OTHER;
}

static void clear_counters(struct mt_inst *in)
{
    in->st.counters.attempts = in->st.counters.own_failures = 0;
    in->st.crash_loop = false;
    in->st.next_retry_us = 0;
    in->next_retry_ns = 0;
    in->st.end = (struct mt_end){0};
    if (in->as && in->as->workload && in->as->workload->image.resolved_digest)
        mt_image_forget_failure(in->a->images, in->as->workload->image.resolved_digest);
}

static void settle(struct mt_inst *in)
{
    if (in->st.phase != MT_PH_STOPPED) {
        in->st.stop_reported = false;
        finish(in, MT_PH_STOPPED, "not wanted here");
        return;
    }
    if (!in->st.stop_reported) {
        if (!in->report_due)
            mt_inst_report(in, true);
        return;
    }
    /* Stopped and told. While the plan still names it, the folder remembers that it was told. */
    if (!in->as)
        in->removing = true; /* done by the pass over all instances, when nothing is under way for it */
}

static void refuse(struct mt_inst *in)
{
    char detail[256];
    (void)snprintf(detail, sizeof detail, "%s: %s", in->as->fault.field, in->as->fault.message);
    in->st.generation = in->as->generation;
    in->st.end = (struct mt_end){0};
    mt_inst_end(in, MT_REASON_SPEC_UNSUPPORTED, detail);
    finish(in, MT_PH_FAILED, "spec unsupported");
}

void mt_inst_look(struct mt_inst *in)
{
    MT_CHECK(in, INST_MAGIC);
    struct mt_agent *a = in->a;

    if (!in->as && !in->absent && !a->stop_all)
        return; /* missing from one plan only: left alone, nothing new is started */
    if (a->stop_all && resting(in->st.phase))
        return; /* holds nothing; the next start finds it as it is */
    struct mt_reconcile_in ri = {.phase = in->st.phase,
                                 .want = want_of(in),
                                 .now_ns = mt_loop_now(a->loop),
                                 .next_retry_ns = in->next_retry_ns,
                                 .drain_until_ns = in->drain_until_ns,
                                 .drain_delay_seconds = in->as ? in->as->drain_delay_seconds : 5};
    enum mt_action act = mt_reconcile(&ri);

    if (in->job && act != MT_ACT_CANCEL)
        return;
    if (act != MT_ACT_NONE && act != MT_ACT_PREPARE && act != MT_ACT_SETTLE)
        mt_log(MT_DEBUG, "instance.action", KV("instance_id", in->st.instance_id), KV("action", mt_action_name(act)));
    switch (act) {
    case MT_ACT_NONE:
        if (in->waiting_boot && mt_agent_may_boot(a))
            mt_inst_boot(in);
        break;
    case MT_ACT_PREPARE:
        if (in->as && !in->as->workload)
            refuse(in);
        else if (in->as)
            mt_inst_begin(in);
        break;
    case MT_ACT_CANCEL:
        in->st.planned = true;
        mt_inst_cancel(in);
        break;
    case MT_ACT_STOP:
    case MT_ACT_SKIP_DELAY:
        in->st.planned = true;
        mt_inst_stop(in, "plan");
        break;
    case MT_ACT_DRAIN:
        in->st.planned = true;
        mt_inst_drain(in);
        break;
    case MT_ACT_CLEAR:
        clear_counters(in);
        mt_inst_set_phase(in, MT_PH_NONE, "new spec");
        mt_inst_save(in, 0);
        mt_agent_look_soon(a);
        break;
    case MT_ACT_SETTLE:
        settle(in);
        break;
    case MT_ACT_MAX:
        break;
    }
}
