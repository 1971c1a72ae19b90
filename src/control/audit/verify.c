/* SPDX-License-Identifier: Apache-2.0 */
/* verify-audit: numbers without gaps, each hash over its record and the hash before, the end where audit_chains says. */
#include "control/audit/verify.h"

#include "base/str.h"
#include "control/audit/record.h"

#include <string.h>

#define RANGE 2000

static const struct mt_pg_stmt st_chains = {
    "audit_verify_chains", "SELECT chain, last_seq, last_hash, anchor_seq, anchor_hash FROM audit_chains"
                           " WHERE $1::text IS NULL OR chain = $1 ORDER BY chain COLLATE \"C\""};
static const struct mt_pg_stmt st_range = {
    "audit_verify_range",
    "SELECT action, actor_id, actor_type, app_id, audit_id, decision, env_id, error_code, idempotency_key_hash,"
    " org_id, reason, request_id, resource_id, resource_type, result, scopes, source_ip, token_id, user_agent,"
    " seq, ts, event_id, prev_hash, hash FROM audit_log WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3"};
static const struct mt_pg_stmt st_strays = {
    "audit_verify_strays", "SELECT l.chain, l.seq, l.audit_id FROM audit_log l WHERE ($1::text IS NULL OR l.chain = $1)"
                           " AND NOT EXISTS (SELECT FROM audit_chains c WHERE c.chain = l.chain) ORDER BY 1, 2 LIMIT 1"};
static const struct mt_pg_stmt st_pending = {"audit_verify_pending",
                                             "SELECT COALESCE(sum(length(body) - length(replace(body, E'\\n', ''))), 0)::int8"
                                             " FROM audit_pending"};

enum { COL_SEQ = MT_AUDIT_T_MAX, COL_TS, COL_EVENT, COL_PREV, COL_HASH };

static void bad(struct mt_audit_verdict *v, int64_t seq, const char *id, const char *what)
{
    v->bad_seq = seq;
    (void)snprintf(v->bad_audit_id, sizeof v->bad_audit_id, "%s", id ? id : "");
    (void)snprintf(v->what, sizeof v->what, "%s", what);
}

static bool is_hash(const struct mt_pg_res *r, int row, int col, const uint8_t want[32])
{
    size_t n;
    const void *h = mt_pg_bytes(r, row, col, &n);
    return n == 32 && memcmp(h, want, 32) == 0;
}

static void check_row(const struct mt_pg_res *res, int row, uint8_t hash[32], struct mt_buf *scratch, struct mt_audit_verdict *v)
{
    struct mt_audit_rec r = {.ts_us = mt_pg_time(res, row, COL_TS), .event_id = mt_pg_i64_or(res, row, COL_EVENT, 0)};
    struct mt_err err = {0};
    int64_t seq = mt_pg_i64(res, row, COL_SEQ), want = v->anchor_seq + v->records + 1;
    for (int i = 0; i < MT_AUDIT_T_MAX; i++)
        r.text[i] = mt_pg_text_or_null(res, row, i);
    const char *id = r.text[MT_AUDIT_T_audit_id];
    if (seq != want) {
        bad(v, want, NULL, "the record is missing");
        return;
    }
    if (!MT_STREQ(mt_audit_chain(&r), v->chain)) {
        bad(v, seq, id, "the record belongs to another chain");
        return;
    }
    if (!is_hash(res, row, COL_PREV, hash)) {
        bad(v, seq, id, "prev_hash is not the hash of the record before");
        return;
    }
    if (mt_audit_hash(hash, v->chain, seq, &r, scratch, hash, &err) < 0)
        bad(v, seq, id, err.msg);
    else if (!is_hash(res, row, COL_HASH, hash))
        bad(v, seq, id, "the hash does not fit the record: it was altered");
    else
        v->records++;
}

static int check_chain(struct mt_pg *pg, uint8_t hash[32], struct mt_audit_verdict *v, struct mt_err *err)
{
    mt_auto_buf struct mt_buf scratch = MT_BUF_INIT(64u << 10);
    for (int n = RANGE; n == RANGE && !v->bad_seq;) {
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, v->chain);
        mt_pg_p_i64(&p, v->anchor_seq + v->records);
        mt_pg_p_i64(&p, RANGE);
        int r = mt_pg_query(pg, &st_range, &p, &res, err);
        if (r < 0)
            return r;
        n = mt_pg_rows(res);
        for (int i = 0; i < n && !v->bad_seq; i++)
            check_row(res, i, hash, &scratch, v);
    }
    return 0;
}

static int one_chain(struct mt_pg *pg, const struct mt_pg_res *chains, int row, struct mt_audit_verdict *v, struct mt_err *err)
{
    uint8_t hash[32];
    size_t n;
    const void *h;
    *v = (struct mt_audit_verdict){.head_seq = mt_pg_i64(chains, row, 1), .anchor_seq = mt_pg_i64(chains, row, 3)};
    (void)snprintf(v->chain, sizeof v->chain, "%s", mt_pg_text(chains, row, 0));
    h = mt_pg_bytes(chains, row, 2, &n);
    if (n == 32)
        mt_hex_encode(h, 32, v->head_hash);
    int r = mt_audit_genesis(v->chain, hash, err);
    if (r < 0)
        return r;
    if (v->anchor_seq > 0) {
        h = mt_pg_null(chains, row, 4) ? NULL : mt_pg_bytes(chains, row, 4, &n);
        if (!h || n != 32) {
            bad(v, v->anchor_seq, NULL, "the anchor that retention left has no hash");
            return 0;
        }
        memcpy(hash, h, 32);
    }
    if ((r = check_chain(pg, hash, v, err)) < 0 || v->bad_seq)
        return r;
    int64_t last = v->anchor_seq + v->records;
    if (last < v->head_seq)
        bad(v, last + 1, NULL, "the record is missing at the end of the chain");
    else if (last > v->head_seq)
        bad(v, v->head_seq + 1, NULL, "the record lies behind the end that audit_chains holds");
    else if (!is_hash(chains, row, 2, hash))
        bad(v, last, NULL, "audit_chains holds another hash than the last record");
    return 0;
}

static int verify_in_snapshot(struct mt_pg *pg, const char *chain, mt_audit_verdict_fn *fn, void *arg, int64_t *ret_pending,
                              struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *chains = NULL, *strays = NULL, *pending = NULL;
    struct mt_audit_verdict v;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, chain);
    int r = mt_pg_query(pg, &st_chains, &p, &chains, err);
    for (int i = 0; r == 0 && i < mt_pg_rows(chains); i++)
        if ((r = one_chain(pg, chains, i, &v, err)) == 0)
            fn(arg, &v);
    if (r < 0 || (r = mt_pg_query(pg, &st_strays, &p, &strays, err)) < 0)
        return r;
    if (mt_pg_rows(strays) > 0) {
        v = (struct mt_audit_verdict){0};
        (void)snprintf(v.chain, sizeof v.chain, "%s", mt_pg_text(strays, 0, 0));
        bad(&v, mt_pg_i64(strays, 0, 1), mt_pg_text(strays, 0, 2), "audit_chains does not know the chain of this record");
        fn(arg, &v);
    }
    if ((r = mt_pg_query_one(pg, &st_pending, NULL, &pending, err)) == 0)
        *ret_pending = mt_pg_i64(pending, 0, 0);
    return r;
}

int mt_audit_verify(struct mt_pg *pg, const char *chain, mt_audit_verdict_fn *fn, void *arg, int64_t *ret_pending,
                    struct mt_err *err)
{
    struct mt_err ignored;
    int r = mt_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", err);
    if (r < 0)
        return r;
    r = verify_in_snapshot(pg, chain, fn, arg, ret_pending, err);
    int end = mt_pg_alive(pg) ? mt_pg_exec(pg, "ROLLBACK", r < 0 ? &ignored : err) : 0;
    return r < 0 ? r : end;
}
