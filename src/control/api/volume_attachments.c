/* SPDX-License-Identifier: Apache-2.0 */
/* Which volume a process mounts where (storage-and-secrets.md §2.5). Deploys make attachments, and volume_attach.c does; here they are listed, taken
 * away, and given to another volume, which takes the name with it: what a release mounts it mounts by name. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/volumes/migrate.h"
#include "model/ids.h"

#define ATTACHMENT_OBJECT                                                                                                  \
    "json_strip_nulls(json_build_object('id',attachment_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,'volume_id',volume_id," \
    "'process_type',process_type,'mount_path',mount_path,'read_only',read_only,'managed_by',managed_by,'deleted',CASE WHEN deleted" \
    " THEN true END,'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(env_attachments, ATTACHMENT_OBJECT, "volume_attachments_view", "attachment_id", "env_id = $1 AND ($2 OR NOT deleted)", "3", "4");
static const struct mt_pg_stmt attachment_get = {
    "attachment_get", "SELECT " ATTACHMENT_OBJECT ", resource_version FROM volume_attachments_view WHERE env_id = $1 AND attachment_id = $2 AND NOT deleted"};
/* @wanted: replicas of the process; 0 where its release does not mount the volume, or it has none. */
static const struct mt_pg_stmt attachment_row = {
    "attachment_row",
    "SELECT a.volume_id, a.process_type, a.resource_version, a.deleted, v.name, " MT_SQL_VOLUME_HELD("v") " AS held,"
    " coalesce(d.resource_version, 0) AS desired_version, CASE WHEN (a.managed_by = 'api' AND r.release_id IS NOT NULL) OR r.manifest->'processes'->a.process_type->'mounts'"
    " @> jsonb_build_array(jsonb_build_object('volume', v.name)) THEN coalesce(d.desired_user, (r.manifest->'processes'->a.process_type"
    "->'scaling'->>'min')::int, 1) ELSE 0 END AS wanted FROM volume_attachments_view a JOIN volumes_view v ON v.volume_id = a.volume_id"
    " LEFT JOIN env_desired_view d ON d.env_id = a.env_id AND d.process_type = a.process_type LEFT JOIN releases_view r ON r.release_id = d.release_id"
    " WHERE a.env_id = $1 AND a.attachment_id = $2"};

/* The volume that shall take the place; what it would stand beside. */
static const struct mt_pg_stmt successor = {
    "attachment_successor",
    "SELECT v.name, v.state, v.resource_version, v.home_node_id, EXISTS (SELECT 1 FROM volume_attachments_view a WHERE a.volume_id = v.volume_id AND NOT a.deleted),"
    " EXISTS (SELECT 1 FROM volume_attachments_view a JOIN volumes_view o ON o.volume_id = a.volume_id WHERE a.env_id = v.env_id AND a.process_type = $3"
    "  AND a.attachment_id <> $4 AND NOT a.deleted AND o.home_node_id <> v.home_node_id) FROM volumes_view v WHERE v.env_id = $1 AND v.volume_id = $2 AND NOT v.deleted"};
static const struct mt_pg_stmt predecessor = {
    "attachment_predecessor", "SELECT v.resource_version, v.state, n.name, n.health, n.node_id FROM volumes_view v JOIN nodes_view n ON n.node_id = v.home_node_id WHERE v.volume_id = $1"};

enum { N_NAME = 0, N_STATE, N_VERSION, N_HOME, N_ATTACHED, N_APART };
enum { O_VERSION = 0, O_STATE, O_NODE, O_HEALTH, O_NODE_ID };
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

int mt_api_volume_attachments_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "attachment_id"));
    return mt_api_send_row(c, &attachment_get, &p, "volume attachment");
}

/* The process neither runs nor is wanted to. */
static int check_at_rest(struct mt_api_call *c, const struct mt_pg_res *r)
{
    const char *process = mt_pg_text(r, 0, A_PROCESS);
    if (mt_pg_i64(r, 0, A_WANTED) > 0 || mt_pg_bool(r, 0, A_HELD))
        return mt_api_fail(c, 409, "volume_in_use", "process '%s' %s volume '%s'; scale it to 0 first and wait until it has stopped: moat scale %s=0", process,
                           mt_pg_bool(r, 0, A_HELD) ? "uses" : "wants", mt_pg_text(r, 0, A_NAME), process);
    return 0;
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
    const char *process = mt_pg_text(r, 0, A_PROCESS);
    if (mt_api_check_version(c, false, mt_pg_i64(r, 0, A_VERSION), "attachment") < 0)
        return -1;
    if (check_at_rest(c, r) < 0)
        return -1;
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

/* ---------------------------------------------------------------- replace */

int mt_api_volume_fence(struct mt_api_call *c, const char *node, const char *health)
{
    if (!MT_STREQ(health, "suspect") && !MT_STREQ(health, "offline"))
        return 0;
    return mt_api_fail(c, 409, "conflict", "node %s, where the old volume lives, is %s and may run the process still; an operator makes sure that it is powered off: "
                       "moat node mark-lost %s", node, health, node);
}

static int check_successor(struct mt_api_call *c, const struct mt_pg_res *n, const struct mt_pg_res *o, const char *process)
{
    const char *name = mt_pg_text(n, 0, N_NAME);
    if (!MT_STREQ(mt_pg_text(n, 0, N_STATE), "available"))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is %s; only one that is available takes a place", name, mt_pg_text(n, 0, N_STATE));
    if (mt_pg_bool(n, 0, N_ATTACHED))
        return mt_api_fail(c, 409, "volume_already_attached", "volume '%s' is attached already", name);
    if (mt_pg_bool(n, 0, N_APART))
        return mt_api_fail(c, 409, "volume_home_node_mismatch", "the other volumes of process '%s' do not live on %s; all of them must be on one node", process,
                           mt_pg_text(n, 0, N_HOME));
    return mt_api_volume_fence(c, mt_pg_text(o, 0, O_NODE), mt_pg_text(o, 0, O_HEALTH));
}

static int add_replace(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const struct mt_pg_res *n, const struct mt_pg_res *o, const char *new_id)
{
    const char *id = mt_api_param(c, "attachment_id"), *old_id = mt_pg_text(r, 0, A_VOLUME), *name = mt_pg_text(r, 0, A_NAME), *new_name = mt_pg_text(n, 0, N_NAME);
    char retired[33];
    if (mt_volume_spare_name(c->pg, c->env.id, name, retired, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_cmd_rely(cmd, MT_RELY_DESIRED, c->env.id, mt_pg_text(r, 0, A_PROCESS), mt_pg_i64(r, 0, A_DESIRED), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENT, id, NULL, mt_pg_i64(r, 0, A_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME, old_id, NULL, mt_pg_i64(o, 0, O_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME, new_id, NULL, mt_pg_i64(n, 0, N_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_LIVE, new_id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_VOLUME_RENAMED, old_id, json_pack("{s:s,s:s}", "name", retired, "old_name", name)) < 0 ||
        mt_api_event(c, cmd, MT_EV_VOLUME_RENAMED, new_id, json_pack("{s:s,s:s}", "name", name, "old_name", new_name)) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_VOLUME_ATTACHMENT_REPLACED, id,
                        json_pack("{s:s,s:s,s:s,s:s}", "old_volume_id", old_id, "new_volume_id", new_id, "old_name", retired, "reason", "user"));
}

/* Is either volume on its way already? */
static int check_at_home(struct mt_api_call *c, const char *old_id, const char *new_id)
{
    static const struct mt_pg_stmt moving = {
        "attachment_moving", "SELECT m.migration_id FROM volume_migrations_view m JOIN volumes_view v ON " MT_SQL_MIGRATES("m", "v") " WHERE v.volume_id IN ($1, $2) LIMIT 1"};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, old_id);
    mt_pg_p_text(&p, new_id);
    if (mt_pg_query(c->pg, &moving, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_pg_rows(r) == 0 ? 0 : mt_api_fail(c, 409, "migration_in_progress", "one of the volumes changes hands already by %s; wait for it (moat wait migration %s)",
                                                mt_pg_text(r, 0, 0), mt_pg_text(r, 0, 0));
}

/*
 * With `drain`, of a process that runs: a job as those that move volumes (volumes/migrations.h), which stops the process, lets the volumes change hands when nothing
 * runs, and lets it start. What is wanted of the process stays as it is, so that whoever is killed in between leaves none at 0.
 */
static int begin_drained(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const struct mt_pg_res *r, const struct mt_pg_res *n, const struct mt_pg_res *o, const char *new_id)
{
    const char *old_id = mt_pg_text(r, 0, A_VOLUME);
    const struct mt_migration_replacement m = {.ids = {.org_id = c->org.id, .app_id = c->app.id, .env_id = c->env.id}, .process_type = mt_pg_text(r, 0, A_PROCESS),
                                               .source_node_id = mt_pg_text(o, 0, O_NODE_ID), .target_node_id = mt_pg_text(n, 0, N_HOME), .volume_id = old_id, .new_volume_id = new_id};
    char migration_id[MT_ID_SIZE];
    if (check_at_home(c, old_id, new_id) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENT, mt_api_param(c, "attachment_id"), NULL, mt_pg_i64(r, 0, A_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME, old_id, NULL, mt_pg_i64(o, 0, O_VERSION), &c->err) < 0 || mt_cmd_rely(cmd, MT_RELY_VOLUME, new_id, NULL, mt_pg_i64(n, 0, N_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_LIVE, new_id, NULL, 1, &c->err) < 0 || mt_migration_begin_replace(cmd, &m, migration_id, &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    (void)json_object_set_new(made->ids, "migration_id", json_string(migration_id));
    (void)json_object_set_new(made->object, "migration_id", json_string(migration_id));
    (void)json_object_set_new(made->object, "status", json_string("queued"));
    (void)snprintf(made->location, sizeof made->location, "/v1/orgs/%s/migrations/%s", c->org.id, migration_id);
    mt_api_next(made, "wait for it", "moat wait migration %s", migration_id);
    return 0;
}

static int prepare_replace(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"new_volume_id", "drain", "expected_version", NULL};
    bool drain;
    const char *id = mt_api_param(c, "attachment_id"), *new_id;
    mt_auto_pg_res struct mt_pg_res *r = NULL, *n = NULL, *o = NULL;
    struct mt_pg_params p, q, old;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "new_volume_id", true, MT_ID_SIZE, &new_id) < 0 ||
        mt_api_bool(c, "drain", false, &drain) < 0)
        return -1;
    if (mt_id_check(MT_ID_VOLUME, new_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'new_volume_id': %s", c->err.msg);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, id);
    if (mt_pg_query_one(c->pg, &attachment_row, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume attachment") : mt_api_fail_err(c);
    if (mt_pg_bool(r, 0, A_DELETED))
        return mt_api_not_found(c, "volume attachment");
    if (mt_api_check_version(c, false, mt_pg_i64(r, 0, A_VERSION), "attachment") < 0)
        return -1;
    const char *old_id = mt_pg_text(r, 0, A_VOLUME);
    made->operation = "volume.replace";
    made->ids = json_pack("{s:s,s:s,s:s}", "attachment_id", id, "volume_id", new_id, "old_volume_id", old_id);
    made->object = json_pack("{s:s,s:s,s:s,s:s}", "id", id, "volume_id", new_id, "old_volume_id", old_id, "process_type", mt_pg_text(r, 0, A_PROCESS));
    if (MT_STREQ(old_id, new_id)) {
        made->nothing = true;
        return 0;
    }
    mt_pg_p_init(&q);
    mt_pg_p_text(&q, c->env.id);
    mt_pg_p_text(&q, new_id);
    mt_pg_p_text(&q, mt_pg_text(r, 0, A_PROCESS));
    mt_pg_p_text(&q, id);
    mt_pg_p_init(&old);
    mt_pg_p_text(&old, old_id);
    if (mt_pg_query_one(c->pg, &successor, &q, &n, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    if (mt_pg_query_one(c->pg, &predecessor, &old, &o, &c->err) < 0)
        return mt_api_fail_err(c);
    bool rests = mt_pg_i64(r, 0, A_WANTED) <= 0 && !mt_pg_bool(r, 0, A_HELD);
    if ((!drain && check_at_rest(c, r) < 0) || check_successor(c, n, o, mt_pg_text(r, 0, A_PROCESS)) < 0)
        return -1;
    if (drain && !rests)
        return begin_drained(c, cmd, made, r, n, o, new_id);
    mt_api_next(made, "start the process on it", "moat scale %s=1", mt_pg_text(r, 0, A_PROCESS));
    return add_replace(c, cmd, r, n, o, new_id);
}

int mt_api_volume_attachments_replace(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_replace);
}
