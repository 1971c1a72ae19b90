/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs on workers: image, prepare, teardown, adoption. See inst.h.
 *
 * A job owns a copy of the state. While it runs nothing else writes the state file; it records every step in
 * the undo list before it acts. What it learned is merged back on the loop's thread.
 */
#include "agent/boots.h"
#include "agent/instance/inst.h"

#include "agent/instance/guest_config.h"
#include "agent/instance/scratch.h"
#include "agent/net/tap.h"
#include "agent/secrets.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>

enum job_kind { JOB_IMAGE = 0, JOB_PULL, JOB_BOOT, JOB_TEARDOWN, JOB_ADOPT };

struct mt_job {
    struct mt_inst *in;
    struct mt_pool *pool; /* where and what it runs, for a job that waits for a save */
    mt_task_fn work, on_done;
    struct mt_agent *a; /* workers touch its thread-safe members only */
    enum job_kind kind;
    struct mt_state st;
    char dir[PATH_MAX];
    struct mt_bundle bundle;
    struct mt_vmm *vmm;
    const struct mt_workload *spec; /* in->spec, which stays while a job runs */
    atomic_bool *cancelled;
    uint32_t mtu, overhead_mib;
    struct mt_attachment volumes[MT_VMM_VOLUMES_MAX]; /* of a boot; locks go to the instance */
    size_t volumes_n;
    struct mt_limits limits; /* the smaller of the process's and the node's; 0 = off */
    bool has_node;
    struct in6_addr node, guest;
    /* results */
    int rc;
    bool need_pull, was_cancelled, alive, kvm_gone;
    enum mt_reason reason;
    struct mt_err err;
    struct mt_rootdisk disk;
    bool have_disk;
    struct mt_vmm_run run;
    int listen_fds[2];
    uint64_t oom_kills;
    char explain[256]; /* what failed, as a sentence */
    char console_line[MT_AUTOPSY_CONSOLE_LINE];
    char *console; /* tail of it, of an attempt that was not ended as wanted; owned */
    size_t console_len;
    struct mt_autopsy_tail *tail; /* what the workload said last; owned, NULL as above */
};

static int64_t wall(void)
{
    return mt_clock_wall_us();
}

static struct mt_job *job_new(struct mt_inst *in, enum job_kind kind)
{
    struct mt_job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->in = in;
    j->a = in->a;
    j->kind = kind;
    j->st = in->st;
    memcpy(j->dir, in->dir, sizeof j->dir);
    j->bundle = in->a->bundle;
    j->vmm = in->vmm;
    j->spec = in->spec;
    j->cancelled = &in->cancelled;
    j->mtu = in->spec && in->spec->network.mtu ? in->spec->network.mtu : in->a->net.mtu;
    j->overhead_mib = mt_agent_overhead_mib(in->a);
    j->limits = mt_inst_limits(in);
    j->has_node = in->a->net.has_node;
    j->node = in->a->net.node;
    (void)inet_pton(AF_INET6, in->st.address, &j->guest);
    j->run = MT_VMM_RUN_NONE;
    j->listen_fds[0] = j->listen_fds[1] = -1;
    return j;
}

static void job_free(struct mt_job *j)
{
    for (size_t i = 0; i < j->volumes_n; i++)
        mt_closep(&j->volumes[i].lock);
    mt_rootdisk_done(&j->disk);
    free(j->console);
    free(j->tail);
    mt_vmm_run_done(&j->run);
    mt_closep(&j->listen_fds[0]);
    mt_closep(&j->listen_fds[1]);
    free(j);
}

/* What a job may change in the state; the rest belongs to the loop. */
static void merge(struct mt_inst *in, const struct mt_job *j)
{
    in->st.undo = j->st.undo;
    in->st.vmm = j->st.vmm;
    in->st.t = j->st.t;
    memcpy(in->st.root_uuid, j->st.root_uuid, sizeof in->st.root_uuid);
    memcpy(in->st.scratch_uuid, j->st.scratch_uuid, sizeof in->st.scratch_uuid);
    memcpy(in->st.driver, j->st.driver, sizeof in->st.driver);
    memcpy(in->st.accel, j->st.accel, sizeof in->st.accel);
}

static int fail(struct mt_job *j, enum mt_reason reason)
{
    j->reason = reason;
    j->rc = j->err.code ? -(int)j->err.code : -MT_E_IO;
    return -1;
}

/* Record steps (MT_STEP_BIT) in the undo list, durably, in one write: undoing one that was never begun finds nothing. */
static int record(struct mt_job *j, uint32_t steps)
{
    if (atomic_load(j->cancelled)) {
        j->was_cancelled = true;
        return -1;
    }
    j->st.undo |= steps;
    if (mt_state_save(j->dir, &j->st, &j->err) < 0)
        return fail(j, j->err.sys_errno == ENOSPC ? MT_REASON_DISK_FULL : MT_REASON_VMM_START_FAILED);
    return 0;
}

/* A recorded step begins. */
static void begin(enum mt_step step)
{
    mt_kill_here(MT_KILL_PREPARE, step, MT_KILL_RECORDED);
}

static void done(enum mt_step step)
{
    mt_kill_here(MT_KILL_PREPARE, step, MT_KILL_DONE);
}

static int scratch_path(const struct mt_job *j, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/%s-%" PRIu64 ".ext4", j->a->conf.scratch_dir, mt_id_ulid(j->st.instance_id),
                  j->st.boot_seq);
}

static int console_path(const struct mt_job *j, const char *name, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/%s", j->dir, name);
}

static void fw_vm_of(const struct mt_state *st, const struct mt_workload *w, struct mt_fw_vm *ret)
{
    *ret = (struct mt_fw_vm){0};
    char tap[IFNAMSIZ];
    mt_state_tap(st, tap);
    memcpy(ret->tap, tap, sizeof ret->tap);
    (void)snprintf(ret->address, sizeof ret->address, "%s", st->address);
    for (size_t i = 0; w && i < w->network.n_ports && i < MT_ARRAY_LEN(ret->ports); i++)
        ret->ports[ret->port_count++] = w->network.ports[i].port;
}

void mt_inst_fw_vm(const struct mt_inst *in, struct mt_fw_vm *ret)
{
    fw_vm_of(&in->st, in->spec, ret);
}

/* ---- image ------------------------------------------------------------------------------- */

static void have_image(struct mt_job *j)
{
    j->have_disk = true;
    (void)snprintf(j->st.root_uuid, sizeof j->st.root_uuid, "%s", j->disk.uuid);
    j->st.t.image = wall();
    done(MT_STEP_IMAGE);
}

/* Slot and a cached root disk: short, no network. */
static void image_work(void *arg)
{
    struct mt_job *j = arg;

    if (record(j, MT_STEP_BIT(MT_STEP_SLOT) | MT_STEP_BIT(MT_STEP_IMAGE)) < 0)
        return;
    begin(MT_STEP_SLOT);
    done(MT_STEP_SLOT);
    begin(MT_STEP_IMAGE);
    const char *digest = j->spec->image.resolved_digest;
    if (!digest || mt_image_lookup(j->a->images, digest, &j->disk, &j->err) < 0) {
        j->need_pull = true;
        return;
    }
    if (mt_image_pin(j->a->images, digest, j->st.instance_id, &j->err) < 0) {
        mt_rootdisk_done(&j->disk); /* evicted between the two calls */
        j->need_pull = true;
        return;
    }
    have_image(j);
}

struct phase_note {
    struct mt_agent *a;
    char instance_id[MT_ID_SIZE];
    const char *detail;
    bool now;
};

static void note_phase(void *arg)
{
    struct phase_note *n = arg;
    struct mt_inst *in = mt_map_get(&n->a->insts, n->instance_id);
    if (in && in->st.phase == MT_PH_PREPARING) {
        in->detail = n->detail;
        mt_inst_report(in, n->now);
    }
    free(n);
}

static void post_phase(const struct mt_job *j, const char *detail, bool now)
{
    struct phase_note *n = malloc(sizeof *n);
    if (!n)
        return;
    *n = (struct phase_note){.a = j->a, .detail = detail, .now = now};
    memcpy(n->instance_id, j->st.instance_id, sizeof n->instance_id);
    if (mt_loop_post(j->a->loop, note_phase, n) < 0)
        free(n);
}

static void on_image_phase(void *arg, enum mt_image_phase phase)
{
    post_phase(arg, mt_image_phase_name(phase), false);
}

static void pull_work(void *arg)
{
    struct mt_job *j = arg;
    struct mt_image_request rq = {.repository = j->spec->image.repository,
                                  .digest = j->spec->image.resolved_digest,
                                  .arch = j->spec->image.arch,
                                  .owner = j->st.instance_id,
                                  .on_phase = on_image_phase,
                                  .arg = j,
                                  .cancelled = j->cancelled};
    struct mt_image_failure f = {0};
    char user[MT_REGISTRY_USER_SIZE];
    mt_auto_lockmem struct mt_lockmem password = {0};
    struct mt_err why = {0};
    int found = mt_registry_credential(j->a->secrets, j->st.instance_id, rq.repository, user, &password, &why);
    if (found > 0) {
        rq.username = user;
        rq.password = (const char *)password.p;
    } else if (found < 0) { /* most images want none; one that does says so */
        mt_log(MT_WARN, "registry.no_credential", KV("instance_id", j->st.instance_id), KV_ERR(&why));
    }
    if (mt_image_ensure(j->a->images, &rq, &j->disk, &f, &j->err) < 0) {
        if (f.reason == MT_REASON_NONE) {
            j->was_cancelled = true;
            return;
        }
        (void)atomic_fetch_add(&j->a->measure.pulls_failed, 1);
        mt_log(MT_WARN, "image.failed", KV("instance_id", j->st.instance_id), KV("digest", rq.digest ? rq.digest : ""),
               KV("reason_code", mt_reason_code(f.reason)), KV("detail", f.detail), KV_ERR(&j->err));
        (void)snprintf(j->explain, sizeof j->explain, "%s", j->err.msg);
        if (f.detail[0])
            (void)mt_err_wrap(&j->err, "%s", f.detail);
        (void)fail(j, f.reason);
        return;
    }
    if (!j->disk.cached)
        (void)atomic_fetch_add(&j->a->measure.pulls_ok, 1);
    have_image(j);
}

/* ---- boot -------------------------------------------------------------------------------- */

static int do_volumes(struct mt_job *j)
{
    if (j->volumes_n == 0)
        return 0;
    begin(MT_STEP_VOLUMES);
    if (mt_inst_attach_volumes(j->a, j->st.instance_id, j->volumes, j->volumes_n, &j->err) < 0)
        return fail(j, MT_REASON_VOLUME_ATTACH_FAILED);
    done(MT_STEP_VOLUMES);
    return 0;
}

static int do_scratch(struct mt_job *j)
{
    char path[PATH_MAX];
    begin(MT_STEP_SCRATCH);
    if (scratch_path(j, path, &j->err) < 0 ||
        mt_scratch_make(j->a->conf.mkfs_path, path, j->spec->resources.disk_bytes, j->st.scratch_uuid, &j->err) < 0)
        return fail(j, j->err.code == MT_E_LIMIT ? MT_REASON_DISK_FULL : MT_REASON_VMM_START_FAILED);
    j->st.t.disk = wall();
    done(MT_STEP_SCRATCH);
    return 0;
}

/* Firewall and tap, on a thread of their own beside scratch disk and jail: they wait for other programs and other locks. */
struct network {
    struct mt_job *j;
    pthread_t thread;
    bool started;
    int rc;
    struct mt_err err;
};

static void do_network(struct network *n)
{
    struct mt_job *j = n->j;
    struct mt_fw_vm vm;
    struct mt_tap tap = {.slot = j->st.slot, .mtu = j->mtu, .guest = j->guest, .node = j->node, .has_node = j->has_node};

    fw_vm_of(&j->st, j->spec, &vm);
    mt_inst_limit_tap(&tap, j->a, j->vmm, &j->limits);
    begin(MT_STEP_FIREWALL);
    n->rc = mt_fw_admit(j->a->fw, &vm, &n->err);
    if (n->rc < 0) {
        (void)mt_err_wrap(&n->err, "nft");
        return;
    }
    done(MT_STEP_FIREWALL);
    begin(MT_STEP_TAP);
    n->rc = mt_tap_up(&tap, &n->err);
    if (n->rc < 0)
        return;
    j->st.t.network = wall();
    done(MT_STEP_TAP);
}

static void *network_main(void *arg)
{
    do_network(arg);
    return NULL;
}

static void network_begin(struct network *n)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, (size_t)256 << 10);
    n->started = pthread_create(&n->thread, &attr, network_main, n) == 0;
    (void)pthread_attr_destroy(&attr);
}

/* Whatever happened beside it, it has to end before the job does. Once more finds nothing to do. */
static void network_end(struct network *n)
{
    if (n->started)
        (void)pthread_join(n->thread, NULL);
    n->started = false;
}

static int network_take(struct network *n)
{
    if (!n->started)
        do_network(n); /* no thread was to be had: later, but done */
    network_end(n);
    if (n->rc == 0)
        return 0;
    n->j->err = n->err;
    return fail(n->j, MT_REASON_NETWORK_SETUP_FAILED);
}

static int on_record(void *user, const struct mt_vmm_ids *ids, struct mt_err *err)
{
    struct mt_job *j = user;
    j->st.vmm = *ids;
    j->st.t.launch = wall(); /* the next thing that happens is the exec of the VMM */
    int rc = mt_state_save(j->dir, &j->st, err);
    if (rc == 0) {
        j->st.t.launch = wall(); /* writing took its time */
        post_phase(j, "booting_vm", true);
    }
    if (rc == 0)
        mt_kill_here(MT_KILL_LIFE, MT_LIFE_HELD, MT_KILL_RECORDED);
    return rc;
}

/* A monitor says in its own words that it cannot run a guest any more: the device is asked itself. */
static int fail_launch(struct mt_job *j)
{
    if (mt_vmm_accel(j->vmm) == MT_VMM_KVM) {
        mt_auto_fd int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        j->kvm_gone = kvm < 0;
        if (j->kvm_gone)
            (void)MT_FAIL_ERRNO(&j->err, MT_E_UNAVAILABLE, "kvm_unavailable: /dev/kvm");
    }
    return fail(j, MT_REASON_VMM_START_FAILED);
}

static int do_vm(struct mt_job *j, struct network *net)
{
    const struct mt_workload *w = j->spec;
    char scratch[PATH_MAX], console[PATH_MAX], old[PATH_MAX], tap[IFNAMSIZ], identity[512];
    char args[MT_VMM_BOOT_ARGS_MAX];
    uint8_t host_mac[6];
    struct mt_vmm_spec s = {.jail_id = j->st.vmm.jail_id,
                            .slot = j->st.slot,
                            .vcpu_count = w->resources.vcpu_count,
                            .mem_mib = (uint32_t)(w->resources.memory_bytes >> 20),
                            .overhead_mib = j->overhead_mib,
                            .cpu_weight = w->resources.cpu_weight,
                            .kernel_path = j->bundle.kernel_path,
                            .initramfs_path = j->bundle.initramfs_path,
                            .boot_args = args,
                            .tap = tap,
                            .mtu = j->mtu,
                            .console_path = console,
                            .identity_json = identity};

    if (scratch_path(j, scratch, &j->err) < 0 || console_path(j, "console.ring", console, &j->err) < 0 ||
        console_path(j, "console.prev.ring", old, &j->err) < 0 ||
        mt_guest_boot_args(j->bundle.builtin, j->st.instance_id, j->st.boot_id, args, sizeof args, &j->err) < 0 ||
        mt_fmt(identity, sizeof identity, &j->err,
               "{\"format\":1,\"instance_id\":\"%s\",\"boot_id\":\"%s\",\"boot_seq\":%" PRIu64 ",\"slot\":%u}\n",
               j->st.instance_id, j->st.boot_id, j->st.boot_seq, j->st.slot) < 0)
        return fail(j, MT_REASON_VMM_START_FAILED);
    mt_state_tap(&j->st, tap);
    mt_tap_macs(j->st.slot, host_mac, s.guest_mac);
    s.root = (struct mt_vmm_disk){.path = j->disk.path, .read_only = true};
    s.scratch = (struct mt_vmm_disk){.path = scratch,
                                     .bytes_per_s = j->limits.disk_bytes_per_second,
                                     .ops_per_s = j->limits.disk_ops_per_second};
    for (; s.volume_count < j->volumes_n; s.volume_count++)
        s.volumes[s.volume_count] = (struct mt_vmm_disk){.path = j->volumes[s.volume_count].path,
                                                         .read_only = j->volumes[s.volume_count].read_only,
                                                         .bytes_per_s = j->limits.disk_bytes_per_second,
                                                         .ops_per_s = j->limits.disk_ops_per_second};
    s.net_rx_bytes_per_s = s.net_tx_bytes_per_s = j->limits.net_bytes_per_second;
    s.net_packets_per_s = j->limits.net_packets_per_second;
    (void)rename(console, old); /* the ring of the attempt before stays readable */

    begin(MT_STEP_JAIL);
    if (mt_vmm_prepare(j->vmm, &s, &j->err) < 0)
        return fail(j, strstr(j->err.msg, "cgroup") ? MT_REASON_CGROUP_SETUP_FAILED : MT_REASON_VMM_START_FAILED);
    static const uint32_t ports[2] = {MT_GUEST_PORT_CONTROL, MT_GUEST_PORT_LOG};
    for (int i = 0; i < 2; i++) {
        if (mt_vmm_listen(j->vmm, &j->st.vmm, ports[i], &j->listen_fds[i], &j->err) < 0)
            return fail(j, MT_REASON_VMM_START_FAILED);
    }
    done(MT_STEP_JAIL);
    if (network_take(net) < 0 || record(j, MT_STEP_BIT(MT_STEP_LAUNCH)) < 0)
        return -1;
    begin(MT_STEP_LAUNCH);
    if (mt_vmm_launch(j->vmm, &s, on_record, j, &j->run, &j->err) < 0)
        return fail_launch(j);
    j->st.vmm = j->run.ids;
    j->st.t.vm = wall();
    done(MT_STEP_LAUNCH);
    return 0;
}

/* At hand before anything of the host changes: the control plane may have to be asked. */
static int do_secrets(struct mt_job *j)
{
    const char *version = j->spec->secrets.version_id, *detail = "unavailable";
    if (!version || mt_secret_store_fetch(j->a->secrets, j->st.instance_id, version, &detail, &j->err) == 0)
        return 0;
    mt_log(MT_WARN, "secrets.not_fetched", KV("instance_id", j->st.instance_id), KV("version_id", version), KV("detail", detail), KV_ERR(&j->err));
    (void)MT_FAIL(&j->err, j->err.code, "%s: %s", detail, version);
    return fail(j, MT_REASON_SECRETS_INJECTION_FAILED);
}

static void boot_work(void *arg)
{
    struct mt_job *j = arg;
    struct network net = {.j = j};
    uint32_t steps = MT_STEP_BIT(MT_STEP_SCRATCH) | MT_STEP_BIT(MT_STEP_FIREWALL) | MT_STEP_BIT(MT_STEP_TAP) | MT_STEP_BIT(MT_STEP_JAIL);
    if (j->volumes_n > 0)
        steps |= MT_STEP_BIT(MT_STEP_VOLUMES);
    if (do_secrets(j) < 0 || record(j, steps) < 0 || do_volumes(j) < 0)
        return;
    network_begin(&net);
    if (do_scratch(j) == 0)
        (void)do_vm(j, &net);
    network_end(&net);
}

/* ---- teardown ---------------------------------------------------------------------------- */

static void note_console(struct mt_job *j)
{
    char path[PATH_MAX], buf[8192];
    size_t n = 0;
    if (!j->vmm || console_path(j, "console.ring", path, NULL) < 0 ||
        mt_vmm_console(j->vmm, path, NULL, buf, sizeof buf - 1, &n, NULL) < 0)
        return;
    free(j->console);
    j->console = mt_autopsy_console(buf, n, &j->console_len, j->console_line);
}

static int undo_step(struct mt_job *j, enum mt_step step, struct mt_err *err)
{
    char path[PATH_MAX], tap[IFNAMSIZ];
    struct mt_vmm_usage usage = {0};

    switch (step) {
    case MT_STEP_LAUNCH:
        note_console(j);
        if (mt_vmm_usage(j->vmm, &j->st.vmm, &usage, NULL) == 0)
            j->oom_kills = usage.oom_kills;
        return mt_vmm_kill(j->vmm, &j->st.vmm, err);
    case MT_STEP_JAIL:
        return mt_vmm_teardown(j->vmm, &j->st.vmm, err);
    case MT_STEP_TAP:
        return mt_tap_down(j->st.slot, err);
    case MT_STEP_FIREWALL:
        mt_state_tap(&j->st, tap);
        return mt_fw_remove(j->a->fw, tap, err);
    case MT_STEP_SCRATCH:
        if (scratch_path(j, path, err) < 0)
            return -MT_E_LIMIT;
        if (unlink(path) < 0 && errno != ENOENT)
            return MT_FAIL_ERRNO(err, MT_E_IO, "remove scratch disk '%s'", path);
        return 0;
    case MT_STEP_VOLUMES: /* the locks are the instance's: closed when this job is done, and with every process of an agent that ends */
        return 0;
    case MT_STEP_IMAGE:
        mt_image_release(j->a->images, j->st.instance_id);
        return 0;
    case MT_STEP_SLOT:
    case MT_STEP_MAX:
        break;
    }
    return 0;
}

static void teardown_work(void *arg)
{
    struct mt_job *j = arg;
    const uint32_t needs_vmm = MT_STEP_BIT(MT_STEP_LAUNCH) | MT_STEP_BIT(MT_STEP_JAIL);

    if ((j->st.undo & needs_vmm) && !j->vmm) {
        j->rc = mt_agent_vmm_named(j->a, j->st.driver, j->st.accel, &j->vmm, &j->err);
        if (j->rc < 0)
            return;
    }
    if (!j->st.planned && !j->st.interrupted && j->st.t.launch && (j->tail = calloc(1, sizeof *j->tail)))
        mt_autopsy_tail(j->a->conf.logs_dir, j->st.instance_id, (uint32_t)j->st.boot_seq, j->tail);
    if (j->tail && j->vmm && !(j->st.undo & MT_STEP_BIT(MT_STEP_LAUNCH)))
        note_console(j); /* an agent before this one took the VM down and was killed */
    /* the state on disk says teardown, with the whole undo list, before the first thing is undone */
    if (mt_state_save(j->dir, &j->st, &j->err) < 0)
        mt_log(MT_ERROR, "instance.save_failed", KV("instance_id", j->st.instance_id), KV_ERR(&j->err));
    for (int i = MT_STEP_MAX - 1; i >= 0; i--) {
        if (!(j->st.undo & MT_STEP_BIT(i)))
            continue;
        mt_kill_here(MT_KILL_TEARDOWN, i, MT_KILL_RECORDED);
        j->rc = undo_step(j, (enum mt_step)i, &j->err);
        if (j->rc < 0)
            return; /* what is left stays recorded and is tried again */
        mt_kill_here(MT_KILL_TEARDOWN, i, MT_KILL_DONE);
        j->st.undo &= ~MT_STEP_BIT(i);
        if (mt_state_save(j->dir, &j->st, &j->err) < 0)
            mt_log(MT_ERROR, "instance.save_failed", KV("instance_id", j->st.instance_id), KV_ERR(&j->err));
    }
}

/* ---- adoption ---------------------------------------------------------------------------- */

static void adopt_work(void *arg)
{
    struct mt_job *j = arg;
    char console[PATH_MAX];

    if (strcmp(j->st.host_boot, j->a->host_boot) != 0 || !(j->st.undo & MT_STEP_BIT(MT_STEP_LAUNCH)) ||
        j->st.vmm.proc_count == 0)
        return; /* another boot of the host, or it never got that far */
    j->rc = mt_agent_vmm_named(j->a, j->st.driver, j->st.accel, &j->vmm, &j->err);
    if (j->rc < 0 || (j->rc = console_path(j, "console.ring", console, &j->err)) < 0)
        return;
    int rc = mt_vmm_adopt(j->vmm, &j->st.vmm, console, &j->run, &j->err);
    if (rc < 0) {
        mt_log(MT_INFO, "instance.not_adopted", KV("instance_id", j->st.instance_id), KV_ERR(&j->err));
        return;
    }
    if (!j->spec)
        return; /* its spec is lost: it cannot be served, teardown ends it */
    static const uint32_t ports[2] = {MT_GUEST_PORT_CONTROL, MT_GUEST_PORT_LOG};
    for (int i = 0; i < 2; i++) {
        if (mt_vmm_listen(j->vmm, &j->st.vmm, ports[i], &j->listen_fds[i], &j->err) < 0)
            return;
    }
    if (j->st.digest[0] && mt_image_lookup(j->a->images, j->st.digest, &j->disk, NULL) == 0)
        j->have_disk = true;
    j->alive = true;
}

/* ---- the loop's side --------------------------------------------------------------------- */

static void submit(struct mt_inst *in, struct mt_pool *pool, mt_task_fn work, mt_task_fn on_done, struct mt_job *j);
static void prepare_done(void *arg);
static void image_done(void *arg);

static void begin_failed(struct mt_inst *in, enum mt_reason reason, const char *detail)
{
    mt_inst_end(in, reason, detail);
    mt_inst_teardown(in, "prepare failed");
}

static void take_results(struct mt_inst *in, struct mt_job *j)
{
    merge(in, j);
    in->job = NULL;
    if (j->have_disk) {
        mt_rootdisk_done(&in->disk);
        in->disk = j->disk;
        j->disk = (struct mt_rootdisk){0};
        in->have_disk = true;
    }
    for (size_t i = 0; i < j->volumes_n; i++) {
        mt_volumes_grown(in->a->volumes, &j->volumes[i]);
        if (j->volumes[i].lock >= 0)
            mt_inst_hold_volume(in, j->volumes[i].volume_id, MT_TAKE_FD(j->volumes[i].lock));
    }
}

static void after_job(struct mt_inst *in)
{
    if (in->save_again && !in->saving && !in->job)
        mt_inst_save(in, 0);
}

static void broken_off(struct mt_inst *in)
{
    mt_inst_teardown(in, "cancelled");
}

static void image_done(void *arg)
{
    struct mt_job *j = arg;
    struct mt_inst *in = j->in;

    take_results(in, j);
    (void)snprintf(in->explain, sizeof in->explain, "%s", j->explain);
    if (j->was_cancelled || atomic_load(&in->cancelled)) {
        broken_off(in);
    } else if (j->rc < 0) {
        begin_failed(in, j->reason, j->err.msg);
    } else if (j->need_pull) {
        struct mt_job *pull = job_new(in, JOB_PULL);
        if (!pull) {
            begin_failed(in, MT_REASON_NODE_CAPACITY_EXCEEDED, "memory");
        } else {
            in->detail = mt_image_phase_name(MT_IMAGE_PULLING);
            mt_inst_report(in, false);
            submit(in, in->a->pulls, pull_work, image_done, pull);
        }
    } else {
        in->waiting_boot = true;
        mt_inst_look(in);
    }
    job_free(j);
    after_job(in);
}

static void prepare_done(void *arg)
{
    struct mt_job *j = arg;
    struct mt_inst *in = j->in;

    take_results(in, j);
    if (j->rc == 0 && !j->was_cancelled) {
        in->run = j->run;
        j->run = MT_VMM_RUN_NONE;
        for (int i = 0; i < 2; i++)
            in->listen_fds[i] = MT_TAKE_FD(j->listen_fds[i]);
        (void)snprintf(in->bundle, sizeof in->bundle, "%s", j->bundle.version);
        mt_inst_set_phase(in, MT_PH_BOOTING, "launched");
        in->detail = "booting_vm"; /* said already when it was launched: no hurry */
        mt_inst_live(in, false);
        mt_inst_save(in, 0);
        mt_inst_report(in, false);
        if (atomic_load(&in->cancelled))
            mt_inst_look(in); /* cancelled too late: the row `booting` decides */
    } else if (j->was_cancelled) {
        broken_off(in);
    } else {
        mt_log(MT_WARN, "instance.prepare_failed", KV("instance_id", in->st.instance_id),
               KV("reason_code", mt_reason_code(j->reason)), KV_ERR(&j->err), mt_inst_kv_trace(in));
        begin_failed(in, j->reason, j->err.msg);
        if (j->kvm_gone)
            mt_boots_driver_lost(in->a, j->err.msg);
    }
    job_free(j);
    after_job(in);
    mt_agent_look_soon(in->a);
}

static void on_retry_teardown(struct mt_source *s, void *arg)
{
    struct mt_inst *in = arg;
    (void)s;
    mt_inst_teardown(in, "retry");
}

static void teardown_done(void *arg)
{
    struct mt_job *j = arg;
    struct mt_inst *in = j->in;

    merge(in, j);
    in->job = NULL;
    if (j->vmm)
        in->vmm = j->vmm;
    if (j->rc < 0) {
        mt_log(MT_ERROR, "instance.vm_stuck", KV("instance_id", in->st.instance_id), KV_ERR(&j->err));
        in->stuck = true;
        if (!in->deadline)
            in->deadline = mt_loop_timer(in->a->loop, "teardown.retry", on_retry_teardown, in, NULL);
        if (in->deadline)
            mt_loop_timer_after(in->deadline, 30000); /* runtime.md §7.5: keep the resources, retry each 30 s */
        job_free(j);
        return;
    }
    in->stuck = false;
    mt_inst_release_volumes(in);
    mt_loop_del(in->deadline);
    in->deadline = NULL;
    if (!in->st.planned && !in->st.interrupted && !in->st.end.reason[0]) {
        if (j->oom_kills)
            mt_inst_end(in, MT_REASON_OOM_KILLED, "cgroup");
        else if (mt_autopsy_says_oom(j->console_line))
            mt_inst_end(in, MT_REASON_OOM_KILLED, "guest");
        else
            mt_inst_end(in, MT_REASON_VM_LOST, j->console_line);
    } else if (strcmp(in->st.end.reason, mt_reason_code(MT_REASON_BOOT_TIMEOUT)) == 0 && !in->st.end.detail[0]) {
        (void)snprintf(in->st.end.detail, sizeof in->st.end.detail, "%s", j->console_line);
    }
    if (!in->st.planned && !in->st.interrupted && (MT_STREQ(in->st.end.reason, mt_reason_code(MT_REASON_BOOT_TIMEOUT)) ||
                                                   MT_STREQ(in->st.end.reason, mt_reason_code(MT_REASON_VM_LOST))))
        mt_boots_seen(in->a, in->bundle, false);
    in->bundle[0] = '\0';
    if (!in->st.planned && !in->st.interrupted && strcmp(in->st.end.reason, mt_reason_code(MT_REASON_COMPLETED)) != 0)
        mt_inst_make_autopsy(in, j->console, j->console_len, j->tail, j->oom_kills);
    mt_rootdisk_done(&in->disk);
    in->have_disk = false;
    if (in->st.slot != MT_STATE_NO_SLOT)
        mt_slots_free(&in->a->slots, in->st.slot, mt_loop_now(in->a->loop));
    job_free(j);
    mt_inst_attempt_over(in);
    after_job(in);
    mt_agent_look_soon(in->a);
}

static void adopt_done(void *arg)
{
    struct mt_job *j = arg;
    struct mt_inst *in = j->in;

    take_results(in, j);
    if (j->vmm)
        in->vmm = j->vmm;
    if (j->alive) {
        in->run = j->run;
        j->run = MT_VMM_RUN_NONE;
        for (int i = 0; i < 2; i++)
            in->listen_fds[i] = MT_TAKE_FD(j->listen_fds[i]);
        mt_log(MT_INFO, "instance.adopted", KV("instance_id", in->st.instance_id), KV("boot_id", in->st.boot_id),
               KV("pid", (int64_t)in->st.vmm.proc[0].pid));
        if (in->st.phase == MT_PH_PREPARING)
            mt_inst_set_phase(in, MT_PH_BOOTING, "launched before the agent died");
        mt_inst_live(in, true);
        mt_inst_save(in, 0);
        mt_inst_report(in, true);
    } else {
        /* a prepare that was cut short, or a reboot of the host, is nobody's fault */
        if (in->st.phase == MT_PH_PREPARING || strcmp(in->st.host_boot, in->a->host_boot) != 0)
            in->st.interrupted = !in->st.end.reason[0];
        mt_inst_teardown(in, "not alive after an agent start");
    }
    job_free(j);
    after_job(in);
    mt_agent_look_soon(in->a);
}

void mt_inst_job_start(struct mt_inst *in)
{
    struct mt_job *j = in->job;
    struct mt_err err = {0};

    if (!j || !in->job_waits)
        return;
    in->job_waits = false;
    j->st = in->st; /* what changed while it waited */
    if (mt_pool_submit(j->pool, j->work, j->on_done, j, &err) < 0) {
        /* the queue holds thousands; when it is full all the same, the job runs here rather than be lost */
        mt_log(MT_WARN, "pool.full", KV("instance_id", in->st.instance_id), KV_ERR(&err));
        j->work(j);
        j->on_done(j);
    }
}

static void submit(struct mt_inst *in, struct mt_pool *pool, mt_task_fn work, mt_task_fn on_done, struct mt_job *j)
{
    in->job = j;
    in->job_waits = true;
    j->pool = pool;
    j->work = work;
    j->on_done = on_done;
    if (!in->saving) /* else the end of the save starts it: one writer of the state file at a time */
        mt_inst_job_start(in);
}

void mt_inst_cancel(struct mt_inst *in)
{
    if (!atomic_exchange(&in->cancelled, true) && in->job)
        mt_image_cancel(in->a->images, &in->cancelled);
    if (!in->job)
        broken_off(in);
}

void mt_inst_teardown(struct mt_inst *in, const char *why)
{
    if (in->checking) { /* the driver allows one call for one VM at a time */
        in->teardown_waiting = true;
        return;
    }
    MT_ASSERT(!in->job);
    in->teardown_waiting = false;
    in->waiting_boot = false;
    mt_inst_note_place(in);
    mt_inst_unlive(in);
    if (in->st.phase != MT_PH_TEARDOWN && mt_phase_may(in->st.phase, MT_PH_TEARDOWN))
        mt_inst_set_phase(in, MT_PH_TEARDOWN, why);
    struct mt_job *j = job_new(in, JOB_TEARDOWN);
    MT_ASSERT(j); /* some hundred bytes at the end of a VM that held megabytes */
    submit(in, in->a->steps, teardown_work, teardown_done, j);
}

void mt_inst_adopt(struct mt_inst *in)
{
    mt_inst_retake_volumes(in);
    if (in->st.phase == MT_PH_TEARDOWN || (in->st.phase == MT_PH_NONE && in->st.undo)) {
        mt_inst_teardown(in, "goes on after an agent start");
        return;
    }
    if (!mt_phase_live(in->st.phase))
        return;
    struct mt_job *j = job_new(in, JOB_ADOPT);
    MT_ASSERT(j);
    submit(in, in->a->steps, adopt_work, adopt_done, j);
}

/* The spec becomes the instance's own: a plan is replaced, what runs stays what it was. */
static int take_spec(struct mt_inst *in, struct mt_err *err)
{
    char path[PATH_MAX];
    struct mt_workload *w = NULL;
    int rc = mt_workload_decode(in->as->workload->doc, &w, NULL, err);
    if (rc == 0)
        rc = mt_fmt(path, sizeof path, err, "%s/spec.json", in->dir);
    if (rc == 0)
        rc = mt_sealed_save(path, w->doc, err);
    if (rc < 0) {
        mt_workload_free(w);
        return rc;
    }
    mt_workload_free(in->spec);
    in->spec = w;
    return 0;
}

void mt_inst_begin(struct mt_inst *in)
{
    struct mt_agent *a = in->a;
    struct mt_state *st = &in->st;
    const struct mt_workload *w = in->as->workload;
    struct mt_err err = {0};
    enum mt_reason reason = MT_REASON_NONE;
    struct in6_addr addr;

    if (a->probing || !mt_agent_vmm(a) || !a->fw_loaded || in->job || in->saving || !mt_volumes_settled(a->volumes, w))
        return; /* looked at again when that changes */
    if (st->phase == MT_PH_BACKOFF)
        mt_inst_set_phase(in, MT_PH_NONE, "retry");
    int rc = mt_agent_admit(a, in, w->resources.memory_bytes, &reason, &err);
    /* asked of what is in force, not of the state's hash: an attempt that was not admitted has left that one and no spec */
    if (rc == 0 && (!in->spec || strcmp(in->spec->spec_hash, w->spec_hash) != 0)) {
        rc = take_spec(in, &err);
        reason = MT_REASON_DISK_FULL;
    }
    in->check_volumes = MT_STREQ(st->end.reason, mt_reason_code(MT_REASON_VOLUME_ATTACH_FAILED)) && strncmp(st->end.detail, "mount_failed", 12) == 0;
    st->end = (struct mt_end){0};
    st->planned = st->interrupted = st->stop_reported = false;
    st->next_retry_us = 0;
    st->boot_seq++;
    mt_id_new(MT_ID_BOOT, st->boot_id);
    st->generation = in->as->generation;
    (void)snprintf(st->spec_hash, sizeof st->spec_hash, "%s", w->spec_hash);
    (void)snprintf(st->env_id, sizeof st->env_id, "%s", w->env_id);
    (void)snprintf(st->address, sizeof st->address, "%s", w->network.overlay_ipv6);
    (void)snprintf(st->digest, sizeof st->digest, "%s", w->image.resolved_digest ? w->image.resolved_digest : "");
    (void)snprintf(st->host_boot, sizeof st->host_boot, "%s", a->host_boot);
    int64_t plan_at = st->t.plan;
    st->t = (struct mt_timeline){.plan = st->boot_seq == 1 ? plan_at : 0, .prepare = wall()};
    in->vmm = mt_agent_vmm(a);
    (void)snprintf(st->driver, sizeof st->driver, "%s", mt_vmm_kind_name(mt_vmm_kind(in->vmm)));
    (void)snprintf(st->accel, sizeof st->accel, "%s", mt_vmm_accel_name(mt_vmm_accel(in->vmm)));
    in->ready_total_ns = in->ready_since_ns = 0;
    in->health_why[0] = in->explain[0] = '\0';
    in->health_status = 0;
    in->health_body_len = 0;
    in->end_phase = in->end_step = NULL;
    in->oom_kills = 0;
    in->pong = (struct mt_guest_pong){0};
    in->hcount = (struct mt_health_count){0};
    atomic_store(&in->cancelled, false);
    mt_inst_set_phase(in, MT_PH_PREPARING, "wanted");
    mt_inst_report(in, false);

    if (rc == 0 && (inet_pton(AF_INET6, st->address, &addr) != 1 ||
                    (a->net.has_prefix && !mt_net_inside6(&addr, &a->net.prefix, a->net.prefix_len)))) {
        reason = MT_REASON_NETWORK_SETUP_FAILED;
        rc = MT_FAIL(&err, MT_E_INVALID, "address_not_local");
    }
    if (rc == 0 && w->resources.memory_bytes >> 20 < a->bundle.min_memory_mib) {
        reason = MT_REASON_SPEC_UNSUPPORTED;
        rc = MT_FAIL(&err, MT_E_INVALID, "memory: %llu MiB, the node's guest kernel needs at least %u",
                     (unsigned long long)(w->resources.memory_bytes >> 20), a->bundle.min_memory_mib);
    }
    if (rc == 0 && w->n_mounts > MT_VMM_VOLUMES_MAX) {
        reason = MT_REASON_SPEC_UNSUPPORTED;
        rc = MT_FAIL(&err, MT_E_INVALID, "mounts: %zu, at most %d", w->n_mounts, MT_VMM_VOLUMES_MAX);
    }
    if (rc == 0 && w->secrets.required && !w->secrets.version_id) {
        reason = MT_REASON_SECRETS_MISSING;
        rc = MT_FAIL(&err, MT_E_INVALID, "required, and no version is pinned");
    }
    if (rc == 0 && !mt_slots_take(&a->slots, mt_loop_now(a->loop), &st->slot)) {
        reason = MT_REASON_NODE_CAPACITY_EXCEEDED;
        rc = MT_FAIL(&err, MT_E_LIMIT, "slots");
    }
    struct mt_job *j = NULL;
    if (rc == 0) {
        st->vmm = (struct mt_vmm_ids){.slot = st->slot};
        rc = mt_state_jail_id(st, st->vmm.jail_id, &err);
        reason = MT_REASON_VMM_START_FAILED;
        j = job_new(in, JOB_IMAGE);
        if (rc == 0 && !j)
            rc = MT_FAIL(&err, MT_E_NOMEM, "out of memory");
    }
    if (rc < 0) {
        free(j);
        begin_failed(in, reason, err.msg);
        return;
    }
    submit(in, a->steps, image_work, image_done, j);
}

void mt_inst_boot(struct mt_inst *in)
{
    in->waiting_boot = false;
    mt_pace_note(&in->a->launches, mt_loop_now(in->a->loop));
    struct mt_job *j = job_new(in, JOB_BOOT);
    if (!j) {
        begin_failed(in, MT_REASON_NODE_CAPACITY_EXCEEDED, "memory");
        return;
    }
    j->volumes_n = mt_inst_attachments(in, j->volumes);
    /* the job reads the root disk of the instance; it stays while the job runs */
    j->disk.path = mt_strndup(in->disk.path, strlen(in->disk.path));
    submit(in, in->a->steps, boot_work, prepare_done, j);
}
