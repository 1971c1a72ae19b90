/* SPDX-License-Identifier: Apache-2.0 */
/* The database schema of the control plane: numbered, forward-only migrations under a lock (control-plane.md §8.1, §17). */
#pragma once

#include "pg/pg.h"

struct mt_rebuild_conf; /* views/rebuild.h */

/** Version that this program knows. */
int mt_log_schema_known(void);

/** mt_pg_conf.options of who sees the rows of all organisations; a session without sees none until it names one (fence.sql). */
#define MT_LOG_SETTING "moat.org_id"
#define MT_LOG_SEES_ALL "-c " MT_LOG_SETTING "=" MT_LOG_ALL
#define MT_LOG_ALL "*"

/**
 * Bring the database up to mt_log_schema_known() and set the grants of the roles moat_control and moat_projector where these
 * exist; then rebuild the views when their definition changed (views/rebuild.h). @pg is connected as the owner of the
 * database and fit for nothing else afterwards. Running it again changes nothing. Sessions opened before the first run lack
 * the search path: open them afterwards.
 * @watch: is told of such a rebuild, first when it begins, at event 0 of 0; or NULL.
 * A database of a newer program is left as it is when its migrations only added (the way back from an upgrade), else -MT_E_CONFLICT.
 */
int mt_log_migrate(struct mt_pg *pg, const struct mt_rebuild_conf *watch, struct mt_err *err);
/** What the database itself keeps for its sessions: the schemas that their statements find. Part of mt_log_migrate. */
int mt_log_database(struct mt_pg *pg, struct mt_err *err);
/** Version of the database; 0 when there is no schema yet. */
int mt_log_schema_version(struct mt_pg *pg, int *ret, struct mt_err *err);
/** Lowest version whose programs may work with the database of a newer one; only asked when it is newer than this program. */
int mt_log_schema_least(struct mt_pg *pg, int *ret, struct mt_err *err);
/** Give the application's roles what they need on the views in schema @name. Trusted name. */
int mt_views_grant(struct mt_pg *pg, const char *name, struct mt_err *err);
/** Make the tables of the projections in schema @name, which must not exist (rebuild, verify). Trusted name, [a-z_]+. */
int mt_views_create(struct mt_pg *pg, const char *name, struct mt_err *err);
