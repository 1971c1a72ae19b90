/* SPDX-License-Identifier: Apache-2.0 */
/* How far the standbys of PostgreSQL are behind. */
#pragma once

#include "pg/pg.h"

/**
 * The one that is furthest behind, by time (milliseconds) and by log (bytes; @ret_bytes may be NULL). Both stay as they are when this role may not
 * see it. Outside of a transaction. Returns 0, or -code when the database failed.
 */
int mt_standby_lag(struct mt_pg *pg, int64_t *ret_ms, int64_t *ret_bytes, struct mt_err *err);
