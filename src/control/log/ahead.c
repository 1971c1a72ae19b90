/* SPDX-License-Identifier: Apache-2.0 */
/* Flights: a batch as one trip, sent before the answer to the one before is there, so that the server goes from one flush
 * straight into the next transaction. Each flight carries a guard: it fails unless the log ends where the flight before was
 * to leave it. So after a failed flight the later ones fail too, and all of them run again by batch_run. */
#include "control/log/batch.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>

/* Guard, counter and notification in one: nothing else under the lock depends on when the counter moves. */
static const struct mt_pg_stmt st_guard = {
    "log_guard", "WITH moved AS (UPDATE event_counter SET last_event_id = $3, last_chain_hash = $4"
                 " WHERE last_event_id = $1 AND last_chain_hash = $2 RETURNING 1)"
                 " SELECT 1 / (SELECT count(*) FROM moved), pg_notify('moat_events', $5)"};

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

static int send_all(struct batch *b, struct mt_cmd **cmds, int n, int64_t head, const uint8_t hash[32], int events, int64_t now,
                    struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)(head + events));
    mt_pg_p_i64(&p, head);
    mt_pg_p_bytes(&p, hash, 32);
    mt_pg_p_i64(&p, head + events);
    mt_pg_p_bytes(&p, b->hash, 32);
    mt_pg_p_text(&p, text);
    int r = mt_pg_pipe_send(b->pg, &batch_st_begin, NULL, err);
    if (r < 0 || (r = mt_pg_pipe_send(b->pg, &batch_st_lock, NULL, err)) < 0 || (r = mt_pg_pipe_send(b->pg, &st_guard, &p, err)) < 0 ||
        (r = batch_send_guards(b, cmds, n, err)) < 0 || (r = batch_send_writes(b, events, now, err)) < 0)
        return r;
    b->head += events;
    if ((r = mt_pg_pipe_send(b->pg, &batch_st_commit, NULL, err)) < 0)
        return r;
    return mt_pg_pipe_mark(b->pg, err);
}

int batch_ahead(struct batch *b, struct mt_cmd **cmds, int n, struct flight *f, struct mt_err *err)
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
    int64_t head = b->head, now = mt_clock_wall_us();
    uint8_t hash[32];
    memcpy(hash, b->hash, 32);
    int events = batch_gather(b, cmds, n, now, err);
    int r = events;
    if (events > 0 && (r = mt_pg_pipe_enter_once(b->pg, err)) == 0)
        r = send_all(b, cmds, n, head, hash, events, now, err);
    if (r < 0) {
        b->trusted = false;
        return r;
    }
    if (events == 0) {
        memcpy(b->hash, hash, 32);
        return 0;
    }
    f->n = n;
    memcpy(f->cmds, cmds, (size_t)n * sizeof *cmds);
    f->head = b->head;
    memcpy(f->hash, b->hash, 32);
    for (int i = 0; i < n; i++)
        for (int k = 0; !cmds[i]->out && k < cmds[i]->n_events; k++)
            batch_seqs_put(b->seqs, &cmds[i]->events[k]);
    b->stats->batches++;
    b->stats->lock_takes++;
    return 1;
}

int batch_land(struct batch *b, struct flight *f, struct mt_err *err)
{
    int r = mt_pg_pipe_await(b->pg, NULL, 0, err);
    if (r == 0)
        batch_finish(b, f->cmds, f->n);
    else if (mt_pg_alive(b->pg) && mt_pg_diag(b->pg)->stmt == &st_guard)
        b->careful = 8; /* another process writes: ask first for a while */
    return r;
}

int batch_ground(struct batch *b, int n_later, struct mt_err *err)
{
    b->trusted = false;
    batch_seqs_clear(b->seqs);
    struct mt_err ignored = {0};
    for (int i = 0; i < n_later && mt_pg_alive(b->pg); i++) {
        int r = mt_pg_pipe_await(b->pg, NULL, 0, &ignored);
        MT_ASSERT(r < 0); /* its guard cannot hold */
    }
    if (!mt_pg_alive(b->pg))
        return MT_FAIL(err, MT_E_UNAVAILABLE, "database: connection lost");
    int r = mt_pg_pipe_leave(b->pg, err);
    return r < 0 ? r : mt_pg_exec(b->pg, "ROLLBACK", err);
}
