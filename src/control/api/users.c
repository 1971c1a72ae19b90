/* SPDX-License-Identifier: Apache-2.0 */
/* Users of the platform, for operators (control-plane.md §9.5, §10.2). A new user gets a one-time link to set a password. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/auth/totp.h"
#include "model/names.h"

#define USER_OBJECT                                                                                                  \
    "json_strip_nulls(json_build_object('id',user_id,'email',email,'display_name',display_name,'state',state,"      \
    "'is_operator',is_operator,'has_password',EXISTS (SELECT 1 FROM moat.user_credentials x WHERE x.user_id = users_view.user_id)," \
    "'has_totp',EXISTS (SELECT 1 FROM moat.user_credentials x WHERE x.user_id = users_view.user_id AND x.totp_secret IS NOT NULL)," \
    "'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(users, USER_OBJECT, "users_view", "user_id",
            "($1::text IS NULL OR email = $1) AND ($2::text IS NULL OR state = $2)", "3", "4");
static const struct mt_pg_stmt user_row = {"user_row", "SELECT resource_version, is_operator, state, " USER_OBJECT
                                                       " FROM users_view WHERE user_id = $1"};
static const struct mt_pg_stmt other_operator = {
    "user_other_operator", "SELECT user_id, resource_version FROM users_view WHERE is_operator AND state = 'active' AND user_id <> $1"
                           " ORDER BY user_id LIMIT 1"};
static const struct mt_pg_stmt setup_put = {
    "user_setup_put", "INSERT INTO moat.user_setups (code_hash, user_id, totp_secret, expires_at)"
                      " VALUES ($1, $2, $3, now() + interval '24 hours')"};
/* A newer link ends the older ones. */
static const struct mt_pg_stmt setups_end = {"user_setups_end", "DELETE FROM moat.user_setups WHERE user_id = $1"};

int mt_api_users_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &users_asc, .desc = &users_desc};
    const char *email = mt_api_query(c, "email"), *state = mt_api_query(c, "state");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, email);
    mt_pg_p_text(&l.params, state);
    return mt_api_send_list(c, &l);
}

static void setup_params(struct mt_api_call *c, const char *user_id, char ret_code[MT_TOKEN_SIZE], uint8_t hash[32],
                         uint8_t totp[MT_TOTP_BLOB], struct mt_pg_params *p)
{
    mt_token_new(MT_TOKEN_SETUP, ret_code, hash);
    mt_totp_new(c->ctl->mac_key, totp);
    mt_pg_p_init(p);
    mt_pg_p_bytes(p, hash, 32);
    mt_pg_p_text(p, user_id);
    mt_pg_p_bytes(p, totp, MT_TOTP_BLOB);
}

static void setup_url(struct mt_api_call *c, const char *code, char *ret, size_t size)
{
    snprintf(ret, size, "%s/setup?code=%s", c->ctl->conf.public_url, code);
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"email", "display_name", "is_operator", NULL};
    const char *given, *name;
    bool operator;
    char id[MT_ID_SIZE], email[321], code[MT_TOKEN_SIZE];
    uint8_t hash[32], totp[MT_TOTP_BLOB];
    struct mt_pg_params p;
    struct mt_cmd_ids none = {0};
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "email", true, 320, &given) < 0 ||
        mt_api_text(c, "display_name", false, 100, &name) < 0 || mt_api_bool(c, "is_operator", false, &operator) < 0)
        return -1;
    if (!mt_email_valid(given, strlen(given)))
        return mt_api_fail(c, 400, "invalid_argument", "'email' is not an address");
    mt_email_fold(given, email, sizeof email);
    mt_id_new(MT_ID_USER, id);
    setup_params(c, id, code, hash, totp, &p);
    if (mt_cmd_event(cmd, MT_EV_USER_CREATED, id, &none,
                     json_pack("{s:s,s:s*,s:b}", "email", email, "display_name", name, "is_operator", operator), &c->err) < 0 ||
        mt_cmd_side(cmd, &setup_put, &p, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    made->operation = "user.create";
    made->ids = json_pack("{s:s}", "user_id", id);
    made->secret_name = "setup_url";
    setup_url(c, code, made->secret, sizeof made->secret);
    made->object = json_pack("{s:s,s:s,s:s*,s:s,s:b,s:b,s:b,s:i,s:n,s:n}", "id", id, "email", email, "display_name", name, "state", "active",
                             "is_operator", operator, "has_password", false, "has_totp", false, "resource_version", 1, "created_at",
                             "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/users/%s", id);
    explicit_bzero(code, sizeof code);
    return 0;
}

int mt_api_users_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

static int load(struct mt_api_call *c, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, mt_api_param(c, "user_id"));
    if (mt_pg_query_one(c->pg, &user_row, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "user") : mt_api_fail_err(c);
    return 0;
}

int mt_api_users_get(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || load(c, &r) < 0)
        return -1;
    const char *t = mt_pg_text(r, 0, 3);
    return mt_api_send_text(c, 200, strdup(t), strlen(t));
}

static int keep_an_operator(struct mt_api_call *c, struct mt_cmd *cmd)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, mt_api_param(c, "user_id"));
    if (mt_pg_query(c->pg, &other_operator, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_fail(c, 409, "conflict", "this is the last operator");
    if (mt_cmd_rely(cmd, MT_RELY_USER, mt_pg_text(r, 0, 0), NULL, mt_pg_i64(r, 0, 1), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int prepare_update(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"display_name", "is_operator", "state", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *name, *state, *id = mt_api_param(c, "user_id");
    bool operator;
    struct mt_cmd_ids none = {0};
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "display_name", false, 100, &name) < 0 ||
        mt_api_text(c, "state", false, 10, &state) < 0 || load(c, &r) < 0)
        return -1;
    int64_t version = mt_pg_i64(r, 0, 0);
    bool was = mt_pg_bool(r, 0, 1), active = MT_STREQ(mt_pg_text(r, 0, 2), "active");
    if (mt_api_bool(c, "is_operator", was, &operator) < 0)
        return -1;
    if (state && !MT_STREQ(state, "active") && !MT_STREQ(state, "disabled"))
        return mt_api_fail(c, 400, "invalid_argument", "'state' is active or disabled");
    if (mt_api_check_version(c, true, version, "user") < 0)
        return -1;
    json_error_t je;
    json_t *payload = json_object();
    made->object = json_loads(mt_pg_text(r, 0, 3), 0, &je);
    if (name)
        json_object_set_new(payload, "display_name", json_string(name));
    if (operator != was)
        json_object_set_new(payload, "is_operator", json_boolean(operator));
    if (state && MT_STREQ(state, "active") != active)
        json_object_set_new(payload, "state", json_string(state));
    json_object_update(made->object, payload);
    json_object_set_new(made->object, "resource_version", json_integer(version + 1));
    json_object_set_new(made->object, "updated_at", json_null());
    made->operation = "user.update";
    made->ids = json_pack("{s:s}", "user_id", id);
    bool nothing = json_object_size(payload) == 0, leaves = was && active && (!operator || (state && MT_STREQ(state, "disabled")));
    if (nothing || (leaves && keep_an_operator(c, cmd) < 0)) {
        json_decref(payload);
        return nothing ? mt_api_fail(c, 400, "no_changes", "display_name, is_operator or state can be changed") : -1;
    }
    if (mt_cmd_rely(cmd, MT_RELY_USER, id, NULL, version, &c->err) < 0) {
        json_decref(payload);
        return mt_api_fail_err(c);
    }
    return mt_cmd_event(cmd, MT_EV_USER_UPDATED, id, &none, payload, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

int mt_api_users_update(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_update);
}

/* Not an event: nothing about the user changes until the link is used. A repeated call makes a new link and ends the old. */
int mt_api_users_setup_link(struct mt_api_call *c)
{
    static const char *const known[] = {NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    char code[MT_TOKEN_SIZE];
    uint8_t hash[32], totp[MT_TOTP_BLOB];
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, &r) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, mt_api_param(c, "user_id"));
    if (mt_pg_query(c->pg, &setups_end, &p, NULL, &c->err) < 0)
        return mt_api_fail_err(c);
    setup_params(c, mt_api_param(c, "user_id"), code, hash, totp, &p);
    if (mt_pg_query(c->pg, &setup_put, &p, NULL, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_http_add_header(c->http, "Cache-Control", "no-store");
    char url[400];
    setup_url(c, code, url, sizeof url);
    json_t *o = json_pack("{s:s,s:s,s:i}", "user_id", mt_api_param(c, "user_id"), "setup_url", url, "expires_in_seconds", 86400);
    explicit_bzero(code, sizeof code);
    explicit_bzero(url, sizeof url);
    return mt_api_send(c, 201, o);
}
