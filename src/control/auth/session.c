/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions, sign-in, setup links on their tables. */
#include "control/auth/session.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/auth/grant.h"

static const struct mt_pg_stmt session_find = {
    "session_find", "SELECT u.user_id, u.email, u.is_operator, s.wrong_codes FROM moat.browser_sessions s"
                    " JOIN users_view u ON u.user_id = s.user_id WHERE s.session_hash = $1 AND s.expires_at > now() AND u.state = 'active'"};
static const struct mt_pg_stmt session_put = {
    "session_put", "INSERT INTO moat.browser_sessions (session_hash, user_id, expires_at) VALUES ($1, $2, now() + make_interval(secs => 43200))"};
static const struct mt_pg_stmt session_drop = {"session_drop", "DELETE FROM moat.browser_sessions WHERE session_hash = $1"};
static const struct mt_pg_stmt session_wrong = {
    "session_wrong", "UPDATE moat.browser_sessions SET wrong_codes = wrong_codes + 1 WHERE session_hash = $1 RETURNING wrong_codes"};

/* Charged before anything is compared, so that a hundred attempts at once are a hundred failures. No row: wait. */
#define DELAY "CASE WHEN f.failures < 3 THEN 0 ELSE LEAST(power(2, LEAST(f.failures - 3, 6)), 60) END"
static const struct mt_pg_stmt charge = {
    "login_charge", "INSERT INTO moat.login_failures AS f (key, failures, last_at) VALUES ($1, 1, now()) ON CONFLICT (key) DO UPDATE SET"
                    " failures = CASE WHEN f.last_at < now() - interval '1 hour' THEN 1 ELSE f.failures + 1 END, last_at = now()"
                    " WHERE f.last_at + make_interval(secs => " DELAY ") <= now() RETURNING f.failures"};
static const struct mt_pg_stmt wait_of = {
    "login_wait", "SELECT GREATEST(1, ceil(extract(epoch FROM f.last_at + make_interval(secs => " DELAY ") - now())))::int"
                  " FROM moat.login_failures f WHERE key = $1"};
static const struct mt_pg_stmt forgive = {"login_forgive", "DELETE FROM moat.login_failures WHERE key = $1"};
/* An address is shared: one right password takes back its own charge and nothing more. */
static const struct mt_pg_stmt forgive_one = {"login_forgive_one",
                                              "UPDATE moat.login_failures SET failures = GREATEST(failures - 1, 0) WHERE key = $1"};
static const struct mt_pg_stmt account = {
    "login_account", "SELECT u.user_id, u.is_operator, u.state, x.password_hash, x.totp_secret, x.totp_step FROM users_view u"
                     " LEFT JOIN moat.user_credentials x ON x.user_id = u.user_id WHERE u.email = $1"};
static const struct mt_pg_stmt step_used = {
    "login_step_used", "UPDATE moat.user_credentials SET totp_step = $2 WHERE user_id = $1 AND totp_step < $2"};

static const struct mt_pg_stmt setup_find = {
    "setup_find", "SELECT s.user_id, u.email, COALESCE(u.is_operator, true), s.totp_secret FROM moat.user_setups s"
                  " LEFT JOIN users_view u ON u.user_id = s.user_id WHERE s.code_hash = $1 AND s.expires_at > now()"
                  " AND (s.user_id IS NULL OR u.state = 'active')"};
static const struct mt_pg_stmt setup_put = {
    "setup_put", "INSERT INTO moat.user_setups (code_hash, totp_secret, expires_at) VALUES ($1, $2, now() + interval '24 hours')"};
const struct mt_pg_stmt mt_setup_consume = {"setup_consume", "DELETE FROM moat.user_setups WHERE code_hash = $1 AND expires_at > now()"};
const struct mt_pg_stmt mt_setup_credentials = {
    "setup_credentials", "INSERT INTO moat.user_credentials (user_id, password_hash, totp_secret, totp_step) VALUES ($1, $2, $3, $4)"
                         " ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash,"
                         " totp_secret = excluded.totp_secret, totp_step = excluded.totp_step, updated_at = now()"};

static int by_hash(struct mt_pg *pg, const struct mt_pg_stmt *s, const uint8_t hash[32], struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, 32);
    return mt_pg_query(pg, s, &p, ret, err);
}

int mt_session_find(struct mt_pg *pg, const char *cookie, struct mt_session *ret, struct mt_err *err)
{
    uint8_t hash[32];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (!mt_token_hash(MT_TOKEN_BROWSER, cookie, hash))
        return MT_FAIL(err, MT_E_NOT_FOUND, "no session");
    int rc = by_hash(pg, &session_find, hash, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no session");
    snprintf(ret->user_id, sizeof ret->user_id, "%s", mt_pg_text(r, 0, 0));
    snprintf(ret->email, sizeof ret->email, "%s", mt_pg_text(r, 0, 1));
    ret->is_operator = mt_pg_bool(r, 0, 2);
    ret->wrong_codes = (int)mt_pg_i64(r, 0, 3);
    return 0;
}

int mt_session_begin(struct mt_pg *pg, const char *user_id, char ret_cookie[MT_TOKEN_SIZE], struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    mt_token_new(MT_TOKEN_BROWSER, ret_cookie, hash);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_text(&p, user_id);
    return mt_pg_query(pg, &session_put, &p, NULL, err);
}

int mt_session_end(struct mt_pg *pg, const char *cookie, struct mt_err *err)
{
    uint8_t hash[32];
    return mt_token_hash(MT_TOKEN_BROWSER, cookie, hash) ? by_hash(pg, &session_drop, hash, NULL, err) : 0;
}

int mt_session_wrong_code(struct mt_pg *pg, const char *cookie, struct mt_err *err)
{
    uint8_t hash[32];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (!mt_token_hash(MT_TOKEN_BROWSER, cookie, hash))
        return MT_SESSION_WRONG_CODES;
    int rc = by_hash(pg, &session_wrong, hash, &r, err);
    if (rc < 0)
        return rc;
    int n = mt_pg_rows(r) ? (int)mt_pg_i64(r, 0, 0) : MT_SESSION_WRONG_CODES;
    if (n >= MT_SESSION_WRONG_CODES)
        (void)by_hash(pg, &session_drop, hash, NULL, err);
    return n;
}

/* 1: charged, go on; 0: wait. */
static int charge_key(struct mt_pg *pg, const char *key, int *ret_wait, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL, *w = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, key);
    int rc = mt_pg_query(pg, &charge, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r))
        return rc < 0 ? rc : 1;
    if ((rc = mt_pg_query(pg, &wait_of, &p, &w, err)) < 0)
        return rc;
    *ret_wait = mt_pg_rows(w) ? (int)mt_pg_i64(w, 0, 0) : 1;
    return 0;
}

static int with_key(struct mt_pg *pg, const struct mt_pg_stmt *s, const char *key, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, key);
    return mt_pg_query(pg, s, &p, NULL, err);
}

/* The one-time code of an account that has one. 1 right, 0 wrong, -code. */
static int second_factor(struct mt_pg *pg, const struct mt_pg_res *r, const char *code, const uint8_t key[32], struct mt_err *err)
{
    uint8_t secret[MT_TOTP_SECRET], blob[MT_TOTP_BLOB];
    mt_auto_pg_res struct mt_pg_res *u = NULL;
    struct mt_pg_params p;
    size_t n;
    const void *stored = mt_pg_bytes(r, 0, 4, &n);
    if (n != MT_TOTP_BLOB)
        return MT_FAIL(err, MT_E_CORRUPT, "stored one-time secret has %zu bytes", n);
    memcpy(blob, stored, n);
    mt_totp_open(key, blob, secret);
    uint64_t step = mt_totp_check(secret, code, mt_clock_wall_us() / 1000000, (uint64_t)mt_pg_i64(r, 0, 5));
    explicit_bzero(secret, sizeof secret);
    if (!step)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, mt_pg_text(r, 0, 0));
    mt_pg_p_i64(&p, (int64_t)step);
    int rc = mt_pg_query(pg, &step_used, &p, &u, err);
    return rc < 0 ? rc : mt_pg_affected(u) == 1; /* two at once with one code: the second is wrong */
}

int mt_login(struct mt_pg *pg, const char *email, const char *password, const char *code, const char *client_ip, bool require_totp,
             const uint8_t key[32], char ret_user_id[MT_ID_SIZE], int *ret_wait_seconds, enum mt_login_end *ret_end, struct mt_err *err)
{
    char account_key[340], ip_key[96];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    bool right = false;
    snprintf(account_key, sizeof account_key, "account:%s", email);
    snprintf(ip_key, sizeof ip_key, "ip:%s", client_ip);
    *ret_end = MT_LOGIN_WAIT;
    int rc = charge_key(pg, ip_key, ret_wait_seconds, err);
    if (rc <= 0 || (rc = charge_key(pg, account_key, ret_wait_seconds, err)) <= 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, email);
    if ((rc = mt_pg_query(pg, &account, &p, &r, err)) < 0)
        return rc;
    bool known = mt_pg_rows(r) == 1 && MT_STREQ(mt_pg_text(r, 0, 2), "active") && !mt_pg_null(r, 0, 3);
    if ((rc = mt_password_check(known ? mt_pg_text(r, 0, 3) : NULL, password, &right, err)) < 0)
        return rc;
    *ret_end = MT_LOGIN_WRONG;
    if (!right)
        return 0;
    bool has = !mt_pg_null(r, 0, 4);
    if (has && (rc = second_factor(pg, r, code, key, err)) <= 0)
        return rc;
    if (!has && mt_pg_bool(r, 0, 1) && require_totp) {
        *ret_end = MT_LOGIN_NO_TOTP;
        return 0;
    }
    snprintf(ret_user_id, MT_ID_SIZE, "%s", mt_pg_text(r, 0, 0));
    *ret_end = MT_LOGIN_OK;
    rc = with_key(pg, &forgive, account_key, err);
    return rc < 0 ? rc : with_key(pg, &forgive_one, ip_key, err);
}

int mt_setup_find(struct mt_pg *pg, const char *code, struct mt_setup *ret, struct mt_err *err)
{
    uint8_t hash[32];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    size_t n;
    if (!mt_token_hash(MT_TOKEN_SETUP, code, hash))
        return MT_FAIL(err, MT_E_NOT_FOUND, "no such link");
    int rc = by_hash(pg, &setup_find, hash, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no such link");
    const char *user = mt_pg_text_or_null(r, 0, 0), *email = mt_pg_text_or_null(r, 0, 1);
    const void *totp = mt_pg_bytes(r, 0, 3, &n);
    if (n != MT_TOTP_BLOB)
        return MT_FAIL(err, MT_E_CORRUPT, "stored one-time secret has %zu bytes", n);
    snprintf(ret->user_id, sizeof ret->user_id, "%s", user ? user : "");
    snprintf(ret->email, sizeof ret->email, "%s", email ? email : "");
    ret->is_operator = mt_pg_bool(r, 0, 2);
    memcpy(ret->totp, totp, n);
    return 0;
}

int mt_setup_first(struct mt_pg *pg, const uint8_t key[32], char ret_code[MT_TOKEN_SIZE], struct mt_err *err)
{
    uint8_t hash[32], totp[MT_TOTP_BLOB];
    struct mt_pg_params p;
    mt_token_new(MT_TOKEN_SETUP, ret_code, hash);
    mt_totp_new(key, totp);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    mt_pg_p_bytes(&p, totp, sizeof totp);
    return mt_pg_query(pg, &setup_put, &p, NULL, err);
}

static int use(struct mt_pg *pg, const uint8_t hash[32], const char *user_id, const char *password_hash, const uint8_t *totp,
               uint64_t totp_step, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    int rc = by_hash(pg, &mt_setup_consume, hash, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_affected(r) != 1)
        return MT_FAIL(err, MT_E_NOT_FOUND, "no such link");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, user_id);
    mt_pg_p_text(&p, password_hash);
    mt_pg_p_bytes(&p, totp, MT_TOTP_BLOB);
    mt_pg_p_i64(&p, (int64_t)totp_step);
    if ((rc = mt_pg_query(pg, &mt_setup_credentials, &p, NULL, err)) < 0)
        return rc;
    return mt_grant_revoke_user(pg, user_id, err); /* a new password ends what the old one began */
}

int mt_setup_use(struct mt_pg *pg, const char *code, const char *user_id, const char *password_hash, const uint8_t *totp,
                 uint64_t totp_step, struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_err ignored;
    if (!mt_token_hash(MT_TOKEN_SETUP, code, hash))
        return MT_FAIL(err, MT_E_NOT_FOUND, "no such link");
    int rc = mt_pg_exec(pg, "BEGIN", err);
    if (rc < 0)
        return rc;
    rc = use(pg, hash, user_id, password_hash, totp, totp_step, err);
    if (rc == 0)
        return mt_pg_exec(pg, "COMMIT", err);
    if (mt_pg_alive(pg))
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    return rc;
}
