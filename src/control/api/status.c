/* SPDX-License-Identifier: Apache-2.0 */
/* One answer that tells what runs in an environment, what should, and why they differ. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/diagnose.h"
#include "control/api/sql.h"
#include "control/api/state.h"
#include "control/pass.h"
#include "control/plans/edge_acks.h"

static const struct mt_pg_stmt last_deploy = {
    "status_last_deploy",
    "SELECT json_strip_nulls(json_build_object('id',deploy_id,'kind',kind,'release_id',release_id,'status',status,"
    "'message',message,'failed_reason',failed_reason,'process_types',process_types,'created_at'," MT_SQL_TS("created_at")
    ",'finished_at'," MT_SQL_TS("finished_at") "))::text FROM deploys_view WHERE env_id = $1 ORDER BY deploy_id DESC LIMIT 1"};

static const struct mt_pg_stmt routes = {
    "status_routes",
    "SELECT json_strip_nulls(json_build_object('id',route_id,'hostname',hostname,'listen_port',listen_port,'protocol',protocol,"
    "'backend_process_type',backend_process_type,'backend_port',backend_port,'ready_backends',b.n,'disabled',CASE WHEN r.disabled THEN true END,'status',"
    "CASE WHEN r.disabled THEN 'degraded' WHEN b.n > 0 AND r.last_event_id <= $2 THEN 'active' WHEN b.n > 0 THEN 'pending' WHEN b.ever THEN 'degraded'"
    " ELSE 'pending' END))::text FROM routes_view r, LATERAL (SELECT count(*) FILTER (WHERE i.status = 'ready'"
    " AND i.desired_state = 'running' AND i.released_at IS NULL) AS n, bool_or(i.ready_at IS NOT NULL) AS ever"
    " FROM instances_view i WHERE i.env_id = r.env_id AND i.process_type = r.backend_process_type) b"
    " WHERE r.env_id = $1 AND NOT r.deleted ORDER BY r.route_id LIMIT 200"};

static int add_routes(struct mt_api_call *c, json_t *o)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    /* What an edge had applied is not in the log: in the past a route counts as applied. */
    mt_pg_p_i64(&p, c->past ? INT64_MAX : mt_edges_best(c->ctl->edges, mt_clock_mono()));
    if (mt_pg_query(c->pg, &routes, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *list = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++)
        json_array_append_new(list, json_loads(mt_pg_text(r, i, 0), 0, &je));
    json_object_set_new(o, "routes", list);
    return 0;
}

static int add_last_deploy(struct mt_api_call *c, json_t *o)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query(c->pg, &last_deploy, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r))
        json_object_set_new(o, "last_deploy", json_loads(mt_pg_text(r, 0, 0), 0, &je));
    return 0;
}

static void say(json_t *list, json_t *condition)
{
    if (condition)
        json_array_append_new(list, condition);
}

static json_int_t n_of(const json_t *g, const char *name)
{
    return json_integer_value(json_object_get(g, name));
}

/* One group: why it is blocked or held, else how far it is. */
static void group_condition(json_t *list, const json_t *g)
{
    const char *cond = json_string_value(json_object_get(g, "sched_condition"));
    const char *type = json_string_value(json_object_get(g, "process_type"));
    json_int_t desired = n_of(g, "desired"), ready = n_of(g, "ready"), failed = n_of(g, "failed");
    if (cond && !MT_STREQ(cond, "ok"))
        say(list, json_pack("{s:s,s:s,s:O*,s:O*}", "type", cond, "process_type", type, "reason", json_object_get(g, "reason"),
                            "detail", json_object_get(g, "detail")));
    else if (ready < desired)
        say(list, json_pack("{s:s,s:s,s:I,s:I}", "type", failed ? "failing" : "progressing", "process_type", type, "ready", ready,
                            "desired", desired));
    if (json_object_get(g, "wanted"))
        say(list, json_pack("{s:s,s:s,s:I,s:I}", "type", "scale_clamped", "process_type", type, "wanted", n_of(g, "wanted"),
                            "desired", desired));
}

/* What is not as it should be; empty when all is well. */
static json_t *conditions(struct mt_api_call *c, const json_t *o)
{
    json_t *list = json_array(), *v;
    size_t i;
    const json_t *deploy = json_object_get(o, "last_deploy");
    if (c->org_suspended)
        say(list, json_pack("{s:s}", "type", "org_suspended"));
    json_array_foreach (json_object_get(o, "processes"), i, v)
        group_condition(list, v);
    json_array_foreach (json_object_get(o, "routes"), i, v) {
        const char *status = json_string_value(json_object_get(v, "status"));
        bool off = json_is_true(json_object_get(v, "disabled"));
        if (off || (status && MT_STREQ(status, "degraded")))
            say(list, json_pack("{s:s,s:O*,s:O*,s:O*}", "type", off ? "route_disabled" : "route_degraded", "route_id",
                                json_object_get(v, "id"), "hostname", json_object_get(v, "hostname"), "listen_port",
                                json_object_get(v, "listen_port")));
    }
    if (deploy && MT_STREQ(json_string_value(json_object_get(deploy, "status")), "failed"))
        say(list, json_pack("{s:s,s:O*,s:O*,s:O*}", "type", "deploy_failed", "deploy_id", json_object_get(deploy, "id"), "reason",
                            json_object_get(deploy, "failed_reason"), "detail", json_object_get(deploy, "message")));
    return list;
}

/* Which version is wanted; never more than that. */
static int add_secrets(struct mt_api_call *c, json_t *o)
{
    static const struct mt_pg_stmt st = {
        "status_secrets",
        "SELECT json_strip_nulls(json_build_object('config_gate',CASE WHEN b.bundle_id IS NULL THEN 'unset' WHEN b.confirmed_none"
        " THEN 'confirmed_none' ELSE 'set' END,'version_id',b.current_version_id,'version_number',b.version_number,'key_count',"
        "b.key_count))::text FROM (SELECT $1::text AS env_id) e LEFT JOIN secret_bundles_view b ON b.env_id = e.env_id AND NOT b.deleted"};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    if (mt_pg_query_one(c->pg, &st, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return json_object_set_new(o, "secrets", json_loads(mt_pg_text(r, 0, 0), 0, &je));
}

json_t *mt_api_status(struct mt_api_call *c)
{
    json_t *groups = mt_api_groups(c, NULL);
    if (!groups)
        return NULL;
    json_t *o = json_pack("{s:s,s:s,s:[],s:o,s:[]}", "env_id", c->env.id, "name", c->env.name, "conditions", "processes", groups, "volumes");
    if (add_last_deploy(c, o) < 0 || add_routes(c, o) < 0 || add_secrets(c, o) < 0 || mt_api_status_volumes(c, o) < 0 || mt_api_diagnose(c, NULL, o) < 0) {
        json_decref(o);
        return NULL;
    }
    json_object_set_new(o, "conditions", conditions(c, o));
    return o;
}

static void say_paused(json_t *o)
{
    size_t i;
    json_t *g;
    say(json_object_get(o, "conditions"), json_pack("{s:s}", "type", "scheduler_paused"));
    json_array_foreach (json_object_get(o, "processes"), i, g)
        if (MT_STREQ(json_string_value(json_object_get(g, "sched_condition")), "blocked")) {
            json_object_set_new(g, "next_try", json_string("resume"));
            json_object_del(g, "next_try_at");
        }
}

/* Nothing is placed or drained while the scheduler is paused: people see why nothing moves. No part of the environment's state, which
 * can be told of the past too. */
static int add_paused(struct mt_api_call *c, json_t *o)
{
    static const struct mt_pg_stmt st = {
        "status_paused", "SELECT EXISTS (SELECT 1 FROM cluster_view WHERE key = '" MT_PASS_PAUSED_KEY "' AND value = 'true'::jsonb)"};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_pg_query_one(c->pg, &st, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_bool(r, 0, 0))
        say_paused(o);
    return 0;
}

int mt_api_env_status(struct mt_api_call *c)
{
    int64_t head, epoch;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_log_position(c->pg, &head, &epoch, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *o = mt_api_status(c);
    if (!o || add_paused(c, o) < 0) {
        json_decref(o);
        return -1;
    }
    json_object_set_new(o, "as_of_event_id", json_integer(head));
    return mt_api_send(c, 200, o);
}
