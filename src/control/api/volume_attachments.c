/* SPDX-License-Identifier: Apache-2.0 */
/* Which volume a process mounts where (storage-and-secrets.md §2.5). Deploys make attachments; here they are listed and taken away. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/volumes/volume_sql.h"

#define ATTACHMENT_OBJECT                                                                                                  \
    "json_strip_nulls(json_build_object('id',attachment_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,'volume_id',volume_id," \
    "'process_type',process_type,'mount_path',mount_path,'read_only',read_only,'managed_by',managed_by,'deleted',CASE WHEN deleted" \
    " THEN true END,'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(env_attachments, ATTACHMENT_OBJECT, "volume_attachments_view", "attachment_id", "env_id = $1 AND ($2 OR NOT deleted)", "3", "4");
/* @wanted: replicas of the process; 0 where its release does not mount the volume, or it has none. */
static const struct mt_pg_stmt attachment_row = {
    "attachment_row",
    "SELECT a.volume_id, a.process_type, a.resource_version, a.deleted, v.name, " MT_SQL_VOLUME_HELD("v") " AS held,"
    " coalesce(d.resource_version, 0) AS desired_version, CASE WHEN r.manifest->'processes'->a.process_type->'mounts'"
    " @> jsonb_build_array(jsonb_build_object('volume', v.name)) THEN coalesce(d.desired_user, (r.manifest->'processes'->a.process_type"
    "->'scaling'->>'min')::int, 1) ELSE 0 END AS wanted FROM volume_attachments_view a JOIN volumes_view v ON v.volume_id = a.volume_id"
    " LEFT JOIN env_desired_view d ON d.env_id = a.env_id AND d.process_type = a.process_type LEFT JOIN releases_view r ON r.release_id = d.release_id"
    " WHERE a.env_id = $1 AND a.attachment_id = $2"};

enum { A_VOLUME = 0, A_PROCESS, A_VERSION, A_DELETED, A_NAME, A_HELD, A_DESIRED, A_WANTED };

int mt_api_volume_attachments_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &env_attachments_asc, .desc = &env_attachments_desc};
    bool deleted;
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->env.id);
    if (mt_api_query_bool(c, "include_deleted", false, &deleted) < 0)
        return -1;
    mt_pg_p_bool(&l.params, deleted);
    return mt_api_send_list(c, &l);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    const char *id = mt_api_param(c, "attachment_id");
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, id);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &attachment_row, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume attachment") : mt_api_fail_err(c);
    bool gone = mt_pg_bool(r, 0, A_DELETED);
    mt_api_deleted(made, "volume.detach", "attachment_id", id, gone);
    if (gone)
        return 0;
    const char *process = mt_pg_text(r, 0, A_PROCESS), *name = mt_pg_text(r, 0, A_NAME);
    if (mt_api_check_version(c, false, mt_pg_i64(r, 0, A_VERSION), "attachment") < 0)
        return -1;
    if (mt_pg_i64(r, 0, A_WANTED) > 0 || mt_pg_bool(r, 0, A_HELD))
        return mt_api_fail(c, 409, "volume_in_use", "process '%s' %s volume '%s'; scale it to 0 first and wait until it has stopped: moat scale %s=0", process,
                           mt_pg_bool(r, 0, A_HELD) ? "uses" : "wants", name, process);
    /* Scaled up in this moment, the process would get the volume again: then this is looked at anew. */
    if (mt_cmd_rely(cmd, MT_RELY_DESIRED, c->env.id, process, mt_pg_i64(r, 0, A_DESIRED), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENT, id, NULL, mt_pg_i64(r, 0, A_VERSION), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_VOLUME_ATTACHMENT_DELETED, id,
                        json_pack("{s:s,s:s,s:b}", "volume_id", mt_pg_text(r, 0, A_VOLUME), "process_type", process, "forced", false));
}

int mt_api_volume_attachments_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
