/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of an organisation: shown to its members, set by operators (control-plane.md §14). */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/limits/limits.h"
#include "control/quota/claims.h"

static const struct mt_pg_stmt override = {
    "quota_override", "SELECT limit_value FROM org_quotas_view WHERE org_id = $1 AND dimension = $2 AND limit_value IS NOT NULL"};
static const struct mt_pg_stmt overrides = {
    "quota_overrides", "SELECT dimension FROM org_quotas_view WHERE org_id = $1 AND limit_value IS NOT NULL"};
static const struct mt_pg_stmt busiest = {
    "quota_busiest", "SELECT COALESCE(max(n), 0)::int8 FROM (SELECT count(*) AS n FROM deploys_view d JOIN envs_view e USING (env_id)"
                     " WHERE d.org_id = $1 AND NOT e.deleted AND d.created_at > now() - interval '1 hour' GROUP BY d.env_id) x"};
static const struct mt_pg_stmt largest = {
    "quota_largest", "SELECT COALESCE(max(memory_bytes), 0)::int8 FROM instances_view WHERE org_id = $1 AND released_at IS NULL"
                     " AND desired_state <> 'stopped' AND status <> 'stopped'"};

static int one_number(struct mt_api_call *c, const struct mt_pg_stmt *st, int64_t *ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    if (mt_pg_query_one(c->pg, st, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    *ret = mt_pg_i64(r, 0, 0);
    return 0;
}

struct state {
    int64_t used[MT_QUOTA_MAX], limit[MT_QUOTA_MAX];
    bool set[MT_QUOTA_MAX];
};

static int load(struct mt_api_call *c, struct state *s)
{
    mt_auto_free struct mt_quota_room *room = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    enum mt_quota_tier tier = mt_quota_tier_of(c->ctl);
    struct mt_pg_params p;
    size_t n = 0;
    *s = (struct state){0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    if (mt_quota_used(c->pg, c->org.id, tier, s->used, s->limit, &c->err) < 0 ||
        mt_quota_rooms(c->pg, tier, c->org.id, &room, &n, &c->err) < 0 || mt_pg_query(c->pg, &overrides, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    /* What runs is what is used; what is wanted may be more for a while, or for long when nodes are full. */
    for (size_t i = 0; i < n; i++) {
        s->used[MT_QUOTA_INSTANCES] = room[i].used[0];
        s->used[MT_QUOTA_TOTAL_MEMORY] = room[i].used[1];
        s->used[MT_QUOTA_TOTAL_CPU] = room[i].used[2];
    }
    s->used[MT_QUOTA_STREAMS] = mt_limits_streams_of(c->ctl->limits, c->org.id);
    for (int i = 0; i < mt_pg_rows(r); i++) {
        enum mt_quota q = mt_quota_by_name(mt_pg_text(r, i, 0));
        if (q < MT_QUOTA_MAX)
            s->set[q] = true;
    }
    return one_number(c, &busiest, &s->used[MT_QUOTA_DEPLOYS_PER_ENV_HOUR]) < 0 || one_number(c, &largest, &s->used[MT_QUOTA_INSTANCE_MEMORY]) < 0
               ? -1
               : 0;
}

static json_t *row(const struct mt_api_call *c, const struct state *s, enum mt_quota q)
{
    const char *source = s->set[q] ? "override" : mt_quota_configured(q) ? "config" : mt_quota_tier_name(mt_quota_tier_of(c->ctl));
    return json_pack("{s:s,s:o,s:I,s:s,s:s}", "dimension", mt_quota_name(q), "limit",
                     s->limit[q] < 0 ? json_null() : json_integer(s->limit[q]), "used", (json_int_t)s->used[q], "source", source,
                     "counts", mt_quota_counts(q));
}

int mt_api_quotas_get(struct mt_api_call *c)
{
    struct state s;
    json_t *items;
    if (mt_api_query_done(c) < 0 || load(c, &s) < 0)
        return -1;
    items = json_array();
    for (unsigned q = 0; q < MT_QUOTA_MAX; q++)
        json_array_append_new(items, row(c, &s, (enum mt_quota)q));
    return mt_api_send(c, 200, json_pack("{s:o,s:n}", "items", items, "next_cursor"));
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"limit", "reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    struct state s;
    enum mt_quota q = mt_quota_by_name(mt_api_param(c, "dimension"));
    const json_t *limit = json_object_get(c->body, "limit");
    const char *reason;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    if (q == MT_QUOTA_MAX)
        return mt_api_not_found(c, "quota dimension");
    if (!limit || (!json_is_null(limit) && (!json_is_integer(limit) || json_integer_value(limit) < 0 ||
                                            json_integer_value(limit) > MT_QUOTA_LIMIT_MAX)))
        return mt_api_fail(c, 400, "invalid_argument", "'limit': is an integer of at least 0, or null for the default");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, mt_quota_name(q));
    if (mt_pg_query(c->pg, &override, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_cmd_rely(cmd, MT_RELY_ORG_LIVE, c->org.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    if (load(c, &s) < 0)
        return -1;
    s.set[q] = json_is_integer(limit);
    s.limit[q] = s.set[q] ? json_integer_value(limit) : mt_quota_default(q, mt_quota_tier_of(c->ctl));
    made->operation = "quota.set";
    made->ids = json_pack("{s:s}", "org_id", c->org.id);
    made->object = row(c, &s, q);
    json_t *previous = mt_pg_rows(r) ? json_integer(mt_pg_i64(r, 0, 0)) : json_null();
    return mt_api_event(c, cmd, MT_EV_ORG_QUOTA_SET, c->org.id,
                        json_pack("{s:s,s:O,s:o,s:s}", "dimension", mt_quota_name(q), "limit", limit, "previous", previous, "reason", reason));
}

int mt_api_quotas_put(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare);
}
