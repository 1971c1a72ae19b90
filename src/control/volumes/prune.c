/* SPDX-License-Identifier: Apache-2.0 */
/* See prune.h. A backup is first given up, by the event, and then taken out of the store: so every one that is listed is there. */
#include "control/volumes/prune.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/volumes/retention.h"
#include "control/volumes/snapshot.h"

#include <stdlib.h>

#define ROWS_MAX "20000" /* of one look; newest first, so what is cut off is looked at next time */

#define READ "EXISTS (SELECT 1 FROM restores_view r WHERE r.snapshot_id = s.snapshot_id AND r.purpose IS DISTINCT FROM 'proof' AND r.status IN ('queued', 'running'))"

/* $1 how many scheduled ones are kept. Only volumes that have more. */
static const struct mt_pg_stmt of_live = {
    "prune_live",
    "SELECT s.volume_id, s.snapshot_id, s.org_id, s.app_id, s.env_id, s.resource_version, s.origin = 'scheduled', s.damaged, " READ " FROM snapshots_view s"
    " JOIN volumes_view v ON v.volume_id = s.volume_id AND NOT v.deleted WHERE s.status = 'succeeded' AND s.pruned_at IS NULL AND"
    " (SELECT count(*) FROM snapshots_view o WHERE o.volume_id = s.volume_id AND o.origin = 'scheduled' AND o.status = 'succeeded' AND o.pruned_at IS NULL) > $1"
    " ORDER BY s.volume_id COLLATE \"C\", s.captured_at DESC, s.snapshot_id DESC LIMIT " ROWS_MAX};

/* $1 days that the backups outlive their volume. */
static const struct mt_pg_stmt of_deleted = {
    "prune_deleted",
    "SELECT s.volume_id, s.snapshot_id, s.org_id, s.app_id, s.env_id, s.resource_version FROM snapshots_view s JOIN volumes_view v ON v.volume_id = s.volume_id"
    " WHERE v.deleted AND (v.delete_backups OR v.deleted_at < now() - make_interval(days => $1)) AND s.status = 'succeeded' AND s.pruned_at IS NULL AND NOT " READ
    " ORDER BY s.snapshot_id LIMIT 64"};

enum { S_VOLUME = 0, S_ID, S_ORG, S_APP, S_ENV, S_VERSION, S_SCHEDULED, S_DAMAGED, S_READ };

/* Returns 1 given up, 0 not now, -code. */
static int give_up(struct mt_control *ctl, int64_t lease, const struct mt_pg_res *r, int row, const char *reason, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "retention"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    const char *id = mt_pg_text(r, row, S_ID);
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, row, S_ORG), .app_id = mt_pg_text(r, row, S_APP), .env_id = mt_pg_text(r, row, S_ENV)};
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, id, NULL, mt_pg_i64(r, row, S_VERSION), err)) < 0 || (rc = mt_snapshot_rely_unread(cmd, id, err)) < 0 ||
        (rc = mt_cmd_cause(cmd, id, 0, err)) < 0)
        return rc;
    json_t *payload = json_pack("{s:s,s:s}", "volume_id", mt_pg_text(r, row, S_VOLUME), "reason", reason);
    if (!payload)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a pruned snapshot");
    if ((rc = mt_cmd_event(cmd, MT_EV_SNAPSHOT_PRUNED, id, &ids, payload, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool moved = rc == -MT_E_CONFLICT; /* it changed at this moment: it is looked at anew */
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_INFO, "backup.pruned", KV("volume_id", mt_pg_text(r, row, S_VOLUME)), KV("snapshot_id", id), KV("reason", reason));
    return rc == 0 ? 1 : moved ? 0 : rc;
}

static int look_at_live(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    uint32_t keep = (uint32_t)ctl->conf.backup_keep_last;
    int gone = 0;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, keep);
    int rc = mt_pg_query(pg, &of_live, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    mt_auto_free struct mt_kept_backup *kept = calloc((size_t)mt_pg_rows(r), sizeof *kept);
    if (!kept)
        return MT_FAIL(err, MT_E_NOMEM, "backups that are kept");
    for (int from = 0, to; from < mt_pg_rows(r); from = to) {
        for (to = from; to < mt_pg_rows(r) && MT_STREQ(mt_pg_text(r, to, S_VOLUME), mt_pg_text(r, from, S_VOLUME)); to++)
            kept[to] = (struct mt_kept_backup){.scheduled = mt_pg_bool(r, to, S_SCHEDULED), .damaged = mt_pg_bool(r, to, S_DAMAGED), .read = mt_pg_bool(r, to, S_READ)};
        (void)mt_retention(kept + from, (size_t)(to - from), keep);
        for (int i = to; i-- > from && gone < MT_PRUNE_AT_ONCE;) { /* the oldest first */
            if (!kept[i].prune)
                continue;
            if ((rc = give_up(ctl, lease, r, i, "retention", err)) < 0)
                return rc;
            gone += rc;
        }
    }
    return gone;
}

int mt_prune_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int gone = look_at_live(ctl, pg, lease, err);
    if (gone < 0)
        return gone;
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, (int32_t)ctl->conf.backup_deleted_grace_days);
    int rc = mt_pg_query(pg, &of_deleted, &p, &r, err);
    for (int i = 0; rc >= 0 && i < mt_pg_rows(r); i++)
        if ((rc = give_up(ctl, lease, r, i, "volume_deleted", err)) > 0)
            gone++;
    return rc < 0 ? rc : gone;
}
