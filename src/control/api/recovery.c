/* SPDX-License-Identifier: Apache-2.0 */
/* The operators' way out of a recovery (control-plane.md §9.5, docs/recovery.md): what runs beside what the restored log knows,
 * then apply, then finish. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"
#include "control/recovery/recovery.h"

/* One entry for each instance that a node reports or that the log wants. What runs on another node than the log thinks counts
 * as unknown there. */
#define ITEMS \
    "items AS (SELECT coalesce(p.node_id, i.node_id) AS node_id, coalesce(p.instance_id, i.instance_id) AS instance_id," \
    " p.status AS reported, i.desired_state AS wanted, i.overlay_ipv6, i.app_id, i.env_id, i.process_type, CASE" \
    " WHEN p.instance_id IS NULL AND n.node_id IS NULL THEN 'unknown' WHEN p.instance_id IS NULL THEN 'start'" \
    " WHEN i.instance_id IS NULL THEN 'ignore' WHEN i.desired_state = 'running' THEN 'adopt' ELSE 'stop' END AS action" \
    " FROM (SELECT * FROM moat.recovery_reports WHERE status <> 'stopped') p" \
    " FULL JOIN (SELECT * FROM instances_view WHERE released_at IS NULL) i ON i.instance_id = p.instance_id AND i.node_id = p.node_id" \
    " LEFT JOIN moat.recovery_nodes n ON n.node_id = i.node_id" \
    " WHERE p.instance_id IS NOT NULL OR i.desired_state = 'running')"

static const struct mt_pg_stmt plan = {
    "recovery_plan",
    "WITH " ITEMS " SELECT json_strip_nulls(json_build_object('state',coalesce(nullif(r.value->>'state','finished'),'none'),'epoch',c.epoch,"
    "'head_event_id',c.last_event_id,'changed_at'," MT_SQL_TS("r.updated_at") ",'reason',r.reason,"
    "'counts',json_build_object('adopt',(SELECT count(*) FROM items WHERE action = 'adopt'),"
    "'start',(SELECT count(*) FROM items WHERE action = 'start'),'stop',(SELECT count(*) FROM items WHERE action = 'stop'),"
    "'ignore',(SELECT count(*) FROM items WHERE action = 'ignore'),'unknown',(SELECT count(*) FROM items WHERE action = 'unknown')),"
    "'nodes',coalesce((SELECT json_agg(json_build_object('node_id',n.node_id,'name',n.name,'listed_at'," MT_SQL_TS("l.listed_at") ","
    "'heartbeat_at'," MT_SQL_TS("h.received_at") ",'epoch',h.epoch,'cursor_event_id',h.plan_cursor,'next_address',a.next_address)"
    " ORDER BY n.node_id) FROM nodes_view n LEFT JOIN moat.recovery_nodes l USING (node_id) LEFT JOIN moat.node_heartbeats h USING (node_id)"
    " LEFT JOIN moat.ipam_counters a USING (node_id) WHERE NOT n.deleted), '[]'::json),"
    "'items',coalesce((SELECT json_agg(json_build_object('node_id',i.node_id,'instance_id',i.instance_id,'action',i.action,"
    "'reported',i.reported,'wanted',i.wanted,'address',i.overlay_ipv6,'app_id',i.app_id,'env_id',i.env_id,"
    "'process_type',i.process_type) ORDER BY i.action, i.node_id, i.instance_id) FROM (SELECT * FROM items ORDER BY action DESC,"
    " node_id, instance_id LIMIT 2000) i), '[]'::json)))::text FROM moat.event_counter c LEFT JOIN cluster_view r ON r.key = 'recovery'"};

static const struct mt_pg_stmt row = {
    "recovery_row", "SELECT value->>'state', (value->>'epoch')::bigint, resource_version FROM cluster_view WHERE key = 'recovery'"};

int mt_api_recovery_get(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &plan, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_send(c, 200, json_loads(mt_pg_text(r, 0, 0), 0, &je));
}

/* The state of the recovery, "none" when there is none, and the reason that the request gives. */
static int begin(struct mt_api_call *c, struct mt_cmd *cmd, const char **ret_reason, char state[16], int64_t *ret_epoch)
{
    static const char *const known[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, ret_reason) < 0)
        return -1;
    if (mt_pg_query(c->pg, &row, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    bool any = mt_pg_rows(r) > 0;
    snprintf(state, 16, "%s", any ? mt_pg_text(r, 0, 0) : "none");
    *ret_epoch = any ? mt_pg_i64(r, 0, 1) : 0;
    mt_cmd_in_recovery(cmd);
    if (mt_cmd_rely(cmd, MT_RELY_CLUSTER, "recovery", NULL, any ? mt_pg_i64(r, 0, 2) : 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static json_t *answer(const char *state, int64_t epoch, const char *reason)
{
    return json_pack("{s:s,s:I,s:s}", "state", state, "epoch", (json_int_t)epoch, "reason", reason);
}

static int prepare_apply(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    const char *reason;
    char state[16];
    int64_t epoch;
    if (begin(c, cmd, &reason, state, &epoch) < 0)
        return -1;
    made->operation = "recovery.apply";
    if (!MT_STREQ(state, "frozen") && !MT_STREQ(state, "applied"))
        return mt_api_fail(c, 409, "conflict", "the platform is not in recovery");
    made->object = answer("applied", epoch, reason);
    if (MT_STREQ(state, "applied")) {
        made->nothing = true;
        return 0;
    }
    return mt_api_event(c, cmd, MT_EV_CLUSTER_CONFIG_SET, "recovery",
                        json_pack("{s:s,s:{s:s,s:I},s:{s:s,s:I},s:s}", "key", "recovery", "previous", "state", state, "epoch",
                                  (json_int_t)epoch, "value", "state", "applied", "epoch", (json_int_t)epoch, "reason", reason));
}

static int prepare_finish(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    const char *reason;
    char state[16];
    int64_t epoch;
    if (begin(c, cmd, &reason, state, &epoch) < 0)
        return -1;
    made->operation = "recovery.finish";
    if (MT_STREQ(state, "frozen"))
        return mt_api_fail(c, 409, "conflict", "apply comes first: until then nothing tells what a finish would stop");
    if (!MT_STREQ(state, "applied") && !MT_STREQ(state, "finished"))
        return mt_api_fail(c, 409, "conflict", "the platform is not in recovery");
    made->object = answer("none", epoch, reason);
    if (MT_STREQ(state, "finished")) {
        made->nothing = true;
        return 0;
    }
    if (mt_recovery_forget(cmd, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_CLUSTER_RECOVERY_FINISHED, "recovery",
                        json_pack("{s:I,s:s}", "epoch", (json_int_t)epoch, "reason", reason));
}

/* What the decision changes shall be seen at once, not when somebody looks next. */
static int decide(struct mt_api_call *c, mt_prepare_fn *prepare)
{
    int rc = mt_api_mutate(c, prepare);
    struct mt_err ignored;
    if (rc == 0 && c->pg && mt_pg_alive(c->pg))
        (void)mt_recovery_look(c->ctl, c->pg, NULL, &ignored);
    return rc;
}

int mt_api_recovery_apply(struct mt_api_call *c)
{
    return decide(c, prepare_apply);
}

int mt_api_recovery_finish(struct mt_api_call *c)
{
    return decide(c, prepare_finish);
}
