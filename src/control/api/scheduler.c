/* SPDX-License-Identifier: Apache-2.0 */
/* The operator's hands on the scheduler (control-plane.md §9.5): it pauses as a whole, and single groups are held. Nothing that runs is
 * touched by either: a paused scheduler places and drains nothing, a held group keeps what serves and gets no more. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/cluster_switch.h"
#include "control/pass.h"
#include "control/rollout/rollout.h"

/* What waits, with where its environment is, so that an operator need not look for it. */
static const struct mt_pg_stmt waiting = {
    "scheduler_waiting",
    "SELECT json_strip_nulls(json_build_object('org_id',d.org_id,'app_id',d.app_id,'env_id',d.env_id,'process_type',d.process_type,'condition',"
    "d.sched_condition,'reason',d.sched_reason,'detail',d.sched_detail,'since'," MT_SQL_TS("coalesce(d.sched_since, d.created_at)") "))::text FROM env_desired_view d"
    " JOIN envs_view e USING (env_id) WHERE d.sched_condition <> 'ok' AND NOT e.deleted ORDER BY coalesce(d.sched_since, d.created_at), d.env_id, d.process_type LIMIT 200"};
static const struct mt_pg_stmt counts = {
    "scheduler_counts",
    "SELECT count(*) FILTER (WHERE d.sched_condition = 'ok'), count(*) FILTER (WHERE d.sched_condition = 'blocked'),"
    " count(*) FILTER (WHERE d.sched_condition = 'held') FROM env_desired_view d JOIN envs_view e USING (env_id) WHERE NOT e.deleted"};
static const struct mt_pg_stmt leader = {
    "scheduler_leader",
    "SELECT json_build_object('holder',holder,'epoch',epoch,'since'," MT_SQL_TS("acquired_at") ",'renewed_at'," MT_SQL_TS("renewed_at")
    ")::text FROM moat.leases WHERE name = 'scheduler'"};
static const struct mt_pg_stmt group_row = {
    "scheduler_group",
    "SELECT d.resource_version, d.sched_condition, d.sched_detail, d.stable_spec, d.target_spec, d.org_id, d.app_id, d.release_id IS NOT NULL"
    " FROM env_desired_view d JOIN envs_view e USING (env_id) WHERE d.env_id = $1 AND d.process_type = $2 AND NOT e.deleted"};

static int query(struct mt_api_call *c, const struct mt_pg_stmt *st, struct mt_pg_res **ret)
{
    return mt_pg_query(c->pg, st, NULL, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

int mt_api_scheduler_get(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *w = NULL, *n = NULL, *l = NULL;
    json_error_t je;
    if (mt_api_query_done(c) < 0 || query(c, &waiting, &w) < 0 || query(c, &counts, &n) < 0 || query(c, &leader, &l) < 0)
        return -1;
    json_t *o = mt_api_cluster_switch_get(c, MT_PASS_PAUSED_KEY, "paused");
    if (!o)
        return -1;
    json_t *list = json_array();
    for (int i = 0; i < mt_pg_rows(w); i++)
        json_array_append_new(list, json_loads(mt_pg_text(w, i, 0), 0, &je));
    json_object_set_new(o, "groups", json_pack("{s:I,s:I,s:I}", "ok", (json_int_t)mt_pg_i64(n, 0, 0), "blocked", (json_int_t)mt_pg_i64(n, 0, 1),
                                               "held", (json_int_t)mt_pg_i64(n, 0, 2)));
    json_object_set_new(o, "waiting", list);
    if (mt_pg_rows(l))
        json_object_set_new(o, "leader", json_loads(mt_pg_text(l, 0, 0), 0, &je));
    return mt_api_send(c, 200, o);
}

static int read_reason(struct mt_api_call *c, const char **ret)
{
    static const char *const known[] = {"reason", NULL};
    return mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, ret) < 0 ? -1 : 0;
}

static int prepare_pausing(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool pause)
{
    const char *reason;
    if (read_reason(c, &reason) < 0)
        return -1;
    made->operation = pause ? "scheduler.pause" : "scheduler.resume";
    return mt_api_cluster_switch(c, cmd, made, MT_PASS_PAUSED_KEY, "paused", pause, reason);
}

static int prepare_pause(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_pausing(c, cmd, made, true);
}

static int prepare_unpause(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_pausing(c, cmd, made, false);
}

int mt_api_scheduler_pause(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_pause);
}

int mt_api_scheduler_resume(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_unpause);
}

/* ---------------------------------------------------------------- groups */

static int prepare_group(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, bool hold)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *env = mt_api_param(c, "env_id"), *type = mt_api_param(c, "process_type"), *reason;
    struct mt_pg_params p;
    char detail[600] = "";
    if (read_reason(c, &reason) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env);
    mt_pg_p_text(&p, type);
    if (mt_pg_query(c->pg, &group_row, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "group");
    bool held = MT_STREQ(mt_pg_text(r, 0, 1), "held");
    const char *target = mt_pg_text_or_null(r, 0, 4), *said = mt_pg_text_or_null(r, 0, 2);
    bool by_operator = held && said && mt_starts_with(said, MT_ROLL_OPERATOR_HOLD);
    if (hold && (!target || !mt_pg_bool(r, 0, 7)))
        return mt_api_fail(c, 409, "conflict", "nothing of '%s' is wanted or placed yet, so there is nothing to hold", type);
    if (hold)
        snprintf(detail, sizeof detail, MT_ROLL_OPERATOR_HOLD "%s", reason);
    made->operation = hold ? "group.hold" : "group.resume";
    made->ids = json_pack("{s:s}", "env_id", env);
    made->nothing = hold ? by_operator && MT_STREQ(said, detail) : !held;
    made->object = json_pack("{s:s,s:s,s:s,s:s*}", "env_id", env, "process_type", type, "condition",
                             hold ? "held" : made->nothing ? mt_pg_text(r, 0, 1) : "ok", "detail", hold ? detail : NULL);
    if (made->nothing)
        return 0;
    struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, 5), .app_id = mt_pg_text(r, 0, 6), .env_id = env};
    if (mt_cmd_rely(cmd, MT_RELY_DESIRED, env, type, mt_pg_i64(r, 0, 0), &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_ENV_SCHEDULING_CHANGED, env, &ids,
                     json_pack("{s:s,s:s,s:s*,s:s*,s:s*}", "process_type", type, "condition", hold ? "held" : "ok", "detail",
                               hold ? detail : NULL, "stable_spec", mt_pg_text_or_null(r, 0, 3), "target_spec", target),
                     &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int prepare_hold(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_group(c, cmd, made, true);
}

static int prepare_release(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    return prepare_group(c, cmd, made, false);
}

int mt_api_groups_hold(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_hold);
}

int mt_api_groups_resume(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_release);
}
