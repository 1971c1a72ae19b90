/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of opaque tokens (control-plane.md §10.1): prefix, 256 random bits as 43 characters of base64url, 6 hex digits of
 * the SHA-256 of what is before them. The checksum lets secret scanners tell a token from a word, and a false token needs no
 * database. Stored is only the SHA-256 of the whole text. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_TOKEN_SIZE 80 /* longest token text with NUL */

enum mt_token_kind {
    MT_TOKEN_ACCESS = 0, /* moat_at_ */
    MT_TOKEN_REFRESH,    /* moat_rt_ */
    MT_TOKEN_PERSONAL,   /* moat_pat_ */
    MT_TOKEN_SP_SECRET,  /* moat_sps_ */
    MT_TOKEN_DEVICE,     /* moat_dc_ */
    MT_TOKEN_EXEC,       /* moat_ex_ */
    MT_TOKEN_ENROLMENT,  /* moat_en_ */
    MT_TOKEN_SETUP,      /* moat_su_: one-time setup link of a user */
    MT_TOKEN_BROWSER,    /* moat_bs_: cookie of a browser session */
    MT_TOKEN_KIND_MAX
};

/** "moat_at_"; static. */
const char *mt_token_prefix(enum mt_token_kind kind);
/** A new token of @kind and the hash to keep. */
void mt_token_new(enum mt_token_kind kind, char ret_token[MT_TOKEN_SIZE], uint8_t ret_hash[32]);
/** Kind of a well-formed token (prefix, alphabet, length, checksum); MT_TOKEN_KIND_MAX for anything else. */
enum mt_token_kind mt_token_kind_of(const char *token);
/** Hash to look a well-formed token of @kind up by; false when it is none. */
bool mt_token_hash(enum mt_token_kind kind, const char *token, uint8_t ret_hash[32]);

#define MT_USER_CODE_SIZE 10 /* eight letters, a dash, NUL */
/** A device login's code for people: 20 letters without vowels, no letters that look alike to begin with. */
void mt_user_code_new(char ret[MT_USER_CODE_SIZE]);
/** What somebody typed as a user code, brought to form: case, blanks and the dash do not matter. False when it is none. */
bool mt_user_code_read(const char *typed, char ret[MT_USER_CODE_SIZE]);
