/* SPDX-License-Identifier: Apache-2.0 */
/* Flights: batches on two connections (lanes), one of which writes while the other one's batch is being committed. All that a
 * batch writes is sent at once, but its end (lock, guard, COMMIT) only when the batch before is known to be flushed: so they
 * commit in the order of their ids, none is visible before its forerunner, and after a crash at most the oldest one's fate is
 * unknown. The guard fails unless the log ends where the flight before was to leave it. What two flights write does not meet
 * (appender.c sees to it); where it does all the same, the younger waits for the older, or is rolled back for it. */
#include "control/log/batch.h"
#include "control/log/locks.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

/* Lock, guard, counter and notification in one. The lock is taken without waiting: who has it may wait for rows of this transaction.
 * The row is looked at before the lock is had, but an UPDATE that finds it changed meanwhile asks again of what is there then. */
static const struct mt_pg_stmt st_guard = {
    "log_guard", "WITH moved AS (UPDATE event_counter SET last_event_id = $3, last_chain_hash = $4"
                 " WHERE last_event_id = $1 AND last_chain_hash = $2 AND pg_try_advisory_xact_lock(" MT_LOCK_LOG ") RETURNING 1)"
                 " SELECT 1 / (SELECT count(*) FROM moved), pg_notify('moat_events', $5)"};

#define UNDER_LOCK (UINT64_C(1) << MT_RELY_LEASE) /* its holders change without the log: asked as late as can be */

/* Numbers of the aggregates from memory; false when one is not known or a command has to go the long way. */
static bool seqs_known(const struct batch *b, struct mt_cmd **cmds, int n)
{
    for (int i = 0; i < n; i++) {
        if (cmds[i]->n_sides > 0) /* their counts decide before COMMIT */
            return false;
        for (int k = 0; k < cmds[i]->n_events; k++) {
            struct cmd_event *e = &cmds[i]->events[k];
            e->seq = 0;
            if (mt_ev_info(e->ev)->birth == MT_EV_FIRST || batch_earlier_of(cmds[i], k) >= 0)
                continue;
            e->seq = batch_seqs_get(b->seqs, e);
            if (e->seq == 0)
                return false;
        }
    }
    return true;
}

static struct mt_pg *lane_of(const struct batch *b, const struct flight *f)
{
    return f->lane == 0 ? b->pg : b->second;
}

/* What ends a flight, all under the lock. */
static int send_end(struct batch *b, struct flight *f, struct mt_err *err)
{
    struct mt_pg *pg = lane_of(b, f);
    struct mt_pg_params p;
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)f->head);
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, f->head_before);
    mt_pg_p_bytes(&p, f->hash_before, 32);
    mt_pg_p_i64(&p, f->head);
    mt_pg_p_bytes(&p, f->hash, 32);
    mt_pg_p_text(&p, text);
    int r = mt_pg_pipe_send(pg, &st_guard, &p, err);
    if (r < 0 || (r = batch_send_guards(b, pg, f->cmds, f->n, UNDER_LOCK, err)) < 0 ||
        (r = batch_quota_guard(b, pg, f->cmds, f->n, err)) < 0)
        return r;
    f->ending_at = mt_clock_mono();
    f->state = FLIGHT_ENDING; /* from here on it may commit, whatever becomes of the connection */
    r = mt_pg_pipe_send(pg, &batch_st_commit, NULL, err);
    return r < 0 ? r : mt_pg_pipe_mark(pg, err);
}

static int send_all(struct batch *b, struct flight *f, bool first, int64_t now, struct mt_err *err)
{
    struct mt_pg *pg = lane_of(b, f);
    int r = mt_pg_pipe_enter_once(pg, err);
    if (r < 0 || (r = mt_pg_pipe_send(pg, &batch_st_begin, NULL, err)) < 0 ||
        (first && (r = mt_pg_pipe_send(pg, &batch_st_lock, NULL, err)) < 0) ||
        (r = batch_send_guards(b, pg, f->cmds, f->n, ~UNDER_LOCK, err)) < 0 ||
        (r = batch_send_writes(b, pg, f->cmds, f->n, now, err)) < 0)
        return r;
    memcpy(f->hash, b->hash, 32);
    f->open = true;
    return first ? send_end(b, f, err) : mt_pg_pipe_mark(pg, err);
}

int batch_ahead(struct batch *b, struct mt_cmd **cmds, int n, bool first, int lane, struct flight *f, struct mt_err *err)
{
    if (!b->trusted)
        return 0;
    if (b->careful > 0) {
        b->careful--;
        return 0;
    }
    if (!seqs_known(b, cmds, n))
        return 0;
    for (int i = 0; i < n; i++) {
        batch_give_seqs(cmds[i]);
        if (cmds[i]->out)
            return 0; /* refused: the long way answers it (and forgets this) */
    }
    *f = (struct flight){.n = n, .lane = lane, .first = first, .begun_at = mt_clock_mono(), .head_before = b->head};
    memcpy(f->cmds, cmds, (size_t)n * sizeof *cmds);
    memcpy(f->hash_before, b->hash, 32);
    int64_t now = mt_clock_wall_us();
    int events = batch_number(b, cmds, n, now, err);
    if (events == 0)
        return 0;
    int r = events;
    if (events > 0) {
        f->head = f->head_before + events;
        r = send_all(b, f, first, now, err);
    }
    if (r < 0)
        b->trusted = false;
    if (r < 0 && f->state != FLIGHT_ENDING)
        return r;
    /* Also when the connection was lost with its end on the way: landing finds that out. */
    b->head = f->head;
    for (int i = 0; i < n; i++)
        for (int k = 0; !cmds[i]->out && k < cmds[i]->n_events; k++)
            batch_seqs_put(b->seqs, &cmds[i]->events[k]);
    b->stats->batches++;
    b->stats->lock_takes++;
    return 1;
}

/* The answers to one group of the flight. */
static int await(struct batch *b, struct flight *f, struct mt_err *err)
{
    struct mt_pg *pg = lane_of(b, f);
    struct mt_pg_res *begin_lock[2] = {NULL, NULL};
    int r = mt_pg_pipe_await_first(pg, begin_lock, f->first ? 2 : 0, err);
    f->open = false;
    if (r == 0 && b->lock_wait && f->state == FLIGHT_ENDING) /* else it was taken without waiting, by the guard */
        mt_hist_observe(b->lock_wait, f->first ? mt_pg_i64(begin_lock[1], 0, 1) : 0);
    mt_pg_res_freep(&begin_lock[0]);
    mt_pg_res_freep(&begin_lock[1]);
    if (r == 0 || !mt_pg_alive(pg))
        return r;
    const struct mt_pg_diag *d = mt_pg_diag(pg);
    if (d->stmt == &st_guard || strcmp(d->constraint, "events_pkey") == 0)
        b->careful = 8; /* another process writes: ask first for a while */
    return r;
}

int batch_end(struct batch *b, struct flight *f, struct mt_err *err)
{
    MT_ASSERT(f->state == FLIGHT_WRITING);
    int r = await(b, f, err);
    if (r < 0)
        return r;
    f->open = true;
    return send_end(b, f, err);
}

int batch_land(struct batch *b, struct flight *f, struct mt_err *err)
{
    MT_ASSERT(f->state == FLIGHT_ENDING);
    int r = await(b, f, err);
    if (r == 0)
        batch_finish(b, f->cmds, f->n);
    return r;
}

bool batch_ground(struct batch *b, struct flight *f)
{
    b->trusted = false;
    batch_seqs_clear(b->seqs);
    struct mt_pg *pg = lane_of(b, f);
    struct mt_err ignored = {0};
    bool ended = f->state == FLIGHT_ENDING;
    f->state = FLIGHT_DOWN;
    /* Nothing of this was to commit, unless its end is on its way: then its answer tells. */
    if (f->open && mt_pg_alive(pg) && mt_pg_pipe_await(pg, NULL, 0, &ignored) == 0)
        MT_ASSERT(!ended); /* its guard cannot hold */
    f->open = false;
    if (mt_pg_alive(pg) && mt_pg_pipe_leave(pg, &ignored) == 0 && mt_pg_exec(pg, "ROLLBACK", &ignored) == 0)
        return true;
    return !ended;
}
