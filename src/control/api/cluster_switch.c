/* SPDX-License-Identifier: Apache-2.0 */
/* See cluster_switch.h. */
#include "control/api/cluster_switch.h"

static const struct mt_pg_stmt row = {
    "cluster_switch", "SELECT value = 'true'::jsonb, reason, " MT_SQL_TS("updated_at") ", resource_version FROM cluster_view WHERE key = $1"};

static int load(struct mt_api_call *c, const char *key, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, key);
    return mt_pg_query(c->pg, &row, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

json_t *mt_api_cluster_switch_get(struct mt_api_call *c, const char *key, const char *member)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (load(c, key, &r) < 0)
        return NULL;
    if (mt_pg_rows(r) == 0)
        return json_pack("{s:b}", member, false);
    return json_pack("{s:b,s:s*,s:s}", member, mt_pg_bool(r, 0, 0), "reason", mt_pg_text_or_null(r, 0, 1), "changed_at", mt_pg_text(r, 0, 2));
}

int mt_api_cluster_switch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const char *key, const char *member, bool want,
                          const char *reason)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (load(c, key, &r) < 0)
        return -1;
    bool was = mt_pg_rows(r) && mt_pg_bool(r, 0, 0);
    made->object = json_pack("{s:b,s:s}", member, want, "reason", reason);
    if (was == want) {
        made->nothing = true;
        return 0;
    }
    if (mt_cmd_rely(cmd, MT_RELY_CLUSTER, key, NULL, mt_pg_rows(r) ? mt_pg_i64(r, 0, 3) : 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_CLUSTER_CONFIG_SET, key,
                        json_pack("{s:s,s:b,s:b,s:s}", "key", key, "previous", was, "value", want, "reason", reason));
}
