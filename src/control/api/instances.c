/* SPDX-License-Identifier: Apache-2.0 */
/* Instances of an environment. Tenants see the node's id, never its name. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"

#define INSTANCE_OBJECT                                                                                                \
    "json_strip_nulls(json_build_object('id',instance_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,"             \
    "'process_type',process_type,'release_id',release_id,'deploy_id',deploy_id,'node_id',node_id,"                     \
    "'desired_state',desired_state,'desired_reason',desired_reason,'status',status,'status_detail',status_detail,"      \
    "'reason_code',reason_code,'reason_detail',reason_detail,'exit_code',exit_code,'restart_count',restart_count,"     \
    "'overlay_ipv6',overlay_ipv6,'secret_version_id',secret_version_id,'cpu_millis',cpu_millis,"                       \
    "'memory_bytes',memory_bytes,'disk_bytes',disk_bytes,'arch',arch,'image_digest',image_digest,"                     \
    "'generation',generation,'spec_hash',spec_hash,'replaces',replaces,'boot_id',boot_id,"                              \
    "'restart_requested',CASE WHEN restart_requested THEN true END,"                             \
    "'started_at'," MT_SQL_TS("started_at") ",'ready_at'," MT_SQL_TS("ready_at") ",'last_transition_at',"               \
    MT_SQL_TS("last_transition_at") ",'released_at'," MT_SQL_TS("released_at") ",'resource_version',resource_version,"  \
    MT_SQL_TIMES "))::text"

MT_SQL_LIST(instances, INSTANCE_OBJECT, "instances_view", "instance_id",
            "env_id = $1 AND ($2::text IS NULL OR process_type = $2) AND ($3::text IS NULL OR status = $3)"
            " AND ($4::boolean OR status <> 'stopped' OR last_transition_at > now() - interval '24 hours')"
            " AND ($5::text IS NULL OR release_id = $5)" MT_SQL_CREATED("6", "7"), "8", "9");
static const struct mt_pg_stmt instance_get = {
    "instance_get",
    "SELECT " INSTANCE_OBJECT ", resource_version FROM instances_view WHERE env_id = $1 AND instance_id = $2"};

int mt_api_instances_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &instances_asc, .desc = &instances_desc};
    const char *process = mt_api_query(c, "process_type"), *status = mt_api_query(c, "status");
    bool stopped;
    if (mt_api_query_bool(c, "include_stopped", false, &stopped) < 0)
        return -1;
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->env.id);
    mt_pg_p_text(&l.params, process);
    mt_pg_p_text(&l.params, status);
    mt_pg_p_bool(&l.params, stopped);
    mt_pg_p_text(&l.params, mt_api_query(c, "release_id"));
    if (mt_api_list_created(c, &l) < 0)
        return -1;
    return mt_api_send_list(c, &l);
}

int mt_api_instances_get(struct mt_api_call *c)
{
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, mt_api_param(c, "instance_id"));
    return mt_api_send_row(c, &instance_get, &p, "instance");
}

/* ---------------------------------------------------------------- restart */

static int prepare_restart(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {NULL};
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    const char *id = mt_api_param(c, "instance_id");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, id);
    if (mt_pg_query_one(c->pg, &instance_get, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "instance") : mt_api_fail_err(c);
    made->object = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    const char *desired = json_string_value(json_object_get(made->object, "desired_state"));
    if (!desired || !MT_STREQ(desired, "running"))
        return mt_api_fail(c, 409, "conflict", "the instance is on its way out already (%s)", desired ? desired : "unknown");
    made->operation = "instance.restart";
    made->ids = json_pack("{s:s,s:s}", "instance_id", id, "env_id", c->env.id);
    made->nothing = json_is_true(json_object_get(made->object, "restart_requested")); /* one replacement is enough */
    if (made->nothing)
        return 0;
    json_object_set_new(made->object, "restart_requested", json_true());
    json_object_set_new(made->object, "resource_version", json_integer(mt_pg_i64(r, 0, 1) + 1));
    json_object_set_new(made->object, "updated_at", json_null());
    if (mt_cmd_rely(cmd, MT_RELY_INSTANCE, id, NULL, mt_pg_i64(r, 0, 1), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_INSTANCE_RESTART_REQUESTED, id, json_object());
}

int mt_api_instances_restart(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_restart);
}
