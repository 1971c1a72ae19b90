/* SPDX-License-Identifier: Apache-2.0 */
/* See shadow.h. Unlogged while they are filled: a crash of the server empties them, and the rebuild begins anew anyway. */
#include "control/views/shadow.h"

#include "base/str.h"
#include "control/log/schema.h"

#include <stdio.h>
#include <string.h>

extern const char mt_views_schema_sql[];

#define LOAD_FILL "50" /* per cent */

/* Unique constraints, then indexes, of the schema $1 but the primary keys, by which the statements find their rows: how to drop
 * and how to make each. */
static const struct mt_pg_stmt st_extras = {
    "shadow_extras",
    "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname),"
    " format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))"
    " FROM pg_constraint c WHERE c.contype = 'u' AND c.connamespace = to_regnamespace($1)"
    " UNION ALL SELECT format('DROP INDEX %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)"
    " FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid WHERE k.relnamespace = to_regnamespace($1)"
    " AND NOT i.indisprimary AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)"};
/* Fill factors as they were. */
static const struct mt_pg_stmt st_fill = {
    "shadow_fill",
    "SELECT format('ALTER TABLE %s SET (fillfactor = %s)', oid::regclass, COALESCE((SELECT option_value FROM pg_options_to_table(reloptions)"
    " WHERE option_name = 'fillfactor'), '100')) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace($1)"};
static const struct mt_pg_stmt st_tables = {
    "shadow_tables", "SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace($1) ORDER BY 1"};

static int rows_of(struct mt_pg *pg, const struct mt_pg_stmt *st, const char *schema, struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, schema);
    return mt_pg_query(pg, st, &p, ret, err);
}

static int each_table(struct mt_pg *pg, const char *schema, const char *how, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int r = rows_of(pg, &st_tables, schema, &res, err);
    for (int i = 0; r == 0 && i < mt_pg_rows(res); i++) {
        char sql[256];
        r = mt_fmt(sql, sizeof sql, err, "ALTER TABLE %s.%s SET %s", schema, mt_pg_text(res, i, 0), how);
        if (r == 0)
            r = mt_pg_exec(pg, sql, err);
    }
    return r;
}

int mt_shadow_drop(struct mt_pg *pg, const char *schema, struct mt_err *err)
{
    char sql[256];
    int r = mt_fmt(sql, sizeof sql, err, "SET lock_timeout = '5s'; SET client_min_messages = warning; DROP SCHEMA IF EXISTS %s CASCADE",
                   schema);
    return r < 0 ? r : mt_pg_exec(pg, sql, err);
}

int mt_shadow_make(struct mt_pg *pg, const char *schema, struct mt_shadow *ret, struct mt_err *err)
{
    *ret = (struct mt_shadow){.fill = json_array(), .make = json_array()};
    if (!ret->make || !ret->fill)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a shadow schema");
    char sql[256];
    int r = mt_fmt(ret->schema, sizeof ret->schema, err, "%s", schema);
    if (r < 0 || (r = mt_shadow_drop(pg, schema, err)) < 0 || (r = mt_views_create(pg, schema, err)) < 0 ||
        (r = mt_fmt(sql, sizeof sql, err, "SET search_path = %s, moat", schema)) < 0 || (r = mt_pg_exec(pg, sql, err)) < 0)
        return r;
    mt_auto_pg_res struct mt_pg_res *res = NULL, *fill = NULL;
    if ((r = rows_of(pg, &st_extras, schema, &res, err)) < 0 || (r = rows_of(pg, &st_fill, schema, &fill, err)) < 0)
        return r;
    for (int i = 0; i < mt_pg_rows(fill); i++)
        if (json_array_append_new(ret->fill, json_string(mt_pg_text(fill, i, 0))) < 0)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a shadow schema");
    for (int i = 0; r == 0 && i < mt_pg_rows(res); i++) {
        if (json_array_append_new(ret->make, json_string(mt_pg_text(res, i, 1))) < 0)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a shadow schema");
        r = mt_pg_exec(pg, mt_pg_text(res, i, 0), err);
    }
    /* Rows change many times on the way: room for their versions on the page they are on. Rewritten without at the end. */
    if (r == 0)
        r = each_table(pg, schema, "(fillfactor = " LOAD_FILL ")", err);
    return r < 0 ? r : each_table(pg, schema, "UNLOGGED", err);
}

static const struct mt_pg_stmt st_temp = {"shadow_temp", "SELECT pg_my_temp_schema()::regnamespace::text"};

int mt_shadow_temp(struct mt_pg *pg, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *name = NULL, *res = NULL;
    int r = mt_pg_exec(pg, "SET client_min_messages = warning; SET search_path = pg_temp", err);
    if (r < 0 || (r = mt_pg_exec(pg, mt_views_schema_sql, err)) < 0 || (r = mt_pg_exec(pg, "SET search_path = pg_temp, moat", err)) < 0 ||
        (r = mt_pg_query_one(pg, &st_temp, NULL, &name, err)) < 0 || (r = rows_of(pg, &st_extras, mt_pg_text(name, 0, 0), &res, err)) < 0)
        return r;
    for (int i = 0; r == 0 && i < mt_pg_rows(res); i++)
        r = mt_pg_exec(pg, mt_pg_text(res, i, 0), err);
    return r;
}

static int run_all(struct mt_pg *pg, const json_t *list, struct mt_err *err)
{
    size_t i;
    json_t *sql;
    int r = 0;
    json_array_foreach (list, i, sql)
        if (r == 0)
            r = mt_pg_exec(pg, json_string_value(sql), err);
    return r;
}

int mt_shadow_finish(struct mt_pg *pg, const struct mt_shadow *s, struct mt_err *err)
{
    int r = run_all(pg, s->fill, err);
    if (r == 0)
        r = each_table(pg, s->schema, "LOGGED", err);
    if (r == 0)
        r = mt_pg_exec(pg, "SET maintenance_work_mem = '256MB'", err);
    if (r == 0)
        r = run_all(pg, s->make, err);
    if (r < 0)
        return r;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    r = rows_of(pg, &st_tables, s->schema, &res, err);
    for (int k = 0; r == 0 && k < mt_pg_rows(res); k++) {
        char sql[256];
        r = mt_fmt(sql, sizeof sql, err, "ANALYZE %s.%s", s->schema, mt_pg_text(res, k, 0));
        if (r == 0)
            r = mt_pg_exec(pg, sql, err);
    }
    return r < 0 ? r : mt_views_grant(pg, s->schema, err);
}

void mt_shadow_done(struct mt_shadow *s)
{
    json_decref(s->fill);
    json_decref(s->make);
    s->fill = s->make = NULL;
}
