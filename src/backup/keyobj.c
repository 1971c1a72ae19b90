/* SPDX-License-Identifier: Apache-2.0 */
/* The wrapped volume backup key as an object: the bucket and the master keys are enough after a disaster. */
#include "backup/store.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "wire/json.h"

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

/*
 * Another object is there. After the master key was changed the same key comes in a new wrapping, and takes the place of the old one. A new key for an epoch that has backups must
 * not: nothing could read them any more. Which of the two it is only a backup of that epoch can tell: it opens, or it does not.
 */
static int may_replace(struct mt_bk_run *r, bool *ret)
{
    char prefix[MT_BK_KEY];
    uint64_t ignored = 0;
    size_t i;
    json_t *name;
    bool opened = false, shut = false;
    mt_auto_json json_t *list = json_array();
    mt_bk_key(r->q, "m/", prefix);
    *ret = false;
    if (!mt_bk_request_keys(r->q, r->q->key_epoch))
        return 0;
    if (mt_bk_list_names(r, prefix, MT_ID_SNAPSHOT, false, list, &ignored) < 0)
        return -1;
    json_array_foreach(list, i, name) {
        mt_cleanup(mt_bk_loaded_done) struct mt_bk_loaded l = {0};
        enum mt_bk_why why;
        struct mt_err err = {0};
        if (mt_bk_load(r, json_string_value(name), &l, &why, &err) < 0)
            return -1;
        bool ours = l.keys && l.keys->epoch == r->q->key_epoch;
        opened |= ours && why == MT_BK_FINE;
        shut |= ours && why != MT_BK_FINE;
        if (opened)
            break;
    }
    *ret = opened || !shut;
    return 0;
}

json_t *mt_bk_put_key(struct mt_bk_run *r)
{
    uint8_t had[WRAPPED + 1], hash[32];
    bool there = false;
    char rest[32];
    if (get(r, had, &there) < 0)
        return NULL;
    bool other = there && memcmp(had, r->q->wrapped, WRAPPED) != 0, same_key = false;
    if (other && may_replace(r, &same_key) < 0)
        return NULL;
    if (other && !same_key) {
        (void)mt_bk_fail(r->f, MT_BK_INTERNAL, "key_exists", "the store holds another key of epoch %u, and backups that this one does not open; it is not overwritten", r->q->key_epoch);
        return NULL;
    }
    if (!there || other) {
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
