/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/trial.h"

#include "agent/channel.h"
#include "agent/instance/autopsy.h"
#include "agent/instance/guest_config.h"
#include "agent/instance/scratch.h"
#include "agent/instance/steps.h"
#include "agent/logchan.h"
#include "agent/secrets.h"
#include "base/arena.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK ".try"
#define RING ".ring"
#define TAIL "-0" /* of the names of jail and scratch disk */
#define MARK_MAX 64
#define LOOK_MS 200        /* whether it is still wanted */
#define SETTLE_MS 32000    /* from hello to the start of the command */
#define EXIT_MS 10000      /* from the guest's last word to the end of its VM */
#define WEIGHT_SHARE 4     /* it gives way to what serves somebody */

/* ---- names ------------------------------------------------------------------------------- */

bool mt_trial_name(const char *name, char ret_restore_id[MT_ID_SIZE])
{
    if (!mt_ulid_valid(name, MT_ULID_LEN < strlen(name) ? MT_ULID_LEN : strlen(name)) || strncmp(name + MT_ULID_LEN, TAIL, sizeof TAIL - 1) != 0)
        return false;
    const char *rest = name + MT_ULID_LEN + sizeof TAIL - 1;
    (void)snprintf(ret_restore_id, MT_ID_SIZE, "rst_%.*s", MT_ULID_LEN, name);
    return !*rest || MT_STREQ(rest, ".ext4");
}

struct places {
    char mark[PATH_MAX], ring[PATH_MAX], scratch[PATH_MAX];
    struct mt_vmm_ids ids; /* by name alone */
};

static int places_of(const struct mt_agent *a, const char *dir, const char *restore_id, struct places *ret, struct mt_err *err)
{
    *ret = (struct places){0};
    int rc = mt_fmt(ret->mark, sizeof ret->mark, err, "%s/%s" MARK, dir, restore_id);
    if (rc == 0)
        rc = mt_fmt(ret->ring, sizeof ret->ring, err, "%s/%s" RING, dir, restore_id);
    if (rc == 0)
        rc = mt_fmt(ret->scratch, sizeof ret->scratch, err, "%s/%s" TAIL ".ext4", a->conf.scratch_dir, mt_id_ulid(restore_id));
    if (rc == 0)
        rc = mt_fmt(ret->ids.jail_id, sizeof ret->ids.jail_id, err, "%s" TAIL, mt_id_ulid(restore_id));
    return rc;
}

/* The mark goes last: while something is left it is found again. */
static int clear(struct mt_vmm *vmm, const struct places *p, struct mt_err *err)
{
    int rc = mt_vmm_teardown(vmm, &p->ids, err);
    if (rc < 0)
        return rc;
    if ((unlink(p->scratch) < 0 && errno != ENOENT) || (unlink(p->ring) < 0 && errno != ENOENT) || (unlink(p->mark) < 0 && errno != ENOENT))
        return MT_FAIL_ERRNO(err, MT_E_IO, "take away what is left of a probe");
    return 0;
}

static int mark(const struct mt_trial *t, const struct places *p, struct mt_err *err)
{
    char text[MARK_MAX];
    int rc = mt_fmt(text, sizeof text, err, "%s %s\n", mt_vmm_kind_name(mt_vmm_kind(t->vmm)), mt_vmm_accel_name(mt_vmm_accel(t->vmm)));
    return rc < 0 ? rc : mt_file_write(p->mark, text, strlen(text), 0600, err);
}

static int clear_marked(struct mt_agent *a, const char *dir, const char *restore_id, struct mt_err *err)
{
    struct places p;
    mt_auto_free char *text = NULL;
    size_t len;
    char driver[24], accel[24];
    struct mt_vmm *vmm;
    int rc = places_of(a, dir, restore_id, &p, err);
    if (rc < 0 || (rc = mt_file_read(p.mark, MARK_MAX, &text, &len, err)) < 0)
        return rc;
    if (sscanf(text, "%23s %23s", driver, accel) != 2)
        return unlink(p.mark) < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", p.mark) : 0; /* cut off while it was written: nothing followed */
    rc = mt_agent_vmm_named(a, driver, accel, &vmm, err);
    return rc < 0 ? rc : clear(vmm, &p, err);
}

void mt_trial_sweep(struct mt_agent *a, const char *dir)
{
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char id[MT_ID_SIZE];
        struct mt_err err = {0};
        size_t len = strlen(e->d_name), tail = sizeof MARK - 1;
        if (len <= tail || len - tail >= sizeof id || !MT_STREQ(e->d_name + len - tail, MARK))
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(len - tail), e->d_name);
        if (mt_id_check(MT_ID_RESTORE, id, NULL) < 0)
            continue;
        if (clear_marked(a, dir, id, &err) < 0)
            mt_log(MT_WARN, "probe.not_cleared", KV("restore_id", (const char *)id), KV_ERR(&err));
        else
            mt_log(MT_INFO, "probe.swept", KV("restore_id", (const char *)id));
    }
}

/* ---- the guest --------------------------------------------------------------------------- */

/* One VM that runs, seen from its own loop. */
struct watch {
    struct mt_trial *t;
    struct mt_loop *loop;
    const char *instance_id, *boot_id, *scratch_uuid;
    struct mt_channel *chan;
    struct mt_logchan *log;
    struct mt_source *deadline, *look, *proc[MT_VMM_PROCS_MAX];
    const char *late; /* what the deadline is of */
    bool known, started, over; /* over: it has said how it ended */
    int verdict;               /* 0, or -code when over */
    struct mt_err *err;
};

static int64_t stretch(const struct watch *w, int64_t ms)
{
    return mt_vmm_accel(w->t->vmm) == MT_VMM_TCG ? ms * 3 : ms;
}

static void end(struct watch *w, int verdict)
{
    if (!w->over)
        w->verdict = verdict;
    w->over = true;
    mt_loop_stop(w->loop, 0);
}

__attribute__((format(printf, 2, 3))) static void bad(struct watch *w, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)mt_printable(text, strlen(text), w->t->detail, sizeof w->t->detail);
    end(w, MT_FAIL(w->err, MT_E_CORRUPT, "probe: %s", w->t->detail));
}

static void on_deadline(struct mt_source *s, void *arg)
{
    struct watch *w = arg;
    (void)s;
    if (w->started)
        bad(w, "it did not end within %u s", w->t->seconds);
    else
        end(w, MT_FAIL(w->err, MT_E_TIMEOUT, "the VM of the probe: %s", w->late));
}

static void on_look(struct mt_source *s, void *arg)
{
    struct watch *w = arg;
    if (atomic_load(w->t->cancelled))
        end(w, MT_FAIL(w->err, MT_E_CANCELLED, "the probe is not wanted any more"));
    mt_loop_timer_after(s, LOOK_MS);
}

static void on_proc_end(struct mt_source *s, pid_t pid, int code, int status, void *arg)
{
    struct watch *w = arg;
    (void)pid;
    (void)code;
    (void)status;
    for (size_t i = 0; i < MT_VMM_PROCS_MAX; i++)
        if (w->proc[i] == s)
            w->proc[i] = NULL;
    mt_loop_del(s);
    if (w->started)
        bad(w, "its VM ended without a word; it may want more memory than the process has");
    else
        end(w, MT_FAIL(w->err, MT_E_UNAVAILABLE, "the VM of the probe ended before it began"));
}

static void set_deadline(struct watch *w, const char *late, int64_t ms)
{
    w->late = late;
    mt_loop_timer_after(w->deadline, ms);
}

static int send_config(struct watch *w, struct mt_err *err)
{
    const struct mt_trial *t = w->t;
    mt_auto_arena struct mt_arena ar;
    enum mt_reason reason;
    struct mt_guest_msg msg = {.type = MT_GUEST_CONFIG};
    const struct mt_guest_make make = {.spec = t->spec, .image = &t->disk.config, .instance_id = w->instance_id, .boot_id = w->boot_id, .generation = 1,
                                       .root_uuid = t->disk.uuid, .scratch_uuid = w->scratch_uuid};
    mt_arena_init(&ar, MT_GUEST_CONFIG_ARENA);
    int rc = mt_guest_config_make(&make, &ar, &msg.u.config, &reason, err);
    if (rc < 0)
        return rc;
    msg.u.config.network = (struct mt_guest_network){.ifname = "lo", .address = "::1", .prefix_len = 128, .gateway = "::1", .mtu = 1280};
    return mt_channel_send(w->chan, &msg, NULL, err);
}

static void on_hello(struct watch *w, const struct mt_guest_hello *h)
{
    struct mt_err err = {0};
    if (!MT_STREQ(h->instance_id, w->instance_id) || !MT_STREQ(h->boot_id, w->boot_id)) {
        mt_channel_drop(w->chan, "hello of another instance or boot");
        return;
    }
    bool again = w->known;
    w->known = true;
    if (h->phase == MT_GUEST_PHASE_RUNNING) {
        struct mt_guest_msg msg = {.type = MT_GUEST_RESUME};
        (void)mt_channel_send(w->chan, &msg, NULL, NULL);
        return;
    }
    if (!again) /* it may ask again, but gets no more time by that */
        set_deadline(w, "not configured in time", stretch(w, SETTLE_MS));
    if (send_config(w, &err) < 0)
        bad(w, "%s", err.msg);
}

static void on_status(struct watch *w, const struct mt_guest_status *g)
{
    struct mt_guest_msg bye = {.type = MT_GUEST_BYE};
    struct mt_trial *t = w->t;
    if (g->state == MT_GUEST_STATE_STARTED && !w->started) {
        w->started = true;
        set_deadline(w, "", (int64_t)t->seconds * 1000);
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_PROBE_STARTED, MT_KILL_RECORDED);
    }
    if (!mt_guest_state_terminal(g->state))
        return;
    (void)mt_channel_send(w->chan, &bye, NULL, NULL);
    if (g->state == MT_GUEST_STATE_FAILED)
        bad(w, "%s%s%s", g->reason ? g->reason : "failed", g->detail ? ": " : "", g->detail ? g->detail : "");
    else if (g->signal)
        bad(w, "ended by SIG%s%s", strncmp(g->signal, "SIG", 3) == 0 ? g->signal + 3 : g->signal, g->oom_kills ? ", out of memory" : "");
    else if (g->exit_code != 0)
        bad(w, "exited with %d", g->exit_code & 0xff);
    else
        end(w, 0);
    if (g->exit_code >= 0)
        t->exit_code = g->exit_code & 0xff;
}

static void on_message(void *arg, const struct mt_guest_msg *msg)
{
    struct watch *w = arg;
    if (!w->known && msg->type != MT_GUEST_HELLO)
        mt_channel_drop(w->chan, "first message is not hello");
    else if (w->over)
        return; /* its last word was heard */
    else if (msg->type == MT_GUEST_HELLO)
        on_hello(w, &msg->u.hello);
    else if (msg->type == MT_GUEST_STATUS)
        on_status(w, &msg->u.status);
}

static void on_closed(void *arg, const char *why)
{
    (void)arg;
    (void)why;
}

/* The last whole lines that fit; the newest one is cut if it alone does not. */
static void keep_line(struct mt_trial *t, const struct mt_guest_log_record *r)
{
    char line[MT_PROBE_OUTPUT_MAX / 2];
    size_t n, have = strlen(t->output);
    if (r->flags & MT_GUEST_LOG_GAP || r->stream == MT_GUEST_STREAM_SYSTEM)
        return;
    (void)mt_printable((const char *)r->payload, r->payload_len, line, sizeof line);
    n = strlen(line);
    while (have && have + n + 2 > sizeof t->output) {
        char *next = strchr(t->output, '\n');
        size_t gone = next ? (size_t)(next - t->output) + 1 : have;
        memmove(t->output, t->output + gone, have - gone + 1);
        have -= gone;
    }
    (void)snprintf(t->output + have, sizeof t->output - have, "%s%s", have ? "\n" : "", line);
}

static void on_log(void *arg, const struct mt_guest_log_record *r)
{
    keep_line(((struct watch *)arg)->t, r);
}

static void watch_done(struct watch *w)
{
    for (size_t i = 0; i < MT_VMM_PROCS_MAX; i++)
        mt_loop_del(w->proc[i]);
    mt_loop_del(w->deadline);
    mt_loop_del(w->look);
    mt_channel_free(w->chan);
    mt_logchan_free(w->log);
    mt_loop_free(w->loop);
}

/* From the boot to the guest's last word. @fds pass in. */
static int watch(struct mt_trial *t, const struct mt_vmm_run *run, int fds[2], const char *instance_id, const char *boot_id, const char *scratch_uuid,
                 struct mt_err *err)
{
    static const struct mt_channel_events events = {.message = on_message, .closed = on_closed};
    mt_cleanup(watch_done) struct watch w = {.t = t, .instance_id = instance_id, .boot_id = boot_id, .scratch_uuid = scratch_uuid, .err = err};
    uid_t uid = MT_VMM_UID_BASE + t->slot;
    bool ok = (w.loop = mt_loop_new(err)) && (w.chan = mt_channel_new(w.loop, MT_TAKE_FD(fds[0]), uid, &events, &w, err)) &&
              (w.log = mt_logchan_new(w.loop, MT_TAKE_FD(fds[1]), uid, on_log, NULL, &w, err)) && (w.deadline = mt_loop_timer(w.loop, "probe.deadline", on_deadline, &w, err)) &&
              (w.look = mt_loop_timer(w.loop, "probe.look", on_look, &w, err));
    for (size_t i = 0; ok && i < MT_VMM_PROCS_MAX; i++)
        if (run->pidfd[i] >= 0)
            ok = (w.proc[i] = mt_loop_child(w.loop, "probe.process", i < run->ids.proc_count ? run->ids.proc[i].pid : 0, run->pidfd[i], on_proc_end, &w, err));
    if (!ok)
        return -MT_E_NOMEM;
    mt_loop_timer_after(w.look, LOOK_MS);
    set_deadline(&w, "no hello in time", mt_vmm_hello_timeout_ms(t->vmm));
    int rc = mt_loop_run(w.loop);
    if (rc < 0)
        return MT_FAIL(err, MT_E_IO, "the loop of a probe ended");
    if (w.over && w.started && w.verdict != -MT_E_CANCELLED) {
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_PROBE_ENDED, MT_KILL_RECORDED);
        mt_logchan_drain(w.log); /* what it said last is what matters */
    }
    return w.verdict;
}

/* ---- one trial --------------------------------------------------------------------------- */

static int boot(struct mt_trial *t, const struct places *p, const char *device, struct mt_err *err)
{
    char args[MT_VMM_BOOT_ARGS_MAX], instance_id[MT_ID_SIZE], boot_id[MT_ID_SIZE], uuid[37], identity[256];
    const struct mt_workload *w = t->spec;
    int fds[2] = {-1, -1};
    struct mt_vmm_run run = MT_VMM_RUN_NONE;
    const struct mt_vmm_disk like = {.bytes_per_s = w->limits.disk_bytes_per_second, .ops_per_s = w->limits.disk_ops_per_second};
    struct mt_vmm_spec s = {.jail_id = p->ids.jail_id, .slot = t->slot, .vcpu_count = w->resources.vcpu_count, .mem_mib = (uint32_t)(w->resources.memory_bytes >> 20),
                            .overhead_mib = t->overhead_mib, .cpu_weight = w->resources.cpu_weight / WEIGHT_SHARE ? w->resources.cpu_weight / WEIGHT_SHARE : 1,
                            .kernel_path = t->bundle.kernel_path, .initramfs_path = t->bundle.initramfs_path, .boot_args = args,
                            .root = {.path = t->disk.path, .read_only = true}, .scratch = like, .volumes = {like}, .volume_count = 1,
                            .console_path = p->ring, .identity_json = identity};
    s.scratch.path = p->scratch;
    s.volumes[0].path = device;
    (void)snprintf(instance_id, sizeof instance_id, "inst_%s", mt_id_ulid(t->restore_id));
    mt_id_new(MT_ID_BOOT, boot_id);
    int rc = mt_guest_boot_args(t->bundle.builtin, instance_id, boot_id, args, sizeof args, err);
    if (rc == 0)
        rc = mt_fmt(identity, sizeof identity, err, "{\"format\":1,\"restore_id\":\"%s\",\"boot_id\":\"%s\",\"slot\":%u}\n", t->restore_id, boot_id, t->slot);
    if (rc == 0)
        rc = mt_scratch_make(t->a->conf.mkfs_path, p->scratch, w->resources.disk_bytes, uuid, err);
    if (rc == 0)
        rc = mt_vmm_prepare(t->vmm, &s, err);
    static const uint32_t ports[2] = {MT_GUEST_PORT_CONTROL, MT_GUEST_PORT_LOG};
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = mt_vmm_listen(t->vmm, &p->ids, ports[i], &fds[i], err);
    if (rc == 0) {
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_PROBE_PREPARED, MT_KILL_RECORDED);
        int64_t began = mt_clock_mono();
        if ((rc = mt_vmm_launch(t->vmm, &s, NULL, NULL, &run, err)) == 0) {
            mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_PROBE_LAUNCHED, MT_KILL_RECORDED);
            rc = watch(t, &run, fds, instance_id, boot_id, uuid, err);
            t->ran = rc == 0 || rc == -MT_E_CORRUPT;
            t->ms = (uint32_t)((mt_clock_mono() - began) / MT_NS_PER_MS);
        }
    }
    mt_closep(&fds[0]);
    mt_closep(&fds[1]);
    (void)mt_vmm_kill(t->vmm, run.ids.proc_count ? &run.ids : &p->ids, NULL);
    if (run.pidfd[0] >= 0) {
        siginfo_t si;
        (void)waitid(P_PIDFD, (id_t)run.pidfd[0], &si, WEXITED | WNOHANG);
    }
    mt_vmm_run_done(&run);
    return rc;
}

/* The last line of the guest's console tells why a kernel did not come up. */
static void note_console(const struct mt_trial *t, const struct places *p)
{
    char buf[8192], line[MT_AUTOPSY_CONSOLE_LINE];
    size_t n = 0, kept;
    if (mt_vmm_console(t->vmm, p->ring, NULL, buf, sizeof buf - 1, &n, NULL) < 0)
        return;
    free(mt_autopsy_console(buf, n, &kept, line));
    mt_log(MT_WARN, "probe.console", KV("restore_id", t->restore_id), KV("line", (const char *)line));
}

int mt_trial_ready(struct mt_trial *t, struct mt_err *err)
{
    struct mt_image_request rq = {.repository = t->spec->image.repository, .digest = t->spec->image.resolved_digest, .arch = t->spec->image.arch,
                                        .owner = t->restore_id, .cancelled = &t->image_cancelled};
    struct mt_image_failure f = {0};
    struct mt_err why = {0};
    char user[MT_REGISTRY_USER_SIZE];
    mt_auto_lockmem struct mt_lockmem password = {0};
    if (t->spec->n_mounts != 1)
        return MT_FAIL(err, MT_E_INVALID, "probe: %zu mounts", t->spec->n_mounts);
    if (t->spec->resources.memory_bytes >> 20 < t->bundle.min_memory_mib)
        return MT_FAIL(err, MT_E_INVALID, "probe: %llu MiB of memory, the node's guest kernel needs at least %u",
                       (unsigned long long)(t->spec->resources.memory_bytes >> 20), t->bundle.min_memory_mib);
    int found = mt_registry_credential(t->a->secrets, t->restore_id, rq.repository, user, &password, &why);
    if (found > 0) {
        rq.username = user;
        rq.password = (const char *)password.p;
    } else if (found < 0) { /* most images want none; one that does says so */
        mt_log(MT_WARN, "registry.no_credential", KV("restore_id", t->restore_id), KV_ERR(&why));
    }
    if (mt_image_ensure(t->a->images, &rq, &t->disk, &f, err) == 0)
        return 0;
    if (f.reason == MT_REASON_NONE)
        return MT_FAIL(err, MT_E_CANCELLED, "the probe is not wanted any more");
    return mt_err_wrap(err, "image of the probe: %s%s%s", mt_reason_code(f.reason), f.detail[0] ? ": " : "", f.detail);
}

int mt_trial_run(struct mt_trial *t, const char *device, const char *fs_uuid, struct mt_err *err)
{
    struct places p;
    struct mt_err why = {0};
    t->exit_code = -1;
    t->spec->mounts[0].fs_uuid = fs_uuid;
    int rc = places_of(t->a, t->dir, t->restore_id, &p, err);
    if (rc < 0 || (rc = mark(t, &p, err)) < 0)
        return rc;
    p.ids.slot = t->slot; /* the guest's sockets belong to it */
    rc = boot(t, &p, device, err);
    if (rc < 0 && rc != -MT_E_CANCELLED && !t->ran)
        note_console(t, &p);
    if (clear(t->vmm, &p, &why) < 0) /* found by its mark when the next agent starts, and by the drift pass before */
        mt_log(MT_ERROR, "probe.not_cleared", KV("restore_id", t->restore_id), KV_ERR(&why));
    t->spec->mounts[0].fs_uuid = NULL;
    if (t->ran)
        mt_log(MT_INFO, "probe.ran", KV("restore_id", t->restore_id), KV("ok", rc == 0), KV("ms", (int64_t)t->ms), KV("exit_code", (int64_t)t->exit_code),
               KV("detail", (const char *)t->detail));
    return rc;
}

void mt_trial_done(struct mt_trial *t)
{
    mt_image_release(t->a->images, t->restore_id);
    mt_rootdisk_done(&t->disk);
}
