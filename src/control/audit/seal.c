/* SPDX-License-Identifier: Apache-2.0 */
/* One transaction of the sealer: take lines, number and hash them chain by chain, write them set-wise. */
#include "control/audit/seal.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/digest.h"
#include "pg/array.h"

#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 256   /* of audit_pending in one pass, each at most 64 records */
#define PASS_MAX 16384 /* records */
#define CHAINS_MAX 4096

/* "moat.aud" as a number */
static const struct mt_pg_stmt st_lock = {"audit_lock", "SELECT pg_try_advisory_xact_lock(7885628624171037284)"};
static const struct mt_pg_stmt st_take = {"audit_take", "SELECT pending_id, body FROM audit_pending ORDER BY pending_id LIMIT $1"};
static const struct mt_pg_stmt st_heads = {"audit_heads",
                                           "SELECT chain, last_seq, last_hash FROM audit_chains WHERE chain = ANY($1::text[])"};
static const struct mt_pg_stmt st_insert = {
    "audit_insert",
    "INSERT INTO audit_log (action, actor_id, actor_type, app_id, audit_id, decision, env_id, error_code, idempotency_key_hash,"
    " org_id, reason, request_id, resource_id, resource_type, result, scopes, source_ip, token_id, user_agent,"
    " chain, seq, ts, event_id, prev_hash, hash)"
    " SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]), unnest($6::text[]),"
    " unnest($7::text[]), unnest($8::text[]), unnest($9::text[]), unnest($10::text[]), unnest($11::text[]), unnest($12::text[]),"
    " unnest($13::text[]), unnest($14::text[]), unnest($15::text[]), unnest($16::text[]), unnest($17::text[]), unnest($18::text[]),"
    " unnest($19::text[]), unnest($20::text[]), unnest($21::int8[]), unnest($22::timestamptz[]), unnest($23::int8[]),"
    " unnest($24::bytea[]), unnest($25::bytea[])"};
static const struct mt_pg_stmt st_advance = {
    "audit_advance", "INSERT INTO audit_chains (chain, last_seq, last_hash)"
                     " SELECT unnest($1::text[]), unnest($2::int8[]), unnest($3::bytea[])"
                     " ON CONFLICT (chain) DO UPDATE SET last_seq = excluded.last_seq, last_hash = excluded.last_hash"};
static const struct mt_pg_stmt st_gone = {"audit_gone", "DELETE FROM audit_pending WHERE pending_id = ANY($1::int8[])"};
static const struct mt_pg_stmt st_put = {"audit_put", "INSERT INTO audit_pending (body) VALUES ($1)"};

enum { COL_CHAIN = MT_AUDIT_T_MAX, COL_SEQ, COL_TS, COL_EVENT, COL_PREV, COL_HASH, COL_MAX };

struct chain {
    char name[64];
    int64_t seq;
    uint8_t hash[32];
};

struct rec {
    struct mt_audit_rec r;
    json_t *tree;
    int at;                  /* order of arrival */
    char id[48], reason[80]; /* of a line that could not be read */
    struct chain *chain;
};

struct pass {
    struct rec *recs;
    int n, cap;
    struct chain *chains;
    int n_chains;
    struct mt_pg_arr cols[COL_MAX], ids, names, seqs, hashes;
    struct mt_buf scratch;
};

static void pass_init(struct pass *p)
{
    static const enum mt_pg_elem kinds[COL_MAX] = {[COL_SEQ] = MT_PG_ELEM_I64,     [COL_TS] = MT_PG_ELEM_TIME,
                                                   [COL_EVENT] = MT_PG_ELEM_I64,   [COL_PREV] = MT_PG_ELEM_BYTES,
                                                   [COL_HASH] = MT_PG_ELEM_BYTES};
    *p = (struct pass){.scratch = MT_BUF_INIT(64u << 10)};
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_init(&p->cols[i], kinds[i], 32u << 20);
    mt_pg_arr_init(&p->ids, MT_PG_ELEM_I64, 1u << 20);
    mt_pg_arr_init(&p->names, MT_PG_ELEM_TEXT, 8u << 20);
    mt_pg_arr_init(&p->seqs, MT_PG_ELEM_I64, 8u << 20);
    mt_pg_arr_init(&p->hashes, MT_PG_ELEM_BYTES, 8u << 20);
}

static void pass_done(struct pass *p)
{
    for (int i = 0; i < p->n; i++)
        json_decref(p->recs[i].tree);
    free(p->recs);
    free(p->chains);
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_arr_done(&p->cols[i]);
    mt_pg_arr_done(&p->ids);
    mt_pg_arr_done(&p->names);
    mt_pg_arr_done(&p->seqs);
    mt_pg_arr_done(&p->hashes);
    mt_buf_done(&p->scratch);
}

/* A line nobody can read must neither stop the others nor vanish: a record says that it was there and what it hashed to. */
static void unreadable(struct rec *x, const char *line, size_t len, const struct mt_err *why)
{
    char hex[MT_SHA256_HEX];
    mt_sha256_hex(line, len, hex);
    (void)snprintf(x->id, sizeof x->id, "aud_unreadable_%.24s", hex);
    (void)snprintf(x->reason, sizeof x->reason, "sha256:%s", hex);
    x->r = (struct mt_audit_rec){.ts_us = mt_clock_wall_us()};
    x->r.text[MT_AUDIT_T_action] = "audit.unreadable";
    x->r.text[MT_AUDIT_T_audit_id] = x->id;
    x->r.text[MT_AUDIT_T_actor_type] = "system";
    x->r.text[MT_AUDIT_T_decision] = "allow";
    x->r.text[MT_AUDIT_T_result] = "error";
    x->r.text[MT_AUDIT_T_reason] = x->reason;
    mt_log(MT_ERROR, "audit.unreadable", KV("sha256", (const char *)hex), KV_ERR(why));
}

static int add_line(struct pass *p, const char *line, size_t len, struct mt_err *err)
{
    if (p->n == p->cap) {
        int cap = p->cap ? p->cap * 2 : 64;
        struct rec *more = reallocarray(p->recs, (size_t)cap, sizeof *more);
        if (!more)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for audit records");
        p->recs = more;
        p->cap = cap;
    }
    struct rec *x = &p->recs[p->n];
    struct mt_err why = {0};
    memset(x, 0, sizeof *x);
    x->at = p->n;
    int r = mt_audit_parse_line(line, len, &x->r, &x->tree, &why);
    if (r == 0 && strlen(mt_audit_chain(&x->r)) >= sizeof p->chains->name)
        r = MT_FAIL(&why, MT_E_CORRUPT, "audit line: an organisation id is too long");
    if (r < 0) {
        json_decref(x->tree);
        x->tree = NULL;
    }
    p->n++;
    if (r < 0)
        unreadable(x, line, len, &why); /* pointers into x: fixed up by settle_pointers */
    return 0;
}

/* The array may have moved while it grew. */
static void settle_pointers(struct pass *p)
{
    for (int i = 0; i < p->n; i++) {
        struct rec *x = &p->recs[i];
        if (x->tree)
            continue;
        x->r.text[MT_AUDIT_T_audit_id] = x->id;
        x->r.text[MT_AUDIT_T_reason] = x->reason;
    }
}

/* By time, as far as one pass sees; lines of one batch keep their order. */
static int by_time(const void *a, const void *b)
{
    const struct rec *x = a, *y = b;
    if (x->r.ts_us != y->r.ts_us)
        return x->r.ts_us < y->r.ts_us ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

static int add_body(struct pass *p, const char *body, struct mt_err *err)
{
    while (*body) {
        size_t n = strcspn(body, "\n");
        int r = add_line(p, body, n, err);
        if (r < 0)
            return r;
        body += n + (body[n] == '\n');
    }
    return 0;
}

static struct chain *find_chain(struct pass *p, const char *name)
{
    for (int i = p->n_chains - 1; i >= 0; i--) /* those of the last lines first */
        if (MT_STREQ(p->chains[i].name, name))
            return &p->chains[i];
    return NULL;
}

static int collect_chains(struct pass *p, struct mt_err *err)
{
    p->chains = calloc((size_t)(p->n < CHAINS_MAX ? p->n : CHAINS_MAX) + 1, sizeof *p->chains);
    if (!p->chains)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for audit chains");
    for (int i = 0; i < p->n; i++) {
        const char *name = mt_audit_chain(&p->recs[i].r);
        struct chain *c = find_chain(p, name);
        if (!c) {
            if (p->n_chains == CHAINS_MAX)
                return MT_FAIL(err, MT_E_LIMIT, "more than %d audit chains in one pass", CHAINS_MAX);
            c = &p->chains[p->n_chains++];
            (void)snprintf(c->name, sizeof c->name, "%s", name);
            int r = mt_audit_genesis(name, c->hash, err);
            if (r < 0)
                return r;
            mt_pg_arr_text_add(&p->names, c->name);
        }
        p->recs[i].chain = c;
    }
    return 0;
}

static int load_heads(struct mt_pg *pg, struct pass *p, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params q;
    mt_pg_p_init(&q);
    mt_pg_p_arr(&q, &p->names);
    int r = mt_pg_query(pg, &st_heads, &q, &res, err);
    for (int i = 0; r == 0 && i < mt_pg_rows(res); i++) {
        struct chain *c = find_chain(p, mt_pg_text(res, i, 0));
        size_t n;
        const void *h = mt_pg_bytes(res, i, 2, &n);
        if (!c || n != 32)
            return MT_FAIL(err, MT_E_CORRUPT, "audit_chains: '%.60s' has no hash of 32 bytes", mt_pg_text(res, i, 0));
        c->seq = mt_pg_i64(res, i, 1);
        memcpy(c->hash, h, 32);
    }
    return r;
}

static int chain_all(struct pass *p, struct mt_err *err)
{
    for (int i = 0; i < p->n; i++) {
        const struct mt_audit_rec *r = &p->recs[i].r;
        struct chain *c = p->recs[i].chain;
        for (int k = 0; k < MT_AUDIT_T_MAX; k++)
            mt_pg_arr_text_add(&p->cols[k], r->text[k]);
        c->seq++;
        mt_pg_arr_text_add(&p->cols[COL_CHAIN], c->name);
        mt_pg_arr_i64(&p->cols[COL_SEQ], c->seq);
        mt_pg_arr_time(&p->cols[COL_TS], r->ts_us);
        if (r->event_id)
            mt_pg_arr_i64(&p->cols[COL_EVENT], r->event_id);
        else
            mt_pg_arr_null(&p->cols[COL_EVENT]);
        mt_pg_arr_bytes(&p->cols[COL_PREV], c->hash, 32);
        int rc = mt_audit_hash(c->hash, c->name, c->seq, r, &p->scratch, c->hash, err);
        if (rc < 0)
            return rc;
        mt_pg_arr_bytes(&p->cols[COL_HASH], c->hash, 32);
    }
    for (int i = 0; i < p->n_chains; i++) {
        mt_pg_arr_i64(&p->seqs, p->chains[i].seq);
        mt_pg_arr_bytes(&p->hashes, p->chains[i].hash, 32);
    }
    for (int i = 0; i < COL_MAX; i++)
        if (p->cols[i].b.failed)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for %d audit records", p->n);
    return 0;
}

static int write_all(struct mt_pg *pg, struct pass *p, struct mt_err *err)
{
    struct mt_pg_params q;
    mt_pg_p_init(&q);
    for (int i = 0; i < COL_MAX; i++)
        mt_pg_p_arr(&q, &p->cols[i]);
    int r = mt_pg_query(pg, &st_insert, &q, NULL, err);
    if (r < 0)
        return r;
    mt_pg_p_init(&q);
    mt_pg_p_arr(&q, &p->names);
    mt_pg_p_arr(&q, &p->seqs);
    mt_pg_p_arr(&q, &p->hashes);
    if ((r = mt_pg_query(pg, &st_advance, &q, NULL, err)) < 0)
        return r;
    mt_pg_p_init(&q);
    mt_pg_p_arr(&q, &p->ids);
    return mt_pg_query(pg, &st_gone, &q, NULL, err);
}

static int seal_locked(struct mt_pg *pg, struct pass *p, char *const *extra, int n, bool *ret_more, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *got = NULL, *rows = NULL;
    struct mt_pg_params q;
    int r = mt_pg_query_one(pg, &st_lock, NULL, &got, err);
    *ret_more = r == 0 && !mt_pg_bool(got, 0, 0);
    if (r < 0 || *ret_more)
        return r < 0 ? r : 1; /* 1: another server seals */
    mt_pg_p_init(&q);
    mt_pg_p_i64(&q, ROWS_MAX);
    if ((r = mt_pg_query(pg, &st_take, &q, &rows, err)) < 0)
        return r;
    for (int i = 0; i < mt_pg_rows(rows) && p->n < PASS_MAX; i++) {
        mt_pg_arr_i64(&p->ids, mt_pg_i64(rows, i, 0));
        if ((r = add_body(p, mt_pg_text(rows, i, 1), err)) < 0)
            return r;
    }
    *ret_more = p->ids.count == ROWS_MAX || p->n >= PASS_MAX;
    for (int i = 0; i < n; i++)
        if ((r = add_body(p, extra[i], err)) < 0)
            return r;
    if (p->n > 1)
        qsort(p->recs, (size_t)p->n, sizeof *p->recs, by_time);
    settle_pointers(p);
    if (p->n == 0 && p->ids.count == 0)
        return 0;
    if ((r = collect_chains(p, err)) < 0 || (r = load_heads(pg, p, err)) < 0 || (r = chain_all(p, err)) < 0)
        return r;
    return write_all(pg, p, err);
}

int mt_audit_seal(struct mt_pg *pg, char *const *extra, int n, bool *ret_more, struct mt_err *err)
{
    struct pass p;
    struct mt_err ignored;
    pass_init(&p);
    int r = mt_pg_exec(pg, "BEGIN", err);
    if (r == 0) {
        r = seal_locked(pg, &p, extra, n, ret_more, err);
        int end = r == 0 ? mt_pg_exec(pg, "COMMIT", err) : mt_pg_alive(pg) ? mt_pg_exec(pg, "ROLLBACK", &ignored) : 0;
        if (r == 0)
            r = end;
    }
    int sealed = r == 0 ? p.n : r < 0 ? r : 0;
    pass_done(&p);
    return sealed;
}

int mt_audit_write(struct mt_pg *pg, const struct mt_audit_rec *rec, struct mt_err *err)
{
    mt_auto_buf struct mt_buf json = MT_BUF_INIT(32u << 10), line = MT_BUF_INIT(32u << 10);
    struct mt_pg_params q;
    int r = mt_audit_put(rec, &json, err);
    if (r < 0)
        return r;
    mt_audit_put_line(&line, rec->event_id, 0, rec->ts_us, (const char *)json.p, json.len);
    if ((r = mt_buf_check(&line, err)) < 0)
        return r;
    mt_pg_p_init(&q);
    mt_pg_p_text(&q, mt_buf_cstr(&line));
    return mt_pg_query(pg, &st_put, &q, NULL, err);
}
