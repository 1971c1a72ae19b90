/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Identifiers: `<prefix>_<ulid>`, the ULID as 26 lower-case Crockford base32 characters.
 *
 * This room knows the closed list of prefixes and the shape of an id, nothing about what an id names. Ids are compared
 * byte-wise and every id from outside passes mt_id_check() before it is used in a path, a query or a log line.
 *
 * Source: control-plane.md 2, runtime.md 0.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_err;

#define MT_ULID_LEN 26
#define MT_ULID_SIZE (MT_ULID_LEN + 1) /* with NUL */
#define MT_ID_SIZE 36                  /* longest prefix (4) + '_' + 26 + NUL, rounded up */

/* X(symbol, prefix, what it names): the one list of id prefixes. */
#define MT_ID_KINDS(X)                             \
    X(USER, "usr", "user")                         \
    X(ORG, "org", "organisation")                  \
    X(MEMBER, "mem", "organisation membership")    \
    X(PROJECT, "prj", "project")                   \
    X(APP, "app", "app")                           \
    X(ENV, "env", "environment")                   \
    X(RELEASE, "rel", "release")                   \
    X(REQUEST, "req", "request")                   \
    X(MIGRATION, "mig", "volume migration")        \
    X(DEPLOY, "dep", "deploy")                     \
    X(INSTANCE, "inst", "instance")                \
    X(BOOT, "boot", "boot attempt")                \
    X(NODE, "node", "node")                        \
    X(ROUTE, "rt", "route")                        \
    X(SECRET_BUNDLE, "sb", "secret bundle")        \
    X(SECRET_VERSION, "sv", "secret version")      \
    X(VOLUME, "vol", "volume")                     \
    X(ATTACHMENT, "att", "volume attachment")      \
    X(REGISTRY, "reg", "registry credential")      \
    X(DRAIN, "drn", "log drain")                   \
    X(SNAPSHOT, "snap", "snapshot")                \
    X(RESTORE, "rst", "restore job")               \
    X(EXEC, "exec", "exec session")                \
    X(IPV4, "ip4", "IPv4 allocation")              \
    X(ENROLMENT, "enr", "enrolment token record")  \
    X(TOKEN, "tok", "token record")                \
    X(SERVICE_PRINCIPAL, "sp", "service principal") \
    X(AUDIT, "aud", "audit record")

enum mt_id_kind {
#define MT_ID_ENUM(symbol, prefix, what) MT_ID_##symbol,
    MT_ID_KINDS(MT_ID_ENUM)
#undef MT_ID_ENUM
    MT_ID_KIND_MAX
};

/** Prefix of a kind without the underscore ("inst"); static storage. */
const char *mt_id_prefix(enum mt_id_kind kind);

/** What a kind names, for messages ("instance"); static storage. */
const char *mt_id_kind_name(enum mt_id_kind kind);

/**
 * Encode 48 bits of milliseconds and 80 random bits as a ULID; lower case.
 * Pure: for tests and simulation, which bring their own time and randomness.
 */
void mt_ulid_encode(uint64_t unix_ms, const uint8_t random[10], char ret_ulid[MT_ULID_SIZE]);

/** True when @s, @len is exactly 26 characters of lower-case Crockford base32 with a first character <= '7'. */
bool mt_ulid_valid(const char *s, size_t len);

/**
 * A generator of ULIDs, monotonic within itself: a call in the same millisecond (or after the clock went back) gives the
 * previous value plus one. Not thread safe; the process-wide one behind mt_id_new() is.
 */
struct mt_ulid_gen {
    uint64_t last_ms;
    uint8_t last[10];
    bool used;
};
void mt_ulid_gen_next(struct mt_ulid_gen *gen, uint64_t unix_ms, const uint8_t random[10], char ret_ulid[MT_ULID_SIZE]);

/** A new bare ULID from the wall clock and getrandom(2), monotonic within the process, thread safe. Never fails. */
void mt_ulid_new(char ret_ulid[MT_ULID_SIZE]);

/** A new id of @kind ("inst_01j..."), monotonic within the process, thread safe. Never fails. */
void mt_id_new(enum mt_id_kind kind, char ret_id[MT_ID_SIZE]);

/** Join a kind and an already valid ULID (asserted). */
void mt_id_join(enum mt_id_kind kind, const char *ulid, char ret_id[MT_ID_SIZE]);

/** True when @s, @len is a well-formed id of @kind. */
bool mt_id_valid(enum mt_id_kind kind, const char *s, size_t len);

/**
 * Which kind a well-formed id is.
 * Returns 0 and writes @ret_kind; -MT_E_INVALID when the prefix is unknown or the ULID part malformed.
 */
int mt_id_parse(const char *s, size_t len, enum mt_id_kind *ret_kind, struct mt_err *err);

/**
 * Refuse anything that is not an id of @kind. @s may be NULL (refused).
 * Returns 0 or -MT_E_INVALID with a message that names the kind and quotes the text, cut and escaped.
 */
int mt_id_check(enum mt_id_kind kind, const char *s, struct mt_err *err);

/** The ULID part of a well-formed id (points into @id); asserts that there is one. */
const char *mt_id_ulid(const char *id);
