/* SPDX-License-Identifier: Apache-2.0 */
/* The decision, and what lists of restricted tokens leave out. */
#include "control/api/authorise.h"

#include "base/str.h"

bool mt_api_may(const struct mt_api_call *c, const char *scope)
{
    return (c->who.org_scopes & mt_scope_bit(scope)) != 0;
}

/* Inside: the whole app, or the environment. An app that only holds one of the token's environments may be looked at, and
 * gets releases, without which nothing could be deployed to that environment. */
static bool inside(const struct mt_api_call *c)
{
    const struct mt_auth_restrict *r = &c->who.restricted;
    const char *scope = c->route->scope ? c->route->scope : "";
    if (c->app.id[0] && mt_restrict_has_app(r, c->app.id))
        return true;
    if (c->env.id[0])
        return mt_restrict_has_env(r, c->env.id);
    if (c->app.id[0])
        return c->app_of_env && (MT_STREQ(c->route->method, "GET") || mt_starts_with(scope, "releases:"));
    if (c->org.id[0])
        return (c->route->flags & MT_API_FILTERS) != 0;
    return !(c->route->flags & (MT_API_USER | MT_API_OPERATOR));
}

int mt_api_authorise(struct mt_api_call *c)
{
    const struct mt_api_route *r = c->route;
    const uint64_t need = r->scope ? mt_scope_any(r->scope) : 0;
    if ((r->flags & MT_API_OPERATOR) && !c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "only operators may do this");
    if ((r->flags & MT_API_USER) && (!MT_STREQ(c->who.subject_type, "user") || c->who.org_id[0]))
        return mt_api_fail(c, 403, "forbidden", "this needs the token of a user that is good for all of the user's organisations");
    if (c->who.restricted.on && !inside(c))
        return mt_api_fail(c, 403, "restricted_token", "the token is restricted to certain apps and environments, and this is outside");
    if (r->scope && !(need & c->who.scopes))
        return mt_api_fail(c, 403, "insufficient_scope", "the token lacks the scope %s", r->scope);
    if (c->org.id[0] && need == mt_scope_bit("secrets:read-material") && !c->ctl->conf.allow_secret_export)
        return mt_api_fail(c, 403, "insufficient_scope", "this server gives no secret values back; its operator can set allow_secret_export");
    if (c->org.id[0] && !(r->flags & MT_API_OPERATOR) && r->scope && !(need & c->who.scopes & c->who.org_scopes))
        return mt_api_fail(c, 403, "insufficient_scope", "the role %s does not carry the scope %s", mt_role_name(c->who.role),
                           r->scope);
    return 0;
}

void mt_api_inside(struct mt_api_call *c, struct mt_pg_params *p, struct mt_pg_arr arrays[2])
{
    const struct mt_auth_restrict *r = &c->who.restricted;
    for (int i = 0; i < 2; i++)
        mt_pg_arr_init(&arrays[i], MT_PG_ELEM_TEXT, 16384);
    for (int i = 0; i < r->apps_n; i++)
        mt_pg_arr_text_add(&arrays[0], r->apps[i]);
    for (int i = 0; i < r->envs_n; i++)
        mt_pg_arr_text_add(&arrays[1], r->envs[i]);
    if (r->on) { /* an empty list allows nothing, NULL allows all */
        mt_pg_p_arr(p, &arrays[0]);
        mt_pg_p_arr(p, &arrays[1]);
    } else {
        mt_pg_p_arr_or_null(p, &arrays[0]);
        mt_pg_p_arr_or_null(p, &arrays[1]);
    }
}

void mt_api_list_inside(struct mt_api_call *c, struct mt_api_list *l)
{
    mt_api_inside(c, &l->params, l->inside);
    l->filtered = true;
}

void mt_api_inside_done(struct mt_pg_arr arrays[2])
{
    for (int i = 0; i < 2; i++)
        mt_pg_arr_done(&arrays[i]);
}
