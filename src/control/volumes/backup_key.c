/* SPDX-License-Identifier: Apache-2.0 */
/* See backup_key.h. */
#include "control/volumes/backup_key.h"

#include "os/file.h"

#include <string.h>

static const struct mt_pg_stmt has = {"backup_key_has", "SELECT 1 FROM moat.volume_backup_keys WHERE volume_id = $1 LIMIT 1"};
static const struct mt_pg_stmt put = {
    "backup_key_put", "INSERT INTO moat.volume_backup_keys (volume_id, key_epoch, org_id, wrapped_key, master_key_id) VALUES ($1, 1, $2, $3, $4)"
                      " ON CONFLICT DO NOTHING"};
static const struct mt_pg_stmt put_next = {
    "backup_key_put_next", "INSERT INTO moat.volume_backup_keys (volume_id, key_epoch, org_id, wrapped_key, master_key_id) SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS"
                           " (SELECT 1 FROM snapshots_view WHERE volume_id = $1 AND status IN ('queued', 'running')) ON CONFLICT DO NOTHING"};
static const struct mt_pg_stmt key_of = {
    "backup_key_of", "SELECT key_epoch, org_id, wrapped_key FROM moat.volume_backup_keys WHERE volume_id = $1 AND ($2 = 0 OR key_epoch = $2)"
                     " ORDER BY key_epoch DESC LIMIT 1"};

/* A new key, wrapped for its volume and epoch; in the clear it is in nobody's hands. */
static int fresh(struct mt_keys *keys, const char *cluster_id, const char *org_id, const char *volume_id, uint32_t epoch, uint8_t wrapped[MT_SEAL_WRAPPED],
                 char master[MT_MASTERKEY_ID], struct mt_err *err)
{
    struct mt_seal_context context;
    uint8_t key[MT_AEAD_KEY];
    mt_seal_context_volume(cluster_id, org_id, volume_id, epoch, &context);
    mt_random(key, sizeof key);
    int rc = mt_keys_wrap(keys, &context, key, wrapped, master, err);
    explicit_bzero(key, sizeof key);
    return rc;
}

int mt_backup_key_ensure(struct mt_keys *keys, struct mt_pg *pg, struct mt_cmd *cmd, const char *cluster_id, const char *org_id,
                         const char *volume_id, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char master[MT_MASTERKEY_ID];
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, volume_id);
    int rc = mt_pg_query(pg, &has, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) > 0)
        return rc;
    if ((rc = fresh(keys, cluster_id, org_id, volume_id, 1, wrapped, master, err)) < 0)
        return rc;
    mt_pg_p_text(&p, org_id);
    mt_pg_p_bytes(&p, wrapped, sizeof wrapped);
    mt_pg_p_text(&p, master);
    return mt_cmd_side(cmd, &put, &p, -1, err);
}

int mt_backup_key_next(struct mt_keys *keys, struct mt_pg *pg, struct mt_cmd *cmd, const char *cluster_id, const char *volume_id, uint32_t *ret_epoch, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    uint8_t wrapped[MT_SEAL_WRAPPED];
    char master[MT_MASTERKEY_ID];
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, volume_id);
    mt_pg_p_i64(&p, 0);
    int rc = mt_pg_query_one(pg, &key_of, &p, &r, err);
    if (rc < 0)
        return rc;
    const char *org_id = mt_pg_text(r, 0, 1);
    *ret_epoch = (uint32_t)mt_pg_i64(r, 0, 0) + 1;
    if ((rc = fresh(keys, cluster_id, org_id, volume_id, *ret_epoch, wrapped, master, err)) < 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, volume_id);
    mt_pg_p_i64(&p, *ret_epoch);
    mt_pg_p_text(&p, org_id);
    mt_pg_p_bytes(&p, wrapped, sizeof wrapped);
    mt_pg_p_text(&p, master);
    return mt_cmd_side(cmd, &put_next, &p, 1, err);
}

int mt_backup_key_open(struct mt_keys *keys, struct mt_pg *pg, const char *cluster_id, const char *volume_id, uint32_t epoch, uint32_t *ret_epoch,
                       uint8_t ret_key[MT_AEAD_KEY], uint8_t ret_wrapped[MT_SEAL_WRAPPED], struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_seal_context context;
    size_t n;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, volume_id);
    mt_pg_p_i64(&p, epoch);
    int rc = mt_pg_query_one(pg, &key_of, &p, &r, err);
    if (rc < 0)
        return rc;
    const void *wrapped = mt_pg_bytes(r, 0, 2, &n);
    *ret_epoch = (uint32_t)mt_pg_i64(r, 0, 0);
    mt_seal_context_volume(cluster_id, mt_pg_text(r, 0, 1), volume_id, *ret_epoch, &context);
    if ((rc = mt_keys_unwrap(keys, &context, wrapped, n, ret_key, err)) == 0)
        memcpy(ret_wrapped, wrapped, MT_SEAL_WRAPPED);
    return rc;
}
