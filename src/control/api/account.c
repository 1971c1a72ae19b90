/* SPDX-License-Identifier: Apache-2.0 */
/* Who am I, and what can this server do. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "control/api/call.h"
#include "model/plan.h"

static const struct mt_pg_stmt orgs_of = {"whoami_orgs",
                                          "SELECT org_id, name FROM orgs_view WHERE NOT deleted ORDER BY org_id LIMIT 200"};

int mt_api_whoami(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_pg_query(c->pg, &orgs_of, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *scopes = json_array(), *orgs = json_array(), *token;
    for (unsigned i = 0; mt_scopes_all[i]; i++)
        if (c->who.scopes & (UINT64_C(1) << i))
            json_array_append_new(scopes, json_string(mt_scopes_all[i]));
    for (int i = 0; i < mt_pg_rows(r) && c->who.is_operator; i++)
        json_array_append_new(orgs, json_pack("{s:s,s:s,s:s}", "org_id", mt_pg_text(r, i, 0), "name", mt_pg_text(r, i, 1),
                                              "role", "owner"));
    token = json_pack("{s:s,s:s}", "id", c->who.token_id, "kind", "personal");
    if (c->who.expires_us) {
        char ts[MT_RFC3339_LEN];
        json_object_set_new(token, "expires_at", json_string(mt_rfc3339(c->who.expires_us, ts)));
    }
    return mt_api_send(c, 200,
                       json_pack("{s:s,s:s,s:s,s:b,s:o,s:o,s:o}", "subject_type", c->who.subject_type, "subject_id",
                                 c->who.subject_id, "email", c->who.email, "is_operator", c->who.is_operator, "scopes", scopes,
                                 "orgs", orgs, "token", token));
}

int mt_api_capabilities(struct mt_api_call *c)
{
    if (mt_api_query_done(c) < 0)
        return -1;
    return mt_api_send(
        c, 200,
        json_pack("{s:s,s:[s],s:[s],s:{s:b,s:b,s:b,s:b,s:b,s:b},s:{s:i,s:i,s:i,s:i}}", "server_version", MOAT_VERSION,
                  "api_versions", "v1", "manifest_versions", "v1", "features", "logs", true, "events", true, "exec", false,
                  "secrets", false, "volumes", false, "ipv4", false, "limits", "body_bytes", 1048576, "manifest_bytes", 65536,
                  "list_items", 200, "instances_per_node", (int)MT_PLAN_INSTANCES_MAX));
}
