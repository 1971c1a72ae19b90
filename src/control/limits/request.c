/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits at the door of the API. */
#include "control/limits/request.h"

#include "control/quota/claims.h"

#include <unistd.h>

static const struct mt_pg_stmt stream_limit = {
    "limits_streams", "SELECT limit_value FROM org_quotas_view WHERE org_id = $1 AND dimension = 'max_log_streams'"};

bool mt_limits_local(const struct mt_api_call *c)
{
    uid_t uid;
    pid_t pid;
    const char *proxied = c->ctl->conf.client_ip_header;
    if (proxied && mt_http_req_header(c->http, proxied)) /* a proxy speaks for somebody else */
        return false;
    return mt_http_req_peer(c->http, &uid, &pid) == 0 && (uid == 0 || uid == geteuid());
}

static void header(struct mt_api_call *c, const char *name, int64_t v)
{
    char t[24];
    (void)snprintf(t, sizeof t, "%lld", (long long)v);
    mt_http_add_header(c->http, name, t);
}

static void headers(struct mt_api_call *c, const struct mt_limit_state *s)
{
    header(c, "RateLimit-Limit", s->limit);
    header(c, "RateLimit-Remaining", s->remaining);
    header(c, "RateLimit-Reset", s->reset_seconds);
}

static int refuse(struct mt_api_call *c, const struct mt_limit_state *s, enum mt_limit which)
{
    headers(c, s);
    c->problem.retry_after = s->retry_seconds > 0 ? s->retry_seconds : 1;
    json_decref(c->problem.details);
    c->problem.details = json_pack("{s:s,s:I}", "limit", mt_limit_name(which), "per_minute", (json_int_t)s->limit);
    return mt_api_fail(c, 429, "rate_limited", "too many requests: %lld a minute are allowed here; try again in %d s", (long long)s->limit,
                       c->problem.retry_after);
}

int mt_limits_subject(struct mt_api_call *c, enum mt_limit which, const char *subject)
{
    struct mt_limit_state s;
    if (mt_limits_local(c) || mt_limits_take(c->ctl->limits, which, subject, &s))
        return 0;
    return refuse(c, &s, which);
}

int mt_limits_room(struct mt_api_call *c, enum mt_limit which, const char *subject)
{
    struct mt_limit_state s;
    if (mt_limits_local(c) || mt_limits_peek(c->ctl->limits, which, subject, &s))
        return 0;
    return refuse(c, &s, which);
}

int mt_limits_request(struct mt_api_call *c)
{
    bool write = (c->route->flags & MT_API_MUTATES) != 0;
    enum mt_limit token = write ? MT_LIMIT_WRITE_TOKEN : MT_LIMIT_READ_TOKEN, org = write ? MT_LIMIT_WRITE_ORG : MT_LIMIT_READ_ORG;
    struct mt_limit_state t, o;
    if (!c->who.token_id[0] || mt_http_req_round(c->http) > 0 || mt_limits_local(c))
        return 0;
    if (!mt_limits_take(c->ctl->limits, token, c->who.token_id, &t))
        return refuse(c, &t, token);
    if (!c->org.id[0])
        return headers(c, &t), 0;
    if (!mt_limits_take(c->ctl->limits, org, c->org.id, &o))
        return refuse(c, &o, org);
    return headers(c, o.remaining < t.remaining ? &o : &t), 0;
}

int mt_limits_stream(struct mt_api_call *c, struct mt_stream_place *ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int64_t most = mt_quota_default(MT_QUOTA_STREAMS, mt_quota_tier_of(c->ctl));
    struct mt_pg_params p;
    bool by_token = false;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    if (mt_pg_query(c->pg, &stream_limit, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 1)
        most = mt_pg_i64_or(r, 0, 0, most);
    bool local = mt_limits_local(c);
    int rc = mt_limits_stream_enter(c->ctl->limits, local ? "" : c->who.token_id, c->org.id, local ? -1 : most, ret, &by_token);
    if (rc == 0)
        return 0;
    c->problem.retry_after = 5;
    if (rc == -MT_E_LIMIT && by_token)
        return mt_api_fail(c, 429, "too_many_streams", "a token has at most %d streams open", MT_LIMIT_STREAMS_PER_TOKEN);
    if (rc == -MT_E_LIMIT)
        return mt_api_fail(c, 429, "too_many_streams", "the organisation has at most %lld streams open (max_log_streams)", (long long)most);
    (void)MT_FAIL(&c->err, MT_E_NOMEM, "stream");
    return mt_api_fail_err(c);
}
