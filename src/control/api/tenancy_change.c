/* SPDX-License-Identifier: Apache-2.0 */
/* Organisations, projects, apps, environments: rename and set, and take away with what hangs below (control-plane.md §3.1). */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/patch.h"
#include "control/api/tenancy.h"
#include "control/registry/store.h"
#include "control/secrets/store.h"
#include "model/names.h"

#define SHOWN 20 /* dependents that a refusal lists */
#define CASCADE_RELIES (MT_CMD_RELIES_MAX - 8)
#define CASCADE_EVENTS (MT_CMD_EVENTS_MAX - 8)

/* A new name must fit its kind; uniqueness is the index's. */
static int patch_name(struct mt_api_call *c, struct mt_api_patch *p, enum mt_name_kind kind)
{
    if (mt_api_patch_text(c, p, "name", 80, false) < 0)
        return -1;
    json_t *name = json_object_get(p->payload, "name");
    if (name && mt_name_check(kind, json_string_value(name), &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "%s", c->err.msg);
    return 0;
}

static int rely(struct mt_api_call *c, struct mt_cmd *cmd, enum mt_rely what, const char *key, int64_t version)
{
    return mt_cmd_rely(cmd, what, key, NULL, version, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static struct mt_pg_params one(const char *a)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, a);
    return p;
}

/* 409 with the first of what is in the way. @r: (id, name) of each; @type names them. */
static int dependents(struct mt_api_call *c, const struct mt_pg_res *r, const char *type, const char *why)
{
    json_t *list = json_array();
    int n = mt_pg_rows(r);
    for (int i = 0; i < n && i < SHOWN; i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:s}", "type", type, "id", mt_pg_text(r, i, 0), "name", mt_pg_text(r, i, 1)));
    c->problem.details = json_pack("{s:o,s:i}", "dependents", list, "total", n);
    return mt_api_fail(c, 409, "has_dependents", "%s: %d %s%s, the first '%s'", why, n, type, n == 1 ? "" : "s", mt_pg_text(r, 0, 1));
}

/* ---------------------------------------------------------------- organisations */

static int patch_org(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const known[] = {"name", "billing_email", "developer_exec", "expected_version", NULL};
    struct mt_pg_params id = one(c->org.id);
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        mt_api_patch_begin(c, &mt_org_get, &id, "organisation", p) < 0 || patch_name(c, p, MT_NAME_ORG) < 0 ||
        mt_api_patch_text(c, p, "billing_email", 320, true) < 0 || mt_api_patch_bool(c, p, "developer_exec") < 0)
        return -1;
    const char *email = json_string_value(json_object_get(p->payload, "billing_email"));
    if (email && !mt_email_valid(email, strlen(email)))
        return mt_api_fail(c, 400, "invalid_argument", "'billing_email' is not an address");
    if (mt_api_patch_end(c, p, made, "org.update", "org_id", c->org.id) < 0 || rely(c, cmd, MT_RELY_ORG, c->org.id, p->version) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_ORG_UPDATED, c->org.id, json_incref(p->payload));
}

static const struct mt_pg_stmt apps_of_org = {
    "below_org", "SELECT app_id, name, last_event_id FROM apps_view WHERE org_id = $1 AND NOT deleted ORDER BY app_id"};

static int prepare_org_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p = one(c->org.id);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    mt_api_deleted(made, "org.delete", "org_id", c->org.id, c->org.deleted);
    if (c->org.deleted)
        return 0;
    if (mt_api_check_version(c, false, c->org.version, "organisation") < 0)
        return -1;
    if (mt_pg_query(c->pg, &apps_of_org, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r))
        return dependents(c, r, "app", "the organisation still has apps; delete them first");
    if (rely(c, cmd, MT_RELY_ORG, c->org.id, c->org.version) < 0 || rely(c, cmd, MT_RELY_ORG_APPS, c->org.id, 0) < 0)
        return -1;
    const struct mt_cmd_ids ids = {.org_id = c->org.id};
    if (mt_registry_end(c->pg, cmd, &ids, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ORG_DELETED, c->org.id, json_object());
}

/* ---------------------------------------------------------------- projects */

static int patch_project(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const known[] = {"name", "expected_version", NULL};
    const char *id = mt_api_param(c, "project_id");
    struct mt_pg_params key = one(id);
    mt_pg_p_text(&key, c->org.id);
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_patch_begin(c, &mt_project_get, &key, "project", p) < 0 ||
        patch_name(c, p, MT_NAME_PROJECT) < 0 || mt_api_patch_end(c, p, made, "project.update", "project_id", id) < 0 ||
        rely(c, cmd, MT_RELY_PROJECT, id, p->version) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_PROJECT_UPDATED, id, json_incref(p->payload));
}

static const struct mt_pg_stmt project_row = {
    "project_row", "SELECT resource_version, deleted FROM projects_view WHERE project_id = $1 AND org_id = $2"};
static const struct mt_pg_stmt apps_of_project = {
    "below_project", "SELECT app_id, name FROM apps_view WHERE project_id = $1 AND org_id = $2 AND NOT deleted ORDER BY app_id"};

static int prepare_project_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *row = NULL, *r = NULL;
    const char *id = mt_api_param(c, "project_id");
    struct mt_pg_params p = one(id);
    mt_pg_p_text(&p, c->org.id);
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (mt_pg_query(c->pg, &project_row, &p, &row, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(row) == 0)
        return mt_api_not_found(c, "project");
    bool gone = mt_pg_bool(row, 0, 1);
    int64_t version = mt_pg_i64(row, 0, 0);
    mt_api_deleted(made, "project.delete", "project_id", id, gone);
    if (gone)
        return 0;
    if (mt_api_check_version(c, false, version, "project") < 0)
        return -1;
    if (mt_pg_query(c->pg, &apps_of_project, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r))
        return dependents(c, r, "app", "apps still belong to the project; move or delete them first");
    if (rely(c, cmd, MT_RELY_PROJECT, id, version) < 0 || rely(c, cmd, MT_RELY_PROJECT_APPS, id, 0) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_PROJECT_DELETED, id, json_object());
}

/* ---------------------------------------------------------------- apps */

static int patch_app(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const known[] = {"name", "description", "project_id", "expected_version", NULL};
    struct mt_pg_params id = one(c->app.id);
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_patch_begin(c, &mt_app_get, &id, "app", p) < 0 ||
        patch_name(c, p, MT_NAME_APP) < 0 || mt_api_patch_text(c, p, "description", MT_DESCRIPTION_MAX, true) < 0 ||
        mt_api_patch_text(c, p, "project_id", MT_ID_SIZE, true) < 0)
        return -1;
    const char *project = json_string_value(json_object_get(p->payload, "project_id"));
    if (project) {
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        struct mt_pg_params key = one(project);
        mt_pg_p_text(&key, c->org.id);
        if (mt_pg_query_one(c->pg, &mt_project_get, &key, &r, &c->err) < 0)
            return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "project") : mt_api_fail_err(c);
        if (rely(c, cmd, MT_RELY_PROJECT_LIVE, project, 1) < 0)
            return -1;
    }
    if (mt_api_patch_end(c, p, made, "app.update", "app_id", c->app.id) < 0 || rely(c, cmd, MT_RELY_APP, c->app.id, p->version) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_APP_UPDATED, c->app.id, json_incref(p->payload));
}

static const struct mt_pg_stmt envs_of_app = {
    "below_app", "SELECT env_id, name, last_event_id, resource_version, protected FROM envs_view WHERE app_id = $1 AND NOT deleted"
                 " ORDER BY env_id"};
static const struct mt_pg_stmt routes_of_env = {
    "below_env", "SELECT route_id, coalesce(hostname || ':', '') || listen_port, last_event_id, hostname, listen_port"
                 " FROM routes_view WHERE env_id = $1 AND NOT deleted ORDER BY route_id"};
static const struct mt_pg_stmt volumes_of_env = {
    "volumes_of_env", "SELECT volume_id, name FROM volumes_view WHERE env_id = $1 AND NOT deleted ORDER BY volume_id"};
static const struct mt_pg_stmt ipv4_of_env = {
    "ipv4_below_env", "SELECT allocation_id, ipv4_address, resource_version FROM ipv4_allocations_view WHERE env_id = $1 AND ended_at IS NULL"};
static const struct mt_pg_stmt open_of_env = {
    "open_of_env", "SELECT deploy_id, resource_version FROM deploys_view WHERE env_id = $1 AND finished_at IS NULL"
                   " ORDER BY deploy_id"};

/* The version that MT_RELY_*_APPS, _ENVS and _ROUTES compare: a sum that moves with every change below. */
static int64_t sum_of(const struct mt_pg_res *r)
{
    int64_t sum = 0;
    for (int i = 0; i < mt_pg_rows(r); i++)
        sum += mt_pg_i64(r, i, 2);
    return sum;
}

static int too_much(struct mt_api_call *c)
{
    return mt_api_fail(c, 409, "has_dependents", "too much hangs below it for one transaction; delete environments one by one first");
}

/* Events that end an environment: its routes, its unfinished deploys, itself. The scheduler drains what runs. */
static int end_env(struct mt_api_call *c, struct mt_cmd *cmd, const char *env_id, int64_t version, bool cascade)
{
    mt_auto_pg_res struct mt_pg_res *routes = NULL, *open = NULL;
    struct mt_pg_params p = one(env_id);
    struct mt_cmd_ids ids = {.org_id = c->org.id, .app_id = c->app.id, .env_id = env_id};
    if (mt_pg_query(c->pg, &routes_of_env, &p, &routes, &c->err) < 0 || mt_pg_query(c->pg, &open_of_env, &p, &open, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(routes) && !cascade)
        return dependents(c, routes, "route", "the environment still has routes; delete them or ask with cascade=true");
    if (mt_cmd_n_events(cmd) + mt_pg_rows(routes) + mt_pg_rows(open) > CASCADE_EVENTS)
        return too_much(c);
    mt_auto_pg_res struct mt_pg_res *volumes = NULL;
    if (mt_pg_query(c->pg, &volumes_of_env, &p, &volumes, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(volumes)) /* with cascade too: data goes only by naming it */
        return dependents(c, volumes, "volume", "the environment has volumes, whose data goes only when they are named: moat volumes delete");
    if (rely(c, cmd, MT_RELY_ENV_VOLUMES, env_id, 0) < 0)
        return -1;
    mt_auto_pg_res struct mt_pg_res *ipv4 = NULL;
    if (mt_pg_query(c->pg, &ipv4_of_env, &p, &ipv4, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(ipv4) && !cascade)
        return dependents(c, ipv4, "ipv4", "the environment has an IPv4 address; disable it or ask with cascade=true");
    if (rely(c, cmd, MT_RELY_ENV_IPV4, env_id, mt_pg_rows(ipv4) ? mt_pg_i64(ipv4, 0, 2) : 0) < 0)
        return -1;
    if (rely(c, cmd, MT_RELY_ENV, env_id, version) < 0 || rely(c, cmd, MT_RELY_ENV_ROUTES, env_id, sum_of(routes)) < 0)
        return -1;
    for (int i = 0; i < mt_pg_rows(routes); i++)
        if (mt_cmd_event(cmd, MT_EV_ROUTE_DELETED, mt_pg_text(routes, i, 0), &ids,
                         json_pack("{s:I,s:s*}", "listen_port", (json_int_t)mt_pg_i64(routes, i, 4), "hostname",
                                   mt_pg_text_or_null(routes, i, 3)),
                         &c->err) < 0)
            return mt_api_fail_err(c);
    for (int i = 0; i < mt_pg_rows(open); i++)
        if (rely(c, cmd, MT_RELY_DEPLOY, mt_pg_text(open, i, 0), mt_pg_i64(open, i, 1)) < 0 ||
            mt_cmd_event(cmd, MT_EV_DEPLOY_STATUS_CHANGED, mt_pg_text(open, i, 0), &ids,
                         json_pack("{s:s,s:s,s:s}", "status", "failed", "failed_reason", "env_deleted", "message",
                                   "the environment was deleted"),
                         &c->err) < 0)
            return c->problem.status ? -1 : mt_api_fail_err(c);
    if (mt_pg_rows(ipv4) && mt_cmd_event(cmd, MT_EV_ENV_IPV4_DISABLED, env_id, &ids,
                                         json_pack("{s:s,s:s,s:b}", "allocation_id", mt_pg_text(ipv4, 0, 0), "ipv4_address", mt_pg_text(ipv4, 0, 1), "forced",
                                                   false),
                                         &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_secrets_end(c->pg, cmd, &ids, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_cmd_event(cmd, MT_EV_ENV_DELETED, env_id, &ids, json_pack("{s:b}", "cascade", cascade), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int refuse_protected(struct mt_api_call *c, const char *name)
{
    return mt_api_fail(c, 409, "conflict", "environment '%s' is protected; PATCH it with protected=false first", name);
}

static int read_delete(struct mt_api_call *c, struct mt_api_made *made, bool *ret_cascade)
{
    static const char *const known[] = {"expected_version", NULL};
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_bool(c, "cascade", false, ret_cascade) < 0 ||
        mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    return 0;
}

static int prepare_app_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    mt_auto_pg_res struct mt_pg_res *envs = NULL;
    struct mt_pg_params p = one(c->app.id);
    bool cascade;
    if (read_delete(c, made, &cascade) < 0)
        return -1;
    mt_api_deleted(made, "app.delete", "app_id", c->app.id, c->app.deleted);
    if (c->app.deleted)
        return 0;
    if (mt_api_check_version(c, false, c->app.version, "app") < 0)
        return -1;
    if (mt_pg_query(c->pg, &envs_of_app, &p, &envs, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(envs) && !cascade)
        return dependents(c, envs, "env", "the app still has environments; delete them or ask with cascade=true");
    if (mt_pg_rows(envs) * 4 > CASCADE_RELIES)
        return too_much(c);
    for (int i = 0; i < mt_pg_rows(envs); i++)
        if (mt_pg_bool(envs, i, 4))
            return refuse_protected(c, mt_pg_text(envs, i, 1));
    if (rely(c, cmd, MT_RELY_APP, c->app.id, c->app.version) < 0 || rely(c, cmd, MT_RELY_APP_ENVS, c->app.id, sum_of(envs)) < 0)
        return -1;
    for (int i = 0; i < mt_pg_rows(envs); i++)
        if (end_env(c, cmd, mt_pg_text(envs, i, 0), mt_pg_i64(envs, i, 3), true) < 0)
            return -1;
    return mt_api_event(c, cmd, MT_EV_APP_DELETED, c->app.id, json_pack("{s:b}", "cascade", cascade));
}

/* ---------------------------------------------------------------- environments */

/* {label: value}, at most 16, as node labels are. */
static int check_selector(struct mt_api_call *c, const json_t *v)
{
    const char *k;
    json_t *s;
    if (json_is_null(v))
        return 0;
    bool ok = json_is_object(v) && json_object_size(v) >= 1 && json_object_size(v) <= 16;
    json_object_foreach ((json_t *)(uintptr_t)v, k, s)
        ok = ok && strlen(k) >= 1 && strlen(k) <= 63 && json_is_string(s) && json_string_length(s) <= 63;
    return ok ? 0 : mt_api_fail(c, 400, "invalid_argument", "'label_selector': is an object of 1 to 16 texts of at most 63 bytes");
}

/* Fields that place work or cost money on the operator's side. */
static int patch_operator_fields(struct mt_api_call *c, struct mt_api_patch *p)
{
    json_t *selector = json_object_get(c->body, "label_selector");
    if (!selector && !json_object_get(c->body, "backup_interval_seconds"))
        return 0;
    if (!c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "label_selector and backup_interval_seconds are set by operators");
    if (selector && (check_selector(c, selector) < 0 || mt_api_patch_set(c, p, "label_selector", selector) < 0))
        return -1;
    return mt_api_patch_int(c, p, "backup_interval_seconds", 3600, 2592000, true);
}

static int patch_env(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, struct mt_api_patch *p)
{
    static const char *const known[] = {"name", "private_network", "protected", "label_selector", "backup_interval_seconds",
                                        "expected_version", NULL};
    struct mt_pg_params id = one(c->env.id);
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        mt_api_patch_begin(c, &mt_env_get, &id, "environment", p) < 0 || patch_name(c, p, MT_NAME_ENV) < 0 ||
        mt_api_patch_bool(c, p, "private_network") < 0 || mt_api_patch_bool(c, p, "protected") < 0 ||
        patch_operator_fields(c, p) < 0 || mt_api_patch_end(c, p, made, "env.update", "env_id", c->env.id) < 0 ||
        rely(c, cmd, MT_RELY_ENV, c->env.id, p->version) < 0)
        return -1;
    return mt_api_event(c, cmd, MT_EV_ENV_UPDATED, c->env.id, json_incref(p->payload));
}

static const struct mt_pg_stmt env_row = {"env_row_delete", "SELECT protected FROM envs_view WHERE env_id = $1"};

static int prepare_env_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p = one(c->env.id);
    bool cascade;
    if (read_delete(c, made, &cascade) < 0)
        return -1;
    mt_api_deleted(made, "env.delete", "env_id", c->env.id, c->env.deleted);
    if (c->env.deleted)
        return 0;
    if (mt_api_check_version(c, false, c->env.version, "environment") < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &env_row, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_bool(r, 0, 0))
        return refuse_protected(c, c->env.name);
    return end_env(c, cmd, c->env.id, c->env.version, cascade);
}

/* ---------------------------------------------------------------- entry points */

#define PATCH_OF(noun)                                                                                        \
    static int prepare_##noun##_patch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)    \
    {                                                                                                         \
        struct mt_api_patch p = {0};                                                                          \
        int rc = patch_##noun(c, cmd, made, &p);                                                              \
        mt_api_patch_done(&p);                                                                                \
        return rc;                                                                                            \
    }                                                                                                         \
    int mt_api_##noun##s_patch(struct mt_api_call *c)                                                         \
    {                                                                                                         \
        return mt_api_mutate(c, prepare_##noun##_patch);                                                      \
    }                                                                                                         \
    int mt_api_##noun##s_delete(struct mt_api_call *c)                                                        \
    {                                                                                                         \
        return mt_api_mutate(c, prepare_##noun##_delete);                                                     \
    }

PATCH_OF(org)
PATCH_OF(project)
PATCH_OF(app)
PATCH_OF(env)
