/* SPDX-License-Identifier: Apache-2.0 */
/* Parameters of one execution, each with its type and in binary form where that is shorter than text. */
#include "pg/array.h"
#include "pg/oids.h"
#include "pg/pg.h"

#include "base/assert.h"

#include <string.h>

void mt_pg_p_init(struct mt_pg_params *p)
{
    p->n = 0;
    p->used = 0;
}

static void add(struct mt_pg_params *p, uint32_t type, const char *value, size_t len, int format)
{
    MT_ASSERT(p->n < MT_PG_PARAMS_MAX && len <= INT32_MAX);
    p->type[p->n] = type;
    p->value[p->n] = value;
    p->own[p->n] = 0;
    p->len[p->n] = (int)len;
    p->format[p->n] = format;
    p->n++;
}

static void add_be(struct mt_pg_params *p, uint32_t type, uint64_t v, size_t bytes)
{
    MT_ASSERT(p->used + bytes <= sizeof p->num);
    char *at = p->num + p->used;
    uint16_t own = (uint16_t)(p->used + 1);
    p->used += (unsigned)bytes;
    for (size_t i = 0; i < bytes; i++)
        at[i] = (char)(v >> (8 * (bytes - 1 - i)));
    add(p, type, NULL, bytes, 1);
    p->own[p->n - 1] = own;
}

void mt_pg_p_text(struct mt_pg_params *p, const char *v)
{
    add(p, MT_OID_TEXT, v, v ? strlen(v) : 0, 0);
}

void mt_pg_p_i64(struct mt_pg_params *p, int64_t v)
{
    add_be(p, MT_OID_INT8, (uint64_t)v, 8);
}

void mt_pg_p_i64_null(struct mt_pg_params *p)
{
    add(p, MT_OID_INT8, NULL, 0, 1);
}

void mt_pg_p_i32(struct mt_pg_params *p, int32_t v)
{
    add_be(p, MT_OID_INT4, (uint32_t)v, 4);
}

void mt_pg_p_i32_null(struct mt_pg_params *p)
{
    add(p, MT_OID_INT4, NULL, 0, 1);
}

void mt_pg_p_bool(struct mt_pg_params *p, bool v)
{
    add_be(p, MT_OID_BOOL, v, 1);
}

void mt_pg_p_json(struct mt_pg_params *p, const char *text)
{
    add(p, MT_OID_JSONB, text, text ? strlen(text) : 0, 0);
}

void mt_pg_p_time(struct mt_pg_params *p, int64_t wall_us)
{
    add_be(p, MT_OID_TIMESTAMPTZ, (uint64_t)(wall_us - MT_PG_EPOCH_US), 8);
}

void mt_pg_p_time_null(struct mt_pg_params *p)
{
    add(p, MT_OID_TIMESTAMPTZ, NULL, 0, 1);
}

void mt_pg_p_bytes(struct mt_pg_params *p, const void *data, size_t n)
{
    add(p, MT_OID_BYTEA, data, data ? n : 0, 1);
}

void mt_pg_p_uuid(struct mt_pg_params *p, const uint8_t v[16])
{
    add(p, MT_OID_UUID, (const char *)v, 16, 1);
}

void mt_pg_p_arr(struct mt_pg_params *p, struct mt_pg_arr *a)
{
    mt_pg_arr_seal(a);
    add(p, mt_pg_arr_oid(a), (const char *)a->b.p, a->b.len, 1);
}

void mt_pg_p_arr_or_null(struct mt_pg_params *p, struct mt_pg_arr *a)
{
    if (a->count)
        mt_pg_p_arr(p, a);
    else
        add(p, mt_pg_arr_oid(a), NULL, 0, 1);
}
