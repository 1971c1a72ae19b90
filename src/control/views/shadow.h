/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/views only: a schema of view tables made for bulk loading. */
#pragma once

#include "pg/pg.h"

#include <jansson.h>

/** What was taken away for the load and comes back after it. */
struct mt_shadow {
    char schema[64];
    json_t *fill, *make; /* statements, owned */
};

/** Drop @schema if it is there, make it anew with all tables unlogged and without indexes but the primary keys; the
 * session's search path is then @schema, moat. Trusted name. */
int mt_shadow_make(struct mt_pg *pg, const char *schema, struct mt_shadow *ret, struct mt_err *err);
/** Make the tables durable, build their indexes, collect statistics, grant what the application needs. */
int mt_shadow_finish(struct mt_pg *pg, const struct mt_shadow *s, struct mt_err *err);
void mt_shadow_done(struct mt_shadow *s);
/** Drop a schema with all in it, if it is there. Readers may still be in it: waits at most 5 s. */
int mt_shadow_drop(struct mt_pg *pg, const char *schema, struct mt_err *err);
/** The view tables as temporary ones of the session, empty and without indexes but the primary keys; the search path is then
 * pg_temp, moat. They go with the connection. */
int mt_shadow_temp(struct mt_pg *pg, struct mt_err *err);
