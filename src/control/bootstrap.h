/* SPDX-License-Identifier: Apache-2.0 */
/* First start: schema, cluster identity and prefix, the first operator and its token, the first organisation. Every step
 * looks before it acts, so a start that was killed half-way is finished by the next. */
#pragma once

#include "control/control.h"

struct mt_rebuild_conf; /* views/rebuild.h */

/** Connect as the owner of the schema, for migrations and rebuilds. */
int mt_bootstrap_owner(const struct mt_control_conf *conf, const char *application_name, struct mt_pg **ret, struct mt_err *err);

/** Its connection string; the caller frees it. NULL: no memory. */
char *mt_bootstrap_owner_conninfo(const struct mt_control_conf *conf);

/** Bring the schema up as the owner role; a no-op when it is current. */
int mt_bootstrap_migrate(const struct mt_control_conf *conf, const struct mt_rebuild_conf *watch, struct mt_err *err);

/** Make what is missing; fills ctl->cluster_id and ctl->prefix. Needs the appender. -MT_E_DENIED: row security (log/fence.sql) does not bind the
 * role of the workers. */
int mt_bootstrap(struct mt_control *ctl, struct mt_err *err);
/** Does database_pool_url, when there is one, lead to the same cluster as database_url, as a role that row security binds? -MT_E_INVALID, -MT_E_DENIED.
 * After mt_bootstrap. */
int mt_bootstrap_pool(struct mt_control *ctl, struct mt_err *err);

/** The MAC key of idempotency records from data_dir, made on the first start. */
int mt_bootstrap_mac_key(struct mt_control *ctl, struct mt_err *err);
