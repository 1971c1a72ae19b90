/* SPDX-License-Identifier: Apache-2.0 */
/* Groups and failures of an environment for people. */
#include "control/api/diagnose.h"

#include "base/str.h"
#include "control/streams/agent.h"
#include "model/reason.h"

#define LAST_LINES 20
#define AGENT_TIMEOUT_MS 1500

/* An instance whose agent tries it again when its pause is over. */
#define RETRIES "i.desired_state = 'running' AND i.status = 'failed' AND i.next_retry_at IS NOT NULL"

/* next_try: `time` (at next_try_at), `room` (as soon as instances or nodes make some, and every half minute), `command` (not before somebody
 * changes what is wanted, or lets go of it). */
static const struct mt_pg_stmt groups = {
    "diagnose_groups",
    "SELECT json_strip_nulls(json_build_object('process_type',d.process_type,'release_id',d.release_id,"
    "'release_number',r.number,'desired',CASE WHEN d.release_id IS NULL THEN 0 ELSE least(coalesce(d.desired_user,"
    "(r.manifest->'processes'->d.process_type->'scaling'->>'min')::int,1),"
    "coalesce((r.manifest->'processes'->d.process_type->'scaling'->>'max')::int,100)) END,"
    "'wanted',CASE WHEN d.desired_user > (r.manifest->'processes'->d.process_type->'scaling'->>'max')::int THEN d.desired_user END,"
    "'ready',count(i.instance_id) FILTER (WHERE i.status = 'ready' AND i.desired_state = 'running' AND i.spec_hash = d.target_spec),"
    "'matching',count(i.instance_id) FILTER (WHERE i.desired_state = 'running' AND i.spec_hash = d.target_spec),"
    "'starting',count(i.instance_id) FILTER (WHERE i.status IN ('booting','starting') AND i.desired_state = 'running'),"
    "'failed',count(i.instance_id) FILTER (WHERE i.status = 'failed' AND i.desired_state = 'running'),"
    "'old',count(i.instance_id) FILTER (WHERE i.desired_state = 'running' AND i.spec_hash IS DISTINCT FROM d.target_spec),"
    "'old_ready',count(i.instance_id) FILTER (WHERE i.desired_state = 'running' AND i.status = 'ready'"
    " AND i.spec_hash IS DISTINCT FROM d.target_spec),"
    "'draining',count(i.instance_id) FILTER (WHERE i.desired_state <> 'running' AND i.status <> 'stopped'),"
    "'sched_condition',d.sched_condition,'reason',d.sched_reason,'detail',d.sched_detail,'since'," MT_SQL_TS("coalesce(d.sched_since, d.created_at)")
    ",'next_try',CASE WHEN d.sched_condition = 'held' THEN 'command' WHEN d.sched_condition = 'ok' THEN CASE WHEN count(*) FILTER (WHERE " RETRIES ") > 0"
    " THEN 'time' END WHEN d.sched_reason = 'retry_backoff' THEN 'time' WHEN d.sched_reason IN ('secrets_missing', 'org_suspended',"
    " 'release_blocked', 'volume_constraints_invalid') THEN 'command' ELSE 'room' END,'next_try_at'," MT_SQL_TS("CASE d.sched_condition WHEN 'ok' THEN"
    " min(i.next_retry_at) FILTER (WHERE " RETRIES ") WHEN 'blocked' THEN d.sched_next_at END") "))::text"
    " FROM env_desired_view d LEFT JOIN releases_view r ON r.release_id = d.release_id"
    " LEFT JOIN instances_view i ON i.env_id = d.env_id AND i.process_type = d.process_type AND i.released_at IS NULL"
    " WHERE d.env_id = $1 AND ($2::text IS NULL OR d.process_type = $2)"
    " GROUP BY d.env_id, d.process_type, r.release_id ORDER BY d.process_type COLLATE \"C\""};

/* The reason comes from the log, up to event $3: a later plain `stopped` of a failed instance takes it out of the view. With a
 * deploy, its instances that failed; without, what fails now, and the attempts that made the newest deploy fail. */
static const struct mt_pg_stmt failing = {
    "diagnose_failing",
    "SELECT i.instance_id, i.process_type, i.node_id, i.status, x.payload->>'reason_code', x.payload->>'reason_detail',"
    " (x.payload->>'exit_code')::int, (x.payload->>'restart_count')::int FROM instances_view i JOIN LATERAL ("
    "  SELECT e.payload FROM moat.events e WHERE e.aggregate_type = 'instance' AND e.aggregate_id = i.instance_id"
    "  AND e.event_id <= $3 AND e.event_type = 'instance.status_changed' AND e.payload->>'reason_code' IS NOT NULL"
    "  AND e.payload->>'reason_code' <> 'completed' AND e.payload->>'status' <> 'draining'"
    "  ORDER BY e.aggregate_seq DESC LIMIT 1) x ON true"
    " WHERE i.env_id = $1 AND i.status <> 'ready' AND CASE WHEN $2::text IS NOT NULL"
    "  THEN i.deploy_id = $2 AND (i.desired_state = 'running' OR i.desired_reason = 'attempt_failed' OR i.ready_at IS NULL)"
    "  ELSE i.desired_state = 'running' OR (i.desired_reason = 'attempt_failed'"
    "   AND i.deploy_id = (SELECT max(d.deploy_id) FROM deploys_view d WHERE d.env_id = $1)) END"
    " ORDER BY i.last_transition_at DESC, i.instance_id DESC LIMIT 1"};

json_t *mt_api_groups(struct mt_api_call *c, const char *process_type)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, process_type);
    if (mt_pg_query(c->pg, &groups, &p, &r, &c->err) < 0) {
        (void)mt_api_fail_err(c);
        return NULL;
    }
    json_t *list = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++)
        json_array_append_new(list, json_loads(mt_pg_text(r, i, 0), 0, &je));
    return list;
}

/* The texts of an agent's records: log lines under "line", console output under "line" or "text". */
static json_t *lines(struct mt_api_call *c, const char *op, const char *instance_id)
{
    struct mt_err err = {0};
    json_t *records = NULL, *v, *out;
    size_t i, n;
    json_t *ask = json_pack("{s:s,s:s,s:b,s:i}", "op", op, "instance_id", instance_id, "follow", false, "limit", LAST_LINES);
    if (mt_agent_ask(c->ctl, c->pg, instance_id, ask, AGENT_TIMEOUT_MS, &records, &err) < 0)
        return NULL;
    out = json_array();
    n = json_array_size(records);
    json_array_foreach (records, i, v) {
        json_t *t = json_object_get(v, "line");
        if (!t)
            t = json_object_get(v, "text");
        if (i + LAST_LINES >= n && json_is_string(t))
            json_array_append(out, t);
    }
    json_decref(records);
    return out;
}

int mt_api_diagnose(struct mt_api_call *c, const char *deploy_id, json_t *object)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, deploy_id);
    mt_pg_p_i64(&p, c->past ? c->past : INT64_MAX);
    if (mt_pg_query(c->pg, &failing, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return 0;
    const char *id = mt_pg_text(r, 0, 0), *code = mt_pg_text(r, 0, 4);
    enum mt_reason reason = mt_reason_from_code(code);
    json_t *f = json_pack("{s:s,s:s,s:s,s:s,s:s*,s:s*,s:I,s:o*,s:o*}", "instance_id", id, "process_type", mt_pg_text(r, 0, 1),
                          "status", mt_pg_text(r, 0, 3), "reason_code", code, "reason_detail", mt_pg_text_or_null(r, 0, 5),
                          "reason_text", reason == MT_REASON_NONE ? NULL : mt_reason_info(reason)->text, "restart_count",
                          (json_int_t)mt_pg_i64(r, 0, 7), "last_lines", c->past ? NULL : lines(c, "logs", id),
                          "last_console", c->past ? NULL : lines(c, "console", id));
    if (f && !mt_pg_null(r, 0, 6))
        json_object_set_new(f, "exit_code", json_integer(mt_pg_i64(r, 0, 6)));
    if (f)
        json_object_set_new(object, "failure", f);
    return 0;
}
