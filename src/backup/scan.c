/* SPDX-License-Identifier: Apache-2.0 */
/* What the bucket holds: the way back after the database is lost. */
#include "backup/out.h"
#include "backup/store.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "wire/json.h"

#define NAMES_MAX 65536 /* folders at one level */
#define SNAPSHOTS_MAX 4096

struct names {
    const char *prefix;
    enum mt_id_kind kind;
    bool folders;
    json_t *list;
    uint64_t ignored;
};

/* Keep "<id>" or "<id>/" behind the prefix. */
static int keep_name(const struct mt_bk_listed *e, void *arg)
{
    struct names *n = arg;
    const char *s = n->folders ? e->prefix : e->key;
    size_t k = strlen(n->prefix), len = strlen(s);
    if (!mt_starts_with(s, n->prefix) || (n->folders && (len == 0 || s[len - 1] != '/')) ||
        !mt_id_valid(n->kind, s + k, len - k - (n->folders ? 1 : 0)) || json_array_size(n->list) >= NAMES_MAX) {
        n->ignored++;
        return 0;
    }
    (void)json_array_append_new(n->list, json_stringn(s + k, len - k - (n->folders ? 1 : 0)));
    return 0;
}

int mt_bk_list_names(struct mt_bk_run *r, const char *prefix, enum mt_id_kind kind, bool folders, json_t *list, uint64_t *ignored)
{
    struct names n = {.prefix = prefix, .kind = kind, .folders = folders, .list = list};
    int rc = list ? mt_bk_list(r, prefix, folders, keep_name, &n) : mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for a list");
    *ignored += n.ignored;
    return rc;
}

struct key_list {
    const char *prefix;
    uint32_t epochs[MT_BK_KEYS_MAX];
    size_t count;
    uint64_t ignored;
};

static int keep_epoch(const struct mt_bk_listed *e, void *arg)
{
    struct key_list *k = arg;
    uint64_t v;
    if (mt_starts_with(e->key, k->prefix) && k->count < MT_BK_KEYS_MAX && e->size == 72 && e->key[strlen(k->prefix)] != '0' &&
        mt_parse_u64(e->key + strlen(k->prefix), 1, UINT32_MAX, &v, NULL) == 0)
        k->epochs[k->count++] = (uint32_t)v;
    else
        k->ignored++;
    return 0;
}

static int scan_volume_names(struct mt_bk_run *r, const char *org, const char *volume, uint64_t *ignored)
{
    struct mt_bk_request q = *r->q; /* the same store, another volume; shares what is behind pointers */
    struct mt_bk_run sub = *r;
    char prefix[MT_BK_KEY], text[MT_B64_SIZE(72)];
    uint8_t wrapped[73];
    struct key_list keys = {.prefix = prefix};
    mt_auto_json json_t *snapshots = json_array(), *list = json_array();
    sub.q = &q;
    (void)snprintf(q.scope.org, sizeof q.scope.org, "%s", org);
    (void)snprintf(q.scope.volume, sizeof q.scope.volume, "%s", volume);
    mt_bk_key(&q, "m/", prefix);
    if (mt_bk_list_names(&sub, prefix, MT_ID_SNAPSHOT, false, snapshots, ignored) < 0)
        return -1;
    while (json_array_size(snapshots) > SNAPSHOTS_MAX)
        (void)json_array_remove(snapshots, json_array_size(snapshots) - 1);
    mt_bk_key(&q, "k/", prefix);
    if (mt_bk_list(&sub, prefix, false, keep_epoch, &keys) < 0)
        return -1;
    *ignored += keys.ignored;
    for (size_t i = 0; i < keys.count; i++) {
        struct mt_s3_op op = {.method = MT_S3_GET, .into = wrapped, .cap = 72};
        char rest[32];
        (void)snprintf(rest, sizeof rest, "k/%u", keys.epochs[i]);
        mt_bk_key(&q, rest, op.key);
        if (mt_s3_run(r->s3, &op, r->f) < 0)
            return -1;
        if (op.end != MT_S3_DONE || op.len != 72)
            continue;
        (void)mt_b64_encode(wrapped, 72, text);
        (void)json_array_append_new(list, json_pack("{s:I,s:s}", "epoch", (json_int_t)keys.epochs[i], "wrapped", text));
    }
    return mt_bk_line(json_pack("{s:{s:s,s:s,s:O,s:O}}", "volume", "org_id", org, "volume_id", volume, "snapshots", snapshots, "keys", list))
               ? 0
               : mt_bk_fail(r->f, MT_BK_INTERNAL, "internal", "nobody listens");
}

static json_t *scan_cluster(struct mt_bk_run *r)
{
    char prefix[MT_BK_KEY];
    const struct mt_bk_request *q = r->q;
    uint64_t ignored = 0, count = 0;
    size_t i, j;
    json_t *org, *volume;
    mt_auto_json json_t *orgs = json_array();
    (void)snprintf(prefix, sizeof prefix, "%s%sv1/%s/", q->store.prefix, q->store.prefix[0] ? "/" : "", q->scope.cluster);
    if (mt_bk_list_names(r, prefix, MT_ID_ORG, true, orgs, &ignored) < 0)
        return NULL;
    json_array_foreach(orgs, i, org) {
        char below[MT_BK_KEY + 40];
        mt_auto_json json_t *volumes = json_array();
        (void)snprintf(below, sizeof below, "%s%s/", prefix, json_string_value(org));
        if (mt_bk_list_names(r, below, MT_ID_VOLUME, true, volumes, &ignored) < 0)
            return NULL;
        json_array_foreach(volumes, j, volume) {
            if (scan_volume_names(r, json_string_value(org), json_string_value(volume), &ignored) < 0)
                return NULL;
            count++;
        }
    }
    return mt_bk_count(r, json_pack("{s:b,s:I,s:I}", "ok", 1, "volumes", (json_int_t)count, "ignored", (json_int_t)ignored));
}

static json_t *describe(struct mt_bk_run *r, const struct mt_bk_loaded *l)
{
    char root[65], sha[65];
    const struct mt_bk_manifest *m = &l->m;
    uint32_t zero = 0, lost = 0;
    for (uint32_t i = 0; i < m->count; i++)
        zero += mt_bk_id_zero(m->ids + (size_t)i * MT_BK_ID);
    mt_hex_encode(m->root, 32, root);
    mt_hex_encode(l->sha256, 32, sha);
    json_t *o = json_pack("{s:s,s:s?,s:I,s:I,s:s,s:s,s:I,s:I,s:I,s:s,s:s,s:I}", "snapshot_id", m->snapshot, "parent_snapshot_id",
                          m->parent[0] ? m->parent : NULL, "captured_at_ms", (json_int_t)m->captured_at_ms, "size_bytes", (json_int_t)m->size_bytes,
                          "consistency", m->filesystem ? "filesystem" : "crash", "scan_mode", m->delta ? "delta" : "full", "changed_bytes",
                          (json_int_t)m->changed_bytes, "uploaded_bytes", (json_int_t)m->uploaded_bytes, "key_epoch", (json_int_t)l->keys->epoch,
                          "image_root", root, "manifest_sha256", sha, "zero_chunks", (json_int_t)zero);
    if (o && r->q->check_chunks) {
        mt_auto_free uint8_t *bits = calloc(1, ((size_t)m->count + 7) / 8);
        if (!bits || mt_bk_missing(r, m, bits, &lost) < 0) {
            json_decref(o);
            return NULL;
        }
        (void)json_object_set_new(o, "missing_chunks", json_integer(lost));
    }
    return o;
}

json_t *mt_bk_scan(struct mt_bk_run *r)
{
    char prefix[MT_BK_KEY], object[64];
    uint64_t ignored = 0, good = 0, bad = 0;
    size_t i;
    json_t *name;
    mt_auto_json json_t *list = json_array();
    if (!r->q->scope.volume[0])
        return scan_cluster(r);
    mt_bk_key(r->q, "m/", prefix);
    if (mt_bk_list_names(r, prefix, MT_ID_SNAPSHOT, false, list, &ignored) < 0)
        return NULL;
    json_array_foreach(list, i, name) {
        mt_cleanup(mt_bk_loaded_done) struct mt_bk_loaded l = {0};
        enum mt_bk_why why;
        struct mt_err err = {0};
        if (mt_bk_load(r, json_string_value(name), &l, &why, &err) < 0)
            return NULL;
        if (why == MT_BK_FINE) {
            json_t *o = describe(r, &l);
            if (!o || !mt_bk_line(json_pack("{s:o}", "snapshot", o)))
                return NULL;
            good++;
            continue;
        }
        bad++;
        (void)snprintf(object, sizeof object, "m/%s", json_string_value(name));
        (void)mt_bk_line(json_pack("{s:{s:s,s:s}}", "damaged", "object", object, "why", mt_bk_why_name(why)));
    }
    return mt_bk_count(r, json_pack("{s:b,s:I,s:I,s:I}", "ok", 1, "snapshots", (json_int_t)good, "damaged_manifests", (json_int_t)bad, "ignored",
                                    (json_int_t)ignored));
}
