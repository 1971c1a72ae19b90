/* SPDX-License-Identifier: Apache-2.0 */
/* An operator's way into an organisation: a token of its own kind, short, with a reason, seen in that organisation's audit. */
#include "control/api/handlers.h"

#include "base/log.h"
#include "base/str.h"
#include "control/auth/grant.h"
#include "control/api/trail.h"

#define SECONDS_MAX 3600

static const struct mt_pg_stmt org_live = {"break_glass_org", "SELECT name FROM orgs_view WHERE org_id = $1 AND NOT deleted"};

int mt_api_break_glass(struct mt_api_call *c)
{
    static const char *const known[] = {"org_id", "reason", "expires_in_seconds", NULL};
    const char *org, *reason;
    int64_t seconds;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    struct mt_granted g;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "org_id", true, MT_ID_SIZE, &org) < 0 ||
        mt_api_text(c, "reason", true, 500, &reason) < 0 ||
        mt_api_int(c, "expires_in_seconds", false, 60, SECONDS_MAX, SECONDS_MAX, &seconds) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, org);
    if (mt_pg_query_one(c->pg, &org_live, &p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "organisation") : mt_api_fail_err(c);
    uint64_t scopes = mt_role_scopes(MT_ROLE_OWNER, true, false);
    if (mt_grant_break_glass(c->pg, c->who.subject_id, org, reason, scopes, seconds, &g, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_log(MT_WARN, "auth.break_glass", KV("user_id", (const char *)c->who.subject_id), KV("org_id", org), KV("token_id", (const char *)g.token_id),
           KV("reason", reason), KV("request_id", c->request_id));
    snprintf(c->org.id, sizeof c->org.id, "%s", org); /* the record belongs to that organisation's chain */
    mt_api_trail_note(c, "auth.break_glass", "allow", NULL, "token", g.token_id, reason);
    mt_http_add_header(c->http, "Cache-Control", "no-store");
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:I,s:o}", "access_token", g.access, "token_id", g.token_id, "token_type", "Bearer", "org_id", org,
                          "expires_in_seconds", (json_int_t)seconds, "scopes", mt_scopes_json(scopes));
    mt_granted_wipe(&g);
    return mt_api_send(c, 201, o);
}
