/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform.env, the one file in which an environment's secrets travel: reader, limits, canonical writer
 * (storage-and-secrets.md §6.1-6.3, docs/formats/secrets.md). Shared by control plane and CLI; agent and moat-init hand its
 * bytes on unread. Pure, never allocates: values are copied into memory that the caller gives and wipes, and appear in no
 * message.
 */
#pragma once

#include "base/err.h"

#define MT_SECRETFILE_HEADER "# MOAT_SECRETS_V1"
#define MT_SECRETFILE_INPUT_MAX ((size_t)512 * 1024) /* what is read; comments and CRLF count */
#define MT_SECRETFILE_MAX ((size_t)262144)           /* canonical form */
#define MT_SECRETFILE_KEYS_MAX 256
#define MT_SECRETFILE_KEY_MAX ((size_t)128)
#define MT_SECRETFILE_VALUE_MAX ((size_t)65536) /* decoded */
#define MT_SECRETFILE_PLAIN_MAX ((size_t)8192)
#define MT_SECRETFILE_RESERVED "MOAT_"

/* What is wrong with a file or a change to it; the API's codes. X(symbol, code) */
#define MT_SECRETFILE_FAULTS(X)                   \
    X(FORMAT, "invalid_secrets_format")           \
    X(KEY, "invalid_key")                         \
    X(KEY_RESERVED, "reserved_key")               \
    X(TOO_MANY, "too_many_keys")                  \
    X(VALUE_TOO_LARGE, "value_too_large")         \
    X(TOO_LARGE, "secrets_too_large")

enum mt_secretfile_fault {
    MT_SECRETFILE_OK = 0,
#define X(symbol, code) MT_SECRETFILE_##symbol,
    MT_SECRETFILE_FAULTS(X)
#undef X
};
/** The API's code of a fault; "" for OK. */
const char *mt_secretfile_fault_code(enum mt_secretfile_fault fault);

struct mt_secretfile_entry {
    const char *key; /* NUL terminated */
    const uint8_t *value;
    size_t len;
    unsigned line; /* where it was read, 0: set by a call */
};

/** Entries ascending by the bytes of their keys. Borrows keys and values. 8 KiB: static or heap rather than stack. */
struct mt_secretfile {
    struct mt_secretfile_entry entries[MT_SECRETFILE_KEYS_MAX];
    size_t n;
    enum mt_secretfile_fault fault; /* of the call that failed last */
};

/**
 * Read a file.
 * @data, @len  hostile bytes
 * @mem         at least @len bytes that stay as long as @ret is used; keys and decoded values are put there. Wipe it.
 * Returns 0, or -MT_E_INVALID with ret->fault and a message of line number and key, never of a value.
 */
int mt_secretfile_read(const void *data, size_t len, uint8_t *mem, struct mt_secretfile *ret, struct mt_err *err);

/** Set @key, whose bytes stay as long as @f is used, as does @value. -MT_E_INVALID with f->fault. */
int mt_secretfile_set(struct mt_secretfile *f, const char *key, const void *value, size_t len, struct mt_err *err);
/** Take @key away; false when it is not there. */
bool mt_secretfile_unset(struct mt_secretfile *f, const char *key);
/** The entry of @key or NULL. */
const struct mt_secretfile_entry *mt_secretfile_get(const struct mt_secretfile *f, const char *key);
/** 0 when @key may name a value, else -MT_E_INVALID with the fault. */
int mt_secretfile_key_check(const char *key, enum mt_secretfile_fault *ret, struct mt_err *err);

/** Bytes that the canonical form of @f can have at most; never above MT_SECRETFILE_MAX. */
size_t mt_secretfile_room(const struct mt_secretfile *f);

/**
 * Write the canonical form.
 * @out   mt_secretfile_room() bytes; no NUL is written
 * Returns 0, or -MT_E_LIMIT with f->fault TOO_LARGE. Nothing but @out holds a copy afterwards.
 */
int mt_secretfile_write(struct mt_secretfile *f, uint8_t *out, size_t *ret_len, struct mt_err *err);
