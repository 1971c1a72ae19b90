/* SPDX-License-Identifier: Apache-2.0 */
/* Private to model: building JSON objects with one check at the end, and the lists both codecs read. */
#pragma once

#include "model/workload.h"

#include "base/err.h"

struct mt_jout {
    json_t *obj;
    bool failed; /* sticky: memory was out, or a text was not UTF-8 */
};

static inline struct mt_jout mt_jout_new(void)
{
    struct mt_jout o = {.obj = json_object()};

    o.failed = o.obj == NULL;
    return o;
}

/** Take ownership of @value (may be NULL: failed) under @key. */
static inline void mt_jout_json(struct mt_jout *o, const char *key, json_t *value)
{
    if (!value || !o->obj || json_object_set_new(o->obj, key, value) != 0)
        o->failed = true;
}

static inline void mt_jout_str(struct mt_jout *o, const char *key, const char *text)
{
    if (text)
        mt_jout_json(o, key, json_string(text));
}

static inline void mt_jout_u64(struct mt_jout *o, const char *key, uint64_t v)
{
    mt_jout_json(o, key, json_integer((json_int_t)v));
}

static inline void mt_jout_bool(struct mt_jout *o, const char *key, bool v)
{
    mt_jout_json(o, key, json_boolean(v));
}

/** The object, owned by the caller, or NULL when anything failed. */
json_t *mt_jout_take(struct mt_jout *o);

/** Array of strings; NULL when memory is out. */
json_t *mt_jout_strings(const struct mt_strings *list);

/**
 * Read an optional array of at most @max_items strings of 1..@max_len bytes into @ret (array owned, freed by
 * mt_strings_done). Absent or null: empty. Returns 0, -MT_E_INVALID, -MT_E_NOMEM.
 */
int mt_strings_read(const json_t *obj, const char *key, size_t max_items, size_t max_len, struct mt_strings *ret,
                    struct mt_err *err);
void mt_strings_done(struct mt_strings *list);

/* workload_encode.c, used by the plan codec too */
json_t *mt_limits_json(const struct mt_limits *limits);
/* workload.c: optional object `limits` of @parent */
int mt_limits_read(const json_t *parent, struct mt_limits *ret, struct mt_err *err);
