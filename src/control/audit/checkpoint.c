/* SPDX-License-Identifier: Apache-2.0 */
/* See checkpoint.h. Two lines: canonical JSON, and the signature of these very bytes in hex, so that `openssl pkeyutl -verify -rawin` does it too. */
#include "control/audit/checkpoint.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/audit/verify.h"
#include "os/ed25519.h"
#include "wire/json.h"

#include <string.h>

#define FORMAT "moat-audit-checkpoint-v1"
#define CHAINS_MAX ((size_t)1 << 17)

static const struct mt_pg_stmt st_then = {
    "audit_checkpoint_then", "SELECT c.last_seq, c.anchor_seq, coalesce(l.hash, CASE WHEN c.anchor_seq = $2 THEN c.anchor_hash END)"
                             " FROM audit_chains c LEFT JOIN audit_log l ON l.chain = c.chain AND l.seq = $2 WHERE c.chain = $1"};

struct heads {
    json_t *chains;  /* [{chain, seq, hash}], or NULL: not wanted */
    struct mt_audit_verdict bad; /* the first that does not hold */
    int64_t n, records;
    bool failed;
};

static void one_head(void *arg, const struct mt_audit_verdict *v)
{
    struct heads *h = arg;
    if (v->bad_seq && !h->bad.bad_seq)
        h->bad = *v;
    h->n++;
    h->records += v->records;
    if (h->chains && v->head_seq > 0 &&
        json_array_append_new(h->chains, json_pack("{s:s,s:s,s:I}", "chain", v->chain, "hash", v->head_hash, "seq", (json_int_t)v->head_seq)) < 0)
        h->failed = true;
}

static int look(struct mt_pg *pg, struct heads *h, struct mt_err *err)
{
    int64_t pending;
    int rc = mt_audit_verify(pg, NULL, one_head, h, &pending, err);
    if (rc < 0)
        return rc;
    if (h->bad.bad_seq)
        return MT_FAIL(err, MT_E_CORRUPT, "chain %s of the audit log does not hold at record %lld: %s", h->bad.chain, (long long)h->bad.bad_seq, h->bad.what);
    return h->failed ? MT_FAIL(err, MT_E_NOMEM, "no memory for the heads of %lld chains", (long long)h->n) : 0;
}

int mt_checkpoint_make(struct mt_pg *pg, const char *cluster_id, const char *key_pem, size_t key_len, struct mt_buf *ret, struct mt_checkpoint_report *report,
                       struct mt_err *err)
{
    uint8_t key[MT_ED25519_KEY], sig[MT_ED25519_SIGNATURE];
    char key_hex[2 * MT_ED25519_KEY + 1], sig_hex[2 * MT_ED25519_SIGNATURE + 1], at[MT_RFC3339_LEN];
    mt_auto_json json_t *chains = json_array();
    struct heads h = {.chains = chains};
    mt_rfc3339(mt_clock_wall_us(), at);
    /* which key it is stands in what is signed */
    if (!mt_ed25519_sign(key_pem, key_len, "", 0, key, sig))
        return MT_FAIL(err, MT_E_INVALID, "the key is no private Ed25519 key in PEM without a password: openssl genpkey -algorithm ed25519 -out FILE");
    mt_hex_encode(key, sizeof key, key_hex);
    int rc = look(pg, &h, err);
    if (rc < 0)
        return rc;
    mt_auto_json json_t *body = json_pack("{s:s,s:O,s:s,s:s,s:s}", "at", at, "chains", chains, "cluster_id", cluster_id, "format", FORMAT, "key", key_hex);
    if (!body)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a checkpoint");
    if ((rc = mt_json_dump_canonical(body, ret, err)) < 0)
        return rc;
    if (!mt_ed25519_sign(key_pem, key_len, mt_buf_cstr(ret), ret->len, key, sig))
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a signature");
    mt_hex_encode(sig, sizeof sig, sig_hex);
    mt_buf_printf(ret, "\n%s\n", sig_hex);
    *report = (struct mt_checkpoint_report){.chains = h.n, .records = h.records};
    (void)snprintf(report->made_at, sizeof report->made_at, "%s", at);
    return ret->failed ? MT_FAIL(err, MT_E_LIMIT, "the checkpoint of %lld chains is larger than %zu bytes", (long long)h.n, (size_t)MT_CHECKPOINT_MAX) : 0;
}

/* The signed line of @text, once it is known to be that key's. */
static int signed_line(const char *text, size_t len, const char *key_pem, size_t key_len, json_t **ret, struct mt_err *err)
{
    uint8_t key[MT_ED25519_KEY], sig[MT_ED25519_SIGNATURE];
    char hex[2 * MT_ED25519_KEY + 1];
    const char *said, *format, *nl = memchr(text, '\n', len);
    size_t n = nl ? (size_t)(nl - text) : 0, rest = nl ? len - n - 1 : 0;
    if (!mt_ed25519_public(key_pem, key_len, key))
        return MT_FAIL(err, MT_E_INVALID, "the key is no public Ed25519 key in PEM: openssl pkey -in PRIVATE -pubout -out FILE");
    if (!nl || rest != 2 * sizeof sig + 1 || nl[rest] != '\n' || mt_hex_decode(nl + 1, sizeof sig, sig) < 0)
        return MT_FAIL(err, MT_E_INVALID, "this is no checkpoint: a line of JSON and a line with its signature");
    mt_hex_encode(key, sizeof key, hex);
    if (!mt_ed25519_verify(key, text, n, sig)) {
        struct mt_err ignored = {0};
        bool other = mt_json_parse(text, n, MT_CHECKPOINT_MAX, 4, ret, &ignored) == 0 && mt_json_get_str(*ret, "key", 64, &said, &ignored) == 0 && !MT_STREQ(said, hex);
        return MT_FAIL(err, MT_E_DENIED, other ? "the checkpoint was signed by another key" : "the signature does not fit: the checkpoint was changed");
    }
    int rc = mt_json_parse(text, n, MT_CHECKPOINT_MAX, 4, ret, err);
    if (rc < 0 || (rc = mt_json_get_str(*ret, "format", 64, &format, err)) < 0)
        return rc;
    return MT_STREQ(format, FORMAT) ? 0 : MT_FAIL(err, MT_E_INVALID, "the checkpoint is of format '%s', this program reads %s", format, FORMAT);
}

/* Does the log still have the record with which @chain ended then? */
static int same_record(struct mt_pg *pg, const char *chain, int64_t seq, const char *hash, const char *at, struct mt_checkpoint_report *report, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    uint8_t want[32];
    size_t n = 0;
    if (strlen(hash) != 64 || mt_hex_decode(hash, sizeof want, want) < 0)
        return MT_FAIL(err, MT_E_INVALID, "chain %s of the checkpoint has no hash", chain);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, chain);
    mt_pg_p_i64(&p, seq);
    int rc = mt_pg_query(pg, &st_then, &p, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return MT_FAIL(err, MT_E_CORRUPT, "chain %s had %lld records on %s and is gone: records were taken away", chain, (long long)seq, at);
    if (mt_pg_i64(r, 0, 0) < seq)
        return MT_FAIL(err, MT_E_CORRUPT, "chain %s ends at record %lld, on %s it had %lld: its end was cut off, or the database is an older one", chain,
                       (long long)mt_pg_i64(r, 0, 0), at, (long long)seq);
    if (mt_pg_i64(r, 0, 1) > seq) {
        report->pruned++;
        return 0;
    }
    const void *have = mt_pg_null(r, 0, 2) ? NULL : mt_pg_bytes(r, 0, 2, &n);
    if (!have || n != sizeof want || memcmp(have, want, sizeof want) != 0)
        return MT_FAIL(err, MT_E_CORRUPT, "record %lld of chain %s is not the one that was there on %s: the chain was rewritten", (long long)seq, chain, at);
    return 0;
}

int mt_checkpoint_check(struct mt_pg *pg, const char *cluster_id, const char *text, size_t len, const char *key_pem, size_t key_len,
                        struct mt_checkpoint_report *report, struct mt_err *err)
{
    mt_auto_json json_t *j = NULL;
    json_t *chains, *c;
    size_t i;
    const char *cluster, *at;
    struct heads h = {0};
    *report = (struct mt_checkpoint_report){0};
    int rc = signed_line(text, len, key_pem, key_len, &j, err);
    if (rc < 0 || (rc = mt_json_get_str(j, "cluster_id", 64, &cluster, err)) < 0 || (rc = mt_json_get_str(j, "at", 39, &at, err)) < 0 ||
        (rc = mt_json_get_array(j, "chains", CHAINS_MAX, &chains, err)) < 0)
        return rc;
    if (!MT_STREQ(cluster, cluster_id))
        return MT_FAIL(err, MT_E_DENIED, "the checkpoint is of cluster %s, this is %s", cluster, cluster_id);
    json_array_foreach(chains, i, c) {
        const char *chain, *hash;
        uint64_t seq;
        if ((rc = mt_json_get_str(c, "chain", 63, &chain, err)) < 0 || (rc = mt_json_get_str(c, "hash", 64, &hash, err)) < 0 ||
            (rc = mt_json_get_u64(c, "seq", 1, INT64_MAX, &seq, err)) < 0 || (rc = same_record(pg, chain, (int64_t)seq, hash, at, report, err)) < 0)
            return rc;
    }
    (void)snprintf(report->made_at, sizeof report->made_at, "%s", at);
    report->chains = (int64_t)json_array_size(chains);
    /* that record is the one of then: the hashes before it are, when they lead to it */
    rc = look(pg, &h, err);
    report->records = h.records;
    return rc;
}
