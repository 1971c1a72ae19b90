/* SPDX-License-Identifier: Apache-2.0 */
/* See scan.h. The store is nobody's to trust: ids are checked by moat-backup, a key opens only for its volume, a manifest only under its key. */
#include "control/volumes/scan.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/log/append.h"
#include "control/offline.h"
#include "control/secrets/keys.h"
#include "model/volume.h"
#include "wire/backup_call.h"
#include "wire/backup_conf.h"
#include "wire/json.h"

#include <stdlib.h>
#include <unistd.h>

#define REQUEST_MAX ((size_t)64 << 10)
#define RUN_S 21600
#define NOBODY 65534U
#define KEYS_MAX 64
#define APPEND_MS 30000
#define PLACE "recovered" /* app and environment of what has none any more */

static const struct mt_pg_stmt volume_of = {"scan_volume", "SELECT org_id, app_id, env_id, home_node_id FROM volumes_view WHERE volume_id = $1"};
static const struct mt_pg_stmt known_of = {"scan_known", "SELECT 1 FROM snapshots_view WHERE snapshot_id = $1"};
static const struct mt_pg_stmt org_of = {"scan_org", "SELECT deleted FROM orgs_view WHERE org_id = $1"};
static const struct mt_pg_stmt place_of = {
    "scan_place", "SELECT a.app_id, e.env_id FROM apps_view a JOIN envs_view e ON e.app_id = a.app_id AND NOT e.deleted AND e.name = '" PLACE "' WHERE a.org_id = $1 AND"
                  " NOT a.deleted AND a.name = '" PLACE "'"};
static const struct mt_pg_stmt app_of = {"scan_app", "SELECT app_id FROM apps_view WHERE org_id = $1 AND NOT deleted AND name = '" PLACE "'"};
static const struct mt_pg_stmt node_of = {"scan_node", "SELECT 1 FROM nodes_view WHERE node_id = $1 AND NOT deleted"};
static const struct mt_pg_stmt operator_of = {
    "scan_operator", "SELECT user_id, email FROM users_view WHERE is_operator AND state = 'active' ORDER BY user_id LIMIT 1"};
static const struct mt_pg_stmt put_key = {
    "scan_put_key", "INSERT INTO moat.volume_backup_keys (volume_id, key_epoch, org_id, wrapped_key, master_key_id) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"};

struct scan {
    struct mt_control *ctl;
    const struct mt_scan_wish *wish;
    struct mt_backup_conf store;
    struct mt_pg *pg;
    json_t *volumes; /* as moat-backup told them */
    json_t *found;   /* backups of the volume that is looked at */
    json_t *items, *unreadable;
    int64_t known, added, missing;
};

struct opened {
    int64_t epoch;
    uint8_t key[MT_AEAD_KEY];
};

struct place {
    char org_id[MT_ID_SIZE], app_id[MT_ID_SIZE], env_id[MT_ID_SIZE], node_id[MT_ID_SIZE];
};

static void take_volume(void *arg, const json_t *line)
{
    struct scan *x = arg;
    json_t *v = json_object_get(line, "volume");
    if (v)
        (void)json_array_append(x->volumes, v);
}

static void take_backup(void *arg, const json_t *line)
{
    struct scan *x = arg;
    json_t *s = json_object_get(line, "snapshot"), *d = json_object_get(line, "damaged");
    if (s)
        (void)json_array_append(x->found, s);
    if (d)
        (void)json_array_append(x->unreadable, d);
}

/* One run of moat-backup's scan; @more: members that follow, may hold keys. */
static int run(struct scan *x, const struct mt_buf *more, void (*item)(void *, const json_t *), struct mt_err *err)
{
    mt_auto_json json_t *line = NULL;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REQUEST_MAX);
    unsigned uid = geteuid() ? geteuid() : NOBODY, gid = geteuid() ? getegid() : NOBODY;
    (void)mt_buf_reserve(&b, REQUEST_MAX); /* it holds keys and must not move: a copy would stay behind */
    mt_buf_puts(&b, "{\"store\":");
    mt_backup_conf_put(&x->store, &b);
    mt_buf_printf(&b, ",\"cluster_id\":\"%s\",\"uid\":%u,\"gid\":%u,\"total_timeout_s\":%d", x->ctl->cluster_id, uid, gid, RUN_S);
    if (more)
        mt_buf_put(&b, more->p, more->len);
    mt_buf_putc(&b, '}');
    struct mt_backup_call call = {.program = x->ctl->conf.backup_program, .verb = "scan", .item = item, .arg = x};
    return mt_backup_call(&call, &b, &line, err);
}

static int has(struct scan *x, const struct mt_pg_stmt *st, const char *id, bool *ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    int rc = mt_pg_query(x->pg, st, &p, &r, err);
    *ret = rc == 0 && mt_pg_rows(r) > 0;
    return rc;
}

/* ---- commands ---- */

static int command(const struct scan *x, struct mt_cmd **ret, struct mt_err *err)
{
    char id[MT_ID_SIZE];
    mt_id_new(MT_ID_REQUEST, id);
    const struct mt_cmd_actor actor = {.actor_type = "operator", .actor_id = x->wish->os_user, .request_id = id};
    int rc = mt_cmd_new(&actor, ret, err);
    return rc < 0 ? rc : mt_offline_correction(*ret, x->wish->reason, x->wish->os_user, err);
}

static int append(struct scan *x, struct mt_cmd *cmd, struct mt_err *err)
{
    struct mt_cmd_done done = {0};
    mt_cmd_in_recovery(cmd); /* after a restore of the database is when it is needed */
    int rc = mt_append(x->ctl->appender, cmd, APPEND_MS, &done, err);
    mt_cmd_done_free(&done);
    return rc;
}

/* Its organisation under its old id: it is part of what every object is sealed for. */
static int add_org(struct scan *x, struct mt_cmd *cmd, const char *org_id, struct mt_err *err)
{
    char name[40], member[MT_ID_SIZE];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const struct mt_cmd_ids ids = {.org_id = org_id};
    (void)snprintf(name, sizeof name, PLACE "-%s", org_id + strlen(org_id) - 10);
    for (char *c = name; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 'a' - 'A' : *c);
    int rc = mt_pg_query(x->pg, &operator_of, NULL, &r, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_ORG, org_id, NULL, 0, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_ORG_CREATED, org_id, &ids, json_pack("{s:s}", "name", name), err)) < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no operator is there who could own organisation %s: moat-control init first", org_id);
    mt_id_new(MT_ID_MEMBER, member);
    return mt_cmd_event(cmd, MT_EV_ORG_MEMBER_ADDED, member, &ids,
                        json_pack("{s:s,s:s,s:s,s:s}", "email", mt_pg_text(r, 0, 1), "user_id", mt_pg_text(r, 0, 0), "role", "owner", "state", "active"), err);
}

/* App and environment for what has none any more; made in @cmd where they are not there. */
static int find_place(struct scan *x, struct mt_cmd *cmd, struct place *at, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *org = NULL, *r = NULL, *app = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, at->org_id);
    int rc = mt_pg_query(x->pg, &org_of, &p, &org, err);
    if (rc < 0 || (rc = mt_pg_query(x->pg, &place_of, &p, &r, err)) < 0 || (rc = mt_pg_query(x->pg, &app_of, &p, &app, err)) < 0)
        return rc;
    if (mt_pg_rows(org) == 0 && (rc = add_org(x, cmd, at->org_id, err)) < 0)
        return rc;
    if (mt_pg_rows(org) == 1 && mt_pg_bool(org, 0, 0))
        return MT_FAIL(err, MT_E_CONFLICT, "organisation %s was deleted: its backups are not entered again", at->org_id);
    if (mt_pg_rows(r)) {
        (void)snprintf(at->app_id, sizeof at->app_id, "%s", mt_pg_text(r, 0, 0));
        (void)snprintf(at->env_id, sizeof at->env_id, "%s", mt_pg_text(r, 0, 1));
        return mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, at->env_id, NULL, 1, err);
    }
    const struct mt_cmd_ids ids = {.org_id = at->org_id, .app_id = at->app_id, .env_id = at->env_id};
    mt_id_new(MT_ID_ENV, at->env_id);
    if (mt_pg_rows(app)) {
        (void)snprintf(at->app_id, sizeof at->app_id, "%s", mt_pg_text(app, 0, 0));
        rc = mt_cmd_rely(cmd, MT_RELY_APP_LIVE, at->app_id, NULL, 1, err);
    } else {
        mt_id_new(MT_ID_APP, at->app_id);
        rc = mt_cmd_event(cmd, MT_EV_APP_CREATED, at->app_id, &(struct mt_cmd_ids){.org_id = at->org_id, .app_id = at->app_id}, json_pack("{s:s}", "name", PLACE), err);
    }
    return rc < 0 ? rc : mt_cmd_event(cmd, MT_EV_ENV_CREATED, at->env_id, &ids, json_pack("{s:s}", "name", PLACE), err);
}

/* The volume as one that was there and whose device is missed: restored from its backups, or found by its node when that has it still. */
static int add_volume(struct scan *x, struct place *at, const char *volume_id, int64_t bytes, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    char name[40], uuid[MT_VOLUME_UUID_SIZE];
    bool there = false;
    int rc = x->wish->node_id ? has(x, &node_of, x->wish->node_id, &there, err) : 0;
    if (rc < 0)
        return rc;
    if (!there)
        return MT_FAIL(err, x->wish->node_id ? MT_E_NOT_FOUND : MT_E_INVALID, "volume %s has no row any more: --node names the node that is to be its home%s%s", volume_id,
                       x->wish->node_id ? "; there is no node " : "", x->wish->node_id ? x->wish->node_id : "");
    (void)snprintf(name, sizeof name, "vol-%s", volume_id + strlen(volume_id) - 10);
    for (char *c = name; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 'a' - 'A' : *c);
    mt_volume_fs_uuid(volume_id, uuid);
    (void)snprintf(at->node_id, sizeof at->node_id, "%s", x->wish->node_id);
    if ((rc = command(x, &cmd, err)) < 0 || (rc = find_place(x, cmd, at, err)) < 0)
        return rc;
    const struct mt_cmd_ids ids = {.org_id = at->org_id, .app_id = at->app_id, .env_id = at->env_id};
    if ((rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, volume_id, NULL, 0, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_VOLUME_CREATED, volume_id, &ids, json_pack("{s:s,s:I,s:s,s:b,s:s}", "name", name, "size_bytes", (json_int_t)bytes, "filesystem", "ext4",
                                                                                 "backup_enabled", 0, "home_node_id", x->wish->node_id), err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_VOLUME_PROVISIONED, volume_id, &ids, json_pack("{s:s,s:s}", "result", "ok", "fs_uuid", uuid), err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_VOLUME_STATE_CHANGED, volume_id, &ids, json_pack("{s:s,s:s}", "state", "error", "reason", "volume_not_present_on_node"), err)) < 0)
        return rc;
    return append(x, MT_TAKE(cmd), err);
}

/* Its row comes with that of a backup that needs it. */
static int add_key(struct scan *x, struct mt_cmd *cmd, const struct place *at, const char *volume_id, const struct opened *k, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_seal_context context;
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char master[MT_MASTERKEY_ID];
    mt_seal_context_volume(x->ctl->cluster_id, at->org_id, volume_id, (uint64_t)k->epoch, &context);
    int rc = mt_keys_wrap(x->ctl->keys, &context, k->key, wrapped, master, err);
    if (rc < 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, volume_id);
    mt_pg_p_i64(&p, k->epoch);
    mt_pg_p_text(&p, at->org_id);
    mt_pg_p_bytes(&p, wrapped, sizeof wrapped);
    mt_pg_p_text(&p, master);
    return mt_cmd_side(cmd, &put_key, &p, -1, err);
}

static void keep_text(json_t *to, const json_t *from, const char *key)
{
    if (json_is_string(json_object_get(from, key)))
        (void)json_object_set(to, key, json_object_get(from, key));
}

static int add_backup(struct scan *x, const struct place *at, const char *volume_id, const json_t *s, const struct opened *keys, size_t key_n, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    char when[32];
    const char *id = json_string_value(json_object_get(s, "snapshot_id"));
    const struct mt_cmd_ids ids = {.org_id = at->org_id, .app_id = at->app_id, .env_id = at->env_id};
    int rc = command(x, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, id, NULL, 0, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, at->env_id, NULL, 1, err)) < 0)
        return rc;
    for (size_t i = 0; i < key_n; i++)
        if (keys[i].epoch == json_integer_value(json_object_get(s, "key_epoch")) && (rc = add_key(x, cmd, at, volume_id, &keys[i], err)) < 0)
            return rc;
    json_t *born = json_pack("{s:s,s:s,s:s,s:s}", "volume_id", volume_id, "source_node_id", at->node_id, "origin", "manual", "note", "found in the store");
    json_t *now = json_pack("{s:s,s:s,s:s}", "volume_id", volume_id, "status", "succeeded", "captured_at",
                            mt_rfc3339(json_integer_value(json_object_get(s, "captured_at_ms")) * 1000, when));
    static const char *const texts[] = {"consistency", "image_root", "manifest_sha256", "parent_snapshot_id"}, *const numbers[] = {"size_bytes", "changed_bytes", "uploaded_bytes", "key_epoch"};
    for (size_t i = 0; now && i < 4; i++) {
        keep_text(now, s, texts[i]);
        (void)json_object_set(now, numbers[i], json_object_get(s, numbers[i]));
    }
    if (!born || !now) {
        json_decref(born);
        json_decref(now);
        return MT_FAIL(err, MT_E_NOMEM, "payload of a backup");
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_SNAPSHOT_CREATED, id, &ids, born, err)) < 0) {
        json_decref(now);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_SNAPSHOT_STATUS_CHANGED, id, &ids, now, err)) < 0)
        return rc;
    return append(x, MT_TAKE(cmd), err);
}

/* ---- one volume ---- */

/* The keys of a volume that a master key opens. Those of others stay shut and are told. */
static size_t open_keys(struct scan *x, const json_t *v, const char *org_id, const char *volume_id, struct opened *ret, struct mt_buf *request)
{
    size_t n = 0, i;
    json_t *k;
    mt_buf_printf(request, ",\"org_id\":\"%s\",\"volume_id\":\"%s\",\"keys\":[", org_id, volume_id);
    json_array_foreach(json_object_get(v, "keys"), i, k) {
        struct mt_seal_context context;
        struct mt_err why = {0};
        uint8_t wrapped[MT_SEAL_WRAPPED];
        char hex[2 * MT_AEAD_KEY + 1];
        const char *text = json_string_value(json_object_get(k, "wrapped"));
        int64_t epoch = json_integer_value(json_object_get(k, "epoch"));
        if (n == KEYS_MAX)
            break;
        mt_seal_context_volume(x->ctl->cluster_id, org_id, volume_id, (uint64_t)epoch, &context);
        if (!text || mt_b64_decode(text, strlen(text), wrapped, sizeof wrapped) != sizeof wrapped ||
            mt_keys_unwrap(x->ctl->keys, &context, wrapped, sizeof wrapped, ret[n].key, &why) < 0) {
            (void)json_array_append_new(x->unreadable, json_pack("{s:s,s:I,s:s}", "volume_id", volume_id, "key_epoch", (json_int_t)epoch, "why", why.msg[0] ? why.msg : "no key"));
            continue;
        }
        mt_hex_encode(ret[n].key, MT_AEAD_KEY, hex);
        mt_buf_printf(request, "%s{\"epoch\":%lld,\"key\":\"", n ? "," : "", (long long)epoch);
        mt_buf_puts(request, hex);
        mt_buf_puts(request, "\"}");
        explicit_bzero(hex, sizeof hex);
        ret[n++].epoch = epoch;
    }
    mt_buf_putc(request, ']');
    return n;
}

static int enter(struct scan *x, const char *org_id, const char *volume_id, const struct opened *keys, size_t key_n, struct mt_err *err)
{
    struct place at = {0};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int64_t bytes = 0, fresh = 0;
    size_t i;
    json_t *s;
    bool known;
    int rc;
    (void)snprintf(at.org_id, sizeof at.org_id, "%s", org_id);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, volume_id);
    if ((rc = mt_pg_query(x->pg, &volume_of, &p, &r, err)) < 0)
        return rc;
    if (mt_pg_rows(r)) {
        if (!MT_STREQ(mt_pg_text(r, 0, 0), org_id))
            return MT_FAIL(err, MT_E_CONFLICT, "the store has volume %s below organisation %s, but it is of %s", volume_id, org_id, mt_pg_text(r, 0, 0));
        (void)snprintf(at.app_id, sizeof at.app_id, "%s", mt_pg_text(r, 0, 1));
        (void)snprintf(at.env_id, sizeof at.env_id, "%s", mt_pg_text(r, 0, 2));
        (void)snprintf(at.node_id, sizeof at.node_id, "%s", mt_pg_text(r, 0, 3));
    }
    json_array_foreach(x->found, i, s) { /* which are new, and how large the volume was at most */
        const char *id = json_string_value(json_object_get(s, "snapshot_id"));
        int64_t n = json_integer_value(json_object_get(s, "size_bytes"));
        bytes = n > bytes ? n : bytes;
        if ((rc = has(x, &known_of, id, &known, err)) < 0)
            return rc;
        x->known += known;
        if (known)
            continue;
        fresh++;
        json_t *item = json_pack("{s:s,s:s}", "org_id", org_id, "volume_id", volume_id);
        keep_text(item, s, "snapshot_id");
        (void)json_array_append_new(x->items, item);
    }
    x->missing += fresh;
    if (!x->wish->apply || (fresh == 0 && mt_pg_rows(r) == 0))
        return 0;
    if (mt_pg_rows(r) == 0 && (rc = add_volume(x, &at, volume_id, bytes, err)) < 0)
        return rc;
    json_array_foreach(x->found, i, s) {
        if ((rc = has(x, &known_of, json_string_value(json_object_get(s, "snapshot_id")), &known, err)) < 0 ||
            (!known && (rc = add_backup(x, &at, volume_id, s, keys, key_n, err)) < 0))
            return rc;
        x->added += !known;
    }
    return 0;
}

static int one(struct scan *x, const json_t *v, struct mt_err *err)
{
    const char *org_id = json_string_value(json_object_get(v, "org_id")), *volume_id = json_string_value(json_object_get(v, "volume_id"));
    struct opened keys[KEYS_MAX];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REQUEST_MAX / 2);
    if (!org_id || !volume_id)
        return MT_FAIL(err, MT_E_CORRUPT, "moat-backup names a volume without its ids");
    (void)mt_buf_reserve(&b, REQUEST_MAX / 2);
    size_t n = open_keys(x, v, org_id, volume_id, keys, &b);
    json_decref(x->found);
    x->found = json_array();
    int rc = n == 0 ? 0 : run(x, &b, take_backup, err);
    if (rc == 0 && n)
        rc = enter(x, org_id, volume_id, keys, n, err);
    explicit_bzero(keys, sizeof keys);
    explicit_bzero(b.p, b.cap);
    return rc;
}

static int all(struct scan *x, struct mt_err *err)
{
    size_t i;
    json_t *v;
    int rc = mt_pg_connect(&x->ctl->pg_conf, &x->pg, err);
    if (rc < 0 || (rc = run(x, NULL, take_volume, err)) < 0)
        return rc;
    json_array_foreach(x->volumes, i, v)
        if ((rc = one(x, v, err)) < 0)
            return rc;
    return 0;
}

int mt_scan(struct mt_control *ctl, const struct mt_scan_wish *wish, FILE *told, struct mt_err *err)
{
    struct scan x = {.ctl = ctl, .wish = wish, .volumes = json_array(), .found = json_array(), .items = json_array(), .unreadable = json_array()};
    int rc = ctl->conf.backup_gc_file ? mt_backup_conf_load(ctl->conf.backup_gc_file, &x.store, err)
                                      : MT_FAIL(err, MT_E_NOT_FOUND, "backup_gc_file of the configuration names the store; it is not set");
    if (rc == 0)
        rc = all(&x, err);
    mt_auto_json json_t *out = json_pack("{s:s,s:b,s:I,s:I,s:I,s:I,s:O,s:O}", "cluster_id", ctl->cluster_id, "applied", (int)wish->apply, "volumes", (json_int_t)json_array_size(x.volumes), "known",
                                         (json_int_t)x.known, "missing", (json_int_t)x.missing, "added", (json_int_t)x.added, "items", x.items, "unreadable", x.unreadable);
    mt_auto_free char *text = rc == 0 && out ? json_dumps(out, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (rc == 0 && (!text || fprintf(told, "%s\n", text) < 0))
        rc = MT_FAIL(err, MT_E_IO, "nobody takes the result");
    mt_backup_conf_done(&x.store);
    mt_pg_free(x.pg);
    json_decref(x.volumes);
    json_decref(x.found);
    json_decref(x.items);
    json_decref(x.unreadable);
    return rc;
}
