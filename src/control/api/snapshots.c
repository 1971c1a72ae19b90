/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of a volume: backups, from the request to the end of their retention (storage-and-secrets.md §4; control-plane.md §9.3). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/volumes/snapshot.h"

#define SNAPSHOT_OBJECT                                                                                                      \
    "json_strip_nulls(json_build_object('id',s.snapshot_id,'org_id',s.org_id,'app_id',s.app_id,'env_id',s.env_id,'volume_id',s.volume_id," \
    "'source_node_id',s.source_node_id,'origin',s.origin,'status',s.status,'phase',s.phase,'consistency',s.consistency,'captured_at',"  \
    MT_SQL_TS("s.captured_at") ",'finished_at'," MT_SQL_TS("s.finished_at") ",'size_bytes',s.size_bytes,'changed_bytes',s.changed_bytes,"  \
    "'verified_at'," MT_SQL_TS("s.verified_at") ",'restored_at'," MT_SQL_TS("s.restored_at") ",'damaged',CASE WHEN s.damaged THEN true END,"    \
    "'uploaded_bytes',s.uploaded_bytes,'note',s.note,'failed_reason',s.failed_reason,'requested_by',s.requested_by,'pruned_at',"        \
    MT_SQL_TS("s.pruned_at") ",'resource_version',s.resource_version,'created_at'," MT_SQL_TS("s.created_at") ",'updated_at',"          \
    MT_SQL_TS("s.updated_at") "))::text"

MT_SQL_LIST(volume_snapshots, SNAPSHOT_OBJECT, "snapshots_view s", "snapshot_id", "env_id = $1 AND volume_id = $2 AND ($3 OR pruned_at IS NULL)", "4", "5");
MT_SQL_LIST(env_snapshots, SNAPSHOT_OBJECT, "snapshots_view s", "snapshot_id", "env_id = $1 AND ($2 OR pruned_at IS NULL)", "3", "4");
static const struct mt_pg_stmt env_snapshot_get = {
    "env_snapshot_get", "SELECT " SNAPSHOT_OBJECT ", resource_version FROM snapshots_view s WHERE env_id = $1 AND snapshot_id = $2"};
static const struct mt_pg_stmt snapshot_get = {
    "snapshot_get", "SELECT " SNAPSHOT_OBJECT ", resource_version FROM snapshots_view s WHERE env_id = $1 AND volume_id = $2 AND snapshot_id = $3"};
static const struct mt_pg_stmt snapshot_row = {
    "snapshot_row", "SELECT pruned_at IS NOT NULL, resource_version FROM snapshots_view WHERE env_id = $1 AND volume_id = $2 AND snapshot_id = $3"};
static const struct mt_pg_stmt reader = {
    "snapshot_reader", "SELECT restore_id FROM restores_view WHERE snapshot_id = $1 AND purpose IS DISTINCT FROM 'proof' AND status IN ('queued', 'running') LIMIT 1"};
static const struct mt_pg_stmt volume_of = {
    "snapshot_volume", "SELECT v.name, v.state, v.home_node_id, v.resource_version, n.name, coalesce((n.allocatable->>'backup_store')::boolean, false),"
                       " (SELECT s.snapshot_id FROM snapshots_view s WHERE s.volume_id = v.volume_id AND s.status IN ('queued', 'running') LIMIT 1)"
                       " FROM volumes_view v JOIN nodes_view n ON n.node_id = v.home_node_id WHERE v.env_id = $1 AND v.volume_id = $2 AND NOT v.deleted"};
/* Snapshots outlive their volume: one that is deleted still answers. */
static const struct mt_pg_stmt volume_known = {"snapshot_volume_known", "SELECT 1 FROM volumes_view WHERE env_id = $1 AND volume_id = $2"};

enum { V_NAME = 0, V_STATE, V_NODE, V_VERSION, V_NODE_NAME, V_STORE, V_ACTIVE };

static struct mt_pg_params ids_of(struct mt_api_call *c, bool snapshot)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "volume_id"));
    if (snapshot)
        mt_pg_p_text(&p, mt_api_param(c, "snapshot_id"));
    return p;
}

int mt_api_snapshots_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &volume_snapshots_asc, .desc = &volume_snapshots_desc};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    bool deleted;
    l.params = ids_of(c, false);
    if (mt_pg_query(c->pg, &volume_known, &l.params, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "volume");
    if (mt_api_query_bool(c, "include_deleted", false, &deleted) < 0)
        return -1;
    mt_pg_p_bool(&l.params, deleted);
    return mt_api_send_list(c, &l);
}

int mt_api_snapshots_get(struct mt_api_call *c)
{
    struct mt_pg_params p = ids_of(c, true);
    if (mt_api_query_done(c) < 0)
        return -1;
    return mt_api_send_row(c, &snapshot_get, &p, "snapshot");
}

int mt_api_snapshots_list_env(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &env_snapshots_asc, .desc = &env_snapshots_desc};
    bool deleted;
    if (mt_api_query_bool(c, "include_deleted", false, &deleted) < 0)
        return -1;
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->env.id);
    mt_pg_p_bool(&l.params, deleted);
    return mt_api_send_list(c, &l);
}

/* By its id alone, for who does not know the volume. */
int mt_api_snapshots_get_env(struct mt_api_call *c)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "snapshot_id"));
    if (mt_api_query_done(c) < 0)
        return -1;
    return mt_api_send_row(c, &env_snapshot_get, &p, "snapshot");
}

/* ---------------------------------------------------------------- create */

/* May a backup of this volume begin? */
static int check_volume(struct mt_api_call *c, const struct mt_pg_res *r)
{
    const char *name = mt_pg_text(r, 0, V_NAME);
    if (!MT_STREQ(mt_pg_text(r, 0, V_STATE), "available"))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is %s; only one that is available is backed up", name, mt_pg_text(r, 0, V_STATE));
    if (!mt_pg_null(r, 0, V_ACTIVE))
        return mt_api_fail(c, 409, "snapshot_in_progress", "snapshot %s of volume '%s' has not ended; wait for it, or delete it", mt_pg_text(r, 0, V_ACTIVE),
                           name);
    if (!mt_pg_bool(r, 0, V_STORE))
        return mt_api_fail(c, 409, "backup_store_missing",
                           "node %s, where volume '%s' lives, tells of no store for backups; an operator sets one up there in /etc/moat/backup.toml",
                           mt_pg_text(r, 0, V_NODE_NAME), name);
    return 0;
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"note", NULL};
    struct mt_pg_params p = ids_of(c, false);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *note, *volume_id = mt_api_param(c, "volume_id");
    char id[MT_ID_SIZE];
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "note", false, 256, &note) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &volume_of, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    if (check_volume(c, r) < 0)
        return -1;
    mt_id_new(MT_ID_SNAPSHOT, id);
    const struct mt_snapshot_new n = {.snapshot_id = id,
                                      .org_id = c->org.id,
                                      .app_id = c->app.id,
                                      .env_id = c->env.id,
                                      .volume_id = volume_id,
                                      .node_id = mt_pg_text(r, 0, V_NODE),
                                      .volume_version = mt_pg_i64(r, 0, V_VERSION),
                                      .origin = "manual",
                                      .note = note};
    if (mt_snapshot_begin(c->ctl, c->pg, cmd, &n, &c->err) < 0)
        return c->err.code == MT_E_UNAVAILABLE && strstr(c->err.msg, "master key")
                   ? mt_api_fail(c, 503, "master_key_unavailable", "no master key is loaded that could keep the key of the backups")
                   : mt_api_fail_err(c);
    made->status = 201;
    made->operation = "snapshot.create";
    made->ids = json_pack("{s:s}", "snapshot_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s*,s:s,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "app_id", c->app.id, "env_id", c->env.id,
                             "volume_id", volume_id, "source_node_id", mt_pg_text(r, 0, V_NODE), "origin", "manual", "status", "queued", "note", note,
                             "requested_by", c->who.subject_id, "resource_version", 1, "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s/volumes/%s/snapshots/%s", c->org.id, c->app.id, c->env.id, volume_id, id);
    mt_api_next(made, "wait for it", "moat wait snapshot %s", id);
    return 0;
}

int mt_api_snapshots_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

/* ---------------------------------------------------------------- delete */

/* A restore would lose what it reads. */
static int check_unread(struct mt_api_call *c, struct mt_cmd *cmd, const char *id)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &reader, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) > 0)
        return mt_api_fail(c, 409, "conflict", "restore %s reads this snapshot; wait for it, or delete the volume that it makes", mt_pg_text(r, 0, 0));
    return mt_snapshot_rely_unread(cmd, id, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

/* One that has not ended is cancelled: its node ends the job, and nothing stays of it. */
static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    struct mt_pg_params p = ids_of(c, true);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *id = mt_api_param(c, "snapshot_id");
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &snapshot_row, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "snapshot") : mt_api_fail_err(c);
    bool gone = mt_pg_bool(r, 0, 0);
    mt_api_deleted(made, "snapshot.delete", "snapshot_id", id, gone);
    if (gone)
        return 0;
    if (mt_api_check_version(c, false, mt_pg_i64(r, 0, 1), "snapshot") < 0)
        return -1;
    if (check_unread(c, cmd, id) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, id, NULL, mt_pg_i64(r, 0, 1), &c->err) < 0 || mt_cmd_cause(cmd, id, 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_SNAPSHOT_PRUNED, id, json_pack("{s:s,s:s}", "volume_id", mt_api_param(c, "volume_id"), "reason", "user"));
}

int mt_api_snapshots_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
