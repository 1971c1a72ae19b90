/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A volume is given to a process by hand (storage-and-secrets.md §2.5): beside what its release mounts, or again what was taken from it. What the
 * process runs changes, so its instance is replaced: stopped, and started with the volume on the node where that lives. A deploy leaves such an
 * attachment alone.
 */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/volumes/volume_sql.h"
#include "model/mountpath.h"
#include "model/workload.h"

static const struct mt_pg_stmt volume_row = {
    "attach_volume",
    "SELECT v.name, v.state, v.resource_version, v.home_node_id, v.from_snapshot_id IS NOT NULL, a.process_type FROM volumes_view v"
    " LEFT JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted WHERE v.env_id = $1 AND v.volume_id = $2 AND NOT v.deleted"};
enum { V_NAME = 0, V_STATE, V_VERSION, V_HOME, V_RESTORED, V_OWNER };

static const struct mt_pg_stmt process_row = {
    "attach_process",
    "SELECT d.resource_version, greatest(coalesce(d.desired_user, 0), coalesce((r.manifest->'processes'->d.process_type->'scaling'->>'min')::int, 1)),"
    " (r.manifest->'processes'->d.process_type->'mounts')::text, (SELECT m.migration_id FROM volume_migrations_view m WHERE m.env_id = d.env_id"
    "  AND m.process_type = d.process_type AND m.status IN ('queued', 'running') LIMIT 1) FROM env_desired_view d JOIN releases_view r ON r.release_id = d.release_id"
    " WHERE d.env_id = $1 AND d.process_type = $2 AND r.manifest->'processes' ? d.process_type"};
enum { P_VERSION = 0, P_WANTED, P_MOUNTS, P_MIGRATION };

/* What it has: by attachment, so that what a release mounts and was detached is not among it. */
static const struct mt_pg_stmt beside = {
    "attach_beside",
    "SELECT a.mount_path, v.name, v.home_node_id, a.last_event_id FROM volume_attachments_view a JOIN volumes_view v ON v.volume_id = a.volume_id"
    " WHERE a.env_id = $1 AND a.process_type = $2 AND NOT a.deleted ORDER BY a.mount_path COLLATE \"C\""};
enum { B_PATH = 0, B_NAME, B_HOME, B_EVENT };

/* Asked again under the append lock, when the new one ($4) is there: the process has what it had beside it. */
static const struct mt_pg_stmt same_beside = {
    "attach_same_beside", "SELECT 1 WHERE $3 = (SELECT coalesce(sum(a.last_event_id), 0) FROM volume_attachments_view a WHERE a.env_id = $1 AND a.process_type = $2 AND NOT a.deleted AND a.attachment_id <> $4)"};

struct attach {
    const char *volume_id, *process, *path;
    bool read_only;
    struct mt_pg_res *v, *p, *b;
    json_t *declared; /* mounts of the release */
    bool again;       /* the release mounts it so: it is the manifest's again */
};

static void attach_done(struct attach *a)
{
    mt_pg_res_free(a->v);
    mt_pg_res_free(a->p);
    mt_pg_res_free(a->b);
    json_decref(a->declared);
}

static int read_body(struct mt_api_call *c, struct attach *a)
{
    if (mt_api_text(c, "volume_id", true, MT_ID_SIZE, &a->volume_id) < 0 || mt_api_text(c, "process_type", true, 64, &a->process) < 0 ||
        mt_api_text(c, "mount_path", true, 1024, &a->path) < 0 || mt_api_bool(c, "read_only", false, &a->read_only) < 0)
        return -1;
    const char *fault = mt_mountpath_fault(a->path, strlen(a->path));
    if (fault)
        return mt_api_fail(c, 400, "invalid_mount_path", "'mount_path': %s", fault);
    if (mt_id_check(MT_ID_VOLUME, a->volume_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'volume_id': %s", c->err.msg);
    return 0;
}

static int load(struct mt_api_call *c, struct attach *a)
{
    struct mt_pg_params v, p;
    char shown[48];
    json_error_t je;
    mt_pg_p_init(&v);
    mt_pg_p_text(&v, c->env.id);
    mt_pg_p_text(&v, a->volume_id);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, a->process);
    if (mt_pg_query_one(c->pg, &volume_row, &v, &a->v, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    if (mt_pg_query_one(c->pg, &process_row, &p, &a->p, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_fail(c, 400, "unknown_process_type", "nothing called '%s' is deployed in this environment",
                                                           mt_printable(a->process, strlen(a->process), shown, sizeof shown))
                                             : mt_api_fail_err(c);
    if (mt_pg_query(c->pg, &beside, &p, &a->b, &c->err) < 0)
        return mt_api_fail_err(c);
    a->declared = json_loads(mt_pg_text(a->p, 0, P_MOUNTS), 0, &je);
    return 0;
}

static int check_volume(struct mt_api_call *c, const struct attach *a)
{
    const char *name = mt_pg_text(a->v, 0, V_NAME), *state = mt_pg_text(a->v, 0, V_STATE);
    if (!mt_pg_null(a->v, 0, V_OWNER))
        return mt_api_fail(c, 409, "volume_already_attached", "volume '%s' is attached to process '%s' already; a volume belongs to one process at a time", name,
                           mt_pg_text(a->v, 0, V_OWNER));
    if (!MT_STREQ(state, "available") && (!MT_STREQ(state, "creating") || mt_pg_bool(a->v, 0, V_RESTORED)))
        return mt_api_fail(c, 409, "conflict", "volume '%s' is %s; only one that is available is attached (moat wait volume %s)", name, state, a->volume_id);
    if (!mt_pg_null(a->p, 0, P_MIGRATION))
        return mt_api_fail(c, 409, "migration_in_progress", "the volumes of process '%s' are moved to another node by %s; wait for it (moat wait migration %s)", a->process,
                           mt_pg_text(a->p, 0, P_MIGRATION), mt_pg_text(a->p, 0, P_MIGRATION));
    if (mt_pg_i64(a->p, 0, P_WANTED) > 1)
        return mt_api_fail(c, 409, "volume_replica_limit", "process '%s' has %lld replicas, by its scale or its manifest, and a volume belongs to one instance", a->process,
                           (long long)mt_pg_i64(a->p, 0, P_WANTED));
    return 0;
}

static int check_path(struct mt_api_call *c, const struct attach *a, const char *other, const char *name)
{
    if (!mt_mountpath_nested(a->path, strlen(a->path), other, strlen(other)))
        return 0;
    return mt_api_fail(c, 409, "mount_path_conflict", "process '%s' has volume '%s' at %s, which %s %s", a->process, name, other,
                       MT_STREQ(a->path, other) ? "is" : "overlaps with", a->path);
}

/* Beside what the process has, and what its release mounts. */
static int check_process(struct mt_api_call *c, struct attach *a)
{
    const char *name = mt_pg_text(a->v, 0, V_NAME), *home = mt_pg_text(a->v, 0, V_HOME);
    size_t i, n = json_array_size(a->declared) + 1;
    json_t *m;
    json_array_foreach (a->declared, i, m) {
        const char *path = json_string_value(json_object_get(m, "path")), *volume = json_string_value(json_object_get(m, "volume"));
        bool same = MT_STREQ(path, a->path) && json_is_true(json_object_get(m, "read_only")) == a->read_only;
        if (!MT_STREQ(volume, name) && check_path(c, a, path, volume) < 0)
            return -1;
        if (MT_STREQ(volume, name) && !same)
            return mt_api_fail(c, 409, "mount_path_conflict", "the release mounts volume '%s' at %s%s; attach it so, or deploy another release", name, path,
                               json_is_true(json_object_get(m, "read_only")) ? ", read only" : "");
        a->again = a->again || MT_STREQ(volume, name);
    }
    for (int k = 0; k < mt_pg_rows(a->b); k++) {
        bool named = false;
        json_array_foreach (a->declared, i, m)
            named = named || MT_STREQ(json_string_value(json_object_get(m, "volume")), mt_pg_text(a->b, k, B_NAME));
        n += !named;
        if (check_path(c, a, mt_pg_text(a->b, k, B_PATH), mt_pg_text(a->b, k, B_NAME)) < 0)
            return -1;
        if (!MT_STREQ(mt_pg_text(a->b, k, B_HOME), home))
            return mt_api_fail(c, 409, "volume_home_node_mismatch", "volume '%s' lives on %s and volume '%s' of process '%s' on %s; all of them must be on one node", name, home,
                               mt_pg_text(a->b, k, B_NAME), a->process, mt_pg_text(a->b, k, B_HOME));
    }
    if (!a->again && n > MT_WORKLOAD_MOUNTS_MAX)
        return mt_api_fail(c, 409, "too_many_mounts", "process '%s' has %zu volumes, and %d is the most", a->process, n - 1, MT_WORKLOAD_MOUNTS_MAX);
    return 0;
}

static int rely(struct mt_api_call *c, struct mt_cmd *cmd, const struct attach *a, const char *id)
{
    struct mt_pg_params p;
    int64_t sum = 0;
    for (int k = 0; k < mt_pg_rows(a->b); k++)
        sum += mt_pg_i64(a->b, k, B_EVENT);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, a->process);
    mt_pg_p_i64(&p, sum);
    mt_pg_p_text(&p, id);
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_DESIRED, c->env.id, a->process, mt_pg_i64(a->p, 0, P_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME, a->volume_id, NULL, mt_pg_i64(a->v, 0, V_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_LIVE, a->volume_id, NULL, 1, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENTS, a->volume_id, NULL, 0, &c->err) < 0 || mt_cmd_side(cmd, &same_beside, &p, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int prepare_with(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct attach *a)
{
    static const char *const known[] = {"volume_id", "process_type", "mount_path", "read_only", NULL};
    char id[MT_ID_SIZE];
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || read_body(c, a) < 0 || load(c, a) < 0 ||
        check_volume(c, a) < 0 || check_process(c, a) < 0)
        return -1;
    const char *by = a->again ? "manifest" : "api";
    mt_id_new(MT_ID_ATTACHMENT, id);
    if (rely(c, cmd, a, id) < 0)
        return -1;
    made->status = 201;
    made->operation = "volume.attach";
    made->ids = json_pack("{s:s,s:s}", "attachment_id", id, "volume_id", a->volume_id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:b,s:s,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "app_id", c->app.id, "env_id", c->env.id, "volume_id",
                             a->volume_id, "process_type", a->process, "mount_path", a->path, "read_only", (int)a->read_only, "managed_by", by, "resource_version", 1,
                             "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s/volume-attachments/%s", c->org.id, c->app.id, c->env.id, id);
    mt_api_next(made, "the instance of the process is replaced by one that has it", "moat status");
    return mt_api_event(c, cmd, MT_EV_VOLUME_ATTACHMENT_CREATED, id,
                        json_pack("{s:s,s:s,s:s,s:b,s:s}", "volume_id", a->volume_id, "process_type", a->process, "mount_path", a->path, "read_only", (int)a->read_only,
                                  "managed_by", by));
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct attach a = {0};
    int rc = prepare_with(c, cmd, made, &a);
    attach_done(&a);
    return rc;
}

int mt_api_volume_attachments_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare);
}
