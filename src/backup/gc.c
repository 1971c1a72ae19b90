/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What no manifest names goes, when it is old enough. Everything is read before anything is deleted, and whatever is not understood
 * stops it: a chunk too many costs money, one too few a backup. Source: storage-and-secrets.md §4.10.
 */
#include "backup/out.h"
#include "backup/store.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "wire/json.h"

#define MANIFESTS_MAX 8192
#define SET_MAX ((size_t)2 << 20) /* ids in memory at once: 32 MiB; more are done in several passes, by the first byte */
#define BATCH 64

struct gc {
    struct mt_bk_run *r;
    json_t *manifests;
    struct mt_bk_idset known;
    unsigned passes, now;
    uint64_t ignored, deleted_manifests, listed, deleted, bytes, young;
    struct mt_s3_op ops[BATCH];
    size_t waiting;
    const char *prefix;
};

static void deleted(struct mt_s3_op *op, void *arg)
{
    struct gc *g = arg;
    if (op->end == MT_S3_FAILED && g->r->f->kind == MT_BK_OK)
        *g->r->f = op->fault;
}

static int flush(struct gc *g)
{
    if (g->waiting)
        mt_bk_step("deleting"); /* whoever holds the lease says so once more for each batch */
    for (size_t i = 0; i < g->waiting; i++)
        mt_s3_submit(g->r->s3, &g->ops[i]);
    g->waiting = 0;
    while (mt_s3_pending(g->r->s3))
        if (mt_s3_turn(g->r->s3, 1000, g->r->f) < 0)
            return -1;
    return g->r->f->kind == MT_BK_OK ? 0 : -1;
}

static int drop(struct gc *g, const char *key)
{
    if (g->r->q->dry_run)
        return 0;
    struct mt_s3_op *op = &g->ops[g->waiting++];
    *op = (struct mt_s3_op){.method = MT_S3_DELETE, .done = deleted, .arg = g};
    (void)snprintf(op->key, sizeof op->key, "%s", key);
    return g->waiting == BATCH ? flush(g) : 0;
}

static int note_manifest(const struct mt_bk_listed *e, void *arg)
{
    struct gc *g = arg;
    size_t n = strlen(g->prefix);
    if (!mt_starts_with(e->key, g->prefix) || !mt_id_valid(MT_ID_SNAPSHOT, e->key + n, strlen(e->key) - n))
        return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "manifest_unreadable", "an object among the manifests is none of ours; nothing was deleted");
    if (json_array_size(g->manifests) >= MANIFESTS_MAX)
        return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "manifest_unreadable", "there are more manifests than can be");
    return json_array_append_new(g->manifests, json_string(e->key + n));
}

static bool listed_in(const struct mt_bk_id_list *list, const char *id)
{
    for (size_t i = 0; i < list->count; i++)
        if (MT_STREQ(list->ids[i], id))
            return true;
    return false;
}

/* The manifests that stay; every one that is expected must be among them. */
static int list_manifests(struct gc *g)
{
    const struct mt_bk_request *q = g->r->q;
    char prefix[MT_BK_KEY];
    mt_bk_key(q, "m/", prefix);
    g->prefix = prefix;
    if (mt_bk_list(g->r, prefix, false, note_manifest, g) < 0)
        return -1;
    for (size_t i = 0; i < q->expect_manifests.count; i++) {
        bool there = listed_in(&q->delete_manifests, q->expect_manifests.ids[i]);
        for (size_t k = 0; !there && k < json_array_size(g->manifests); k++)
            there = MT_STREQ(json_string_value(json_array_get(g->manifests, k)), q->expect_manifests.ids[i]);
        if (!there)
            return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "manifest_missing", "the store does not list the manifest of '%s'; nothing was deleted",
                              q->expect_manifests.ids[i]);
    }
    for (size_t k = json_array_size(g->manifests); k-- > 0;)
        if (listed_in(&q->delete_manifests, json_string_value(json_array_get(g->manifests, k))))
            (void)json_array_remove(g->manifests, k);
    return 0;
}

/* Read all manifests: count their ids, or take in those of the pass. */
static int read_manifests(struct gc *g, bool count_only, uint64_t *ret_ids)
{
    for (size_t i = 0; i < json_array_size(g->manifests); i++) {
        mt_cleanup(mt_bk_loaded_done) struct mt_bk_loaded l = {0};
        enum mt_bk_why why;
        struct mt_err err = {0};
        const char *id = json_string_value(json_array_get(g->manifests, i));
        if (mt_bk_load(g->r, id, &l, &why, &err) < 0)
            return -1;
        if (why != MT_BK_FINE)
            return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "manifest_unreadable", "the manifest 'm/%s' is not to be read (%s); no chunk was deleted", id,
                              mt_bk_why_name(why));
        *ret_ids += l.m.count;
        for (uint32_t k = 0; !count_only && k < l.m.count; k++) {
            const uint8_t *chunk = l.m.ids + (size_t)k * MT_BK_ID;
            if (chunk[0] % g->passes == g->now && !mt_bk_id_zero(chunk) && mt_bk_idset_add(&g->known, chunk) && mt_bk_idset_full(&g->known))
                return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "memory", "the ids of one pass are more than fit; no chunk was deleted");
        }
    }
    return 0;
}

static int judge_chunk(const struct mt_bk_listed *e, void *arg)
{
    struct gc *g = arg;
    uint8_t id[MT_BK_ID];
    if (!e->key[0] || !mt_bk_chunk_of_key(g->r->q, e->key, id)) {
        g->ignored += g->now == 0;
        return 0;
    }
    if (id[0] % g->passes != g->now)
        return 0;
    g->listed++;
    if (mt_bk_idset_has(&g->known, id))
        return 0;
    if (mt_s3_now_us(g->r->s3) - e->modified_us < (int64_t)g->r->q->min_age_s * 1000000) {
        g->young++;
        return 0;
    }
    g->deleted++;
    g->bytes += e->size;
    return drop(g, e->key);
}

static int sweep(struct gc *g)
{
    uint64_t ids = 0;
    char prefix[MT_BK_KEY];
    struct mt_err err = {0};
    if (read_manifests(g, true, &ids) < 0)
        return -1;
    g->passes = (unsigned)(ids / SET_MAX + 1); /* at most 8192 * 2^19 / 2^21 = 2048; more than 256 cannot be told apart by one byte */
    if (g->passes > 256)
        return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "memory", "the manifests name more chunks than can be compared; no chunk was deleted");
    mt_bk_key(g->r->q, "c/", prefix);
    for (g->now = 0; g->now < g->passes; g->now++) {
        size_t room = (size_t)(ids / g->passes + ids / g->passes / 8 + 1024);
        uint64_t again = 0;
        if (mt_bk_idset_init(&g->known, room, &err) < 0)
            return mt_bk_fail(g->r->f, MT_BK_INTERNAL, "memory", "%s", err.msg);
        int rc = read_manifests(g, false, &again);
        if (rc == 0)
            rc = mt_bk_list(g->r, prefix, false, judge_chunk, g);
        if (rc == 0)
            rc = flush(g);
        mt_bk_idset_done(&g->known);
        if (rc < 0)
            return -1;
    }
    return 0;
}

struct purge {
    struct gc *g;
    const char *keys; /* prefix of the key objects: they go last */
    bool last;
};

static int drop_all(const struct mt_bk_listed *e, void *arg)
{
    struct purge *p = arg;
    if (!e->key[0] || mt_starts_with(e->key, p->keys) != p->last)
        return 0;
    p->g->listed++;
    p->g->deleted++;
    p->g->bytes += e->size;
    return drop(p->g, e->key);
}

static int purge(struct gc *g)
{
    char all[MT_BK_KEY], keys[MT_BK_KEY];
    struct purge p = {.g = g, .keys = keys};
    mt_bk_key(g->r->q, "", all);
    mt_bk_key(g->r->q, "k/", keys);
    if (mt_bk_list(g->r, all, false, drop_all, &p) < 0 || flush(g) < 0)
        return -1;
    p.last = true;
    return mt_bk_list(g->r, keys, false, drop_all, &p) < 0 ? -1 : flush(g);
}

static int collect(struct gc *g)
{
    const struct mt_bk_request *q = g->r->q;
    if (q->purge)
        return purge(g);
    if (list_manifests(g) < 0)
        return -1;
    mt_bk_step("listed");
    for (size_t i = 0; i < q->delete_manifests.count; i++) {
        char rest[64], key[MT_BK_KEY];
        (void)snprintf(rest, sizeof rest, "m/%s", q->delete_manifests.ids[i]);
        mt_bk_key(q, rest, key);
        g->deleted_manifests++;
        if (drop(g, key) < 0)
            return -1;
    }
    if (flush(g) < 0)
        return -1;
    mt_bk_step("pruned");
    return q->chunks ? sweep(g) : 0;
}

json_t *mt_bk_gc(struct mt_bk_run *r)
{
    json_t *ret = NULL;
    mt_auto_free struct gc *g = calloc(1, sizeof *g);
    mt_auto_json json_t *manifests = json_array();
    if (!g || !manifests) {
        (void)mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for a collection");
        return NULL;
    }
    g->r = r;
    g->manifests = manifests;
    if (collect(g) == 0)
        ret = mt_bk_count(r, json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "ok", 1, "manifests", (json_int_t)json_array_size(manifests),
                                       "manifests_deleted", (json_int_t)g->deleted_manifests, "chunks_listed", (json_int_t)g->listed, "chunks_deleted",
                                       (json_int_t)g->deleted, "bytes_deleted", (json_int_t)g->bytes, "chunks_kept_young", (json_int_t)g->young,
                                       "passes", (json_int_t)g->passes, "ignored", (json_int_t)g->ignored));
    return ret;
}
