/* SPDX-License-Identifier: Apache-2.0 */
/* What makes one JSON value out of another, as a JSON Patch. Pure. */
#pragma once

#include <jansson.h>

/**
 * Operations (add, remove, replace, move) that make @to out of @from. Arrays of objects that each have a key (id, env_id, app_id,
 * process_type or dimension, no two alike) are compared item by item; other arrays are replaced whole. Empty when both are equal.
 * Owned by the caller; NULL when memory is out.
 * Source: RFC 6902; pointers RFC 6901.
 */
json_t *mt_json_patch(const json_t *from, const json_t *to);
