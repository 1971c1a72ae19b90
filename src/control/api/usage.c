/* SPDX-License-Identifier: Apache-2.0 */
/* Usage of an organisation by environment, for each hour or for a month, derived from what the log says (control-plane.md §1, billing;
 * docs/api/governance.md says what is counted). Nothing is stored; a replay of the log gives the same. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "control/api/call.h"

#define US_PER_HOUR (INT64_C(3600) * 1000000)
#define WINDOW_HOURS (31 * 24)

/* $1 org, $2 env or NULL, $3 kind or NULL, $4 from, $5 until, $6 now. What was had, from f until t: instances from instance.allocated until
 * instance.released; addresses from env.ipv4_enabled until env.ipv4_disabled; volumes from volume.created until volume.deleted, the size that a
 * volume.resized tells from then on; of a volume's backups what its snapshots have uploaded less what collections deleted, none after a purge.
 * Sizes of the past are in the log only, and read by the index of aggregates. */
#define SPANS                                                                                                              \
    "WITH i AS (SELECT env_id, app_id, created_at AS f, coalesce(released_at, $6) AS t, cpu_millis, memory_bytes"           \
    "  FROM instances_view WHERE org_id = $1 AND created_at < $5 AND coalesce(released_at, $6) > $4),"                      \
    " all_spans AS (SELECT env_id, app_id, 'vcpu' AS kind, f, t, cpu_millis::numeric AS size FROM i"                        \
    "  UNION ALL SELECT env_id, app_id, 'memory', f, t, memory_bytes::numeric FROM i"                                       \
    "  UNION ALL SELECT env_id, app_id, 'ipv4', created_at, coalesce(ended_at, $6), 1::numeric FROM ipv4_allocations_view"  \
    "   WHERE org_id = $1"                                                                                                  \
    "  UNION ALL SELECT env_id, app_id, 'volume', f, coalesce(t, $6), size FROM (SELECT v.env_id, v.app_id, e.event_type,"  \
    "   e.occurred_at AS f, lead(e.occurred_at) OVER (PARTITION BY v.volume_id ORDER BY e.event_id) AS t,"                  \
    "   (e.payload::jsonb->>'size_bytes')::numeric AS size FROM volumes_view v JOIN moat.events e ON e.aggregate_type = 'volume'" \
    "   AND e.aggregate_id = v.volume_id AND (e.event_type IN ('volume.created', 'volume.deleted') OR"                      \
    "   e.event_type = 'volume.resized' AND e.payload::jsonb->>'result' = 'ok') WHERE v.org_id = $1) x"                     \
    "   WHERE event_type <> 'volume.deleted'"                                                                               \
    "  UNION ALL SELECT env_id, app_id, 'backup', f, coalesce(lead(f) OVER (PARTITION BY volume_id ORDER BY f), $6),"       \
    "   greatest(0, sum(CASE WHEN purged THEN 0 ELSE delta END) OVER (PARTITION BY volume_id, purges ORDER BY f"            \
    "   ROWS UNBOUNDED PRECEDING)) FROM (SELECT *, count(*) FILTER (WHERE purged) OVER (PARTITION BY volume_id ORDER BY f) AS purges FROM (" \
    "    SELECT volume_id, env_id, app_id, finished_at AS f, uploaded_bytes::numeric AS delta, false AS purged FROM snapshots_view" \
    "     WHERE org_id = $1 AND finished_at IS NOT NULL AND uploaded_bytes IS NOT NULL"                                     \
    "    UNION ALL SELECT v.volume_id, v.env_id, v.app_id, e.occurred_at, -coalesce((e.payload::jsonb->>'bytes_deleted')::numeric, 0)," \
    "     (e.payload::jsonb->>'purged')::boolean FROM volumes_view v JOIN moat.events e ON e.aggregate_type = 'volume'"     \
    "     AND e.aggregate_id = v.volume_id AND e.event_type = 'volume.backups_collected' AND e.payload::jsonb->>'result' = 'ok'" \
    "     WHERE v.org_id = $1) d) n),"                                                                                      \
    " spans AS (SELECT s.*, k.unit, k.per FROM all_spans s JOIN (VALUES ('vcpu', 'vcpu_milliseconds', 1000000::numeric),"   \
    "  ('memory', 'mib_seconds', 1048576::numeric * 1000000), ('volume', 'mib_seconds', 1048576::numeric * 1000000),"       \
    "  ('backup', 'mib_seconds', 1048576::numeric * 1000000), ('ipv4', 'address_seconds', 1000000::numeric)) k(kind, unit, per)" \
    "  ON k.kind = s.kind WHERE ($2::text IS NULL OR s.env_id = $2) AND ($3::text IS NULL OR s.kind = $3)"                  \
    "  AND s.f < $5 AND s.t > $4 AND s.size > 0)"
/* Microseconds of a span between two moments. */
#define US_BETWEEN(a, b) "(extract(epoch FROM least(s.t, " b ") - greatest(s.f, " a ")) * 1000000)"

/* $7 cursor, $8 limit. Exact sums of time times size, rounded down once at the end. A span is its first hour, its last one, and a step up and
 * down around the whole ones between: what is summed is as many rows as there are spans, however long they are. */
#define KEYS(t) t "env_id, " t "app_id, " t "kind, " t "unit, " t "per"
#define ROWS                                                                                                               \
    SPANS ", c AS MATERIALIZED (SELECT " KEYS("") ", size, greatest(f, $4) AS f, least(t, $5) AS t,"                         \
    "  date_trunc('hour', greatest(f, $4), 'UTC') AS hf, date_trunc('hour', least(t, $5), 'UTC') AS ht FROM spans),"        \
    " parts AS (SELECT " KEYS("") ", hf AS h, size * extract(epoch FROM least(t, hf + interval '1 hour') - f) * 1000000 AS part, 0::numeric AS step FROM c" \
    "  UNION ALL SELECT " KEYS("") ", ht, size * extract(epoch FROM t - ht) * 1000000, 0 FROM c WHERE ht > hf"              \
    "  UNION ALL SELECT " KEYS("") ", hf + interval '1 hour', 0, size FROM c WHERE ht > hf + interval '1 hour'"             \
    "  UNION ALL SELECT " KEYS("") ", ht, 0, -size FROM c WHERE ht > hf + interval '1 hour'),"                              \
    " agg AS MATERIALIZED (SELECT " KEYS("") ", h, sum(part) AS part, sum(step) AS step FROM parts GROUP BY " KEYS("") ", h)," \
    " hours AS (SELECT " KEYS("k.") ", h, coalesce(a.part, 0) + 3600000000 * sum(coalesce(a.step, 0))"                      \
    "   OVER (PARTITION BY k.env_id, k.kind ORDER BY h ROWS UNBOUNDED PRECEDING) AS n"                                      \
    "  FROM generate_series($4::timestamptz, $5::timestamptz - interval '1 hour', interval '1 hour') h"                     \
    "  CROSS JOIN (SELECT DISTINCT " KEYS("") " FROM agg) k LEFT JOIN agg a USING (env_id, kind, h))"                       \
    " SELECT id, jsonb_build_object('env_id',env_id,'app_id',app_id,'kind',kind,'unit',unit,'from'," MT_SQL_TS("h")         \
    ",'to'," MT_SQL_TS("(h + interval '1 hour')") ",'quantity',floor(n / per)::int8,'final',h + interval '1 hour' <= $6)::text FROM (" \
    " SELECT to_char(h AT TIME ZONE 'UTC','YYYYMMDDHH24') || '.' || env_id || '.' || kind AS id, * FROM hours WHERE n > 0) x" \
    " WHERE ($7::text IS NULL OR id COLLATE \"C\" "
static const struct mt_pg_stmt rows_asc = {"usage_asc", ROWS "> $7) ORDER BY id COLLATE \"C\" ASC LIMIT $8"},
                               rows_desc = {"usage_desc", ROWS "< $7) ORDER BY id COLLATE \"C\" DESC LIMIT $8"};

#define MONTH_SUM "floor(sum(s.size * " US_BETWEEN("$4", "$5") ") / s.per)::int8"
static const struct mt_pg_stmt month_rows = {
    "usage_month",
    SPANS " SELECT jsonb_build_object('month', to_char($4::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM'), 'from', " MT_SQL_TS("$4::timestamptz")
    ", 'to', " MT_SQL_TS("$5::timestamptz") ", 'as_of', " MT_SQL_TS("$6::timestamptz") ", 'final', $5 <= $6, 'items', coalesce((SELECT jsonb_agg("
    "  jsonb_build_object('app_id', q.app_id, 'app', a.name, 'env_id', q.env_id, 'env', e.name, 'kind', q.kind, 'unit', q.unit, 'quantity', q.n)"
    "  ORDER BY a.name, e.name, q.env_id, q.kind) FROM (SELECT s.app_id, s.env_id, s.kind, s.unit, " MONTH_SUM " AS n FROM spans s"
    "  GROUP BY s.app_id, s.env_id, s.kind, s.unit, s.per) q LEFT JOIN apps_view a ON a.app_id = q.app_id LEFT JOIN envs_view e ON e.env_id = q.env_id),"
    " '[]'), 'totals', coalesce((SELECT jsonb_agg(jsonb_build_object('kind', q.kind, 'unit', q.unit, 'quantity', q.n) ORDER BY q.kind)"
    "  FROM (SELECT s.kind, s.unit, " MONTH_SUM " AS n FROM spans s GROUP BY s.kind, s.unit, s.per) q), '[]'))::text"};

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

static int check(struct mt_api_call *c, const char *env, const char *kind)
{
    static const char *const kinds[] = {"vcpu", "memory", "volume", "backup", "ipv4"};
    bool known = !kind;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        known = known || MT_STREQ(kind, kinds[i]);
    if (!known)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter 'kind' is vcpu, memory, volume, backup or ipv4");
    if (env && mt_id_check(MT_ID_ENV, env, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_id", "query parameter 'env_id': %s", c->err.msg);
    return 0;
}

static void scope(struct mt_pg_params *p, const struct mt_api_call *c, const char *env, const char *kind, int64_t from, int64_t until, int64_t now)
{
    mt_pg_p_init(p);
    mt_pg_p_text(p, c->org.id);
    mt_pg_p_text(p, env);
    mt_pg_p_text(p, kind);
    mt_pg_p_time(p, from);
    mt_pg_p_time(p, until);
    mt_pg_p_time(p, now);
}

int mt_api_usage_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &rows_asc, .desc = &rows_desc};
    int64_t now = mt_clock_wall_us(), from, until;
    const char *env = mt_api_query(c, "env_id"), *kind = mt_api_query(c, "kind");
    if (take_hour(c, "until", now, true, &until) < 0 || take_hour(c, "since", until - 24 * US_PER_HOUR, false, &from) < 0)
        return -1;
    if (check(c, env, kind) < 0)
        return -1;
    if (until <= from || until - from > WINDOW_HOURS * US_PER_HOUR)
        return mt_api_fail(c, 400, "invalid_argument", "usage is told for at most %d hours at once, and 'until' lies after 'since'", WINDOW_HOURS);
    scope(&l.params, c, env, kind, from, until, now);
    return mt_api_send_list(c, &l);
}

/* "2026-11" into its first moment and that of the next one, UTC. */
static int read_month(const char *v, int64_t *ret_from, int64_t *ret_until)
{
    uint64_t year, month;
    char text[40], y[5];
    if (!v || strlen(v) != 7 || v[4] != '-' || strspn(v, "0123456789") != 4 || strspn(v + 5, "0123456789") != 2)
        return -1;
    snprintf(y, sizeof y, "%.4s", v);
    if (mt_parse_u64(y, 1970, 9998, &year, NULL) < 0 || mt_parse_u64(v + 5 + (v[5] == '0'), 1, 12, &month, NULL) < 0)
        return -1;
    snprintf(text, sizeof text, "%04u-%02u-01T00:00:00Z", (unsigned)year, (unsigned)month);
    if (mt_rfc3339_parse(text, ret_from, NULL) < 0)
        return -1;
    snprintf(text, sizeof text, "%04u-%02u-01T00:00:00Z", (unsigned)(month == 12 ? year + 1 : year), (unsigned)(month == 12 ? 1 : month + 1));
    return mt_rfc3339_parse(text, ret_until, NULL);
}

int mt_api_usage_month(struct mt_api_call *c)
{
    int64_t now = mt_clock_wall_us(), from, until;
    const char *month = mt_api_query(c, "month"), *env = mt_api_query(c, "env_id"), *kind = mt_api_query(c, "kind");
    struct mt_pg_params p;
    if (mt_api_query_done(c) < 0 || check(c, env, kind) < 0)
        return -1;
    if (read_month(month, &from, &until) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter 'month' is a month of UTC such as 2026-11");
    if (from > now)
        return mt_api_fail(c, 400, "invalid_argument", "the month %s has not begun", month);
    scope(&p, c, env, kind, from, until, now);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_pg_query_one(c->pg, &month_rows, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    const char *text = mt_pg_text(r, 0, 0);
    return mt_api_send_text(c, 200, strdup(text), strlen(text));
}
