/* SPDX-License-Identifier: Apache-2.0 */
#include "control/secrets/store.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"
#include "pg/array.h"

#include <jansson.h>

/* With all that a change needs, so that it asks once. */
#define NOW_COLS                                                                                              \
    "SELECT b.bundle_id, coalesce(b.current_version_id, ''), b.resource_version, b.version_number, b.key_count," \
    " coalesce(b.data_hash, ''), b.confirmed_none, k.wrapped_tag_key"
#define NOW_FROM                                                                                              \
    " FROM secret_bundles_view b LEFT JOIN moat.secret_bundle_keys k USING (bundle_id)"
#define NOW_WHERE " WHERE b.env_id = $1 AND NOT b.deleted"
enum { COL_TAG = 7, COL_ORG, COL_ENVELOPE, COL_WRAPPED };
static const struct mt_pg_stmt now_of = {"secrets_now", NOW_COLS NOW_FROM NOW_WHERE};
static const struct mt_pg_stmt content_of = {
    "secrets_content", NOW_COLS ", b.org_id, m.envelope, m.wrapped_data_key" NOW_FROM
                       " LEFT JOIN moat.secret_material m ON m.version_id = b.current_version_id" NOW_WHERE};
static const struct mt_pg_stmt material_of = {
    "secrets_material", "SELECT v.org_id, v.env_id, v.bundle_id, m.envelope, m.wrapped_data_key FROM moat.secret_versions v"
                        " LEFT JOIN moat.secret_material m USING (version_id) WHERE v.version_id = $1 AND v.env_id = $2"};
static const struct mt_pg_stmt put_tag = {
    "secrets_put_tag", "INSERT INTO moat.secret_bundle_keys (bundle_id, org_id, env_id, wrapped_tag_key, master_key_id)"
                       " VALUES ($1, $2, $3, $4, $5)"};
static const struct mt_pg_stmt put_version = {
    "secrets_put_version", "INSERT INTO moat.secret_versions (version_id, bundle_id, org_id, env_id, version_number, data_hash,"
                           " key_names, size_bytes, source, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"};
static const struct mt_pg_stmt put_material = {
    "secrets_put_material", "INSERT INTO moat.secret_material (version_id, envelope, wrapped_data_key, master_key_id)"
                            " VALUES ($1, $2, $3, $4)"};
/* Material of the versions chosen by @old goes; the version stays as history. */
#define SHRED(old)                                                                                                        \
    "WITH old AS (" old "), gone AS (DELETE FROM moat.secret_material m USING old WHERE m.version_id = old.version_id)"   \
    " UPDATE moat.secret_versions v SET material_state = 'shredded' FROM old WHERE v.version_id = old.version_id"
#define NOT_IN_USE \
    "NOT EXISTS (SELECT 1 FROM instances_view i WHERE i.env_id = x.env_id AND i.secret_version_id = x.version_id" \
    " AND i.released_at IS NULL AND i.status <> 'stopped')"
static const struct mt_pg_stmt shred_old = {
    "secrets_shred_old", SHRED("SELECT x.version_id FROM moat.secret_versions x WHERE x.material_state = 'present'"
                               " AND x.bundle_id = $1 AND x.version_number <= $2 AND " NOT_IN_USE)};
static const struct mt_pg_stmt collect_old = {
    "secrets_collect_old", SHRED("SELECT x.version_id FROM moat.secret_versions x JOIN secret_bundles_view b USING (bundle_id)"
                                 " WHERE x.material_state = 'present' AND x.version_number <= b.version_number - $1 AND " NOT_IN_USE)};
static const struct mt_pg_stmt collect_ended = {
    "secrets_collect_ended", SHRED("SELECT x.version_id FROM moat.secret_versions x JOIN secret_bundles_view b USING (bundle_id)"
                                   " WHERE x.material_state = 'present' AND b.deleted AND b.updated_at < now() - interval '1 day'")};
static const struct mt_pg_stmt collect_tags = {
    "secrets_collect_tags", "DELETE FROM moat.secret_bundle_keys k USING secret_bundles_view b WHERE b.bundle_id = k.bundle_id"
                            " AND b.deleted AND b.updated_at < now() - interval '1 day'"};

static void copy(char *to, size_t size, const char *from)
{
    (void)snprintf(to, size, "%s", from);
}

static int now_row(struct mt_pg *pg, const struct mt_pg_stmt *stmt, const char *env_id, struct mt_secrets_now *ret, struct mt_pg_res **ret_row,
                   struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    *ret = (struct mt_secrets_now){0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env_id);
    int rc = mt_pg_query(pg, stmt, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    if (!mt_pg_null(r, 0, COL_TAG)) {
        const void *tag = mt_pg_bytes(r, 0, COL_TAG, &ret->tag_len);
        if (ret->tag_len > sizeof ret->tag)
            return MT_FAIL(err, MT_E_CORRUPT, "the tag key of %s is %zu bytes", mt_pg_text(r, 0, 0), ret->tag_len);
        memcpy(ret->tag, tag, ret->tag_len);
    }
    copy(ret->bundle_id, sizeof ret->bundle_id, mt_pg_text(r, 0, 0));
    copy(ret->version_id, sizeof ret->version_id, mt_pg_text(r, 0, 1));
    ret->resource_version = mt_pg_i64(r, 0, 2);
    ret->version_number = (int)mt_pg_i64(r, 0, 3);
    ret->key_count = (int)mt_pg_i64(r, 0, 4);
    copy(ret->data_hash, sizeof ret->data_hash, mt_pg_text(r, 0, 5));
    ret->confirmed_none = mt_pg_bool(r, 0, 6);
    if (ret_row) {
        *ret_row = r;
        r = NULL;
    }
    return 0;
}

int mt_secrets_now(struct mt_pg *pg, const char *env_id, struct mt_secrets_now *ret, struct mt_err *err)
{
    return now_row(pg, &now_of, env_id, ret, NULL, err);
}

int mt_secrets_content(struct mt_pg *pg, const char *env_id, struct mt_secrets_now *ret, struct mt_secrets_sealed *ret_sealed,
                       struct mt_err *err)
{
    *ret_sealed = (struct mt_secrets_sealed){0};
    int rc = now_row(pg, &content_of, env_id, ret, &ret_sealed->row, err);
    if (rc == 0 && ret_sealed->row)
        mt_secrets_sealed_in(ret_sealed, (struct mt_seal_ids){mt_pg_text(ret_sealed->row, 0, COL_ORG), env_id, ret->bundle_id, ret->version_id},
                             COL_ENVELOPE, COL_WRAPPED);
    return rc;
}

void mt_secrets_sealed_in(struct mt_secrets_sealed *s, struct mt_seal_ids ids, int envelope, int wrapped)
{
    s->ids = ids;
    s->shredded = mt_pg_null(s->row, 0, envelope);
    if (s->shredded)
        return;
    s->envelope = mt_pg_bytes(s->row, 0, envelope, &s->envelope_len);
    s->wrapped = mt_pg_bytes(s->row, 0, wrapped, &s->wrapped_len);
}

int mt_secrets_unseal(struct mt_keys *keys, const struct mt_secrets_sealed *s, struct mt_lockmem *ret, struct mt_err *err)
{
    struct mt_seal_context c;
    uint8_t key[MT_AEAD_KEY];
    *ret = (struct mt_lockmem){0};
    if (s->shredded)
        return MT_FAIL(err, MT_E_LIMIT, "the content of %s was destroyed: %d newer versions came after it", s->ids.version_id, MT_SECRETS_KEPT);
    if (s->envelope_len <= MT_SEAL_MATERIAL_EXTRA)
        return MT_FAIL(err, MT_E_CORRUPT, "%s: not an envelope of secrets", s->ids.version_id);
    mt_seal_context_secret(&s->ids, &c);
    int rc = mt_keys_unwrap(keys, &c, s->wrapped, s->wrapped_len, key, err);
    if (rc == 0 && (rc = mt_lockmem_new(ret, s->envelope_len - MT_SEAL_MATERIAL_EXTRA, err)) == 0 &&
        (rc = mt_seal_open(key, &s->ids, s->envelope, s->envelope_len, ret->p, &ret->len, err)) < 0)
        mt_lockmem_done(ret);
    explicit_bzero(key, sizeof key);
    return rc < 0 ? mt_err_wrap(err, "secrets %s", s->ids.version_id) : 0;
}

void mt_secrets_sealed_done(struct mt_secrets_sealed *s)
{
    mt_pg_res_freep(&s->row);
}

int mt_secrets_open(struct mt_keys *keys, struct mt_pg *pg, const char *env_id, const char *version_id, struct mt_lockmem *ret,
                    struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_secrets_sealed struct mt_secrets_sealed s = {0};
    *ret = (struct mt_lockmem){0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, version_id);
    mt_pg_p_text(&p, env_id);
    int rc = mt_pg_query_one(pg, &material_of, &p, &s.row, err);
    if (rc < 0)
        return rc;
    mt_secrets_sealed_in(&s, (struct mt_seal_ids){mt_pg_text(s.row, 0, 0), mt_pg_text(s.row, 0, 1), mt_pg_text(s.row, 0, 2), version_id}, 3, 4);
    return mt_secrets_unseal(keys, &s, ret, err);
}

/* The bundle's tag key: unwrapped, or a new one with its row in the command. */
static int tag_key(struct mt_keys *keys, struct mt_cmd *cmd, const struct mt_seal_ids *ids, const struct mt_secrets_now *now,
                   uint8_t ret[MT_AEAD_KEY], struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_seal_context c;
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char id[MT_MASTERKEY_ID];
    mt_seal_context_tag(ids, &c);
    if (now->bundle_id[0] && now->tag_len == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "%s has no tag key", ids->bundle_id);
    if (now->bundle_id[0])
        return mt_keys_unwrap(keys, &c, now->tag, now->tag_len, ret, err);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, ids->bundle_id);
    mt_random(ret, MT_AEAD_KEY);
    int rc = mt_keys_wrap(keys, &c, ret, wrapped, id, err);
    if (rc < 0)
        return rc;
    mt_pg_p_text(&p, ids->org_id);
    mt_pg_p_text(&p, ids->env_id);
    mt_pg_p_bytes(&p, wrapped, sizeof wrapped);
    mt_pg_p_text(&p, id);
    return mt_cmd_side(cmd, &put_tag, &p, 1, err);
}

static int add_material(struct mt_keys *keys, struct mt_cmd *cmd, const struct mt_seal_ids *ids, const struct mt_secrets_new *v,
                        struct mt_err *err)
{
    uint8_t key[MT_AEAD_KEY], wrapped[MT_SEAL_WRAPPED];
    char id[MT_MASTERKEY_ID];
    struct mt_seal_context c;
    struct mt_pg_params p;
    mt_auto_free uint8_t *envelope = malloc(v->len + MT_SEAL_MATERIAL_EXTRA);
    if (!envelope)
        return MT_FAIL(err, MT_E_NOMEM, "envelope of %zu bytes", v->len);
    mt_seal_context_secret(ids, &c);
    mt_random(key, sizeof key);
    int rc = mt_keys_wrap(keys, &c, key, wrapped, id, err);
    if (rc == 0)
        rc = mt_seal_material(key, ids, v->canonical, v->len, NULL, envelope, err);
    explicit_bzero(key, sizeof key);
    if (rc < 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, ids->version_id);
    mt_pg_p_bytes(&p, envelope, v->len + MT_SEAL_MATERIAL_EXTRA);
    mt_pg_p_bytes(&p, wrapped, sizeof wrapped);
    mt_pg_p_text(&p, id);
    return mt_cmd_side(cmd, &put_material, &p, 1, err);
}

static int add_version(struct mt_cmd *cmd, const struct mt_secrets_new *v, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_pg_arr names;
    mt_pg_arr_init(&names, MT_PG_ELEM_TEXT, 256u * 1024u);
    for (size_t i = 0; i < v->n; i++)
        mt_pg_arr_text_add(&names, v->names[i]);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, v->version_id);
    mt_pg_p_text(&p, v->bundle_id);
    mt_pg_p_text(&p, v->org_id);
    mt_pg_p_text(&p, v->env_id);
    mt_pg_p_i32(&p, v->version_number);
    mt_pg_p_text(&p, v->data_hash);
    mt_pg_p_arr(&p, &names);
    mt_pg_p_i32(&p, (int32_t)v->len);
    mt_pg_p_text(&p, v->source);
    mt_pg_p_text(&p, v->created_by);
    int rc = names.b.failed ? MT_FAIL(err, MT_E_NOMEM, "names of keys") : mt_cmd_side(cmd, &put_version, &p, 1, err);
    mt_pg_arr_done(&names);
    if (rc == 0 && v->version_number > MT_SECRETS_KEPT) {
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, v->bundle_id);
        mt_pg_p_i32(&p, v->version_number - MT_SECRETS_KEPT);
        rc = mt_cmd_side(cmd, &shred_old, &p, -1, err);
    }
    return rc;
}

static int add_events(struct mt_cmd *cmd, const struct mt_secrets_new *v, bool fresh, struct mt_err *err)
{
    const struct mt_cmd_ids ids = {.org_id = v->org_id, .app_id = v->app_id, .env_id = v->env_id};
    int rc = 0;
    if (fresh)
        rc = mt_cmd_event(cmd, MT_EV_SECRET_BUNDLE_CREATED, v->bundle_id, &ids, json_pack("{s:s}", "format", "moat_env_v1"), err);
    if (rc == 0)
        rc = mt_cmd_event(cmd, MT_EV_SECRET_BUNDLE_VERSION_SET, v->bundle_id, &ids,
                          json_pack("{s:s,s:i,s:s,s:i,s:b,s:s}", "version_id", v->version_id, "version_number", v->version_number,
                                    "data_hash", v->data_hash, "key_count", (int)v->n, "confirmed_none", v->confirmed_none, "source",
                                    v->source),
                          err);
    return rc;
}

int mt_secrets_add(struct mt_keys *keys, struct mt_cmd *cmd, const struct mt_secrets_now *now,
                   struct mt_secrets_new *v, struct mt_err *err)
{
    uint8_t key[MT_AEAD_KEY];
    bool fresh = !now->bundle_id[0];
    int rc;
    if (fresh)
        mt_id_new(MT_ID_SECRET_BUNDLE, v->bundle_id);
    else
        copy(v->bundle_id, sizeof v->bundle_id, now->bundle_id);
    mt_id_new(MT_ID_SECRET_VERSION, v->version_id);
    const struct mt_seal_ids ids = {v->org_id, v->env_id, v->bundle_id, v->version_id};
    if ((rc = tag_key(keys, cmd, &ids, now, key, err)) == 0)
        mt_seal_data_hash(key, v->canonical, v->len, v->data_hash);
    explicit_bzero(key, sizeof key);
    if (rc < 0)
        return rc;
    if (!fresh && MT_STREQ(v->data_hash, now->data_hash) && v->confirmed_none == now->confirmed_none) {
        v->unchanged = true;
        copy(v->version_id, sizeof v->version_id, now->version_id);
        v->version_number = now->version_number;
        v->resource_version = now->resource_version;
        return 0;
    }
    v->version_number = now->version_number + 1;
    v->resource_version = now->resource_version + (fresh ? 2 : 1);
    rc = fresh ? mt_cmd_rely(cmd, MT_RELY_ENV_BUNDLE, v->env_id, NULL, 0, err)
               : mt_cmd_rely(cmd, MT_RELY_BUNDLE, v->bundle_id, NULL, now->resource_version, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, v->env_id, NULL, 1, err)) < 0 ||
        (rc = add_events(cmd, v, fresh, err)) < 0 || (rc = add_material(keys, cmd, &ids, v, err)) < 0)
        return rc;
    return add_version(cmd, v, err);
}

int mt_secrets_end(struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_cmd_ids *ids, struct mt_err *err)
{
    struct mt_secrets_now now;
    int rc = mt_secrets_now(pg, ids->env_id, &now, err);
    if (rc < 0)
        return rc;
    if (!now.bundle_id[0])
        return mt_cmd_rely(cmd, MT_RELY_ENV_BUNDLE, ids->env_id, NULL, 0, err);
    if ((rc = mt_cmd_rely(cmd, MT_RELY_BUNDLE, now.bundle_id, NULL, now.resource_version, err)) < 0)
        return rc;
    return mt_cmd_event(cmd, MT_EV_SECRET_BUNDLE_DELETED, now.bundle_id, ids, NULL, err);
}

int mt_secrets_collect(struct mt_pg *pg, int64_t *ret_n, struct mt_err *err)
{
    const struct mt_pg_stmt *const all[] = {&collect_old, &collect_ended, &collect_tags};
    *ret_n = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(all); i++) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_pg_p_init(&p);
        mt_pg_p_i32(&p, MT_SECRETS_KEPT);
        int rc = mt_pg_query(pg, all[i], i == 0 ? &p : NULL, &r, err);
        if (rc < 0)
            return rc;
        *ret_n += mt_pg_affected(r);
    }
    return 0;
}
