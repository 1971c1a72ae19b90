/* SPDX-License-Identifier: Apache-2.0 */
/* How to start PostgreSQL's own programs (pg_dump, pg_restore) for the database of a connection string. */
#pragma once

#include "base/err.h"

/** NULL terminated environment, PATH and LC_ALL included, for mt_spawn. -MT_E_INVALID says what the string lacks. */
int mt_pg_env(const char *conninfo, char ***ret, struct mt_err *err);
/** Value of a variable in it, NULL when it has none. */
const char *mt_pg_env_get(char *const *env, const char *name);
/** Wipe and free; NULL is fine. */
void mt_pg_env_free(char **env);
