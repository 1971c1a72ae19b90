/* SPDX-License-Identifier: Apache-2.0 */
/* See migrations.h. */
#include "control/volumes/migrations.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/volumes/migrate.h"
#include "control/volumes/migration.h"
#include "control/volumes/snapshot.h"
#include "model/manifest.h"
#include "model/workload.h"

#define MS(t) "(extract(epoch FROM " t ") * 1000)::bigint"
#define STEPS_MAX 8 /* of one migration in one look */
#define GONE(n) "(" n ".deleted OR " n ".admin_state IN ('disabled', 'removed') OR " n ".health IN ('offline', 'lost'))"

static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "migrations"};

static const struct mt_pg_stmt active = {"migrations_active", "SELECT migration_id FROM volume_migrations_view WHERE status IN ('queued', 'running') ORDER BY migration_id COLLATE \"C\""};

static const struct mt_pg_stmt job_of = {
    "migration_job",
    "SELECT m.org_id, m.app_id, m.env_id, coalesce(m.process_type, ''), m.source_node_id, m.target_node_id, m.status, coalesce(m.phase, ''), " MS("m.phase_at") ", "
    "coalesce(" MS("m.stopped_at") ", 0), m.resource_version, " MS("clock_timestamp()") ", " GONE("s") ", " GONE("t") ","
    " EXISTS (SELECT 1 FROM volumes_view v WHERE v.env_id = m.env_id AND (v.volume_id = ANY (m.volume_ids) OR v.volume_id = ANY (m.new_volume_ids)) AND " MT_SQL_VOLUME_HELD("v") "),"
    " EXISTS (SELECT 1 FROM instances_view i WHERE i.env_id = m.env_id AND i.process_type = m.process_type AND i.node_id = m.target_node_id AND i.released_at IS NULL"
    "  AND i.desired_state = 'running' AND i.status = 'ready'), coalesce(d.sched_condition = 'held', false),"
    " NOT EXISTS (SELECT 1 FROM volume_attachments_view a WHERE a.env_id = m.env_id AND a.process_type = m.process_type AND NOT a.deleted AND a.volume_id <> ALL (m.volume_ids)),"
    " coalesce(d.desired_user, -1), r.manifest::text, e.deleted OR o.suspended, EXISTS (SELECT 1 FROM " MT_SQL_BY_HAND("m") "), m.reason = '" MT_MIGRATION_REPLACES "'"
    " FROM volume_migrations_view m JOIN nodes_view s ON s.node_id = m.source_node_id JOIN nodes_view t ON t.node_id = m.target_node_id JOIN envs_view e ON e.env_id = m.env_id"
    " JOIN orgs_view o ON o.org_id = m.org_id LEFT JOIN env_desired_view d ON d.env_id = m.env_id AND d.process_type = m.process_type"
    " LEFT JOIN releases_view r ON r.release_id = d.release_id WHERE m.migration_id = $1"};
enum { J_ORG = 0, J_APP, J_ENV, J_PROCESS, J_SOURCE, J_TARGET, J_STATUS, J_PHASE, J_PHASE_AT, J_STOPPED_AT, J_VERSION, J_NOW, J_SOURCE_GONE, J_TARGET_GONE, J_HELD, J_READY, J_GAVE_UP,
       J_ALONE, J_DESIRED, J_MANIFEST, J_OFF, J_BY_HAND, J_REPLACES };

/* Its volumes, in order: o the old one, n the new one, p the pre-copy, f what goes on with it. */
static const struct mt_pg_stmt volumes_of = {
    "migration_volumes",
    "SELECT o.volume_id, o.name, o.resource_version, NOT o.deleted AND o.state = 'available' AND o.resize_to_bytes IS NULL AND o.home_node_id = m.source_node_id"
    " AND a.process_type IS NOT DISTINCT FROM m.process_type, coalesce(a.attachment_id, ''), coalesce(a.resource_version, 0), n.volume_id, n.name, n.resource_version,"
    " NOT n.deleted AND n.state IN ('creating', 'available'), NOT n.deleted AND n.state = 'available', coalesce(na.attachment_id, ''), coalesce(na.resource_version, 0),"
    " coalesce(p.restore_id, ''), coalesce(p.status, 'failed'), coalesce(ps.status, 'failed'), coalesce(f.restore_id, ''), coalesce(f.status, 'queued'),"
    " coalesce(fs.status, 'queued'), coalesce(f.phase = 'checking', false), o.deleted, n.deleted OR n.state = 'deleting', NOT o.deleted AND o.state = 'available', NOT n.deleted AND n.state = 'creating'"
    " FROM volume_migrations_view m CROSS JOIN LATERAL unnest(m.volume_ids, m.new_volume_ids) WITH ORDINALITY AS u(old_id, new_id, i)"
    " JOIN volumes_view o ON o.volume_id = u.old_id JOIN volumes_view n ON n.volume_id = u.new_id"
    " LEFT JOIN volume_attachments_view a ON a.volume_id = o.volume_id AND NOT a.deleted LEFT JOIN volume_attachments_view na ON na.volume_id = n.volume_id AND NOT na.deleted"
    " LEFT JOIN restores_view p ON p.new_volume_id = n.volume_id AND p.purpose = 'precopy' AND p.migration_id = m.migration_id LEFT JOIN snapshots_view ps ON ps.snapshot_id = p.snapshot_id"
    " LEFT JOIN restores_view f ON f.new_volume_id = n.volume_id AND f.purpose = 'migration' AND f.migration_id = m.migration_id LEFT JOIN snapshots_view fs ON fs.snapshot_id = f.snapshot_id"
    " WHERE m.migration_id = $1 ORDER BY u.i"};
enum { V_OLD = 0, V_NAME, V_VERSION, V_KEPT, V_ATTACHMENT, V_ATTACHMENT_VERSION, V_NEW, V_NEW_NAME, V_NEW_VERSION, V_MADE, V_AVAILABLE, V_NEW_ATTACHMENT, V_NEW_ATTACHMENT_VERSION, V_PRE, V_PRE_STATUS,
       V_PRE_SNAPSHOT, V_FIN, V_FIN_STATUS, V_FIN_SNAPSHOT, V_CHECKING, V_OLD_GONE, V_NEW_GONE, V_OLD_AVAILABLE, V_COMING };

/* What is to be broken off: snapshots that have not ended, restores whose node was not told of them because there is nothing to read yet. */
static const struct mt_pg_stmt open_snapshots = {
    "migration_open_snapshots", "SELECT snapshot_id, volume_id, resource_version FROM snapshots_view WHERE volume_id = ANY ((SELECT volume_ids FROM volume_migrations_view WHERE migration_id = $1)::text[])"
                                " AND migration_id = $1 AND status IN ('queued', 'running') AND pruned_at IS NULL"};
static const struct mt_pg_stmt open_restores = {
    "migration_open_restores", "SELECT r.restore_id, r.resource_version, r.snapshot_id, s.resource_version FROM restores_view r JOIN snapshots_view s ON s.snapshot_id = r.snapshot_id WHERE r.migration_id = $1"
                               " AND r.status IN ('queued', 'running') AND s.status <> 'succeeded'"};

/* Under the append lock: nothing that is not observed stopped mounts the volume. */
static const struct mt_pg_stmt not_held = {"migration_not_held", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM volumes_view v WHERE v.volume_id = $1 AND " MT_SQL_VOLUME_HELD("v") ")"};
static const struct mt_pg_stmt no_snapshot = {
    "migration_no_snapshot", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM snapshots_view WHERE volume_id = $1 AND status IN ('queued', 'running'))"};

struct job {
    const char *id;
    struct mt_pg_res *r, *v;
    struct mt_migration_volume volumes[MT_MIGRATION_VOLUMES_MAX];
    struct mt_migration_facts f;
    struct mt_cmd_ids ids;
};

static void job_done(struct job *j)
{
    mt_pg_res_free(j->r);
    mt_pg_res_free(j->v);
}

static struct mt_pg_params one(const char *id)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    return p;
}

static enum mt_job_status status_of(const char *word)
{
    enum mt_job_status s = MT_JOB_FAILED;
    (void)mt_job_status_parse(word, &s);
    return s;
}

/* Is the process wanted to run, and how long may its start take? */
static void read_process(struct job *j)
{
    struct mt_manifest_process pr;
    struct mt_err ignored;
    json_error_t je;
    int64_t desired = mt_pg_i64(j->r, 0, J_DESIRED);
    json_t *m = mt_pg_null(j->r, 0, J_MANIFEST) ? NULL : json_loads(mt_pg_text(j->r, 0, J_MANIFEST), 0, &je);
    if (m && mt_manifest_process_read(m, mt_pg_text(j->r, 0, J_PROCESS), &pr, &ignored) == 0) {
        j->f.wanted = !mt_pg_bool(j->r, 0, J_OFF) && (pr.n_mounts > 0 || mt_pg_bool(j->r, 0, J_BY_HAND)) && (desired >= 0 ? desired : (int64_t)pr.scaling_min) > 0;
        j->f.start_limit_ms = 2000 * (int64_t)mt_health_startup_timeout(&pr.health);
        mt_manifest_process_done(&pr);
    }
    json_decref(m);
}

static int load(struct mt_pg *pg, const char *id, struct job *j, struct mt_err *err)
{
    struct mt_pg_params p = one(id);
    *j = (struct job){.id = id};
    int rc = mt_pg_query_one(pg, &job_of, &p, &j->r, err);
    if (rc < 0 || (rc = mt_pg_query(pg, &volumes_of, &p, &j->v, err)) < 0)
        return rc;
    if (mt_pg_rows(j->v) < 1 || mt_pg_rows(j->v) > MT_MIGRATION_VOLUMES_MAX)
        return MT_FAIL(err, MT_E_CORRUPT, "migration %s has %d volumes", id, mt_pg_rows(j->v));
    j->ids = (struct mt_cmd_ids){.org_id = mt_pg_text(j->r, 0, J_ORG), .app_id = mt_pg_text(j->r, 0, J_APP), .env_id = mt_pg_text(j->r, 0, J_ENV)};
    j->f = (struct mt_migration_facts){.status = status_of(mt_pg_text(j->r, 0, J_STATUS)), .now_ms = mt_pg_i64(j->r, 0, J_NOW), .phase_at_ms = mt_pg_i64(j->r, 0, J_PHASE_AT),
                                       .attached = mt_pg_text(j->r, 0, J_PROCESS)[0], .held = mt_pg_bool(j->r, 0, J_HELD), .ready = mt_pg_bool(j->r, 0, J_READY),
                                       .gave_up = mt_pg_bool(j->r, 0, J_GAVE_UP), .replaces = mt_pg_bool(j->r, 0, J_REPLACES), .source_gone = mt_pg_bool(j->r, 0, J_SOURCE_GONE), .target_gone = mt_pg_bool(j->r, 0, J_TARGET_GONE),
                                       .volumes = j->volumes, .n_volumes = (size_t)mt_pg_rows(j->v)};
    (void)mt_migration_phase_parse(mt_pg_text(j->r, 0, J_PHASE), &j->f.phase);
    for (int i = 0; i < mt_pg_rows(j->v); i++)
        j->volumes[i] = (struct mt_migration_volume){.kept = mt_pg_bool(j->v, i, V_KEPT) && (j->f.replaces || mt_pg_bool(j->r, 0, J_ALONE)),
                                                     .made = j->f.replaces ? mt_pg_bool(j->v, i, V_AVAILABLE) && !mt_pg_text(j->v, i, V_NEW_ATTACHMENT)[0] : mt_pg_bool(j->v, i, V_MADE), .available = mt_pg_bool(j->v, i, V_AVAILABLE),
                                                     .coming = mt_pg_bool(j->v, i, V_COMING), .lost = mt_pg_bool(j->v, i, V_NEW_GONE),
                                                     .has_final = mt_pg_text(j->v, i, V_FIN)[0], .checking = mt_pg_bool(j->v, i, V_CHECKING),
                                                     .first_snapshot = status_of(mt_pg_text(j->v, i, V_PRE_SNAPSHOT)), .first_restore = status_of(mt_pg_text(j->v, i, V_PRE_STATUS)),
                                                     .final_snapshot = status_of(mt_pg_text(j->v, i, V_FIN_SNAPSHOT)), .final_restore = status_of(mt_pg_text(j->v, i, V_FIN_STATUS))};
    read_process(j);
    return 0;
}

/* ---- events ---- */

static int become(struct mt_cmd *cmd, const struct job *j, enum mt_job_status status, enum mt_migration_phase phase, const char *why, int64_t downtime_ms, struct mt_err *err)
{
    json_t *o = json_pack("{s:s,s:s*,s:s*}", "status", mt_job_status_name(status), "phase", phase ? mt_migration_phase_name(phase) : NULL, "failed_reason", why);
    if (!o)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a migration");
    if (downtime_ms >= 0)
        json_object_set_new(o, "downtime_ms", json_integer((json_int_t)downtime_ms));
    int rc = mt_cmd_rely(cmd, MT_RELY_MIGRATION, j->id, NULL, mt_pg_i64(j->r, 0, J_VERSION), err);
    if (rc < 0 || (rc = mt_cmd_cause(cmd, j->id, 0, err)) < 0) {
        json_decref(o);
        return rc;
    }
    return mt_cmd_event(cmd, MT_EV_VOLUME_MIGRATION_STATUS_CHANGED, j->id, &j->ids, o, err);
}

static int rely_not_held(struct mt_cmd *cmd, const char *volume_id, struct mt_err *err)
{
    struct mt_pg_params p = one(volume_id);
    return mt_cmd_side(cmd, &not_held, &p, 1, err);
}

/* The last snapshot of each, and the restore that waits for it. */
static int add_final(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct job *j, struct mt_err *err)
{
    int rc = become(cmd, j, MT_JOB_RUNNING, MT_MIGRATION_FINAL_COPY, NULL, -1, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(j->v); i++) {
        char snapshot_id[MT_ID_SIZE], restore_id[MT_ID_SIZE];
        const char *old = mt_pg_text(j->v, i, V_OLD);
        mt_id_new(MT_ID_SNAPSHOT, snapshot_id);
        mt_id_new(MT_ID_RESTORE, restore_id);
        const struct mt_snapshot_new n = {.snapshot_id = snapshot_id, .org_id = j->ids.org_id, .app_id = j->ids.app_id, .env_id = j->ids.env_id, .volume_id = old,
                                          .node_id = mt_pg_text(j->r, 0, J_SOURCE), .volume_version = mt_pg_i64(j->v, i, V_VERSION), .origin = "migration", .migration_id = j->id};
        if ((rc = rely_not_held(cmd, old, err)) == 0 && (rc = mt_snapshot_begin(ctl, pg, cmd, &n, err)) == 0 && (rc = mt_cmd_cause(cmd, j->id, 0, err)) == 0)
            rc = mt_cmd_event(cmd, MT_EV_RESTORE_JOB_CREATED, restore_id, &j->ids,
                              json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "snapshot_id", snapshot_id, "source_volume_id", old, "new_volume_id", mt_pg_text(j->v, i, V_NEW), "target_env_id",
                                        j->ids.env_id, "target_node_id", mt_pg_text(j->r, 0, J_TARGET), "purpose", "migration", "migration_id", j->id, "base_restore_id",
                                        mt_pg_text(j->v, i, V_PRE)), err);
    }
    return rc;
}

/* Names and attachments change hands: from the old ones to the new ones, or @back. */
static int add_swap(struct mt_pg *pg, struct mt_cmd *cmd, const struct job *j, bool back, struct mt_err *err)
{
    int rc = back ? become(cmd, j, MT_JOB_FAILED, MT_MIGRATION_NO_PHASE, "not_ready_on_target", -1, err) : become(cmd, j, MT_JOB_RUNNING, MT_MIGRATION_STARTING, NULL, -1, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(j->v); i++) {
        char spare[33];
        const char *from = mt_pg_text(j->v, i, back ? V_NEW : V_OLD), *to = mt_pg_text(j->v, i, back ? V_OLD : V_NEW);
        const char *name = mt_pg_text(j->v, i, back ? V_NEW_NAME : V_NAME), *other = mt_pg_text(j->v, i, back ? V_NAME : V_NEW_NAME);
        const char *attachment = mt_pg_text(j->v, i, back ? V_NEW_ATTACHMENT : V_ATTACHMENT);
        int64_t from_version = mt_pg_i64(j->v, i, back ? V_NEW_VERSION : V_VERSION), to_version = mt_pg_i64(j->v, i, back ? V_VERSION : V_NEW_VERSION);
        if ((rc = mt_volume_spare_name(pg, j->ids.env_id, name, spare, err)) < 0 || (rc = rely_not_held(cmd, from, err)) < 0 || (rc = rely_not_held(cmd, to, err)) < 0 ||
            (rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, from, NULL, from_version, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, to, NULL, to_version, err)) < 0)
            return rc;
        if (attachment[0])
            rc = mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENT, attachment, NULL, mt_pg_i64(j->v, i, back ? V_NEW_ATTACHMENT_VERSION : V_ATTACHMENT_VERSION), err);
        else /* who attaches it at this moment is looked at anew */
            rc = mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENTS, from, NULL, 0, err);
        if (rc < 0 || (rc = mt_cmd_event(cmd, MT_EV_VOLUME_RENAMED, from, &j->ids, json_pack("{s:s,s:s}", "name", spare, "old_name", name), err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_VOLUME_RENAMED, to, &j->ids, json_pack("{s:s,s:s}", "name", name, "old_name", other), err)) < 0)
            return rc;
        if (attachment[0])
            rc = mt_cmd_event(cmd, MT_EV_VOLUME_ATTACHMENT_REPLACED, attachment, &j->ids,
                              json_pack("{s:s,s:s,s:s,s:s}", "old_volume_id", from, "new_volume_id", to, "old_name", spare, "reason", j->f.replaces ? "user" : "migration"), err);
    }
    return rc;
}

/* The new ones serve, so the old copy goes; what was only replaced stays. Its backups stay for as long as those of any volume that is deleted. */
static int add_success(struct mt_cmd *cmd, const struct job *j, struct mt_err *err)
{
    int64_t stopped = mt_pg_i64(j->r, 0, J_STOPPED_AT);
    int rc = become(cmd, j, MT_JOB_SUCCEEDED, MT_MIGRATION_NO_PHASE, NULL, stopped && j->f.attached && j->f.wanted ? j->f.now_ms - stopped : -1, err);
    for (int i = 0; rc == 0 && !j->f.replaces && i < mt_pg_rows(j->v); i++) {
        const char *old = mt_pg_text(j->v, i, V_OLD);
        struct mt_pg_params p = one(old);
        if (!mt_pg_bool(j->v, i, V_OLD_AVAILABLE)) /* somebody was faster */
            continue;
        if ((rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, old, NULL, mt_pg_i64(j->v, i, V_VERSION), err)) == 0 && (rc = mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENTS, old, NULL, 0, err)) == 0 &&
            (rc = mt_cmd_side(cmd, &no_snapshot, &p, 1, err)) == 0)
            rc = mt_cmd_event(cmd, MT_EV_VOLUME_STATE_CHANGED, old, &j->ids, json_pack("{s:s}", "state", "deleting"), err);
    }
    return rc;
}

static int add_failure(struct mt_pg *pg, struct mt_cmd *cmd, const struct job *j, const char *why, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *s = NULL, *r = NULL;
    struct mt_pg_params p = one(j->id);
    int rc = become(cmd, j, MT_JOB_FAILED, MT_MIGRATION_NO_PHASE, why, -1, err);
    if (rc < 0 || (rc = mt_pg_query(pg, &open_snapshots, &p, &s, err)) < 0 || (rc = mt_pg_query(pg, &open_restores, &p, &r, err)) < 0)
        return rc;
    for (int i = 0; rc == 0 && i < mt_pg_rows(s); i++)
        if ((rc = mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, mt_pg_text(s, i, 0), NULL, mt_pg_i64(s, i, 2), err)) == 0)
            rc = mt_cmd_event(cmd, MT_EV_SNAPSHOT_PRUNED, mt_pg_text(s, i, 0), &j->ids, json_pack("{s:s,s:s}", "volume_id", mt_pg_text(s, i, 1), "reason", "user"), err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++)
        if ((rc = mt_cmd_rely(cmd, MT_RELY_RESTORE, mt_pg_text(r, i, 0), NULL, mt_pg_i64(r, i, 1), err)) == 0 &&
            (rc = mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, mt_pg_text(r, i, 2), NULL, mt_pg_i64(r, i, 3), err)) == 0)
            rc = mt_cmd_event(cmd, MT_EV_RESTORE_JOB_STATUS_CHANGED, mt_pg_text(r, i, 0), &j->ids, json_pack("{s:s,s:s}", "status", "failed", "failed_reason", "cancelled"), err);
    for (int i = 0; rc == 0 && !j->f.replaces && i < mt_pg_rows(j->v); i++) {
        const char *made = mt_pg_text(j->v, i, V_NEW);
        if (mt_pg_bool(j->v, i, V_NEW_GONE))
            continue;
        if ((rc = mt_cmd_rely(cmd, MT_RELY_VOLUME, made, NULL, mt_pg_i64(j->v, i, V_NEW_VERSION), err)) == 0)
            rc = mt_cmd_event(cmd, MT_EV_VOLUME_STATE_CHANGED, made, &j->ids, json_pack("{s:s}", "state", "deleting"), err);
    }
    return rc;
}

int mt_migration_end(struct mt_pg *pg, struct mt_cmd *cmd, const char *migration_id, const char *why, struct mt_err *err)
{
    mt_cleanup(job_done) struct job j;
    int rc = load(pg, migration_id, &j, err);
    if (rc < 0)
        return rc;
    if (j.f.status == MT_JOB_SUCCEEDED || j.f.status == MT_JOB_FAILED || !mt_migration_cancellable(j.f.phase))
        return 0;
    return (rc = add_failure(pg, cmd, &j, why, err)) < 0 ? rc : 1;
}

/* ---- the look ---- */

static int add_step(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct job *j, enum mt_migration_step step, const char *why, struct mt_err *err)
{
    switch (step) {
    case MT_MIGRATION_RUN:
        return become(cmd, j, MT_JOB_RUNNING, MT_MIGRATION_PRECOPY, NULL, -1, err);
    case MT_MIGRATION_STOP:
        return become(cmd, j, MT_JOB_RUNNING, MT_MIGRATION_STOPPING, NULL, -1, err);
    case MT_MIGRATION_FINAL:
        return add_final(ctl, pg, cmd, j, err);
    case MT_MIGRATION_CHECK:
        return become(cmd, j, MT_JOB_RUNNING, MT_MIGRATION_CHECKING, NULL, -1, err);
    case MT_MIGRATION_SWAP:
        return add_swap(pg, cmd, j, false, err);
    case MT_MIGRATION_SUCCEED:
        return add_success(cmd, j, err);
    case MT_MIGRATION_FAIL:
        return add_failure(pg, cmd, j, why, err);
    case MT_MIGRATION_RETURN:
        return become(cmd, j, MT_JOB_RUNNING, MT_MIGRATION_RETURNING, NULL, -1, err);
    case MT_MIGRATION_SWAP_BACK:
        return add_swap(pg, cmd, j, true, err);
    case MT_MIGRATION_WAIT:
    case MT_MIGRATION_STEP_MAX:
    default:
        return 0;
    }
}

/* Whether the target would take the process is asked of the scheduler, which is not cheap: only before it is stopped for it. */
static int ask_scheduler(struct mt_control *ctl, struct mt_pg *pg, struct job *j, struct mt_err *err)
{
    char why[64];
    j->f.target_fits = true;
    for (size_t i = 0; i < j->f.n_volumes; i++)
        if (j->f.phase != MT_MIGRATION_PRECOPY || j->volumes[i].first_restore != MT_JOB_SUCCEEDED || !j->f.attached)
            return 0;
    int rc = mt_migration_refusal(ctl, pg, j->ids.env_id, mt_pg_text(j->r, 0, J_PROCESS), mt_pg_text(j->r, 0, J_TARGET), why, err);
    j->f.target_fits = rc == 0 && !why[0];
    return rc;
}

/* Returns 1 a step was taken, 0 there is none now, -code. */
static int step_one(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, const char *id, bool *ret_soon, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    mt_cleanup(job_done) struct job j = {0};
    struct mt_cmd_done done = {0};
    const char *why;
    int rc = load(pg, id, &j, err);
    if (rc < 0 || (rc = ask_scheduler(ctl, pg, &j, err)) < 0)
        return rc;
    enum mt_migration_step step = mt_migration_next(&j.f, &why);
    *ret_soon = *ret_soon || j.f.phase >= MT_MIGRATION_STOPPING;
    if (step == MT_MIGRATION_WAIT)
        return 0;
    if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 || (rc = add_step(ctl, pg, cmd, &j, step, why, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool moved = rc == -MT_E_CONFLICT; /* something changed at this moment: it is looked at anew */
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_INFO, "migration.step", KV("migration_id", id), KV("from", mt_migration_phase_name(j.f.phase)), KV("step", (int64_t)step), KV("reason", why ? why : ""));
    return rc == 0 ? 1 : moved ? 0 : rc;
}

int mt_migrations_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, bool *ret_soon, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int taken = 0, first = 0, rc = mt_pg_query(pg, &active, NULL, &r, err);
    *ret_soon = false;
    if (rc < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct mt_err why = {0};
        int n = 0;
        while (n < STEPS_MAX && (rc = step_one(ctl, pg, lease, mt_pg_text(r, i, 0), ret_soon, &why)) == 1)
            n++;
        taken += n;
        if (rc < 0 && first == 0) { /* one that cannot go on holds up no other */
            first = rc;
            *err = why;
        }
        if (rc == -MT_E_UNAVAILABLE || rc == -MT_E_TIMEOUT)
            break;
    }
    return first < 0 ? first : taken;
}
