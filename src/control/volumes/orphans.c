/* SPDX-License-Identifier: Apache-2.0 */
/* See orphans.h. */
#include "control/volumes/orphans.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "control/log/append.h"

#define AT_ONCE "64"

static const struct mt_pg_stmt orphans = {
    "orphan_volumes",
    "SELECT v.volume_id, v.org_id, v.app_id, v.env_id, v.resource_version, v.delete_backups FROM volumes_view v JOIN nodes_view n ON n.node_id = v.home_node_id AND n.deleted"
    " WHERE v.state = 'deleting' AND NOT v.deleted ORDER BY v.volume_id COLLATE \"C\" LIMIT " AT_ONCE};
enum { V_ID = 0, V_ORG, V_APP, V_ENV, V_VERSION, V_BACKUPS };

static int end(struct mt_control *ctl, int64_t lease, const struct mt_pg_res *r, int row, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "orphans"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    const char *id = mt_pg_text(r, row, V_ID);
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, row, V_ORG), .app_id = mt_pg_text(r, row, V_APP), .env_id = mt_pg_text(r, row, V_ENV)};
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, mt_pg_i64(r, row, V_VERSION), err)) < 0)
        return rc;
    json_t *payload = json_pack("{s:b,s:b}", "forced", 1, "delete_backups", (int)mt_pg_bool(r, row, V_BACKUPS));
    if (!payload)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a deleted volume");
    if ((rc = mt_cmd_event(cmd, MT_EV_VOLUME_DELETED, id, &ids, payload, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool moved = rc == -MT_E_CONFLICT; /* it changed at this moment: it is looked at anew */
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_INFO, "volume.orphan_ended", KV("volume_id", id));
    return rc == 0 ? 1 : moved ? 0 : rc;
}

int mt_orphans_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int gone = 0, rc = mt_pg_query(pg, &orphans, NULL, &r, err);
    for (int i = 0; rc >= 0 && i < mt_pg_rows(r); i++)
        if ((rc = end(ctl, lease, r, i, err)) > 0)
            gone++;
    return rc < 0 ? rc : gone;
}
