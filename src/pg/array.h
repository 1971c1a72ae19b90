/* SPDX-License-Identifier: Apache-2.0 */
/* One-dimensional arrays as PostgreSQL's binary parameters, so that one statement takes a whole batch of rows by unnest().
 * Growing and reusable: clear keeps the memory. */
#pragma once

#include "base/buf.h"

enum mt_pg_elem {
    MT_PG_ELEM_TEXT = 0,
    MT_PG_ELEM_I64,
    MT_PG_ELEM_I32,
    MT_PG_ELEM_BYTES,
    MT_PG_ELEM_JSON, /* jsonb */
    MT_PG_ELEM_TIME, /* timestamptz */
    MT_PG_ELEM_UUID,
    MT_PG_ELEM_MAX
};

struct mt_pg_arr {
    enum mt_pg_elem elem;
    uint32_t count;
    bool has_null;
    struct mt_buf b; /* header of 20 bytes, then elements */
};

/** Empty array of at most @max_bytes encoded bytes. */
void mt_pg_arr_init(struct mt_pg_arr *a, enum mt_pg_elem elem, size_t max_bytes);
void mt_pg_arr_done(struct mt_pg_arr *a);
void mt_pg_arr_clear(struct mt_pg_arr *a);
/** Append; the sticky a->b.failed tells when a bound was hit. Text NULL is SQL NULL. The kind must be the array's. */
void mt_pg_arr_text_n(struct mt_pg_arr *a, const char *s, size_t n);
void mt_pg_arr_text_add(struct mt_pg_arr *a, const char *s);
void mt_pg_arr_i64(struct mt_pg_arr *a, int64_t v);
void mt_pg_arr_i32(struct mt_pg_arr *a, int32_t v);
void mt_pg_arr_bytes(struct mt_pg_arr *a, const void *data, size_t n);
void mt_pg_arr_uuid(struct mt_pg_arr *a, const uint8_t v[16]);
void mt_pg_arr_json(struct mt_pg_arr *a, const char *text, size_t n);
/** Microseconds since 1970-01-01 UTC. */
void mt_pg_arr_time(struct mt_pg_arr *a, int64_t wall_us);
void mt_pg_arr_null(struct mt_pg_arr *a);
/** Type of the array for a parameter. */
uint32_t mt_pg_arr_oid(const struct mt_pg_arr *a);
/** Write the header; the bytes are a->b.p, a->b.len afterwards. */
void mt_pg_arr_seal(struct mt_pg_arr *a);
