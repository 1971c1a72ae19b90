/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who asks: opaque bearer tokens, looked up by hash on every request (control-plane.md §10.1). Knows tokens and scopes,
 * nothing of resources.
 */
#pragma once

#include "base/err.h"
#include "model/ids.h"
#include "pg/pg.h"

#define MT_TOKEN_SIZE 80 /* longest token text with NUL */

/** Every scope there is in this version, NULL-terminated (control-plane.md §10.4). */
extern const char *const mt_scopes_all[];

struct mt_auth_who {
    char subject_type[20]; /* user, service_principal; "" when nobody */
    char subject_id[MT_ID_SIZE];
    char email[321];
    bool is_operator;
    char token_id[MT_ID_SIZE];
    int64_t expires_us; /* 0: never */
    uint64_t scopes;    /* bit i = mt_scopes_all[i] */
};

/** Bit of a scope name, 0 when unknown. */
uint64_t mt_scope_bit(const char *scope);

/**
 * Make a token `moat_pat_<43 base64url><6 hex checksum>` from 256 random bits and its hash.
 * The checksum is the first 6 hex digits of the SHA-256 of what is before it, so that secret scanners can tell it.
 */
void mt_token_new(char ret_token[MT_TOKEN_SIZE], uint8_t ret_hash[32]);

/** Right prefix, length and checksum; a false token needs no database. */
bool mt_token_wellformed(const char *token);

/**
 * Look a bearer token up.
 * Returns 0; -MT_E_NOT_FOUND unknown; -MT_E_DENIED with "expired", "revoked" or "disabled" as the message; database errors.
 */
int mt_auth_lookup(struct mt_pg *pg, const char *token, struct mt_auth_who *ret, struct mt_err *err);
