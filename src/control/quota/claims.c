/* SPDX-License-Identifier: Apache-2.0 */
/* From the events of a prepared command to what it adds to the sums of its organisation. */
#include "control/quota/claims.h"

#include "base/str.h"
#include "control/quota/groups.h"
#include "pg/array.h"
#include "wire/json.h"

#include <stdatomic.h>

/* Bindings of (address, port): which of them no live route of the organisation uses yet. */
static const struct mt_pg_stmt new_ports = {
    "quota_new_ports",
    "SELECT count(DISTINCT (k.scope, k.port)) FROM unnest($2::text[], $3::int4[]) k(scope, port) WHERE NOT EXISTS ("
    " SELECT 1 FROM routes_view v WHERE v.org_id = $1 AND NOT v.deleted AND v.address_scope_key = k.scope AND v.listen_port = k.port)"};

/* The same on the IPv4 address of environment $1; routes $3 come to it with the port they have. */
static const struct mt_pg_stmt new_ipv4_ports = {
    "quota_new_ipv4_ports",
    "SELECT count(DISTINCT k.port) FROM (SELECT unnest($2::int4[]) AS port UNION ALL SELECT listen_port FROM routes_view WHERE route_id = ANY ($3)) k"
    " WHERE k.port NOT IN (80, 443) AND NOT EXISTS (SELECT 1 FROM routes_view v WHERE v.env_id = $1 AND NOT v.deleted AND v.ipv4_required"
    " AND v.listen_port = k.port)"};

enum mt_quota_tier mt_quota_tier_of(const struct mt_control *ctl)
{
    enum mt_quota_tier t = MT_TIER_PAID;
    (void)mt_quota_tier_parse(ctl->conf.quota_tier, &t);
    return t;
}

int mt_quota_refused(struct mt_api_call *c, const struct mt_cmd_refused_quota *q)
{
    json_decref(c->problem.details);
    c->problem.details = json_pack("{s:s,s:I,s:I,s:I}", "dimension", mt_quota_name(q->dimension), "limit", (json_int_t)q->limit,
                                   "current", (json_int_t)q->current, "requested", (json_int_t)q->requested);
    atomic_fetch_add(&c->ctl->quota_rejections[q->dimension], 1);
    if (q->dimension == MT_QUOTA_EXEC_SESSIONS) /* as with streams: it passes when one of them ends */
        return mt_api_fail(c, 429, "too_many_exec_sessions", "%lld of %lld exec sessions are open already, in this instance, this environment or the "
                           "organisation", (long long)q->current, (long long)q->limit);
    if (q->dimension == MT_QUOTA_INSTANCE_MEMORY)
        return mt_api_fail(c, 409, "quota_exceeded", "an instance may have %lld bytes of memory, %lld were asked for",
                           (long long)q->limit, (long long)q->requested);
    return mt_api_fail(c, 409, "quota_exceeded", "%s: %lld of %lld are used (%s), %lld more were asked for",
                       mt_quota_name(q->dimension), (long long)q->current, (long long)q->limit, mt_quota_counts(q->dimension),
                       (long long)q->requested);
}

/* Events that make or end what is counted one by one. */
static const struct {
    enum mt_ev ev;
    enum mt_quota dim;
    int delta;
} counted[] = {
    {MT_EV_PROJECT_CREATED, MT_QUOTA_PROJECTS, 1}, {MT_EV_PROJECT_DELETED, MT_QUOTA_PROJECTS, -1},
    {MT_EV_APP_CREATED, MT_QUOTA_APPS, 1},         {MT_EV_APP_DELETED, MT_QUOTA_APPS, -1},
    {MT_EV_ENV_CREATED, MT_QUOTA_ENVS, 1},         {MT_EV_ENV_DELETED, MT_QUOTA_ENVS, -1},
    {MT_EV_ORG_MEMBER_ADDED, MT_QUOTA_MEMBERS, 1}, {MT_EV_ORG_MEMBER_REMOVED, MT_QUOTA_MEMBERS, -1},
    {MT_EV_SERVICE_PRINCIPAL_CREATED, MT_QUOTA_SERVICE_PRINCIPALS, 1},
    {MT_EV_SERVICE_PRINCIPAL_DELETED, MT_QUOTA_SERVICE_PRINCIPALS, -1},
    {MT_EV_ROUTE_CREATED, MT_QUOTA_ROUTES, 1},     {MT_EV_ROUTE_DELETED, MT_QUOTA_ROUTES, -1},
    {MT_EV_VOLUME_CREATED, MT_QUOTA_VOLUMES, 1},   {MT_EV_VOLUME_DELETED, MT_QUOTA_VOLUMES, -1},
    {MT_EV_VOLUME_ATTACHMENT_CREATED, MT_QUOTA_VOLUME_ATTACHMENTS, 1},
    {MT_EV_VOLUME_ATTACHMENT_DELETED, MT_QUOTA_VOLUME_ATTACHMENTS, -1},
    {MT_EV_LOG_DRAIN_CREATED, MT_QUOTA_LOG_DRAINS, 1}, {MT_EV_LOG_DRAIN_DELETED, MT_QUOTA_LOG_DRAINS, -1},
    {MT_EV_ENV_IPV4_ENABLED, MT_QUOTA_IPV4, 1},    {MT_EV_ENV_IPV4_DISABLED, MT_QUOTA_IPV4, -1},
    {MT_EV_EXEC_SESSION_GRANTED, MT_QUOTA_EXEC_SESSIONS, 1},
};

struct sums {
    int64_t delta[MT_QUOTA_MAX];
    const char *deploy_env;
    char snapshot_volume[MT_ID_SIZE];
    bool groups; /* what an environment wants changes */
    struct mt_pg_arr scopes, ports;
    const char *ipv4_env;
    struct mt_pg_arr ipv4_ports;
};

static void add_port(struct sums *s, const struct mt_cmd_event_view *e)
{
    json_error_t je;
    mt_auto_json json_t *p = json_loads(e->payload, 0, &je);
    const char *scope = json_string_value(json_object_get(p, "address_scope"));
    char key[MT_ID_SIZE * 2];
    if (!scope)
        return;
    if (MT_STREQ(scope, "shared6"))
        snprintf(key, sizeof key, "shared6");
    else
        snprintf(key, sizeof key, "%s:%s", scope, e->env_id ? e->env_id : "");
    mt_pg_arr_text_add(&s->scopes, key);
    mt_pg_arr_i32(&s->ports, (int32_t)json_integer_value(json_object_get(p, "listen_port")));
    if (json_is_true(json_object_get(p, "ipv4_required"))) {
        s->ipv4_env = e->env_id;
        mt_pg_arr_i32(&s->ipv4_ports, (int32_t)json_integer_value(json_object_get(p, "listen_port")));
    }
}

/* Bytes that a volume takes, or takes more than it has. */
static int add_volume(struct mt_api_call *c, const struct mt_cmd_event_view *e, struct sums *s)
{
    static const struct mt_pg_stmt now = {"quota_volume", "SELECT greatest(size_bytes, resize_to_bytes) FROM volumes_view WHERE volume_id = $1"};
    json_error_t je;
    mt_auto_json json_t *p = json_loads(e->payload, 0, &je);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params pp;
    s->delta[MT_QUOTA_VOLUME_BYTES] += json_integer_value(json_object_get(p, "size_bytes"));
    if (e->ev == MT_EV_VOLUME_CREATED)
        return 0;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->aggregate_id);
    if (mt_pg_query_one(c->pg, &now, &pp, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    s->delta[MT_QUOTA_VOLUME_BYTES] -= mt_pg_i64(r, 0, 0);
    return 0;
}

static void add_snapshot(struct sums *s, const struct mt_cmd_event_view *e)
{
    json_error_t je;
    mt_auto_json json_t *p = json_loads(e->payload, 0, &je);
    if (!MT_STREQ(json_string_value(json_object_get(p, "origin")), "manual"))
        return;
    s->delta[MT_QUOTA_SNAPSHOTS]++;
    snprintf(s->snapshot_volume, sizeof s->snapshot_volume, "%s", json_string_value(json_object_get(p, "volume_id")));
}

/* Proofs and the halves of a migration are the platform's own. */
static void add_restore(struct sums *s, const struct mt_cmd_event_view *e)
{
    json_error_t je;
    mt_auto_json json_t *p = json_loads(e->payload, 0, &je);
    s->delta[MT_QUOTA_RESTORES] += !json_object_get(p, "purpose");
}

static void add_event(struct sums *s, const struct mt_cmd_event_view *e)
{
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++)
        if (counted[i].ev == e->ev)
            s->delta[counted[i].dim] += counted[i].delta;
    if (e->ev == MT_EV_ROUTE_CREATED)
        add_port(s, e);
    if (e->ev == MT_EV_DEPLOY_CREATED) {
        s->delta[MT_QUOTA_DEPLOYS_PER_ENV_HOUR]++;
        s->deploy_env = e->env_id;
    }
    if (e->ev == MT_EV_SNAPSHOT_CREATED)
        add_snapshot(s, e);
    if (e->ev == MT_EV_RESTORE_JOB_CREATED)
        add_restore(s, e);
    s->groups |= e->ev == MT_EV_ENV_SCALE_SET || e->ev == MT_EV_ENV_DESIRED_RELEASE_SET;
}

static int count_ports(struct mt_api_call *c, const char *org, struct sums *s)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    if (s->ports.count == 0)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, org);
    mt_pg_p_arr(&p, &s->scopes);
    mt_pg_p_arr(&p, &s->ports);
    if (mt_pg_query_one(c->pg, &new_ports, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    s->delta[MT_QUOTA_PUBLIC_PORTS] = mt_pg_i64(r, 0, 0);
    return 0;
}

/* A route that is changed to need the address. */
static const char *comes_to_ipv4(const struct mt_cmd_event_view *e)
{
    json_error_t je;
    mt_auto_json json_t *p = e->ev == MT_EV_ROUTE_UPDATED ? json_loads(e->payload, 0, &je) : NULL;
    return json_is_true(json_object_get(p, "ipv4_required")) ? e->aggregate_id : NULL;
}

static int count_ipv4_ports(struct mt_api_call *c, struct mt_cmd *cmd, struct sums *s)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_cmd_event_view e;
    struct mt_pg_params p;
    struct mt_pg_arr routes;
    int rc = 0;
    mt_pg_arr_init(&routes, MT_PG_ELEM_TEXT, 65536);
    for (int i = 0; mt_cmd_event_at(cmd, i, &e); i++)
        if (comes_to_ipv4(&e)) {
            mt_pg_arr_text_add(&routes, e.aggregate_id);
            s->ipv4_env = e.env_id;
        }
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, s->ipv4_env);
    mt_pg_p_arr(&p, &s->ipv4_ports);
    mt_pg_p_arr(&p, &routes);
    if (s->ipv4_env && (rc = mt_pg_query_one(c->pg, &new_ipv4_ports, &p, &r, &c->err)) == 0)
        s->delta[MT_QUOTA_IPV4_PORTS] = mt_pg_i64(r, 0, 0);
    mt_pg_arr_done(&routes);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

static int claim_all(struct mt_api_call *c, struct mt_cmd *cmd, const char *org, struct sums *s)
{
    enum mt_quota_tier tier = mt_quota_tier_of(c->ctl);
    struct mt_cmd_refused_quota refused;
    for (unsigned q = 0; q < MT_QUOTA_MAX; q++)
        if (mt_cmd_quota(cmd, (enum mt_quota)q, org, q == MT_QUOTA_DEPLOYS_PER_ENV_HOUR ? s->deploy_env : q == MT_QUOTA_SNAPSHOTS ? s->snapshot_volume : q == MT_QUOTA_IPV4_PORTS ? s->ipv4_env : NULL, s->delta[q],
                         mt_quota_default((enum mt_quota)q, tier), &c->err) < 0)
            return mt_api_fail_err(c);
    int r = mt_cmd_quota_check(cmd, c->pg, &refused, &c->err);
    return r < 0 ? mt_api_fail_err(c) : r > 0 ? mt_quota_refused(c, &refused) : 0;
}

int mt_quota_claim(struct mt_api_call *c, struct mt_cmd *cmd)
{
    struct sums s = {0};
    struct mt_cmd_event_view e;
    int rc = 0;
    if (!c->org.id[0]) /* nothing below an organisation is made without one */
        return 0;
    mt_pg_arr_init(&s.scopes, MT_PG_ELEM_TEXT, 65536);
    mt_pg_arr_init(&s.ports, MT_PG_ELEM_I32, 65536);
    mt_pg_arr_init(&s.ipv4_ports, MT_PG_ELEM_I32, 65536);
    for (int i = 0; mt_cmd_event_at(cmd, i, &e); i++)
        add_event(&s, &e);
    for (int i = 0; rc == 0 && mt_cmd_event_at(cmd, i, &e); i++)
        if (e.ev == MT_EV_VOLUME_CREATED || e.ev == MT_EV_VOLUME_RESIZE_REQUESTED)
            rc = add_volume(c, &e, &s);
    if (rc == 0 && s.groups)
        rc = mt_quota_groups(c, cmd, s.delta);
    if (rc == 0)
        rc = count_ports(c, c->org.id, &s);
    if (rc == 0)
        rc = count_ipv4_ports(c, cmd, &s);
    if (rc == 0)
        rc = claim_all(c, cmd, c->org.id, &s);
    mt_pg_arr_done(&s.scopes);
    mt_pg_arr_done(&s.ports);
    mt_pg_arr_done(&s.ipv4_ports);
    return rc;
}
