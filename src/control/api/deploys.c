/* SPDX-License-Identifier: Apache-2.0 */
/* Deploys, rollbacks and restarts (control-plane.md §5.2, §5.4): rows are loaded, checked, and turned into one command. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/diagnose.h"
#include "control/api/mutate.h"
#include "control/api/restart.h"
#include "control/api/sql.h"
#include "control/commands/deploy.h"
#include "control/api/manifest_routes.h"
#include "control/api/manifest_volumes.h"
#include "control/plans/release_row.h"
#include "control/rollout/deploy.h"
#include "control/secrets/store.h"

#define DEPLOY_OBJECT                                                                                                  \
    "json_strip_nulls(json_build_object('id',deploy_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,'kind',kind,"   \
    "'release_id',release_id,'release_ids',release_ids,'previous_release_ids',previous_release_ids,"                   \
    "'process_types',process_types,'strategy',strategy,'on_failure',on_failure,'status',status,'message',message,"     \
    "'failed_reason',failed_reason,'superseded_by',superseded_by,'timeout_seconds',timeout_seconds,'note',note,'warnings',warnings,"       \
    "'created_by',created_by,'deadline_at'," MT_SQL_TS("deadline_at") ",'finished_at'," MT_SQL_TS("finished_at") "," \
    "'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(deploys, DEPLOY_OBJECT, "deploys_view", "deploy_id",
            "env_id = $1 AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR $3 = ANY (process_types))"
            " AND ($4::text IS NULL OR kind = $4)" MT_SQL_CREATED("5", "6"), "7", "8");
static const struct mt_pg_stmt deploy_get = {
    "deploy_get", "SELECT " DEPLOY_OBJECT ", resource_version FROM deploys_view WHERE env_id = $1 AND deploy_id = $2"};

static const struct mt_pg_stmt release_of_app = {
    "deploy_release", "SELECT " MT_RELEASE_COLUMNS " FROM releases_view r WHERE r.app_id = $1 AND r.release_id = $2"};
static const struct mt_pg_stmt desired_rows = {
    "deploy_desired", "SELECT process_type, release_id, resource_version, desired_user FROM env_desired_view WHERE env_id = $1"
                      " ORDER BY process_type COLLATE \"C\""};
static const struct mt_pg_stmt open_deploys = {
    "deploy_open", "SELECT deploy_id, process_types, resource_version FROM deploys_view WHERE env_id = $1"
                   " AND finished_at IS NULL ORDER BY deploy_id"};
static const struct mt_pg_stmt rollback_target = {
    "deploy_rollback_target",
    "SELECT release_id FROM deploys_view d WHERE env_id = $1 AND status = 'succeeded' AND release_id IS NOT NULL"
    " AND release_id NOT IN (SELECT x.release_id FROM env_desired_view x WHERE x.env_id = $1 AND x.release_id IS NOT NULL)"
    " ORDER BY finished_at DESC, deploy_id DESC LIMIT 1"};

/* Everything one preparation loads; freed as a whole. */
struct work {
    struct mt_deploy_plan plan;
    struct mt_release_row rel;
    bool has_rel;
    struct mt_strings types; /* of the release; borrowed from rel */
    struct mt_pg_res *desired, *open;
    char deploy_id[MT_ID_SIZE];
    bool partial; /* process_types was given */
    json_t *warnings;
};

static void work_done(struct work *w)
{
    if (w->has_rel)
        mt_release_row_done(&w->rel);
    free(w->types.v);
    json_decref(w->warnings);
    mt_pg_res_free(w->desired);
    mt_pg_res_free(w->open);
}

static int load_release(struct mt_api_call *c, const char *release_id, struct work *w)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->app.id);
    mt_pg_p_text(&p, release_id);
    if (mt_pg_query_one(c->pg, &release_of_app, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "release") : mt_api_fail_err(c);
    if (mt_release_row_read(r, 0, &w->rel, &c->err) < 0)
        return mt_api_fail_err(c);
    w->has_rel = true;
    if (mt_manifest_process_types(w->rel.manifest, &w->types, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int load_env(struct mt_api_call *c, struct work *w)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query(c->pg, &desired_rows, &p, &w->desired, &c->err) < 0 ||
        mt_pg_query(c->pg, &open_deploys, &p, &w->open, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

/* True when the body limits the process types and leaves this one out. */
static bool left_out(struct mt_api_call *c, const char *type)
{
    json_t *list = json_object_get(c->body, "process_types"), *v;
    size_t i;
    if (!json_is_array(list))
        return false;
    json_array_foreach (list, i, v)
        if (json_is_string(v) && MT_STREQ(json_string_value(v), type))
            return false;
    return true;
}

static int check_type_list(struct mt_api_call *c, struct work *w, bool (*known)(const struct work *, const char *),
                           const char *where)
{
    json_t *list = json_object_get(c->body, "process_types"), *v;
    size_t i;
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > 16)
        return mt_api_fail(c, 400, "invalid_argument", "'process_types': is a list of 1 to 16 names");
    w->partial = true;
    json_array_foreach (list, i, v) {
        char shown[48];
        const char *t = json_string_value(v);
        if (!t)
            return mt_api_fail(c, 400, "invalid_argument", "'process_types': is a list of names");
        if (!known(w, t))
            return mt_api_fail(c, 400, "unknown_process_type", "%s has no process type '%s'", where,
                               mt_printable(t, strlen(t), shown, sizeof shown));
    }
    return 0;
}

static bool type_in_release(const struct work *w, const char *type)
{
    for (size_t i = 0; i < w->types.n; i++)
        if (MT_STREQ(w->types.v[i], type))
            return true;
    return false;
}

static int desired_row(const struct work *w, const char *type)
{
    for (int i = 0; i < mt_pg_rows(w->desired); i++)
        if (MT_STREQ(mt_pg_text(w->desired, i, 0), type))
            return i;
    return -1;
}

static bool type_desired(const struct work *w, const char *type)
{
    int i = desired_row(w, type);
    return i >= 0 && !mt_pg_null(w->desired, i, 1);
}

static void add_item(struct work *w, const char *type, const char *release_id)
{
    int row = desired_row(w, type);
    w->plan.items[w->plan.n_items++] = (struct mt_deploy_item){
        .process_type = type,
        .release_id = release_id,
        .previous_release_id = row >= 0 ? mt_pg_text_or_null(w->desired, row, 1) : NULL,
        .desired_version = row >= 0 ? mt_pg_i64(w->desired, row, 2) : 0,
    };
}

static bool overlaps(const struct work *w, const struct mt_pg_res *r, int row)
{
    char type[64];
    for (int k = 0; k < mt_pg_arr_len(r, row, 1); k++) {
        if (mt_pg_arr_text(r, row, 1, k, type, sizeof type) < 0)
            continue;
        for (size_t i = 0; i < w->plan.n_items; i++)
            if (MT_STREQ(w->plan.items[i].process_type, type))
                return true;
        for (size_t i = 0; i < w->plan.n_cleared; i++)
            if (MT_STREQ(w->plan.cleared[i].process_type, type))
                return true;
    }
    return false;
}

static void add_open(struct work *w)
{
    for (int i = 0; i < mt_pg_rows(w->open) && w->plan.n_open < MT_DEPLOY_TYPES_MAX; i++)
        if (overlaps(w, w->open, i))
            w->plan.open[w->plan.n_open++] = (struct mt_deploy_open){mt_pg_text(w->open, i, 0), mt_pg_i64(w->open, i, 2)};
}

static void warn(struct work *w, json_t *warning)
{
    if (!w->warnings)
        w->warnings = json_array();
    json_array_append_new(w->warnings, warning);
    w->plan.warnings = w->warnings;
}

/* The gate (control-plane.md §5.2): an environment gets no release before somebody has set its secrets or said that it needs none. */
static int check_gate(struct mt_api_call *c, int *ret_keys)
{
    struct mt_secrets_now have;
    if (mt_secrets_now(c->pg, c->env.id, &have, &c->err) < 0)
        return mt_api_fail_err(c);
    *ret_keys = have.key_count;
    if (!have.version_id[0])
        return mt_api_fail(c, 409, "config_gate_unmet",
                           "environment '%s' has no secrets, and nobody has said that it needs none: `moat secrets set KEY=-` sets some,"
                           " `moat secrets confirm-none` or `moat deploy --confirm-no-secrets` says so",
                           c->env.name);
    return 0;
}

/* What the release's processes need that this server can or cannot give; finds the longest startup timeout. */
static int check_processes(struct mt_api_call *c, struct work *w, int keys, uint32_t *ret_startup)
{
    *ret_startup = 0;
    for (size_t i = 0; i < w->plan.n_items; i++) {
        struct mt_manifest_process pr;
        const char *type = w->plan.items[i].process_type;
        if (mt_manifest_process_read(w->rel.manifest, type, &pr, &c->err) < 0)
            return mt_api_fail_err(c);
        uint32_t startup = mt_health_startup_timeout(&pr.health);
        int row = desired_row(w, type);
        int64_t user = row >= 0 ? mt_pg_i64_or(w->desired, row, 3, -1) : -1;
        if (user > pr.scaling_max)
            warn(w, json_pack("{s:s,s:s,s:I,s:i}", "code", "scale_clamped", "process_type", type, "desired", (json_int_t)user,
                              "max", (int)pr.scaling_max));
        bool secrets = pr.secrets_required;
        mt_manifest_process_done(&pr);
        *ret_startup = startup > *ret_startup ? startup : *ret_startup;
        if (secrets && keys == 0)
            return mt_api_fail(c, 409, "secrets_missing", "process '%s' requires secrets and the environment has none; `moat secrets"
                                                          " set` gives it some", type);
    }
    return 0;
}

static int read_policy(struct mt_api_call *c, struct work *w)
{
    const char *policy;
    if (mt_api_text(c, "on_failure", false, 10, &policy) < 0)
        return -1;
    policy = policy ? policy : "hold";
    if (!MT_STREQ(policy, "hold") && !MT_STREQ(policy, "rollback"))
        return mt_api_fail(c, 400, "invalid_argument", "'on_failure': is hold or rollback");
    w->plan.on_failure = policy;
    return 0;
}

/* The command of a deploy or rollback of @release_id. */
static int target_release(struct mt_api_call *c, struct work *w, const char *kind, const char *release_id)
{
    int64_t timeout;
    uint32_t startup;
    int keys = 0;
    if (load_release(c, release_id, w) < 0 || load_env(c, w) < 0 ||
        check_type_list(c, w, type_in_release, "the release") < 0 || read_policy(c, w) < 0 ||
        mt_api_int(c, "timeout_seconds", false, 10, 3600, 0, &timeout) < 0 ||
        mt_api_text(c, "note", false, 500, &w->plan.note) < 0)
        return -1;
    mt_id_new(MT_ID_DEPLOY, w->deploy_id);
    w->plan.deploy_id = w->deploy_id;
    w->plan.kind = kind;
    w->plan.release_id = w->rel.release_id;
    for (size_t i = 0; i < w->types.n; i++)
        if (!left_out(c, w->types.v[i]))
            add_item(w, w->types.v[i], w->rel.release_id);
    for (int i = 0; i < mt_pg_rows(w->desired) && !w->partial; i++)
        if (!mt_pg_null(w->desired, i, 1) && !type_in_release(w, mt_pg_text(w->desired, i, 0)))
            w->plan.cleared[w->plan.n_cleared++] =
                (struct mt_deploy_cleared){mt_pg_text(w->desired, i, 0), mt_pg_i64(w->desired, i, 2)};
    if (check_gate(c, &keys) < 0 || check_processes(c, w, keys, &startup) < 0)
        return -1;
    w->plan.timeout_seconds = timeout ? (uint32_t)timeout : mt_deploy_timeout_seconds(startup);
    add_open(w);
    return 0;
}

static int finish(struct mt_api_call *c, struct mt_cmd *cmd, struct work *w, struct mt_api_made *made, const char *operation)
{
    struct mt_cmd_ids ids = {.org_id = c->org.id, .app_id = c->app.id, .env_id = c->env.id};
    made->status = 201;
    made->operation = operation;
    made->object = mt_deploy_object(&ids, &w->plan, c->who.subject_id);
    made->ids = json_pack("{s:s,s:s,s:s*}", "deploy_id", w->deploy_id, "env_id", c->env.id, "release_id", w->plan.release_id);
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s/deploys/%s", c->org.id, c->app.id, c->env.id,
             w->deploy_id);
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0 || mt_deploy_events(cmd, &ids, &w->plan, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_api_next(made, "wait for it", "moat deploys wait %s", w->deploy_id);
    return 0;
}

/* ---------------------------------------------------------------- deploy */

static int prepare_deploy_with(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct work *w)
{
    static const char *const known[] = {"release_id", "process_types", "on_failure", "timeout_seconds", "force", "note", NULL};
    const char *release_id;
    bool force, dry_run;
    json_t *changes = NULL;
    if (mt_api_dry_run(c, &dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        mt_api_text(c, "release_id", true, MT_ID_SIZE, &release_id) < 0 || mt_api_bool(c, "force", false, &force) < 0 ||
        target_release(c, w, "deploy", release_id) < 0 || finish(c, cmd, w, made, "deploy.create") < 0)
        return -1;
    struct mt_manifest_routes_in in = {.manifest = w->rel.manifest, .plan = &w->plan, .partial = w->partial, .force = force};
    if (mt_manifest_routes_apply(c, cmd, &in, &changes) < 0)
        return -1;
    json_object_set_new(made->object, "routes", changes);
    json_t *volumes = NULL;
    if (mt_manifest_volumes_apply(c, cmd, w->rel.manifest, &w->plan, &volumes) < 0)
        return -1;
    json_object_set_new(made->object, "volumes", volumes);
    made->dry_run = dry_run;
    return 0;
}

static int prepare_deploy(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct work w = {0};
    int rc = prepare_deploy_with(c, cmd, made, &w);
    work_done(&w);
    return rc;
}

int mt_api_deploys_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_deploy);
}

/* ---------------------------------------------------------------- rollback */

static int prepare_rollback_with(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct work *w)
{
    static const char *const known[] = {"release_id", "process_types", "on_failure", "note", "timeout_seconds", NULL};
    const char *release_id;
    char target[MT_ID_SIZE];
    bool dry_run;
    if (mt_api_dry_run(c, &dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        mt_api_text(c, "release_id", false, MT_ID_SIZE, &release_id) < 0)
        return -1;
    if (!release_id) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, c->env.id);
        if (mt_pg_query(c->pg, &rollback_target, &p, &r, &c->err) < 0)
            return mt_api_fail_err(c);
        if (mt_pg_rows(r) == 0)
            return mt_api_fail(c, 409, "no_rollback_target",
                               "no other release has succeeded in this environment; name one with release_id");
        snprintf(target, sizeof target, "%s", mt_pg_text(r, 0, 0));
        release_id = target;
    }
    if (target_release(c, w, "rollback", release_id) < 0 || finish(c, cmd, w, made, "rollback.create") < 0)
        return -1;
    json_t *volumes = NULL;
    if (mt_manifest_volumes_apply(c, cmd, w->rel.manifest, &w->plan, &volumes) < 0)
        return -1;
    json_object_set_new(made->object, "volumes", volumes);
    made->dry_run = dry_run;
    return 0;
}

static int prepare_rollback(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct work w = {0};
    int rc = prepare_rollback_with(c, cmd, made, &w);
    work_done(&w);
    return rc;
}

int mt_api_rollbacks_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_rollback);
}

/* ---------------------------------------------------------------- restart */

static int prepare_restart_with(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct work *w)
{
    static const char *const known[] = {"process_types", "on_failure", NULL};
    bool one_release = true;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load_env(c, w) < 0 ||
        check_type_list(c, w, type_desired, "the environment") < 0 || read_policy(c, w) < 0)
        return -1;
    mt_id_new(MT_ID_DEPLOY, w->deploy_id);
    w->plan.deploy_id = w->deploy_id;
    w->plan.kind = "restart";
    for (int i = 0; i < mt_pg_rows(w->desired); i++) {
        const char *type = mt_pg_text(w->desired, i, 0), *rel = mt_pg_text_or_null(w->desired, i, 1);
        if (!rel || left_out(c, type))
            continue;
        if (w->plan.n_items && !MT_STREQ(w->plan.items[0].release_id, rel))
            one_release = false;
        add_item(w, type, rel);
    }
    if (w->plan.n_items == 0)
        return mt_api_fail(c, 409, "conflict", "nothing is deployed in this environment, so there is nothing to restart");
    w->plan.release_id = one_release ? w->plan.items[0].release_id : NULL;
    w->plan.timeout_seconds = mt_deploy_timeout_seconds(0);
    add_open(w);
    return finish(c, cmd, w, made, "restart.create");
}

static int prepare_restart(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct work w = {0};
    int rc = prepare_restart_with(c, cmd, made, &w);
    work_done(&w);
    return rc;
}

int mt_api_restarts_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_restart);
}

int mt_api_restart_of(struct mt_api_call *c, struct mt_cmd *cmd, const char *process_type, char ret_deploy_id[MT_ID_SIZE])
{
    struct mt_cmd_ids ids = {.org_id = c->org.id, .app_id = c->app.id, .env_id = c->env.id};
    struct work w = {0};
    int rc = load_env(c, &w), row = rc < 0 ? -1 : desired_row(&w, process_type);
    if (rc == 0 && (row < 0 || mt_pg_null(w.desired, row, 1))) {
        rc = mt_api_fail(c, 409, "conflict", "nothing called '%s' is deployed in this environment, so there is nothing to restart", process_type);
    } else if (rc == 0) {
        mt_id_new(MT_ID_DEPLOY, ret_deploy_id);
        const char *release_id = mt_pg_text(w.desired, row, 1);
        w.plan = (struct mt_deploy_plan){.deploy_id = ret_deploy_id, .kind = "restart", .on_failure = "hold", .release_id = release_id, .timeout_seconds = mt_deploy_timeout_seconds(0)};
        add_item(&w, process_type, release_id);
        add_open(&w);
        if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0 || mt_deploy_events(cmd, &ids, &w.plan, &c->err) < 0)
            rc = mt_api_fail_err(c);
    }
    work_done(&w);
    return rc;
}

/* ---------------------------------------------------------------- list, get */

int mt_api_deploys_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &deploys_asc, .desc = &deploys_desc};
    const char *status = mt_api_query(c, "status");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->env.id);
    mt_pg_p_text(&l.params, status);
    mt_pg_p_text(&l.params, mt_api_query(c, "process_type"));
    mt_pg_p_text(&l.params, mt_api_query(c, "kind"));
    if (mt_api_list_created(c, &l) < 0)
        return -1;
    return mt_api_send_list(c, &l);
}

int mt_api_deploys_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    const char *id = mt_api_param(c, "deploy_id");
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, id);
    if (mt_pg_query_one(c->pg, &deploy_get, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "deploy") : mt_api_fail_err(c);
    json_t *o = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    if (!o) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "deploy");
        return mt_api_fail_err(c);
    }
    json_t *progress = mt_api_groups(c, NULL);
    if (!progress) {
        json_decref(o);
        return -1;
    }
    json_object_set_new(o, "progress", progress);
    if (mt_api_diagnose(c, id, o) < 0) {
        json_decref(o);
        return -1;
    }
    return mt_api_send(c, 200, o);
}
