/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/rotation.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/plans/mesh_plan.h"

static const struct mt_pg_stmt overdue = {
    "rotation_overdue", "SELECT node_id, name, wireguard_public_key, key_generation, resource_version FROM nodes_view"
                        " WHERE next_public_key IS NOT NULL AND NOT deleted AND cutover_unix_ms < $1 ORDER BY node_id"};

static const struct mt_pg_stmt aged = {
    "rotation_aged",
    "SELECT n.node_id, n.name, n.resource_version FROM nodes_view n WHERE " MT_MESH_MEMBER("n") " AND n.health IN ('ready', 'degraded') AND NOT 'clock_skew' = ANY (n.conditions)" /* it would miss the moment */
    " AND coalesce(n.key_at, n.created_at) < now() - make_interval(secs => $1::bigint * (1 - 0.1 * (hashtext(n.node_id) & 1023) / 1023.0))"
    " AND coalesce(n.rotation_ended_at, '-infinity') < now() - interval '1 day'"
    " AND NOT EXISTS (SELECT 1 FROM nodes_view x WHERE (x.next_public_key IS NOT NULL OR x.rotation_lead_s IS NOT NULL) AND NOT x.deleted"
    "  AND x.admin_state <> 'disabled') ORDER BY coalesce(n.key_at, n.created_at), n.node_id LIMIT 1"};

/* 1: it is in the log; 0: the node changed meanwhile, the next turn looks again. @payload passes. */
static int append(struct mt_control *ctl, enum mt_ev ev, const char *id, int64_t version, json_t *payload, int64_t lease, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "rotation", .request_id = "rotation"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, ev, id, &none, payload, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "scheduler", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, version, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool stale = rc < 0 && done.end == MT_END_STALE;
    mt_cmd_done_free(&done);
    return rc == 0 ? 1 : stale ? 0 : rc;
}

int mt_rotation_overdue(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, mt_clock_wall_us() / 1000 - MT_ROTATION_OVERDUE_MS);
    int n = 0, rc = mt_pg_query(pg, &overdue, &p, &r, err);
    for (int i = 0; rc >= 0 && i < mt_pg_rows(r); i++) {
        rc = append(ctl, MT_EV_NODE_KEY_ROTATION_ROLLED_BACK, mt_pg_text(r, i, 0), mt_pg_i64(r, i, 4),
                    json_pack("{s:s,s:I,s:s}", "wireguard_public_key", mt_pg_text(r, i, 2), "key_generation", (json_int_t)mt_pg_i64(r, i, 3), "reason",
                              "the node did not say how it went"), lease, err);
        if (rc > 0)
            mt_log(MT_WARN, "rotation.taken_back", KV("node_id", mt_pg_text(r, i, 0)), KV("node", mt_pg_text(r, i, 1)));
        n += rc > 0;
    }
    return rc < 0 ? rc : n;
}

int mt_rotation_by_age(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    if (ctl->conf.wireguard_key_days == 0)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, (int64_t)ctl->conf.wireguard_key_days * 86400);
    int rc = mt_pg_query(pg, &aged, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    rc = append(ctl, MT_EV_NODE_KEY_ROTATION_REQUESTED, mt_pg_text(r, 0, 0), mt_pg_i64(r, 0, 2),
                json_pack("{s:i,s:s}", "lead_seconds", MT_ROTATION_LEAD_S, "reason", "the age of its key"), lease, err);
    if (rc > 0)
        mt_log(MT_INFO, "rotation.by_age", KV("node_id", mt_pg_text(r, 0, 0)), KV("node", mt_pg_text(r, 0, 1)));
    return rc;
}
