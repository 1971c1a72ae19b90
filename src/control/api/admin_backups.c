/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backups of volumes of all organisations, for operators (control-plane.md §9.5 storage): which are stale, a backup tried now, and another key for those to come.
 * The index of a store made again after the database was lost (`scan`) needs no running server and is done on its machine: docs/api/governance.md says why.
 */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/volumes/backup_key.h"
#include "model/ids.h"

static const struct mt_pg_stmt volume_of = {
    "admin_backup_volume", "SELECT v.org_id, v.app_id, v.env_id, v.name FROM volumes_view v WHERE v.volume_id = $1 AND NOT v.deleted"};
enum { V_ORG = 0, V_APP, V_ENV, V_NAME };

static const struct mt_pg_stmt running = {"admin_backup_running", "SELECT snapshot_id FROM snapshots_view WHERE volume_id = $1 AND status IN ('queued', 'running') LIMIT 1"};

/* Member `volume_id` of the body. */
static int aim(struct mt_api_call *c, const char **ret_id, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    if (mt_api_text(c, "volume_id", true, MT_ID_SIZE, ret_id) < 0)
        return -1;
    if (mt_id_check(MT_ID_VOLUME, *ret_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'volume_id': %s", c->err.msg);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, *ret_id);
    if (mt_pg_query_one(c->pg, &volume_of, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    return 0;
}

static int prepare_rekey(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"volume_id", "reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL, *busy = NULL;
    struct mt_pg_params p;
    const char *id, *reason;
    uint32_t epoch;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0 ||
        aim(c, &id, &r) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &running, &p, &busy, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(busy) > 0)
        return mt_api_fail(c, 409, "snapshot_in_progress", "snapshot %s of volume '%s' is under way: its key stays what it is until that has ended", mt_pg_text(busy, 0, 0),
                           mt_pg_text(r, 0, V_NAME));
    if (mt_backup_key_next(c->ctl->keys, c->pg, cmd, c->ctl->cluster_id, id, &epoch, &c->err) < 0) {
        if (c->err.code == MT_E_NOT_FOUND)
            return mt_api_fail(c, 409, "conflict", "volume '%s' has no key yet: it was never backed up", mt_pg_text(r, 0, V_NAME));
        return c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key") ? mt_api_fail(c, 503, "master_key_unavailable", "%s", c->err.msg) : mt_api_fail_err(c);
    }
    made->operation = "backups.rekey";
    made->ids = json_pack("{s:s}", "volume_id", id);
    made->object = json_pack("{s:s,s:I}", "volume_id", id, "key_epoch", (json_int_t)epoch);
    mt_api_next(made, "a backup under the new key", "moat snapshots create %s --wait", id);
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, V_ORG), .app_id = mt_pg_text(r, 0, V_APP), .env_id = mt_pg_text(r, 0, V_ENV)};
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME_LIVE, id, NULL, 1, &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_VOLUME_BACKUP_KEY_ROTATED, id, &ids, json_pack("{s:I,s:s}", "key_epoch", (json_int_t)epoch, "reason", reason), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

int mt_api_admin_backups_rekey(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_rekey);
}

int mt_api_admin_backups_scan(struct mt_api_call *c)
{
    static const char *const known[] = {NULL};
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    return mt_api_fail(c, 400, "not_supported", "a running server does not read the whole store, which takes as long as there are backups and is needed when its own database was lost: "
                       "on a machine of the control plane, moat admin backups scan");
}
