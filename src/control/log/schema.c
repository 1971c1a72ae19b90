/* SPDX-License-Identifier: Apache-2.0 */
/* Migrations. Number 1 is log/schema.sql and views/schema.sql as they stood at the first release; later ones only add. */
#include "control/log/schema.h"
#include "control/log/locks.h"
#include "control/views/rebuild.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/str.h"

#include <string.h>

extern const char mt_log_schema_sql[], mt_views_schema_sql[], mt_audit_schema_sql[], mt_auth_schema_sql[], mt_views_rebuild_sql[], mt_limits_schema_sql[], mt_log_lean_sql[], mt_exec_schema_sql[], mt_autopsy_schema_sql[], mt_secrets_schema_sql[], mt_recovery_schema_sql[], mt_nodes_schema_sql[], mt_registry_schema_sql[], mt_volumes_schema_sql[], mt_ipv4_schema_sql[], mt_collections_schema_sql[], mt_log_fence_sql[], mt_log_leaner_sql[], mt_log_upgrades_sql[], mt_log_runs_sql[];

static const struct mt_pg_stmt st_has = {"schema_has", "SELECT to_regclass('moat.schema_migrations') IS NOT NULL"};
static const struct mt_pg_stmt st_version = {"schema_version",
                                             "SELECT COALESCE(max(version), 0)::int FROM moat.schema_migrations"};
static const struct mt_pg_stmt st_record = {"schema_record", "INSERT INTO moat.schema_migrations (version, name) VALUES ($1, $2)"};
/* The program that brings the database here knows the column; what a newer one has written is there to be read. */
static const struct mt_pg_stmt st_least = {"schema_least", "UPDATE moat.schema_migrations SET least = $2 WHERE version = $1"};
static const struct mt_pg_stmt st_floor = {"schema_floor", "SELECT COALESCE(max(COALESCE(least, version)), 0)::int FROM moat.schema_migrations"};
static const struct mt_pg_stmt st_lock = {"schema_lock", "SELECT pg_advisory_xact_lock(" MT_LOCK_MIGRATE ")"};
static const struct mt_pg_stmt st_checkpoint = {
    "schema_checkpoint", "INSERT INTO moat.projection_checkpoints (projection, schema_version, state, last_applied_event_id)"
                         " SELECT tablename, $1, 'live', 0 FROM pg_tables WHERE schemaname = 'moat_views' ON CONFLICT DO NOTHING"};

#define SEARCH_PATH_SQL "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = moat_views, moat', current_database()); END $$;"

static const char base_sql[] =
    "CREATE SCHEMA IF NOT EXISTS moat; CREATE SCHEMA IF NOT EXISTS moat_views;"
    "CREATE TABLE IF NOT EXISTS moat.schema_migrations (version int PRIMARY KEY, name text NOT NULL,"
    " applied_at timestamptz NOT NULL DEFAULT now());"
    SEARCH_PATH_SQL
    "SET search_path = moat_views, moat";

/* The application reads everything and writes operational tables; only the appender's role writes the log and the views. */
static const char grants_sql[] =
    "DO $$ BEGIN"
    " IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_control') THEN"
    "  GRANT USAGE ON SCHEMA moat, moat_views TO moat_control;"
    "  GRANT SELECT ON ALL TABLES IN SCHEMA moat, moat_views TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.personal_tokens, moat.node_heartbeats, moat.ipam_counters, moat.leases TO moat_control;"
    "  GRANT DELETE ON moat.idempotency_records TO moat_control;"
    "  GRANT INSERT ON moat.audit_pending TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.access_tokens, moat.refresh_tokens, moat.device_codes, moat.user_credentials,"
    "   moat.user_setups, moat.browser_sessions, moat.login_failures, moat.sp_secrets TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.rebuild_requests TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.rate_buckets TO moat_control;"
    "  GRANT UPDATE ON moat.exec_tokens TO moat_control;"
    "  GRANT INSERT, DELETE ON moat.autopsies TO moat_control;"
    "  GRANT UPDATE, DELETE ON moat.secret_bundle_keys, moat.secret_versions, moat.secret_material TO moat_control;"
    "  GRANT UPDATE ON moat.registry_secrets TO moat_control;"
    "  GRANT UPDATE, DELETE ON moat.volume_backup_keys TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.backup_collections TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.recovery_nodes, moat.recovery_reports TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.node_certs, moat.enrollment_token_hashes TO moat_control;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.edge_heartbeats TO moat_control;"
    " END IF;"
    " IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_projector') THEN"
    "  GRANT USAGE ON SCHEMA moat, moat_views TO moat_projector;"
    "  GRANT SELECT ON ALL TABLES IN SCHEMA moat, moat_views TO moat_projector;"
    "  GRANT INSERT ON moat.events, moat.idempotency_records TO moat_projector;"
    "  GRANT UPDATE ON moat.event_counter, moat.projection_checkpoints TO moat_projector;"
    "  GRANT INSERT, DELETE ON moat.audit_pending TO moat_projector;"
    "  GRANT INSERT ON moat.corrections TO moat_projector;"
    "  GRANT INSERT ON moat.audit_log TO moat_projector;"
    "  GRANT DELETE ON moat.recovery_nodes, moat.recovery_reports TO moat_projector;"
    "  GRANT INSERT, UPDATE ON moat.audit_chains TO moat_projector;"
    "  GRANT EXECUTE ON FUNCTION moat.audit_prune(int, int) TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.personal_tokens, moat.node_heartbeats, moat.ipam_counters, moat.leases TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.access_tokens, moat.refresh_tokens, moat.user_credentials, moat.user_setups,"
    "   moat.browser_sessions, moat.sp_secrets TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.exec_tokens TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.node_certs, moat.enrollment_token_hashes TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.secret_bundle_keys, moat.secret_versions, moat.secret_material TO moat_projector;"
    "  GRANT INSERT, DELETE ON moat.registry_secrets TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON moat.volume_backup_keys TO moat_projector;"
    "  GRANT DELETE ON moat.backup_collections TO moat_projector;"
    "  GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA moat_views TO moat_projector;"
    " END IF; END $$";

static int create_first(struct mt_pg *pg, struct mt_err *err)
{
    int r = mt_pg_exec(pg, mt_log_schema_sql, err);
    if (r == 0)
        r = mt_pg_exec(pg, "SET LOCAL search_path = moat_views", err);
    if (r == 0)
        r = mt_pg_exec(pg, mt_views_schema_sql, err);
    if (r == 0)
        r = mt_pg_exec(pg, "SET LOCAL search_path = moat_views, moat", err);
    return r;
}

static int create_auth(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_auth_schema_sql, err);
}

static int create_audit(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_audit_schema_sql, err);
}

static int create_rebuild(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_views_rebuild_sql, err);
}

static int create_limits(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_limits_schema_sql, err);
}

static int make_lean(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_log_lean_sql, err);
}

static int create_exec(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_exec_schema_sql, err);
}

static int create_autopsies(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_autopsy_schema_sql, err);
}

static int create_secrets(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_secrets_schema_sql, err);
}

static int create_recovery(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_recovery_schema_sql, err);
}

static int create_nodes(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_nodes_schema_sql, err);
}

static int create_registries(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_registry_schema_sql, err);
}

static int create_volumes(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_volumes_schema_sql, err);
}

static int create_ipv4(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_ipv4_schema_sql, err);
}

static int create_collections(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_collections_schema_sql, err);
}

static int fence_tenants(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_log_fence_sql, err);
}

static int make_leaner(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_log_leaner_sql, err);
}

static int note_upgrades(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_log_upgrades_sql, err);
}

/* How many connections an edge holds, by its newest word: what an operator waits for who drains it. NULL: it never said. */
static int count_connections(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, "ALTER TABLE moat.edge_heartbeats ADD COLUMN connections bigint NULL", err);
}

static int make_runs(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, mt_log_runs_sql, err);
}

/* A deploy is made and begun in one transaction, where no version of a row can be pruned: with room for the second one on the page no index hears of it. */
static int make_room(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, "ALTER TABLE moat_views.deploys_view SET (fillfactor = 50)", err);
}

#ifdef MOAT_ONE_MORE
/* The program of the next version, for tests (tests/tools/meson.build): what a migration may do while programs of the version before serve. */
static int one_more(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, "CREATE TABLE moat.one_more (n int PRIMARY KEY); ALTER TABLE moat.node_heartbeats ADD COLUMN one_more int NULL;"
                          " CREATE INDEX events_one_more ON moat.events (event_type, event_id)", err);
}
#endif

#define ONE_BEFORE (-1)
static const struct {
    const char *name;
    int (*run)(struct mt_pg *pg, struct mt_err *err);
    int least; /* programs that know this version go on beside it; ONE_BEFORE: also those of the one before; 0: none but its own */
} migrations[] = {
    {"first", create_first},
    {"auth", create_auth},
    {"audit", create_audit},
    {"rebuild", create_rebuild},
    {"limits", create_limits},
    {"lean", make_lean},
    {"exec", create_exec},
    {"autopsies", create_autopsies},
    {"secrets", create_secrets},
    {"recovery", create_recovery},
    {"nodes", create_nodes},
    {"registries", create_registries},
    {"volumes", create_volumes},
    {"ipv4", create_ipv4},
    {"collections", create_collections},
    {"fence", fence_tenants},
    {"leaner", make_leaner},
    {"upgrades", note_upgrades},
    {"runs", make_runs, 18},
    {"edge_connections", count_connections, 18},
    {"deploys_room", make_room, 18},
#ifdef MOAT_ONE_MORE
    {"one_more", one_more, ONE_BEFORE},
#endif
};

int mt_log_schema_known(void)
{
    return (int)MT_ARRAY_LEN(migrations);
}

int mt_log_database(struct mt_pg *pg, struct mt_err *err)
{
    return mt_pg_exec(pg, SEARCH_PATH_SQL, err);
}

int mt_log_schema_version(struct mt_pg *pg, int *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *has = NULL, *res = NULL;
    int r = mt_pg_query_one(pg, &st_has, NULL, &has, err);
    if (r < 0)
        return r;
    *ret = 0;
    if (!mt_pg_bool(has, 0, 0))
        return 0;
    if ((r = mt_pg_query_one(pg, &st_version, NULL, &res, err)) == 0)
        *ret = (int)mt_pg_i64(res, 0, 0);
    return r;
}

int mt_log_schema_least(struct mt_pg *pg, int *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int r = mt_pg_query_one(pg, &st_floor, NULL, &res, err);
    if (r == 0)
        *ret = (int)mt_pg_i64(res, 0, 0);
    return r;
}

/* The way back from an upgrade: a newer program has been here. */
static int settle_for_newer(struct mt_pg *pg, int have, int known, struct mt_err *err)
{
    int least = 0, r = mt_log_schema_least(pg, &least, err);
    if (r < 0)
        return r;
    if (least > known)
        return MT_FAIL(err, MT_E_CONFLICT, "the database has schema %d, which programs that know %d or more may use; this one knows %d: use a newer program", have, least, known);
    mt_log(MT_WARN, "schema.newer", KV("version", have), KV("known", known), KV("hint", "a newer moat-control migrated the database; it only added, so this one goes on with it"));
    return 0;
}

static int migrate_locked(struct mt_pg *pg, struct mt_err *err)
{
    const int known = mt_log_schema_known();
    int have = 0;
    int r = mt_pg_query(pg, &st_lock, NULL, NULL, err);
    if (r < 0 || (r = mt_log_schema_version(pg, &have, err)) < 0)
        return r;
    if (have > known)
        return settle_for_newer(pg, have, known, err);
    if (have == 0 && (r = mt_pg_exec(pg, base_sql, err)) < 0)
        return r;
    struct mt_pg_params p;
    for (int v = have; v < known; v++) {
        if ((r = migrations[v].run(pg, err)) < 0)
            return mt_err_wrap(err, "migration %d (%s)", v + 1, migrations[v].name);
        mt_pg_p_init(&p);
        mt_pg_p_i32(&p, v + 1);
        mt_pg_p_text(&p, migrations[v].name);
        if ((r = mt_pg_query(pg, &st_record, &p, NULL, err)) < 0)
            return r;
        mt_pg_p_init(&p);
        mt_pg_p_i32(&p, v + 1);
        mt_pg_p_i32(&p, migrations[v].least == ONE_BEFORE ? v : migrations[v].least);
        if (migrations[v].least && (r = mt_pg_query(pg, &st_least, &p, NULL, err)) < 0)
            return r;
        mt_log(MT_INFO, "schema.migrated", KV("version", v + 1), KV("name", migrations[v].name));
    }
    if (have == known)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, known);
    if ((r = mt_pg_query(pg, &st_checkpoint, &p, NULL, err)) < 0)
        return r;
    if (have == 0 && (r = mt_views_made(pg, err)) < 0)
        return r;
    return mt_pg_exec(pg, grants_sql, err);
}

int mt_log_migrate(struct mt_pg *pg, const struct mt_rebuild_conf *watch, struct mt_err *err)
{
    int r = mt_pg_exec(pg, "BEGIN", err);
    if (r < 0)
        return r;
    if ((r = migrate_locked(pg, err)) == 0)
        r = mt_pg_exec(pg, "COMMIT", err);
    if (r == 0)
        return mt_views_settle(pg, watch, NULL, err);
    struct mt_err ignored;
    (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    return r;
}

int mt_views_grant(struct mt_pg *pg, const char *name, struct mt_err *err)
{
    char sql[800];
    int r = mt_fmt(sql, sizeof sql, err,
                   "DO $$ BEGIN"
                   " IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_control') THEN"
                   "  GRANT USAGE ON SCHEMA %s TO moat_control; GRANT SELECT ON ALL TABLES IN SCHEMA %s TO moat_control;"
                   " END IF;"
                   " IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'moat_projector') THEN"
                   "  GRANT USAGE ON SCHEMA %s TO moat_projector;"
                   "  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %s TO moat_projector;"
                   " END IF; END $$",
                   name, name, name, name);
    return r < 0 ? r : mt_pg_exec(pg, sql, err);
}

int mt_views_create(struct mt_pg *pg, const char *name, struct mt_err *err)
{
    char sql[200];
    MT_ASSERT(*name && strspn(name, "abcdefghijklmnopqrstuvwxyz_") == strlen(name));
    int r = mt_fmt(sql, sizeof sql, err, "CREATE SCHEMA %s; SET search_path = %s", name, name);
    if (r == 0)
        r = mt_pg_exec(pg, sql, err);
    if (r == 0 && (r = mt_pg_exec(pg, mt_views_schema_sql, err)) == 0)
        r = mt_fmt(sql, sizeof sql, err, "SELECT moat.fence('%s')", name);
    return r < 0 ? r : mt_pg_exec(pg, sql, err);
}
