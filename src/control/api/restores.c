/* SPDX-License-Identifier: Apache-2.0 */
/* Restores: always into a new volume, made by the same command and filled by a job of its node (storage-and-secrets.md §5.1;
 * control-plane.md §9.3). The source may be deleted already: its backups outlive it.
 * Proofs (control/volumes/proofs.h) are restores that nobody asked for and are not listed: the log tells of them, and the volume they are of. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "control/volumes/home.h"
#include "control/volumes/migrate.h"
#include "control/volumes/volume_sql.h"
#include "model/names.h"
#include "model/volume.h"

#define RESTORE_OBJECT                                                                                                       \
    "json_strip_nulls(json_build_object('id',r.restore_id,'org_id',r.org_id,'app_id',r.app_id,'env_id',r.env_id,'snapshot_id',r.snapshot_id," \
    "'source_volume_id',r.source_volume_id,'new_volume_id',r.new_volume_id,'target_node_id',r.target_node_id,'status',r.status,'phase',r.phase," \
    "'bytes_done',r.bytes_done,'bytes_total',r.bytes_total,'failed_reason',r.failed_reason,'requested_by',r.requested_by,'finished_at',"     \
    MT_SQL_TS("r.finished_at") ",'resource_version',r.resource_version,'created_at'," MT_SQL_TS("r.created_at") ",'updated_at',"            \
    MT_SQL_TS("r.updated_at") "))::text"

MT_SQL_LIST(org_restores, RESTORE_OBJECT, "restores_view r", "restore_id", "org_id = $1 AND purpose IS NULL AND " MT_SQL_INSIDE("app_id", "env_id", "2", "3"), "4", "5");
static const struct mt_pg_stmt restore_get = {
    "restore_get", "SELECT " RESTORE_OBJECT ", resource_version FROM restores_view r WHERE org_id = $1 AND restore_id = $2 AND "
                   MT_SQL_INSIDE("app_id", "env_id", "3", "4")};
static const struct mt_pg_stmt source = {
    "restore_source", "SELECT v.name, v.backup_enabled, s.status, s.pruned_at IS NOT NULL, s.damaged, s.size_bytes, s.resource_version, s.key_epoch"
                      " FROM snapshots_view s JOIN volumes_view v ON v.volume_id = s.volume_id WHERE s.env_id = $1 AND s.volume_id = $2 AND s.snapshot_id = $3"};
static const struct mt_pg_stmt stores = {
    "restore_stores", "SELECT node_id FROM nodes_view WHERE NOT deleted AND (allocatable->>'restores')::boolean"};

/* What a lost volume can go back to. */
static const struct mt_pg_stmt lost = {
    "recover_lost", "SELECT v.name, coalesce((SELECT n.health = 'lost' FROM nodes_view n WHERE n.node_id = v.home_node_id), false), v.home_node_id, coalesce((" MT_SQL_LAST_BACKUP("v", "s.snapshot_id")
                    "), ''), coalesce((" MT_SQL_LAST_BACKUP("v", MT_SQL_TS("s.captured_at")) "), '') FROM volumes_view v WHERE v.env_id = $1 AND v.volume_id = $2 AND NOT v.deleted"};
enum { L_NAME = 0, L_LOST, L_NODE, L_SNAPSHOT, L_AT };

/* Whose place the new volume shall take: the process, the node that its other volumes live on, and what is under way. */
static const struct mt_pg_stmt place = {
    "restore_place",
    "SELECT v.name, v.resource_version, n.node_id, n.name, n.health, coalesce(a.attachment_id, ''), coalesce(a.process_type, ''), coalesce(a.resource_version, 0),"
    " (SELECT o.home_node_id FROM volume_attachments_view x JOIN volumes_view o ON o.volume_id = x.volume_id WHERE x.env_id = v.env_id AND x.process_type = a.process_type"
    "  AND x.attachment_id <> a.attachment_id AND NOT x.deleted LIMIT 1), (SELECT m.migration_id FROM volume_migrations_view m WHERE " MT_SQL_MIGRATES("m", "v") " LIMIT 1)"
    " FROM volumes_view v JOIN nodes_view n ON n.node_id = v.home_node_id LEFT JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted"
    " WHERE v.env_id = $1 AND v.volume_id = $2 AND NOT v.deleted"};
enum { P_NAME = 0, P_VERSION, P_HOME, P_NODE, P_HEALTH, P_ATTACHMENT, P_PROCESS, P_ATTACHMENT_VERSION, P_BESIDE, P_MOVING };

static const struct mt_pg_stmt target_env = {"restore_target_env", "SELECT app_id FROM envs_view WHERE org_id = $1 AND env_id = $2 AND NOT deleted"};

enum { S_NAME = 0, S_BACKUP, S_STATUS, S_PRUNED, S_DAMAGED, S_SIZE, S_VERSION, S_EPOCH };

int mt_api_restores_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &org_restores_asc, .desc = &org_restores_desc};
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_api_list_inside(c, &l);
    return mt_api_send_list(c, &l);
}

int mt_api_restores_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    struct mt_pg_arr inside[2];
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, mt_api_param(c, "restore_id"));
    mt_api_inside(c, &p, inside);
    int rc = mt_api_send_row(c, &restore_get, &p, "restore");
    mt_api_inside_done(inside);
    return rc;
}

/* ---------------------------------------------------------------- create */

struct wish {
    const char *snapshot_id, *name, *node_id;
    char app_id[MT_ID_SIZE], env_id[MT_ID_SIZE]; /* where the new volume shall be */
    uint64_t size_bytes; /* 0: that of the snapshot */
    bool replace;        /* it takes the place of the source */
    char made_name[33];
};

/* Another environment of the same organisation, which the caller's token reaches too; whether there are others is nobody's to know. */
static int read_env(struct mt_api_call *c, const char *env_id, struct wish *w)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    (void)snprintf(w->app_id, sizeof w->app_id, "%s", c->app.id);
    (void)snprintf(w->env_id, sizeof w->env_id, "%s", c->env.id);
    if (!env_id || MT_STREQ(env_id, c->env.id))
        return 0;
    if (mt_id_check(MT_ID_ENV, env_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'target_env_id': %s", c->err.msg);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, env_id);
    if (mt_pg_query(c->pg, &target_env, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    const struct mt_auth_restrict *only = &c->who.restricted;
    if (mt_pg_rows(r) == 0 || (only->on && !mt_restrict_has_app(only, mt_pg_text(r, 0, 0)) && !mt_restrict_has_env(only, env_id)))
        return mt_api_not_found(c, "environment to restore into");
    (void)snprintf(w->app_id, sizeof w->app_id, "%s", mt_pg_text(r, 0, 0));
    (void)snprintf(w->env_id, sizeof w->env_id, "%s", env_id);
    return 0;
}

static int check_node(struct mt_api_call *c, const char *node_id, const char *field)
{
    if (node_id && mt_id_check(MT_ID_NODE, node_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'%s': %s", field, c->err.msg);
    if (node_id && !c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "only operators choose the node of a volume; leave '%s' out", field);
    return 0;
}

static int read_wish(struct mt_api_call *c, struct wish *w)
{
    static const char *const known[] = {"snapshot_id", "name", "size_bytes", "target_node_id", "target_env_id", "replace", NULL};
    const char *env_id;
    int64_t size;
    if (mt_api_fields(c, known) < 0 || mt_api_text(c, "snapshot_id", true, MT_ID_SIZE, &w->snapshot_id) < 0 || mt_api_text(c, "name", false, 64, &w->name) < 0 ||
        mt_api_text(c, "target_node_id", false, MT_ID_SIZE, &w->node_id) < 0 ||
        mt_api_text(c, "target_env_id", false, MT_ID_SIZE, &env_id) < 0 || mt_api_int(c, "size_bytes", false, 1, INT64_MAX, 0, &size) < 0 ||
        mt_api_bool(c, "replace", false, &w->replace) < 0)
        return -1;
    if (mt_id_check(MT_ID_SNAPSHOT, w->snapshot_id, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'snapshot_id': %s", c->err.msg);
    if (w->name && mt_name_check(MT_NAME_VOLUME, w->name, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "'name': %s", c->err.msg);
    if (check_node(c, w->node_id, "target_node_id") < 0)
        return -1;
    if (size && (w->size_bytes = mt_volume_size((uint64_t)size)) == 0)
        return mt_api_fail(c, 400, "invalid_argument", "'size_bytes': is at least %llu (1 GiB) and at most %llu (2 TiB)",
                           (unsigned long long)MT_VOLUME_SIZE_MIN, (unsigned long long)MT_VOLUME_SIZE_MAX);
    if (w->replace && env_id && !MT_STREQ(env_id, c->env.id))
        return mt_api_fail(c, 400, "invalid_argument", "'replace': a volume takes the place of another one of its own environment; leave 'target_env_id' out");
    return read_env(c, env_id, w);
}

/* May the new volume take the place of the source, once it is whole (§2.5)? @ret owns what @w borrows. */
static int read_place(struct mt_api_call *c, struct wish *w, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "volume_id"));
    if (mt_pg_query_one(c->pg, &place, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_fail(c, 409, "conflict", "the volume is deleted: nothing has its place; leave 'replace' out") : mt_api_fail_err(c);
    const char *name = mt_pg_text(*ret, 0, P_NAME), *beside = mt_pg_text_or_null(*ret, 0, P_BESIDE);
    if (!mt_pg_text(*ret, 0, P_ATTACHMENT)[0])
        return mt_api_fail(c, 409, "conflict", "no process has volume '%s', so that there is no place to take; leave 'replace' out", name);
    if (!mt_pg_null(*ret, 0, P_MOVING))
        return mt_api_fail(c, 409, "migration_in_progress", "volume '%s' changes hands already by %s; wait for it (moat wait migration %s)", name,
                           mt_pg_text(*ret, 0, P_MOVING), mt_pg_text(*ret, 0, P_MOVING));
    if (mt_api_volume_fence(c, mt_pg_text(*ret, 0, P_NODE), mt_pg_text(*ret, 0, P_HEALTH)) < 0)
        return -1;
    if (beside && w->node_id && !MT_STREQ(beside, w->node_id))
        return mt_api_fail(c, 409, "volume_home_node_mismatch", "the other volumes of process '%s' do not live on %s; all of them must be on one node",
                           mt_pg_text(*ret, 0, P_PROCESS), w->node_id);
    w->node_id = beside ? beside : w->node_id;
    return 0;
}

/* The job that waits for the restore, and then does what `drain` of a replacement does (volume_attachments.c). */
static int add_replacement(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const struct mt_pg_res *r, const char *node_id, const char *new_id)
{
    const char *old_id = mt_api_param(c, "volume_id");
    const struct mt_migration_replacement m = {.ids = {.org_id = c->org.id, .app_id = c->app.id, .env_id = c->env.id}, .process_type = mt_pg_text(r, 0, P_PROCESS),
                                               .source_node_id = mt_pg_text(r, 0, P_HOME), .target_node_id = node_id, .volume_id = old_id, .new_volume_id = new_id};
    char migration_id[MT_ID_SIZE];
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME_ATTACHMENT, mt_pg_text(r, 0, P_ATTACHMENT), NULL, mt_pg_i64(r, 0, P_ATTACHMENT_VERSION), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_VOLUME, old_id, NULL, mt_pg_i64(r, 0, P_VERSION), &c->err) < 0 || mt_migration_begin_replace(cmd, &m, migration_id, &c->err) < 0)
        return mt_api_fail_err(c);
    (void)json_object_set_new(made->ids, "migration_id", json_string(migration_id));
    (void)json_object_set_new(made->object, "migration_id", json_string(migration_id));
    mt_api_next(made, "and until it has the place", "moat wait migration %s", migration_id);
    return 0;
}

/* The node is known to be off, there is something to go back to, and what is lost by it was named (storage-and-secrets.md §5.3). @ret owns what @w borrows. */
static int read_recovery(struct mt_api_call *c, struct wish *w, struct mt_pg_res **ret)
{
    static const char *const known[] = {"accept_loss_since", "node_id", NULL};
    const char *since;
    struct mt_pg_params p;
    if (!c->who.is_operator) /* who gives up data, and says that a machine is off, is one and the same */
        return mt_api_fail(c, 403, "operator_only", "only operators recover a volume of a lost node; whoever has its backups restores one of them (moat volumes restore)");
    if (mt_api_fields(c, known) < 0 || mt_api_text(c, "accept_loss_since", false, 40, &since) < 0 || mt_api_text(c, "node_id", false, MT_ID_SIZE, &w->node_id) < 0 ||
        check_node(c, w->node_id, "node_id") < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "volume_id"));
    if (mt_pg_query_one(c->pg, &lost, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "volume") : mt_api_fail_err(c);
    const char *name = mt_pg_text(*ret, 0, L_NAME), *at = mt_pg_text(*ret, 0, L_AT), *node = mt_pg_text(*ret, 0, L_NODE);
    if (!mt_pg_bool(*ret, 0, L_LOST))
        return mt_api_fail(c, 409, "conflict", "node %s of volume '%s' is not known to be powered off: an operator says so (moat node mark-lost)", node, name);
    if (!*at)
        return mt_api_fail(c, 409, "snapshot_not_ready", "volume '%s' has no backup: its data are on node %s alone", name, node);
    if (!since || !MT_STREQ(since, at))
        return mt_api_fail(c, 409, "conflict", "what was written to volume '%s' since its last backup is lost: since %s; name that moment as 'accept_loss_since'", name, at);
    w->snapshot_id = mt_pg_text(*ret, 0, L_SNAPSHOT);
    return read_env(c, NULL, w);
}

static int check_source(struct mt_api_call *c, const struct mt_pg_res *r, struct wish *w)
{
    if (mt_pg_bool(r, 0, S_PRUNED))
        return mt_api_fail(c, 409, "snapshot_not_ready", "snapshot %s is deleted; moat snapshots lists those that are there", w->snapshot_id);
    if (!MT_STREQ(mt_pg_text(r, 0, S_STATUS), "succeeded"))
        return mt_api_fail(c, 409, "snapshot_not_ready", "snapshot %s is %s; only one that has succeeded is restored", w->snapshot_id, mt_pg_text(r, 0, S_STATUS));
    if (mt_pg_bool(r, 0, S_DAMAGED))
        return mt_api_fail(c, 409, "snapshot_not_ready", "snapshot %s was found damaged; take another one (moat snapshots)", w->snapshot_id);
    uint64_t had = (uint64_t)mt_pg_i64(r, 0, S_SIZE);
    if (w->size_bytes && w->size_bytes < had)
        return mt_api_fail(c, 400, "volume_shrink_unsupported", "snapshot %s is of a volume of %llu bytes: what it is restored into is not smaller", w->snapshot_id,
                           (unsigned long long)had);
    w->size_bytes = w->size_bytes ? w->size_bytes : had;
    if (!w->name) { /* "data" becomes "data-restored", cut so that the whole is a name */
        (void)snprintf(w->made_name, sizeof w->made_name, "%.23s-restored", mt_pg_text(r, 0, S_NAME));
        w->name = w->made_name;
    }
    return 0;
}

/* Only a node that says that it restores is given one to do. Returns its index, or -1 with the reply made. */
static long choose(struct mt_api_call *c, const struct wish *w, struct mt_volume_node *nodes, size_t n)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    char why[320];
    if (mt_pg_query(c->pg, &stores, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_fail(c, 409, "backup_store_missing", "no node tells that it can restore backups; it needs a store in /etc/moat/backup.toml and an agent that carries out restores");
    for (size_t i = 0; i < n; i++) {
        bool has = false;
        for (int k = 0; k < mt_pg_rows(r) && !has; k++)
            has = MT_STREQ(mt_pg_text(r, k, 0), nodes[i].node_id);
        nodes[i].eligible = nodes[i].eligible && has;
    }
    long k = mt_volume_home(nodes, n, w->size_bytes, w->node_id);
    if (k >= 0)
        return k;
    mt_volume_home_why(nodes, n, w->size_bytes, w->node_id, why, sizeof why);
    return mt_api_fail(c, 409, "no_capacity_storage", "no node that can reach the backups can hold the volume: %s", why);
}

static int add_events(struct mt_api_call *c, struct mt_cmd *cmd, const struct wish *w, const struct mt_pg_res *r, const char *node_id, const char *restore_id,
                      const char *new_id)
{
    const struct mt_cmd_ids ids = {.org_id = c->org.id, .app_id = w->app_id, .env_id = w->env_id};
    json_t *volume = json_pack("{s:s,s:I,s:s,s:b,s:s,s:s}", "name", w->name, "size_bytes", (json_int_t)w->size_bytes, "filesystem", "ext4", "backup_enabled",
                               (int)mt_pg_bool(r, 0, S_BACKUP), "home_node_id", node_id, "from_snapshot_id", w->snapshot_id);
    json_t *job = json_pack("{s:s,s:s,s:s,s:s,s:s}", "snapshot_id", w->snapshot_id, "source_volume_id", mt_api_param(c, "volume_id"), "new_volume_id", new_id,
                            "target_env_id", w->env_id, "target_node_id", node_id);
    if (!volume || !job) {
        json_decref(volume);
        json_decref(job);
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "payload of a restore");
        return mt_api_fail_err(c);
    }
    if (mt_cmd_cause(cmd, restore_id, 0, &c->err) < 0) {
        json_decref(volume);
        json_decref(job);
        return mt_api_fail_err(c);
    }
    if (mt_cmd_event(cmd, MT_EV_VOLUME_CREATED, new_id, &ids, volume, &c->err) < 0) {
        json_decref(job);
        return mt_api_fail_err(c);
    }
    return mt_cmd_event(cmd, MT_EV_RESTORE_JOB_CREATED, restore_id, &ids, job, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool recover)
{
    struct wish w = {0};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL, *from = NULL, *taken = NULL;
    mt_auto_free struct mt_volume_node *nodes = NULL;
    char restore_id[MT_ID_SIZE], new_id[MT_ID_SIZE];
    size_t n;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || (recover ? read_recovery(c, &w, &from) : read_wish(c, &w)) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "volume_id"));
    mt_pg_p_text(&p, w.snapshot_id);
    if (mt_pg_query_one(c->pg, &source, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "snapshot of this volume") : mt_api_fail_err(c);
    if (check_source(c, r, &w) < 0 || (w.replace && read_place(c, &w, &taken) < 0))
        return -1;
    if (mt_api_volume_nodes(c, &nodes, &n) < 0)
        return -1;
    long k = choose(c, &w, nodes, n);
    if (k < 0)
        return -1;
    mt_id_new(MT_ID_RESTORE, restore_id);
    mt_id_new(MT_ID_VOLUME, new_id);
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, w.env_id, NULL, 1, &c->err) < 0 || mt_volume_rely_room(cmd, &nodes[k], &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, w.snapshot_id, NULL, mt_pg_i64(r, 0, S_VERSION), &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    made->operation = recover ? "volume.recover" : "volume.restore";
    made->ids = json_pack("{s:s,s:s}", "restore_id", restore_id, "volume_id", new_id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:n,s:n}", "id", restore_id, "org_id", c->org.id, "app_id", w.app_id, "env_id", w.env_id,
                             "snapshot_id", w.snapshot_id, "source_volume_id", mt_api_param(c, "volume_id"), "new_volume_id", new_id, "target_node_id",
                             nodes[k].node_id, "status", "queued", "requested_by", c->who.subject_id, "resource_version", 1, "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/restores/%s", c->org.id, restore_id);
    mt_api_next(made, "wait for it", "moat wait restore %s", restore_id);
    if (add_events(c, cmd, &w, r, nodes[k].node_id, restore_id, new_id) < 0)
        return -1;
    return w.replace ? add_replacement(c, cmd, made, taken, nodes[k].node_id, new_id) : 0;
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare(c, cmd, made, false);
}

static int prepare_recover(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare(c, cmd, made, true);
}

int mt_api_volumes_restore(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

int mt_api_volumes_recover(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_recover);
}
