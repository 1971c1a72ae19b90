/* SPDX-License-Identifier: Apache-2.0 */
/* Organisations, projects, apps, environments: create, list, get. They own everything else and do little themselves.
 * What changes and removes them is in tenancy_change.c. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/tenancy.h"
#include "model/names.h"

/* $5: all (operators), $6: the caller's user, $7: the only organisation of its token */
MT_SQL_LIST(orgs, MT_ORG_OBJECT, "orgs_view", "org_id",
            "($1 OR NOT deleted) AND ($2::text IS NULL OR name = $2)" MT_SQL_CREATED("3", "4")
            " AND ($5 OR (($7::text IS NULL OR org_id = $7) AND ($6::text IS NULL OR"
            " org_id IN (SELECT m.org_id FROM org_members_view m WHERE m.user_id = $6 AND NOT m.deleted AND m.state = 'active'))))",
            "8", "9");
MT_SQL_LIST(projects, MT_PROJECT_OBJECT, "projects_view", "project_id",
            "($1 OR NOT deleted) AND ($2::text IS NULL OR name = $2)" MT_SQL_CREATED("3", "4") " AND org_id = $5", "6", "7");
MT_SQL_LIST(apps, MT_APP_OBJECT, "apps_view", "app_id",
            "($1 OR NOT deleted) AND ($2::text IS NULL OR name = $2)" MT_SQL_CREATED("3", "4") " AND org_id = $5"
            " AND ($6::text IS NULL OR project_id = $6) AND " MT_SQL_APP_INSIDE("app_id", "7", "8"), "9", "10");
MT_SQL_LIST(envs, MT_ENV_OBJECT, "envs_view", "env_id",
            "($1 OR NOT deleted) AND ($2::text IS NULL OR name = $2)" MT_SQL_CREATED("3", "4") " AND app_id = $5 AND " MT_SQL_INSIDE("app_id", "env_id", "6", "7"),
            "8", "9");

const struct mt_pg_stmt mt_org_get = {"org_get", "SELECT " MT_ORG_OBJECT ", resource_version FROM orgs_view WHERE org_id = $1"
                                                 " AND NOT deleted"};
const struct mt_pg_stmt mt_project_get = {"project_get", "SELECT " MT_PROJECT_OBJECT ", resource_version FROM projects_view"
                                                         " WHERE project_id = $1 AND org_id = $2 AND NOT deleted"};
const struct mt_pg_stmt mt_app_get = {"app_get", "SELECT " MT_APP_OBJECT ", resource_version FROM apps_view WHERE app_id = $1"
                                                 " AND NOT deleted"};
const struct mt_pg_stmt mt_env_get = {"env_get", "SELECT " MT_ENV_OBJECT ", resource_version FROM envs_view WHERE env_id = $1"
                                                 " AND NOT deleted"};

/* The parameters that every list of named things has: include_deleted, name, created_after, created_before. */
static int named_list(struct mt_api_call *c, struct mt_api_list *l)
{
    bool deleted;
    mt_pg_p_init(&l->params);
    if (mt_api_query_bool(c, "include_deleted", false, &deleted) < 0)
        return -1;
    mt_pg_p_bool(&l->params, deleted);
    mt_pg_p_text(&l->params, mt_api_query(c, "name"));
    return mt_api_list_created(c, l);
}

static int get_one(struct mt_api_call *c, const struct mt_pg_stmt *s, const char *a, const char *b, const char *what)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, a);
    if (b)
        mt_pg_p_text(&p, b);
    return mt_api_send_row(c, s, &p, what);
}

/* The body's name, checked; refuses with invalid_argument. */
static int body_name(struct mt_api_call *c, enum mt_name_kind kind, const char **ret)
{
    if (mt_api_text(c, "name", true, 80, ret) < 0)
        return -1;
    if (mt_name_check(kind, *ret, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "%s", c->err.msg);
    return 0;
}

static int no_query(struct mt_api_call *c)
{
    return mt_api_query_done(c);
}

/* ---------------------------------------------------------------- organisations */

int mt_api_orgs_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &orgs_asc, .desc = &orgs_desc};
    bool all, member = MT_STREQ(c->who.kind, "session") || MT_STREQ(c->who.kind, "personal");
    if (named_list(c, &l) < 0 || mt_api_query_bool(c, "all", false, &all) < 0)
        return -1;
    if (all && (!c->who.is_operator || !(c->who.scopes & mt_scope_bit("admin"))))
        return mt_api_fail(c, 403, "operator_only", "only operators with the scope admin may list all organisations");
    mt_pg_p_bool(&l.params, all);
    mt_pg_p_text(&l.params, member ? c->who.subject_id : NULL);
    mt_pg_p_text(&l.params, c->who.org_id[0] ? c->who.org_id : NULL);
    return mt_api_send_list(c, &l);
}

int mt_api_orgs_get(struct mt_api_call *c)
{
    return get_one(c, &mt_org_get, c->org.id, NULL, "organisation");
}

static int prepare_org(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", "billing_email", NULL};
    const char *name, *email;
    char id[MT_ID_SIZE];
    if (no_query(c) < 0 || mt_api_fields(c, known) < 0 || body_name(c, MT_NAME_ORG, &name) < 0 ||
        mt_api_text(c, "billing_email", false, 320, &email) < 0)
        return -1;
    if (email && !mt_email_valid(email, strlen(email)))
        return mt_api_fail(c, 400, "invalid_argument", "'billing_email' is not an address");
    if (MT_STREQ(c->ctl->conf.org_creation, "operator") && !c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "on this platform operators make the organisations");
    char member[MT_ID_SIZE];
    mt_id_new(MT_ID_ORG, id);
    mt_id_new(MT_ID_MEMBER, member);
    struct mt_cmd_ids ids = {.org_id = id};
    if (mt_cmd_event(cmd, MT_EV_ORG_CREATED, id, &ids, json_pack("{s:s}", "name", name), &c->err) < 0)
        return mt_api_fail_err(c);
    if (email &&
        mt_cmd_event(cmd, MT_EV_ORG_UPDATED, id, &ids, json_pack("{s:s}", "billing_email", email), &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    if (mt_cmd_event(cmd, MT_EV_ORG_MEMBER_ADDED, member, &ids,
                     json_pack("{s:s,s:s,s:s,s:s}", "email", c->who.email, "user_id", c->who.subject_id, "role", "owner", "state",
                               "active"), &c->err) < 0)
        return mt_api_fail_err(c);
    made->operation = "org.create";
    made->ids = json_pack("{s:s}", "org_id", id);
    made->object = json_pack("{s:s,s:s,s:s*,s:b,s:b,s:i,s:n,s:n}", "id", id, "name", name, "billing_email", email,
                             "developer_exec", false, "suspended", false, "resource_version", email ? 2 : 1, "created_at",
                             "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s", id);
    return 0;
}

int mt_api_orgs_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_org);
}

/* ---------------------------------------------------------------- projects */

int mt_api_projects_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &projects_asc, .desc = &projects_desc};
    if (named_list(c, &l) < 0)
        return -1;
    mt_pg_p_text(&l.params, c->org.id);
    return mt_api_send_list(c, &l);
}

int mt_api_projects_get(struct mt_api_call *c)
{
    return get_one(c, &mt_project_get, mt_api_param(c, "project_id"), c->org.id, "project");
}

static int prepare_project(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", NULL};
    const char *name;
    char id[MT_ID_SIZE];
    if (no_query(c) < 0 || mt_api_fields(c, known) < 0 || body_name(c, MT_NAME_PROJECT, &name) < 0)
        return -1;
    mt_id_new(MT_ID_PROJECT, id);
    if (mt_cmd_rely(cmd, MT_RELY_ORG_LIVE, c->org.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_PROJECT_CREATED, id, json_pack("{s:s}", "name", name)) < 0)
        return -1;
    made->status = 201;
    made->operation = "project.create";
    made->ids = json_pack("{s:s}", "project_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "name", name, "resource_version", 1,
                             "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/projects/%s", c->org.id, id);
    return 0;
}

int mt_api_projects_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_project);
}

/* ---------------------------------------------------------------- apps */

int mt_api_apps_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &apps_asc, .desc = &apps_desc};
    if (named_list(c, &l) < 0)
        return -1;
    mt_pg_p_text(&l.params, c->org.id);
    mt_pg_p_text(&l.params, mt_api_query(c, "project_id"));
    mt_api_list_inside(c, &l);
    return mt_api_send_list(c, &l);
}

int mt_api_apps_get(struct mt_api_call *c)
{
    return get_one(c, &mt_app_get, c->app.id, NULL, "app");
}

static int prepare_app(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", "description", "project_id", NULL};
    const char *name, *description, *project;
    char id[MT_ID_SIZE];
    if (no_query(c) < 0 || mt_api_fields(c, known) < 0 || body_name(c, MT_NAME_APP, &name) < 0 ||
        mt_api_text(c, "description", false, MT_DESCRIPTION_MAX, &description) < 0 ||
        mt_api_text(c, "project_id", false, MT_ID_SIZE, &project) < 0)
        return -1;
    if (project) {
        struct mt_pg_params p;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, project);
        mt_pg_p_text(&p, c->org.id);
        if (mt_pg_query_one(c->pg, &mt_project_get, &p, &r, &c->err) < 0)
            return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "project") : mt_api_fail_err(c);
        if (mt_cmd_rely(cmd, MT_RELY_PROJECT_LIVE, project, NULL, 1, &c->err) < 0)
            return mt_api_fail_err(c);
    }
    mt_id_new(MT_ID_APP, id);
    c->app = (struct mt_api_owner){0};
    snprintf(c->app.id, sizeof c->app.id, "%s", id);
    if (mt_cmd_rely(cmd, MT_RELY_ORG_LIVE, c->org.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_APP_CREATED, id,
                     json_pack("{s:s,s:s*,s:s*}", "name", name, "description", description, "project_id", project)) < 0)
        return -1;
    made->status = 201;
    made->operation = "app.create";
    made->ids = json_pack("{s:s}", "app_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s*,s:s*,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "name", name, "description",
                             description, "project_id", project, "resource_version", 1, "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s", c->org.id, id);
    return 0;
}

int mt_api_apps_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_app);
}

/* ---------------------------------------------------------------- environments */

int mt_api_envs_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &envs_asc, .desc = &envs_desc};
    if (named_list(c, &l) < 0)
        return -1;
    mt_pg_p_text(&l.params, c->app.id);
    mt_api_list_inside(c, &l);
    return mt_api_send_list(c, &l);
}

int mt_api_envs_get(struct mt_api_call *c)
{
    return get_one(c, &mt_env_get, c->env.id, NULL, "environment");
}

static int prepare_env(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"name", "private_network", "protected", NULL};
    const char *name;
    char id[MT_ID_SIZE];
    bool private_network, protected;
    if (no_query(c) < 0 || mt_api_fields(c, known) < 0 || body_name(c, MT_NAME_ENV, &name) < 0 ||
        mt_api_bool(c, "private_network", false, &private_network) < 0 || mt_api_bool(c, "protected", false, &protected) < 0)
        return -1;
    mt_id_new(MT_ID_ENV, id);
    struct mt_cmd_ids ids = {.org_id = c->org.id, .app_id = c->app.id, .env_id = id};
    bool settings = private_network || protected;
    if (mt_cmd_rely(cmd, MT_RELY_APP_LIVE, c->app.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_cmd_event(cmd, MT_EV_ENV_CREATED, id, &ids, json_pack("{s:s}", "name", name), &c->err) < 0)
        return mt_api_fail_err(c);
    if (settings && mt_cmd_event(cmd, MT_EV_ENV_UPDATED, id, &ids,
                                 json_pack("{s:b,s:b}", "private_network", private_network, "protected", protected),
                                 &c->err) < 0)
        return mt_api_fail_err(c);
    made->status = 201;
    made->operation = "env.create";
    made->ids = json_pack("{s:s}", "env_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:b,s:b,s:s,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "app_id", c->app.id,
                             "name", name, "private_network", private_network, "protected", protected, "config_gate", "unset",
                             "resource_version", settings ? 2 : 1,
                             "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/apps/%s/envs/%s", c->org.id, c->app.id, id);
    return 0;
}

int mt_api_envs_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_env);
}
