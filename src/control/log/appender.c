/* SPDX-License-Identifier: Apache-2.0 */
/* The appender: a queue of prepared commands and the one thread that writes them. Takes what waits, leaves out what
 * touches the same rows as something earlier, hands the rest to batch.c, answers after COMMIT. */
#include "control/log/append.h"
#include "control/log/batch.h"
#include "control/log/history.h"
#include "control/log/read.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__ /* gcc's ThreadSanitizer follows sem_post and sem_wait, but not sem_clockwait */
#include <sanitizer/tsan_interface.h>
#define SEM_ACQUIRED(sem) __tsan_acquire(sem)
#else
#define SEM_ACQUIRED(sem) (void)(sem)
#endif

#define APPENDER_MAGIC 0x61706d74u
#define QUEUE_MAX 1024
#define RECONNECT_NS (200 * MT_NS_PER_MS)
#define SETTLE_NS (15 * MT_NS_PER_S)
#define SECOND_RETRY_NS (1 * MT_NS_PER_S)
/* A batch costs the server some thirty times what a single event in it does, whatever it holds: its statements, and a process that
 * begins with cold caches. So a second one is begun beside another only for as many events as are worth that; fewer wait for the
 * lane that is busy and share the next batch. */
#define LANE_EVENTS 32
/* Unless it is busy for longer than a batch takes: what holds that one up is no reason to hold up others. */
#define LANE_WAIT_NS (10 * MT_NS_PER_MS)
/* The oldest flight does not wait for a younger one longer than this: the younger is rolled back and runs again. */
#define YIELD_MS 200
/* Those who were answered usually come back at once with their next command. A share of the last batch's duration is waited
 * for them, so that they share one flush with those who came meanwhile instead of taking turns in two half-full batches. */
#define GATHER_MIN_NS (100 * INT64_C(1000))
#define GATHER_MAX_NS (1 * MT_NS_PER_MS)
#define KEYS_MAX 32768 /* slots of the set of touched keys, power of two; a batch notes at most 4096 * 2 + 128 * 65 */

struct mt_appender {
    uint32_t magic;
    struct mt_pg_conf pg;
    char *session_sql;
    struct mt_log_head *head;
    struct mt_history *history;
    struct mt_append_measure *measure; /* NULL: nobody asks */
    int batch_max, lane_events;
    pthread_t thread;
    pthread_mutex_t mutex; /* queue, waiting, stop, stats, states of queued commands */
    pthread_cond_t work;
    struct mt_list queue;
    int waiting;
    int waiting_events;
    int want;     /* with so many waiting, `work` is signalled */
    int wake_at;  /* with so many waiting that are worth a lane, wake_fd is written: the thread waits for a flight; 0: it does not */
    bool wake_any; /* they need not be worth a lane: it has been busy for long */
    int wake_fd;
    bool stop;
    struct mt_appender_stats stats; /* copy for readers */

    /* the thread's own */
    struct batch batch;
    struct mt_appender_stats own;
    int64_t retry_at;
    struct mt_err away; /* why there is no connection */
    uint64_t *keys;     /* open-addressed set of touched rows */
    uint32_t *used;     /* its slots in use, to clear them */
    uint32_t n_used;
    struct session sessions[LANES]; /* of the lanes' connections */
    struct flight flights[LANES]; /* in the air, oldest first */
    int n_flights;
    int64_t second_retry_at; /* no second lane before */
    int expect;              /* commands that wait soon if those answered last come back with more */
    int64_t gather_until;    /* how long that is waited for */
};

/* ---- choosing ---- */

static bool seen(const uint64_t *set, uint64_t key)
{
    for (size_t i = key;; i++) {
        uint64_t k = set[i & (KEYS_MAX - 1)];
        if (k == key)
            return true;
        if (!k)
            return false;
    }
}

static void note(struct mt_appender *ap, uint64_t key)
{
    size_t i = key & (KEYS_MAX - 1);
    while (ap->keys[i] && ap->keys[i] != key)
        i = (i + 1) & (KEYS_MAX - 1);
    if (ap->keys[i])
        return;
    MT_ASSERT(ap->n_used < KEYS_MAX / 4 * 3);
    ap->keys[i] = key;
    ap->used[ap->n_used++] = (uint32_t)i;
}

static void forget_all(struct mt_appender *ap)
{
    while (ap->n_used > 0)
        ap->keys[ap->used[--ap->n_used]] = 0;
}

static bool clashes(const struct mt_appender *ap, const struct mt_cmd *c)
{
    for (int i = 0; i < c->n_events; i++) {
        const struct mt_proj_keys *k = &c->events[i].keys;
        if (seen(ap->keys, k->row) || (k->also && seen(ap->keys, k->also)))
            return true;
    }
    for (int i = 0; i < c->n_relies; i++)
        if (seen(ap->keys, c->relies[i].hash))
            return true;
    return c->idempotent && seen(ap->keys, c->idem_hash);
}

static void note_writes(struct mt_appender *ap, const struct mt_cmd *c)
{
    for (int i = 0; i < c->n_events; i++) {
        note(ap, c->events[i].keys.row);
        if (c->events[i].keys.also)
            note(ap, c->events[i].keys.also);
    }
    for (int i = 0; i < c->n_relies; i++)
        if (c->relies[i].note)
            note(ap, c->relies[i].note);
    if (c->idempotent)
        note(ap, c->idem_hash);
}

/* Under the mutex: move the commands of the next batch, of @max_events at most, from the queue to @ret; one of more events goes alone.
 * What touches a row that a flight in the air writes stays: it has to see that row. */
static int choose(struct mt_appender *ap, int max_events, struct mt_cmd **ret)
{
    int n = 0, events = 0, looked = 0;
    forget_all(ap);
    for (int i = 0; i < ap->n_flights; i++)
        for (int k = 0; k < ap->flights[i].n; k++)
            note_writes(ap, ap->flights[i].cmds[k]);
    MT_LIST_EACH(pos, &ap->queue) {
        struct mt_cmd *c = MT_CONTAINER(pos, struct mt_cmd, link);
        if (n == ap->batch_max || ++looked > ap->batch_max * 2 || events + c->n_events > BATCH_EVENTS_MAX || (n > 0 && events + c->n_events > max_events))
            break;
        bool clash = clashes(ap, c);
        events += c->n_events; /* counted also when left behind: its keys are noted */
        note_writes(ap, c);    /* so that what comes later for the same rows stays behind it */
        if (clash) {
            ap->own.deferred++;
            continue;
        }
        mt_list_remove(&c->link);
        c->state = CMD_RUNNING;
        ret[n++] = c;
        ap->waiting--;
        ap->waiting_events -= c->n_events;
    }
    return n;
}

/* ---- answering ---- */

static void fail_with(struct mt_cmd *c, const struct mt_err *err)
{
    mt_cmd_done_free(&c->done);
    memset(&c->done, 0, sizeof c->done);
    c->err = *err;
}

static void measure(struct mt_append_measure *m, const struct mt_cmd *c, int64_t now)
{
    if (!m)
        return;
    mt_hist_observe_ns(&m->took, now - c->queued_ns);
    (void)atomic_fetch_add_explicit(&m->ends[c->done.end], 1, memory_order_relaxed);
}

/* Not under the mutex. */
static void answer_all(struct mt_appender *ap, struct mt_cmd **cmds, int n, int64_t begun_at)
{
    int64_t now = mt_clock_mono(), share = (now - begun_at) / 2;
    (void)pthread_mutex_lock(&ap->mutex);
    ap->stats = ap->own;
    ap->expect = n + ap->waiting < ap->batch_max ? n + ap->waiting : ap->batch_max;
    ap->gather_until = now + (share < GATHER_MIN_NS ? GATHER_MIN_NS : share > GATHER_MAX_NS ? GATHER_MAX_NS : share);
    (void)pthread_mutex_unlock(&ap->mutex);
    for (int i = 0; i < n; i++) {
        struct mt_cmd *c = cmds[i];
        measure(ap->measure, c, now);
        if (c->waited) {
            (void)sem_post(&c->answered); /* its thread frees it */
            continue;
        }
        struct mt_cmd_done done = c->done;
        c->done.body = NULL; /* the callback's now */
        c->fn(c->fn_arg, &done, &c->err);
        mt_cmd_free(c);
    }
}

/* ---- the thread ---- */

static int connect_lane(struct mt_appender *ap, int lane, struct mt_err *err)
{
    struct mt_pg **pg = lane == 0 ? &ap->batch.pg : &ap->batch.second;
    int r = mt_pg_open(&ap->pg, pg, err);
    if (r < 0)
        return r; /* it is kept: what the server has begun with goes on */
    r = batch_session(*pg, err);
    if (r == 0)
        r = batch_who(*pg, &ap->sessions[lane], err);
    if (r == 0 && ap->session_sql)
        r = mt_pg_exec(*pg, ap->session_sql, err);
    /* A database can only have been put back while nobody had a session: before the first write is the moment to look. */
    struct mt_history_look look;
    if (r == 0 && ap->history)
        r = mt_history_look(ap->history, *pg, &look, err);
    if (r < 0)
        mt_pg_freep(pg);
    return r;
}

static int connect_now(struct mt_appender *ap, struct mt_err *err)
{
    ap->batch.trusted = false;
    return connect_lane(ap, 0, err);
}

/* The lane for the next flight, -1 when there is none now. */
static int free_lane(struct mt_appender *ap)
{
    if (ap->n_flights == 0)
        return 0;
    if (ap->n_flights == LANES || ap->batch_max == 1 || ap->flights[0].state == FLIGHT_DOWN)
        return -1;
    if (ap->flights[0].lane == 1)
        return ap->batch.pg && mt_pg_alive(ap->batch.pg) ? 0 : -1;
    if (ap->batch.second && mt_pg_alive(ap->batch.second))
        return 1;
    return mt_clock_mono() >= ap->second_retry_at ? 1 : -1;
}

static bool lane_ready(struct mt_appender *ap, int lane)
{
    struct mt_err err = {0};
    if (lane == 0)
        return ap->batch.pg && mt_pg_alive(ap->batch.pg);
    if (ap->batch.second && mt_pg_idle_check(ap->batch.second))
        return true;
    if (connect_lane(ap, 1, &err) == 0)
        return true;
    ap->second_retry_at = mt_clock_mono() + SECOND_RETRY_NS; /* one lane does it, slower */
    return false;
}

static bool connected(struct mt_appender *ap)
{
    if (ap->batch.pg && mt_pg_alive(ap->batch.pg))
        return true;
    int64_t now = mt_clock_mono();
    if (now < ap->retry_at)
        return false;
    ap->retry_at = now + RECONNECT_NS;
    bool was_good = ap->away.code == MT_OK;
    if (connect_now(ap, &ap->away) == 0) {
        if (!was_good)
            mt_log(MT_INFO, "appender.connected");
        ap->retry_at = 0; /* the wait is for a database that is away */
        memset(&ap->away, 0, sizeof ap->away);
        ap->own.reconnects++;
        return true;
    }
    if (was_good)
        mt_log(MT_WARN, "appender.database_away", KV_ERR(&ap->away));
    return false;
}

/* The database is away: what waits is told so at once, not when its time is up. */
static void refuse_waiting(struct mt_appender *ap, const struct mt_err *why)
{
    for (;;) {
        struct mt_cmd *cmds[BATCH_CMDS_MAX];
        (void)pthread_mutex_lock(&ap->mutex);
        int n = choose(ap, BATCH_EVENTS_MAX, cmds);
        (void)pthread_mutex_unlock(&ap->mutex);
        if (n == 0)
            return;
        for (int i = 0; i < n; i++)
            fail_with(cmds[i], why);
        answer_all(ap, cmds, n, mt_clock_mono());
    }
}

/* The connection of session @lost went while COMMIT was on its way: only the log itself can tell, once nothing of it can come any
 * more. 1 committed, 0 not, -code no answer. */
static int settle(struct mt_appender *ap, const struct session *lost, int64_t head, const uint8_t hash[32], struct mt_err *err)
{
    int64_t end = mt_clock_mono() + SETTLE_NS;
    do {
        struct mt_err why = {0};
        int r = ap->batch.pg && mt_pg_alive(ap->batch.pg) ? mt_pg_pipe_leave(ap->batch.pg, &why) : connect_now(ap, &why);
        if (r == 0)
            r = batch_end_session(&ap->pg, lost, end, &why);
        if (r == 0)
            r = batch_settle_at(&ap->batch, head, hash, &why);
        if (r >= 0) {
            ap->own.reconnects++;
            mt_log(MT_INFO, "appender.settled", KV("committed", r == 1), KV("head", head));
            return r;
        }
        refuse_waiting(ap, &why);
        (void)poll(NULL, 0, 100);
    } while (mt_clock_mono() < end);
    return mt_err_wrap(err, "outcome unknown, ask again with the same idempotency key");
}

/* Publish and answer. The log ends with event @head, whose chain hash is @hash. @r < 0: what has no outcome of its own gets
 * @err. */
static void conclude(struct mt_appender *ap, struct mt_cmd **cmds, int n, int64_t begun_at, int64_t head, const uint8_t hash[32],
                     int r, const struct mt_err *err)
{
    bool any = false;
    for (int i = 0; i < n; i++) {
        any |= cmds[i]->done.end == MT_END_DONE;
        if (r < 0 && cmds[i]->done.end != MT_END_DONE)
            fail_with(cmds[i], err);
    }
    if (r < 0)
        mt_log(MT_WARN, "appender.batch_failed", KV("commands", n), KV_ERR(err));
    if (any && ap->history)
        mt_history_note(ap->history, head, hash);
    if (any && ap->head)
        mt_log_head_publish(ap->head, head);
    answer_all(ap, cmds, n, begun_at);
}

/* In recovery: answer what may not be appended now. Returns how many are left in @cmds. */
static int admit(struct mt_appender *ap, struct mt_cmd **cmds, int n)
{
    struct mt_err why = {0};
    struct mt_history_look look;
    int kept = 0;
    if (mt_history_state(ap->history) != MT_RECOVERY_FROZEN)
        return n;
    /* Another server may have ended it. */
    if (mt_history_look(ap->history, ap->batch.pg, &look, &why) == 0 && mt_history_state(ap->history) != MT_RECOVERY_FROZEN)
        return n;
    (void)MT_FAIL(&why, MT_E_UNAVAILABLE, MT_HISTORY_REFUSAL ": its database was restored to an older point");
    for (int i = 0; i < n; i++) {
        if (cmds[i]->in_recovery) {
            cmds[kept++] = cmds[i];
            continue;
        }
        fail_with(cmds[i], &why);
        answer_all(ap, &cmds[i], 1, mt_clock_mono());
    }
    return kept;
}

/* The long way: look-ups first. Nothing is in the air. */
static void run(struct mt_appender *ap, struct mt_cmd **cmds, int n)
{
    struct mt_err err = {0};
    int64_t begun_at = mt_clock_mono();
    bool up = connected(ap);
    int r = up ? mt_pg_pipe_leave(ap->batch.pg, &err) : -(int)MT_E_UNAVAILABLE;
    if (r < 0)
        err = ap->away.code ? ap->away : err;
    if (r == 0 && (n = admit(ap, cmds, n)) == 0)
        return;
    if (r == 0)
        r = batch_run(&ap->batch, cmds, n, &err);
    /* An idle connection may have died long ago; nothing was sent under it that could have been committed. */
    if (r < 0 && up && ap->batch.pg && !mt_pg_alive(ap->batch.pg) && !ap->batch.committing && err.code == MT_E_UNAVAILABLE &&
        connect_now(ap, &ap->away) == 0) {
        memset(&ap->away, 0, sizeof ap->away);
        ap->own.reconnects++;
        if ((n = admit(ap, cmds, n)) == 0)
            return;
        r = batch_run(&ap->batch, cmds, n, &err);
    }
    if (r == 0 && ap->measure && ap->batch.flush_ns > 0)
        mt_hist_observe_ns(&ap->measure->flush, ap->batch.flush_ns);
    int64_t head = ap->batch.head;
    uint8_t hash[32];
    memcpy(hash, ap->batch.hash, 32);
    if (r < 0 && ap->batch.committing) {
        ap->batch.committing = false;
        const struct session lost = ap->sessions[0];
        int fate = settle(ap, &lost, head, hash, &err);
        if (fate == 1)
            batch_finish(&ap->batch, cmds, n);
        r = fate == 1 ? 0 : r;
    }
    conclude(ap, cmds, n, begun_at, head, hash, r, &err);
}

/* Is there an answer to the oldest flight, within @timeout_ns? */
static bool answered(struct mt_appender *ap, int64_t timeout_ns)
{
    struct flight *f = &ap->flights[0];
    struct mt_pg *pg = f->lane == 0 ? ap->batch.pg : ap->batch.second;
    struct pollfd p = {.fd = mt_pg_fd(pg), .events = POLLIN};
    const struct timespec t = {.tv_sec = (time_t)(timeout_ns / MT_NS_PER_S), .tv_nsec = (long)(timeout_ns % MT_NS_PER_S)};
    return f->state == FLIGHT_DOWN || p.fd < 0 || ppoll(&p, 1, &t, NULL) != 0;
}

/* With flights in the air: until the oldest has an answer (true), enough commands wait for a free lane, or it is @until. */
static bool await_flight(struct mt_appender *ap, int64_t until)
{
    struct flight *f = &ap->flights[0];
    if (f->state == FLIGHT_DOWN)
        return true;
    struct mt_pg *pg = f->lane == 0 ? ap->batch.pg : ap->batch.second;
    struct pollfd p[2] = {{.fd = mt_pg_fd(pg), .events = POLLIN}, {.fd = ap->wake_fd, .events = POLLIN}};
    if (p[0].fd < 0)
        return true;
    int64_t wait = ap->n_flights > 1 ? YIELD_MS * MT_NS_PER_MS : MT_NS_PER_S;
    int64_t left = until ? until - mt_clock_mono() : wait;
    wait = left < 0 ? 0 : left < wait ? left : wait;
    const struct timespec t = {.tv_sec = (time_t)(wait / MT_NS_PER_S), .tv_nsec = (long)(wait % MT_NS_PER_S)};
    int n = ppoll(p, 2, &t, NULL);
    uint64_t count;
    if (n > 0 && p[1].revents && read(ap->wake_fd, &count, sizeof count) < 0)
        return true;
    if (n == 0 && !until && ap->n_flights > 1 && ap->flights[1].state == FLIGHT_WRITING) {
        /* It may be the younger one that it waits for, which cannot commit before it. */
        (void)batch_ground(&ap->batch, &ap->flights[1]);
        ap->own.yielded++;
        return false;
    }
    return n != 0 ? p[0].revents != 0 : !until;
}

/* The oldest flight failed: find out what became of each, run again what did not take effect. */
static void recover(struct mt_appender *ap, struct mt_err *err)
{
    struct flight all[LANES];
    struct session lost[LANES]; /* settling connects anew */
    bool sure[LANES] = {false};
    int n = ap->n_flights;
    memcpy(all, ap->flights, (size_t)n * sizeof *all);
    memcpy(lost, ap->sessions, sizeof lost);
    ap->n_flights = 0;
    for (int i = 0; i < n; i++)
        sure[i] = all[i].state == FLIGHT_DOWN || batch_ground(&ap->batch, &all[i]);
    for (int i = 0; i < n; i++) {
        int fate = sure[i] ? 0 : settle(ap, &lost[all[i].lane], all[i].head, all[i].hash, err);
        if (fate == 1)
            batch_finish(&ap->batch, all[i].cmds, all[i].n);
        if (fate == 0)
            run(ap, all[i].cmds, all[i].n);
        else
            conclude(ap, all[i].cmds, all[i].n, all[i].begun_at, all[i].head, all[i].hash, fate, err);
    }
}

/* The oldest flight has an answer, or is to be waited for: bring it one step on. */
static void advance(struct mt_appender *ap)
{
    struct mt_err err = {0};
    struct flight *f = &ap->flights[0];
    if (f->state == FLIGHT_WRITING && batch_end(&ap->batch, f, &err) == 0)
        return;
    if (f->state != FLIGHT_ENDING || batch_land(&ap->batch, f, &err) < 0) {
        recover(ap, &err);
        return;
    }
    if (ap->measure)
        mt_hist_observe_ns(&ap->measure->flush, mt_clock_mono() - f->ending_at);
    struct flight done = *f;
    ap->n_flights--;
    memmove(ap->flights, ap->flights + 1, (size_t)ap->n_flights * sizeof *ap->flights);
    /* First the end of the next flight, so that the server has work while we answer. What fails here shows at its next step. */
    if (ap->n_flights > 0 && f->state == FLIGHT_WRITING && answered(ap, 0))
        advance(ap);
    conclude(ap, done.cmds, done.n, done.begun_at, done.head, done.hash, 0, &err);
}

static void land_all(struct mt_appender *ap)
{
    while (ap->n_flights > 0)
        if (await_flight(ap, 0))
            advance(ap);
}

static void dispatch(struct mt_appender *ap, struct mt_cmd **cmds, int n)
{
    struct mt_err err = {0};
    if (ap->n_flights == 0 && ap->batch.pg)
        (void)mt_pg_idle_check(ap->batch.pg); /* a connection that died while idle has nothing in the air to be unsure of */
    int lane = free_lane(ap), r = 0;
    if (lane >= 0 && ap->batch.trusted && mt_history_state(ap->history) != MT_RECOVERY_FROZEN && lane_ready(ap, lane))
        r = batch_ahead(&ap->batch, cmds, n, ap->n_flights == 0, lane, &ap->flights[ap->n_flights], &err);
    if (r == 1) {
        ap->own.overlapped += ap->n_flights > 0;
        ap->n_flights++;
        return;
    }
    if (r < 0 && lane == 1)
        mt_pg_freep(&ap->batch.second); /* what is queued there had no end yet */
    land_all(ap);
    run(ap, cmds, n);
}

/* Under the mutex, nothing in the air: until a batch is worth sending. */
static void gather(struct mt_appender *ap)
{
    while (!ap->stop && ap->waiting < ap->expect) {
        bool late = mt_clock_mono() >= ap->gather_until;
        if (late && ap->waiting > 0)
            break;
        ap->want = late ? 1 : ap->expect;
        if (late) {
            (void)pthread_cond_wait(&ap->work, &ap->mutex);
        } else {
            const struct timespec until = {.tv_sec = (time_t)(ap->gather_until / MT_NS_PER_S), .tv_nsec = (long)(ap->gather_until % MT_NS_PER_S)};
            (void)pthread_cond_timedwait(&ap->work, &ap->mutex, &until);
        }
    }
    ap->want = INT_MAX;
}

/* Events for the next of two flights: half of all that are under way. Were it all that wait, those of a long flight would find themselves
 * in a long one again and the few others in a short one, which then waits for the long one with its lane idle. */
static int fair_share(const struct mt_appender *ap)
{
    int all = ap->waiting_events;
    for (int i = 0; i < ap->n_flights; i++)
        for (int k = 0; k < ap->flights[i].n; k++)
            all += ap->flights[i].cmds[k]->n_events;
    return (all + 1) / 2 > ap->lane_events ? (all + 1) / 2 : ap->lane_events;
}

/* Wait until something is to be done; returns the commands of the next batch, 0 when a flight is to be waited for, at most
 * until @ret_until (0: as long as it takes). */
static int next_batch(struct mt_appender *ap, struct mt_cmd **cmds, int64_t *ret_until, bool *ret_stop)
{
    int n = 0;
    *ret_until = 0;
    (void)pthread_mutex_lock(&ap->mutex);
    ap->wake_at = 0; /* the thread sleeps on `work` now, not on wake_fd */
    if (ap->n_flights == 0)
        gather(ap);
    *ret_stop = ap->stop && ap->n_flights == 0;
    if (!ap->stop && ap->n_flights == 0) {
        bool split = ap->waiting_events >= 2 * ap->lane_events && ap->waiting > 1 && ap->batch_max > 1 && ap->batch.trusted &&
                     ap->batch.careful == 0;
        n = choose(ap, split ? (ap->waiting_events + 1) / 2 : BATCH_EVENTS_MAX, cmds);
        ap->expect = split ? ap->waiting : ap->expect; /* the other half goes at once */
    } else if (!ap->stop && free_lane(ap) >= 0) {
        int64_t now = mt_clock_mono(), stuck_at = ap->flights[0].begun_at + LANE_WAIT_NS;
        bool late = now >= ap->gather_until, worth = ap->waiting_events >= ap->lane_events || now >= stuck_at;
        int want = late || ap->expect < 1 || !worth ? 1 : ap->expect;
        if (worth && ap->waiting >= want && (n = choose(ap, fair_share(ap), cmds)) == 0)
            want = ap->waiting + 1; /* all that wait have to see what is in the air */
        else if (n == 0 && !(worth && late))
            *ret_until = worth ? ap->gather_until : stuck_at;
        ap->wake_at = n == 0 ? want : 0;
        ap->wake_any = now >= stuck_at;
    }
    (void)pthread_mutex_unlock(&ap->mutex);
    return n;
}

static void *appender_main(void *arg)
{
    struct mt_appender *ap = arg;
    MT_CHECK(ap, APPENDER_MAGIC);
    (void)pthread_setname_np(pthread_self(), "appender");
    for (;;) {
        struct mt_cmd *cmds[BATCH_CMDS_MAX];
        bool stop = false;
        int64_t until;
        int n = next_batch(ap, cmds, &until, &stop);
        if (stop)
            break;
        if (n > 0)
            dispatch(ap, cmds, n);
        else if (ap->n_flights > 0 && await_flight(ap, until))
            advance(ap);
    }
    return NULL;
}

/* ---- the outside ---- */

int mt_appender_new(const struct mt_appender_conf *conf, struct mt_appender **ret_ap, struct mt_err *err)
{
    struct mt_appender *ap = calloc(1, sizeof *ap);
    if (!ap)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the appender");
    ap->magic = APPENDER_MAGIC;
    ap->head = conf->head;
    ap->history = conf->history;
    ap->measure = conf->measure;
    ap->batch_max = conf->batch_max > 0 && conf->batch_max < BATCH_CMDS_MAX ? conf->batch_max : BATCH_CMDS_MAX;
    ap->lane_events = conf->lane_events > 0 ? conf->lane_events : LANE_EVENTS;
    ap->pg = conf->pg;
    ap->pg.conninfo = conf->pg.conninfo ? strdup(conf->pg.conninfo) : NULL;
    ap->pg.role = conf->pg.role ? strdup(conf->pg.role) : NULL;
    ap->pg.application_name = "moat appender";
    ap->session_sql = conf->session_sql ? strdup(conf->session_sql) : NULL;
    ap->keys = calloc(KEYS_MAX, sizeof *ap->keys);
    ap->used = calloc(KEYS_MAX, sizeof *ap->used);
    mt_list_init(&ap->queue);
    pthread_condattr_t mono;
    MT_ASSERT(pthread_mutex_init(&ap->mutex, NULL) == 0 && pthread_condattr_init(&mono) == 0 &&
              pthread_condattr_setclock(&mono, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&ap->work, &mono) == 0);
    (void)pthread_condattr_destroy(&mono);
    ap->expect = 1;
    ap->want = INT_MAX;
    int r = 0;
    ap->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ap->wake_fd < 0)
        r = MT_FAIL_ERRNO(err, MT_E_IO, "eventfd");
    if (!ap->pg.conninfo || !ap->keys || !ap->used || (conf->pg.role && !ap->pg.role) || (conf->session_sql && !ap->session_sql))
        r = MT_FAIL(err, MT_E_NOMEM, "no memory for the appender");
    if (r == 0)
        r = batch_init(&ap->batch, &ap->own, err);
    if (r == 0 && ap->measure)
        ap->batch.lock_wait = &ap->measure->lock;
    if (r == 0 && pthread_create(&ap->thread, NULL, appender_main, ap) != 0) {
        batch_done(&ap->batch);
        r = MT_FAIL(err, MT_E_NOMEM, "cannot start the appender's thread");
    }
    if (r < 0) {
        ap->batch_max = 0; /* no thread, no batch */
        mt_appender_free(ap);
        return r;
    }
    *ret_ap = ap;
    return 0;
}

void mt_appender_free(struct mt_appender *ap)
{
    if (!ap)
        return;
    MT_CHECK(ap, APPENDER_MAGIC);
    if (ap->batch_max > 0) {
        (void)pthread_mutex_lock(&ap->mutex);
        ap->stop = true;
        (void)pthread_cond_signal(&ap->work);
        (void)pthread_mutex_unlock(&ap->mutex);
        (void)pthread_join(ap->thread, NULL);
        struct mt_err err = {0};
        (void)MT_FAIL(&err, MT_E_CANCELLED, "the appender is stopping");
        for (struct mt_list *l; (l = mt_list_pop_front(&ap->queue)) != NULL;) {
            struct mt_cmd *c = MT_CONTAINER(l, struct mt_cmd, link);
            fail_with(c, &err);
            answer_all(ap, &c, 1, mt_clock_mono());
        }
        batch_done(&ap->batch);
    }
    char *role, *conninfo;
    memcpy(&role, &ap->pg.role, sizeof role);
    memcpy(&conninfo, &ap->pg.conninfo, sizeof conninfo);
    free(role);
    free(conninfo);
    if (ap->wake_fd >= 0)
        (void)close(ap->wake_fd);
    free(ap->session_sql);
    free(ap->keys);
    free(ap->used);
    (void)pthread_cond_destroy(&ap->work);
    (void)pthread_mutex_destroy(&ap->mutex);
    ap->magic = 0;
    free(ap);
}

static int enqueue(struct mt_appender *ap, struct mt_cmd *cmd, struct mt_err *err)
{
    MT_CHECK(ap, APPENDER_MAGIC);
    MT_CHECK(cmd, CMD_MAGIC);
    if (cmd->n_events == 0)
        return MT_FAIL(err, MT_E_INVALID, "a command without events changes nothing");
    int r = 0;
    (void)pthread_mutex_lock(&ap->mutex);
    if (ap->stop)
        r = MT_FAIL(err, MT_E_CANCELLED, "the appender is stopping");
    else if (ap->waiting >= QUEUE_MAX)
        r = MT_FAIL(err, MT_E_LIMIT, "%d commands wait already", QUEUE_MAX);
    if (r == 0) {
        cmd->queued_ns = mt_clock_mono();
        mt_list_push_back(&ap->queue, &cmd->link);
        const uint64_t one = 1;
        ap->waiting++;
        ap->waiting_events += cmd->n_events;
        if (ap->wake_at > 0 && ap->waiting >= ap->wake_at && (ap->waiting_events >= ap->lane_events || ap->wake_any)) {
            ap->wake_at = 0;
            if (write(ap->wake_fd, &one, sizeof one) < 0)
                mt_log(MT_ERROR, "appender.wake_failed", KV("errno", errno));
        } else if (ap->waiting >= ap->want) {
            ap->want = INT_MAX; /* once */
            (void)pthread_cond_signal(&ap->work);
        }
    }
    (void)pthread_mutex_unlock(&ap->mutex);
    return r;
}

/* Time is up: take the command back, unless it runs already. */
static bool withdraw(struct mt_appender *ap, struct mt_cmd *cmd, int timeout_ms)
{
    (void)pthread_mutex_lock(&ap->mutex);
    bool mine = cmd->state == CMD_WAITING && !mt_list_empty(&cmd->link);
    if (mine) {
        mt_list_remove(&cmd->link);
        ap->waiting--;
        ap->waiting_events -= cmd->n_events;
        (void)MT_FAIL(&cmd->err, MT_E_TIMEOUT, "the command waited %d ms and was not begun", timeout_ms);
    }
    (void)pthread_mutex_unlock(&ap->mutex);
    return mine;
}

int mt_append(struct mt_appender *ap, struct mt_cmd *cmd, int timeout_ms, struct mt_cmd_done *ret_done, struct mt_err *err)
{
    struct mt_err local;
    if (!err)
        err = &local;
    memset(ret_done, 0, sizeof *ret_done);
    cmd->waited = true;
    int r = enqueue(ap, cmd, err);
    if (r < 0) {
        mt_cmd_free(cmd);
        return r;
    }
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)timeout_ms * MT_NS_PER_MS;
    until.tv_sec += (time_t)(ns / MT_NS_PER_S);
    until.tv_nsec = (long)(ns % MT_NS_PER_S);
    int woken;
    while ((woken = sem_clockwait(&cmd->answered, CLOCK_MONOTONIC, &until)) < 0 && errno == EINTR)
        ;
    if (woken < 0 && !withdraw(ap, cmd, timeout_ms))
        /* It runs: its outcome is waited for, since the reply builder's argument is the caller's. The batch has deadlines. */
        while (sem_wait(&cmd->answered) < 0 && errno == EINTR)
            ;
    SEM_ACQUIRED(&cmd->answered);
    *ret_done = cmd->done;
    cmd->done.body = NULL;
    if (cmd->err.code)
        *err = cmd->err;
    r = -(int)cmd->err.code;
    mt_cmd_free(cmd);
    return r;
}

int mt_append_async(struct mt_appender *ap, struct mt_cmd *cmd, mt_append_fn *fn, void *arg, struct mt_err *err)
{
    cmd->fn = fn;
    cmd->fn_arg = arg;
    int r = enqueue(ap, cmd, err);
    if (r < 0)
        mt_cmd_free(cmd);
    return r;
}

void mt_appender_stats(struct mt_appender *ap, struct mt_appender_stats *ret)
{
    (void)pthread_mutex_lock(&ap->mutex);
    *ret = ap->stats;
    (void)pthread_mutex_unlock(&ap->mutex);
}
