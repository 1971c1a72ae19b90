/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets of an environment (storage-and-secrets.md §7.2, control-plane.md §12): written, never given back. Merging happens
 * here, in locked memory, because clients cannot read what they change. */
#include "control/api/handlers.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "control/secrets/store.h"
#include "model/secretfile.h"

#define WANTED "CASE WHEN b.key_count > 0 THEN b.current_version_id END"
static const struct mt_pg_stmt metadata = {
    "secrets_metadata",
    "SELECT json_strip_nulls(json_build_object('env_id',e.env_id,'config_gate',CASE WHEN b.bundle_id IS NULL THEN 'unset'"
    " WHEN b.confirmed_none THEN 'confirmed_none' ELSE 'set' END,'bundle_id',b.bundle_id,'version_id',b.current_version_id,"
    "'version_number',coalesce(b.version_number,0),'key_count',coalesce(b.key_count,0),'key_names',coalesce(v.key_names,'{}'),"
    "'size_bytes',v.size_bytes,'data_hash',b.data_hash,'updated_at'," MT_SQL_TS("b.updated_at") ",'updated_by',v.created_by,"
    "'resource_version',coalesce(b.resource_version,0),'delivery',coalesce((SELECT json_agg(json_build_object('process_type',"
    "d.process_type,'instances_on_current',d.current,'instances_total',d.total) ORDER BY d.process_type COLLATE \"C\") FROM"
    " (SELECT i.process_type, count(*) AS total, count(*) FILTER (WHERE i.secret_version_id IS NOT DISTINCT FROM " WANTED
    ") AS current FROM instances_view i WHERE i.env_id = e.env_id AND i.released_at IS NULL AND i.desired_state = 'running'"
    " GROUP BY 1) d), '[]')))::text, coalesce(b.resource_version, 0) FROM envs_view e LEFT JOIN secret_bundles_view b"
    " ON b.env_id = e.env_id AND NOT b.deleted LEFT JOIN moat.secret_versions v ON v.version_id = b.current_version_id"
    " WHERE e.env_id = $1"};

#define VERSION_OBJECT                                                                                                  \
    "json_build_object('id',x.version_id,'bundle_id',x.bundle_id,'env_id',x.env_id,'version_number',x.version_number,"   \
    "'data_hash',x.data_hash,'key_names',x.key_names,'size_bytes',x.size_bytes,'source',x.source,'created_by',x.created_by," \
    "'material_state',x.material_state,'current',EXISTS (SELECT 1 FROM secret_bundles_view b WHERE b.current_version_id ="   \
    " x.version_id AND NOT b.deleted),'created_at'," MT_SQL_TS("x.created_at") ")::text"
#define VERSION_FROM "moat.secret_versions x"
MT_SQL_LIST(secret_versions, VERSION_OBJECT, VERSION_FROM, "x.version_id", "x.env_id = $1", "2", "3");

/* ---------------------------------------------------------------- reading */

int mt_api_secrets_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0 || mt_api_trail_read(c, "secrets.read_metadata", NULL, NULL) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    return mt_api_send_row(c, &metadata, &p, "environment");
}

int mt_api_secret_versions_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &secret_versions_asc, .desc = &secret_versions_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->env.id);
    if (mt_api_trail_read(c, "secrets.read_metadata", NULL, NULL) < 0)
        return -1;
    return mt_api_send_list(c, &l);
}

/* ---------------------------------------------------------------- one change */

struct change {
    struct mt_secretfile *file;
    struct mt_lockmem old, mem, canonical; /* content now; what the file's entries point to; content afterwards */
    size_t used;                           /* of mem */
    struct mt_secrets_now now;
    struct mt_secrets_sealed sealed; /* content now, where the change builds on it */
    struct mt_secrets_new made;
};

static void change_done(struct change *w)
{
    free(w->file); /* holds pointers alone */
    mt_secrets_sealed_done(&w->sealed);
    mt_lockmem_done(&w->old);
    mt_lockmem_done(&w->mem);
    mt_lockmem_done(&w->canonical);
}

/* What goes wrong with stored secrets is the operator's business, and said so to both. */
static int store_failed(struct mt_api_call *c)
{
    if (c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key")) {
        mt_log(MT_ERROR, "secrets.no_key", KV("env_id", (const char *)c->env.id), KV_ERR(&c->err));
        return mt_api_fail(c, 503, "master_key_unavailable", "secrets cannot be used at the moment: the server lacks a master key");
    }
    if (c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "RLIMIT_MEMLOCK"))
        return mt_api_fail(c, 503, "unavailable", "the server cannot lock memory for secrets at the moment");
    if (c->err.code == MT_E_CORRUPT) {
        mt_log(MT_ERROR, "secrets.broken", KV("env_id", (const char *)c->env.id), KV_ERR(&c->err));
        return mt_api_fail(c, 500, "internal", "the stored secrets of this environment do not open; the operator can look with"
                                               " `moat admin keys verify`. Replacing all of them works");
    }
    return mt_api_fail_err(c);
}

static int file_failed(struct mt_api_call *c, const struct change *w)
{
    return mt_api_fail(c, 400, mt_secretfile_fault_code(w->file->fault), "%s", c->err.msg);
}

static int change_begin(struct mt_api_call *c, struct change *w, bool content)
{
    w->file = calloc(1, sizeof *w->file);
    if (!w->file) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "secrets");
        return mt_api_fail_err(c);
    }
    int rc = content ? mt_secrets_content(c->pg, c->env.id, &w->now, &w->sealed, &c->err) : mt_secrets_now(c->pg, c->env.id, &w->now, &c->err);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

static int room(struct mt_api_call *c, struct mt_lockmem *m, size_t n)
{
    return mt_lockmem_new(m, n ? n : 1, &c->err) < 0 ? store_failed(c) : 0;
}

/* Into w->file: what version @id holds; NULL: the current one, which came with the look at what is there. */
static int open_version(struct mt_api_call *c, struct change *w, const char *id, size_t more)
{
    int rc = id ? mt_secrets_open(c->ctl->keys, c->pg, c->env.id, id, &w->old, &c->err) : mt_secrets_unseal(c->ctl->keys, &w->sealed, &w->old, &c->err);
    if (rc < 0) {
        if (c->err.code == MT_E_NOT_FOUND)
            return mt_api_not_found(c, "secret version");
        if (c->err.code == MT_E_LIMIT)
            return mt_api_fail(c, 410, "material_shredded", "%s", c->err.msg);
        return store_failed(c);
    }
    if (room(c, &w->mem, w->old.len + more) < 0)
        return -1;
    if (mt_secretfile_read(w->old.p, w->old.len, w->mem.p, w->file, &c->err) < 0)
        return file_failed(c, w);
    w->used = w->old.len;
    return 0;
}

/* Bytes that the decoded values of a member can take. */
static size_t decoded_room(const json_t *o)
{
    size_t n = 0;
    const char *key;
    json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)o, key, v)
        n += json_string_length(v) / 4 * 3 + 3;
    return n;
}

static int take_values(struct mt_api_call *c, struct change *w, const char *name, bool base64)
{
    json_t *o = json_object_get(c->body, name), *v;
    const char *key;
    if (!o || json_is_null(o))
        return 0;
    if (!json_is_object(o))
        return mt_api_fail(c, 400, "invalid_argument", "'%s': is an object of names and texts", name);
    json_object_foreach (o, key, v) {
        const void *value = json_string_value(v);
        size_t n = json_string_length(v);
        if (mt_secretfile_key_check(key, &w->file->fault, &c->err) < 0)
            return file_failed(c, w);
        if (!json_is_string(v))
            return mt_api_fail(c, 400, "invalid_argument", "'%s': the value of '%s' is not a text", name, key);
        if (base64) {
            ssize_t k = mt_b64_decode(value, n, w->mem.p + w->used, w->mem.cap - w->used);
            if (k < 0)
                return mt_api_fail(c, 400, "invalid_argument", "'%s': the value of '%s' is not base64", name, key);
            value = w->mem.p + w->used;
            w->used += n = (size_t)k;
        }
        if (mt_secretfile_set(w->file, key, value, n, &c->err) < 0)
            return file_failed(c, w);
    }
    return 0;
}

static int refuse_both(struct mt_api_call *c, const char *a, const char *b)
{
    const char *key;
    json_t *v, *other = json_object_get(c->body, b);
    json_object_foreach (json_object_get(c->body, a), key, v)
        if (json_object_get(other, key))
            return mt_api_fail(c, 400, "invalid_argument", "a key is in '%s' and in '%s'", a, b);
    return 0;
}

/* The rest is the same for all: canonical form, encryption, events, answer. */
static int change_end(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct change *w, const char *source,
                      const char *operation)
{
    const char *names[MT_SECRETFILE_KEYS_MAX];
    struct mt_secrets_new *n = &w->made;
    if (room(c, &w->canonical, mt_secretfile_room(w->file)) < 0)
        return -1;
    if (mt_secretfile_write(w->file, w->canonical.p, &w->canonical.len, &c->err) < 0)
        return file_failed(c, w);
    for (size_t i = 0; i < w->file->n; i++)
        names[i] = w->file->entries[i].key;
    *n = (struct mt_secrets_new){.org_id = c->org.id, .app_id = c->app.id, .env_id = c->env.id, .created_by = c->who.subject_id,
                                 .source = source, .canonical = w->canonical.p, .len = w->canonical.len, .names = names, .n = w->file->n,
                                 .confirmed_none = w->file->n == 0 && !MT_STREQ(source, "patch")};
    if (mt_secrets_add(c->ctl->keys, cmd, &w->now, n, &c->err) < 0)
        return store_failed(c);
    json_t *list = json_array();
    for (size_t i = 0; i < n->n; i++)
        json_array_append_new(list, json_string(names[i]));
    made->operation = operation;
    made->nothing = n->unchanged;
    made->ids = json_pack("{s:s,s:s,s:s}", "env_id", c->env.id, "bundle_id", n->bundle_id, "version_id", n->version_id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:i,s:i,s:o,s:i,s:s,s:s,s:b,s:I}", "env_id", c->env.id, "config_gate",
                             n->confirmed_none ? "confirmed_none" : "set", "bundle_id", n->bundle_id, "version_id", n->version_id,
                             "version_number", n->version_number, "key_count", (int)n->n, "key_names", list, "size_bytes", (int)n->len,
                             "data_hash", n->data_hash, "updated_by", c->who.subject_id, "unchanged", n->unchanged, "resource_version",
                             (json_int_t)n->resource_version);
    mt_api_next(made, "see it arrive", "moat secrets status");
    return 0;
}

typedef int change_fn(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct change *w);

static int with_change(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool content, change_fn *fn)
{
    struct change w = {0};
    int rc = mt_api_query_done(c) < 0 || change_begin(c, &w, content) < 0 ? -1 : fn(c, cmd, made, &w);
    change_done(&w);
    return rc;
}

/* ---------------------------------------------------------------- replace all */

static int replace(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct change *w)
{
    static const char *const known[] = {"format", "data", "values", "values_base64", "expected_version", NULL};
    json_t *data = json_object_get(c->body, "data"), *format = json_object_get(c->body, "format");
    bool values = json_object_get(c->body, "values") || json_object_get(c->body, "values_base64");
    if (mt_api_fields(c, known) < 0 || mt_api_check_version(c, true, w->now.resource_version, "secrets") < 0)
        return -1;
    if (!data == !values || !data != !format)
        return mt_api_fail(c, 400, "invalid_argument", "send either 'format' and 'data', or 'values', 'values_base64' or both");
    if (!data) {
        if (room(c, &w->mem, decoded_room(json_object_get(c->body, "values_base64"))) < 0 || refuse_both(c, "values", "values_base64") < 0 ||
            take_values(c, w, "values", false) < 0 || take_values(c, w, "values_base64", true) < 0)
            return -1;
    } else {
        if (!json_is_string(data) || !json_is_string(format) || !MT_STREQ(json_string_value(format), "moat_env_v1"))
            return mt_api_fail(c, 400, "invalid_argument", "'data' is a text, and 'format' is moat_env_v1");
        if (room(c, &w->mem, json_string_length(data)) < 0)
            return -1;
        if (mt_secretfile_read(json_string_value(data), json_string_length(data), w->mem.p, w->file, &c->err) < 0)
            return file_failed(c, w);
    }
    return change_end(c, cmd, made, w, "put", "secrets.replace");
}

static int prepare_replace(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return with_change(c, cmd, made, false, replace);
}

int mt_api_secrets_put(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_replace);
}

/* ---------------------------------------------------------------- change some */

static int unset(struct mt_api_call *c, struct change *w)
{
    json_t *list = json_object_get(c->body, "unset"), *v;
    size_t i;
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list))
        return mt_api_fail(c, 400, "invalid_argument", "'unset': is a list of names");
    json_array_foreach (list, i, v) {
        const char *key = json_string_value(v);
        if (!key)
            return mt_api_fail(c, 400, "invalid_argument", "'unset': is a list of names");
        if (json_object_get(json_object_get(c->body, "set"), key) || json_object_get(json_object_get(c->body, "set_base64"), key))
            return mt_api_fail(c, 400, "invalid_argument", "a key is set and unset at once");
        (void)mt_secretfile_unset(w->file, key); /* not there is as good */
    }
    return 0;
}

static int merge(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct change *w)
{
    static const char *const known[] = {"set", "set_base64", "unset", "expected_version", NULL};
    size_t more = decoded_room(json_object_get(c->body, "set_base64"));
    if (mt_api_fields(c, known) < 0 || mt_api_check_version(c, false, w->now.resource_version, "secrets") < 0)
        return -1;
    if (json_object_size(json_object_get(c->body, "set")) + json_object_size(json_object_get(c->body, "set_base64")) +
            json_array_size(json_object_get(c->body, "unset")) == 0)
        return mt_api_fail(c, 400, "no_changes", "the request sets and unsets nothing");
    if ((w->now.version_id[0] ? open_version(c, w, NULL, more) : room(c, &w->mem, more)) < 0)
        return -1;
    if (refuse_both(c, "set", "set_base64") < 0 || unset(c, w) < 0 || take_values(c, w, "set", false) < 0 ||
        take_values(c, w, "set_base64", true) < 0)
        return -1;
    return change_end(c, cmd, made, w, "patch", "secrets.change");
}

static int prepare_merge(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return with_change(c, cmd, made, true, merge);
}

int mt_api_secrets_patch(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_merge);
}

/* ---------------------------------------------------------------- none, and older ones */

static int confirm_none(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct change *w)
{
    static const char *const known[] = {NULL};
    if (mt_api_fields(c, known) < 0)
        return -1;
    if (w->now.key_count > 0)
        return mt_api_fail(c, 409, "conflict", "the environment has %d secrets; unset them first", w->now.key_count);
    return change_end(c, cmd, made, w, "put", "secrets.confirm_none");
}

static int prepare_confirm_none(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return with_change(c, cmd, made, false, confirm_none);
}

int mt_api_secrets_confirm_none(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_confirm_none);
}

static int activate(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct change *w)
{
    static const char *const known[] = {NULL};
    if (mt_api_fields(c, known) < 0 || open_version(c, w, mt_api_param(c, "version_id"), 0) < 0)
        return -1;
    return change_end(c, cmd, made, w, "activate", "secrets.activate");
}

static int prepare_activate(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return with_change(c, cmd, made, false, activate);
}

int mt_api_secrets_activate(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_activate);
}
