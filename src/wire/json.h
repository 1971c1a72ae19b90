/* SPDX-License-Identifier: Apache-2.0 */
/* Strict JSON through jansson: bounded, duplicate keys refused; typed getters whose errors name the field.
 * Getters borrow from the parent; only mt_json_parse and json_* constructors give ownership. */
#pragma once

#include "base/buf.h"
#include "base/cleanup.h"

#include <jansson.h>

static inline void mt_json_decrefp(json_t **j)
{
    json_decref(*j);
}
/** A json_t reference given up at scope end; initialise to NULL. */
#define mt_auto_json mt_cleanup(mt_json_decrefp)

/** Parse exactly one value of @len bytes: duplicate keys, trailing text, invalid UTF-8, nesting deeper than @max_depth (<= 64) are
 * -MT_E_INVALID with line and column; more than @max_len bytes is -MT_E_LIMIT. *ret is owned by the caller. */
int mt_json_parse(const char *text, size_t len, size_t max_len, unsigned max_depth, json_t **ret, struct mt_err *err);
/** Compact text at the end of @b. Keys keep their order; use mt_json_dump_canonical for hashes. */
int mt_json_dump(const json_t *j, struct mt_buf *b, struct mt_err *err);
/** Canonical text (control-plane.md §4.5): keys sorted bytewise, no blanks, minimal escapes. */
int mt_json_dump_canonical(const json_t *j, struct mt_buf *b, struct mt_err *err);

/** Required text: at most @max_len bytes, no NUL. Borrowed. */
int mt_json_get_str(const json_t *obj, const char *key, size_t max_len, const char **ret, struct mt_err *err);
/** As above; *ret is @fallback when the key is absent or null. */
int mt_json_opt_str(const json_t *obj, const char *key, size_t max_len, const char *fallback, const char **ret, struct mt_err *err);
int mt_json_get_u64(const json_t *obj, const char *key, uint64_t min, uint64_t max, uint64_t *ret, struct mt_err *err);
int mt_json_opt_u64(const json_t *obj, const char *key, uint64_t min, uint64_t max, uint64_t fallback, uint64_t *ret, struct mt_err *err);
int mt_json_get_bool(const json_t *obj, const char *key, bool *ret, struct mt_err *err);
int mt_json_opt_bool(const json_t *obj, const char *key, bool fallback, bool *ret, struct mt_err *err);
/** Required object or array of at most @max_items; borrowed. */
int mt_json_get_object(const json_t *obj, const char *key, json_t **ret, struct mt_err *err);
int mt_json_get_array(const json_t *obj, const char *key, size_t max_items, json_t **ret, struct mt_err *err);
/** As above, *ret = NULL when absent or null. */
int mt_json_opt_object(const json_t *obj, const char *key, json_t **ret, struct mt_err *err);
int mt_json_opt_array(const json_t *obj, const char *key, size_t max_items, json_t **ret, struct mt_err *err);
/** -MT_E_INVALID naming the first key of @obj that is not in @known (NULL terminated) and the nearest known one. */
int mt_json_only(const json_t *obj, const char *const *known, struct mt_err *err);
/** Set text, replacing invalid UTF-8 by U+FFFD; -MT_E_NOMEM. @s NULL sets nothing. */
int mt_json_set_str(json_t *obj, const char *key, const char *s);
int mt_json_set_strn(json_t *obj, const char *key, const char *s, size_t n);
int mt_json_set_u64(json_t *obj, const char *key, uint64_t v);
int mt_json_set_bool(json_t *obj, const char *key, bool v);
