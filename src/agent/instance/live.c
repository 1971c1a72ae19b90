/* SPDX-License-Identifier: Apache-2.0 */
/* The running VM: processes, channels, deadlines, health, stop. See inst.h. */
#include "agent/instance/inst.h"

#include "agent/backups.h"
#include "agent/boots.h"
#include "agent/exec.h"
#include "agent/forward/forward.h"
#include "agent/instance/spare.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"

#include <arpa/inet.h>

#define TICK_MS 10000
#define SILENT_UNREADY_NS (60 * MT_NS_PER_S)
#define SILENT_KILL_NS (300 * MT_NS_PER_S)
#define ACK_MS 2000
#define CONFIGURED_MS 30000
#define STARTED_MS 5000
#define EXIT_MS 10000       /* from the guest's last word to the end of its VM */
#define STOP_MARGIN_MS 5000 /* runtime.md §3: the cgroup is killed 5 s after the grace */
#define FAST_PROBE_MS 1000

static void on_deadline(struct mt_source *s, void *arg);
static void health_begin(struct mt_inst *in, int64_t started_ns);
static void health_end(struct mt_inst *in);

/* Guests on TCG run some times slower: their deadlines stretch as the hello timeout does. */
static int64_t stretch(const struct mt_inst *in, int64_t ms)
{
    return in->vmm && mt_vmm_accel(in->vmm) == MT_VMM_TCG ? ms * 3 : ms;
}

static void set_deadline(struct mt_inst *in, const char *what, int64_t ms)
{
    in->deadline_what = what;
    if (!in->deadline)
        in->deadline = mt_loop_timer(in->a->loop, "instance.deadline", on_deadline, in, NULL);
    if (in->deadline)
        mt_loop_timer_after(in->deadline, ms);
}

/* ---- ends -------------------------------------------------------------------------------- */

static void kill_vm(struct mt_inst *in, const char *why)
{
    mt_log(MT_INFO, "instance.kill", KV("instance_id", in->st.instance_id), KV("boot_id", in->st.boot_id), KV("why", why), mt_inst_kv_trace(in));
    mt_inst_teardown(in, why);
}

static void on_proc_end(struct mt_source *s, pid_t pid, int code, int status, void *arg)
{
    struct mt_inst *in = arg;
    for (int i = 0; i < MT_VMM_PROCS_MAX; i++) {
        if (in->proc_src[i] == s)
            in->proc_src[i] = NULL;
    }
    mt_loop_del(s);
    mt_log(MT_DEBUG, "instance.process_ended", KV("instance_id", in->st.instance_id), KV("pid", (int64_t)pid),
           KV("code", code), KV("status", status));
    if (in->st.phase != MT_PH_TEARDOWN)
        mt_inst_teardown(in, "vm ended");
}

static void on_deadline(struct mt_source *s, void *arg)
{
    struct mt_inst *in = arg;
    (void)s;

    switch (in->st.phase) {
    case MT_PH_BOOTING:
        if (!in->guest_known)
            mt_inst_end(in, MT_REASON_BOOT_TIMEOUT, "");
        else
            mt_inst_end(in, MT_REASON_CONFIG_FETCH_FAILED, in->deadline_what);
        kill_vm(in, in->deadline_what);
        break;
    case MT_PH_DRAINING:
        mt_inst_look(in);
        break;
    case MT_PH_STARTING:
    case MT_PH_READY:
    case MT_PH_UNREADY:
    case MT_PH_STOPPING:
        kill_vm(in, in->deadline_what);
        break;
    case MT_PH_NONE:
    case MT_PH_PREPARING:
    case MT_PH_TEARDOWN:
    case MT_PH_BACKOFF:
    case MT_PH_STOPPED:
    case MT_PH_FAILED:
    case MT_PH_MAX:
        break;
    }
}

/* ---- what the guest says ----------------------------------------------------------------- */

static void give_secrets(struct mt_inst *in)
{
    struct mt_err err = {0};
    char detail[160];
    if (!in->spec || mt_inst_send_secrets(in, &err) == 0)
        return;
    (void)snprintf(detail, sizeof detail, "transfer_failed: %s: %.80s", in->spec->secrets.version_id, err.msg);
    mt_inst_end(in, MT_REASON_SECRETS_INJECTION_FAILED, detail);
    kill_vm(in, "secrets");
}

static void on_hello(struct mt_inst *in, const struct mt_guest_hello *h)
{
    struct mt_err err = {0};
    enum mt_reason reason;

    if (strcmp(h->instance_id, in->st.instance_id) != 0 || strcmp(h->boot_id, in->st.boot_id) != 0) {
        in->a->measure.breaches[MT_BREACH_IDENTITY]++;
        mt_channel_drop(in->chan, "hello of another instance or boot");
        return;
    }
    if (h->proto_max < MT_GUEST_PROTO_MIN || h->proto_min > MT_GUEST_PROTO_MAX) {
        char detail[64];
        (void)snprintf(detail, sizeof detail, "guest %u..%u, agent %d..%d", h->proto_min, h->proto_max, MT_GUEST_PROTO_MIN,
                       MT_GUEST_PROTO_MAX);
        mt_inst_end(in, MT_REASON_GUEST_PROTOCOL_MISMATCH, detail);
        kill_vm(in, "guest protocol");
        return;
    }
    in->guest_known = true;
    mt_boots_seen(in->a, in->bundle, true);
    in->bundle[0] = '\0';
    if (h->phase == MT_GUEST_PHASE_RUNNING) {
        struct mt_guest_msg msg = {.type = MT_GUEST_RESUME};
        (void)mt_channel_send(in->chan, &msg, NULL, NULL);
        if (in->st.phase == MT_PH_BOOTING) /* it may have come back before it got them; one that has them ignores these */
            give_secrets(in);
        if (in->st.phase == MT_PH_STOPPING && !in->saving)
            mt_inst_send_shutdown(in);
        return;
    }
    if (in->st.phase == MT_PH_STOPPING) { /* told to stop before it was configured */
        kill_vm(in, "stopped before it was configured");
        return;
    }
    if (in->st.phase != MT_PH_BOOTING || in->config_acked) {
        mt_channel_drop(in->chan, "hello of a fresh boot from a configured guest");
        return;
    }
    bool again = in->st.t.hello != 0; /* it may ask again, but gets no more time by that */
    in->st.t.hello = mt_clock_wall_us();
    in->detail = "booting_vm";
    int rc = mt_inst_send_config(in, &reason, &err);
    if (rc < 0) {
        mt_inst_end(in, reason, err.msg);
        kill_vm(in, "config");
        return;
    }
    mt_kill_here(MT_KILL_LIFE, MT_LIFE_CONFIG_SENT, MT_KILL_RECORDED);
    if (!again)
        set_deadline(in, "timeout: no ack", stretch(in, ACK_MS));
}

static void on_configured(struct mt_inst *in)
{
    if (in->st.phase != MT_PH_BOOTING || in->st.t.configured) /* said again, it moves no deadline: prestart is the tenant's code */
        return;
    in->st.t.configured = mt_clock_wall_us();
    int64_t ms = stretch(in, STARTED_MS);
    for (size_t i = 0; i < in->spec->n_prestart; i++)
        ms += (int64_t)in->spec->prestart[i].timeout_seconds * 1000 + 1000;
    set_deadline(in, "timeout: not started", ms);
    if (in->spec->n_prestart > 0) {
        in->detail = "prestart";
        mt_inst_report(in, false);
    }
}

static void on_started(struct mt_inst *in)
{
    if (in->st.phase != MT_PH_BOOTING)
        return;
    in->st.t.started = mt_clock_wall_us();
    mt_inst_set_phase(in, MT_PH_STARTING, "workload started");
    mt_inst_save(in, 0);
    mt_spare_write(in);
    mt_inst_report(in, false);
    health_begin(in, mt_loop_now(in->a->loop));
    mt_agent_look_soon(in->a); /* a boot slot is free */
}

static void on_terminal(struct mt_inst *in, const struct mt_guest_status *g)
{
    struct mt_end *e = &in->st.end;
    bool again = e->from_guest; /* a guest repeats its last word until it hears bye; that must not put off its end */

    in->oom_kills = g->oom_kills;
    if (g->exit_code >= 0) {
        e->has_exit_code = true;
        e->exit_code = g->exit_code & 0xff;
    }
    if (g->signal)
        (void)snprintf(e->signal, sizeof e->signal, "SIG%s", strncmp(g->signal, "SIG", 3) == 0 ? g->signal + 3 : g->signal);
    if (!in->st.planned) {
        bool killed = g->signal && strstr(g->signal, "KILL");
        enum mt_reason r = mt_reason_from_code(g->reason);
        if (killed && g->oom_kills > 0)
            mt_inst_end(in, MT_REASON_OOM_KILLED, "guest");
        else if (g->state == MT_GUEST_STATE_FAILED)
            mt_inst_end(in, r != MT_REASON_NONE ? r : MT_REASON_CONFIG_FETCH_FAILED, g->detail);
        else if (r != MT_REASON_NONE && r != MT_REASON_COMPLETED)
            mt_inst_end(in, r, g->detail);
        else if (g->signal)
            mt_inst_end(in, MT_REASON_WORKLOAD_SIGNALED, e->signal);
        else if (g->exit_code == 0)
            mt_inst_end(in, MT_REASON_COMPLETED, "");
        else
            mt_inst_end(in, MT_REASON_WORKLOAD_EXITED, "");
    }
    e->from_guest = true;
    in->bye_owed = true;
    health_end(in);
    if (!again && mt_phase_live(in->st.phase))
        set_deadline(in, "no end after the last word", EXIT_MS);
    mt_inst_save(in, MT_AFTER_BYE);
}

static void on_message(void *arg, const struct mt_guest_msg *msg)
{
    struct mt_inst *in = arg;

    if (!in->guest_known && msg->type != MT_GUEST_HELLO) {
        mt_channel_drop(in->chan, "first message is not hello");
        return;
    }
    switch (msg->type) {
    case MT_GUEST_HELLO:
        on_hello(in, &msg->u.hello);
        break;
    case MT_GUEST_ACK:
        if (in->st.phase != MT_PH_BOOTING || in->config_acked)
            break;
        if (strcmp(msg->u.ack.config_sha256, in->config_sha256) != 0) {
            mt_inst_end(in, MT_REASON_CONFIG_FETCH_FAILED, "ack of another config");
            kill_vm(in, "ack");
            break;
        }
        in->config_acked = true;
        set_deadline(in, "timeout: not configured", stretch(in, CONFIGURED_MS));
        if (in->spec->secrets.version_id) {
            in->detail = "delivering_secrets";
            give_secrets(in);
        }
        break;
    case MT_GUEST_STATUS:
        if (msg->u.status.state == MT_GUEST_STATE_CONFIGURED)
            on_configured(in);
        else if (msg->u.status.state == MT_GUEST_STATE_STARTED)
            on_started(in);
        else
            on_terminal(in, &msg->u.status);
        break;
    case MT_GUEST_PONG:
        if (msg->u.pong.fs_errors > in->pong.fs_errors)
            mt_log(MT_WARN, "volume.filesystem_errors", KV("instance_id", in->st.instance_id), KV("errors", msg->u.pong.fs_errors));
        in->pong = msg->u.pong;
        break;
    case MT_GUEST_QUIESCED:
        mt_backups_quiesced(in->a->backups, in->st.instance_id, &msg->u.quiesced);
        break;
    case MT_GUEST_LOG_CHUNK:
        mt_initlog_chunk(in, &msg->u.log_chunk);
        break;
    case MT_GUEST_UNKNOWN:
    case MT_GUEST_FETCH_LOG:
    case MT_GUEST_CONFIG:
    case MT_GUEST_BYE:
    case MT_GUEST_RESUME:
    case MT_GUEST_REJECT:
    case MT_GUEST_PING:
    case MT_GUEST_SHUTDOWN:
    case MT_GUEST_SECRETS:
    case MT_GUEST_FREEZE:
    case MT_GUEST_THAW:
    case MT_GUEST_TYPE_MAX:
        break;
    }
}

static void on_closed(void *arg, const char *why)
{
    struct mt_inst *in = arg;
    mt_initlog_over(in, why);
    mt_log(MT_DEBUG, "guest.disconnected", KV("instance_id", in->st.instance_id), KV("why", why));
}

void mt_inst_send_bye(struct mt_inst *in)
{
    struct mt_guest_msg msg = {.type = MT_GUEST_BYE};
    if (in->bye_owed && in->chan)
        (void)mt_channel_send(in->chan, &msg, NULL, NULL);
}

void mt_inst_send_shutdown(struct mt_inst *in)
{
    struct mt_guest_msg msg = {.type = MT_GUEST_SHUTDOWN, .u.shutdown = {.grace_ms = in->grace_ms}};
    if (in->st.phase != MT_PH_STOPPING || !in->chan || in->bye_owed)
        return;
    in->shutdown_sent = mt_channel_send(in->chan, &msg, NULL, NULL) == 0;
}

/* ---- logs -------------------------------------------------------------------------------- */

static void on_log(void *arg, const struct mt_guest_log_record *r)
{
    struct mt_inst *in = arg;
    struct mt_err err = {0};
    int64_t now = mt_loop_now(in->a->loop);
    uint32_t boot = (uint32_t)in->st.boot_seq;
    uint64_t seq;
    int rc;

    if (!in->log)
        return;
    if (atomic_load(&in->a->logs_stopped)) {
        mt_log_skip(in->log, r->flags & MT_GUEST_LOG_GAP ? mt_guest_log_gap_bytes(r) : r->payload_len, boot, r->seq);
        return;
    }
    if (r->flags & MT_GUEST_LOG_GAP) {
        rc = mt_log_append_gap(in->log, mt_guest_log_gap_bytes(r), boot, r->seq, now, &err);
    } else {
        struct mt_log_record rec = {.boot = boot,
                                    .guest_seq = r->seq,
                                    .stream = r->stream,
                                    .flags = r->flags & MT_GUEST_LOG_CONTINUES ? MT_LOG_TRUNCATED : 0,
                                    .line = r->payload,
                                    .len = r->payload_len};
        rc = mt_log_append(in->log, &rec, now, &seq, &err);
        if (rc == 0 && seq && rec.stream >= MT_LOG_STDOUT && rec.stream <= MT_LOG_SYSTEM)
            in->a->measure.lines[rec.stream - 1]++;
    }
    if (rc < 0 && !in->log_fails) /* once, not for each line */
        mt_log(MT_WARN, "log.append_failed", KV("instance_id", in->st.instance_id), KV_ERR(&err));
    in->log_fails = rc < 0;
    if (rc == 0)
        mt_agent_logs_grew(in->a, in->st.instance_id);
    if (in->source)
        atomic_store(&in->source->last, mt_log_next_seq(in->log) - 1);
}

/* ---- liveness ---------------------------------------------------------------------------- */

struct check_job {
    struct mt_inst *in;
    struct mt_vmm *vmm;
    struct mt_vmm_run run; /* borrowed descriptors: the instance keeps them while `checking` */
    int rc;
};

static void check_work(void *arg)
{
    struct check_job *j = arg;
    j->rc = mt_vmm_check(j->vmm, &j->run, NULL);
}

static void check_done(void *arg)
{
    struct check_job *j = arg;
    struct mt_inst *in = j->in;
    in->checking = false;
    in->vmm_bad = j->rc < 0;
    free(j);
    if (in->teardown_waiting)
        mt_inst_teardown(in, "was waiting for a check");
}

static void on_tick(struct mt_source *s, void *arg)
{
    struct mt_inst *in = arg;
    int64_t now = mt_loop_now(in->a->loop), heard = mt_channel_heard_ns(in->chan);

    mt_loop_timer_after(s, TICK_MS);
    if (in->guest_known && mt_channel_greeted(in->chan)) { /* whoever has just connected may be anything in the guest */
        struct mt_guest_msg ping = {.type = MT_GUEST_PING, .u.ping = {.ts_ns = mt_clock_wall_us() * 1000}};
        (void)mt_channel_send(in->chan, &ping, NULL, NULL);
    }
    int64_t silent = heard ? now - heard : now - in->silent_since_ns;
    if (in->st.phase == MT_PH_READY || in->st.phase == MT_PH_UNREADY || in->st.phase == MT_PH_STARTING) {
        if (silent > SILENT_KILL_NS || (silent > SILENT_UNREADY_NS && in->vmm_bad)) {
            mt_inst_end(in, MT_REASON_VM_UNRESPONSIVE, in->vmm_bad ? "guest and monitor are silent" : "guest is silent");
            kill_vm(in, "unresponsive");
            return;
        }
        if (silent > SILENT_UNREADY_NS && in->st.phase == MT_PH_READY) {
            (void)snprintf(in->health_why, sizeof in->health_why, "no answer on the control channel");
            in->hcount.ready = false;
            mt_inst_set_phase(in, MT_PH_UNREADY, in->health_why);
            mt_inst_save(in, 0);
            mt_inst_report(in, true);
        }
    }
    if (in->checking)
        return;
    struct check_job *j = calloc(1, sizeof *j);
    if (!j)
        return;
    j->in = in;
    j->vmm = in->vmm;
    j->run = in->run;
    in->checking = true;
    if (mt_pool_submit(in->a->steps, check_work, check_done, j, NULL) < 0) {
        in->checking = false;
        free(j);
    }
}

static void on_console(struct mt_source *s, int fd, uint32_t revents, void *arg)
{
    struct mt_inst *in = arg;
    char last[1];
    size_t n;
    (void)s;
    (void)fd;
    (void)revents;
    if (!in->checking) /* one call of the driver at a time; the bytes wait in the pipe */
        (void)mt_vmm_console(in->vmm, in->run.console_path, &in->run, last, sizeof last, &n, NULL);
}

/* ---- health ------------------------------------------------------------------------------ */

static void health_result(struct mt_inst *in, bool ok, const char *why)
{
    int64_t now = mt_loop_now(in->a->loop);
    enum mt_health_verdict v = mt_health_count_result(&in->hcount, &in->hconf, ok, now);

    if (!ok)
        (void)snprintf(in->health_why, sizeof in->health_why, "%s", why ? why : "");
    switch (v) {
    case MT_HEALTH_READY:
        in->health_why[0] = '\0';
        in->ready_since_ns = now;
        if (!in->st.t.ready) {
            in->st.t.ready = mt_clock_wall_us();
            mt_agent_measure_ready(in);
        }
        mt_inst_set_phase(in, MT_PH_READY, "health");
        mt_inst_report(in, true);
        mt_inst_save(in, 0);
        break;
    case MT_HEALTH_UNREADY:
        if (in->ready_since_ns)
            in->ready_total_ns += now - in->ready_since_ns;
        in->ready_since_ns = 0;
        if (in->st.phase == MT_PH_READY)
            mt_inst_set_phase(in, MT_PH_UNREADY, in->health_why);
        mt_inst_report(in, true);
        mt_inst_save(in, 0);
        break;
    case MT_HEALTH_GIVE_UP:
        mt_inst_end(in, MT_REASON_HEALTHCHECK_FAILED, in->health_why);
        mt_inst_stop(in, "health");
        return;
    case MT_HEALTH_TOO_LATE:
        mt_inst_end(in, MT_REASON_STARTUP_TIMEOUT, in->health_why);
        mt_inst_stop(in, "startup timeout");
        return;
    case MT_HEALTH_SAME:
        break;
    }
    int64_t next = mt_health_next_ns(&in->hcount, &in->hconf, now);
    if (in->health_timer && next != INT64_MAX)
        mt_loop_timer_set(in->health_timer, next);
}

static void on_probe(void *arg, bool ok, const char *why)
{
    struct mt_inst *in = arg;
    const char *body;
    in->health_status = mt_probe_answer(in->probe, &body, &in->health_body_len);
    memcpy(in->health_body, body, in->health_body_len);
    mt_probe_free(in->probe);
    in->probe = NULL;
    health_result(in, ok, why);
}

static void on_health_timer(struct mt_source *s, void *arg)
{
    struct mt_inst *in = arg;
    struct mt_err err = {0};
    struct in6_addr dst;
    (void)s;

    if (in->hconf.check.type == MT_HEALTH_NONE) {
        health_result(in, true, NULL);
        return;
    }
    if (in->probe || inet_pton(AF_INET6, in->st.address, &dst) != 1)
        return;
    int64_t ms = (int64_t)in->hconf.check.timeout_seconds * 1000;
    /* while waiting for the first answer a lost packet must not cost a whole timeout */
    if (!in->hcount.was_ready && ms > FAST_PROBE_MS)
        ms = FAST_PROBE_MS;
    in->probe = mt_probe_start(in->a->loop, &in->hconf.check, &dst, in->a->net.has_node ? &in->a->net.node : NULL, ms,
                               on_probe, in, &err);
    if (!in->probe)
        health_result(in, false, err.msg);
}

static void health_begin(struct mt_inst *in, int64_t started_ns)
{
    in->hconf = mt_health_conf_of(in->spec);
    bool ready = in->st.phase == MT_PH_READY, known = ready || in->st.phase == MT_PH_UNREADY;
    in->hcount = (struct mt_health_count){.started_ns = started_ns, .ready = ready, .was_ready = known};
    if (ready)
        in->ready_since_ns = mt_loop_now(in->a->loop);
    if (!in->health_timer)
        in->health_timer = mt_loop_timer(in->a->loop, "instance.health", on_health_timer, in, NULL);
    if (!in->health_timer)
        return;
    if (in->hconf.check.type == MT_HEALTH_NONE) {
        if (!known)
            mt_loop_timer_set(in->health_timer, mt_health_next_ns(&in->hcount, &in->hconf, started_ns));
    } else {
        mt_loop_timer_after(in->health_timer, 0); /* the first check right after `started` */
    }
}

static void health_end(struct mt_inst *in)
{
    mt_probe_free(in->probe);
    in->probe = NULL;
    mt_loop_del(in->health_timer);
    in->health_timer = NULL;
}

/* ---- begin and end of watching ----------------------------------------------------------- */

static void on_breach(void *arg, enum mt_breach kind)
{
    struct mt_inst *in = arg;
    in->a->measure.breaches[kind]++;
    if (in->breach_told)
        return;
    in->breach_told = true;
    mt_log(MT_WARN, "guest.breach", KV("instance_id", in->st.instance_id), KV("kind", mt_breach_word(kind)));
}

static void on_log_crowd(void *arg)
{
    on_breach(arg, MT_BREACH_CONNECTS);
}

void mt_inst_live(struct mt_inst *in, bool adopted)
{
    static const struct mt_channel_events events = {.message = on_message, .closed = on_closed, .breach = on_breach};
    struct mt_loop *loop = in->a->loop;
    struct mt_err err = {0};
    uid_t uid = MT_VMM_UID_BASE + in->st.slot;
    bool ok = true;

    MT_ASSERT(in->spec); /* what lost its spec is not adopted (adopt_work) */
    in->guest_known = adopted && in->st.t.hello != 0;
    in->bye_owed = in->shutdown_sent = in->config_acked = in->vmm_bad = in->breach_told = false;
    in->oom_kills = 0;
    in->silent_since_ns = mt_loop_now(loop);
    for (size_t i = 0; i < MT_VMM_PROCS_MAX; i++) {
        if (in->run.pidfd[i] < 0)
            continue;
        in->proc_src[i] = mt_loop_child(loop, "vm.process", i < in->run.ids.proc_count ? in->run.ids.proc[i].pid : 0,
                                        in->run.pidfd[i], on_proc_end, in, &err);
        ok = ok && in->proc_src[i];
    }
    in->chan = mt_channel_new(loop, MT_TAKE_FD(in->listen_fds[0]), uid, &events, in, &err);
    in->logchan = mt_logchan_new(loop, MT_TAKE_FD(in->listen_fds[1]), uid, on_log, on_log_crowd, in, &err);
    in->tick = mt_loop_timer(loop, "instance.tick", on_tick, in, &err);
    if (in->run.console_fd >= 0)
        in->console_src = mt_loop_fd(loop, "vm.console", in->run.console_fd, EPOLLIN, on_console, in, &err);
    if (!in->log && mt_log_store_open(in->a->conf.logs_dir, in->st.env_id, in->st.instance_id, &in->log, &err) < 0)
        mt_log(MT_WARN, "log.open_failed", KV("instance_id", in->st.instance_id), KV_ERR(&err));
    if (in->log)
        mt_log_store_bound(in->log, in->a->conf.log_max_bytes);
    if (in->log && !in->source && in->spec) {
        const char *const ids[MT_LOGFWD_IDS] = {in->spec->org_id, in->spec->app_id, in->st.env_id, in->spec->process_type, in->st.instance_id};
        in->source = mt_forward_hold(in->a->forward, ids, mt_log_next_seq(in->log) - 1);
    }
    if (!ok || !in->chan || !in->logchan || !in->tick) {
        mt_inst_end(in, MT_REASON_VMM_START_FAILED, err.msg);
        mt_inst_teardown(in, "cannot be watched");
        return;
    }
    mt_loop_timer_after(in->tick, TICK_MS);
    switch (in->st.phase) {
    case MT_PH_BOOTING:
        set_deadline(in, in->guest_known ? "timeout: not started" : "no hello", mt_vmm_hello_timeout_ms(in->vmm) +
                     (in->guest_known ? CONFIGURED_MS : 0));
        break;
    case MT_PH_STARTING:
    case MT_PH_READY:
    case MT_PH_UNREADY:
        if (in->st.end.reason[0])
            set_deadline(in, "no end after the last word", EXIT_MS); /* it had ended when the agent died */
        else
            health_begin(in, in->silent_since_ns);
        break;
    case MT_PH_DRAINING:
        in->drain_until_ns = in->silent_since_ns;
        break;
    case MT_PH_STOPPING:
        in->grace_ms = (uint64_t)in->spec->lifecycle.stop_grace_seconds * 1000;
        set_deadline(in, "did not stop in time", (int64_t)in->grace_ms + STOP_MARGIN_MS);
        break;
    case MT_PH_NONE:
    case MT_PH_PREPARING:
    case MT_PH_TEARDOWN:
    case MT_PH_BACKOFF:
    case MT_PH_STOPPED:
    case MT_PH_FAILED:
    case MT_PH_MAX:
        break;
    }
}

void mt_inst_unlive(struct mt_inst *in)
{
    mt_exec_relays_stopped(in->a->exec, in->st.instance_id);
    mt_logchan_drain(in->logchan); /* what the guest said last is often what matters */
    health_end(in);
    for (int i = 0; i < MT_VMM_PROCS_MAX; i++) {
        mt_loop_del(in->proc_src[i]);
        in->proc_src[i] = NULL;
    }
    mt_loop_del(in->console_src);
    mt_loop_del(in->deadline);
    mt_loop_del(in->tick);
    in->console_src = in->deadline = in->tick = NULL;
    mt_initlog_over(in, "the VM has ended");
    mt_channel_free(in->chan);
    in->chan = NULL;
    mt_logchan_free(in->logchan);
    in->logchan = NULL;
    mt_vmm_run_done(&in->run);
    mt_closep(&in->listen_fds[0]);
    mt_closep(&in->listen_fds[1]);
}

/* ---- stop and drain ---------------------------------------------------------------------- */

void mt_inst_stop(struct mt_inst *in, const char *why)
{
    health_end(in);
    if (in->ready_since_ns) {
        in->ready_total_ns += mt_loop_now(in->a->loop) - in->ready_since_ns;
        in->ready_since_ns = 0;
    }
    bool heard = in->guest_known;
    mt_inst_set_phase(in, MT_PH_STOPPING, why);
    if (!heard) {
        kill_vm(in, "nothing runs in it yet");
        return;
    }
    in->grace_ms = (uint64_t)in->spec->lifecycle.stop_grace_seconds * 1000;
    if (in->a->stop_all) {
        int64_t left = (in->a->stop_deadline_ns - mt_loop_now(in->a->loop)) / MT_NS_PER_MS - 3000;
        uint64_t most = left > 500 ? (uint64_t)left : 500;
        if (in->grace_ms > most)
            in->grace_ms = most;
    }
    if (in->st.planned)
        mt_inst_report(in, true);
    set_deadline(in, "did not stop in time", (int64_t)in->grace_ms + (in->a->stop_all ? 1500 : STOP_MARGIN_MS));
    mt_inst_save(in, MT_AFTER_SHUTDOWN);
}

void mt_inst_drain(struct mt_inst *in)
{
    uint32_t delay = in->as ? in->as->drain_delay_seconds : 5;

    /* a replacement in place has no assignment that says draining: the default delay holds */
    if (in->as && in->as->desired_state == MT_DESIRED_RUNNING)
        delay = 5;
    health_end(in);
    mt_inst_set_phase(in, MT_PH_DRAINING, "plan");
    in->drain_until_ns = mt_loop_now(in->a->loop) + (int64_t)delay * MT_NS_PER_S;
    set_deadline(in, "drain", (int64_t)delay * 1000);
    mt_inst_report(in, true);
    mt_inst_save(in, 0);
}
