/* SPDX-License-Identifier: Apache-2.0 */
/* See snapshot.h. */
#include "control/volumes/snapshot.h"

#include "control/volumes/backup_key.h"

/* Asked again under the append lock, with this one in the view. */
static const struct mt_pg_stmt alone = {
    "snapshot_alone", "SELECT 1 WHERE (SELECT count(*) FROM snapshots_view s WHERE s.volume_id = $1 AND s.status IN ('queued', 'running')) = 1"};

static const struct mt_pg_stmt unread = {
    "snapshot_unread", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM restores_view WHERE snapshot_id = $1 AND purpose IS DISTINCT FROM 'proof' AND status IN ('queued', 'running'))"};

int mt_snapshot_rely_unread(struct mt_cmd *cmd, const char *snapshot_id, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, snapshot_id);
    return mt_cmd_side(cmd, &unread, &p, 1, err);
}

int mt_snapshot_begin(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_snapshot_new *n, struct mt_err *err)
{
    struct mt_pg_params p;
    const struct mt_cmd_ids ids = {.org_id = n->org_id, .app_id = n->app_id, .env_id = n->env_id};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n->volume_id);
    int rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, n->volume_id, NULL, n->volume_version, err);
    if (rc < 0 || (rc = mt_cmd_side(cmd, &alone, &p, 1, err)) < 0 ||
        (rc = mt_backup_key_ensure(ctl->keys, pg, cmd, ctl->cluster_id, n->org_id, n->volume_id, err)) < 0 ||
        (rc = mt_cmd_cause(cmd, n->snapshot_id, 0, err)) < 0)
        return rc;
    json_t *payload = json_pack("{s:s,s:s,s:s,s:s*,s:s*}", "volume_id", n->volume_id, "source_node_id", n->node_id, "origin", n->origin, "note", n->note,
                                "migration_id", n->migration_id);
    if (!payload)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a snapshot");
    return mt_cmd_event(cmd, MT_EV_SNAPSHOT_CREATED, n->snapshot_id, &ids, payload, err);
}
