/* SPDX-License-Identifier: Apache-2.0 */
/* Reading scopes and restrictions out of bodies. */
#include "control/api/grants.h"

#include "base/cleanup.h"
#include "base/str.h"

int mt_grant_scopes(struct mt_api_call *c, bool required, uint64_t allowed, uint64_t absent, uint64_t *ret)
{
    json_t *v = json_object_get(c->body, "scopes");
    *ret = absent;
    if (!v || json_is_null(v))
        return required ? mt_api_fail(c, 400, "invalid_argument", "'scopes' is required: an array of scope names") : 0;
    if (!json_is_array(v) || json_array_size(v) == 0 || json_array_size(v) > 64)
        return mt_api_fail(c, 400, "invalid_argument", "'scopes' is an array of 1 to 64 scope names");
    uint64_t set = 0;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        char shown[64];
        uint64_t bit = name ? mt_scope_bit(name) : 0;
        if (!name)
            return mt_api_fail(c, 400, "invalid_argument", "'scopes[%zu]' is not a text", i);
        if (!bit) {
            const char *near = mt_nearest(name, mt_scopes_all);
            return mt_api_fail(c, 400, "invalid_argument", "there is no scope '%s'%s%s%s", mt_printable(name, strlen(name), shown, sizeof shown),
                               near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
        if (!(bit & allowed))
            return mt_api_fail(c, 403, "insufficient_scope", "you do not have the scope %s here, so you cannot give it", name);
        set |= bit;
    }
    *ret = set;
    return 0;
}

/* Ids that are not live, or not in the caller's reach; and environments whose app is named too. */
static const struct mt_pg_stmt outside = {
    "grant_outside",
    "SELECT k.id, 'is not there'::text FROM unnest($1::text[]) k(id) WHERE NOT EXISTS (SELECT 1 FROM apps_view a"
    "  WHERE a.app_id = k.id AND NOT a.deleted AND ((a.org_id = $3) OR ($3::text IS NULL AND EXISTS (SELECT 1 FROM org_members_view m"
    "   WHERE m.user_id = $4 AND m.org_id = a.org_id AND NOT m.deleted AND m.state = 'active'))))"
    " UNION ALL SELECT k.id, 'is not there'::text FROM unnest($2::text[]) k(id) WHERE NOT EXISTS (SELECT 1 FROM envs_view e"
    "  WHERE e.env_id = k.id AND NOT e.deleted AND ((e.org_id = $3) OR ($3::text IS NULL AND EXISTS (SELECT 1 FROM org_members_view m"
    "   WHERE m.user_id = $4 AND m.org_id = e.org_id AND NOT m.deleted AND m.state = 'active'))))"
    " UNION ALL SELECT e.env_id, 'belongs to an app that is named as a whole'::text FROM envs_view e"
    "  WHERE e.env_id = ANY($2) AND e.app_id = ANY($1) LIMIT 1"};

int mt_grant_restrict(struct mt_api_call *c, const char *org_id, struct mt_auth_restrict *ret, char **ret_text)
{
    json_t *v = json_object_get(c->body, "restrict");
    *ret = (struct mt_auth_restrict){0};
    *ret_text = NULL;
    if (!v || json_is_null(v))
        return 0;
    mt_auto_free char *text = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    if (!text || !mt_restrict_parse(text, ret) || ret->apps_n + ret->envs_n == 0)
        return mt_api_fail(c, 400, "invalid_argument", "'restrict' is {app_ids: [...], env_ids: [...]} with 1 to %d ids in a list",
                           MT_RESTRICT_MAX);
    struct mt_pg_params p;
    struct mt_pg_arr ids[2];
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_api_call asks = {.who = {.restricted = *ret}};
    mt_pg_p_init(&p);
    mt_api_inside(&asks, &p, ids);
    mt_pg_p_text(&p, org_id);
    mt_pg_p_text(&p, c->who.subject_id);
    int rc = mt_pg_query(c->pg, &outside, &p, &r, &c->err);
    mt_api_inside_done(ids);
    if (rc < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r))
        return mt_api_fail(c, 400, "invalid_argument", "'restrict': '%s' %s", mt_pg_text(r, 0, 0), mt_pg_text(r, 0, 1));
    *ret_text = MT_TAKE(text);
    return 0;
}
