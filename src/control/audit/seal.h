/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of audit records into their chains (scheduling-and-operations.md §10.4): what a command or a sensitive read wrote to
 * audit_pending in its own transaction, and the denials that wait here in a bounded queue, are numbered, hashed and put into
 * audit_log by one background thread, within a second. Several servers may run one each: the database lets one seal at a time.
 */
#pragma once

#include "control/audit/record.h"
#include "pg/pg.h"

#define MT_AUDIT_QUEUE_MAX 1024

struct mt_audit;

struct mt_audit_conf {
    struct mt_pg_conf pg;    /* role moat_projector; strings are copied */
    int retention_days;      /* records older than this are pruned hourly; 0: never; else at least 90 */
    int interval_ms;         /* 0 = 1000 */
};

/** Start the sealer's thread; it connects by itself, and again with back-off. */
int mt_audit_new(const struct mt_audit_conf *conf, struct mt_audit **ret, struct mt_err *err);
/** Seal what waits if the database answers, stop, free. */
void mt_audit_free(struct mt_audit *a);

/**
 * Hand over a record that need not be in the database before the answer (denials, refused changes). Copied. A full queue drops
 * it and counts. Thread-safe.
 */
void mt_audit_note(struct mt_audit *a, const struct mt_audit_rec *r);

/** As mt_audit_note for one whom no credential names: a handful each second is kept, the rest is dropped and counted, so that
 * a flood of false tokens cannot fill the database. */
void mt_audit_note_anonymous(struct mt_audit *a, const struct mt_audit_rec *r);

/** Write a record durably now on the caller's connection (sensitive reads): it is in its chain within a second. */
int mt_audit_write(struct mt_pg *pg, const struct mt_audit_rec *r, struct mt_err *err);

/** Wait at most @timeout_ms until everything written before this call is in its chain. False: not in time. */
bool mt_audit_settle(struct mt_audit *a, int timeout_ms);

struct mt_audit_stats {
    uint64_t sealed, dropped, failures, pruned; /* failures: passes that the database refused */
    unsigned queued;
};
void mt_audit_stats(struct mt_audit *a, struct mt_audit_stats *ret);

/* --- one pass, for the sealer and for tests --- */

/**
 * Put what audit_pending holds (at most some thousand records) and the @n lines of @extra into their chains, in one transaction.
 * Returns the number of records sealed; *ret_more tells that more waits, with 0 that another server seals right now.
 */
int mt_audit_seal(struct mt_pg *pg, char *const *extra, int n, bool *ret_more, struct mt_err *err);
