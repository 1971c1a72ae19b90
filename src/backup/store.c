/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/store.h"

#include "backup/sigv4.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#define PAGE_MAX ((size_t)2 << 20)
#define DAMAGE_MAX 256
#define LIST_TRIES 3

void mt_bk_key(const struct mt_bk_request *q, const char *rest, char ret[MT_BK_KEY])
{
    /* the parts are bounded by the request: 200 + 31 + 31 + 31 + the longest rest, 69 */
    (void)snprintf(ret, MT_BK_KEY, "%s%sv1/%s/%s/%s/%s", q->store.prefix, q->store.prefix[0] ? "/" : "", q->scope.cluster, q->scope.org,
                   q->scope.volume, rest);
}

void mt_bk_chunk_key(const struct mt_bk_request *q, const uint8_t id[MT_BK_ID], char ret[MT_BK_KEY])
{
    char hex[65], rest[80];
    mt_hex_encode(id, MT_BK_ID, hex);
    (void)snprintf(rest, sizeof rest, "c/%.2s/%s", hex, hex);
    mt_bk_key(q, rest, ret);
}

bool mt_bk_chunk_of_key(const struct mt_bk_request *q, const char *key, uint8_t ret[MT_BK_ID])
{
    char want[MT_BK_KEY];
    mt_bk_key(q, "c/", want);
    size_t n = strlen(want);
    if (!mt_starts_with(key, want) || strlen(key) != n + 67 || key[n + 2] != '/' || mt_hex_decode(key + n + 3, MT_BK_ID, ret) < 0)
        return false;
    mt_bk_chunk_key(q, ret, want); /* the one spelling */
    return MT_STREQ(key, want);
}

bool mt_bk_chunk_size_ok(uint64_t size)
{
    return size > MT_BK_OVERHEAD && size <= MT_BK_CHUNK + MT_BK_OVERHEAD;
}

static int nothing(const struct mt_bk_listed *e, void *arg)
{
    (void)e, (void)arg;
    return 0;
}

int mt_bk_list(struct mt_bk_run *r, const char *prefix, bool folders, int (*each)(const struct mt_bk_listed *e, void *arg), void *arg)
{
    mt_auto_free uint8_t *text = malloc(PAGE_MAX);
    mt_auto_buf struct mt_buf query = MT_BUF_INIT(3500);
    struct mt_bk_page page = {0};
    struct mt_err err = {0};
    if (!text)
        return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for a list");
    do {
        mt_buf_reset(&query);
        if (page.token[0]) {
            mt_buf_puts(&query, "continuation-token=");
            mt_bk_query_encode(&query, page.token);
            mt_buf_putc(&query, '&');
        }
        mt_buf_puts(&query, folders ? "delimiter=%2F&list-type=2&max-keys=1000&prefix=" : "list-type=2&max-keys=1000&prefix=");
        mt_bk_query_encode(&query, prefix);
        if (mt_buf_check(&query, &err) < 0)
            return mt_bk_fail(r->f, MT_BK_DOWNLOAD, "listing", "the store's continuation token is too long");
        struct mt_s3_op op = {.method = MT_S3_GET, .query = mt_buf_cstr(&query), .into = text, .cap = PAGE_MAX};
        struct mt_bk_page whole;
        int rc = -1;
        for (unsigned tries = 0; rc < 0; tries++) {
            if (mt_s3_run(r->s3, &op, r->f) < 0)
                return -1;
            if (op.end != MT_S3_DONE)
                return mt_bk_fail(r->f, MT_BK_DOWNLOAD, "listing", "the store gives no list of bucket '%s'", r->q->store.bucket);
            /* read whole before any entry counts; a page without length that was cut off looks complete to HTTP: asked for again */
            rc = mt_bk_list_read((const char *)text, op.len, nothing, NULL, &whole, &err);
            if (rc < 0 && tries == LIST_TRIES)
                return mt_bk_fail(r->f, MT_BK_DOWNLOAD, "listing", "%s", err.msg);
        }
        char before[MT_BK_LIST_TOKEN];
        memcpy(before, page.token, sizeof before);
        if (mt_bk_list_read((const char *)text, op.len, each, arg, &page, &err) < 0)
            return mt_bk_fail(r->f, MT_BK_DOWNLOAD, "listing", "%s", err.msg);
        if (page.token[0] && MT_STREQ(page.token, before))
            return mt_bk_fail(r->f, MT_BK_DOWNLOAD, "listing", "the store's list goes in circles");
    } while (page.token[0]);
    return 0;
}

void mt_bk_loaded_done(struct mt_bk_loaded *l)
{
    free(l->obj);
    *l = (struct mt_bk_loaded){0};
}

int mt_bk_load(struct mt_bk_run *r, const char *snapshot_id, struct mt_bk_loaded *ret, enum mt_bk_why *ret_why, struct mt_err *err)
{
    struct mt_s3_op op = {.method = MT_S3_HEAD};
    char rest[64];
    *ret = (struct mt_bk_loaded){0};
    (void)snprintf(rest, sizeof rest, "m/%s", snapshot_id);
    mt_bk_key(r->q, rest, op.key);
    if (mt_s3_run(r->s3, &op, r->f) < 0)
        return -1;
    *ret_why = MT_BK_WHY_MISSING;
    if (op.end == MT_S3_NOT_FOUND)
        return 0;
    *ret_why = MT_BK_WHY_TRUNCATED;
    size_t len = op.len;
    if (len < MT_BK_OVERHEAD + MT_BK_MANIFEST_HEADER || len > MT_BK_MANIFEST_OBJECT_MAX)
        return 0;
    if (!(ret->obj = malloc(len)))
        return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for a manifest");
    op.method = MT_S3_GET;
    op.into = ret->obj;
    op.cap = len;
    if (mt_s3_run(r->s3, &op, r->f) < 0)
        return -1;
    if (op.end == MT_S3_NOT_FOUND)
        *ret_why = MT_BK_WHY_MISSING;
    if (op.end != MT_S3_DONE || op.len != len)
        return 0;
    ret->len = len;
    mt_sha256_of(ret->obj, len, ret->sha256);
    uint32_t epoch = mt_bk_frame_epoch(ret->obj, len);
    ret->keys = epoch ? mt_bk_request_keys(r->q, epoch) : NULL;
    *ret_why = epoch ? MT_BK_WHY_EPOCH : MT_BK_WHY_FRAME;
    if (!ret->keys)
        return 0;
    const uint8_t *plain;
    size_t n;
    *ret_why = mt_bk_open_manifest(ret->keys, &r->q->scope, snapshot_id, ret->obj, len, &plain, &n);
    if (*ret_why != MT_BK_FINE)
        return 0;
    if (mt_bk_manifest_read(plain, n, &ret->m, err) < 0 || !MT_STREQ(ret->m.snapshot, snapshot_id) || !MT_STREQ(ret->m.volume, r->q->scope.volume))
        *ret_why = MT_BK_WHY_MANIFEST;
    return 0;
}

int mt_bk_load_or_fail(struct mt_bk_run *r, const char *snapshot_id, struct mt_bk_loaded *ret)
{
    enum mt_bk_why why;
    struct mt_err err = {0};
    if (mt_bk_load(r, snapshot_id, ret, &why, &err) < 0)
        return -1;
    if (why == MT_BK_WHY_MISSING)
        return mt_bk_fail(r->f, MT_BK_NO_SNAPSHOT, "manifest", "the store has no manifest of '%s'", snapshot_id);
    if (why == MT_BK_WHY_EPOCH)
        return mt_bk_fail(r->f, MT_BK_ENCRYPTION, "key_missing", "the manifest of '%s' is of a key epoch whose key was not given", snapshot_id);
    if (why != MT_BK_FINE)
        return mt_bk_fail(r->f, MT_BK_INTEGRITY, "manifest", "the manifest of '%s' is damaged (%s)%s%s", snapshot_id, mt_bk_why_name(why),
                          err.msg[0] ? ": " : "", err.msg);
    return 0;
}

void mt_bk_damaged(struct mt_bk_run *r, const uint8_t id[MT_BK_ID], uint64_t offset, enum mt_bk_why why)
{
    char hex[65], name[80];
    r->damage.count++;
    if (json_array_size(r->damage.list) >= DAMAGE_MAX)
        return;
    mt_hex_encode(id, MT_BK_ID, hex);
    (void)snprintf(name, sizeof name, "c/%s", hex);
    (void)json_array_append_new(r->damage.list, json_pack("{s:s,s:I,s:s}", "object", name, "offset", (json_int_t)offset, "why", mt_bk_why_name(why)));
}

/* VmHWM, bytes; not ru_maxrss, which a child has from what its parent was before exec. */
static json_int_t peak_memory(void)
{
    mt_auto_file FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1)
            break;
    return (json_int_t)kib * 1024;
}

json_t *mt_bk_count(const struct mt_bk_run *r, json_t *answer)
{
    const struct mt_s3_stats *n = mt_s3_stats_of(r->s3);
    if (answer) {
        (void)json_object_set_new(answer, "requests", json_integer((json_int_t)n->requests));
        (void)json_object_set_new(answer, "retries", json_integer((json_int_t)n->retries));
        (void)json_object_set_new(answer, "elapsed_ms", json_integer((mt_clock_mono() - r->began_ns) / MT_NS_PER_MS));
        (void)json_object_set_new(answer, "peak_memory_bytes", json_integer(peak_memory()));
    }
    return answer;
}

void mt_bk_sample(const struct mt_bk_manifest *m, const uint8_t *from, uint32_t percent, uint32_t least, uint8_t *ret)
{
    uint32_t there = 0, left, r;
    for (uint32_t i = 0; i < m->count; i++)
        there += mt_bk_bit(from, i) && !mt_bk_id_zero(m->ids + (size_t)i * MT_BK_ID);
    uint32_t want = (uint32_t)(((uint64_t)there * percent + 99) / 100);
    left = want > least ? want : least;
    for (uint32_t i = 0; i < m->count && there; i++) { /* each with the chance left / there: exactly so many in the end */
        if (!mt_bk_bit(from, i) || mt_bk_id_zero(m->ids + (size_t)i * MT_BK_ID))
            continue;
        mt_random(&r, sizeof r);
        if (r % there < left) {
            mt_bk_bit_set(ret, i);
            left--;
        }
        there--;
    }
}

struct missing {
    const struct mt_bk_run *r;
    struct mt_bk_index index;
    uint8_t *seen;
};

static int note_seen(const struct mt_bk_listed *e, void *arg)
{
    struct missing *x = arg;
    uint8_t id[MT_BK_ID];
    uint32_t at;
    if (e->key[0] && mt_bk_chunk_of_key(x->r->q, e->key, id) && mt_bk_chunk_size_ok(e->size) && mt_bk_index_find(&x->index, id, &at))
        mt_bk_bit_set(x->seen, at);
    return 0;
}

int mt_bk_missing(struct mt_bk_run *r, const struct mt_bk_manifest *m, uint8_t *ret_bits, uint32_t *ret_count)
{
    char prefix[MT_BK_KEY];
    struct mt_err err = {0};
    struct missing x = {.r = r};
    size_t bytes = ((size_t)m->count + 7) / 8;
    mt_auto_free uint8_t *seen = calloc(1, bytes);
    int rc = -1;
    memset(ret_bits, 0, bytes);
    *ret_count = 0;
    x.seen = seen;
    if (!seen || mt_bk_index_init(&x.index, m->ids, m->count, &err) < 0)
        return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory to compare the list");
    mt_bk_key(r->q, "c/", prefix);
    if (x.index.unique == 0 || (rc = mt_bk_list(r, prefix, false, note_seen, &x)) == 0) {
        rc = 0;
        for (uint32_t i = 0; i < m->count; i++) {
            uint32_t at = i;
            const uint8_t *id = m->ids + (size_t)i * MT_BK_ID;
            if (mt_bk_id_zero(id) || !mt_bk_index_find(&x.index, id, &at) || at != i || mt_bk_bit(seen, i))
                continue;
            mt_bk_bit_set(ret_bits, i);
            ++*ret_count;
        }
    }
    mt_bk_index_done(&x.index);
    return rc;
}
