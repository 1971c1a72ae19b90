/* SPDX-License-Identifier: Apache-2.0 */
/* Service principals: identities of machines in one organisation. Their secret mints access tokens (api/auth_token.c). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/grants.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"

#define SP_OBJECT                                                                                                \
    "json_strip_nulls(json_build_object('id',sp_id,'org_id',org_id,'name',name,'client_id',client_id,'scopes',to_json(scopes)," \
    "'restrict',restrict_to,'last_used_at',(SELECT " MT_SQL_TS("max(x.last_used_at)") " FROM moat.sp_secrets x"  \
    " WHERE x.sp_id = service_principals_view.sp_id),'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(sps, SP_OBJECT, "service_principals_view", "sp_id", "NOT deleted AND org_id = $1 AND ($2::text IS NULL OR name = $2)", "3",
            "4");
static const struct mt_pg_stmt sp_get = {"sp_get", "SELECT " SP_OBJECT ", resource_version FROM service_principals_view"
                                                   " WHERE org_id = $1 AND sp_id = $2 AND NOT deleted"};
static const struct mt_pg_stmt sp_row = {"sp_row", "SELECT name, scopes, resource_version, deleted, " SP_OBJECT
                                                   " FROM service_principals_view WHERE org_id = $1 AND sp_id = $2"};
static const struct mt_pg_stmt secret_put = {
    "sp_secret_put", "INSERT INTO moat.sp_secrets (secret_hash, sp_id, rotation_id) VALUES ($1, $2, $3)"};
static const struct mt_pg_stmt secrets_end = {
    "sp_secrets_end", "UPDATE moat.sp_secrets SET valid_until = $2 WHERE sp_id = $1 AND (valid_until IS NULL OR valid_until > $2)"};
static const struct mt_pg_stmt secrets_drop = {"sp_secrets_drop", "DELETE FROM moat.sp_secrets WHERE sp_id = $1"};
static const struct mt_pg_stmt tokens_end = {
    "sp_tokens_end", "UPDATE moat.access_tokens SET revoked_at = now() WHERE sp_id = $1 AND revoked_at IS NULL"};

int mt_api_sps_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &sps_asc, .desc = &sps_desc};
    const char *name = mt_api_query(c, "name");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_pg_p_text(&l.params, name);
    return mt_api_send_list(c, &l);
}

static void sp_params(struct mt_api_call *c, struct mt_pg_params *p)
{
    mt_pg_p_init(p);
    mt_pg_p_text(p, c->org.id);
    mt_pg_p_text(p, mt_api_param(c, "sp_id"));
}

int mt_api_sps_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    sp_params(c, &p);
    return mt_api_send_row(c, &sp_get, &p, "service principal");
}

/* A new secret: its hash goes into the command, its text into the one answer that shows it. */
static int new_secret(struct mt_api_call *c, struct mt_cmd *cmd, const char *sp_id, const char *rotation, struct mt_api_made *made)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    made->secret_name = "client_secret";
    mt_token_new(MT_TOKEN_SP_SECRET, made->secret, hash);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, sp_id);
    mt_pg_p_text(&p, rotation);
    return mt_cmd_side(cmd, &secret_put, &p, 1, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int end_with_sp(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_stmt *stmt, const char *sp_id)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, sp_id);
    return mt_cmd_side(cmd, stmt, &p, -1, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", "scopes", "restrict", NULL};
    const char *name;
    char id[MT_ID_SIZE], ulid[MT_ULID_SIZE], client[MT_ID_SIZE];
    uint64_t scopes;
    struct mt_auth_restrict restricted;
    mt_auto_free char *text = NULL;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "name", true, 64, &name) < 0 ||
        mt_grant_scopes(c, true, c->who.org_scopes, 0, &scopes) < 0 || mt_grant_restrict(c, c->org.id, &restricted, &text) < 0)
        return -1;
    mt_id_new(MT_ID_SERVICE_PRINCIPAL, id);
    mt_ulid_new(ulid);
    snprintf(client, sizeof client, "client_%s", ulid);
    if (mt_cmd_rely(cmd, MT_RELY_ORG, c->org.id, NULL, c->org.version, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_SERVICE_PRINCIPAL_CREATED, id,
                     json_pack("{s:s,s:s,s:o,s:o*}", "name", name, "client_id", client, "scopes", mt_scopes_json(scopes), "restrict",
                               mt_restrict_json(&restricted))) < 0 ||
        new_secret(c, cmd, id, id, made) < 0)
        return -1;
    made->status = 201;
    made->operation = "service_principal.create";
    made->ids = json_pack("{s:s}", "sp_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:o,s:o*,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "name", name, "client_id", client,
                             "scopes", mt_scopes_json(scopes), "restrict", mt_restrict_json(&restricted), "resource_version", 1,
                             "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/service-principals/%s", c->org.id, id);
    return 0;
}

int mt_api_sps_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

/* A live row; @ret_version. Who lacks one of its scopes may not lay hands on it: it would be a way to get them. */
static int load(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_pg_res **ret, int64_t *ret_version)
{
    struct mt_pg_params p;
    sp_params(c, &p);
    if (mt_pg_query_one(c->pg, &sp_row, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "service principal") : mt_api_fail_err(c);
    *ret_version = mt_pg_i64(*ret, 0, 2);
    if (mt_pg_bool(*ret, 0, 3))
        return mt_api_not_found(c, "service principal");
    if (mt_scopes_col(*ret, 0, 1) & ~c->who.org_scopes)
        return mt_api_fail(c, 403, "insufficient_scope", "the service principal has scopes that you do not have");
    if (mt_cmd_rely(cmd, MT_RELY_SP, mt_api_param(c, "sp_id"), NULL, *ret_version, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static void now_at(struct mt_api_made *made, const struct mt_pg_res *r, int64_t version)
{
    json_error_t je;
    made->object = json_loads(mt_pg_text(r, 0, 4), 0, &je);
    json_object_set_new(made->object, "resource_version", json_integer(version + 1));
    json_object_set_new(made->object, "updated_at", json_null());
}

static int prepare_update(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", "scopes", "restrict", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_free char *text = NULL;
    struct mt_auth_restrict restricted;
    const char *name;
    uint64_t scopes;
    int64_t version;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "name", false, 64, &name) < 0 ||
        mt_grant_scopes(c, false, c->who.org_scopes, 0, &scopes) < 0 || mt_grant_restrict(c, c->org.id, &restricted, &text) < 0 ||
        load(c, cmd, &r, &version) < 0 || mt_api_check_version(c, true, version, "service principal") < 0)
        return -1;
    bool set_restrict = json_object_get(c->body, "restrict") != NULL;
    if (!name && !scopes && !set_restrict)
        return mt_api_fail(c, 400, "no_changes", "name, scopes or restrict can be changed");
    now_at(made, r, version);
    json_t *payload = json_object();
    if (name) {
        json_object_set_new(payload, "name", json_string(name));
        json_object_set_new(made->object, "name", json_string(name));
    }
    if (scopes) {
        json_object_set_new(payload, "scopes", mt_scopes_json(scopes));
        json_object_set_new(made->object, "scopes", mt_scopes_json(scopes));
    }
    if (set_restrict) {
        json_object_set_new(payload, "restrict", restricted.on ? mt_restrict_json(&restricted) : json_null());
        if (restricted.on)
            json_object_set_new(made->object, "restrict", mt_restrict_json(&restricted));
        else
            json_object_del(made->object, "restrict");
    }
    made->operation = "service_principal.update";
    made->ids = json_pack("{s:s}", "sp_id", mt_api_param(c, "sp_id"));
    return mt_api_event(c, cmd, MT_EV_SERVICE_PRINCIPAL_UPDATED, mt_api_param(c, "sp_id"), payload);
}

int mt_api_sps_update(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_update);
}

static int prepare_rotate(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"overlap_seconds", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *id = mt_api_param(c, "sp_id");
    char rotation[MT_ULID_SIZE], until[MT_RFC3339_LEN];
    int64_t overlap, version;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_int(c, "overlap_seconds", false, 0, 86400, 0, &overlap) < 0 ||
        load(c, cmd, &r, &version) < 0)
        return -1;
    mt_ulid_new(rotation);
    int64_t end_us = mt_clock_wall_us() + overlap * 1000000;
    mt_rfc3339(end_us, until);
    now_at(made, r, version);
    if (overlap) {
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, id);
        mt_pg_p_time(&p, end_us);
        if (mt_cmd_side(cmd, &secrets_end, &p, -1, &c->err) < 0)
            return mt_api_fail_err(c);
        json_object_set_new(made->object, "old_valid_until", json_string(until));
    } else if (end_with_sp(c, cmd, &secrets_drop, id) < 0 || end_with_sp(c, cmd, &tokens_end, id) < 0) {
        return -1; /* no overlap: whoever holds the old secret, and what it was exchanged for, is out now */
    }
    made->operation = "service_principal.rotate";
    made->ids = json_pack("{s:s}", "sp_id", id);
    if (new_secret(c, cmd, id, rotation, made) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_SERVICE_PRINCIPAL_SECRET_ROTATED, id,
                        json_pack("{s:s,s:s*}", "rotation_id", rotation, "old_valid_until", overlap ? until : NULL));
}

int mt_api_sps_rotate(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_rotate);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    const char *id = mt_api_param(c, "sp_id");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    sp_params(c, &p);
    if (mt_pg_query_one(c->pg, &sp_row, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "service principal") : mt_api_fail_err(c);
    bool gone = mt_pg_bool(r, 0, 3);
    made->operation = "service_principal.delete";
    made->ids = json_pack("{s:s}", "sp_id", id);
    made->object = json_pack("{s:b,s:b}", "ok", true, "already_deleted", gone);
    made->nothing = gone;
    if (gone)
        return 0;
    int64_t version = mt_pg_i64(r, 0, 2);
    if (mt_api_check_version(c, false, version, "service principal") < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_SP, id, NULL, version, &c->err) < 0)
        return mt_api_fail_err(c);
    if (end_with_sp(c, cmd, &secrets_drop, id) < 0 || end_with_sp(c, cmd, &tokens_end, id) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_SERVICE_PRINCIPAL_DELETED, id, json_object());
}

int mt_api_sps_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
