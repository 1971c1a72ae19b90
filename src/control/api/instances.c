/* SPDX-License-Identifier: Apache-2.0 */
/* Instances of an environment. Tenants see the node's id, never its name. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/call.h"
#include "control/api/sql.h"

#define INSTANCE_OBJECT                                                                                                \
    "json_strip_nulls(json_build_object('id',instance_id,'org_id',org_id,'app_id',app_id,'env_id',env_id,"             \
    "'process_type',process_type,'release_id',release_id,'deploy_id',deploy_id,'node_id',node_id,"                     \
    "'desired_state',desired_state,'desired_reason',desired_reason,'status',status,'status_detail',status_detail,"      \
    "'reason_code',reason_code,'reason_detail',reason_detail,'exit_code',exit_code,'restart_count',restart_count,"     \
    "'overlay_ipv6',overlay_ipv6,'secret_version_id',secret_version_id,'cpu_millis',cpu_millis,"                       \
    "'memory_bytes',memory_bytes,'disk_bytes',disk_bytes,'arch',arch,'image_digest',image_digest,"                     \
    "'generation',generation,'spec_hash',spec_hash,'replaces',replaces,'boot_id',boot_id,"                             \
    "'started_at'," MT_SQL_TS("started_at") ",'ready_at'," MT_SQL_TS("ready_at") ",'last_transition_at',"               \
    MT_SQL_TS("last_transition_at") ",'released_at'," MT_SQL_TS("released_at") ",'resource_version',resource_version,"  \
    MT_SQL_TIMES "))::text"

MT_SQL_LIST(instances, INSTANCE_OBJECT, "instances_view", "instance_id",
            "env_id = $1 AND ($2::text IS NULL OR process_type = $2) AND ($3::text IS NULL OR status = $3)"
            " AND ($4::boolean OR status <> 'stopped' OR last_transition_at > now() - interval '24 hours')",
            "5", "6");
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
