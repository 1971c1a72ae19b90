/* SPDX-License-Identifier: Apache-2.0 */
/* People in front of a browser: signing in with password and one-time code, the session behind the cookie, setup links. */
#pragma once

#include "control/auth/password.h"
#include "control/auth/token.h"
#include "control/auth/totp.h"
#include "model/ids.h"
#include "pg/pg.h"

#define MT_SESSION_SECONDS 43200
#define MT_SESSION_WRONG_CODES 5

struct mt_session {
    char user_id[MT_ID_SIZE];
    char email[321];
    bool is_operator;
    int wrong_codes;
};

/** The live session of a cookie. -MT_E_NOT_FOUND: none, or its account is disabled. */
int mt_session_find(struct mt_pg *pg, const char *cookie, struct mt_session *ret, struct mt_err *err);
/** A new session; @ret_cookie is its only copy. */
int mt_session_begin(struct mt_pg *pg, const char *user_id, char ret_cookie[MT_TOKEN_SIZE], struct mt_err *err);
int mt_session_end(struct mt_pg *pg, const char *cookie, struct mt_err *err);
/** Count a wrong user code; the session ends with the fifth. Returns the count. */
int mt_session_wrong_code(struct mt_pg *pg, const char *cookie, struct mt_err *err);

enum mt_login_end { MT_LOGIN_OK = 0, MT_LOGIN_WRONG, MT_LOGIN_WAIT, MT_LOGIN_NO_TOTP };
/**
 * Check address, password and one-time code. Each attempt is charged to the account and to @client_ip before anything is
 * compared; from the third failure in a row on the next one must wait, twice as long each time, a minute at most.
 * @require_totp  operators need a one-time code (MT_LOGIN_NO_TOTP: this operator has none)
 * @key           masks one-time secrets
 */
int mt_login(struct mt_pg *pg, const char *email, const char *password, const char *code, const char *client_ip, bool require_totp,
             const uint8_t key[32], char ret_user_id[MT_ID_SIZE], int *ret_wait_seconds, enum mt_login_end *ret_end, struct mt_err *err);

/** What a setup link is for. */
struct mt_setup {
    char user_id[MT_ID_SIZE]; /* "": it makes the first operator */
    char email[321];
    bool is_operator;
    uint8_t totp[MT_TOTP_BLOB];
};
/** -MT_E_NOT_FOUND: no such link, or used, or over. */
int mt_setup_find(struct mt_pg *pg, const char *code, struct mt_setup *ret, struct mt_err *err);
/** A link that makes the first operator (moat-control init). */
int mt_setup_first(struct mt_pg *pg, const uint8_t key[32], char ret_code[MT_TOKEN_SIZE], struct mt_err *err);
/** Use a link for a user that exists: sets the password, ends sessions and the link. @totp NULL: none. */
int mt_setup_use(struct mt_pg *pg, const char *code, const char *user_id, const char *password_hash, const uint8_t *totp,
                 uint64_t totp_step, struct mt_err *err);
/** The two writes of mt_setup_use for a command that makes the user as well. */
extern const struct mt_pg_stmt mt_setup_consume; /* ($1 hash of the code): one row */
extern const struct mt_pg_stmt mt_setup_credentials; /* ($1 user, $2 hash, $3 totp or NULL, $4 step): one row */
