/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/unconfirmed.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "control/nodes/node.h"

static const struct mt_pg_stmt late = {
    "unconfirmed_late", "SELECT node_id, name, resource_version FROM nodes_view WHERE admin_state = 'enrolled' AND NOT deleted"
                        " AND created_at < now() - make_interval(secs => $1::bigint) ORDER BY node_id"};

/* 1: done; 0: the node changed meanwhile. */
static int end(struct mt_control *ctl, const char *id, int64_t version, int64_t lease, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "unconfirmed", .request_id = "unconfirmed"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0)
        return rc;
    if ((rc = mt_node_cmd_certs_end(cmd, id, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_NODE_ADMIN_STATE_CHANGED, id, &none,
                           json_pack("{s:s,s:s,s:s}", "old", "enrolled", "new", "disabled", "reason", "enrolled for an hour without a first call"), err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "scheduler", NULL, lease, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, version, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool stale = rc < 0 && done.end == MT_END_STALE;
    mt_cmd_done_free(&done);
    return rc == 0 ? 1 : stale ? 0 : rc;
}

int mt_nodes_unconfirmed(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, MT_UNCONFIRMED_S);
    int n = 0, rc = mt_pg_query(pg, &late, &p, &r, err);
    for (int i = 0; rc >= 0 && i < mt_pg_rows(r); i++) {
        rc = end(ctl, mt_pg_text(r, i, 0), mt_pg_i64(r, i, 2), lease, err);
        if (rc > 0)
            mt_log(MT_WARN, "node.unconfirmed", KV("node_id", mt_pg_text(r, i, 0)), KV("node", mt_pg_text(r, i, 1)));
        n += rc > 0;
    }
    return rc < 0 ? rc : n;
}
