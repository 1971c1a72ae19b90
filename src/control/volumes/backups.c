/* SPDX-License-Identifier: Apache-2.0 */
/* See backups.h. Each snapshot is a command of its own: one that is refused (its volume changed at this moment, another snapshot was asked
 * for) holds up no other, and is due again at the next look. */
#include "control/volumes/backups.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/volumes/schedule.h"
#include "control/volumes/snapshot.h"
#include "control/volumes/volume_sql.h"
#include "model/ids.h"

#include <stdlib.h>

#define MS(t) "(extract(epoch FROM " t ") * 1000)::bigint"

/* What could begin now: the volume is there and wants backups, no job of it is active, its node is well and can make them. */
static const struct mt_pg_stmt candidates = {
    "backup_candidates",
    "SELECT v.volume_id, v.org_id, v.app_id, v.env_id, v.home_node_id, v.resource_version, coalesce(e.backup_interval_seconds, $1)::bigint, "
    MS("v.created_at") ", coalesce(" MS("s.created_at") ", 0), coalesce(s.status = 'failed', false), coalesce(" MS("s.finished_at") ", 0), "
    MS("clock_timestamp()")
    " FROM volumes_view v JOIN envs_view e ON e.env_id = v.env_id JOIN nodes_view n ON n.node_id = v.home_node_id"
    " LEFT JOIN LATERAL (SELECT created_at, status, finished_at FROM snapshots_view s WHERE s.volume_id = v.volume_id AND s.origin = 'scheduled'"
    "  ORDER BY s.snapshot_id DESC LIMIT 1) s ON true"
    " WHERE NOT v.deleted AND v.state = 'available' AND v.backup_enabled AND n.health = 'ready' AND (n.allocatable->>'backup_store')::boolean"
    " AND NOT EXISTS (SELECT 1 FROM snapshots_view a WHERE a.volume_id = v.volume_id AND a.status IN ('queued', 'running'))"
    " AND NOT EXISTS (SELECT 1 FROM volume_migrations_view m WHERE " MT_SQL_MIGRATES("m", "v") ")"
    " ORDER BY v.volume_id COLLATE \"C\""};

enum { V_ID = 0, V_ORG, V_APP, V_ENV, V_NODE, V_VERSION, V_INTERVAL, V_MADE, V_ASKED, V_FAILED, V_ENDED, V_NOW };

/* Returns 1 asked for, 0 not now, -code. */
static int ask(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, const struct mt_pg_res *r, const struct mt_owed *o, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "backups"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    char id[MT_ID_SIZE];
    mt_id_new(MT_ID_SNAPSHOT, id);
    const struct mt_snapshot_new n = {.snapshot_id = id,
                                      .org_id = mt_pg_text(r, o->row, V_ORG),
                                      .app_id = mt_pg_text(r, o->row, V_APP),
                                      .env_id = mt_pg_text(r, o->row, V_ENV),
                                      .volume_id = mt_pg_text(r, o->row, V_ID),
                                      .node_id = mt_pg_text(r, o->row, V_NODE),
                                      .volume_version = mt_pg_i64(r, o->row, V_VERSION),
                                      .origin = "scheduled"};
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 || (rc = mt_snapshot_begin(ctl, pg, cmd, &n, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool moved = rc == -MT_E_CONFLICT; /* somebody was faster: it is looked at anew */
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_INFO, "backup.scheduled", KV("volume_id", n.volume_id), KV("snapshot_id", (const char *)id), KV("late_ms", mt_pg_i64(r, o->row, V_NOW) - o->due_ms));
    return rc == 0 ? 1 : moved ? 0 : rc;
}

int mt_backups_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int asked = 0, n = 0;
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, MT_BACKUP_INTERVAL_S);
    int rc = mt_pg_query(pg, &candidates, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    mt_auto_free struct mt_owed *owed = calloc((size_t)mt_pg_rows(r), sizeof *owed);
    if (!owed)
        return MT_FAIL(err, MT_E_NOMEM, "backups that are due");
    for (int i = 0; i < mt_pg_rows(r); i++) {
        const struct mt_backup_clock c = {.volume_id = mt_pg_text(r, i, V_ID),
                                          .interval_s = mt_pg_i64(r, i, V_INTERVAL),
                                          .made_ms = mt_pg_i64(r, i, V_MADE),
                                          .asked_ms = mt_pg_i64(r, i, V_ASKED),
                                          .failed = mt_pg_bool(r, i, V_FAILED),
                                          .ended_ms = mt_pg_i64(r, i, V_ENDED)};
        int64_t due = mt_backup_due_ms(&c);
        if (due <= mt_pg_i64(r, i, V_NOW))
            owed[n++] = (struct mt_owed){.row = i, .due_ms = due};
    }
    qsort(owed, (size_t)n, sizeof *owed, mt_longest_owed_first);
    for (int i = 0; i < n && i < MT_BACKUPS_AT_ONCE; i++) {
        if ((rc = ask(ctl, pg, lease, r, &owed[i], err)) < 0)
            return rc;
        asked += rc;
    }
    return asked;
}
