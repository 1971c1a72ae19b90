/* SPDX-License-Identifier: Apache-2.0 */
/* The wrapped volume backup key as an object: the bucket and the master keys are enough after a disaster. */
#include "backup/store.h"

#include "base/b64.h"
#include "base/str.h"
#include "os/digest.h"

#define WRAPPED 72

static int get(struct mt_bk_run *r, uint8_t ret[WRAPPED + 1], bool *ret_there)
{
    struct mt_s3_op op = {.method = MT_S3_GET, .into = ret, .cap = WRAPPED};
    char rest[32];
    (void)snprintf(rest, sizeof rest, "k/%u", r->q->key_epoch);
    mt_bk_key(r->q, rest, op.key);
    if (mt_s3_run(r->s3, &op, r->f) < 0)
        return -1;
    *ret_there = op.end != MT_S3_NOT_FOUND;
    if (*ret_there && (op.end != MT_S3_DONE || op.len != WRAPPED))
        return mt_bk_fail(r->f, MT_BK_INTEGRITY, "key", "the key object of epoch %u is not 72 bytes long", r->q->key_epoch);
    return 0;
}

static json_t *told(struct mt_bk_run *r, const uint8_t wrapped[WRAPPED])
{
    char text[MT_B64_SIZE(WRAPPED)];
    (void)mt_b64_encode(wrapped, WRAPPED, text);
    return mt_bk_count(r, json_pack("{s:b,s:I,s:s}", "ok", 1, "key_epoch", (json_int_t)r->q->key_epoch, "wrapped", text));
}

json_t *mt_bk_get_key(struct mt_bk_run *r)
{
    uint8_t had[WRAPPED + 1];
    bool there = false;
    if (get(r, had, &there) < 0)
        return NULL;
    if (!there) {
        (void)mt_bk_fail(r->f, MT_BK_MISSING, "key", "the store has no key object of epoch %u", r->q->key_epoch);
        return NULL;
    }
    return told(r, had);
}

json_t *mt_bk_put_key(struct mt_bk_run *r)
{
    uint8_t had[WRAPPED + 1], hash[32];
    bool there = false;
    char rest[32];
    if (get(r, had, &there) < 0)
        return NULL;
    if (there && memcmp(had, r->q->wrapped, WRAPPED) != 0) {
        (void)mt_bk_fail(r->f, MT_BK_INTERNAL, "key_exists", "the store holds another key object of epoch %u; it is never overwritten", r->q->key_epoch);
        return NULL;
    }
    if (!there) {
        struct mt_s3_op op = {.method = MT_S3_PUT, .body = r->q->wrapped, .body_len = WRAPPED};
        mt_sha256_of(r->q->wrapped, WRAPPED, hash);
        mt_hex_encode(hash, sizeof hash, op.body_sha256);
        (void)snprintf(rest, sizeof rest, "k/%u", r->q->key_epoch);
        mt_bk_key(r->q, rest, op.key);
        if (mt_s3_run(r->s3, &op, r->f) < 0)
            return NULL;
        if (op.end != MT_S3_DONE || get(r, had, &there) < 0 || !there || memcmp(had, r->q->wrapped, WRAPPED) != 0) {
            (void)mt_bk_fail(r->f, MT_BK_VERIFY, "key", "the key object just stored came back otherwise");
            return NULL;
        }
    }
    return told(r, r->q->wrapped);
}
