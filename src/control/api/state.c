/* SPDX-License-Identifier: Apache-2.0 */
/* See state.h. Statements name the views without a schema. */
#include "control/api/state.h"

#include "base/str.h"
#include "control/api/sql.h"
#include "wire/json.h"

#define RELEASES_MAX "200"

static const struct mt_pg_stmt env_row = {
    "state_env", "SELECT json_strip_nulls(json_build_object('env_id',env_id,'name',name,'private_network',private_network,'protected',protected,"
                 "'label_selector',label_selector,'backup_interval_seconds',backup_interval_seconds))::text FROM envs_view"
                 " WHERE env_id = $1 AND NOT deleted"};
static const struct mt_pg_stmt app_row = {
    "state_app", "SELECT json_strip_nulls(json_build_object('app_id',app_id,'name',name,'description',description,'project_id',project_id,"
                 "'releases_made',next_release_number - 1))::text FROM apps_view WHERE app_id = $1 AND NOT deleted"};
static const struct mt_pg_stmt org_row = {
    "state_org", "SELECT json_strip_nulls(json_build_object('org_id',org_id,'name',name,'billing_email',billing_email,'developer_exec',"
                 "developer_exec,'suspended',suspended,'suspended_reason',suspended_reason))::text FROM orgs_view WHERE org_id = $1 AND NOT deleted"};

/* Lists: $1 the owner. */
static const struct mt_pg_stmt instances = {
    "state_instances",
    "SELECT json_strip_nulls(json_build_object('id',instance_id,'process_type',process_type,'release_id',release_id,'deploy_id',deploy_id,"
    "'node_id',node_id,'desired_state',desired_state,'desired_reason',desired_reason,'status',status,'status_detail',status_detail,"
    "'reason_code',reason_code,'reason_detail',reason_detail,'exit_code',exit_code,'restart_count',restart_count,'overlay_ipv6',overlay_ipv6,"
    "'secret_version_id',secret_version_id,'generation',generation,'started_at'," MT_SQL_TS("started_at") ",'ready_at'," MT_SQL_TS("ready_at")
    "))::text FROM instances_view WHERE env_id = $1 AND released_at IS NULL ORDER BY instance_id COLLATE \"C\""};
static const struct mt_pg_stmt releases = {
    "state_releases",
    "SELECT json_build_object('id',release_id,'number',number,'image_digest',image_digest,'manifest_hash',manifest_hash)::text"
    " FROM (SELECT * FROM releases_view WHERE app_id = $1 ORDER BY number DESC LIMIT " RELEASES_MAX ") r ORDER BY number"};
static const struct mt_pg_stmt members = {
    "state_members", "SELECT json_strip_nulls(json_build_object('id',member_id,'email',email,'user_id',user_id,'role',role,'state',state))::text"
                     " FROM org_members_view WHERE org_id = $1 AND NOT deleted ORDER BY member_id COLLATE \"C\""};
static const struct mt_pg_stmt principals = {
    "state_sps", "SELECT json_strip_nulls(json_build_object('id',sp_id,'name',name,'client_id',client_id,'scopes',to_json(scopes),'restrict',"
                 "restrict_to))::text FROM service_principals_view WHERE org_id = $1 AND NOT deleted ORDER BY sp_id COLLATE \"C\""};
static const struct mt_pg_stmt projects = {
    "state_projects", "SELECT json_build_object('id',project_id,'name',name)::text FROM projects_view WHERE org_id = $1 AND NOT deleted"
                      " ORDER BY project_id COLLATE \"C\""};
static const struct mt_pg_stmt limits = {
    "state_limits", "SELECT json_build_object('dimension',dimension,'limit',limit_value)::text FROM org_quotas_view WHERE org_id = $1"
                    " AND limit_value IS NOT NULL ORDER BY dimension COLLATE \"C\""};
static const struct mt_pg_stmt envs = {
    "state_envs", "SELECT env_id FROM envs_view WHERE app_id = $1 AND NOT deleted ORDER BY env_id COLLATE \"C\""};
static const struct mt_pg_stmt apps = {
    "state_apps", "SELECT app_id FROM apps_view WHERE org_id = $1 AND NOT deleted ORDER BY app_id COLLATE \"C\""};
static const struct mt_pg_stmt suspended = {"state_suspended", "SELECT suspended FROM orgs_view WHERE org_id = $1"};

static int rows(struct mt_api_call *c, const struct mt_pg_stmt *st, const char *owner, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, owner);
    return mt_pg_query(c->pg, st, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int no_memory(struct mt_api_call *c)
{
    (void)MT_FAIL(&c->err, MT_E_NOMEM, "no memory for a state");
    return mt_api_fail_err(c);
}

/* The object of a row into @ret; JSON null when there is no row. */
static int object(struct mt_api_call *c, const struct mt_pg_stmt *st, const char *id, json_t **ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    if (rows(c, st, id, &r) < 0)
        return -1;
    *ret = mt_pg_rows(r) ? json_loads(mt_pg_text(r, 0, 0), 0, &je) : json_null();
    return *ret ? 0 : no_memory(c);
}

static int add_list(struct mt_api_call *c, json_t *o, const char *name, const struct mt_pg_stmt *st, const char *owner)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    if (rows(c, st, owner, &r) < 0)
        return -1;
    json_t *list = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++)
        json_array_append_new(list, json_loads(mt_pg_text(r, i, 0), 0, &je));
    return json_object_set_new(o, name, list) < 0 ? no_memory(c) : 0;
}

static int env_state(struct mt_api_call *c, const char *id, json_t **ret)
{
    struct mt_api_owner was = c->env, own = {{0}};
    json_t *status = NULL;
    mt_auto_json json_t *o = NULL;
    if (object(c, &env_row, id, &o) < 0)
        return -1;
    if (json_is_null(o)) {
        *ret = json_incref(o);
        return 0;
    }
    snprintf(own.id, sizeof own.id, "%s", id);
    snprintf(own.name, sizeof own.name, "%s", json_string_value(json_object_get(o, "name")));
    c->env = own;
    status = mt_api_status(c);
    c->env = was;
    if (!status)
        return -1;
    int rc = json_object_update_missing(status, o) < 0 ? no_memory(c) : add_list(c, status, "instances", &instances, own.id);
    if (rc < 0)
        json_decref(status);
    else
        *ret = status;
    return rc;
}

static int app_state(struct mt_api_call *c, const char *id, json_t **ret);

/* States of all that @st lists, under @name. */
static int add_states(struct mt_api_call *c, json_t *o, const char *name, const struct mt_pg_stmt *st, const char *owner,
                      int (*state)(struct mt_api_call *c, const char *id, json_t **ret))
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_t *list = json_array();
    if (json_object_set_new(o, name, list) < 0)
        return no_memory(c);
    if (rows(c, st, owner, &r) < 0)
        return -1;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        json_t *one;
        if (state(c, mt_pg_text(r, i, 0), &one) < 0)
            return -1;
        json_array_append_new(list, one);
    }
    return 0;
}

static int app_state(struct mt_api_call *c, const char *id, json_t **ret)
{
    mt_auto_json json_t *o = NULL;
    if (object(c, &app_row, id, &o) < 0)
        return -1;
    if (!json_is_null(o) && (add_list(c, o, "releases", &releases, id) < 0 || add_states(c, o, "envs", &envs, id, env_state) < 0))
        return -1;
    *ret = json_incref(o);
    return 0;
}

static int org_state(struct mt_api_call *c, const char *id, json_t **ret)
{
    mt_auto_json json_t *o = NULL;
    if (object(c, &org_row, id, &o) < 0)
        return -1;
    if (!json_is_null(o) &&
        (add_list(c, o, "members", &members, id) < 0 || add_list(c, o, "service_principals", &principals, id) < 0 ||
         add_list(c, o, "projects", &projects, id) < 0 || add_list(c, o, "limits", &limits, id) < 0 ||
         add_states(c, o, "apps", &apps, id, app_state) < 0))
        return -1;
    *ret = json_incref(o);
    return 0;
}

int mt_api_state(struct mt_api_call *c, enum mt_state_of of, json_t **ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    bool was = c->org_suspended;
    if (rows(c, &suspended, c->org.id, &r) < 0)
        return -1;
    c->org_suspended = mt_pg_rows(r) > 0 && mt_pg_bool(r, 0, 0); /* as it was then */
    int rc = of == MT_STATE_ENV   ? env_state(c, c->env.id, ret)
             : of == MT_STATE_APP ? app_state(c, c->app.id, ret)
                                  : org_state(c, c->org.id, ret);
    c->org_suspended = was;
    return rc;
}
