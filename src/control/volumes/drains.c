/* SPDX-License-Identifier: Apache-2.0 */
/* See drains.h. */
#include "control/volumes/drains.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/volumes/migrate.h"

#define ROWS_MAX "512" /* of one look */
#define RETRY_SQL "interval '5 minutes'" /* after a migration that failed */

/* Volumes that are still to leave, those of one process together, and what was said of each since the node last changed. */
static const struct mt_pg_stmt leaving = {
    "drain_leaving",
    "SELECT v.volume_id, v.env_id, coalesce(a.process_type, v.volume_id), n.node_id, n.resource_version, v.resource_version, v.org_id, v.app_id,"
    " CASE WHEN v.move_refused_node = n.node_id AND v.move_refused_at > n.updated_at THEN v.move_refused_code END,"
    " (SELECT count(*) FROM volume_migrations_view m WHERE m.source_node_id = n.node_id AND m.status IN ('queued', 'running')),"
    " (SELECT m.failed_reason FROM volume_migrations_view m WHERE m.env_id = v.env_id AND v.volume_id = ANY (m.volume_ids) AND m.status = 'failed' AND m.finished_at > now() - " RETRY_SQL
    "  ORDER BY m.migration_id DESC LIMIT 1)"
    " FROM nodes_view n JOIN volumes_view v ON v.home_node_id = n.node_id AND NOT v.deleted AND v.state <> 'deleting'"
    " LEFT JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted"
    " WHERE n.admin_state = 'draining' AND n.drain_migrates AND NOT n.deleted AND n.health IN ('ready', 'degraded')"
    " AND NOT EXISTS (SELECT 1 FROM volume_migrations_view m WHERE " MT_SQL_MIGRATES("m", "v") ")"
    " ORDER BY n.node_id, v.env_id, 3, v.volume_id COLLATE \"C\" LIMIT " ROWS_MAX};
enum { L_VOLUME = 0, L_ENV, L_GROUP, L_NODE, L_NODE_VERSION, L_VERSION, L_ORG, L_APP, L_SAID, L_MOVING, L_FAILED };

static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "drains"};

/* @cmd is taken. Returns 1 it is in the log, 0 something changed at this moment, -code. */
static int append(struct mt_control *ctl, struct mt_cmd *cmd, struct mt_err *err)
{
    struct mt_cmd_done done = {0};
    int rc = mt_append(ctl->appender, cmd, 10000, &done, err);
    mt_cmd_done_free(&done);
    return rc == 0 ? 1 : rc == -MT_E_CONFLICT ? 0 : rc;
}

static int begin(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, const struct mt_pg_res *r, int i, const struct mt_migration_new *m, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    int rc = mt_cmd_new(&actor, &cmd, err);
    /* on the node too: a drain that was taken back at this moment moves nothing */
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_NODE, mt_pg_text(r, i, L_NODE), NULL, mt_pg_i64(r, i, L_NODE_VERSION), err)) < 0 || (rc = mt_migration_begin(ctl, pg, cmd, m, err)) < 0)
        return rc;
    if ((rc = append(ctl, MT_TAKE(cmd), err)) == 1)
        mt_log(MT_INFO, "drain.migrates", KV("node_id", mt_pg_text(r, i, L_NODE)), KV("volume_id", mt_pg_text(r, i, L_VOLUME)), KV("migration_id", m->migration_id),
               KV("target_node_id", m->target_node_id));
    return rc;
}

static int say(struct mt_control *ctl, int64_t lease, const struct mt_pg_res *r, int i, const char *code, const char *why, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    const char *id = mt_pg_text(r, i, L_VOLUME);
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, i, L_ORG), .app_id = mt_pg_text(r, i, L_APP), .env_id = mt_pg_text(r, i, L_ENV)};
    if (!mt_pg_null(r, i, L_SAID) && MT_STREQ(mt_pg_text(r, i, L_SAID), code))
        return 0;
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, mt_pg_i64(r, i, L_VERSION), err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_VOLUME_MOVE_REFUSED, id, &ids, json_pack("{s:s,s:s,s:s}", "node_id", mt_pg_text(r, i, L_NODE), "code", code, "reason", why), err)) < 0)
        return rc;
    rc = append(ctl, MT_TAKE(cmd), err);
    return rc < 0 ? rc : 0;
}

/* What passes by itself is no reason. */
static bool passes(const char *code)
{
    return MT_STREQ(code, "busy") || MT_STREQ(code, "migration_in_progress") || MT_STREQ(code, "snapshot_in_progress");
}

/* Returns 1 one was begun: what was read is of before; 0 none can begin now; -code. */
static int look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_migration_new m = {0};
    int rc = mt_pg_query(pg, &leaving, NULL, &r, err);
    if (rc < 0)
        return rc;
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++) {
        bool same = i > 0 && MT_STREQ(mt_pg_text(r, i, L_ENV), mt_pg_text(r, i - 1, L_ENV)) && MT_STREQ(mt_pg_text(r, i, L_GROUP), mt_pg_text(r, i - 1, L_GROUP));
        char failed[160];
        if (mt_pg_i64(r, i, L_MOVING) >= MT_DRAIN_MOVES)
            continue;
        if (!mt_pg_null(r, i, L_FAILED)) {
            (void)snprintf(failed, sizeof failed, "the last try failed (%s); there is another one five minutes after it", mt_pg_text(r, i, L_FAILED));
            rc = say(ctl, lease, r, i, mt_pg_text(r, i, L_FAILED), failed, err);
            m.code = NULL;
            continue;
        }
        if (!same || !m.code) { /* what is refused is so for all volumes of a process */
            m = (struct mt_migration_new){.reason = "drain"};
            if ((rc = mt_migration_plan(ctl, pg, mt_pg_text(r, i, L_ENV), mt_pg_text(r, i, L_VOLUME), NULL, &m, err)) < 0)
                return rc;
            if (rc == 1)
                return begin(ctl, pg, lease, r, i, &m, err);
        }
        if (m.code && !passes(m.code))
            rc = say(ctl, lease, r, i, m.code, m.why, err);
    }
    return rc;
}

int mt_drains_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    int begun = 0, rc;
    while ((rc = look(ctl, pg, lease, err)) == 1 && begun < 8)
        begun++;
    return rc < 0 ? rc : begun;
}
