/* SPDX-License-Identifier: Apache-2.0 */
/* verify-audit: recompute every chain of audit records (scheduling-and-operations.md §10.4). */
#pragma once

#include "pg/pg.h"

struct mt_audit_verdict {
    char chain[64];
    int64_t records;    /* checked */
    int64_t anchor_seq; /* last record that retention took away; 0: none */
    int64_t head_seq;   /* last record */
    char head_hash[65]; /* lower-case hex; note it elsewhere, and a chain cut off at its end shows too */
    int64_t bad_seq;    /* first record that does not fit; 0: the chain holds */
    char bad_audit_id[64];
    char what[200];
};
/** Called once per chain, in the order of their names. */
typedef void mt_audit_verdict_fn(void *arg, const struct mt_audit_verdict *v);

/**
 * Check one chain, or all with @chain NULL, in one snapshot; at most that much is read at once that memory stays small.
 * @ret_pending  records written and not yet in a chain
 * Returns 0 when all was read, whatever the verdicts; -code when the database failed.
 */
int mt_audit_verify(struct mt_pg *pg, const char *chain, mt_audit_verdict_fn *fn, void *arg, int64_t *ret_pending,
                    struct mt_err *err);
