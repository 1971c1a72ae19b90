/* SPDX-License-Identifier: Apache-2.0 */
/* A proof that somebody asks for: the newest backup of a volume, or the one named, is restored into a volume that is thrown away, checked there, and what
 * came of it kept with the snapshot, as of those that the schedule asks for (control/volumes/proofs.h). Whoever asks does not wait for the day's
 * budget, but one volume has one at a time and one node runs one at a time. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/volumes/home.h"
#include "control/volumes/proofs.h"
#include "control/volumes/volume_sql.h"
#include "model/ids.h"

#define COLUMNS "s.snapshot_id, s.size_bytes, s.resource_version, s.status, s.pruned_at IS NOT NULL, s.damaged"

static const struct mt_pg_stmt newest = {
    "volume_verify_newest", "SELECT v.name, b.* FROM volumes_view v LEFT JOIN LATERAL (" MT_SQL_LAST_BACKUP("v", COLUMNS) ") b ON true WHERE v.env_id = $1 AND v.volume_id = $2"};
static const struct mt_pg_stmt named = {
    "volume_verify_named", "SELECT v.name, " COLUMNS " FROM volumes_view v JOIN snapshots_view s ON s.volume_id = v.volume_id WHERE v.env_id = $1 AND v.volume_id = $2"
                    " AND s.snapshot_id = $3"};
static const struct mt_pg_stmt running = {
    "volume_verify_running", "SELECT r.restore_id FROM restores_view r WHERE r.source_volume_id = $1 AND r.purpose = 'proof' AND r.status IN ('queued', 'running') LIMIT 1"};
/* Asked again under the append lock, with this one in the view. */
static const struct mt_pg_stmt alone = {
    "volume_verify_alone", "SELECT 1 WHERE (SELECT count(*) FROM restores_view r WHERE r.source_volume_id = $1 AND r.purpose = 'proof' AND r.status IN ('queued', 'running')) = 1"};

enum { V_NAME = 0, V_SNAPSHOT, V_SIZE, V_VERSION, V_STATUS, V_PRUNED, V_DAMAGED };

static int check_backup(struct mt_api_call *c, const struct mt_pg_res *r)
{
    if (mt_pg_null(r, 0, V_SNAPSHOT))
        return mt_api_fail(c, 409, "snapshot_not_ready", "volume '%s' has no backup that could be tried; moat snapshots create %s --wait makes one", mt_pg_text(r, 0, V_NAME),
                           mt_pg_text(r, 0, V_NAME));
    const char *id = mt_pg_text(r, 0, V_SNAPSHOT);
    if (mt_pg_bool(r, 0, V_PRUNED) || !MT_STREQ(mt_pg_text(r, 0, V_STATUS), "succeeded"))
        return mt_api_fail(c, 409, "snapshot_not_ready", "snapshot %s is %s; only one that has succeeded is tried", id,
                           mt_pg_bool(r, 0, V_PRUNED) ? "deleted" : mt_pg_text(r, 0, V_STATUS));
    if (mt_pg_bool(r, 0, V_DAMAGED))
        return mt_api_fail(c, 409, "snapshot_not_ready", "snapshot %s is known to be damaged", id);
    return 0;
}

static int place(struct mt_api_call *c, int64_t bytes, struct mt_volume_node **nodes, size_t *n, long *ret)
{
    char why[320];
    if (mt_api_volume_nodes(c, nodes, n) < 0)
        return -1;
    if (mt_proof_nodes(c->pg, *nodes, *n, &c->err) < 0)
        return mt_api_fail_err(c);
    *ret = mt_volume_home(*nodes, *n, (uint64_t)bytes, NULL);
    if (*ret >= 0)
        return 0;
    mt_volume_home_why(*nodes, *n, (uint64_t)bytes, NULL, why, sizeof why);
    return mt_api_fail(c, 409, "no_capacity_storage", "no node can try the backup now (one that can reach the store and tries no other): %s", why);
}

static int prepare_proof(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const char *volume_id)
{
    const char *wanted;
    mt_auto_pg_res struct mt_pg_res *r = NULL, *busy = NULL;
    mt_auto_free struct mt_volume_node *nodes = NULL;
    struct mt_pg_params p, q;
    char restore_id[MT_ID_SIZE], new_id[MT_ID_SIZE];
    size_t n;
    long k = -1;
    if (mt_api_text(c, "snapshot_id", false, MT_ID_SIZE, &wanted) < 0)
        return -1;
    if (wanted && mt_id_check(MT_ID_SNAPSHOT, wanted, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'snapshot_id': %s", c->err.msg);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, volume_id);
    if (wanted)
        mt_pg_p_text(&p, wanted);
    if (mt_pg_query_one(c->pg, wanted ? &named : &newest, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, wanted ? "snapshot of this volume" : "volume") : mt_api_fail_err(c);
    if (check_backup(c, r) < 0)
        return -1;
    mt_pg_p_init(&q);
    mt_pg_p_text(&q, volume_id);
    if (mt_pg_query(c->pg, &running, &q, &busy, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(busy) > 0)
        return mt_api_fail(c, 409, "conflict", "a backup of volume '%s' is being tried already: moat wait restore %s", mt_pg_text(r, 0, V_NAME), mt_pg_text(busy, 0, 0));
    if (place(c, mt_pg_i64(r, 0, V_SIZE), &nodes, &n, &k) < 0)
        return -1;
    const char *snapshot_id = mt_pg_text(r, 0, V_SNAPSHOT), *node_id = nodes[k].node_id;
    mt_id_new(MT_ID_RESTORE, restore_id);
    mt_id_new(MT_ID_VOLUME, new_id);
    if (mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, snapshot_id, NULL, mt_pg_i64(r, 0, V_VERSION), &c->err) < 0 || mt_cmd_side(cmd, &alone, &q, 1, &c->err) < 0 ||
        mt_cmd_cause(cmd, restore_id, 0, &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    made->operation = "volume.verify";
    made->ids = json_pack("{s:s,s:s}", "restore_id", restore_id, "volume_id", volume_id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:n,s:n}", "id", restore_id, "org_id", c->org.id, "app_id", c->app.id, "env_id", c->env.id,
                             "snapshot_id", snapshot_id, "source_volume_id", volume_id, "new_volume_id", new_id, "target_node_id", node_id, "status", "queued",
                             "requested_by", c->who.subject_id, "resource_version", 1, "created_at", "updated_at");
    (void)snprintf(made->location, sizeof made->location, "/v1/orgs/%s/restores/%s", c->org.id, restore_id);
    mt_api_next(made, "wait for it", "moat wait restore %s", restore_id);
    return mt_api_event(c, cmd, MT_EV_RESTORE_JOB_CREATED, restore_id,
                        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "snapshot_id", snapshot_id, "source_volume_id", volume_id, "new_volume_id", new_id, "target_env_id", c->env.id,
                                  "target_node_id", node_id, "purpose", "proof"));
}

static int prepare_verify(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"snapshot_id", NULL};
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    return prepare_proof(c, cmd, made, mt_api_param(c, "volume_id"));
}

int mt_api_volumes_verify(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_verify);
}

static const struct mt_pg_stmt whose = {"volume_verify_whose", "SELECT org_id, app_id, env_id FROM volumes_view WHERE volume_id = $1 AND NOT deleted"};

/* An operator's, of anybody's volume: it is done, and written down, in the organisation of the volume. */
static int prepare_admin(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"volume_id", "snapshot_id", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    const char *id;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "volume_id", true, MT_ID_SIZE, &id) < 0)
        return -1;
    if (mt_id_check(MT_ID_VOLUME, id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'volume_id': %s", c->err.msg);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query_one(c->pg, &whose, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    (void)snprintf(c->org.id, sizeof c->org.id, "%s", mt_pg_text(r, 0, 0));
    (void)snprintf(c->app.id, sizeof c->app.id, "%s", mt_pg_text(r, 0, 1));
    (void)snprintf(c->env.id, sizeof c->env.id, "%s", mt_pg_text(r, 0, 2));
    return prepare_proof(c, cmd, made, id);
}

int mt_api_admin_backups_verify(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_admin);
}
