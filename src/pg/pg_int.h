/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/pg only: what a result wraps. */
#pragma once

#include <libpq-fe.h>

struct mt_pg_res {
    PGresult *pg;
};

/** Take @pg; NULL (and @pg cleared) when memory is out. */
struct mt_pg_res *mt_pg_res_wrap(PGresult *pg);
