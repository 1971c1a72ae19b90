/* SPDX-License-Identifier: Apache-2.0 */
/* Personal access tokens of the calling user (control-plane.md §9.3, §10.1): listed, made, revoked. The text is shown once. And the operator's
 * hand on a token of anybody (scheduling-and-operations.md §11.4). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/grants.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "control/limits/request.h"
#include "model/names.h"

#define TOKEN_OBJECT                                                                                                  \
    "json_strip_nulls(json_build_object('id',token_id,'name',name,'scopes',to_json(scopes),'org_id',org_id,'restrict',restrict_to," \
    "'created_at'," MT_SQL_TS("created_at") ",'expires_at'," MT_SQL_TS("expires_at") ",'last_used_at'," MT_SQL_TS("last_used_at") \
    "))::text"

MT_SQL_LIST(tokens, TOKEN_OBJECT, "moat.personal_tokens", "token_id", "user_id = $1 AND revoked_at IS NULL", "2", "3");

/* The same key again finds the row that the first call made. */
static const struct mt_pg_stmt token_put = {
    "token_put", "INSERT INTO moat.personal_tokens (token_id, user_id, name, token_hash, scopes, restrict_to, org_id, expires_at,"
                 " idempotency_key) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
                 " ON CONFLICT ON CONSTRAINT personal_tokens_idempotency DO UPDATE SET idempotency_key = excluded.idempotency_key"
                 " RETURNING token_id, " TOKEN_OBJECT};
static const struct mt_pg_stmt token_end = {
    "token_end", "UPDATE moat.personal_tokens SET revoked_at = COALESCE(revoked_at, now()) WHERE user_id = $1 AND token_id = $2"
                 " RETURNING revoked_at < now()"};
/* Any token by its id, with all of the login that it came from. */
#define FAMILY "(SELECT family_id FROM moat.access_tokens WHERE token_id = $1)"
#define ENDS " SET revoked_at = COALESCE(revoked_at, now())"
static const struct mt_pg_stmt any_end = {
    "token_any_end",
    "WITH p AS (UPDATE moat.personal_tokens" ENDS " WHERE token_id = $1 RETURNING 'personal'::text AS kind, user_id AS subject, revoked_at < now() AS before),"
    " a AS (UPDATE moat.access_tokens" ENDS " WHERE token_id = $1 OR family_id = " FAMILY
    "  RETURNING token_id, kind, COALESCE(user_id, sp_id) AS subject, revoked_at < now() AS before),"
    " r AS (UPDATE moat.refresh_tokens" ENDS " WHERE family_id = " FAMILY ")"
    " SELECT kind, subject, before FROM p UNION ALL SELECT kind, subject, before FROM a WHERE token_id = $1"};
static const struct mt_pg_stmt member_of = {
    "token_member", "SELECT 1 FROM org_members_view m JOIN orgs_view o ON o.org_id = m.org_id WHERE m.user_id = $1 AND m.org_id = $2"
                    " AND NOT m.deleted AND m.state = 'active' AND NOT o.deleted"};

int mt_api_tokens_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &tokens_asc, .desc = &tokens_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->who.subject_id);
    return mt_api_send_list(c, &l);
}

static int check_org(struct mt_api_call *c, const char *org)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->who.subject_id);
    mt_pg_p_text(&p, org);
    if (mt_pg_query(c->pg, &member_of, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_pg_rows(r) ? 0 : mt_api_not_found(c, "organisation");
}

int mt_api_tokens_create(struct mt_api_call *c)
{
    static const char *const known[] = {"name", "scopes", "org_id", "restrict", "expires_in_days", NULL};
    const char *name, *org, *key = mt_http_req_header(c->http, "Idempotency-Key");
    uint64_t scopes;
    int64_t days;
    struct mt_auth_restrict restricted;
    mt_auto_free char *text = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "name", true, 64, &name) < 0 ||
        mt_grant_scopes(c, true, c->who.scopes, 0, &scopes) < 0 || mt_api_text(c, "org_id", false, MT_ID_SIZE, &org) < 0 ||
        mt_api_int(c, "expires_in_days", false, 1, 365, 90, &days) < 0 || (org && check_org(c, org) < 0) ||
        mt_grant_restrict(c, org, &restricted, &text) < 0)
        return -1;
    if (mt_limits_subject(c, MT_LIMIT_MINT, c->who.subject_id) < 0)
        return -1;
    char token[MT_TOKEN_SIZE], id[MT_ID_SIZE];
    uint8_t hash[32];
    struct mt_pg_params p;
    struct mt_pg_arr names;
    mt_token_new(MT_TOKEN_PERSONAL, token, hash);
    mt_id_new(MT_ID_TOKEN, id);
    mt_scopes_arr(scopes, &names);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    mt_pg_p_text(&p, c->who.subject_id);
    mt_pg_p_text(&p, name);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_arr(&p, &names);
    mt_pg_p_json(&p, text);
    mt_pg_p_text(&p, org);
    mt_pg_p_time(&p, mt_clock_wall_us() + days * 86400 * 1000000);
    mt_pg_p_text(&p, key);
    int rc = mt_pg_query_one(c->pg, &token_put, &p, &r, &c->err);
    mt_pg_arr_done(&names);
    json_error_t je;
    json_t *o = rc == 0 ? json_loads(mt_pg_text(r, 0, 1), 0, &je) : NULL;
    if (o && MT_STREQ(mt_pg_text(r, 0, 0), id)) {
        json_object_set_new(o, "token", json_string(token));
        mt_api_trail_note(c, "auth.token_created", "allow", NULL, "token", id, NULL);
    } else if (o) {
        mt_http_add_header(c->http, "Idempotent-Replay", "true");
        json_object_set_new(o, "token", json_null());
        json_object_set_new(o, "secret_shown", json_true());
    }
    explicit_bzero(token, sizeof token);
    return rc < 0 ? mt_api_fail_err(c) : mt_api_send(c, 201, o);
}

int mt_api_tokens_delete(struct mt_api_call *c)
{
    static const char *const known[] = {NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->who.subject_id);
    mt_pg_p_text(&p, mt_api_param(c, "token_id"));
    if (mt_pg_query(c->pg, &token_end, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "token");
    mt_api_trail_note(c, "auth.token_revoked", "allow", NULL, "token", mt_api_param(c, "token_id"), NULL);
    return mt_api_send(c, 200, json_pack("{s:b,s:b}", "ok", true, "already_deleted", mt_pg_bool(r, 0, 0)));
}

int mt_api_tokens_revoke(struct mt_api_call *c)
{
    static const char *const known[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    const char *reason, *id = mt_api_param(c, "token_id");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &any_end, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "token");
    mt_api_trail_note(c, "token.revoke", "allow", NULL, "token", id, reason);
    return mt_api_send(c, 200, json_pack("{s:s,s:s,s:s,s:b}", "id", id, "kind", mt_pg_text(r, 0, 0), "subject_id", mt_pg_text(r, 0, 1),
                                         "already_revoked", mt_pg_bool(r, 0, 2)));
}
