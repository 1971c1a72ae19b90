/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/request.h"

#include "base/b64.h"
#include "base/num.h"
#include "base/str.h"
#include "wire/json.h"

#include <arpa/inet.h>
#include <strings.h>

#define REQUEST_MAX ((size_t)256 << 10)

static const char *const verbs[MT_BK_VERB_MAX] = {"backup", "restore", "verify", "scan", "gc", "put-key", "get-key", "put-file", "get-file", "list-files"};

bool mt_bk_verb_of(const char *name, enum mt_bk_verb *ret)
{
    for (unsigned i = 0; i < MT_BK_VERB_MAX; i++) {
        if (MT_STREQ(name, verbs[i])) {
            *ret = (enum mt_bk_verb)i;
            return true;
        }
    }
    return false;
}

void mt_bk_request_done(struct mt_bk_request *r)
{
    mt_lockmem_done(&r->locked);
    free(r->delete_manifests.ids);
    free(r->expect_manifests.ids);
    *r = (struct mt_bk_request){0};
}

const struct mt_bk_keys *mt_bk_request_keys(const struct mt_bk_request *r, uint32_t epoch)
{
    for (size_t i = 0; i < r->secret->key_count; i++)
        if (r->secret->keys[i].epoch == epoch)
            return &r->secret->keys[i];
    return NULL;
}

static bool only(const char *s, const char *more)
{
    for (; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || strchr(more, *s)))
            return false;
    return true;
}

/* Text of 1..size-1 printable characters without blanks into a fixed place; absent stays "". */
static int text_in(const json_t *o, const char *key, bool required, char *ret, size_t size, struct mt_err *err)
{
    const char *s = NULL;
    int r = required ? mt_json_get_str(o, key, size - 1, &s, err) : mt_json_opt_str(o, key, size - 1, NULL, &s, err);
    if (r < 0 || !s)
        return r;
    if (required && !*s)
        return MT_FAIL(err, MT_E_INVALID, "'%s' must not be empty", key);
    for (const char *p = s; *p; p++)
        if (*p <= ' ' || *p > '~')
            return MT_FAIL(err, MT_E_INVALID, "'%s' must hold printable ASCII without blanks", key);
    memcpy(ret, s, strlen(s) + 1);
    return 0;
}

static int id_in(const json_t *o, const char *key, enum mt_id_kind kind, bool required, char ret[MT_ID_SIZE], struct mt_err *err)
{
    char text[MT_ID_SIZE] = "";
    int r = text_in(o, key, required, text, sizeof text, err);
    if (r < 0 || !text[0])
        return r;
    if ((r = mt_id_check(kind, text, err)) < 0)
        return mt_err_wrap(err, "'%s'", key);
    memcpy(ret, text, sizeof text);
    return 0;
}

static int u32_in(const json_t *o, const char *key, uint32_t min, uint32_t max, uint32_t fallback, uint32_t *ret, struct mt_err *err)
{
    uint64_t v;
    int r = mt_json_opt_u64(o, key, min, max, fallback, &v, err);
    if (r == 0)
        *ret = (uint32_t)v;
    return r;
}

static int fd_in(const json_t *o, const char *key, bool required, int *ret, struct mt_err *err)
{
    uint64_t v = 0;
    *ret = -1;
    int r = required ? mt_json_get_u64(o, key, 3, 1023, &v, err) : mt_json_opt_u64(o, key, 3, 1023, 0, &v, err);
    if (r == 0 && v)
        *ret = (int)v;
    return r;
}

static int hash_in(const json_t *o, const char *key, bool *ret_there, uint8_t ret[32], struct mt_err *err)
{
    const char *s = NULL;
    int r = mt_json_opt_str(o, key, 64, NULL, &s, err);
    if (r < 0 || !s)
        return r;
    if (strlen(s) != 64 || mt_hex_decode(s, 32, ret) < 0)
        return MT_FAIL(err, MT_E_INVALID, "'%s' must be 64 hex digits", key);
    *ret_there = true;
    return 0;
}

static bool loopback(const char *host, size_t n)
{
    char name[64];
    struct in_addr v4;
    if (n >= sizeof name)
        return false;
    memcpy(name, host, n);
    name[n] = 0;
    if (n > 10 && strcasecmp(name + n - 10, ".localhost") == 0)
        return true;
    return strcasecmp(name, "localhost") == 0 || MT_STREQ(name, "[::1]") || (inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127);
}

/* "https://host[:port]" into the Host header of the requests. */
static int endpoint_in(const char *url, bool insecure, struct mt_bk_store *s, struct mt_err *err)
{
    s->tls = mt_starts_with(url, "https://");
    if (!s->tls && !mt_starts_with(url, "http://"))
        return MT_FAIL(err, MT_E_INVALID, "'endpoint' must be https://host[:port] (or http://)");
    const char *host = url + (s->tls ? 8 : 7);
    size_t n = strlen(host);
    if (n && host[n - 1] == '/')
        n--;
    const char *bracket = host[0] == '[' ? memchr(host, ']', n) : host;
    const char *colon = bracket ? memchr(bracket, ':', n - (size_t)(bracket - host)) : NULL;
    size_t name = colon ? (size_t)(colon - host) : n;
    bool ok = bracket && n > 0 && n < 190 && name > 0;
    for (size_t i = 0; ok && i < name; i++)
        ok = strchr("abcdefghijklmnopqrstuvwxyz0123456789.-", host[i] | 0x20) || (host[0] == '[' && strchr("[]:", host[i]));
    if (ok && colon) {
        char port[8] = "";
        uint64_t v;
        ok = n - name - 1 < sizeof port;
        if (ok)
            memcpy(port, colon + 1, n - name - 1);
        ok = ok && mt_parse_u64(port, 1, 65535, &v, NULL) == 0;
        if (ok && v == (s->tls ? 443 : 80))
            n = name; /* a default port is in no Host header */
    }
    if (!ok)
        return MT_FAIL(err, MT_E_INVALID, "'endpoint' must be https://host[:port] without path");
    if (!s->tls && !insecure && !loopback(host, name))
        return MT_FAIL(err, MT_E_INVALID, "'endpoint' is plain HTTP to another host; use https, or set 'allow_insecure' knowing what it means");
    return mt_fmt(s->host, sizeof s->host, err, "%s%s%.*s", s->virtual_style ? s->bucket : "", s->virtual_style ? "." : "", (int)n, host);
}

static int store_in(const json_t *root, struct mt_bk_request *q, struct mt_err *err)
{
    static const char *const known[] = {"endpoint", "region", "bucket", "prefix", "style", "access_key", "secret_key", "session_token", "ca_file",
                                        "allow_insecure", "parallel", "upload_limit_bytes", "download_limit_bytes", "tries", "retry_base_ms",
                                        "request_timeout_s", NULL};
    struct mt_bk_store *s = &q->store;
    json_t *o = NULL;
    const char *style = NULL;
    char endpoint[256] = "";
    bool insecure = false, fetches = q->verb == MT_BK_RESTORE || q->verb == MT_BK_VERIFY_VERB;
    memcpy(s->region, "us-east-1", 10);
    int r;
    if ((r = mt_json_get_object(root, "store", &o, err)) < 0 || (r = mt_json_only(o, known, err)) < 0 ||
        (r = text_in(o, "endpoint", true, endpoint, sizeof endpoint, err)) < 0 || (r = text_in(o, "region", false, s->region, sizeof s->region, err)) < 0 ||
        (r = text_in(o, "bucket", true, s->bucket, sizeof s->bucket, err)) < 0 || (r = text_in(o, "prefix", false, s->prefix, sizeof s->prefix, err)) < 0 ||
        (r = text_in(o, "access_key", true, q->secret->access_key, sizeof q->secret->access_key, err)) < 0 ||
        (r = text_in(o, "secret_key", true, q->secret->secret_key, sizeof q->secret->secret_key, err)) < 0 ||
        (r = text_in(o, "session_token", false, q->secret->session_token, sizeof q->secret->session_token, err)) < 0 ||
        (r = text_in(o, "ca_file", false, s->ca_file, sizeof s->ca_file, err)) < 0 ||
        (r = mt_json_opt_bool(o, "allow_insecure", false, &insecure, err)) < 0 ||
        (r = mt_json_opt_str(o, "style", 16, "path", &style, err)) < 0 ||
        (r = u32_in(o, "parallel", 1, 16, fetches ? 8 : 4, &s->parallel, err)) < 0 || (r = u32_in(o, "tries", 1, 10, 6, &s->tries, err)) < 0 ||
        (r = u32_in(o, "retry_base_ms", 1, 10000, 500, &s->retry_base_ms, err)) < 0 ||
        (r = u32_in(o, "request_timeout_s", 1, 600, 60, &s->timeout_s, err)) < 0 ||
        (r = mt_json_opt_u64(o, "upload_limit_bytes", 0, (uint64_t)1 << 40, 0, &s->upload_limit, err)) < 0 ||
        (r = mt_json_opt_u64(o, "download_limit_bytes", 0, (uint64_t)1 << 40, 0, &s->download_limit, err)) < 0)
        return r;
    s->virtual_style = MT_STREQ(style, "virtual");
    if (!s->virtual_style && !MT_STREQ(style, "path"))
        return MT_FAIL(err, MT_E_INVALID, "'style' must be 'path' or 'virtual'");
    if (strlen(s->bucket) < 3 || !only(s->bucket, ".-") || strchr(".-", s->bucket[0]))
        return MT_FAIL(err, MT_E_INVALID, "'bucket' must be 3 to 63 of a-z, 0-9, '.', '-'");
    if (!only(s->region, "-"))
        return MT_FAIL(err, MT_E_INVALID, "'region' must be of a-z, 0-9 and '-'");
    size_t n = strlen(s->prefix);
    if (!only(s->prefix, "ABCDEFGHIJKLMNOPQRSTUVWXYZ._/-") || (n && (s->prefix[0] == '/' || s->prefix[n - 1] == '/')) || strstr(s->prefix, "//") ||
        strstr(s->prefix, ".."))
        return MT_FAIL(err, MT_E_INVALID, "'prefix' must be of A-Z, a-z, 0-9, '.', '_', '-', '/', without slash at its ends, without '..'");
    if (strchr(q->secret->access_key, '/') || strchr(q->secret->access_key, ','))
        return MT_FAIL(err, MT_E_INVALID, "'access_key' must not hold '/' or ','");
    if (s->ca_file[0] && s->ca_file[0] != '/')
        return MT_FAIL(err, MT_E_INVALID, "'ca_file' must be an absolute path");
    return endpoint_in(endpoint, insecure, s, err);
}

static int keys_in(const json_t *root, struct mt_bk_request *q, struct mt_err *err)
{
    static const char *const known[] = {"epoch", "key", NULL};
    json_t *list = NULL, *item;
    size_t i;
    int r = mt_json_opt_array(root, "keys", MT_BK_KEYS_MAX, &list, err);
    if (r < 0)
        return r;
    json_array_foreach(list, i, item) {
        const char *hex = NULL;
        uint64_t epoch;
        uint8_t vbk[32];
        if (!json_is_object(item))
            return MT_FAIL(err, MT_E_INVALID, "'keys' must hold objects");
        if ((r = mt_json_only(item, known, err)) < 0 || (r = mt_json_get_u64(item, "epoch", 1, UINT32_MAX, &epoch, err)) < 0 ||
            (r = mt_json_get_str(item, "key", 64, &hex, err)) < 0)
            return r;
        if (strlen(hex) != 64 || mt_hex_decode(hex, 32, vbk) < 0)
            return MT_FAIL(err, MT_E_INVALID, "'key' must be 64 hex digits");
        if (mt_bk_request_keys(q, (uint32_t)epoch))
            return MT_FAIL(err, MT_E_INVALID, "'keys' holds epoch %ju twice", (uintmax_t)epoch);
        mt_bk_keys_derive(vbk, (uint32_t)epoch, q->scope.volume, &q->secret->keys[q->secret->key_count++]);
        explicit_bzero(vbk, sizeof vbk);
    }
    return 0;
}

static int ids_in(const json_t *root, const char *key, struct mt_bk_id_list *ret, struct mt_err *err)
{
    json_t *list = NULL, *item;
    size_t i;
    int r = mt_json_opt_array(root, key, MT_BK_LIST_MAX, &list, err);
    if (r < 0 || json_array_size(list) == 0)
        return r;
    ret->ids = calloc(json_array_size(list), sizeof *ret->ids);
    if (!ret->ids)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for '%s'", key);
    json_array_foreach(list, i, item) {
        const char *s = json_string_value(item);
        if ((r = mt_id_check(MT_ID_SNAPSHOT, s, err)) < 0)
            return mt_err_wrap(err, "'%s'", key);
        memcpy(ret->ids[ret->count++], s, strlen(s) + 1);
    }
    return 0;
}

static int backup_in(const json_t *o, struct mt_bk_request *q, struct mt_err *err)
{
    const char *text = NULL;
    int r;
    if ((r = id_in(o, "snapshot_id", MT_ID_SNAPSHOT, true, q->snapshot, err)) < 0 || (r = id_in(o, "base_snapshot_id", MT_ID_SNAPSHOT, false, q->base, err)) < 0 ||
        (r = id_in(o, "parent_snapshot_id", MT_ID_SNAPSHOT, false, q->parent, err)) < 0 ||
        (r = mt_json_get_u64(o, "size_bytes", MT_BK_CHUNK, (uint64_t)MT_BK_CHUNKS_MAX * MT_BK_CHUNK, &q->size_bytes, err)) < 0 ||
        (r = mt_json_get_u64(o, "captured_at_ms", 0, INT64_MAX / 1000, &q->captured_at_ms, err)) < 0 ||
        (r = mt_json_opt_str(o, "consistency", 16, "crash", &text, err)) < 0 ||
        (r = u32_in(o, "verify_percent", 0, 100, 1, &q->sample_percent, err)) < 0 || (r = fd_in(o, "image_fd", true, &q->image_fd, err)) < 0 ||
        (r = fd_in(o, "ranges_fd", false, &q->ranges_fd, err)) < 0 || (r = fd_in(o, "journal_fd", false, &q->journal_fd, err)) < 0 ||
        (r = mt_json_opt_bool(o, "distrust_stored", false, &q->distrust, err)) < 0)
        return r;
    q->filesystem = MT_STREQ(text, "filesystem");
    if (!q->filesystem && !MT_STREQ(text, "crash"))
        return MT_FAIL(err, MT_E_INVALID, "'consistency' must be 'crash' or 'filesystem'");
    if (q->size_bytes % MT_BK_CHUNK)
        return MT_FAIL(err, MT_E_INVALID, "'size_bytes' must be a multiple of 4194304");
    if (q->ranges_fd >= 0 && !q->base[0])
        return MT_FAIL(err, MT_E_INVALID, "'ranges_fd' needs 'base_snapshot_id': a change is a change from something");
    if (q->ranges_fd >= 0 && q->distrust)
        return MT_FAIL(err, MT_E_INVALID, "'ranges_fd' and 'distrust_stored' exclude each other: what is not read cannot be sent anew");
    if (!q->parent[0])
        memcpy(q->parent, q->base, sizeof q->parent);
    if (MT_STREQ(q->base, q->snapshot))
        return MT_FAIL(err, MT_E_INVALID, "'base_snapshot_id' is the snapshot itself");
    return 0;
}

static int read_in(const json_t *o, struct mt_bk_request *q, struct mt_err *err)
{
    const char *mode = NULL;
    int r;
    if ((r = id_in(o, "snapshot_id", MT_ID_SNAPSHOT, true, q->snapshot, err)) < 0 || (r = hash_in(o, "image_root", &q->want_root, q->root, err)) < 0 ||
        (r = hash_in(o, "manifest_sha256", &q->want_sha, q->sha, err)) < 0)
        return r;
    if (q->verb == MT_BK_VERIFY_VERB) {
        if ((r = mt_json_opt_str(o, "mode", 16, "full", &mode, err)) < 0 || (r = u32_in(o, "sample_percent", 0, 100, 1, &q->sample_percent, err)) < 0)
            return r;
        q->sample = MT_STREQ(mode, "sample");
        return q->sample || MT_STREQ(mode, "full") ? 0 : MT_FAIL(err, MT_E_INVALID, "'mode' must be 'full' or 'sample'");
    }
    if ((r = id_in(o, "have_snapshot_id", MT_ID_SNAPSHOT, false, q->base, err)) < 0 ||
        (r = mt_json_opt_u64(o, "size_bytes", 0, (uint64_t)MT_BK_CHUNKS_MAX * MT_BK_CHUNK, 0, &q->size_bytes, err)) < 0 ||
        (r = mt_json_opt_bool(o, "zeroed", false, &q->zeroed, err)) < 0 || (r = mt_json_opt_bool(o, "salvage", false, &q->salvage, err)) < 0 ||
        (r = fd_in(o, "image_fd", true, &q->image_fd, err)) < 0 || (r = fd_in(o, "journal_fd", false, &q->journal_fd, err)) < 0)
        return r;
    if (q->base[0] && q->zeroed)
        return MT_FAIL(err, MT_E_INVALID, "'zeroed' and 'have_snapshot_id' exclude each other: the target holds zeros or that snapshot");
    return 0;
}

static int gc_in(const json_t *o, struct mt_bk_request *q, struct mt_err *err)
{
    int r;
    if ((r = ids_in(o, "delete_manifests", &q->delete_manifests, err)) < 0 || (r = ids_in(o, "expect_manifests", &q->expect_manifests, err)) < 0 ||
        (r = u32_in(o, "min_age_s", 0, 31536000, 172800, &q->min_age_s, err)) < 0 || (r = mt_json_opt_bool(o, "chunks", true, &q->chunks, err)) < 0 ||
        (r = mt_json_opt_bool(o, "purge", false, &q->purge, err)) < 0 || (r = mt_json_opt_bool(o, "dry_run", false, &q->dry_run, err)) < 0)
        return r;
    if (q->purge && (q->delete_manifests.count || q->expect_manifests.count))
        return MT_FAIL(err, MT_E_INVALID, "'purge' excludes 'delete_manifests' and 'expect_manifests'");
    return 0;
}

static int key_in(const json_t *o, struct mt_bk_request *q, struct mt_err *err)
{
    const char *text = NULL;
    uint8_t raw[80];
    int r;
    if (q->verb == MT_BK_GET_KEY)
        return 0;
    if ((r = mt_json_get_str(o, "wrapped", 100, &text, err)) < 0)
        return r;
    if (strlen(text) != 96 || mt_b64_decode(text, 96, raw, sizeof raw) != 72)
        return MT_FAIL(err, MT_E_INVALID, "'wrapped' must be base64 of 72 bytes");
    memcpy(q->wrapped, raw, 72);
    return 0;
}

bool mt_bk_file_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n < MT_BK_FILE_NAME && name[0] != '.' && only(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ._-");
}

static int file_in(const json_t *o, struct mt_bk_request *q, struct mt_err *err)
{
    int r;
    if (q->verb == MT_BK_LIST_FILES)
        return 0;
    if ((r = text_in(o, "name", true, q->name, sizeof q->name, err)) < 0 || (r = fd_in(o, "file_fd", true, &q->image_fd, err)) < 0)
        return r;
    return mt_bk_file_name(q->name) ? 0 : MT_FAIL(err, MT_E_INVALID, "'name' must be 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-', without a dot at its begin");
}

#define COMMON "store", "cluster_id", "org_id", "volume_id", "keys", "uid", "gid", "total_timeout_s", "step_fd"

#define FILES "store", "uid", "gid", "total_timeout_s" /* they belong to no volume */

static const char *const *known_of(enum mt_bk_verb verb)
{
    static const char *const backup[] = {COMMON, "snapshot_id", "key_epoch", "size_bytes", "image_fd", "base_snapshot_id", "ranges_fd",
                                         "parent_snapshot_id", "captured_at_ms", "consistency", "journal_fd", "verify_percent", "distrust_stored", NULL};
    static const char *const restore[] = {COMMON, "snapshot_id", "image_fd", "size_bytes", "image_root", "manifest_sha256", "zeroed", "have_snapshot_id",
                                          "journal_fd", "salvage", NULL};
    static const char *const verify[] = {COMMON, "snapshot_id", "image_root", "manifest_sha256", "mode", "sample_percent", NULL};
    static const char *const scan[] = {COMMON, "check_chunks", NULL};
    static const char *const gc[] = {COMMON, "delete_manifests", "expect_manifests", "min_age_s", "chunks", "purge", "dry_run", NULL};
    static const char *const put_key[] = {COMMON, "key_epoch", "wrapped", NULL};
    static const char *const get_key[] = {COMMON, "key_epoch", NULL};
    static const char *const file[] = {FILES, "name", "file_fd", NULL};
    static const char *const files[] = {FILES, NULL};
    static const char *const *const all[MT_BK_VERB_MAX] = {backup, restore, verify, scan, gc, put_key, get_key, file, file, files};
    return all[verb];
}

int mt_bk_request_parse(const char *text, size_t len, enum mt_bk_verb verb, struct mt_bk_request *q, struct mt_err *err)
{
    mt_auto_json json_t *o = NULL;
    uint32_t uid, gid;
    *q = (struct mt_bk_request){.verb = verb, .step_fd = -1, .image_fd = -1, .ranges_fd = -1, .journal_fd = -1};
    int r = mt_json_parse(text, len, REQUEST_MAX, 6, &o, err);
    if (r < 0 || (r = mt_lockmem_new(&q->locked, sizeof *q->secret, err)) < 0)
        return r;
    q->secret = (struct mt_bk_secrets *)(void *)q->locked.p;
    bool files = verb == MT_BK_PUT_FILE || verb == MT_BK_GET_FILE || verb == MT_BK_LIST_FILES;
    bool whole = !files && (verb != MT_BK_SCAN || json_object_get(o, "volume_id"));
    if ((r = mt_json_only(o, known_of(verb), err)) < 0 || (r = store_in(o, q, err)) < 0 ||
        (r = text_in(o, "cluster_id", !files, q->scope.cluster, sizeof q->scope.cluster, err)) < 0 ||
        (r = id_in(o, "org_id", MT_ID_ORG, whole, q->scope.org, err)) < 0 || (r = id_in(o, "volume_id", MT_ID_VOLUME, whole, q->scope.volume, err)) < 0 ||
        (r = keys_in(o, q, err)) < 0 || (r = u32_in(o, "uid", 0, UINT32_MAX - 1, 0, &uid, err)) < 0 ||
        (r = u32_in(o, "gid", 0, UINT32_MAX - 1, 0, &gid, err)) < 0 ||
        (r = u32_in(o, "total_timeout_s", 1, 604800, 86400, &q->total_timeout_s, err)) < 0 || (r = fd_in(o, "step_fd", false, &q->step_fd, err)) < 0 ||
        (r = u32_in(o, "key_epoch", 1, UINT32_MAX, 0, &q->key_epoch, err)) < 0)
        return r;
    q->uid = uid;
    q->gid = gid;
    if (!only(q->scope.cluster, "-_")) /* "cl_" and a ULID; what an operator chose */
        return MT_FAIL(err, MT_E_INVALID, "'cluster_id' must be of a-z, 0-9, '_' and '-'");
    if (!whole && q->scope.org[0])
        return MT_FAIL(err, MT_E_INVALID, "'org_id' and 'volume_id' belong together");
    if ((verb == MT_BK_BACKUP || verb == MT_BK_PUT_KEY || verb == MT_BK_GET_KEY) && q->key_epoch == 0)
        return MT_FAIL(err, MT_E_INVALID, "'key_epoch' is missing");
    switch (verb) {
    case MT_BK_BACKUP:
        return backup_in(o, q, err);
    case MT_BK_RESTORE:
    case MT_BK_VERIFY_VERB:
        return read_in(o, q, err);
    case MT_BK_SCAN:
        return mt_json_opt_bool(o, "check_chunks", false, &q->check_chunks, err);
    case MT_BK_GC:
        return gc_in(o, q, err);
    case MT_BK_PUT_KEY:
    case MT_BK_GET_KEY:
        return key_in(o, q, err);
    case MT_BK_PUT_FILE:
    case MT_BK_GET_FILE:
    case MT_BK_LIST_FILES:
        return file_in(o, q, err);
    case MT_BK_VERB_MAX:
        break;
    }
    return MT_FAIL(err, MT_E_INVALID, "no such verb");
}
