/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/admin/doctor and /v1/admin/upgrade: gather what moat admin doctor and moat admin upgrade check judge (doctor/checks.h). One look at the
 * database, nothing is changed. */
#include "control/api/handlers.h"

#include "base/assert.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/doctor/checks.h"
#include "control/doctor/standby.h"
#include "control/log/history.h"
#include "control/log/schema.h"
#include "control/nodes/ca.h"
#include "control/pass.h"
#include "control/scheduler/capacity.h"
#include "control/secrets/keys.h"
#include "control/secrets/rewrap.h"
#include "control/volumes/volume_sql.h"

#include <sys/statvfs.h>

#define NODES_BYTES (64U * 1024U * 1024U)
/* A list of names of the rows that meet @when: the first ten, the rest counted; "" when there is none. */
#define NAMES(column, when)                                                                                                             \
    "(SELECT coalesce(string_agg(nm, ', ' ORDER BY nm) FILTER (WHERE rn <= 10) || CASE WHEN count(*) > 10 THEN ' and ' || (count(*) - 10) || ' more'"  \
    " ELSE '' END, '') FROM (SELECT left(" column ", 40) AS nm, row_number() OVER (ORDER BY " column ") AS rn FROM " when ") x)"
#define LIVE "nodes_view n WHERE NOT n.deleted AND n.admin_state NOT IN ('disabled', 'removed')"
#define SAYS(words) NAMES("n.name", LIVE " AND n.conditions && ARRAY[" words "]")
#define VMM "'vmm_unavailable','vmm_not_allowed'"
#define BUNDLE "'no_boot_bundle'"
#define DISK "'disk_pressure','image_store_error'"
#define POOL "'pool_pressure'"
#define CLOCK "'clock_skew'"
#define NET "'firewall_missing','firewall_not_loaded','firewall_tampered','overlay_degraded','mesh_isolated'"
#define PASSING "'probing','stopping'"

static const struct mt_pg_stmt st_platform = {
    "doctor_platform",
    "SELECT extract(epoch FROM clock_timestamp())::text, (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::bigint,"
    " coalesce((SELECT extract(epoch FROM now() - (body::jsonb ->> 'ts')::timestamptz)::bigint FROM moat.audit_pending ORDER BY pending_id LIMIT 1), 0),"
    " " NAMES("v.projection", "moat.projection_checkpoints v WHERE v.state <> 'live'") ","
    " coalesce((SELECT extract(epoch FROM now() - renewed_at)::bigint FROM moat.leases WHERE name = 'scheduler'), -1),"
    " " NAMES("r.name", "unnest(ARRAY['gc','projector','backups']) r(name) LEFT JOIN moat.leases l ON l.name = r.name"
                        " WHERE l.name IS NULL OR l.renewed_at < now() - interval '60 s'") ","
    " coalesce((SELECT value = 'true'::jsonb FROM cluster_view WHERE key = '" MT_PASS_PAUSED_KEY "'), false),"
    " coalesce((SELECT value = 'true'::jsonb FROM cluster_view WHERE key = 'maintenance'), false),"
    " (SELECT count(*) FROM env_desired_view d JOIN envs_view e USING (env_id) WHERE d.sched_condition = 'blocked' AND NOT e.deleted),"
    " (SELECT count(*) FROM env_desired_view d JOIN envs_view e USING (env_id) WHERE d.sched_condition = 'held' AND NOT e.deleted),"
    " (SELECT count(*) FROM volumes_view v WHERE v.backup_enabled AND NOT v.deleted),"
    " (SELECT count(*) FROM volumes_view v WHERE " MT_SQL_BACKUP_STALE("v") "), (SELECT count(*) FROM volumes_view v WHERE " MT_SQL_PROOF_STALE("v") "),"
    " coalesce((SELECT extract(epoch FROM now() - max(p.restored_at))::bigint FROM snapshots_view p), -1),"
    " " NAMES("v.volume_id", "volumes_view v WHERE NOT v.deleted AND v.state = 'available' AND NOT EXISTS (SELECT 1 FROM volume_attachments_view a WHERE a.volume_id = v.volume_id"
              " AND NOT a.deleted) AND (SELECT max(e.occurred_at) FROM moat.events e WHERE e.aggregate_id = v.volume_id AND e.event_type = 'volume.renamed'"
              /* the spare name of one that another replaced (volumes/home.c) */
              " AND e.payload->>'name' = v.name AND v.name ~ '-[0-9]+$') < now() - make_interval(secs => $1::bigint)") ","
    " " NAMES("o || ' ' || n.name", "moat.node_heartbeats h JOIN nodes_view n ON n.node_id = h.node_id AND NOT n.deleted,"
              " jsonb_array_elements_text(coalesce(h.body->'storage'->'orphans', '[]')) o WHERE true")};
static const struct mt_pg_stmt st_nodes = {
    "doctor_nodes",
    "SELECT (SELECT count(*) FROM " LIVE "), (SELECT count(*) FROM " LIVE " AND n.admin_state = 'active' AND n.health = 'ready'),"
    " " NAMES("n.name", LIVE " AND n.health IN ('suspect','offline')") "," NAMES("n.name", LIVE " AND n.health = 'degraded'") ","
    " " NAMES("n.name", LIVE " AND n.admin_state = 'pending_approval'") "," NAMES("n.name", LIVE " AND n.health = 'lost'") ","
    " " SAYS(VMM) "," SAYS(BUNDLE) "," SAYS(DISK) "," SAYS(POOL) "," SAYS(CLOCK) "," SAYS(NET) ","
    " " NAMES("n.name || ' (' || c || ')'", "nodes_view n, unnest(n.conditions) c WHERE NOT n.deleted AND n.admin_state NOT IN ('disabled', 'removed')"
              " AND c <> ALL (ARRAY[" VMM "," BUNDLE "," DISK "," POOL "," CLOCK "," NET "," PASSING "])") ","
    " (SELECT count(DISTINCT v) FROM (SELECT n.agent_version AS v FROM " LIVE " AND n.agent_version IS NOT NULL UNION ALL SELECT $1) x),"
    " (SELECT string_agg(v || ' (' || k || ')', ', ' ORDER BY v) FROM (SELECT v, count(*) AS k FROM (SELECT left(n.agent_version, 40) AS v FROM " LIVE
    "  AND n.agent_version IS NOT NULL UNION ALL SELECT $1) y GROUP BY v ORDER BY v LIMIT 8) z),"
    " " NAMES("n.name", LIVE " AND (SELECT max(t.not_after) FROM moat.node_certs t WHERE t.node_id = n.node_id AND t.revoked_at IS NULL)"
                        " < now() + make_interval(secs => $2)")};

#define EDGE "n.admin_state IN ('active', 'cordoned', 'draining') AND 'edge' = ANY (n.roles) AND NOT n.deleted"
/* Versions of agents, edges that were heard in the last ten minutes, and this server ($1), each with what says it. */
#define VERSIONS \
    "(SELECT left(n.agent_version, 40) AS v, 'agent' AS what FROM " LIVE " AND n.agent_version IS NOT NULL UNION ALL" \
    " SELECT b.version, 'edge' FROM moat.edge_heartbeats b JOIN nodes_view n USING (node_id) WHERE b.version IS NOT NULL AND NOT n.deleted AND b.received_at > now() - interval '10 min'" \
    " UNION ALL SELECT $1, 'this server')"

static const struct mt_pg_stmt st_upgrade = {
    "doctor_upgrade",
    "SELECT coalesce((SELECT extract(epoch FROM now() - made_at)::bigint FROM moat.control_backup_last), -1),"
    " CASE WHEN current_setting('archive_mode') = 'off' THEN -1 ELSE coalesce((SELECT extract(epoch FROM now() - last_archived_time)::bigint FROM pg_stat_archiver), -1) END,"
    " (SELECT count(*) FROM pg_stat_replication),"
    " (SELECT coalesce(max(CASE WHEN state IS NULL THEN -1 ELSE extract(epoch FROM coalesce(replay_lag, interval '0')) * 1000 END), 0)::bigint FROM pg_stat_replication),"
    " (SELECT count(*) FROM nodes_view n WHERE " EDGE "),"
    " " NAMES("n.name", "nodes_view n LEFT JOIN moat.edge_heartbeats b USING (node_id) WHERE " EDGE " AND (b.received_at IS NULL OR b.received_at < now() - interval '30 s')") ","
    " (SELECT count(*) FROM deploys_view d WHERE d.finished_at IS NULL),"
    " (SELECT count(*) FROM snapshots_view v WHERE v.finished_at IS NULL) + (SELECT count(*) FROM restores_view v WHERE v.finished_at IS NULL),"
    " " NAMES("n.name", "nodes_view n WHERE NOT n.deleted AND n.admin_state = 'draining'") ","
    " (SELECT count(DISTINCT v) FROM " VERSIONS " x),"
    " (SELECT string_agg(v || ' (' || said || ')', ', ' ORDER BY v) FROM (SELECT v, string_agg(k || ' ' || what, ', ' ORDER BY what) AS said FROM"
    "  (SELECT v, what, count(*) AS k FROM " VERSIONS " x GROUP BY v, what) y GROUP BY v ORDER BY v LIMIT 8) z),"
    " (SELECT string_agg(v, ' ') FROM (SELECT DISTINCT v FROM " VERSIONS " x LIMIT 8) z)"};

static int64_t left_of(int64_t not_after_s)
{
    return not_after_s ? not_after_s - mt_clock_wall_us() / 1000000 : INT64_MAX;
}

static int look_at_headroom(struct mt_api_call *c, struct mt_doctor_facts *f)
{
    struct mt_pass p = {.ctl = c->ctl, .pg = c->pg};
    struct mt_capacity k;
    const char *none[] = {NULL};
    mt_arena_init(&p.arena, NODES_BYTES);
    int rc = mt_pass_load(&p, none, 0, &c->err);
    if (rc == 0) {
        mt_capacity(p.nodes, p.n_nodes, &k);
        f->headroom_bytes = k.headroom_bytes;
    }
    mt_pass_done(&p);
    return rc;
}

static int look_at_keys(struct mt_api_call *c, struct mt_doctor_facts *f, char *problem, size_t size)
{
    struct mt_key_info keys[MT_MASTERKEYS_MAX];
    f->keys_configured = c->ctl->conf.master_keys_file != NULL;
    int rc = mt_key_rows_astray(c->ctl->keys, c->pg, &f->rows_missing, &f->rows_retired, &c->err);
    if (rc < 0)
        return rc;
    size_t loaded = mt_keys_list(c->ctl->keys, keys, MT_MASTERKEYS_MAX);
    mt_keys_problem(c->ctl->keys, problem, size);
    f->keys_problem = problem;
    for (size_t i = 0; i < loaded; i++)
        f->keys_active += keys[i].active;
    return 0;
}

static void look_at_server(struct mt_api_call *c, struct mt_doctor_facts *f)
{
    struct statvfs v;
    f->schema_known = mt_log_schema_known();
    f->history_split = mt_history_state(c->ctl->history) != MT_RECOVERY_NONE;
    f->disk_used_percent = -1;
    if (statvfs(c->ctl->conf.data_dir, &v) == 0 && v.f_blocks > 0)
        f->disk_used_percent = (int64_t)((v.f_blocks - v.f_bavail) * 100 / v.f_blocks);
    f->api_left_s = left_of(atomic_load(&c->ctl->api_cert_not_after_s));
    f->ca_left_s = c->ctl->node_ca ? left_of(mt_node_ca_ends_s(c->ctl->node_ca)) : INT64_MAX;
    f->guard = mt_measure_guard(&c->ctl->measure);
}

/* What @f and @u point to. */
struct seen {
    struct mt_pg_res *platform, *nodes, *upgrade;
    char problem[240];
};

static void unsee(struct seen *s)
{
    mt_pg_res_free(s->platform);
    mt_pg_res_free(s->nodes);
    mt_pg_res_free(s->upgrade);
}

static int look(struct mt_api_call *c, struct seen *s, struct mt_doctor_facts *f)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, MOAT_VERSION);
    mt_pg_p_i64(&p, MT_DOCTOR_CERT_S);
    struct mt_pg_params grace;
    mt_pg_p_init(&grace);
    mt_pg_p_i64(&grace, (int64_t)c->ctl->conf.retired_grace_s);
    if (mt_log_schema_version(c->pg, &f->schema_have, &c->err) < 0 || mt_log_schema_least(c->pg, &f->schema_least, &c->err) < 0 ||
        mt_pg_query_one(c->pg, &st_platform, &grace, &s->platform, &c->err) < 0 || mt_pg_query_one(c->pg, &st_nodes, &p, &s->nodes, &c->err) < 0 ||
        look_at_headroom(c, f) < 0 || look_at_keys(c, f, s->problem, sizeof s->problem) < 0)
        return -1;
    const struct mt_pg_res *r = s->platform, *n = s->nodes;
    look_at_server(c, f);
    f->clock_off_s = strtod(mt_pg_text(r, 0, 0), NULL) - (double)mt_clock_wall_us() / 1e6;
    f->connections = mt_pg_i64(r, 0, 1);
    f->connections_max = mt_pg_i64(r, 0, 2);
    f->audit_waits_s = mt_pg_i64(r, 0, 3);
    f->views_bad = mt_pg_text(r, 0, 4);
    f->lease_age_s = mt_pg_i64(r, 0, 5);
    f->roles_lost = mt_pg_text(r, 0, 6);
    f->paused = mt_pg_bool(r, 0, 7);
    f->maintenance = mt_pg_bool(r, 0, 8);
    f->blocked_groups = mt_pg_i64(r, 0, 9);
    f->held_groups = mt_pg_i64(r, 0, 10);
    f->volumes_kept = mt_pg_i64(r, 0, 11);
    f->stale = mt_pg_i64(r, 0, 12);
    f->unproven = mt_pg_i64(r, 0, 13);
    f->proven_age_s = mt_pg_i64(r, 0, 14);
    f->retired = mt_pg_text(r, 0, 15);
    f->orphans = mt_pg_text(r, 0, 16);
    f->nodes = mt_pg_i64(n, 0, 0);
    f->nodes_ready = mt_pg_i64(n, 0, 1);
    f->offline = mt_pg_text(n, 0, 2);
    f->degraded = mt_pg_text(n, 0, 3);
    f->waiting = mt_pg_text(n, 0, 4);
    f->lost = mt_pg_text(n, 0, 5);
    for (int i = 0; i < MT_DOCTOR_NODE_MAX; i++)
        f->condition[i] = mt_pg_text(n, 0, 6 + i);
    f->versions = mt_pg_i64(n, 0, 13);
    f->version_list = mt_pg_text(n, 0, 14);
    f->certs_ending = mt_pg_text(n, 0, 15);
    return 0;
}

static int answer(struct mt_api_call *c, json_t *o)
{
    if (!o) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "out of memory");
        return mt_api_fail_err(c);
    }
    return mt_api_send(c, 200, o);
}

int mt_api_doctor_get(struct mt_api_call *c)
{
    struct seen s = {0};
    struct mt_doctor_facts f = {0};
    if (mt_api_query_done(c) < 0)
        return -1;
    int rc = look(c, &s, &f) < 0 ? mt_api_fail_err(c) : answer(c, mt_doctor(&f));
    unsee(&s);
    return rc;
}

/* Versions are few: whether two are too far apart is asked of each pair, in this list of "A B C". */
static bool far_apart(const char *list)
{
    char v[8][48];
    size_t n = 0;
    for (const char *p = list; *p && n < MT_ARRAY_LEN(v);) {
        size_t len = strcspn(p, " "), kept = len < sizeof v[0] ? len : sizeof v[0] - 1;
        memcpy(v[n], p, kept);
        v[n++][kept] = '\0';
        p += len + (p[len] == ' ');
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++)
            if (mt_versions_far(v[i], v[k]))
                return true;
    return false;
}

int mt_api_upgrade_get(struct mt_api_call *c)
{
    struct seen s = {0};
    struct mt_doctor_facts f = {0};
    struct mt_upgrade_facts u = {0};
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, MOAT_VERSION);
    if (look(c, &s, &f) < 0 || mt_pg_query_one(c->pg, &st_upgrade, &p, &s.upgrade, &c->err) < 0) {
        unsee(&s);
        return mt_api_fail_err(c);
    }
    const struct mt_pg_res *r = s.upgrade;
    u.backup_age_s = mt_pg_i64(r, 0, 0);
    u.archived_age_s = mt_pg_i64(r, 0, 1);
    u.standbys = mt_pg_i64(r, 0, 2);
    u.standby_lag_ms = mt_pg_i64(r, 0, 3);
    if (u.standbys > 0 && u.standby_lag_ms < 0 && mt_standby_lag(c->pg, &u.standby_lag_ms, NULL, &c->err) < 0) {
        unsee(&s);
        return mt_api_fail_err(c);
    }
    u.edges = mt_pg_i64(r, 0, 4);
    u.edges_silent = mt_pg_text(r, 0, 5);
    u.rollouts = mt_pg_i64(r, 0, 6);
    u.moving = mt_pg_i64(r, 0, 7);
    u.draining = mt_pg_text(r, 0, 8);
    u.versions = mt_pg_i64(r, 0, 9);
    u.version_list = mt_pg_text(r, 0, 10);
    u.far = far_apart(mt_pg_text(r, 0, 11));
    int rc = answer(c, mt_upgrade_check(&f, &u));
    unsee(&s);
    return rc;
}
