/* SPDX-License-Identifier: Apache-2.0 */
/* The look-up of a request's token: one statement per kind of token, each by its primary key. */
#include "control/auth/auth.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/log/schema.h"
#include "os/digest.h"
#include "wire/json.h"

#include <pthread.h>

/* What both statements share: the owners of the path, and whether a restricted token's environment lies in the app. $1 is the
 * hash, $2 to $4 are the ids of the path, $5 finds deleted ones too. Every join is by a unique key. */
#define CHAIN_COLS                                                                                                     \
    " o.org_id, o.name, o.resource_version, o.developer_exec, o.suspended, a.app_id, a.name, a.resource_version, e.env_id, e.name," \
    " e.resource_version, o.deleted, a.deleted, e.deleted"
#define CHAIN_JOINS                                                                        \
    " LEFT JOIN orgs_view o ON o.org_id = $2 AND ($5 OR NOT o.deleted)"                    \
    " LEFT JOIN apps_view a ON a.app_id = $3 AND a.org_id = o.org_id AND ($5 OR NOT a.deleted)" \
    " LEFT JOIN envs_view e ON e.env_id = $4 AND e.app_id = a.app_id AND ($5 OR NOT e.deleted)"
#define MEMBER_JOIN                                                                                            \
    " LEFT JOIN org_members_view m ON m.user_id = t.user_id AND m.org_id = o.org_id AND NOT m.deleted AND m.state = 'active'"
/* From here on the session sees no other organisation's rows (log/fence.sql). A part of the statement, which saves a twelfth of the request
 * over one more statement: a sub-select without variables is run before any row is looked for, and if it were not, the owners
 * would not be found. Always, also when it is so already: what the database is asked must not tell who was there before. */
#define FENCE " AND (SELECT set_config('moat.org_id', COALESCE($2, '" MT_LOG_ALL "'), $6)) IS NOT NULL"
/* Only a token with a list of environments pays for the look at them. */
#define APP_OF_ENV(restricted)                                                                                     \
    " CASE WHEN " restricted " ? 'env_ids' THEN EXISTS (SELECT 1 FROM jsonb_array_elements_text(" restricted      \
    "->'env_ids') x(id) JOIN envs_view r ON r.env_id = x.id WHERE r.app_id = $3 AND NOT r.deleted) ELSE false END"

enum {
    COL_KIND = 0, COL_TOKEN, COL_SUBJECT, COL_EMAIL, COL_OPERATOR, COL_STATE, COL_FAMILY, COL_EXPIRES, COL_EXPIRED, COL_REVOKED,
    COL_SCOPES, COL_LIMITS, COL_ONLY_ORG, COL_ROLE, COL_RESTRICT, COL_APP_OF_ENV, COL_ORG, COL_DEVELOPER_EXEC = COL_ORG + 3,
    COL_SUSPENDED, COL_APP, COL_ENV = COL_APP + 3, COL_DELETED = COL_ENV + 3
};

static const struct mt_pg_stmt lookup_access = {
    "auth_access",
    "SELECT t.kind, t.token_id, COALESCE(t.sp_id, t.user_id), u.email, u.is_operator,"
    " CASE WHEN t.sp_id IS NOT NULL THEN CASE WHEN s.deleted THEN 'revoked' ELSE 'active' END ELSE COALESCE(u.state, 'disabled') END,"
    " t.family_id, t.expires_at, t.expires_at <= now(), t.revoked_at IS NOT NULL, t.scopes, s.scopes,"
    " COALESCE(s.org_id, t.org_id), m.role, s.restrict_to," APP_OF_ENV("s.restrict_to") "," CHAIN_COLS
    " FROM moat.access_tokens t LEFT JOIN users_view u ON u.user_id = t.user_id"
    " LEFT JOIN service_principals_view s ON s.sp_id = t.sp_id" CHAIN_JOINS MEMBER_JOIN " WHERE t.token_hash = $1" FENCE};

static const struct mt_pg_stmt lookup_personal = {
    "auth_personal",
    "SELECT 'personal'::text, t.token_id, t.user_id, u.email, u.is_operator, u.state, NULL::text, t.expires_at,"
    " COALESCE(t.expires_at <= now(), false), t.revoked_at IS NOT NULL, t.scopes, NULL::text[], t.org_id, m.role, t.restrict_to,"
    APP_OF_ENV("t.restrict_to") "," CHAIN_COLS
    " FROM moat.personal_tokens t JOIN users_view u ON u.user_id = t.user_id" CHAIN_JOINS MEMBER_JOIN
    " WHERE t.token_hash = $1" FENCE};

const struct mt_pg_stmt mt_auth_fence = {"auth_fence", "SELECT set_config('moat.org_id', $1, false)"};

static const struct mt_pg_stmt touch = {
    "auth_touch", "UPDATE moat.personal_tokens SET last_used_at = now() WHERE token_id = $1"
                  " AND (last_used_at IS NULL OR last_used_at < now() - interval '10 minutes')"};

void mt_scopes_arr(uint64_t scopes, struct mt_pg_arr *ret)
{
    mt_pg_arr_init(ret, MT_PG_ELEM_TEXT, 8192);
    for (unsigned i = 0; mt_scopes_all[i]; i++)
        if (scopes >> i & 1)
            mt_pg_arr_text_add(ret, mt_scopes_all[i]);
}

json_t *mt_scopes_json(uint64_t scopes)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && mt_scopes_all[i]; i++)
        if (scopes >> i & 1)
            json_array_append_new(a, json_string(mt_scopes_all[i]));
    return a;
}

uint64_t mt_scopes_col(const struct mt_pg_res *r, int row, int col)
{
    uint64_t set = 0;
    int n = mt_pg_arr_len(r, row, col);
    for (int i = 0; i < n; i++) {
        char scope[64];
        if (mt_pg_arr_text(r, row, col, i, scope, sizeof scope) == 0)
            set |= mt_scope_bit(scope);
    }
    return set;
}

static bool ids_of(const json_t *list, enum mt_id_kind kind, char ret[MT_RESTRICT_MAX][MT_ID_SIZE], int *ret_n)
{
    *ret_n = 0;
    if (!list)
        return true;
    if (!json_is_array(list) || json_array_size(list) > MT_RESTRICT_MAX)
        return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *id = json_string_value(json_array_get(list, i));
        if (!id || !mt_id_valid(kind, id, strlen(id)))
            return false;
        snprintf(ret[(*ret_n)++], MT_ID_SIZE, "%s", id);
    }
    return true;
}

bool mt_restrict_parse(const char *json, struct mt_auth_restrict *ret)
{
    static const char *const known[] = {"app_ids", "env_ids", NULL};
    struct mt_err ignored;
    mt_auto_json json_t *o = NULL;
    ret->on = json != NULL;
    ret->apps_n = ret->envs_n = 0;
    if (!json)
        return true;
    bool ok = mt_json_parse(json, strlen(json), 16384, 4, &o, &ignored) == 0 && json_is_object(o) && mt_json_only(o, known, &ignored) == 0 &&
              ids_of(json_object_get(o, "app_ids"), MT_ID_APP, ret->apps, &ret->apps_n) &&
              ids_of(json_object_get(o, "env_ids"), MT_ID_ENV, ret->envs, &ret->envs_n);
    if (!ok)
        ret->apps_n = ret->envs_n = 0;
    return ok;
}

json_t *mt_restrict_json(const struct mt_auth_restrict *r)
{
    if (!r->on)
        return NULL;
    json_t *apps = json_array(), *envs = json_array();
    for (int i = 0; i < r->apps_n; i++)
        json_array_append_new(apps, json_string(r->apps[i]));
    for (int i = 0; i < r->envs_n; i++)
        json_array_append_new(envs, json_string(r->envs[i]));
    return json_pack("{s:o,s:o}", "app_ids", apps, "env_ids", envs);
}

bool mt_restrict_has_app(const struct mt_auth_restrict *r, const char *app_id)
{
    for (int i = 0; i < r->apps_n; i++)
        if (MT_STREQ(r->apps[i], app_id))
            return true;
    return false;
}

bool mt_restrict_has_env(const struct mt_auth_restrict *r, const char *env_id)
{
    for (int i = 0; i < r->envs_n; i++)
        if (MT_STREQ(r->envs[i], env_id))
            return true;
    return false;
}

static void text_col(char *ret, size_t size, const struct mt_pg_res *r, int col)
{
    const char *t = mt_pg_text_or_null(r, 0, col);
    snprintf(ret, size, "%s", t ? t : "");
}

static bool owner(struct mt_api_owner *o, const struct mt_pg_res *r, int col, int nth)
{
    if (mt_pg_null(r, 0, col))
        return false;
    text_col(o->id, sizeof o->id, r, col);
    text_col(o->name, sizeof o->name, r, col + 1);
    o->version = mt_pg_i64(r, 0, col + 2);
    o->deleted = mt_pg_bool(r, 0, COL_DELETED + nth);
    return true;
}

static void identity(const struct mt_pg_res *r, struct mt_auth_who *who)
{
    text_col(who->kind, sizeof who->kind, r, COL_KIND);
    text_col(who->token_id, sizeof who->token_id, r, COL_TOKEN);
    text_col(who->subject_id, sizeof who->subject_id, r, COL_SUBJECT);
    text_col(who->email, sizeof who->email, r, COL_EMAIL);
    text_col(who->family_id, sizeof who->family_id, r, COL_FAMILY);
    text_col(who->org_id, sizeof who->org_id, r, COL_ONLY_ORG);
    bool sp = MT_STREQ(who->kind, "service_principal");
    snprintf(who->subject_type, sizeof who->subject_type, "%s", sp ? "service_principal" : "user");
    who->is_operator = !mt_pg_null(r, 0, COL_OPERATOR) && mt_pg_bool(r, 0, COL_OPERATOR);
    who->expires_us = mt_pg_time_or(r, 0, COL_EXPIRES, 0);
    who->scopes = mt_scopes_col(r, 0, COL_SCOPES);
    if (!mt_pg_null(r, 0, COL_LIMITS))
        who->scopes &= mt_scopes_col(r, 0, COL_LIMITS); /* a service principal's scopes as they are now */
    if (!who->is_operator || who->org_id[0])
        who->scopes &= mt_scopes_tenant();
    (void)mt_restrict_parse(mt_pg_text_or_null(r, 0, COL_RESTRICT), &who->restricted);
}

/* The caller's part in the organisation of the path. */
static void part(const struct mt_pg_res *r, bool secret_export, const char *org_id, struct mt_auth_who *who)
{
    if (who->org_id[0] && !MT_STREQ(who->org_id, org_id))
        who->role = MT_ROLE_NONE;
    else if (MT_STREQ(who->kind, "service_principal") || MT_STREQ(who->kind, "break_glass"))
        who->role = MT_ROLE_OWNER; /* bounded by its scopes, which nobody gives who lacks them */
    else
        who->role = mt_pg_null(r, 0, COL_ROLE) ? MT_ROLE_NONE : mt_role_parse(mt_pg_text(r, 0, COL_ROLE));
    who->org_scopes = who->scopes & mt_role_scopes(who->role, mt_pg_bool(r, 0, COL_DEVELOPER_EXEC), secret_export);
}

static enum mt_auth_end outcome(const struct mt_pg_res *r, bool operators, bool secret_export, const char *org, const char *app, const char *env,
                                struct mt_auth_who *who, struct mt_auth_chain *chain)
{
    const char *state = mt_pg_text(r, 0, COL_STATE);
    identity(r, who);
    if (mt_pg_bool(r, 0, COL_REVOKED) || MT_STREQ(state, "revoked"))
        return MT_AUTH_REVOKED;
    if (mt_pg_bool(r, 0, COL_EXPIRED))
        return MT_AUTH_EXPIRED;
    if (!MT_STREQ(state, "active"))
        return MT_AUTH_DISABLED;
    if (!org || (operators && !who->is_operator))
        return MT_AUTH_OK;
    if (!owner(&chain->org, r, COL_ORG, 0))
        return MT_AUTH_NO_ORG;
    chain->suspended = mt_pg_bool(r, 0, COL_SUSPENDED);
    part(r, secret_export, org, who);
    if (who->role == MT_ROLE_NONE && !operators) {
        chain->org = (struct mt_api_owner){0};
        return MT_AUTH_NO_ORG;
    }
    chain->app_of_env = mt_pg_bool(r, 0, COL_APP_OF_ENV);
    if (app && !owner(&chain->app, r, COL_APP, 1))
        return MT_AUTH_NO_APP;
    if (env && !owner(&chain->env, r, COL_ENV, 2))
        return MT_AUTH_NO_ENV;
    return MT_AUTH_OK;
}

int mt_auth_lookup(struct mt_pg *pg, const char *token, const char *org_id, const char *app_id, const char *env_id,
                   bool gone_ok, bool operators, bool secret_export, const struct mt_pg_stmt *beside, struct mt_pg_res **ret_beside,
                   struct mt_auth_who *ret, struct mt_auth_chain *ret_chain, enum mt_auth_end *ret_end, struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    enum mt_token_kind kind = mt_token_kind_of(token);
    memset(ret, 0, offsetof(struct mt_auth_who, restricted)); /* the lists behind it are long and counted */
    ret->restricted.on = false;
    ret->restricted.apps_n = ret->restricted.envs_n = 0;
    *ret_chain = (struct mt_auth_chain){0};
    *ret_end = MT_AUTH_UNKNOWN;
    if (kind != MT_TOKEN_ACCESS && kind != MT_TOKEN_PERSONAL)
        return 0;
    mt_sha256_of(token, strlen(token), hash);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, org_id);
    mt_pg_p_text(&p, app_id);
    mt_pg_p_text(&p, env_id);
    mt_pg_p_bool(&p, gone_ok);
    mt_pg_p_bool(&p, mt_pg_shared(pg)); /* then for this transaction only */
    const struct mt_pg_stmt *stmt = kind == MT_TOKEN_ACCESS ? &lookup_access : &lookup_personal;
    struct mt_pg_res *both[2] = {NULL, NULL};
    int rc = beside ? mt_pg_query_beside(pg, stmt, &p, beside, both, err) : mt_pg_query(pg, stmt, &p, &both[0], err);
    r = both[0];
    if (beside)
        *ret_beside = both[1];
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    *ret_end = outcome(r, operators, secret_export, org_id, app_id, env_id, ret, ret_chain);
    return 0;
}

/* Tokens noted lately, so that their requests do not ask the database each time; a newcomer takes the slot of whoever has it. */
#define TOUCH_SLOTS 1024
#define TOUCH_NS (600 * MT_NS_PER_S)
static struct {
    char token_id[MT_ID_SIZE];
    int64_t at_ns;
} touched[TOUCH_SLOTS];
static pthread_mutex_t touched_mu = PTHREAD_MUTEX_INITIALIZER;

static size_t touch_slot(const char *id)
{
    uint32_t h = 2166136261u;
    for (; *id; id++)
        h = (h ^ (unsigned char)*id) * 16777619u;
    return (h ^ h >> 16) % TOUCH_SLOTS;
}

void mt_auth_touch(struct mt_pg *pg, const struct mt_auth_who *who)
{
    size_t i = touch_slot(who->token_id);
    int64_t now = mt_clock_mono();
    pthread_mutex_lock(&touched_mu);
    bool lately = MT_STREQ(touched[i].token_id, who->token_id) && now - touched[i].at_ns < TOUCH_NS;
    pthread_mutex_unlock(&touched_mu);
    struct mt_pg_params p;
    struct mt_err ignored;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, who->token_id);
    if (lately || mt_pg_query(pg, &touch, &p, NULL, &ignored) < 0)
        return;
    pthread_mutex_lock(&touched_mu);
    snprintf(touched[i].token_id, sizeof touched[i].token_id, "%s", who->token_id);
    touched[i].at_ns = now;
    pthread_mutex_unlock(&touched_mu);
}
