/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names people give to things, and the few text forms with fixed grammar: slugs, host names, variable keys, hashes.
 * Image references and digests: wire/imageref.h.
 *
 * Pure checks over pointer and length; no lookup, no uniqueness. Source: control-plane.md 2 and 4.2, networking.md 8.1, 8.4.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct mt_err;

enum mt_name_kind {
    MT_NAME_ORG = 0, /* [a-z][a-z0-9-]{1,38}, no trailing - */
    MT_NAME_PROJECT, /* [a-z][a-z0-9-]{0,62}, no trailing - */
    MT_NAME_APP,     /* as project */
    MT_NAME_ENV,     /* [a-z][a-z0-9-]{0,31} */
    MT_NAME_PROCESS, /* as env */
    MT_NAME_PORT,    /* as env */
    MT_NAME_VOLUME,  /* as env */
    MT_NAME_NODE,    /* [a-z][a-z0-9-]{0,62}, no trailing -: a host label */
    MT_NAME_KIND_MAX
};

#define MT_NAME_SIZE 64      /* longest slug (63) + NUL */
#define MT_HOSTNAME_SIZE 254 /* 253 + NUL */

/** True when @s, @len is a name of @kind. */
bool mt_name_valid(enum mt_name_kind kind, const char *s, size_t len);

/** The rule of a kind in words, for messages ("1 to 32 characters of a-z, 0-9 and '-', starting with a letter"). */
const char *mt_name_rule(enum mt_name_kind kind);

/** Refuse a bad name (@s may be NULL). Returns 0 or -MT_E_INVALID naming kind, text and rule. */
int mt_name_check(enum mt_name_kind kind, const char *s, struct mt_err *err);

/**
 * Why a host name is refused, or NULL when it is fine as it stands: lower case, at least two labels of 1..63 of
 * [a-z0-9-] not starting or ending with '-', at most 253 octets, no trailing dot, no wildcard, no IP literal.
 * The text is static and lower case ("has a wildcard; only exact names route").
 */
const char *mt_hostname_fault(const char *s, size_t len);

/**
 * Normalise a host name a person typed: ASCII lower-cased, one trailing dot removed, then checked as above.
 * @ret gets the name with NUL. Returns 0 or -MT_E_INVALID.
 */
int mt_hostname_normalise(const char *s, size_t len, char ret[MT_HOSTNAME_SIZE], struct mt_err *err);

/** True for 64 lower-case hex characters (a bare hash such as spec_hash). */
bool mt_hex64_valid(const char *s, size_t len);

/** True for 1..128 printable ASCII characters (0x21..0x7e). */
bool mt_idempotency_key_valid(const char *s, size_t len);

/** True for <= 320 octets with one '@' inside, no space, no control byte. */
bool mt_email_valid(const char *s, size_t len);
/** A valid address as it is stored and compared: ASCII letters in lower case; @size 321. */
void mt_email_fold(const char *s, char *ret, size_t size);

/** True for the key of an environment variable a manifest may set: [A-Z_][A-Z0-9_]*, 1..128. */
bool mt_var_key_valid(const char *s, size_t len);
