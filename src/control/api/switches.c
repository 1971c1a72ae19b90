/* SPDX-License-Identifier: Apache-2.0 */
/* Switches of the operator against abuse: an organisation suspended, a route disabled (control-plane.md §9.5). Each says why.
 * Suspension drains what runs, answers at the edge as if the routes were not there, and lets tenants only read and delete. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/routes.h"
#include "control/api/tenancy.h"

static int read_reason(struct mt_api_call *c, const char **ret)
{
    static const char *const known[] = {"reason", NULL};
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, ret) < 0)
        return -1;
    return 0;
}

static json_t *object_of(const struct mt_pg_res *r)
{
    json_error_t je;
    return json_loads(mt_pg_text(r, 0, 0), 0, &je);
}

/* The object with one more version, its time to be filled in. */
static void bump(json_t *o, int64_t version)
{
    json_object_set_new(o, "resource_version", json_integer(version + 1));
    json_object_set_new(o, "updated_at", json_null());
}

/* ---------------------------------------------------------------- organisations */

static int prepare_suspension(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool suspend)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *reason;
    if (read_reason(c, &reason) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    if (mt_pg_query_one(c->pg, &mt_org_get, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "organisation") : mt_api_fail_err(c);
    int64_t version = mt_pg_i64(r, 0, 1);
    made->operation = suspend ? "org.suspend" : "org.resume";
    made->ids = json_pack("{s:s}", "org_id", c->org.id);
    made->object = object_of(r);
    made->nothing = json_is_true(json_object_get(made->object, "suspended")) == suspend;
    if (made->nothing)
        return 0;
    bump(made->object, version);
    json_object_set_new(made->object, "suspended", json_boolean(suspend));
    if (suspend)
        json_object_set_new(made->object, "suspended_reason", json_string(reason));
    else
        json_object_del(made->object, "suspended_reason");
    if (mt_cmd_rely(cmd, MT_RELY_ORG, c->org.id, NULL, version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, suspend ? MT_EV_ORG_SUSPENDED : MT_EV_ORG_RESUMED, c->org.id, json_pack("{s:s}", "reason", reason));
}

static int prepare_suspend(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_suspension(c, cmd, made, true);
}

static int prepare_resume(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_suspension(c, cmd, made, false);
}

int mt_api_orgs_suspend(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_suspend);
}

int mt_api_orgs_resume(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_resume);
}

/* ---------------------------------------------------------------- routes */

static int prepare_switch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool disable)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *reason, *id = mt_api_param(c, "route_id");
    if (read_reason(c, &reason) < 0 || mt_api_route_load(c, NULL, id, &r) < 0)
        return -1;
    int64_t version = mt_pg_i64(r, 0, 1);
    made->operation = disable ? "route.disable" : "route.enable";
    made->ids = json_pack("{s:s}", "route_id", id);
    made->object = object_of(r);
    made->nothing = json_is_true(json_object_get(made->object, "disabled")) == disable;
    if (made->nothing)
        return 0;
    bump(made->object, version);
    json_object_set_new(made->object, "disabled", json_boolean(disable));
    mt_api_route_show(c, made->object);
    struct mt_cmd_ids ids = {.org_id = json_string_value(json_object_get(made->object, "org_id")),
                             .app_id = json_string_value(json_object_get(made->object, "app_id")),
                             .env_id = json_string_value(json_object_get(made->object, "env_id"))};
    if (mt_cmd_rely(cmd, MT_RELY_ROUTE, id, NULL, version, &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_ROUTE_UPDATED, id, &ids, json_pack("{s:b,s:s}", "disabled", disable, "reason", reason), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int prepare_disable(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_switch(c, cmd, made, true);
}

static int prepare_enable(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_switch(c, cmd, made, false);
}

int mt_api_routes_disable(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_disable);
}

int mt_api_routes_enable(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_enable);
}
