/* SPDX-License-Identifier: Apache-2.0 */
/* See keeper.h. Whatever fails is said once and tried again; a rebuild that the log itself forbids is not. */
#include "control/keeper.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/audit/verify.h"
#include "control/autopsy/autopsy.h"
#include "control/bootstrap.h"
#include "control/log/history.h"
#include "control/measure.h"
#include "control/nodes/ipam.h"
#include "control/nodes/tls.h"
#include "control/secrets/store.h"
#include "control/views/rebuild.h"
#include "control/volumes/backups.h"
#include "control/volumes/drains.h"
#include "control/volumes/migrations.h"
#include "control/volumes/orphans.h"
#include "control/volumes/proofs.h"
#include "control/volumes/prune.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TICK_MS 1000
#define DRAINS_NS (2 * MT_NS_PER_S)
#define SOON_MS 200 /* while a process stands still for its volumes */
#define GC_NS (3600 * MT_NS_PER_S)
#define GC_RETRY_NS (60 * MT_NS_PER_S)
#define AUDIT_NS (6 * 3600 * MT_NS_PER_S) /* verify-audit reads every record that is kept */
#define BACKUPS_NS (5 * MT_NS_PER_S)
#define VIEWS_NS (86400 * MT_NS_PER_S)
#define CHUNK "5000" /* rows in one transaction: nobody waits long behind it */

struct mt_keeper {
    struct mt_control *ctl;
    struct mt_roles *roles;
    pthread_t thread;
    atomic_bool stop;
    int wake_fd;
    struct mt_pg *pg;
    int64_t gc_due_ns, audit_due_ns, backups_due_ns, drains_due_ns, views_due_ns;
    bool soon; /* a migration is under way for which somebody waits */
    char last[240], backups_last[240], migrations_last[240]; /* complaints, said once while they repeat */
};

/* $1 days. Replies are worth keeping as long as a client may still repeat its request (§7). */
static const struct mt_pg_stmt prune_replies = {
    "gc_replies", "DELETE FROM moat.idempotency_records WHERE ctid = ANY (ARRAY(SELECT ctid FROM moat.idempotency_records"
                  " WHERE created_at < now() - make_interval(days => $1) LIMIT " CHUNK "))"};
static const struct mt_pg_stmt prune_heartbeats = {
    "gc_heartbeats", "DELETE FROM moat.node_heartbeats h USING nodes_view n WHERE n.node_id = h.node_id AND n.deleted"};
static const struct mt_pg_stmt prune_edges = {
    "gc_edges", "DELETE FROM moat.edge_heartbeats h USING nodes_view n WHERE n.node_id = h.node_id AND n.deleted"};
static const struct mt_pg_stmt next_request = {
    "keeper_request", "SELECT view, requested_by FROM moat.rebuild_requests WHERE failed IS NULL ORDER BY requested_at, view LIMIT 1"};
static const struct mt_pg_stmt request_done = {"keeper_done", "DELETE FROM moat.rebuild_requests WHERE view = $1"};
static const struct mt_pg_stmt request_failed = {"keeper_failed", "UPDATE moat.rebuild_requests SET failed = $2 WHERE view = $1"};

/* ---- gc ---- */

static int collect(struct mt_keeper *k, struct mt_err *err)
{
    int64_t replies = 0, n = 1;
    while (n > 0 && !atomic_load(&k->stop)) {
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_i32(&p, (int32_t)k->ctl->conf.idempotency_retention_days);
        int rc = mt_pg_query(k->pg, &prune_replies, &p, &res, err);
        if (rc < 0)
            return rc;
        replies += n = mt_pg_affected(res);
    }
    mt_auto_pg_res struct mt_pg_res *beats = NULL;
    int64_t autopsies = 0, shredded = 0;
    int rc = mt_pg_query(k->pg, &prune_heartbeats, NULL, &beats, err);
    if (rc == 0)
        rc = mt_pg_query(k->pg, &prune_edges, NULL, NULL, err);
    if (rc == 0)
        rc = mt_autopsy_prune(k->pg, &autopsies, err);
    if (rc == 0)
        rc = mt_secrets_collect(k->pg, &shredded, err);
    if (rc == 0)
        mt_log(MT_INFO, "gc.done", KV("secrets", shredded), KV("idempotency_records", replies), KV("heartbeats", mt_pg_affected(beats)), KV("autopsies", autopsies));
    return rc;
}

/* ---- audit chains ---- */

static void note_verdict(void *arg, const struct mt_audit_verdict *v)
{
    int *intact = arg;
    if (v->bad_seq == 0)
        return;
    *intact = 0;
    mt_log(MT_ERROR, "audit.chain_broken", KV("chain", v->chain), KV("seq", v->bad_seq), KV("what", v->what), KV("mend", "moat-control verify-audit says all; docs/runbooks.md#auditchainbroken"));
}

/* The chains are verified where the role gc is; who loses it says nothing of them any more. */
static int verify_audit(struct mt_keeper *k, bool ours, int64_t now, struct mt_err *err)
{
    int intact = 1;
    int64_t pending;
    if (!ours) {
        k->audit_due_ns = 0;
        mt_measure_audit(&k->ctl->measure, -1);
        return 0;
    }
    if (now < k->audit_due_ns)
        return 0;
    k->audit_due_ns = now + GC_RETRY_NS;
    int rc = mt_audit_verify(k->pg, NULL, note_verdict, &intact, &pending, err);
    if (rc < 0)
        return rc;
    mt_measure_audit(&k->ctl->measure, intact);
    k->audit_due_ns = now + AUDIT_NS;
    return 0;
}

/* A restored log may not know that a node came back, or who has an address: nothing is taken from anybody before it rules again. */
static int sweep(struct mt_keeper *k, int64_t lease, int64_t now, struct mt_err *err)
{
    if (!k->ctl->conf.ipam_sweep || mt_history_state(k->ctl->history) != MT_RECOVERY_NONE)
        return 0;
    int n = mt_ipam_sweep(k->ctl, k->pg, lease, now >= k->views_due_ns, err);
    if (n > 0)
        k->views_due_ns = now + VIEWS_NS;
    return n < 0 ? n : 0;
}

/* ---- rebuilds that were asked for ---- */

struct watch {
    struct mt_keeper *k;
    int64_t epoch;
};

static bool still_ours(void *arg, int64_t done, int64_t head)
{
    const struct watch *w = arg;
    (void)done;
    (void)head;
    return !atomic_load(&w->k->stop) && mt_roles_epoch(w->k->roles, MT_LEAD_PROJECTOR) == w->epoch;
}

static int settle_request(struct mt_keeper *k, const char *view, const char *failed, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, view);
    if (failed)
        mt_pg_p_text(&p, failed);
    return mt_pg_query(k->pg, failed ? &request_failed : &request_done, &p, NULL, err);
}

static int rebuild(struct mt_keeper *k, int64_t epoch, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int rc = mt_pg_query(k->pg, &next_request, NULL, &res, err);
    if (rc < 0 || mt_pg_rows(res) == 0)
        return rc;
    mt_auto_pg struct mt_pg *owner = NULL;
    const char *view = mt_pg_text(res, 0, 0);
    struct watch w = {.k = k, .epoch = epoch};
    const struct mt_rebuild_conf conf = {.progress = still_ours, .arg = &w};
    struct mt_rebuild_report rep;
    mt_log(MT_INFO, "rebuild.asked", KV("view", view), KV("by", mt_pg_text(res, 0, 1)));
    if ((rc = mt_bootstrap_owner(&k->ctl->conf, "moat-control projector", &owner, err)) < 0)
        return rc;
    rc = mt_views_rebuild(owner, MT_STREQ(view, "all") ? NULL : view, &conf, &rep, err);
    if (rc == 0)
        return settle_request(k, view, NULL, err);
    if (rc == -MT_E_CORRUPT || rc == -MT_E_NOT_FOUND) { /* the same again would end the same way */
        char why[240];
        (void)snprintf(why, sizeof why, "%s", err->msg);
        mt_measure_one(&k->ctl->measure.rebuilds_failed);
        return settle_request(k, view, why, err);
    }
    return rc;
}

/* Without a master key none can be made: that keeps nothing else here from being done. */
static void look_at_backups(struct mt_keeper *k, int64_t lease)
{
    struct mt_err err = {0};
    int rc = mt_backups_look(k->ctl, k->pg, lease, &err);
    if (rc >= 0)
        rc = mt_proofs_look(k->ctl, k->pg, lease, &err);
    if (rc >= 0)
        rc = mt_prune_look(k->ctl, k->pg, lease, &err);
    if (rc >= 0)
        rc = mt_orphans_look(k->ctl, k->pg, lease, &err);
    if (rc < 0 && !MT_STREQ(k->backups_last, err.msg))
        mt_log(MT_WARN, "backup.not_scheduled", KV_ERR(&err));
    (void)snprintf(k->backups_last, sizeof k->backups_last, "%s", rc < 0 ? err.msg : "");
}

/* As above. */
static void look_at_migrations(struct mt_keeper *k, int64_t lease)
{
    struct mt_err err = {0};
    int rc = mt_migrations_look(k->ctl, k->pg, lease, &k->soon, &err);
    if (rc >= 0 && (rc > 0 || mt_clock_mono() >= k->drains_due_ns)) { /* something ended, perhaps: the next one may begin */
        k->drains_due_ns = mt_clock_mono() + DRAINS_NS;
        rc = mt_drains_look(k->ctl, k->pg, lease, &err);
    }
    if (rc < 0 && !MT_STREQ(k->migrations_last, err.msg))
        mt_log(MT_WARN, "migration.not_stepped", KV_ERR(&err));
    (void)snprintf(k->migrations_last, sizeof k->migrations_last, "%s", rc < 0 ? err.msg : "");
}

static int turn(struct mt_keeper *k, struct mt_err *err)
{
    int64_t gc = mt_roles_epoch(k->roles, MT_LEAD_GC), projector = mt_roles_epoch(k->roles, MT_LEAD_PROJECTOR);
    int64_t backups = mt_roles_epoch(k->roles, MT_LEAD_BACKUPS), now = mt_clock_mono();
    int rc = 0;
    k->soon = false;
    if (!gc)
        (void)verify_audit(k, false, now, err);
    if ((!gc && !projector && !backups) || mt_history_state(k->ctl->history) == MT_RECOVERY_FROZEN)
        return 0;
    if (!k->pg || !mt_pg_idle_check(k->pg))
        rc = mt_pg_open(&k->ctl->pg_conf, &k->pg, err);
    if (rc == 0 && gc && now >= k->gc_due_ns) {
        k->gc_due_ns = now + GC_RETRY_NS;
        if ((rc = collect(k, err)) == 0 && (rc = sweep(k, gc, now, err)) == 0)
            k->gc_due_ns = now + GC_NS;
    }
    if (rc == 0 && gc)
        rc = verify_audit(k, true, now, err);
    if (rc == 0 && backups && mt_history_state(k->ctl->history) == MT_RECOVERY_NONE)
        look_at_migrations(k, backups);
    /* A restored log may not know of snapshots that are: none is asked for before it rules again. */
    if (rc == 0 && backups && now >= k->backups_due_ns && mt_history_state(k->ctl->history) == MT_RECOVERY_NONE) {
        k->backups_due_ns = now + BACKUPS_NS;
        look_at_backups(k, backups);
    }
    return rc == 0 && projector ? rebuild(k, projector, err) : rc;
}

static void *keeper_main(void *arg)
{
    struct mt_keeper *k = arg;
    (void)pthread_setname_np(pthread_self(), "keeper");
    while (!atomic_load(&k->stop)) {
        struct mt_err err = {0};
        mt_nodes_tls_follow(k->ctl);
        if (turn(k, &err) < 0) {
            if (!MT_STREQ(k->last, err.msg))
                mt_log(MT_WARN, "keeper.turn_failed", KV_ERR(&err));
            (void)snprintf(k->last, sizeof k->last, "%s", err.msg);
        } else {
            k->last[0] = 0;
        }
        struct pollfd p = {.fd = k->wake_fd, .events = POLLIN};
        uint64_t n;
        if (poll(&p, 1, k->soon ? SOON_MS : TICK_MS) > 0)
            (void)!read(k->wake_fd, &n, sizeof n);
    }
    return NULL;
}

int mt_keeper_start(struct mt_control *ctl, struct mt_roles *roles, struct mt_keeper **ret, struct mt_err *err)
{
    struct mt_keeper *k = calloc(1, sizeof *k);
    if (!k)
        return MT_FAIL(err, MT_E_NOMEM, "keeper");
    *k = (struct mt_keeper){.ctl = ctl, .roles = roles, .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    int rc = k->wake_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "eventfd") : 0;
    if (rc == 0 && pthread_create(&k->thread, NULL, keeper_main, k) != 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "keeper thread");
    if (rc < 0) {
        if (k->wake_fd >= 0)
            (void)close(k->wake_fd);
        free(k);
        return rc;
    }
    *ret = k;
    return 0;
}

void mt_keeper_poke(struct mt_keeper *k)
{
    uint64_t one = 1;
    if (k)
        (void)!write(k->wake_fd, &one, sizeof one);
}

void mt_keeper_free(struct mt_keeper *k)
{
    if (!k)
        return;
    atomic_store(&k->stop, true);
    mt_keeper_poke(k);
    (void)pthread_join(k->thread, NULL);
    (void)close(k->wake_fd);
    mt_pg_free(k->pg);
    free(k);
}
