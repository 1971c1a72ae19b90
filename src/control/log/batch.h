/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/log only: one batch of prepared commands as one transaction. */
#pragma once

#include "control/log/cmd.h"
#include "pg/array.h"

#define BATCH_CMDS_MAX 64
#define BATCH_EVENTS_MAX 4096

/* Columns of events that differ from row to row, in the order of the INSERT. */
enum {
    COL_AGG_TYPE = 0, COL_AGG_ID, COL_SEQ, COL_TYPE, COL_ACTOR_TYPE, COL_ACTOR, COL_REQUEST, COL_IDEM, COL_ORG, COL_APP, COL_ENV, COL_PAYLOAD, COL_CHAIN,
    COL_ORG_RUN, COL_ENV_RUN,                  /* not in a batch of lone events */
    COL_VERSION, COL_CORRELATION, COL_CAUSATION, /* in a batch where they are not 1, NULL, NULL throughout */
    COL_MAX
};
enum { IDEM_SCOPE = 0, IDEM_EVENT, IDEM_STATUS, IDEM_MAC, IDEM_BODY, IDEM_MAX };

#define QUOTA_COLS 6

/* Which events of a batch have an entry in the index of their organisation (or environment), and for how many more it stands: runs.c. */
#define RUN_HEADS 8
struct runs {
    struct {
        const char *id;
        int first, last; /* events of the batch, from 0 */
    } heads[RUN_HEADS];
    int n, oldest;
    bool shared;  /* an entry stands for more than one event */
    int32_t *run; /* BATCH_EVENTS_MAX; what becomes of the column */
};

struct batch_seqs; /* numbers of aggregates that this appender wrote */

struct batch {
    struct mt_pg *pg;     /* NULL while not connected */
    struct mt_pg *second; /* lane 1, connected when it is first of use; or NULL */
    int64_t head;     /* what was sent last, or of the transaction that runs */
    uint8_t hash[32];
    bool trusted;   /* head and hash are those of the log unless another process wrote meanwhile */
    int careful;    /* batches left to run with look-ups first, since another process writes too */
    struct batch_seqs *seqs;
    int64_t flush_ns; /* the last run of batch_run: how long its COMMIT took, 0: none */
    struct mt_hist *lock_wait; /* how long batches waited for the lock of the log; or NULL */
    bool committing; /* COMMIT was sent: after a loss its fate is unknown until batch_settle */
    struct mt_pg_arr cols[COL_MAX], idem[IDEM_MAX], rely_key, rely_key2, rely_version, rely_at;
    struct mt_buf scratch;
    struct mt_buf audit; /* lines of the commands still in */
    struct mt_pg_arr audit_rows; /* the same, in pieces that fit a row */
    struct mt_pg_arr quota[QUOTA_COLS];
    struct runs orgs, envs;
    bool differ; /* versions, correlations, causes: see COL_VERSION */
    struct mt_proj_event *proj;   /* BATCH_EVENTS_MAX each */
    struct mt_proj_round *rounds;
    struct mt_appender_stats *stats; /* written by the appender's thread only */
};

/* lookup.c */
extern const struct mt_pg_stmt batch_st_begin, batch_st_lock;
/** Queue and await the look-ups of @n commands and answer those that are replayed, stale or refused; with @begin in a
 * transaction that starts here and takes the lock, else under a savepoint. */
int batch_look_up(struct batch *b, struct mt_cmd **cmds, int n, bool begin, struct mt_err *err);
/** Numbers of a command's events, from those found for the first event of each aggregate; refuses impossible ones. */
void batch_give_seqs(struct mt_cmd *c);
/** Index of the last event before @i of the same aggregate in the command, -1 when there is none. */
int batch_earlier_of(const struct mt_cmd *c, int i);
void batch_end_error(struct mt_cmd *c, const struct mt_err *err);

/* batch.c */
int batch_init(struct batch *b, struct mt_appender_stats *stats, struct mt_err *err);
void batch_done(struct batch *b);
/** Session settings of a connection of the appender's. */
int batch_session(struct mt_pg *pg, struct mt_err *err);

/**
 * Append @n commands, none of which touches what an earlier one touches. Each gets its outcome in done/err.
 * Returns 0 when all have one; -code when the connection was lost or the transaction failed as a whole: then nothing was
 * committed, unless b->committing says that it is unknown.
 */
int batch_run(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err);

/* settle.c */
/** A session of the database: its process, and a time of the server's at which it was there. pid 0: none. */
struct session {
    int32_t pid;
    int64_t seen_us;
};
int batch_who(struct mt_pg *pg, struct session *ret, struct mt_err *err);
/** End a lost session and wait until it is gone, so that nothing which is on its way to it can take effect any more. */
int batch_end_session(const struct mt_pg_conf *conf, const struct session *s, int64_t until_ns, struct mt_err *err);
/** Was the batch that ended with event @head and chain hash @hash committed? 1 yes, 0 no. On another connection, when the batch's
 * session is gone. */
int batch_settle_at(struct batch *b, int64_t head, const uint8_t hash[32], struct mt_err *err);
/** Fill in the outcome of commands whose batch turned out to be committed. */
void batch_finish(struct batch *b, struct mt_cmd **cmds, int n);
/** The parts of the second trip, for ahead.c. number: ids, replies and records; returns the number of events. send: queue on @pg the records,
 * then the events, chained meanwhile, and the views; advances b->hash, not b->head; returns the statements queued. */
int batch_number(struct batch *b, struct mt_cmd **cmds, int n, int64_t now, struct mt_err *err);
int batch_send_writes(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, int64_t now, struct mt_err *err);
extern const struct mt_pg_stmt batch_st_commit;

/* ahead.c: a batch without look-ups on one of two connections, written while the batch before is still being flushed. It
 * relies on what this appender knows (head, numbers of aggregates) and on statements that fail when that, or what a command
 * relied on, no longer holds. */
#define LANES 2
enum flight_state {
    FLIGHT_WRITING = 0, /* its writes are on their way; it cannot commit */
    FLIGHT_ENDING,      /* guard and COMMIT are on their way: only the oldest flight is ever here */
    FLIGHT_DOWN         /* rolled back; its commands run again by batch_run */
};
struct flight {
    struct mt_cmd *cmds[BATCH_CMDS_MAX];
    int n;
    int lane; /* 0: b->pg, 1: b->second */
    enum flight_state state;
    bool first; /* nothing else was in the air: lock and end went with its writes */
    bool open; /* a group of statements is not answered yet */
    int64_t begun_at, ending_at;
    int64_t head_before, head; /* last event id before and after it */
    uint8_t hash_before[32], hash[32];
};
/** Send @cmds as one flight on a lane that has none. @first: nothing else is in the air, so take the lock and commit in the
 * same trip. 1 sent; 0 not possible now, use batch_run (nothing was sent); -code connection lost. */
int batch_ahead(struct batch *b, struct mt_cmd **cmds, int n, bool first, int lane, struct flight *f, struct mt_err *err);
/** The flight became the oldest: wait for its writes and send its end. -code: ground it and the later ones. */
int batch_end(struct batch *b, struct flight *f, struct mt_err *err);
/** Wait for the end of the oldest flight: 0 committed and outcomes filled in; -code: ground it and the later ones. */
int batch_land(struct batch *b, struct flight *f, struct mt_err *err);
/** Swallow what is unanswered of a flight, roll it back, trust nothing any more. Oldest first, since a later one may wait for
 * its rows. True: it has no effect; false: its connection was lost with its end on the way, ask batch_settle_at. */
bool batch_ground(struct batch *b, struct flight *f);

/* seqs.c */
struct batch_seqs *batch_seqs_new(void);
void batch_seqs_free(struct batch_seqs *s);
/** Forget all. */
void batch_seqs_clear(struct batch_seqs *s);
/** Last number of an aggregate, 0 when not known. */
int32_t batch_seqs_get(const struct batch_seqs *s, const struct cmd_event *e);
void batch_seqs_put(struct batch_seqs *s, const struct cmd_event *e);
/** Queue on @pg one statement per kind of reliance of @cmds, out of the set @wanted (bit mt_rely), that fails when one does
 * not hold. lookup.c. */
int batch_send_guards(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, uint64_t wanted, struct mt_err *err);

/* runs.c */
void batch_runs_begin(struct runs *r);
/** Event @i of the batch is of @id, NULL: of none. In their order. */
void batch_runs_add(struct runs *r, int i, const char *id);
/** The column of @n events, into the empty @col. */
void batch_runs_put(const struct runs *r, int n, struct mt_pg_arr *col);

/* quota.c */
void batch_quota_init(struct batch *b);
void batch_quota_done(struct batch *b);
/** Queue on @pg, behind the writes of @cmds and under the lock, a statement that fails when a sum that they add to is past its
 * limit; nothing when they add nothing. */
int batch_quota_guard(struct batch *b, struct mt_pg *pg, struct mt_cmd **cmds, int n, struct mt_err *err);
/** Ask for the sums and limits that @cmds touch, and take those out that pass a limit, in their order. Not in a pipeline. */
int batch_quota_ask(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err);
