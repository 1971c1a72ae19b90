/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of SQL that several resources share. Objects are rendered by PostgreSQL, so each has one form for list and get. */
#pragma once

#include "control/api/call.h"

#define MT_SQL_TIMES "'created_at'," MT_SQL_TS("created_at") ",'updated_at'," MT_SQL_TS("updated_at")

/** Filters of mt_api_list_created in parameters @a and @b. */
#define MT_SQL_CREATED(a, b)                                                            \
    " AND ($" a "::timestamptz IS NULL OR created_at > $" a ") AND ($" b "::timestamptz" \
    " IS NULL OR created_at < $" b ")"

/**
 * Two statements, @nm_asc and @nm_desc, for mt_api_send_list: (id, object text) of @from where @where, with the cursor in
 * parameter @cur and the limit in parameter @lim.
 */
#define MT_SQL_LIST(nm, object, from, id, where, cur, lim)                                                             \
    static const struct mt_pg_stmt nm##_asc = {"list_" #nm "_asc",                                                     \
                                               "SELECT " id ", " object " FROM " from " WHERE " where " AND ($" cur     \
                                               "::text IS NULL OR " id " > $" cur ") ORDER BY " id " ASC LIMIT $" lim}; \
    static const struct mt_pg_stmt nm##_desc = {"list_" #nm "_desc",                                                   \
                                                "SELECT " id ", " object " FROM " from " WHERE " where " AND ($" cur    \
                                                "::text IS NULL OR " id " < $" cur ") ORDER BY " id " DESC LIMIT $" lim}
