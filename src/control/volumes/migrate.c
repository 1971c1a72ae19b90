/* SPDX-License-Identifier: Apache-2.0 */
/* See migrate.h. */
#include "control/volumes/migrate.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/pass.h"
#include "control/volumes/home.h"
#include "control/volumes/snapshot.h"
#include "pg/array.h"

#include <stdarg.h>

#define PASS_BYTES (256U * 1024U * 1024U)

/* The volume, and with it all that its process mounts. */
static const struct mt_pg_stmt movers = {
    "migrate_volumes",
    "WITH me AS (SELECT v.*, a.process_type FROM volumes_view v LEFT JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted"
    "  WHERE v.env_id = $1 AND v.volume_id = $2 AND NOT v.deleted)"
    " SELECT v.volume_id, v.name, v.size_bytes, v.backup_enabled, v.resource_version, v.state, v.resize_to_bytes IS NOT NULL, v.home_node_id, me.process_type,"
    " v.org_id, v.app_id, n.name, n.health, coalesce((n.allocatable->>'backup_store')::boolean, false),"
    " (SELECT s.snapshot_id FROM snapshots_view s WHERE s.volume_id = v.volume_id AND s.status IN ('queued', 'running') LIMIT 1),"
    " (SELECT m.migration_id FROM volume_migrations_view m WHERE " MT_SQL_MIGRATES("m", "v") " LIMIT 1)"
    " FROM me JOIN volumes_view v ON v.volume_id = me.volume_id OR (me.process_type IS NOT NULL AND EXISTS (SELECT 1 FROM volume_attachments_view a"
    "  WHERE a.volume_id = v.volume_id AND a.env_id = me.env_id AND a.process_type = me.process_type AND NOT a.deleted))"
    " JOIN nodes_view n ON n.node_id = v.home_node_id WHERE NOT v.deleted ORDER BY v.volume_id COLLATE \"C\""};
enum { V_ID = 0, V_NAME, V_SIZE, V_BACKUP, V_VERSION, V_STATE, V_GROWS, V_HOME, V_PROCESS, V_ORG, V_APP, V_NODE, V_HEALTH, V_STORE, V_SNAPSHOT, V_MIGRATION };

static const struct mt_pg_stmt target_of = {
    "migrate_target", "SELECT n.name, n.admin_state, n.health, coalesce((n.allocatable->>'restores')::boolean, false), (n.allocatable->>'volume_bytes') IS NOT NULL"
                      " FROM nodes_view n WHERE n.node_id = $1 AND NOT n.deleted"};
static const struct mt_pg_stmt restorers = {
    "migrate_restorers", "SELECT node_id, EXISTS (SELECT 1 FROM volume_migrations_view m WHERE m.target_node_id = n.node_id AND m.status IN ('queued', 'running')) FROM nodes_view n"
                         " WHERE NOT deleted AND (allocatable->>'restores')::boolean"};
static const struct mt_pg_stmt names_of = {"migrate_names", "SELECT name FROM volumes_view WHERE env_id = $1 AND NOT deleted"};

/* Under the append lock, with this one in the view: nothing else moves any of them. */
static const struct mt_pg_stmt alone = {
    "migrate_alone", "SELECT 1 WHERE (SELECT count(*) FROM volume_migrations_view m WHERE m.env_id = $1 AND m.status IN ('queued', 'running') AND m.volume_ids && $2::text[]) = 1"};

static int spare_name(const struct mt_pg_res *names, const struct mt_migration_new *m, const char *name, char ret[33])
{
    for (int n = 1, used = 1; used; n++) {
        char tail[16];
        int len = snprintf(tail, sizeof tail, "-%d", n);
        (void)snprintf(ret, 33, "%.*s%s", 32 - len, name, tail);
        used = 0;
        for (int i = 0; i < mt_pg_rows(names) && !used; i++)
            used = MT_STREQ(mt_pg_text(names, i, 0), ret);
        for (size_t i = 0; m && i < m->n && !used; i++)
            used = MT_STREQ(m->volumes[i].new_name, ret);
    }
    return 0;
}

static int load_names(struct mt_pg *pg, const char *env_id, struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env_id);
    return mt_pg_query(pg, &names_of, &p, ret, err);
}

int mt_volume_spare_name(struct mt_pg *pg, const char *env_id, const char *name, char ret[33], struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = load_names(pg, env_id, &r, err);
    return rc < 0 ? rc : spare_name(r, NULL, name, ret);
}

static int refuse(struct mt_migration_new *m, const char *code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int refuse(struct mt_migration_new *m, const char *code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(m->why, sizeof m->why, fmt, ap);
    va_end(ap);
    m->code = code;
    return 0;
}

/* What one of them has against it. 1 nothing. */
static int check_source(const struct mt_pg_res *r, int i, struct mt_migration_new *m)
{
    const char *name = mt_pg_text(r, i, V_NAME), *state = mt_pg_text(r, i, V_STATE), *health = mt_pg_text(r, i, V_HEALTH);
    if (!mt_pg_null(r, i, V_MIGRATION))
        return refuse(m, "migration_in_progress", "volume '%s' is moved already, by %s: moat migrations get %s", name, mt_pg_text(r, i, V_MIGRATION), mt_pg_text(r, i, V_MIGRATION));
    if (!MT_STREQ(state, "available"))
        return refuse(m, "conflict", "volume '%s' is %s; only one that is available moves", name, state);
    if (!MT_STREQ(health, "ready") && !MT_STREQ(health, "degraded"))
        return refuse(m, "conflict", "node %s, where volume '%s' lives, is %s and cannot hand it over; when the machine is gone for good: moat volumes recover %s", mt_pg_text(r, i, V_NODE), name,
                      health, name);
    if (mt_pg_bool(r, i, V_GROWS))
        return refuse(m, "conflict", "volume '%s' has still to grow, before the next start of its process; let it first: moat restart --process %s", name,
                      mt_pg_null(r, i, V_PROCESS) ? "" : mt_pg_text(r, i, V_PROCESS));
    if (!mt_pg_bool(r, i, V_STORE))
        return refuse(m, "backup_store_missing", "node %s, where volume '%s' lives, tells of no store for backups, through which volumes move; configure one in /etc/moat/backup.toml there",
                      mt_pg_text(r, i, V_NODE), name);
    if (!mt_pg_null(r, i, V_SNAPSHOT))
        return refuse(m, "snapshot_in_progress", "snapshot %s of volume '%s' has not ended; wait for it: moat wait snapshot %s", mt_pg_text(r, i, V_SNAPSHOT), name, mt_pg_text(r, i, V_SNAPSHOT));
    return 1;
}

static int check_target(struct mt_pg *pg, const char *target, struct mt_migration_new *m, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, target);
    int rc = mt_pg_query(pg, &target_of, &p, &r, err);
    if (rc < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return refuse(m, "not_found", "there is no node %s: moat nodes", target);
    const char *name = mt_pg_text(r, 0, 0);
    if (MT_STREQ(target, m->source_node_id))
        return refuse(m, "conflict", "volume '%s' lives on node %s already", m->volumes[0].name, name);
    if (!MT_STREQ(mt_pg_text(r, 0, 1), "active") || (!MT_STREQ(mt_pg_text(r, 0, 2), "ready") && !MT_STREQ(mt_pg_text(r, 0, 2), "degraded")))
        return refuse(m, "node_not_eligible", "node %s is %s and %s; volumes move to one that is active and ready", name, mt_pg_text(r, 0, 1), mt_pg_text(r, 0, 2));
    if (!mt_pg_bool(r, 0, 4))
        return refuse(m, "no_capacity_storage", "node %s tells of no storage for volumes; set [storage] in its /etc/moat/agent.toml", name);
    if (!mt_pg_bool(r, 0, 3))
        return refuse(m, "backup_store_missing", "node %s does not tell that it can restore backups, through which volumes move; it needs a store in /etc/moat/backup.toml and an agent that carries "
                                                 "out restores", name);
    return 1;
}

/* ---- whom the scheduler would take ---- */

struct scheduler_view {
    struct mt_pass p;
    const struct mt_pass_group *group;
};

static int load_scheduler(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, const char *process_type, struct scheduler_view *s, struct mt_err *err)
{
    const char *envs[] = {env_id};
    *s = (struct scheduler_view){.p = {.ctl = ctl, .pg = pg}};
    mt_arena_init(&s->p.arena, PASS_BYTES);
    int rc = mt_pass_load(&s->p, envs, 1, err);
    for (size_t i = 0; rc == 0 && i < s->p.n_envs; i++)
        for (size_t k = 0; k < s->p.envs[i].n_groups; k++)
            if (MT_STREQ(s->p.envs[i].env_id, env_id) && MT_STREQ(s->p.envs[i].groups[k].process_type, process_type))
                s->group = &s->p.envs[i].groups[k];
    return rc;
}

/* As if its volumes were there already. NULL: it would be taken, or nothing is wanted of it. */
static const char *refusal_of(const struct scheduler_view *s, const char *node_id)
{
    if (!s->group || !s->group->group.target_spec || s->group->group.desired == 0)
        return NULL;
    struct mt_place_request q = s->group->group.request;
    q.volumes = NULL;
    q.n_volumes = 0;
    for (size_t i = 0; i < s->p.n_nodes; i++)
        if (MT_STREQ(s->p.nodes[i].node_id, node_id))
            return mt_place_refusal(&s->p.nodes[i], &q);
    return "no node";
}

int mt_migration_refusal(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, const char *process_type, const char *node_id, char ret[64], struct mt_err *err)
{
    struct scheduler_view s;
    int rc = load_scheduler(ctl, pg, env_id, process_type, &s, err);
    const char *why = rc == 0 ? refusal_of(&s, node_id) : NULL;
    (void)snprintf(ret, 64, "%s", why ? why : "");
    mt_pass_done(&s.p);
    return rc;
}

/* As if what is booked were there. */
static void book(const struct mt_migration_new *m, struct mt_volume_node *nodes, size_t n, struct scheduler_view *s)
{
    for (size_t b = 0; b < m->n_booked; b++) {
        for (size_t i = 0; i < n; i++)
            if (MT_STREQ(nodes[i].node_id, m->booked[b].node_id))
                nodes[i].used_bytes += m->booked[b].bytes;
        for (size_t i = 0; m->booked[b].size.memory_bytes && i < s->p.n_nodes; i++)
            if (MT_STREQ(s->p.nodes[i].node_id, m->booked[b].node_id))
                mt_place_charge(&s->p.nodes[i], &m->booked[b].size);
    }
}

/* Which nodes have both: room for the volumes and a place for the process. */
static int choose(struct mt_control *ctl, struct mt_pg *pg, const char *target, struct mt_migration_new *m, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_free struct mt_volume_node *nodes = NULL;
    struct scheduler_view s = {0};
    size_t n = 0;
    uint64_t bytes = 0;
    unsigned places = 0, busy = 0;
    const char *refusal = NULL;
    char why[320];
    for (size_t i = 0; i < m->n; i++)
        bytes += m->volumes[i].size_bytes;
    int rc = mt_volume_nodes_load(pg, &nodes, &n, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &restorers, NULL, &r, err);
    if (rc == 0 && m->process_type[0])
        rc = load_scheduler(ctl, pg, m->env_id, m->process_type, &s, err);
    if (rc == 0)
        book(m, nodes, n, &s);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        bool restores = false, taken = false, here = !target || MT_STREQ(target, nodes[i].node_id);
        for (int k = 0; k < mt_pg_rows(r) && !restores; k++)
            if ((restores = MT_STREQ(mt_pg_text(r, k, 0), nodes[i].node_id)))
                taken = !target && !m->booked && mt_pg_bool(r, k, 1);
        const char *no = s.group ? refusal_of(&s, nodes[i].node_id) : NULL;
        nodes[i].eligible = nodes[i].eligible && restores && !MT_STREQ(nodes[i].node_id, m->source_node_id);
        if (nodes[i].eligible && here && no)
            refusal = no;
        nodes[i].eligible = nodes[i].eligible && !no;
        busy += nodes[i].eligible && taken;
        nodes[i].eligible = nodes[i].eligible && !taken;
        places += nodes[i].eligible && here;
    }
    m->booking = (struct mt_migration_booking){.bytes = bytes, .size = s.group && s.group->group.desired ? s.group->group.request.size : (struct mt_place_size){0}};
    if (m->process_type[0])
        mt_pass_done(&s.p);
    if (rc < 0)
        return rc;
    long k = mt_volume_home(nodes, n, bytes, target);
    if (k >= 0) {
        (void)snprintf(m->booking.node_id, sizeof m->booking.node_id, "%s", nodes[k].node_id);
        (void)snprintf(m->target_node_id, sizeof m->target_node_id, "%s", nodes[k].node_id);
        return 1;
    }
    if (busy)
        return refuse(m, "busy", "another volume moves to the node that would take it; one after the other");
    if (places == 0 && refusal)
        return refuse(m, "node_not_eligible", "%s process '%s': %s", target ? "that node does not take" : "no node that can reach the backups takes", m->process_type, refusal);
    mt_volume_home_why(nodes, n, bytes, target, why, sizeof why);
    return refuse(m, "no_capacity_storage", "no other node that can reach the backups has a place for %s and room for its volumes: %s", m->process_type[0] ? m->process_type : "the volume", why);
}

int mt_migration_plan(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, const char *volume_id, const char *target, struct mt_migration_new *m, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL, *names = NULL;
    *m = (struct mt_migration_new){.reason = m->reason, .booked = m->booked, .n_booked = m->n_booked};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env_id);
    mt_pg_p_text(&p, volume_id);
    int rc = mt_pg_query(pg, &movers, &p, &r, err), ok = 1;
    if (rc < 0 || (rc = load_names(pg, env_id, &names, err)) < 0)
        return rc;
    if (mt_pg_rows(r) == 0)
        return refuse(m, "not_found", "there is no such volume");
    if (mt_pg_rows(r) > MT_MIGRATION_VOLUMES_MAX)
        return refuse(m, "too_many_mounts", "process '%s' mounts %d volumes, at most %d move together", mt_pg_text(r, 0, V_PROCESS), mt_pg_rows(r), MT_MIGRATION_VOLUMES_MAX);
    (void)snprintf(m->org_id, sizeof m->org_id, "%s", mt_pg_text(r, 0, V_ORG));
    (void)snprintf(m->app_id, sizeof m->app_id, "%s", mt_pg_text(r, 0, V_APP));
    (void)snprintf(m->env_id, sizeof m->env_id, "%s", env_id);
    (void)snprintf(m->source_node_id, sizeof m->source_node_id, "%s", mt_pg_text(r, 0, V_HOME));
    (void)snprintf(m->process_type, sizeof m->process_type, "%s", mt_pg_null(r, 0, V_PROCESS) ? "" : mt_pg_text(r, 0, V_PROCESS));
    mt_id_new(MT_ID_MIGRATION, m->migration_id);
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct mt_migrating_volume v = {.size_bytes = (uint64_t)mt_pg_i64(r, i, V_SIZE), .backup_enabled = mt_pg_bool(r, i, V_BACKUP), .version = mt_pg_i64(r, i, V_VERSION)};
        (void)snprintf(v.volume_id, sizeof v.volume_id, "%s", mt_pg_text(r, i, V_ID));
        (void)snprintf(v.name, sizeof v.name, "%s", mt_pg_text(r, i, V_NAME));
        mt_id_new(MT_ID_VOLUME, v.new_volume_id);
        (void)spare_name(names, m, v.name, v.new_name);
        m->volumes[m->n++] = v;
    }
    if (target && (ok = check_target(pg, target, m, err)) <= 0)
        return ok;
    for (int i = 0; ok > 0 && i < mt_pg_rows(r); i++)
        ok = check_source(r, i, m);
    return ok <= 0 ? ok : choose(ctl, pg, target, m, err);
}

/* ---- events ---- */

static int begin_one(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_migration_new *m, const struct mt_migrating_volume *v, struct mt_err *err)
{
    const struct mt_cmd_ids ids = {.org_id = m->org_id, .app_id = m->app_id, .env_id = m->env_id};
    char snapshot_id[MT_ID_SIZE], restore_id[MT_ID_SIZE];
    mt_id_new(MT_ID_SNAPSHOT, snapshot_id);
    mt_id_new(MT_ID_RESTORE, restore_id);
    const struct mt_snapshot_new n = {.snapshot_id = snapshot_id, .org_id = m->org_id, .app_id = m->app_id, .env_id = m->env_id, .volume_id = v->volume_id, .node_id = m->source_node_id,
                                      .volume_version = v->version, .origin = "migration", .migration_id = m->migration_id};
    int rc = mt_snapshot_begin(ctl, pg, cmd, &n, err);
    if (rc < 0 || (rc = mt_cmd_cause(cmd, m->migration_id, 0, err)) < 0)
        return rc;
    rc = mt_cmd_event(cmd, MT_EV_VOLUME_CREATED, v->new_volume_id, &ids,
                      json_pack("{s:s,s:I,s:s,s:b,s:s,s:s}", "name", v->new_name, "size_bytes", (json_int_t)v->size_bytes, "filesystem", "ext4", "backup_enabled", (int)v->backup_enabled,
                                "home_node_id", m->target_node_id, "from_snapshot_id", snapshot_id), err);
    return rc < 0 ? rc : mt_cmd_event(cmd, MT_EV_RESTORE_JOB_CREATED, restore_id, &ids,
                                      json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "snapshot_id", snapshot_id, "source_volume_id", v->volume_id, "new_volume_id", v->new_volume_id,
                                                "target_env_id", m->env_id, "target_node_id", m->target_node_id, "purpose", "precopy", "migration_id", m->migration_id), err);
}

static int rely_alone(struct mt_cmd *cmd, const struct mt_migration_new *m, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_pg_arr ids;
    mt_pg_arr_init(&ids, MT_PG_ELEM_TEXT, 4096);
    for (size_t i = 0; i < m->n; i++)
        mt_pg_arr_text_add(&ids, m->volumes[i].volume_id);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, m->env_id);
    mt_pg_p_arr(&p, &ids);
    int rc = mt_cmd_side(cmd, &alone, &p, 1, err);
    mt_pg_arr_done(&ids);
    return rc;
}

/* The job itself, alone with its volumes. */
static int begin_job(struct mt_cmd *cmd, const struct mt_migration_new *m, struct mt_err *err)
{
    const struct mt_cmd_ids ids = {.org_id = m->org_id, .app_id = m->app_id, .env_id = m->env_id};
    json_t *old = json_array(), *new = json_array();
    for (size_t i = 0; i < m->n; i++) {
        json_array_append_new(old, json_string(m->volumes[i].volume_id));
        json_array_append_new(new, json_string(m->volumes[i].new_volume_id));
    }
    json_t *payload = json_pack("{s:s*,s:o,s:o,s:s,s:s,s:s}", "process_type", m->process_type[0] ? m->process_type : NULL, "volume_ids", old, "new_volume_ids", new, "source_node_id",
                                m->source_node_id, "target_node_id", m->target_node_id, "reason", m->reason);
    if (!payload)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a migration");
    int rc = mt_cmd_cause(cmd, m->migration_id, 0, err);
    if (rc < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_VOLUME_MIGRATION_CREATED, m->migration_id, &ids, payload, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, m->env_id, NULL, 1, err)) < 0)
        return rc;
    return rely_alone(cmd, m, err);
}

int mt_migration_begin_replace(struct mt_cmd *cmd, const struct mt_migration_replacement *r, char ret_id[MT_ID_SIZE], struct mt_err *err)
{
    struct mt_migration_new m = {.reason = MT_MIGRATION_REPLACES, .n = 1};
    mt_id_new(MT_ID_MIGRATION, m.migration_id);
    memcpy(ret_id, m.migration_id, MT_ID_SIZE);
    (void)snprintf(m.org_id, sizeof m.org_id, "%s", r->ids.org_id);
    (void)snprintf(m.app_id, sizeof m.app_id, "%s", r->ids.app_id);
    (void)snprintf(m.env_id, sizeof m.env_id, "%s", r->ids.env_id);
    (void)snprintf(m.process_type, sizeof m.process_type, "%s", r->process_type);
    (void)snprintf(m.source_node_id, sizeof m.source_node_id, "%s", r->source_node_id);
    (void)snprintf(m.target_node_id, sizeof m.target_node_id, "%s", r->target_node_id);
    (void)snprintf(m.volumes[0].volume_id, MT_ID_SIZE, "%s", r->volume_id);
    (void)snprintf(m.volumes[0].new_volume_id, MT_ID_SIZE, "%s", r->new_volume_id);
    return begin_job(cmd, &m, err);
}

int mt_migration_begin(struct mt_control *ctl, struct mt_pg *pg, struct mt_cmd *cmd, const struct mt_migration_new *m, struct mt_err *err)
{
    struct mt_volume_node target = {0};
    (void)snprintf(target.node_id, sizeof target.node_id, "%s", m->target_node_id);
    int rc = begin_job(cmd, m, err);
    if (rc < 0 || (rc = mt_volume_rely_room(cmd, &target, err)) < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < m->n; i++)
        rc = begin_one(ctl, pg, cmd, m, &m->volumes[i], err);
    return rc;
}
