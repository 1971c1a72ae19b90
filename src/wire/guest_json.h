/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict, bounded JSON for the guest channel: a reader that fills a caller's block with nodes and a
 * writer into a caller's buffer. No allocation, no floating point, libc only, so that it links with
 * musl. It knows JSON and its own limits, not the messages.
 *
 * Stricter than RFC 8259: the value must be an object; duplicate keys, numbers that are not integers of
 * 64 bits, invalid UTF-8, lone surrogates and the character U+0000 are errors.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/guest.h"

#define MT_GUEST_JSON_DEPTH_MAX 8U
#define MT_GUEST_JSON_MEMBERS_MAX 1024U

enum mt_guest_json_kind {
    MT_GUEST_JSON_NULL = 0,
    MT_GUEST_JSON_BOOL,
    MT_GUEST_JSON_INT,
    MT_GUEST_JSON_STRING,
    MT_GUEST_JSON_ARRAY,
    MT_GUEST_JSON_OBJECT,
    MT_GUEST_JSON_KIND_MAX,
};

struct mt_guest_json_node {
    enum mt_guest_json_kind kind;
    uint32_t key_len;   /**< bytes of @key */
    uint32_t len;       /**< bytes of a string, items of an array, members of an object */
    const char *key;    /**< NUL-terminated, NULL outside an object */
    int64_t number;     /**< of an integer; 0 or 1 of a bool */
    const char *string; /**< NUL-terminated, decoded */
    struct mt_guest_json_node *child, *next;
};

/**
 * Carve @n bytes, aligned for any object, zeroed.
 * Returns NULL when the block is full.
 */
void *mt_guest_mem_take(struct mt_guest_mem *mem, size_t n);

/**
 * Parse @text (@len bytes) as one object.
 * @nodes_max  most values allowed in all
 * Returns 0 and @ret_root, living in @mem; -MT_E_INVALID with the byte offset in the message;
 *         -MT_E_LIMIT depth, members, nodes or memory.
 */
int mt_guest_json_parse(const char *text, size_t len, size_t nodes_max, struct mt_guest_mem *mem,
                        const struct mt_guest_json_node **ret_root, struct mt_err *err);

/** The member of @object named @key, or NULL. */
const struct mt_guest_json_node *mt_guest_json_get(const struct mt_guest_json_node *object,
                                                   const char *key);

/** Text being written. Sticky: after the first failure nothing more is written. */
struct mt_guest_json_out {
    char *at;
    size_t cap, len;
    bool full;     /**< @cap was too small */
    bool bad_text; /**< a string was not UTF-8 */
    bool comma;    /**< the next value in this container needs one */
};

void mt_guest_json_put_open(struct mt_guest_json_out *out, const char *key, char bracket);
void mt_guest_json_put_close(struct mt_guest_json_out *out, char bracket);
/** @key may be NULL inside an array; in all put functions. */
void mt_guest_json_put_str(struct mt_guest_json_out *out, const char *key, const char *value);
void mt_guest_json_put_int(struct mt_guest_json_out *out, const char *key, int64_t value);
/** Values above INT64_MAX are clamped to it. */
void mt_guest_json_put_uint(struct mt_guest_json_out *out, const char *key, uint64_t value);
void mt_guest_json_put_bool(struct mt_guest_json_out *out, const char *key, bool value);
void mt_guest_json_put_raw(struct mt_guest_json_out *out, const char *bytes, size_t n);
