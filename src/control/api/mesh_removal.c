/* SPDX-License-Identifier: Apache-2.0 */
/* An operator's word that plans may take away more than half of a node's peers (networking.md §2.3). Agents refuse such a mesh, because it is
 * what a control plane with a broken database would send. The word is good for the mesh as it is now: the next change of it ends it. */
#include "control/api/handlers.h"

#include "control/api/mutate.h"
#include "control/plans/mesh_plan.h"

static const struct mt_pg_stmt look = {
    "mesh_removal", "SELECT coalesce((SELECT max(mesh_event_id) FROM nodes_view), 0), coalesce((SELECT resource_version FROM cluster_view WHERE key = '"
                    MT_MESH_REMOVAL_KEY "'), 0), coalesce((SELECT (value #>> '{}')::bigint FROM cluster_view WHERE key = '" MT_MESH_REMOVAL_KEY "'), -1)"};

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *reason;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    if (mt_pg_query_one(c->pg, &look, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    int64_t revision = mt_pg_i64(r, 0, 0), was = mt_pg_i64(r, 0, 2);
    made->operation = "mesh.allow_removal";
    made->object = json_pack("{s:I,s:s}", "revision", (json_int_t)revision, "reason", reason);
    made->nothing = was == revision;
    if (made->nothing)
        return 0;
    if (mt_cmd_rely(cmd, MT_RELY_CLUSTER, MT_MESH_REMOVAL_KEY, NULL, mt_pg_i64(r, 0, 1), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_CLUSTER_CONFIG_SET, MT_MESH_REMOVAL_KEY,
                        json_pack("{s:s,s:I,s:I,s:s}", "key", MT_MESH_REMOVAL_KEY, "previous", (json_int_t)was, "value", (json_int_t)revision, "reason", reason));
}

int mt_api_mesh_removal(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare);
}
