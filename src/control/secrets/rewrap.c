/* SPDX-License-Identifier: Apache-2.0 */
#include "control/secrets/rewrap.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/secrets/store.h"
#include "pg/array.h"

#include <stdlib.h>
#include <string.h>

/* The tables with wrapped keys. Selects answer (id, org, env, bundle, wrapped); $1 master key, $2 after this id. A key of backups is
 * named by volume and epoch, "vol_… 0000000001"; cluster, org and volume take the places of org, env and bundle. */
#define NAME_SIZE 64
#define BACKUP_NAME "(volume_id || ' ' || lpad(key_epoch::text, 10, '0'))"
#define BACKUP_ROWS "SELECT " BACKUP_NAME ", (SELECT value #>> '{}' FROM cluster_view WHERE key = 'cluster_id'), org_id, volume_id, wrapped_key FROM moat.volume_backup_keys"
static const struct table {
    const char *what;
    struct mt_pg_stmt page, all, replace;
    enum { SECRET, TAG, BACKUP } kind;
} tables[] = {
    {"secret_version",
     {"rewrap_material", "SELECT m.version_id, v.org_id, v.env_id, v.bundle_id, m.wrapped_data_key FROM moat.secret_material m"
                         " JOIN moat.secret_versions v USING (version_id) WHERE m.master_key_id = $1 AND m.version_id > $2"
                         " ORDER BY m.version_id LIMIT 100"},
     {"verify_material", "SELECT m.version_id, v.org_id, v.env_id, v.bundle_id, m.wrapped_data_key FROM moat.secret_material m"
                         " JOIN moat.secret_versions v USING (version_id) WHERE m.version_id > $1 ORDER BY m.version_id LIMIT 500"},
     {"rewrap_put_material", "UPDATE moat.secret_material m SET wrapped_data_key = n.new, master_key_id = $1 FROM"
                             " unnest($2::text[], $3::bytea[], $4::bytea[]) n(id, old, new)"
                             " WHERE m.version_id = n.id AND m.wrapped_data_key = n.old"},
     SECRET},
    {"secret_bundle",
     {"rewrap_tags", "SELECT bundle_id, org_id, env_id, bundle_id, wrapped_tag_key FROM moat.secret_bundle_keys"
                     " WHERE master_key_id = $1 AND bundle_id > $2 ORDER BY bundle_id LIMIT 100"},
     {"verify_tags", "SELECT bundle_id, org_id, env_id, bundle_id, wrapped_tag_key FROM moat.secret_bundle_keys"
                     " WHERE bundle_id > $1 ORDER BY bundle_id LIMIT 500"},
     {"rewrap_put_tags", "UPDATE moat.secret_bundle_keys m SET wrapped_tag_key = n.new, master_key_id = $1 FROM"
                         " unnest($2::text[], $3::bytea[], $4::bytea[]) n(id, old, new)"
                         " WHERE m.bundle_id = n.id AND m.wrapped_tag_key = n.old"},
     TAG},
    {"registry_credential",
     {"rewrap_registries", "SELECT material_id, org_id, 'registry', reg_id, wrapped_data_key FROM moat.registry_secrets"
                           " WHERE master_key_id = $1 AND material_id > $2 ORDER BY material_id LIMIT 100"},
     {"verify_registries", "SELECT material_id, org_id, 'registry', reg_id, wrapped_data_key FROM moat.registry_secrets"
                           " WHERE material_id > $1 ORDER BY material_id LIMIT 500"},
     {"rewrap_put_registries", "UPDATE moat.registry_secrets m SET wrapped_data_key = n.new, master_key_id = $1 FROM"
                               " unnest($2::text[], $3::bytea[], $4::bytea[]) n(id, old, new)"
                               " WHERE m.material_id = n.id AND m.wrapped_data_key = n.old"},
     SECRET},
    {"volume_backup_key",
     {"rewrap_backups", BACKUP_ROWS " WHERE master_key_id = $1 AND " BACKUP_NAME " > $2 ORDER BY " BACKUP_NAME " LIMIT 100"},
     {"verify_backups", BACKUP_ROWS " WHERE " BACKUP_NAME " > $1 ORDER BY " BACKUP_NAME " LIMIT 500"},
     {"rewrap_put_backups", "UPDATE moat.volume_backup_keys m SET wrapped_key = n.new, master_key_id = $1 FROM"
                            " unnest($2::text[], $3::bytea[], $4::bytea[]) n(id, old, new) WHERE m.volume_id = split_part(n.id, ' ', 1)"
                            " AND m.key_epoch = split_part(n.id, ' ', 2)::int8 AND m.wrapped_key = n.old"},
     BACKUP},
};

static const struct mt_pg_stmt rows_by_key = {
    "key_rows", "SELECT master_key_id, count(*)::int8 FROM (SELECT master_key_id FROM moat.secret_material UNION ALL"
                " SELECT master_key_id FROM moat.secret_bundle_keys UNION ALL SELECT master_key_id FROM moat.registry_secrets"
                " UNION ALL SELECT master_key_id FROM moat.volume_backup_keys) k GROUP BY 1 ORDER BY 1"};
static const struct mt_pg_stmt newest = {
    "verify_newest", "SELECT env_id, current_version_id FROM secret_bundles_view WHERE NOT deleted AND current_version_id IS NOT NULL"
                     " ORDER BY bundle_id"};

int mt_key_rows(struct mt_pg *pg, struct mt_key_rows **ret, size_t *ret_n, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query(pg, &rows_by_key, NULL, &r, err);
    if (rc < 0)
        return rc;
    size_t n = (size_t)mt_pg_rows(r);
    struct mt_key_rows *rows = calloc(n + 1, sizeof *rows);
    if (!rows)
        return MT_FAIL(err, MT_E_NOMEM, "rows of keys");
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(rows[i].id, sizeof rows[i].id, "%s", mt_pg_text(r, (int)i, 0));
        rows[i].rows = mt_pg_i64(r, (int)i, 1);
    }
    *ret = rows;
    *ret_n = n;
    return 0;
}

int mt_key_rows_astray(struct mt_keys *keys, struct mt_pg *pg, int64_t *ret_missing, int64_t *ret_retired, struct mt_err *err)
{
    mt_auto_free struct mt_key_rows *rows = NULL;
    struct mt_key_info loaded[MT_MASTERKEYS_MAX];
    size_t n = 0;
    int rc = mt_key_rows(pg, &rows, &n, err);
    if (rc < 0)
        return rc;
    size_t have = mt_keys_list(keys, loaded, MT_MASTERKEYS_MAX);
    *ret_missing = *ret_retired = 0;
    for (size_t k = 0; k < n; k++) {
        size_t i = 0;
        while (i < have && !MT_STREQ(rows[k].id, loaded[i].id))
            i++;
        *ret_missing += i == have ? rows[k].rows : 0;
        *ret_retired += i < have && !loaded[i].active ? rows[k].rows : 0;
    }
    return 0;
}

static void context_of(const struct table *t, const struct mt_pg_res *r, int row, struct mt_seal_context *ret)
{
    const struct mt_seal_ids ids = {mt_pg_text(r, row, 1), mt_pg_text(r, row, 2), mt_pg_text(r, row, 3), mt_pg_text(r, row, 0)};
    if (t->kind == BACKUP)
        mt_seal_context_volume(ids.org_id, ids.env_id, ids.bundle_id, strtoull(ids.version_id + strlen(ids.bundle_id), NULL, 10), ret);
    else if (t->kind == TAG)
        mt_seal_context_tag(&ids, ret);
    else
        mt_seal_context_secret(&ids, ret);
}

/* Unwrap row @row into @key; what fails is said once, here. */
static int open_row(struct mt_keys *keys, const struct table *t, const struct mt_pg_res *r, int row, struct mt_seal_context *c,
                    uint8_t key[MT_AEAD_KEY])
{
    struct mt_err why = {0};
    size_t n;
    const void *wrapped = mt_pg_bytes(r, row, 4, &n);
    context_of(t, r, row, c);
    int rc = mt_keys_unwrap(keys, c, wrapped, n, key, &why);
    if (rc < 0)
        mt_log(MT_ERROR, "master_keys.row_does_not_open", KV(t->what, mt_pg_text(r, row, 0)), KV_ERR(&why));
    return rc;
}

/* One page of rows under @old_id after @after; *ret_rows 0 at the end. */
static int page(struct mt_keys *keys, struct mt_pg *pg, const struct table *t, const char *active, const char *old_id,
                char after[NAME_SIZE], struct mt_rewrap_done *done, int *ret_rows, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_pg_res struct mt_pg_res *put = NULL;
    struct mt_pg_arr ids, olds, news;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, old_id);
    mt_pg_p_text(&p, after);
    int rc = mt_pg_query(pg, &t->page, &p, &r, err);
    if (rc < 0)
        return rc;
    *ret_rows = mt_pg_rows(r);
    mt_pg_arr_init(&ids, MT_PG_ELEM_TEXT, 64u << 10);
    mt_pg_arr_init(&olds, MT_PG_ELEM_BYTES, 64u << 10);
    mt_pg_arr_init(&news, MT_PG_ELEM_BYTES, 64u << 10);
    for (int i = 0; i < *ret_rows && rc == 0; i++) {
        uint8_t key[MT_AEAD_KEY], wrapped[MT_SEAL_WRAPPED];
        struct mt_seal_context c;
        char id[MT_MASTERKEY_ID];
        size_t n;
        (void)snprintf(after, NAME_SIZE, "%s", mt_pg_text(r, i, 0));
        if (open_row(keys, t, r, i, &c, key) < 0) {
            done->failed++;
            continue;
        }
        rc = mt_keys_wrap(keys, &c, key, wrapped, id, err);
        explicit_bzero(key, sizeof key);
        if (rc == 0 && !MT_STREQ(id, active))
            rc = MT_FAIL(err, MT_E_CONFLICT, "the active master key changed meanwhile; run it again");
        if (rc == 0) {
            const void *old = mt_pg_bytes(r, i, 4, &n);
            mt_pg_arr_text_add(&ids, after);
            mt_pg_arr_bytes(&olds, old, n);
            mt_pg_arr_bytes(&news, wrapped, sizeof wrapped);
        }
    }
    if (rc == 0 && ids.count) {
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, active);
        mt_pg_p_arr(&p, &ids);
        mt_pg_p_arr(&p, &olds);
        mt_pg_p_arr(&p, &news);
        rc = mt_pg_query(pg, &t->replace, &p, &put, err);
        if (rc == 0)
            done->rewrapped += mt_pg_affected(put);
    }
    mt_pg_arr_done(&ids);
    mt_pg_arr_done(&olds);
    mt_pg_arr_done(&news);
    return rc;
}

int mt_rewrap(struct mt_keys *keys, struct mt_pg *pg, int64_t budget_ms, struct mt_rewrap_done *ret, struct mt_err *err)
{
    mt_auto_free struct mt_key_rows *rows = NULL;
    char active[MT_MASTERKEY_ID];
    size_t n = 0;
    int64_t until = mt_clock_mono() + budget_ms * MT_NS_PER_MS;
    *ret = (struct mt_rewrap_done){0};
    int rc = mt_keys_active(keys, active, err);
    if (rc < 0 || (rc = mt_key_rows(pg, &rows, &n, err)) < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < MT_ARRAY_LEN(tables) && !MT_STREQ(rows[i].id, active); t++) {
            char after[NAME_SIZE] = "";
            for (int got = 1; got > 0 && mt_clock_mono() < until;)
                if ((rc = page(keys, pg, &tables[t], active, rows[i].id, after, ret, &got, err)) < 0)
                    return rc;
        }
    mt_auto_free struct mt_key_rows *now = NULL;
    if ((rc = mt_key_rows(pg, &now, &n, err)) < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        ret->remaining += MT_STREQ(now[i].id, active) ? 0 : now[i].rows;
    mt_log(MT_INFO, "master_keys.rewrapped", KV("rewrapped", ret->rewrapped), KV("remaining", ret->remaining), KV("failed", ret->failed));
    return 0;
}

int mt_secrets_verify(struct mt_keys *keys, struct mt_pg *pg, struct mt_verify_done *ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *e = NULL;
    *ret = (struct mt_verify_done){0};
    for (size_t t = 0; t < MT_ARRAY_LEN(tables); t++) {
        char after[NAME_SIZE] = "";
        for (int got = 1; got > 0;) {
            mt_auto_pg_res struct mt_pg_res *r = NULL;
            mt_pg_p_init(&p);
            mt_pg_p_text(&p, after);
            int rc = mt_pg_query(pg, &tables[t].all, &p, &r, err);
            if (rc < 0)
                return rc;
            got = mt_pg_rows(r);
            for (int i = 0; i < got; i++) {
                uint8_t key[MT_AEAD_KEY];
                struct mt_seal_context c;
                ret->wrapped++;
                ret->opened += open_row(keys, &tables[t], r, i, &c, key) == 0;
                explicit_bzero(key, sizeof key);
                (void)snprintf(after, sizeof after, "%s", mt_pg_text(r, i, 0));
            }
        }
    }
    int rc = mt_pg_query(pg, &newest, NULL, &e, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(e); i++) {
        mt_auto_lockmem struct mt_lockmem m = {0};
        struct mt_err why = {0};
        ret->envelopes++;
        if (mt_secrets_open(keys, pg, mt_pg_text(e, i, 0), mt_pg_text(e, i, 1), &m, &why) == 0)
            ret->envelopes_opened++;
        else
            mt_log(MT_ERROR, "secrets.do_not_open", KV("version_id", mt_pg_text(e, i, 1)), KV_ERR(&why));
    }
    return rc;
}
