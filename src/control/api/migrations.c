/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes that move to another node (storage-and-secrets.md §5.2; control-plane.md §9.3): asked for and taken back by operators, seen by whoever sees
 * the volumes. What follows is done by the role `backups` (volumes/migrations.h). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/volumes/migrate.h"
#include "control/volumes/migrations.h"

#define MIGRATION_OBJECT                                                                                                              \
    "json_strip_nulls(json_build_object('id',m.migration_id,'org_id',m.org_id,'app_id',m.app_id,'env_id',m.env_id,'process_type',m.process_type,'volume_ids',to_json(m.volume_ids)," \
    "'new_volume_ids',to_json(m.new_volume_ids),'source_node_id',m.source_node_id,'target_node_id',m.target_node_id,'reason',m.reason,'status',m.status,'phase',m.phase," \
    "'bytes_total',(SELECT sum(v.size_bytes)::bigint FROM volumes_view v WHERE v.volume_id = ANY (m.new_volume_ids)),'bytes_uploaded',(SELECT sum(s.uploaded_bytes)::bigint" \
    " FROM snapshots_view s WHERE s.migration_id = m.migration_id AND s.volume_id = ANY (m.volume_ids)),'downtime_ms',m.downtime_ms,'failed_reason',m.failed_reason,'requested_by',m.requested_by," \
    "'finished_at'," MT_SQL_TS("m.finished_at") ",'resource_version',m.resource_version,'created_at'," MT_SQL_TS("m.created_at") ",'updated_at'," MT_SQL_TS("m.updated_at") "))::text"

MT_SQL_LIST(org_migrations, MIGRATION_OBJECT, "volume_migrations_view m", "migration_id", "org_id = $1 AND " MT_SQL_INSIDE("app_id", "env_id", "2", "3"), "4", "5");
static const struct mt_pg_stmt migration_get = {
    "migration_get", "SELECT " MIGRATION_OBJECT ", resource_version FROM volume_migrations_view m WHERE org_id = $1 AND migration_id = $2 AND " MT_SQL_INSIDE("app_id", "env_id", "3", "4")};
static const struct mt_pg_stmt migration_row = {
    "migration_row", "SELECT m.status, coalesce(m.phase, ''), m.reason = '" MT_MIGRATION_REPLACES "' FROM volume_migrations_view m WHERE org_id = $1 AND migration_id = $2"};

int mt_api_migrations_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &org_migrations_asc, .desc = &org_migrations_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_api_list_inside(c, &l);
    return mt_api_send_list(c, &l);
}

int mt_api_migrations_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    struct mt_pg_arr inside[2];
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, mt_api_param(c, "migration_id"));
    mt_api_inside(c, &p, inside);
    int rc = mt_api_send_row(c, &migration_get, &p, "migration");
    mt_api_inside_done(inside);
    return rc;
}

static int operators_only(struct mt_api_call *c)
{
    return c->who.is_operator ? 0 : mt_api_fail(c, 403, "operator_only", "only operators move volumes between nodes");
}

static int refused(struct mt_api_call *c, const struct mt_migration_new *m)
{
    return MT_STREQ(m->code, "not_found") && strstr(m->why, "no such volume") ? mt_api_not_found(c, "volume") : mt_api_fail(c, MT_STREQ(m->code, "not_found") ? 404 : 409, m->code, "%s", m->why);
}

static int prepare_migrate(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"node_id", NULL};
    struct mt_migration_new m = {.reason = "user"};
    const char *node_id;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "node_id", true, MT_ID_SIZE, &node_id) < 0)
        return -1;
    if (mt_id_check(MT_ID_NODE, node_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'node_id': %s", c->err.msg);
    if (operators_only(c) < 0)
        return -1;
    int rc = mt_migration_plan(c->ctl, c->pg, c->env.id, mt_api_param(c, "volume_id"), node_id, &m, &c->err);
    if (rc <= 0)
        return rc == 0 ? refused(c, &m) : mt_api_fail_err(c);
    made->status = 201;
    made->operation = "volume.migrate";
    made->ids = json_pack("{s:s,s:s}", "migration_id", m.migration_id, "volume_id", mt_api_param(c, "volume_id"));
    json_t *old = json_array(), *new = json_array();
    for (size_t i = 0; i < m.n; i++) {
        json_array_append_new(old, json_string(m.volumes[i].volume_id));
        json_array_append_new(new, json_string(m.volumes[i].new_volume_id));
    }
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s*,s:o,s:o,s:s,s:s,s:s,s:s,s:s,s:i,s:n,s:n}", "id", m.migration_id, "org_id", c->org.id, "app_id", c->app.id, "env_id", c->env.id,
                             "process_type", m.process_type[0] ? m.process_type : NULL, "volume_ids", old, "new_volume_ids", new, "source_node_id", m.source_node_id, "target_node_id",
                             m.target_node_id, "reason", m.reason, "status", "queued", "requested_by", c->who.subject_id, "resource_version", 1, "created_at", "updated_at");
    (void)snprintf(made->location, sizeof made->location, "/v1/orgs/%s/migrations/%s", c->org.id, m.migration_id);
    mt_api_next(made, "wait for it", "moat wait migration %s", m.migration_id);
    mt_api_next(made, "take it back while the process runs", "moat migrations cancel %s", m.migration_id);
    rc = mt_migration_begin(c->ctl, c->pg, cmd, &m, &c->err);
    if (rc == -MT_E_UNAVAILABLE && strstr(c->err.msg, "master key"))
        return mt_api_fail(c, 503, "master_key_unavailable", "%s", c->err.msg);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

int mt_api_volumes_migrate(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_migrate);
}

static int prepare_cancel(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {NULL};
    const char *id = mt_api_param(c, "migration_id");
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, id);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &migration_row, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "migration") : mt_api_fail_err(c);
    if (!mt_pg_bool(r, 0, 2) && operators_only(c) < 0) /* what only replaces was no operator's to ask for */
        return -1;
    const char *status = mt_pg_text(r, 0, 0), *phase = mt_pg_text(r, 0, 1);
    bool failed = MT_STREQ(status, "failed");
    mt_api_deleted(made, "volume.migrate_cancel", "migration_id", id, failed);
    if (failed)
        return 0;
    int rc = mt_migration_end(c->pg, cmd, id, "cancelled", &c->err);
    if (rc < 0)
        return mt_api_fail_err(c);
    if (rc == 0 && MT_STREQ(status, "succeeded"))
        return mt_api_fail(c, 409, "conflict", "migration %s has ended; another one moves the volumes back", id);
    return rc == 0 ? mt_api_fail(c, 409, "conflict", "migration %s is %s: the process runs on the other node already, or will run here again when it is not ready there in time", id, phase) : 0;
}

int mt_api_migrations_cancel(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_cancel);
}
