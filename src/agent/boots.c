/* SPDX-License-Identifier: Apache-2.0 */
/* The bundle and driver in use. See boots.h. */
#include "agent/boots.h"

#include "agent/bundle.h"
#include "agent/control.h"
#include "agent/instance/state.h"
#include "agent/restores.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/json.h"

#include <unistd.h>

#define MARK_MAX 4096
#define PROBE_AGAIN_MS 30000

enum boot_for {
    BOOT_FIND = 0, /* the bundle alone */
    BOOT_PROBE,    /* and a driver that boots it */
    BOOT_GIVE_UP   /* the one before it */
};

struct boot_job {
    struct mt_agent *a;
    char version[64]; /* that the plan names, "" none: `current` */
    char bad[64];     /* that this node gave up, "" none */
    bool probe, giving_up; /* giving_up: bad is so since now */
    struct mt_bundle bundle, named, before; /* the last two: while the one before is tried */
    char instead_of[64]; /* bundle is the one before this one */
    char why[800];       /* that one does not do */
    struct mt_vmm_choice choice;
    int rc;
    struct mt_err err;
};

static int probe(struct boot_job *j)
{
    const struct mt_agent *a = j->a;
    char vsock[PATH_MAX], cache[PATH_MAX];
    struct mt_vmm_probe_conf pc = {.want = a->conf.vmm,
                                   .kernel_path = j->bundle.kernel_path,
                                   .initramfs_path = j->bundle.initramfs_path,
                                   .cache_path = cache,
                                   .scratch_dir = a->conf.scratch_dir,
                                   .bundle_version = j->bundle.version};
    if (mt_fmt(vsock, sizeof vsock, &j->err, "%s/moat-vsock", a->conf.bin_dir) < 0 ||
        mt_fmt(cache, sizeof cache, &j->err, "%s/vmm.json", a->conf.run_dir) < 0)
        return -MT_E_LIMIT;
    mt_agent_vmm_conf(a, vsock, &pc.vmm);
    return mt_vmm_probe(&pc, &j->choice, &j->err);
}

static struct mt_bundle_trust trust_of(const struct mt_agent *a)
{
    return (struct mt_bundle_trust){.keys = a->conf.bundle_keys.v, .n_keys = a->conf.bundle_keys.n, .machine_id = "/etc/machine-id"};
}

/* The bundle before this one in its place. @young: only when this one is not proven by a day of use. False when there is none. */
static bool step_back(struct boot_job *j, bool young, const char *why)
{
    struct mt_err err = {0};
    const struct mt_bundle_trust trust = trust_of(j->a);
    if (mt_bundle_before(j->a->conf.boot_dir, j->bundle.version, young, &trust, &j->before, &err) < 0) {
        mt_log(MT_WARN, "bundle.none_before", KV("bundle", j->bundle.version), KV_ERR(&err));
        return false;
    }
    (void)snprintf(j->instead_of, sizeof j->instead_of, "%s", j->bundle.version);
    (void)snprintf(j->why, sizeof j->why, "%s", why);
    j->bundle = j->before;
    return true;
}

/* No driver boots the bundle. Its fault only if the one before it boots, and it still does not after that: a host may be slow for a while. */
static int probe_the_one_before(struct boot_job *j)
{
    struct mt_vmm_choice named = j->choice, before;
    j->named = j->bundle;
    if (!step_back(j, true, named.reason))
        return 0;
    int rc = probe(j);
    before = j->choice;
    if (rc == 0 && before.ok) {
        j->bundle = j->named;
        rc = probe(j);
        if (rc < 0 || !j->choice.ok) {
            j->bundle = j->before;
            j->choice = before;
            return 0;
        }
        named = j->choice;
    }
    j->bundle = j->named;
    j->instead_of[0] = '\0';
    j->choice = named;
    return rc;
}

static void boot_work(void *arg)
{
    struct boot_job *j = arg;
    struct mt_vmm *vmm;
    const struct mt_bundle_trust trust = trust_of(j->a);

    j->rc = mt_bundle_find(j->a->conf.boot_dir, j->version[0] ? j->version : NULL, &trust, &j->bundle, &j->err);
    if (j->rc < 0)
        return;
    if (MT_STREQ(j->bundle.version, j->bad))
        (void)step_back(j, j->giving_up, "boots with it end before hello");
    if (!j->probe)
        return;
    j->rc = probe(j);
    if (j->rc == 0 && !j->choice.ok && !j->instead_of[0])
        j->rc = probe_the_one_before(j);
    if (j->rc == 0 && j->choice.ok)
        j->rc = mt_agent_vmm_named(j->a, mt_vmm_kind_name(j->choice.kind), mt_vmm_accel_name(j->choice.accel), &vmm, &j->err);
}

/* Which version was given up outlives the agent: the next one would boot it three times more. */
static void mark(struct mt_agent *a, const char *version)
{
    char path[PATH_MAX];
    struct mt_err err = {0};
    (void)snprintf(a->bundle_bad, sizeof a->bundle_bad, "%s", version);
    if (mt_fmt(path, sizeof path, &err, "%s/bundle.json", a->conf.agent_dir) < 0)
        return;
    mt_auto_json json_t *doc = version[0] ? json_pack("{s:s}", "given_up", version) : NULL;
    if (version[0] ? !doc || mt_sealed_save(path, doc, &err) < 0 : unlink(path) < 0 && errno != ENOENT)
        mt_log(MT_ERROR, "bundle.not_marked", KV("bundle", version), KV_ERR(&err));
}

static void read_mark(struct mt_agent *a)
{
    char path[PATH_MAX];
    mt_auto_json json_t *doc = NULL;
    const char *version;
    struct mt_err err = {0};
    if (mt_fmt(path, sizeof path, &err, "%s/bundle.json", a->conf.agent_dir) == 0 && mt_sealed_load(path, MARK_MAX, &doc, &err) == 0 &&
        mt_json_get_str(doc, "given_up", sizeof a->bundle_bad - 1, &version, &err) == 0)
        (void)snprintf(a->bundle_bad, sizeof a->bundle_bad, "%s", version);
}

static void boot_done(void *arg)
{
    struct boot_job *j = arg;
    struct mt_agent *a = j->a;

    if (j->bundle.version[0]) {
        if (!MT_STREQ(j->instead_of, a->bundle_bad))
            mark(a, j->instead_of);
        if (j->instead_of[0])
            mt_log(MT_ERROR, "bundle.fell_back", KV("from", j->instead_of), KV("to", j->bundle.version), KV("reason", j->why));
        a->bundle = j->bundle;
    }
    if (j->probe) {
        a->choice = j->choice;
        if (j->rc < 0) {
            a->choice.ok = false;
            (void)snprintf(a->choice.reason, sizeof a->choice.reason, "%s", j->err.msg);
        }
        a->probing = false;
        mt_restores_look_soon(a->restores); /* probes of proofs wait for the driver too */
        mt_log(a->choice.ok ? MT_INFO : MT_ERROR, "vmm.chosen", KV("ok", a->choice.ok),
               KV("driver", a->choice.ok ? mt_vmm_kind_name(a->choice.kind) : "none"),
               KV("accel", a->choice.ok ? mt_vmm_accel_name(a->choice.accel) : "none"), KV("reason", a->choice.reason),
               KV("hello_ms", a->choice.hello_ms), KV("cached", a->choice.cached), KV("bundle", a->bundle.version));
    } else if (j->rc < 0) {
        mt_log(MT_ERROR, "bundle.not_found", KV_ERR(&j->err));
    }
    free(j);
    mt_control_beat_now(a->control); /* the scheduler waits for the driver */
    mt_agent_look_soon(a);
}

static int start_boot_job(struct mt_agent *a, enum boot_for what, const char *bad, struct mt_err *err)
{
    struct boot_job *j = calloc(1, sizeof *j);
    if (!j)
        return MT_FAIL(err, MT_E_NOMEM, "probe: out of memory");
    j->a = a;
    j->probe = what == BOOT_PROBE;
    j->giving_up = what == BOOT_GIVE_UP;
    (void)snprintf(j->bad, sizeof j->bad, "%s", bad);
    if (a->plan && a->plan->node_config.kernel_version)
        (void)snprintf(j->version, sizeof j->version, "%s", a->plan->node_config.kernel_version);
    int rc = mt_pool_submit(a->steps, boot_work, boot_done, j, err);
    if (rc < 0)
        free(j);
    return rc;
}

int mt_boots_start(struct mt_agent *a, struct mt_err *err)
{
    read_mark(a);
    a->probing = true;
    return start_boot_job(a, BOOT_PROBE, a->bundle_bad, err);
}

void mt_agent_find_bundle(struct mt_agent *a)
{
    /* without a driver yet the whole probe is worth doing again with the bundle that is named */
    if (!a->probing)
        a->probing = !a->choice.ok;
    (void)start_boot_job(a, a->choice.ok ? BOOT_FIND : BOOT_PROBE, a->bundle_bad, NULL);
}

void mt_boots_seen(struct mt_agent *a, const char *version, bool hello)
{
    if (!version[0] || !MT_STREQ(version, a->bundle.version))
        return; /* of a boot before the present version */
    mt_boot_count_note(&a->boot_count, version, hello);
    if (hello || a->bundle_bad[0] || !mt_boot_count_bad(&a->boot_count))
        return;
    struct mt_err err = {0};
    mt_log(MT_ERROR, "bundle.boots_fail", KV("bundle", version), KV("boots", (uint64_t)a->boot_count.n));
    a->boot_count = (struct mt_boot_count){.n = 0}; /* where there is none to go back to, it is looked for again after as many */
    if (start_boot_job(a, BOOT_GIVE_UP, version, &err) < 0)
        mt_log(MT_ERROR, "bundle.not_found", KV_ERR(&err));
}

void mt_boots_driver_lost(struct mt_agent *a, const char *why)
{
    char cache[PATH_MAX];
    if (a->probing || !a->choice.ok)
        return;
    mt_log(MT_ERROR, "vmm.lost", KV("driver", mt_vmm_kind_name(a->choice.kind)), KV("accel", mt_vmm_accel_name(a->choice.accel)), KV("reason", why));
    a->choice.ok = false;
    mt_loop_timer_after(a->drift_timer, PROBE_AGAIN_MS); /* the pass over the host probes again when there is no driver */
    (void)snprintf(a->choice.reason, sizeof a->choice.reason, "%s", why);
    if (mt_fmt(cache, sizeof cache, NULL, "%s/vmm.json", a->conf.run_dir) == 0)
        (void)unlink(cache); /* what it says is not true any more */
    mt_control_beat_now(a->control);
}
