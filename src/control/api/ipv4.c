/* SPDX-License-Identifier: Apache-2.0 */
/* The IPv4 add-on of an environment (networking.md §7): one address out of the pool, had from one event to another. Who carries it
 * and what is billed for it follows in ipv4/ipv4.c. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/ipv4/ipv4.h"

/* Any that is free will do; two at once rarely choose the same one. $1 seconds of cooldown. */
static const struct mt_pg_stmt choose = {
    "ipv4_choose",
    "SELECT p.address, p.resource_version FROM ipv4_pool_view p WHERE NOT p.deleted AND NOT EXISTS (SELECT 1 FROM ipv4_allocations_view a"
    " WHERE a.ipv4_address = p.address AND (a.ended_at IS NULL OR a.ended_at > now() - make_interval(secs => $1::bigint)))"
    " AND NOT EXISTS (SELECT 1 FROM " MT_IPV4_STRAYS " s WHERE s.address = p.address) ORDER BY random() LIMIT 1"};
static const struct mt_pg_stmt had = {
    "ipv4_had", "SELECT allocation_id, ipv4_address, resource_version FROM ipv4_allocations_view WHERE env_id = $1 AND ended_at IS NULL"};
static const struct mt_pg_stmt actions = {
    "ipv4_actions", "SELECT count(*) FILTER (WHERE created_at > now() - interval '1 day') + count(*) FILTER (WHERE ended_at > now() - interval '1 day')"
                    " FROM ipv4_allocations_view WHERE org_id = $1"};
static const struct mt_pg_stmt needing = {
    "ipv4_needing", "SELECT route_id, coalesce(hostname || ':', '') || listen_port FROM routes_view WHERE env_id = $1 AND NOT deleted AND ipv4_required"
                    " ORDER BY route_id"};
static const struct mt_pg_stmt below = {"ipv4_routes_sum", "SELECT coalesce(sum(last_event_id), 0)::int8 FROM routes_view WHERE env_id = $1 AND NOT deleted"};

static int ask(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const char *text, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, text);
    return mt_pg_query(c->pg, stmt, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

/* So that an organisation does not go through the pool. */
static int check_actions(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (ask(c, &actions, c->org.id, &r) < 0)
        return -1;
    if (mt_pg_i64(r, 0, 0) < MT_IPV4_ACTIONS_DAY)
        return 0;
    c->problem.retry_after = 3600;
    return mt_api_fail(c, 429, "rate_limited", "IPv4 addresses were enabled and disabled %d times within 24 hours", MT_IPV4_ACTIONS_DAY);
}

static int prepare_enable(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {NULL};
    mt_auto_pg_res struct mt_pg_res *now = NULL, *r = NULL;
    struct mt_pg_params p;
    char id[MT_ID_SIZE];
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || ask(c, &had, c->env.id, &now) < 0)
        return -1;
    made->operation = "ipv4.enable";
    if (mt_pg_rows(now)) {
        made->ids = json_pack("{s:s}", "allocation_id", mt_pg_text(now, 0, 0));
        made->nothing = true;
        return mt_ipv4_show(c->ctl, c->pg, c->env.id, &made->object, &c->err) < 0 || !made->object ? mt_api_fail_err(c) : 0;
    }
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, (int64_t)c->ctl->conf.ipv4_cooldown_seconds);
    if (check_actions(c) < 0 || mt_api_query_all(c, &choose, &p, &r) < 0) /* free is what nobody has */
        return -1;
    if (mt_pg_rows(r) == 0) {
        mt_measure_one(&c->ctl->measure.ipam_failures[MT_IPAM_IPV4]);
        return mt_api_fail(c, 409, "ipv4_pool_exhausted", "no IPv4 address is free; an operator can add one: moat admin ipv4-pool add");
    }
    const char *address = mt_pg_text(r, 0, 0);
    mt_id_new(MT_ID_IPV4, id);
    made->status = 201;
    made->ids = json_pack("{s:s}", "allocation_id", id);
    made->object = json_pack("{s:s,s:s,s:s}", "ipv4_address", address, "allocation_id", id, "status", "pending");
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0 || mt_cmd_rely(cmd, MT_RELY_ENV_IPV4, c->env.id, NULL, 0, &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_IPV4_POOL, address, NULL, mt_pg_i64(r, 0, 1), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ENV_IPV4_ENABLED, c->env.id, json_pack("{s:s,s:s}", "allocation_id", id, "ipv4_address", address));
}

int mt_api_ipv4_enable(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_enable);
}

static int refuse_routes(struct mt_api_call *c, const struct mt_pg_res *r)
{
    json_t *list = json_array();
    int n = mt_pg_rows(r);
    for (int i = 0; i < n && i < 20; i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:s}", "type", "route", "id", mt_pg_text(r, i, 0), "name", mt_pg_text(r, i, 1)));
    c->problem.details = json_pack("{s:o,s:i}", "dependents", list, "total", n);
    return mt_api_fail(c, 409, "ipv4_in_use", "%d route%s need the address, the first '%s'; delete them or set ipv4_required to false", n, n == 1 ? "" : "s",
                       mt_pg_text(r, 0, 1));
}

static int prepare_disable(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {NULL};
    mt_auto_pg_res struct mt_pg_res *now = NULL, *r = NULL, *sum = NULL;
    bool force;
    if (mt_api_dry_run(c, &made->dry_run) < 0 || mt_api_query_bool(c, "force", false, &force) < 0 || mt_api_query_done(c) < 0 ||
        mt_api_fields(c, known) < 0 || ask(c, &had, c->env.id, &now) < 0)
        return -1;
    if (force && !c->who.is_operator)
        return mt_api_fail(c, 403, "operator_only", "force is for operators");
    bool gone = mt_pg_rows(now) == 0;
    mt_api_deleted(made, "ipv4.disable", "env_id", c->env.id, gone);
    if (gone)
        return 0;
    if (ask(c, &needing, c->env.id, &r) < 0 || ask(c, &below, c->env.id, &sum) < 0)
        return -1;
    if (mt_pg_rows(r) && !force)
        return refuse_routes(c, r);
    if (check_actions(c) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_ENV_IPV4, c->env.id, NULL, mt_pg_i64(now, 0, 2), &c->err) < 0 ||
        mt_cmd_rely(cmd, MT_RELY_ENV_ROUTES, c->env.id, NULL, mt_pg_i64(sum, 0, 0), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ENV_IPV4_DISABLED, c->env.id,
                        json_pack("{s:s,s:s,s:b}", "allocation_id", mt_pg_text(now, 0, 0), "ipv4_address", mt_pg_text(now, 0, 1), "forced",
                                  force && mt_pg_rows(r) > 0));
}

int mt_api_ipv4_disable(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_disable);
}
