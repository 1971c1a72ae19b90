/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who asks, for what: one indexed query per request that answers for the token, the account, the membership and the chain of
 * owners in the path, together (control-plane.md §10.1, §10.4, §10.5). Nothing is cached: what was revoked fails on the next
 * request.
 */
#pragma once

#include "base/err.h"
#include "control/auth/scopes.h"
#include "control/auth/token.h"
#include "model/ids.h"
#include "pg/array.h"
#include "pg/pg.h"

#include <jansson.h>

#define MT_RESTRICT_MAX 32 /* ids in each list of a restriction */

/** A token's restriction: nothing outside these apps and environments. Ids are kept as they were given. */
struct mt_auth_restrict {
    bool on;
    int apps_n, envs_n;
    char apps[MT_RESTRICT_MAX][MT_ID_SIZE];
    char envs[MT_RESTRICT_MAX][MT_ID_SIZE];
};

struct mt_auth_who {
    char subject_type[20]; /* user, service_principal; "" when nobody */
    char subject_id[MT_ID_SIZE];
    char email[321];
    bool is_operator;
    char kind[20]; /* of the token: session, personal, service_principal, break_glass */
    char token_id[MT_ID_SIZE];
    char family_id[MT_ID_SIZE]; /* of a session, else "" */
    int64_t expires_us;         /* 0: never */
    uint64_t scopes;            /* of the token, without what the account may not hold (operator scopes) */
    char org_id[MT_ID_SIZE];    /* the only organisation the token is good for; "": all of the user's */
    enum mt_role role;          /* in the organisation of the path; a service principal in its own: MT_ROLE_OWNER */
    uint64_t org_scopes;        /* effective in the organisation of the path: scopes and role */
    struct mt_auth_restrict restricted;
};

/** An object of the ownership chain of the path; id "" when the path does not name it. */
struct mt_api_owner {
    char id[MT_ID_SIZE];
    char name[64];
    int64_t version;
    bool deleted; /* with gone_ok only */
};

/** The chain of owners that a path names. */
struct mt_auth_chain {
    struct mt_api_owner org, app, env;
    bool suspended;      /* the organisation */
    bool app_of_env;     /* a restricted token: the app is not its own, but holds one of its environments */
};

enum mt_auth_end {
    MT_AUTH_OK = 0,
    MT_AUTH_UNKNOWN,
    MT_AUTH_EXPIRED,
    MT_AUTH_REVOKED,
    MT_AUTH_DISABLED, /* the account */
    MT_AUTH_NO_ORG,   /* of the path: not there, or the caller has no part in it; the two must look alike */
    MT_AUTH_NO_APP,
    MT_AUTH_NO_ENV
};

/**
 * Look a bearer token up, with the owners that the path names (each id or NULL).
 * @gone_ok    owners that are deleted are found as well
 * @operators  the route is for operators: the path's organisation needs no membership; for others the chain stays empty
 * @secret_export  the server's setting, for mt_role_scopes
 * @beside     a statement without parameters for the same round trip, its result to @ret_beside; or NULL
 * The session is fenced to @org_id by it (log/fence.sql), sees all when that is NULL; not when @token is of no kind there is.
 * Returns 0 with the outcome in @ret_end; @ret is filled unless the token is unknown. Database errors: -code.
 */
int mt_auth_lookup(struct mt_pg *pg, const char *token, const char *org_id, const char *app_id, const char *env_id,
                   bool gone_ok, bool operators, bool secret_export, const struct mt_pg_stmt *beside, struct mt_pg_res **ret_beside,
                   struct mt_auth_who *ret, struct mt_auth_chain *ret_chain, enum mt_auth_end *ret_end, struct mt_err *err);

/** $1: the organisation whose rows the session sees from now on; MT_LOG_ALL: all. */
extern const struct mt_pg_stmt mt_auth_fence;

/** Note that a personal token was used, at most every ten minutes. Errors are dropped: nothing depends on it. */
void mt_auth_touch(struct mt_pg *pg, const struct mt_auth_who *who);

/** Array of scope names out of bits; release with mt_pg_arr_done. */
void mt_scopes_arr(uint64_t scopes, struct mt_pg_arr *ret);
/** JSON array of scope names. */
json_t *mt_scopes_json(uint64_t scopes);
/** Bits of a text[] column; names that this version does not know are left out. */
uint64_t mt_scopes_col(const struct mt_pg_res *r, int row, int col);

/** A restriction out of its JSON form {app_ids[], env_ids[]} (NULL: none). False when it is malformed: then nothing is allowed. */
bool mt_restrict_parse(const char *json, struct mt_auth_restrict *ret);
/** {app_ids, env_ids}, NULL when there is no restriction. */
json_t *mt_restrict_json(const struct mt_auth_restrict *r);
bool mt_restrict_has_app(const struct mt_auth_restrict *r, const char *app_id);
bool mt_restrict_has_env(const struct mt_auth_restrict *r, const char *env_id);
