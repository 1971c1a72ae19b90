/* SPDX-License-Identifier: Apache-2.0 */
/* The controller thread. Each turn: be leader; look at what is new in the log; step the environments it touched; settle
 * what ended; look at the nodes. Whatever fails is logged once and tried again from fresh rows. */
#include "control/controller.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/ipv4/ipv4.h"
#include "control/liveness.h"
#include "control/pass.h"
#include "control/rollout/due.h"
#include "control/nodes/rotation.h"
#include "control/nodes/unconfirmed.h"
#include "control/recovery/recovery.h"
#include "control/roles.h"
#include "os/file.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#define TICK_MS 1000
#define FULL_PASS_NS (30 * MT_NS_PER_S)
#define PASS_BYTES (256u * 1024u * 1024u)
#define LOOK_NS (15 * MT_NS_PER_S) /* gauges of the whole */
#define NEWS_MAX 500
#define ROOM_NS (100 * MT_NS_PER_MS) /* how often at most those are looked at again who wait for what others hold */
#define ROUNDS_MAX 50 /* passes without waiting while there is something to do */

struct mt_controller {
    struct mt_control *ctl;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    int wake_fd;
    /* the thread's own */
    struct mt_pg *pg;
    bool leader;
    int64_t lease_epoch, leader_ns; /* since when it leads */
    int64_t cursor;         /* events up to here were looked at */
    struct mt_due due;      /* what to step */
    bool unsettled;         /* instances changed, or drains wait for edges: ended ones are looked for */
    int64_t pass_ns;        /* how long the last pass took */
    int64_t full_ns, live_ns, looked_ns, gauges_ns;
    struct mt_liveness liveness;
    int64_t clock_delta_ms; /* database clock minus ours */
    struct mt_err last_err; /* logged once while it repeats */
};

static const struct mt_pg_stmt news = {
    "controller_news", "SELECT event_id, event_type, env_id, aggregate_type FROM moat.events WHERE event_id > $1"
                       " ORDER BY event_id LIMIT 500"};

/* ---------------------------------------------------------------- leadership */

static void step_down(struct mt_controller *c)
{
    if (c->leader)
        mt_log(MT_WARN, "controller.not_leader", KV("lease_epoch", c->lease_epoch));
    c->leader = false;
    c->due.room_news = false; /* who leads next looks at everything */
    atomic_store(&c->ctl->measure.leader, 0);
    mt_measure_forget(&c->ctl->measure);
}

static int become_leader(struct mt_controller *c, int64_t lease, struct mt_err *err)
{
    int64_t epoch;
    int rc = mt_log_position(c->pg, &c->cursor, &epoch, err);
    if (rc < 0)
        return rc;
    c->lease_epoch = lease;
    c->leader = true;
    c->leader_ns = mt_clock_mono();
    c->gauges_ns = 0;
    atomic_store(&c->ctl->measure.leader, 1);
    c->due.all = c->unsettled = true;
    mt_liveness_done(&c->liveness);
    mt_liveness_init(&c->liveness, mt_clock_mono());
    mt_log(MT_INFO, "controller.leader", KV("lease_epoch", c->lease_epoch), KV("cursor", c->cursor));
    return 0;
}

/* A connection, and leadership as the roles' thread has it. */
static int settle_role(struct mt_controller *c, struct mt_err *err)
{
    int64_t lease = mt_roles_epoch(c->ctl->roles, MT_LEAD_SCHEDULER), head;
    int rc = 0;
    struct mt_pg_conf conf = c->ctl->pg_conf;
    conf.took = mt_measure_query;
    conf.took_arg = &c->ctl->measure.db_scheduler;
    if (!c->pg || !mt_pg_idle_check(c->pg))
        rc = mt_pg_open(&conf, &c->pg, err);
    if (rc == 0)
        rc = mt_pg_grown(c->pg, mt_log_head_get(c->ctl->head), err);
    if (rc < 0)
        return rc;
    if (c->leader && c->lease_epoch != lease)
        step_down(c);
    if (lease && !c->leader && mt_history_state(c->ctl->history) != MT_RECOVERY_FROZEN)
        return become_leader(c, lease, err);
    return lease ? 0 : mt_log_position(c->pg, &head, NULL, err); /* the database answers: that is worth knowing too */
}

/* ---------------------------------------------------------------- what to step */

static int read_news(struct mt_controller *c, struct mt_err *err)
{
    for (;;) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_pg_p_init(&p);
        mt_pg_p_i64(&p, c->cursor);
        int rc = mt_pg_query(c->pg, &news, &p, &r, err), n;
        if (rc < 0)
            return rc;
        n = mt_pg_rows(r);
        for (int i = 0; i < n; i++) {
            const char *env = mt_pg_text_or_null(r, i, 2), *agg = mt_pg_text(r, i, 3);
            if (env)
                mt_due_mark(&c->due, env);
            else if (MT_STREQ(agg, "node") || MT_STREQ(agg, "cluster") || MT_STREQ(agg, "org"))
                c->due.all = true;
            if (MT_STREQ(agg, "instance"))
                c->due.room_news = c->unsettled = true;
            c->cursor = mt_pg_i64(r, i, 0);
        }
        if (n < NEWS_MAX)
            return 0;
    }
}

/* How long those are left alone who wait for what others hold: an instance of somebody came up, stopped or went, and they have no event of their own. */
static int64_t room_pause_ns(const struct mt_controller *c)
{
    return 4 * c->pass_ns > ROOM_NS ? 4 * c->pass_ns : ROOM_NS;
}

static int64_t database_ms(const struct mt_controller *c)
{
    return mt_clock_wall_us() / 1000 + c->clock_delta_ms;
}

/* How long to sleep when nothing comes. */
static int sleep_ms(const struct mt_controller *c)
{
    int64_t room = mt_due_room_ns(&c->due, mt_clock_mono(), room_pause_ns(c)), next = mt_due_next_ms(&c->due), now = database_ms(c), ms = TICK_MS;
    if (room < ms * MT_NS_PER_MS)
        ms = room > 0 ? room / MT_NS_PER_MS + 1 : 0;
    if (next - now < ms)
        ms = next > now ? next - now : ms < 1 ? ms : 1;
    return (int)ms;
}

/* ---------------------------------------------------------------- a pass */

static int load(struct mt_controller *c, struct mt_pass *p, struct mt_err *err)
{
    const char **ids = calloc(c->due.dirty.count + 1, sizeof *ids);
    size_t n = 0, pos = 0;
    const char *id;
    void *v;
    if (!ids)
        return MT_FAIL(err, MT_E_NOMEM, "pass");
    while (mt_map_next(&c->due.dirty, &pos, &id, &v))
        ids[n++] = id;
    int rc = mt_pg_exec(p->pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
                                " LOCK TABLE moat.views_state IN ACCESS SHARE MODE", /* no swap of views under one snapshot */
                         err);
    bool paused = false;
    if (rc == 0) {
        rc = mt_pass_paused(p, &paused, err);
        if (rc == 0) /* paused: the nodes alone, for what ends of itself. The event that ends the pause makes everything dirty. */
            rc = mt_pass_load(p, c->due.all && !paused ? NULL : ids, paused ? 0 : n, err);
        struct mt_err ignored = {0};
        int end = mt_pg_exec(p->pg, rc == 0 ? "COMMIT" : "ROLLBACK", rc == 0 ? err : &ignored);
        rc = rc == 0 ? end : rc;
    }
    free(ids);
    return rc;
}

/* Returns events appended, or -code. -MT_E_CONFLICT: rows moved under us, look again. */
static int pass(struct mt_controller *c, struct mt_err *err)
{
    struct mt_pass p = {.ctl = c->ctl, .pg = c->pg, .lease_epoch = c->lease_epoch, .stop = &c->stop};
    int total = 0, rc;
    mt_arena_init(&p.arena, PASS_BYTES);
    if ((rc = load(c, &p, err)) == 0) {
        c->clock_delta_ms = p.now_ms - mt_clock_wall_us() / 1000;
        mt_due_taken(&c->due);
    } else if (atomic_load(&c->stop)) {
        rc = 0;
    }
    for (size_t i = 0; rc >= 0 && i < p.n_envs; i++) {
        if (atomic_load(&c->stop)) { /* thousands of environments take longer than whoever stops us waits */
            c->due.all = true;
            break;
        }
        int events = 0;
        int64_t wake = INT64_MAX;
        struct mt_err why = {0};
        rc = mt_pass_env_step(&p, &p.envs[i], &events, &wake, &why);
        if (rc < 0 && (why.code == MT_E_UNAVAILABLE || why.code == MT_E_TIMEOUT || why.code == MT_E_CANCELLED)) {
            *err = why;
            c->due.all = true;
            break;
        }
        if (rc < 0) { /* this environment again soon; the others go on */
            mt_due_said(&c->due, p.envs[i].env_id, p.now_ms + (rc == -MT_E_CONFLICT ? 1 : TICK_MS), p.envs[i].waits_for_others);
            if (rc != -MT_E_CONFLICT)
                mt_log(MT_ERROR, "controller.env_failed", KV("env_id", p.envs[i].env_id), KV_ERR(&why));
            rc = 0;
            continue;
        }
        mt_due_said(&c->due, p.envs[i].env_id, wake, p.envs[i].waits_for_others);
        total += events;
    }
    bool more = true;
    if (rc >= 0 && !atomic_load(&c->stop) && (rc = mt_pass_settle(&p, &more, err)) >= 0) {
        c->unsettled = more || rc > 0;
        total += rc;
    } else if (rc == -MT_E_CONFLICT) {
        rc = 0;
    }
    mt_pass_done(&p);
    return rc < 0 ? rc : total;
}

/* What the metrics page says of the whole; a look that fails is no reason to stop scheduling. */
static void look_at_all(struct mt_controller *c)
{
    struct mt_pass p = {.ctl = c->ctl, .pg = c->pg, .stop = &c->stop};
    struct mt_err err = {0};
    mt_arena_init(&p.arena, PASS_BYTES);
    if (mt_measure_look(&c->ctl->measure, &p, c->liveness.held, &err) < 0)
        mt_log(MT_WARN, "controller.gauges_failed", KV_ERR(&err));
    mt_pass_done(&p);
}

/* A pass, with what is counted of it. */
static int measured_pass(struct mt_controller *c, struct mt_err *err)
{
    struct mt_measure *m = &c->ctl->measure;
    enum mt_pass_kind kind = c->due.all ? MT_PASS_FULL : MT_PASS_DIRTY;
    int64_t began = mt_clock_mono();
    int rc = pass(c, err);
    c->pass_ns = mt_clock_mono() - began;
    mt_hist_observe_ns(&m->pass[kind], c->pass_ns);
    mt_measure_one(&m->passes[kind][rc < 0]);
    return rc;
}

static int turn(struct mt_controller *c, struct mt_err *err)
{
    int rc;
    int64_t now = mt_clock_mono();
    if ((rc = settle_role(c, err)) < 0)
        return rc;
    atomic_store(&c->ctl->db_seen_ns, now);
    if (now - c->looked_ns >= TICK_MS * MT_NS_PER_MS || mt_history_state(c->ctl->history) == MT_RECOVERY_FROZEN) {
        if ((rc = mt_recovery_look(c->ctl, c->pg, NULL, err)) < 0)
            return rc;
        c->looked_ns = now;
    }
    if (mt_history_state(c->ctl->history) == MT_RECOVERY_FROZEN) {
        step_down(c); /* what it knows is of a history that may be gone */
        return 0;
    }
    if (!c->leader)
        return 0;
    if (now - c->live_ns >= TICK_MS * MT_NS_PER_MS) {
        c->live_ns = now;
        if ((rc = mt_liveness_look(c->ctl, c->pg, &c->liveness, c->lease_epoch, now, err)) < 0 ||
            (rc = mt_rotation_overdue(c->ctl, c->pg, c->lease_epoch, err)) < 0 || (rc = mt_rotation_by_age(c->ctl, c->pg, c->lease_epoch, err)) < 0 ||
            (rc = mt_nodes_unconfirmed(c->ctl, c->pg, c->lease_epoch, err)) < 0 || (rc = mt_ipv4_look(c->ctl, c->pg, c->lease_epoch, c->leader_ns, err)) < 0)
            return rc;
    }
    if (!c->gauges_ns || now - c->gauges_ns >= LOOK_NS) {
        c->gauges_ns = now;
        look_at_all(c);
    }
    for (int i = 0; i < ROUNDS_MAX && !atomic_load(&c->stop); i++) {
        if ((rc = read_news(c, err)) < 0)
            return rc;
        if (now - c->full_ns > FULL_PASS_NS) {
            c->full_ns = now;
            c->due.all = true;
        }
        if (!mt_due_gather(&c->due, database_ms(c), mt_clock_mono(), room_pause_ns(c)) && !c->unsettled)
            break;
        if ((rc = measured_pass(c, err)) < 0)
            return rc;
        if (rc == 0)
            break;
    }
    return 0;
}

static void *controller_main(void *arg)
{
    struct mt_controller *c = arg;
    while (!atomic_load(&c->stop)) {
        struct mt_err err = {0};
        int timeout = TICK_MS;
        if (turn(c, &err) < 0) {
            if (!MT_STREQ(err.msg, c->last_err.msg))
                mt_log(MT_WARN, "controller.turn_failed", KV_ERR(&err));
            c->last_err = err;
        } else {
            c->last_err = (struct mt_err){0};
            timeout = sleep_ms(c);
        }
        struct pollfd p = {.fd = c->wake_fd, .events = POLLIN};
        uint64_t n;
        if (poll(&p, 1, timeout) > 0)
            (void)!read(c->wake_fd, &n, sizeof n);
    }
    return NULL;
}

int mt_controller_start(struct mt_control *ctl, struct mt_controller **ret, struct mt_err *err)
{
    struct mt_controller *c = calloc(1, sizeof *c);
    uint64_t seed[2];
    if (!c)
        return MT_FAIL(err, MT_E_NOMEM, "controller");
    mt_random(seed, sizeof seed);
    c->ctl = ctl;
    mt_due_init(&c->due, seed[0], seed[1]);
    mt_liveness_init(&c->liveness, mt_clock_mono());
    c->full_ns = mt_clock_mono();
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = c->wake_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "eventfd") : mt_log_head_subscribe(ctl->head, c->wake_fd, err);
    if (rc == 0 && pthread_create(&c->thread, NULL, controller_main, c) != 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "controller thread");
    c->started = rc == 0;
    if (rc < 0) {
        mt_controller_free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

void mt_controller_poke(struct mt_controller *c)
{
    uint64_t one = 1;
    if (c)
        (void)!write(c->wake_fd, &one, sizeof one);
}

void mt_controller_free(struct mt_controller *c)
{
    if (!c)
        return;
    atomic_store(&c->stop, true);
    if (c->wake_fd >= 0)
        mt_controller_poke(c);
    if (c->started)
        pthread_join(c->thread, NULL);
    if (c->wake_fd >= 0) {
        mt_log_head_unsubscribe(c->ctl->head, c->wake_fd);
        close(c->wake_fd);
    }
    mt_pg_free(c->pg);
    mt_due_done(&c->due);
    mt_liveness_done(&c->liveness);
    free(c);
}
