/* SPDX-License-Identifier: Apache-2.0 */
/* One look at the switches before a mutation; reads never come here. */
#include "control/api/gate.h"
#include "control/log/history.h"

#include "base/str.h"

static const struct mt_pg_stmt maintenance = {
    "gate_maintenance", "SELECT reason, key = 'recovery' FROM cluster_view WHERE (key = 'maintenance' AND value = 'true'::jsonb)"
                        " OR (key = 'recovery' AND value->>'state' = 'frozen') ORDER BY key DESC"};

const struct mt_pg_stmt *mt_api_gate_asks(const struct mt_api_call *c)
{
    return MT_STREQ(c->route->method, "GET") || (c->route->flags & MT_API_ALWAYS) ? NULL : &maintenance;
}

int mt_api_gate(struct mt_api_call *c)
{
    if (c->route->flags & MT_API_ALWAYS)
        return 0;
    if (!c->switches && mt_pg_query(c->pg, &maintenance, NULL, &c->switches, &c->err) < 0)
        return mt_api_fail_err(c);
    const struct mt_pg_res *r = c->switches;
    if ((mt_pg_rows(r) > 0 && mt_pg_bool(r, 0, 1)) || mt_history_state(c->ctl->history) == MT_RECOVERY_FROZEN)
        return mt_api_in_recovery(c);
    if (mt_pg_rows(r) > 0) {
        const char *why = mt_pg_text_or_null(r, 0, 0);
        c->problem.retry_after = 30;
        return mt_api_fail(c, 503, "maintenance", "the platform is in maintenance, nothing can be changed now: %.300s", why ? why : "");
    }
    if (c->org_suspended && !c->who.is_operator && !MT_STREQ(c->route->method, "DELETE")) {
        c->problem.details = json_pack("{s:s}", "reason", "org_suspended");
        return mt_api_fail(c, 403, "forbidden", "the organisation is suspended: reading and deleting are all that can be done");
    }
    return 0;
}
