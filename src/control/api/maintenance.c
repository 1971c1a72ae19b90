/* SPDX-License-Identifier: Apache-2.0 */
/* Maintenance mode: the operators' switch that stops every change (control-plane.md §16). It wants a reason. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/mutate.h"

static const struct mt_pg_stmt maintenance = {
    "maintenance", "SELECT value = 'true'::jsonb, reason, " MT_SQL_TS("updated_at") ", resource_version FROM cluster_view WHERE key = 'maintenance'"};

int mt_api_maintenance_get(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_pg_query(c->pg, &maintenance, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_send(c, 200, json_pack("{s:b}", "on", false));
    return mt_api_send(c, 200, json_pack("{s:b,s:s*,s:s}", "on", mt_pg_bool(r, 0, 0), "reason", mt_pg_text_or_null(r, 0, 1),
                                         "changed_at", mt_pg_text(r, 0, 2)));
}

static int prepare_maintenance(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"on", "reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const json_t *on = json_object_get(c->body, "on");
    const char *reason;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    if (!json_is_boolean(on))
        return mt_api_fail(c, 400, "invalid_argument", "'on': is true or false");
    if (mt_pg_query(c->pg, &maintenance, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    bool was = mt_pg_rows(r) && mt_pg_bool(r, 0, 0), want = json_is_true(on);
    made->operation = want ? "maintenance.on" : "maintenance.off";
    made->object = json_pack("{s:b,s:s}", "on", want, "reason", reason);
    if (was == want) {
        made->nothing = true;
        return 0;
    }
    if (mt_cmd_rely(cmd, MT_RELY_CLUSTER, "maintenance", NULL, mt_pg_rows(r) ? mt_pg_i64(r, 0, 3) : 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_CLUSTER_CONFIG_SET, "maintenance",
                        json_pack("{s:s,s:b,s:b,s:s}", "key", "maintenance", "previous", was, "value", want, "reason", reason));
}

int mt_api_maintenance_post(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_maintenance);
}
