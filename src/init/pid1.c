/* SPDX-License-Identifier: Apache-2.0 */
#include "init/pid1.h"

#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "init/mounts.h"
#include "init/say.h"
#include "init/secrets.h"
#include "init/sha256.h"
#include "init/volumes.h"
#include "init/vsock.h"

#define MS(n) ((int64_t)(n) * MT_NS_PER_MS)

enum {
    DIAL_EVERY_MS = 50,        /* until the first hello */
    REDIAL_EVERY_MS = 1000,    /* afterwards, and for the log connection */
    HANDSHAKE_MS = 10000,      /* to connect; again to get the config */
    HANDSHAKE_SLOW_MS = 30000, /* the same under TCG */
    SILENT_MS = 35000,         /* three pings of the host and a half: the end of a connection may be lost on its way (below) */
    TERM_MS = 1000,            /* other processes, between TERM and KILL */
    DRAIN_MS = 2000,
    BYE_MS = 5000,
    REPORT_MS = 60000,
};

static const char *const stage_names[MT_PID1_STAGE_MAX] = {"handshake", "secrets", "prestart", "running",   "stopping",
                                                           "ending",    "draining", "reporting", "gone"};

#define TO(s) (1U << (s))
static const unsigned may[MT_PID1_STAGE_MAX] = {
    [MT_PID1_HANDSHAKE] = TO(MT_PID1_SECRETS) | TO(MT_PID1_PRESTART) | TO(MT_PID1_RUNNING) | TO(MT_PID1_ENDING) | TO(MT_PID1_GONE),
    [MT_PID1_SECRETS] = TO(MT_PID1_PRESTART) | TO(MT_PID1_RUNNING) | TO(MT_PID1_ENDING) | TO(MT_PID1_GONE),
    [MT_PID1_PRESTART] = TO(MT_PID1_RUNNING) | TO(MT_PID1_ENDING) | TO(MT_PID1_GONE),
    [MT_PID1_RUNNING] = TO(MT_PID1_STOPPING) | TO(MT_PID1_ENDING) | TO(MT_PID1_GONE),
    [MT_PID1_STOPPING] = TO(MT_PID1_ENDING) | TO(MT_PID1_GONE),
    [MT_PID1_ENDING] = TO(MT_PID1_DRAINING) | TO(MT_PID1_GONE),
    [MT_PID1_DRAINING] = TO(MT_PID1_REPORTING) | TO(MT_PID1_GONE),
    [MT_PID1_REPORTING] = TO(MT_PID1_GONE),
    [MT_PID1_GONE] = 0,
};

static void set_stage(struct mt_pid1 *p, enum mt_pid1_stage to)
{
    if (!(may[p->stage] & TO(to)))
        mt_panic(__FILE__, __LINE__, stage_names[to]);
    mt_say(MT_SAY_INFO, "%s -> %s", stage_names[p->stage], stage_names[to]);
    p->stage = to;
}

static void start_next(struct mt_pid1 *p, int64_t now);

/* --- talking --- */

static void send_message(struct mt_pid1 *p, struct mt_guest_msg *msg, int64_t now)
{
    struct mt_err err;
    int res = mt_channel_send(&p->channel, msg, &err);
    if (res == 0 || res == -MT_E_UNAVAILABLE || res == -MT_E_LIMIT)
        return; /* a status goes out again after reconnect; a lost pong is no loss */
    mt_say(MT_SAY_WARN, "%s not sent: %s", mt_guest_type_name(msg->type), err.msg);
    mt_channel_close(&p->channel);
    p->redial_at = now + MS(REDIAL_EVERY_MS);
}

static uint64_t uptime_ms(void)
{
    struct timespec up;
    (void)clock_gettime(CLOCK_BOOTTIME, &up);
    return (uint64_t)up.tv_sec * 1000 + (uint64_t)up.tv_nsec / 1000000;
}

static void send_hello(struct mt_pid1 *p, int64_t now)
{
    struct mt_guest_msg msg = {.type = MT_GUEST_HELLO,
                               .u.hello = {.proto_min = MT_GUEST_PROTO_MIN,
                                           .proto_max = MT_GUEST_PROTO_MAX,
                                           .init_version = MOAT_VERSION,
#ifdef __aarch64__
                                           .arch = "arm64",
#else
                                           .arch = "amd64",
#endif
                                           .kernel = p->kernel,
                                           .instance_id = p->cmdline.instance_id,
                                           .boot_id = p->cmdline.boot_id,
                                           .uptime_ms = uptime_ms(),
                                           .phase = p->stage == MT_PID1_HANDSHAKE ? MT_GUEST_PHASE_BOOT
                                                                                   : MT_GUEST_PHASE_RUNNING}};
    send_message(p, &msg, now);
}

static int64_t wall_ns(void)
{
    return mt_clock_wall_us() * 1000;
}

static void send_last(struct mt_pid1 *p, int64_t now)
{
    if (!p->have_last)
        return;
    struct mt_guest_msg msg = {.type = MT_GUEST_STATUS, .u.status = p->last};
    send_message(p, &msg, now);
    if (p->stage == MT_PID1_REPORTING && mt_channel_up(&p->channel))
        p->bye_until = now + MS(BYE_MS);
}

static void note_status(struct mt_pid1 *p, enum mt_guest_state state, const char *reason, const char *detail)
{
    p->last = (struct mt_guest_status){.state = state, .reason = reason, .exit_code = -1,
                                       .oom_kills = mt_stats_oom_kills(&p->stats),
                                       .uptime_ms = uptime_ms(),
                                       .ts_ns = wall_ns()};
    if (detail) {
        /* cut, not refused: a detail helps a person */
        (void)snprintf(p->last_detail, sizeof p->last_detail, "%s", detail);
        for (char *c = p->last_detail; *c; c++)
            if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
                *c = '?'; /* paths of the image need not be UTF-8 */
        p->last.detail = p->last_detail;
    }
    p->have_last = true;
}

/* --- the end sequence --- */

static void begin_draining(struct mt_pid1 *p, int64_t now)
{
    set_stage(p, MT_PID1_DRAINING);
    mt_logs_release_pipes(&p->logs);
    p->kill_at = 0;
    p->drain_until = now + MS(DRAIN_MS);
}

/* true when init has no child left; as PID 1 it is everybody's parent */
static bool alone(void)
{
    siginfo_t info = {0};
    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno == ECHILD;
}

static void begin_ending(struct mt_pid1 *p, int64_t now)
{
    set_stage(p, MT_PID1_ENDING);
    mt_exec_stopping(&p->exec);
    mt_quiesce_end(&p->quiesce); /* what waits for a frozen volume could not end */
    p->pid = 0;
    p->prestart_until = 0;
    p->handshake_until = 0;
    p->secrets_until = 0;
    if (alone()) {
        begin_draining(p, now);
        return;
    }
    if (getpid() == 1)
        (void)kill(-1, SIGTERM);
    p->killed_by_us = false;
    p->kill_at = now + MS(TERM_MS);
}

static void fail(struct mt_pid1 *p, const char *reason, const char *detail, int64_t now)
{
    mt_say(MT_SAY_ERROR, "%s: %s", reason, detail);
    char line[256];
    (void)snprintf(line, sizeof line, "moat: %s: %.200s", reason, detail);
    mt_logs_system(&p->logs, line);
    note_status(p, MT_GUEST_STATE_FAILED, reason, detail);
    begin_ending(p, now);
}

static void begin_reporting(struct mt_pid1 *p, int64_t now)
{
    set_stage(p, MT_PID1_REPORTING);
    p->drain_until = 0;
    p->last.clean_umount = !p->accepted || mt_volumes_finish(&p->config);
    p->last.clean_umount = mt_mounts_finish() && p->last.clean_umount;
    p->report_until = now + MS(REPORT_MS);
    send_last(p, now);
}

/* --- children --- */

static bool spawn(struct mt_pid1 *p, const char *const *argv, const char **ret_reason, struct mt_err *err)
{
    const struct mt_workload_spec spec = {.argv = argv, .envp = p->env.vars, .cwd = p->config.process.cwd,
                                          .user = &p->user, .stdout_fd = p->logs.write_fds[0],
                                          .stderr_fd = p->logs.write_fds[1], .nofile = p->config.process.nofile};
    return mt_workload_spawn(&spec, &p->pid, ret_reason, err) == 0;
}

/* From the first program of the image on; after its start, which it must not hold up. */
static void watch_memory(struct mt_pid1 *p)
{
    if (p->pressure.fd < 0 && mt_pressure_open(&p->pressure, "/proc") < 0)
        mt_say(MT_SAY_WARN, "kernel that does not tell of memory stalls: out of memory may show late");
}

static void start_prestart(struct mt_pid1 *p, int64_t now)
{
    const struct mt_guest_prestart *s = &p->config.process.prestart[p->prestart_at];
    struct mt_err err;
    const char *reason;
    char detail[320];
    if (!spawn(p, s->argv, &reason, &err)) {
        (void)snprintf(detail, sizeof detail, "%zu: %s: %s", p->prestart_at, reason, err.msg);
        fail(p, "prestart_failed", detail, now);
        return;
    }
    p->prestart_until = now + MS(s->timeout_ms);
    watch_memory(p);
}

static void start_workload(struct mt_pid1 *p, int64_t now)
{
    struct mt_err err;
    const char *reason;
    p->oom_at_start = mt_stats_oom_kills(&p->stats);
    if (!spawn(p, p->config.process.argv, &reason, &err)) {
        fail(p, reason, err.msg, now);
        return;
    }
    mt_logs_release_pipes(&p->logs);
    set_stage(p, MT_PID1_RUNNING);
    note_status(p, MT_GUEST_STATE_STARTED, NULL, NULL);
    p->last.pid = p->pid;
    send_last(p, now);
    watch_memory(p);
}

static void start_next(struct mt_pid1 *p, int64_t now)
{
    if (p->prestart_at == p->config.process.prestart_count) {
        start_workload(p, now);
        return;
    }
    if (p->stage == MT_PID1_HANDSHAKE || p->stage == MT_PID1_SECRETS)
        set_stage(p, MT_PID1_PRESTART);
    start_prestart(p, now);
}

static void prestart_ended(struct mt_pid1 *p, int status, int64_t now)
{
    char detail[64];
    p->pid = 0;
    p->prestart_until = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        p->prestart_at++;
        start_next(p, now);
        return;
    }
    if (p->killed_by_us)
        (void)snprintf(detail, sizeof detail, "%zu: timeout", p->prestart_at);
    else if (WIFEXITED(status))
        (void)snprintf(detail, sizeof detail, "%zu: exit %d", p->prestart_at, WEXITSTATUS(status));
    else
        (void)snprintf(detail, sizeof detail, "%zu: signal %s", p->prestart_at,
                       mt_workload_signal_name(WTERMSIG(status)));
    fail(p, "prestart_failed", detail, now);
}

static void workload_ended(struct mt_pid1 *p, int status, int64_t now)
{
    if (WIFEXITED(status)) {
        int code = WEXITSTATUS(status);
        note_status(p, MT_GUEST_STATE_EXITED, code == 0 ? "completed" : "workload_exited", NULL);
        p->last.exit_code = code;
    } else {
        int signo = WTERMSIG(status);
        bool oom = signo == SIGKILL && !p->killed_by_us && mt_stats_oom_kills(&p->stats) > p->oom_at_start;
        (void)snprintf(p->last_signal, sizeof p->last_signal, "%s", mt_workload_signal_name(signo));
        note_status(p, MT_GUEST_STATE_EXITED, oom ? "oom_killed" : "workload_signaled", oom ? "guest" : p->last_signal);
        p->last.signal = p->last_signal;
        if (oom)
            mt_logs_system(&p->logs, "moat: out of memory: the workload was killed");
    }
    begin_ending(p, now);
}

void mt_pid1_reap(struct mt_pid1 *p, int64_t now)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (mt_quiesce_reaped(&p->quiesce, pid) || mt_exec_reaped(&p->exec, pid, status, now) || pid != p->pid)
            continue;
        if (p->stage == MT_PID1_PRESTART)
            prestart_ended(p, status, now);
        else if (p->stage == MT_PID1_RUNNING || p->stage == MT_PID1_STOPPING)
            workload_ended(p, status, now);
    }
    if (p->stage == MT_PID1_ENDING && alone())
        begin_draining(p, now);
}

void mt_pid1_forward(struct mt_pid1 *p, int signo)
{
    if (p->pid > 0 && (p->stage == MT_PID1_RUNNING || p->stage == MT_PID1_STOPPING))
        (void)kill(p->pid, signo);
}

/* --- volumes held still --- */

static void tell_quiesced(struct mt_pid1 *p, const char *volume_id, enum mt_guest_quiesce state, const char *detail, int64_t now)
{
    struct mt_guest_msg msg = {.type = MT_GUEST_QUIESCED, .u.quiesced = {.volume_id = volume_id, .state = state, .detail = detail}};
    send_message(p, &msg, now);
}

void mt_pid1_quiesce_ready(struct mt_pid1 *p, int64_t now)
{
    enum mt_guest_quiesce state;
    if (mt_quiesce_turn(&p->quiesce, &state))
        tell_quiesced(p, p->quiesce.volume_id, state, NULL, now);
}

static void take_freeze(struct mt_pid1 *p, const char *volume_id, int64_t now)
{
    struct mt_err err = {0};
    const struct mt_guest_mount *m = NULL;
    for (size_t i = 0; i < p->config.mounts_count; i++)
        if (MT_STREQ(p->config.mounts[i].volume_id, volume_id))
            m = &p->config.mounts[i];
    bool runs = p->stage == MT_PID1_PRESTART || p->stage == MT_PID1_RUNNING || p->stage == MT_PID1_STOPPING;
    int res = !m || !runs ? MT_FAIL(&err, MT_E_NOT_FOUND, "that volume is not mounted") : mt_quiesce_begin(&p->quiesce, volume_id, m->path, &err);
    if (res < 0)
        tell_quiesced(p, volume_id, MT_GUEST_QUIESCE_FAILED, err.msg, now);
}

/* --- messages from the host --- */

/* Secrets before volumes before workload. */
static void begin_work(struct mt_pid1 *p, int64_t now)
{
    struct mt_err err = {0};
    const char *what = NULL;
    char detail[320];
    if (mt_volumes_mount(&p->config, &p->user, &what, &err) < 0) {
        (void)snprintf(detail, sizeof detail, "%s: %s", what, err.msg);
        fail(p, "volume_attach_failed", detail, now);
        return;
    }
    start_next(p, now);
}

static void take_config(struct mt_pid1 *p, const char *line, size_t len, int64_t now)
{
    struct mt_boot_failure failure;
    struct mt_err err;
    mt_sha256_hex(line, len, p->config_sha256);
    if (mt_boot_accept(&p->config, &p->cmdline, &failure) < 0) {
        fail(p, failure.reason, failure.detail, now);
        return;
    }
    p->accepted = true;
    p->handshake_until = 0;
    struct mt_guest_msg ack = {.type = MT_GUEST_ACK,
                               .u.ack = {.generation = p->config.generation, .config_sha256 = p->config_sha256}};
    send_message(p, &ack, now);
    if (mt_boot_setup(&p->config, &failure) < 0) {
        fail(p, failure.reason, failure.detail, now);
        return;
    }
    mt_stats_done(&p->stats);
    mt_stats_open(&p->stats, "/proc", "/"); /* the first /proc went away with the initramfs */
    if (mt_logs_start(&p->logs, p->config.logs.ring_bytes, p->config.logs.line_max, &err) < 0) {
        fail(p, "config_fetch_failed", err.msg, now);
        return;
    }
    if (p->config.logs.port > 0)
        p->logs_redial_at = now;
    note_status(p, MT_GUEST_STATE_CONFIGURED, NULL, NULL);
    send_last(p, now);
    if (mt_user_resolve(p->config.process.user, "/etc/passwd", "/etc/group", &p->user, &err) < 0) {
        fail(p, "user_not_found", err.msg, now);
        return;
    }
    if (mt_workload_env(&p->config.process, &p->user, &p->env, &err) < 0) {
        fail(p, "config_fetch_failed", err.msg, now);
        return;
    }
    if (p->config.exec.enabled) {
        mt_exec_setup(&p->exec, &p->config.process, &p->user, p->config.exec.max_sessions);
        if (mt_exec_listen(&p->exec, p->config.exec.port, &err) < 0)
            mt_say(MT_SAY_WARN, "no exec: %s", err.msg);
    }
    if (p->config.secrets.present) { /* they follow the ack; without them nothing of the workload starts */
        set_stage(p, MT_PID1_SECRETS);
        p->secrets_until = now + MS(p->slow ? HANDSHAKE_SLOW_MS : HANDSHAKE_MS);
        return;
    }
    begin_work(p, now);
}

/* a config again: the host forgot that we have it (its own restart); only the very same one is confirmed */
static void repeat_config(struct mt_pid1 *p, const char *line, size_t len, int64_t now)
{
    char digest[65];
    mt_sha256_hex(line, len, digest);
    if (!p->accepted || !MT_STREQ(digest, p->config_sha256)) {
        p->ignored++;
        return;
    }
    struct mt_guest_msg ack = {.type = MT_GUEST_ACK,
                               .u.ack = {.generation = p->config.generation, .config_sha256 = p->config_sha256}};
    send_message(p, &ack, now);
    send_last(p, now);
}

static void take_secrets(struct mt_pid1 *p, const struct mt_guest_secrets_data *data, int64_t now)
{
    struct mt_err err = {0};
    const char *what = "write_failed";
    char detail[320];
    mt_auto_fd int dir = -1;
    int res = mt_secrets_mount(MT_SECRETS_DIR, &dir, &err);
    if (res == 0)
        res = mt_secrets_put(dir, &p->config.secrets, data, &p->user, &what, &err);
    p->secrets_until = 0;
    if (res < 0) {
        (void)snprintf(detail, sizeof detail, "%s: %.40s: %s", what, p->config.secrets.version_id ? p->config.secrets.version_id : "", err.msg);
        fail(p, "secrets_injection_failed", detail, now);
        return;
    }
    begin_work(p, now);
}

static void take_shutdown(struct mt_pid1 *p, const struct mt_guest_shutdown *s, int64_t now)
{
    int64_t kill_at = now + MS(s->grace_ms);
    const char *reason = s->reason ? s->reason : "terminated_by_operator";
    switch (p->stage) {
    case MT_PID1_HANDSHAKE:
    case MT_PID1_SECRETS:
    case MT_PID1_PRESTART: {
        char copy[64]; /* the message's memory is reused; the status outlives it */
        static char kept[64];
        (void)snprintf(copy, sizeof copy, "%s", reason);
        memcpy(kept, copy, sizeof kept);
        fail(p, kept, "stopped before the workload was started", now);
        break;
    }
    case MT_PID1_RUNNING:
        mt_say(MT_SAY_INFO, "shutdown: %s, grace %llu ms", reason, (unsigned long long)s->grace_ms);
        set_stage(p, MT_PID1_STOPPING);
        (void)kill(p->pid, mt_workload_signal_number(p->config.process.stop_signal));
        p->kill_at = kill_at;
        break;
    case MT_PID1_STOPPING:
        if (kill_at < p->kill_at)
            p->kill_at = kill_at;
        break;
    case MT_PID1_ENDING:
    case MT_PID1_DRAINING:
    case MT_PID1_REPORTING:
    case MT_PID1_GONE:
    case MT_PID1_STAGE_MAX:
        break;
    }
}

static void take_ping(struct mt_pid1 *p, const struct mt_guest_ping *ping, int64_t now)
{
    struct mt_guest_msg msg = {.type = MT_GUEST_PONG};
    mt_stats_fill(&p->stats, &msg.u.pong);
    msg.u.pong.fs_errors = mt_volumes_errors(&p->config);
    mt_volumes_use(&p->config, &msg.u.pong);
    msg.u.pong.ts_ns = ping->ts_ns;
    send_message(p, &msg, now);
}

/* One part for each request: the host asks at its own pace, so the answers are no flood. */
static void take_fetch_log(struct mt_pid1 *p, uint64_t offset, int64_t now)
{
    static char raw[MT_GUEST_LOG_CHUNK_BYTES], text[MT_B64_SIZE(MT_GUEST_LOG_CHUNK_BYTES)];
    uint64_t total;
    size_t n = mt_say_read(offset, raw, sizeof raw, &total);
    (void)mt_b64_encode(raw, n, text);
    struct mt_guest_msg msg = {.type = MT_GUEST_LOG_CHUNK,
                               .u.log_chunk = {.offset = offset, .data = text, .last = n == 0 || offset + n >= total}};
    send_message(p, &msg, now);
}

static void take_message(struct mt_pid1 *p, const struct mt_guest_msg *msg, const char *line, size_t len, int64_t now)
{
    switch (msg->type) {
    case MT_GUEST_CONFIG:
        if (p->stage == MT_PID1_HANDSHAKE) {
            p->config = msg->u.config;
            take_config(p, line, len, now);
        } else {
            repeat_config(p, line, len, now);
        }
        break;
    case MT_GUEST_BYE:
        if (p->stage == MT_PID1_REPORTING)
            set_stage(p, MT_PID1_GONE);
        break;
    case MT_GUEST_RESUME:
        send_last(p, now);
        break;
    case MT_GUEST_REJECT:
        mt_say(MT_SAY_ERROR, "rejected by the host: %.200s", msg->u.reject.reason);
        set_stage(p, MT_PID1_GONE);
        break;
    case MT_GUEST_PING:
        take_ping(p, &msg->u.ping, now);
        break;
    case MT_GUEST_SHUTDOWN:
        take_shutdown(p, &msg->u.shutdown, now);
        break;
    case MT_GUEST_SECRETS:
        if (p->stage == MT_PID1_SECRETS)
            take_secrets(p, &msg->u.secrets, now);
        else
            p->ignored++;
        break;
    case MT_GUEST_FREEZE:
        take_freeze(p, msg->u.freeze.volume_id, now);
        break;
    case MT_GUEST_THAW:
        mt_quiesce_thaw(&p->quiesce, msg->u.freeze.volume_id);
        break;
    case MT_GUEST_FETCH_LOG:
        take_fetch_log(p, msg->u.fetch_log.offset, now);
        break;
    case MT_GUEST_UNKNOWN:
    case MT_GUEST_HELLO:
    case MT_GUEST_LOG_CHUNK:
    case MT_GUEST_ACK:
    case MT_GUEST_STATUS:
    case MT_GUEST_PONG:
    case MT_GUEST_QUIESCED:
    case MT_GUEST_TYPE_MAX:
        p->ignored++;
        break;
    }
}

static void drop_control(struct mt_pid1 *p, const char *why, int64_t now)
{
    mt_say(MT_SAY_INFO, "control connection: %s", why);
    mt_channel_close(&p->channel);
    p->heard_until = 0;
    p->bye_until = 0; /* nobody is there to say it; report_until bounds the retries */
    p->redial_at = now + MS(p->stage == MT_PID1_HANDSHAKE ? DIAL_EVERY_MS : REDIAL_EVERY_MS);
}

static void take_lines(struct mt_pid1 *p, int64_t now)
{
    const char *line;
    size_t len;
    int res;
    while (p->stage != MT_PID1_GONE && mt_channel_up(&p->channel) &&
           (res = mt_channel_next(&p->channel, &line, &len)) != 0) {
        struct mt_guest_msg msg;
        struct mt_err err;
        struct mt_guest_mem *mem = p->stage == MT_PID1_HANDSHAKE ? &p->config_mem : &p->message_mem;
        if (res < 0) {
            (void)MT_FAIL(&err, MT_E_LIMIT, "line over 1 MiB");
        } else if (mt_guest_decode(MT_GUEST_FROM_HOST, line, len, mem, &msg, &err) == 0) {
            if (!mt_guest_seq_ok(p->channel.rx_seq, msg.seq)) {
                p->ignored++;
                continue;
            }
            p->channel.rx_seq = msg.seq;
            p->heard_until = now + MS(SILENT_MS);
            take_message(p, &msg, line, len, now);
            if (msg.type == MT_GUEST_SECRETS) {
                explicit_bzero(mem->base, mem->used);
                mt_channel_wipe(&p->channel);
            }
            continue;
        }
        p->ignored++;
        if (p->stage == MT_PID1_HANDSHAKE) {
            char detail[280];
            (void)snprintf(detail, sizeof detail, "parse: %s", err.msg);
            fail(p, "config_fetch_failed", detail, now);
            if (res > 0)
                continue; /* the line was whole: the connection still serves to say why */
        }
        drop_control(p, err.msg, now);
    }
}

static bool due(int64_t at, int64_t now)
{
    return at != 0 && now >= at;
}

static int64_t handshake_ns(const struct mt_pid1 *p)
{
    return MS(p->slow ? HANDSHAKE_SLOW_MS : HANDSHAKE_MS);
}

/*
 * A monitor can lose the end of a connection (seen with Firecracker 1.12: an agent killed just after the hello), and then the guest
 * waits on a line that leads nowhere. So a host that says nothing is dialled again: in the handshake once, after a third of its time
 * and without more of it, so that a host that is only slow is not chased; later after three pings that did not come.
 */
static void silent_host(struct mt_pid1 *p, int64_t now)
{
    p->heard_until = 0;
    if (!mt_channel_up(&p->channel) || (p->stage == MT_PID1_HANDSHAKE && p->unheard))
        return;
    p->unheard = true;
    drop_control(p, "nothing heard from the host", now);
}

void mt_pid1_control_ready(struct mt_pid1 *p, int64_t now)
{
    struct mt_err err;
    if (p->channel.connecting) {
        if (mt_vsock_dialled(p->channel.fd, &err) < 0) {
            mt_channel_close(&p->channel);
            p->redial_at = now + MS(p->stage == MT_PID1_HANDSHAKE ? DIAL_EVERY_MS : REDIAL_EVERY_MS);
            return;
        }
        p->channel.connecting = false;
        if (p->stage == MT_PID1_HANDSHAKE && !p->unheard)
            p->handshake_until = now + handshake_ns(p);
        p->heard_until = now + (p->stage == MT_PID1_HANDSHAKE ? handshake_ns(p) / 3 : MS(SILENT_MS));
        send_hello(p, now);
        return;
    }
    if (mt_channel_flush(&p->channel, &err) < 0 || mt_channel_fill(&p->channel, &err) < 0) {
        take_lines(p, now); /* whole lines that came before the end count */
        if (p->channel.fd >= 0)
            drop_control(p, err.msg, now);
        return;
    }
    take_lines(p, now);
}

void mt_pid1_logs_ready(struct mt_pid1 *p, int64_t now)
{
    struct mt_err err;
    if (p->logs.connecting && mt_vsock_dialled(p->logs.fd, &err) < 0) {
        mt_logs_close(&p->logs);
        p->logs_redial_at = now + MS(REDIAL_EVERY_MS);
        return;
    }
    p->logs.connecting = false;
    if (mt_logs_flush(&p->logs, &err) < 0) {
        mt_logs_close(&p->logs);
        p->logs_redial_at = now + MS(REDIAL_EVERY_MS);
    }
}

/* --- time --- */

static void dial(struct mt_pid1 *p, int64_t now)
{
    struct mt_err err;
    int fd;
    p->redial_at = 0;
    if (mt_vsock_dial(MT_GUEST_PORT_CONTROL, &fd, &err) == 0)
        mt_channel_open(&p->channel, fd, true);
    else
        p->redial_at = now + MS(DIAL_EVERY_MS);
}

static void dial_logs(struct mt_pid1 *p, int64_t now)
{
    struct mt_err err;
    int fd;
    p->logs_redial_at = 0;
    if (mt_vsock_dial(p->config.logs.port, &fd, &err) == 0)
        mt_logs_open(&p->logs, fd, true);
    else
        p->logs_redial_at = now + MS(REDIAL_EVERY_MS);
}

static void kill_due(struct mt_pid1 *p, int64_t now)
{
    p->kill_at = 0;
    if (getpid() == 1)
        (void)kill(-1, SIGKILL);
    if (p->stage == MT_PID1_ENDING && p->killed_by_us) {
        begin_draining(p, now); /* KILL was a second ago: what is left is stuck in the kernel */
        return;
    }
    p->killed_by_us = true;
    if (p->stage == MT_PID1_ENDING)
        p->kill_at = now + MS(TERM_MS);
}

void mt_pid1_tick(struct mt_pid1 *p, int64_t now)
{
    if (due(p->handshake_until, now)) {
        mt_say(MT_SAY_ERROR, "config_fetch_failed: no %s from the host in time",
               mt_channel_up(&p->channel) ? "config" : "connection");
        set_stage(p, MT_PID1_GONE);
        return;
    }
    if (due(p->secrets_until, now)) {
        p->secrets_until = 0;
        fail(p, "secrets_injection_failed", "transfer_failed: nothing came in time", now);
    }
    if (due(p->heard_until, now))
        silent_host(p, now);
    if (due(p->redial_at, now))
        dial(p, now);
    if (due(p->logs_redial_at, now))
        dial_logs(p, now);
    if (due(p->prestart_until, now)) {
        p->prestart_until = 0;
        p->killed_by_us = true;
        (void)kill(-p->pid, SIGKILL);
    }
    if (due(p->kill_at, now))
        kill_due(p, now);
    if (p->logs.fd >= 0 && !p->logs.connecting && mt_logs_pending(&p->logs))
        mt_pid1_logs_ready(p, now);
    if (p->stage == MT_PID1_DRAINING) {
        bool sent = p->config.logs.port == 0 || !mt_logs_pending(&p->logs);
        if ((!mt_logs_pipes_open(&p->logs) && sent) || due(p->drain_until, now))
            begin_reporting(p, now);
    }
    if (p->stage == MT_PID1_REPORTING && (due(p->bye_until, now) || due(p->report_until, now)))
        set_stage(p, MT_PID1_GONE);
}

int64_t mt_pid1_deadline(const struct mt_pid1 *p)
{
    const int64_t all[] = {p->handshake_until, p->heard_until, p->secrets_until, p->redial_at, p->logs_redial_at, p->prestart_until,
                           p->kill_at,         p->drain_until, p->bye_until,    p->report_until};
    int64_t next = mt_exec_deadline(&p->exec);
    for (size_t i = 0; i < MT_ARRAY_LEN(all); i++)
        if (all[i] != 0 && all[i] < next)
            next = all[i];
    return next;
}

void mt_pid1_init(struct mt_pid1 *p, const struct mt_cmdline *cmdline, char *in_buf, size_t in_cap,
                  struct mt_guest_mem config_mem, struct mt_guest_mem message_mem)
{
    struct utsname uts;
    int64_t now = mt_clock_mono();
    p->stage = MT_PID1_HANDSHAKE;
    p->cmdline = *cmdline;
    p->config_mem = config_mem;
    p->message_mem = message_mem;
    if (uname(&uts) == 0)
        (void)snprintf(p->kernel, sizeof p->kernel, "%s", uts.release);
    mt_channel_init(&p->channel, in_buf, in_cap);
    mt_logs_init(&p->logs);
    mt_exec_init(&p->exec);
    mt_quiesce_init(&p->quiesce);
    p->pressure.fd = p->pressure.kill_fd = -1;
    mt_stats_open(&p->stats, "/proc", "/");
    p->redial_at = now;
    p->handshake_until = now + handshake_ns(p);
}
