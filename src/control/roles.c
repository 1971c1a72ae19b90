/* SPDX-License-Identifier: Apache-2.0 */
/* See roles.h. */
#include "control/roles.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/log/locks.h"

#include <stdlib.h>
#include <unistd.h>

#define TICK_MS 1000
#define RENEW_NS (2 * MT_NS_PER_S)
#define EXPIRE_MS "8000" /* with a tick, the takeover and a second to spare: within 15 s */
#define CALL_MS 5000

/* $1 key, then the leases that go with it. The lock of the log is taken first: what former holders appended lies before. */
static const struct {
    const char *name, *also; /* rows of leases */
    struct mt_pg_stmt lock, take, renew, drop;
} roles[MT_LEAD_MAX] = {
#define LOCK(n, key) {"role_lock_" n, "SELECT pg_try_advisory_lock(" key ")"}
#define TAKE(n, rows) \
    {"role_take_" n, "INSERT INTO moat.leases (name, holder, epoch) SELECT name, $1, 1 FROM unnest(" rows "::text[]) name ON CONFLICT (name) DO UPDATE" \
                     " SET holder = excluded.holder, epoch = leases.epoch + 1, acquired_at = clock_timestamp(), renewed_at = clock_timestamp()" \
                     " RETURNING name, epoch"}
#define RENEW(n) {"role_renew_" n, "UPDATE moat.leases SET renewed_at = clock_timestamp() WHERE name = '" n "' AND epoch = $1"}
/* The session that holds the lock of a lease that is not renewed any more: its process is stopped or stuck. */
#define DROP(n, key) \
    {"role_drop_" n, "SELECT pg_terminate_backend(l.pid) FROM moat.leases s JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted" \
                     " AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = " key \
                     " JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()" \
                     " WHERE s.name = '" n "' AND s.renewed_at < clock_timestamp() - interval '" EXPIRE_MS " ms'"}
#define ROLE(n, also, rows, key) {n, also, LOCK(n, key), TAKE(n, rows), RENEW(n), DROP(n, key)}
    [MT_LEAD_SCHEDULER] = ROLE("scheduler", "deploy-controller", "'{scheduler,deploy-controller}'", MT_LOCK_SCHEDULER),
    [MT_LEAD_GC] = ROLE("gc", NULL, "'{gc}'", MT_LOCK_GC),
    [MT_LEAD_PROJECTOR] = ROLE("projector", NULL, "'{projector}'", MT_LOCK_PROJECTOR),
    [MT_LEAD_BACKUPS] = ROLE("backups", NULL, "'{backups}'", MT_LOCK_BACKUPS),
};
static const struct mt_pg_stmt log_lock = {"role_log_lock", "SELECT pg_advisory_xact_lock(" MT_LOCK_LOG ")"};

struct mt_roles {
    struct mt_control *ctl;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    mt_roles_fn *changed;
    void *arg;
    _Atomic int64_t epoch[MT_LEAD_MAX];
    /* the thread's own */
    struct mt_pg *pg;
    char holder[80];
    int64_t renewed_ns;
    char last[240]; /* complaint, said once while it repeats */
};

int64_t mt_roles_epoch(const struct mt_roles *r, enum mt_lead role)
{
    return r ? atomic_load(&r->epoch[role]) : 0;
}

static bool wanted(const struct mt_roles *r, int role)
{
    for (size_t i = 0; i < r->ctl->conf.roles.n; i++)
        if (MT_STREQ(r->ctl->conf.roles.v[i], roles[role].name))
            return true;
    return false;
}

static void lose_all(struct mt_roles *r, const char *why)
{
    bool any = false;
    for (int i = 0; i < MT_LEAD_MAX; i++) {
        int64_t had = atomic_exchange(&r->epoch[i], 0);
        if (had)
            mt_log(MT_WARN, "role.lost", KV("role", roles[i].name), KV("lease_epoch", had), KV("why", why));
        any |= had != 0;
    }
    if (r->pg && mt_pg_alive(r->pg))
        mt_pg_freep(&r->pg); /* and with it the locks */
    if (any)
        r->changed(r->arg);
}

/* One transaction: after the last event of any former holder, before the first of ours. */
static int take(struct mt_roles *r, int role, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    struct mt_err ignored;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, r->holder);
    int rc = mt_pg_exec(r->pg, "BEGIN", err);
    if (rc == 0 && (rc = mt_pg_query(r->pg, &log_lock, NULL, NULL, err)) == 0)
        rc = mt_pg_query(r->pg, &roles[role].take, &p, &res, err);
    if (rc == 0)
        rc = mt_pg_exec(r->pg, "COMMIT", err);
    else if (mt_pg_alive(r->pg))
        (void)mt_pg_exec(r->pg, "ROLLBACK", &ignored);
    for (int i = 0; rc == 0 && i < mt_pg_rows(res); i++)
        if (MT_STREQ(mt_pg_text(res, i, 0), roles[role].name))
            atomic_store(&r->epoch[role], mt_pg_i64(res, i, 1));
    if (rc == 0)
        mt_log(MT_INFO, "role.won", KV("role", roles[role].name), KV("lease_epoch", atomic_load(&r->epoch[role])));
    return rc;
}

static int try_role(struct mt_roles *r, int role, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL, *dropped = NULL;
    int rc = mt_pg_query_one(r->pg, &roles[role].lock, NULL, &res, err);
    if (rc < 0)
        return rc;
    if (mt_pg_bool(res, 0, 0)) {
        rc = take(r, role, err);
        if (rc == 0)
            r->changed(r->arg);
        return rc;
    }
    rc = mt_pg_query(r->pg, &roles[role].drop, NULL, &dropped, err);
    if (rc == 0 && mt_pg_rows(dropped) > 0)
        mt_log(MT_WARN, "role.holder_dropped", KV("role", roles[role].name));
    return rc;
}

static int renew(struct mt_roles *r, struct mt_err *err)
{
    for (int i = 0; i < MT_LEAD_MAX; i++) {
        int64_t epoch = atomic_load(&r->epoch[i]);
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        struct mt_pg_params p;
        if (!epoch)
            continue;
        mt_pg_p_init(&p);
        mt_pg_p_i64(&p, epoch);
        int rc = mt_pg_query(r->pg, &roles[i].renew, &p, &res, err);
        if (rc < 0)
            return rc;
        if (mt_pg_affected(res) != 1)
            return MT_FAIL(err, MT_E_CONFLICT, "the lease of '%s' has another holder", roles[i].name);
    }
    return 0;
}

static int turn(struct mt_roles *r, struct mt_err *err)
{
    struct mt_pg_conf pc = r->ctl->pg_conf;
    int64_t now = mt_clock_mono();
    int rc = 0;
    pc.application_name = "moat-control roles";
    pc.call_timeout_ms = CALL_MS;
    if (r->pg && mt_pg_alive(r->pg) && !mt_pg_idle_check(r->pg))
        lose_all(r, "connection lost");
    if ((!r->pg || !mt_pg_alive(r->pg)) && (rc = mt_pg_open(&pc, &r->pg, err)) < 0)
        return rc;
    if (now - r->renewed_ns >= RENEW_NS) {
        if ((rc = renew(r, err)) < 0)
            return rc;
        r->renewed_ns = now;
    }
    for (int i = 0; i < MT_LEAD_MAX; i++)
        if (!atomic_load(&r->epoch[i]) && wanted(r, i) && (rc = try_role(r, i, err)) < 0)
            return rc;
    return 0;
}

static void *roles_main(void *arg)
{
    struct mt_roles *r = arg;
    (void)pthread_setname_np(pthread_self(), "roles");
    while (!atomic_load(&r->stop)) {
        struct mt_err err = {0};
        if (turn(r, &err) < 0) {
            if (!MT_STREQ(r->last, err.msg))
                mt_log(MT_WARN, "role.turn_failed", KV_ERR(&err));
            (void)snprintf(r->last, sizeof r->last, "%s", err.msg);
            lose_all(r, err.msg);
        } else {
            r->last[0] = 0;
        }
        struct timespec until;
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += TICK_MS / 1000;
        (void)pthread_mutex_lock(&r->mutex);
        if (!atomic_load(&r->stop))
            (void)pthread_cond_timedwait(&r->wake, &r->mutex, &until);
        (void)pthread_mutex_unlock(&r->mutex);
    }
    return NULL;
}

int mt_roles_new(struct mt_control *ctl, mt_roles_fn *changed, void *arg, struct mt_roles **ret, struct mt_err *err)
{
    struct mt_roles *r = calloc(1, sizeof *r);
    char host[48] = "?";
    if (!r)
        return MT_FAIL(err, MT_E_NOMEM, "roles");
    r->ctl = ctl;
    r->changed = changed;
    r->arg = arg;
    (void)gethostname(host, sizeof host - 1);
    (void)snprintf(r->holder, sizeof r->holder, "%s pid %d", host, (int)getpid());
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->wake, NULL);
    *ret = r;
    return 0;
}

int mt_roles_start(struct mt_roles *r, struct mt_err *err)
{
    if (pthread_create(&r->thread, NULL, roles_main, r) != 0)
        return MT_FAIL(err, MT_E_NOMEM, "roles thread");
    r->started = true;
    return 0;
}

void mt_roles_free(struct mt_roles *r)
{
    if (!r)
        return;
    (void)pthread_mutex_lock(&r->mutex);
    atomic_store(&r->stop, true);
    (void)pthread_cond_signal(&r->wake);
    (void)pthread_mutex_unlock(&r->mutex);
    if (r->started)
        (void)pthread_join(r->thread, NULL);
    mt_pg_free(r->pg);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}
