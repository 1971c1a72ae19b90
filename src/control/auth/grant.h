/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving tokens out and taking them back: minting, refreshing with rotation, revoking (control-plane.md §10.1, §10.3). Works
 * on the tables of credentials alone; knows no requests.
 */
#pragma once

#include "control/auth/auth.h"

#define MT_ACCESS_SECONDS 900
#define MT_REFRESH_DAYS 30
#define MT_FAMILY_DAYS 90
#define MT_REFRESH_GRACE_SECONDS 30

/** What a client gets. Wiped by mt_granted_wipe. */
struct mt_granted {
    char access[MT_TOKEN_SIZE];
    char refresh[MT_TOKEN_SIZE]; /* "" for other kinds than sessions */
    uint64_t scopes;
    int64_t seconds; /* lifetime of the access token */
    char token_id[MT_ID_SIZE];
    char user_id[MT_ID_SIZE]; /* of a session */
};
void mt_granted_wipe(struct mt_granted *g);

/** Begin a login of @user_id: a new family with its first pair of tokens. */
int mt_grant_session(struct mt_pg *pg, const char *user_id, const char *client_name, uint64_t scopes, struct mt_granted *ret,
                     struct mt_err *err);

enum mt_refresh_end { MT_REFRESH_OK = 0, MT_REFRESH_UNKNOWN, MT_REFRESH_ENDED, MT_REFRESH_REUSED };
/**
 * Exchange a refresh token for a new pair. The old one may be used again for 30 s, since an answer can be lost; after that its
 * use means that two parties hold it: the whole family is revoked (MT_REFRESH_REUSED, @ret->user_id tells whose).
 */
int mt_grant_refresh(struct mt_pg *pg, const char *refresh, struct mt_granted *ret, enum mt_refresh_end *ret_end, struct mt_err *err);
/** Whose refresh token that is, "" when nobody's; spends nothing. */
int mt_grant_refresh_user(struct mt_pg *pg, const char *token, char ret_user_id[MT_ID_SIZE], struct mt_err *err);

/**
 * Exchange a service principal's secret. @asked scopes wanted, 0 for all it has.
 * -MT_E_NOT_FOUND no such client or secret; -MT_E_DENIED a scope that it lacks.
 */
int mt_grant_client(struct mt_pg *pg, const char *client_id, const char *secret, uint64_t asked, struct mt_granted *ret,
                    struct mt_err *err);

/** A tenant token of an operator for one organisation. */
int mt_grant_break_glass(struct mt_pg *pg, const char *user_id, const char *org_id, const char *reason, uint64_t scopes,
                         int64_t seconds, struct mt_granted *ret, struct mt_err *err);

/** Revoke what @token is: a refresh or session token with its family, another token alone. Unknown text does nothing. */
int mt_grant_revoke(struct mt_pg *pg, const char *token, struct mt_err *err);
/** Revoke all sessions of a user, in browsers as well. Personal tokens stay: they are ended by name. */
int mt_grant_revoke_user(struct mt_pg *pg, const char *user_id, struct mt_err *err);

/** Delete rows that ended long ago; cheap, called when tokens are given out. */
void mt_grant_prune(struct mt_pg *pg);
