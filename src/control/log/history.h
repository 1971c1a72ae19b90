/* SPDX-License-Identifier: Apache-2.0 */
/* Which history of the log this process has seen, and whether the database still has it (control-plane.md §16). A database
 * that was restored to an older point goes on giving out event ids that nodes, edges and clients know with another meaning, so
 * the end of the log is remembered outside of it: in memory, and in a file beside the server's state (docs/formats/event-log.md).
 * Whoever opens a session looks before it writes. */
#pragma once

#include "control/log/read.h"

/** How far a recovery is. FROZEN: nothing but the operator's decision is appended, polls answer "nothing changed". APPLIED: the
 * log rules again, but nothing is stopped for being unknown to it. */
enum mt_recovery { MT_RECOVERY_NONE = 0, MT_RECOVERY_FROZEN, MT_RECOVERY_APPLIED };

/** "none", "frozen", "applied". */
const char *mt_recovery_name(enum mt_recovery r);

/** A place in a history: epoch, event and the chain hash of that event. */
struct mt_mark {
    int64_t epoch, event_id; /* event 0: nothing is known */
    uint8_t hash[32];
    bool hashed; /* the hash is known too */
};

enum mt_history_verdict {
    MT_HISTORY_SAME = 0, /* what is known is in the log */
    MT_HISTORY_NEWER,    /* the log has a later epoch: somebody has settled a restore */
    MT_HISTORY_BEHIND,   /* the log ends before what is known, or its epoch does */
    MT_HISTORY_OTHER     /* another event stands where the known one was */
};

/** Compare @known with the end of the log @log; @there: the chain hash of event @known->event_id in the log, NULL when it has
 * none. Pure. */
enum mt_history_verdict mt_history_compare(const struct mt_mark *known, const struct mt_mark *log, const uint8_t *there);

/** The file's line, and back. @ret: at least 200 bytes. -MT_E_CORRUPT for anything that is not one. Pure. */
void mt_mark_print(const struct mt_mark *m, const char *cluster_id, char *ret, size_t size);
int mt_mark_parse(const char *text, size_t len, struct mt_mark *ret, char ret_cluster_id[64], struct mt_err *err);

struct mt_history;

/** What a look found. */
struct mt_history_look {
    enum mt_history_verdict verdict;
    struct mt_mark known, log;
    enum mt_recovery recovery; /* as the log has it */
    int64_t changed_event_id;  /* last event of the recovery's row, 0: there was never one */
    int64_t version;           /* its resource_version */
};

/**
 * @dir   folder of the file `high-water`; NULL: memory only. A file that cannot be read or used is reported and left alone:
 *        what agents and edges report still tells.
 */
int mt_history_new(const char *dir, struct mt_history **ret, struct mt_err *err);
/** Before the first look, once: the process's head of the log, lowered when a later epoch is found. Must outlive looks and notes. */
void mt_history_follow(struct mt_history *h, struct mt_log_head *head);
/** Saves what is known. */
void mt_history_free(struct mt_history *h);

/** Look at the log on @pg and remember its end, unless it is not the history that is known. Any thread. */
int mt_history_look(struct mt_history *h, struct mt_pg *pg, struct mt_history_look *ret, struct mt_err *err);
/** Event @event_id with @hash was committed by this process. Never blocks on I/O. */
void mt_history_note(struct mt_history *h, int64_t event_id, const uint8_t hash[32]);
/** Somebody reported a place that the log does not have: treat it as behind until its epoch is above @epoch. */
void mt_history_doubt(struct mt_history *h, int64_t epoch);
/** State as of the last look; FROZEN also while a look found the log behind and no event says so yet. NULL: NONE. */
enum mt_recovery mt_history_state(const struct mt_history *h);
/** Epoch as of the last look, 0 before the first. */
int64_t mt_history_epoch(const struct mt_history *h);

/* What a refused command is told; part of its error's text. */
#define MT_HISTORY_REFUSAL "the platform is in recovery mode"
