/* SPDX-License-Identifier: Apache-2.0 */
/* Usage of an organisation by environment and hour, derived from what the log says of its instances (control-plane.md §1, billing):
 * an instance takes its resources from instance.allocated until instance.released, an IPv4 address is had from env.ipv4_enabled until
 * env.ipv4_disabled (its hours are in the log too, as usage.recorded, for who bills). Nothing is stored; a replay gives the same. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/call.h"

#define US_PER_HOUR (INT64_C(3600) * 1000000)
#define WINDOW_HOURS (31 * 24)

/* $1 org, $2 env or NULL, $3 kind or NULL, $4 from, $5 until, $6 now, $7 cursor, $8 limit. Exact sums of time times size,
 * rounded down once at the end. */
#define ROWS                                                                                                               \
    "SELECT id, jsonb_build_object('env_id',env_id,'app_id',app_id,'kind',kind,'unit',unit,'from'," MT_SQL_TS("h")           \
    ",'to'," MT_SQL_TS("(h + interval '1 hour')") ",'quantity',quantity,'final',h + interval '1 hour' <= $6)::text FROM ("     \
    " SELECT to_char(h AT TIME ZONE 'UTC','YYYYMMDDHH24') || '.' || env_id || '.' || kind AS id, h, env_id, app_id, kind, unit," \
    "  floor(sum(size * us) / per)::int8 AS quantity FROM ("                                                                 \
    "  SELECT h, i.env_id, i.app_id, i.cpu_millis, i.memory_bytes,"                                                          \
    "   (extract(epoch FROM least(coalesce(i.released_at, $6), h + interval '1 hour') - greatest(i.created_at, h)) * 1000000)" \
    "   AS us FROM generate_series($4::timestamptz, $5::timestamptz - interval '1 hour', interval '1 hour') h"               \
    "  JOIN instances_view i ON i.created_at < h + interval '1 hour' AND coalesce(i.released_at, $6) > h"                    \
    "  WHERE i.org_id = $1 AND ($2::text IS NULL OR i.env_id = $2)) t"                                                       \
    "  CROSS JOIN LATERAL (VALUES ('memory', 'mib_seconds', t.memory_bytes::numeric, 1048576::numeric * 1000000),"          \
    "   ('vcpu', 'vcpu_milliseconds', t.cpu_millis::numeric, 1000000::numeric)) k(kind, unit, size, per)"                    \
    "  WHERE ($3::text IS NULL OR kind = $3) GROUP BY h, env_id, app_id, kind, unit, per"                                     \
    " UNION ALL SELECT to_char(h AT TIME ZONE 'UTC','YYYYMMDDHH24') || '.' || a.env_id || '.ipv4', h, a.env_id, a.app_id, 'ipv4', 'address_seconds'," \
    "  floor(sum(extract(epoch FROM least(coalesce(a.ended_at, $6), h + interval '1 hour') - greatest(a.created_at, h))))::int8"  \
    "  FROM generate_series($4::timestamptz, $5::timestamptz - interval '1 hour', interval '1 hour') h"                      \
    "  JOIN ipv4_allocations_view a ON a.created_at < h + interval '1 hour' AND coalesce(a.ended_at, $6) > h"                \
    "  WHERE a.org_id = $1 AND ($2::text IS NULL OR a.env_id = $2) AND ($3::text IS NULL OR $3 = 'ipv4') GROUP BY h, a.env_id, a.app_id) x WHERE ($7::text IS NULL OR id COLLATE \"C\" "
static const struct mt_pg_stmt rows_asc = {"usage_asc", ROWS "> $7) ORDER BY id COLLATE \"C\" ASC LIMIT $8"},
                               rows_desc = {"usage_desc", ROWS "< $7) ORDER BY id COLLATE \"C\" DESC LIMIT $8"};

static int take_hour(struct mt_api_call *c, const char *name, int64_t absent_us, bool up, int64_t *ret)
{
    const char *v = mt_api_query(c, name);
    *ret = absent_us;
    if (v && mt_rfc3339_parse(v, ret, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is not an RFC 3339 time", name);
    if (*ret < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' lies before 1970", name);
    *ret = (*ret + (up ? US_PER_HOUR - 1 : 0)) / US_PER_HOUR * US_PER_HOUR;
    return 0;
}

int mt_api_usage_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &rows_asc, .desc = &rows_desc};
    int64_t now = mt_clock_wall_us(), from, until;
    const char *env = mt_api_query(c, "env_id"), *kind = mt_api_query(c, "kind");
    if (take_hour(c, "until", now, true, &until) < 0 || take_hour(c, "since", until - 24 * US_PER_HOUR, false, &from) < 0)
        return -1;
    if (kind && !MT_STREQ(kind, "vcpu") && !MT_STREQ(kind, "memory") && !MT_STREQ(kind, "ipv4"))
        return mt_api_fail(c, 400, "invalid_argument", "query parameter 'kind' is vcpu, memory or ipv4");
    if (env && mt_id_check(MT_ID_ENV, env, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_id", "query parameter 'env_id': %s", c->err.msg);
    if (until <= from || until - from > WINDOW_HOURS * US_PER_HOUR)
        return mt_api_fail(c, 400, "invalid_argument", "usage is told for at most %d hours at once, and 'until' lies after 'since'", WINDOW_HOURS);
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_pg_p_text(&l.params, env);
    mt_pg_p_text(&l.params, kind);
    mt_pg_p_time(&l.params, from);
    mt_pg_p_time(&l.params, until);
    mt_pg_p_time(&l.params, now);
    return mt_api_send_list(c, &l);
}
