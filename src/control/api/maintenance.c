/* SPDX-License-Identifier: Apache-2.0 */
/* Maintenance mode: the operators' switch that stops every change (control-plane.md §16). It wants a reason. */
#include "control/api/handlers.h"

#include "control/api/cluster_switch.h"

#define KEY "maintenance"

int mt_api_maintenance_get(struct mt_api_call *c)
{
    json_t *o = mt_api_query_done(c) < 0 ? NULL : mt_api_cluster_switch_get(c, KEY, "on");
    return o ? mt_api_send(c, 200, o) : -1;
}

static int prepare_maintenance(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"on", "reason", NULL};
    const json_t *on = json_object_get(c->body, "on");
    const char *reason;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    if (!json_is_boolean(on))
        return mt_api_fail(c, 400, "invalid_argument", "'on': is true or false");
    made->operation = json_is_true(on) ? "maintenance.on" : "maintenance.off";
    return mt_api_cluster_switch(c, cmd, made, KEY, "on", json_is_true(on), reason);
}

int mt_api_maintenance_post(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_maintenance);
}
