/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/rotation.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/log.h"

static const struct mt_pg_stmt overdue = {
    "rotation_overdue", "SELECT node_id, name, wireguard_public_key, key_generation, resource_version FROM nodes_view"
                        " WHERE next_public_key IS NOT NULL AND NOT deleted AND cutover_unix_ms < $1 ORDER BY node_id"};

static int take_back(struct mt_control *ctl, const struct mt_pg_res *r, int row, int64_t lease, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "rotation", .request_id = "rotation"};
    const char *id = mt_pg_text(r, row, 0);
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    json_t *payload = json_pack("{s:s,s:I,s:s}", "wireguard_public_key", mt_pg_text(r, row, 2), "key_generation", (json_int_t)mt_pg_i64(r, row, 3), "reason",
                                "the node did not say how it went");
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_NODE_KEY_ROTATION_ROLLED_BACK, id, &none, payload, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "scheduler", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, mt_pg_i64(r, row, 4), err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    if (rc < 0 && done.end == MT_END_STALE)
        rc = 0;
    else if (rc == 0)
        mt_log(MT_WARN, "rotation.taken_back", KV("node_id", id), KV("node", mt_pg_text(r, row, 1)));
    mt_cmd_done_free(&done);
    return rc;
}

int mt_rotation_overdue(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, mt_clock_wall_us() / 1000 - MT_ROTATION_OVERDUE_MS);
    int rc = mt_pg_query(pg, &overdue, &p, &r, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++)
        rc = take_back(ctl, r, i, lease, err);
    return rc < 0 ? rc : mt_pg_rows(r);
}
