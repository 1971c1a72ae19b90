/* SPDX-License-Identifier: Apache-2.0 */
/* Giving tokens out and taking them back. */
#include "control/auth/grant.h"

#include "base/assert.h"
#include "base/str.h"

static const struct mt_pg_stmt access_put = {
    "grant_access_put", "INSERT INTO moat.access_tokens (token_hash, token_id, kind, user_id, sp_id, org_id, family_id, scopes, reason,"
                        " expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10))"};
static const struct mt_pg_stmt refresh_put = {
    "grant_refresh_put", "INSERT INTO moat.refresh_tokens (token_hash, family_id, user_id, client_name, scopes, expires_at, family_until)"
                         " VALUES ($1, $2, $3, $4, $5, LEAST(now() + make_interval(days => 30), COALESCE($6, now() + make_interval(days => 90))),"
                         " COALESCE($6, now() + make_interval(days => 90)))"};
static const struct mt_pg_stmt refresh_find = {
    "grant_refresh_find", "SELECT t.family_id, t.user_id, t.client_name, t.scopes, t.family_until, t.used_at IS NOT NULL,"
                          " COALESCE(t.used_at < now() - make_interval(secs => 30), false), t.revoked_at IS NOT NULL OR t.expires_at <= now()"
                          " OR u.state <> 'active' FROM moat.refresh_tokens t JOIN users_view u ON u.user_id = t.user_id"
                          " WHERE t.token_hash = $1 FOR UPDATE OF t"};
static const struct mt_pg_stmt refresh_used = {
    "grant_refresh_used", "UPDATE moat.refresh_tokens SET used_at = COALESCE(used_at, now()) WHERE token_hash = $1"};
static const struct mt_pg_stmt family_end[2] = {
    {"grant_family_end_rt", "UPDATE moat.refresh_tokens SET revoked_at = now() WHERE family_id = $1 AND revoked_at IS NULL"},
    {"grant_family_end_at", "UPDATE moat.access_tokens SET revoked_at = now() WHERE family_id = $1 AND revoked_at IS NULL"},
};
static const struct mt_pg_stmt family_of = {
    "grant_family_of", "SELECT family_id FROM moat.refresh_tokens WHERE token_hash = $1 UNION ALL"
                       " SELECT family_id FROM moat.access_tokens WHERE token_hash = $1 AND family_id IS NOT NULL"};
static const struct mt_pg_stmt access_end = {
    "grant_access_end", "UPDATE moat.access_tokens SET revoked_at = now() WHERE token_hash = $1 AND revoked_at IS NULL"};
static const struct mt_pg_stmt personal_end = {
    "grant_personal_end", "UPDATE moat.personal_tokens SET revoked_at = now() WHERE token_hash = $1 AND revoked_at IS NULL"};
static const struct mt_pg_stmt user_end[3] = {
    {"grant_user_end_rt", "UPDATE moat.refresh_tokens SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL"},
    {"grant_user_end_at", "UPDATE moat.access_tokens SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL"},
    {"grant_user_end_bs", "DELETE FROM moat.browser_sessions WHERE user_id = $1"},
};
static const struct mt_pg_stmt client_find = {
    "grant_client_find", "SELECT s.sp_id, s.org_id, s.scopes FROM moat.sp_secrets x JOIN service_principals_view s ON s.sp_id = x.sp_id"
                         " JOIN orgs_view o ON o.org_id = s.org_id AND NOT o.deleted"
                         " WHERE x.secret_hash = $1 AND s.client_id = $2 AND NOT s.deleted AND (x.valid_until IS NULL OR x.valid_until > now())"};
static const struct mt_pg_stmt client_used = {"grant_client_used",
                                              "UPDATE moat.sp_secrets SET last_used_at = now() WHERE secret_hash = $1"};
/* A bounded bite of each, so that nobody's login waits for a backlog. Rows stay a day after their end: until then the answer
 * is token_expired, which tells the client to refresh, and not unauthorized. */
static const struct mt_pg_stmt prune[] = {
    {"grant_prune_at", "DELETE FROM moat.access_tokens WHERE token_hash IN (SELECT token_hash FROM moat.access_tokens"
                       " WHERE expires_at < now() - interval '1 day' ORDER BY expires_at LIMIT 50)"},
    {"grant_prune_dc", "DELETE FROM moat.device_codes WHERE code_hash IN (SELECT code_hash FROM moat.device_codes"
                       " WHERE expires_at < now() - interval '1 hour' ORDER BY expires_at LIMIT 50)"},
    {"grant_prune_bs", "DELETE FROM moat.browser_sessions WHERE session_hash IN (SELECT session_hash FROM moat.browser_sessions"
                       " WHERE expires_at < now() ORDER BY expires_at LIMIT 50)"},
    {"grant_prune_rt", "DELETE FROM moat.refresh_tokens WHERE token_hash IN (SELECT token_hash FROM moat.refresh_tokens"
                       " WHERE family_until < now() - interval '1 day' LIMIT 50)"},
};

void mt_granted_wipe(struct mt_granted *g)
{
    explicit_bzero(g, sizeof *g);
}

static int access_token(struct mt_pg *pg, const char *kind, const char *user, const char *sp, const char *org, const char *family,
                        const char *reason, int64_t seconds, struct mt_granted *g, struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    struct mt_pg_arr scopes;
    mt_token_new(MT_TOKEN_ACCESS, g->access, hash);
    mt_id_new(MT_ID_TOKEN, g->token_id);
    mt_scopes_arr(g->scopes, &scopes);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, g->token_id);
    mt_pg_p_text(&p, kind);
    mt_pg_p_text(&p, user);
    mt_pg_p_text(&p, sp);
    mt_pg_p_text(&p, org);
    mt_pg_p_text(&p, family);
    mt_pg_p_arr(&p, &scopes);
    mt_pg_p_text(&p, reason);
    mt_pg_p_i32(&p, (int32_t)seconds);
    int rc = mt_pg_query(pg, &access_put, &p, NULL, err);
    mt_pg_arr_done(&scopes);
    g->seconds = seconds;
    return rc;
}

/* @until: end of the family, 0 for a new one. */
static int pair(struct mt_pg *pg, const char *family, const char *user, const char *client, int64_t until, struct mt_granted *g,
                struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    struct mt_pg_arr scopes;
    mt_token_new(MT_TOKEN_REFRESH, g->refresh, hash);
    mt_scopes_arr(g->scopes, &scopes);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, family);
    mt_pg_p_text(&p, user);
    mt_pg_p_text(&p, client);
    mt_pg_p_arr(&p, &scopes);
    if (until)
        mt_pg_p_time(&p, until);
    else
        mt_pg_p_time_null(&p);
    int rc = mt_pg_query(pg, &refresh_put, &p, NULL, err);
    mt_pg_arr_done(&scopes);
    snprintf(g->user_id, sizeof g->user_id, "%s", user);
    return rc < 0 ? rc : access_token(pg, "session", user, NULL, NULL, family, NULL, MT_ACCESS_SECONDS, g, err);
}

/* End a transaction: commit when @rc is 0, else roll back and give @rc back. */
static int end(struct mt_pg *pg, int rc, struct mt_err *err)
{
    struct mt_err ignored;
    if (rc == 0)
        return mt_pg_exec(pg, "COMMIT", err);
    if (mt_pg_alive(pg))
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    return rc;
}

int mt_grant_session(struct mt_pg *pg, const char *user_id, const char *client_name, uint64_t scopes, struct mt_granted *ret,
                     struct mt_err *err)
{
    char family[MT_ID_SIZE], ulid[MT_ULID_SIZE];
    mt_ulid_new(ulid);
    snprintf(family, sizeof family, "fam_%s", ulid);
    *ret = (struct mt_granted){.scopes = scopes};
    return pair(pg, family, user_id, client_name, 0, ret, err);
}

static int one(struct mt_pg *pg, const struct mt_pg_stmt *s, const char *id, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    return mt_pg_query(pg, s, &p, NULL, err);
}

static int by_hash(struct mt_pg *pg, const struct mt_pg_stmt *s, const uint8_t hash[32], struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, 32);
    return mt_pg_query(pg, s, &p, ret, err);
}

static int end_family(struct mt_pg *pg, const char *family, struct mt_err *err)
{
    int rc = one(pg, &family_end[0], family, err);
    return rc < 0 ? rc : one(pg, &family_end[1], family, err);
}

static int refresh(struct mt_pg *pg, const uint8_t hash[32], struct mt_granted *ret, enum mt_refresh_end *ret_end, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = by_hash(pg, &refresh_find, hash, &r, err);
    *ret_end = MT_REFRESH_UNKNOWN;
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    const char *family = mt_pg_text(r, 0, 0), *user = mt_pg_text(r, 0, 1);
    snprintf(ret->user_id, sizeof ret->user_id, "%s", user);
    *ret_end = MT_REFRESH_ENDED;
    if (mt_pg_bool(r, 0, 7))
        return 0;
    if (mt_pg_bool(r, 0, 6)) {
        *ret_end = MT_REFRESH_REUSED;
        return end_family(pg, family, err);
    }
    ret->scopes = mt_scopes_col(r, 0, 3);
    *ret_end = MT_REFRESH_OK;
    if ((rc = by_hash(pg, &refresh_used, hash, NULL, err)) < 0)
        return rc;
    return pair(pg, family, user, mt_pg_text(r, 0, 2), mt_pg_time(r, 0, 4), ret, err);
}

int mt_grant_refresh(struct mt_pg *pg, const char *token, struct mt_granted *ret, enum mt_refresh_end *ret_end, struct mt_err *err)
{
    uint8_t hash[32];
    *ret = (struct mt_granted){0};
    *ret_end = MT_REFRESH_UNKNOWN;
    if (!mt_token_hash(MT_TOKEN_REFRESH, token, hash))
        return 0;
    int rc = mt_pg_exec(pg, "BEGIN", err);
    return rc < 0 ? rc : end(pg, refresh(pg, hash, ret, ret_end, err), err);
}

static const struct mt_pg_stmt refresh_user = {"grant_refresh_user", "SELECT user_id FROM moat.refresh_tokens WHERE token_hash = $1"};

int mt_grant_refresh_user(struct mt_pg *pg, const char *token, char ret_user_id[MT_ID_SIZE], struct mt_err *err)
{
    uint8_t hash[32];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    ret_user_id[0] = 0;
    if (!mt_token_hash(MT_TOKEN_REFRESH, token, hash))
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    int rc = mt_pg_query(pg, &refresh_user, &p, &r, err);
    if (rc == 0 && mt_pg_rows(r) == 1)
        snprintf(ret_user_id, MT_ID_SIZE, "%s", mt_pg_text(r, 0, 0));
    return rc;
}

int mt_grant_client(struct mt_pg *pg, const char *client_id, const char *secret, uint64_t asked, struct mt_granted *ret,
                    struct mt_err *err)
{
    uint8_t hash[32];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    *ret = (struct mt_granted){0};
    if (!mt_token_hash(MT_TOKEN_SP_SECRET, secret, hash))
        return MT_FAIL(err, MT_E_NOT_FOUND, "the client id or its secret is not valid");
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, client_id);
    int rc = mt_pg_query(pg, &client_find, &p, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "the client id or its secret is not valid");
    uint64_t has = mt_scopes_col(r, 0, 2);
    if (asked & ~has)
        return MT_FAIL(err, MT_E_DENIED, "the service principal lacks a scope that was asked for");
    ret->scopes = asked ? asked : has;
    if ((rc = by_hash(pg, &client_used, hash, NULL, err)) < 0)
        return rc;
    return access_token(pg, "service_principal", NULL, mt_pg_text(r, 0, 0), mt_pg_text(r, 0, 1), NULL, NULL, MT_ACCESS_SECONDS, ret, err);
}

int mt_grant_break_glass(struct mt_pg *pg, const char *user_id, const char *org_id, const char *reason, uint64_t scopes,
                         int64_t seconds, struct mt_granted *ret, struct mt_err *err)
{
    *ret = (struct mt_granted){.scopes = scopes};
    return access_token(pg, "break_glass", user_id, NULL, org_id, NULL, reason, seconds, ret, err);
}

static int revoke_known(struct mt_pg *pg, const uint8_t hash[32], struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = by_hash(pg, &family_of, hash, &r, err);
    if (rc < 0)
        return rc;
    return mt_pg_rows(r) ? end_family(pg, mt_pg_text(r, 0, 0), err) : by_hash(pg, &access_end, hash, NULL, err);
}

int mt_grant_revoke(struct mt_pg *pg, const char *token, struct mt_err *err)
{
    uint8_t hash[32];
    enum mt_token_kind kind = mt_token_kind_of(token);
    if ((kind != MT_TOKEN_ACCESS && kind != MT_TOKEN_REFRESH && kind != MT_TOKEN_PERSONAL) || !mt_token_hash(kind, token, hash))
        return 0;
    if (kind == MT_TOKEN_PERSONAL)
        return by_hash(pg, &personal_end, hash, NULL, err);
    int rc = mt_pg_exec(pg, "BEGIN", err);
    return rc < 0 ? rc : end(pg, revoke_known(pg, hash, err), err);
}

int mt_grant_revoke_user(struct mt_pg *pg, const char *user_id, struct mt_err *err)
{
    int rc = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(user_end) && rc == 0; i++)
        rc = one(pg, &user_end[i], user_id, err);
    return rc;
}

void mt_grant_prune(struct mt_pg *pg)
{
    struct mt_err ignored;
    for (size_t i = 0; i < MT_ARRAY_LEN(prune) && mt_pg_alive(pg); i++)
        (void)mt_pg_query(pg, &prune[i], NULL, NULL, &ignored);
}
