/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints of the audit log (scheduling-and-operations.md §10.4, docs/formats/audit-log.md): where every chain ends, signed, for a place outside
 * the database. Who rewrites both tables can make chains that hold; that they are not those of before shows against a checkpoint.
 */
#pragma once

#include "base/buf.h"
#include "pg/pg.h"

#define MT_CHECKPOINT_MAX ((size_t)16 << 20) /* bytes; some 100,000 chains */

struct mt_checkpoint_report {
    int64_t chains, records;
    int64_t pruned;    /* chains whose record of then retention has taken away: nothing to compare */
    char made_at[40];
};

/**
 * Verify every chain in one snapshot and append the signed heads to @ret. -MT_E_CORRUPT when a chain does not hold: nothing is signed then.
 * @key_pem  an Ed25519 private key
 */
int mt_checkpoint_make(struct mt_pg *pg, const char *cluster_id, const char *key_pem, size_t key_len, struct mt_buf *ret, struct mt_checkpoint_report *report,
                       struct mt_err *err);
/**
 * Is @text signed by the key whose public half is @key_pem, of this cluster, and does the audit log still have every record of then?
 * -MT_E_INVALID it is no checkpoint; -MT_E_DENIED another key or cluster, or its signature does not fit; -MT_E_CORRUPT the log is not the one of then, @err says where.
 */
int mt_checkpoint_check(struct mt_pg *pg, const char *cluster_id, const char *text, size_t len, const char *key_pem, size_t key_len,
                        struct mt_checkpoint_report *report, struct mt_err *err);
