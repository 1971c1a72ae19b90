/* SPDX-License-Identifier: Apache-2.0 */
/* Hash map from text keys to pointers; keys are copied, values borrowed. Seeded, so hostile keys cannot aim at one bucket. */
#pragma once

#include "base/err.h"

struct mt_map_slot;

struct mt_map {
    struct mt_map_slot *slots;
    size_t cap;   /* power of two, 0 before the first insert */
    size_t count; /* live entries */
    size_t used;  /* live and deleted */
    uint64_t seed;
};

/** Empty map; @seed from a random source (any value in tests). */
void mt_map_init(struct mt_map *m, uint64_t seed);
/** Free keys and table; values are the caller's. */
void mt_map_done(struct mt_map *m);
/** Value under @key, NULL when absent. */
void *mt_map_get(const struct mt_map *m, const char *key);
/** Insert or replace; @value not NULL. -MT_E_NOMEM. */
int mt_map_put(struct mt_map *m, const char *key, void *value);
/** Remove and return the value, NULL when absent. */
void *mt_map_remove(struct mt_map *m, const char *key);
/** Iterate: start with *pos = 0; false at the end. Order is unspecified; removing the current entry is allowed. */
bool mt_map_next(const struct mt_map *m, size_t *pos, const char **ret_key, void **ret_value);
