/* SPDX-License-Identifier: Apache-2.0 */
/* One answer that tells what runs in an environment, what should, and why they differ. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/diagnose.h"
#include "control/api/sql.h"
#include "control/plans/edge_acks.h"

static const struct mt_pg_stmt last_deploy = {
    "status_last_deploy",
    "SELECT json_strip_nulls(json_build_object('id',deploy_id,'kind',kind,'release_id',release_id,'status',status,"
    "'message',message,'failed_reason',failed_reason,'process_types',process_types,'created_at'," MT_SQL_TS("created_at")
    ",'finished_at'," MT_SQL_TS("finished_at") "))::text FROM deploys_view WHERE env_id = $1 ORDER BY deploy_id DESC LIMIT 1"};

static const struct mt_pg_stmt routes = {
    "status_routes",
    "SELECT json_strip_nulls(json_build_object('id',route_id,'hostname',hostname,'listen_port',listen_port,'protocol',protocol,"
    "'backend_process_type',backend_process_type,'backend_port',backend_port,'ready_backends',b.n,'status',"
    "CASE WHEN b.n > 0 AND r.last_event_id <= $2 THEN 'active' WHEN b.n > 0 THEN 'pending' WHEN b.ever THEN 'degraded'"
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
    mt_pg_p_i64(&p, mt_edges_best(c->ctl->edges, mt_clock_mono()));
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

/* What is not as it should be, in words of the groups. */
static json_t *conditions(const json_t *groups)
{
    json_t *list = json_array(), *g;
    size_t i;
    json_array_foreach (groups, i, g) {
        const char *cond = json_string_value(json_object_get(g, "sched_condition"));
        const char *type = json_string_value(json_object_get(g, "process_type"));
        json_int_t desired = json_integer_value(json_object_get(g, "desired"));
        json_int_t ready = json_integer_value(json_object_get(g, "ready"));
        if (cond && !MT_STREQ(cond, "ok"))
            json_array_append_new(list, json_pack("{s:s,s:s,s:O*,s:O*}", "type", cond, "process_type", type, "reason",
                                                  json_object_get(g, "reason"), "detail", json_object_get(g, "detail")));
        else if (ready < desired)
            json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:I}", "type", "progressing", "process_type", type, "ready",
                                                  ready, "desired", desired));
    }
    return list;
}

int mt_api_env_status(struct mt_api_call *c)
{
    int64_t head, epoch;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_log_position(c->pg, &head, &epoch, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *groups = mt_api_groups(c, NULL);
    if (!groups)
        return -1;
    json_t *o = json_pack("{s:s,s:s,s:o,s:O,s:[],s:I}", "env_id", c->env.id, "name", c->env.name, "conditions",
                          conditions(groups), "processes", groups, "volumes", "as_of_event_id", (json_int_t)head);
    json_decref(groups);
    if (add_last_deploy(c, o) < 0 || add_routes(c, o) < 0 || mt_api_diagnose(c, NULL, o) < 0) {
        json_decref(o);
        return -1;
    }
    return mt_api_send(c, 200, o);
}
