/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens and scopes: making, checking, looking up. */
#include "control/auth/auth.h"

#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#define PREFIX "moat_pat_"
#define RANDOM_CHARS 43
#define CHECK_CHARS 6

const char *const mt_scopes_all[] = {
    "orgs:read",      "apps:read",   "envs:read",      "releases:read", "deploys:read",    "instances:read",
    "routes:read",    "events:read", "logs:read",      "apps:write",    "envs:write",      "releases:write",
    "deploys:write",  "rollbacks:write", "scale:write", "instances:write", "routes:write", "apps:admin",
    "envs:admin",     "orgs:admin",  "nodes:read",     "nodes:admin",   "events:admin",    "admin",
    "audit:read",     "quotas:admin",
    NULL,
};

uint64_t mt_scope_bit(const char *scope)
{
    for (unsigned i = 0; mt_scopes_all[i]; i++)
        if (MT_STREQ(mt_scopes_all[i], scope))
            return UINT64_C(1) << i;
    return 0;
}

static void checksum(const char *s, size_t n, char ret[CHECK_CHARS + 1])
{
    char hex[MT_SHA256_HEX];
    mt_sha256_hex(s, n, hex);
    memcpy(ret, hex, CHECK_CHARS);
    ret[CHECK_CHARS] = 0;
}

void mt_token_new(char ret_token[MT_TOKEN_SIZE], uint8_t ret_hash[32])
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t raw[33] = {0};
    char text[RANDOM_CHARS + 2];
    mt_random(raw, 32); /* the 33rd byte stays 0: 264 bits give 44 characters, of which 43 carry the 256 */
    for (size_t i = 0; i < 11; i++) {
        uint32_t v = (uint32_t)raw[3 * i] << 16 | (uint32_t)raw[3 * i + 1] << 8 | raw[3 * i + 2];
        for (size_t k = 0; k < 4; k++)
            text[4 * i + k] = alphabet[v >> (18 - 6 * k) & 63];
    }
    text[RANDOM_CHARS] = 0;
    char body[MT_TOKEN_SIZE], sum[CHECK_CHARS + 1];
    int n = snprintf(body, sizeof body, PREFIX "%s", text);
    checksum(body, (size_t)n, sum);
    n = snprintf(ret_token, MT_TOKEN_SIZE, "%s%s", body, sum);
    mt_sha256_of(ret_token, (size_t)n, ret_hash);
}

bool mt_token_wellformed(const char *token)
{
    size_t n = strlen(token), pre = strlen(PREFIX);
    if (n != pre + RANDOM_CHARS + CHECK_CHARS || strncmp(token, PREFIX, pre) != 0)
        return false;
    char sum[CHECK_CHARS + 1];
    checksum(token, n - CHECK_CHARS, sum);
    return memcmp(sum, token + n - CHECK_CHARS, CHECK_CHARS) == 0;
}

static const struct mt_pg_stmt lookup = {
    "auth_lookup",
    "SELECT t.token_id, t.user_id, t.scopes, t.expires_at, t.revoked_at IS NOT NULL AS revoked,"
    " coalesce(t.expires_at <= now(), false) AS expired, u.email, u.is_operator, u.state"
    " FROM moat.personal_tokens t JOIN users_view u ON u.user_id = t.user_id WHERE t.token_hash = $1"};

int mt_auth_lookup(struct mt_pg *pg, const char *token, struct mt_auth_who *ret, struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (!mt_token_wellformed(token))
        return MT_FAIL(err, MT_E_NOT_FOUND, "token is not well-formed");
    mt_sha256_of(token, strlen(token), hash);
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    int rc = mt_pg_query_one(pg, &lookup, &p, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_bool(r, 0, mt_pg_col(r, "revoked")))
        return MT_FAIL(err, MT_E_DENIED, "revoked");
    if (mt_pg_bool(r, 0, mt_pg_col(r, "expired")))
        return MT_FAIL(err, MT_E_DENIED, "expired");
    if (!MT_STREQ(mt_pg_text(r, 0, mt_pg_col(r, "state")), "active"))
        return MT_FAIL(err, MT_E_DENIED, "disabled");
    *ret = (struct mt_auth_who){.subject_type = "user"};
    snprintf(ret->subject_id, sizeof ret->subject_id, "%s", mt_pg_text(r, 0, mt_pg_col(r, "user_id")));
    snprintf(ret->token_id, sizeof ret->token_id, "%s", mt_pg_text(r, 0, mt_pg_col(r, "token_id")));
    snprintf(ret->email, sizeof ret->email, "%s", mt_pg_text(r, 0, mt_pg_col(r, "email")));
    ret->is_operator = mt_pg_bool(r, 0, mt_pg_col(r, "is_operator"));
    ret->expires_us = mt_pg_time_or(r, 0, mt_pg_col(r, "expires_at"), 0);
    int col = mt_pg_col(r, "scopes"), n = mt_pg_arr_len(r, 0, col);
    for (int i = 0; i < n; i++) {
        char scope[64];
        if (mt_pg_arr_text(r, 0, col, i, scope, sizeof scope) == 0)
            ret->scopes |= mt_scope_bit(scope);
    }
    return 0;
}
