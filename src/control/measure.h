/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control plane counts for its metrics page (scheduling-and-operations.md §8). Any thread; everything only grows but
 * the gauges. Label values are closed sets: words of tables of this program, or taken in by number.
 */
#pragma once

#include "control/auth/scopes.h"
#include "control/nodes/ipam.h"
#include "model/reason.h"
#include "wire/metrics.h"

#include <pthread.h>

struct mt_err;
struct mt_pg;
struct mt_pass;

/* Requests are kept apart by route for so many routes, first come; those after share "other". With every status each, a page
 * stays below MT_METRICS_SERIES_MAX: 37 * (18 + 22) = 1480 series for requests. */
#define MT_MEASURE_ROUTES 36
#define MT_MEASURE_STATUSES 22

enum mt_grant_kind { MT_GRANTED_DEVICE = 0, MT_GRANTED_CLIENT, MT_GRANTED_REFRESH, MT_GRANTED_PERSONAL, MT_GRANTED_MAX };
enum mt_auth_failure {
    MT_AUTHF_MISSING = 0, MT_AUTHF_UNKNOWN, MT_AUTHF_EXPIRED, MT_AUTHF_REVOKED, MT_AUTHF_DISABLED, MT_AUTHF_CLIENT, MT_AUTHF_REFRESH,
    MT_AUTHF_MAX
};
enum mt_idem_result { MT_IDEM_MISS = 0, MT_IDEM_HIT, MT_IDEM_CONFLICT, MT_IDEM_RESULT_MAX };
enum mt_pass_kind { MT_PASS_DIRTY = 0, MT_PASS_FULL, MT_PASS_KIND_MAX };
enum mt_sched_action { MT_SCHED_ALLOCATE = 0, MT_SCHED_DRAIN, MT_SCHED_STOP, MT_SCHED_ACTION_MAX };
enum mt_deploy_result { MT_DEPLOY_SUCCEEDS = 0, MT_DEPLOY_FAILS, MT_DEPLOY_RESULT_MAX };

enum mt_follower { MT_FOLLOWER_AGENT = 0, MT_FOLLOWER_EDGE, MT_FOLLOWER_MAX }; /* who waits for news of plan or configuration */
enum mt_ready_kind { MT_READY_DEPLOY = 0, MT_READY_SCALE, MT_READY_RESCHEDULE, MT_READY_KIND_MAX };

struct mt_measure_route {
    const char *method, *path; /* static texts of the route table */
    struct mt_hist took;
    _Atomic uint64_t status[MT_MEASURE_STATUSES];
};

/* A view and how far it is: last event in it, events that it lacks, age of the first of them in seconds. */
#define MT_MEASURE_VIEWS 48
struct mt_measure_view {
    char name[40];
    int64_t figures[3];
};

/* As last seen by the leader; empty on the others. */
struct mt_measure_gauges {
    bool known;
    uint64_t groups[5];                       /* converged, rolling, held, unschedulable, degraded */
    uint64_t unschedulable[MT_REASON_MAX];
    uint64_t nodes[8][5];                     /* admin_state, health */
    bool guard;
    uint64_t memory_bytes, used_memory_bytes, cpu_millis, used_cpu_millis;
    int64_t headroom_bytes;
    int64_t ipam[MT_IPAM_POOLS][MT_IPAM_STATES];
    uint64_t backup_stale, proof_stale, uncollected; /* volumes */
    int64_t proven_s;                   /* when a backup was last restored and found whole, Unix seconds; 0 never */
    int64_t backup_oldest_s;            /* age of the oldest newest backup of a volume; -1 there is none */
    uint64_t physical_memory_bytes, physical_cpu_millis;
    bool keys_known;
    int64_t keys_missing, keys_retired; /* wrapped keys under master keys that are not in the file, or no longer active */
    int64_t pg_backup_age_s, pg_wal_age_s, pg_lag_bytes; /* -1: none, or it is not shown to us */
    size_t views_n;
    struct mt_measure_view views[MT_MEASURE_VIEWS];
};

struct mt_measure {
    pthread_mutex_t lock; /* routes_n and gauges */
    unsigned routes_n;
    struct mt_measure_route routes[MT_MEASURE_ROUTES + 1]; /* the last: other */
    struct mt_hist db_request, db_scheduler, pass[MT_PASS_KIND_MAX], delivery;
    _Atomic uint64_t mints[MT_GRANTED_MAX], auth_failures[MT_AUTHF_MAX], denials[64];
    _Atomic uint64_t idempotency[MT_IDEM_RESULT_MAX];
    _Atomic uint64_t passes[MT_PASS_KIND_MAX][2]; /* ok, error */
    _Atomic uint64_t actions[MT_SCHED_ACTION_MAX][MT_REASON_MAX];
    _Atomic uint64_t deploys[MT_DEPLOY_RESULT_MAX];
    _Atomic uint64_t ipam_failures[MT_IPAM_POOLS]; /* nothing was left */
    _Atomic uint64_t followers[MT_FOLLOWER_MAX]; /* polls that wait just now */
    struct mt_hist time_to_ready[MT_READY_KIND_MAX];
    int64_t ready_until_us;  /* counted until then; of the leader's thread */
    _Atomic int audit_chains; /* 1 they held when last verified, 0 one did not, -1 not known here */
    _Atomic uint64_t rebuilds_failed;
    _Atomic int leader;
    struct mt_measure_gauges gauges;
};

void mt_measure_init(struct mt_measure *m);
void mt_measure_done(struct mt_measure *m);

/** A request was answered with @status. @method, @path of its route (static), NULL: none; @took_us -1: it waited, do not say how long. */
void mt_measure_request(struct mt_measure *m, const char *method, const char *path, unsigned status, int64_t took_us);
static inline void mt_measure_one(_Atomic uint64_t *v)
{
    (void)atomic_fetch_add_explicit(v, 1, memory_order_relaxed);
}
/** For mt_pg_conf.took: @arg a struct mt_hist. */
void mt_measure_query(void *arg, int64_t ns);
/** A deploy came to @status ("succeeded", "failed", ...); those that go on are not counted. */
void mt_measure_deploy(struct mt_measure *m, const char *status);

/** The leader's look at the whole: groups, nodes, room. On the connection of its thread. */
int mt_measure_look(struct mt_measure *m, struct mt_pass *empty, bool guard, struct mt_err *err);
/** All chains of audit records were verified: 1 they hold, 0 one does not; -1 this process does not look any more. Any thread. */
void mt_measure_audit(struct mt_measure *m, int intact);
/** Did the guard against a mass failure hold at the last look? False where this process does not lead. Any thread. */
bool mt_measure_guard(struct mt_measure *m);
/** Not the leader any more: the gauges go. */
void mt_measure_forget(struct mt_measure *m);

extern const char *const mt_measure_group_states[5], *const mt_measure_admin_states[8], *const mt_measure_healths[5], *const mt_ready_kinds[MT_READY_KIND_MAX], *const mt_measure_followers[MT_FOLLOWER_MAX];
/** The part of the page that is in here. */
void mt_measure_http(struct mt_measure *m, struct mt_metrics *page);
void mt_measure_auth(struct mt_measure *m, struct mt_metrics *page);
void mt_measure_scheduler(struct mt_measure *m, struct mt_metrics *page);
