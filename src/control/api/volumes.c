/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes of an environment (storage-and-secrets.md §2; control-plane.md §9.3). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/patch.h"
#include "control/api/restart.h"
#include "control/api/sql.h"
#include "control/auth/scopes.h"
#include "control/volumes/home.h"
#include "control/volumes/volume_sql.h"
#include "model/names.h"
#include "model/volume.h"

#define NEWEST_JOB                                                                                                           \
    "SELECT json_strip_nulls(json_build_object('id',s.snapshot_id,'origin',s.origin,'status',s.status,'phase',s.phase,'failed_reason',"        \
    "s.failed_reason,'created_at'," MT_SQL_TS("s.created_at") ")) FROM snapshots_view s WHERE s.volume_id = v.volume_id"                    \
    " ORDER BY s.snapshot_id DESC LIMIT 1"
#define LAST_PROOF                                                                                                           \
    "SELECT s.proof || jsonb_build_object('snapshot_id',s.snapshot_id,'at'," MT_SQL_TS("s.proof_at") ") FROM snapshots_view s"  \
    " WHERE s.volume_id = v.volume_id AND s.proof IS NOT NULL ORDER BY s.proof_at DESC, s.snapshot_id DESC LIMIT 1"
#define VOLUME_OBJECT                                                                                                       \
    "json_strip_nulls(json_build_object('id',v.volume_id,'org_id',v.org_id,'app_id',v.app_id,'env_id',v.env_id,'name',v.name," \
    "'size_bytes',v.size_bytes,'resize_to_bytes',v.resize_to_bytes,'filesystem',v.filesystem,'fs_uuid',v.fs_uuid,"          \
    "'backup_enabled',v.backup_enabled,'home_node_id',v.home_node_id,'state',CASE WHEN v.state = 'available' AND "          \
    MT_SQL_VOLUME_HELD("v") " THEN 'in_use' ELSE v.state END,'error_reason',v.error_reason,"                               \
    "'reachable',(SELECT n.health NOT IN ('offline', 'lost') FROM nodes_view n WHERE n.node_id = v.home_node_id),"          \
    "'node_lost',(SELECT true FROM nodes_view n WHERE n.node_id = v.home_node_id AND n.health = 'lost'),"                    \
    "'deleted',CASE WHEN v.deleted THEN true END,'last_backup_at',(" MT_SQL_LAST_BACKUP("v", MT_SQL_TS("s.captured_at")) "),"         \
    "'last_backup_snapshot_id',(" MT_SQL_LAST_BACKUP("v", "s.snapshot_id") "),'backup_stale'," MT_SQL_BACKUP_STALE("v") ",'proof_stale',CASE WHEN " MT_SQL_PROOF_STALE("v") " THEN true END,"  \
    "'backup_lag_seconds',(" MT_SQL_LAST_BACKUP("v", "greatest(0, floor(extract(epoch FROM now() - s.captured_at)))::bigint") "),'latest_snapshot',(" NEWEST_JOB "),'last_proven_restore_at',(SELECT " \
    MT_SQL_TS("max(s.restored_at)") " FROM snapshots_view s WHERE s.volume_id = v.volume_id),'last_proof',(" LAST_PROOF "),'collected_at'," MT_SQL_TS("v.collected_at") ",'collect_failed',v.collect_failed,'from_snapshot_id',v.from_snapshot_id,"  \
    "'migration',(SELECT json_build_object('id',m.migration_id,'status',m.status,'phase',m.phase,'target_node_id',m.target_node_id) FROM volume_migrations_view m WHERE "   \
    MT_SQL_MIGRATES("m", "v") " ORDER BY m.migration_id DESC LIMIT 1),'attachment',(SELECT json_build_object('id',a.attachment_id,'process_type',a.process_type,'mount_path',a.mount_path,'read_only',"   \
    "a.read_only,'managed_by',a.managed_by) FROM volume_attachments_view a WHERE a.volume_id = v.volume_id AND NOT a.deleted),"          \
    "'check',CASE WHEN v.check_number > 0 THEN json_strip_nulls(json_build_object('repair',v.check_repair,'pending',v.check_pending,'result',CASE WHEN NOT v.check_pending THEN v.check_result END,"  \
    "'detail',CASE WHEN NOT v.check_pending THEN v.check_detail END,'checked_at',CASE WHEN NOT v.check_pending THEN " MT_SQL_TS("v.checked_at") " END)) END,"                                     \
    "'resource_version',v.resource_version,'created_at'," MT_SQL_TS("v.created_at") ",'updated_at'," MT_SQL_TS("v.updated_at") "))::text"

MT_SQL_LIST(env_volumes, VOLUME_OBJECT, "volumes_view v", "volume_id", "env_id = $1 AND ($2 OR NOT deleted)", "3", "4");
MT_SQL_LIST(org_volumes, VOLUME_OBJECT, "volumes_view v", "volume_id", "org_id = $1 AND ($2 OR NOT deleted) AND " MT_SQL_INSIDE("app_id", "env_id", "3", "4"), "5", "6");
MT_SQL_LIST(admin_volumes, VOLUME_OBJECT, "volumes_view v", "volume_id", "($1::text IS NULL OR home_node_id = $1) AND ($2 OR NOT deleted) AND ($3::text IS NULL OR volume_id = $3)", "4", "5");
MT_SQL_LIST(admin_backups, VOLUME_OBJECT, "volumes_view v", "volume_id",
            "v.backup_enabled AND NOT v.deleted AND ($1::text IS NULL OR home_node_id = $1) AND (NOT $2 OR (" MT_SQL_BACKUP_STALE("v") "))", "3", "4");
static const struct mt_pg_stmt volume_get = {
    "volume_get", "SELECT " VOLUME_OBJECT ", resource_version FROM volumes_view v WHERE env_id = $1 AND volume_id = $2"};
static const struct mt_pg_stmt status_volumes = {
    "status_volumes", "SELECT coalesce(json_agg((" VOLUME_OBJECT ")::json ORDER BY v.name COLLATE \"C\"), '[]')::text FROM volumes_view v"
                      " WHERE env_id = $1 AND NOT deleted"};
static const struct mt_pg_stmt volume_row = {
    "volume_row", "SELECT v.name, v.state, v.size_bytes, v.resize_to_bytes, v.home_node_id, v.resource_version, v.deleted, " MT_SQL_VOLUME_HELD("v")
                  " AS held, (SELECT a.process_type FROM volume_attachments_view a WHERE a.volume_id = v.volume_id AND NOT a.deleted) AS process_type, "
                  VOLUME_OBJECT " AS object FROM volumes_view v WHERE env_id = $1 AND volume_id = $2"};

static const struct mt_pg_stmt active_snapshot = {
    "volume_snapshot", "SELECT snapshot_id FROM snapshots_view WHERE volume_id = $1 AND status IN ('queued', 'running') LIMIT 1"};
/* Asked again under the append lock. */
static const struct mt_pg_stmt no_snapshot = {
    "volume_no_snapshot", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM snapshots_view WHERE volume_id = $1 AND status IN ('queued', 'running'))"};

#define MIGRATING "SELECT m.migration_id FROM volume_migrations_view m JOIN volumes_view v ON " MT_SQL_MIGRATES("m", "v") " WHERE v.volume_id = $1"
static const struct mt_pg_stmt migrating = {"volume_migrating", MIGRATING " LIMIT 1"};
static const struct mt_pg_stmt not_migrating = {"volume_not_migrating", "SELECT 1 WHERE NOT EXISTS (" MIGRATING ")"};

enum { ROW_NAME = 0, ROW_STATE, ROW_SIZE, ROW_RESIZE, ROW_HOME, ROW_VERSION, ROW_DELETED, ROW_HELD, ROW_PROCESS, ROW_OBJECT };

static int list_begin(struct mt_api_call *c, struct mt_api_list *l, const char *owner)
{
    bool deleted;
    mt_pg_p_init(&l->params);
    mt_pg_p_text(&l->params, owner);
    if (mt_api_query_bool(c, "include_deleted", false, &deleted) < 0)
        return -1;
    mt_pg_p_bool(&l->params, deleted);
    return 0;
}

int mt_api_volumes_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &env_volumes_asc, .desc = &env_volumes_desc};
    return list_begin(c, &l, c->env.id) < 0 ? -1 : mt_api_send_list(c, &l);
}

int mt_api_volumes_list_org(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &org_volumes_asc, .desc = &org_volumes_desc};
    if (list_begin(c, &l, c->org.id) < 0)
        return -1;
    mt_api_list_inside(c, &l);
    return mt_api_send_list(c, &l);
}

int mt_api_admin_volumes_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &admin_volumes_asc, .desc = &admin_volumes_desc};
    if (list_begin(c, &l, mt_api_query(c, "node_id")) < 0)
        return -1;
    mt_pg_p_text(&l.params, mt_api_query(c, "volume_id"));
    return mt_api_send_list(c, &l);
}

/* Volumes that are to be backed up; with `stale` those whose newest backup is older than two intervals. */
int mt_api_admin_backups_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &admin_backups_asc, .desc = &admin_backups_desc};
    bool stale;
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, mt_api_query(c, "node_id"));
    if (mt_api_query_bool(c, "stale", false, &stale) < 0)
        return -1;
    mt_pg_p_bool(&l.params, stale);
    return mt_api_send_list(c, &l);
}

static struct mt_pg_params one(struct mt_api_call *c)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "volume_id"));
    return p;
}

int mt_api_volumes_get(struct mt_api_call *c)
{
    struct mt_pg_params p = one(c);
    if (mt_api_query_done(c) < 0)
        return -1;
    return mt_api_send_row(c, &volume_get, &p, "volume");
}

int mt_api_status_volumes(struct mt_api_call *c, json_t *o)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query_one(c->pg, &status_volumes, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return json_object_set_new(o, "volumes", json_loads(mt_pg_text(r, 0, 0), 0, &je));
}

/* Nothing that a migration would have to start from the beginning for; asked again under the append lock. */
static int check_not_migrating(struct mt_api_call *c, struct mt_cmd *cmd, const char *id, const char *name)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &migrating, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) > 0)
        return mt_api_fail(c, 409, "migration_in_progress", "volume '%s' is moved to another node by %s; wait for it (moat wait migration %s), or an operator takes it back", name, mt_pg_text(r, 0, 0),
                           mt_pg_text(r, 0, 0));
    return mt_cmd_side(cmd, &not_migrating, &p, 1, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int load(struct mt_api_call *c, struct mt_pg_res **ret)
{
    struct mt_pg_params p = one(c);
    if (mt_pg_query_one(c->pg, &volume_row, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    return 0;
}

/* A size that was asked for, in whole steps. */
static int read_size(struct mt_api_call *c, uint64_t *ret)
{
    int64_t size;
    if (mt_api_int(c, "size_bytes", true, 1, INT64_MAX, 0, &size) < 0)
        return -1;
    *ret = mt_volume_size((uint64_t)size);
    if (*ret == 0)
        return mt_api_fail(c, 400, "invalid_argument", "'size_bytes': is at least %llu (1 GiB) and at most %llu (2 TiB)",
                           (unsigned long long)MT_VOLUME_SIZE_MIN, (unsigned long long)MT_VOLUME_SIZE_MAX);
    return 0;
}

/* ---------------------------------------------------------------- create */

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", "size_bytes", "filesystem", "backup_enabled", "node_id", NULL};
    const char *name, *fs, *node;
    mt_auto_free struct mt_volume_node *nodes = NULL;
    char id[MT_ID_SIZE], why[320];
    uint64_t size;
    size_t n;
    bool backup;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        mt_api_text(c, "name", true, 64, &name) < 0 || mt_api_text(c, "filesystem", false, 16, &fs) < 0 ||
        mt_api_bool(c, "backup_enabled", true, &backup) < 0 || mt_api_text(c, "node_id", false, MT_ID_SIZE, &node) < 0 || read_size(c, &size) < 0)
        return -1;
    if (mt_name_check(MT_NAME_VOLUME, name, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'name': %s", c->err.msg);
    if (fs && !MT_STREQ(fs, "ext4"))
        return mt_api_fail(c, 400, "not_supported", "'filesystem': only ext4 is supported in this version");
    if (node && mt_id_check(MT_ID_NODE, node, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'node_id': %s", c->err.msg);
    if (node && !c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "only operators choose the node of a volume; leave 'node_id' out");
    if (mt_api_volume_nodes(c, &nodes, &n) < 0)
        return -1;
    long k = mt_volume_home(nodes, n, size, node);
    if (k < 0) {
        mt_volume_home_why(nodes, n, size, node, why, sizeof why);
        return mt_api_fail(c, 409, "no_capacity_storage", "no node can hold the volume: %s", why);
    }
    mt_id_new(MT_ID_VOLUME, id);
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0 || mt_volume_rely_room(cmd, &nodes[k], &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    made->operation = "volume.create";
    made->ids = json_pack("{s:s}", "volume_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:s,s:b,s:s,s:s,s:b,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "app_id", c->app.id, "env_id",
                             c->env.id, "name", name, "size_bytes", (json_int_t)size, "filesystem", "ext4", "backup_enabled", (int)backup, "home_node_id",
                             nodes[k].node_id, "state", "creating", "reachable", 1, "resource_version", 1, "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s/volumes/%s", c->org.id, c->app.id, c->env.id, id);
    mt_api_next(made, "wait for it", "moat wait volume %s", id);
    return mt_api_event(c, cmd, MT_EV_VOLUME_CREATED, id,
                        json_pack("{s:s,s:I,s:s,s:b,s:s}", "name", name, "size_bytes", (json_int_t)size, "filesystem", "ext4", "backup_enabled",
                                  (int)backup, "home_node_id", nodes[k].node_id));
}

int mt_api_volumes_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

/* ---------------------------------------------------------------- change */

/* What a release mounts it mounts by name: a volume that a process has keeps the name, or the next deploy would make an empty one of that name. */
static int patch_name(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_patch *p, const struct mt_pg_res *r, const char *id)
{
    const char *now = mt_pg_text(r, 0, ROW_NAME), *name;
    if (mt_api_patch_text(c, p, "name", 64, false) < 0)
        return -1;
    if (!(name = json_string_value(json_object_get(p->payload, "name"))))
        return 0;
    if (mt_name_check(MT_NAME_VOLUME, name, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'name': %s", c->err.msg);
    if (!mt_pg_null(r, 0, ROW_PROCESS))
        return mt_api_fail(c, 409, "volume_attached", "volume '%s' is attached to process '%s', which mounts it by this name; detach it first (moat volumes detach)", now,
                           mt_pg_text(r, 0, ROW_PROCESS));
    if (mt_pg_bool(r, 0, ROW_HELD))
        return mt_api_fail(c, 409, "volume_in_use", "an instance that has not stopped yet mounts volume '%s' by this name; wait for the rollout or scale to 0", now);
    if (check_not_migrating(c, cmd, id, now) < 0)
        return -1;
    return mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENTS, id, NULL, 0, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int patch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const known[] = {"name", "backup_enabled", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *id = mt_api_param(c, "volume_id");
    struct mt_pg_params key = one(c);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, &r) < 0)
        return -1;
    if (mt_pg_bool(r, 0, ROW_DELETED))
        return mt_api_not_found(c, "volume");
    if (mt_api_patch_begin(c, &volume_get, &key, "volume", p) < 0)
        return -1;
    if (MT_STREQ(mt_pg_text(r, 0, ROW_STATE), "deleting"))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is being deleted", mt_pg_text(r, 0, ROW_NAME));
    if (patch_name(c, cmd, p, r, id) < 0 || mt_api_patch_bool(c, p, "backup_enabled") < 0 || mt_api_patch_end(c, p, made, "volume.update", "volume_id", id) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, p->version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_VOLUME_UPDATED, id, json_incref(p->payload));
}

static int prepare_patch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_api_patch p = {0};
    int rc = patch(c, cmd, made, &p);
    mt_api_patch_done(&p);
    return rc;
}

int mt_api_volumes_patch(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_patch);
}

/* ---------------------------------------------------------------- resize */

/* It grows before the next start of its process: that start is made now, by the same command. */
static int restart_owner(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const struct mt_pg_res *r)
{
    char deploy_id[MT_ID_SIZE];
    if (!(mt_scope_bit("deploys:write") & c->who.scopes & c->who.org_scopes))
        return mt_api_fail(c, 403, "insufficient_scope", "'restart' needs the scope deploys:write too; without it: leave it out");
    if (mt_pg_null(r, 0, ROW_PROCESS))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is attached to no process, so there is none to restart; it grows before the first start of one", mt_pg_text(r, 0, ROW_NAME));
    if (mt_api_restart_of(c, cmd, mt_pg_text(r, 0, ROW_PROCESS), deploy_id) < 0)
        return -1;
    json_object_set_new(made->ids, "deploy_id", json_string(deploy_id));
    json_object_set_new(made->object, "deploy_id", json_string(deploy_id));
    mt_api_next(made, "wait for it", "moat deploys wait %s", deploy_id);
    return 0;
}

static int prepare_resize(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"size_bytes", "restart", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_free struct mt_volume_node *nodes = NULL;
    const char *id = mt_api_param(c, "volume_id");
    json_error_t je;
    uint64_t size;
    bool restart;
    size_t n, k = 0;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_bool(c, "restart", false, &restart) < 0 || load(c, &r) < 0 ||
        read_size(c, &size) < 0)
        return -1;
    if (mt_pg_bool(r, 0, ROW_DELETED))
        return mt_api_not_found(c, "volume");
    uint64_t now = (uint64_t)mt_pg_i64(r, 0, ROW_SIZE), asked = (uint64_t)mt_pg_i64_or(r, 0, ROW_RESIZE, 0), have = asked > now ? asked : now;
    if (size < have)
        return mt_api_fail(c, 400, "volume_shrink_unsupported", "volume '%s' has %llu bytes%s and never becomes smaller; restore into a new one instead",
                           mt_pg_text(r, 0, ROW_NAME), (unsigned long long)have, asked ? " (asked for)" : "");
    if (!MT_STREQ(mt_pg_text(r, 0, ROW_STATE), "available"))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is %s; only one that is available grows", mt_pg_text(r, 0, ROW_NAME), mt_pg_text(r, 0, ROW_STATE));
    made->operation = "volume.resize";
    made->ids = json_pack("{s:s}", "volume_id", id);
    made->object = json_loads(mt_pg_text(r, 0, ROW_OBJECT), 0, &je);
    if (size == have) {
        made->nothing = !restart || !asked;
        return made->nothing ? 0 : restart_owner(c, cmd, made, r);
    }
    if (check_not_migrating(c, cmd, id, mt_pg_text(r, 0, ROW_NAME)) < 0 || mt_api_volume_nodes(c, &nodes, &n) < 0)
        return -1;
    while (k < n && !MT_STREQ(nodes[k].node_id, mt_pg_text(r, 0, ROW_HOME)))
        k++;
    if (k == n || nodes[k].allocatable_bytes < nodes[k].used_bytes || nodes[k].allocatable_bytes - nodes[k].used_bytes < size - have)
        return mt_api_fail(c, 409, "no_capacity_storage", "node %s, where volume '%s' lives, has no room for %llu bytes more", mt_pg_text(r, 0, ROW_HOME),
                           mt_pg_text(r, 0, ROW_NAME), (unsigned long long)(size - have));
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, mt_pg_i64(r, 0, ROW_VERSION), &c->err) < 0 || mt_volume_rely_room(cmd, &nodes[k], &c->err) < 0)
        return mt_api_fail_err(c);
    json_object_set_new(made->object, "resize_to_bytes", json_integer((json_int_t)size));
    json_object_set_new(made->object, "resource_version", json_integer(mt_pg_i64(r, 0, ROW_VERSION) + 1));
    json_object_set_new(made->object, "updated_at", json_null());
    if (mt_api_event(c, cmd, MT_EV_VOLUME_RESIZE_REQUESTED, id, json_pack("{s:I}", "size_bytes", (json_int_t)size)) < 0)
        return -1;
    if (restart)
        return restart_owner(c, cmd, made, r);
    if (!mt_pg_null(r, 0, ROW_PROCESS))
        mt_api_next(made, "it grows before the next start of its process", "moat restart --process %s", mt_pg_text(r, 0, ROW_PROCESS));
    return 0;
}

int mt_api_volumes_resize(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_resize);
}

/* ---------------------------------------------------------------- delete */

/* A job would be left without its volume. */
static int check_no_snapshot(struct mt_api_call *c, struct mt_cmd *cmd, const char *id, const char *name)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &active_snapshot, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) > 0)
        return mt_api_fail(c, 409, "snapshot_in_progress", "snapshot %s of volume '%s' has not ended; wait for it, or delete it", mt_pg_text(r, 0, 0), name);
    return mt_cmd_side(cmd, &no_snapshot, &p, 1, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

/* A DELETE need not have a body: either place says it. */
static int read_either(struct mt_api_call *c, const char *name, bool by_query, bool *ret)
{
    if (mt_api_bool(c, name, by_query, ret) < 0)
        return -1;
    return by_query && !*ret ? mt_api_fail(c, 400, "invalid_argument", "'%s' is true in the query and false in the body", name) : 0;
}

static const struct mt_pg_stmt force_row = {
    "volume_force", "SELECT a.attachment_id, a.resource_version, a.process_type, coalesce(d.resource_version, 0), d.release_id IS NOT NULL FROM volume_attachments_view a"
                    " LEFT JOIN env_desired_view d ON d.env_id = a.env_id AND d.process_type = a.process_type WHERE a.volume_id = $1 AND NOT a.deleted"};
enum { F_ID = 0, F_VERSION, F_PROCESS, F_DESIRED, F_DEPLOYED };

/* What has it loses it: the process is scaled to 0, so that none of its instances comes back to an empty place, and the node removes the
 * volume when no VM has it any more. */
static int take_away(struct mt_api_call *c, struct mt_cmd *cmd, const char *id)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &force_row, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENTS, id, NULL, 0, &c->err) < 0 ? mt_api_fail_err(c) : 0;
    const char *attachment = mt_pg_text(r, 0, F_ID), *process = mt_pg_text(r, 0, F_PROCESS);
    if (mt_cmd_rely(cmd, MT_RELY_DESIRED, c->env.id, process, mt_pg_i64(r, 0, F_DESIRED), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENT, attachment, NULL, mt_pg_i64(r, 0, F_VERSION), &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_bool(r, 0, F_DEPLOYED) &&
        mt_api_event(c, cmd, MT_EV_ENV_SCALE_SET, c->env.id, json_pack("{s:[{s:s,s:i}]}", "scales", "process_type", process, "desired", 0)) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_VOLUME_ATTACHMENT_DELETED, attachment, json_pack("{s:s,s:s,s:b}", "volume_id", id, "process_type", process, "forced", 1));
}

static int check_free(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const char *id)
{
    if (!mt_pg_null(r, 0, ROW_PROCESS))
        return mt_api_fail(c, 409, "volume_attached", "volume '%s' is attached to process '%s'; scale that to 0 and detach it (moat volumes detach), or deploy a release that does not mount it",
                           mt_pg_text(r, 0, ROW_NAME), mt_pg_text(r, 0, ROW_PROCESS));
    if (mt_pg_bool(r, 0, ROW_HELD))
        return mt_api_fail(c, 409, "volume_in_use", "an instance that has not stopped yet mounts volume '%s'; wait for the rollout or scale to 0", mt_pg_text(r, 0, ROW_NAME));
    return mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENTS, id, NULL, 0, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", "delete_backups", "force", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *id = mt_api_param(c, "volume_id");
    bool backups_too, force, backups_query, force_query;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_bool(c, "delete_backups", false, &backups_query) < 0 || mt_api_query_bool(c, "force", false, &force_query) < 0 ||
        mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || read_either(c, "delete_backups", backups_query, &backups_too) < 0 ||
        read_either(c, "force", force_query, &force) < 0 || load(c, &r) < 0)
        return -1;
    if (force && !c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "only operators delete a volume under the process that has it ('force'); scale that to 0 and detach it (moat volumes detach)");
    bool gone = mt_pg_bool(r, 0, ROW_DELETED) || MT_STREQ(mt_pg_text(r, 0, ROW_STATE), "deleting");
    mt_api_deleted(made, "volume.delete", "volume_id", id, gone);
    if (gone)
        return 0;
    if (mt_api_check_version(c, false, mt_pg_i64(r, 0, ROW_VERSION), "volume") < 0)
        return -1;
    if (check_not_migrating(c, cmd, id, mt_pg_text(r, 0, ROW_NAME)) < 0 || check_no_snapshot(c, cmd, id, mt_pg_text(r, 0, ROW_NAME)) < 0)
        return -1;
    if ((force ? take_away(c, cmd, id) : check_free(c, cmd, r, id)) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, mt_pg_i64(r, 0, ROW_VERSION), &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *payload = json_pack("{s:s}", "state", "deleting");
    if (backups_too)
        json_object_set_new(payload, "delete_backups", json_true());
    if (force)
        json_object_set_new(payload, "forced", json_true());
    return mt_api_event(c, cmd, MT_EV_VOLUME_STATE_CHANGED, id, payload);
}

int mt_api_volumes_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}

/* ---------------------------------------------------------------- check and repair, for operators */

static const struct mt_pg_stmt check_row = {
    "volume_check_row", "SELECT v.name, v.state, v.org_id, v.app_id, v.env_id, v.resource_version, v.check_number, v.check_pending, " MT_SQL_VOLUME_HELD("v")
                        " AS held, coalesce((SELECT n.health FROM nodes_view n WHERE n.node_id = v.home_node_id AND NOT n.deleted), 'removed') AS health, v.home_node_id, "
                        VOLUME_OBJECT " AS object FROM volumes_view v WHERE v.volume_id = $1 AND NOT v.deleted"};
enum { C_NAME = 0, C_STATE, C_ORG, C_APP, C_ENV, C_VERSION, C_NUMBER, C_PENDING, C_HELD, C_HEALTH, C_NODE, C_OBJECT };

/* One writer of a filesystem: no VM may have it, and none comes before the node has told of the end (agent/volumes.c). */
static int check_checkable(struct mt_api_call *c, const struct mt_pg_res *r)
{
    const char *name = mt_pg_text(r, 0, C_NAME), *state = mt_pg_text(r, 0, C_STATE), *health = mt_pg_text(r, 0, C_HEALTH);
    if (MT_STREQ(state, "creating") || MT_STREQ(state, "deleting"))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is %s; only one that is there is looked at", name, state);
    if (mt_pg_bool(r, 0, C_HELD))
        return mt_api_fail(c, 409, "volume_in_use", "an instance that has not stopped yet mounts volume '%s'; its process is scaled to 0 first", name);
    if (mt_pg_bool(r, 0, C_PENDING))
        return mt_api_fail(c, 409, "conflict", "the filesystem of volume '%s' is being looked at already (moat admin volumes list)", name);
    if (MT_STREQ(health, "offline") || MT_STREQ(health, "lost") || MT_STREQ(health, "removed"))
        return mt_api_fail(c, 409, "conflict", "node %s, where volume '%s' lives, is %s and looks at nothing", mt_pg_text(r, 0, C_NODE), name, health);
    return 0;
}

static int prepare_check(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool repair)
{
    static const char *const known[] = {NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *id = mt_api_param(c, "volume_id");
    struct mt_pg_params p;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (mt_pg_query(c->pg, &check_row, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "volume");
    if (check_checkable(c, r) < 0 || check_not_migrating(c, cmd, id, mt_pg_text(r, 0, C_NAME)) < 0)
        return -1;
    made->operation = repair ? "volume.repair" : "volume.fsck";
    made->ids = json_pack("{s:s}", "volume_id", id);
    made->object = json_loads(mt_pg_text(r, 0, C_OBJECT), 0, &je);
    json_object_set_new(made->object, "check", json_pack("{s:b,s:b}", "repair", (int)repair, "pending", 1));
    json_object_set_new(made->object, "resource_version", json_integer(mt_pg_i64(r, 0, C_VERSION) + 1));
    json_object_set_new(made->object, "updated_at", json_null());
    mt_api_next(made, "what came of it", "moat admin volumes list");
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, C_ORG), .app_id = mt_pg_text(r, 0, C_APP), .env_id = mt_pg_text(r, 0, C_ENV)};
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, mt_pg_i64(r, 0, C_VERSION), &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_VOLUME_CHECK_REQUESTED, id, &ids, json_pack("{s:I,s:b}", "number", (json_int_t)mt_pg_i64(r, 0, C_NUMBER) + 1, "repair", (int)repair), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int prepare_fsck(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_check(c, cmd, made, false);
}

static int prepare_repair(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_check(c, cmd, made, true);
}

int mt_api_admin_volumes_fsck(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_fsck);
}

int mt_api_admin_volumes_repair(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_repair);
}
