/* SPDX-License-Identifier: Apache-2.0 */
#include "control/registry/store.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"

#include <jansson.h>

/* Takes the place of an environment in what key and envelope are bound to; no environment has such an id. */
#define PLACE "registry"

static const struct mt_pg_stmt login_of = {
    "registry_login", "SELECT v.reg_id, v.username, v.material_id, s.envelope, s.wrapped_data_key FROM registry_credentials_view v"
                      " LEFT JOIN moat.registry_secrets s USING (material_id) WHERE v.org_id = $1 AND v.host = $2 AND NOT v.deleted"};
static const struct mt_pg_stmt put = {
    "registry_put", "INSERT INTO moat.registry_secrets (material_id, reg_id, org_id, envelope, wrapped_data_key, master_key_id)"
                    " VALUES ($1, $2, $3, $4, $5, $6)"};
static const struct mt_pg_stmt drop_of = {"registry_drop", "DELETE FROM moat.registry_secrets WHERE reg_id = $1"};
static const struct mt_pg_stmt drop_org = {"registry_drop_org", "DELETE FROM moat.registry_secrets WHERE org_id = $1"};
static const struct mt_pg_stmt secret_of = {"registry_secret", "SELECT envelope, wrapped_data_key FROM moat.registry_secrets WHERE material_id = $1 AND reg_id = $2 AND org_id = $3"};
static const struct mt_pg_stmt drains_of_org = {
    "drains_of_org", "SELECT drain_id, name FROM log_drains_view WHERE org_id = $1 AND NOT deleted ORDER BY drain_id LIMIT 200"};
static const struct mt_pg_stmt of_org = {
    "registry_of_org", "SELECT reg_id, host FROM registry_credentials_view WHERE org_id = $1 AND NOT deleted ORDER BY reg_id LIMIT 200"};

void mt_registry_login_done(struct mt_registry_login *l)
{
    mt_lockmem_done(&l->password);
}

int mt_registry_login(struct mt_keys *keys, struct mt_pg *pg, const char *org_id, const char *host, struct mt_registry_login *ret,
                      struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_seal_context context;
    uint8_t key[MT_AEAD_KEY];
    size_t n, k;
    *ret = (struct mt_registry_login){0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, org_id);
    mt_pg_p_text(&p, host);
    int rc = mt_pg_query(pg, &login_of, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc < 0 ? rc : 0;
    if (mt_pg_null(r, 0, 3))
        return MT_FAIL(err, MT_E_CORRUPT, "the password for the registry '%s' is not there", host);
    (void)snprintf(ret->reg_id, sizeof ret->reg_id, "%s", mt_pg_text(r, 0, 0));
    (void)snprintf(ret->username, sizeof ret->username, "%s", mt_pg_text(r, 0, 1));
    const struct mt_seal_ids ids = {org_id, PLACE, ret->reg_id, mt_pg_text(r, 0, 2)};
    const void *envelope = mt_pg_bytes(r, 0, 3, &n), *wrapped = mt_pg_bytes(r, 0, 4, &k);
    if (n <= MT_SEAL_MATERIAL_EXTRA || n > MT_REGISTRY_PASSWORD_MAX + MT_SEAL_MATERIAL_EXTRA)
        return MT_FAIL(err, MT_E_CORRUPT, "the password for the registry '%s' has %zu bytes", host, n);
    mt_seal_context_secret(&ids, &context);
    if ((rc = mt_keys_unwrap(keys, &context, wrapped, k, key, err)) == 0 &&
        (rc = mt_lockmem_new(&ret->password, n, err)) == 0) /* longer than the text by more than its NUL */
        rc = mt_seal_open(key, &ids, envelope, n, ret->password.p, &ret->password.len, err);
    explicit_bzero(key, sizeof key);
    if (rc < 0) {
        mt_lockmem_done(&ret->password);
        return mt_err_wrap(err, "credential for the registry '%s'", host);
    }
    return 1;
}

int mt_registry_secret(struct mt_keys *keys, struct mt_pg *pg, const char *org_id, const char *id, const char *material_id, struct mt_lockmem *ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_seal_context context;
    uint8_t key[MT_AEAD_KEY];
    size_t n, k;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, material_id);
    mt_pg_p_text(&p, id);
    mt_pg_p_text(&p, org_id);
    int rc = mt_pg_query(pg, &secret_of, &p, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return MT_FAIL(err, MT_E_CORRUPT, "the secret of '%s' is not there", id);
    const struct mt_seal_ids ids = {org_id, PLACE, id, material_id};
    const void *envelope = mt_pg_bytes(r, 0, 0, &n), *wrapped = mt_pg_bytes(r, 0, 1, &k);
    if (n <= MT_SEAL_MATERIAL_EXTRA || n > MT_REGISTRY_PASSWORD_MAX + MT_SEAL_MATERIAL_EXTRA)
        return MT_FAIL(err, MT_E_CORRUPT, "the secret of '%s' has %zu bytes", id, n);
    mt_seal_context_secret(&ids, &context);
    if ((rc = mt_keys_unwrap(keys, &context, wrapped, k, key, err)) == 0 && (rc = mt_lockmem_new(ret, n, err)) == 0)
        rc = mt_seal_open(key, &ids, envelope, n, ret->p, &ret->len, err);
    explicit_bzero(key, sizeof key);
    if (rc < 0) {
        mt_lockmem_done(ret);
        return mt_err_wrap(err, "secret of '%s'", id);
    }
    return 0;
}

int mt_registry_drop(struct mt_cmd *cmd, const char *reg_id, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, reg_id);
    return mt_cmd_side(cmd, &drop_of, &p, -1, err);
}

int mt_registry_put(struct mt_keys *keys, struct mt_cmd *cmd, const char *org_id, const char *reg_id, const char *password, size_t n,
                    char ret_material[MT_ID_SIZE], struct mt_err *err)
{
    uint8_t key[MT_AEAD_KEY], wrapped[MT_SEAL_WRAPPED], envelope[MT_REGISTRY_PASSWORD_MAX + MT_SEAL_MATERIAL_EXTRA];
    char master[MT_MASTERKEY_ID];
    struct mt_seal_context context;
    struct mt_pg_params p;
    MT_ASSERT(n >= 1 && n <= MT_REGISTRY_PASSWORD_MAX);
    mt_ulid_new(ret_material);
    const struct mt_seal_ids ids = {org_id, PLACE, reg_id, ret_material};
    mt_seal_context_secret(&ids, &context);
    mt_random(key, sizeof key);
    int rc = mt_keys_wrap(keys, &context, key, wrapped, master, err);
    if (rc == 0)
        rc = mt_seal_material(key, &ids, password, n, NULL, envelope, err);
    explicit_bzero(key, sizeof key);
    if (rc < 0 || (rc = mt_registry_drop(cmd, reg_id, err)) < 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, ret_material);
    mt_pg_p_text(&p, reg_id);
    mt_pg_p_text(&p, org_id);
    mt_pg_p_bytes(&p, envelope, n + MT_SEAL_MATERIAL_EXTRA);
    mt_pg_p_bytes(&p, wrapped, sizeof wrapped);
    mt_pg_p_text(&p, master);
    return mt_cmd_side(cmd, &put, &p, 1, err);
}

int mt_registry_end(struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_cmd_ids *ids, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, ids->org_id);
    int rc = mt_pg_query(pg, &of_org, &p, &r, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++)
        rc = mt_cmd_event(cmd, MT_EV_REGISTRY_CREDENTIAL_DELETED, mt_pg_text(r, i, 0), ids, json_pack("{s:s}", "host", mt_pg_text(r, i, 1)),
                          err);
    int secrets = rc < 0 ? 0 : mt_pg_rows(r);
    mt_auto_pg_res struct mt_pg_res *d = NULL;
    if (rc == 0)
        rc = mt_pg_query(pg, &drains_of_org, &p, &d, err);
    secrets += rc < 0 ? 0 : mt_pg_rows(d);
    for (int i = 0; rc == 0 && i < mt_pg_rows(d); i++)
        rc = mt_cmd_event(cmd, MT_EV_LOG_DRAIN_DELETED, mt_pg_text(d, i, 0), ids, json_pack("{s:s}", "name", mt_pg_text(d, i, 1)), err);
    return rc < 0 || secrets == 0 ? rc : mt_cmd_side(cmd, &drop_org, &p, -1, err);
}
