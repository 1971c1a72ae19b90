/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/log only: one batch of prepared commands as one transaction. */
#pragma once

#include "control/log/cmd.h"
#include "pg/array.h"

#define BATCH_CMDS_MAX 64
#define BATCH_EVENTS_MAX 4096

/* Columns of events that differ from row to row, in the order of the INSERT. */
enum {
    COL_AGG_TYPE = 0, COL_AGG_ID, COL_SEQ, COL_TYPE, COL_VERSION, COL_ACTOR_TYPE, COL_ACTOR, COL_REQUEST, COL_IDEM,
    COL_CORRELATION, COL_CAUSATION, COL_ORG, COL_APP, COL_ENV, COL_PAYLOAD, COL_CHAIN, COL_MAX
};
enum { IDEM_ORG = 0, IDEM_ACTOR, IDEM_ROUTE, IDEM_KEY, IDEM_MAC, IDEM_STATUS, IDEM_BODY, IDEM_EVENT, IDEM_MAX };

struct batch {
    struct mt_pg *pg; /* NULL while not connected */
    int64_t head;     /* of the transaction that runs */
    uint8_t hash[32];
    bool committing; /* COMMIT was sent: after a loss its fate is unknown until batch_settle */
    struct mt_pg_arr cols[COL_MAX], idem[IDEM_MAX], rely_key, rely_key2, rely_version, rely_at;
    struct mt_buf scratch;
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
/** Session settings of the appender's connection. */
int batch_session(struct batch *b, struct mt_err *err);

/**
 * Append @n commands, none of which touches what an earlier one touches. Each gets its outcome in done/err.
 * Returns 0 when all have one; -code when the connection was lost or the transaction failed as a whole: then nothing was
 * committed, unless b->committing says that it is unknown.
 */
int batch_run(struct batch *b, struct mt_cmd **cmds, int n, struct mt_err *err);

/** After a loss with b->committing, on a new connection: was it committed? 1 yes, 0 no. */
int batch_settle(struct batch *b, struct mt_err *err);
/** Fill in the outcome of commands whose batch turned out to be committed. */
void batch_finish(struct batch *b, struct mt_cmd **cmds, int n);
