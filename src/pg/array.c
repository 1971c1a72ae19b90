/* SPDX-License-Identifier: Apache-2.0 */
/* Binary arrays: int32 dimensions, int32 has-nulls, oid, int32 length, int32 lower bound, then length-prefixed elements.
 * Source: PostgreSQL array_recv (src/backend/utils/adt/arrayfuncs.c). */
#include "pg/array.h"

#include "base/assert.h"
#include "pg/oids.h"

#include <string.h>

static const struct {
    uint32_t elem, array;
} oid_of[MT_PG_ELEM_MAX] = {
    [MT_PG_ELEM_TEXT] = {MT_OID_TEXT, MT_OID_TEXT_ARRAY},     [MT_PG_ELEM_I64] = {MT_OID_INT8, MT_OID_INT8_ARRAY},
    [MT_PG_ELEM_I32] = {MT_OID_INT4, MT_OID_INT4_ARRAY},      [MT_PG_ELEM_BYTES] = {MT_OID_BYTEA, MT_OID_BYTEA_ARRAY},
    [MT_PG_ELEM_JSON] = {MT_OID_JSONB, MT_OID_JSONB_ARRAY},   [MT_PG_ELEM_TIME] = {MT_OID_TIMESTAMPTZ, MT_OID_TIMESTAMPTZ_ARRAY},
    [MT_PG_ELEM_UUID] = {MT_OID_UUID, MT_OID_UUID_ARRAY},
};

static void put_header(struct mt_pg_arr *a)
{
    static const uint8_t room[20];
    mt_buf_put(&a->b, room, sizeof room);
}

void mt_pg_arr_init(struct mt_pg_arr *a, enum mt_pg_elem elem, size_t max_bytes)
{
    *a = (struct mt_pg_arr){.elem = elem};
    mt_buf_init(&a->b, max_bytes);
    put_header(a);
}

void mt_pg_arr_done(struct mt_pg_arr *a)
{
    mt_buf_done(&a->b);
}

void mt_pg_arr_clear(struct mt_pg_arr *a)
{
    a->count = 0;
    a->has_null = false;
    mt_buf_reset(&a->b);
    put_header(a);
}

void mt_pg_arr_text_n(struct mt_pg_arr *a, const char *s, size_t n)
{
    MT_ASSERT(a->elem == MT_PG_ELEM_TEXT && n <= INT32_MAX);
    mt_buf_put_be32(&a->b, (uint32_t)n);
    mt_buf_put(&a->b, s, n);
    a->count++;
}

void mt_pg_arr_text_add(struct mt_pg_arr *a, const char *s)
{
    if (s)
        mt_pg_arr_text_n(a, s, strlen(s));
    else
        mt_pg_arr_null(a);
}

void mt_pg_arr_i64(struct mt_pg_arr *a, int64_t v)
{
    MT_ASSERT(a->elem == MT_PG_ELEM_I64);
    mt_buf_put_be32(&a->b, 8);
    mt_buf_put_be64(&a->b, (uint64_t)v);
    a->count++;
}

void mt_pg_arr_i32(struct mt_pg_arr *a, int32_t v)
{
    MT_ASSERT(a->elem == MT_PG_ELEM_I32);
    mt_buf_put_be32(&a->b, 4);
    mt_buf_put_be32(&a->b, (uint32_t)v);
    a->count++;
}

void mt_pg_arr_bytes(struct mt_pg_arr *a, const void *data, size_t n)
{
    MT_ASSERT(a->elem == MT_PG_ELEM_BYTES && n <= INT32_MAX);
    mt_buf_put_be32(&a->b, (uint32_t)n);
    mt_buf_put(&a->b, data, n);
    a->count++;
}

void mt_pg_arr_uuid(struct mt_pg_arr *a, const uint8_t v[16])
{
    MT_ASSERT(a->elem == MT_PG_ELEM_UUID);
    mt_buf_put_be32(&a->b, 16);
    mt_buf_put(&a->b, v, 16);
    a->count++;
}

void mt_pg_arr_json(struct mt_pg_arr *a, const char *text, size_t n)
{
    MT_ASSERT(a->elem == MT_PG_ELEM_JSON && n < INT32_MAX);
    mt_buf_put_be32(&a->b, (uint32_t)n + 1);
    mt_buf_putc(&a->b, 1); /* version of jsonb's binary form */
    mt_buf_put(&a->b, text, n);
    a->count++;
}

void mt_pg_arr_time(struct mt_pg_arr *a, int64_t wall_us)
{
    MT_ASSERT(a->elem == MT_PG_ELEM_TIME);
    mt_buf_put_be32(&a->b, 8);
    mt_buf_put_be64(&a->b, (uint64_t)(wall_us - MT_PG_EPOCH_US));
    a->count++;
}

void mt_pg_arr_null(struct mt_pg_arr *a)
{
    mt_buf_put_be32(&a->b, UINT32_MAX);
    a->has_null = true;
    a->count++;
}

uint32_t mt_pg_arr_oid(const struct mt_pg_arr *a)
{
    return oid_of[a->elem].array;
}

static void be32_at(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

void mt_pg_arr_seal(struct mt_pg_arr *a)
{
    if (a->b.failed || a->b.len < 20)
        return;
    be32_at(a->b.p, a->count ? 1 : 0);
    be32_at(a->b.p + 4, a->has_null ? 1 : 0);
    be32_at(a->b.p + 8, oid_of[a->elem].elem);
    be32_at(a->b.p + 12, a->count);
    be32_at(a->b.p + 16, 1);
    if (a->count == 0)
        a->b.len = 12; /* an empty array has no dimensions; clear before the next use */
}
