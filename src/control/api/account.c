/* SPDX-License-Identifier: Apache-2.0 */
/* Who am I, and what can this server do. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/call.h"
#include "model/plan.h"

static const struct mt_pg_stmt orgs_of = {
    "whoami_orgs", "SELECT o.org_id, o.name, m.role, o.developer_exec FROM org_members_view m JOIN orgs_view o ON o.org_id = m.org_id"
                   " WHERE m.user_id = $1 AND NOT m.deleted AND m.state = 'active' AND NOT o.deleted"
                   " AND ($2::text IS NULL OR o.org_id = $2) ORDER BY o.org_id LIMIT 200"};
/* A service principal and a break-glass token have one organisation and no membership. */
static const struct mt_pg_stmt org_only = {
    "whoami_org", "SELECT org_id, name, 'owner'::text, developer_exec FROM orgs_view WHERE org_id = $1 AND NOT deleted"};

static json_t *orgs_json(struct mt_api_call *c, const struct mt_pg_res *r, bool member)
{
    json_t *orgs = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++) {
        enum mt_role role = mt_role_parse(mt_pg_text(r, i, 2));
        uint64_t scopes = c->who.scopes & mt_role_scopes(role, mt_pg_bool(r, i, 3), c->ctl->conf.allow_secret_export);
        json_array_append_new(orgs, json_pack("{s:s,s:s,s:s*,s:o}", "org_id", mt_pg_text(r, i, 0), "name", mt_pg_text(r, i, 1), "role",
                                              member ? mt_role_name(role) : NULL, "scopes", mt_scopes_json(scopes)));
    }
    return orgs;
}

int mt_api_whoami(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    bool member = MT_STREQ(c->who.kind, "session") || MT_STREQ(c->who.kind, "personal");
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_pg_p_init(&p);
    if (member)
        mt_pg_p_text(&p, c->who.subject_id);
    mt_pg_p_text(&p, c->who.org_id[0] ? c->who.org_id : NULL);
    if (mt_pg_query(c->pg, member ? &orgs_of : &org_only, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *token = json_pack("{s:s,s:s}", "id", c->who.token_id, "kind", c->who.kind);
    if (c->who.expires_us) {
        char ts[MT_RFC3339_LEN];
        json_object_set_new(token, "expires_at", json_string(mt_rfc3339(c->who.expires_us, ts)));
    }
    return mt_api_send(c, 200,
                       json_pack("{s:s,s:s,s:s*,s:b,s:o,s:o*,s:o,s:o}", "subject_type", c->who.subject_type, "subject_id",
                                 c->who.subject_id, "email", c->who.email[0] ? c->who.email : NULL, "is_operator", c->who.is_operator,
                                 "scopes", mt_scopes_json(c->who.scopes), "restrict", mt_restrict_json(&c->who.restricted), "orgs",
                                 orgs_json(c, r, member), "token", token));
}

int mt_api_capabilities(struct mt_api_call *c)
{
    if (mt_api_query_done(c) < 0)
        return -1;
    return mt_api_send(
        c, 200,
        json_pack("{s:s*,s:s,s:[s],s:[s],s:{s:b,s:b,s:b,s:b,s:b,s:b},s:{s:i,s:i,s:i,s:i}}", "base_domain", c->ctl->conf.base_domain, "server_version", MOAT_VERSION,
                  "api_versions", "v1", "manifest_versions", "v1", "features", "logs", true, "events", true, "exec", true,
                  "secrets", true, "volumes", true, "ipv4", true, "limits", "body_bytes", 1048576, "manifest_bytes", 65536,
                  "list_items", 200, "instances_per_node", (int)MT_PLAN_INSTANCES_MAX));
}
