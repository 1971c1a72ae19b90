/* SPDX-License-Identifier: Apache-2.0 */
/* Typed access to rows in binary form. A wrong type or place is our own bug and ends the process. */
#include "pg/oids.h"
#include "pg/pg.h"
#include "pg/pg_int.h"

#include "base/assert.h"
#include "base/num.h"
#include "base/rd.h"

#include <stdlib.h>
#include <string.h>

struct mt_pg_res *mt_pg_res_wrap(PGresult *pg)
{
    struct mt_pg_res *r = malloc(sizeof *r);
    if (!r) {
        PQclear(pg);
        return NULL;
    }
    r->pg = pg;
    return r;
}

void mt_pg_res_free(struct mt_pg_res *r)
{
    if (!r)
        return;
    PQclear(r->pg);
    free(r);
}

void mt_pg_res_freep(struct mt_pg_res **r)
{
    mt_pg_res_free(*r);
    *r = NULL;
}

int mt_pg_rows(const struct mt_pg_res *r)
{
    return PQntuples(r->pg);
}

int64_t mt_pg_affected(const struct mt_pg_res *r)
{
    int64_t n = 0;
    const char *s = PQcmdTuples(r->pg);
    if (*s && mt_parse_i64(s, 0, INT64_MAX, &n, NULL) < 0)
        return 0;
    return n;
}

int mt_pg_col(const struct mt_pg_res *r, const char *name)
{
    int n = PQnfields(r->pg);
    for (int col = 0; col < n; col++) /* PQfnumber copies and folds the name each time, and is asked once a cell */
        if (strcmp(PQfname(r->pg, col), name) == 0)
            return col;
    mt_panic(__FILE__, __LINE__, name);
}

static void in_range(const struct mt_pg_res *r, int row, int col)
{
    MT_ASSERT(row >= 0 && row < PQntuples(r->pg) && col >= 0 && col < PQnfields(r->pg));
}

bool mt_pg_null(const struct mt_pg_res *r, int row, int col)
{
    in_range(r, row, col);
    return PQgetisnull(r->pg, row, col) == 1;
}

static const uint8_t *value(const struct mt_pg_res *r, int row, int col, size_t *ret_len)
{
    MT_ASSERT(!mt_pg_null(r, row, col));
    *ret_len = (size_t)PQgetlength(r->pg, row, col);
    return (const uint8_t *)PQgetvalue(r->pg, row, col);
}

static uint64_t be(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

int64_t mt_pg_i64(const struct mt_pg_res *r, int row, int col)
{
    size_t n;
    const uint8_t *p = value(r, row, col, &n);
    switch (PQftype(r->pg, col)) {
    case MT_OID_INT8:
        MT_ASSERT(n == 8);
        return (int64_t)be(p, 8);
    case MT_OID_INT4:
        MT_ASSERT(n == 4);
        return (int32_t)(uint32_t)be(p, 4);
    case MT_OID_INT2:
        MT_ASSERT(n == 2);
        return (int16_t)(uint16_t)be(p, 2);
    default:
        mt_panic(__FILE__, __LINE__, "column is not an integer");
    }
}

int64_t mt_pg_i64_or(const struct mt_pg_res *r, int row, int col, int64_t if_null)
{
    return mt_pg_null(r, row, col) ? if_null : mt_pg_i64(r, row, col);
}

bool mt_pg_bool(const struct mt_pg_res *r, int row, int col)
{
    size_t n;
    const uint8_t *p = value(r, row, col, &n);
    MT_ASSERT(PQftype(r->pg, col) == MT_OID_BOOL && n == 1);
    return *p != 0;
}

const char *mt_pg_text(const struct mt_pg_res *r, int row, int col)
{
    size_t n;
    const uint8_t *p = value(r, row, col, &n);
    switch (PQftype(r->pg, col)) {
    case MT_OID_TEXT:
    case MT_OID_VARCHAR:
    case MT_OID_NAME:
    case MT_OID_JSON:
        return (const char *)p;
    case MT_OID_JSONB:
        MT_ASSERT(n >= 1 && p[0] == 1);
        return (const char *)p + 1;
    default:
        mt_panic(__FILE__, __LINE__, "column is not text");
    }
}

const char *mt_pg_text_or_null(const struct mt_pg_res *r, int row, int col)
{
    return mt_pg_null(r, row, col) ? NULL : mt_pg_text(r, row, col);
}

int64_t mt_pg_time(const struct mt_pg_res *r, int row, int col)
{
    size_t n;
    const uint8_t *p = value(r, row, col, &n);
    MT_ASSERT(PQftype(r->pg, col) == MT_OID_TIMESTAMPTZ && n == 8);
    return (int64_t)be(p, 8) + MT_PG_EPOCH_US;
}

int64_t mt_pg_time_or(const struct mt_pg_res *r, int row, int col, int64_t if_null)
{
    return mt_pg_null(r, row, col) ? if_null : mt_pg_time(r, row, col);
}

const void *mt_pg_bytes(const struct mt_pg_res *r, int row, int col, size_t *ret_len)
{
    const uint8_t *p = value(r, row, col, ret_len);
    MT_ASSERT(PQftype(r->pg, col) == MT_OID_BYTEA);
    return p;
}

/* Header of a one-dimensional text[]; leaves @rd at the first element. Returns the count. */
static int arr_open(const struct mt_pg_res *r, int row, int col, struct mt_rd *rd)
{
    size_t n;
    const uint8_t *p = value(r, row, col, &n);
    MT_ASSERT(PQftype(r->pg, col) == MT_OID_TEXT_ARRAY);
    *rd = mt_rd_of(p, n);
    uint32_t dims = mt_rd_be32(rd);
    (void)mt_rd_be32(rd);
    (void)mt_rd_be32(rd);
    if (dims == 0)
        return 0;
    uint32_t count = mt_rd_be32(rd);
    (void)mt_rd_be32(rd);
    MT_ASSERT(dims == 1 && !rd->bad && count <= INT32_MAX);
    return (int)count;
}

int mt_pg_arr_len(const struct mt_pg_res *r, int row, int col)
{
    struct mt_rd rd;
    return arr_open(r, row, col, &rd);
}

int mt_pg_arr_text(const struct mt_pg_res *r, int row, int col, int i, char *ret, size_t size)
{
    struct mt_rd rd;
    int count = arr_open(r, row, col, &rd);
    MT_ASSERT(i >= 0 && i < count);
    for (int k = 0;; k++) {
        uint32_t n = mt_rd_be32(&rd);
        const uint8_t *b = mt_rd_bytes(&rd, n);
        MT_ASSERT(b != NULL || n == 0);
        if (k < i)
            continue;
        if (n >= size)
            return -MT_E_LIMIT;
        if (n)
            memcpy(ret, b, n);
        ret[n] = 0;
        return 0;
    }
}
